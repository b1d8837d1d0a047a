//! What a mutation changes, merged by row and put into the order in which the log tells it.
//!
//! A batch may write a row several times with one timestamp. As in ScyllaDB, such writes are merged first: of a cell's
//! versions a deletion wins, then the greater bytes; collections are united cell by cell.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};

use crate::mutation::{CellChange, Change, ClusteringRange, Mutation, RowKey, Upsert};
use crate::schema::{ClusteringOrder, ColumnId, TableSchema};
use crate::types::{Value, encode};

/// Seconds to live; 0 is for ever.
type Ttl = i32;

/// A change of one column, with one TTL.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct ColumnDelta {
    /// An atomic value.
    pub(super) value: Option<Value>,
    /// The column, or the collection's former content, is deleted.
    pub(super) deleted: bool,
    /// Live cells of a collection.
    pub(super) added: Vec<(Value, Value)>,
    /// Keys of deleted cells of a collection.
    pub(super) removed: Vec<Value>,
}

/// One delta row (or two, for a range) of the log.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Delta {
    Upsert {
        row: RowKey,
        insert: bool,
        ttl: Ttl,
        cells: Vec<(ColumnId, ColumnDelta)>,
    },
    DeleteRow(Vec<Value>),
    DeleteRange(ClusteringRange),
    DeletePartition,
}

/// A row that a mutation touches, for its images.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Touched {
    pub(super) row: RowKey,
    /// The changed columns; all of them when the row is deleted.
    pub(super) columns: Option<Vec<ColumnId>>,
}

#[derive(Debug, Default)]
struct MergedCell {
    atomic: Option<(Option<Value>, Ttl)>,
    overwrite: bool,
    cells: BTreeMap<Value, (Option<Value>, Ttl)>,
}

#[derive(Debug, Default)]
struct MergedRow {
    marker: Option<Ttl>,
    deleted: bool,
    cells: BTreeMap<ColumnId, MergedCell>,
}

/// A mutation, merged.
#[derive(Debug)]
pub(super) struct Merged {
    fixed: Option<MergedRow>,
    rows: Vec<(Vec<Value>, MergedRow)>,
    ranges: Vec<ClusteringRange>,
    partition: bool,
}

impl Merged {
    pub(super) fn new(mutation: &Mutation) -> Self {
        let mut merged = Self {
            fixed: None,
            rows: Vec::new(),
            ranges: Vec::new(),
            partition: false,
        };
        let mut places: HashMap<Vec<u8>, usize> = HashMap::new();
        for change in &mutation.changes {
            match change {
                Change::Upsert(upsert) => merged.row(&mut places, &upsert.row).apply(upsert),
                Change::DeleteRow(key) => {
                    merged
                        .row(&mut places, &RowKey::Clustering(key.clone()))
                        .deleted = true;
                }
                Change::DeleteRange(range) => merged.ranges.push(range.clone()),
                Change::DeletePartition => merged.partition = true,
            }
        }
        merged
            .rows
            .sort_by(|(a, _), (b, _)| compare_keys(&mutation.table, a, b));
        merged
    }

    fn row(&mut self, places: &mut HashMap<Vec<u8>, usize>, row: &RowKey) -> &mut MergedRow {
        let RowKey::Clustering(key) = row else {
            return self.fixed.get_or_insert_default();
        };
        let bytes =
            crate::cluster::token::composite_key(&key.iter().map(encode).collect::<Vec<_>>());
        let at = *places.entry(bytes).or_insert_with(|| {
            self.rows.push((key.clone(), MergedRow::default()));
            self.rows.len() - 1
        });
        &mut self.rows[at].1
    }

    /// The rows that get images, the static row first.
    pub(super) fn touched(&self) -> Vec<Touched> {
        let fixed = self.fixed.as_ref().map(|row| Touched {
            row: RowKey::Static,
            columns: Some(row.cells.keys().copied().collect()),
        });
        let rows = self.rows.iter().map(|(key, row)| Touched {
            row: RowKey::Clustering(key.clone()),
            columns: (!row.deleted).then(|| row.cells.keys().copied().collect()),
        });
        fixed.into_iter().chain(rows).collect()
    }

    /// The deltas in the order of the log.
    pub(super) fn deltas(self) -> Vec<Delta> {
        if self.must_split() {
            self.split()
        } else {
            self.in_row_order()
        }
    }

    /// Whether kinds of changes or TTLs mix.
    fn must_split(&self) -> bool {
        let mut ttls: Vec<Ttl> = self.fixed.iter().flat_map(MergedRow::ttls).collect();
        let (mut upserts, mut markers) = (false, false);
        for (_, row) in &self.rows {
            if row.marker.is_some() || !row.cells.is_empty() {
                if self.fixed.is_some() {
                    return true;
                }
                upserts = true;
                markers |= row.marker.is_some();
                if markers
                    && row
                        .cells
                        .values()
                        .any(|cell| cell.cells.values().any(|c| c.0.is_some()))
                {
                    return true;
                }
                ttls.extend(row.ttls());
            }
            if row.deleted {
                if self.fixed.is_some() || upserts {
                    return true;
                }
                ttls.push(0);
            }
        }
        let rows = self.fixed.is_some() || !self.rows.is_empty();
        if !self.ranges.is_empty() && rows || self.partition && (rows || !self.ranges.is_empty()) {
            return true;
        }
        ttls.windows(2).any(|pair| pair[0] != pair[1])
    }

    fn in_row_order(self) -> Vec<Delta> {
        let mut deltas = Vec::with_capacity(self.rows.len() + self.ranges.len() + 2);
        deltas.extend(
            self.fixed
                .into_iter()
                .flat_map(|row| row.upserts(&RowKey::Static)),
        );
        for (key, row) in self.rows {
            let deleted = row.deleted.then(|| Delta::DeleteRow(key.clone()));
            deltas.extend(row.upserts(&RowKey::Clustering(key)));
            deltas.extend(deleted);
        }
        deltas.extend(self.ranges.into_iter().map(Delta::DeleteRange));
        deltas.extend(self.partition.then_some(Delta::DeletePartition));
        deltas
    }

    fn split(self) -> Vec<Delta> {
        let rank = |delta: &Delta| match delta {
            Delta::Upsert {
                row: RowKey::Static,
                ..
            } => 0,
            Delta::Upsert { insert: true, .. } => 1,
            Delta::Upsert { .. } => 2,
            Delta::DeleteRow(_) => 3,
            Delta::DeleteRange(_) => 4,
            Delta::DeletePartition => 5,
        };
        let mut deltas = self.in_row_order();
        deltas.sort_by_key(rank);
        deltas
    }
}

impl MergedRow {
    fn apply(&mut self, upsert: &Upsert) {
        let ttl = upsert.ttl.unwrap_or(0).max(0);
        if upsert.row_marker {
            self.marker = self.marker.max(Some(ttl));
        }
        for (column, change) in &upsert.cells {
            self.cells.entry(*column).or_default().apply(change, ttl);
        }
    }

    fn ttls(&self) -> impl Iterator<Item = Ttl> {
        self.marker
            .into_iter()
            .chain(self.cells.values().flat_map(MergedCell::ttls))
    }

    /// One upsert for each TTL, in increasing order; the marker belongs to the one with its TTL. The live cells of a
    /// collection cannot be part of an insert without the deletion of what was there before.
    fn upserts(self, key: &RowKey) -> Vec<Delta> {
        let mut by_ttl = ByTtl::new();
        if let Some(ttl) = self.marker {
            by_ttl.entry(ttl).or_default();
        }
        for (column, cell) in self.cells {
            match cell.atomic {
                Some((Some(value), ttl)) => slot(&mut by_ttl, column, ttl).value = Some(value),
                Some((None, _)) => slot(&mut by_ttl, column, 0).deleted = true,
                None => {}
            }
            if cell.overwrite {
                slot(&mut by_ttl, column, 0).deleted = true;
            }
            for (cell_key, (value, ttl)) in cell.cells {
                match value {
                    Some(value) => slot(&mut by_ttl, column, ttl).added.push((cell_key, value)),
                    None => slot(&mut by_ttl, column, 0).removed.push(cell_key),
                }
            }
        }
        let mut deltas = Vec::with_capacity(by_ttl.len());
        for (ttl, cells) in by_ttl {
            let insert = self.marker == Some(ttl);
            let upsert = |insert, cells: BTreeMap<_, _>| Delta::Upsert {
                row: key.clone(),
                insert,
                ttl,
                cells: cells.into_iter().collect(),
            };
            if !insert {
                deltas.push(upsert(false, cells));
                continue;
            }
            let (updates, inserts): (BTreeMap<_, _>, BTreeMap<_, _>) =
                cells.into_iter().partition(|(_, delta)| {
                    !(delta.deleted || delta.added.is_empty() && delta.removed.is_empty())
                });
            deltas.push(upsert(true, inserts));
            if !updates.is_empty() {
                deltas.push(upsert(false, updates));
            }
        }
        deltas
    }
}

/// Column changes by their TTL.
type ByTtl = BTreeMap<Ttl, BTreeMap<ColumnId, ColumnDelta>>;

fn slot(by_ttl: &mut ByTtl, column: ColumnId, ttl: Ttl) -> &mut ColumnDelta {
    by_ttl.entry(ttl).or_default().entry(column).or_default()
}

impl MergedCell {
    fn apply(&mut self, change: &CellChange, ttl: Ttl) {
        match change {
            CellChange::Set(value) => self.merge_atomic(Some(value), ttl),
            CellChange::Delete => self.merge_atomic(None, 0),
            CellChange::Multi(multi) => {
                self.overwrite |= multi.overwrite;
                for (key, value) in &multi.cells {
                    let new = (value.clone(), if value.is_some() { ttl } else { 0 });
                    match self.cells.get_mut(key) {
                        Some(old) if wins(new.0.as_ref(), old.0.as_ref()) => *old = new,
                        Some(_) => {}
                        None => {
                            self.cells.insert(key.clone(), new);
                        }
                    }
                }
            }
        }
    }

    fn merge_atomic(&mut self, value: Option<&Value>, ttl: Ttl) {
        let keep = self
            .atomic
            .as_ref()
            .is_some_and(|(old, _)| !wins(value, old.as_ref()));
        if !keep {
            self.atomic = Some((value.cloned(), ttl));
        }
    }

    fn ttls(&self) -> impl Iterator<Item = Ttl> {
        self.atomic
            .iter()
            .map(|(_, ttl)| *ttl)
            .chain(self.overwrite.then_some(0))
            .chain(self.cells.values().map(|(_, ttl)| *ttl))
    }
}

/// Whether `new` replaces `old` at the same timestamp: a deletion wins, then the greater bytes.
fn wins(new: Option<&Value>, old: Option<&Value>) -> bool {
    match (new, old) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(new), Some(old)) => encode(new) >= encode(old),
    }
}

/// The table's clustering order.
pub(super) fn compare_keys(table: &TableSchema, a: &[Value], b: &[Value]) -> Ordering {
    for ((a, b), column) in a.iter().zip(b).zip(table.clustering_key()) {
        let order = match column.order {
            ClusteringOrder::Asc => a.cmp(b),
            ClusteringOrder::Desc => b.cmp(a),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    Ordering::Equal
}
