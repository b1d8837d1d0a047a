//! The process around a relay: HTTP, signals, reloads, systemd.
//!
//! Invariants:
//!
//! 1. HTTP is there from the start until the last checkpoint is saved, whatever ScyllaDB and Kafka
//!    do; if its address is taken, the relay publishes all the same and the server is tried again.
//! 2. A reload takes a configuration as a whole or not at all. What it takes to put it in force is
//!    said ([`Effect`]); parts that start anew do so in order: drained, saved, started.
//! 3. A new configuration with which the relay cannot start is given up for the one before.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval};

use super::health::{Board, State};
use super::signals::StopSignals;
use super::supervisor::{Deadlines, Kind, Supervisor};
use super::systemd::Systemd;
use super::{Chain, Hooks, relay};
use crate::config::changes::{Change, Effect};
use crate::config::{self, Config, Http, Loaded, Secret, Sources};
use crate::http;
use crate::telemetry::LogLevel;

/// Reloads that wait for their turn.
const RELOADS: usize = 4;
/// What the HTTP server may take to end.
const HTTP_END: Duration = Duration::from_secs(1);

/// The relay that runs now, or is about to.
#[derive(Debug, Clone)]
pub struct Current {
    /// Its configuration.
    pub config: Arc<Config>,
    /// What there is to see of it.
    pub hooks: Hooks,
}

/// What a reload has changed, by key.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Reloaded {
    /// In force already.
    pub applied: Vec<String>,
    /// In force in a moment: the relay's parts start anew, in order.
    pub restarted: Vec<String>,
    /// In force when the process is started anew: whatever differs from what it was started with.
    pub needs_restart: Vec<String>,
}

impl Reloaded {
    /// `first` is what the process began with, `present` what was in force, `newer` what was read.
    fn of(first: &Loaded, present: &Loaded, newer: &Loaded) -> Self {
        let mut reloaded = Self::default();
        for Change { key, effect } in present.changes(newer) {
            match effect {
                Effect::AtOnce => reloaded.applied.push(key),
                Effect::PartsAnew => reloaded.restarted.push(key),
                // It waits since whichever reload brought it.
                Effect::NewProcess => {}
            }
        }
        let waiting = first.changes(newer).into_iter();
        let waiting = waiting.filter(|change| change.effect == Effect::NewProcess);
        reloaded.needs_restart = waiting.map(|change| change.key).collect();
        reloaded
    }
}

/// Asks for a reload.
#[derive(Debug, Clone)]
pub struct Reloads(mpsc::Sender<oneshot::Sender<Result<Reloaded, config::Error>>>);

impl Reloads {
    /// Of a relay whose configuration is in no file: nobody answers.
    pub fn none() -> Self {
        Self(mpsc::channel(1).0)
    }

    /// Reads the configuration again; `None` if the process ends.
    pub async fn ask(&self) -> Option<Result<Reloaded, config::Error>> {
        let (answer, answered) = oneshot::channel();
        self.0.send(answer).await.ok()?;
        answered.await.ok()
    }
}

/// Runs a relay as a process: until a stop is asked for, or it cannot go on.
///
/// # Errors
///
/// As [`relay::run`].
pub async fn run(
    sources: Sources,
    loaded: Loaded,
    level: LogLevel,
    signals: &StopSignals,
) -> Result<relay::Summary, relay::Error> {
    let (asks, asked) = mpsc::channel(RELOADS);
    let daemon = Daemon::new(sources, loaded, level, asked);
    Box::pin(daemon.run(signals, Reloads(asks))).await
}

type Ask = oneshot::Sender<Result<Reloaded, config::Error>>;

struct Daemon {
    sources: Sources,
    /// The configuration that the process began with: what a reload cannot change is still of it.
    first: Loaded,
    loaded: Loaded,
    /// The configuration before, until the relay has started with the present one.
    before: Option<Loaded>,
    level: LogLevel,
    token: watch::Sender<Option<Secret>>,
    current: watch::Sender<Current>,
    asked: mpsc::Receiver<Ask>,
    systemd: Systemd,
}

impl Daemon {
    fn new(sources: Sources, loaded: Loaded, level: LogLevel, asked: mpsc::Receiver<Ask>) -> Self {
        let config = Arc::new(loaded.config.clone());
        let token = watch::Sender::new(config.http.admin_token.clone());
        let hooks = Hooks::default();
        Self {
            sources,
            first: loaded.clone(),
            loaded,
            before: None,
            level,
            token,
            current: watch::Sender::new(Current { config, hooks }),
            asked,
            systemd: Systemd::new(),
        }
    }

    async fn run(
        mut self,
        signals: &StopSignals,
        reloads: Reloads,
    ) -> Result<relay::Summary, relay::Error> {
        let Current { config, hooks } = self.current.borrow().clone();
        let board = Board::default();
        let metrics = Arc::clone(&hooks.metrics);
        let mut around = Supervisor::new(config.supervision.clone(), board.clone(), metrics);
        self.start_http(&config.http, board, reloads, &mut around);
        Systemd::ready();
        let ended = loop {
            let current = self.current.borrow().clone();
            let anew = Arc::new(Notify::new());
            let stop = {
                let anew = Arc::clone(&anew);
                async move {
                    tokio::select! {
                        () = signals.stop() => {}
                        () = anew.notified() => {}
                    }
                }
            };
            let running = relay::run(Arc::clone(&current.config), current.hooks.clone(), stop);
            let ended = self.accompany(running, &current, signals, &anew, &mut around);
            let ended = Box::pin(ended).await;
            if signals.stopping() || !self.goes_on(&ended, &current.config) {
                break ended;
            }
        };
        around
            .stop(Deadlines {
                drain: Duration::ZERO,
                finish: HTTP_END,
            })
            .await;
        ended
    }

    fn start_http(&self, http: &Http, board: Board, reloads: Reloads, around: &mut Supervisor) {
        let Some(listen) = http.listen else { return };
        let state = http::State::new(http::Parts {
            current: self.current.subscribe(),
            around: board,
            token: self.token.subscribe(),
            reloads,
            level: self.level.clone(),
        });
        let settings = http.clone();
        around.start(Kind::Http, move |_| {
            let (state, settings) = (state.clone(), settings.clone());
            async move {
                http::serve(listen, &settings, state)
                    .await
                    .map(|never| match never {})
            }
        });
    }

    /// Sees a relay through, and does what is asked meanwhile.
    async fn accompany(
        &mut self,
        running: impl Future<Output = Result<relay::Summary, relay::Error>>,
        relay: &Current,
        signals: &StopSignals,
        anew: &Notify,
        around: &mut Supervisor,
    ) -> Result<relay::Summary, relay::Error> {
        tokio::pin!(running);
        let hooks = &relay.hooks;
        let mut beat = interval(self.systemd.every);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ready = hooks.ready.subscribe();
        let mut stopping = false;
        loop {
            // A relay that is on its way out proves nothing of the one that comes.
            let present = Arc::ptr_eq(&relay.config, &self.current.borrow().config);
            let unproven = present && self.before.is_some();
            tokio::select! {
                ended = &mut running => return ended,
                fatal = around.watch() => return Err(fatal.into()),
                () = signals.stop(), if !stopping => {
                    stopping = true;
                    Systemd::stopping();
                }
                () = signals.hangup() => {
                    Systemd::reloading();
                    let _ = self.reload(anew);
                    Systemd::ready();
                }
                Some(answer) = self.asked.recv() => drop(answer.send(self.reload(anew))),
                _ = ready.wait_for(|ready| *ready), if unproven => self.before = None,
                _ = beat.tick() => self.systemd.beat(&status(hooks, stopping)),
            }
        }
    }

    /// Reads the configuration again, and tells the log what came of it.
    fn reload(&mut self, anew: &Notify) -> Result<Reloaded, config::Error> {
        let metrics = Arc::clone(&self.current.borrow().hooks.metrics);
        let newer = self.sources.load().inspect_err(|error| {
            metrics.reloads_refused.add(1);
            tracing::error!(%error, "the configuration stays as it is");
        })?;
        metrics.reloads.add(1);
        let reloaded = Reloaded::of(&self.first, &self.loaded, &newer);
        tracing::info!(
            applied = ?reloaded.applied,
            restarted = ?reloaded.restarted,
            needs_restart = ?reloaded.needs_restart,
            "the configuration was read again"
        );
        let config = Arc::new(newer.config.clone());
        self.apply_at_once(&config);
        let older = std::mem::replace(&mut self.loaded, newer);
        if !reloaded.restarted.is_empty() {
            // A second reload before the first has shown to work still goes back to what worked.
            self.before.get_or_insert(older);
            let hooks = self.next_hooks();
            self.current.send_replace(Current { config, hooks });
            anew.notify_one();
        }
        Ok(reloaded)
    }

    /// Puts in force what needs no new parts.
    fn apply_at_once(&self, config: &Config) {
        // Also what a person has changed meanwhile, over HTTP.
        if let Err(error) = self.level.set(&config.log.level) {
            tracing::error!(error = %Chain(&error), "the log's level stays as it is");
        }
        self.token.send_replace(config.http.admin_token.clone());
    }

    /// Counters and pauses outlive a relay, the rest begins anew.
    fn next_hooks(&self) -> Hooks {
        let current = self.current.borrow();
        Hooks {
            metrics: Arc::clone(&current.hooks.metrics),
            pauses: current.hooks.pauses.clone(),
            ..Hooks::default()
        }
    }

    /// Whether there is a configuration to go on with after the relay with `config` has ended.
    fn goes_on(
        &mut self,
        ended: &Result<relay::Summary, relay::Error>,
        config: &Arc<Config>,
    ) -> bool {
        let newer = !Arc::ptr_eq(config, &self.current.borrow().config);
        match ended {
            Ok(_) if newer => {
                tracing::info!("the relay's parts start anew, with the new configuration");
                true
            }
            // Nobody asked for more; or the process must end, whatever its configuration.
            Ok(_) | Err(relay::Error::Task(_)) => false,
            Err(_) if newer => true,
            Err(error) => self.goes_back(error),
        }
    }

    /// Takes up the configuration before, if the relay has not even started with the present one.
    fn goes_back(&mut self, error: &relay::Error) -> bool {
        let Some(before) = self.before.take() else {
            return false;
        };
        tracing::error!(
            error = %Chain(error),
            "the relay does not start with the new configuration: it goes back to the one before"
        );
        self.current.borrow().hooks.metrics.reloads_refused.add(1);
        let config = Arc::new(before.config.clone());
        self.apply_at_once(&config);
        self.loaded = before;
        let hooks = self.next_hooks();
        self.current.send_replace(Current { config, hooks });
        true
    }
}

/// A line for `systemctl status`.
fn status(hooks: &Hooks, stopping: bool) -> String {
    if stopping {
        return "stopping: publishing what is in flight".to_owned();
    }
    if hooks.live.borrow().is_none() {
        return "starting: waiting for ScyllaDB, or for another relay of this name".to_owned();
    }
    let snapshot = hooks.health.snapshot();
    let worst = snapshot.parts.iter().filter(|part| part.state != State::Ok);
    let worst: Vec<String> = worst.map(|part| part.part.to_string()).collect();
    let published = hooks.metrics.published.get();
    let ready = if snapshot.ready { "ready" } else { "not ready" };
    if worst.is_empty() {
        format!("{ready}; {published} events published")
    } else {
        format!(
            "{ready}; {published} events published; not well: {}",
            worst.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::changes::tests::with;

    #[test]
    fn what_waits_for_a_new_process_is_named_until_it_is_there_or_is_taken_back() {
        let first = with(&[]);
        let moved = with(&["http.listen=127.0.0.1:1"]);
        let more = with(&["http.listen=127.0.0.1:1", "log.level=debug"]);
        let waits = Reloaded::of(&first, &first, &moved);
        assert_eq!(waits.needs_restart, ["http.listen"]);
        let still = Reloaded::of(&first, &moved, &more);
        assert_eq!(still.needs_restart, ["http.listen"]);
        assert_eq!(still.applied, ["log.level"]);
        let back = Reloaded::of(&first, &more, &with(&["log.level=debug"]));
        assert_eq!(back, Reloaded::default());
    }
}
