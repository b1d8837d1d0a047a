//! Events that could not be published, kept in ScyllaDB until they are replayed or discarded.
//!
//! Owns the tables `dead_letters` and `requests` of the relay's keyspace, which keys are parked
//! ([`parking`]), and the replay ([`replay`]). Invariants:
//!
//! 1. A dead letter is known by its place in the log: writing it again, after a crash, changes
//!    nothing of why it is here.
//! 2. The dead letters of a key are read, and replayed, in the order of their places.
//! 3. A replayed event is removed only after Kafka has acknowledged it.
//! 4. A parked key is released only when none of its dead letters is left.
//! 5. A dead letter has all that its event needs to be published: a record, or the columns of its
//!    row ([`row`]). It does not need the CDC log, whose rows end.
//!
//! It does not decide what becomes a dead letter: the pipeline does.

mod census;
pub mod extent;
pub mod filter;
pub mod find;
pub mod letter;
pub mod parking;
pub mod recode;
pub mod replay;
pub mod requests;
pub mod row;
pub mod store;
pub mod task;
pub mod types;
pub mod view;

use futures::future::BoxFuture;
use std::sync::Arc;

use crate::event::TableId;

pub use letter::{DeadLetter, Failure, Label, Place, Reason};
pub use parking::Parking;
pub use row::KeptRow;
pub use store::{Error, Store};

/// What of the dead letters a relay has to know when it starts.
#[derive(Debug)]
pub struct Loaded {
    /// The keys that are parked.
    pub parking: Parking,
    /// Whether some were exhausted, so that a replay may help.
    pub exhausted: bool,
}

/// How many dead letters there are, by reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census([u64; Reason::ALL.len()]);

impl Census {
    /// Counts one more, by what its column `reason` holds: nothing if it only joined others. One of a
    /// later version, whose reason is not known, counts as one for a person.
    pub fn add(&mut self, reason: Option<&str>) {
        let reason = reason.map_or(Ok(Reason::Parked), str::parse);
        self.0[Self::index(reason.unwrap_or(Reason::Permanent))] += 1;
    }

    /// How many there are of this reason.
    pub fn of(&self, reason: Reason) -> u64 {
        self.0[Self::index(reason)]
    }

    fn index(reason: Reason) -> usize {
        reason as usize
    }
}

/// Looks for parked keys of these outbox tables, which are in the order of their ids.
///
/// # Errors
///
/// When they cannot be read.
pub async fn load(store: &Store, tables: &[String], limit: usize) -> Result<Loaded, Error> {
    let mut parking = Parking::new(limit);
    let mut exhausted = false;
    for (index, table) in tables.iter().enumerate() {
        let table_id = TableId(index as u16);
        let park = |parked: store::ParkedKey| {
            exhausted |= parked.exhausted;
            parking.park(table_id, &parked.key);
        };
        store.parked_keys(table, park).await?;
    }
    if !parking.is_empty() {
        tracing::warn!(
            keys = parking.len(),
            "keys are parked: they have dead letters; see `outbox-relay dead-letters`"
        );
    }
    Ok(Loaded { parking, exhausted })
}

/// Where the pipeline puts dead letters.
pub trait Keep: Send + Sync {
    /// Keeps a dead letter; when this returns, it is durable. May be called again with the same.
    fn keep(&self, letter: Arc<DeadLetter>) -> BoxFuture<'static, Result<(), Error>>;

    /// The timestamp of a new dead letter: above all before.
    fn stamp(&self) -> i64;
}

#[cfg(test)]
mod tests;
