//! Which rows of one stream group were handed on, and which of them are settled.
//!
//! Owns the registry of rows above the watermark W. Invariants:
//!
//! 1. A row is registered once: a second sight of it is [`Registration::Known`].
//! 2. [`Tracker::floor`] never reaches the time of an unsettled row.
//! 3. What was forgotten (at or before W) is settled, and stays known.
//! 4. A settled row takes 16 bytes, whatever it was: its time and its hash.
//!
//! It has no clock and does no I/O, and does not know which reads were made: what may still
//! *appear* is the follower's business. Rows that appear at or before W all the same are
//! `source::stragglers`' business.

use std::collections::{BTreeMap, VecDeque};

use super::summary::hash;
use crate::event::{Position, RowKey};

/// A row, ordered by time before stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Slot {
    position: Position,
    stream: u16,
}

impl From<RowKey> for Slot {
    fn from(row: RowKey) -> Self {
        Self {
            position: row.position,
            stream: row.stream,
        }
    }
}

impl From<Slot> for RowKey {
    fn from(slot: Slot) -> Self {
        Self {
            stream: slot.stream,
            position: slot.position,
        }
    }
}

/// A settled row: its time in microseconds since the Unix epoch, and its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark {
    /// Microseconds since the Unix epoch.
    pub micros: i64,
    /// See [`hash`].
    pub hash: u64,
}

impl From<RowKey> for Mark {
    fn from(row: RowKey) -> Self {
        Self {
            micros: row.position.micros(),
            hash: hash(row),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Pending,
    Held,
}

/// What registering a row found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registration {
    /// Never seen: the caller now has the duty to hand it on.
    New,
    /// Seen before, settled or not: nothing is to be done.
    Known,
}

/// The rows of one stream group above W.
#[derive(Debug, Clone)]
pub struct Tracker {
    forgotten_to: i64,
    unsettled: BTreeMap<Slot, State>,
    /// In order.
    settled: VecDeque<Mark>,
    held: usize,
    revision: u64,
    /// What was settled while it is not known yet what an earlier run has published.
    meanwhile: Option<Vec<Mark>>,
}

impl Tracker {
    /// An empty registry; everything at or before `watermark` (microseconds) counts as known.
    pub fn new(watermark: i64) -> Self {
        Self {
            forgotten_to: watermark,
            unsettled: BTreeMap::new(),
            settled: VecDeque::new(),
            held: 0,
            revision: 0,
            meanwhile: None,
        }
    }

    /// From now on, until [`Tracker::recognised`], what is settled is remembered by itself, too.
    pub fn resume(&mut self) {
        self.meanwhile = Some(Vec::new());
    }

    /// All that an earlier run has published is restored.
    pub fn recognised(&mut self) {
        self.meanwhile = None;
    }

    /// What was settled since [`Tracker::resume`].
    pub fn meanwhile(&self) -> &[Mark] {
        self.meanwhile.as_deref().unwrap_or_default()
    }

    /// Whether the row was registered before or lies at or before W.
    pub fn knows(&self, row: RowKey) -> bool {
        row.position.micros() <= self.forgotten_to
            || self.unsettled.contains_key(&row.into())
            || self.settled.binary_search(&row.into()).is_ok()
    }

    /// Registers a row that is about to be handed on.
    pub fn register(&mut self, row: RowKey) -> Registration {
        if self.knows(row) {
            return Registration::Known;
        }
        self.unsettled.insert(row.into(), State::Pending);
        Registration::New
    }

    /// Registers a row that needs nothing more: merged into another, skipped, or published by an
    /// earlier run.
    pub fn register_settled(&mut self, row: RowKey) -> Registration {
        if self.knows(row) {
            return Registration::Known;
        }
        self.add_settled(row.into());
        Registration::New
    }

    /// Registers rows that an earlier run has published. Those at or before W are left out.
    pub fn restore(&mut self, marks: impl IntoIterator<Item = Mark>) {
        let above = |mark: &Mark| mark.micros > self.forgotten_to;
        let restored: Vec<Mark> = marks.into_iter().filter(above).collect();
        self.settled.extend(restored);
        let settled = self.settled.make_contiguous();
        settled.sort_unstable();
        let mut settled = settled.to_vec();
        settled.dedup();
        self.settled = settled.into();
        self.revision += 1;
    }

    fn add_settled(&mut self, mark: Mark) {
        if let Some(meanwhile) = &mut self.meanwhile {
            meanwhile.push(mark);
        }
        if self.settled.back().is_none_or(|last| *last < mark) {
            self.settled.push_back(mark);
        } else if let Err(at) = self.settled.binary_search(&mark) {
            self.settled.insert(at, mark);
        }
        self.revision += 1;
    }

    /// Settles a registered row. False if it is unknown or was settled before.
    pub fn settle(&mut self, row: RowKey) -> bool {
        let Some(state) = self.unsettled.remove(&Slot::from(row)) else {
            return false;
        };
        if state == State::Held {
            self.held -= 1;
        }
        self.add_settled(row.into());
        true
    }

    /// Marks a pending row as one that cannot be published for now. It stays unsettled.
    pub fn hold(&mut self, row: RowKey) {
        if let Some(state) = self.unsettled.get_mut(&row.into())
            && *state == State::Pending
        {
            *state = State::Held;
            self.held += 1;
        }
    }

    /// The largest time such that no registered row at or before it is unsettled; `i64::MAX` if
    /// every registered row is settled. Microseconds since the Unix epoch.
    pub fn floor(&self) -> i64 {
        self.unsettled
            .first_key_value()
            .map_or(i64::MAX, |(slot, _)| slot.position.micros() - 1)
    }

    /// Drops what lies at or before `watermark`, and gives it back, oldest first; the caller has
    /// checked that it is below [`Tracker::floor`]. An earlier watermark than before changes nothing.
    pub fn forget(&mut self, watermark: i64) -> impl Iterator<Item = Mark> + '_ {
        debug_assert!(
            watermark <= self.floor() || watermark <= self.forgotten_to,
            "an unsettled row is never forgotten"
        );
        self.forgotten_to = self.forgotten_to.max(watermark);
        let end = self
            .settled
            .partition_point(|mark| mark.micros <= watermark);
        if end > 0 {
            self.revision += 1;
        }
        self.settled.drain(..end)
    }

    /// The settled rows above W, oldest first.
    pub fn settled(&self) -> impl DoubleEndedIterator<Item = Mark> + '_ {
        self.settled.iter().copied()
    }

    /// The rows that are not settled, oldest first.
    pub fn unsettled(&self) -> impl Iterator<Item = RowKey> + '_ {
        self.unsettled.keys().map(|slot| (*slot).into())
    }

    /// Everything at or before this was forgotten: microseconds since the Unix epoch.
    pub fn forgotten_to(&self) -> i64 {
        self.forgotten_to
    }

    /// Rows in the registry.
    pub fn len(&self) -> usize {
        self.settled.len() + self.unsettled.len()
    }

    /// Whether the registry is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rows that were handed on and are not settled, held ones left out.
    pub fn pending(&self) -> usize {
        self.unsettled.len() - self.held
    }

    /// Rows that cannot be published for now.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Settled rows above W.
    pub fn settled_count(&self) -> usize {
        self.settled.len()
    }

    /// Changes whenever the set of settled rows above W changes.
    pub fn revision(&self) -> u64 {
        self.revision
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::event::UUID_EPOCH_OFFSET;
    use crate::source::bounds::timeuuid;

    fn row(micros: i64, low: u8, seq: i32, stream: u16) -> RowKey {
        let ticks = UUID_EPOCH_OFFSET + micros as u64 * 10;
        RowKey {
            stream,
            position: Position {
                time: timeuuid(ticks, [low; 8]),
                seq,
            },
        }
    }

    #[test]
    fn the_floor_stays_below_the_oldest_unsettled_row() {
        let mut tracker = Tracker::new(0);
        assert_eq!(tracker.floor(), i64::MAX);
        for micros in [30, 10, 20] {
            assert_eq!(tracker.register(row(micros, 1, 0, 0)), Registration::New);
        }
        assert_eq!(tracker.floor(), 9);
        assert!(tracker.settle(row(20, 1, 0, 0)));
        assert_eq!(tracker.floor(), 9);
        assert!(tracker.settle(row(10, 1, 0, 0)));
        assert_eq!(tracker.floor(), 29);
        assert_eq!(tracker.forget(29).count(), 2);
        assert_eq!(tracker.len(), 1);
        assert_eq!(tracker.register(row(20, 1, 0, 0)), Registration::Known);
    }

    #[test]
    fn rows_that_share_a_microsecond_hold_the_floor_together() {
        let mut tracker = Tracker::new(0);
        // 0x80 sorts below 0x7f: the bytes are signed.
        let rows = [row(5, 0x80, 0, 0), row(5, 0x7f, 0, 0), row(5, 0x7f, 1, 1)];
        for row in rows {
            tracker.register(row);
        }
        tracker.settle(rows[0]);
        tracker.settle(rows[2]);
        assert_eq!(tracker.floor(), 4);
        tracker.settle(rows[1]);
        assert_eq!(tracker.forget(5).count(), 3);
        assert!(tracker.is_empty());
    }

    #[test]
    fn a_held_row_is_unsettled_but_not_pending() {
        let mut tracker = Tracker::new(0);
        tracker.register(row(5, 0, 0, 0));
        tracker.hold(row(5, 0, 0, 0));
        assert_eq!(
            (tracker.pending(), tracker.held(), tracker.floor()),
            (0, 1, 4)
        );
        assert!(tracker.settle(row(5, 0, 0, 0)));
        assert!(!tracker.settle(row(5, 0, 0, 0)));
        assert_eq!((tracker.held(), tracker.floor()), (0, i64::MAX));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Register(RowKey),
        Settle(RowKey),
        Forget(i64),
    }

    fn rows() -> impl Strategy<Value = RowKey> {
        (1..40_i64, any::<u8>(), 0..3_i32, 0..3_u16)
            .prop_map(|(m, low, seq, s)| row(m, low, seq, s))
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => rows().prop_map(Step::Register),
            4 => rows().prop_map(Step::Settle),
            1 => (0..50_i64).prop_map(Step::Forget),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn behaves_as_a_list_of_rows(steps in steps(), shuffle in any::<bool>()) {
            let mut tracker = Tracker::new(0);
            let mut model: BTreeMap<RowKey, bool> = BTreeMap::new();
            let mut watermark = 0;
            for step in steps {
                match step {
                    Step::Register(row) => {
                        let known = row.position.micros() <= watermark || model.contains_key(&row);
                        let found = tracker.register(row);
                        prop_assert_eq!(found == Registration::Known, known);
                        if !known {
                            model.insert(row, false);
                        }
                    }
                    Step::Settle(row) => {
                        // Settling any registered row, so that most steps do something.
                        let row = if shuffle { model.keys().next_back().copied().unwrap_or(row) } else { row };
                        let expected = model.get_mut(&row).is_some_and(|s| !std::mem::replace(s, true));
                        prop_assert_eq!(tracker.settle(row), expected);
                    }
                    Step::Forget(to) => {
                        let to = to.min(tracker.floor());
                        let forgotten: Vec<Mark> = tracker.forget(to).collect();
                        watermark = watermark.max(to);
                        let below = model.keys().filter(|row| row.position.micros() <= watermark);
                        let mut below: Vec<Mark> = below.map(|row| (*row).into()).collect();
                        below.sort_unstable();
                        prop_assert_eq!(forgotten, below);
                        model.retain(|row, _| row.position.micros() > watermark);
                    }
                }
                let floor = model.iter().filter(|(_, s)| !**s).map(|(r, _)| r.position.micros() - 1).min();
                prop_assert_eq!(tracker.floor(), floor.unwrap_or(i64::MAX));
                prop_assert_eq!(tracker.len(), model.len());
                prop_assert_eq!(tracker.pending(), model.values().filter(|s| !**s).count());
                let settled: Vec<Mark> = tracker.settled().collect();
                let mut expected: Vec<Mark> =
                    model.iter().filter(|(_, s)| **s).map(|(r, _)| (*r).into()).collect();
                expected.sort_unstable();
                prop_assert_eq!(&settled, &expected);
                let mut restored = Tracker::new(watermark);
                restored.restore(expected.iter().rev().chain(&expected).copied());
                prop_assert_eq!(restored.settled().collect::<Vec<_>>(), expected);
            }
        }
    }
}
