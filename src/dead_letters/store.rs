//! The table of dead letters.

mod rows;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, TryStreamExt};
use rows::{COLUMNS, LetterRow, NewRow, OutlineRow, columns, headers, letter};
use scylla::client::pager::TypedRowStream;
use scylla::client::session::Session;
use scylla::errors::{ExecutionError, PrepareError};
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::{CqlTimestamp, CqlTimeuuid, MaybeUnset};
use tokio::sync::watch;
use tokio::time::Instant;

use super::letter::{DeadLetter, Failure, Reason};
use super::row::KeptRow;
use super::{Census, Keep};
use crate::scylla::{ReadError, quoted};

/// Partitions over which the dead letters of one table are spread: a million of them are some
/// 60,000 in each.
pub const BUCKETS: i16 = 16;
/// Rows of one page: with large payloads a page is still some megabytes.
const PAGE_ROWS: i32 = 100;

/// Why dead letters cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The tables are missing or look different.
    #[error(
        "prepare a statement for the dead letters in keyspace {keyspace} \
         (`outbox-relay schema --apply` creates their tables)"
    )]
    Prepare {
        /// The relay's keyspace.
        keyspace: String,
        /// What the driver says.
        #[source]
        source: Box<PrepareError>,
    },
    /// A read failed.
    #[error("read dead letters")]
    Read(#[from] Box<ReadError>),
    /// A row is there and cannot be understood.
    #[error("read a dead letter: its column {column} makes no sense")]
    Form {
        /// The column.
        column: &'static str,
    },
    /// This process may not own the relay's name any more.
    #[error("the claim on the relay's name was not renewed")]
    NotOwner,
    /// A write failed. It may be repeated.
    #[error("write a dead letter")]
    Write(#[source] Box<ExecutionError>),
}

/// The CQL that creates the tables in `keyspace`, which must exist. Each statement may be run
/// again.
pub fn ddl(keyspace: &str) -> Vec<(&'static str, String)> {
    let keyspace = quoted(keyspace);
    vec![
        (
            "dead_letters",
            format!(
                "CREATE TABLE IF NOT EXISTS {keyspace}.dead_letters (\n    \
                 relay text,\n    \
                 source text,\n    \
                 bucket smallint,\n    \
                 key blob,\n    \
                 written timeuuid,\n    \
                 seq int,\n    \
                 stream blob,\n    \
                 event_id text,\n    \
                 event_type text,\n    \
                 topic text,\n    \
                 payload blob,\n    \
                 headers frozen<list<frozen<tuple<text, blob>>>>,\n    \
                 record_time bigint,\n    \
                 row frozen<list<frozen<tuple<text, blob>>>>,\n    \
                 operation tinyint,\n    \
                 reason text,\n    \
                 parks boolean,\n    \
                 error_kind text,\n    \
                 error text,\n    \
                 attempts int,\n    \
                 first_failed timestamp,\n    \
                 last_failed timestamp,\n    \
                 PRIMARY KEY ((relay, source, bucket), key, written, seq, stream)\n)"
            ),
        ),
        (
            "requests",
            format!(
                "CREATE TABLE IF NOT EXISTS {keyspace}.requests (\n    \
                 relay text,\n    \
                 id timeuuid,\n    \
                 request text,\n    \
                 state text,\n    \
                 progress text,\n    \
                 PRIMARY KEY ((relay), id)\n) WITH default_time_to_live = 604800"
            ),
        ),
    ]
}

/// In which partition the dead letters of a key lie. Never changes: it names a partition.
pub fn bucket(key: &[u8]) -> i16 {
    crate::scylla::bucket(key, BUCKETS)
}

/// Dead letters, one after the other.
#[derive(Debug)]
pub struct Walk {
    source: String,
    rows: TypedRowStream<OutlineRow>,
}

impl Walk {
    /// The next one; `None` at the end. One that makes no sense is logged and left out, so that it
    /// stands in no other's way.
    ///
    /// # Errors
    ///
    /// When a page cannot be read.
    pub async fn next(&mut self) -> Result<Option<DeadLetter>, Error> {
        while let Some(row) = self.rows.try_next().await.map_err(read_error)? {
            match letter(&self.source, row.into()) {
                Ok(letter) => return Ok(Some(letter)),
                Err(error) => {
                    tracing::error!(table = self.source, %error, "a dead letter is left out");
                }
            }
        }
        Ok(None)
    }
}

/// A key with dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedKey {
    /// The key.
    pub key: Bytes,
    /// Whether any of its dead letters may be replayed without a person.
    pub exhausted: bool,
}

/// The dead letters of one relay.
#[derive(Debug, Clone)]
pub struct Store {
    session: Arc<Session>,
    relay: String,
    insert: PreparedStatement,
    fail: PreparedStatement,
    delete: PreparedStatement,
    scan: PreparedStatement,
    keys: PreparedStatement,
    reasons: PreparedStatement,
    of_key: PreparedStatement,
    of_key_from: PreparedStatement,
    get: PreparedStatement,
    clock: Arc<AtomicI64>,
    /// Nothing is written later.
    until: Option<watch::Receiver<Instant>>,
}

impl Store {
    /// Prepares the statements. The tables must exist.
    pub async fn new(session: Arc<Session>, keyspace: &str, relay: &str) -> Result<Self, Error> {
        let table = format!("{}.dead_letters", quoted(keyspace));
        let prepare = async |cql: String| {
            let prepared = session.prepare(cql).await;
            let mut prepared = prepared.map_err(|source| Error::Prepare {
                keyspace: keyspace.to_owned(),
                source: Box::new(source),
            })?;
            prepared.set_is_idempotent(true);
            prepared.set_page_size(PAGE_ROWS);
            Ok::<_, Error>(prepared)
        };
        let partition = "relay = ? AND source = ? AND bucket = ?";
        let place = format!("{partition} AND key = ? AND written = ? AND seq = ? AND stream = ?");
        let columns: Vec<&str> = COLUMNS.split(", ").collect();
        // The order of writes is decided here and not by the clocks of the nodes that take them.
        let insert = prepare(format!(
            "INSERT INTO {table} (relay, source, bucket, {COLUMNS}) VALUES (?, ?, ?, {}) \
             USING TIMESTAMP ?",
            vec!["?"; columns.len()].join(", ")
        ));
        let fail = prepare(format!(
            "UPDATE {table} USING TIMESTAMP ? SET reason = ?, error_kind = ?, error = ?, attempts = ?, \
             last_failed = ? WHERE {place}"
        ));
        let stamps = "writetime(parks) AS put_at, writetime(last_failed) AS failed_at";
        let select = format!("SELECT {COLUMNS}, {stamps} FROM {table} WHERE");
        let outline = select.replace(" payload, headers, row, operation,", "");
        let outlines = format!("{outline} {partition}");
        let keys = format!("SELECT key, reason, parks FROM {table} WHERE {partition}");
        Ok(Self {
            insert: insert.await?,
            fail: fail.await?,
            delete: prepare(format!(
                "DELETE FROM {table} USING TIMESTAMP ? WHERE {place}"
            ))
            .await?,
            scan: prepare(outlines.clone()).await?,
            keys: prepare(keys).await?,
            reasons: prepare(format!("SELECT reason FROM {table} WHERE {partition}")).await?,
            of_key: prepare(format!("{outlines} AND key = ? LIMIT ?")).await?,
            of_key_from: prepare(format!("{outlines} AND key = ? AND written >= ? LIMIT ?"))
                .await?,
            get: prepare(format!("{select} {place}")).await?,
            clock: Arc::default(),
            until: None,
            relay: relay.to_owned(),
            session,
        })
    }

    /// Writes only before the time that `until` holds: whoever may take this process's place does not
    /// do so before.
    #[must_use]
    pub fn with_limit(mut self, until: watch::Receiver<Instant>) -> Self {
        self.until = Some(until);
        self
    }

    /// A timestamp for a write that is to come after `last`: never twice the same.
    pub fn stamp(&self, last: i64) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = since
            .map_or(0, |since| since.as_micros() as i64)
            .max(last + 1);
        let next = |before: i64| Some(now.max(before + 1));
        let before = self
            .clock
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        now.max(before.unwrap_or_default() + 1)
    }

    /// Writes a dead letter, with its stamp: writing it again changes nothing. Of one that is there already, a parked one changes nothing of why.
    ///
    /// # Errors
    ///
    /// When ScyllaDB does not acknowledge the write; it may have happened nevertheless.
    pub async fn put(&self, letter: &DeadLetter) -> Result<(), Error> {
        fn known<T>(known: bool, value: T) -> MaybeUnset<T> {
            if known {
                MaybeUnset::Set(value)
            } else {
                MaybeUnset::Unset
            }
        }
        fn given<T>(value: Option<T>) -> MaybeUnset<T> {
            value.map_or(MaybeUnset::Unset, MaybeUnset::Set)
        }
        let failed = letter.reason != Reason::Parked;
        let failure = letter.failure.clone().unwrap_or_default();
        let (record, kept) = (letter.record.as_ref(), letter.row.as_deref());
        let row = NewRow {
            relay: &self.relay,
            source: &letter.table,
            bucket: bucket(&letter.key),
            key: &letter.key,
            written: letter.place.position.time,
            seq: letter.place.position.seq,
            stream: &letter.place.stream,
            event_id: &letter.label.event_id,
            event_type: given(letter.label.event_type.as_deref()),
            topic: given(record.map(|record| &*record.topic)),
            payload: given(record.and_then(|record| record.payload.as_deref())),
            headers: given(record.map(headers)),
            record_time: given(record.map(|record| record.timestamp_millis)),
            row: given(kept.map(columns)),
            operation: given(kept.map(KeptRow::operation)),
            reason: known(failed, letter.reason.name()),
            parks: letter.parks,
            error_kind: known(failed, &failure.kind),
            error: known(failed, &failure.message),
            attempts: known(failed, i32::try_from(failure.attempts).unwrap_or(i32::MAX)),
            first_failed: known(failed, CqlTimestamp(letter.first_failed_millis)),
            last_failed: known(failed, CqlTimestamp(letter.last_failed_millis)),
            stamp: letter.stamp,
        };
        self.write(&self.insert, row).await
    }

    /// A replay of the dead letter has failed.
    ///
    /// # Errors
    ///
    /// As [`Store::put`].
    pub async fn failed_again(
        &self,
        letter: &DeadLetter,
        reason: Reason,
        failure: &Failure,
        at_millis: i64,
    ) -> Result<(), Error> {
        let values = (
            self.stamp(letter.stamp),
            reason.name(),
            &failure.kind,
            &failure.message,
            i32::try_from(failure.attempts).unwrap_or(i32::MAX),
            CqlTimestamp(at_millis),
            &self.relay,
            &letter.table,
            bucket(&letter.key),
            &letter.key[..],
            letter.place.position.time,
            letter.place.position.seq,
            &letter.place.stream,
        );
        self.write(&self.fail, values).await
    }

    /// Removes a dead letter.
    ///
    /// # Errors
    ///
    /// As [`Store::put`].
    pub async fn remove(&self, letter: &DeadLetter) -> Result<(), Error> {
        let place = &letter.place;
        let values = (
            self.stamp(letter.stamp),
            &self.relay,
            &letter.table,
            bucket(&letter.key),
            &letter.key[..],
            place.position.time,
            place.position.seq,
            &place.stream,
        );
        self.write(&self.delete, values).await
    }

    async fn write(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<(), Error> {
        let until = self.until.as_ref();
        if until.is_some_and(|until| Instant::now() >= *until.borrow()) {
            return Err(Error::NotOwner);
        }
        let written = self.session.execute_unpaged(statement, values).await;
        written.map(drop).map_err(|e| Error::Write(Box::new(e)))
    }

    /// Looks at all dead letters of a table in one bucket, key by key and in the order of their
    /// places, a page at a time; without payloads, headers and rows.
    ///
    /// # Errors
    ///
    /// When the first page cannot be read.
    pub async fn walk(&self, source: &str, bucket: i16) -> Result<Walk, Error> {
        let values = (&self.relay, source, bucket);
        let rows = self.session.execute_iter(self.scan.clone(), values).await;
        let rows = rows.map_err(read_error)?;
        Ok(Walk {
            source: source.to_owned(),
            rows: rows.rows_stream::<OutlineRow>().map_err(read_error)?,
        })
    }

    /// Counts the dead letters of a table into `census`.
    ///
    /// # Errors
    ///
    /// When a page cannot be read; then some may have been counted.
    pub async fn count(&self, source: &str, census: &mut Census) -> Result<(), Error> {
        for bucket in 0..BUCKETS {
            let values = (&self.relay, source, bucket);
            let rows = self
                .session
                .execute_iter(self.reasons.clone(), values)
                .await;
            let rows = rows.map_err(read_error)?;
            let mut rows = rows
                .rows_stream::<(Option<String>,)>()
                .map_err(read_error)?;
            while let Some((reason,)) = rows.try_next().await.map_err(read_error)? {
                census.add(reason.as_deref());
            }
        }
        Ok(())
    }

    /// The keys of a table that are parked, bucket by bucket; each once.
    ///
    /// # Errors
    ///
    /// When a page cannot be read.
    pub async fn parked_keys(
        &self,
        source: &str,
        mut each: impl FnMut(ParkedKey),
    ) -> Result<(), Error> {
        type KeyRow = (Vec<u8>, Option<String>, Option<bool>);
        for bucket in 0..BUCKETS {
            let values = (&self.relay, source, bucket);
            let rows = self.session.execute_iter(self.keys.clone(), values).await;
            let rows = rows.map_err(read_error)?;
            let mut rows = rows.rows_stream::<KeyRow>().map_err(read_error)?;
            let mut parked: Option<ParkedKey> = None;
            while let Some((key, reason, parks)) = rows.try_next().await.map_err(read_error)? {
                if parks != Some(true) {
                    continue;
                }
                let exhausted = reason
                    .as_deref()
                    .is_none_or(|reason| reason.parse().is_ok_and(Reason::is_replayed_by_itself));
                match &mut parked {
                    Some(parked) if parked.key == key => parked.exhausted |= exhausted,
                    _ => {
                        let key = Bytes::from(key);
                        parked
                            .replace(ParkedKey { key, exhausted })
                            .into_iter()
                            .for_each(&mut each);
                    }
                }
            }
            parked.into_iter().for_each(&mut each);
        }
        Ok(())
    }

    /// A dead letter with its payload and headers, or its row; `None` if it is not there any more.
    ///
    /// # Errors
    ///
    /// When it cannot be read or understood.
    pub async fn get(&self, outline: &DeadLetter) -> Result<Option<DeadLetter>, Error> {
        let place = &outline.place;
        let values = (
            &self.relay,
            &outline.table,
            bucket(&outline.key),
            &outline.key[..],
            place.position.time,
            place.position.seq,
            &place.stream,
        );
        let rows = self.session.execute_iter(self.get.clone(), values).await;
        let rows = rows.map_err(read_error)?;
        let mut rows = rows.rows_stream::<LetterRow>().map_err(read_error)?;
        let row = rows.try_next().await.map_err(read_error)?;
        row.map(|row| letter(&outline.table, row)).transpose()
    }

    /// The first `limit` dead letters of a key whose log rows were written at `from` or later, in
    /// the order of their places; without payloads, headers and rows.
    ///
    /// # Errors
    ///
    /// When they cannot be read or understood.
    pub async fn of_key(
        &self,
        source: &str,
        key: &[u8],
        from: Option<CqlTimeuuid>,
        limit: i32,
    ) -> Result<Vec<DeadLetter>, Error> {
        let (relay, bucket) = (&self.relay, bucket(key));
        let rows = match from {
            None => {
                let values = (relay, source, bucket, key, limit);
                self.session.execute_iter(self.of_key.clone(), values).await
            }
            Some(from) => {
                let values = (relay, source, bucket, key, from, limit);
                self.session
                    .execute_iter(self.of_key_from.clone(), values)
                    .await
            }
        };
        let rows = rows.map_err(read_error)?;
        let mut rows = rows.rows_stream::<OutlineRow>().map_err(read_error)?;
        let mut letters = Vec::new();
        while let Some(row) = rows.try_next().await.map_err(read_error)? {
            letters.push(letter(source, row.into())?);
        }
        Ok(letters)
    }
}

impl Keep for Store {
    fn keep(&self, letter: Arc<DeadLetter>) -> BoxFuture<'static, Result<(), Error>> {
        let store = self.clone();
        async move { store.put(&letter).await }.boxed()
    }

    fn stamp(&self) -> i64 {
        Store::stamp(self, 0)
    }
}

pub(super) fn read_error(error: impl Into<ReadError>) -> Error {
    Error::Read(Box::new(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_of_a_key_never_changes() {
        assert_eq!(
            [&b""[..], b"a", b"order-1", b"order-2"].map(bucket),
            [4, 12, 15, 15]
        );
        assert!((0..=255).all(|byte| (0..BUCKETS).contains(&bucket(&[byte]))));
    }
}
