//! What goes into the engine and what comes out of it.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::plan::Plan;
use crate::ast::Statement;
use crate::hooks::{CdcHook, Clock, Partitioner, Random, VirtualTables};
use crate::schema::KeyspaceSchema;
use crate::types::CqlType;
use crate::visibility::Visibility;

/// What an engine is made of.
pub struct EngineConfig {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
    /// Tokens.
    pub partitioner: Arc<dyn Partitioner>,
    /// Change data capture.
    pub cdc: Arc<dyn CdcHook>,
    /// Computed tables.
    pub virtual_tables: Arc<dyn VirtualTables>,
    /// Which log rows are seen late.
    pub visibility: Arc<Visibility>,
    /// Keyspaces that exist from the start (the system keyspaces).
    pub keyspaces: Vec<KeyspaceSchema>,
}

/// A consistency level's number on the wire. One server holds all data, so that levels differ only
/// in which of them are valid where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Consistency(pub u16);

impl Consistency {
    /// `ONE`
    pub const ONE: Self = Self(1);
    /// `QUORUM`
    pub const QUORUM: Self = Self(4);
    /// `SERIAL`
    pub const SERIAL: Self = Self(8);
    /// `LOCAL_SERIAL`
    pub const LOCAL_SERIAL: Self = Self(9);
}

impl Default for Consistency {
    fn default() -> Self {
        Self::ONE
    }
}

/// A value as the client sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BindValue {
    /// Null.
    Null,
    /// Not set: the column stays as it is.
    Unset,
    /// The bytes of a value.
    Bytes(Bytes),
}

/// The values of a statement's bind markers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BindValues {
    /// In the order of the markers.
    Positional(Vec<BindValue>),
    /// By name (of the marker `:name`, or of the column that a `?` belongs to).
    Named(Vec<(String, BindValue)>),
}

impl Default for BindValues {
    fn default() -> Self {
        Self::Positional(Vec::new())
    }
}

/// How to execute one statement.
#[derive(Debug, Clone, Default)]
pub struct ExecuteParams {
    /// Values of the bind markers.
    pub values: BindValues,
    /// The client's timestamp in microseconds; the engine's own when absent.
    pub default_timestamp: Option<i64>,
    /// Rows per page; all rows at once when absent or not positive.
    pub page_size: Option<i32>,
    /// Where to go on, as an earlier page gave it.
    pub paging_state: Option<Bytes>,
    /// The consistency level.
    pub consistency: Consistency,
    /// The serial consistency level.
    pub serial_consistency: Option<Consistency>,
}

/// How to execute a batch message.
#[derive(Debug, Clone, Default)]
pub struct BatchParams {
    /// The client's timestamp in microseconds; the engine's own when absent.
    pub default_timestamp: Option<i64>,
    /// The consistency level.
    pub consistency: Consistency,
    /// The serial consistency level.
    pub serial_consistency: Option<Consistency>,
}

/// The kind of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BatchKind {
    /// All or nothing.
    #[default]
    Logged,
    /// All or nothing per partition only (here: all or nothing as well).
    Unlogged,
    /// Counters; refused.
    Counter,
}

/// One statement of a batch message.
#[derive(Debug, Clone)]
pub struct BatchStatement {
    /// The statement.
    pub source: StatementSource,
    /// Its values.
    pub values: BindValues,
}

/// A statement by text or prepared.
#[derive(Debug, Clone)]
pub enum StatementSource {
    /// CQL text.
    Text(String),
    /// A prepared statement.
    Prepared(Arc<Prepared>),
}

/// Describes a column of a result, or a bind marker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnSpec {
    /// The keyspace's name.
    pub keyspace: String,
    /// The table's name.
    pub table: String,
    /// The column's (or marker's) name.
    pub name: String,
    /// The type.
    pub ty: CqlType,
}

/// A prepared statement.
#[derive(Debug)]
pub struct Prepared {
    /// Sixteen bytes that keyspace and text determine.
    pub id: Bytes,
    /// The text.
    pub cql: String,
    /// The keyspace that was current.
    pub keyspace: Option<String>,
    /// The bind markers, in order.
    pub bind: Vec<ColumnSpec>,
    /// For each partition key column, in order, the index of the marker that holds it; empty when
    /// not every one of them is a marker.
    pub partition_key_markers: Vec<u16>,
    /// The result's columns; empty for a statement that returns no rows.
    pub result: Vec<ColumnSpec>,
    /// Whether the statement is conditional (a lightweight transaction).
    pub is_lwt: bool,
    pub(super) statement: Statement,
    /// The plan for the latest schema that the statement was executed with.
    pub(super) plan: Mutex<Arc<Plan>>,
}

/// What a statement gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Void,
    /// Rows.
    Rows(RowSet),
    /// The connection's keyspace is now this one.
    SetKeyspace(String),
    /// The schema has changed. (A DDL statement that changed nothing, thanks to `IF [NOT] EXISTS`,
    /// gives [`Outcome::Void`].)
    SchemaChange(SchemaChange),
}

/// Rows of a result.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RowSet {
    /// The columns.
    pub columns: Arc<[ColumnSpec]>,
    /// The rows: per column, bytes or null.
    pub rows: Vec<Vec<Option<Bytes>>>,
    /// Where to go on; absent after the last page.
    pub paging_state: Option<Bytes>,
}

/// What happened to the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaChange {
    /// What happened.
    pub kind: SchemaChangeKind,
    /// The keyspace.
    pub keyspace: String,
    /// To what.
    pub target: SchemaTarget,
}

/// The kind of a schema change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SchemaChangeKind {
    /// `CREATED`
    Created,
    /// `UPDATED`
    Updated,
    /// `DROPPED`
    Dropped,
}

/// What a schema change is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchemaTarget {
    /// The keyspace itself.
    Keyspace,
    /// A table by name.
    Table(String),
    /// A user type by name.
    Type(String),
}
