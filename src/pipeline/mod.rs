//! The ordered, bounded way from the source to the sink.
//!
//! Owns the permits ([`Handle`]), the lanes ([`lanes`]) and the one task that talks to the sink
//! ([`Pipeline`]). Invariants:
//!
//! 1. Event n+1 of a key is not handed to the sink until event n of that key is acknowledged.
//! 2. A row is settled only by a delivery report that says its record is durable.
//! 3. At most `limits.in_flight_events` events and about `limits.in_flight_bytes` bytes are
//!    between `submit` and the settled row; beyond that `submit` waits, and so does the reader.
//!    (One event larger than the whole budget passes alone.)
//! 4. A record that fails is attempted again, in its key's order, until it succeeds or the relay
//!    stops; other keys go on.
//!
//! Deliberately absent: decoding, topics and headers, positions of the log.

mod intake;
pub mod lanes;
mod permits;
mod publisher;

use std::sync::Arc;

use crate::ack::Ack;
use crate::config;
use crate::event::{Record, TableId};
use crate::sink::{OpenError, Sink};
use crate::telemetry::metrics::Metrics;

pub use intake::{PublishIntake, Taken};
pub use permits::{Closed, Handle};
pub use publisher::{Pipeline, Summary};

/// What the source hands on: a record that must be published, and the right to settle its row.
#[derive(Debug)]
pub struct Delivery {
    /// The outbox the row came from. A lane is the pair of table and key.
    pub table: TableId,
    /// What is to be published.
    pub record: Record,
    /// Settled when the record is durable.
    pub ack: Ack,
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
