//! The columns of a table: made, renamed and dropped.

use super::resolve;
use crate::ast::{ColumnDef, CreateTable};
use crate::error::Error;
use crate::schema::{
    ClusteringOrder, ColumnId, ColumnKind, ColumnSchema, KeyspaceSchema, TableSchema,
};
use crate::types::CqlType;

/// Columns that a table may have.
pub(super) const MAX_COLUMNS: usize = 4096;

pub(super) fn drop_column(table: &mut TableSchema, name: &str) -> Result<(), Error> {
    let Some(column) = table.column(name) else {
        return Err(Error::invalid(format!(
            "Column {name} was not found in table {}",
            table.name
        )));
    };
    if matches!(
        column.kind,
        ColumnKind::PartitionKey | ColumnKind::Clustering
    ) {
        return Err(Error::invalid(format!(
            "Cannot drop PRIMARY KEY part {name}"
        )));
    }
    table.columns.retain(|column| column.name != name);
    Ok(())
}

pub(super) fn rename_column(table: &mut TableSchema, from: &str, to: &str) -> Result<(), Error> {
    if table.column(to).is_some() {
        return Err(Error::invalid(format!(
            "Cannot rename column {from} to {to} in table {}; another column of that name already exist",
            table.name
        )));
    }
    let Some(column) = table.columns.iter_mut().find(|column| column.name == from) else {
        return Err(Error::invalid(format!(
            "Cannot rename unknown column {from} in table {}",
            table.name
        )));
    };
    if !matches!(
        column.kind,
        ColumnKind::PartitionKey | ColumnKind::Clustering
    ) {
        return Err(Error::invalid(format!(
            "Cannot rename non PRIMARY KEY part {from}"
        )));
    }
    to.clone_into(&mut column.name);
    Ok(())
}

/// The columns of `CREATE TABLE`.
pub(super) fn table_columns(
    keyspace: &KeyspaceSchema,
    create: &CreateTable,
) -> Result<Vec<ColumnSchema>, Error> {
    if create.compact_storage {
        return Err(Error::unsupported("COMPACT STORAGE"));
    }
    if create.columns.len() > MAX_COLUMNS {
        return Err(Error::invalid("Too many columns"));
    }
    let inline: Vec<&String> = create
        .columns
        .iter()
        .filter(|c| c.primary_key)
        .map(|c| &c.name)
        .collect();
    if inline.len() + create.primary_keys.len() > 1 {
        return Err(Error::invalid(
            "Multiple PRIMARY KEYs specifed (exactly one required)",
        ));
    }
    let (partition, clustering) = match (create.primary_keys.first(), inline.first()) {
        (Some((partition, clustering)), _) => (partition.clone(), clustering.clone()),
        (None, Some(only)) => (vec![(*only).clone()], Vec::new()),
        (None, None) => {
            return Err(Error::invalid(
                "No PRIMARY KEY specifed (exactly one required)",
            ));
        }
    };
    let mut keys: Vec<&String> = partition.iter().chain(&clustering).collect();
    keys.sort();
    for pair in keys.windows(2) {
        if pair[0] == pair[1] {
            return Err(Error::invalid(format!(
                "Duplicate column {} in PRIMARY KEY",
                pair[0]
            )));
        }
    }
    if let Some(missing) = keys
        .iter()
        .find(|key| !create.columns.iter().any(|c| c.name == ***key))
    {
        return Err(Error::invalid(format!(
            "Unknown definition {missing} referenced in PRIMARY KEY"
        )));
    }
    let orders = clustering_orders(create, &clustering)?;
    let mut columns: Vec<ColumnSchema> = Vec::with_capacity(create.columns.len());
    for (def, id) in create.columns.iter().zip(0..) {
        if columns.iter().any(|column| column.name == def.name) {
            return Err(Error::invalid(format!(
                "Multiple definition of identifier {}",
                def.name
            )));
        }
        let ty = resolve::cql_type(keyspace, &def.ty)?;
        let place = |names: &[String]| names.iter().position(|name| *name == def.name);
        let (kind, position) = match (place(&partition), place(&clustering)) {
            (Some(at), _) => (ColumnKind::PartitionKey, at),
            (None, Some(at)) => (ColumnKind::Clustering, at),
            (None, None) if def.is_static => (ColumnKind::Static, 0),
            (None, None) => (ColumnKind::Regular, 0),
        };
        check_column(def, &ty, kind, !clustering.is_empty())?;
        let order = match kind {
            ColumnKind::Clustering => orders[position],
            _ => ClusteringOrder::Asc,
        };
        let name = def.name.clone();
        columns.push(ColumnSchema {
            id: ColumnId(id),
            name,
            ty,
            kind,
            position,
            order,
        });
    }
    check_counters(&columns)?;
    Ok(columns)
}

fn check_column(
    def: &ColumnDef,
    ty: &CqlType,
    kind: ColumnKind,
    has_clustering: bool,
) -> Result<(), Error> {
    let name = &def.name;
    if matches!(kind, ColumnKind::PartitionKey | ColumnKind::Clustering) {
        if def.is_static {
            return Err(Error::invalid(format!(
                "Static column {name} cannot be part of the PRIMARY KEY"
            )));
        }
        if ty.is_multi_cell() {
            return Err(Error::invalid(format!(
                "Invalid non-frozen collection type for PRIMARY KEY component {name}"
            )));
        }
        if ty.contains_counter() {
            return Err(Error::invalid(format!(
                "counter type is not supported for PRIMARY KEY part {name}"
            )));
        }
        if ty.contains_duration() {
            return Err(Error::invalid(format!(
                "duration type is not supported for PRIMARY KEY part {name}"
            )));
        }
    }
    if def.is_static && !has_clustering {
        return Err(Error::invalid(
            "Static columns are only useful (and thus allowed) if the table has at least one clustering column",
        ));
    }
    Ok(())
}

fn check_counters(columns: &[ColumnSchema]) -> Result<(), Error> {
    let values = || {
        columns
            .iter()
            .filter(|c| matches!(c.kind, ColumnKind::Static | ColumnKind::Regular))
    };
    let counters = values()
        .filter(|column| column.ty == CqlType::Counter)
        .count();
    if counters > 0 && counters < values().count() {
        return Err(Error::invalid(
            "Cannot mix counter and non counter columns in the same table",
        ));
    }
    Ok(())
}

fn clustering_orders(
    create: &CreateTable,
    clustering: &[String],
) -> Result<Vec<ClusteringOrder>, Error> {
    let mut orders = vec![ClusteringOrder::Asc; clustering.len()];
    for (at, (name, descending)) in create.clustering_order.iter().enumerate() {
        if clustering.get(at) != Some(name) {
            return Err(Error::invalid(
                "The order of columns in the CLUSTERING ORDER directive must be the one of the clustering key",
            ));
        }
        if *descending {
            orders[at] = ClusteringOrder::Desc;
        }
    }
    if !create.clustering_order.is_empty() && create.clustering_order.len() < clustering.len() {
        return Err(Error::invalid(format!(
            "Missing CLUSTERING ORDER for column {}",
            clustering[create.clustering_order.len()]
        )));
    }
    Ok(orders)
}
