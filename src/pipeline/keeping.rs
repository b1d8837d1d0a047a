//! In which order, and when, dead letters are written.
//!
//! A pure state machine: writes are given out and their outcomes reported; the time is a
//! [`Duration`] since any fixed origin. Invariants:
//!
//! 1. What was taken stays until its write is acknowledged. A write that failed is given out again
//!    after a pause, for ever.
//! 2. At most [`CONCURRENT_WRITES`] writes are under way.
//! 3. Of the dead letters of a key whose order counts, one is written at a time, in the order in
//!    which they were taken: one that is durable has all before it durable.

use std::collections::{BTreeSet, HashMap, VecDeque, hash_map};
use std::time::Duration;

use super::lanes::LaneKey;

/// Writes under way at once.
pub const CONCURRENT_WRITES: usize = 32;
/// Pause after a first failed write; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Entry<T> {
    item: T,
    /// The key, if its order counts.
    key: Option<LaneKey>,
    failures: u32,
}

/// What is on its way to the table of dead letters.
#[derive(Debug)]
pub struct Keeping<T> {
    entries: HashMap<u64, Entry<T>>,
    waiting: VecDeque<u64>,
    /// Of each key whose order counts, what waits behind the one that is written.
    behind: HashMap<LaneKey, VecDeque<u64>>,
    paused: BTreeSet<(Duration, u64)>,
    writing: usize,
    next: u64,
}

impl<T> Default for Keeping<T> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            waiting: VecDeque::new(),
            behind: HashMap::new(),
            paused: BTreeSet::new(),
            writing: 0,
            next: 0,
        }
    }
}

impl<T> Keeping<T> {
    /// Nothing is on its way.
    pub fn new() -> Self {
        Self::default()
    }

    /// Dead letters whose write has not been acknowledged.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether every write has been acknowledged.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes a dead letter; with a key if its order counts.
    pub fn take(&mut self, key: Option<LaneKey>, item: T) {
        let number = self.next;
        self.next += 1;
        match key.clone().map(|key| self.behind.entry(key)) {
            Some(hash_map::Entry::Occupied(mut behind)) => behind.get_mut().push_back(number),
            Some(hash_map::Entry::Vacant(first)) => {
                first.insert(VecDeque::new());
                self.waiting.push_back(number);
            }
            None => self.waiting.push_back(number),
        }
        let entry = Entry {
            item,
            key,
            failures: 0,
        };
        self.entries.insert(number, entry);
    }

    /// The next write to begin, with the number that names it.
    pub fn begin(&mut self) -> Option<(u64, &T)> {
        if self.writing >= CONCURRENT_WRITES {
            return None;
        }
        let number = self.waiting.pop_front()?;
        self.writing += 1;
        Some((number, &self.entries[&number].item))
    }

    /// The write is acknowledged: gives back its dead letter. The next of its key may be written.
    pub fn written(&mut self, number: u64) -> Option<T> {
        let entry = self.entries.remove(&number)?;
        self.writing -= 1;
        if let Some(key) = entry.key {
            let next = self.behind.get_mut(&key).and_then(VecDeque::pop_front);
            match next {
                Some(next) => self.waiting.push_back(next),
                None => {
                    self.behind.remove(&key);
                }
            }
        }
        Some(entry.item)
    }

    /// The write failed, or nothing is known of it: it is made again.
    pub fn failed(&mut self, number: u64, now: Duration) {
        let Some(entry) = self.entries.get_mut(&number) else {
            return;
        };
        self.writing -= 1;
        let pause = FIRST_PAUSE.saturating_mul(1 << entry.failures.min(10));
        entry.failures += 1;
        self.paused.insert((now + pause.min(LONGEST_PAUSE), number));
    }

    /// Lets the writes whose pause is over be given out.
    pub fn due(&mut self, now: Duration) {
        while let Some((at, number)) = self.paused.first().copied()
            && at <= now
        {
            self.paused.pop_first();
            self.waiting.push_back(number);
        }
    }

    /// When the next pause is over.
    pub fn next_due(&self) -> Option<Duration> {
        self.paused.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::event::TableId;

    fn key(name: &'static str) -> LaneKey {
        (TableId(0), Bytes::from_static(name.as_bytes()))
    }

    fn begun(keeping: &mut Keeping<u32>) -> Vec<u32> {
        let mut begun = Vec::new();
        while let Some((_, item)) = keeping.begin() {
            begun.push(*item);
        }
        begun
    }

    #[test]
    fn one_of_a_key_is_written_at_a_time_and_a_failure_holds_up_its_key_only() {
        let mut keeping = Keeping::new();
        for (name, item) in [("a", 0), ("a", 1), ("b", 2)] {
            keeping.take(Some(key(name)), item);
        }
        keeping.take(None, 3);
        assert_eq!(begun(&mut keeping), [0, 2, 3]);
        keeping.failed(0, Duration::ZERO);
        assert_eq!(keeping.written(2), Some(2));
        assert!(begun(&mut keeping).is_empty(), "1 waits for 0");
        let again = keeping.next_due().expect("0 is written again");
        keeping.due(again);
        assert_eq!(begun(&mut keeping), [0]);
        assert_eq!(keeping.written(0), Some(0));
        assert_eq!(begun(&mut keeping), [1]);
        assert_eq!((keeping.written(1), keeping.written(3)), (Some(1), Some(3)));
        assert!(keeping.is_empty() && keeping.next_due().is_none());
    }

    #[test]
    fn writes_under_way_are_bounded() {
        let mut keeping = Keeping::new();
        for item in 0..100 {
            keeping.take(None, item);
        }
        assert_eq!(begun(&mut keeping).len(), CONCURRENT_WRITES);
        keeping.written(5);
        assert_eq!(begun(&mut keeping), [CONCURRENT_WRITES as u32]);
    }
}
