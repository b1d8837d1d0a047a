//! The cluster that the emulator pretends to be: nodes, ring, shards, CDC generations, clock.
//!
//! Invariants
//! 1. A seed fixes everything that looks random: tokens, host ids, stream ids.
//! 2. Every node has the same number of shards and of vnodes.
//!
//! Replication is not modelled: all nodes answer from one storage, and every consistency level is met.

pub mod clock;
pub mod generations;
pub mod sharding;
pub mod tablets;
pub mod token;

use std::net::IpAddr;
use std::sync::Arc;

use uuid::Uuid;

use self::clock::ClockHandle;
use self::generations::{Generation, Generations, StreamError, StreamId};
use self::tablets::Tablets;
use self::token::Token;
use crate::hooks::{Clock, Partitioner, Random, SeededRandom};
use crate::schema::{Catalog, TableSchema};

/// Name of the only datacenter.
pub const DATACENTER: &str = "datacenter1";
/// Name of the only rack.
pub const RACK: &str = "rack1";

/// How the cluster is laid out.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Number of nodes, at least one. Node n has the listening address plus n.
    pub nodes: u16,
    /// Vnodes (tokens) of each node, at least one.
    pub vnodes: u16,
    /// Shards of each node, at least one.
    pub shards: u16,
    /// Fixes everything that looks random.
    pub seed: u64,
    /// How long before the start the first CDC generation began, in milliseconds.
    pub first_generation_age_ms: i64,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            nodes: 1,
            vnodes: 4,
            shards: 2,
            seed: 1,
            first_generation_age_ms: 600_000,
        }
    }
}

/// A node of the cluster.
#[derive(Debug, Clone)]
pub struct Node {
    /// Address that clients use.
    pub address: IpAddr,
    /// Identity of the node.
    pub host_id: Uuid,
    /// The node's tokens, ascending.
    pub tokens: Vec<Token>,
}

/// Nodes, ring and CDC generations.
#[derive(Debug)]
pub struct Topology {
    /// The node that clients connect to comes first.
    pub nodes: Vec<Node>,
    /// Shards of each node.
    pub shards: u16,
    /// CDC generations, for keyspaces with vnodes.
    pub generations: Generations,
    /// CDC streams of the tables with tablets.
    pub tablets: Tablets,
    clock: ClockHandle,
    random: SeededRandom,
}

impl Topology {
    /// Lays out a cluster and publishes its first generation.
    pub fn new(layout: &Layout, address: IpAddr, clock: ClockHandle) -> Self {
        let random = SeededRandom::new(layout.seed);
        let nodes = (0..layout.nodes.max(1))
            .map(|index| {
                let mut tokens: Vec<_> = (0..layout.vnodes.max(1))
                    .map(|_| Token(random.next_u64() as i64))
                    .collect();
                tokens.sort_unstable();
                Node {
                    address: nth_address(address, index),
                    host_id: random_uuid(&random),
                    tokens,
                }
            })
            .collect();
        let topology = Self {
            nodes,
            shards: layout.shards.max(1),
            generations: Generations::default(),
            tablets: Tablets::default(),
            clock,
            random,
        };
        let now_ms = topology.clock.now_micros() / 1_000;
        topology.new_generation_at(now_ms - layout.first_generation_age_ms.max(0));
        topology
    }

    /// Makes new streams, valid from `timestamp_ms` milliseconds since the epoch on.
    pub fn new_generation_at(&self, timestamp_ms: i64) -> Arc<Generation> {
        self.generation_listed_at(timestamp_ms, i64::MIN)
    }

    /// Makes new streams that readers see listed from `listed_ms` on.
    pub(crate) fn generation_listed_at(
        &self,
        timestamp_ms: i64,
        listed_ms: i64,
    ) -> Arc<Generation> {
        let ends = self
            .nodes
            .iter()
            .flat_map(|node| node.tokens.iter().copied())
            .collect();
        self.generations.publish(Generation {
            listed_ms,
            ..Generation::new(timestamp_ms, ends, self.shards, &self.random)
        })
    }

    /// The stream for a row of a base table with `token` and write timestamp `write` (microseconds).
    pub fn stream_of(
        &self,
        table: Uuid,
        token: Token,
        write: i64,
    ) -> Result<StreamId, StreamError> {
        let now = self.clock.now_micros();
        if let Some(stream) = self.tablets.stream_of(table, token, write, now) {
            return stream;
        }
        Ok(self.generations.at(write, now)?.stream_of(token))
    }

    /// Makes streams for new tables with tablets and CDC, and forgets those of tables that are gone.
    pub(crate) fn follow_schema(&self, catalog: &Catalog) {
        let automatic = usize::from(self.shards) * self.nodes.len();
        let tables = catalog.keyspaces.values().filter_map(|keyspace| {
            let tablets = match keyspace.initial_tablets()? {
                0 => automatic,
                tablets => tablets.unsigned_abs() as usize,
            };
            let logged = keyspace.tables.values();
            let logged = logged.filter(|table| table.options.cdc().enabled);
            Some(logged.map(move |table| (table.id, &*table.keyspace, &*table.name, tablets)))
        });
        self.tablets
            .add(tables.flatten(), self.now_ms(), &self.random);
        self.tablets.retain(|keyspace, table, id| {
            catalog
                .table(keyspace, table)
                .is_some_and(|known| known.id == id)
        });
    }

    /// The server's time in milliseconds since the epoch.
    pub(crate) fn now_ms(&self) -> i64 {
        self.clock.now_micros().div_euclid(1_000)
    }

    /// The cluster's clock.
    pub fn clock(&self) -> &ClockHandle {
        &self.clock
    }

    /// The cluster's source of randomness.
    pub fn random(&self) -> &SeededRandom {
        &self.random
    }
}

/// A version 4 UUID.
pub(crate) fn random_uuid(random: &dyn Random) -> Uuid {
    let bits = (u128::from(random.next_u64()) << 64) | u128::from(random.next_u64());
    uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid()
}

/// Murmur3 for all tables but the CDC logs, whose token is the start of the stream id.
impl Partitioner for Topology {
    fn token(&self, table: &TableSchema, key_bytes: &[u8]) -> i64 {
        if crate::cdc::is_log_table(table) {
            Token::of_stream(key_bytes).0
        } else {
            Token::of_key(key_bytes).0
        }
    }
}

impl Random for Topology {
    fn next_u64(&self) -> u64 {
        self.random.next_u64()
    }
}

impl Clock for ClockHandle {
    fn now_micros(&self) -> i64 {
        Self::now_micros(self)
    }

    fn unique_micros(&self) -> i64 {
        Self::unique_micros(self)
    }
}

fn nth_address(base: IpAddr, index: u16) -> IpAddr {
    match base {
        IpAddr::V4(v4) => IpAddr::V4(u32::from(v4).wrapping_add(u32::from(index)).into()),
        IpAddr::V6(v6) => IpAddr::V6(u128::from(v6).wrapping_add(u128::from(index)).into()),
    }
}

#[cfg(test)]
mod golden;
