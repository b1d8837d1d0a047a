//! Value expressions: typed when a statement is prepared, evaluated when it is executed.

use std::sync::Arc;

use super::api::{BindValue, BindValues, ColumnSpec, EngineConfig};
use super::{literal, resolve};
use crate::ast::{InValues, Literal, Marker, Name, Term};
use crate::error::Error;
use crate::functions::{self, Scalar};
use crate::schema::{KeyspaceSchema, TableSchema};
use crate::types::{CqlType, Value, decode, decode_cell_list};

/// What a value is for: the type it must have, and the name that its bind marker gets.
#[derive(Debug, Clone)]
pub(super) struct Receiver {
    pub(super) name: String,
    pub(super) ty: CqlType,
}

impl Receiver {
    pub(super) fn new(name: impl Into<String>, ty: CqlType) -> Self {
        Self {
            name: name.into(),
            ty,
        }
    }
}

/// A typed expression.
#[derive(Debug, Clone)]
pub(super) enum Expr {
    /// A constant.
    Constant(Option<Value>),
    /// A bind marker, by the order of preparation.
    Slot(usize, CqlType),
    /// A function; `result` is the type to bring its value to.
    Call {
        scalar: Scalar,
        arguments: Vec<Expr>,
        result: CqlType,
        table: Arc<TableSchema>,
    },
    /// A list.
    List(Vec<Expr>),
    /// A set.
    Set(Vec<Expr>),
    /// A map.
    Map(Vec<(Expr, Expr)>),
    /// A tuple or user type.
    Tuple(Vec<Expr>),
}

/// The right side of `IN`.
#[derive(Debug, Clone)]
pub(super) enum InExpr {
    /// A marker that holds a list of values of this type.
    Slot(usize, CqlType),
    /// Values.
    List(Vec<Expr>),
}

/// A bound value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Bound {
    Unset,
    Null,
    Value(Value),
}

impl Bound {
    pub(super) fn into_option(self) -> Option<Value> {
        match self {
            Self::Value(value) => Some(value),
            Self::Null | Self::Unset => None,
        }
    }
}

impl From<Option<Value>> for Bound {
    fn from(value: Option<Value>) -> Self {
        value.map_or(Self::Null, Self::Value)
    }
}

/// Collects the bind markers of a statement while it is prepared.
#[derive(Debug, Default)]
pub(super) struct Binder {
    markers: Vec<(usize, ColumnSpec)>,
}

impl Binder {
    fn slot(&mut self, marker: &Marker, table: &TableSchema, receiver: &Receiver) -> usize {
        let name = marker.name.clone().unwrap_or_else(|| receiver.name.clone());
        let spec = ColumnSpec {
            keyspace: table.keyspace.clone(),
            table: table.name.clone(),
            name,
            ty: receiver.ty.clone(),
        };
        self.markers.push((marker.offset, spec));
        self.markers.len() - 1
    }

    /// The markers in the order of the text, and for each slot the index of its marker.
    pub(super) fn finish(self) -> (Vec<ColumnSpec>, Vec<usize>) {
        let mut by_offset: Vec<(usize, (usize, ColumnSpec))> =
            self.markers.into_iter().enumerate().collect();
        by_offset.sort_by_key(|(_, (offset, _))| *offset);
        let mut order = vec![0; by_offset.len()];
        for (index, (slot, _)) in by_offset.iter().enumerate() {
            order[*slot] = index;
        }
        (
            by_offset.into_iter().map(|(_, (_, spec))| spec).collect(),
            order,
        )
    }
}

/// Types expressions for one table.
pub(super) struct Typer<'a> {
    pub(super) keyspace: &'a KeyspaceSchema,
    pub(super) table: &'a Arc<TableSchema>,
    pub(super) binder: &'a mut Binder,
}

impl Typer<'_> {
    pub(super) fn expr(&mut self, term: &Term, receiver: &Receiver) -> Result<Expr, Error> {
        let ty = receiver.ty.peel().clone();
        match term {
            Term::Literal(constant) => Ok(Expr::Constant(literal::value(
                constant,
                &receiver.name,
                &ty,
            )?)),
            Term::Marker(marker) => {
                let slot = self.binder.slot(marker, self.table, receiver);
                Ok(Expr::Slot(slot, receiver.ty.clone()))
            }
            Term::List(items) => match &ty {
                CqlType::List(element) => {
                    Ok(Expr::List(self.exprs(items, "value", receiver, element)?))
                }
                _ => Err(bad_literal("list", receiver)),
            },
            Term::Set(items) => match &ty {
                CqlType::Set(element) => {
                    Ok(Expr::Set(self.exprs(items, "value", receiver, element)?))
                }
                CqlType::Map(..) if items.is_empty() => Ok(Expr::Map(Vec::new())),
                CqlType::Udt(_) if items.is_empty() => Ok(Expr::Tuple(Vec::new())),
                _ => Err(bad_literal("set", receiver)),
            },
            Term::Map(entries) => match &ty {
                CqlType::Map(key, value) => {
                    let key = Receiver::new(format!("key({})", receiver.name), (**key).clone());
                    let value =
                        Receiver::new(format!("value({})", receiver.name), (**value).clone());
                    let entries = entries.iter();
                    let entries =
                        entries.map(|(k, v)| Ok((self.expr(k, &key)?, self.expr(v, &value)?)));
                    Ok(Expr::Map(entries.collect::<Result<_, Error>>()?))
                }
                _ => Err(bad_literal("map", receiver)),
            },
            Term::Udt(fields) => self.udt(fields, &ty, receiver),
            Term::Tuple(items) => match &ty {
                CqlType::Tuple(types) if items.len() <= types.len() => {
                    let pairs = items.iter().zip(types).enumerate();
                    let exprs = pairs.map(|(at, (item, ty))| {
                        self.expr(
                            item,
                            &Receiver::new(format!("{}[{at}]", receiver.name), ty.clone()),
                        )
                    });
                    Ok(Expr::Tuple(exprs.collect::<Result<_, Error>>()?))
                }
                CqlType::Tuple(_) => Err(Error::invalid(format!(
                    "Invalid tuple literal for {}: too many elements. Type {ty}",
                    receiver.name
                ))),
                // Parentheses around one value.
                _ => match items.as_slice() {
                    [only] => self.expr(only, receiver),
                    _ => Err(bad_literal("tuple", receiver)),
                },
            },
            Term::TypeHint(name, inner) => {
                let hinted = resolve::cql_type(self.keyspace, name)?;
                if !assignable(&hinted, &ty) {
                    return Err(Error::invalid(format!(
                        "Cannot assign value to {} of type {ty}",
                        receiver.name
                    )));
                }
                let inner = self.expr(inner, &Receiver::new(receiver.name.clone(), hinted))?;
                Ok(inner)
            }
            Term::Function(name, arguments) => {
                let (call, found) = self.call(name, arguments)?;
                if !assignable(&found, &ty) {
                    return Err(Error::invalid(format!(
                        "Type error: cannot assign result of function system.{} (type {found}) to {} (type {ty})",
                        name.name, receiver.name
                    )));
                }
                Ok(match call {
                    Expr::Call {
                        scalar,
                        arguments,
                        table,
                        ..
                    } => Expr::Call {
                        scalar,
                        arguments,
                        result: ty,
                        table,
                    },
                    other => other,
                })
            }
        }
    }

    fn exprs(
        &mut self,
        items: &[Term],
        part: &str,
        receiver: &Receiver,
        element: &CqlType,
    ) -> Result<Vec<Expr>, Error> {
        let receiver = Receiver::new(format!("{part}({})", receiver.name), element.clone());
        items
            .iter()
            .map(|item| self.expr(item, &receiver))
            .collect()
    }

    fn udt(
        &mut self,
        fields: &[(String, Term)],
        ty: &CqlType,
        receiver: &Receiver,
    ) -> Result<Expr, Error> {
        let CqlType::Udt(udt) = ty else {
            return Err(bad_literal("user type", receiver));
        };
        if let Some((unknown, _)) = fields
            .iter()
            .find(|(name, _)| !udt.fields.iter().any(|(field, _)| field == name))
        {
            return Err(Error::invalid(format!(
                "Unknown field '{unknown}' in value of user defined type {}",
                udt.name
            )));
        }
        let exprs = udt.fields.iter().map(|(name, ty)| {
            match fields.iter().find(|(given, _)| given == name) {
                Some((_, term)) => self.expr(
                    term,
                    &Receiver::new(format!("{}.{name}", receiver.name), ty.clone()),
                ),
                None => Ok(Expr::Constant(None)),
            }
        });
        Ok(Expr::Tuple(exprs.collect::<Result<_, Error>>()?))
    }

    /// A function call and its result's type.
    fn call(&mut self, name: &Name, arguments: &[Term]) -> Result<(Expr, CqlType), Error> {
        if name.name == "token" {
            let columns = self.table.partition_key().to_vec();
            if arguments.len() != columns.len() {
                return Err(Error::invalid(format!(
                    "Invalid number of arguments in call to function token: {} required but {} provided",
                    columns.len(),
                    arguments.len()
                )));
            }
            let typed = arguments.iter().zip(&columns).map(|(argument, column)| {
                self.expr(
                    argument,
                    &Receiver::new(column.name.clone(), column.ty.clone()),
                )
            });
            let call = Expr::Call {
                scalar: Scalar::Token,
                arguments: typed.collect::<Result<_, Error>>()?,
                result: CqlType::BigInt,
                table: Arc::clone(self.table),
            };
            return Ok((call, CqlType::BigInt));
        }
        let hint = match arguments.first() {
            Some(Term::Function(inner, _)) => {
                functions::find(&inner.name, None).map(|signature| signature.result)
            }
            Some(Term::TypeHint(ty, _)) => Some(resolve::cql_type(self.keyspace, ty)?),
            Some(Term::Literal(constant)) => literal::natural_type(constant),
            _ => None,
        };
        let signature = functions::find(&name.name, hint.as_ref())
            .ok_or_else(|| Error::invalid(format!("Unknown function '{}'", name.name)))?;
        if signature.parameters.len() != arguments.len() {
            return Err(Error::invalid(format!(
                "Invalid number of arguments in call to function system.{}: {} required but {} provided",
                name.name,
                signature.parameters.len(),
                arguments.len()
            )));
        }
        let typed = arguments.iter().zip(&signature.parameters).enumerate();
        let typed = typed.map(|(at, (argument, ty))| {
            let receiver = Receiver::new(format!("arg{at}(system.{})", name.name), ty.clone());
            self.expr(argument, &receiver)
        });
        let call = Expr::Call {
            scalar: signature.scalar,
            arguments: typed.collect::<Result<_, Error>>()?,
            result: signature.result.clone(),
            table: Arc::clone(self.table),
        };
        Ok((call, signature.result))
    }

    /// The right side of `IN` for values of this type.
    pub(super) fn in_values(
        &mut self,
        values: &InValues,
        receiver: &Receiver,
    ) -> Result<InExpr, Error> {
        match values {
            InValues::Marker(marker) => {
                let list = CqlType::List(Box::new(receiver.ty.clone()));
                let list = Receiver::new(format!("in({})", receiver.name), list);
                let slot = self.binder.slot(marker, self.table, &list);
                Ok(InExpr::Slot(slot, receiver.ty.clone()))
            }
            InValues::List(terms) => {
                let exprs = terms.iter().map(|term| self.expr(term, receiver));
                Ok(InExpr::List(exprs.collect::<Result<_, Error>>()?))
            }
        }
    }
}

fn bad_literal(kind: &str, receiver: &Receiver) -> Error {
    Error::invalid(format!(
        "Invalid {kind} literal for {} of type {}",
        receiver.name, receiver.ty
    ))
}

/// Whether a value of type `from` can stand where `to` is wanted.
fn assignable(from: &CqlType, to: &CqlType) -> bool {
    let (from, to) = (from.peel(), to.peel());
    from == to
        || matches!(
            (from, to),
            (CqlType::TimeUuid, CqlType::Uuid)
                | (CqlType::Ascii, CqlType::Text)
                | (CqlType::BigInt, CqlType::Timestamp | CqlType::VarInt)
                | (CqlType::Int, CqlType::VarInt)
        )
        || *to == CqlType::Blob
}

/// Brings a function's value to the type it stands for.
fn conform(value: Value, ty: &CqlType) -> Value {
    match (value, ty) {
        (Value::TimeUuid(uuid), CqlType::Uuid) => Value::Uuid(uuid),
        (Value::BigInt(n), CqlType::Timestamp) => Value::Timestamp(n),
        (Value::BigInt(n), CqlType::VarInt) => Value::VarInt(n.into()),
        (Value::Int(n), CqlType::VarInt) => Value::VarInt(n.into()),
        (value @ Value::Blob(_), CqlType::Blob) => value,
        (value, CqlType::Blob) => Value::Blob(crate::types::encode(&value)),
        (value, _) => value,
    }
}

/// What expressions are evaluated with.
pub(super) struct Scope<'a> {
    values: Vec<&'a BindValue>,
    specs: &'a [ColumnSpec],
    order: &'a [usize],
    config: &'a EngineConfig,
}

impl<'a> Scope<'a> {
    /// Checks that there is a value for every marker.
    pub(super) fn new(
        config: &'a EngineConfig,
        specs: &'a [ColumnSpec],
        order: &'a [usize],
        values: &'a BindValues,
    ) -> Result<Self, Error> {
        let values = match values {
            BindValues::Positional(values) => {
                if values.len() != specs.len() {
                    return Err(Error::invalid(format!(
                        "Invalid amount of bind variables: {} required but {} provided",
                        specs.len(),
                        values.len()
                    )));
                }
                values.iter().collect()
            }
            BindValues::Named(named) => {
                let find = |spec: &ColumnSpec| {
                    let found = named.iter().find(|(name, _)| *name == spec.name);
                    found.map(|(_, value)| value).ok_or_else(|| {
                        Error::invalid(format!("Missing value for bind marker {}", spec.name))
                    })
                };
                specs.iter().map(find).collect::<Result<Vec<_>, _>>()?
            }
        };
        Ok(Self {
            values,
            specs,
            order,
            config,
        })
    }

    fn bound(&self, slot: usize) -> (&'a BindValue, &'a ColumnSpec) {
        let index = self.order[slot];
        (self.values[index], &self.specs[index])
    }

    /// Evaluates an expression.
    pub(super) fn eval(&self, expr: &Expr) -> Result<Bound, Error> {
        Ok(match expr {
            Expr::Constant(value) => value.clone().into(),
            Expr::Slot(slot, ty) => match self.bound(*slot) {
                (BindValue::Null, _) => Bound::Null,
                (BindValue::Unset, _) => Bound::Unset,
                (BindValue::Bytes(bytes), spec) => {
                    Bound::Value(decode(ty, bytes).map_err(|error| {
                        Error::invalid(format!(
                            "Exception while binding column {}: marshaling error: {error}",
                            spec.name
                        ))
                    })?)
                }
            },
            Expr::Call {
                scalar,
                arguments,
                result,
                table,
            } => {
                let values = arguments
                    .iter()
                    .map(|argument| Ok(self.eval(argument)?.into_option()));
                let values = values.collect::<Result<Vec<_>, Error>>()?;
                let value = if *scalar == Scalar::Token {
                    token_of(self.config, table, values)
                } else {
                    let (clock, random) = (&*self.config.clock, &*self.config.random);
                    functions::call(scalar, &values, clock, random)?
                };
                value.map(|value| conform(value, result)).into()
            }
            Expr::List(items) => Bound::Value(Value::List(self.eval_all(items)?)),
            Expr::Set(items) => Bound::Value(Value::set(self.eval_all(items)?)),
            Expr::Map(entries) => {
                let entries = entries
                    .iter()
                    .map(|(key, value)| Ok((self.eval_present(key)?, self.eval_present(value)?)));
                Bound::Value(Value::map(entries.collect::<Result<_, Error>>()?))
            }
            Expr::Tuple(items) => {
                let items = items.iter().map(|item| Ok(self.eval(item)?.into_option()));
                Bound::Value(Value::Tuple(items.collect::<Result<_, Error>>()?))
            }
        })
    }

    fn eval_all(&self, items: &[Expr]) -> Result<Vec<Value>, Error> {
        items.iter().map(|item| self.eval_present(item)).collect()
    }

    fn eval_present(&self, expr: &Expr) -> Result<Value, Error> {
        match self.eval(expr)? {
            Bound::Value(value) => Ok(value),
            Bound::Null => Err(Error::invalid("null is not supported inside collections")),
            Bound::Unset => Err(Error::invalid(
                "unset value is not supported inside collections",
            )),
        }
    }

    /// The value of a column in WHERE, which can be neither null nor unset.
    pub(super) fn key(&self, expr: &Expr, column: &str) -> Result<Value, Error> {
        match self.eval(expr)? {
            Bound::Value(value) => Ok(value),
            Bound::Null => Err(Error::invalid(format!(
                "Invalid null value in condition for column {column}"
            ))),
            Bound::Unset => Err(Error::invalid(format!(
                "Invalid unset value for column {column}"
            ))),
        }
    }

    /// The values of `IN`; nulls match nothing and are left out.
    pub(super) fn in_values(&self, values: &InExpr, column: &str) -> Result<Vec<Value>, Error> {
        match values {
            InExpr::List(exprs) => exprs.iter().map(|expr| self.key(expr, column)).collect(),
            InExpr::Slot(slot, ty) => match self.bound(*slot) {
                (BindValue::Null, _) => Err(Error::invalid(format!(
                    "Invalid null value for IN restriction on {column}"
                ))),
                (BindValue::Unset, _) => Err(Error::invalid(format!(
                    "Invalid unset value for column {column}"
                ))),
                (BindValue::Bytes(bytes), spec) => {
                    let values = decode_cell_list(ty, bytes).map_err(|error| {
                        Error::invalid(format!(
                            "Exception while binding column {}: marshaling error: {error}",
                            spec.name
                        ))
                    })?;
                    Ok(values.into_iter().flatten().collect())
                }
            },
        }
    }

    /// An integer such as LIMIT; `None` when absent, null or unset.
    pub(super) fn integer(&self, expr: Option<&Expr>) -> Result<Option<i64>, Error> {
        let Some(expr) = expr else { return Ok(None) };
        Ok(match self.eval(expr)? {
            Bound::Value(Value::Int(n)) => Some(i64::from(n)),
            Bound::Value(Value::BigInt(n)) => Some(n),
            _ => None,
        })
    }
}

/// The token of a partition key; null when a component is.
pub(super) fn token_of(
    config: &EngineConfig,
    table: &TableSchema,
    key: Vec<Option<Value>>,
) -> Option<Value> {
    let key: Vec<Value> = key.into_iter().collect::<Option<_>>()?;
    let bytes = TableSchema::partition_key_bytes(&key);
    Some(Value::BigInt(config.partitioner.token(table, &bytes)))
}

/// A term that is a constant null.
pub(super) fn is_null(term: &Term) -> bool {
    matches!(term, Term::Literal(Literal::Null))
}
