//! Walks over the rows that a statement addresses.

use std::borrow::Cow;
use std::ops::Bound;

use crate::error::Error;
use crate::mutation::{ClusteringRange, ReadCell};
use crate::schema::{ColumnKind, ColumnSchema, TableSchema};
use crate::storage::{Column, Partition, PartitionPosition, Row, RowPosition, Storage};
use crate::types::{CqlType, Value};

/// Which partitions.
#[derive(Debug, Clone)]
pub(super) enum Partitions {
    /// These, in token order.
    Keys(Vec<PartitionPosition>),
    /// All with a token in this range.
    Tokens(Bound<i64>, Bound<i64>),
}

/// Which rows.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) partitions: Partitions,
    /// Ranges of each partition, in clustering order.
    pub(super) ranges: Vec<ClusteringRange>,
    /// Whether the rows come in the reverse of the clustering order.
    pub(super) reversed: bool,
    /// Whether a partition that has static cells and no row gives one row.
    pub(super) static_only: bool,
    /// One row per partition at most, whichever.
    pub(super) distinct: bool,
}

/// The last row of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) partition: PartitionPosition,
    /// The row's clustering key; `None` when the partition is done.
    pub(super) row: Option<Vec<Value>>,
}

/// What to do after a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Next,
    NextPartition,
    Stop,
}

/// A row, with its partition.
pub(super) struct RowView<'a> {
    pub(super) key: &'a [Value],
    pub(super) position: Option<&'a RowPosition>,
    pub(super) statics: &'a Row,
    pub(super) row: Option<&'a Row>,
    pub(super) now_seconds: i64,
}

impl<'a> RowView<'a> {
    /// A column's value.
    pub(super) fn value(&self, column: &ColumnSchema) -> Option<Cow<'a, Value>> {
        match column.kind {
            ColumnKind::PartitionKey => self.key.get(column.position).map(Cow::Borrowed),
            ColumnKind::Clustering => self.position?.value(column.position).map(Cow::Borrowed),
            ColumnKind::Static | ColumnKind::Regular => match self.stored(column)? {
                Column::Atomic(cell) => cell.live(self.now_seconds).map(Cow::Borrowed),
                multi @ Column::Multi(_) => {
                    assemble(&column.ty, multi.read(self.now_seconds)?).map(Cow::Owned)
                }
            },
        }
    }

    /// A column as it is stored.
    pub(super) fn stored(&self, column: &ColumnSchema) -> Option<&'a Column> {
        match column.kind {
            ColumnKind::Static => self.statics.column(column.id),
            ColumnKind::Regular => self.row?.column(column.id),
            ColumnKind::PartitionKey | ColumnKind::Clustering => None,
        }
    }
}

/// The value that a column's cells make together.
pub(super) fn assemble(ty: &CqlType, cell: ReadCell) -> Option<Value> {
    let cells = match cell {
        ReadCell::Value(value) => return Some(value),
        ReadCell::Multi(cells) => cells,
    };
    match ty.peel() {
        CqlType::List(_) => Some(Value::List(
            cells.into_iter().map(|(_, value)| value).collect(),
        )),
        CqlType::Set(_) => Some(Value::Set(cells.into_iter().map(|(key, _)| key).collect())),
        CqlType::Map(..) => Some(Value::Map(cells)),
        CqlType::Udt(udt) => {
            let mut fields = vec![None; udt.fields.len()];
            for (key, value) in cells {
                if let Value::SmallInt(index) = key
                    && let Some(field) = fields.get_mut(index as usize)
                {
                    *field = Some(value);
                }
            }
            Some(Value::Tuple(fields))
        }
        _ => None,
    }
}

/// Calls `visit` for each live row of the target behind the cursor, in order.
pub(super) fn walk<'a>(
    storage: &'a dyn Storage,
    table: &'a TableSchema,
    target: &Target,
    after: Option<&Cursor>,
    now_micros: i64,
    visit: &mut dyn FnMut(&PartitionPosition, &RowView<'a>) -> Result<Step, Error>,
) -> Result<(), Error> {
    let mut ranges: Vec<_> = target
        .ranges
        .iter()
        .map(|range| RowPosition::range(table, range))
        .collect();
    if target.reversed {
        ranges.reverse();
    }
    let walker = Walker {
        table,
        target,
        ranges,
        now_micros,
        now_seconds: now_micros.div_euclid(1_000_000),
    };
    match &target.partitions {
        Partitions::Keys(positions) => {
            for position in positions {
                if after.is_some_and(|cursor| *position < cursor.partition) {
                    continue;
                }
                if let Some(partition) = storage.partition(table.id, position)
                    && walker.partition(position, partition, after, visit)? == Step::Stop
                {
                    return Ok(());
                }
            }
        }
        Partitions::Tokens(from, to) => {
            let from = match after {
                Some(cursor) => Bound::Included(cursor.partition.clone()),
                None => match *from {
                    Bound::Unbounded => Bound::Unbounded,
                    Bound::Included(token) => Bound::Included(first_of(token)),
                    Bound::Excluded(i64::MAX) => return Ok(()),
                    Bound::Excluded(token) => Bound::Included(first_of(token + 1)),
                },
            };
            let to = match *to {
                Bound::Unbounded | Bound::Included(i64::MAX) => Bound::Unbounded,
                Bound::Included(token) => Bound::Excluded(first_of(token + 1)),
                Bound::Excluded(token) => Bound::Excluded(first_of(token)),
            };
            for (position, partition) in storage.scan(table.id, from, to) {
                if walker.partition(position, partition, after, visit)? == Step::Stop {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

fn first_of(token: i64) -> PartitionPosition {
    PartitionPosition {
        token,
        key: bytes::Bytes::new(),
    }
}

struct Walker<'a, 't> {
    table: &'a TableSchema,
    target: &'t Target,
    /// The target's ranges, in the order of the walk.
    ranges: Vec<(RowPosition, RowPosition)>,
    now_micros: i64,
    now_seconds: i64,
}

impl<'a> Walker<'a, '_> {
    fn partition(
        &self,
        position: &PartitionPosition,
        partition: &'a Partition,
        after: Option<&Cursor>,
        visit: &mut dyn FnMut(&PartitionPosition, &RowView<'a>) -> Result<Step, Error>,
    ) -> Result<Step, Error> {
        let after = match after {
            Some(cursor) if cursor.partition == *position => match &cursor.row {
                None => return Ok(Step::Next),
                Some(row) => Some(RowPosition::row(self.table, row)),
            },
            _ => None,
        };
        let mut seen = after.is_some();
        for (start, end) in &self.ranges {
            let (mut from, mut to) = (Bound::Included(start), Bound::Included(end));
            if let Some(after) = &after {
                // Only what lies behind the cursor.
                if self.target.reversed {
                    if end > after {
                        to = Bound::Excluded(after);
                    }
                } else if start < after {
                    from = Bound::Excluded(after);
                }
            }
            let mut rows = partition.rows(from, to);
            loop {
                let next = if self.target.reversed {
                    rows.next_back()
                } else {
                    rows.next()
                };
                let Some((place, row)) = next else { break };
                if !row.is_live(self.now_seconds) || !row.is_visible(self.now_micros) {
                    continue;
                }
                seen = true;
                let view = self.view(partition, Some(place), Some(row));
                match visit(position, &view)? {
                    Step::Next if !self.target.distinct => {}
                    Step::Stop => return Ok(Step::Stop),
                    Step::Next | Step::NextPartition => return Ok(Step::Next),
                }
            }
        }
        if !seen && self.target.static_only && partition.static_row.is_live(self.now_seconds) {
            return visit(position, &self.view(partition, None, None));
        }
        Ok(Step::Next)
    }

    fn view(
        &self,
        partition: &'a Partition,
        position: Option<&'a RowPosition>,
        row: Option<&'a Row>,
    ) -> RowView<'a> {
        RowView {
            key: &partition.key,
            position,
            statics: &partition.static_row,
            row,
            now_seconds: self.now_seconds,
        }
    }
}
