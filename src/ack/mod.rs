//! Acknowledgements: what of the log is settled.
//!
//! [`Ack`] travels with an event through the pipeline. Whoever makes the event durable (the
//! delivery report) settles it; dropping it without settling leaves the row unsettled, which
//! only holds W back. [`Tracker`] is what a source keeps of the rows it has handed on.

pub mod summary;
mod tracker;

pub use tracker::{Mark, Registration, Tracker};

use std::sync::Arc;

use scylla_cdc::cdc_types::StreamID;
use tokio::sync::mpsc;

use crate::dead_letters::Place;
use crate::event::RowKey;

/// A row that has become durable, sent back to the source that read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// Slot of the stream group inside the source that registered the row.
    pub group: u32,
    /// The row.
    pub row: RowKey,
}

/// The right and the duty to settle one row.
#[derive(Debug)]
pub struct Ack {
    settled: Settled,
    to: mpsc::UnboundedSender<Settled>,
    streams: Option<Arc<[StreamID]>>,
}

impl Ack {
    /// An acknowledgement that reports to `to`. The channel needs no bound of its own: it holds at
    /// most as many messages as `limits.in_flight_events` allows events.
    pub fn new(settled: Settled, to: mpsc::UnboundedSender<Settled>) -> Self {
        Self {
            settled,
            to,
            streams: None,
        }
    }

    /// The same, of a row of one of these streams: the streams of its group, in their order.
    #[must_use]
    pub fn of_streams(mut self, streams: Arc<[StreamID]>) -> Self {
        self.streams = Some(streams);
        self
    }

    /// Where the row stands in the log.
    pub fn place(&self) -> Place {
        let row = self.settled.row;
        let streams = self.streams.as_deref().unwrap_or_default();
        let stream = streams.get(usize::from(row.stream));
        Place {
            position: row.position,
            stream: stream.cloned().unwrap_or_else(|| StreamID::new(Vec::new())),
        }
    }

    /// Which row this is.
    pub fn row(&self) -> Settled {
        self.settled
    }

    /// Says that the row is durable. The source may be gone at a stop; then nobody needs to know.
    pub fn settle(self) {
        let _ = self.to.send(self.settled);
    }
}
