//! Cells and rows, and which of two writes wins.
//!
//! Invariants:
//! 1. Merging is commutative, associative and idempotent: the order in which writes arrive does
//!    not matter.
//! 2. The later timestamp wins. At the same timestamp a deletion wins over a value, the larger
//!    value over the smaller one, a value that expires over one that does not.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::veil::Veil;
use crate::mutation::{ReadCell, ReadRow};
use crate::schema::{ColumnId, TableSchema};
use crate::types::{Value, encode};

/// The timestamp of "never deleted".
pub(super) const NEVER: i64 = i64::MIN;

/// When a value ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expiry {
    /// Seconds since the epoch.
    pub at_seconds: i64,
    /// The TTL it was written with, in seconds.
    pub ttl: i32,
}

/// A value with its timestamp; no value for a deletion.
#[derive(Debug, Clone)]
pub struct Cell {
    /// The write timestamp in microseconds.
    pub timestamp: i64,
    /// The value; `None` for a deletion.
    pub value: Option<Value>,
    /// When it ends.
    pub expiry: Option<Expiry>,
}

impl Cell {
    /// The value at that time.
    pub fn live(&self, now_seconds: i64) -> Option<&Value> {
        match self.expiry {
            Some(expiry) if expiry.at_seconds <= now_seconds => None,
            _ => self.value.as_ref(),
        }
    }

    fn wins_over(&self, other: &Self) -> bool {
        if self.timestamp != other.timestamp {
            return self.timestamp > other.timestamp;
        }
        match (&self.value, &other.value) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(a), Some(b)) => encode(a)
                .cmp(&encode(b))
                .then_with(|| self.expiry.cmp(&other.expiry))
                .is_gt(),
        }
    }
}

/// The cells of a collection or user type.
#[derive(Debug, Clone)]
pub struct MultiCell {
    /// Cells up to this timestamp are deleted.
    pub deleted: i64,
    /// The cells by key.
    pub cells: BTreeMap<Value, Cell>,
}

/// A column of a row.
#[derive(Debug, Clone)]
pub enum Column {
    /// One cell.
    Atomic(Cell),
    /// Many cells.
    Multi(MultiCell),
}

impl Column {
    /// The value at that time, as a reader sees it.
    pub fn read(&self, now_seconds: i64) -> Option<ReadCell> {
        match self {
            Self::Atomic(cell) => cell.live(now_seconds).cloned().map(ReadCell::Value),
            Self::Multi(multi) => {
                let live = multi.cells.iter();
                let live: Vec<_> = live
                    .filter_map(|(key, cell)| Some((key.clone(), cell.live(now_seconds)?.clone())))
                    .collect();
                (!live.is_empty()).then_some(ReadCell::Multi(live))
            }
        }
    }

    /// Whether anything of it lives at that time.
    pub fn is_live(&self, now_seconds: i64) -> bool {
        match self {
            Self::Atomic(cell) => cell.live(now_seconds).is_some(),
            Self::Multi(multi) => multi
                .cells
                .values()
                .any(|cell| cell.live(now_seconds).is_some()),
        }
    }
}

/// A row, or the static row.
#[derive(Debug, Clone)]
pub struct Row {
    /// What an INSERT leaves beside its cells (its value is [`Value::Empty`]).
    pub marker: Option<Cell>,
    /// Everything up to this timestamp is deleted.
    pub deleted: i64,
    /// Columns by id, sorted.
    pub columns: Vec<(ColumnId, Column)>,
    /// What hides the row from readers, or did.
    pub veil: Option<Arc<Veil>>,
}

impl Default for Row {
    fn default() -> Self {
        Self {
            marker: None,
            deleted: NEVER,
            columns: Vec::new(),
            veil: None,
        }
    }
}

impl Row {
    /// A column.
    pub fn column(&self, id: ColumnId) -> Option<&Column> {
        let at = self.columns.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(&self.columns[at].1)
    }

    /// Whether a reader sees the row.
    pub fn is_live(&self, now_seconds: i64) -> bool {
        self.marker
            .as_ref()
            .is_some_and(|marker| marker.live(now_seconds).is_some())
            || self
                .columns
                .iter()
                .any(|(_, column)| column.is_live(now_seconds))
    }

    /// Whether a reader sees the row, if it is live.
    pub fn is_visible(&self, now_micros: i64) -> bool {
        self.veil
            .as_ref()
            .is_none_or(|veil| !veil.hides_at(now_micros))
    }

    /// The row as a reader sees it.
    pub fn read(&self, table: &TableSchema, now_seconds: i64) -> Option<ReadRow> {
        if !self.is_live(now_seconds) {
            return None;
        }
        let cells = self.columns.iter();
        let cells = cells
            .filter(|(id, _)| table.column_by_id(*id).is_some())
            .filter_map(|(id, column)| Some((*id, column.read(now_seconds)?)));
        Some(ReadRow {
            cells: cells.collect(),
        })
    }

    /// Deletes everything up to `timestamp`.
    pub(super) fn delete(&mut self, timestamp: i64) {
        self.deleted = self.deleted.max(timestamp);
        self.shadow(timestamp);
    }

    /// Removes what a deletion at `timestamp` covers.
    pub(super) fn shadow(&mut self, timestamp: i64) {
        if self
            .marker
            .as_ref()
            .is_some_and(|marker| marker.timestamp <= timestamp)
        {
            self.marker = None;
        }
        self.columns.retain_mut(|(_, column)| match column {
            Column::Atomic(cell) => cell.timestamp > timestamp,
            Column::Multi(multi) => {
                multi.cells.retain(|_, cell| cell.timestamp > timestamp);
                !multi.cells.is_empty() || multi.deleted > timestamp
            }
        });
    }

    pub(super) fn merge_marker(&mut self, marker: Cell) {
        if marker.timestamp > self.deleted
            && self.marker.as_ref().is_none_or(|old| marker.wins_over(old))
        {
            self.marker = Some(marker);
        }
    }

    pub(super) fn merge_atomic(&mut self, id: ColumnId, cell: Cell) {
        if cell.timestamp <= self.deleted {
            return;
        }
        match self.columns.binary_search_by_key(&id, |(id, _)| *id) {
            Err(at) => self.columns.insert(at, (id, Column::Atomic(cell))),
            Ok(at) => {
                let column = &mut self.columns[at].1;
                match column {
                    Column::Atomic(old) if !cell.wins_over(old) => {}
                    _ => *column = Column::Atomic(cell),
                }
            }
        }
    }

    /// Deletes a collection's cells up to `timestamp`.
    pub(super) fn delete_multi(&mut self, id: ColumnId, timestamp: i64) {
        if timestamp <= self.deleted {
            return;
        }
        if let Some(multi) = self.multi(id) {
            multi.deleted = multi.deleted.max(timestamp);
            let deleted = multi.deleted;
            multi.cells.retain(|_, cell| cell.timestamp > deleted);
        }
    }

    pub(super) fn merge_multi(&mut self, id: ColumnId, key: Value, cell: Cell) {
        if cell.timestamp <= self.deleted {
            return;
        }
        let Some(multi) = self.multi(id) else { return };
        if cell.timestamp <= multi.deleted {
            return;
        }
        if multi.cells.get(&key).is_none_or(|old| cell.wins_over(old)) {
            multi.cells.insert(key, cell);
        }
    }

    fn multi(&mut self, id: ColumnId) -> Option<&mut MultiCell> {
        let at = match self.columns.binary_search_by_key(&id, |(id, _)| *id) {
            Ok(at) => at,
            Err(at) => {
                let empty = MultiCell {
                    deleted: NEVER,
                    cells: BTreeMap::new(),
                };
                self.columns.insert(at, (id, Column::Multi(empty)));
                at
            }
        };
        match &mut self.columns[at].1 {
            Column::Multi(multi) => Some(multi),
            Column::Atomic(_) => None,
        }
    }

    /// Forgets what expired before `now_seconds` and deletions up to `tombstones_micros`.
    /// Returns whether anything is left.
    pub(super) fn purge(&mut self, now_seconds: i64, tombstones_micros: i64) -> bool {
        let keep = |cell: &Cell| match cell.expiry {
            Some(expiry) => expiry.at_seconds > now_seconds || cell.timestamp > tombstones_micros,
            None => cell.value.is_some() || cell.timestamp > tombstones_micros,
        };
        if self.deleted <= tombstones_micros {
            self.deleted = NEVER;
        }
        if self.marker.as_ref().is_some_and(|marker| !keep(marker)) {
            self.marker = None;
        }
        self.columns.retain_mut(|(_, column)| match column {
            Column::Atomic(cell) => keep(cell),
            Column::Multi(multi) => {
                multi.cells.retain(|_, cell| keep(cell));
                if multi.deleted <= tombstones_micros {
                    multi.deleted = NEVER;
                }
                !multi.cells.is_empty() || multi.deleted != NEVER
            }
        });
        !self.is_empty()
    }

    /// Whether nothing is stored, not even a deletion.
    pub(super) fn is_empty(&self) -> bool {
        self.deleted == NEVER && self.marker.is_none() && self.columns.is_empty()
    }
}
