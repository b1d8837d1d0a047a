//! Which keys are parked: their events go to the dead letters and not to Kafka.
//!
//! Owns the set of parked keys. Pure: no I/O, no clock. Invariants:
//!
//! 1. A parked key stays parked until [`Parking::release`] finds that none of its dead letters can
//!    be left: when the caller looked and the table held none, no write of one was under way, and
//!    none has begun since.
//! 2. At most `limit` keys are parked by new failures ([`Parking::has_room`]); those that are in
//!    the table at the start are always taken up.
//!
//! It keeps a 128-bit hash of each key and not the key: two keys with one hash, which chance does
//! not bring about, would be parked and released together.

use std::collections::HashMap;

use crate::event::TableId;
use crate::fingerprint::Fingerprints;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Entry {
    /// Writes of dead letters of this key that are under way.
    writing: u32,
    /// Dead letters of this key whose write has begun, since it was parked.
    begun: u32,
}

/// Whether dead letters of a key are on their way to the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quiet {
    /// The key is not parked.
    NotParked,
    /// One is on its way.
    Not,
    /// None is; so many have been.
    Since(u32),
}

/// The parked keys.
#[derive(Debug)]
pub struct Parking {
    limit: usize,
    fingerprints: Fingerprints,
    keys: HashMap<u128, Entry>,
}

impl Parking {
    /// No key is parked; new failures park at most `limit`.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            fingerprints: Fingerprints::default(),
            keys: HashMap::new(),
        }
    }

    fn hash(&self, table: TableId, key: &[u8]) -> u128 {
        self.fingerprints.of((table, key))
    }

    /// Parks a key; does nothing if it is parked.
    pub fn park(&mut self, table: TableId, key: &[u8]) {
        self.keys.entry(self.hash(table, key)).or_default();
    }

    /// Whether the key is parked.
    pub fn is_parked(&self, table: TableId, key: &[u8]) -> bool {
        // Most relays have no dead letters: do not hash each key for nothing.
        !self.keys.is_empty() && self.keys.contains_key(&self.hash(table, key))
    }

    /// Whether one more key may be parked.
    pub fn has_room(&self) -> bool {
        self.keys.len() < self.limit
    }

    /// Keys that are parked.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no key is parked.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The write of a dead letter of a parked key begins.
    pub fn write_begins(&mut self, table: TableId, key: &[u8]) {
        let hash = self.hash(table, key);
        if let Some(entry) = self.keys.get_mut(&hash) {
            entry.writing += 1;
            entry.begun = entry.begun.wrapping_add(1);
        }
    }

    /// The write has been acknowledged.
    pub fn write_ended(&mut self, table: TableId, key: &[u8]) {
        let hash = self.hash(table, key);
        if let Some(entry) = self.keys.get_mut(&hash) {
            entry.writing = entry.writing.saturating_sub(1);
        }
    }

    /// To be asked for before looking whether the table holds a dead letter of the key.
    pub fn quiet(&self, table: TableId, key: &[u8]) -> Quiet {
        match self.keys.get(&self.hash(table, key)) {
            None => Quiet::NotParked,
            Some(entry) if entry.writing > 0 => Quiet::Not,
            Some(entry) => Quiet::Since(entry.begun),
        }
    }

    /// The table held no dead letter of the key when it was looked at, after [`Parking::quiet`]
    /// gave `since`. Says whether the key is parked no more.
    pub fn release(&mut self, table: TableId, key: &[u8], since: u32) -> bool {
        let hash = self.hash(table, key);
        match self.keys.get(&hash) {
            None => true,
            Some(entry) if entry.begun == since => {
                self.keys.remove(&hash);
                true
            }
            Some(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const T: TableId = TableId(0);

    #[test]
    fn a_key_is_parked_in_its_own_table_only() {
        let mut parking = Parking::new(1);
        assert!(!parking.is_parked(T, b"k") && parking.has_room());
        parking.park(T, b"k");
        assert!(parking.is_parked(T, b"k") && !parking.is_parked(TableId(1), b"k"));
        assert!(!parking.is_parked(T, b"") && !parking.has_room());
        assert_eq!(parking.quiet(TableId(1), b"k"), Quiet::NotParked);
    }

    #[test]
    fn a_write_that_began_after_the_look_keeps_the_key_parked() {
        let mut parking = Parking::new(9);
        parking.park(T, b"k");
        assert_eq!(parking.quiet(T, b"k"), Quiet::Since(0));
        parking.write_begins(T, b"k");
        assert_eq!(
            parking.quiet(T, b"k"),
            Quiet::Not,
            "a look may not see it yet"
        );
        parking.write_ended(T, b"k");
        assert!(!parking.release(T, b"k", 0), "it began after the look");
        assert_eq!(parking.quiet(T, b"k"), Quiet::Since(1));
        assert!(parking.release(T, b"k", 1));
        assert!(!parking.is_parked(T, b"k") && parking.release(T, b"k", 7));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Begin,
        Land(usize),
        Look,
        Remove,
        Release,
    }

    proptest! {
        /// Against a table that keeps every letter: a released key has none, neither in the table
        /// nor on its way.
        #[test]
        fn a_released_key_has_no_letter(steps in prop::collection::vec(prop_oneof![
            Just(Step::Begin), any::<usize>().prop_map(Step::Land), Just(Step::Look),
            Just(Step::Remove), Just(Step::Release),
        ], 0..60)) {
            let mut parking = Parking::new(9);
            parking.park(T, b"k");
            let (mut flying, mut table, mut looked) = (0_usize, 0_usize, None);
            for step in steps {
                match step {
                    Step::Begin => {
                        parking.park(T, b"k");
                        parking.write_begins(T, b"k");
                        flying += 1;
                    }
                    Step::Land(acknowledged) => {
                        if flying > 0 {
                            flying -= 1;
                            // A replay may publish and remove it at once.
                            table += acknowledged % 2;
                            parking.write_ended(T, b"k");
                        }
                    }
                    Step::Look => {
                        looked = match parking.quiet(T, b"k") {
                            Quiet::Since(since) if table == 0 => Some(since),
                            _ => None,
                        };
                    }
                    Step::Remove => table = 0,
                    Step::Release => {
                        if let Some(since) = looked.take() && parking.release(T, b"k", since) {
                            prop_assert_eq!((flying, table), (0, 0));
                        }
                    }
                }
            }
        }
    }
}
