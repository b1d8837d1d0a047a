//! The state of a partition's rows while its changes are logged: what pre- and post-images show.

use std::collections::BTreeMap;

use super::split::{ColumnDelta, compare_keys};
use crate::hooks::ReadRowFn;
use crate::mutation::{ClusteringBound, ClusteringRange, Mutation, ReadCell, RowKey};
use crate::schema::{ColumnId, TableSchema};
use crate::types::Value;

/// A row's columns.
pub(super) type RowState = BTreeMap<ColumnId, ReadCell>;

/// The rows of one partition that the write touches. A row without an entry has not been read; `None` does not exist.
#[derive(Debug, Default)]
pub(super) struct States(BTreeMap<RowKey, Option<RowState>>);

impl States {
    /// Reads a row that has not been read yet.
    pub(super) fn load(&mut self, mutation: &Mutation, row: &RowKey, read_row: &ReadRowFn<'_>) {
        if !self.0.contains_key(row) {
            let state = read_row(mutation, row).map(|row| row.cells.into_iter().collect());
            self.0.insert(row.clone(), state);
        }
    }

    pub(super) fn get(&self, row: &RowKey) -> Option<&RowState> {
        self.0.get(row)?.as_ref()
    }

    pub(super) fn upsert(&mut self, row: &RowKey, cells: &[(ColumnId, ColumnDelta)]) {
        let state = self
            .0
            .entry(row.clone())
            .or_default()
            .get_or_insert_default();
        for (column, delta) in cells {
            apply(state, *column, delta);
        }
    }

    pub(super) fn delete_row(&mut self, key: &[Value]) {
        self.0.insert(RowKey::Clustering(key.to_vec()), None);
    }

    pub(super) fn delete_range(&mut self, table: &TableSchema, range: &ClusteringRange) {
        for (row, state) in &mut self.0 {
            if matches!(row, RowKey::Clustering(key) if contains(table, range, key)) {
                *state = None;
            }
        }
    }

    pub(super) fn delete_partition(&mut self) {
        for (row, state) in &mut self.0 {
            if matches!(row, RowKey::Clustering(_)) {
                *state = None;
            }
        }
    }
}

fn apply(state: &mut RowState, column: ColumnId, delta: &ColumnDelta) {
    if delta.deleted {
        state.remove(&column);
    }
    if let Some(value) = &delta.value {
        state.insert(column, ReadCell::Value(value.clone()));
    }
    if delta.added.is_empty() && delta.removed.is_empty() {
        return;
    }
    let mut cells: BTreeMap<Value, Value> = match state.remove(&column) {
        Some(ReadCell::Multi(cells)) => cells.into_iter().collect(),
        _ => BTreeMap::new(),
    };
    cells.extend(delta.added.iter().cloned());
    for key in &delta.removed {
        cells.remove(key);
    }
    if !cells.is_empty() {
        state.insert(column, ReadCell::Multi(cells.into_iter().collect()));
    }
}

fn contains(table: &TableSchema, range: &ClusteringRange, key: &[Value]) -> bool {
    let after_start = match &range.start {
        ClusteringBound::Open => true,
        ClusteringBound::Inclusive(bound) => compare_keys(table, key, bound).is_ge(),
        ClusteringBound::Exclusive(bound) => compare_keys(table, key, bound).is_gt(),
    };
    let before_end = match &range.end {
        ClusteringBound::Open => true,
        ClusteringBound::Inclusive(bound) => compare_keys(table, key, bound).is_le(),
        ClusteringBound::Exclusive(bound) => compare_keys(table, key, bound).is_lt(),
    };
    after_start && before_end
}
