//! Change data capture: the log table of a base table and the log rows of a write.
//!
//! Invariants
//! 1. The log rows of one (table, partition, timestamp) share one `cdc$time`, are numbered from 0 without a gap, and
//!    the last one, and only it, has `cdc$end_of_batch`.
//! 2. `cdc$time` carries the write's own timestamp in microseconds; its low bits are random, so that ties sort randomly.
//! 3. A log row lies in the stream of the base row's token in the generation (with tablets: in the table's stream set)
//!    that the write's timestamp belongs to.
//!    A write that has no such stream is refused as a whole.
//! 4. Inside a partition, rows come in clustering order; when changes of different kinds or TTLs mix, first the static
//!    row, then inserts, updates, row deletions, range deletions, the partition's deletion.
//! 5. A column that a user dropped from the log table is left out, never an error.
//!
//! Applying the log rows together with the write, and expiring them, belongs to the engine.

mod columns;
mod image;
mod log;
mod schema;
mod split;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use uuid::Uuid;

use self::columns::Columns;
use crate::cluster::generations::StreamError;
use crate::cluster::{Topology, random_uuid};
use crate::error::Error;
use crate::hooks::{CdcHook, Random as _, ReadRowFn};
use crate::mutation::Mutation;
use crate::schema::{Catalog, TableSchema};

/// What the name of a log table ends in.
pub const LOG_SUFFIX: &str = "_scylla_cdc_log";

/// The name of a base table's log table.
pub fn log_name(base: &str) -> String {
    format!("{base}{LOG_SUFFIX}")
}

/// Whether a table is laid out as a CDC log.
pub fn is_log_table(table: &TableSchema) -> bool {
    table.name.ends_with(LOG_SUFFIX)
        && matches!(table.partition_key(), [only] if only.name == columns::STREAM_ID)
}

/// Base tables whose column mapping is remembered; all are forgotten when one more comes.
const MAX_CACHED: usize = 1_024;

/// Writes the CDC log of a cluster.
#[derive(Debug)]
pub struct CdcLog {
    topology: Arc<Topology>,
    columns: RwLock<HashMap<(Uuid, Uuid), Arc<Columns>>>,
}

impl CdcLog {
    /// The log of this cluster.
    pub fn new(topology: Arc<Topology>) -> Self {
        Self {
            topology,
            columns: RwLock::default(),
        }
    }

    fn columns(&self, base: &TableSchema, log: &Arc<TableSchema>) -> Arc<Columns> {
        let key = (base.version, log.version);
        let cached = self
            .columns
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&key)
            .cloned();
        if let Some(columns) = cached {
            return columns;
        }
        let columns = Arc::new(Columns::new(base, log));
        let mut cache = self.columns.write().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= MAX_CACHED {
            cache.clear();
        }
        cache.insert(key, Arc::clone(&columns));
        columns
    }

    /// The low eight bytes of a `cdc$time`: the variant of a version 1 uuid, then random bits.
    fn random_low_bits(&self) -> u64 {
        (self.topology.random().next_u64() >> 2) | (1 << 63)
    }
}

impl CdcHook for CdcLog {
    fn log_schema(
        &self,
        base: &TableSchema,
        existing: Option<&TableSchema>,
    ) -> Result<TableSchema, Error> {
        schema::log_schema(base, existing, || random_uuid(self.topology.random()))
    }

    fn schema_changed(&self, catalog: &Catalog) {
        self.topology.follow_schema(catalog);
    }

    fn augment(
        &self,
        catalog: &Catalog,
        mutations: &[Mutation],
        read_row: &ReadRowFn<'_>,
    ) -> Result<Vec<Mutation>, Error> {
        let mut logged: Vec<&Mutation> = mutations
            .iter()
            .filter(|mutation| mutation.table.options.cdc().enabled)
            .collect();
        if logged.is_empty() {
            return Ok(Vec::new());
        }
        // The changes of one partition follow each other by time; the sort keeps the order of the statements otherwise.
        logged.sort_by(|a, b| {
            let partition = |m: &Mutation| (m.table.id.as_u128(), m.key_bytes.clone());
            partition(a)
                .cmp(&partition(b))
                .then(a.timestamp_micros.cmp(&b.timestamp_micros))
        });
        let mut result = Vec::with_capacity(logged.len());
        for partition in
            logged.chunk_by(|a, b| a.table.id == b.table.id && a.key_bytes == b.key_bytes)
        {
            let base = &partition[0].table;
            let Some(log) = catalog.table(&base.keyspace, &log_name(&base.name)) else {
                continue;
            };
            let columns = self.columns(base, log);
            let mut writer = log::Writer::new(base, log, &columns, read_row);
            for (at, mutation) in partition.iter().enumerate() {
                let stream = self
                    .topology
                    .stream_of(
                        base.id,
                        crate::cluster::token::Token(mutation.token),
                        mutation.timestamp_micros,
                    )
                    .map_err(|error| stream_error(&error))?;
                let is_last = at + 1 == partition.len();
                let low_bits = self.random_low_bits();
                result.extend(writer.record(mutation, stream, low_bits, is_last));
            }
        }
        Ok(result)
    }
}

fn stream_error(error: &StreamError) -> Error {
    match error {
        StreamError::NoGeneration { .. } => Error::server(error.to_string()),
        StreamError::FromTheFuture { .. } | StreamError::EarlierGeneration { .. } => {
            Error::invalid(error.to_string())
        }
    }
}

#[cfg(test)]
mod tests;
