//! How late rows have appeared in the log of one table, as a histogram.

use std::fmt;

use super::histogram::{self, Histogram};

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
#[derive(Debug)]
pub struct Lateness(Histogram);

impl Default for Lateness {
    fn default() -> Self {
        Self(Histogram::new(&BOUNDS))
    }
}

impl Lateness {
    /// Counts a row that was first seen so many microseconds after its write.
    pub fn add(&self, micros: i64) {
        self.0.add(micros);
    }

    /// The present counts.
    pub fn counts(&self) -> Counts {
        Counts(self.0.counts())
    }
}

/// What a histogram holds at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts(pub histogram::Counts);

impl Counts {
    /// Whether no row was late.
    pub fn is_empty(&self) -> bool {
        self.0.count() == 0
    }
}

/// The buckets that are not empty, as they stand in the log.
impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bounds = BOUNDS.iter().map(Some).chain([None]);
        let filled = self.0.buckets.iter().zip(bounds).filter(|(n, _)| **n > 0);
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
    fn rows_are_told_by_their_lateness() {
        let lateness = Lateness::default();
        assert!(lateness.counts().is_empty());
        for micros in [-5, 100_000, 100_001, 170_000_000, 4_000_000_000] {
            lateness.add(micros);
        }
        let counts = lateness.counts();
        assert_eq!(counts.to_string(), "≤100ms=2 ≤500ms=1 ≤180000ms=1 later=1");
        assert_eq!(counts.0.sum_micros, 4_170_200_001);
    }
}
