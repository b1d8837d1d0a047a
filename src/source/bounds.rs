//! Exact bounds of reads: microseconds to the first and the last timeuuid that carry them.
//!
//! `minTimeuuid()` and `maxTimeuuid()` of CQL know milliseconds only, while the log's times have
//! microseconds (ten ticks of 100 ns, of which the server uses the low bits for ties), so the
//! bounds are built here. ScyllaDB compares the low eight bytes of a timeuuid as signed bytes:
//! `0x80` is the smallest and `0x7f` the largest.

use scylla::value::CqlTimeuuid;

use crate::event::UUID_EPOCH_OFFSET;

const LAST_TICK: u64 = (1 << 60) - 1;

/// The smallest timeuuid of a microsecond since the Unix epoch.
pub fn first_timeuuid(micros: i64) -> CqlTimeuuid {
    timeuuid(ticks(micros), [0x80; 8])
}

/// The largest timeuuid of a microsecond since the Unix epoch.
pub fn last_timeuuid(micros: i64) -> CqlTimeuuid {
    timeuuid(ticks(micros).saturating_add(9), [0x7f; 8])
}

/// The timeuuid made from a tick count of 100 ns since 1582-10-15 and the low eight bytes.
pub fn timeuuid(ticks: u64, low: [u8; 8]) -> CqlTimeuuid {
    let ticks = ticks.min(LAST_TICK);
    CqlTimeuuid::from_fields(
        ticks as u32,
        (ticks >> 32) as u16,
        ((ticks >> 48) as u16 & 0x0fff) | 0x1000,
        &low,
    )
}

/// The tick count of 100 ns since 1582-10-15 that a timeuuid carries.
pub fn timeuuid_ticks(time: CqlTimeuuid) -> u64 {
    let (low, mid, high, _) = time.as_fields();
    (u64::from(high & 0x0fff) << 48) | (u64::from(mid) << 32) | u64::from(low)
}

/// Ticks of the first 100 ns of a microsecond; clamped to what a timeuuid can carry.
fn ticks(micros: i64) -> u64 {
    let ticks = i128::from(micros) * 10 + i128::from(UUID_EPOCH_OFFSET);
    u64::try_from(ticks.max(0))
        .unwrap_or(LAST_TICK)
        .min(LAST_TICK)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::timeuuid_micros;

    proptest! {
        #[test]
        fn every_uuid_of_a_microsecond_lies_between_its_bounds(
            micros in 0..4_000_000_000_000_000_i64,
            tick in 0..10_u64,
            low in any::<[u8; 8]>(),
        ) {
            let uuid = timeuuid(ticks(micros) + tick, low);
            prop_assert_eq!(timeuuid_micros(uuid), micros);
            prop_assert!(first_timeuuid(micros) <= uuid && uuid <= last_timeuuid(micros));
            prop_assert!(last_timeuuid(micros - 1) < uuid && uuid < first_timeuuid(micros + 1));
            prop_assert_eq!(timeuuid(timeuuid_ticks(uuid), low), uuid);
        }
    }

    #[test]
    fn bounds_beyond_the_range_are_clamped() {
        assert!(last_timeuuid(i64::MAX) > last_timeuuid(4_000_000_000_000_000));
        assert!(first_timeuuid(i64::MIN) < first_timeuuid(0));
    }
}
