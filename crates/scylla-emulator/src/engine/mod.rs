//! Prepares and executes statements.
//!
//! Invariants:
//! 1. A statement or batch is applied as a whole or not at all, CDC log rows included, and no
//!    reader sees a part of it.
//! 2. Timestamps that the engine gives out increase strictly.
//! 3. What the emulator does not do is an error, never a different result.

mod api;
mod cas;
mod columns;
mod condition;
mod ddl;
mod filter;
mod literal;
mod modify;
mod options;
mod paging;
mod plan;
mod query;
mod read;
mod resolve;
mod restrict;
mod select;
mod term;
#[cfg(test)]
mod tests;
mod time;
mod write;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

pub use api::{
    BatchKind, BatchParams, BatchStatement, BindValue, BindValues, ColumnSpec, Consistency,
    EngineConfig, ExecuteParams, Outcome, Prepared, RowSet, SchemaChange, SchemaChangeKind,
    SchemaTarget, StatementSource,
};

use crate::ast::Statement;
use crate::error::Error;
use crate::mutation::{CellChange, Change, Mutation, RowKey, Upsert};
use crate::parser;
use crate::schema::{Catalog, TableSchema, is_system_keyspace};
use crate::storage::{MemoryStorage, PartitionPosition, RowPosition, Storage};
use crate::types::Value;
use modify::ModifyPlan;
use plan::{Plan, PlanKind};
use term::Scope;
use write::{Writer, combine};

/// The database: schema, data and statement execution. Callable from many threads at once.
pub struct Engine {
    config: EngineConfig,
    state: RwLock<State>,
    list_sequence: AtomicU64,
}

struct State {
    catalog: Arc<Catalog>,
    storage: Box<dyn Storage>,
}

/// Planned modifications with their values.
type Statements<'a> = [(&'a ModifyPlan, &'a Scope<'a>)];

impl Engine {
    /// A database with the configured system keyspaces and nothing else.
    pub fn new(mut config: EngineConfig) -> Self {
        let keyspaces = std::mem::take(&mut config.keyspaces);
        let catalog = Catalog {
            version: ddl::random_uuid(&config),
            keyspaces: keyspaces
                .into_iter()
                .map(|ks| (ks.name.clone(), Arc::new(ks)))
                .collect(),
        };
        let storage = Box::<MemoryStorage>::default();
        let state = RwLock::new(State {
            catalog: Arc::new(catalog),
            storage,
        });
        Self {
            config,
            state,
            list_sequence: AtomicU64::new(0),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The schema as it is now.
    pub fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.read().catalog)
    }

    /// Parses and checks a statement. `keyspace` is the connection's current one.
    pub fn prepare(&self, cql: &str, keyspace: Option<&str>) -> Result<Arc<Prepared>, Error> {
        let statement = parser::parse(cql)?;
        let plan = Arc::new(Plan::new(&self.catalog(), &statement, keyspace)?);
        Ok(Arc::new(Prepared {
            id: plan::statement_id(cql, keyspace),
            cql: cql.to_owned(),
            keyspace: keyspace.map(str::to_owned),
            bind: plan.bind.clone(),
            partition_key_markers: plan.partition_key_markers(),
            result: plan.result.clone(),
            is_lwt: plan.is_lwt(),
            statement,
            plan: Mutex::new(plan),
        }))
    }

    /// Executes a prepared statement. An `Unprepared` error means that the schema has changed so
    /// that the statement must be prepared again.
    pub fn execute(&self, prepared: &Prepared, params: &ExecuteParams) -> Result<Outcome, Error> {
        let keyspace = prepared.keyspace.as_deref();
        loop {
            let plan = prepared.current_plan(&self.catalog())?;
            let outcome = self.execute_plan(&plan, &prepared.statement, keyspace, params)?;
            if let Some(outcome) = outcome {
                return Ok(outcome);
            }
        }
    }

    /// Parses and executes a statement (a QUERY message).
    pub fn query(
        &self,
        cql: &str,
        keyspace: Option<&str>,
        params: &ExecuteParams,
    ) -> Result<Outcome, Error> {
        let statement = parser::parse(cql)?;
        loop {
            let plan = Plan::new(&self.catalog(), &statement, keyspace)?;
            if let Some(outcome) = self.execute_plan(&plan, &statement, keyspace, params)? {
                return Ok(outcome);
            }
        }
    }

    /// `None` when the schema has changed since the statement was planned.
    fn execute_plan(
        &self,
        plan: &Plan,
        statement: &Statement,
        keyspace: Option<&str>,
        params: &ExecuteParams,
    ) -> Result<Option<Outcome>, Error> {
        let scope = Scope::new(&self.config, &plan.bind, &plan.order, &params.values)?;
        match &plan.kind {
            PlanKind::Select(select) => {
                if is_system_keyspace(&select.table.keyspace) {
                    let catalog = self.catalog();
                    let rows = self.config.virtual_tables.read(&catalog, &select.table);
                    if let Some(rows) = rows {
                        let storage = self.virtual_storage(&select.table, rows);
                        let rows = query::run(&self.config, &storage, select, &scope, params)?;
                        return Ok(Some(Outcome::Rows(rows)));
                    }
                }
                let state = self.read();
                let rows = query::run(&self.config, &*state.storage, select, &scope, params)?;
                Ok(Some(Outcome::Rows(rows)))
            }
            PlanKind::Modify(modify) => self.modify(&[(modify, &scope)], params.default_timestamp),
            PlanKind::Batch(batch) => {
                let timestamp = write::timestamp(&scope, batch.timestamp.as_ref())?;
                let timestamp = timestamp.or(params.default_timestamp);
                let statements: Vec<_> = batch
                    .statements
                    .iter()
                    .map(|modify| (modify, &scope))
                    .collect();
                self.modify(&statements, timestamp)
            }
            PlanKind::Schema => self.change_schema(statement, keyspace).map(Some),
        }
    }

    /// Executes a BATCH message.
    pub fn execute_batch(
        &self,
        kind: BatchKind,
        statements: &[BatchStatement],
        keyspace: Option<&str>,
        params: &BatchParams,
    ) -> Result<Outcome, Error> {
        if kind == BatchKind::Counter {
            return Err(Error::unsupported("A counter batch"));
        }
        loop {
            if let Some(outcome) = self.try_batch(statements, keyspace, params)? {
                return Ok(outcome);
            }
        }
    }

    fn try_batch(
        &self,
        statements: &[BatchStatement],
        keyspace: Option<&str>,
        params: &BatchParams,
    ) -> Result<Option<Outcome>, Error> {
        let catalog = self.catalog();
        let mut plans = Vec::with_capacity(statements.len());
        for statement in statements {
            plans.push(match &statement.source {
                StatementSource::Text(cql) => {
                    Arc::new(Plan::new(&catalog, &parser::parse(cql)?, keyspace)?)
                }
                StatementSource::Prepared(prepared) => prepared.current_plan(&catalog)?,
            });
        }
        let mut scopes = Vec::with_capacity(statements.len());
        for (plan, statement) in plans.iter().zip(statements) {
            let PlanKind::Modify(modify) = &plan.kind else {
                return Err(Error::invalid(
                    "Invalid statement in batch: only UPDATE, INSERT and DELETE statements are allowed.",
                ));
            };
            let scope = Scope::new(&self.config, &plan.bind, &plan.order, &statement.values)?;
            scopes.push((modify, scope));
        }
        let statements: Vec<_> = scopes
            .iter()
            .map(|(modify, scope)| (&***modify, scope))
            .collect();
        self.modify(&statements, params.default_timestamp)
    }

    /// Applies modifications, all or none. `None` when the schema has changed since they were
    /// planned.
    fn modify(
        &self,
        statements: &Statements<'_>,
        default_timestamp: Option<i64>,
    ) -> Result<Option<Outcome>, Error> {
        let mut state = self.write();
        let state = &mut *state;
        for (plan, _) in statements {
            let table = &plan.table;
            let known = state.catalog.table(&table.keyspace, &table.name);
            if known.is_none_or(|known| known.version != table.version) {
                return Ok(None);
            }
        }
        let now_seconds = self.config.clock.now_micros().div_euclid(1_000_000);
        let conditional = statements
            .iter()
            .any(|(plan, _)| !plan.conditions.is_none());
        let mut outcome = Outcome::Void;
        if conditional {
            let (applied, rows) =
                cas::check(&self.config, &*state.storage, statements, now_seconds)?;
            outcome = Outcome::Rows(rows);
            if !applied {
                return Ok(Some(outcome));
            }
        }
        let timestamp = default_timestamp.filter(|_| !conditional);
        let timestamp = timestamp.unwrap_or_else(|| self.config.clock.unique_micros());
        let writer = Writer {
            config: &self.config,
            storage: &*state.storage,
            list_sequence: &self.list_sequence,
            now_seconds,
        };
        let mut mutations = Vec::new();
        for (plan, scope) in statements {
            mutations.extend(writer.mutations(plan, scope, timestamp)?);
        }
        let mutations = combine(mutations);
        let log = self.log(state, &mutations, now_seconds)?;
        let now_micros = self.config.clock.now_micros();
        for mutation in &mutations {
            state.storage.apply(mutation, now_micros);
        }
        let veils = self.config.visibility.veils(&log, now_micros);
        for (at, mutation) in log.iter().enumerate() {
            let veil = veils.get(at).and_then(Option::as_ref);
            state.storage.apply_under(mutation, veil, now_micros);
        }
        Ok(Some(outcome))
    }

    /// The CDC log's mutations.
    fn log(
        &self,
        state: &State,
        mutations: &[Mutation],
        now_seconds: i64,
    ) -> Result<Vec<Mutation>, Error> {
        let read_row = |mutation: &Mutation, row: &RowKey| {
            let place = PartitionPosition {
                token: mutation.token,
                key: mutation.key_bytes.clone(),
            };
            let table = &mutation.table;
            let partition = state.storage.partition(table.id, &place)?;
            let row = match row {
                RowKey::Static => &partition.static_row,
                RowKey::Clustering(key) => partition.row(&RowPosition::row(table, key))?,
            };
            row.read(table, now_seconds)
        };
        self.config
            .cdc
            .augment(&state.catalog, mutations, &read_row)
    }

    /// Rows of a virtual table, stored for one read.
    fn virtual_storage(
        &self,
        table: &Arc<TableSchema>,
        rows: Vec<Vec<Option<Value>>>,
    ) -> MemoryStorage {
        let mut storage = MemoryStorage::default();
        let keys = table.partition_key().len();
        let rows_from = keys + table.clustering_key().len();
        for row in rows {
            let key: Option<Vec<Value>> = row.iter().take(keys).cloned().collect();
            let clustering: Option<Vec<Value>> =
                row.iter().take(rows_from).skip(keys).cloned().collect();
            let (Some(key), Some(clustering)) = (key, clustering) else {
                continue;
            };
            let place = query::position(&self.config, table, &key);
            let cells = row.into_iter().zip(&table.columns).skip(rows_from);
            let cells = cells
                .filter_map(|(value, column)| Some((column.id, write::stored(column, value?))));
            let upsert = Upsert {
                row: RowKey::Clustering(clustering),
                row_marker: true,
                ttl: None,
                cells: cells.collect::<Vec<(_, CellChange)>>(),
            };
            let mutation = Mutation {
                table: Arc::clone(table),
                partition_key: key,
                key_bytes: place.key,
                token: place.token,
                timestamp_micros: 0,
                changes: vec![Change::Upsert(upsert)],
            };
            storage.apply(&mutation, 0);
        }
        storage
    }

    fn change_schema(
        &self,
        statement: &Statement,
        keyspace: Option<&str>,
    ) -> Result<Outcome, Error> {
        let mut state = self.write();
        let change = ddl::change(&self.config, &state.catalog, statement, keyspace)?;
        if let Some(catalog) = change.catalog {
            state.catalog = Arc::new(catalog);
            self.config.cdc.schema_changed(&state.catalog);
        }
        for table in change.emptied {
            state.storage.remove_table(table);
        }
        Ok(change.outcome)
    }
}
