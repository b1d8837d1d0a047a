//! The words that the parts of the relay share: positions in the log, changes, events, records.
//!
//! Owns plain data only. Invariants:
//!
//! 1. A [`Position`] orders as ScyllaDB orders the clustering key of a log table: by `cdc$time`
//!    as a timeuuid (timestamp, then the low eight bytes as signed bytes), then by
//!    `cdc$batch_seq_no`.
//! 2. An [`Event`] has a key; a row without one never becomes an event.

use std::sync::Arc;

use bytes::Bytes;
use scylla::value::{CqlTimeuuid, CqlValue};
use scylla_cdc::consumer::OperationType;
use tokio::time::Instant;

/// Offset between the UUID epoch (1582-10-15) and the Unix epoch, in units of 100 ns.
pub const UUID_EPOCH_OFFSET: u64 = 0x01B2_1DD2_1381_4000;

/// Which outbox of the configuration, by its index there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId(pub u16);

/// A place inside one stream of the log: (`cdc$time`, `cdc$batch_seq_no`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// The row's `cdc$time`.
    pub time: CqlTimeuuid,
    /// The row's `cdc$batch_seq_no`.
    pub seq: i32,
}

impl Position {
    /// The microseconds since the Unix epoch at which the base row was written.
    pub fn micros(&self) -> i64 {
        timeuuid_micros(self.time)
    }
}

/// The microseconds since the Unix epoch that a timeuuid carries.
pub fn timeuuid_micros(time: CqlTimeuuid) -> i64 {
    let bytes = time.as_bytes();
    let low = u64::from(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    let mid = u64::from(u16::from_be_bytes([bytes[4], bytes[5]]));
    let high = u64::from(u16::from_be_bytes([bytes[6], bytes[7]]) & 0x0fff);
    let ticks = (high << 48) | (mid << 32) | low;
    (ticks as i64 - UUID_EPOCH_OFFSET as i64).div_euclid(10)
}

/// A row of one stream group: the stream's index inside the group, then the position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowKey {
    /// Index of the stream inside its group.
    pub stream: u16,
    /// Place inside the stream.
    pub position: Position,
}

/// The columns that a [`Change`] carries, in the order of [`Change::values`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeColumns {
    /// Column names of the base table.
    pub names: Vec<String>,
    /// Whether the column at the same index is part of the base table's primary key.
    pub primary_key: Vec<bool>,
}

/// One change of one base row: all log rows of one `cdc$time` and one primary key, merged.
#[derive(Debug, Clone)]
pub struct Change {
    /// Position of the first log row that was merged.
    pub position: Position,
    /// The strongest operation of the merged rows: an insert with a later update stays an insert.
    pub operation: OperationType,
    /// The columns that `values` follows.
    pub columns: Arc<ChangeColumns>,
    /// The values, in the order of `columns`; null or absent is `None`.
    pub values: Vec<Option<CqlValue>>,
    /// When the page was asked for that has shown it, or the last row of it.
    pub read_at: Instant,
}

impl Change {
    /// The value of a column; `None` if it is null or the log has no such column.
    pub fn value(&self, column: &str) -> Option<&CqlValue> {
        let index = self.columns.names.iter().position(|name| name == column)?;
        self.values[index].as_ref()
    }
}

/// What an outbox row says, before it has a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The event's own id as text (the natural text form of its column).
    pub id: String,
    /// The bytes of the record's key.
    pub key: Bytes,
    /// The type of the aggregate, if a column is mapped to it.
    pub aggregate_type: Option<String>,
    /// The type of the event, if a column is mapped to it.
    pub event_type: Option<String>,
    /// The payload; `None` is a tombstone.
    pub payload: Option<Bytes>,
    /// The payload's media type, if it is known.
    pub content_type: Option<String>,
    /// When the application says the event happened, in milliseconds since the Unix epoch.
    pub created_at_millis: Option<i64>,
    /// When the row was written, in microseconds since the Unix epoch (from `cdc$time`).
    pub written_at_micros: i64,
    /// The W3C trace context of the write, from its column or else from the header map.
    pub traceparent: Option<String>,
    /// Headers from mapped columns, in the order of the configuration.
    pub headers: Vec<Header>,
    /// Text values of further columns that the topic template names.
    pub template_values: Vec<(String, String)>,
}

/// One header of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Name of the header.
    pub name: Arc<str>,
    /// Value; Kafka allows null.
    pub value: Option<Bytes>,
}

/// What is handed to the producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The topic.
    pub topic: Arc<str>,
    /// The key: decides the partition and the lane.
    pub key: Bytes,
    /// The payload; `None` is a tombstone.
    pub payload: Option<Bytes>,
    /// The headers, in order.
    pub headers: Vec<Header>,
    /// The record's timestamp in milliseconds since the Unix epoch.
    pub timestamp_millis: i64,
}

impl Record {
    /// The bytes that the record counts for against `limits.in_flight_bytes`.
    pub fn size(&self) -> usize {
        let headers: usize = self
            .headers
            .iter()
            .map(|header| header.name.len() + header.value.as_ref().map_or(0, Bytes::len))
            .sum();
        self.key.len() + self.payload.as_ref().map_or(0, Bytes::len) + headers + self.topic.len()
    }
}
