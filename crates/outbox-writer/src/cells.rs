//! Values of a statement, serialized once and sent as often as needed.
//!
//! Invariant: what [`Cells`] replays is byte for byte what was serialized, so that a batch that is
//! executed again writes the same rows.
//!
//! Serializing at once, not when the batch is sent, also means that values that do not fit are
//! reported before anything is sent, and that the batch may outlive what was borrowed for it.

use scylla::serialize::SerializationError;
use scylla::serialize::row::{RowSerializationContext, SerializeRow};
use scylla::serialize::writers::RowWriter;
use scylla::statement::prepared::PreparedStatement;
use std::fmt;

/// The length of a value that is "not set".
const UNSET: i32 = -2;

/// The values of one statement as CQL `[value]`s: a 32-bit length, then as many bytes. A length of
/// -1 is null, -2 is "not set".
#[derive(Clone)]
pub(crate) struct Cells {
    bytes: Vec<u8>,
    count: usize,
}

impl Cells {
    pub(crate) fn new(
        statement: &PreparedStatement,
        values: &impl SerializeRow,
    ) -> Result<Self, SerializationError> {
        let specs = statement.get_variable_col_specs();
        let context = RowSerializationContext::from_specs(specs.as_slice());
        let mut bytes = Vec::new();
        let mut writer = RowWriter::new(&mut bytes);
        values.serialize(&context, &mut writer)?;
        let count = writer.value_count();
        Ok(Self { bytes, count })
    }

    /// The same with nothing but the partition key of `statement`; all else is "not set".
    pub(crate) fn key_of(&self, statement: &PreparedStatement) -> Self {
        let key = statement.get_variable_pk_indexes();
        let mut rest = self.bytes.as_slice();
        let mut bytes = Vec::new();
        let mut index = 0_u16;
        while let Some((length, tail)) = rest.split_first_chunk::<4>() {
            let value_length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
            let (value, tail) = tail.split_at(value_length);
            rest = tail;
            if key.iter().any(|part| part.index == index) {
                bytes.extend_from_slice(length);
                bytes.extend_from_slice(value);
            } else {
                bytes.extend_from_slice(&UNSET.to_be_bytes());
            }
            index = index.saturating_add(1);
        }
        let count = self.count;
        Self { bytes, count }
    }

    /// Bytes of the values with their lengths.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// Sizes only: values are the application's and do not belong in a log.
impl fmt::Debug for Cells {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Cells({} values, {} bytes)",
            self.count,
            self.bytes.len()
        )
    }
}

impl SerializeRow for Cells {
    fn serialize(
        &self,
        _context: &RowSerializationContext<'_>,
        writer: &mut RowWriter<'_>,
    ) -> Result<(), SerializationError> {
        let mut rest = self.bytes.as_slice();
        while let Some((length, tail)) = rest.split_first_chunk::<4>() {
            let cell = writer.make_cell_writer();
            rest = tail;
            match i32::from_be_bytes(*length) {
                -1 => _ = cell.set_null(),
                UNSET => _ = cell.set_unset(),
                length => {
                    let (value, tail) = rest.split_at(length as usize);
                    rest = tail;
                    cell.set_value(value).map_err(SerializationError::new)?;
                }
            }
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.count == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Value {
        Null,
        Unset,
        Bytes(Vec<u8>),
    }

    fn written(values: &[Value]) -> Cells {
        let mut bytes = Vec::new();
        let mut writer = RowWriter::new(&mut bytes);
        for value in values {
            let cell = writer.make_cell_writer();
            match value {
                Value::Null => _ = cell.set_null(),
                Value::Unset => _ = cell.set_unset(),
                Value::Bytes(value) => _ = cell.set_value(value).expect("a small value"),
            }
        }
        let count = writer.value_count();
        Cells { bytes, count }
    }

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            Just(Value::Unset),
            prop::collection::vec(any::<u8>(), 0..40).prop_map(Value::Bytes),
        ]
    }

    proptest! {
        #[test]
        fn replays_what_was_written(values in prop::collection::vec(value(), 0..20)) {
            let cells = written(&values);
            let mut replayed = Vec::new();
            let mut writer = RowWriter::new(&mut replayed);
            cells
                .serialize(&RowSerializationContext::empty(), &mut writer)
                .expect("cells serialize");
            prop_assert_eq!(writer.value_count(), values.len());
            prop_assert_eq!(&replayed, &cells.bytes);
            prop_assert_eq!(cells.is_empty(), values.is_empty());
        }
    }
}
