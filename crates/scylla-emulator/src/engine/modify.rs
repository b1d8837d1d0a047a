//! `INSERT`, `UPDATE` and `DELETE`: planning.

use std::sync::Arc;

use super::condition::{self, ConditionPlan};
use super::restrict::{KeyTest, Restrictions};
use super::term::{Expr, Receiver, Typer, is_null};
use crate::ast::{Action, Assignment, Conditions, DeleteTarget, Modify, Relation, Term};
use crate::error::Error;
use crate::schema::{ColumnKind, ColumnSchema, TableSchema, is_system_keyspace};
use crate::types::CqlType;

/// A planned modification.
#[derive(Debug)]
pub(super) struct ModifyPlan {
    pub(super) table: Arc<TableSchema>,
    pub(super) is_insert: bool,
    pub(super) is_delete: bool,
    /// The rows.
    pub(super) restrictions: Restrictions,
    /// Whether the statement touches static columns alone (and names no row).
    pub(super) static_only: bool,
    pub(super) operations: Vec<(ColumnSchema, Operation)>,
    pub(super) timestamp: Option<Expr>,
    pub(super) ttl: Option<Expr>,
    pub(super) conditions: ConditionPlan,
}

/// What happens to a column.
#[derive(Debug)]
pub(super) enum Operation {
    Set(Expr),
    Add(Expr),
    Prepend(Expr),
    Subtract(Expr),
    SetElement(Expr, Expr),
    SetField(usize, Expr),
    Delete,
    DeleteElement(Expr),
    DeleteField(usize),
}

/// Plans a modification.
pub(super) fn plan(typer: &mut Typer<'_>, modify: &Modify) -> Result<ModifyPlan, Error> {
    let table = Arc::clone(typer.table);
    if is_system_keyspace(&table.keyspace) {
        return Err(Error::unauthorized(format!(
            "{} keyspace is not user-modifiable.",
            table.keyspace
        )));
    }
    if table.is_counter() {
        return Err(Error::unsupported("Writing to a counter table"));
    }
    let (relations, operations) = match &modify.action {
        Action::InsertJson => return Err(Error::unsupported("INSERT JSON")),
        Action::Insert(columns, values) => insert(typer, &table, columns, values)?,
        Action::Update(assignments, relations) => {
            (relations.clone(), update(typer, &table, assignments)?)
        }
        Action::Delete(targets, relations) => (relations.clone(), delete(typer, &table, targets)?),
    };
    let is_insert = matches!(modify.action, Action::Insert(..));
    let is_delete = matches!(modify.action, Action::Delete(..));
    let restrictions = Restrictions::new(typer, &relations, false)?;
    let conditions = condition::plan(typer, &modify.conditions)?;
    let mut plan = ModifyPlan {
        is_insert,
        is_delete,
        static_only: false,
        operations,
        timestamp: option(
            typer,
            modify.using.timestamp.as_ref(),
            "[timestamp]",
            CqlType::BigInt,
        )?,
        ttl: option(typer, modify.using.ttl.as_ref(), "[ttl]", CqlType::Int)?,
        restrictions,
        conditions,
        table,
    };
    option(
        typer,
        modify.using.timeout.as_ref(),
        "[timeout]",
        CqlType::Duration,
    )?;
    if is_delete && plan.ttl.is_some() {
        return Err(Error::invalid("TTL attribute is not allowed for deletes"));
    }
    if plan.timestamp.is_some() && modify.conditions != Conditions::None {
        return Err(Error::invalid(
            "Cannot provide custom timestamp for conditional updates",
        ));
    }
    check(&mut plan, &modify.conditions)?;
    Ok(plan)
}

fn option(
    typer: &mut Typer<'_>,
    term: Option<&Term>,
    name: &str,
    ty: CqlType,
) -> Result<Option<Expr>, Error> {
    let receiver = Receiver::new(name, ty);
    term.map(|term| typer.expr(term, &receiver)).transpose()
}

/// Checks that the statement names the rows that it needs.
fn check(plan: &mut ModifyPlan, conditions: &Conditions) -> Result<(), Error> {
    let table = &plan.table;
    let restrictions = &plan.restrictions;
    let missing = |name: &str| {
        Err(Error::invalid(format!(
            "Missing mandatory PRIMARY KEY part {name}"
        )))
    };
    if restrictions.token_from.is_some() || restrictions.token_to.is_some() {
        return Err(Error::invalid(
            "The token function cannot be used in WHERE clauses for UPDATE and DELETE statements",
        ));
    }
    let filtered = |column: &ColumnSchema| {
        restrictions
            .filters
            .iter()
            .any(|filter| table.columns[filter.column].id == column.id)
    };
    for (test, column) in restrictions.partition.iter().zip(table.partition_key()) {
        if test.is_none() && !filtered(column) {
            return missing(&column.name);
        }
    }
    if let Some(filter) = restrictions.filters.first() {
        let column = &table.columns[filter.column];
        if matches!(column.kind, ColumnKind::PartitionKey) {
            let keys = table.partition_key().iter().zip(&restrictions.partition);
            let absent = keys.into_iter().find(|(column, _)| !filtered(column));
            return missing(absent.map_or(&column.name, |(column, _)| &column.name));
        }
        if column.kind == ColumnKind::Clustering {
            let absent = table
                .clustering_key()
                .iter()
                .find(|column| !filtered(column));
            return missing(absent.map_or(&column.name, |column| &column.name));
        }
        return Err(Error::invalid(format!(
            "Invalid where clause: non PRIMARY KEY column {} found in where clause",
            column.name
        )));
    }
    let given = restrictions.prefix.len()
        + restrictions
            .tuple_in
            .as_ref()
            .map_or(0, |(count, _)| *count);
    let clustering = table.clustering_key();
    let statics_alone = !plan.operations.is_empty()
        && plan
            .operations
            .iter()
            .all(|(column, _)| column.kind == ColumnKind::Static);
    let ranged = restrictions.lower.is_some() || restrictions.upper.is_some();
    if statics_alone && given == 0 && !ranged {
        plan.static_only = true;
        return Ok(());
    }
    let whole_rows = plan.is_delete && plan.operations.is_empty();
    if given < clustering.len() && !whole_rows {
        // INSERT of nothing but the partition key is one into the static row.
        if plan.is_insert && given == 0 && plan.operations.is_empty() && table.has_static_columns()
        {
            plan.static_only = true;
            return Ok(());
        }
        return missing(&clustering[given].name);
    }
    if *conditions != Conditions::None && (given < clustering.len() || ranged) {
        if plan.conditions.is_static_only(table) && given == 0 && !ranged {
            plan.static_only = true;
            return Ok(());
        }
        return Err(Error::invalid(
            "DELETE statements must restrict all PRIMARY KEY columns with equality relations in order to use IF conditions",
        ));
    }
    let mut keys = restrictions
        .partition
        .iter()
        .flatten()
        .chain(&restrictions.prefix);
    if *conditions != Conditions::None && keys.any(|test| matches!(test, KeyTest::In(_))) {
        return Err(Error::invalid(
            "IN on the PRIMARY KEY is not supported with conditional updates",
        ));
    }
    Ok(())
}

type Parts = (Vec<Relation>, Vec<(ColumnSchema, Operation)>);

fn insert(
    typer: &mut Typer<'_>,
    table: &TableSchema,
    columns: &[String],
    values: &[Term],
) -> Result<Parts, Error> {
    if columns.len() != values.len() {
        return Err(Error::invalid("Unmatched column names/values"));
    }
    let mut relations = Vec::new();
    let mut operations = Vec::new();
    for (at, (name, term)) in columns.iter().zip(values).enumerate() {
        let column = known(table, name)?;
        if columns[..at].contains(name) {
            return Err(Error::invalid(format!(
                "Multiple definitions found for column {name}"
            )));
        }
        if matches!(
            column.kind,
            ColumnKind::PartitionKey | ColumnKind::Clustering
        ) {
            relations.push(Relation::Column(
                name.clone(),
                crate::ast::Operator::Eq,
                term.clone(),
            ));
        } else {
            let receiver = Receiver::new(name.clone(), column.ty.clone());
            operations.push((column.clone(), set(typer, term, &receiver)?));
        }
    }
    Ok((relations, operations))
}

fn set(typer: &mut Typer<'_>, term: &Term, receiver: &Receiver) -> Result<Operation, Error> {
    if is_null(term) {
        return Ok(Operation::Delete);
    }
    Ok(Operation::Set(typer.expr(term, receiver)?))
}

fn known<'t>(table: &'t TableSchema, name: &str) -> Result<&'t ColumnSchema, Error> {
    table
        .column(name)
        .ok_or_else(|| Error::invalid(format!("Unknown identifier {name}")))
}

fn settable<'t>(table: &'t TableSchema, name: &str) -> Result<&'t ColumnSchema, Error> {
    let column = known(table, name)?;
    if matches!(
        column.kind,
        ColumnKind::PartitionKey | ColumnKind::Clustering
    ) {
        return Err(Error::invalid(format!(
            "PRIMARY KEY part {name} found in SET part"
        )));
    }
    Ok(column)
}

fn update(
    typer: &mut Typer<'_>,
    table: &TableSchema,
    assignments: &[(String, Assignment)],
) -> Result<Vec<(ColumnSchema, Operation)>, Error> {
    let mut operations: Vec<(ColumnSchema, Operation)> = Vec::new();
    for (name, assignment) in assignments {
        let column = settable(table, name)?;
        let whole = matches!(assignment, Assignment::Set(_));
        let again = operations.iter().any(|(other, operation)| {
            other.id == column.id
                && (whole || matches!(operation, Operation::Set(_) | Operation::Delete))
        });
        if again {
            return Err(Error::invalid(format!(
                "Multiple definitions found for column {name}"
            )));
        }
        operations.push((column.clone(), assign(typer, column, assignment)?));
    }
    Ok(operations)
}

fn assign(
    typer: &mut Typer<'_>,
    column: &ColumnSchema,
    assignment: &Assignment,
) -> Result<Operation, Error> {
    let name = &column.name;
    let receiver = Receiver::new(name.clone(), column.ty.clone());
    let invalid = |what: &str| {
        Error::invalid(format!(
            "Invalid operation ({what}) for non counter column {name}"
        ))
    };
    let collection = column.ty.is_multi_cell() && column.ty.is_collection();
    if !matches!(assignment, Assignment::Set(_)) && matches!(column.ty, CqlType::Frozen(_)) {
        return Err(Error::invalid(format!(
            "Invalid operation for frozen collection column {name}"
        )));
    }
    Ok(match assignment {
        Assignment::Set(term) => set(typer, term, &receiver)?,
        Assignment::Add(term) if collection => Operation::Add(typer.expr(term, &receiver)?),
        Assignment::Add(_) => return Err(invalid(&format!("{name} = {name} + value"))),
        Assignment::Prepend(term) if matches!(column.ty, CqlType::List(_)) => {
            Operation::Prepend(typer.expr(term, &receiver)?)
        }
        Assignment::Prepend(term) if collection => Operation::Add(typer.expr(term, &receiver)?),
        Assignment::Prepend(_) => return Err(invalid(&format!("{name} = value + {name}"))),
        Assignment::Subtract(term) if collection => {
            let receiver = match &column.ty {
                CqlType::Map(key, _) => Receiver::new(name.clone(), CqlType::Set(key.clone())),
                _ => receiver,
            };
            Operation::Subtract(typer.expr(term, &receiver)?)
        }
        Assignment::Subtract(_) => return Err(invalid(&format!("{name} = {name} - value"))),
        Assignment::Element(key, term) => {
            let (key, value) = element(typer, column, key, Some(term))?;
            Operation::SetElement(key, value.unwrap_or(Expr::Constant(None)))
        }
        Assignment::Field(field, term) => {
            let (at, ty) = udt_field(column, field)?;
            let receiver = Receiver::new(format!("{name}.{field}"), ty);
            Operation::SetField(at, typer.expr(term, &receiver)?)
        }
    })
}

fn element(
    typer: &mut Typer<'_>,
    column: &ColumnSchema,
    key: &Term,
    value: Option<&Term>,
) -> Result<(Expr, Option<Expr>), Error> {
    let name = &column.name;
    let (key_receiver, value_type) = match &column.ty {
        CqlType::List(element) => (
            Receiver::new(format!("idx({name})"), CqlType::Int),
            (**element).clone(),
        ),
        CqlType::Map(key, value) => (
            Receiver::new(format!("key({name})"), (**key).clone()),
            (**value).clone(),
        ),
        CqlType::Set(element) if value.is_none() => (
            Receiver::new(format!("value({name})"), (**element).clone()),
            (**element).clone(),
        ),
        _ => {
            return Err(Error::invalid(format!(
                "Invalid operation ({name}[…]) for column {name} of type {}",
                column.ty
            )));
        }
    };
    let key = typer.expr(key, &key_receiver)?;
    let receiver = Receiver::new(format!("value({name})"), value_type);
    let value = value.map(|term| typer.expr(term, &receiver)).transpose()?;
    Ok((key, value))
}

fn udt_field(column: &ColumnSchema, field: &str) -> Result<(usize, CqlType), Error> {
    let CqlType::Udt(udt) = &column.ty else {
        return Err(Error::invalid(format!(
            "Invalid operation ({}.{field}) for non-UDT column {}",
            column.name, column.name
        )));
    };
    let found = udt.fields.iter().position(|(name, _)| name == field);
    let at = found.ok_or_else(|| {
        Error::invalid(format!(
            "UDT column {} does not have a field named {field}",
            column.name
        ))
    })?;
    Ok((at, udt.fields[at].1.clone()))
}

fn delete(
    typer: &mut Typer<'_>,
    table: &TableSchema,
    targets: &[(String, DeleteTarget)],
) -> Result<Vec<(ColumnSchema, Operation)>, Error> {
    let mut operations = Vec::new();
    for (name, target) in targets {
        let column = known(table, name)?;
        if matches!(
            column.kind,
            ColumnKind::PartitionKey | ColumnKind::Clustering
        ) {
            return Err(Error::invalid(format!(
                "Invalid identifier {name} for deletion (should not be a PRIMARY KEY part)"
            )));
        }
        let operation = match target {
            DeleteTarget::Column => Operation::Delete,
            DeleteTarget::Element(key) => {
                Operation::DeleteElement(element(typer, column, key, None)?.0)
            }
            DeleteTarget::Field(field) => Operation::DeleteField(udt_field(column, field)?.0),
        };
        operations.push((column.clone(), operation));
    }
    Ok(operations)
}
