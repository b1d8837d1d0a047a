//! SIGTERM, SIGINT and SIGHUP.
//!
//! Invariants:
//!
//! 1. The first SIGTERM or SIGINT asks for a stop; nothing is lost by it.
//! 2. The second one ends the process at once, from the signal handler itself, so that it works
//!    even when every thread of the relay is stuck.
//! 3. SIGHUP, which by default would kill, asks a daemon to read its configuration again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::{Handle, Signals};
use tokio::sync::watch;

/// The signals that have come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Heard {
    stop: bool,
    hangups: u64,
}

/// Listens for signals until it is dropped.
#[derive(Debug)]
pub struct StopSignals {
    heard: watch::Receiver<Heard>,
    hangups_told: AtomicU64,
    listener: Handle,
    thread: Option<thread::JoinHandle<()>>,
}

impl StopSignals {
    /// Installs the handlers of SIGTERM and SIGINT, for a command at a terminal: SIGHUP, the
    /// terminal's end, ends it.
    ///
    /// # Errors
    ///
    /// When the operating system refuses a handler or a thread.
    pub fn install() -> io::Result<Self> {
        Self::listen(&[SIGTERM, SIGINT])
    }

    /// Installs the handlers for a daemon: SIGHUP asks for a reload.
    ///
    /// # Errors
    ///
    /// When the operating system refuses a handler or a thread.
    pub fn install_for_daemon() -> io::Result<Self> {
        Self::listen(&[SIGTERM, SIGINT, SIGHUP])
    }

    fn listen(signals: &[i32]) -> io::Result<Self> {
        let armed = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // In this order: the first signal finds the flag down and raises it, the second one
            // finds it up and exits with the status that a shell shows for a killed process.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&armed))?;
            flag::register(signal, Arc::clone(&armed))?;
        }
        let mut signals = Signals::new(signals)?;
        let listener = signals.handle();
        let (hear, heard) = watch::channel(Heard::default());
        let thread = thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                for signal in &mut signals {
                    on(signal, &hear);
                }
            })?;
        Ok(Self {
            heard,
            hangups_told: AtomicU64::new(0),
            listener,
            thread: Some(thread),
        })
    }

    /// Whether a stop has been asked for.
    pub fn stopping(&self) -> bool {
        self.heard.borrow().stop
    }

    /// Resolves when SIGHUP has come since the last time. Cancel-safe; for one listener.
    pub async fn hangup(&self) {
        let mut heard = self.heard.clone();
        let told = |heard: &Heard| heard.hangups > self.hangups_told.load(Ordering::Relaxed);
        // The sender lives as long as the listening thread, which ends only when `self` drops.
        if let Ok(heard) = heard.wait_for(told).await {
            self.hangups_told.store(heard.hangups, Ordering::Relaxed);
        }
    }

    /// Resolves when a stop has been asked for. Cancel-safe.
    pub async fn stop(&self) {
        let mut heard = self.heard.clone();
        // The sender lives as long as the listening thread, which ends only when `self` drops.
        let _ = heard.wait_for(|heard| heard.stop).await;
    }
}

fn on(signal: i32, hear: &watch::Sender<Heard>) {
    if signal == SIGHUP {
        tracing::info!(signal, "the configuration is read again");
        hear.send_modify(|heard| heard.hangups += 1);
    } else {
        tracing::info!(
            signal,
            "stop asked for: draining; a second signal exits at once"
        );
        hear.send_modify(|heard| heard.stop = true);
    }
}

impl Drop for StopSignals {
    fn drop(&mut self) {
        self.listener.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use signal_hook::low_level::raise;

    use super::*;

    #[tokio::test]
    async fn a_hangup_neither_kills_nor_stops_a_daemon() {
        let signals = StopSignals::install_for_daemon().expect("handlers can be installed");
        let mut heard = signals.heard.clone();
        for hangups in 1..=2 {
            raise(SIGHUP).expect("it can be raised");
            let now = *heard
                .wait_for(|heard| heard.hangups == hangups)
                .await
                .expect("open");
            assert!(!now.stop);
        }
    }

    #[tokio::test]
    async fn a_stop_stays_asked_for() {
        let (hear, heard) = watch::channel(Heard::default());
        for signal in [SIGHUP, SIGTERM, SIGHUP, SIGINT] {
            on(signal, &hear);
        }
        assert_eq!(
            *heard.borrow(),
            Heard {
                stop: true,
                hangups: 2
            }
        );
    }
}
