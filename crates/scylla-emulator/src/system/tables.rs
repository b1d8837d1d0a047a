//! Names, columns and types of the system tables.

use std::sync::Arc;

use uuid::Uuid;

use crate::schema::{
    ClusteringOrder, ColumnId, ColumnKind, ColumnSchema, KeyspaceSchema, TableOptions, TableSchema,
};
use crate::types::CqlType;

/// What a column is: partition key, clustering (ascending or descending), or regular.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Key,
    Asc,
    Desc,
    Regular,
}

use Part::{Asc, Desc, Key, Regular};

type Column = (&'static str, &'static str, Part);

/// The keyspaces with their replication class.
const KEYSPACES: &[(&str, &str)] = &[
    ("system", "org.apache.cassandra.locator.LocalStrategy"),
    ("system_auth", "org.apache.cassandra.locator.SimpleStrategy"),
    (
        "system_distributed",
        "org.apache.cassandra.locator.SimpleStrategy",
    ),
    (
        "system_schema",
        "org.apache.cassandra.locator.LocalStrategy",
    ),
];

/// Keyspace, table, and columns in the order of their position in the key.
const TABLES: &[(&str, &str, &[Column])] = &[
    (
        "system",
        "cdc_local",
        &[
            ("key", "text", Key),
            ("streams_timestamp", "timestamp", Regular),
            ("uuid", "uuid", Regular),
        ],
    ),
    (
        "system",
        "cdc_streams",
        &[
            ("keyspace_name", "text", Key),
            ("table_name", "text", Key),
            ("timestamp", "timestamp", Asc),
            ("stream_state", "tinyint", Asc),
            ("stream_id", "blob", Asc),
        ],
    ),
    (
        "system",
        "cdc_timestamps",
        &[
            ("keyspace_name", "text", Key),
            ("table_name", "text", Key),
            ("timestamp", "timestamp", Desc),
        ],
    ),
    (
        "system",
        "clients",
        &[
            ("address", "inet", Key),
            ("port", "int", Asc),
            ("client_type", "text", Asc),
            ("connection_stage", "text", Regular),
            ("driver_name", "text", Regular),
            ("driver_version", "text", Regular),
            ("hostname", "text", Regular),
            ("protocol_version", "int", Regular),
            ("shard_id", "int", Regular),
            ("ssl_cipher_suite", "text", Regular),
            ("ssl_enabled", "boolean", Regular),
            ("ssl_protocol", "text", Regular),
            ("username", "text", Regular),
        ],
    ),
    (
        "system",
        "local",
        &[
            ("key", "text", Key),
            ("bootstrapped", "text", Regular),
            ("broadcast_address", "inet", Regular),
            ("cluster_name", "text", Regular),
            ("cql_version", "text", Regular),
            ("data_center", "text", Regular),
            ("gossip_generation", "int", Regular),
            ("host_id", "uuid", Regular),
            ("listen_address", "inet", Regular),
            ("native_protocol_version", "text", Regular),
            ("partitioner", "text", Regular),
            ("rack", "text", Regular),
            ("release_version", "text", Regular),
            ("rpc_address", "inet", Regular),
            ("schema_version", "uuid", Regular),
            ("supported_features", "text", Regular),
            ("thrift_version", "text", Regular),
            ("tokens", "set<text>", Regular),
            ("truncated_at", "map<uuid, blob>", Regular),
        ],
    ),
    (
        "system",
        "peers",
        &[
            ("peer", "inet", Key),
            ("data_center", "text", Regular),
            ("host_id", "uuid", Regular),
            ("preferred_ip", "inet", Regular),
            ("rack", "text", Regular),
            ("release_version", "text", Regular),
            ("rpc_address", "inet", Regular),
            ("schema_version", "uuid", Regular),
            ("supported_features", "text", Regular),
            ("tokens", "set<text>", Regular),
        ],
    ),
    (
        "system",
        "scylla_local",
        &[("key", "text", Key), ("value", "text", Regular)],
    ),
    (
        "system",
        "size_estimates",
        &[
            ("keyspace_name", "text", Key),
            ("table_name", "text", Asc),
            ("range_start", "text", Asc),
            ("range_end", "text", Asc),
            ("mean_partition_size", "bigint", Regular),
            ("partitions_count", "bigint", Regular),
        ],
    ),
    (
        "system",
        "versions",
        &[
            ("key", "text", Key),
            ("build_id", "text", Regular),
            ("build_mode", "text", Regular),
            ("version", "text", Regular),
        ],
    ),
    (
        "system_auth",
        "roles",
        &[
            ("role", "text", Key),
            ("can_login", "boolean", Regular),
            ("is_superuser", "boolean", Regular),
            ("member_of", "set<text>", Regular),
            ("salted_hash", "text", Regular),
        ],
    ),
    (
        "system_distributed",
        "cdc_generation_timestamps",
        &[
            ("key", "text", Key),
            ("time", "timestamp", Desc),
            ("expired", "timestamp", Regular),
        ],
    ),
    (
        "system_distributed",
        "cdc_streams_descriptions_v2",
        &[
            ("time", "timestamp", Key),
            ("range_end", "bigint", Asc),
            ("streams", "frozen<set<blob>>", Regular),
        ],
    ),
    (
        "system_schema",
        "aggregates",
        &[
            ("keyspace_name", "text", Key),
            ("aggregate_name", "text", Asc),
            ("argument_types", "frozen<list<text>>", Asc),
            ("final_func", "text", Regular),
            ("initcond", "text", Regular),
            ("return_type", "text", Regular),
            ("state_func", "text", Regular),
            ("state_type", "text", Regular),
        ],
    ),
    (
        "system_schema",
        "columns",
        &[
            ("keyspace_name", "text", Key),
            ("table_name", "text", Asc),
            ("column_name", "text", Asc),
            ("clustering_order", "text", Regular),
            ("column_name_bytes", "blob", Regular),
            ("kind", "text", Regular),
            ("position", "int", Regular),
            ("type", "text", Regular),
        ],
    ),
    (
        "system_schema",
        "computed_columns",
        &[
            ("keyspace_name", "text", Key),
            ("table_name", "text", Asc),
            ("column_name", "text", Asc),
            ("computation", "blob", Regular),
        ],
    ),
    (
        "system_schema",
        "dropped_columns",
        &[
            ("keyspace_name", "text", Key),
            ("table_name", "text", Asc),
            ("column_name", "text", Asc),
            ("dropped_time", "timestamp", Regular),
            ("type", "text", Regular),
        ],
    ),
    (
        "system_schema",
        "functions",
        &[
            ("keyspace_name", "text", Key),
            ("function_name", "text", Asc),
            ("argument_types", "frozen<list<text>>", Asc),
            ("argument_names", "frozen<list<text>>", Regular),
            ("body", "text", Regular),
            ("called_on_null_input", "boolean", Regular),
            ("language", "text", Regular),
            ("return_type", "text", Regular),
        ],
    ),
    (
        "system_schema",
        "indexes",
        &[
            ("keyspace_name", "text", Key),
            ("table_name", "text", Asc),
            ("index_name", "text", Asc),
            ("kind", "text", Regular),
            ("options", "frozen<map<text, text>>", Regular),
        ],
    ),
    (
        "system_schema",
        "keyspaces",
        &[
            ("keyspace_name", "text", Key),
            ("durable_writes", "boolean", Regular),
            ("replication", "frozen<map<text, text>>", Regular),
        ],
    ),
    (
        "system_schema",
        "scylla_aggregates",
        &[
            ("keyspace_name", "text", Key),
            ("aggregate_name", "text", Asc),
            ("argument_types", "frozen<list<text>>", Asc),
            ("reduce_func", "text", Regular),
            ("state_type", "text", Regular),
        ],
    ),
    (
        "system_schema",
        "scylla_keyspaces",
        &[
            ("keyspace_name", "text", Key),
            ("initial_tablets", "int", Regular),
            ("storage_options", "frozen<map<text, text>>", Regular),
            ("storage_type", "text", Regular),
        ],
    ),
    (
        "system_schema",
        "scylla_tables",
        &[
            ("keyspace_name", "text", Key),
            ("table_name", "text", Asc),
            ("cdc", "frozen<map<text, text>>", Regular),
            ("partitioner", "text", Regular),
            ("version", "uuid", Regular),
        ],
    ),
    (
        "system_schema",
        "tables",
        &[
            ("keyspace_name", "text", Key),
            ("table_name", "text", Asc),
            ("bloom_filter_fp_chance", "double", Regular),
            ("caching", "frozen<map<text, text>>", Regular),
            ("comment", "text", Regular),
            ("compaction", "frozen<map<text, text>>", Regular),
            ("compression", "frozen<map<text, text>>", Regular),
            ("crc_check_chance", "double", Regular),
            ("dclocal_read_repair_chance", "double", Regular),
            ("default_time_to_live", "int", Regular),
            ("extensions", "frozen<map<text, blob>>", Regular),
            ("flags", "frozen<set<text>>", Regular),
            ("gc_grace_seconds", "int", Regular),
            ("id", "uuid", Regular),
            ("max_index_interval", "int", Regular),
            ("memtable_flush_period_in_ms", "int", Regular),
            ("min_index_interval", "int", Regular),
            ("read_repair_chance", "double", Regular),
            ("speculative_retry", "text", Regular),
        ],
    ),
    (
        "system_schema",
        "triggers",
        &[
            ("keyspace_name", "text", Key),
            ("table_name", "text", Asc),
            ("trigger_name", "text", Asc),
            ("options", "frozen<map<text, text>>", Regular),
        ],
    ),
    (
        "system_schema",
        "types",
        &[
            ("keyspace_name", "text", Key),
            ("type_name", "text", Asc),
            ("field_names", "frozen<list<text>>", Regular),
            ("field_types", "frozen<list<text>>", Regular),
        ],
    ),
    (
        "system_schema",
        "view_virtual_columns",
        &[
            ("keyspace_name", "text", Key),
            ("view_name", "text", Asc),
            ("column_name", "text", Asc),
            ("clustering_order", "text", Regular),
            ("column_name_bytes", "blob", Regular),
            ("kind", "text", Regular),
            ("position", "int", Regular),
            ("type", "text", Regular),
        ],
    ),
    (
        "system_schema",
        "views",
        &[
            ("keyspace_name", "text", Key),
            ("view_name", "text", Asc),
            ("base_table_id", "uuid", Regular),
            ("base_table_name", "text", Regular),
            ("bloom_filter_fp_chance", "double", Regular),
            ("caching", "frozen<map<text, text>>", Regular),
            ("comment", "text", Regular),
            ("compaction", "frozen<map<text, text>>", Regular),
            ("compression", "frozen<map<text, text>>", Regular),
            ("crc_check_chance", "double", Regular),
            ("dclocal_read_repair_chance", "double", Regular),
            ("default_time_to_live", "int", Regular),
            ("extensions", "frozen<map<text, blob>>", Regular),
            ("gc_grace_seconds", "int", Regular),
            ("id", "uuid", Regular),
            ("include_all_columns", "boolean", Regular),
            ("max_index_interval", "int", Regular),
            ("memtable_flush_period_in_ms", "int", Regular),
            ("min_index_interval", "int", Regular),
            ("read_repair_chance", "double", Regular),
            ("speculative_retry", "text", Regular),
            ("where_clause", "text", Regular),
        ],
    ),
];

/// The system keyspaces. Ids are made from names, so that they are the same at every start.
pub(crate) fn keyspaces() -> Vec<KeyspaceSchema> {
    let keyspaces = KEYSPACES.iter().map(|(name, class)| {
        let mut keyspace = KeyspaceSchema::new(*name);
        keyspace
            .replication
            .insert("class".to_owned(), (*class).to_owned());
        if class.ends_with("LocalStrategy") {
            keyspace.replication.remove("replication_factor");
        }
        for (_, table, columns) in TABLES.iter().filter(|(owner, ..)| owner == name) {
            keyspace
                .tables
                .insert((*table).to_owned(), Arc::new(schema(name, table, columns)));
        }
        keyspace
    });
    keyspaces.collect()
}

fn schema(keyspace: &str, table: &str, columns: &[Column]) -> TableSchema {
    let mut position = [0_usize; 2];
    let mut next = |kind: usize| {
        position[kind] += 1;
        position[kind] - 1
    };
    let columns = columns.iter().zip(0..).map(|((name, ty, part), id)| {
        let (kind, position, order) = match part {
            Key => (ColumnKind::PartitionKey, next(0), ClusteringOrder::Asc),
            Asc => (ColumnKind::Clustering, next(1), ClusteringOrder::Asc),
            Desc => (ColumnKind::Clustering, next(1), ClusteringOrder::Desc),
            Regular => (ColumnKind::Regular, 0, ClusteringOrder::Asc),
        };
        let (id, name, ty) = (ColumnId(id), (*name).to_owned(), parse_type(ty));
        ColumnSchema {
            id,
            name,
            ty,
            kind,
            position,
            order,
        }
    });
    let id = table_id(keyspace, table);
    TableSchema::new(
        id,
        keyspace,
        table,
        columns.collect(),
        TableOptions::default(),
    )
}

/// A UUID from a name: the FNV-1a hash of 128 bits.
fn table_id(keyspace: &str, table: &str) -> Uuid {
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let bytes = keyspace.bytes().chain([b'.']).chain(table.bytes());
    let hash = bytes.fold(
        0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128,
        |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME),
    );
    uuid::Builder::from_random_bytes(hash.to_be_bytes()).into_uuid()
}

/// The types that occur in [`TABLES`]; a test parses them all.
fn parse_type(name: &str) -> CqlType {
    let inner = |prefix: &str| name.strip_prefix(prefix)?.strip_suffix('>');
    if let Some(inner) = inner("frozen<") {
        return parse_type(inner).frozen();
    }
    if let Some(element) = inner("set<") {
        return CqlType::Set(Box::new(parse_type(element)));
    }
    if let Some(element) = inner("list<") {
        return CqlType::List(Box::new(parse_type(element)));
    }
    if let Some((key, value)) = inner("map<").and_then(|inner| inner.split_once(", ")) {
        return CqlType::Map(Box::new(parse_type(key)), Box::new(parse_type(value)));
    }
    CqlType::native(name).unwrap_or(CqlType::Blob)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_spelled_as_in_the_list() {
        for (_, _, columns) in TABLES {
            for (_, name, _) in *columns {
                assert_eq!(parse_type(name).to_string(), *name);
            }
        }
    }

    /// Columns that versions after the recorded one have.
    const LATER: [(&str, &str); 1] = [("system_schema.scylla_keyspaces", "initial_tablets")];

    #[test]
    fn columns_are_those_of_the_recording() {
        let recorded: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/golden/scylla-5.1.19.json")).unwrap();
        let keyspaces = keyspaces();
        for (table, columns) in recorded["system_tables"].as_object().unwrap() {
            let (keyspace, name) = table.split_once('.').unwrap();
            let keyspace = keyspaces
                .iter()
                .find(|known| known.name == keyspace)
                .unwrap();
            let schema = &keyspace.tables[name];
            let columns = columns.as_array().unwrap();
            let later = LATER.iter().filter(|(owner, _)| owner == table).count();
            assert_eq!(schema.columns.len(), columns.len() + later, "{table}");
            for column in columns {
                let ours = schema.column(column[0].as_str().unwrap()).unwrap();
                assert_eq!(
                    ours.ty.to_string(),
                    column[1].as_str().unwrap(),
                    "{table}.{}",
                    ours.name
                );
            }
        }
    }
}
