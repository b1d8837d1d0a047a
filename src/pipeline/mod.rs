//! The ordered, bounded way from the source to the sink.
//!
//! Owns the permits ([`Handle`]), the decisions ([`core`]: lanes, breaker, retries, parked keys, what
//! becomes a dead letter), the order in which dead letters are written ([`keeping`]), and the one
//! task that talks to the sink ([`Pipeline`]). Invariants:
//!
//! 1. Event n+1 of a key is not handed to the sink until event n of that key is acknowledged or
//!    has become a dead letter.
//! 2. A row is settled only by a delivery report that says its record is durable, or by the
//!    acknowledgement of its dead letter.
//! 3. At most `limits.in_flight_events` events and about `limits.in_flight_bytes` bytes are
//!    between `submit` and the settled row; beyond that `submit` waits, and so does the reader.
//!    (One event larger than the whole budget passes alone.)
//! 4. A record that fails is attempted again, in its key's order, until it succeeds, its attempts
//!    are used up, or the relay stops; other keys go on.
//! 5. While a key is parked, its events join its dead letters.
//! 6. While the breaker is open nothing is attempted, and waiting uses up no attempts. A replay does
//!    not wait: its caller is told.
//! 7. Nothing is sent after the time until which this process may publish.
//!
//! Deliberately absent: decoding, topics and headers, positions of the log.

mod burial;
pub mod core;
mod failure_log;
mod intake;
mod journey;
mod keeper;
pub mod keeping;
pub mod lanes;
mod permits;
mod publisher;
pub mod seen;

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use crate::ack::Ack;
use crate::config;
use crate::dead_letters::{Failure, KeptRow, Label, Reason};
use crate::event::{Record, TableId};
use crate::sink::{OpenError, Sink};
use crate::telemetry::metrics::Metrics;

pub use burial::letter;
pub use intake::{PublishIntake, Taken};
pub use permits::{Admitted, Closed, Handle, Input, channel};
pub use publisher::{DeadLetterBox, Pipeline, Summary};

/// What the source hands on: a record that must be published, and the right to settle its row.
#[derive(Debug)]
pub struct Delivery {
    /// The outbox the row came from. A lane is the pair of table and key.
    pub table: TableId,
    /// What is to be published.
    pub record: Record,
    /// What the event is called.
    pub label: Label,
    /// Settled when the record is durable.
    pub ack: Ack,
    /// When the page was asked for that has shown the row.
    pub read_at: Instant,
}

/// A row that should be an event and cannot be made a record.
#[derive(Debug)]
pub struct Broken {
    /// The outbox the row came from.
    pub table: TableId,
    /// Its key; empty if the row has none that can be read. Then it has no order to keep.
    pub key: Bytes,
    /// What the event is called, as far as that can be read.
    pub label: Label,
    /// What is wrong, and what to change. Never a payload.
    pub reason: String,
    /// Its columns, as the dead letter keeps them.
    pub row: KeptRow,
    /// Settled when the dead letter is durable.
    pub ack: Ack,
    /// When the page was asked for that has shown the row.
    pub read_at: Instant,
}

/// A dead letter that is to be published after all.
#[derive(Debug)]
pub struct Replay {
    /// The outbox the row came from.
    pub table: TableId,
    /// What is to be published.
    pub record: Record,
    /// What the event is called.
    pub label: Label,
    /// Attempts made before.
    pub attempts: u32,
}

/// What became of a replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replayed {
    /// Kafka has it.
    Published,
    /// It failed again, for this reason.
    Failed(Reason, Failure),
    /// Kafka takes no records now: nothing was attempted, or the breaker opened before an attempt
    /// that failed could be repeated. What was attempted does not count.
    Postponed,
}

/// Opens the sink and makes a pipeline before it. Records flow as soon as [`Pipeline::run`] does.
pub fn new(
    config: &config::Config,
    sink: Box<dyn Sink>,
    metrics: Arc<Metrics>,
) -> Result<(Handle, Pipeline), OpenError> {
    let (handle, input) = permits::channel(&config.limits);
    let pipeline = Pipeline::new(config, input, sink, metrics)?;
    Ok((handle, pipeline))
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
