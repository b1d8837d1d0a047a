//! `SELECT`: planning.

use std::sync::Arc;

use super::api::ColumnSpec;
use super::restrict::{Restrictions, column_index};
use super::term::{Expr, Receiver, Typer};
use super::{literal, resolve};
use crate::ast::{Select, SelectItem, Selector, Term};
use crate::error::Error;
use crate::functions::{self, Scalar};
use crate::schema::{ColumnKind, TableSchema};
use crate::types::CqlType;

const FILTERING: &str = "Cannot execute this query as it might involve data filtering and thus may have unpredictable performance. If you want to execute this query despite the performance unpredictability, use ALLOW FILTERING";

/// A planned `SELECT`.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a word of the statement"
)]
pub(super) struct SelectPlan {
    pub(super) table: Arc<TableSchema>,
    pub(super) columns: Arc<[ColumnSpec]>,
    pub(super) selection: Vec<Output>,
    pub(super) aggregate: bool,
    pub(super) restrictions: Restrictions,
    pub(super) group_by: Vec<usize>,
    pub(super) reversed: bool,
    pub(super) ordered: bool,
    pub(super) distinct: bool,
    pub(super) limit: Option<Expr>,
    pub(super) per_partition_limit: Option<Expr>,
}

/// Functions of many rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aggregate {
    Count,
    Min,
    Max,
    Sum,
    Avg,
}

/// A selected value.
#[derive(Debug)]
pub(super) enum Output {
    /// Index in `table.columns`.
    Column(usize),
    CountRows,
    Aggregate(Aggregate, Box<Output>),
    Call(Scalar, Vec<Output>),
    Token(Vec<Output>),
    Constant(Expr),
    WriteTime(usize),
    Ttl(usize),
    Field(Box<Output>, usize),
}

impl Output {
    fn is_aggregate(&self) -> bool {
        match self {
            Self::CountRows | Self::Aggregate(..) => true,
            Self::Call(_, arguments) | Self::Token(arguments) => {
                arguments.iter().any(Self::is_aggregate)
            }
            Self::Field(inner, _) => inner.is_aggregate(),
            Self::Column(_) | Self::Constant(_) | Self::WriteTime(_) | Self::Ttl(_) => false,
        }
    }
}

/// Plans a `SELECT`.
pub(super) fn plan(typer: &mut Typer<'_>, select: &Select) -> Result<SelectPlan, Error> {
    let table = Arc::clone(typer.table);
    if select.json {
        return Err(Error::unsupported("SELECT JSON"));
    }
    let mut selection = Vec::new();
    let mut columns = Vec::new();
    let spec = |name: &str, ty: &CqlType| ColumnSpec {
        keyspace: table.keyspace.clone(),
        table: table.name.clone(),
        name: name.to_owned(),
        ty: ty.clone(),
    };
    if select.items.is_empty() {
        for (index, column) in table.columns.iter().enumerate() {
            selection.push(Output::Column(index));
            columns.push(spec(&column.name, &column.ty));
        }
    }
    for SelectItem { selector, alias } in &select.items {
        let (output, name, ty) = output(typer, selector)?;
        columns.push(spec(alias.as_deref().unwrap_or(&name), &ty));
        selection.push(output);
    }
    let restrictions = Restrictions::new(typer, &select.relations, select.allow_filtering)?;
    let group_by = group_by(&table, select)?;
    if select.distinct {
        check_distinct(&table, &selection)?;
    }
    let needs_filtering = !restrictions.filters.is_empty()
        || (restrictions.has_clustering() && !restrictions.has_partition());
    if needs_filtering && !select.allow_filtering {
        return Err(Error::invalid(FILTERING));
    }
    let reversed = ordering(&table, select, &restrictions)?;
    let limit = |typer: &mut Typer<'_>, term: &Option<Term>, name: &str| {
        let receiver = Receiver::new(name, CqlType::Int);
        term.as_ref()
            .map(|term| typer.expr(term, &receiver))
            .transpose()
    };
    let per_partition_limit = limit(typer, &select.per_partition_limit, "[per_partition_limit]")?;
    let limit_expr = limit(typer, &select.limit, "[limit]")?;
    if let Some(timeout) = &select.timeout {
        typer.expr(timeout, &Receiver::new("[timeout]", CqlType::Duration))?;
    }
    Ok(SelectPlan {
        aggregate: selection.iter().any(Output::is_aggregate) || !group_by.is_empty(),
        columns: columns.into(),
        selection,
        restrictions,
        group_by,
        reversed,
        ordered: !select.order_by.is_empty(),
        distinct: select.distinct,
        limit: limit_expr,
        per_partition_limit,
        table,
    })
}

fn check_distinct(table: &TableSchema, selection: &[Output]) -> Result<(), Error> {
    for output in selection {
        let allowed = match output {
            Output::Column(index) => matches!(
                table.columns[*index].kind,
                ColumnKind::PartitionKey | ColumnKind::Static
            ),
            _ => true,
        };
        if !allowed {
            return Err(Error::invalid(
                "SELECT DISTINCT queries must only request partition key columns and/or static columns",
            ));
        }
    }
    Ok(())
}

fn group_by(table: &TableSchema, select: &Select) -> Result<Vec<usize>, Error> {
    let keys = table.partition_key().len() + table.clustering_key().len();
    let indexes: Vec<usize> = select
        .group_by
        .iter()
        .map(|name| column_index(table, name))
        .collect::<Result<_, _>>()?;
    let in_order = indexes
        .iter()
        .enumerate()
        .all(|(at, index)| at == *index && at < keys);
    if !indexes.is_empty() && (!in_order || indexes.len() < table.partition_key().len()) {
        return Err(Error::invalid(
            "Group by is currently only supported on the columns of the PRIMARY KEY, in their order",
        ));
    }
    Ok(indexes)
}

/// Whether the rows come in the reverse of the table's order.
fn ordering(
    table: &TableSchema,
    select: &Select,
    restrictions: &Restrictions,
) -> Result<bool, Error> {
    if select.order_by.is_empty() {
        return Ok(false);
    }
    if !restrictions.has_partition() {
        return Err(Error::invalid(
            "ORDER BY is only supported when the partition key is restricted by an EQ or an IN.",
        ));
    }
    let mut reversed = None;
    for (name, _) in &select.order_by {
        let index = column_index(table, name)
            .map_err(|_| Error::invalid(format!("Order by on unknown column {name}")))?;
        if table.columns[index].kind != ColumnKind::Clustering {
            return Err(Error::invalid(format!(
                "Order by is currently only supported on the clustered columns of the PRIMARY KEY, got {name}"
            )));
        }
    }
    let clustering = table.clustering_key();
    let mut wanted = select.order_by.iter().peekable();
    for (at, column) in clustering.iter().enumerate() {
        let Some((name, descending)) = wanted.peek() else {
            break;
        };
        if *name != column.name {
            // Columns that `=` fixes may be left out.
            if at < restrictions.prefix.len() {
                continue;
            }
            break;
        }
        let backwards = *descending != (column.order == crate::schema::ClusteringOrder::Desc);
        if reversed.is_some_and(|already| already != backwards) {
            return Err(Error::invalid("Unsupported order by relation"));
        }
        reversed = Some(backwards);
        wanted.next();
    }
    if wanted.peek().is_some() {
        return Err(Error::invalid(
            "Order by currently only support the ordering of columns following their declared order in the PRIMARY KEY",
        ));
    }
    Ok(reversed.unwrap_or(false))
}

type Typed = (Output, String, CqlType);

fn output(typer: &mut Typer<'_>, selector: &Selector) -> Result<Typed, Error> {
    let table = Arc::clone(typer.table);
    match selector {
        Selector::Column(name) => {
            let index = selected_column(&table, name)?;
            Ok((
                Output::Column(index),
                name.clone(),
                table.columns[index].ty.clone(),
            ))
        }
        Selector::CountRows => Ok((Output::CountRows, "count".into(), CqlType::BigInt)),
        Selector::Field(inner, field) => {
            let (inner, name, ty) = output(typer, inner)?;
            let CqlType::Udt(udt) = ty.peel() else {
                return Err(Error::invalid(format!(
                    "Invalid field selection: {name} of type {ty} is not a user type"
                )));
            };
            let found = udt.fields.iter().position(|(known, _)| known == field);
            let at = found.ok_or_else(|| {
                Error::invalid(format!("{name} of type {ty} has no field {field}"))
            })?;
            let ty = udt.fields[at].1.clone();
            Ok((
                Output::Field(Box::new(inner), at),
                format!("{name}.{field}"),
                ty,
            ))
        }
        Selector::Cast(inner, ty) => {
            let (inner, name, _) = output(typer, inner)?;
            let ty = resolve::cql_type(typer.keyspace, ty)?;
            let name = format!("cast({name} as {ty})");
            Ok((
                Output::Call(Scalar::Cast(ty.clone()), vec![inner]),
                name,
                ty,
            ))
        }
        Selector::Term(term) => {
            let ty = match term {
                Term::Literal(constant) => literal::natural_type(constant),
                Term::TypeHint(ty, _) => Some(resolve::cql_type(typer.keyspace, ty)?),
                _ => None,
            };
            let ty = ty.ok_or_else(|| {
                Error::invalid("Cannot infer type for term in selection clause (try using a cast to force a type)")
            })?;
            let expr = typer.expr(term, &Receiver::new("[selection]", ty.clone()))?;
            Ok((Output::Constant(expr), "value".into(), ty))
        }
        Selector::Function(name, arguments) => function(typer, &table, &name.name, arguments),
    }
}

fn selected_column(table: &TableSchema, name: &str) -> Result<usize, Error> {
    column_index(table, name)
        .map_err(|_| Error::invalid(format!("Undefined name {name} in selection clause")))
}

fn function(
    typer: &mut Typer<'_>,
    table: &Arc<TableSchema>,
    name: &str,
    arguments: &[Selector],
) -> Result<Typed, Error> {
    if let ("writetime" | "ttl", [Selector::Column(column)]) = (name, arguments) {
        return cell_property(table, name, column);
    }
    if name == "token" {
        let outputs = arguments
            .iter()
            .map(|argument| Ok(output(typer, argument)?.0));
        let outputs = outputs.collect::<Result<Vec<_>, Error>>()?;
        if outputs.len() != table.partition_key().len() {
            return Err(Error::invalid(format!(
                "Invalid number of arguments in call to function token: {} required but {} provided",
                table.partition_key().len(),
                outputs.len()
            )));
        }
        let names: Vec<String> = table
            .partition_key()
            .iter()
            .map(|c| c.name.clone())
            .collect();
        let name = format!("system.token({})", names.join(", "));
        return Ok((Output::Token(outputs), name, CqlType::BigInt));
    }
    if let ("count" | "min" | "max" | "sum" | "avg", [argument]) = (name, arguments) {
        let (inner, inner_name, ty) = output(typer, argument)?;
        return aggregate(name, inner, &inner_name, ty);
    }
    // A value's type follows from the parameter, a column's type chooses the function. Each argument is typed once:
    // twice would take exponential time in nested calls, and count their bind markers twice.
    let mut found: Vec<Option<Typed>> = arguments
        .iter()
        .map(|argument| match argument {
            Selector::Term(_) => Ok(None),
            argument => output(typer, argument).map(Some),
        })
        .collect::<Result<_, Error>>()?;
    let hint = found.first().and_then(Option::as_ref).map(|(_, _, ty)| ty);
    let signature = functions::find(name, hint.map(CqlType::peel))
        .ok_or_else(|| Error::invalid(format!("Unknown function '{name}'")))?;
    if signature.parameters.len() != arguments.len() {
        return Err(Error::invalid(format!(
            "Invalid number of arguments in call to function system.{name}: {} required but {} provided",
            signature.parameters.len(),
            arguments.len()
        )));
    }
    let mut outputs = Vec::new();
    let mut names = Vec::new();
    for ((argument, found), ty) in arguments.iter().zip(&mut found).zip(&signature.parameters) {
        if let Selector::Term(term) = argument {
            let receiver = Receiver::new(format!("arg0(system.{name})"), ty.clone());
            outputs.push(Output::Constant(typer.expr(term, &receiver)?));
            names.push("value".to_owned());
            continue;
        }
        let Some((output, inner_name, found)) = found.take() else {
            continue;
        };
        if found.peel() != ty && *ty != CqlType::Blob {
            return Err(Error::invalid(format!(
                "Type error: {inner_name} cannot be passed as argument 0 of function system.{name} of type {ty}"
            )));
        }
        outputs.push(output);
        names.push(inner_name);
    }
    let result_name = format!("system.{name}({})", names.join(", "));
    Ok((
        Output::Call(signature.scalar, outputs),
        result_name,
        signature.result,
    ))
}

fn cell_property(table: &TableSchema, name: &str, column: &str) -> Result<Typed, Error> {
    let index = selected_column(table, column)?;
    let found = &table.columns[index];
    if matches!(
        found.kind,
        ColumnKind::PartitionKey | ColumnKind::Clustering
    ) {
        return Err(Error::invalid(format!(
            "Cannot use selection function {name} on PRIMARY KEY part {column}"
        )));
    }
    if found.ty.is_multi_cell() {
        return Err(Error::invalid(format!(
            "Cannot use selection function {name} on non-frozen collections"
        )));
    }
    let text = format!("{name}({column})");
    Ok(if name == "ttl" {
        (Output::Ttl(index), text, CqlType::Int)
    } else {
        (Output::WriteTime(index), text, CqlType::BigInt)
    })
}

fn aggregate(name: &str, inner: Output, inner_name: &str, ty: CqlType) -> Result<Typed, Error> {
    if inner.is_aggregate() {
        return Err(Error::invalid(
            "Aggregate functions cannot be used as arguments of aggregates",
        ));
    }
    let numeric = matches!(
        ty,
        CqlType::TinyInt
            | CqlType::SmallInt
            | CqlType::Int
            | CqlType::BigInt
            | CqlType::Counter
            | CqlType::Float
            | CqlType::Double
    );
    let (which, result) = match name {
        "count" => (Aggregate::Count, CqlType::BigInt),
        "min" => (Aggregate::Min, ty),
        "max" => (Aggregate::Max, ty),
        _ if !numeric => {
            return Err(Error::unsupported(format!(
                "{name} of a column of type {ty}"
            )));
        }
        "sum" => (Aggregate::Sum, ty),
        _ => (Aggregate::Avg, ty),
    };
    let text = format!("system.{name}({inner_name})");
    Ok((Output::Aggregate(which, Box::new(inner)), text, result))
}
