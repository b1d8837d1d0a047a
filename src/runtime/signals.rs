//! SIGTERM and SIGINT.
//!
//! Invariants:
//!
//! 1. The first signal asks for a stop; nothing is lost by it.
//! 2. The second one ends the process at once, from the signal handler itself, so that it works
//!    even when every thread of the relay is stuck.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::{Handle, Signals};
use tokio::sync::watch;

/// Listens for SIGTERM and SIGINT until it is dropped.
#[derive(Debug)]
pub struct StopSignals {
    asked: watch::Receiver<bool>,
    listener: Handle,
    thread: Option<thread::JoinHandle<()>>,
}

impl StopSignals {
    /// Installs the handlers.
    ///
    /// # Errors
    ///
    /// When the operating system refuses a handler or a thread.
    pub fn install() -> io::Result<Self> {
        let armed = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // In this order: the first signal finds the flag down and raises it, the second one
            // finds it up and exits with the status that a shell shows for a killed process.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&armed))?;
            flag::register(signal, Arc::clone(&armed))?;
        }
        let mut signals = Signals::new([SIGTERM, SIGINT])?;
        let listener = signals.handle();
        let (ask, asked) = watch::channel(false);
        let thread = thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                for signal in &mut signals {
                    tracing::info!(
                        signal,
                        "stop asked for: draining; a second signal exits at once"
                    );
                    ask.send_replace(true);
                }
            })?;
        Ok(Self {
            asked,
            listener,
            thread: Some(thread),
        })
    }

    /// Resolves when a stop has been asked for. Cancel-safe.
    pub async fn stop(&self) {
        let mut asked = self.asked.clone();
        // The sender lives as long as the listening thread, which ends only when `self` drops.
        let _ = asked.wait_for(|asked| *asked).await;
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
