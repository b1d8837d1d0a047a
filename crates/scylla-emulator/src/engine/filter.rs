//! Conditions that each row must pass.

use super::restrict::{Filter, FilterTest};
use super::term::Scope;
use crate::ast::Operator;
use crate::error::Error;
use crate::schema::TableSchema;
use crate::types::Value;

/// A filter with its values.
#[derive(Debug, Clone)]
pub(super) struct BoundFilter {
    pub(super) column: usize,
    test: BoundTest,
}

#[derive(Debug, Clone)]
enum BoundTest {
    Compare(Operator, Value),
    In(Vec<Value>),
    Entry(Value, Operator, Value),
}

impl BoundFilter {
    /// Evaluates a filter's values.
    pub(super) fn new(
        filter: &Filter,
        scope: &Scope<'_>,
        table: &TableSchema,
    ) -> Result<Self, Error> {
        let name = &table.columns[filter.column].name;
        let test = match &filter.test {
            FilterTest::Compare(operator, expr) => {
                BoundTest::Compare(*operator, scope.key(expr, name)?)
            }
            FilterTest::In(values) => BoundTest::In(scope.in_values(values, name)?),
            FilterTest::Entry(key, operator, value) => {
                BoundTest::Entry(scope.key(key, name)?, *operator, scope.key(value, name)?)
            }
        };
        Ok(Self {
            column: filter.column,
            test,
        })
    }

    /// Whether a column's value passes; null never does.
    pub(super) fn passes(&self, value: Option<&Value>) -> bool {
        let Some(value) = value else { return false };
        match &self.test {
            BoundTest::Compare(operator, wanted) => compare(value, *operator, wanted),
            BoundTest::In(wanted) => wanted.contains(value),
            BoundTest::Entry(key, operator, wanted) => match value {
                Value::Map(entries) => entries
                    .iter()
                    .any(|(found, value)| found == key && compare(value, *operator, wanted)),
                _ => false,
            },
        }
    }
}

/// `value operator wanted`.
pub(super) fn compare(value: &Value, operator: Operator, wanted: &Value) -> bool {
    match operator {
        Operator::Eq => value == wanted,
        Operator::Ne => value != wanted,
        Operator::Lt => value < wanted,
        Operator::Le => value <= wanted,
        Operator::Gt => value > wanted,
        Operator::Ge => value >= wanted,
        Operator::Contains => match value {
            Value::List(elements) | Value::Set(elements) => elements.contains(wanted),
            Value::Map(entries) => entries.iter().any(|(_, found)| found == wanted),
            _ => false,
        },
        Operator::ContainsKey => match value {
            Value::Map(entries) => entries.iter().any(|(key, _)| key == wanted),
            _ => false,
        },
        Operator::Like => false,
    }
}
