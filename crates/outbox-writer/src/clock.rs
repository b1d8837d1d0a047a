//! Strictly increasing clocks of the process: batch timestamps and the time part of event ids.
//!
//! Invariants:
//! 1. Two readings of one clock never give the same value, on whatever threads they are taken.
//! 2. A reading is never below an earlier one, also when the system clock is set back; the clock
//!    then counts on by one unit a reading until the system clock has caught up.
//!
//! Not here: agreement between processes. ScyllaDB orders the writes of two processes by what
//! their clocks say, as it does for every client-side timestamp.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// A source of strictly increasing readings.
#[derive(Debug)]
pub(crate) struct Clock {
    last: AtomicI64,
}

impl Clock {
    pub(crate) const fn new() -> Self {
        Self {
            last: AtomicI64::new(i64::MIN),
        }
    }

    /// The later of `now` and the unit after the previous reading.
    pub(crate) fn reading(&self, now: i64) -> i64 {
        let mut last = self.last.load(Ordering::Relaxed);
        loop {
            let next = now.max(last.saturating_add(1));
            match self
                .last
                .compare_exchange_weak(last, next, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return next,
                Err(seen) => last = seen,
            }
        }
    }
}

/// Microseconds since the Unix epoch for the next batch of this process.
pub(crate) fn batch_timestamp() -> i64 {
    static CLOCK: Clock = Clock::new();
    CLOCK.reading((unix_nanos() / 1_000) as i64)
}

/// Milliseconds since the Unix epoch, as the system clock has it.
pub(crate) fn unix_millis() -> i64 {
    (unix_nanos() / 1_000_000) as i64
}

/// Nanoseconds since the Unix epoch; 0 for a system clock before it.
pub(crate) fn unix_nanos() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    proptest! {
        #[test]
        fn readings_strictly_increase(times in prop::collection::vec(any::<i32>(), 1..200)) {
            let clock = Clock::new();
            let mut last = None;
            for now in times {
                let reading = clock.reading(i64::from(now));
                prop_assert!(reading >= i64::from(now));
                prop_assert!(last.is_none_or(|last| reading > last));
                last = Some(reading);
            }
        }
    }

    #[test]
    fn follows_the_system_clock_again_once_it_has_caught_up() {
        let clock = Clock::new();
        assert_eq!(clock.reading(100), 100);
        assert_eq!(clock.reading(40), 101);
        assert_eq!(clock.reading(40), 102);
        assert_eq!(clock.reading(500), 500);
    }

    #[test]
    fn threads_share_one_clock() {
        let readings: Vec<i64> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..500).map(|_| batch_timestamp()).collect::<Vec<_>>()))
                .collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().expect("a thread panicked"))
                .collect()
        });
        let distinct: HashSet<_> = readings.iter().collect();
        assert_eq!(distinct.len(), readings.len());
    }
}
