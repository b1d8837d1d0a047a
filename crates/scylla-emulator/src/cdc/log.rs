//! Builds log rows.

use std::sync::Arc;

use bytes::Bytes;

use super::columns::{Columns, Logged};
use super::image::States;
use super::split::{ColumnDelta, Delta, Merged, Touched};
use crate::cluster::generations::StreamId;
use crate::hooks::ReadRowFn;
use crate::mutation::{CellChange, Change, ClusteringBound, Mutation, ReadCell, RowKey, Upsert};
use crate::schema::{CdcDelta, CdcImage, CdcOptions, ColumnId, TableSchema};
use crate::types::{Value, timeuuid_from_parts};

/// What a log row tells; the number is what `cdc$operation` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
enum Operation {
    PreImage = 0,
    Update = 1,
    Insert = 2,
    RowDelete = 3,
    PartitionDelete = 4,
    RangeStartInclusive = 5,
    RangeStartExclusive = 6,
    RangeEndInclusive = 7,
    RangeEndExclusive = 8,
    PostImage = 9,
}

type Cells = Vec<(ColumnId, CellChange)>;

/// Logs the changes of one partition, oldest first.
pub(super) struct Writer<'a> {
    base: &'a TableSchema,
    log: &'a Arc<TableSchema>,
    columns: &'a Columns,
    options: CdcOptions,
    read_row: &'a ReadRowFn<'a>,
    states: States,
    rows: Vec<Cells>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(
        base: &'a TableSchema,
        log: &'a Arc<TableSchema>,
        columns: &'a Columns,
        read_row: &'a ReadRowFn<'a>,
    ) -> Self {
        let options = base.options.cdc();
        Self {
            base,
            log,
            columns,
            options,
            read_row,
            states: States::default(),
            rows: Vec::new(),
        }
    }

    /// The log mutation of a base mutation; `None` when it changes nothing.
    pub(super) fn record(
        &mut self,
        mutation: &Mutation,
        stream: StreamId,
        low_bits: u64,
        is_last: bool,
    ) -> Option<Mutation> {
        let merged = Merged::new(mutation);
        let pre_images = self.options.preimage != CdcImage::Off;
        let post_images = self.options.postimage;
        let keep_state = post_images || (pre_images && !is_last);
        let touched = if pre_images || post_images {
            merged.touched()
        } else {
            Vec::new()
        };
        for row in &touched {
            self.states.load(mutation, &row.row, self.read_row);
        }
        if pre_images {
            for row in &touched {
                self.pre_image(mutation, row);
            }
        }
        for delta in merged.deltas() {
            if keep_state {
                self.update_state(&delta);
            }
            self.delta(mutation, delta);
        }
        if post_images {
            for row in &touched {
                self.post_image(mutation, &row.row);
            }
        }
        self.finish(mutation, stream, low_bits)
    }

    fn finish(&mut self, mutation: &Mutation, stream: StreamId, low_bits: u64) -> Option<Mutation> {
        if let (Some(row), Some(column)) = (self.rows.last_mut(), self.columns.end_of_batch) {
            row.push((column, CellChange::Set(Value::Boolean(true))));
        }
        if self.rows.is_empty() {
            return None;
        }
        let time = timeuuid_from_parts(mutation.timestamp_micros, 0, low_bits);
        let ttl = (self.options.ttl > 0).then_some(self.options.ttl);
        let change = |(sequence, cells): (usize, Cells)| {
            let key = vec![Value::TimeUuid(time), Value::Int(sequence as i32)];
            Change::Upsert(Upsert {
                row: RowKey::Clustering(key),
                row_marker: true,
                ttl,
                cells,
            })
        };
        let stream_bytes = Bytes::copy_from_slice(&stream.0);
        Some(Mutation {
            table: Arc::clone(self.log),
            partition_key: vec![Value::Blob(stream_bytes.clone())],
            key_bytes: stream_bytes,
            token: stream.token().0,
            timestamp_micros: mutation.timestamp_micros,
            changes: self.rows.drain(..).enumerate().map(change).collect(),
        })
    }

    /// Starts a log row with its operation and the given part of the base row's key.
    fn start(
        &mut self,
        operation: Operation,
        partition: &[Value],
        clustering: &[Value],
    ) -> &mut Cells {
        let mut cells = Vec::with_capacity(8 + partition.len() + clustering.len());
        if let Some(column) = self.columns.operation {
            cells.push((column, CellChange::Set(Value::TinyInt(operation as i8))));
        }
        let keys = (self.columns.partition_key.iter().zip(partition))
            .chain(self.columns.clustering_key.iter().zip(clustering));
        for (column, value) in keys {
            if let Some(column) = column {
                cells.push((*column, CellChange::Set(value.clone())));
            }
        }
        self.rows.push(cells);
        let last = self.rows.len() - 1;
        &mut self.rows[last]
    }

    fn delta(&mut self, mutation: &Mutation, delta: Delta) {
        let partition = &mutation.partition_key;
        match delta {
            Delta::Upsert {
                row,
                insert,
                ttl,
                cells,
            } => {
                let operation = if insert {
                    Operation::Insert
                } else {
                    Operation::Update
                };
                let (columns, values) = (self.columns, self.options.delta == CdcDelta::Full);
                let out = self.start(operation, partition, clustering_of(&row));
                if let (Some(column), true) = (columns.ttl, ttl > 0) {
                    out.push((column, CellChange::Set(Value::BigInt(i64::from(ttl)))));
                }
                if values {
                    for (column, delta) in cells {
                        if let Some(logged) = columns.of(column) {
                            write_delta(out, logged, delta);
                        }
                    }
                }
            }
            Delta::DeleteRow(key) => {
                self.start(Operation::RowDelete, partition, &key);
            }
            Delta::DeleteRange(range) => {
                use Operation::{
                    RangeEndExclusive, RangeEndInclusive, RangeStartExclusive, RangeStartInclusive,
                };
                let bound = |bound: ClusteringBound, inclusive, exclusive| match bound {
                    ClusteringBound::Open => (inclusive, Vec::new()),
                    ClusteringBound::Inclusive(key) => (inclusive, key),
                    ClusteringBound::Exclusive(key) => (exclusive, key),
                };
                let (start, key) = bound(range.start, RangeStartInclusive, RangeStartExclusive);
                self.start(start, partition, &key);
                let (end, key) = bound(range.end, RangeEndInclusive, RangeEndExclusive);
                self.start(end, partition, &key);
            }
            Delta::DeletePartition => {
                self.start(Operation::PartitionDelete, partition, &[]);
            }
        }
    }

    fn update_state(&mut self, delta: &Delta) {
        match delta {
            Delta::Upsert { row, cells, .. } => self.states.upsert(row, cells),
            Delta::DeleteRow(key) => self.states.delete_row(key),
            Delta::DeleteRange(range) => self.states.delete_range(self.base, range),
            Delta::DeletePartition => self.states.delete_partition(),
        }
    }

    /// The changed columns (all of them for `full` or a deleted row) as they were; a null shows as deleted.
    fn pre_image(&mut self, mutation: &Mutation, touched: &Touched) {
        let Some(state) = self.states.get(&touched.row).cloned() else {
            return;
        };
        let columns = self.columns;
        let all = self.options.preimage == CdcImage::Full;
        let changed = touched.columns.as_ref().filter(|_| !all);
        let is_static = touched.row == RowKey::Static;
        let out = self.start(
            Operation::PreImage,
            &mutation.partition_key,
            clustering_of(&touched.row),
        );
        for id in &columns.order {
            let Some(logged) = columns
                .of(*id)
                .filter(|logged| logged.is_static == is_static)
            else {
                continue;
            };
            if changed.is_some_and(|changed| !changed.contains(id)) {
                continue;
            }
            match state.get(id) {
                Some(cell) => write_value(out, logged, cell.clone()),
                None => set(out, logged.deleted, || Value::Boolean(true)),
            }
        }
    }

    fn post_image(&mut self, mutation: &Mutation, row: &RowKey) {
        let Some(state) = self.states.get(row).cloned() else {
            return;
        };
        let columns = self.columns;
        let is_static = *row == RowKey::Static;
        let out = self.start(
            Operation::PostImage,
            &mutation.partition_key,
            clustering_of(row),
        );
        for (id, cell) in state {
            if let Some(logged) = columns
                .of(id)
                .filter(|logged| logged.is_static == is_static)
            {
                write_value(out, logged, cell);
            }
        }
    }
}

fn clustering_of(row: &RowKey) -> &[Value] {
    match row {
        RowKey::Static => &[],
        RowKey::Clustering(key) => key,
    }
}

fn set(out: &mut Cells, column: Option<ColumnId>, value: impl FnOnce() -> Value) {
    if let Some(column) = column {
        out.push((column, CellChange::Set(value())));
    }
}

fn write_delta(out: &mut Cells, logged: &Logged, delta: ColumnDelta) {
    if delta.deleted {
        set(out, logged.deleted, || Value::Boolean(true));
    }
    if !delta.removed.is_empty() {
        set(out, logged.deleted_elements, || Value::Set(delta.removed));
    }
    if let Some(value) = delta.value {
        set(out, logged.value, || value);
    } else if !delta.added.is_empty() {
        write_value(out, logged, ReadCell::Multi(delta.added));
    }
}

fn write_value(out: &mut Cells, logged: &Logged, cell: ReadCell) {
    set(out, logged.value, || match cell {
        ReadCell::Value(value) => value,
        ReadCell::Multi(cells) if logged.fields > 0 => {
            let mut fields = vec![None; logged.fields];
            for (index, value) in cells {
                if let Value::SmallInt(index) = index
                    && let Some(field) = usize::try_from(index).ok().and_then(|i| fields.get_mut(i))
                {
                    *field = Some(value);
                }
            }
            Value::Tuple(fields)
        }
        ReadCell::Multi(cells) if logged.is_set => {
            Value::Set(cells.into_iter().map(|(key, _)| key).collect())
        }
        ReadCell::Multi(cells) => Value::Map(cells),
    });
}
