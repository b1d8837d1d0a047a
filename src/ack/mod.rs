//! Acknowledgements: what of the log is settled.
//!
//! [`Ack`] travels with an event through the pipeline. Whoever makes the event durable (the
//! delivery report) settles it; dropping it without settling leaves the row unsettled, which
//! only holds W back. [`Tracker`] is what a source keeps of the rows it has handed on.

mod tracker;

pub use tracker::{Registration, Tracker};

use tokio::sync::mpsc;

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
}

impl Ack {
    /// An acknowledgement that reports to `to`. The channel needs no bound of its own: it holds at
    /// most as many messages as `limits.in_flight_events` allows events.
    pub fn new(settled: Settled, to: mpsc::UnboundedSender<Settled>) -> Self {
        Self { settled, to }
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
