//! Loads and saves checkpoints.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::TryStreamExt;
use scylla::client::session::Session;
use scylla::errors::{ExecutionError, PrepareError};
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use scylla::value::CqlTimestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use super::published::{self, FormError};
use super::reset::Reset;
use super::{BATCH_BYTES, BATCH_ROWS, BUCKETS, GroupCheckpoint, GroupKey, Loaded, Window};
use crate::config::TableName;
use crate::scylla::{ReadError, quoted};

/// Rows of one page when checkpoints are loaded.
const PAGE_ROWS: i32 = 1_000;

/// Why checkpoints cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The tables are missing or look different.
    #[error(
        "prepare a statement for the tables of keyspace {keyspace} \
         (`outbox-relay schema --apply` creates them)"
    )]
    Prepare {
        /// The relay's keyspace.
        keyspace: String,
        /// What the driver says.
        #[source]
        source: Box<PrepareError>,
    },
    /// A read failed.
    #[error("read the checkpoints of {table}")]
    Read {
        /// The outbox table.
        table: TableName,
        /// What the driver says.
        #[source]
        source: Box<ReadError>,
    },
    /// A checkpoint is there and cannot be understood.
    #[error("read the checkpoint of a stream group of {table}")]
    Form {
        /// The outbox table.
        table: TableName,
        /// What is wrong with it.
        #[source]
        source: FormError,
    },
    /// This process may not own the relay's name any more, so another one may have saved.
    #[error("the claim on the relay's name was not renewed")]
    NotOwner,
    /// A write failed. Nothing is lost: the watermark in the table is older than it could be.
    #[error("write the checkpoints of {table}")]
    Write {
        /// The outbox table.
        table: TableName,
        /// What the driver says.
        #[source]
        source: Box<ExecutionError>,
    },
}

/// The checkpoints of one relay.
#[derive(Debug)]
pub struct Store {
    session: Arc<Session>,
    relay: String,
    load: PreparedStatement,
    save: PreparedStatement,
    load_windows: PreparedStatement,
    save_window: PreparedStatement,
    remove_window: PreparedStatement,
    load_start: PreparedStatement,
    save_start: PreparedStatement,
    clock: AtomicI64,
    saved: Mutex<HashMap<(TableName, GroupKey), i64>>,
    /// Nothing is saved later.
    until: Option<watch::Receiver<Instant>>,
}

/// Begin, end and summary of a window, and when it was written.
type WindowRow = (i64, Option<i64>, Option<Vec<u8>>, Option<i64>);

/// Where and when the first start was.
type StartRow = (Option<i64>, Option<i64>);

type CheckpointRow = (
    CqlTimestamp,
    Vec<u8>,
    i64,
    Option<Vec<u8>>,
    Option<bool>,
    Option<i64>,
);

impl Store {
    /// Prepares the statements. The tables must exist.
    pub async fn new(session: Arc<Session>, keyspace: &str, relay: &str) -> Result<Self, Error> {
        let tables = quoted(keyspace);
        let prepare = async |cql: String| {
            let prepared = session.prepare(cql).await;
            let mut prepared = prepared.map_err(|source| Error::Prepare {
                keyspace: keyspace.to_owned(),
                source: Box::new(source),
            })?;
            // Each write carries its timestamp, so writing it again changes nothing.
            prepared.set_is_idempotent(true);
            prepared.set_page_size(PAGE_ROWS);
            Ok::<_, Error>(prepared)
        };
        let load = prepare(format!(
            "SELECT generation, stream_group, watermark, published, closed, writetime(watermark) \
             FROM {tables}.checkpoints WHERE relay = ? AND source = ? AND bucket = ?"
        ));
        let save = prepare(format!(
            "INSERT INTO {tables}.checkpoints \
             (relay, source, bucket, generation, stream_group, watermark, published, closed) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        ));
        let load_windows = prepare(format!(
            "SELECT begins, ends, published, writetime(published) FROM {tables}.windows \
             WHERE relay = ? AND source = ? AND generation = ? AND stream_group = ?"
        ));
        let save_window = prepare(format!(
            "INSERT INTO {tables}.windows \
             (relay, source, generation, stream_group, begins, ends, published) \
             VALUES (?, ?, ?, ?, ?, ?, ?) USING TTL ?"
        ));
        let remove_window = prepare(format!(
            "DELETE FROM {tables}.windows \
             WHERE relay = ? AND source = ? AND generation = ? AND stream_group = ? AND begins = ?"
        ));
        let load_start = prepare(format!(
            "SELECT start, writetime(start) FROM {tables}.sources WHERE relay = ? AND source = ?"
        ));
        let save_start = prepare(format!(
            "INSERT INTO {tables}.sources (relay, source, start) VALUES (?, ?, ?)"
        ));
        Ok(Self {
            load: load.await?,
            save: save.await?,
            load_windows: load_windows.await?,
            save_window: save_window.await?,
            remove_window: remove_window.await?,
            load_start: load_start.await?,
            save_start: save_start.await?,
            relay: relay.to_owned(),
            clock: AtomicI64::new(0),
            saved: Mutex::default(),
            until: None,
            session,
        })
    }

    /// Saves only before the time that `until` holds: whoever may take this process's place does not
    /// do so before.
    #[must_use]
    pub fn with_limit(mut self, until: watch::Receiver<Instant>) -> Self {
        self.until = Some(until);
        self
    }

    /// Everything that is stored of `table`.
    pub async fn load(&self, table: &TableName) -> Result<Loaded, Error> {
        let read = |source: ReadError| Error::Read {
            table: table.clone(),
            source: Box::new(source),
        };
        let source = table.to_string();
        let (start, started_at) = self.start(&source).await.map_err(read)?;
        let mut loaded = Loaded {
            start,
            started_at,
            groups: Vec::new(),
            saved_at: Vec::new(),
        };
        for bucket in 0..BUCKETS {
            for row in self.bucket(&source, bucket).await.map_err(read)? {
                let (generation, group, watermark, rows, closed, written) = row;
                let rows = rows.as_deref().unwrap_or_default();
                let published = published::decode(rows, watermark);
                let published = published.map_err(|source| Error::Form {
                    table: table.clone(),
                    source,
                })?;
                self.clock
                    .fetch_max(written.unwrap_or(0), Ordering::Relaxed);
                let key = GroupKey {
                    generation: generation.0,
                    group,
                };
                self.remember(table, &key, watermark);
                loaded.saved_at.push(written);
                let closed = closed.unwrap_or(false);
                loaded.groups.push(GroupCheckpoint {
                    key,
                    watermark,
                    published,
                    closed,
                });
            }
        }
        Ok(loaded)
    }

    /// Where and when the first start was.
    async fn start(&self, source: &str) -> Result<StartRow, ReadError> {
        let rows = self
            .session
            .execute_iter(self.load_start.clone(), (&self.relay, source))
            .await?;
        let rows: Vec<StartRow> = rows.rows_stream::<StartRow>()?.try_collect().await?;
        Ok(rows.first().copied().unwrap_or_default())
    }

    async fn bucket(&self, source: &str, bucket: i16) -> Result<Vec<CheckpointRow>, ReadError> {
        let values = (&self.relay, source, bucket);
        let rows = self.session.execute_iter(self.load.clone(), values).await?;
        Ok(rows.rows_stream::<CheckpointRow>()?.try_collect().await?)
    }

    /// Whether this process may still save.
    fn check_owner(&self) -> Result<(), Error> {
        let until = self.until.as_ref();
        if until.is_some_and(|until| Instant::now() >= *until.borrow()) {
            return Err(Error::NotOwner);
        }
        Ok(())
    }

    /// Saves where a table's first start was, microseconds since the Unix epoch.
    pub async fn save_start(&self, table: &TableName, start: i64) -> Result<(), Error> {
        self.check_owner()?;
        let mut statement = self.save_start.clone();
        statement.set_timestamp(Some(self.next_timestamp()));
        let values = (&self.relay, table.to_string(), start);
        let saved = self.session.execute_unpaged(&statement, values).await;
        saved.map(drop).map_err(|source| Error::Write {
            table: table.clone(),
            source: Box::new(source),
        })
    }

    /// The windows of a group, oldest first. There are none where nothing was published.
    pub async fn windows(&self, table: &TableName, key: &GroupKey) -> Result<Vec<Window>, Error> {
        let read = |source: ReadError| Error::Read {
            table: table.clone(),
            source: Box::new(source),
        };
        let rows = self.window_rows(table, key).await.map_err(read)?;
        let window = |(begin, upto, summary, written): WindowRow| {
            self.clock
                .fetch_max(written.unwrap_or(0), Ordering::Relaxed);
            let summary = published::decode_summary(&summary.unwrap_or_default());
            let summary = summary.map_err(|source| Error::Form {
                table: table.clone(),
                source,
            })?;
            Ok(Window {
                begin,
                upto: upto.unwrap_or(begin),
                summary,
            })
        };
        rows.into_iter().map(window).collect()
    }

    async fn window_rows(
        &self,
        table: &TableName,
        key: &GroupKey,
    ) -> Result<Vec<WindowRow>, ReadError> {
        let values = (
            &self.relay,
            table.to_string(),
            CqlTimestamp(key.generation),
            &key.group,
        );
        let statement = self.load_windows.clone();
        let rows = self.session.execute_iter(statement, values).await?;
        Ok(rows.rows_stream::<WindowRow>()?.try_collect().await?)
    }

    /// Saves what was published in a window; it is kept for `ttl` seconds, or for ever if that is 0.
    /// What was saved of a window that begins at the same time is replaced.
    pub async fn save_window(
        &self,
        table: &TableName,
        key: &GroupKey,
        window: &Window,
        ttl: i32,
    ) -> Result<(), Error> {
        self.check_owner()?;
        let mut statement = self.save_window.clone();
        statement.set_timestamp(Some(self.next_timestamp()));
        let values = (
            &self.relay,
            table.to_string(),
            CqlTimestamp(key.generation),
            &key.group,
            window.begin,
            window.upto,
            published::encode_summary(&window.summary),
            ttl,
        );
        let saved = self.session.execute_unpaged(&statement, values).await;
        saved.map(drop).map_err(|source| Error::Write {
            table: table.clone(),
            source: Box::new(source),
        })
    }

    /// Saves checkpoints of groups of one table, many in a batch. One that would lower the
    /// watermark of its group is left out.
    ///
    /// Not cancel-safe in the sense that some batches may be written and others not; each group
    /// is written whole or not at all.
    ///
    /// # Errors
    ///
    /// When a batch fails; those before it are written, those after it are not.
    pub async fn save(&self, table: &TableName, groups: &[GroupCheckpoint]) -> Result<(), Error> {
        let higher = |group: &&GroupCheckpoint| !self.would_lower(table, group);
        self.save_rows(table, groups.iter().filter(higher)).await
    }

    /// Replaces what is stored of `table`, whatever it was: the one way in which W moves back. What was
    /// stored must have been loaded with this store, windows included. The caller owns the relay's name,
    /// and no relay runs.
    ///
    /// # Errors
    ///
    /// When a write fails. What was written by then stays, and the same reset may be made again.
    pub async fn reset(&self, table: &TableName, reset: &Reset) -> Result<(), Error> {
        // Earlier than anything that a relay saves later, also one whose clock is behind.
        let removed = self.next_timestamp();
        if let Some(start) = reset.start {
            self.save_start(table, start).await?;
        }
        self.save_rows(table, reset.groups.iter()).await?;
        for (key, begin) in &reset.removed {
            self.remove_window(table, key, *begin, removed).await?;
        }
        Ok(())
    }

    async fn remove_window(
        &self,
        table: &TableName,
        key: &GroupKey,
        begin: i64,
        timestamp: i64,
    ) -> Result<(), Error> {
        self.check_owner()?;
        let mut statement = self.remove_window.clone();
        statement.set_timestamp(Some(timestamp));
        let values = (
            &self.relay,
            table.to_string(),
            CqlTimestamp(key.generation),
            &key.group,
            begin,
        );
        let removed = self.session.execute_unpaged(&statement, values).await;
        removed.map(drop).map_err(|source| Error::Write {
            table: table.clone(),
            source: Box::new(source),
        })
    }

    async fn save_rows(
        &self,
        table: &TableName,
        groups: impl Iterator<Item = &GroupCheckpoint>,
    ) -> Result<(), Error> {
        let mut rows: Vec<(i16, &GroupCheckpoint, Vec<u8>)> = groups
            .map(|group| {
                (
                    group.key.bucket(),
                    group,
                    published::encode(&group.published, group.watermark),
                )
            })
            .collect();
        rows.sort_by_key(|(bucket, group, _)| (*bucket, group.key.generation));
        for partition in rows.chunk_by(|a, b| a.0 == b.0) {
            for batch in batches(partition) {
                self.save_batch(table, batch).await?;
            }
        }
        Ok(())
    }

    async fn save_batch(
        &self,
        table: &TableName,
        rows: &[(i16, &GroupCheckpoint, Vec<u8>)],
    ) -> Result<(), Error> {
        self.check_owner()?;
        let mut batch = Batch::new(BatchType::Unlogged);
        batch.set_is_idempotent(true);
        batch.set_timestamp(Some(self.next_timestamp()));
        let source = table.to_string();
        let mut values = Vec::with_capacity(rows.len());
        for (bucket, group, published) in rows {
            batch.append_statement(self.save.clone());
            values.push((
                &self.relay,
                &source,
                *bucket,
                CqlTimestamp(group.key.generation),
                &group.key.group,
                group.watermark,
                published,
                group.closed,
            ));
        }
        let saved = self.session.batch(&batch, values).await;
        saved.map_err(|source| Error::Write {
            table: table.clone(),
            source: Box::new(source),
        })?;
        for (_, group, _) in rows {
            self.remember(table, &group.key, group.watermark);
        }
        Ok(())
    }

    fn would_lower(&self, table: &TableName, group: &GroupCheckpoint) -> bool {
        let saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (table.clone(), group.key.clone());
        saved
            .get(&key)
            .is_some_and(|watermark| group.watermark < *watermark)
    }

    fn remember(&self, table: &TableName, key: &GroupKey, watermark: i64) {
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = saved
            .entry((table.clone(), key.clone()))
            .or_insert(watermark);
        *newest = watermark.max(*newest);
    }

    /// Strictly increasing, and never below what an earlier run has written.
    fn next_timestamp(&self) -> i64 {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_micros() as i64);
        let next = |last: i64| Some(now.max(last + 1));
        let last = self
            .clock
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        now.max(last.unwrap_or_default() + 1)
    }
}

/// Cuts rows of one partition into batches of bounded size.
fn batches<'r, 'g>(
    mut rows: &'r [(i16, &'g GroupCheckpoint, Vec<u8>)],
) -> impl Iterator<Item = &'r [(i16, &'g GroupCheckpoint, Vec<u8>)]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = rows
            .iter()
            .take(BATCH_ROWS)
            .take_while(|(_, _, published)| {
                bytes += published.len();
                bytes <= BATCH_BYTES
            });
        let length = fits.count().max(1).min(rows.len());
        let (batch, rest) = rows.split_at(length);
        rows = rest;
        (!batch.is_empty()).then_some(batch)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Published;

    #[test]
    fn batches_are_bounded_in_rows_and_bytes() {
        let group = GroupCheckpoint {
            key: GroupKey {
                generation: 0,
                group: vec![1],
            },
            watermark: 0,
            published: Published::nothing(0),
            closed: false,
        };
        let sizes = |bytes: &[usize]| {
            let rows: Vec<_> = bytes.iter().map(|n| (0, &group, vec![0; *n])).collect();
            batches(&rows).map(<[_]>::len).collect::<Vec<_>>()
        };
        assert_eq!(sizes(&[]), [0; 0]);
        assert_eq!(sizes(&[0; 250]), [100, 100, 50]);
        assert_eq!(
            sizes(&[BATCH_BYTES, 1, BATCH_BYTES * 3, 2, 3]),
            [1, 1, 1, 2]
        );
    }
}
