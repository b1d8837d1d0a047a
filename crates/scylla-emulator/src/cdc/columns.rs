//! Which column of the log table holds what.

use std::collections::HashMap;

use crate::schema::{ColumnId, ColumnKind, ColumnSchema, TableSchema};
use crate::types::CqlType;

pub(super) const STREAM_ID: &str = "cdc$stream_id";
pub(super) const TIME: &str = "cdc$time";
pub(super) const BATCH_SEQ_NO: &str = "cdc$batch_seq_no";
pub(super) const OPERATION: &str = "cdc$operation";
pub(super) const TTL: &str = "cdc$ttl";
pub(super) const END_OF_BATCH: &str = "cdc$end_of_batch";

pub(super) fn deleted(column: &str) -> String {
    format!("cdc$deleted_{column}")
}

pub(super) fn deleted_elements(column: &str) -> String {
    format!("cdc$deleted_elements_{column}")
}

/// What the log holds of a base column. `None` where the log table lacks the column.
#[derive(Debug, Clone)]
pub(super) struct Logged {
    pub(super) value: Option<ColumnId>,
    pub(super) deleted: Option<ColumnId>,
    pub(super) deleted_elements: Option<ColumnId>,
    /// Fields of a user type that is not frozen; 0 for any other type.
    pub(super) fields: usize,
    /// Whether the cell keys stand alone, as in a set.
    pub(super) is_set: bool,
    pub(super) is_static: bool,
}

/// The log table's columns by their purpose.
#[derive(Debug)]
pub(super) struct Columns {
    pub(super) operation: Option<ColumnId>,
    pub(super) ttl: Option<ColumnId>,
    pub(super) end_of_batch: Option<ColumnId>,
    pub(super) partition_key: Vec<Option<ColumnId>>,
    pub(super) clustering_key: Vec<Option<ColumnId>>,
    /// Static and regular columns of the base table, in its order.
    pub(super) order: Vec<ColumnId>,
    by_base: HashMap<ColumnId, Logged>,
}

impl Columns {
    pub(super) fn new(base: &TableSchema, log: &TableSchema) -> Self {
        let id = |name: &str| log.column(name).map(|column| column.id);
        let ids =
            |columns: &[ColumnSchema]| columns.iter().map(|column| id(&column.name)).collect();
        let values = || {
            base.columns
                .iter()
                .filter(|c| matches!(c.kind, ColumnKind::Static | ColumnKind::Regular))
        };
        let logged = |column: &ColumnSchema| Logged {
            value: id(&column.name),
            deleted: id(&deleted(&column.name)),
            deleted_elements: id(&deleted_elements(&column.name)),
            fields: match &column.ty {
                CqlType::Udt(udt) => udt.fields.len(),
                _ => 0,
            },
            is_set: matches!(column.ty, CqlType::Set(_)),
            is_static: column.kind == ColumnKind::Static,
        };
        Self {
            operation: id(OPERATION),
            ttl: id(TTL),
            end_of_batch: id(END_OF_BATCH),
            partition_key: ids(base.partition_key()),
            clustering_key: ids(base.clustering_key()),
            order: values().map(|column| column.id).collect(),
            by_base: values().map(|column| (column.id, logged(column))).collect(),
        }
    }

    pub(super) fn of(&self, base: ColumnId) -> Option<&Logged> {
        self.by_base.get(&base)
    }
}
