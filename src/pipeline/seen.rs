//! Which events were handed on lately, so that one which is in the log twice is published once.
//!
//! A statement that the application's driver repeats, and a lightweight transaction that another
//! coordinator completes, make a second log row of one event, with another `cdc$time`. Pure: no I/O,
//! no clock. Invariants:
//!
//! 1. Only a row that gives the same record is a repetition: same topic, key, payload and headers, of
//!    which the id is one. Two events that share an id by mistake are both published.
//! 2. Events are remembered for `window` behind the newest one, and at most `limit` of them: beyond
//!    that a repetition is published. Nothing else ever is taken for one.

use std::collections::{BTreeSet, HashMap};

use crate::event::Record;
use crate::fingerprint::Fingerprints;

/// The events of one stream group that were handed on lately.
#[derive(Debug, Clone)]
pub struct Seen {
    /// In microseconds.
    window: i64,
    limit: usize,
    fingerprints: Fingerprints,
    /// Fingerprint of an event to the time of its row.
    events: HashMap<u128, i64>,
    by_time: BTreeSet<(i64, u128)>,
}

impl Seen {
    /// Nothing is remembered. Both bounds are those of invariant 2, `window` in microseconds.
    pub fn new(window: i64, limit: usize) -> Self {
        Self {
            window,
            limit,
            fingerprints: Fingerprints::default(),
            events: HashMap::new(),
            by_time: BTreeSet::new(),
        }
    }

    /// Whether the same record was handed on lately; if not, it is now. `micros` is the time of its
    /// row.
    pub fn repeats(&mut self, record: &Record, micros: i64) -> bool {
        let headers = record.headers.iter();
        let headers: Vec<_> = headers
            .map(|header| (&header.name, &header.value))
            .collect();
        let says = (&record.topic, &record.key, &record.payload, headers);
        let event = self.fingerprints.of(says);
        if let Some(at) = self.events.insert(event, micros) {
            self.by_time.remove(&(at, event));
            self.by_time.insert((micros, event));
            return at.abs_diff(micros) <= self.window.unsigned_abs();
        }
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
    use bytes::Bytes;

    use super::*;
    use crate::event::Header;

    fn record(topic: &str, key: &str, payload: Option<&str>, id: &str) -> Record {
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        Record {
            topic: topic.into(),
            key: bytes(key),
            payload: payload.map(bytes),
            headers: vec![Header {
                name: "id".into(),
                value: Some(bytes(id)),
            }],
            timestamp_millis: 1,
        }
    }

    #[test]
    fn a_repetition_says_the_same() {
        let mut seen = Seen::new(1_000, 10);
        for (record, expected) in [
            (record("t", "k", Some("p"), "1"), false),
            (record("t", "k", Some("p"), "1"), true),
            (record("u", "k", Some("p"), "1"), false),
            (record("t", "l", Some("p"), "1"), false),
            (record("t", "k", Some("q"), "1"), false),
            (record("t", "k", None, "1"), false),
            (record("t", "k", Some("p"), "2"), false),
            (record("t", "k", Some("p"), "1"), true),
        ] {
            assert_eq!(seen.repeats(&record, 5), expected, "{record:?}");
        }
    }

    #[test]
    fn what_is_old_or_too_much_is_forgotten() {
        let mut seen = Seen::new(1_000, 3);
        let mut at = |id: &str, micros| seen.repeats(&record("t", "k", None, id), micros);
        assert!(!at("1", 0) && !at("2", 1_000) && at("1", 1_000));
        assert!(!at("1", 2_001), "as old as that it is another one");
        assert!(at("1", 2_002));
        assert!(!at("3", 2_003), "2 is out of the window now");
        assert!(!at("2", 1_500), "a late row is remembered by its own time");
        assert!(at("2", 1_500) && at("1", 2_002));
        assert!(!at("4", 2_100), "the limit pushes the oldest out");
        assert!(!at("2", 1_500));
        assert_eq!((seen.events.len(), seen.by_time.len()), (3, 3));
    }
}
