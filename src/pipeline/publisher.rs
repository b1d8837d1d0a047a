//! The one task between the lanes and the sink.
//!
//! Takes what is admitted into the lanes, dispatches what is ready, and turns reports into
//! settled rows or retries. It alone knows the time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::lanes::{LaneId, Lanes};
use super::permits::{Admitted, Input};
use crate::config;
use crate::retry::Policy;
use crate::runtime::Phase;
use crate::sink::{Class, DeliveryError, Kind, OpenError, Report, Reporter, SendError, Sink};
use crate::telemetry::metrics::Metrics;

/// Sends, reports or admissions handled before the others get their turn.
const BATCH: usize = 256;
/// Pause after the producer's queue was full. A report ends it earlier.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(5);
/// What a close waits for answers that are still under way when the drain's deadline has passed.
const CLOSE_GRACE: Duration = Duration::from_millis(500);
/// Failures of one kind are logged once in this time, with their number.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// What a pipeline did, said at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Events acknowledged by the sink.
    pub published: u64,
    /// Events that were still in flight; their rows are unsettled and are read again.
    pub left: u64,
}

/// The pipeline: lanes before a sink. [`Pipeline::run`] is its life.
pub struct Pipeline {
    input: Input,
    input_open: bool,
    sink: Box<dyn Sink>,
    reports: mpsc::UnboundedReceiver<Report>,
    /// The pipeline's own end keeps the channel open whatever the sink does with its.
    reporter: Reporter,
    lanes: Lanes<Admitted>,
    in_flight: HashMap<u64, LaneId>,
    next_token: u64,
    policy: Policy,
    drain_timeout: Duration,
    origin: Instant,
    /// Nothing is sent before: the producer's queue was full.
    stalled_until: Option<Instant>,
    /// Set after a fatal error: when to open the sink again.
    reopen_at: Option<Instant>,
    fatal_errors: u32,
    published: u64,
    metrics: Arc<Metrics>,
    failures: FailureLog,
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
        let (reporter, reports) = Reporter::channel();
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
        self.lanes.is_empty() && self.input.admitted.is_empty()
    }

    fn since_origin(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.origin)
    }

    fn admit(&mut self, admitted: &mut Vec<Admitted>) {
        for item in admitted.drain(..) {
            let key = (item.delivery.table, item.delivery.record.key.clone());
            self.lanes.push(key, item);
        }
    }

    /// Does what is due; says whether more could be sent at once.
    fn work(&mut self, now: Instant) -> bool {
        if let Some(at) = self.reopen_at {
            if now < at {
                return false;
            }
            self.reopen(now);
        }
        let elapsed = self.since_origin(now);
        self.lanes.due(elapsed);
        if self.stalled_until.is_some_and(|until| now < until) {
            return false;
        }
        self.stalled_until = None;
        for _ in 0..BATCH {
            if !self.dispatch_next(now) {
                return false;
            }
        }
        self.lanes.has_ready()
    }

    fn wake_at(&self, deadline: Option<Instant>) -> Option<Instant> {
        let retry = self.lanes.next_due().map(|due| self.origin + due);
        [deadline, self.reopen_at, self.stalled_until, retry]
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
        let token = self.next_token;
        match self.sink.send(token, &next.item.delivery.record) {
            Ok(()) => {
                self.next_token += 1;
                self.in_flight.insert(token, lane);
                true
            }
            Err(SendError::QueueFull) => {
                self.lanes.postponed(lane);
                self.stalled_until = Some(now + QUEUE_FULL_PAUSE);
                false
            }
            Err(SendError::Failed(error)) => {
                self.failed(lane, &error, now);
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
            let Some(lane) = self.in_flight.remove(&report.token) else {
                continue;
            };
            match report.result {
                Ok(_) => self.acknowledged(lane),
                Err(error) => self.failed(lane, &error, now),
            }
        }
    }

    fn acknowledged(&mut self, lane: LaneId) {
        let admitted = self.lanes.acknowledged(lane);
        self.published += 1;
        self.fatal_errors = 0;
        self.metrics.published.add(1);
        // Settled first; the permits go with the rest of it.
        admitted.settle();
    }

    fn failed(&mut self, lane: LaneId, error: &DeliveryError, now: Instant) {
        self.metrics.failed_attempts.add(1);
        match error.class() {
            Class::Transient | Class::Permanent => {
                let failures = self.lanes.failed(lane);
                let delay = self.policy.delay_after(failures);
                self.failures.log(error, failures, now);
                let due = self.since_origin(now) + delay;
                self.lanes.retry_at(lane, due);
            }
            Class::Fatal => {
                self.fatal_errors = self.fatal_errors.saturating_add(1);
                let delay = self.policy.delay_after(self.fatal_errors);
                let unacknowledged = self.lanes.in_flight();
                tracing::warn!(
                    error = %error,
                    unacknowledged,
                    ?delay,
                    "the producer cannot go on; it is built anew and what is unacknowledged is \
                     sent again, in order"
                );
                self.in_flight.clear();
                self.lanes.interrupted();
                self.reopen_at = Some(now + delay);
            }
        }
    }

    fn reopen(&mut self, now: Instant) {
        let (reporter, reports) = Reporter::channel();
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
            if let Some(lane) = self.in_flight.remove(&report.token)
                && report.result.is_ok()
            {
                self.acknowledged(lane);
            }
        }
        let left = self.lanes.len() + self.input.admitted.len();
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

fn is_fatal<T>(result: &Result<T, DeliveryError>) -> bool {
    result
        .as_ref()
        .is_err_and(|error| error.class() == Class::Fatal)
}

/// Says what fails, at most once per kind and [`LOG_EVERY`].
#[derive(Debug, Default)]
struct FailureLog {
    kinds: HashMap<Kind, (Instant, u64)>,
}

impl FailureLog {
    fn log(&mut self, error: &DeliveryError, attempt: u32, now: Instant) {
        let (last, suppressed) = match self.kinds.get_mut(&error.kind) {
            Some((last, suppressed)) if now < *last + LOG_EVERY => {
                *suppressed += 1;
                return;
            }
            Some(entry) => *entry,
            None => (now, 0),
        };
        self.kinds.insert(error.kind, (now, 0));
        tracing::warn!(
            error = %error,
            attempt,
            suppressed,
            in_last = ?now.saturating_duration_since(last),
            remedy = error.kind.remedy(),
            "an attempt to publish failed; it is repeated until it succeeds"
        );
    }
}
