//! Rows that appear at or before W: later than the late window.
//!
//! A sweep compares what the log shows of an old stretch with what was published of it. Owns the rows of
//! one stream group that a sweep has found and that are not settled yet. Pure. Invariants:
//!
//! 1. A row is handed on once per sweep that finds it, and added to what was published of its window
//!    only when it is settled.
//! 2. A window is given back to be saved when all that was found in it is settled.

use std::collections::BTreeMap;

use crate::ack::Mark;
use crate::ack::summary::{Summary, cell_of, hash};
use crate::checkpoint::Window;
use crate::event::RowKey;

/// A stretch of the log, and what was found in it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    window: Window,
    /// The rows, and whether each was handed on.
    rows: BTreeMap<RowKey, bool>,
}

/// What sweeps have found of one group.
#[derive(Debug, Clone, Default)]
pub struct Stragglers {
    found: Vec<Found>,
}

impl Stragglers {
    /// Compares the rows that were read of a window with what was published of it; gives back how many
    /// have to be published.
    pub fn compare(&mut self, mut window: Window, rows: &[RowKey]) -> usize {
        let reconciled = window.summary.reconcile(rows.iter().map(|row| hash(*row)));
        if reconciled.fresh.is_empty() {
            return 0;
        }
        // Where rows have vanished (they expire), those that are left were published, as far as anybody
        // can tell.
        let vanished = |cell: usize| {
            let read = rows
                .iter()
                .filter(|row| cell_of(hash(**row)) == cell)
                .count();
            read < window.summary.cells[cell].count as usize
        };
        let left_alone: Vec<usize> = reconciled
            .unresolved
            .iter()
            .copied()
            .filter(|cell| vanished(*cell))
            .collect();
        let mut fresh = reconciled.fresh;
        fresh.retain(|hash| !left_alone.contains(&cell_of(*hash)));
        fresh.sort_unstable();
        for cell in reconciled.unresolved {
            if !left_alone.contains(&cell) {
                window.summary.cells[cell] = Summary::default().cells[0];
            }
        }
        let is_fresh = |row: &&RowKey| fresh.binary_search(&hash(**row)).is_ok();
        let rows: BTreeMap<RowKey, bool> = rows
            .iter()
            .filter(is_fresh)
            .map(|row| (*row, false))
            .collect();
        let count = rows.len();
        if count > 0 {
            self.found.push(Found { window, rows });
        }
        count
    }

    /// Whether nothing is found that is not settled.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Whether rows were not handed on yet.
    pub fn is_waiting(&self) -> bool {
        let mut rows = self.found.iter().flat_map(|found| found.rows.values());
        rows.any(|handed_on| !*handed_on)
    }

    /// The rows that were not handed on yet.
    pub fn waiting(&self) -> Vec<RowKey> {
        let rows = self.found.iter().flat_map(|found| &found.rows);
        let waiting = rows.filter(|(_, handed_on)| !**handed_on);
        waiting.map(|(row, _)| *row).collect()
    }

    /// Notes that a row is handed on; false if it was, or is none of these.
    pub fn hand_on(&mut self, row: RowKey) -> bool {
        let mut rows = self.found.iter_mut().map(|found| &mut found.rows);
        let found = rows.find_map(|rows| rows.get_mut(&row));
        found.is_some_and(|handed_on| !std::mem::replace(handed_on, true))
    }

    /// A row is settled; gives its window if it was the last one there. Rows that are none of these
    /// change nothing.
    pub fn settle(&mut self, row: RowKey) -> Option<Window> {
        let holds = |found: &Found| found.rows.contains_key(&row);
        let at = self.found.iter().position(holds)?;
        let found = &mut self.found[at];
        found.rows.remove(&row);
        found.window.summary.add(Mark::from(row).hash);
        let done = found.rows.is_empty();
        done.then(|| self.found.swap_remove(at).window)
    }

    /// Gives up the rows that were not handed on, because they cannot be read any more: if they can
    /// after all, the next sweep finds them. Gives the windows in which nothing else was found.
    pub fn forget_waiting(&mut self) -> Vec<Window> {
        for found in &mut self.found {
            found.rows.retain(|_, handed_on| *handed_on);
        }
        let done = |found: &mut Found| found.rows.is_empty();
        let done = self.found.extract_if(.., done);
        done.map(|found| found.window).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Position, UUID_EPOCH_OFFSET};
    use crate::source::bounds::timeuuid;

    fn row(n: u8) -> RowKey {
        RowKey {
            stream: 0,
            position: Position {
                time: timeuuid(UUID_EPOCH_OFFSET + u64::from(n) * 10, [n; 8]),
                seq: 0,
            },
        }
    }

    fn window(rows: impl IntoIterator<Item = u8>) -> Window {
        Window {
            begin: 0,
            upto: 100,
            summary: rows.into_iter().map(|n| hash(row(n))).collect(),
        }
    }

    #[test]
    fn late_rows_are_handed_on_once_and_added_when_they_are_settled() {
        let mut stragglers = Stragglers::default();
        let all: Vec<RowKey> = (0..40).map(row).collect();
        assert_eq!(stragglers.compare(window(0..40), &all), 0);
        assert_eq!(
            stragglers.compare(window((0..40).filter(|n| n % 20 != 7)), &all),
            2
        );
        assert_eq!(stragglers.waiting(), [row(7), row(27)]);
        assert!(stragglers.hand_on(row(7)) && !stragglers.hand_on(row(7)));
        assert!(!stragglers.hand_on(row(8)));
        assert_eq!(stragglers.waiting(), [row(27)]);
        assert_eq!(stragglers.settle(row(7)), None);
        assert_eq!(stragglers.settle(row(9)), None, "none of these");
        assert_eq!(stragglers.settle(row(27)), Some(window(0..40)));
        assert!(stragglers.is_empty());
    }

    #[test]
    fn what_does_not_reconcile_is_published_as_a_whole() {
        let mut stragglers = Stragglers::default();
        let all: Vec<RowKey> = (0..200).map(row).collect();
        let found = stragglers.compare(window(0..100), &all);
        assert_eq!(found, 200, "no cell tells which of so many are new");
        let mut saved = None;
        for row in &all {
            saved = saved.or(stragglers.settle(*row));
        }
        assert_eq!(saved, Some(window(0..200)));
    }

    #[test]
    fn what_cannot_be_read_any_more_is_given_up() {
        let mut stragglers = Stragglers::default();
        let all: Vec<RowKey> = (0..40).map(row).collect();
        stragglers.compare(window((0..40).filter(|n| n % 20 != 7)), &all);
        stragglers.hand_on(row(7));
        assert!(stragglers.forget_waiting().is_empty(), "one is on its way");
        let without = window((0..40).filter(|n| *n != 27));
        assert_eq!(stragglers.settle(row(7)), Some(without));
        stragglers.compare(without, &all);
        assert_eq!(stragglers.forget_waiting(), [without]);
        assert!(stragglers.is_empty());
    }

    #[test]
    fn rows_that_have_vanished_publish_nothing() {
        let mut stragglers = Stragglers::default();
        let left: Vec<RowKey> = (50..100).map(row).collect();
        assert_eq!(stragglers.compare(window(0..100), &left), 0);
        assert!(stragglers.is_empty());
    }

    #[test]
    fn where_nothing_was_published_everything_is_new() {
        let mut stragglers = Stragglers::default();
        let all: Vec<RowKey> = (0..10).map(row).collect();
        assert_eq!(stragglers.compare(window([]), &all), 10);
    }
}
