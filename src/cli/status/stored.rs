//! What the database says of a relay.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use scylla::client::session::Session;

use super::live::{Group, Groups};
use crate::checkpoint::{self, GroupCheckpoint};
use crate::cli::moment::{now, rfc3339};
use crate::config::{Config, TableName};
use crate::dead_letters::replay::Action;
use crate::dead_letters::requests::Requests;
use crate::dead_letters::{self, Reason};
use crate::ownership::look::{Owner, look};
use crate::scylla as cluster;
use crate::source::generations::Generations;

/// How much is read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Groups of a table that are listed, if any.
    pub(super) groups: Option<usize>,
    /// Dead letters of a table that are counted.
    pub(super) dead_letters: u64,
}

/// What is stored.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) owner: Option<Owner>,
    pub(super) requests: Vec<Request>,
    pub(super) tables: Vec<Table>,
}

/// A request that has not ended.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) id: String,
    /// `replay`, `discard`, or `unknown`.
    pub(super) action: &'static str,
}

/// What is stored of one table. Times are microseconds since the Unix epoch.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) name: String,
    /// Generations of which something is stored and that are not read to their end.
    pub(super) generations: usize,
    /// Their groups that are not read to their end.
    pub(super) open: usize,
    pub(super) oldest: Option<i64>,
    pub(super) newest: Option<i64>,
    /// How long the log keeps rows, in seconds; none if for ever, or if there is no log.
    pub(super) ttl: Option<f64>,
    pub(super) dead_letters: DeadLetters,
    pub(super) groups: Option<Groups>,
}

impl Table {
    /// How far W is behind, in seconds.
    pub(super) fn lag(&self, now: i64) -> Option<f64> {
        self.oldest.map(|oldest| seconds(now - oldest))
    }

    /// How long it takes until rows that are not settled expire, in seconds.
    pub(super) fn expires_in(&self, now: i64) -> Option<f64> {
        Some(self.ttl? - self.lag(now)?)
    }
}

/// Dead letters by reason.
#[derive(Debug, Clone, Default)]
pub(super) struct DeadLetters {
    pub(super) counts: BTreeMap<&'static str, u64>,
    /// Whether all were counted.
    pub(super) complete: bool,
}

impl DeadLetters {
    pub(super) fn total(&self) -> u64 {
        self.counts.values().sum()
    }
}

fn seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}

impl Stored {
    pub(super) async fn read(config: &Config, limits: Limits) -> Result<Self> {
        let session = Arc::new(cluster::connect(&config.scylla).await?);
        let (keyspace, relay) = (&config.scylla.keyspace, &config.relay.name);
        let checkpoints = checkpoint::Store::new(Arc::clone(&session), keyspace, relay).await?;
        let letters = dead_letters::Store::new(Arc::clone(&session), keyspace, relay).await?;
        let requests = Requests::new(Arc::clone(&session), keyspace, relay).await?;
        let mut tables = Vec::new();
        for outbox in &config.outboxes {
            let table = Reader {
                session: &session,
                checkpoints: &checkpoints,
                letters: &letters,
                table: &outbox.table,
                limits,
            };
            let read = table.read().await;
            tables.push(read.with_context(|| format!("look at {}", outbox.table))?);
        }
        let open = requests.open().await?.into_iter();
        let request = |request: dead_letters::requests::Request| Request {
            id: request.id.to_string(),
            action: match request.order.map(|order| order.action) {
                Ok(Action::Replay) => "replay",
                Ok(Action::Discard) => "discard",
                Err(_) => "unknown",
            },
        };
        Ok(Self {
            owner: look(&session, keyspace, relay).await?,
            requests: open.map(request).collect(),
            tables,
        })
    }
}

struct Reader<'c> {
    session: &'c Arc<Session>,
    checkpoints: &'c checkpoint::Store,
    letters: &'c dead_letters::Store,
    table: &'c TableName,
    limits: Limits,
}

impl Reader<'_> {
    async fn read(&self) -> Result<Table> {
        let described = cluster::describe_table(self.session, self.table).await?;
        let ttl = described.and_then(|table| table.cdc).map(|cdc| cdc.ttl);
        let loaded = self.checkpoints.load(self.table).await?;
        let mut open: Vec<GroupCheckpoint> = loaded.groups;
        let listed = Generations::of(Arc::clone(self.session), self.table.clone())
            .await?
            .timestamps()
            .await?;
        // What ScyllaDB lists no more has expired: nobody reads it.
        open.retain(|group| !group.closed && listed.contains(&group.key.generation));
        open.sort_by(|a, b| (a.watermark, &a.key).cmp(&(b.watermark, &b.key)));
        let mut generations: Vec<i64> = open.iter().map(|group| group.key.generation).collect();
        generations.sort_unstable();
        generations.dedup();
        let groups = match self.limits.groups {
            Some(limit) => Some(self.groups(&open, limit).await?),
            None => None,
        };
        Ok(Table {
            name: self.table.to_string(),
            generations: generations.len(),
            open: open.len(),
            oldest: open.first().map(|group| group.watermark),
            newest: open.last().map(|group| group.watermark),
            ttl: ttl
                .filter(|ttl| !ttl.is_zero())
                .map(|ttl| ttl.as_secs_f64()),
            dead_letters: self.dead_letters().await?,
            groups,
        })
    }

    /// The groups that are furthest behind, with their tokens.
    async fn groups(&self, open: &[GroupCheckpoint], limit: usize) -> Result<Groups> {
        let generations = Generations::of(Arc::clone(self.session), self.table.clone()).await?;
        let mut known = BTreeMap::new();
        let mut groups = Vec::new();
        let now = now();
        for checkpoint in open.iter().take(limit) {
            let timestamp = checkpoint.key.generation;
            if let std::collections::btree_map::Entry::Vacant(entry) = known.entry(timestamp) {
                entry.insert(generations.groups(timestamp).await?);
            }
            let of = known.get(&timestamp).into_iter().flatten();
            let group = of
                .into_iter()
                .find(|group| group.id == checkpoint.key.group);
            groups.push(Group {
                generation: rfc3339(timestamp.saturating_mul(1_000)),
                range_end: group.map(|group| group.range_end),
                streams: group.map(|group| group.streams.len() as u64),
                watermark: Some(rfc3339(checkpoint.watermark)),
                lag_seconds: Some(seconds(now - checkpoint.watermark)),
            });
        }
        Ok(Groups {
            groups,
            more: open.len() > limit,
        })
    }

    async fn dead_letters(&self) -> Result<DeadLetters> {
        let mut counts: BTreeMap<&'static str, u64> = Reason::ALL
            .iter()
            .map(|reason| (reason.name(), 0))
            .collect();
        let mut left = self.limits.dead_letters;
        for bucket in 0..dead_letters::store::BUCKETS {
            let mut walk = self.letters.walk(&self.table.to_string(), bucket).await?;
            while let Some(letter) = walk.next().await? {
                if left == 0 {
                    return Ok(DeadLetters {
                        counts,
                        complete: false,
                    });
                }
                left -= 1;
                *counts.entry(letter.reason.name()).or_default() += 1;
            }
        }
        Ok(DeadLetters {
            counts,
            complete: true,
        })
    }
}
