//! `system_schema`: the catalog as tables.

use std::sync::Arc;

use bytes::Bytes;

use super::{CDC_PARTITIONER, Row, text, text_map};
use crate::schema::{Catalog, ClusteringOrder, ColumnKind, ColumnSchema, TableSchema};
use crate::types::{CqlType, Value};

fn all_tables(catalog: &Catalog) -> impl Iterator<Item = &Arc<TableSchema>> {
    catalog
        .keyspaces
        .values()
        .flat_map(|keyspace| keyspace.tables.values())
}

pub(super) fn keyspaces(catalog: &Catalog) -> Vec<Row> {
    let rows = catalog.keyspaces.values().map(|keyspace| {
        vec![
            ("keyspace_name", text(&keyspace.name)),
            ("durable_writes", Value::Boolean(keyspace.durable_writes)),
            ("replication", text_map(&keyspace.replication)),
        ]
    });
    rows.collect()
}

/// Only keyspaces with tablets have a row (or with a storage option of their own, which there are none of).
pub(super) fn scylla_keyspaces(catalog: &Catalog) -> Vec<Row> {
    let rows = catalog.keyspaces.values().filter_map(|keyspace| {
        let initial = keyspace.initial_tablets()?;
        Some(vec![
            ("keyspace_name", text(&keyspace.name)),
            ("initial_tablets", Value::Int(initial)),
        ])
    });
    rows.collect()
}

pub(super) fn tables(catalog: &Catalog) -> Vec<Row> {
    all_tables(catalog).map(|table| table_row(table)).collect()
}

fn table_row(table: &TableSchema) -> Row {
    let options = &table.options;
    let int = Value::Int;
    vec![
        ("keyspace_name", text(&table.keyspace)),
        ("table_name", text(&table.name)),
        (
            "bloom_filter_fp_chance",
            Value::Double(options.bloom_filter_fp_chance),
        ),
        ("caching", text_map(&options.caching)),
        ("comment", text(&options.comment)),
        ("compaction", text_map(&options.compaction)),
        ("compression", text_map(&options.compression)),
        ("crc_check_chance", Value::Double(options.crc_check_chance)),
        (
            "dclocal_read_repair_chance",
            Value::Double(options.dclocal_read_repair_chance),
        ),
        ("default_time_to_live", int(options.default_time_to_live)),
        ("extensions", Value::map(extensions(table))),
        ("flags", Value::set(vec![text("compound")])),
        ("gc_grace_seconds", int(options.gc_grace_seconds)),
        ("id", Value::Uuid(table.id)),
        ("max_index_interval", int(options.max_index_interval)),
        (
            "memtable_flush_period_in_ms",
            int(options.memtable_flush_period_in_ms),
        ),
        ("min_index_interval", int(options.min_index_interval)),
        (
            "read_repair_chance",
            Value::Double(options.read_repair_chance),
        ),
        ("speculative_retry", text(&options.speculative_retry)),
    ]
}

/// ScyllaDB keeps the CDC options as an extension: the length-prefixed entries of the map. cqlsh reads them here.
fn extensions(table: &TableSchema) -> Vec<(Value, Value)> {
    let Some(cdc) = table.options.cdc else {
        return Vec::new();
    };
    let map = cdc.to_map();
    let mut bytes = (map.len() as u32).to_le_bytes().to_vec();
    for part in map.iter().flat_map(|(key, value)| [key, value]) {
        bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    vec![(text("cdc"), Value::Blob(Bytes::from(bytes)))]
}

pub(super) fn scylla_tables(catalog: &Catalog) -> Vec<Row> {
    let rows = all_tables(catalog).map(|table| {
        let mut row = vec![
            ("keyspace_name", text(&table.keyspace)),
            ("table_name", text(&table.name)),
            ("version", Value::Uuid(table.version)),
        ];
        row.extend(
            table
                .options
                .cdc
                .map(|cdc| ("cdc", text_map(&cdc.to_map()))),
        );
        if crate::cdc::is_log_table(table) {
            row.push(("partitioner", text(CDC_PARTITIONER)));
        }
        row
    });
    rows.collect()
}

pub(super) fn columns(catalog: &Catalog) -> Vec<Row> {
    let rows = all_tables(catalog)
        .flat_map(|table| table.columns.iter().map(|column| column_row(table, column)));
    rows.collect()
}

fn column_row(table: &TableSchema, column: &ColumnSchema) -> Row {
    let (kind, position) = match column.kind {
        ColumnKind::PartitionKey => ("partition_key", column.position as i32),
        ColumnKind::Clustering => ("clustering", column.position as i32),
        ColumnKind::Static => ("static", -1),
        ColumnKind::Regular => ("regular", -1),
    };
    let order = match (column.kind, column.order) {
        (ColumnKind::Clustering, ClusteringOrder::Asc) => "ASC",
        (ColumnKind::Clustering, ClusteringOrder::Desc) => "DESC",
        _ => "NONE",
    };
    vec![
        ("keyspace_name", text(&table.keyspace)),
        ("table_name", text(&table.name)),
        ("column_name", text(&column.name)),
        ("clustering_order", text(order)),
        (
            "column_name_bytes",
            Value::Blob(Bytes::copy_from_slice(column.name.as_bytes())),
        ),
        ("kind", text(kind)),
        ("position", Value::Int(position)),
        ("type", text(column.ty.to_string())),
    ]
}

pub(super) fn types(catalog: &Catalog) -> Vec<Row> {
    let all = catalog
        .keyspaces
        .values()
        .flat_map(|keyspace| keyspace.types.values());
    let rows = all.map(|ty| {
        let names = ty.fields.iter().map(|(name, _)| text(name)).collect();
        let types = ty
            .fields
            .iter()
            .map(|(_, ty): &(_, CqlType)| text(ty.to_string()))
            .collect();
        vec![
            ("keyspace_name", text(&ty.keyspace)),
            ("type_name", text(&ty.name)),
            ("field_names", Value::List(names)),
            ("field_types", Value::List(types)),
        ]
    });
    rows.collect()
}
