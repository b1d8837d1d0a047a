//! Counters that the parts raise. They are logged once a minute and at the end, and read by tests.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

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

/// Declares the counters, and how to list them.
macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// All counters of one relay.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $($(#[doc = $doc])* pub $name: Value,)*
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
