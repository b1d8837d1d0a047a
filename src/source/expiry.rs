//! Whether rows of the log can expire before they are published.
//!
//! The log keeps its rows for a time (its TTL). What lies above W has to be read before that: a row
//! that has expired leaves no trace. Pure: the time is an argument.

use std::time::Duration;

/// How W stands to the TTL of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// There is time enough.
    Far,
    /// More than half of the time has passed: this much is left.
    Near(Duration),
    /// Rows above W may be gone already.
    Past,
}

/// How a watermark (microseconds since the Unix epoch) stands at `now` to a log that keeps its rows
/// for `ttl`; zero is for ever.
pub fn judge(watermark: i64, now: i64, ttl: Duration) -> Expiry {
    if ttl.is_zero() {
        return Expiry::Far;
    }
    let age = Duration::from_micros(u64::try_from(now.saturating_sub(watermark)).unwrap_or(0));
    match ttl.checked_sub(age) {
        None | Some(Duration::ZERO) => Expiry::Past,
        Some(left) if left < ttl / 2 => Expiry::Near(left),
        Some(_) => Expiry::Far,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_time_is_far_enough() {
        let ttl = Duration::from_secs(100);
        let at = |age: i64| judge(1_000_000_000, 1_000_000_000 + age * 1_000_000, ttl);
        assert_eq!(at(-5), Expiry::Far, "a clock that is ahead");
        assert_eq!(at(50), Expiry::Far);
        assert_eq!(at(51), Expiry::Near(Duration::from_secs(49)));
        assert_eq!(at(99), Expiry::Near(Duration::from_secs(1)));
        assert_eq!(at(100), Expiry::Past);
        assert_eq!(judge(0, i64::MAX, Duration::ZERO), Expiry::Far, "no TTL");
    }
}
