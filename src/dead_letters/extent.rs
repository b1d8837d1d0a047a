//! How far the dead letters of one key are replayed.
//!
//! Pure, and of constant size however many dead letters a key has. Invariants:
//!
//! 1. The order of a key is kept: to publish a dead letter, all earlier ones of its key are
//!    published before it, whether they are meant or not.
//! 2. Behind the last one that is meant, those that were only parked are published too, up to the
//!    first that has a failure of its own.
//! 3. A replay without a person stops before the first one that waits for a person.

use super::letter::{DeadLetter, Place, Reason};

/// Who asked for a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// A person, who has said what is meant.
    ByPerson,
    /// Nobody: Kafka is back.
    ByItself,
}

/// The dead letters of one key, as they are looked at in the order of their places.
#[derive(Debug, Clone)]
pub struct Extent {
    asked: Asked,
    meant: u64,
    seen: u64,
    /// Publish so many, up to this place.
    publish: u64,
    upto: Option<Place>,
    /// Something with a failure of its own lies behind `upto`.
    blocked: bool,
    /// Something that waits for a person: nothing at or behind it is published.
    stopped: bool,
}

/// What a replay does with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// How many dead letters are meant.
    pub meant: u64,
    /// How many are published: the meant ones, and what their order needs.
    pub publish: u64,
    /// The last of them.
    pub upto: Place,
    /// Whether it is the last of the key, so that what joins meanwhile is published too.
    pub whole: bool,
}

impl Extent {
    /// Nothing has been looked at.
    pub fn new(asked: Asked) -> Self {
        Self {
            asked,
            meant: 0,
            seen: 0,
            publish: 0,
            upto: None,
            blocked: false,
            stopped: false,
        }
    }

    /// Looks at the next dead letter of the key, one whose key is parked.
    pub fn look(&mut self, letter: &DeadLetter, is_meant: bool) {
        self.seen += 1;
        if self.asked == Asked::ByItself && !letter.reason.is_replayed_by_itself() {
            self.stopped = true;
        }
        if self.stopped {
            return;
        }
        let joins = letter.reason == Reason::Parked && self.upto.is_some() && !self.blocked;
        if is_meant {
            self.meant += 1;
            self.blocked = false;
        } else if !joins {
            self.blocked |= letter.reason != Reason::Parked;
            return;
        }
        self.publish = self.seen;
        self.upto = Some(letter.place.clone());
    }

    /// What to do with the key; `None` if nothing of it is meant.
    pub fn decide(self) -> Option<Decision> {
        Some(Decision {
            meant: self.meant,
            publish: self.publish,
            upto: self.upto?,
            whole: self.publish == self.seen,
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use scylla::value::CqlTimeuuid;
    use scylla_cdc::cdc_types::StreamID;

    use super::*;
    use crate::dead_letters::Label;
    use crate::event::Position;

    fn letter(seq: i32, reason: Reason) -> DeadLetter {
        DeadLetter {
            table: "shop.outbox".into(),
            key: Bytes::from_static(b"k"),
            place: Place {
                position: Position {
                    time: CqlTimeuuid::nil(),
                    seq,
                },
                stream: StreamID::new(vec![1]),
            },
            label: Label::default(),
            reason,
            failure: None,
            parks: true,
            record: None,
            row: None,
            first_failed_millis: 0,
            last_failed_millis: 0,
            stamp: 0,
            put_at: 0,
        }
    }

    /// Reasons by their first letters, a capital for those that are meant; what comes out: how
    /// many are meant, how many published, and whether that is all.
    fn decide(asked: Asked, letters: &str) -> Option<(u64, u64, bool)> {
        let mut extent = Extent::new(asked);
        for (seq, c) in letters.chars().enumerate() {
            let reason = match c.to_ascii_lowercase() {
                'e' => Reason::Exhausted,
                'f' => Reason::Permanent,
                'u' => Reason::Undecodable,
                _ => Reason::Parked,
            };
            extent.look(&letter(seq as i32, reason), c.is_ascii_uppercase());
        }
        let decision = extent.decide()?;
        assert_eq!(decision.upto.position.seq as u64 + 1, decision.publish);
        Some((decision.meant, decision.publish, decision.whole))
    }

    #[test]
    fn a_person_gets_what_is_meant_and_what_its_order_needs() {
        for (letters, expected) in [
            ("fpp", None),
            ("Fpp", Some((1, 3, true))),
            ("eFpp", Some((1, 4, true))),
            ("Eppfpp", Some((1, 3, false))),
            ("EppfPp", Some((2, 6, true))),
            ("ffpF", Some((1, 4, true))),
            ("FPPE", Some((4, 4, true))),
        ] {
            assert_eq!(decide(Asked::ByPerson, letters), expected, "{letters}");
        }
    }

    #[test]
    fn without_a_person_nothing_passes_what_waits_for_one() {
        for (letters, expected) in [
            ("Epp", Some((1, 3, true))),
            ("EppfE", Some((1, 3, false))),
            ("fpE", None),
            ("uE", None),
            ("EpEp", Some((2, 4, true))),
        ] {
            assert_eq!(decide(Asked::ByItself, letters), expected, "{letters}");
        }
    }
}
