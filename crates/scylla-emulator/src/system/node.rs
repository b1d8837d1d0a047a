//! Tables about nodes, clients and CDC generations.

use super::{
    CLUSTER_NAME, CQL_VERSION, PARTITIONER, RELEASE_VERSION, Row, SCYLLA_VERSION, current_node,
    text,
};
use crate::cluster::{DATACENTER, Node, RACK, Topology};
use crate::schema::Catalog;
use crate::server::Clients;
use crate::types::Value;
use bytes::Bytes;

const FEATURES: &str = "CDC,CDC_GENERATIONS_V2,COLLECTION_INDEXING,COMPUTED_COLUMNS,LA_SSTABLE_FORMAT,LWT,\
                        PER_TABLE_CACHING,PER_TABLE_PARTITIONERS,RANGE_TOMBSTONES,ROLES,SCHEMA_TABLES_V3,XXHASH";

fn tokens(node: &Node) -> Value {
    Value::set(
        node.tokens
            .iter()
            .map(|token| text(token.0.to_string()))
            .collect(),
    )
}

/// The columns that `local` and `peers` have in common.
fn common(node: &Node, catalog: &Catalog) -> Row {
    vec![
        ("data_center", text(DATACENTER)),
        ("host_id", Value::Uuid(node.host_id)),
        ("rack", text(RACK)),
        ("release_version", text(RELEASE_VERSION)),
        ("rpc_address", Value::Inet(node.address)),
        ("schema_version", Value::Uuid(catalog.version)),
        ("supported_features", text(FEATURES)),
        ("tokens", tokens(node)),
    ]
}

pub(super) fn local(topology: &Topology, catalog: &Catalog) -> Vec<Row> {
    let node = topology
        .nodes
        .get(current_node())
        .unwrap_or(&topology.nodes[0]);
    let mut row = common(node, catalog);
    row.extend([
        ("key", text("local")),
        ("bootstrapped", text("COMPLETED")),
        ("broadcast_address", Value::Inet(node.address)),
        ("cluster_name", text(CLUSTER_NAME)),
        ("cql_version", text(CQL_VERSION)),
        ("gossip_generation", Value::Int(1)),
        ("listen_address", Value::Inet(node.address)),
        ("native_protocol_version", text("4")),
        ("partitioner", text(PARTITIONER)),
        ("thrift_version", text("20.1.0")),
    ]);
    vec![row]
}

pub(super) fn peers(topology: &Topology, catalog: &Catalog) -> Vec<Row> {
    let here = current_node();
    let others = topology
        .nodes
        .iter()
        .enumerate()
        .filter(|(index, _)| *index != here);
    others
        .map(|(_, node)| {
            let mut row = common(node, catalog);
            row.extend([
                ("peer", Value::Inet(node.address)),
                ("preferred_ip", Value::Inet(node.address)),
            ]);
            row
        })
        .collect()
}

pub(super) fn versions() -> Vec<Row> {
    vec![vec![
        ("key", text("local")),
        ("build_id", text(env!("CARGO_PKG_VERSION"))),
        (
            "build_mode",
            text(if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            }),
        ),
        ("version", text(SCYLLA_VERSION)),
    ]]
}

pub(super) fn scylla_local() -> Vec<Row> {
    vec![vec![
        ("key", text("enabled_features")),
        ("value", text(FEATURES)),
    ]]
}

pub(super) fn clients(clients: &Clients) -> Vec<Row> {
    let here = current_node();
    let snapshot = clients.snapshot();
    let of_node = snapshot
        .into_iter()
        .filter(|(_, client)| client.node == here);
    of_node
        .map(|(peer, client)| {
            let stage = if client.ready { "READY" } else { "ESTABLISHED" };
            let mut row = vec![
                ("address", Value::Inet(peer.ip())),
                ("port", Value::Int(i32::from(peer.port()))),
                ("client_type", text("cql")),
                ("connection_stage", text(stage)),
                ("protocol_version", Value::Int(i32::from(client.version))),
                ("shard_id", Value::Int(i32::from(client.shard))),
                ("ssl_enabled", Value::Boolean(false)),
                ("username", text(client.username)),
            ];
            row.extend(client.driver_name.map(|name| ("driver_name", text(name))));
            row.extend(
                client
                    .driver_version
                    .map(|version| ("driver_version", text(version))),
            );
            row
        })
        .collect()
}

/// The newest generation; its uuid is made from the first node's identity, so that it stays the same.
pub(super) fn cdc_local(topology: &Topology) -> Vec<Row> {
    let Some(newest) = topology.generations.all().last().cloned() else {
        return Vec::new();
    };
    vec![vec![
        ("key", text("cdc_local")),
        ("streams_timestamp", Value::Timestamp(newest.timestamp_ms)),
        ("uuid", Value::Uuid(topology.nodes[0].host_id)),
    ]]
}

/// `expired` stays null, as ScyllaDB leaves it.
pub(super) fn generations(topology: &Topology) -> Vec<Row> {
    let (all, now_ms) = (topology.generations.all(), topology.now_ms());
    let listed = all.iter().filter(|known| known.is_listed(now_ms));
    let rows = listed.map(|generation| {
        vec![
            ("key", text("timestamps")),
            ("time", Value::Timestamp(generation.timestamp_ms)),
        ]
    });
    rows.collect()
}

pub(super) fn streams(topology: &Topology) -> Vec<Row> {
    let mut rows = Vec::new();
    let (all, now_ms) = (topology.generations.all(), topology.now_ms());
    for generation in all.iter().filter(|known| known.is_listed(now_ms)) {
        for vnode in &generation.vnodes {
            let streams = vnode
                .streams
                .iter()
                .map(|id| Value::Blob(Bytes::copy_from_slice(&id.0)));
            rows.push(vec![
                ("time", Value::Timestamp(generation.timestamp_ms)),
                ("range_end", Value::BigInt(vnode.range_end.0)),
                ("streams", Value::set(streams.collect())),
            ]);
        }
    }
    rows
}
