//! Counters that the parts raise; later served as metrics, now logged and read by tests.

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

/// All counters of one relay.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Log rows read, repeated reads included.
    pub rows_read: Value,
    /// Reads (pages) sent to ScyllaDB.
    pub reads: Value,
    /// Reads that failed.
    pub read_errors: Value,
    /// Events handed to the pipeline.
    pub events: Value,
    /// Changes that are no event: updates, deletes, images.
    pub skipped: Value,
    /// Of these: updates of some columns.
    pub skipped_updates: Value,
    /// Of these: deletes of rows, ranges and partitions.
    pub skipped_deletes: Value,
    /// Of these: pre- and post-images.
    pub skipped_images: Value,
    /// Rows that could not be decoded.
    pub undecodable: Value,
    /// Rows first seen behind the tail.
    pub late: Value,
    /// Records acknowledged by Kafka.
    pub published: Value,
    /// Attempts that failed.
    pub failed_attempts: Value,
    /// State of the breaker: 0 closed, 1 half-open, 2 open.
    pub breaker_state: Value,
    /// Times that the breaker has opened.
    pub breaker_opened: Value,
    /// Dead letters written because the attempts were used up.
    pub dead_letters_exhausted: Value,
    /// Dead letters written because Kafka refuses the event for good.
    pub dead_letters_permanent: Value,
    /// Dead letters written because a row cannot be made a record.
    pub dead_letters_undecodable: Value,
    /// Events that joined an earlier dead letter of their key.
    pub dead_letters_parked: Value,
    /// Writes of dead letters that failed.
    pub dead_letter_errors: Value,
    /// Dead letters that were published after all.
    pub replayed: Value,
    /// Keys that are parked now.
    pub parked_keys: Value,
    /// Checkpoint rows written.
    pub checkpoints: Value,
    /// Checkpoint writes that failed.
    pub checkpoint_errors: Value,
    /// Tasks started again after they had failed.
    pub task_restarts: Value,
    /// Of these failures: panics, which are defects.
    pub task_panics: Value,
    /// Tasks that are reported as failed now (a gauge).
    pub failed_tasks: Value,
}
