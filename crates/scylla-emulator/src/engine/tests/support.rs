//! An engine without a CDC log, and results as text.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;

use crate::cluster::clock::ClockHandle;
use crate::cluster::token::Token;
use crate::engine::{BindValue, BindValues, Engine, EngineConfig, ExecuteParams, Outcome, RowSet};
use crate::error::Error;
use crate::hooks::{CdcHook, Partitioner, ReadRowFn, SeededRandom, VirtualTables};
use crate::mutation::Mutation;
use crate::schema::{Catalog, TableSchema};
use crate::types::{CqlType, Value, decode, encode};

struct Nothing;

impl CdcHook for Nothing {
    fn log_schema(
        &self,
        base: &TableSchema,
        _existing: Option<&TableSchema>,
    ) -> Result<TableSchema, Error> {
        let mut log = base.clone();
        log.name.push_str("_scylla_cdc_log");
        log.options.cdc = None;
        Ok(log)
    }

    fn augment(
        &self,
        _catalog: &Catalog,
        _mutations: &[Mutation],
        _read_row: &ReadRowFn<'_>,
    ) -> Result<Vec<Mutation>, Error> {
        Ok(Vec::new())
    }
}

impl VirtualTables for Nothing {
    fn read(&self, _catalog: &Catalog, _table: &TableSchema) -> Option<Vec<Vec<Option<Value>>>> {
        None
    }
}

impl Partitioner for Nothing {
    fn token(&self, _table: &TableSchema, key_bytes: &[u8]) -> i64 {
        Token::of_key(key_bytes).0
    }
}

/// A database with keyspace `ks`.
pub(super) struct Db {
    pub(super) engine: Engine,
    pub(super) clock: ClockHandle,
}

impl Db {
    /// A database after these statements.
    pub(super) fn new(statements: &[&str]) -> Self {
        let clock = ClockHandle::new();
        let engine = Engine::new(EngineConfig {
            clock: Arc::new(clock.clone()),
            random: Arc::new(SeededRandom::new(1)),
            partitioner: Arc::new(Nothing),
            cdc: Arc::new(Nothing),
            virtual_tables: Arc::new(Nothing),
            visibility: Arc::default(),
            keyspaces: Vec::new(),
        });
        let db = Self { engine, clock };
        let replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}";
        db.ok(&format!(
            "CREATE KEYSPACE ks WITH replication = {replication}"
        ));
        for statement in statements {
            db.ok(statement);
        }
        db
    }

    /// Runs a statement that must succeed.
    pub(super) fn ok(&self, cql: &str) -> Outcome {
        match self
            .engine
            .query(cql, Some("ks"), &ExecuteParams::default())
        {
            Ok(outcome) => outcome,
            Err(error) => panic!("{cql}: {error}"),
        }
    }

    /// Runs a statement: `ok`, rows as `1,a; 2,null`, or `0x2200 text`.
    pub(super) fn run(&self, cql: &str) -> String {
        self.run_with(cql, &ExecuteParams::default())
    }

    /// Runs a statement with parameters.
    pub(super) fn run_with(&self, cql: &str, params: &ExecuteParams) -> String {
        match self.engine.query(cql, Some("ks"), params) {
            Ok(Outcome::Rows(rows)) => show_rows(&rows),
            Ok(_) => "ok".into(),
            Err(error) => format!("0x{:04x} {}", error.code.wire(), error.message),
        }
    }

    /// Checks statements one after the other.
    pub(super) fn check(&self, table: &[(&str, &str)]) {
        for (cql, expected) in table {
            let found = self.run(cql);
            let matches = match expected.strip_suffix('…') {
                Some(start) => found.starts_with(start),
                None => found == *expected,
            };
            assert!(matches, "{cql}\n   gave {found}\n wanted {expected}");
        }
    }

    /// Reads all pages of a query.
    pub(super) fn pages(&self, cql: &str, values: &[Value], page_size: i32) -> Vec<String> {
        let mut pages = Vec::new();
        let mut params = ExecuteParams {
            values: positional(values),
            page_size: Some(page_size),
            ..ExecuteParams::default()
        };
        loop {
            let outcome = self.engine.query(cql, Some("ks"), &params);
            let Ok(Outcome::Rows(rows)) = outcome else {
                panic!("{cql}: {outcome:?}")
            };
            assert!(rows.rows.len() <= page_size as usize);
            pages.push(show_rows(&rows));
            match rows.paging_state {
                Some(state) => params.paging_state = Some(state),
                None => return pages,
            }
        }
    }
}

/// Bound values by position.
pub(super) fn positional(values: &[Value]) -> BindValues {
    BindValues::Positional(
        values
            .iter()
            .map(|value| BindValue::Bytes(encode(value)))
            .collect(),
    )
}

fn show_rows(rows: &RowSet) -> String {
    let mut text = String::new();
    for (at, row) in rows.rows.iter().enumerate() {
        if at > 0 {
            text.push_str("; ");
        }
        for (at, (cell, column)) in row.iter().zip(rows.columns.iter()).enumerate() {
            if at > 0 {
                text.push(',');
            }
            text.push_str(&show_cell(cell.as_ref(), &column.ty));
        }
    }
    text
}

fn show_cell(cell: Option<&Bytes>, ty: &CqlType) -> String {
    match cell {
        None => "null".into(),
        Some(bytes) => show(&decode(ty, bytes).expect("the engine's own bytes")),
    }
}

fn show(value: &Value) -> String {
    let all = |values: &[Value]| values.iter().map(show).collect::<Vec<_>>().join(" ");
    match value {
        Value::Text(text) => text.clone(),
        Value::Int(n) => n.to_string(),
        Value::BigInt(n) | Value::Timestamp(n) => n.to_string(),
        Value::Boolean(flag) => flag.to_string(),
        Value::Uuid(uuid) | Value::TimeUuid(uuid) => uuid.to_string(),
        Value::List(items) => format!("[{}]", all(items)),
        Value::Set(items) => format!("{{{}}}", all(items)),
        Value::Map(entries) => {
            let entries = entries
                .iter()
                .map(|(k, v)| format!("{}:{}", show(k), show(v)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(" "))
        }
        Value::Tuple(fields) => {
            let fields = fields
                .iter()
                .map(|f| f.as_ref().map_or("null".into(), show));
            format!("({})", fields.collect::<Vec<_>>().join(" "))
        }
        Value::Blob(bytes) => bytes.iter().fold("0x".to_owned(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        }),
        other => format!("{other:?}"),
    }
}
