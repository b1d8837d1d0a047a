//! `WHERE`: which partitions, which rows of them, and what is left to filter.

use std::sync::Arc;

use super::term::{Bound, Expr, InExpr, Receiver, Scope, Typer};
use crate::ast::{InValues, Operator, Relation, Term};
use crate::error::Error;
use crate::mutation::{ClusteringBound, ClusteringRange};
use crate::schema::{ClusteringOrder, ColumnKind, ColumnSchema, TableSchema};
use crate::types::{CqlType, Value};

/// No statement may address more partitions, or more clustering prefixes in each, than this: ScyllaDB's defaults of
/// `max_partition_key_restrictions_per_query` and `max_clustering_key_restrictions_per_query`.
const MAX_PRODUCT: usize = 100;

/// `=` or `IN` on a key column.
#[derive(Debug, Clone)]
pub(super) enum KeyTest {
    Eq(Expr),
    In(InExpr),
}

/// One side of a range: a value per column from the first one of the range on.
#[derive(Debug, Clone)]
pub(super) struct Side {
    pub(super) values: Expr,
    /// Whether `values` is a tuple.
    pub(super) tuple: bool,
    pub(super) inclusive: bool,
}

/// A test that each row must pass.
#[derive(Debug, Clone)]
pub(super) struct Filter {
    /// Index in `table.columns`.
    pub(super) column: usize,
    pub(super) test: FilterTest,
}

#[derive(Debug, Clone)]
pub(super) enum FilterTest {
    Compare(Operator, Expr),
    In(InExpr),
    Entry(Expr, Operator, Expr),
}

/// A `WHERE` clause, taken apart.
#[derive(Debug, Clone, Default)]
pub(super) struct Restrictions {
    /// Per partition key column.
    pub(super) partition: Vec<Option<KeyTest>>,
    /// Token bounds.
    pub(super) token_from: Option<(Expr, bool)>,
    pub(super) token_to: Option<(Expr, bool)>,
    /// `=` or `IN` on a prefix of the clustering key.
    pub(super) prefix: Vec<KeyTest>,
    /// `(a, b) IN …` right behind the prefix.
    pub(super) tuple_in: Option<(usize, InExpr)>,
    /// A range on the columns behind the prefix.
    pub(super) lower: Option<Side>,
    pub(super) upper: Option<Side>,
    pub(super) filters: Vec<Filter>,
}

struct Collected {
    eq: Option<KeyTest>,
    lower: Option<Side>,
    upper: Option<Side>,
    filters: Vec<FilterTest>,
}

impl Restrictions {
    /// Takes a clause apart. With `filtering` (ALLOW FILTERING) a range of a partition key column is a filter.
    pub(super) fn new(
        typer: &mut Typer<'_>,
        relations: &[Relation],
        filtering: bool,
    ) -> Result<Self, Error> {
        let table = Arc::clone(typer.table);
        let mut restrictions = Self {
            partition: vec![None; table.partition_key().len()],
            ..Self::default()
        };
        let mut columns: Vec<Collected> = table
            .columns
            .iter()
            .map(|_| Collected {
                eq: None,
                lower: None,
                upper: None,
                filters: Vec::new(),
            })
            .collect();
        let mut tuples = Vec::new();
        for relation in relations {
            match relation {
                Relation::Token(names, operator, term) => {
                    restrictions.token(typer, &table, names, *operator, term)?;
                }
                Relation::Tuple(names, operator, term) => {
                    tuples.push((names, *operator, Some(term), None));
                }
                Relation::TupleIn(names, values) => {
                    tuples.push((names, Operator::Eq, None, Some(values)));
                }
                Relation::IsNotNull(_) => {
                    return Err(Error::invalid(
                        "IS NOT NULL is only supported in materialized view creation",
                    ));
                }
                Relation::Column(name, ..)
                | Relation::ColumnIn(name, _)
                | Relation::Entry(name, ..) => {
                    let at = column_index(&table, name)?;
                    collect(typer, &table.columns[at], relation, &mut columns[at])?;
                }
            }
        }
        restrictions.check_mixture(&table, &columns, !tuples.is_empty())?;
        restrictions.place(&table, &mut columns, filtering)?;
        for (names, operator, term, values) in tuples {
            restrictions.tuple(typer, &table, names, operator, term, values)?;
        }
        for (at, collected) in columns.into_iter().enumerate() {
            let filters = collected.filters.into_iter();
            restrictions
                .filters
                .extend(filters.map(|test| Filter { column: at, test }));
        }
        Ok(restrictions)
    }

    /// Refuses what ScyllaDB refuses to combine.
    fn check_mixture(
        &self,
        table: &TableSchema,
        columns: &[Collected],
        tuples: bool,
    ) -> Result<(), Error> {
        let (keys, clustering) = (table.partition_key().len(), table.clustering_key().len());
        let restricted = |column: &Collected| {
            column.eq.is_some() || column.lower.is_some() || column.upper.is_some()
        };
        let by_token = self.token_from.is_some() || self.token_to.is_some();
        if by_token && columns[..keys].iter().any(restricted) {
            let names: Vec<&str> = table.partition_key().iter().map(|c| &*c.name).collect();
            return Err(Error::invalid(format!(
                "Columns \"{}\" cannot be restricted by both a normal relation and a token relation",
                names.join(", ")
            )));
        }
        if tuples && columns[keys..keys + clustering].iter().any(restricted) {
            return Err(Error::invalid(
                "Mixing single column relations and multi column relations on clustering columns is not allowed",
            ));
        }
        Ok(())
    }

    /// Decides which column restrictions select by key and which ones filter.
    fn place(
        &mut self,
        table: &TableSchema,
        columns: &mut [Collected],
        filtering: bool,
    ) -> Result<(), Error> {
        let keys = table.partition_key().len();
        let complete = columns[..keys].iter().all(|column| column.eq.is_some());
        for (at, collected) in columns[..keys].iter_mut().enumerate() {
            if (collected.lower.is_some() || collected.upper.is_some()) && !filtering {
                return Err(Error::invalid(
                    "Only EQ and IN relation are supported on the partition key (unless you use the token() function or allow filtering)",
                ));
            }
            if complete {
                self.partition[at] = collected.eq.take();
            }
        }
        let mut open = true;
        let end = keys + table.clustering_key().len();
        for collected in &mut columns[keys..end] {
            if !open {
                break;
            }
            if let Some(test) = collected.eq.take() {
                self.prefix.push(test);
                continue;
            }
            open = false;
            self.lower = collected.lower.take();
            self.upper = collected.upper.take();
        }
        for collected in columns.iter_mut() {
            if let Some(test) = collected.eq.take() {
                collected.filters.push(match test {
                    KeyTest::Eq(expr) => FilterTest::Compare(Operator::Eq, expr),
                    KeyTest::In(values) => FilterTest::In(values),
                });
            }
            for (side, closed, open) in [
                (collected.lower.take(), Operator::Ge, Operator::Gt),
                (collected.upper.take(), Operator::Le, Operator::Lt),
            ] {
                if let Some(side) = side {
                    let operator = if side.inclusive { closed } else { open };
                    collected
                        .filters
                        .push(FilterTest::Compare(operator, side.values));
                }
            }
        }
        Ok(())
    }

    fn token(
        &mut self,
        typer: &mut Typer<'_>,
        table: &TableSchema,
        names: &[String],
        operator: Operator,
        term: &Term,
    ) -> Result<(), Error> {
        if !names
            .iter()
            .eq(table.partition_key().iter().map(|column| &column.name))
        {
            return Err(Error::invalid(
                "The token function arguments must be in the partition key order",
            ));
        }
        let receiver = Receiver::new("partition key token", CqlType::BigInt);
        let expr = typer.expr(term, &receiver)?;
        let (from, to) = match operator {
            Operator::Gt => (Some(false), None),
            Operator::Ge => (Some(true), None),
            Operator::Lt => (None, Some(false)),
            Operator::Le => (None, Some(true)),
            Operator::Eq => (Some(true), Some(true)),
            _ => {
                return Err(Error::invalid(format!(
                    "Unsupported operator {operator} for the token function"
                )));
            }
        };
        if let Some(inclusive) = from {
            duplicate(self.token_from.is_some(), "token")?;
            self.token_from = Some((expr.clone(), inclusive));
        }
        if let Some(inclusive) = to {
            duplicate(self.token_to.is_some(), "token")?;
            self.token_to = Some((expr, inclusive));
        }
        Ok(())
    }

    fn tuple(
        &mut self,
        typer: &mut Typer<'_>,
        table: &TableSchema,
        names: &[String],
        operator: Operator,
        term: Option<&Term>,
        values: Option<&InValues>,
    ) -> Result<(), Error> {
        let clustering = table.clustering_key();
        let first = self.prefix.len();
        for name in names {
            let at = column_index(table, name)?;
            if table.columns[at].kind != ColumnKind::Clustering {
                return Err(Error::invalid(format!(
                    "Multi-column relations can only be applied to clustering columns but was applied to: {name}"
                )));
            }
        }
        let expected = clustering.iter().skip(first).map(|column| &column.name);
        if !names.iter().eq(expected.take(names.len())) {
            return Err(Error::invalid(format!(
                "Clustering columns must appear in the PRIMARY KEY order in multi-column relations: ({})",
                names.join(", ")
            )));
        }
        let columns = &clustering[first..first + names.len()];
        let ty = CqlType::Tuple(columns.iter().map(|column| column.ty.clone()).collect());
        let receiver = Receiver::new(format!("({})", names.join(",")), ty);
        if let Some(values) = values {
            duplicate(
                self.tuple_in.is_some() || self.lower.is_some() || self.upper.is_some(),
                &names[0],
            )?;
            self.tuple_in = Some((names.len(), typer.in_values(values, &receiver)?));
            return Ok(());
        }
        let Some(term) = term else { return Ok(()) };
        if operator == Operator::Eq {
            let expr = typer.expr(term, &receiver)?;
            self.tuple_in = Some((names.len(), InExpr::List(vec![expr])));
            return Ok(());
        }
        if columns
            .iter()
            .any(|column| column.order != columns[0].order)
        {
            return Err(Error::unsupported(
                "A multi-column range over columns of mixed order",
            ));
        }
        let values = typer.expr(term, &receiver)?;
        let side = |inclusive| {
            Some(Side {
                values: values.clone(),
                tuple: true,
                inclusive,
            })
        };
        let (slot, side) = match operator {
            Operator::Gt => (&mut self.lower, side(false)),
            Operator::Ge => (&mut self.lower, side(true)),
            Operator::Lt => (&mut self.upper, side(false)),
            Operator::Le => (&mut self.upper, side(true)),
            _ => {
                return Err(Error::invalid(format!(
                    "Unsupported multi-column operator {operator}"
                )));
            }
        };
        duplicate(slot.is_some(), &names[0])?;
        *slot = side;
        Ok(())
    }

    /// Whether every partition key column has `=` or `IN`.
    pub(super) fn has_partition(&self) -> bool {
        self.partition.iter().all(Option::is_some)
    }

    /// Whether a clustering column is restricted.
    pub(super) fn has_clustering(&self) -> bool {
        !self.prefix.is_empty()
            || self.tuple_in.is_some()
            || self.lower.is_some()
            || self.upper.is_some()
    }

    /// The partition keys that are addressed.
    pub(super) fn partition_keys(
        &self,
        scope: &Scope<'_>,
        table: &TableSchema,
    ) -> Result<Vec<Vec<Value>>, Error> {
        let mut keys = vec![Vec::new()];
        for (test, column) in self.partition.iter().zip(table.partition_key()) {
            let Some(test) = test else {
                return Ok(Vec::new());
            };
            keys = product("partition", &keys, test_values(scope, test, column)?)?;
        }
        for key in &keys {
            check_key(key)?;
        }
        Ok(keys)
    }

    /// The clustering ranges that are addressed, sorted and without duplicates only as far as the
    /// values are.
    pub(super) fn clustering_ranges(
        &self,
        scope: &Scope<'_>,
        table: &TableSchema,
    ) -> Result<Vec<ClusteringRange>, Error> {
        let columns = table.clustering_key();
        let mut prefixes = vec![Vec::new()];
        for (test, column) in self.prefix.iter().zip(columns) {
            prefixes = product("clustering", &prefixes, test_values(scope, test, column)?)?;
        }
        if let Some((count, values)) = &self.tuple_in {
            let name = &columns[self.prefix.len()].name;
            let mut extended = Vec::new();
            let mut tuples = scope.in_values(values, name)?;
            tuples.sort();
            tuples.dedup();
            check_product("clustering", prefixes.len().saturating_mul(tuples.len()))?;
            for prefix in &prefixes {
                for tuple in &tuples {
                    let mut prefix = prefix.clone();
                    prefix.extend(tuple_values(tuple, name, Some(*count))?);
                    extended.push(prefix);
                }
            }
            prefixes = extended;
        }
        let name = columns
            .get(self.prefix.len())
            .map_or("", |column| &column.name);
        let descending = columns
            .get(self.prefix.len())
            .is_some_and(|column| column.order == ClusteringOrder::Desc);
        let side = |side: &Option<Side>| -> Result<Option<(Vec<Value>, bool)>, Error> {
            let Some(side) = side else { return Ok(None) };
            let value = scope.key(&side.values, name)?;
            let values = if side.tuple {
                tuple_values(&value, name, None)?
            } else {
                vec![value]
            };
            Ok(Some((values, side.inclusive)))
        };
        let (mut start, mut end) = (side(&self.lower)?, side(&self.upper)?);
        if descending {
            std::mem::swap(&mut start, &mut end);
        }
        Ok(prefixes
            .into_iter()
            .map(|prefix| ClusteringRange {
                start: clustering_bound(&prefix, start.as_ref()),
                end: clustering_bound(&prefix, end.as_ref()),
            })
            .collect())
    }
}

fn clustering_bound(prefix: &[Value], side: Option<&(Vec<Value>, bool)>) -> ClusteringBound {
    match side {
        None if prefix.is_empty() => ClusteringBound::Open,
        None => ClusteringBound::Inclusive(prefix.to_vec()),
        Some((values, inclusive)) => {
            let full: Vec<Value> = prefix.iter().chain(values).cloned().collect();
            if *inclusive {
                ClusteringBound::Inclusive(full)
            } else {
                ClusteringBound::Exclusive(full)
            }
        }
    }
}

fn tuple_values(value: &Value, name: &str, count: Option<usize>) -> Result<Vec<Value>, Error> {
    let null = || Error::invalid(format!("Invalid null value in condition for column {name}"));
    let Value::Tuple(fields) = value else {
        return Err(null());
    };
    if count.is_some_and(|count| count != fields.len()) {
        return Err(Error::invalid(format!(
            "Wrong number of values in the tuple for {name}"
        )));
    }
    let values: Option<Vec<Value>> = fields.iter().cloned().collect();
    values.ok_or_else(null)
}

fn test_values(
    scope: &Scope<'_>,
    test: &KeyTest,
    column: &ColumnSchema,
) -> Result<Vec<Value>, Error> {
    match test {
        KeyTest::Eq(expr) => Ok(vec![scope.key(expr, &column.name)?]),
        KeyTest::In(values) => {
            let mut values = scope.in_values(values, &column.name)?;
            values.sort();
            values.dedup();
            Ok(values)
        }
    }
}

fn product(
    key: &str,
    prefixes: &[Vec<Value>],
    values: Vec<Value>,
) -> Result<Vec<Vec<Value>>, Error> {
    check_product(key, prefixes.len().saturating_mul(values.len()))?;
    if let [prefix] = prefixes
        && prefix.is_empty()
    {
        return Ok(values.into_iter().map(|value| vec![value]).collect());
    }
    let mut all = Vec::with_capacity(prefixes.len() * values.len());
    for prefix in prefixes {
        for value in &values {
            let mut longer = prefix.clone();
            longer.push(value.clone());
            all.push(longer);
        }
    }
    Ok(all)
}

/// A server error and no invalid query: so does ScyllaDB.
fn check_product(key: &str, size: usize) -> Result<(), Error> {
    if size > MAX_PRODUCT {
        return Err(Error::server(format!(
            "{key} key cartesian product size {size} is greater than maximum {MAX_PRODUCT}"
        )));
    }
    Ok(())
}

/// A partition key is neither empty nor longer than its length field.
pub(super) fn check_key(key: &[Value]) -> Result<(), Error> {
    let bytes = TableSchema::partition_key_bytes(key);
    if bytes.is_empty() {
        return Err(Error::invalid("Key may not be empty"));
    }
    if bytes.len() > usize::from(u16::MAX) {
        return Err(Error::invalid(format!(
            "Key length of {} is longer than maximum of {}",
            bytes.len(),
            u16::MAX
        )));
    }
    Ok(())
}

pub(super) fn column_index(table: &TableSchema, name: &str) -> Result<usize, Error> {
    let found = table.columns.iter().position(|column| column.name == name);
    found.ok_or_else(|| Error::invalid(format!("Unrecognized name {name}")))
}

fn duplicate(is: bool, name: &str) -> Result<(), Error> {
    if is {
        return Err(Error::invalid(format!(
            "More than one restriction was found for the same bound on {name}"
        )));
    }
    Ok(())
}

/// Types one restriction of one column.
fn collect(
    typer: &mut Typer<'_>,
    column: &ColumnSchema,
    relation: &Relation,
    into: &mut Collected,
) -> Result<(), Error> {
    let receiver = Receiver::new(column.name.clone(), column.ty.clone());
    let is_key = matches!(
        column.kind,
        ColumnKind::PartitionKey | ColumnKind::Clustering
    );
    let twice = |is: bool, what: &str| {
        if is {
            return Err(Error::invalid(format!(
                "{} cannot be restricted by more than one relation if it includes {what}",
                column.name
            )));
        }
        Ok(())
    };
    match relation {
        Relation::ColumnIn(_, values) => {
            let values = typer.in_values(values, &receiver)?;
            if is_key {
                twice(into.eq.is_some(), "a IN")?;
                into.eq = Some(KeyTest::In(values));
            } else {
                into.filters.push(FilterTest::In(values));
            }
        }
        Relation::Entry(_, key, operator, term) => {
            let CqlType::Map(key_type, value_type) = column.ty.peel() else {
                return Err(Error::invalid(format!(
                    "Column {} cannot be used as a map",
                    column.name
                )));
            };
            let key_type = Receiver::new(format!("key({})", column.name), (**key_type).clone());
            let value_type =
                Receiver::new(format!("value({})", column.name), (**value_type).clone());
            let key = typer.expr(key, &key_type)?;
            let value = typer.expr(term, &value_type)?;
            into.filters.push(FilterTest::Entry(key, *operator, value));
        }
        Relation::Column(_, operator, term) => {
            let receiver = compared(column, *operator)?;
            let expr = typer.expr(term, &receiver)?;
            let side = |inclusive| {
                Some(Side {
                    values: expr.clone(),
                    tuple: false,
                    inclusive,
                })
            };
            match operator {
                Operator::Eq if is_key => {
                    twice(into.eq.is_some(), "an Equal")?;
                    into.eq = Some(KeyTest::Eq(expr));
                }
                Operator::Gt | Operator::Ge if is_key => {
                    duplicate(into.lower.is_some(), &column.name)?;
                    into.lower = side(*operator == Operator::Ge);
                }
                Operator::Lt | Operator::Le if is_key => {
                    duplicate(into.upper.is_some(), &column.name)?;
                    into.upper = side(*operator == Operator::Le);
                }
                _ => into.filters.push(FilterTest::Compare(*operator, expr)),
            }
        }
        _ => {}
    }
    if into.eq.is_some() && (into.lower.is_some() || into.upper.is_some()) {
        twice(true, "an Equal")?;
    }
    Ok(())
}

/// What a column is compared with by an operator.
fn compared(column: &ColumnSchema, operator: Operator) -> Result<Receiver, Error> {
    let receiver = match (operator, column.ty.peel()) {
        (Operator::Contains, CqlType::List(element) | CqlType::Set(element)) => {
            Receiver::new(format!("value({})", column.name), (**element).clone())
        }
        (Operator::Contains, CqlType::Map(_, value)) => {
            Receiver::new(format!("value({})", column.name), (**value).clone())
        }
        (Operator::ContainsKey, CqlType::Map(key, _)) => {
            Receiver::new(format!("key({})", column.name), (**key).clone())
        }
        (Operator::Contains | Operator::ContainsKey, _) => {
            return Err(Error::invalid(format!(
                "Cannot use {operator} on non-collection column {}",
                column.name
            )));
        }
        (Operator::Like, _) => return Err(Error::unsupported("LIKE")),
        (Operator::Ne, _) => {
            return Err(Error::invalid(format!(
                "Unsupported \"!=\" relation: {} != {}",
                column.name, "?"
            )));
        }
        _ => Receiver::new(column.name.clone(), column.ty.clone()),
    };
    if column.ty.is_multi_cell() && !matches!(operator, Operator::Contains | Operator::ContainsKey)
    {
        return Err(Error::invalid(format!(
            "Collection column '{}' ({}) cannot be restricted by a '{operator}' relation",
            column.name, column.ty
        )));
    }
    Ok(receiver)
}

/// Evaluates one side of a token range.
pub(super) fn token_bound(
    scope: &Scope<'_>,
    side: Option<&(Expr, bool)>,
) -> Result<Option<(i64, bool)>, Error> {
    let Some((expr, inclusive)) = side else {
        return Ok(None);
    };
    match scope.eval(expr)? {
        Bound::Value(Value::BigInt(token)) => Ok(Some((token, *inclusive))),
        _ => Err(Error::invalid("Invalid null token value")),
    }
}
