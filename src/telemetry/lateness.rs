//! How late rows have appeared in the log of one table, as a histogram.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Upper bounds of the buckets in microseconds; what is later is in a last one without a bound.
pub const BOUNDS: [i64; 10] = [
    100_000,
    500_000,
    1_000_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    180_000_000,
    600_000_000,
    3_600_000_000,
];

/// Counts rows by the time between their write and their first sight.
#[derive(Debug, Default)]
pub struct Lateness {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum_micros: AtomicU64,
}

/// What a histogram holds at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Rows of each bucket; the last one has no upper bound.
    pub buckets: [u64; BOUNDS.len() + 1],
    /// Sum of all times in microseconds.
    pub sum_micros: u64,
}

impl Lateness {
    /// Counts a row that was first seen so many microseconds after its write. Less than none, when
    /// clocks differ, is none.
    pub fn add(&self, micros: i64) {
        let bucket = BOUNDS.partition_point(|bound| *bound < micros);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(micros).unwrap_or(0);
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// The present counts.
    pub fn counts(&self) -> Counts {
        Counts {
            buckets: self
                .buckets
                .each_ref()
                .map(|bucket| bucket.load(Ordering::Relaxed)),
            sum_micros: self.sum_micros.load(Ordering::Relaxed),
        }
    }
}

/// The buckets that are not empty, as they stand in the log.
impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bounds = BOUNDS.iter().map(Some).chain([None]);
        let filled = self.buckets.iter().zip(bounds).filter(|(n, _)| **n > 0);
        for (index, (count, bound)) in filled.enumerate() {
            let space = if index == 0 { "" } else { " " };
            match bound {
                Some(bound) => write!(f, "{space}≤{}ms={count}", bound / 1_000)?,
                None => write!(f, "{space}later={count}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_counted_by_their_lateness() {
        let lateness = Lateness::default();
        for micros in [-5, 100_000, 100_001, 170_000_000, 4_000_000_000] {
            lateness.add(micros);
        }
        let counts = lateness.counts();
        assert_eq!(counts.to_string(), "≤100ms=2 ≤500ms=1 ≤180000ms=1 later=1");
        assert_eq!(counts.sum_micros, 4_170_200_001);
    }
}
