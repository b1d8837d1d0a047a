//! Keys as ordered maps need them.

use std::cmp::Ordering;

use crate::mutation::{ClusteringBound, ClusteringRange};
use crate::schema::{ClusteringOrder, TableSchema};
use crate::types::Value;

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
    parts: Vec<Part>,
    weight: i8,
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
        Self {
            parts: parts.collect(),
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
