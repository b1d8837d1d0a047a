//! The writes of dead letters.
//!
//! Owns what is on its way to the table of dead letters. Invariants:
//!
//! 1. What it takes keeps its permits, and its row unsettled, until the write is acknowledged; so
//!    its memory is bounded by the pipeline's limits.
//! 2. A write that fails, or panics, is made again after a pause, for ever.
//! 3. At most [`CONCURRENT_WRITES`] writes are under way.
//! 4. Of the dead letters of a key whose order counts, one is written at a time, in the order in
//!    which they were taken: one that is durable has all before it durable.

use std::collections::{BTreeSet, HashMap, VecDeque, hash_map};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use super::lanes::LaneKey;
use super::permits::Admitted;
use crate::dead_letters::{DeadLetter, Error, Keep};
use crate::runtime::Chain;
use crate::runtime::health::Reporter;
use crate::telemetry::metrics::Metrics;

/// Writes under way at once.
const CONCURRENT_WRITES: usize = 32;
/// Pause after a first failed write; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Failures are logged once in this time.
const LOG_EVERY: Duration = Duration::from_secs(10);

struct Entry {
    admitted: Admitted,
    letter: Arc<DeadLetter>,
    failures: u32,
}

impl Entry {
    /// The key, if its order counts.
    fn key(&self) -> Option<LaneKey> {
        let key = || (self.admitted.table, self.admitted.key.clone());
        self.letter.parks.then(key)
    }
}

type Written = Result<(), Error>;

/// A dead letter whose write has been acknowledged.
pub(super) struct Kept {
    pub(super) admitted: Admitted,
    pub(super) letter: Arc<DeadLetter>,
}

/// Writes dead letters.
pub(super) struct Keeper {
    keep: Arc<dyn Keep>,
    metrics: Arc<Metrics>,
    entries: HashMap<u64, Entry>,
    waiting: VecDeque<u64>,
    /// Of each key whose order counts, what waits behind the one that is written.
    behind: HashMap<LaneKey, VecDeque<u64>>,
    paused: BTreeSet<(Instant, u64)>,
    writes: JoinSet<Written>,
    tasks: HashMap<Id, u64>,
    next: u64,
    logged: Option<Instant>,
    health: Option<Reporter>,
}

impl Keeper {
    pub(super) fn new(keep: Arc<dyn Keep>, metrics: Arc<Metrics>) -> Self {
        Self {
            keep,
            metrics,
            entries: HashMap::new(),
            waiting: VecDeque::new(),
            behind: HashMap::new(),
            paused: BTreeSet::new(),
            writes: JoinSet::new(),
            tasks: HashMap::new(),
            next: 0,
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
        self.entries.len()
    }

    /// Takes a dead letter.
    pub(super) fn take(&mut self, admitted: Admitted, letter: DeadLetter) {
        let entry = Entry {
            admitted,
            letter: Arc::new(letter),
            failures: 0,
        };
        let number = self.next;
        self.next += 1;
        let key = entry.key();
        self.entries.insert(number, entry);
        match key.map(|key| self.behind.entry(key)) {
            Some(hash_map::Entry::Occupied(mut behind)) => behind.get_mut().push_back(number),
            Some(hash_map::Entry::Vacant(first)) => {
                first.insert(VecDeque::new());
                self.waiting.push_back(number);
            }
            None => self.waiting.push_back(number),
        }
        self.start();
    }

    /// The dead letter is durable: the next of its key may be written.
    fn follow(&mut self, entry: &Entry) {
        let Some(key) = entry.key() else { return };
        let next = self.behind.get_mut(&key).and_then(VecDeque::pop_front);
        match next {
            Some(next) => self.waiting.push_back(next),
            None => {
                self.behind.remove(&key);
            }
        }
    }

    /// A timestamp for a new dead letter.
    pub(super) fn stamp(&self) -> i64 {
        self.keep.stamp()
    }

    fn start(&mut self) {
        while self.writes.len() < CONCURRENT_WRITES
            && let Some(number) = self.waiting.pop_front()
        {
            let letter = Arc::clone(&self.entries[&number].letter);
            let task = self.writes.spawn(self.keep.keep(letter));
            self.tasks.insert(task.id(), number);
        }
    }

    /// Begins the writes whose pause is over.
    pub(super) fn due(&mut self, now: Instant) {
        while let Some((at, number)) = self.paused.first().copied()
            && at <= now
        {
            self.paused.pop_first();
            self.waiting.push_back(number);
        }
        self.start();
    }

    /// When the next pause is over.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.paused.first().map(|(at, _)| *at)
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
            let entry = self.entries.remove(&number)?;
            self.follow(&entry);
            let Entry {
                admitted, letter, ..
            } = entry;
            if let Some(health) = &self.health {
                health.ok();
            }
            return Some(Kept { admitted, letter });
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
                unwritten = self.entries.len(),
                "dead letters cannot be written; their events stay unsettled, and it is tried again"
            );
        }
        if let Some(entry) = self.entries.get_mut(&number) {
            let pause = FIRST_PAUSE.saturating_mul(1 << entry.failures.min(10));
            entry.failures += 1;
            self.paused.insert((now + pause.min(LONGEST_PAUSE), number));
        }
        None
    }
}
