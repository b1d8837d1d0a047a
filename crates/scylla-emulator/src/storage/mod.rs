//! Rows in ordered maps: what was written, what was deleted, what expires when.
//!
//! Invariants:
//! 1. Whatever the order in which mutations arrive, the same set of them gives the same live rows.
//! 2. Reading a range of a partition costs the logarithm of its rows plus the rows in the range.
//! 3. Memory follows the live data: expired cells, and tombstones older than the table's
//!    `gc_grace_seconds` or [`MAX_TOMBSTONE_AGE_SECONDS`], go when their partition is next compacted
//!    (after as many writes as it has rows, and [`COMPACT_AFTER`] at least; a small one that has been
//!    quiet for so long also when writes to other partitions come round to it, which then goes
//!    itself if nothing is left of it). Expired rows at the beginning of a large partition go when such
//!    writes come round to it, too.
//! 4. A veil hides a row from readers and from nobody else: it merges, expires and goes like any other.

mod cell;
mod key;
mod memory;
mod veil;

use std::ops::Bound;
use std::sync::Arc;

use uuid::Uuid;

pub use cell::{Cell, Column, Expiry, MultiCell, Row};
pub use key::{Part, PartitionPosition, RowPosition};
pub use memory::{MemoryStorage, Partition};
pub use veil::{ReadId, Veil};

use crate::mutation::Mutation;

/// Tombstones live no longer than this: a write that arrives with a timestamp older than that may
/// bring back what was deleted after it.
pub const MAX_TOMBSTONE_AGE_SECONDS: i64 = 3600;

/// A partition is not compacted before it got so many changes.
pub const COMPACT_AFTER: usize = 64;

/// Where rows are kept. Tables are known by their id; an unknown table is an empty one.
pub trait Storage: Send + Sync {
    /// Stores a mutation. `now_micros` is the server's time: TTLs count from it.
    fn apply(&mut self, mutation: &Mutation, now_micros: i64) {
        self.apply_under(mutation, None, now_micros);
    }

    /// Stores a mutation whose rows a veil hides.
    fn apply_under(&mut self, mutation: &Mutation, veil: Option<&Arc<Veil>>, now_micros: i64);

    /// One partition.
    fn partition(&self, table: Uuid, position: &PartitionPosition) -> Option<&Partition>;

    /// Partitions in token order.
    fn scan(
        &self,
        table: Uuid,
        from: Bound<PartitionPosition>,
        to: Bound<PartitionPosition>,
    ) -> Box<dyn Iterator<Item = (&PartitionPosition, &Partition)> + '_>;

    /// Forgets a table's rows.
    fn remove_table(&mut self, table: Uuid);
}
