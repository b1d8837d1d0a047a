//! The schema of a log table.

use uuid::Uuid;

use super::columns::{
    BATCH_SEQ_NO, END_OF_BATCH, OPERATION, STREAM_ID, TIME, TTL, deleted, deleted_elements,
};
use super::log_name;
use crate::error::Error;
use crate::schema::{
    ClusteringOrder, ColumnId, ColumnKind, ColumnSchema, TableOptions, TableSchema,
};
use crate::types::CqlType;

/// Seconds of a compaction window when log rows never expire.
const DEFAULT_WINDOW: i32 = 3_600;

/// The log table of `base`. Columns that `existing` has with the same type keep their ids.
pub(super) fn log_schema(
    base: &TableSchema,
    existing: Option<&TableSchema>,
    mut new_id: impl FnMut() -> Uuid,
) -> Result<TableSchema, Error> {
    if base.is_counter() {
        return Err(Error::invalid(format!(
            "Cannot create CDC log for table {}.{}. Counter support not implemented",
            base.keyspace, base.name
        )));
    }
    let mut wanted = vec![
        (
            STREAM_ID.to_owned(),
            CqlType::Blob,
            ColumnKind::PartitionKey,
            0,
        ),
        (
            TIME.to_owned(),
            CqlType::TimeUuid,
            ColumnKind::Clustering,
            0,
        ),
        (
            BATCH_SEQ_NO.to_owned(),
            CqlType::Int,
            ColumnKind::Clustering,
            1,
        ),
    ];
    let mut regular = |name: String, ty: CqlType| wanted.push((name, ty, ColumnKind::Regular, 0));
    regular(OPERATION.to_owned(), CqlType::TinyInt);
    regular(TTL.to_owned(), CqlType::BigInt);
    regular(END_OF_BATCH.to_owned(), CqlType::Boolean);
    for column in &base.columns {
        regular(column.name.clone(), logged_type(&column.ty));
        if matches!(
            column.kind,
            ColumnKind::PartitionKey | ColumnKind::Clustering
        ) {
            continue;
        }
        regular(deleted(&column.name), CqlType::Boolean);
        if let Some(key) = cell_key_type(&column.ty) {
            let elements = CqlType::Set(Box::new(key)).frozen();
            regular(deleted_elements(&column.name), elements);
        }
    }
    let mut next_column_id = existing.map_or(0, |table| table.next_column_id);
    let columns = wanted
        .into_iter()
        .map(|(name, ty, kind, position)| {
            let kept = existing
                .and_then(|table| table.column(&name))
                .filter(|column| column.ty == ty && column.kind == kind);
            let id = kept.map_or_else(
                || {
                    next_column_id += 1;
                    ColumnId(next_column_id - 1)
                },
                |column| column.id,
            );
            ColumnSchema {
                id,
                name,
                ty,
                kind,
                position,
                order: ClusteringOrder::Asc,
            }
        })
        .collect();
    let id = existing.map_or_else(&mut new_id, |table| table.id);
    let mut table = TableSchema::new(
        id,
        &base.keyspace,
        log_name(&base.name),
        columns,
        log_options(base),
    );
    table.version = new_id();
    table.next_column_id = next_column_id;
    Ok(table)
}

/// The type of a base column in the log: frozen, and a list becomes a map from cell keys to elements.
fn logged_type(ty: &CqlType) -> CqlType {
    match ty {
        CqlType::List(element) => {
            CqlType::Map(Box::new(CqlType::TimeUuid), element.clone()).frozen()
        }
        other => other.clone().frozen(),
    }
}

/// The type of a collection's cell keys; `None` for a column that is one cell.
fn cell_key_type(ty: &CqlType) -> Option<CqlType> {
    match ty {
        CqlType::List(_) => Some(CqlType::TimeUuid),
        CqlType::Set(element) => Some((**element).clone()),
        CqlType::Map(key, _) => Some((**key).clone()),
        CqlType::Udt(_) => Some(CqlType::SmallInt),
        _ => None,
    }
}

/// Time windows of a 24th of the TTL, as ScyllaDB chooses them.
fn log_options(base: &TableSchema) -> TableOptions {
    let ttl = base.options.cdc().ttl;
    let window = if ttl > 0 {
        (ttl / 24).max(1)
    } else {
        DEFAULT_WINDOW
    };
    let minutes = (window / 60).max(1);
    let compaction = [
        ("class", "TimeWindowCompactionStrategy".to_owned()),
        ("compaction_window_size", minutes.to_string()),
        ("compaction_window_unit", "MINUTES".to_owned()),
        (
            "expired_sstable_check_frequency_seconds",
            (window / 2).max(1).to_string(),
        ),
    ];
    TableOptions {
        comment: format!("CDC log for {}.{}", base.keyspace, base.name),
        compaction: compaction
            .map(|(key, value)| (key.to_owned(), value))
            .into(),
        gc_grace_seconds: 0,
        ..TableOptions::default()
    }
}
