//! The columns of a row that could not be made a record, as its dead letter keeps them.
//!
//! Pure. Invariants:
//!
//! 1. A value is kept as the bytes that ScyllaDB has of it, and is read back as the type that its
//!    column has then. What does not fit is an error, never another value.
//! 2. A column that was null differs from one whose value was not read: nobody takes what is not
//!    known for null.
//!
//! It does not say what a row means: [`crate::decode`] does.

use std::sync::Arc;

use bytes::Bytes;
use scylla::deserialize::value::DeserializeValue;
use scylla::deserialize::{DeserializationError, FrameSlice};
use scylla::frame::response::result::ColumnType;
use scylla::serialize::value::SerializeValue;
use scylla::serialize::writers::CellWriter;
use scylla::value::CqlValue;
use scylla_cdc::consumer::OperationType;
use tokio::time::Instant;

use crate::decode::text;
use crate::event::{Change, ChangeColumns, Position};

/// Why a kept row is no change of its table as it is now.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The column was not read when the row became a dead letter.
    #[error(
        "the value of column `{column}` was not kept, since it was not mapped when the row became \
         a dead letter"
    )]
    NotKept {
        /// The column.
        column: String,
    },
    /// The bytes of a value are none of the column's present type.
    #[error(
        "column `{column}` has the type {cql_type} now, and the value that was kept of the row is \
         none: map a column of its type, or discard the dead letter"
    )]
    Value {
        /// The column.
        column: String,
        /// Its type now, as CQL writes it.
        cql_type: String,
        /// What the driver says.
        #[source]
        source: DeserializationError,
    },
}

/// A column's name, and the serialised value or null.
pub type KeptColumn = (String, Option<Bytes>);

/// The columns of an inserted or updated row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptRow {
    operation: OperationType,
    columns: Vec<KeptColumn>,
}

impl KeptRow {
    /// What `change` says, whose columns have these types. A value that its type does not allow,
    /// because the table was altered this moment, is left out as if it had not been read.
    pub fn of(change: &Change, types: &[(String, ColumnType<'static>)]) -> Self {
        let keep = |(name, value): (&String, &Option<CqlValue>)| {
            let bytes = match value {
                None => None,
                Some(value) => Some(serialised(value, type_of(types, name)?)?),
            };
            Some((name.clone(), bytes))
        };
        let columns = change.columns.names.iter().zip(&change.values);
        Self {
            operation: change.operation.clone(),
            columns: columns.filter_map(keep).collect(),
        }
    }

    /// What was stored; `None` if the operation is unknown.
    pub fn stored(operation: i8, columns: Vec<KeptColumn>) -> Option<Self> {
        let operation = OperationType::try_from(operation).ok()?;
        Some(Self { operation, columns })
    }

    /// The number of the operation in the log's column `cdc$operation`.
    pub fn operation(&self) -> i8 {
        self.operation.clone() as i8
    }

    /// The columns that were read.
    pub fn columns(&self) -> &[KeptColumn] {
        &self.columns
    }

    /// The bytes that it counts for against `limits.in_flight_bytes`.
    pub fn size(&self) -> usize {
        let size = |(name, value): &KeptColumn| name.len() + value.as_ref().map_or(0, Bytes::len);
        self.columns.iter().map(size).sum()
    }

    /// The change of a table that has these columns and types now.
    ///
    /// # Errors
    ///
    /// When the value of a column was not kept, or does not have the type that the column has now.
    pub fn change(
        &self,
        position: Position,
        columns: &Arc<ChangeColumns>,
        types: &[(String, ColumnType<'static>)],
    ) -> Result<Change, Error> {
        let values = columns.names.iter().map(|name| self.value(name, types));
        Ok(Change {
            position,
            operation: self.operation.clone(),
            columns: Arc::clone(columns),
            values: values.collect::<Result<_, _>>()?,
            read_at: Instant::now(),
        })
    }

    fn value(
        &self,
        column: &str,
        types: &[(String, ColumnType<'static>)],
    ) -> Result<Option<CqlValue>, Error> {
        let kept = self.columns.iter().find(|(name, _)| name == column);
        let (Some((_, bytes)), Some(cql_type)) = (kept, type_of(types, column)) else {
            let column = column.to_owned();
            return Err(Error::NotKept { column });
        };
        let value = bytes.as_ref().map(|bytes| value(bytes, cql_type));
        value.transpose().map_err(|source| Error::Value {
            column: column.to_owned(),
            cql_type: text::cql_type(cql_type),
            source,
        })
    }
}

/// The type of a column.
pub fn type_of<'t>(
    types: &'t [(String, ColumnType<'static>)],
    column: &str,
) -> Option<&'t ColumnType<'static>> {
    let known = types.iter().find(|(name, _)| name == column);
    known.map(|(_, cql_type)| cql_type)
}

/// The value that was kept as these bytes, as a value of this type.
///
/// # Errors
///
/// When the bytes are no value of the type.
pub fn value(
    bytes: &Bytes,
    cql_type: &ColumnType<'static>,
) -> Result<CqlValue, DeserializationError> {
    CqlValue::deserialize(cql_type, Some(FrameSlice::new(bytes)))
}

fn serialised(value: &CqlValue, cql_type: &ColumnType<'static>) -> Option<Bytes> {
    let mut bytes = Vec::new();
    let written = value.serialize(cql_type, CellWriter::new_without_size(&mut bytes));
    written.is_ok().then(|| Bytes::from(bytes))
}

#[cfg(test)]
mod tests {
    use scylla::frame::response::result::{CollectionType, NativeType};
    use scylla::value::{CqlTimestamp, CqlTimeuuid};
    use uuid::Uuid;

    use super::*;

    fn list(item: NativeType) -> ColumnType<'static> {
        ColumnType::Collection {
            frozen: false,
            typ: CollectionType::List(Box::new(ColumnType::Native(item))),
        }
    }

    fn map(key: NativeType, value: NativeType) -> ColumnType<'static> {
        let [key, value] = [key, value].map(ColumnType::Native);
        ColumnType::Collection {
            frozen: false,
            typ: CollectionType::Map(Box::new(key), Box::new(value)),
        }
    }

    fn text(text: &str) -> CqlValue {
        CqlValue::Text(text.to_owned())
    }

    fn position() -> Position {
        Position {
            time: CqlTimeuuid::nil(),
            seq: 3,
        }
    }

    /// A change of columns `c0`, `c1`, … with these types and values, and the types.
    fn change(
        columns: Vec<(ColumnType<'static>, Option<CqlValue>)>,
    ) -> (Change, Vec<(String, ColumnType<'static>)>) {
        let (types, values): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
        let names = (0..types.len()).map(|n| format!("c{n}"));
        let types: Vec<_> = names.zip(types).collect();
        let change = Change {
            position: position(),
            operation: OperationType::RowInsert,
            columns: Arc::new(ChangeColumns {
                names: types.iter().map(|(name, _)| name.clone()).collect(),
                primary_key: vec![false; types.len()],
            }),
            values,
            read_at: Instant::now(),
        };
        (change, types)
    }

    #[test]
    fn values_of_all_kinds_are_read_back_as_they_were() {
        use NativeType::{
            BigInt, Blob, Boolean, Decimal, Int, Text, Timestamp, Timeuuid, Uuid as Id,
        };
        let id = Uuid::from_u128(0x0197_a3c2_5b1e_7000_8000_0000_0000_0001);
        let native = ColumnType::Native;
        let entries = [("a", "1"), ("b", "")].map(|(name, value)| (text(name), text(value)));
        let columns = vec![
            (native(Text), Some(text("žluť"))),
            (native(Text), Some(text(""))),
            (native(Blob), Some(CqlValue::Blob(vec![0, 0xff, 0xfe]))),
            (native(Blob), Some(CqlValue::Blob(Vec::new()))),
            (native(Id), Some(CqlValue::Uuid(id))),
            (
                native(Timeuuid),
                Some(CqlValue::Timeuuid(CqlTimeuuid::from(id))),
            ),
            (
                native(Timestamp),
                Some(CqlValue::Timestamp(CqlTimestamp(-1))),
            ),
            (native(Int), Some(CqlValue::Int(-7))),
            (native(Int), Some(CqlValue::Empty)),
            (native(BigInt), Some(CqlValue::BigInt(i64::MAX))),
            (native(Boolean), Some(CqlValue::Boolean(true))),
            (native(Decimal), None),
            (
                map(Text, Text),
                Some(CqlValue::Map(entries.into_iter().collect())),
            ),
            (
                list(Text),
                Some(CqlValue::List(vec![text("x"), text("y"), text("x")])),
            ),
            (native(Text), None),
        ];
        let (change, types) = change(columns);
        let kept = KeptRow::of(&change, &types);
        let stored = KeptRow::stored(kept.operation(), kept.columns().to_vec());
        assert_eq!(stored.as_ref(), Some(&kept));
        let read = kept
            .change(position(), &change.columns, &types)
            .expect("all of it is kept");
        assert_eq!(read.values, change.values);
        assert_eq!(
            (read.operation, read.position),
            (change.operation, position())
        );
    }

    #[test]
    fn what_was_not_read_is_not_null() {
        let text_type = ColumnType::Native(NativeType::Text);
        let (change, mut types) = change(vec![(text_type.clone(), Some(text("x")))]);
        let kept = KeptRow::of(&change, &types);
        types.push(("later".to_owned(), text_type));
        let columns = Arc::new(ChangeColumns {
            names: vec!["c0".to_owned(), "later".to_owned()],
            primary_key: vec![false; 2],
        });
        let error = kept.change(position(), &columns, &types);
        assert!(
            matches!(&error, Err(Error::NotKept { column }) if column == "later"),
            "{error:?}"
        );
    }

    #[test]
    fn a_value_is_never_taken_for_one_of_another_type() {
        let native = |native| ColumnType::Native(native);
        let (change, types) = change(vec![(native(NativeType::Text), Some(text("123")))]);
        let kept = KeptRow::of(&change, &types);
        let altered = [("c0".to_owned(), native(NativeType::Int))];
        let error = kept.change(position(), &change.columns, &altered);
        let error = error.expect_err("three bytes are no int").to_string();
        assert!(error.contains("`c0` has the type int"), "{error}");
        assert!(!error.contains("123"), "never a payload: {error}");
        // A table that was altered between the read and the look at its types.
        let unlike = KeptRow::of(&change, &altered);
        assert_eq!(unlike.columns(), []);
    }

    #[test]
    fn its_size_is_that_of_its_names_and_values() {
        let columns = vec![
            (ColumnType::Native(NativeType::Text), Some(text("four"))),
            (ColumnType::Native(NativeType::Int), None),
        ];
        let (change, types) = change(columns);
        assert_eq!(KeptRow::of(&change, &types).size(), 2 + 4 + 2);
        assert_eq!(KeptRow::stored(100, Vec::new()), None);
    }
}
