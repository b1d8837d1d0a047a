//! The one implementation of [`Storage`].

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use uuid::Uuid;

use super::cell::{Cell, Expiry, NEVER, Row};
use super::veil::Veil;
use super::{COMPACT_AFTER, MAX_TOMBSTONE_AGE_SECONDS, PartitionPosition, RowPosition, Storage};
use crate::mutation::{CellChange, Change, Mutation, RowKey, Upsert};
use crate::schema::{ColumnId, TableSchema};
use crate::types::Value;

/// Partitions of a table that are looked at after each of its mutations.
const SWEEP: usize = 2;

/// Seconds until a partition that is not written is compacted again.
const COMPACT_AGAIN: i64 = 60;

/// Rows at the beginning of a partition that are looked at each time.
const TRIM: usize = 128;

/// Tables in memory.
#[derive(Debug, Default)]
pub struct MemoryStorage {
    tables: HashMap<Uuid, Partitions>,
}

/// The partitions of a table.
#[derive(Debug, Default)]
struct Partitions {
    map: BTreeMap<PartitionPosition, Partition>,
    /// Up to here the current round of the sweep has come.
    swept: Option<PartitionPosition>,
}

impl Partitions {
    /// Compacts the next few partitions that have been quiet for as long as tombstones live, and
    /// forgets those of which nothing is left. Large ones only lose expired rows at their beginning.
    fn sweep(&mut self, table: &TableSchema, now_micros: i64) {
        let now_seconds = now_micros.div_euclid(1_000_000);
        let quiet_since = now_seconds - tombstone_age_seconds(table);
        let from = match self.swept.take() {
            Some(last) => Bound::Excluded(last),
            None => Bound::Unbounded,
        };
        let mut last = None;
        let mut empty = Vec::new();
        for (position, partition) in self.map.range_mut((from, Bound::Unbounded)).take(SWEEP) {
            last = Some(position.clone());
            let is_large = partition.rows.len() > COMPACT_AFTER;
            if is_large || partition.changed_seconds < quiet_since {
                partition.trim(table, now_micros);
            }
            if !is_large && partition.is_due(quiet_since, now_seconds) {
                partition.compact(table, now_micros);
                if partition.is_empty() {
                    empty.push(position.clone());
                }
            }
        }
        for position in empty {
            self.map.remove(&position);
        }
        self.swept = last;
    }
}

/// The rows of a partition.
#[derive(Debug)]
pub struct Partition {
    /// The partition key's components.
    pub key: Vec<Value>,
    /// The static row.
    pub static_row: Row,
    rows: BTreeMap<RowPosition, Row>,
    /// No row has a larger prefix: a read behind the last row, as of the end of a CDC log, need not look at the rows.
    last_prefix: u64,
    deleted: i64,
    /// Deleted ranges, still needed for writes that come late.
    ranges: Vec<(RowPosition, RowPosition, i64)>,
    changes_since_compaction: usize,
    /// The server's time of the latest change.
    changed_seconds: i64,
    /// The server's time of the latest compaction.
    compacted_seconds: i64,
}

/// How long tombstones of a table live.
fn tombstone_age_seconds(table: &TableSchema) -> i64 {
    MAX_TOMBSTONE_AGE_SECONDS.min(i64::from(table.options.gc_grace_seconds))
}

impl Partition {
    fn new(key: Vec<Value>) -> Self {
        Self {
            key,
            static_row: Row::default(),
            rows: BTreeMap::new(),
            last_prefix: 0,
            deleted: NEVER,
            ranges: Vec::new(),
            changes_since_compaction: 0,
            changed_seconds: NEVER,
            compacted_seconds: NEVER,
        }
    }

    /// One row, live or not.
    pub fn row(&self, position: &RowPosition) -> Option<&Row> {
        self.rows.get(position)
    }

    /// Rows between two bounds in clustering order, live or not; nothing when they are crossed.
    pub fn rows(
        &self,
        from: Bound<&RowPosition>,
        to: Bound<&RowPosition>,
    ) -> impl DoubleEndedIterator<Item = (&RowPosition, &Row)> {
        let crossed = match (&from, &to) {
            (Bound::Excluded(a), Bound::Excluded(b)) => a >= b,
            (Bound::Included(a) | Bound::Excluded(a), Bound::Included(b) | Bound::Excluded(b)) => {
                a > b
            }
            _ => false,
        };
        let behind = match from {
            Bound::Included(from) | Bound::Excluded(from) => from.is_behind(self.last_prefix),
            Bound::Unbounded => false,
        };
        (!crossed && !behind)
            .then(|| self.rows.range::<RowPosition, _>((from, to)))
            .into_iter()
            .flatten()
    }

    fn apply(&mut self, mutation: &Mutation, veil: Option<&Arc<Veil>>, now_seconds: i64) {
        let table = &mutation.table;
        let timestamp = mutation.timestamp_micros;
        self.changed_seconds = self.changed_seconds.max(now_seconds);
        for change in &mutation.changes {
            self.changes_since_compaction += 1;
            match change {
                Change::DeletePartition => self.delete_partition(timestamp),
                Change::DeleteRow(key) => {
                    let position = RowPosition::row(table, key);
                    if timestamp > self.deleted_at(&position) {
                        self.last_prefix = self.last_prefix.max(position.prefix());
                        self.rows.entry(position).or_default().delete(timestamp);
                    }
                }
                Change::DeleteRange(range) => {
                    let (start, end) = RowPosition::range(table, range);
                    if timestamp > self.deleted && start < end {
                        self.delete_range(start, end, timestamp);
                    }
                }
                Change::Upsert(upsert) => {
                    if let Some(row) = self.upsert(table, upsert, timestamp, now_seconds)
                        && let Some(veil) = veil
                    {
                        row.veil = Some(Arc::clone(veil));
                    }
                }
            }
        }
    }

    fn delete_partition(&mut self, timestamp: i64) {
        if timestamp <= self.deleted {
            return;
        }
        self.deleted = timestamp;
        self.static_row.shadow(timestamp);
        self.ranges.retain(|(_, _, deleted)| *deleted > timestamp);
        self.rows.retain(|_, row| {
            row.shadow(timestamp);
            row.deleted > timestamp || row.marker.is_some() || !row.columns.is_empty()
        });
    }

    fn delete_range(&mut self, start: RowPosition, end: RowPosition, timestamp: i64) {
        let range = (Bound::Included(start.clone()), Bound::Included(end.clone()));
        for (_, row) in self.rows.range_mut(range) {
            row.shadow(timestamp);
        }
        // What the new range covers is not needed any more.
        self.ranges
            .retain(|(s, e, t)| !(start <= *s && *e <= end && *t <= timestamp));
        self.ranges.push((start, end, timestamp));
    }

    /// The latest deletion that covers a row, its own excluded.
    fn deleted_at(&self, position: &RowPosition) -> i64 {
        let covering = self
            .ranges
            .iter()
            .filter(|(s, e, _)| s < position && position < e);
        covering
            .map(|(_, _, timestamp)| *timestamp)
            .fold(self.deleted, i64::max)
    }

    /// Writes cells to a row; `None` when the row was deleted later.
    fn upsert(
        &mut self,
        table: &TableSchema,
        upsert: &Upsert,
        timestamp: i64,
        now_seconds: i64,
    ) -> Option<&mut Row> {
        let row = match &upsert.row {
            RowKey::Static if timestamp <= self.deleted => return None,
            RowKey::Static => &mut self.static_row,
            RowKey::Clustering(key) => {
                let position = RowPosition::row(table, key);
                if timestamp <= self.deleted_at(&position) {
                    return None;
                }
                self.last_prefix = self.last_prefix.max(position.prefix());
                self.rows.entry(position).or_default()
            }
        };
        let expiry = upsert.ttl.filter(|ttl| *ttl > 0).map(|ttl| Expiry {
            at_seconds: now_seconds.saturating_add(i64::from(ttl)),
            ttl,
        });
        let cell = |value: Option<Value>| Cell {
            timestamp,
            expiry: if value.is_some() { expiry } else { None },
            value,
        };
        if upsert.row_marker {
            row.merge_marker(cell(Some(Value::Empty)));
        }
        for (id, change) in &upsert.cells {
            write_cell(row, table, *id, change, timestamp, &cell);
        }
        Some(row)
    }

    fn is_empty(&self) -> bool {
        self.rows.is_empty()
            && self.static_row.is_empty()
            && self.ranges.is_empty()
            && self.deleted == NEVER
    }

    /// Whether a compaction may find something that the latest one did not, in a partition that has been quiet.
    fn is_due(&self, quiet_since: i64, now_seconds: i64) -> bool {
        self.changed_seconds < quiet_since
            && (self.rows.is_empty()
                || self.compacted_seconds <= self.changed_seconds
                || now_seconds.saturating_sub(self.compacted_seconds) >= COMPACT_AGAIN)
    }

    /// Forgets some rows at the beginning that have expired: rows of a CDC log expire in the order of their keys, and
    /// a stream that was closed gets no writes that would compact it.
    fn trim(&mut self, table: &TableSchema, now_micros: i64) {
        let tombstones = now_micros - tombstone_age_seconds(table).saturating_mul(1_000_000);
        let now_seconds = now_micros.div_euclid(1_000_000);
        for _ in 0..TRIM {
            let Some(mut first) = self.rows.first_entry() else {
                return;
            };
            if first.get_mut().purge(now_seconds, tombstones) {
                return;
            }
            first.remove();
        }
    }

    fn compact(&mut self, table: &TableSchema, now_micros: i64) {
        self.changes_since_compaction = 0;
        let now_seconds = now_micros.div_euclid(1_000_000);
        self.compacted_seconds = now_seconds;
        let age = tombstone_age_seconds(table);
        let tombstones = now_micros.saturating_sub(age.saturating_mul(1_000_000));
        self.static_row.purge(now_seconds, tombstones);
        self.rows
            .retain(|_, row| row.purge(now_seconds, tombstones));
        self.ranges
            .retain(|(_, _, timestamp)| *timestamp > tombstones);
        if self.deleted <= tombstones {
            self.deleted = NEVER;
        }
    }
}

fn write_cell(
    row: &mut Row,
    table: &TableSchema,
    id: ColumnId,
    change: &CellChange,
    timestamp: i64,
    cell: &impl Fn(Option<Value>) -> Cell,
) {
    match change {
        CellChange::Set(value) => row.merge_atomic(id, cell(Some(value.clone()))),
        CellChange::Delete => {
            if table
                .column_by_id(id)
                .is_some_and(|column| column.ty.is_multi_cell())
            {
                row.delete_multi(id, timestamp);
            } else {
                row.merge_atomic(id, cell(None));
            }
        }
        CellChange::Multi(multi) => {
            if multi.overwrite {
                // One less, so that the cells of this very write are not deleted.
                row.delete_multi(id, timestamp.saturating_sub(1));
            }
            for (key, value) in &multi.cells {
                row.merge_multi(id, key.clone(), cell(value.clone()));
            }
        }
    }
}

impl Storage for MemoryStorage {
    fn apply_under(&mut self, mutation: &Mutation, veil: Option<&Arc<Veil>>, now_micros: i64) {
        let position = PartitionPosition {
            token: mutation.token,
            key: mutation.key_bytes.clone(),
        };
        let partitions = self.tables.entry(mutation.table.id).or_default();
        let partition = partitions
            .map
            .entry(position)
            .or_insert_with(|| Partition::new(mutation.partition_key.clone()));
        partition.apply(mutation, veil, now_micros.div_euclid(1_000_000));
        if partition.changes_since_compaction > COMPACT_AFTER.max(partition.rows.len()) {
            partition.compact(&mutation.table, now_micros);
        }
        partitions.sweep(&mutation.table, now_micros);
    }

    fn partition(&self, table: Uuid, position: &PartitionPosition) -> Option<&Partition> {
        self.tables.get(&table)?.map.get(position)
    }

    fn scan(
        &self,
        table: Uuid,
        from: Bound<PartitionPosition>,
        to: Bound<PartitionPosition>,
    ) -> Box<dyn Iterator<Item = (&PartitionPosition, &Partition)> + '_> {
        let crossed = match (&from, &to) {
            (Bound::Excluded(a), Bound::Excluded(b)) => a >= b,
            (Bound::Included(a) | Bound::Excluded(a), Bound::Included(b) | Bound::Excluded(b)) => {
                a > b
            }
            _ => false,
        };
        match self.tables.get(&table) {
            Some(partitions) if !crossed => Box::new(partitions.map.range((from, to))),
            _ => Box::new(std::iter::empty()),
        }
    }

    fn remove_table(&mut self, table: Uuid) {
        self.tables.remove(&table);
    }
}
