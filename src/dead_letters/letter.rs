//! What is kept of an event that could not be published.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use scylla_cdc::cdc_types::StreamID;
use serde::Serialize;

use super::row::KeptRow;
use crate::event::{Position, Record};

/// Why an event became a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// Its attempts were used up. It is replayed by itself once Kafka is back.
    Exhausted,
    /// Kafka refuses it until somebody changes something.
    Permanent,
    /// Its row cannot be made a record.
    Undecodable,
    /// Nothing is wrong with it: an earlier event of its key is a dead letter.
    Parked,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 4] = [
        Self::Exhausted,
        Self::Permanent,
        Self::Undecodable,
        Self::Parked,
    ];

    /// The name in tables, in the terminal and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exhausted => "exhausted",
            Self::Permanent => "permanent",
            Self::Undecodable => "undecodable",
            Self::Parked => "parked",
        }
    }

    /// Whether a replay without a person may attempt it.
    pub fn is_replayed_by_itself(self) -> bool {
        match self {
            Self::Exhausted | Self::Parked => true,
            Self::Permanent | Self::Undecodable => false,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that is no reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is none of exhausted, permanent, undecodable, parked")]
pub struct UnknownReason;

impl FromStr for Reason {
    type Err = UnknownReason;

    fn from_str(text: &str) -> Result<Self, UnknownReason> {
        let named = |reason: &Self| reason.name() == text;
        Self::ALL.into_iter().find(named).ok_or(UnknownReason)
    }
}

/// Where an event stands in the log: what a dead letter is ordered and found by. Two dead letters
/// of one place are one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// Position inside the stream: the order of the events of a key.
    pub position: Position,
    /// The stream.
    pub stream: StreamID,
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.position, &self.stream).cmp(&(other.position, &other.stream))
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What a person calls an event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Label {
    /// The event's own id; empty if the row has none that can be read.
    pub event_id: String,
    /// Its type, if a column is mapped to it.
    pub event_type: Option<String>,
}

/// What went wrong last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Failure {
    /// The kind of error, by its name in `docs/errors.md`; `undecodable` for rows.
    pub kind: String,
    /// What was said. Never a payload.
    pub message: String,
    /// Attempts made in all.
    pub attempts: u32,
}

/// An event that could not be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The outbox table, `keyspace.table`.
    pub table: String,
    /// The record's key; empty if the row has none that can be read.
    pub key: Bytes,
    /// Where it stands in the log.
    pub place: Place,
    /// What it is called.
    pub label: Label,
    /// Why it is here.
    pub reason: Reason,
    /// What went wrong; nothing did with a parked one.
    pub failure: Option<Failure>,
    /// Whether later events of the key join it.
    pub parks: bool,
    /// What would be published; `None` if the row could not be made a record.
    pub record: Option<Record>,
    /// The row that could not be made a record; `None` if there is a record.
    pub row: Option<Arc<KeptRow>>,
    /// When it first failed, milliseconds since the Unix epoch.
    pub first_failed_millis: i64,
    /// When it last failed.
    pub last_failed_millis: i64,
    /// Timestamp of its last write, microseconds since the Unix epoch; zero before the first.
    pub stamp: i64,
    /// When it was put into the table, microseconds since the Unix epoch; zero before.
    pub put_at: i64,
}

impl DeadLetter {
    /// The bytes that it counts for against `limits.in_flight_bytes`.
    pub fn size(&self) -> usize {
        let record = self.record.as_ref().map_or(0, Record::size);
        let row = self.row.as_ref().map_or(0, |row| row.size());
        self.key.len() + record + row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_read_as_it_is_written() {
        for reason in Reason::ALL {
            assert_eq!(reason.name().parse(), Ok(reason));
        }
        assert_eq!("gone".parse::<Reason>(), Err(UnknownReason));
    }
}
