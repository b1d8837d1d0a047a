//! How far each stream group has come, kept in ScyllaDB.
//!
//! Owns the tables `checkpoints`, `windows` and `sources` of the relay's keyspace, and the compact form
//! of the published rows above W ([`published`]). Invariants:
//!
//! 1. The watermark of a group never moves back in the table: a save that would lower it is left
//!    out, and the client-side timestamps of the writes strictly increase, over restarts as well.
//!    [`Store::reset`] is the one exception: a person has asked for it, and no relay runs.
//! 2. What is loaded is what was saved: a form that cannot be read is an error, never an empty
//!    checkpoint.
//! 3. The groups of one table lie in [`BUCKETS`] partitions, so that one unlogged batch saves many
//!    groups; a batch has at most [`BATCH_ROWS`] rows and about [`BATCH_BYTES`] bytes.
//!
//! It does not decide what may be saved: only settled rows reach it, which is the source's duty.

pub mod published;
pub mod reset;
mod store;

pub use published::{FormError, OpenWindow, Published};
pub use store::{Error, Store};

use crate::ack::summary::Summary;
use crate::scylla::quoted;

/// Partitions over which the checkpoints of one table are spread.
pub const BUCKETS: i16 = 8;
/// Rows of one batch.
pub const BATCH_ROWS: usize = 100;
/// Bytes of one batch, about: well below the 128 KiB from which on ScyllaDB warns. A single group
/// with more is saved by itself.
pub const BATCH_BYTES: usize = 64 * 1024;

/// Which stream group of a table, over restarts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupKey {
    /// Timestamp of the generation, milliseconds since the Unix epoch.
    pub generation: i64,
    /// Names the group inside its generation (see `source::generations::StreamGroup::id`).
    pub group: Vec<u8>,
}

impl GroupKey {
    fn bucket(&self) -> i16 {
        crate::scylla::bucket(&self.group, BUCKETS)
    }
}

/// How far a stream group has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupCheckpoint {
    /// The group.
    pub key: GroupKey,
    /// W in microseconds since the Unix epoch: every row at or before it is durable.
    pub watermark: i64,
    /// Rows above W that are durable.
    pub published: Published,
    /// Whether the group has come to its end: its generation is over and all of it is durable.
    pub closed: bool,
}

/// What was published of a group in a stretch of the log below W.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Later than this microsecond since the Unix epoch.
    pub begin: i64,
    /// At or before this one.
    pub upto: i64,
    /// What was published.
    pub summary: Summary,
}

/// What is known of one table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Where the table's first start was, microseconds since the Unix epoch; `None` before it.
    pub start: Option<i64>,
    /// When the first start was, by the relay's clock, microseconds since the Unix epoch.
    pub started_at: Option<i64>,
    /// The groups, in no particular order.
    pub groups: Vec<GroupCheckpoint>,
    /// When each of `groups` was saved, by the clock of the relay that did, microseconds since the Unix
    /// epoch.
    pub saved_at: Vec<Option<i64>>,
}

/// The CQL that creates the tables in `keyspace`, which must exist. Each statement may be run
/// again.
pub fn ddl(keyspace: &str) -> Vec<(&'static str, String)> {
    let keyspace = quoted(keyspace);
    vec![
        (
            "checkpoints",
            format!(
                "CREATE TABLE IF NOT EXISTS {keyspace}.checkpoints (\n    \
             relay text,\n    \
             source text,\n    \
             bucket smallint,\n    \
             generation timestamp,\n    \
             stream_group blob,\n    \
             watermark bigint,\n    \
             published blob,\n    \
             closed boolean,\n    \
             PRIMARY KEY ((relay, source, bucket), generation, stream_group)\n)"
            ),
        ),
        (
            "windows",
            format!(
                "CREATE TABLE IF NOT EXISTS {keyspace}.windows (\n    \
             relay text,\n    \
             source text,\n    \
             generation timestamp,\n    \
             stream_group blob,\n    \
             begins bigint,\n    \
             ends bigint,\n    \
             published blob,\n    \
             PRIMARY KEY ((relay, source, generation, stream_group), begins)\n)"
            ),
        ),
        (
            "sources",
            format!(
                "CREATE TABLE IF NOT EXISTS {keyspace}.sources (\n    \
             relay text,\n    \
             source text,\n    \
             start bigint,\n    \
             PRIMARY KEY ((relay), source)\n)"
            ),
        ),
    ]
}

#[cfg(test)]
mod limit;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_of_a_group_never_changes() {
        let key = |group: &[u8]| GroupKey {
            generation: 1,
            group: group.to_vec(),
        };
        let buckets: Vec<i16> = [[0_u8; 8], [1; 8], [7; 8], [255; 8]]
            .iter()
            .map(|g| key(g).bucket())
            .collect();
        assert_eq!(buckets, [2, 2, 5, 3]);
        assert!((0..=255).all(|b| (0..BUCKETS).contains(&key(&[b]).bucket())));
    }

    #[test]
    fn names_are_quoted() {
        assert!(ddl("Own\"er")[0].1.contains("\"Own\"\"er\".checkpoints"));
    }
}
