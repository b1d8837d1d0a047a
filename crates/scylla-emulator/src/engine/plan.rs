//! A statement checked against the schema.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use uuid::Uuid;

use super::api::{BatchKind, ColumnSpec, Prepared};
use super::cas::result_columns;
use super::modify::{self, ModifyPlan};
use super::resolve;
use super::restrict::{KeyTest, Restrictions};
use super::select::{self, SelectPlan};
use super::term::{Binder, Expr, Receiver, Typer};
use crate::ast::{Batch, Modify, Statement};
use crate::error::Error;
use crate::schema::Catalog;
use crate::types::CqlType;

/// A planned statement.
#[derive(Debug)]
pub(super) struct Plan {
    /// The schema version that it was planned for.
    pub(super) version: Uuid,
    pub(super) kind: PlanKind,
    pub(super) bind: Vec<ColumnSpec>,
    /// For each expression slot the index of its marker.
    pub(super) order: Vec<usize>,
    pub(super) result: Vec<ColumnSpec>,
}

#[derive(Debug)]
pub(super) enum PlanKind {
    Select(Box<SelectPlan>),
    Modify(Box<ModifyPlan>),
    Batch(BatchPlan),
    /// Executed from the statement itself.
    Schema,
}

#[derive(Debug)]
pub(super) struct BatchPlan {
    pub(super) statements: Vec<ModifyPlan>,
    pub(super) timestamp: Option<Expr>,
}

impl Plan {
    pub(super) fn new(
        catalog: &Catalog,
        statement: &Statement,
        keyspace: Option<&str>,
    ) -> Result<Self, Error> {
        let mut binder = Binder::default();
        let (kind, result) = match statement {
            Statement::Select(select) => {
                let table = resolve::table(catalog, &select.table, keyspace)?;
                let keyspace = resolve::keyspace(catalog, &table.keyspace)?;
                let mut typer = Typer {
                    keyspace,
                    table: &table,
                    binder: &mut binder,
                };
                let plan = select::plan(&mut typer, select)?;
                let result = plan.columns.to_vec();
                (PlanKind::Select(Box::new(plan)), result)
            }
            Statement::Modify(modify) => {
                let plan = plan_modify(catalog, modify, keyspace, &mut binder)?;
                let result = if plan.conditions.is_none() {
                    Vec::new()
                } else {
                    result_columns(&[&plan])
                };
                (PlanKind::Modify(Box::new(plan)), result)
            }
            Statement::Batch(batch) => {
                let plan = plan_batch(catalog, batch, keyspace, &mut binder)?;
                let conditional = plan
                    .statements
                    .iter()
                    .any(|plan| !plan.conditions.is_none());
                let result = if conditional {
                    result_columns(&plan.statements.iter().collect::<Vec<_>>())
                } else {
                    Vec::new()
                };
                (PlanKind::Batch(plan), result)
            }
            _ => (PlanKind::Schema, Vec::new()),
        };
        let (bind, order) = binder.finish();
        if bind.len() > usize::from(u16::MAX) {
            return Err(Error::invalid("Too many bind markers"));
        }
        Ok(Self {
            version: catalog.version,
            kind,
            bind,
            order,
            result,
        })
    }

    /// Whether the statement is conditional.
    pub(super) fn is_lwt(&self) -> bool {
        match &self.kind {
            PlanKind::Modify(plan) => !plan.conditions.is_none(),
            PlanKind::Batch(plan) => plan
                .statements
                .iter()
                .any(|plan| !plan.conditions.is_none()),
            PlanKind::Select(_) | PlanKind::Schema => false,
        }
    }

    /// The markers that hold the partition key, when all of it is in markers.
    pub(super) fn partition_key_markers(&self) -> Vec<u16> {
        match &self.kind {
            PlanKind::Select(plan) => self.key_markers(&plan.restrictions),
            PlanKind::Modify(plan) => self.key_markers(&plan.restrictions),
            PlanKind::Batch(_) | PlanKind::Schema => Vec::new(),
        }
    }

    fn key_markers(&self, restrictions: &Restrictions) -> Vec<u16> {
        let markers = restrictions.partition.iter().map(|test| match test {
            Some(KeyTest::Eq(Expr::Slot(slot, _))) => u16::try_from(self.order[*slot]).ok(),
            _ => None,
        });
        markers.collect::<Option<_>>().unwrap_or_default()
    }
}

fn plan_modify(
    catalog: &Catalog,
    modify: &Modify,
    keyspace: Option<&str>,
    binder: &mut Binder,
) -> Result<ModifyPlan, Error> {
    let table = resolve::table(catalog, &modify.table, keyspace)?;
    let keyspace = resolve::keyspace(catalog, &table.keyspace)?;
    modify::plan(
        &mut Typer {
            keyspace,
            table: &table,
            binder,
        },
        modify,
    )
}

fn plan_batch(
    catalog: &Catalog,
    batch: &Batch,
    keyspace: Option<&str>,
    binder: &mut Binder,
) -> Result<BatchPlan, Error> {
    if batch.kind == BatchKind::Counter {
        return Err(Error::unsupported("A counter batch"));
    }
    if batch.using.ttl.is_some() {
        return Err(Error::invalid(
            "Global TTL on the BATCH statement is not supported.",
        ));
    }
    let mut timestamp = None;
    if let (Some(term), Some(first)) = (&batch.using.timestamp, batch.statements.first()) {
        let table = resolve::table(catalog, &first.table, keyspace)?;
        let keyspace = resolve::keyspace(catalog, &table.keyspace)?;
        let mut typer = Typer {
            keyspace,
            table: &table,
            binder,
        };
        timestamp = Some(typer.expr(term, &Receiver::new("[timestamp]", CqlType::BigInt))?);
    }
    let mut statements = Vec::with_capacity(batch.statements.len());
    for modify in &batch.statements {
        let plan = plan_modify(catalog, modify, keyspace, binder)?;
        if batch.using.timestamp.is_some() && plan.timestamp.is_some() {
            return Err(Error::invalid(
                "Timestamp must be set either on BATCH or individual statements",
            ));
        }
        if batch.using.timestamp.is_some() && !plan.conditions.is_none() {
            return Err(Error::invalid(
                "Cannot provide custom timestamp for conditional BATCH",
            ));
        }
        statements.push(plan);
    }
    Ok(BatchPlan {
        statements,
        timestamp,
    })
}

impl Prepared {
    /// The plan for the schema as it is now; an error when values or results would look otherwise
    /// than they did when the statement was prepared.
    pub(super) fn current_plan(&self, catalog: &Catalog) -> Result<Arc<Plan>, Error> {
        let mut current = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        if current.version != catalog.version {
            let plan = Plan::new(catalog, &self.statement, self.keyspace.as_deref())?;
            if plan.bind != self.bind || plan.result != self.result {
                return Err(Error::unprepared(self.id.clone()));
            }
            *current = Arc::new(plan);
        }
        Ok(Arc::clone(&current))
    }
}

/// Sixteen bytes that keyspace and text determine.
pub(super) fn statement_id(cql: &str, keyspace: Option<&str>) -> Bytes {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, keyspace, cql).hash(&mut hasher);
        hasher.finish().to_be_bytes()
    };
    [half(1), half(2)].concat().into()
}
