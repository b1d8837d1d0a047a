//! Histograms that tasks fill and others read.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts amounts of microseconds by buckets.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [i64],
    /// One for each bound, and one for what is above all.
    buckets: Box<[AtomicU64]>,
    sum_micros: AtomicU64,
}

/// What a histogram holds at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Upper bounds of the buckets in microseconds, inclusive and rising.
    pub bounds: &'static [i64],
    /// Amounts in each bucket, not summed up; the last one has no upper bound.
    pub buckets: Vec<u64>,
    /// Sum of all amounts in microseconds.
    pub sum_micros: u64,
}

impl Histogram {
    /// An empty one with these rising upper bounds in microseconds.
    pub fn new(bounds: &'static [i64]) -> Self {
        Self {
            bounds,
            buckets: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum_micros: AtomicU64::new(0),
        }
    }

    /// Counts so many microseconds. Less than none, when clocks differ, is none.
    pub fn add(&self, micros: i64) {
        let bucket = self.bounds.partition_point(|bound| *bound < micros);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(micros).unwrap_or(0);
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// The present counts.
    pub fn counts(&self) -> Counts {
        let load = |bucket: &AtomicU64| bucket.load(Ordering::Relaxed);
        Counts {
            bounds: self.bounds,
            buckets: self.buckets.iter().map(load).collect(),
            sum_micros: self.sum_micros.load(Ordering::Relaxed),
        }
    }
}

impl Counts {
    /// How many amounts there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// What has come since `earlier`, counts of the same histogram.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let pairs = self.buckets.iter().zip(&earlier.buckets);
        Self {
            bounds: self.bounds,
            buckets: pairs.map(|(now, then)| now.saturating_sub(*then)).collect(),
            sum_micros: self.sum_micros.saturating_sub(earlier.sum_micros),
        }
    }

    /// The amount in microseconds that a share of all amounts (0 to 1) does not exceed, as far as
    /// buckets can tell: evenly spread inside each; above the last bound it is that bound. `None`
    /// without amounts.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let total = self.count();
        if total == 0 {
            return None;
        }
        let rank = share.clamp(0.0, 1.0) * total as f64;
        let (mut below, mut lower) = (0.0, 0.0);
        for (bucket, bound) in self.buckets.iter().zip(self.bounds) {
            let (inside, upper) = (*bucket as f64, *bound as f64);
            if inside > 0.0 && below + inside >= rank {
                let part = ((rank - below) / inside).clamp(0.0, 1.0);
                return Some(lower + (upper - lower) * part);
            }
            below += inside;
            lower = upper;
        }
        Some(lower)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: [i64; 3] = [10, 100, 1_000];

    #[test]
    fn amounts_are_counted_by_bucket() {
        let histogram = Histogram::new(&BOUNDS);
        for micros in [-5, 0, 10, 11, 100, 5_000] {
            histogram.add(micros);
        }
        let counts = histogram.counts();
        assert_eq!(counts.buckets, [3, 2, 0, 1]);
        assert_eq!(counts.sum_micros, 5_121);
        assert_eq!(counts.count(), 6);
    }

    #[test]
    fn a_quantile_lies_in_the_bucket_of_its_rank() {
        let histogram = Histogram::new(&BOUNDS);
        assert_eq!(histogram.counts().quantile(0.5), None);
        for _ in 0..10 {
            histogram.add(50);
        }
        let half = histogram.counts().quantile(0.5).expect("some");
        assert!((half - 55.0).abs() < 1e-9, "{half}");
        histogram.add(1_000_000);
        assert_eq!(histogram.counts().quantile(1.0), Some(1_000.0));
    }

    #[test]
    fn only_what_is_new_is_left_of_a_difference() {
        let histogram = Histogram::new(&BOUNDS);
        histogram.add(5);
        let earlier = histogram.counts();
        histogram.add(50);
        let new = histogram.counts().since(&earlier);
        assert_eq!((new.buckets, new.sum_micros), (vec![0, 1, 0, 0], 50));
    }
}
