//! `IF …`: conditions of lightweight transactions.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::filter::compare;
use super::read::RowView;
use super::term::{Bound, Expr, InExpr, Receiver, Scope, Typer};
use crate::ast::{Condition, ConditionTest, Conditions, Operator};
use crate::error::Error;
use crate::schema::{ColumnId, ColumnKind, ColumnSchema, TableSchema};
use crate::types::{CqlType, Value};

/// Planned conditions.
#[derive(Debug)]
pub(super) enum ConditionPlan {
    None,
    IfNotExists,
    IfExists,
    If(Vec<Test>),
}

/// One condition on one column.
#[derive(Debug)]
pub(super) struct Test {
    column: ColumnSchema,
    element: Option<Expr>,
    kind: TestKind,
}

#[derive(Debug)]
enum TestKind {
    Compare(Operator, Expr),
    In(InExpr),
}

/// Plans `IF …`.
pub(super) fn plan(typer: &mut Typer<'_>, conditions: &Conditions) -> Result<ConditionPlan, Error> {
    Ok(match conditions {
        Conditions::None => ConditionPlan::None,
        Conditions::IfNotExists => ConditionPlan::IfNotExists,
        Conditions::IfExists => ConditionPlan::IfExists,
        Conditions::If(conditions) => ConditionPlan::If(
            conditions
                .iter()
                .map(|condition| test(typer, condition))
                .collect::<Result<_, _>>()?,
        ),
    })
}

fn test(typer: &mut Typer<'_>, condition: &Condition) -> Result<Test, Error> {
    let name = &condition.column;
    let column = typer
        .table
        .column(name)
        .ok_or_else(|| Error::invalid(format!("Unknown identifier {name}")))?
        .clone();
    if matches!(
        column.kind,
        ColumnKind::PartitionKey | ColumnKind::Clustering
    ) {
        return Err(Error::invalid(format!(
            "PRIMARY KEY column '{name}' cannot have IF conditions"
        )));
    }
    let (element, ty) = match &condition.element {
        None => (None, column.ty.clone()),
        Some(key) => {
            let (key_type, value_type) = match column.ty.peel() {
                CqlType::List(element) => (CqlType::Int, (**element).clone()),
                CqlType::Map(key, value) => ((**key).clone(), (**value).clone()),
                _ => {
                    return Err(Error::invalid(format!(
                        "Invalid element access syntax for non-collection column {name}"
                    )));
                }
            };
            let receiver = Receiver::new(format!("key({name})"), key_type);
            (Some(typer.expr(key, &receiver)?), value_type)
        }
    };
    let receiver = Receiver::new(name.clone(), ty);
    let kind = match &condition.test {
        ConditionTest::Compare(operator, term) => {
            TestKind::Compare(*operator, typer.expr(term, &receiver)?)
        }
        ConditionTest::In(values) => TestKind::In(typer.in_values(values, &receiver)?),
    };
    Ok(Test {
        column,
        element,
        kind,
    })
}

impl ConditionPlan {
    /// Whether there is no condition.
    pub(super) fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// Whether all conditions are about static columns.
    pub(super) fn is_static_only(&self, table: &TableSchema) -> bool {
        match self {
            Self::If(tests) => {
                table.has_static_columns()
                    && tests
                        .iter()
                        .all(|test| test.column.kind == ColumnKind::Static)
            }
            _ => false,
        }
    }

    /// The columns that the result shows.
    pub(super) fn result_columns(&self, table: &TableSchema, into: &mut BTreeSet<ColumnId>) {
        match self {
            Self::None => {}
            Self::IfExists | Self::IfNotExists => {
                into.extend(table.columns.iter().map(|column| column.id));
            }
            Self::If(tests) => into.extend(tests.iter().map(|test| test.column.id)),
        }
    }

    /// Whether the conditions hold for a row (`None`: there is no such row).
    pub(super) fn holds(
        &self,
        scope: &Scope<'_>,
        row: Option<&RowView<'_>>,
        exists: bool,
    ) -> Result<bool, Error> {
        match self {
            Self::None => Ok(true),
            Self::IfNotExists => Ok(!exists),
            Self::IfExists => Ok(exists),
            Self::If(tests) => {
                for test in tests {
                    if !test.holds(scope, row)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
        }
    }
}

impl Test {
    fn holds(&self, scope: &Scope<'_>, row: Option<&RowView<'_>>) -> Result<bool, Error> {
        let value = row.and_then(|row| row.value(&self.column));
        let value = match &self.element {
            None => value,
            Some(key) => {
                let key = scope.key(key, &self.column.name)?;
                value
                    .and_then(|value| element(&value, &key))
                    .map(Cow::Owned)
            }
        };
        match &self.kind {
            TestKind::In(values) => match value {
                None => Ok(false),
                Some(value) => Ok(scope.in_values(values, &self.column.name)?.contains(&value)),
            },
            TestKind::Compare(operator, expr) => {
                let wanted = match scope.eval(expr)? {
                    Bound::Unset => {
                        return Err(Error::invalid(format!(
                            "Invalid 'unset' value in condition for column {}",
                            self.column.name
                        )));
                    }
                    Bound::Null => None,
                    // An empty collection that is not frozen is no collection.
                    Bound::Value(Value::List(items) | Value::Set(items))
                        if items.is_empty() && self.column.ty.is_multi_cell() =>
                    {
                        None
                    }
                    Bound::Value(wanted) => Some(wanted),
                };
                Ok(match (value, wanted, operator) {
                    (None, None, Operator::Eq)
                    | (Some(_), None, Operator::Ne)
                    | (None, Some(_), Operator::Ne) => true,
                    (Some(value), Some(wanted), operator) => compare(&value, *operator, &wanted),
                    _ => false,
                })
            }
        }
    }
}

fn element(value: &Value, key: &Value) -> Option<Value> {
    match (value, key) {
        (Value::List(items), Value::Int(index)) => {
            items.get(usize::try_from(*index).ok()?).cloned()
        }
        (Value::Map(entries), key) => entries
            .iter()
            .find(|(found, _)| found == key)
            .map(|(_, value)| value.clone()),
        _ => None,
    }
}
