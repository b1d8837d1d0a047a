//! What a write changes, before it is stored: what the engine makes of a statement, what change
//! data capture turns into log rows, and what storage applies.

use std::sync::Arc;

use bytes::Bytes;

use crate::schema::{ColumnId, TableSchema};
use crate::types::Value;

/// All changes of one statement to one partition.
///
/// A batch gives one mutation per (table, partition, timestamp); its changes are in the order of
/// the statements and not merged: one row may occur in several of them.
#[derive(Debug, Clone)]
pub struct Mutation {
    /// The table.
    pub table: Arc<TableSchema>,
    /// The partition key's components, all of them.
    pub partition_key: Vec<Value>,
    /// [`TableSchema::partition_key_bytes`] of them.
    pub key_bytes: Bytes,
    /// The partitioner's token of `key_bytes`.
    pub token: i64,
    /// The write timestamp in microseconds.
    pub timestamp_micros: i64,
    /// What changes.
    pub changes: Vec<Change>,
}

/// One change inside a partition.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Cells of one row, or of the static row.
    Upsert(Upsert),
    /// A whole row is deleted: clustering key, all components.
    DeleteRow(Vec<Value>),
    /// All rows between two bounds are deleted.
    DeleteRange(ClusteringRange),
    /// The partition is deleted, static row included.
    DeletePartition,
}

/// Which row of a partition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowKey {
    /// The static row.
    Static,
    /// A row by its clustering key: all components, none in a table without clustering columns.
    Clustering(Vec<Value>),
}

/// Cells written to or deleted from one row.
#[derive(Debug, Clone, PartialEq)]
pub struct Upsert {
    /// The row.
    pub row: RowKey,
    /// Whether the statement was an INSERT (the row lives on without any cell); never for the
    /// static row.
    pub row_marker: bool,
    /// Seconds to live, of the marker and of each live cell; `None` for ever.
    pub ttl: Option<i32>,
    /// The changed columns, in the order of the statement; a column occurs once.
    pub cells: Vec<(ColumnId, CellChange)>,
}

/// What happens to a column.
#[derive(Debug, Clone, PartialEq)]
pub enum CellChange {
    /// An atomic (or frozen) column gets a value.
    Set(Value),
    /// An atomic column, or a whole collection, is deleted.
    Delete,
    /// Cells of a collection or user type that is not frozen.
    Multi(MultiCellChange),
}

/// Changes to a column that consists of many cells.
///
/// The key of a cell: a set's element (its value is [`Value::Empty`]), a map's key, a list's cell
/// key (a timeuuid), or a user type's field index ([`Value::SmallInt`]).
#[derive(Debug, Clone, PartialEq)]
pub struct MultiCellChange {
    /// Everything older than this write is deleted first (assignment of the whole collection).
    pub overwrite: bool,
    /// Cells by key, sorted; `None` deletes that cell.
    pub cells: Vec<(Value, Option<Value>)>,
}

/// One end of a range of clustering keys. `Vec`s are prefixes of the clustering key, one component
/// or more.
#[derive(Debug, Clone, PartialEq)]
pub enum ClusteringBound {
    /// No limit.
    Open,
    /// Every row with this prefix belongs to the range.
    Inclusive(Vec<Value>),
    /// No row with this prefix belongs to the range.
    Exclusive(Vec<Value>),
}

/// A range of clustering keys; `start` comes first in the table's clustering order (which may be
/// descending).
#[derive(Debug, Clone, PartialEq)]
pub struct ClusteringRange {
    /// Where it starts.
    pub start: ClusteringBound,
    /// Where it ends.
    pub end: ClusteringBound,
}

/// A live row as a reader sees it: columns that are null are left out, key columns too.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ReadRow {
    /// Values by column.
    pub cells: Vec<(ColumnId, ReadCell)>,
}

/// A live column.
#[derive(Debug, Clone, PartialEq)]
pub enum ReadCell {
    /// An atomic (or frozen) value.
    Value(Value),
    /// The live cells of a collection or user type that is not frozen, keyed and sorted as in
    /// [`MultiCellChange`].
    Multi(Vec<(Value, Value)>),
}

impl ReadRow {
    /// A column's value.
    pub fn get(&self, column: ColumnId) -> Option<&ReadCell> {
        self.cells
            .iter()
            .find(|(id, _)| *id == column)
            .map(|(_, cell)| cell)
    }
}
