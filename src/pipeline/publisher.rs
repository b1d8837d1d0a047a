//! The one task between the lanes and the sink.
//!
//! Takes what is admitted into the lanes, dispatches what is ready as far as the breaker admits it,
//! and turns reports into settled rows, retries or dead letters. It alone knows the time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::burial::undecodable;
use super::failure_log::FailureLog;
use super::keeper::{Keeper, Kept};
use super::lanes::{LaneId, Lanes};
use super::permits::{Admitted, Content, Input, Owner};
use crate::config::{self, OnExhausted, OnPermanent};
use crate::dead_letters::{Failure, Keep, Parking, Reason};
use crate::retry::Policy;
use crate::retry::breaker::{Admission, Breaker, State, Ticket, Transition};
use crate::runtime::Phase;
use crate::runtime::health::Reporter;
use crate::sink::{Class, DeliveryError, OpenError, Report, Reporter as Reports, SendError, Sink};
use crate::telemetry::metrics::Metrics;

/// Sends, reports or admissions handled before the others get their turn.
const BATCH: usize = 256;
/// Pause after the producer's queue was full. A report ends it earlier.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(5);
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
    pub(super) lanes: Lanes<Admitted>,
    in_flight: HashMap<u64, (LaneId, Ticket)>,
    next_token: u64,
    policy: Policy,
    retry: config::Retry,
    pub(super) on_permanent: OnPermanent,
    breaker: Breaker,
    /// Without it, what cannot be published is attempted for ever.
    pub(super) keeper: Option<Keeper>,
    pub(super) parking: Parking,
    pub(super) tables: Vec<String>,
    kafka: Option<Reporter>,
    publish_until: Option<watch::Receiver<Instant>>,
    drain_timeout: Duration,
    origin: Instant,
    /// Nothing is sent before: the producer's queue was full.
    stalled_until: Option<Instant>,
    /// Set after a fatal error: when to open the sink again.
    reopen_at: Option<Instant>,
    fatal_errors: u32,
    published: u64,
    pub(super) metrics: Arc<Metrics>,
    pub(super) failures: FailureLog,
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline")
            .field("events", &self.lanes.len())
            .field("in_flight", &self.in_flight.len())
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
        Ok(Self {
            input,
            input_open: true,
            sink,
            reports,
            reporter,
            lanes: Lanes::new(),
            in_flight: HashMap::new(),
            next_token: 0,
            policy: Policy::new(&config.retry),
            retry: config.retry.clone(),
            on_permanent: config.dead_letters.on_permanent,
            breaker: Breaker::new(&config.breaker),
            keeper: None,
            parking: Parking::new(config.dead_letters.max_parked_keys.get()),
            tables: Vec::new(),
            kafka: None,
            publish_until: None,
            drain_timeout: config.shutdown.drain_timeout,
            origin: Instant::now(),
            stalled_until: None,
            reopen_at: None,
            fatal_errors: 0,
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
        self.parking = dead_letters.parking;
        self.tables = dead_letters.tables;
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
        self.lanes.is_empty() && self.input.admitted.is_empty() && self.keeping() == 0
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
            match (&item.owner, &item.content) {
                // It has no order to keep.
                (Owner::Row(_), Content::Broken { reason, .. }) if item.key.is_empty() => {
                    let failure = undecodable(reason);
                    self.bury(item, Reason::Undecodable, Some(failure), false);
                }
                (Owner::Row(_), _) if self.parking.is_parked(item.table, &item.key) => {
                    self.join(item);
                }
                (Owner::Replay { .. }, _) if self.breaker.state() == State::Open => {
                    item.postpone();
                }
                _ => self.lanes.push((item.table, item.key.clone()), item),
            }
        }
    }

    /// Does what is due; says whether more could be sent at once.
    fn work(&mut self, now: Instant) -> bool {
        let elapsed = self.since_origin(now);
        self.lanes.due(elapsed);
        if let Some(keeper) = &mut self.keeper {
            keeper.due(now);
        }
        let transition = self.breaker.tick(elapsed);
        self.moved(transition);
        if let Some(at) = self.reopen_at {
            if now < at {
                return false;
            }
            self.reopen(now);
        }
        if self.stalled_until.is_some_and(|until| now < until) {
            return false;
        }
        self.stalled_until = None;
        if !self.may_publish(now) {
            return false;
        }
        for _ in 0..BATCH {
            if !self.dispatch_next(now) {
                return false;
            }
        }
        self.lanes.has_ready()
    }

    /// Whether this process owns the relay's name, as far as it knows.
    fn may_publish(&self, now: Instant) -> bool {
        let until = self.publish_until.as_ref();
        until.is_none_or(|until| now < *until.borrow())
    }

    fn wake_at(&self, deadline: Option<Instant>) -> Option<Instant> {
        let since_origin = |due| self.origin + due;
        let retry = self.lanes.next_due().map(since_origin);
        // Also when nothing waits here: a replay may be waiting to probe.
        let half_open = self.breaker.next_change().map(since_origin);
        let write = self.keeper.as_ref().and_then(Keeper::next_due);
        [
            deadline,
            self.reopen_at,
            self.stalled_until,
            retry,
            half_open,
            write,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Sends the next ready head; says whether to go on.
    fn dispatch_next(&mut self, now: Instant) -> bool {
        let Some(next) = self.lanes.next() else {
            return false;
        };
        let lane = next.lane;
        let record = match &next.item.content {
            Content::Record(record) => record,
            Content::Broken { reason, .. } => {
                let failure = undecodable(reason);
                self.give_up(lane, Reason::Undecodable, failure, now);
                return true;
            }
        };
        let ticket = match self.breaker.admit() {
            Admission::Go(ticket) => ticket,
            Admission::Until(_) | Admission::AfterProbe => {
                self.lanes.postponed(lane);
                return false;
            }
        };
        let token = self.next_token;
        match self.sink.send(token, record) {
            Ok(()) => {
                self.next_token += 1;
                self.in_flight.insert(token, (lane, ticket));
                true
            }
            Err(SendError::QueueFull) => {
                self.breaker.passed(ticket);
                self.lanes.postponed(lane);
                self.stalled_until = Some(now + QUEUE_FULL_PAUSE);
                false
            }
            Err(SendError::Failed(error)) => {
                self.failed((lane, ticket), &error, now);
                self.reopen_at.is_none()
            }
        }
    }

    fn reported(&mut self, reports: &mut Vec<Report>) {
        let now = Instant::now();
        self.stalled_until = None;
        // A fatal error must not make us forget the good news that came with it.
        reports.sort_by_key(|report| is_fatal(&report.result));
        if reports
            .last()
            .is_some_and(|report| is_fatal(&report.result))
        {
            while let Ok(report) = self.reports.try_recv() {
                let at = if is_fatal(&report.result) {
                    reports.len()
                } else {
                    0
                };
                reports.insert(at, report);
            }
        }
        for report in reports.drain(..) {
            // After a fatal error the tokens of the producer before it mean nothing any more.
            let Some(attempt) = self.in_flight.remove(&report.token) else {
                continue;
            };
            match report.result {
                Ok(_) => self.acknowledged(attempt),
                Err(error) => self.failed(attempt, &error, now),
            }
        }
    }

    fn acknowledged(&mut self, (lane, ticket): (LaneId, Ticket)) {
        let transition = self.breaker.succeeded(ticket);
        self.moved(transition);
        let admitted = self.lanes.acknowledged(lane);
        self.published += 1;
        self.fatal_errors = 0;
        self.metrics.published.add(1);
        if matches!(admitted.owner, Owner::Replay { .. }) {
            self.metrics.replayed.add(1);
        }
        // Settled first; the permits go with the rest of it.
        admitted.settle();
    }

    fn failed(&mut self, (lane, ticket): (LaneId, Ticket), error: &DeliveryError, now: Instant) {
        self.metrics.failed_attempts.add(1);
        let class = error.class();
        if class == Class::Fatal {
            return self.interrupted(ticket, error, now);
        }
        let transition = if error.kind.is_outage() {
            let elapsed = self.since_origin(now);
            self.breaker.failed(ticket, elapsed)
        } else {
            self.breaker.passed(ticket);
            None
        };
        self.moved(transition);
        // A failed probe says something of Kafka and nothing of the event.
        let spared = ticket.is_probe() && error.kind.is_outage();
        if class == Class::Transient && (spared || !error.kind.uses_up_attempts()) {
            self.failures.log(error, 0, now);
            return self.retry(lane, 1, now);
        }
        let attempts = self.lanes.failed(lane);
        self.failures.log(error, attempts, now);
        let exhausted = attempts >= self.retry.max_attempts.get()
            && self.retry.on_exhausted == OnExhausted::DeadLetter;
        let failure = Failure {
            kind: error.kind.name().to_owned(),
            message: error.to_string(),
            attempts,
        };
        match class {
            Class::Permanent => self.give_up(lane, Reason::Permanent, failure, now),
            Class::Transient if exhausted => self.give_up(lane, Reason::Exhausted, failure, now),
            Class::Transient | Class::Fatal => self.retry(lane, attempts, now),
        }
    }

    /// The head of the lane, which is in flight, is attempted again after a pause.
    pub(super) fn retry(&mut self, lane: LaneId, attempts: u32, now: Instant) {
        // Kafka takes no records now, and a replay does not wait for it.
        if self.breaker.state() == State::Open && self.lanes.head(lane).is_replay() {
            return self.lanes.acknowledged(lane).postpone();
        }
        let due = self.since_origin(now) + self.policy.delay_after(attempts);
        self.lanes.retry_at(lane, due);
    }

    /// The producer is of no more use: what is in flight is sent again by the next one.
    fn interrupted(&mut self, ticket: Ticket, error: &DeliveryError, now: Instant) {
        self.fatal_errors = self.fatal_errors.saturating_add(1);
        let delay = self.policy.delay_after(self.fatal_errors);
        let unacknowledged = self.lanes.in_flight();
        tracing::warn!(
            error = %error,
            unacknowledged,
            ?delay,
            "the producer cannot go on; it is built anew and what is unacknowledged is sent again, \
             in order"
        );
        self.breaker.passed(ticket);
        for (_, (_, ticket)) in self.in_flight.drain() {
            self.breaker.passed(ticket);
        }
        self.lanes.interrupted();
        self.reopen_at = Some(now + delay);
    }

    fn moved(&mut self, transition: Option<Transition>) {
        let Some(Transition { from, to }) = transition else {
            return;
        };
        self.input.breaker.send_replace(to);
        if to == State::Open {
            for replay in self.lanes.withdrawn(Admitted::is_replay) {
                replay.postpone();
            }
        }
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
                waiting = self.lanes.len(),
                "the breaker is open: nothing is attempted until Kafka is probed again"
            );
        } else {
            tracing::info!(
                from,
                to = to_name,
                waiting = self.lanes.len(),
                "the breaker moves"
            );
        }
    }

    fn reopen(&mut self, now: Instant) {
        let (reporter, reports) = Reports::channel();
        match self.sink.open(reporter.clone()) {
            Ok(()) => {
                self.reports = reports;
                self.reporter = reporter;
                self.reopen_at = None;
            }
            Err(error) => {
                self.fatal_errors = self.fatal_errors.saturating_add(1);
                let delay = self.policy.delay_after(self.fatal_errors);
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    ?delay,
                    "build the producer anew"
                );
                self.reopen_at = Some(now + delay);
            }
        }
    }

    async fn finish(mut self) -> Summary {
        self.sink.close(CLOSE_GRACE).await;
        while let Ok(report) = self.reports.try_recv() {
            if let Some(attempt) = self.in_flight.remove(&report.token)
                && report.result.is_ok()
            {
                self.acknowledged(attempt);
            }
        }
        let left = self.lanes.len() + self.input.admitted.len() + self.keeping();
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

fn is_fatal<T>(result: &Result<T, DeliveryError>) -> bool {
    result
        .as_ref()
        .is_err_and(|error| error.class() == Class::Fatal)
}
