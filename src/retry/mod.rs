//! How long to wait after an attempt that failed.
//!
//! Owns the schedule of delays, and is the only module that knows the `backoff` crate, which
//! generates the delays and nothing else: it neither sleeps, nor reads a clock, nor draws
//! random numbers for us. Invariants:
//!
//! 1. The delay after the n-th failure depends on n and the configuration alone.
//! 2. Delays never shrink and never exceed `retry.max_backoff`; the last one repeats, so an
//!    event is attempted until it succeeds.
//!
//! Deliberately absent: counting attempts (the lane does), waiting (the pipeline does), and
//! giving up.

pub mod breaker;

use std::time::{Duration, Instant};

use backoff::Clock;
use backoff::backoff::Backoff;
use backoff::exponential::ExponentialBackoff;

use crate::config;

/// Delays kept at most. A multiplier so close to 1 that it needs more stops growing here.
const MAX_DELAYS: usize = 256;

/// The delays between attempts of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    delays: Vec<Duration>,
}

/// A clock that stands still: the generator asks for the time, and nothing follows from it.
#[derive(Debug, Clone, Copy)]
struct Frozen(Instant);

impl Clock for Frozen {
    fn now(&self) -> Instant {
        self.0
    }
}

impl Policy {
    /// The schedule that the configuration asks for: `initial_backoff`, then each delay
    /// `multiplier` times the one before, up to `max_backoff`.
    pub fn new(config: &config::Retry) -> Self {
        let start = Instant::now();
        let initial = config.initial_backoff.min(config.max_backoff);
        let mut generator = ExponentialBackoff {
            current_interval: initial,
            initial_interval: initial,
            randomization_factor: 0.0,
            multiplier: config.multiplier.max(1.0),
            max_interval: config.max_backoff,
            start_time: start,
            max_elapsed_time: None,
            clock: Frozen(start),
        };
        let mut delays: Vec<Duration> = Vec::new();
        while delays.len() < MAX_DELAYS {
            let Some(delay) = generator.next_backoff().map(whole_micros) else {
                break;
            };
            if delays.last() == Some(&delay) {
                break;
            }
            delays.push(delay);
        }
        Self { delays }
    }

    /// The delay after `failures` failed attempts; none before the first failure.
    pub fn delay_after(&self, failures: u32) -> Duration {
        let Some(index) = (failures as usize).checked_sub(1) else {
            return Duration::ZERO;
        };
        let last = self.delays.len().saturating_sub(1);
        self.delays
            .get(index.min(last))
            .copied()
            .unwrap_or(Duration::ZERO)
    }
}

/// The generator computes in floating point nanoseconds; their rounding is of no use to anybody.
fn whole_micros(delay: Duration) -> Duration {
    Duration::from_micros(u64::try_from(delay.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(initial: u64, multiplier: f64, max: u64) -> Policy {
        Policy::new(&config::Retry {
            initial_backoff: Duration::from_millis(initial),
            multiplier,
            max_backoff: Duration::from_millis(max),
            attempt_timeout: Duration::from_secs(5),
            max_attempts: std::num::NonZeroU32::MIN,
            on_exhausted: config::OnExhausted::Hold,
        })
    }

    fn millis(policy: &Policy, failures: u32) -> u128 {
        policy.delay_after(failures).as_millis()
    }

    #[test]
    fn delays_double_up_to_the_cap_and_the_last_one_repeats() {
        let policy = policy(100, 2.0, 500);
        let delays: Vec<u128> = (0..8).map(|n| millis(&policy, n)).collect();
        assert_eq!(delays, [0, 100, 200, 400, 500, 500, 500, 500]);
        assert_eq!(millis(&policy, u32::MAX), 500);
    }

    #[test]
    fn a_multiplier_of_one_keeps_the_delay() {
        let policy = policy(70, 1.0, 500);
        assert_eq!([1, 2, 99].map(|n| millis(&policy, n)), [70, 70, 70]);
    }

    #[test]
    fn an_initial_delay_above_the_cap_is_the_cap() {
        let policy = policy(900, 2.0, 500);
        assert_eq!([1, 2].map(|n| millis(&policy, n)), [500, 500]);
    }

    #[test]
    fn hours_do_not_drift() {
        let policy = policy(3_600_000, 3.0, 86_400_000);
        assert_eq!(
            [1, 2, 3, 4, 5].map(|n| policy.delay_after(n).as_secs()),
            [3600, 10_800, 32_400, 86_400, 86_400]
        );
    }
}
