//! Names into schema objects.

use std::sync::Arc;

use crate::ast::{Name, TypeName};
use crate::error::Error;
use crate::schema::{Catalog, KeyspaceSchema, TableSchema};
use crate::types::CqlType;

/// The keyspace that a name means.
pub(super) fn keyspace_name<'a>(
    name: &'a Name,
    current: Option<&'a str>,
) -> Result<&'a str, Error> {
    name.keyspace.as_deref().or(current).ok_or_else(|| {
        Error::invalid(
            "No keyspace has been specified. USE a keyspace, or explicitly specify keyspace.tablename",
        )
    })
}

/// The table that a name means.
pub(super) fn table(
    catalog: &Catalog,
    name: &Name,
    current: Option<&str>,
) -> Result<Arc<TableSchema>, Error> {
    let keyspace = keyspace_name(name, current)?;
    let Some(found) = catalog.keyspace(keyspace) else {
        return Err(Error::invalid(format!(
            "Keyspace {keyspace} does not exist"
        )));
    };
    match found.tables.get(&name.name) {
        Some(table) => Ok(Arc::clone(table)),
        None => Err(Error::invalid(format!("unconfigured table {}", name.name))),
    }
}

/// A keyspace by name.
pub(super) fn keyspace<'c>(catalog: &'c Catalog, name: &str) -> Result<&'c KeyspaceSchema, Error> {
    match catalog.keyspace(name) {
        Some(keyspace) => Ok(keyspace),
        None => Err(Error::invalid(format!("Keyspace {name} does not exist"))),
    }
}

/// The type that a name means inside a keyspace.
pub(super) fn cql_type(keyspace: &KeyspaceSchema, name: &TypeName) -> Result<CqlType, Error> {
    let nested = |inner: &TypeName| {
        let ty = cql_type(keyspace, inner)?;
        if ty.is_multi_cell() {
            return Err(Error::invalid(format!(
                "Non-frozen user types or collections are not allowed inside collections: {ty}"
            )));
        }
        if ty == CqlType::Counter {
            return Err(Error::invalid(
                "Counters are not allowed inside collections",
            ));
        }
        Ok(Box::new(ty))
    };
    Ok(match name {
        TypeName::Named(name) => {
            if name.keyspace.is_none()
                && let Some(native) = CqlType::native(&name.name)
            {
                return Ok(native);
            }
            if name
                .keyspace
                .as_ref()
                .is_some_and(|given| *given != keyspace.name)
            {
                return Err(Error::invalid(format!(
                    "Statement on keyspace {} cannot refer to a user type in keyspace {}; user types can only be used in the keyspace they are defined in",
                    keyspace.name,
                    name.keyspace.as_deref().unwrap_or_default()
                )));
            }
            match keyspace.types.get(&name.name) {
                Some(udt) => CqlType::Udt(Arc::clone(udt)),
                None => {
                    return Err(Error::invalid(format!(
                        "Unknown type {}.{}",
                        keyspace.name, name.name
                    )));
                }
            }
        }
        TypeName::List(inner) => CqlType::List(nested(inner)?),
        TypeName::Set(inner) => CqlType::Set(nested(inner)?),
        TypeName::Map(key, value) => CqlType::Map(nested(key)?, nested(value)?),
        TypeName::Tuple(types) => CqlType::Tuple(
            types
                .iter()
                .map(|ty| Ok(cql_type(keyspace, ty)?.frozen()))
                .collect::<Result<_, Error>>()?,
        ),
        TypeName::Frozen(inner) => {
            let frozen = frozen_inside(inner);
            cql_type(keyspace, &frozen)?.frozen()
        }
    })
}

/// `frozen` freezes what it contains, too.
fn frozen_inside(name: &TypeName) -> TypeName {
    let freeze = |inner: &TypeName| match inner {
        TypeName::List(_) | TypeName::Set(_) | TypeName::Map(..) => {
            Box::new(TypeName::Frozen(Box::new(inner.clone())))
        }
        TypeName::Named(name) if CqlType::native(&name.name).is_none() => {
            Box::new(TypeName::Frozen(Box::new(inner.clone())))
        }
        other => Box::new(other.clone()),
    };
    match name {
        TypeName::List(inner) => TypeName::List(freeze(inner)),
        TypeName::Set(inner) => TypeName::Set(freeze(inner)),
        TypeName::Map(key, value) => TypeName::Map(freeze(key), freeze(value)),
        other => other.clone(),
    }
}
