//! Lightweight transactions: conditions are checked and changes made under one lock.

use std::collections::BTreeSet;

use super::api::{ColumnSpec, EngineConfig, RowSet};
use super::modify::ModifyPlan;
use super::query::position;
use super::read::RowView;
use super::term::Scope;
use super::write::prefix;
use crate::error::Error;
use crate::schema::ColumnId;
use crate::storage::{Partition, PartitionPosition, RowPosition, Storage};
use crate::types::{CqlType, Value, encode};

/// The columns of a conditional statement's result.
pub(super) fn result_columns(plans: &[&ModifyPlan]) -> Vec<ColumnSpec> {
    let Some(first) = plans.first() else {
        return Vec::new();
    };
    let table = &first.table;
    let spec = |name: &str, ty: CqlType| ColumnSpec {
        keyspace: table.keyspace.clone(),
        table: table.name.clone(),
        name: name.to_owned(),
        ty,
    };
    let shown = shown(plans);
    let mut columns = vec![spec("[applied]", CqlType::Boolean)];
    let known = table
        .columns
        .iter()
        .filter(|column| shown.contains(&column.id));
    columns.extend(known.map(|column| spec(&column.name, column.ty.clone())));
    columns
}

fn shown(plans: &[&ModifyPlan]) -> BTreeSet<ColumnId> {
    let mut shown = BTreeSet::new();
    for plan in plans {
        plan.conditions.result_columns(&plan.table, &mut shown);
    }
    shown
}

/// One statement's row.
struct Found<'a> {
    plan: &'a ModifyPlan,
    partition: Option<&'a Partition>,
    place: Option<RowPosition>,
}

impl Found<'_> {
    fn view(&self, now_seconds: i64) -> Option<RowView<'_>> {
        let partition = self.partition?;
        let row = self.place.as_ref().and_then(|place| partition.row(place));
        let row = row.filter(|row| row.is_live(now_seconds));
        if row.is_none() && !partition.static_row.is_live(now_seconds) {
            return None;
        }
        Some(RowView {
            key: &partition.key,
            position: row.and(self.place.as_ref()),
            statics: &partition.static_row,
            row,
            now_seconds,
        })
    }
}

/// Whether all conditions hold, and the result with the rows as they are before the change.
pub(super) fn check(
    config: &EngineConfig,
    storage: &dyn Storage,
    statements: &[(&ModifyPlan, &Scope<'_>)],
    now_seconds: i64,
) -> Result<(bool, RowSet), Error> {
    let found = find(config, storage, statements)?;
    let mut applied = true;
    for (found, (plan, scope)) in found.iter().zip(statements) {
        let view = found.view(now_seconds);
        let exists = match &view {
            None => false,
            Some(view) => view.row.is_some() || found.plan.static_only,
        };
        applied &= plan.conditions.holds(scope, view.as_ref(), exists)?;
    }
    let plans: Vec<&ModifyPlan> = statements.iter().map(|(plan, _)| *plan).collect();
    let shown = shown(&plans);
    let rows = found.iter().map(|found| {
        let table = &found.plan.table;
        let view = found.view(now_seconds);
        // A row that is not there shows nothing, unless the partition's static part is.
        let view = view.filter(|view| {
            view.row.is_some() || found.plan.static_only || table.has_static_columns()
        });
        let mut row = vec![Some(encode(&Value::Boolean(applied)))];
        let columns = table
            .columns
            .iter()
            .filter(|column| shown.contains(&column.id));
        row.extend(columns.map(|column| Some(encode(view.as_ref()?.value(column)?.as_ref()))));
        row
    });
    let rows = rows.collect();
    Ok((
        applied,
        RowSet {
            columns: result_columns(&plans).into(),
            rows,
            paging_state: None,
        },
    ))
}

fn find<'a>(
    config: &EngineConfig,
    storage: &'a dyn Storage,
    statements: &[(&'a ModifyPlan, &Scope<'_>)],
) -> Result<Vec<Found<'a>>, Error> {
    let mut only: Option<(PartitionPosition, &ModifyPlan)> = None;
    let mut found = Vec::with_capacity(statements.len());
    for (plan, scope) in statements {
        let plan = *plan;
        for key in plan.restrictions.partition_keys(scope, &plan.table)? {
            let place = position(config, &plan.table, &key);
            match &only {
                Some((_, other)) if other.table.id != plan.table.id => {
                    return Err(Error::invalid(
                        "BATCH with conditions cannot span multiple tables",
                    ));
                }
                Some((other, _)) if *other != place => {
                    return Err(Error::invalid(
                        "BATCH with conditions cannot span multiple partitions",
                    ));
                }
                Some(_) => {}
                None => only = Some((place, plan)),
            }
        }
        let partition = only
            .as_ref()
            .and_then(|(place, _)| storage.partition(plan.table.id, place));
        let row = if plan.static_only {
            None
        } else {
            let ranges = plan.restrictions.clustering_ranges(scope, &plan.table)?;
            ranges
                .first()
                .map(|range| RowPosition::row(&plan.table, &prefix(range)))
        };
        found.push(Found {
            plan,
            partition,
            place: row,
        });
    }
    Ok(found)
}
