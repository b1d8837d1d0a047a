//! Keys as ordered maps need them.

use std::cmp::Ordering;

use crate::mutation::{ClusteringBound, ClusteringRange};
use crate::schema::{ClusteringOrder, TableSchema};
use crate::types::{Value, timeuuid_ticks};

/// A partition's place: token first, then the key's bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionPosition {
    /// The token.
    pub token: i64,
    /// The serialized partition key.
    pub key: bytes::Bytes,
}

/// One component of a clustering key, with its direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The value.
    pub value: Value,
    /// Whether the column's order is descending.
    pub descending: bool,
}

impl Ord for Part {
    fn cmp(&self, other: &Self) -> Ordering {
        let order = self.value.cmp(&other.value);
        if self.descending {
            order.reverse()
        } else {
            order
        }
    }
}

impl PartialOrd for Part {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A place among the rows of a partition: a row, or before or behind all rows with a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowPosition {
    /// Orders positions by their first part as far as it can: those of a map are compared without a look at `parts`,
    /// which lie elsewhere in memory. 0 without parts.
    prefix: u64,
    parts: Vec<Part>,
    weight: i8,
}

/// A number that is not larger for the smaller of two values of one type.
fn prefix_of(part: &Part) -> u64 {
    let shifted = |number: i64| number.cast_unsigned() ^ (1 << 63);
    let head = |bytes: &[u8]| {
        let mut head = [0; 8];
        let count = bytes.len().min(8);
        head[..count].copy_from_slice(&bytes[..count]);
        u64::from_be_bytes(head)
    };
    let ascending = match &part.value {
        Value::TimeUuid(uuid) => timeuuid_ticks(uuid),
        Value::BigInt(number) | Value::Timestamp(number) => shifted(*number),
        Value::Int(number) => shifted(i64::from(*number)),
        Value::Text(text) => head(text.as_bytes()),
        Value::Blob(bytes) => head(bytes),
        _ => 0,
    };
    if part.descending {
        !ascending
    } else {
        ascending
    }
}

impl RowPosition {
    /// A row's own place: `key` has all components.
    pub fn row(table: &TableSchema, key: &[Value]) -> Self {
        Self::with_weight(table, key, 0)
    }

    /// Before all rows that start with `prefix`.
    pub fn before(table: &TableSchema, prefix: &[Value]) -> Self {
        Self::with_weight(table, prefix, -1)
    }

    /// Behind all rows that start with `prefix`.
    pub fn behind(table: &TableSchema, prefix: &[Value]) -> Self {
        Self::with_weight(table, prefix, 1)
    }

    fn with_weight(table: &TableSchema, prefix: &[Value], weight: i8) -> Self {
        let parts = prefix
            .iter()
            .zip(table.clustering_key())
            .map(|(value, column)| Part {
                value: value.clone(),
                descending: column.order == ClusteringOrder::Desc,
            });
        let parts: Vec<Part> = parts.collect();
        Self {
            prefix: parts.first().map_or(0, prefix_of),
            parts,
            weight,
        }
    }

    /// Both ends of a range.
    pub fn range(table: &TableSchema, range: &ClusteringRange) -> (Self, Self) {
        let start = match &range.start {
            ClusteringBound::Open => Self::before(table, &[]),
            ClusteringBound::Inclusive(prefix) => Self::before(table, prefix),
            ClusteringBound::Exclusive(prefix) => Self::behind(table, prefix),
        };
        let end = match &range.end {
            ClusteringBound::Open => Self::behind(table, &[]),
            ClusteringBound::Inclusive(prefix) => Self::behind(table, prefix),
            ClusteringBound::Exclusive(prefix) => Self::before(table, prefix),
        };
        (start, end)
    }

    /// Whether it lies behind all rows whose prefixes are not larger than this; `false` when that cannot be told.
    pub(super) fn is_behind(&self, prefix: u64) -> bool {
        !self.parts.is_empty() && self.prefix > prefix
    }

    /// Orders positions by their first part as far as a number can.
    pub(super) fn prefix(&self) -> u64 {
        self.prefix
    }

    /// The components' values.
    pub fn values(&self) -> impl Iterator<Item = &Value> {
        self.parts.iter().map(|part| &part.value)
    }

    /// The components' values, cloned.
    pub fn to_values(&self) -> Vec<Value> {
        self.values().cloned().collect()
    }

    /// A component's value.
    pub fn value(&self, index: usize) -> Option<&Value> {
        self.parts.get(index).map(|part| &part.value)
    }
}

impl Ord for RowPosition {
    fn cmp(&self, other: &Self) -> Ordering {
        if self.prefix != other.prefix && !self.parts.is_empty() && !other.parts.is_empty() {
            return self.prefix.cmp(&other.prefix);
        }
        for (a, b) in self.parts.iter().zip(&other.parts) {
            match a.cmp(b) {
                Ordering::Equal => {}
                order => return order,
            }
        }
        match self.parts.len().cmp(&other.parts.len()) {
            Ordering::Equal => self.weight.cmp(&other.weight),
            // The shorter one is a bound before or behind everything with its prefix.
            Ordering::Less => {
                if self.weight < 0 {
                    Ordering::Less
                } else {
                    Ordering::Greater
                }
            }
            Ordering::Greater => {
                if other.weight < 0 {
                    Ordering::Greater
                } else {
                    Ordering::Less
                }
            }
        }
    }
}

impl PartialOrd for RowPosition {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn value() -> impl Strategy<Value = (Value, Value)> {
        let uuid = |n: u128| Value::TimeUuid(Uuid::from_u128(n));
        let blob = |bytes: Vec<u8>| Value::Blob(Bytes::from(bytes));
        let bytes = || prop::collection::vec(0..3_u8, 0..12);
        prop_oneof![
            (any::<u128>(), any::<u128>()).prop_map(move |(a, b)| (uuid(a), uuid(b))),
            (any::<u64>(), any::<u64>(), 0..2_u128).prop_map(move |(a, b, time)| (
                uuid(time << 64 | u128::from(a)),
                uuid(time << 64 | u128::from(b))
            )),
            (any::<i64>(), any::<i64>()).prop_map(|(a, b)| (Value::BigInt(a), Value::BigInt(b))),
            (any::<i32>(), any::<i32>()).prop_map(|(a, b)| (Value::Int(a), Value::Int(b))),
            (bytes(), bytes()).prop_map(move |(a, b)| (blob(a), blob(b))),
            any::<i64>().prop_map(|a| (Value::Empty, Value::BigInt(a))),
        ]
    }

    proptest! {
        #[test]
        fn a_prefix_never_contradicts_the_order((a, b) in value(), descending in any::<bool>()) {
            let part = |value: &Value| Part { value: value.clone(), descending };
            let (a, b) = (part(&a), part(&b));
            let by_prefix = prefix_of(&a).cmp(&prefix_of(&b));
            prop_assert!(by_prefix == Ordering::Equal || by_prefix == a.cmp(&b));
        }
    }
}
