//! The one place that talks to the producer.
//!
//! Owns the [`Sink`] interface, the classification of what can go wrong ([`error`]), the decision
//! whether a broker can be reached ([`reach`]), the Kafka sink ([`kafka`]) and a scripted one for
//! tests ([`scripted`]). Invariants:
//!
//! 1. `send` returns at once; the outcome comes as a [`Report`] with the token of the send.
//! 2. A sink hands records to the broker in the order of its `send` calls, per partition.
//! 3. *Accepted* (by `send`) is not *durable* (by a report): only the latter moves progress.
//!
//! Deliberately absent: retries, order of a key over failures, acknowledgements of rows. The
//! pipeline has them.

pub mod error;
pub mod kafka;
pub mod reach;
pub mod scripted;

#[cfg(test)]
mod document;

use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::mpsc;

use crate::event::Record;

pub use error::{Class, DeliveryError, Kind, OpenError, SendError};
pub use kafka::KafkaSink;

/// Where a record has been appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The partition.
    pub partition: i32,
    /// The offset inside the partition.
    pub offset: i64,
}

/// The outcome of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The token that came with the record.
    pub token: u64,
    /// Where the record is, or why it is not there.
    pub result: Result<Appended, DeliveryError>,
}

/// Where a sink sends its reports. The channel holds at most as many reports as there are records
/// in flight, so it needs no bound of its own.
#[derive(Debug, Clone)]
pub struct Reporter(mpsc::UnboundedSender<Report>);

impl Reporter {
    /// A reporter and the receiver of its reports.
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<Report>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// Sends a report. When the pipeline is gone, nobody needs it any more.
    pub fn report(&self, token: u64, result: Result<Appended, DeliveryError>) {
        let _ = self.0.send(Report { token, result });
    }
}

/// A destination that accepts records and later says what became of each.
pub trait Sink: Send {
    /// Begins, or begins anew: whatever an earlier `open` left in flight is given up (it may
    /// still appear in the topic), and reports go to `reports` from now on.
    fn open(&mut self, reports: Reporter) -> Result<(), OpenError>;

    /// Accepts a record, never waiting. Exactly one report with `token` follows if this returns
    /// `Ok`, none otherwise.
    fn send(&mut self, token: u64, record: &Record) -> Result<(), SendError>;

    /// Waits until nothing is in flight any more, at most `timeout`, and closes. Reports that
    /// were on their way are there when this returns. A closed sink must be opened again.
    fn close(&mut self, timeout: Duration) -> BoxFuture<'_, ()>;
}
