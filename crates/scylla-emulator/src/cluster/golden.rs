//! Tokens, vnodes and streams against a recording of a genuine ScyllaDB cluster of two nodes.

use serde::Deserialize;

use super::generations::{Generation, StreamId, Vnode};
use super::token::Token;
use crate::hooks::SeededRandom;

#[derive(Deserialize)]
struct Recording {
    generations: Vec<RecordedGeneration>,
    partitions: Vec<Partition>,
}

#[derive(Deserialize)]
struct RecordedGeneration {
    vnodes: Vec<RecordedVnode>,
}

#[derive(Deserialize)]
struct RecordedVnode {
    range_end: i64,
    streams: Vec<String>,
}

#[derive(Deserialize)]
struct Partition {
    pk: String,
    token: i64,
    stream: String,
}

fn stream_id(text: &str) -> StreamId {
    let bits = u128::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    StreamId(bits.to_be_bytes())
}

fn recording() -> Recording {
    serde_json::from_str(include_str!("../../tests/golden/streams-5.1.19.json")).unwrap()
}

fn generation(recorded: &RecordedGeneration) -> Generation {
    let vnode = |vnode: &RecordedVnode| Vnode {
        range_end: Token(vnode.range_end),
        streams: vnode
            .streams
            .iter()
            .map(|stream| stream_id(stream))
            .collect(),
    };
    Generation {
        timestamp_ms: 0,
        listed_ms: 0,
        vnodes: recorded.vnodes.iter().map(vnode).collect(),
    }
}

#[test]
fn keys_have_the_recorded_token_and_vnode() {
    let recording = recording();
    let newest = generation(recording.generations.last().unwrap());
    assert_eq!(recording.partitions.len(), 300);
    for partition in &recording.partitions {
        let token = Token::of_key(partition.pk.as_bytes());
        assert_eq!(token, Token(partition.token), "token of {}", partition.pk);
        let stream = stream_id(&partition.stream);
        assert_eq!(
            newest.vnode_of(token),
            stream.vnode(),
            "vnode of {}",
            partition.pk
        );
    }
}

/// The recorded sets are ordered by id; ours by shard. The stream of a key is the one of its shard.
#[test]
fn keys_go_to_the_recorded_stream_once_streams_are_ordered_by_shard() {
    let recording = recording();
    let mut newest = generation(recording.generations.last().unwrap());
    for vnode in &mut newest.vnodes {
        let shards = vnode.streams.len() as u16;
        vnode
            .streams
            .sort_by_key(|stream| super::sharding::shard_of(stream.token(), shards));
    }
    for partition in &recording.partitions {
        let stream = newest.stream_of(Token(partition.token));
        assert_eq!(
            stream,
            stream_id(&partition.stream),
            "stream of {}",
            partition.pk
        );
    }
}

#[test]
fn stream_tokens_are_placed_as_recorded() {
    for recorded in &recording().generations {
        let recorded = generation(recorded);
        let ends = recorded
            .vnodes
            .iter()
            .map(|vnode| vnode.range_end)
            .collect();
        let ours = Generation::new(0, ends, 2, &SeededRandom::new(1));
        for (ours, recorded) in ours.vnodes.iter().zip(&recorded.vnodes) {
            let mut ours: Vec<_> = ours.streams.iter().map(StreamId::token).collect();
            let mut theirs: Vec<_> = recorded.streams.iter().map(StreamId::token).collect();
            ours.sort_unstable();
            theirs.sort_unstable();
            assert_eq!(ours, theirs);
        }
    }
}
