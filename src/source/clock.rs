//! The time that sources work with.
//!
//! A watermark that follows a clock which has jumped ahead would pass rows that are still to come,
//! so the clock is distrusted in that direction. Invariants:
//!
//! 1. [`Moment::ticks`] never goes back.
//! 2. [`Moment::wall`] is never ahead of the system's clock, and after a jump ahead it gains at
//!    most a tenth on real time until the jump has lasted [`BELIEVE_AFTER_MICROS`].

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::follower::Moment;

/// How long the system's clock must have been ahead before it is believed.
pub const BELIEVE_AFTER_MICROS: i64 = 60_000_000;
/// Differences up to this are no jump.
const TOLERANCE_MICROS: i64 = 1_000_000;

/// The pure part: decides which wall time to use.
#[derive(Debug, Clone, Default)]
pub struct Careful {
    last: Option<Moment>,
    ahead_since: Option<i64>,
}

impl Careful {
    /// The moment to work with when the system's clock shows `system` microseconds since the Unix
    /// epoch, and `ticks` microseconds have passed since any fixed origin.
    pub fn at(&mut self, system: i64, ticks: i64) -> Moment {
        let Some(last) = self.last else {
            return self.use_wall(system, ticks);
        };
        let ticks = ticks.max(last.ticks);
        let step = ticks - last.ticks;
        let expected = last.wall + step + step / 10;
        let ahead = system > expected.saturating_add(TOLERANCE_MICROS);
        if !ahead {
            self.ahead_since = None;
            return self.use_wall(system, ticks);
        }
        let since = *self.ahead_since.get_or_insert(ticks);
        if ticks - since >= BELIEVE_AFTER_MICROS {
            self.ahead_since = None;
            return self.use_wall(system, ticks);
        }
        self.use_wall(expected, ticks)
    }

    fn use_wall(&mut self, wall: i64, ticks: i64) -> Moment {
        let moment = Moment { wall, ticks };
        self.last = Some(moment);
        moment
    }
}

/// The clock of a relay, shared by its sources.
#[derive(Debug)]
pub struct Clock {
    source: Source,
    careful: Mutex<Careful>,
}

#[derive(Debug)]
enum Source {
    /// The machine's clocks; ticks count from here.
    Machine(Instant),
    /// Whoever sets them: system time and ticks.
    Hand([AtomicI64; 2]),
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            source: Source::Machine(Instant::now()),
            careful: Mutex::default(),
        }
    }
}

impl Clock {
    /// A clock that stands still until it is [set](Clock::set).
    pub fn by_hand() -> Self {
        Self {
            source: Source::Hand(Default::default()),
            careful: Mutex::default(),
        }
    }

    /// What the system's clock shows, microseconds since the Unix epoch, and the ticks. A clock of the
    /// machine cannot be set.
    pub fn set(&self, system: i64, ticks: i64) {
        if let Source::Hand(set) = &self.source {
            set[0].store(system, Ordering::Relaxed);
            set[1].store(ticks, Ordering::Relaxed);
        }
    }

    /// The present moment.
    pub fn now(&self) -> Moment {
        let (system, ticks) = match &self.source {
            Source::Machine(start) => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH);
                let system = since.map_or(0, |since| since.as_micros() as i64);
                (system, start.elapsed().as_micros() as i64)
            }
            Source::Hand([system, ticks]) => (
                system.load(Ordering::Relaxed),
                ticks.load(Ordering::Relaxed),
            ),
        };
        let mut careful = self.careful.lock().unwrap_or_else(PoisonError::into_inner);
        careful.at(system, ticks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    #[test]
    fn a_jump_ahead_is_believed_only_after_a_while() {
        let mut clock = Careful::default();
        let start = 1_000 * SECOND;
        assert_eq!(clock.at(start, 0).wall, start);
        assert_eq!(clock.at(start + SECOND, SECOND).wall, start + SECOND);
        let jumped = |s: i64| start + (3_600 + s) * SECOND;
        for s in 2..=61 {
            let now = clock.at(jumped(s), s * SECOND).wall;
            assert!(now < start + s * SECOND + 10 * SECOND, "at {s}");
        }
        assert_eq!(clock.at(jumped(62), 62 * SECOND).wall, jumped(62));
    }

    #[test]
    fn a_jump_back_is_followed_at_once() {
        let mut clock = Careful::default();
        clock.at(1_000 * SECOND, 0);
        let now = clock.at(940 * SECOND, SECOND);
        assert_eq!((now.wall, now.ticks), (940 * SECOND, SECOND));
    }

    #[test]
    fn a_short_jump_ahead_leaves_no_trace() {
        let mut clock = Careful::default();
        clock.at(1_000 * SECOND, 0);
        clock.at(1_061 * SECOND, SECOND);
        assert_eq!(clock.at(1_002 * SECOND, 2 * SECOND).wall, 1_002 * SECOND);
    }
}
