//! The one task between the lanes and the sink.
//!
//! Carries out what [`Core`] decides: hands records to the sink, settles rows, has dead letters
//! written, builds the producer anew, and says in logs, metrics and health what happens. It alone
//! knows the time.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::Replayed;
use super::core::{Act, Core, Item, fatal_last};
use super::failure_log::FailureLog;
use super::journey::Told;
use super::keeper::{Keeper, Kept};
use super::permits::{Admitted, Input};
use crate::config;
use crate::dead_letters::{Keep, Parking};
use crate::retry::breaker::{State, Transition};
use crate::runtime::Phase;
use crate::runtime::health::Reporter;
use crate::sink::{DeliveryError, OpenError, Report, Reporter as Reports, SendError, Sink};
use crate::telemetry::journey::{End, Journal};
use crate::telemetry::metrics::Metrics;

/// Sends, reports or admissions handled before the others get their turn.
const BATCH: usize = 256;
/// What a close waits for answers that are still under way when the drain's deadline has passed.
const CLOSE_GRACE: Duration = Duration::from_millis(500);

/// What a pipeline did, said at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Events acknowledged by the sink.
    pub published: u64,
    /// Events that were still in flight; their rows are unsettled and are read again.
    pub left: u64,
}

/// Where a pipeline's dead letters go, and which keys have some already.
pub struct DeadLetterBox {
    /// Keeps them.
    pub keep: Arc<dyn Keep>,
    /// The keys that are parked.
    pub parking: Parking,
    /// Names of the outbox tables, in the order of their ids.
    pub tables: Vec<String>,
}

/// The pipeline: lanes before a sink. [`Pipeline::run`] is its life.
pub struct Pipeline {
    input: Input,
    input_open: bool,
    sink: Box<dyn Sink>,
    reports: mpsc::UnboundedReceiver<Report>,
    /// The pipeline's own end keeps the channel open whatever the sink does with its.
    reporter: Reports,
    pub(super) core: Core<Admitted>,
    /// Without it, what cannot be published is attempted for ever.
    pub(super) keeper: Option<Keeper>,
    pub(super) tables: Vec<String>,
    kafka: Option<Reporter>,
    /// Is told of what is done with.
    pub(super) told: Option<Told>,
    publish_until: Option<watch::Receiver<Instant>>,
    drain_timeout: Duration,
    origin: Instant,
    published: u64,
    pub(super) metrics: Arc<Metrics>,
    pub(super) failures: FailureLog,
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline")
            .field("events", &self.core.len())
            .field("in_flight", &self.core.in_flight())
            .finish_non_exhaustive()
    }
}

impl Pipeline {
    pub(super) fn new(
        config: &config::Config,
        input: Input,
        mut sink: Box<dyn Sink>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, OpenError> {
        let (reporter, reports) = Reports::channel();
        sink.open(reporter.clone())?;
        // The counters may be those of a pipeline before this one.
        metrics.breaker_state.set(0);
        Ok(Self {
            input,
            input_open: true,
            sink,
            reports,
            reporter,
            core: Core::new(&config.retry, &config.breaker, &config.dead_letters),
            keeper: None,
            tables: Vec::new(),
            kafka: None,
            told: None,
            publish_until: None,
            drain_timeout: config.shutdown.drain_timeout,
            origin: Instant::now(),
            published: 0,
            metrics,
            failures: FailureLog::default(),
        })
    }

    /// Keeps what cannot be published as dead letters. Without this, it is attempted for ever.
    #[must_use]
    pub fn with_dead_letters(mut self, dead_letters: DeadLetterBox) -> Self {
        let metrics = Arc::clone(&self.metrics);
        self.keeper = Some(Keeper::new(dead_letters.keep, metrics));
        self.core.keep_dead_letters(dead_letters.parking);
        self.metrics.parked_keys.set(self.core.parked_keys() as u64);
        self.tables = dead_letters.tables;
        self
    }

    /// Tells `journal` of every event that is done with. Its trace context is in the header of this
    /// name, of each table by its id.
    #[must_use]
    pub fn with_journal(mut self, journal: Arc<dyn Journal>, headers: Vec<Option<String>>) -> Self {
        self.told = Some(Told { journal, headers });
        self
    }

    /// Publishes only before the time that `until` holds: whoever may take this process's place does
    /// not do so before. Without this, it publishes without limit.
    #[must_use]
    pub fn with_limit(mut self, until: watch::Receiver<Instant>) -> Self {
        self.publish_until = Some(until);
        self
    }

    /// Tells how Kafka, and the table of dead letters, fare.
    #[must_use]
    pub fn with_health(mut self, kafka: Reporter, dead_letters: Reporter) -> Self {
        self.kafka = Some(kafka);
        if let Some(keeper) = &mut self.keeper {
            keeper.report_to(dead_letters);
        }
        self
    }

    /// Publishes until it is drained: in [`Phase::Draining`] it ends when nothing is left or
    /// `shutdown.drain_timeout` has passed, in [`Phase::Finishing`] at once, and when all handles
    /// are gone as soon as nothing is left. Then it closes the sink. What is left stays unsettled.
    ///
    /// Not cancel safe: dropped, it leaves what is in flight unsettled.
    pub async fn run(mut self, mut phase: watch::Receiver<Phase>) -> Summary {
        let mut deadline = None;
        let mut phase_open = true;
        let mut reports = Vec::with_capacity(BATCH);
        let mut admitted = Vec::with_capacity(BATCH);
        loop {
            self.carry_out();
            let now = Instant::now();
            let stop = if phase_open {
                *phase.borrow_and_update()
            } else {
                Phase::Draining
            };
            if stop >= Phase::Draining && deadline.is_none() {
                deadline = Some(now + self.drain_timeout);
            }
            if stop == Phase::Finishing || deadline.is_some_and(|at| at <= now) {
                break;
            }
            if self.is_drained() && (deadline.is_some() || !self.input_open) {
                break;
            }
            let more = self.work(now);
            self.carry_out();
            let wake = self.wake_at(deadline);
            tokio::select! {
                biased;
                changed = phase.changed(), if phase_open => phase_open = changed.is_ok(),
                _ = self.reports.recv_many(&mut reports, BATCH) => self.reported(&mut reports),
                () = extended(&mut self.publish_until) => {}
                kept = written(&mut self.keeper) => self.kept(kept),
                Some(command) = self.input.commands.recv() => self.answer(command),
                count = self.input.admitted.recv_many(&mut admitted, BATCH), if self.input_open => {
                    self.input_open = count > 0;
                    self.admit(&mut admitted);
                }
                () = tokio::task::yield_now(), if more => {}
                () = sleep_until(wake.unwrap_or(now)), if wake.is_some() => {}
            }
        }
        self.finish().await
    }

    fn is_drained(&self) -> bool {
        self.core.is_empty() && self.input.admitted.is_empty() && self.keeping() == 0
    }

    /// Dead letters whose write is not acknowledged yet.
    fn keeping(&self) -> usize {
        self.keeper.as_ref().map_or(0, Keeper::len)
    }

    fn since_origin(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.origin)
    }

    fn admit(&mut self, admitted: &mut Vec<Admitted>) {
        for item in admitted.drain(..) {
            self.core.admit(item);
        }
    }

    /// Does what is due; says whether more could be sent at once.
    fn work(&mut self, now: Instant) -> bool {
        let elapsed = self.since_origin(now);
        let until = self.publish_until.as_ref().map(|until| *until.borrow());
        self.core.limit(until.map(|until| self.since_origin(until)));
        self.core.tick(elapsed);
        if let Some(keeper) = &mut self.keeper {
            keeper.due(now);
        }
        if self.core.reopen_at().is_some_and(|at| at <= elapsed) {
            self.reopen(elapsed);
        }
        for _ in 0..BATCH {
            if !self.send_next(elapsed) {
                return false;
            }
        }
        self.core.has_ready()
    }

    fn wake_at(&self, deadline: Option<Instant>) -> Option<Instant> {
        let core = self.core.next_due().map(|due| self.origin + due);
        let write = self.keeper.as_ref().and_then(Keeper::next_due);
        [deadline, core, write].into_iter().flatten().min()
    }

    /// Makes the next attempt; says whether to go on.
    fn send_next(&mut self, now: Duration) -> bool {
        let Some(next) = self.core.next_send(now) else {
            return false;
        };
        let token = next.token;
        let record = next.item.record();
        let record = record.expect("what is no record is not given out");
        next.item.sent(Instant::now());
        match self.sink.send(token, record) {
            Ok(()) => {}
            Err(SendError::QueueFull) => self.core.queue_full(token, now),
            Err(SendError::Failed(error)) => self.core.report(token, Err(error), now),
        }
        true
    }

    fn reported(&mut self, reports: &mut Vec<Report>) {
        let now = self.since_origin(Instant::now());
        self.core.unstall();
        if fatal_last(reports) {
            while let Ok(report) = self.reports.try_recv() {
                reports.push(report);
            }
            fatal_last(reports);
        }
        for report in reports.drain(..) {
            self.attempted(report, now);
        }
    }

    /// Tells how an attempt has ended.
    fn attempted(&mut self, Report { token, result }: Report, now: Duration) {
        if let (Ok(appended), Some(item)) = (&result, self.core.under_way(token)) {
            item.times.appended.set(Some(*appended));
        }
        self.core.report(token, result.map(drop), now);
    }

    /// Does what the core has decided, besides attempts.
    fn carry_out(&mut self) {
        while let Some(act) = self.core.next_act() {
            match act {
                Act::Published(item) => {
                    self.published += 1;
                    self.metrics.published.add(1);
                    if item.is_replay() {
                        self.metrics.replayed.add(1);
                    }
                    self.took(&item);
                    self.tell(&item, End::Published);
                    // Settled first; the permits go with the rest of it.
                    item.settle();
                }
                Act::Kept(item) => item.settle(),
                Act::Bury(burial) => self.bury(burial),
                Act::Postpone(item) => item.answer(Replayed::Postponed),
                Act::Refuse(item, reason, failure) => {
                    item.answer(Replayed::Failed(reason, failure));
                }
                Act::Failed(error, attempts) => {
                    self.failed(&error);
                    self.failures.log(&error, attempts, Instant::now());
                }
                Act::Moved(transition) => self.moved(transition),
                Act::Lost {
                    error,
                    unacknowledged,
                    delay,
                } => self.lost(&error, unacknowledged, delay),
            }
        }
    }

    fn failed(&self, error: &DeliveryError) {
        self.metrics.failed_attempts.add(1);
        self.metrics.failed_by_kind.count(error.kind.name());
    }

    fn took(&self, item: &Admitted) {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        let wall = wall.map_or(0, |wall| wall.as_micros() as i64);
        if let Some(took) = item.took(Instant::now(), wall) {
            let stages = &self.metrics.stages;
            stages.total.add(took.written);
            stages.visible.add(took.written - took.submitted);
            stages.queue.add(took.submitted - took.sent);
            stages.kafka.add(took.sent);
        }
    }

    fn lost(&self, error: &DeliveryError, unacknowledged: usize, delay: Duration) {
        self.failed(error);
        tracing::warn!(
            error = %error,
            unacknowledged,
            ?delay,
            "the producer cannot go on; it is built anew and what is unacknowledged is sent again, \
             in order"
        );
    }

    fn moved(&mut self, Transition { from, to }: Transition) {
        self.input.breaker.send_replace(to);
        self.metrics.breaker_state.set(match to {
            State::Closed => 0,
            State::HalfOpen => 1,
            State::Open => 2,
        });
        if let Some(kafka) = &self.kafka {
            match to {
                State::Closed => kafka.ok(),
                State::HalfOpen => kafka.degraded("Kafka is probed: the breaker is half-open"),
                State::Open => kafka.failed("Kafka takes no records: the breaker is open"),
            }
        }
        let (from, to_name) = (from.name(), to.name());
        if to == State::Open {
            self.metrics.breaker_opened.add(1);
            tracing::warn!(
                from,
                to = to_name,
                waiting = self.core.len(),
                "the breaker is open: nothing is attempted until Kafka is probed again"
            );
        } else {
            tracing::info!(
                from,
                to = to_name,
                waiting = self.core.len(),
                "the breaker moves"
            );
        }
    }

    fn reopen(&mut self, now: Duration) {
        let (reporter, reports) = Reports::channel();
        match self.sink.open(reporter.clone()) {
            Ok(()) => {
                self.reports = reports;
                self.reporter = reporter;
                self.core.reopened();
            }
            Err(error) => {
                let delay = self.core.reopen_failed(now);
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    ?delay,
                    "build the producer anew"
                );
            }
        }
    }

    async fn finish(mut self) -> Summary {
        self.sink.close(CLOSE_GRACE).await;
        let now = self.since_origin(Instant::now());
        while let Ok(report) = self.reports.try_recv() {
            // A failure would only be tried again, and what becomes a dead letter is not written.
            if report.result.is_ok() {
                self.attempted(report, now);
            }
        }
        self.carry_out();
        let left = self.core.len() + self.input.admitted.len() + self.keeping();
        let summary = Summary {
            published: self.published,
            left: left as u64,
        };
        if left > 0 {
            tracing::warn!(
                left,
                "stopped before these events were published; they are read again"
            );
        }
        summary
    }
}

/// The time until which it may be published has changed; waits for ever where there is none.
async fn extended(until: &mut Option<watch::Receiver<Instant>>) {
    if let Some(until) = until
        && until.changed().await.is_ok()
    {
        return;
    }
    // Nobody extends it any more.
    std::future::pending::<()>().await;
}

/// The end of a write of a dead letter; waits for ever where there is none.
async fn written(keeper: &mut Option<Keeper>) -> Option<Kept> {
    match keeper {
        Some(keeper) if keeper.is_writing() => keeper.written().await,
        _ => std::future::pending().await,
    }
}
