//! What stands for many published rows: how many there are, and the XOR of their hashes.
//!
//! A summary costs the same for ten rows and for a million. Compared with the rows that a later read
//! returns, it proves that nothing is missing among them, or says which few are new. Invariants:
//!
//! 1. Adding the same rows in any order makes the same summary.
//! 2. [`Summary::reconcile`] never takes a row for published that may not be: where the summary does not
//!    tell which rows are new, all of that cell are.
//! 3. The hash of a row is the same in every version of the relay and on every machine.
//!
//! Two different sets of rows with one summary are a chance of about one in 2^64.

use std::collections::{HashMap, HashSet};

use twox_hash::XxHash3_64;

use crate::event::RowKey;

/// Parts of a summary, by the hash of the row: each can tell a few new rows for itself.
pub const CELLS: usize = 4;
/// Rows of a cell among which three new ones are searched for (work grows with the square).
const SEARCHED_FOR_THREE: usize = 2_000;
/// The same for four (memory grows with the square as well).
const SEARCHED_FOR_FOUR: usize = 500;

/// The hash that stands for a row of a stream group.
pub fn hash(row: RowKey) -> u64 {
    let mut bytes = [0; 22];
    bytes[..2].copy_from_slice(&row.stream.to_be_bytes());
    bytes[2..18].copy_from_slice(row.position.time.as_bytes());
    bytes[18..].copy_from_slice(&row.position.seq.to_be_bytes());
    XxHash3_64::oneshot(&bytes)
}

/// Number and XOR of some hashes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cell {
    /// How many.
    pub count: u32,
    /// XOR of all of them.
    pub xor: u64,
}

/// Stands for a set of rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// The rows, divided by their hashes.
    pub cells: [Cell; CELLS],
}

/// What a summary says of rows that were read later.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Hashes of the rows that are not in the summary.
    pub fresh: Vec<u64>,
    /// Cells that do not tell which rows are new, so that all of their rows count as fresh.
    pub unresolved: Vec<usize>,
}

impl Summary {
    /// Adds a row by its hash.
    pub fn add(&mut self, hash: u64) {
        let cell = &mut self.cells[cell_of(hash)];
        cell.count = cell.count.saturating_add(1);
        cell.xor ^= hash;
    }

    /// How many rows it stands for.
    pub fn count(&self) -> u64 {
        self.cells.iter().map(|cell| u64::from(cell.count)).sum()
    }

    /// Whether it stands for no row.
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// Which of these rows, given by their hashes, are not in the summary.
    pub fn reconcile(&self, rows: impl IntoIterator<Item = u64>) -> Reconciled {
        let mut read: [Vec<u64>; CELLS] = Default::default();
        for hash in rows {
            read[cell_of(hash)].push(hash);
        }
        let mut reconciled = Reconciled::default();
        for (index, (cell, rows)) in self.cells.iter().zip(read).enumerate() {
            if let Some(fresh) = cell.fresh(&rows) {
                reconciled.fresh.extend(fresh);
            } else {
                reconciled.unresolved.push(index);
                reconciled.fresh.extend(rows);
            }
        }
        reconciled
    }
}

impl FromIterator<u64> for Summary {
    fn from_iter<I: IntoIterator<Item = u64>>(hashes: I) -> Self {
        let mut summary = Self::default();
        for hash in hashes {
            summary.add(hash);
        }
        summary
    }
}

/// The cell of a row by its hash.
pub fn cell_of(hash: u64) -> usize {
    (hash >> 32) as usize % CELLS
}

impl Cell {
    /// Which of the rows are not in the cell; `None` if that cannot be told.
    fn fresh(self, rows: &[u64]) -> Option<Vec<u64>> {
        let more = rows.len().checked_sub(self.count as usize)?;
        let xor = rows.iter().fold(self.xor, |xor, hash| xor ^ hash);
        match more {
            0 => (xor == 0).then(Vec::new),
            _ if self.count == 0 => (self.xor == 0).then(|| rows.to_vec()),
            1 => rows.contains(&xor).then(|| vec![xor]),
            2 => pair(rows, xor).map(Vec::from),
            3 if rows.len() <= SEARCHED_FOR_THREE => triple(rows, xor),
            4 if rows.len() <= SEARCHED_FOR_FOUR => quadruple(rows, xor),
            _ => None,
        }
    }
}

/// Two of the rows whose XOR is `xor`.
fn pair(rows: &[u64], xor: u64) -> Option<[u64; 2]> {
    let all: HashSet<u64> = rows.iter().copied().collect();
    let first = rows
        .iter()
        .copied()
        .find(|row| row ^ xor != *row && all.contains(&(row ^ xor)))?;
    Some([first, first ^ xor])
}

fn triple(rows: &[u64], xor: u64) -> Option<Vec<u64>> {
    rows.iter().enumerate().find_map(|(index, row)| {
        let [second, third] = pair(&rows[index + 1..], xor ^ row)?;
        Some(vec![*row, second, third])
    })
}

/// Two pairs whose XORs differ by `xor`, and that have no row in common.
fn quadruple(rows: &[u64], xor: u64) -> Option<Vec<u64>> {
    let mut pairs: HashMap<u64, [usize; 2]> = HashMap::new();
    // Only pairs that end before the second pair does are known when that is looked at, so none is
    // looked at twice.
    for last in 1..rows.len() {
        for first in 0..last {
            let wanted = rows[first] ^ rows[last] ^ xor;
            if let Some(other) = pairs.get(&wanted)
                && !other.contains(&first)
            {
                return Some(
                    [other[0], other[1], first, last]
                        .map(|at| rows[at])
                        .to_vec(),
                );
            }
        }
        for first in 0..last {
            pairs.insert(rows[first] ^ rows[last], [first, last]);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::Position;
    use crate::source::bounds::timeuuid;

    #[test]
    fn the_hash_of_a_row_never_changes() {
        let row = RowKey {
            stream: 3,
            position: Position {
                time: timeuuid(0x1234_5678_9abc, [1, 2, 3, 4, 5, 6, 7, 8]),
                seq: 2,
            },
        };
        assert_eq!(hash(row), 0x31E7_677A_8F72_0EF7);
    }

    fn distinct(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u64>> {
        prop::collection::hash_set(any::<u64>(), count).prop_map(|set| set.into_iter().collect())
    }

    proptest! {
        #[test]
        fn up_to_four_new_rows_of_a_cell_are_found(rows in distinct(5..60), new in 0..5_usize) {
            let new = new.min(rows.len());
            let (fresh, published) = rows.split_at(new);
            let summary: Summary = published.iter().copied().collect();
            prop_assert_eq!(summary.count(), published.len() as u64);
            let mut found = summary.reconcile(rows.iter().copied());
            let mut expected = fresh.to_vec();
            found.fresh.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(&found.fresh, &expected);
            prop_assert!(found.unresolved.is_empty());
        }

        #[test]
        fn a_row_that_is_not_published_is_never_taken_for_published(
            rows in distinct(0..80),
            new in prop::collection::vec(any::<bool>(), 80),
            gone in prop::collection::vec(0..8_u8, 80),
        ) {
            let is_new = |index: usize| new[index];
            let numbered: Vec<(usize, u64)> = rows.iter().copied().enumerate().collect();
            let published = numbered.iter().filter(|(index, _)| !is_new(*index));
            let summary: Summary = published.map(|(_, hash)| *hash).collect();
            // Some of what was published cannot be read any more.
            let read = numbered.iter().filter(|(index, _)| is_new(*index) || gone[*index] > 0);
            let found = summary.reconcile(read.map(|(_, hash)| *hash));
            for (index, hash) in &numbered {
                if is_new(*index) {
                    prop_assert!(found.fresh.contains(hash));
                }
            }
        }
    }

    #[test]
    fn many_new_rows_are_spread_over_the_cells() {
        let published: Vec<u64> = (0..1_000_u64)
            .map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15))
            .collect();
        let summary: Summary = published.iter().copied().collect();
        let fresh: Vec<u64> = (0..4).map(|cell| (cell << 32) | 7).collect();
        let found = summary.reconcile(published.into_iter().chain(fresh.iter().copied()));
        assert_eq!((found.fresh, found.unresolved), (fresh, Vec::new()));
    }

    #[test]
    fn what_does_not_reconcile_counts_as_new_as_a_whole() {
        let all: Vec<u64> = (1..=20).collect();
        let summary: Summary = all[..10].iter().copied().collect();
        let found = summary.reconcile(all.iter().copied());
        assert_eq!((found.fresh.len(), found.unresolved), (20, vec![0]));
        // Rows have vanished, and as many are new.
        let found = summary.reconcile(11..=20_u64);
        assert_eq!((found.fresh.len(), found.unresolved), (10, vec![0]));
    }
}
