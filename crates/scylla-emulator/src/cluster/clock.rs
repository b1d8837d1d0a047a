//! The emulator's clock: real time plus an offset that tests can set.
//!
//! Invariants
//! 1. `unique_micros` is strictly increasing over all threads, also when the clock is set back: then it goes on by
//!    one microsecond a call until the clock has caught up, unless [`ClockHandle::set`] or
//!    [`ClockHandle::skew`] was called, which start afresh.
//! 2. Setting the clock moves time for everything in the emulator: timestamps, TTLs, generations.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A handle to the clock; copies share it.
#[derive(Debug, Clone, Default)]
pub struct ClockHandle(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    offset_micros: AtomicI64,
    last_micros: AtomicI64,
}

impl ClockHandle {
    /// A clock that shows real time.
    pub fn new() -> Self {
        Self::default()
    }

    /// Microseconds since the epoch.
    pub fn now_micros(&self) -> i64 {
        real_micros().saturating_add(self.0.offset_micros.load(Ordering::Relaxed))
    }

    /// Microseconds since the epoch, never the same twice.
    pub fn unique_micros(&self) -> i64 {
        let now = self.now_micros();
        let last = &self.0.last_micros;
        let before = last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
            Some(now.max(last.saturating_add(1)))
        });
        now.max(before.unwrap_or(0).saturating_add(1))
    }

    /// Makes the clock show `micros` now; it runs on from there.
    pub fn set(&self, micros: i64) {
        self.0
            .offset_micros
            .store(micros.saturating_sub(real_micros()), Ordering::Relaxed);
        self.0.last_micros.store(0, Ordering::Relaxed);
    }

    /// Makes the clock differ from the real time by so many microseconds.
    pub fn skew(&self, micros: i64) {
        self.0.offset_micros.store(micros, Ordering::Relaxed);
        self.0.last_micros.store(0, Ordering::Relaxed);
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        let by = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        self.0.offset_micros.fetch_add(by, Ordering::Relaxed);
    }
}

fn real_micros() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unique_micros_increase_strictly() {
        let clock = ClockHandle::new();
        let mut last = 0;
        for _ in 0..10_000 {
            let next = clock.unique_micros();
            assert!(next > last);
            last = next;
        }
    }

    #[test]
    fn the_clock_can_be_set_and_advanced() {
        let clock = ClockHandle::new();
        clock.set(1_000_000);
        assert!((1_000_000..60_000_000).contains(&clock.now_micros()));
        clock.advance(Duration::from_hours(1));
        assert!((3_601_000_000..3_661_000_000).contains(&clock.now_micros()));
    }
}
