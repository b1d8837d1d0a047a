//! Keyspaces, tables and user types as values.
//!
//! A [`Catalog`] is immutable: a schema change makes a new one that shares what did not change.
//! Executing DDL belongs to the engine; showing the catalog as `system_schema` to the virtual tables.

mod options;

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use crate::types::CqlType;

pub use options::{CdcDelta, CdcImage, CdcOptions, TableOptions};

/// Names a column for as long as its table lives; never used again after the column was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ColumnId(pub u32);

/// What a column is in its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ColumnKind {
    /// Part of the partition key.
    PartitionKey,
    /// Part of the clustering key.
    Clustering,
    /// One value per partition.
    Static,
    /// One value per row.
    Regular,
}

/// The direction of a clustering column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ClusteringOrder {
    /// Ascending.
    #[default]
    Asc,
    /// Descending.
    Desc,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnSchema {
    /// Its id.
    pub id: ColumnId,
    /// Its name, without quotes.
    pub name: String,
    /// Its type.
    pub ty: CqlType,
    /// What it is.
    pub kind: ColumnKind,
    /// Its place inside the partition key or the clustering key; 0 for other columns.
    pub position: usize,
    /// The direction of a clustering column; `Asc` for other columns.
    pub order: ClusteringOrder,
}

/// A table.
///
/// `columns` is always in the order of `SELECT *`: partition key and clustering key by position,
/// then static columns by name, then regular columns by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSchema {
    /// The table's id.
    pub id: Uuid,
    /// Changes with every alteration.
    pub version: Uuid,
    /// The keyspace's name.
    pub keyspace: String,
    /// The table's name.
    pub name: String,
    /// All columns, in the order of `SELECT *`.
    pub columns: Vec<ColumnSchema>,
    /// The id that the next added column gets.
    pub next_column_id: u32,
    /// The options of `WITH`.
    pub options: TableOptions,
}

impl TableSchema {
    /// A table from its columns in any order (ids included); sorts them.
    pub fn new(
        id: Uuid,
        keyspace: impl Into<String>,
        name: impl Into<String>,
        columns: Vec<ColumnSchema>,
        options: TableOptions,
    ) -> Self {
        let next_column_id = columns.iter().map(|c| c.id.0 + 1).max().unwrap_or(0);
        let mut table = Self {
            id,
            version: id,
            keyspace: keyspace.into(),
            name: name.into(),
            columns,
            next_column_id,
            options,
        };
        table.sort_columns();
        table
    }

    /// Brings `columns` into the order of `SELECT *`.
    pub fn sort_columns(&mut self) {
        let rank = |kind| match kind {
            ColumnKind::PartitionKey => 0,
            ColumnKind::Clustering => 1,
            ColumnKind::Static => 2,
            ColumnKind::Regular => 3,
        };
        self.columns.sort_by(|a, b| {
            (rank(a.kind), a.position, &a.name).cmp(&(rank(b.kind), b.position, &b.name))
        });
    }

    /// A column by name.
    pub fn column(&self, name: &str) -> Option<&ColumnSchema> {
        self.columns.iter().find(|c| c.name == name)
    }

    /// A column by id.
    pub fn column_by_id(&self, id: ColumnId) -> Option<&ColumnSchema> {
        self.columns.iter().find(|c| c.id == id)
    }

    /// The columns of the partition key, by position.
    pub fn partition_key(&self) -> &[ColumnSchema] {
        let end = self
            .columns
            .partition_point(|c| c.kind == ColumnKind::PartitionKey);
        &self.columns[..end]
    }

    /// The columns of the clustering key, by position.
    pub fn clustering_key(&self) -> &[ColumnSchema] {
        let start = self.partition_key().len();
        let count = self.columns[start..].partition_point(|c| c.kind == ColumnKind::Clustering);
        &self.columns[start..start + count]
    }

    /// The static columns, by name.
    pub fn static_columns(&self) -> impl Iterator<Item = &ColumnSchema> {
        self.columns.iter().filter(|c| c.kind == ColumnKind::Static)
    }

    /// The regular columns, by name.
    pub fn regular_columns(&self) -> impl Iterator<Item = &ColumnSchema> {
        self.columns
            .iter()
            .filter(|c| c.kind == ColumnKind::Regular)
    }

    /// Whether there is a static column.
    pub fn has_static_columns(&self) -> bool {
        self.static_columns().next().is_some()
    }

    /// Whether the table is a counter table.
    pub fn is_counter(&self) -> bool {
        self.columns.iter().any(|c| c.ty.contains_counter())
    }

    /// The bytes that the partitioner hashes: the key's only component, or each component with a
    /// two-byte length before it and a zero byte behind it.
    pub fn partition_key_bytes(key: &[crate::types::Value]) -> bytes::Bytes {
        if let [only] = key {
            return crate::types::encode(only);
        }
        let mut out = Vec::new();
        for part in key {
            let bytes = crate::types::encode(part);
            out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
            out.extend_from_slice(&bytes);
            out.push(0);
        }
        out.into()
    }
}

/// A user-defined type.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UserType {
    /// The keyspace's name.
    pub keyspace: String,
    /// The type's name.
    pub name: String,
    /// Field names and types, in order.
    pub fields: Vec<(String, CqlType)>,
}

/// A keyspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyspaceSchema {
    /// The keyspace's name.
    pub name: String,
    /// The replication map, `class` with its full Java name as `system_schema` shows it.
    pub replication: BTreeMap<String, String>,
    /// The option `durable_writes`.
    pub durable_writes: bool,
    /// The option `tablets = {…}` as given.
    pub tablets: Option<BTreeMap<String, String>>,
    /// User tables and system tables alike.
    pub tables: BTreeMap<String, Arc<TableSchema>>,
    /// User types.
    pub types: BTreeMap<String, Arc<UserType>>,
}

impl KeyspaceSchema {
    /// How many tablets a new table gets at first, 0 for as many as the server thinks fit; `None` when the keyspace
    /// has vnodes.
    pub fn initial_tablets(&self) -> Option<i32> {
        let tablets = self.tablets.as_ref()?;
        if tablets
            .get("enabled")
            .is_some_and(|enabled| enabled == "false")
        {
            return None;
        }
        let initial = tablets
            .get("initial")
            .and_then(|initial| initial.parse().ok());
        Some(initial.unwrap_or(0))
    }

    /// An empty keyspace with `SimpleStrategy` and one replica.
    pub fn new(name: impl Into<String>) -> Self {
        let replication = [
            ("class", "org.apache.cassandra.locator.SimpleStrategy"),
            ("replication_factor", "1"),
        ];
        Self {
            name: name.into(),
            replication: replication
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
            durable_writes: true,
            tablets: None,
            tables: BTreeMap::new(),
            types: BTreeMap::new(),
        }
    }
}

/// All keyspaces.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Catalog {
    /// The schema's version: another one after each change.
    pub version: Uuid,
    /// Keyspaces by name.
    pub keyspaces: BTreeMap<String, Arc<KeyspaceSchema>>,
}

impl Catalog {
    /// A keyspace by name.
    pub fn keyspace(&self, keyspace: &str) -> Option<&Arc<KeyspaceSchema>> {
        self.keyspaces.get(keyspace)
    }

    /// A table by name.
    pub fn table(&self, keyspace: &str, table: &str) -> Option<&Arc<TableSchema>> {
        self.keyspaces.get(keyspace)?.tables.get(table)
    }
}

/// Whether a keyspace belongs to the server: users can neither create, alter nor drop it.
pub fn is_system_keyspace(keyspace: &str) -> bool {
    keyspace == "system" || keyspace.starts_with("system_")
}
