//! Which events were handed on lately, so that one which is in the log twice is published once.
//!
//! A statement that the application's driver repeats, and a lightweight transaction that another
//! coordinator completes, make a second log row of one event, with another `cdc$time`. Pure: no I/O,
//! no clock. Invariants:
//!
//! 1. Only a row that says the same is a repetition: same id, key and payload. Two events that share
//!    an id by mistake are both published.
//! 2. Events are remembered for `window` behind the newest one, and at most `limit` of them: beyond
//!    that a repetition is published. Nothing else ever is taken for one.

use std::collections::{BTreeSet, HashMap};

use crate::fingerprint::Fingerprints;

/// The events of one stream group that were handed on lately.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// In microseconds.
    window: i64,
    limit: usize,
    fingerprints: Fingerprints,
    /// Fingerprint of an event to the time of its row.
    events: HashMap<u128, i64>,
    by_time: BTreeSet<(i64, u128)>,
}

impl Seen {
    pub(super) fn new(window: i64, limit: usize) -> Self {
        Self {
            window,
            limit,
            fingerprints: Fingerprints::default(),
            events: HashMap::new(),
            by_time: BTreeSet::new(),
        }
    }

    /// Whether an event that says the same was handed on lately; if not, it is now. `micros` is the
    /// time of its row.
    pub(super) fn repeats(
        &mut self,
        id: &str,
        key: &[u8],
        payload: Option<&[u8]>,
        micros: i64,
    ) -> bool {
        let event = self.fingerprints.of((id, key, payload));
        if self.events.contains_key(&event) {
            return true;
        }
        self.events.insert(event, micros);
        self.by_time.insert((micros, event));
        self.forget();
        false
    }

    fn forget(&mut self) {
        while let (Some(&(oldest, event)), Some(&(newest, _))) =
            (self.by_time.first(), self.by_time.last())
        {
            let far = newest.saturating_sub(oldest) > self.window;
            if !far && self.events.len() <= self.limit {
                return;
            }
            self.by_time.pop_first();
            self.events.remove(&event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repetition_says_the_same() {
        let mut seen = Seen::new(1_000, 10);
        let first = ("1", &b"k"[..], Some(&b"p"[..]));
        for ((id, key, payload), expected) in [
            (first, false),
            (first, true),
            (("2", b"k", Some(b"p")), false),
            (("1", b"l", Some(b"p")), false),
            (("1", b"k", Some(b"q")), false),
            (("1", b"k", None), false),
            (first, true),
        ] {
            assert_eq!(
                seen.repeats(id, key, payload, 5),
                expected,
                "{id} {key:?} {payload:?}"
            );
        }
    }

    #[test]
    fn what_is_old_or_too_much_is_forgotten() {
        let mut seen = Seen::new(1_000, 3);
        let mut at = |id: &str, micros| seen.repeats(id, b"k", None, micros);
        assert!(!at("1", 0) && !at("2", 1_000) && at("1", 1_000));
        assert!(!at("3", 1_001), "1 is out of the window now");
        assert!(!at("1", 500), "a late row is remembered by its own time");
        assert!(at("1", 500) && at("2", 1_000));
        assert!(!at("4", 1_100), "the limit pushes the oldest out");
        assert!(!at("1", 500));
        assert_eq!((seen.events.len(), seen.by_time.len()), (3, 3));
    }
}
