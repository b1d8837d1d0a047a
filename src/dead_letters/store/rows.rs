//! Rows of the table of dead letters, and what they mean.

use std::sync::Arc;

use bytes::Bytes;
use scylla::value::{CqlTimestamp, CqlTimeuuid, MaybeUnset};
use scylla::{DeserializeRow, SerializeRow};
use scylla_cdc::cdc_types::StreamID;

use super::Error;
use crate::dead_letters::letter::{DeadLetter, Failure, Label, Place, Reason};
use crate::dead_letters::row::KeptRow;
use crate::event::{Header, Position, Record};

/// Names and values: of headers, or of the columns of a row.
type Pairs = Vec<(String, Option<Vec<u8>>)>;

#[derive(DeserializeRow)]
pub(super) struct LetterRow {
    key: Vec<u8>,
    written: CqlTimeuuid,
    seq: i32,
    stream: StreamID,
    event_id: Option<String>,
    event_type: Option<String>,
    topic: Option<String>,
    payload: Option<Vec<u8>>,
    headers: Option<Pairs>,
    record_time: Option<i64>,
    row: Option<Pairs>,
    operation: Option<i8>,
    reason: Option<String>,
    parks: Option<bool>,
    error_kind: Option<String>,
    error: Option<String>,
    attempts: Option<i32>,
    first_failed: Option<CqlTimestamp>,
    last_failed: Option<CqlTimestamp>,
    put_at: Option<i64>,
    failed_at: Option<i64>,
}

/// The same without what may be large.
#[derive(DeserializeRow)]
pub(super) struct OutlineRow {
    key: Vec<u8>,
    written: CqlTimeuuid,
    seq: i32,
    stream: StreamID,
    event_id: Option<String>,
    event_type: Option<String>,
    topic: Option<String>,
    record_time: Option<i64>,
    reason: Option<String>,
    parks: Option<bool>,
    error_kind: Option<String>,
    error: Option<String>,
    attempts: Option<i32>,
    first_failed: Option<CqlTimestamp>,
    last_failed: Option<CqlTimestamp>,
    put_at: Option<i64>,
    failed_at: Option<i64>,
}

impl From<OutlineRow> for LetterRow {
    fn from(row: OutlineRow) -> Self {
        Self {
            key: row.key,
            written: row.written,
            seq: row.seq,
            stream: row.stream,
            event_id: row.event_id,
            event_type: row.event_type,
            topic: row.topic,
            payload: None,
            headers: None,
            record_time: row.record_time,
            row: None,
            operation: None,
            reason: row.reason,
            parks: row.parks,
            error_kind: row.error_kind,
            error: row.error,
            attempts: row.attempts,
            first_failed: row.first_failed,
            last_failed: row.last_failed,
            put_at: row.put_at,
            failed_at: row.failed_at,
        }
    }
}

pub(super) const COLUMNS: &str = "key, written, seq, stream, event_id, event_type, topic, payload, headers, \
                       row, operation, record_time, reason, parks, error_kind, error, attempts, \
                       first_failed, last_failed";

/// Name and value of a header, or of a column.
pub(super) type Pair<'l> = (&'l str, Option<&'l [u8]>);

#[derive(SerializeRow)]
pub(super) struct NewRow<'l> {
    pub(super) relay: &'l str,
    pub(super) source: &'l str,
    pub(super) bucket: i16,
    pub(super) key: &'l [u8],
    pub(super) written: CqlTimeuuid,
    pub(super) seq: i32,
    pub(super) stream: &'l StreamID,
    pub(super) event_id: &'l str,
    pub(super) event_type: MaybeUnset<&'l str>,
    pub(super) topic: MaybeUnset<&'l str>,
    pub(super) payload: MaybeUnset<&'l [u8]>,
    pub(super) headers: MaybeUnset<Vec<Pair<'l>>>,
    pub(super) record_time: MaybeUnset<i64>,
    pub(super) row: MaybeUnset<Vec<Pair<'l>>>,
    pub(super) operation: MaybeUnset<i8>,
    pub(super) reason: MaybeUnset<&'l str>,
    pub(super) parks: bool,
    pub(super) error_kind: MaybeUnset<&'l str>,
    pub(super) error: MaybeUnset<&'l str>,
    pub(super) attempts: MaybeUnset<i32>,
    pub(super) first_failed: MaybeUnset<CqlTimestamp>,
    pub(super) last_failed: MaybeUnset<CqlTimestamp>,
    #[scylla(rename = "[timestamp]")]
    pub(super) stamp: i64,
}

pub(super) fn headers(record: &Record) -> Vec<Pair<'_>> {
    record
        .headers
        .iter()
        .map(|header| (&*header.name, header.value.as_deref()))
        .collect()
}

pub(super) fn columns(row: &KeptRow) -> Vec<Pair<'_>> {
    row.columns()
        .iter()
        .map(|(name, value)| (&**name, value.as_deref()))
        .collect()
}

fn kept(operation: Option<i8>, columns: Pairs) -> Result<Arc<KeptRow>, Error> {
    let columns = columns
        .into_iter()
        .map(|(name, value)| (name, value.map(Bytes::from)))
        .collect();
    let row = operation.and_then(|operation| KeptRow::stored(operation, columns));
    row.map(Arc::new).ok_or(Error::Form {
        column: "operation",
    })
}

pub(super) fn letter(source: &str, row: LetterRow) -> Result<DeadLetter, Error> {
    let reason = match row.reason.as_deref() {
        None => Reason::Parked,
        Some(reason) => reason
            .parse()
            .map_err(|_| Error::Form { column: "reason" })?,
    };
    let kept = row.row.map(|columns| kept(row.operation, columns));
    let kept = kept.transpose()?;
    let key = Bytes::from(row.key);
    let record = row.topic.map(|topic| Record {
        topic: topic.into(),
        key: key.clone(),
        payload: row.payload.map(Bytes::from),
        headers: row
            .headers
            .unwrap_or_default()
            .into_iter()
            .map(|(name, value)| Header {
                name: name.into(),
                value: value.map(Bytes::from),
            })
            .collect(),
        timestamp_millis: row.record_time.unwrap_or(1),
    });
    let failure = (reason != Reason::Parked).then(|| Failure {
        kind: row.error_kind.unwrap_or_default(),
        message: row.error.unwrap_or_default(),
        attempts: row
            .attempts
            .map_or(0, |n| u32::try_from(n).unwrap_or_default()),
    });
    let position = Position {
        time: row.written,
        seq: row.seq,
    };
    // A parked one did not fail; it is as old as its row.
    let millis = |time: Option<CqlTimestamp>| time.map_or(position.micros() / 1000, |t| t.0);
    Ok(DeadLetter {
        table: source.to_owned(),
        key,
        place: Place {
            position,
            stream: row.stream,
        },
        label: Label {
            event_id: row.event_id.unwrap_or_default(),
            event_type: row.event_type,
        },
        reason,
        failure,
        parks: row.parks.unwrap_or(true),
        record,
        row: kept,
        first_failed_millis: millis(row.first_failed),
        last_failed_millis: millis(row.last_failed),
        stamp: row.put_at.max(row.failed_at).unwrap_or_default(),
        put_at: row.put_at.unwrap_or_default(),
    })
}
