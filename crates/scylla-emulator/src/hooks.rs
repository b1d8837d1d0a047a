//! What the engine asks others for: time, randomness, tokens, virtual tables, the CDC log.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Error;
use crate::mutation::{Mutation, ReadRow, RowKey};
use crate::schema::{Catalog, TableSchema};
use crate::types::Value;

/// The server's clock.
pub trait Clock: Send + Sync {
    /// Microseconds since the epoch.
    fn now_micros(&self) -> i64;

    /// Microseconds since the epoch, more than any earlier call gave (except after the clock was
    /// set back on purpose): the timestamp of a write.
    fn unique_micros(&self) -> i64;
}

/// The server's source of random numbers (uuids, the low bits of timeuuids).
pub trait Random: Send + Sync {
    /// The next 64 random bits.
    fn next_u64(&self) -> u64;
}

/// Random numbers that a seed determines (`SplitMix64`); not for secrets.
#[derive(Debug)]
pub struct SeededRandom(AtomicU64);

impl SeededRandom {
    /// The sequence of this seed.
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }
}

impl Random for SeededRandom {
    fn next_u64(&self) -> u64 {
        const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
        let mut z = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// Maps partition keys to tokens.
pub trait Partitioner: Send + Sync {
    /// The token of a partition key of this table. (The CDC log's tables have a partitioner of
    /// their own: the token is in the stream id.)
    fn token(&self, table: &TableSchema, key_bytes: &[u8]) -> i64;
}

/// Reads the state of a row as it is before the write that is going on: partition key bytes and
/// row key; `None` when there is no live row (for the static row: no live static cell).
pub type ReadRowFn<'a> = dyn Fn(&Mutation, &RowKey) -> Option<ReadRow> + 'a;

/// Change data capture.
pub trait CdcHook: Send + Sync {
    /// The log table of a base table whose CDC is on. Called when CDC is switched on (`existing` is
    /// `None`) and when a table with CDC is altered (`existing` is the log table as it is: ids of
    /// columns that stay must stay).
    fn log_schema(
        &self,
        base: &TableSchema,
        existing: Option<&TableSchema>,
    ) -> Result<TableSchema, Error>;

    /// Called after each change of the schema, before any write with the new one.
    fn schema_changed(&self, catalog: &Catalog) {
        let _ = catalog;
    }

    /// The log mutations of one statement or batch, which are applied together with it. Called for
    /// every write, with all its mutations; tables without CDC are among them.
    fn augment(
        &self,
        catalog: &Catalog,
        mutations: &[Mutation],
        read_row: &ReadRowFn<'_>,
    ) -> Result<Vec<Mutation>, Error>;
}

/// Tables whose rows are computed when they are read. Their schemas are in the catalog like any
/// other table's (see [`EngineConfig`](crate::engine::EngineConfig)).
pub trait VirtualTables: Send + Sync {
    /// All rows of a table, or `None` when the table is an ordinary one. A row has one entry per
    /// column of `table.columns`, in that order. The engine filters, sorts and pages; writes to a
    /// table of a system keyspace are refused.
    fn read(&self, catalog: &Catalog, table: &TableSchema) -> Option<Vec<Vec<Option<Value>>>>;
}
