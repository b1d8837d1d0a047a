//! The writes of dead letters.
//!
//! Owns the tasks that write what is on its way to the table of dead letters, in the order that
//! [`Keeping`] gives. Invariants:
//!
//! 1. What it takes keeps its permits, and its row unsettled, until the write is acknowledged; so
//!    its memory is bounded by the pipeline's limits.
//! 2. A write that fails, or panics, is made again after a pause, for ever.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use super::core::Item;
use super::keeping::Keeping;
use super::permits::Admitted;
use crate::dead_letters::{DeadLetter, Error, Keep};
use crate::runtime::Chain;
use crate::runtime::health::Reporter;
use crate::telemetry::metrics::Metrics;

/// Failures are logged once in this time.
const LOG_EVERY: Duration = Duration::from_secs(10);

type Written = Result<(), Error>;

/// A dead letter and its event.
pub(super) struct Kept {
    pub(super) admitted: Admitted,
    pub(super) letter: Arc<DeadLetter>,
}

/// Writes dead letters.
pub(super) struct Keeper {
    keep: Arc<dyn Keep>,
    metrics: Arc<Metrics>,
    keeping: Keeping<Kept>,
    writes: JoinSet<Written>,
    tasks: HashMap<Id, u64>,
    origin: Instant,
    logged: Option<Instant>,
    health: Option<Reporter>,
}

impl Keeper {
    pub(super) fn new(keep: Arc<dyn Keep>, metrics: Arc<Metrics>) -> Self {
        Self {
            keep,
            metrics,
            keeping: Keeping::new(),
            writes: JoinSet::new(),
            tasks: HashMap::new(),
            origin: Instant::now(),
            logged: None,
            health: None,
        }
    }

    /// Tells how the writes fare.
    pub(super) fn report_to(&mut self, health: Reporter) {
        self.health = Some(health);
    }

    /// Dead letters whose write has not been acknowledged.
    pub(super) fn len(&self) -> usize {
        self.keeping.len()
    }

    /// Takes a dead letter.
    pub(super) fn take(&mut self, admitted: Admitted, letter: DeadLetter) {
        let key = letter.parks.then(|| admitted.lane());
        let letter = Arc::new(letter);
        self.keeping.take(key, Kept { admitted, letter });
        self.start();
    }

    /// A timestamp for a new dead letter.
    pub(super) fn stamp(&self) -> i64 {
        self.keep.stamp()
    }

    fn start(&mut self) {
        while let Some((number, kept)) = self.keeping.begin() {
            let letter = Arc::clone(&kept.letter);
            let task = self.writes.spawn(self.keep.keep(letter));
            self.tasks.insert(task.id(), number);
        }
    }

    fn since_origin(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.origin)
    }

    /// Begins the writes whose pause is over.
    pub(super) fn due(&mut self, now: Instant) {
        self.keeping.due(self.since_origin(now));
        self.start();
    }

    /// When the next pause is over.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.keeping.next_due().map(|due| self.origin + due)
    }

    /// Whether a write is under way.
    pub(super) fn is_writing(&self) -> bool {
        !self.writes.is_empty()
    }

    /// Waits for the end of a write; gives the dead letter if it is durable. Never resolves while
    /// none is under way. Cancel-safe.
    pub(super) async fn written(&mut self) -> Option<Kept> {
        let Some(ended) = self.writes.join_next_with_id().await else {
            return std::future::pending().await;
        };
        let kept = self.ended(ended);
        self.start();
        kept
    }

    fn ended(&mut self, ended: Result<(Id, Written), JoinError>) -> Option<Kept> {
        let (task, failure) = match ended {
            Ok((task, Ok(()))) => (task, None),
            Ok((task, Err(error))) => (task, Some(Chain(&error).to_string())),
            Err(panic) => (panic.id(), Some(panic.to_string())),
        };
        let number = self.tasks.remove(&task)?;
        let Some(failure) = failure else {
            if let Some(health) = &self.health {
                health.ok();
            }
            return self.keeping.written(number);
        };
        let now = Instant::now();
        self.metrics.dead_letter_errors.add(1);
        if let Some(health) = &self.health {
            health.degraded("dead letters cannot be written; their events stay unsettled");
        }
        if self.logged.is_none_or(|at| now >= at + LOG_EVERY) {
            self.logged = Some(now);
            tracing::error!(
                error = failure,
                unwritten = self.keeping.len(),
                "dead letters cannot be written; their events stay unsettled, and it is tried again"
            );
        }
        self.keeping.failed(number, self.since_origin(now));
        None
    }
}
