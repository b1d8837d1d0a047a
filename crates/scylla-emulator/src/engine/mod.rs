//! Prepares and executes statements.
//!
//! Invariants:
//! 1. A statement or batch is applied as a whole or not at all, CDC log rows included, and no
//!    reader sees a part of it.
//! 2. Timestamps that the engine gives out increase strictly.
//! 3. What the emulator does not do is an error, never a different result.

mod api;

use std::sync::Arc;

pub use api::{
    BatchKind, BatchParams, BatchStatement, BindValue, BindValues, ColumnSpec, Consistency,
    EngineConfig, ExecuteParams, Outcome, Prepared, RowSet, SchemaChange, SchemaChangeKind,
    SchemaTarget, StatementSource,
};

use crate::error::Error;
use crate::schema::Catalog;

/// The database: schema, data and statement execution. Callable from many threads at once.
pub struct Engine {
    config: EngineConfig,
    catalog: Arc<Catalog>,
}

impl Engine {
    /// A database with the configured system keyspaces and nothing else.
    pub fn new(config: EngineConfig) -> Self {
        let catalog = Arc::new(Catalog::default());
        Self { config, catalog }
    }

    /// The schema as it is now.
    pub fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog)
    }

    /// Parses and checks a statement. `keyspace` is the connection's current one.
    pub fn prepare(&self, cql: &str, _keyspace: Option<&str>) -> Result<Arc<Prepared>, Error> {
        let _ = self.config.clock.now_micros();
        Err(Error::unsupported(cql))
    }

    /// Executes a prepared statement. An `Unprepared` error means that the schema has changed so
    /// that the statement must be prepared again.
    pub fn execute(&self, prepared: &Prepared, _params: &ExecuteParams) -> Result<Outcome, Error> {
        Err(Error::unprepared(prepared.id.clone()))
    }

    /// Parses and executes a statement (a QUERY message).
    pub fn query(
        &self,
        cql: &str,
        keyspace: Option<&str>,
        params: &ExecuteParams,
    ) -> Result<Outcome, Error> {
        let prepared = self.prepare(cql, keyspace)?;
        self.execute(&prepared, params)
    }

    /// Executes a BATCH message.
    pub fn execute_batch(
        &self,
        _kind: BatchKind,
        _statements: &[BatchStatement],
        _keyspace: Option<&str>,
        _params: &BatchParams,
    ) -> Result<Outcome, Error> {
        Err(Error::unsupported("BATCH"))
    }
}
