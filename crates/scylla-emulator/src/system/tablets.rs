//! Tables about the CDC streams of tables with tablets, as the node sees them that is asked.

use bytes::Bytes;

use super::{Row, current_node, text};
use crate::cluster::Topology;
use crate::cluster::generations::StreamId;
use crate::cluster::tablets::StreamSet;
use crate::types::Value;

/// `stream_state`: the stream belongs to the set.
const CURRENT: i8 = 0;
/// `stream_state`: the stream belonged to the set before, and does not belong to this one.
const CLOSED: i8 = 1;
/// `stream_state`: the stream belongs to the set, and did not belong to the one before.
const OPENED: i8 = 2;

pub(super) fn timestamps(topology: &Topology) -> Vec<Row> {
    let tables = topology.tablets.seen_from(current_node()).into_iter();
    let rows = tables.flat_map(|(keyspace, table, sets)| {
        sets.into_iter().map(move |set| {
            vec![
                ("keyspace_name", text(&keyspace)),
                ("table_name", text(&table)),
                ("timestamp", Value::Timestamp(set.timestamp_ms)),
            ]
        })
    });
    rows.collect()
}

/// The streams of each set, and what changed from the set before; all streams of the first set are opened by it.
pub(super) fn streams(topology: &Topology) -> Vec<Row> {
    let mut rows = Vec::new();
    for (keyspace, table, sets) in topology.tablets.seen_from(current_node()) {
        let mut before: &[StreamId] = &[];
        for set in &sets {
            let closed = before
                .iter()
                .filter(|stream| !contains(&set.streams, stream));
            let opened = set
                .streams
                .iter()
                .filter(|stream| !contains(before, stream));
            let states = [
                (CURRENT, set.streams.iter().collect::<Vec<_>>()),
                (CLOSED, closed.collect()),
                (OPENED, opened.collect()),
            ];
            for (state, streams) in states {
                rows.extend(
                    streams
                        .into_iter()
                        .map(|id| row(&keyspace, &table, set, state, id)),
                );
            }
            before = &set.streams;
        }
    }
    rows
}

/// Streams are in the order of their tokens, and so of their ids.
fn contains(streams: &[StreamId], wanted: &StreamId) -> bool {
    let place = |id: &StreamId| (id.token(), *id);
    streams.binary_search_by_key(&place(wanted), place).is_ok()
}

fn row(keyspace: &str, table: &str, set: &StreamSet, state: i8, id: &StreamId) -> Row {
    vec![
        ("keyspace_name", text(keyspace)),
        ("table_name", text(table)),
        ("timestamp", Value::Timestamp(set.timestamp_ms)),
        ("stream_state", Value::TinyInt(state)),
        ("stream_id", Value::Blob(Bytes::copy_from_slice(&id.0))),
    ]
}
