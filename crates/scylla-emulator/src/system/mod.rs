//! The system keyspaces: what drivers, cqlsh and readers of the CDC log ask a server about itself.
//!
//! Invariants
//! 1. Tables and columns are those of ScyllaDB 5.1, and those that tell of tablets in later versions:
//!    `system.cdc_timestamps`, `system.cdc_streams`, and `initial_tablets` in `system_schema.scylla_keyspaces`.
//! 2. Everything is computed when it is read; nothing here can be stale.

mod catalog;
mod node;
mod tables;
mod tablets;

use std::cell::Cell;
use std::sync::Arc;

pub(crate) use self::tables::keyspaces;
use crate::cluster::Topology;
use crate::hooks::VirtualTables;
use crate::schema::{Catalog, TableSchema};
use crate::server::Clients;
use crate::types::Value;

/// The version of the query language.
pub(crate) const CQL_VERSION: &str = "3.3.1";
/// The Cassandra version that the server says it is compatible with, as ScyllaDB says.
pub(crate) const RELEASE_VERSION: &str = "3.0.8";
/// The ScyllaDB version whose behaviour this is.
pub(crate) const SCYLLA_VERSION: &str = "5.1.19-emulator";
/// The default partitioner.
pub(crate) const PARTITIONER: &str = "org.apache.cassandra.dht.Murmur3Partitioner";
/// The partitioner of CDC log tables.
pub(crate) const CDC_PARTITIONER: &str = "com.scylladb.dht.CDCPartitioner";
/// The name of the cluster.
pub(crate) const CLUSTER_NAME: &str = "scylla-emulator";

/// A row of a system table: column names and values; a column that is not named is null.
type Row = Vec<(&'static str, Value)>;

thread_local! {
    static NODE: Cell<usize> = const { Cell::new(0) };
}

/// Runs `action` as the node with this index: `system.local` and `system.peers` are seen from there.
pub(crate) fn on_node<T>(node: usize, action: impl FnOnce() -> T) -> T {
    let before = NODE.replace(node);
    let result = action();
    NODE.set(before);
    result
}

fn current_node() -> usize {
    NODE.get()
}

/// Computes the rows of the system tables.
#[derive(Debug)]
pub(crate) struct SystemTables {
    topology: Arc<Topology>,
    clients: Arc<Clients>,
}

impl SystemTables {
    pub(crate) fn new(topology: Arc<Topology>, clients: Arc<Clients>) -> Self {
        Self { topology, clients }
    }

    fn rows(&self, catalog: &Catalog, table: &TableSchema) -> Option<Vec<Row>> {
        let topology = &self.topology;
        Some(match (table.keyspace.as_str(), table.name.as_str()) {
            ("system", "local") => node::local(topology, catalog),
            ("system", "peers") => node::peers(topology, catalog),
            ("system", "versions") => node::versions(),
            ("system", "clients") => node::clients(&self.clients),
            ("system", "cdc_local") => node::cdc_local(topology),
            ("system", "cdc_timestamps") => tablets::timestamps(topology),
            ("system", "cdc_streams") => tablets::streams(topology),
            ("system", "scylla_local") => node::scylla_local(),
            ("system_distributed", "cdc_generation_timestamps") => node::generations(topology),
            ("system_distributed", "cdc_streams_descriptions_v2") => node::streams(topology),
            ("system_schema", "keyspaces") => catalog::keyspaces(catalog),
            ("system_schema", "scylla_keyspaces") => catalog::scylla_keyspaces(catalog),
            ("system_schema", "tables") => catalog::tables(catalog),
            ("system_schema", "scylla_tables") => catalog::scylla_tables(catalog),
            ("system_schema", "columns") => catalog::columns(catalog),
            ("system_schema", "types") => catalog::types(catalog),
            (keyspace, _) if crate::schema::is_system_keyspace(keyspace) => Vec::new(),
            _ => return None,
        })
    }
}

impl VirtualTables for SystemTables {
    fn read(&self, catalog: &Catalog, table: &TableSchema) -> Option<Vec<Vec<Option<Value>>>> {
        let rows = self.rows(catalog, table)?;
        let place = |name: &str| table.columns.iter().position(|column| column.name == name);
        let spread = |row: Row| {
            let mut values = vec![None; table.columns.len()];
            for (name, value) in row {
                if let Some(at) = place(name) {
                    values[at] = Some(value);
                }
            }
            values
        };
        Some(rows.into_iter().map(spread).collect())
    }
}

fn text(text: impl Into<String>) -> Value {
    Value::Text(text.into())
}

fn text_map<'a>(entries: impl IntoIterator<Item = (&'a String, &'a String)>) -> Value {
    Value::map(
        entries
            .into_iter()
            .map(|(k, v)| (text(k.as_str()), text(v.as_str())))
            .collect(),
    )
}
