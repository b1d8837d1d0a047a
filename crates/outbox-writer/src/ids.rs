//! Event ids: time-ordered, never equal, and sorting in the order in which they were made.
//!
//! Invariants:
//! 1. Ids of one process strictly increase in ScyllaDB's own order: for a `timeuuid` the 60-bit
//!    time, then the low eight bytes as *signed* bytes; for a `uuid` of version 7 the bytes.
//! 2. Ids of two processes differ: each process draws 46 random bits (clock sequence and node)
//!    once, version 7 draws anew for every id.
//!
//! Why: ScyllaDB logs the rows of one partition in a batch in clustering order, whatever the order
//! of the statements, so the ids decide the order in which events of one aggregate are published;
//! and the same row written twice in one batch is one log row, so a shared id would lose an event.

use crate::clock::{self, Clock};
use scylla::value::CqlTimeuuid;
use std::cmp::Ordering;
use std::sync::OnceLock;
use uuid::Uuid;

/// 100 ns units between 1582-10-15, the epoch of version 1 UUIDs, and 1970-01-01.
const GREGORIAN_OFFSET: i64 = 0x01B2_1DD2_1381_4000;

/// What the id column can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IdKind {
    /// `timeuuid`: version 1 only.
    Timeuuid,
    /// `uuid`: any version; generated ids are of version 7.
    Uuid,
    /// Text: as for `uuid`, in another order.
    Text,
}

impl IdKind {
    /// A new id that sorts after every earlier one of this process.
    pub(crate) fn generate(self) -> Uuid {
        match self {
            Self::Timeuuid => timeuuid(),
            Self::Uuid | Self::Text => Uuid::now_v7(),
        }
    }

    /// Whether the column takes `id`.
    pub(crate) fn accepts(self, id: Uuid) -> bool {
        match self {
            Self::Timeuuid => id.get_version_num() == 1,
            Self::Uuid | Self::Text => true,
        }
    }

    /// The order of two ids as clustering keys.
    pub(crate) fn compare(self, a: Uuid, b: Uuid) -> Ordering {
        match self {
            Self::Timeuuid => CqlTimeuuid::from(a).cmp(&CqlTimeuuid::from(b)),
            // ScyllaDB sorts a `uuid` by version first, then by its bytes; of version 1 by the time
            // and then by the low bytes, which are unsigned here.
            Self::Uuid => a.get_version_num().cmp(&b.get_version_num()).then_with(|| {
                let (time, low) = (
                    ticks(a).cmp(&ticks(b)),
                    a.as_bytes()[8..].cmp(&b.as_bytes()[8..]),
                );
                match a.get_version_num() {
                    1 => time.then(low),
                    _ => a.as_bytes().cmp(b.as_bytes()),
                }
            }),
            // The text of a UUID is its bytes in hexadecimal.
            Self::Text => a.as_bytes().cmp(b.as_bytes()),
        }
    }
}

/// The 60-bit time of a version 1 UUID.
fn ticks(id: Uuid) -> u64 {
    let (low, mid, high, _) = id.as_fields();
    (u64::from(high & 0x0fff) << 48) | (u64::from(mid) << 32) | u64::from(low)
}

/// A version 1 UUID whose time is later than that of every earlier one of this process.
///
/// The time follows the system clock in units of 100 ns; more than ten million ids a second, or a
/// clock that is set back, make it run ahead of the system clock instead of repeating.
pub fn timeuuid() -> Uuid {
    static CLOCK: Clock = Clock::new();
    static PROCESS: OnceLock<[u8; 8]> = OnceLock::new();
    let now = (clock::unix_nanos() / 100) as i64 + GREGORIAN_OFFSET;
    let low = PROCESS.get_or_init(|| low_bytes(Uuid::new_v4()));
    assemble(CLOCK.reading(now), *low)
}

/// Clock sequence and node of this process, from a random UUID.
fn low_bytes(random: Uuid) -> [u8; 8] {
    let mut low = [0; 8];
    low.copy_from_slice(&random.as_bytes()[8..]);
    // A version 4 UUID has the variant bits in place. The multicast bit marks a node id that is
    // no network card's address (RFC 9562, 6.10).
    low[2] |= 0x01;
    low
}

fn assemble(ticks: i64, low: [u8; 8]) -> Uuid {
    let ticks = ticks as u64;
    let version_1 = 0x1000 | (ticks >> 48) as u16 & 0x0fff;
    Uuid::from_fields(ticks as u32, (ticks >> 32) as u16, version_1, &low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn ascending(kind: IdKind, ids: &[Uuid]) -> bool {
        ids.windows(2)
            .all(|pair| kind.compare(pair[0], pair[1]) == Ordering::Less)
    }

    #[test]
    fn ids_are_made_in_the_order_of_their_kind() {
        for kind in [IdKind::Timeuuid, IdKind::Uuid, IdKind::Text] {
            let ids: Vec<Uuid> = (0..10_000).map(|_| kind.generate()).collect();
            assert!(ascending(kind, &ids), "{kind:?}");
            assert!(ids.iter().all(|id| kind.accepts(*id)), "{kind:?}");
        }
    }

    #[test]
    fn each_kind_has_the_order_of_its_column() {
        let with_low = |first: u8| assemble(1 << 50, [first, 0, 0, 0, 0, 0, 0, 0]);
        let (small, large) = (with_low(0x7f), with_low(0x80));
        assert_eq!(IdKind::Timeuuid.compare(small, large), Ordering::Greater);
        assert_eq!(IdKind::Uuid.compare(small, large), Ordering::Less);
        // The time of version 1 begins with its low bits, so its text is not in the order of time.
        let (early, late) = (
            assemble(0xffff_ffff, [0x80; 8]),
            assemble(0x1_0000_0000, [0x80; 8]),
        );
        assert_eq!(IdKind::Uuid.compare(early, late), Ordering::Less);
        assert_eq!(IdKind::Text.compare(early, late), Ordering::Greater);
    }

    #[test]
    fn threads_never_share_an_id() {
        let ids: Vec<Uuid> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..2_000).map(|_| timeuuid()).collect::<Vec<_>>()))
                .collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().expect("a thread panicked"))
                .collect()
        });
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
    }

    #[test]
    fn a_timeuuid_carries_the_time() {
        let before = clock::unix_nanos();
        let id = timeuuid();
        let (seconds, nanos) = id.get_timestamp().expect("version 1").to_unix();
        let time = u128::from(seconds) * 1_000_000_000 + u128::from(nanos);
        assert!(time + 100 > before, "the id is older than its making");
        assert_eq!(id.get_variant(), uuid::Variant::RFC4122);
        assert_eq!(id.get_version_num(), 1);
    }

    proptest! {
        #[test]
        fn later_ticks_sort_later_whatever_the_low_bytes(
            earlier in 0i64..1 << 60,
            step in 1i64..1 << 40,
            low_a in any::<u128>(),
            low_b in any::<u128>(),
        ) {
            prop_assume!(earlier + step < 1 << 60);
            let a = assemble(earlier, low_bytes(uuid::Builder::from_random_bytes(low_a.to_be_bytes()).into_uuid()));
            let b = assemble(earlier + step, low_bytes(uuid::Builder::from_random_bytes(low_b.to_be_bytes()).into_uuid()));
            prop_assert_eq!(IdKind::Timeuuid.compare(a, b), Ordering::Less);
            prop_assert_eq!(IdKind::Uuid.compare(a, b), Ordering::Less);
            prop_assert_eq!(a.get_version_num(), 1);
        }
    }
}
