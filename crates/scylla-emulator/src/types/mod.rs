//! CQL types and values: what a type is called, how its values are laid out and ordered.
//!
//! Invariants:
//! 1. [`Value`]'s order is ScyllaDB's order of the type (timeuuids by time, then by signed bytes).
//!    It is total; values of different types compare by type, which a table never needs.
//! 2. `decode(encode(v)) == v` for every value of a type.
//! 3. Decoding never panics and never allocates more than a small multiple of its input.
//!
//! Literals of the query language become values in [`coerce`](crate::engine), not here.

mod codec;
mod number;
#[cfg(test)]
mod tests;
mod value;

use std::fmt;
use std::sync::Arc;

pub use codec::{CodecError, decode, decode_cell_list, encode, encode_to_vec};
pub use number::{Decimal, decode_varint, encode_varint};
pub use value::{Duration, Value, timeuuid_from_parts, timeuuid_micros, timeuuid_ticks};

use crate::schema::UserType;

/// A CQL type.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CqlType {
    /// `ascii`
    Ascii,
    /// `bigint`
    BigInt,
    /// `blob`
    Blob,
    /// `boolean`
    Boolean,
    /// `counter`; a type only, no table may be written with it.
    Counter,
    /// `date`
    Date,
    /// `decimal`
    Decimal,
    /// `double`
    Double,
    /// `duration`
    Duration,
    /// `float`
    Float,
    /// `inet`
    Inet,
    /// `int`
    Int,
    /// `smallint`
    SmallInt,
    /// `text`, `varchar`
    Text,
    /// `time`
    Time,
    /// `timestamp`
    Timestamp,
    /// `timeuuid`
    TimeUuid,
    /// `tinyint`
    TinyInt,
    /// `uuid`
    Uuid,
    /// `varint`
    VarInt,
    /// `list<…>`
    List(Box<CqlType>),
    /// `set<…>`
    Set(Box<CqlType>),
    /// `map<…, …>`
    Map(Box<CqlType>, Box<CqlType>),
    /// `tuple<…>`; always frozen.
    Tuple(Vec<CqlType>),
    /// A user-defined type.
    Udt(Arc<UserType>),
    /// `frozen<…>` around a collection or a user-defined type.
    Frozen(Box<CqlType>),
}

impl CqlType {
    /// A frozen version of a collection or user type; any other type unchanged.
    #[must_use]
    pub fn frozen(self) -> Self {
        match self {
            Self::List(_) | Self::Set(_) | Self::Map(..) | Self::Udt(_) => {
                Self::Frozen(Box::new(self))
            }
            other => other,
        }
    }

    /// The type without `frozen` around it.
    pub fn peel(&self) -> &Self {
        match self {
            Self::Frozen(inner) => inner.peel(),
            other => other,
        }
    }

    /// Whether a column of this type is stored as many cells (a collection or user type that is
    /// not frozen).
    pub fn is_multi_cell(&self) -> bool {
        matches!(
            self,
            Self::List(_) | Self::Set(_) | Self::Map(..) | Self::Udt(_)
        )
    }

    /// Whether this is a list, set or map, frozen or not.
    pub fn is_collection(&self) -> bool {
        matches!(self.peel(), Self::List(_) | Self::Set(_) | Self::Map(..))
    }

    /// Whether the type is, or contains, `counter`.
    pub fn contains_counter(&self) -> bool {
        match self {
            Self::Counter => true,
            Self::List(t) | Self::Set(t) | Self::Frozen(t) => t.contains_counter(),
            Self::Map(k, v) => k.contains_counter() || v.contains_counter(),
            Self::Tuple(types) => types.iter().any(Self::contains_counter),
            _ => false,
        }
    }

    /// Whether the type is, or contains, `duration` (which has no order).
    pub fn contains_duration(&self) -> bool {
        match self {
            Self::Duration => true,
            Self::List(t) | Self::Set(t) | Self::Frozen(t) => t.contains_duration(),
            Self::Map(k, v) => k.contains_duration() || v.contains_duration(),
            Self::Tuple(types) => types.iter().any(Self::contains_duration),
            Self::Udt(udt) => udt.fields.iter().any(|(_, t)| t.contains_duration()),
            _ => false,
        }
    }

    /// Whether the type is, or contains, the user type of this name.
    pub fn uses_type(&self, keyspace: &str, name: &str) -> bool {
        match self {
            Self::List(t) | Self::Set(t) | Self::Frozen(t) => t.uses_type(keyspace, name),
            Self::Map(k, v) => k.uses_type(keyspace, name) || v.uses_type(keyspace, name),
            Self::Tuple(types) => types.iter().any(|t| t.uses_type(keyspace, name)),
            Self::Udt(udt) => {
                (udt.keyspace == keyspace && udt.name == name)
                    || udt.fields.iter().any(|(_, t)| t.uses_type(keyspace, name))
            }
            _ => false,
        }
    }

    /// A native type by its CQL name in lower case.
    pub fn native(name: &str) -> Option<Self> {
        Some(match name {
            "ascii" => Self::Ascii,
            "bigint" => Self::BigInt,
            "blob" => Self::Blob,
            "boolean" => Self::Boolean,
            "counter" => Self::Counter,
            "date" => Self::Date,
            "decimal" => Self::Decimal,
            "double" => Self::Double,
            "duration" => Self::Duration,
            "float" => Self::Float,
            "inet" => Self::Inet,
            "int" => Self::Int,
            "smallint" => Self::SmallInt,
            "text" | "varchar" => Self::Text,
            "time" => Self::Time,
            "timestamp" => Self::Timestamp,
            "timeuuid" => Self::TimeUuid,
            "tinyint" => Self::TinyInt,
            "uuid" => Self::Uuid,
            "varint" => Self::VarInt,
            _ => return None,
        })
    }
}

/// As `system_schema` and error messages spell it: `frozen<map<text, int>>`.
impl fmt::Display for CqlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Ascii => "ascii",
            Self::BigInt => "bigint",
            Self::Blob => "blob",
            Self::Boolean => "boolean",
            Self::Counter => "counter",
            Self::Date => "date",
            Self::Decimal => "decimal",
            Self::Double => "double",
            Self::Duration => "duration",
            Self::Float => "float",
            Self::Inet => "inet",
            Self::Int => "int",
            Self::SmallInt => "smallint",
            Self::Text => "text",
            Self::Time => "time",
            Self::Timestamp => "timestamp",
            Self::TimeUuid => "timeuuid",
            Self::TinyInt => "tinyint",
            Self::Uuid => "uuid",
            Self::VarInt => "varint",
            Self::List(t) => return write!(f, "list<{t}>"),
            Self::Set(t) => return write!(f, "set<{t}>"),
            Self::Map(k, v) => return write!(f, "map<{k}, {v}>"),
            Self::Tuple(types) => {
                f.write_str("frozen<tuple<")?;
                for (i, t) in types.iter().enumerate() {
                    if i > 0 {
                        f.write_str(", ")?;
                    }
                    write!(f, "{t}")?;
                }
                return f.write_str(">>");
            }
            Self::Udt(udt) => return f.write_str(&udt.name),
            Self::Frozen(inner) => return write!(f, "frozen<{inner}>"),
        };
        f.write_str(name)
    }
}
