//! The ordered, bounded way from the source to the sink.

use crate::ack::Ack;
use crate::event::{Record, TableId};

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
