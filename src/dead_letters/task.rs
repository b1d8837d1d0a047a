//! What a running relay does about its dead letters: replays by itself, and what it is asked.
//!
//! Invariants:
//!
//! 1. One replay at a time.
//! 2. What a person asks for goes before what the relay does by itself.
//! 3. Without exhausted dead letters the table is not walked; without requests, one small read per
//!    [`POLL`] is all it costs. Dead letters are counted beside it, after they have changed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use uuid::Uuid;

use super::census;
use super::extent::Asked;
use super::replay::{Error, Order, Progress, Replayer};
use super::requests::{Report, Requests, State};
use crate::config;
use crate::retry::breaker;
use crate::runtime::Chain;
use crate::runtime::Phase;
use crate::telemetry::metrics::Metrics;

/// Pause between two looks for requests.
pub const POLL: Duration = Duration::from_secs(1);
/// Pause between two reports of a request that is under way.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// The task.
pub struct Task {
    /// Carries orders out.
    pub replayer: Replayer,
    /// What is asked.
    pub requests: Requests,
    /// The configuration.
    pub config: config::DeadLetters,
    /// The relay's counters.
    pub metrics: Arc<Metrics>,
    /// Whether there may be dead letters from before that need no person.
    pub exhausted: bool,
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task").finish_non_exhaustive()
    }
}

async fn stopping(phase: &mut watch::Receiver<Phase>) {
    // A closed channel means that the runtime has ended: stop as well.
    let _ = phase.wait_for(|phase| *phase > Phase::Running).await;
}

/// Whether there may be something for a replay without a person.
struct Exhausted {
    maybe: bool,
    counted: u64,
    /// Not before; `None` for at once.
    not_before: Option<Instant>,
}

impl Exhausted {
    fn look(&mut self, metrics: &Metrics) {
        let counted = metrics.dead_letters_exhausted.get();
        self.maybe |= counted != self.counted;
        self.counted = counted;
    }

    fn is_due(&self) -> bool {
        self.maybe && self.not_before.is_none_or(|at| Instant::now() >= at)
    }
}

impl Task {
    /// Runs until the relay stops.
    ///
    /// # Errors
    ///
    /// When the pipeline has ended, or a part has panicked. What cannot be read or written now is
    /// logged and tried again.
    pub async fn run(&self, phase: watch::Receiver<Phase>) -> Result<(), Error> {
        let Replayer { store, tables, .. } = &self.replayer;
        tokio::select! {
            ended = self.work(phase) => ended,
            never = census::keep(store, tables, &self.metrics) => match never {},
        }
    }

    async fn work(&self, mut phase: watch::Receiver<Phase>) -> Result<(), Error> {
        let mut breaker = self.replayer.handle.breaker();
        let mut poll = interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut exhausted = Exhausted {
            maybe: self.exhausted,
            // A run before this one may not have looked at what was counted.
            counted: 0,
            not_before: None,
        };
        loop {
            tokio::select! {
                () = stopping(&mut phase) => return Ok(()),
                changed = breaker.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    // Half-open too: without new events, the dead letters are the probes.
                    if *breaker.borrow_and_update() != breaker::State::Open {
                        exhausted.not_before = None;
                    }
                }
                // What a person did may have left something for a replay without one.
                _ = poll.tick() => exhausted.maybe |= self.answer().await?,
            }
            exhausted.look(&self.metrics);
            let open = *breaker.borrow() == breaker::State::Open;
            if self.config.auto_replay && !open && exhausted.is_due() {
                self.by_itself(&mut exhausted).await?;
            }
        }
    }

    async fn by_itself(&self, exhausted: &mut Exhausted) -> Result<(), Error> {
        let order = Order::replay_all();
        self.replayer.recoder.forget().await;
        let (progress, _) = watch::channel(Progress::default());
        let replayed = self
            .replayer
            .carry_out(&order, Asked::ByItself, &progress)
            .await;
        exhausted.not_before = Some(Instant::now() + self.config.auto_replay_interval);
        match replayed {
            Ok(done) => {
                // What is left waits behind something that a person must look at, or has failed
                // again.
                exhausted.maybe = done.failed + done.postponed > 0;
                if done.planned > 0 {
                    tracing::info!(
                        published = done.published,
                        keys = done.keys,
                        failed = done.failed,
                        "exhausted dead letters were replayed"
                    );
                }
                Ok(())
            }
            Err(error) => self.survive(error, "replay exhausted dead letters"),
        }
    }

    /// Carries out what is asked, until nothing is; says whether anything was.
    async fn answer(&self) -> Result<bool, Error> {
        let mut answered = false;
        loop {
            let open = match self.requests.open().await {
                Ok(open) => open,
                Err(error) => {
                    self.survive(error.into(), "read requests")?;
                    return Ok(answered);
                }
            };
            let Some(request) = open.into_iter().next() else {
                return Ok(answered);
            };
            answered = true;
            match request.order {
                // What cannot be taken now is taken at the next look.
                Ok(order) => {
                    if !self.carry_out(request.id, &order).await? {
                        return Ok(answered);
                    }
                }
                Err(error) => {
                    let report = Report {
                        state: State::Failed,
                        progress: Progress::default(),
                        error: Some(format!("the request cannot be understood: {error}")),
                    };
                    if let Err(error) = self.requests.tell(request.id, &report).await {
                        self.survive(error.into(), "answer a request")?;
                        return Ok(answered);
                    }
                }
            }
            if *self.replayer.phase.borrow() > Phase::Running {
                return Ok(answered);
            }
        }
    }

    /// Carries a request out; says whether it was there to be taken.
    async fn carry_out(&self, id: Uuid, order: &Order) -> Result<bool, Error> {
        match self.requests.take(id).await {
            Ok(true) => {}
            // It was withdrawn.
            Ok(false) => return Ok(true),
            Err(error) => {
                self.survive(error.into(), "take a request")?;
                return Ok(false);
            }
        }
        tracing::info!(request = %id, action = ?order.action, "a request is carried out");
        self.replayer.recoder.forget().await;
        let (progress, seen) = watch::channel(Progress::default());
        let work = self.replayer.carry_out(order, Asked::ByPerson, &progress);
        tokio::pin!(work);
        let outcome = loop {
            tokio::select! {
                outcome = &mut work => break outcome,
                () = sleep(REPORT_EVERY) => {
                    let report = Report {
                        state: State::Running,
                        progress: *seen.borrow(),
                        error: None,
                    };
                    // The next report says the same, and more.
                    let _ = self.requests.tell(id, &report).await;
                }
            }
        };
        let progress = *seen.borrow();
        let (report, outcome) = match outcome {
            Ok(progress) => (
                Report {
                    state: State::Done,
                    progress,
                    error: None,
                },
                Ok(()),
            ),
            // It is taken up again by the next run.
            Err(Error::Stopped) => return Ok(false),
            Err(error) => (
                Report {
                    state: State::Failed,
                    progress,
                    error: Some(Chain(&error).to_string()),
                },
                self.survive(error, "carry out a request"),
            ),
        };
        tracing::info!(request = %id, ?progress, "a request has ended");
        self.metrics.discarded.add(progress.discarded);
        if let Err(error) = self.requests.tell(id, &report).await {
            self.survive(error.into(), "answer a request")?;
            // Not at once: what is done would only be looked for again.
            sleep(REPORT_EVERY).await;
        }
        outcome.map(|()| true)
    }

    /// Logs what a later try may mend; gives back what it cannot.
    fn survive(&self, error: Error, what: &'static str) -> Result<(), Error> {
        match error {
            Error::Store(error) => {
                self.metrics.dead_letter_errors.add(1);
                tracing::warn!(error = %Chain(&error), "{what}: it is tried again");
                Ok(())
            }
            Error::Stopped => Ok(()),
            Error::Closed(_) if *self.replayer.phase.borrow() > Phase::Running => Ok(()),
            Error::Closed(_) | Error::Panicked(_) => Err(error),
        }
    }
}
