//! Counters that the parts raise. They are logged once a minute and at the end, and read by tests.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::histogram::Histogram;

/// A counter that only grows, or a gauge when it is set.
#[derive(Debug, Default)]
pub struct Value(AtomicU64);

impl Value {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Sets the value.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The present value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters by a name out of a small set.
#[derive(Debug, Default)]
pub struct ByName(Mutex<BTreeMap<&'static str, u64>>);

impl ByName {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more.
    pub fn count(&self, name: &'static str) {
        *self.lock().entry(name).or_default() += 1;
    }

    /// How often this name was counted.
    pub fn get(&self, name: &str) -> u64 {
        self.lock().get(name).copied().unwrap_or_default()
    }
}

/// Declares the counters, and how to list them.
macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// All counters of one relay.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $($(#[doc = $doc])* pub $name: Value,)*
            /// Attempts that failed, by the kind of error.
            pub failed_by_kind: ByName,
            /// Tasks started again after they had failed, by the kind of task.
            pub restarts_by_task: ByName,
            /// How long published events have taken.
            pub stages: Stages,
            tables: Mutex<BTreeMap<String, Arc<TableMetrics>>>,
        }

        impl Metrics {
            /// Every counter with its present value, by name.
            pub fn all(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.get()),)*]
            }
        }
    };
}

counters! {
    /// Log rows read, repeated reads included.
    rows_read,
    /// Reads (pages) sent to ScyllaDB.
    reads,
    /// Bytes of the rows read, as they are on the wire.
    read_bytes,
    /// Reads that failed.
    read_errors,
    /// Events handed to the pipeline.
    events,
    /// Changes that are no event: updates, deletes, images.
    skipped,
    /// Of these: updates of some columns.
    skipped_updates,
    /// Of these: deletes of rows, ranges and partitions.
    skipped_deletes,
    /// Of these: pre- and post-images.
    skipped_images,
    /// Log rows that say the same as an earlier one, and were not published again.
    repetitions,
    /// Rows that could not be decoded.
    undecodable,
    /// Partitions that writers on this host said they had written.
    hints,
    /// Of these: not passed on, because their table's source was behind.
    hints_dropped,
    /// Datagrams that were no hints, or about no table of this relay.
    hints_garbage,
    /// Rows first seen behind the tail.
    late,
    /// Of these: rows that have appeared after `follow.late_window`, found by a sweep.
    stragglers,
    /// Reads of ids before a page was published.
    confirmations,
    /// Times of rows that such a read has shown before others, and that were merged in.
    merged,
    /// Rows that may have been published again because a checkpoint did not tell them apart.
    unreconciled,
    /// Stretches of the log that were compared with what was published of them.
    swept,
    /// Reads that were made because of hints.
    hinted_reads,
    /// Records acknowledged by Kafka.
    published,
    /// Attempts that failed.
    failed_attempts,
    /// State of the breaker: 0 closed, 1 half-open, 2 open.
    breaker_state,
    /// Times that the breaker has opened.
    breaker_opened,
    /// Dead letters written because the attempts were used up.
    dead_letters_exhausted,
    /// Dead letters written because Kafka refuses the event for good.
    dead_letters_permanent,
    /// Dead letters written because a row cannot be made a record.
    dead_letters_undecodable,
    /// Events that joined an earlier dead letter of their key.
    dead_letters_parked,
    /// Writes of dead letters that failed.
    dead_letter_errors,
    /// Dead letters that were published after all.
    replayed,
    /// Dead letters that a person has discarded.
    discarded,
    /// Dead letters that wait because their attempts were used up (a gauge).
    stored_exhausted,
    /// Dead letters that wait because Kafka refuses them (a gauge).
    stored_permanent,
    /// Dead letters that wait because their rows cannot be made records (a gauge).
    stored_undecodable,
    /// Dead letters that wait for an earlier one of their key (a gauge).
    stored_parked,
    /// Keys that are parked now.
    parked_keys,
    /// Checkpoint rows written.
    checkpoints,
    /// Checkpoint writes that failed.
    checkpoint_errors,
    /// Tasks started again after they had failed.
    task_restarts,
    /// Of these failures: panics, which are defects.
    task_panics,
    /// Tasks that are reported as failed now (a gauge).
    failed_tasks,
    /// Configurations that were read again and taken.
    reloads,
    /// Configurations that were read again and refused.
    reloads_refused,
}

/// What is counted of one table.
#[derive(Debug, Default)]
pub struct TableMetrics {
    /// Events handed to the pipeline.
    pub events: Value,
}

impl Metrics {
    /// The counters of a table, made when they are first asked for.
    pub fn table(&self, name: &str) -> Arc<TableMetrics> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(tables.entry(name.to_owned()).or_default())
    }
}

/// Upper bounds of the buckets of [`Stages`] in microseconds: from a millisecond, which no event
/// undercuts, to five minutes, after which it does not matter how late an event is.
pub const STAGE_BOUNDS: [i64; 24] = [
    1_000,
    2_000,
    3_000,
    5_000,
    7_500,
    10_000,
    15_000,
    20_000,
    30_000,
    50_000,
    75_000,
    100_000,
    150_000,
    200_000,
    300_000,
    500_000,
    750_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
];

/// How long published events have taken, stage by stage. Replayed dead letters are left out.
#[derive(Debug)]
pub struct Stages {
    /// From the write (the time in the log, a coordinator's or client's clock) to the relay's read.
    pub visible: Histogram,
    /// From the read to the last attempt: waiting for room, for the event before, for Kafka.
    pub queue: Histogram,
    /// From the last attempt to Kafka's acknowledgement.
    pub kafka: Histogram,
    /// From the write to the acknowledgement.
    pub total: Histogram,
}

impl Default for Stages {
    fn default() -> Self {
        let empty = || Histogram::new(&STAGE_BOUNDS);
        Self {
            visible: empty(),
            queue: empty(),
            kafka: empty(),
            total: empty(),
        }
    }
}

impl Stages {
    /// Every stage by its name, in the order of an event's way.
    pub fn all(&self) -> [(&'static str, &Histogram); 4] {
        [
            ("visible", &self.visible),
            ("queue", &self.queue),
            ("kafka", &self.kafka),
            ("total", &self.total),
        ]
    }
}

/// The counters that are not zero, as they stand in the log.
impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (name, value) in self.all().into_iter().filter(|(_, value)| *value > 0) {
            let space = if first { "" } else { " " };
            write!(f, "{space}{name}={value}")?;
            first = false;
        }
        Ok(())
    }
}
