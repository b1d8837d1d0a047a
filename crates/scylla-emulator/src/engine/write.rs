//! Modifications into mutations.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use uuid::Uuid;

use super::api::EngineConfig;
use super::modify::{ModifyPlan, Operation};
use super::query::position;
use super::restrict::check_key;
use super::term::{Bound, Expr, Scope};
use crate::error::Error;
use crate::mutation::{
    CellChange, Change, ClusteringBound, ClusteringRange, MultiCellChange, Mutation, ReadCell,
    RowKey, Upsert,
};
use crate::schema::{ColumnId, ColumnKind, ColumnSchema, TableSchema};
use crate::storage::{PartitionPosition, Row, RowPosition, Storage};
use crate::types::{CqlType, Value, timeuuid_from_parts};

/// The longest TTL: 20 years, in seconds.
const MAX_TTL: i64 = 630_720_000;

/// Prepended list cells count backwards from here: 2010-01-01, in microseconds.
const PREPEND_REFERENCE: i64 = 1_262_304_000_000_000;

/// Makes mutations of planned modifications.
pub(super) struct Writer<'a> {
    pub(super) config: &'a EngineConfig,
    pub(super) storage: &'a dyn Storage,
    /// Orders list cells of one microsecond.
    pub(super) list_sequence: &'a AtomicU64,
    pub(super) now_seconds: i64,
}

impl Writer<'_> {
    /// The mutations of one statement, one per partition.
    pub(super) fn mutations(
        &self,
        plan: &ModifyPlan,
        scope: &Scope<'_>,
        default_timestamp: i64,
    ) -> Result<Vec<Mutation>, Error> {
        let timestamp = timestamp(scope, plan.timestamp.as_ref())?.unwrap_or(default_timestamp);
        let ttl = ttl(plan, scope)?;
        let table = &plan.table;
        let ranges = if plan.static_only {
            Vec::new()
        } else {
            plan.restrictions.clustering_ranges(scope, table)?
        };
        let mut mutations = Vec::new();
        for key in plan.restrictions.partition_keys(scope, table)? {
            check_key(&key)?;
            let place = position(self.config, table, &key);
            let statement = Statement {
                plan,
                scope,
                timestamp,
                ttl,
                place: &place,
            };
            let changes = self.changes(&statement, &ranges)?;
            if changes.is_empty() {
                continue;
            }
            mutations.push(Mutation {
                table: Arc::clone(table),
                partition_key: key,
                key_bytes: place.key,
                token: place.token,
                timestamp_micros: timestamp,
                changes,
            });
        }
        Ok(mutations)
    }

    fn changes(
        &self,
        statement: &Statement<'_>,
        ranges: &[ClusteringRange],
    ) -> Result<Vec<Change>, Error> {
        let plan = statement.plan;
        if plan.is_delete && plan.operations.is_empty() {
            return Ok(ranges
                .iter()
                .map(|range| deletion(&plan.table, range))
                .collect());
        }
        let mut changes = Vec::new();
        let cells = self.cells(statement, ColumnKind::Static, None)?;
        if !cells.is_empty() {
            changes.push(Change::Upsert(Upsert {
                row: RowKey::Static,
                row_marker: false,
                ttl: statement.ttl,
                cells,
            }));
        }
        for range in ranges {
            let key = prefix(range);
            let cells = self.cells(statement, ColumnKind::Regular, Some(&key))?;
            if cells.is_empty() && !plan.is_insert {
                continue;
            }
            changes.push(Change::Upsert(Upsert {
                row: RowKey::Clustering(key),
                row_marker: plan.is_insert,
                ttl: statement.ttl,
                cells,
            }));
        }
        Ok(changes)
    }

    fn cells(
        &self,
        statement: &Statement<'_>,
        kind: ColumnKind,
        key: Option<&[Value]>,
    ) -> Result<Vec<(ColumnId, CellChange)>, Error> {
        let mut cells: Vec<(ColumnId, CellChange)> = Vec::new();
        for (column, operation) in &statement.plan.operations {
            if column.kind != kind {
                continue;
            }
            let row = || self.row(statement, key);
            let Some(change) = self.cell(statement, column, operation, &row)? else {
                continue;
            };
            match cells.iter_mut().find(|(id, _)| *id == column.id) {
                Some((_, CellChange::Multi(old))) => {
                    if let CellChange::Multi(new) = change {
                        old.cells.extend(new.cells);
                        old.cells.sort_by(|(a, _), (b, _)| a.cmp(b));
                    }
                }
                _ => cells.push((column.id, change)),
            }
        }
        Ok(cells)
    }

    fn row(&self, statement: &Statement<'_>, key: Option<&[Value]>) -> Option<&Row> {
        let partition = self
            .storage
            .partition(statement.plan.table.id, statement.place)?;
        match key {
            None => Some(&partition.static_row),
            Some(key) => partition.row(&RowPosition::row(&statement.plan.table, key)),
        }
    }

    /// What an operation does to a column; `None` when its value is unset.
    fn cell<'r>(
        &self,
        statement: &Statement<'_>,
        column: &ColumnSchema,
        operation: &Operation,
        row: &dyn Fn() -> Option<&'r Row>,
    ) -> Result<Option<CellChange>, Error> {
        let scope = statement.scope;
        let multi =
            |overwrite, cells| Some(CellChange::Multi(MultiCellChange { overwrite, cells }));
        let null_element = || {
            Error::invalid(format!(
                "Invalid null value for list index or map key of {}",
                column.name
            ))
        };
        Ok(match operation {
            Operation::Delete => Some(CellChange::Delete),
            Operation::Set(expr) => match scope.eval(expr)? {
                Bound::Unset => None,
                Bound::Null => Some(CellChange::Delete),
                Bound::Value(value) if column.ty.is_multi_cell() => {
                    multi(true, self.multi_cells(statement, value, false))
                }
                Bound::Value(value) => Some(CellChange::Set(value)),
            },
            Operation::Add(expr) => match scope.eval(expr)? {
                Bound::Value(value) => multi(false, self.multi_cells(statement, value, false)),
                Bound::Null | Bound::Unset => None,
            },
            Operation::Prepend(expr) => match scope.eval(expr)? {
                Bound::Value(value) => multi(false, self.multi_cells(statement, value, true)),
                Bound::Null | Bound::Unset => None,
            },
            Operation::Subtract(expr) => match scope.eval(expr)? {
                Bound::Value(Value::List(gone)) => {
                    let live = live_cells(column, row(), self.now_seconds).into_iter();
                    let hit = live.filter(|(_, value)| gone.contains(value));
                    multi(false, hit.map(|(key, _)| (key, None)).collect())
                }
                Bound::Value(Value::Set(gone)) => {
                    multi(false, gone.into_iter().map(|key| (key, None)).collect())
                }
                _ => None,
            },
            Operation::SetElement(key, value) => {
                let Bound::Value(key) = scope.eval(key)? else {
                    return Err(null_element());
                };
                let key = self.element_key(column, key, row())?;
                match scope.eval(value)? {
                    Bound::Unset => None,
                    value => multi(false, vec![(key, value.into_option())]),
                }
            }
            Operation::DeleteElement(key) => {
                let Bound::Value(key) = scope.eval(key)? else {
                    return Err(null_element());
                };
                multi(false, vec![(self.element_key(column, key, row())?, None)])
            }
            Operation::SetField(at, value) => match scope.eval(value)? {
                Bound::Unset => None,
                value => multi(
                    false,
                    vec![(Value::SmallInt(*at as i16), value.into_option())],
                ),
            },
            Operation::DeleteField(at) => multi(false, vec![(Value::SmallInt(*at as i16), None)]),
        })
    }

    /// A map's key or set's element as it is; a list's index as the key of the cell there.
    fn element_key(
        &self,
        column: &ColumnSchema,
        key: Value,
        row: Option<&Row>,
    ) -> Result<Value, Error> {
        let (CqlType::List(_), Value::Int(index)) = (&column.ty, &key) else {
            return Ok(key);
        };
        let cells = live_cells(column, row, self.now_seconds);
        let size = cells.len();
        if size == 0 {
            return Err(Error::invalid(
                "Attempted to set an element on a list which is null",
            ));
        }
        let found = usize::try_from(*index)
            .ok()
            .and_then(|at| cells.into_iter().nth(at));
        found.map(|(key, _)| key).ok_or_else(|| {
            Error::invalid(format!(
                "List index {index} out of bound, list has size {size}"
            ))
        })
    }

    fn multi_cells(
        &self,
        statement: &Statement<'_>,
        value: Value,
        prepend: bool,
    ) -> Vec<(Value, Option<Value>)> {
        match value {
            Value::List(items) => {
                let micros = if prepend {
                    PREPEND_REFERENCE
                        .wrapping_mul(2)
                        .wrapping_sub(statement.timestamp)
                } else {
                    statement.timestamp
                };
                let items = items.into_iter();
                items
                    .map(|item| (self.list_key(micros), Some(item)))
                    .collect()
            }
            Value::Set(items) => items
                .into_iter()
                .map(|key| (key, Some(Value::Empty)))
                .collect(),
            Value::Map(entries) => entries
                .into_iter()
                .map(|(key, value)| (key, Some(value)))
                .collect(),
            Value::Tuple(fields) => fields
                .into_iter()
                .enumerate()
                .filter_map(|(at, field)| Some((Value::SmallInt(at as i16), Some(field?))))
                .collect(),
            _ => Vec::new(),
        }
    }

    /// A timeuuid of this time that sorts behind all earlier ones of the same time.
    fn list_key(&self, micros: i64) -> Value {
        let number = self.list_sequence.fetch_add(1, Ordering::Relaxed);
        let low = (number & 0x3fff_ffff_ffff_ffff) ^ 0x8080_8080_8080_8080;
        Value::TimeUuid(timeuuid_from_parts(micros, 0, low))
    }
}

struct Statement<'a> {
    plan: &'a ModifyPlan,
    scope: &'a Scope<'a>,
    timestamp: i64,
    ttl: Option<i32>,
    place: &'a PartitionPosition,
}

fn live_cells(column: &ColumnSchema, row: Option<&Row>, now_seconds: i64) -> Vec<(Value, Value)> {
    match row.and_then(|row| row.column(column.id)?.read(now_seconds)) {
        Some(ReadCell::Multi(cells)) => cells,
        _ => Vec::new(),
    }
}

/// The key of a range that is one row.
pub(super) fn prefix(range: &ClusteringRange) -> Vec<Value> {
    match &range.start {
        ClusteringBound::Inclusive(key) => key.clone(),
        ClusteringBound::Open | ClusteringBound::Exclusive(_) => Vec::new(),
    }
}

fn deletion(table: &TableSchema, range: &ClusteringRange) -> Change {
    match (&range.start, &range.end) {
        (ClusteringBound::Open, ClusteringBound::Open) => Change::DeletePartition,
        (ClusteringBound::Inclusive(start), ClusteringBound::Inclusive(end))
            if start == end && start.len() == table.clustering_key().len() =>
        {
            Change::DeleteRow(start.clone())
        }
        _ => Change::DeleteRange(range.clone()),
    }
}

/// The value of `USING TIMESTAMP`.
pub(super) fn timestamp(scope: &Scope<'_>, expr: Option<&Expr>) -> Result<Option<i64>, Error> {
    let Some(expr) = expr else { return Ok(None) };
    match scope.eval(expr)? {
        Bound::Unset => Ok(None),
        Bound::Value(Value::BigInt(timestamp)) if timestamp != i64::MIN => Ok(Some(timestamp)),
        Bound::Value(_) => Err(Error::invalid("Invalid timestamp value")),
        Bound::Null => Err(Error::invalid("Invalid null value of timestamp")),
    }
}

fn ttl(plan: &ModifyPlan, scope: &Scope<'_>) -> Result<Option<i32>, Error> {
    let default = plan.table.options.default_time_to_live;
    let default = (default > 0).then_some(default);
    let Some(expr) = &plan.ttl else {
        return Ok(default);
    };
    let ttl = match scope.eval(expr)? {
        Bound::Unset => return Ok(default),
        Bound::Null => return Ok(None),
        Bound::Value(Value::Int(ttl)) => i64::from(ttl),
        Bound::Value(_) => return Err(Error::invalid("Invalid TTL value")),
    };
    if ttl < 0 {
        return Err(Error::invalid("A TTL must be greater or equal to 0"));
    }
    if ttl > MAX_TTL {
        return Err(Error::invalid(format!(
            "ttl is too large. requested ({ttl}) maximum ({MAX_TTL})"
        )));
    }
    Ok((ttl > 0).then_some(ttl as i32))
}

/// A whole value as a change of a column; lists are keyed by index.
pub(super) fn stored(column: &ColumnSchema, value: Value) -> CellChange {
    if !column.ty.is_multi_cell() {
        return CellChange::Set(value);
    }
    let cells = match value {
        Value::List(items) => {
            let items = items.into_iter().zip(0_u64..);
            items
                .map(|(item, at)| (Value::BigInt(at as i64), Some(item)))
                .collect()
        }
        Value::Set(items) => items
            .into_iter()
            .map(|key| (key, Some(Value::Empty)))
            .collect(),
        Value::Map(entries) => entries
            .into_iter()
            .map(|(key, value)| (key, Some(value)))
            .collect(),
        other => return CellChange::Set(other),
    };
    CellChange::Multi(MultiCellChange {
        overwrite: false,
        cells,
    })
}

/// Joins mutations of the same partition and timestamp, in the order of their first one.
pub(super) fn combine(mutations: Vec<Mutation>) -> Vec<Mutation> {
    let mut known: HashMap<(Uuid, Bytes, i64), usize> = HashMap::new();
    let mut combined: Vec<Mutation> = Vec::with_capacity(mutations.len());
    for mutation in mutations {
        let place = (
            mutation.table.id,
            mutation.key_bytes.clone(),
            mutation.timestamp_micros,
        );
        if let Some(at) = known.get(&place) {
            combined[*at].changes.extend(mutation.changes);
        } else {
            known.insert(place, combined.len());
            combined.push(mutation);
        }
    }
    combined
}
