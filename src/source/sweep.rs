//! Which old stretches of the log are compared with what was published of them, and when.
//!
//! W does not wait for ever: rows may appear at or before it. A sweep reads ids of older stretches and
//! compares them with the windows that were saved. Pure. Invariants:
//!
//! 1. Every moment later than the first start, not later than what is saved of the group, and younger
//!    than [`oldest`] lies in one range of a pass that reaches so far.
//! 2. A pass reaches twice as far as the pass before it on every second pass, four times as far on every
//!    fourth and so on: a row that appears *d* after its time is found when its age is about 2 *d*, and
//!    the work is the same for each doubling.

use std::time::Duration;

use crate::ack::summary::Summary;
use crate::checkpoint::Window;
use crate::event::RowKey;

/// Rows that are read at once, about: ranges are read together up to so many.
const ROWS_AT_ONCE: u64 = 8_192;

/// How far back pass number `pass` reaches from W, in microseconds, when each pass reaches at least
/// `base`. Passes count from 1.
pub fn reach(pass: u64, base: i64) -> i64 {
    let doublings = pass.trailing_zeros().min(20) + 1;
    base.saturating_mul(1 << doublings)
}

/// Microseconds since the Unix epoch before which rows may have expired, and are not looked at any more.
/// A `ttl` of zero is for ever.
pub fn oldest(now: i64, ttl: Duration) -> i64 {
    if ttl.is_zero() {
        return i64::MIN;
    }
    let ttl = i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX);
    // A tenth is left for clocks, compaction and the time that a pass takes.
    now.saturating_sub(ttl / 10 * 9)
}

/// Covers (`from`, `upto`] with the windows in which something was published and the gaps between them,
/// in order. A window that begins before `from` is left out.
pub fn ranges(windows: &[Window], from: i64, upto: i64) -> Vec<Window> {
    let mut ranges = Vec::new();
    let mut at = from;
    let gap = |begin, upto| Window {
        begin,
        upto,
        summary: Summary::default(),
    };
    for window in windows {
        if window.begin >= upto || window.upto > upto {
            // Not whole before `upto`: the rest is left to a later pass.
            if window.begin < upto && window.begin > at {
                ranges.push(gap(at, window.begin));
            }
            return ranges;
        }
        if window.begin < at {
            // It begins before `from`, or an earlier run that did not come to save its checkpoint has
            // left it behind.
            if ranges.is_empty() {
                at = at.max(window.upto);
            }
            continue;
        }
        if window.begin > at {
            ranges.push(gap(at, window.begin));
        }
        ranges.push(*window);
        at = window.upto;
    }
    if at < upto {
        ranges.push(gap(at, upto));
    }
    ranges
}

/// A range in which nothing was published and more than `most` rows were read is cut so that it has
/// about so many: the rows that are left out are found later. Another one stays as it is.
pub fn bounded(mut range: Window, rows: &mut Vec<RowKey>, most: usize) -> Window {
    if !range.summary.is_empty() || rows.len() <= most {
        return range;
    }
    rows.sort_unstable_by_key(|row| row.position);
    let last = rows[most - 1].position.micros();
    rows.retain(|row| row.position.micros() <= last);
    range.upto = last;
    range
}

/// The ranges in portions that are read at once.
pub fn portions(ranges: &[Window]) -> Vec<&[Window]> {
    let mut portions = Vec::new();
    let mut rest = ranges;
    while !rest.is_empty() {
        let mut rows = 0;
        let fits = rest.iter().take_while(|range| {
            rows += range.summary.count();
            rows <= ROWS_AT_ONCE
        });
        let (portion, left) = rest.split_at(fits.count().max(1));
        portions.push(portion);
        rest = left;
    }
    portions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Position;
    use crate::source::bounds::first_timeuuid;

    fn window(begin: i64, upto: i64, rows: u64) -> Window {
        Window {
            begin,
            upto,
            summary: (0..rows).collect(),
        }
    }

    #[test]
    fn each_doubling_is_reached_half_as_often() {
        let reached: Vec<i64> = (1..=8).map(|pass| reach(pass, 10)).collect();
        assert_eq!(reached, [20, 40, 20, 80, 20, 40, 20, 160]);
        assert!(reach(1 << 60, i64::MAX / 2) > 0);
    }

    #[test]
    fn ranges_cover_everything_once() {
        let windows = [window(10, 20, 1), window(30, 40, 2), window(40, 50, 3)];
        assert_eq!(
            ranges(&windows, 0, 60),
            [
                window(0, 10, 0),
                windows[0],
                window(20, 30, 0),
                windows[1],
                windows[2],
                window(50, 60, 0),
            ]
        );
        // From inside a window, and up to inside another: neither is compared.
        assert_eq!(ranges(&windows, 15, 45), [window(20, 30, 0), windows[1]]);
    }

    #[test]
    fn what_a_crash_has_left_behind_is_passed_over() {
        // The checkpoint after (10, 20] was not saved: a later run has made (10, 25] and (25, 40].
        let windows = [window(10, 25, 2), window(20, 30, 1), window(25, 40, 1)];
        assert_eq!(ranges(&windows, 10, 40), [windows[0], windows[2]]);
    }

    #[test]
    fn a_gap_with_very_many_rows_is_cut_between_two_times() {
        let row = |micros: i64, seq| RowKey {
            stream: 0,
            position: Position {
                time: first_timeuuid(micros),
                seq,
            },
        };
        let all: Vec<RowKey> = (0..30).rev().map(|n| row(1 + n / 4, n as i32)).collect();
        let mut rows = all.clone();
        let cut = bounded(window(0, 100, 0), &mut rows, 10);
        // The third microsecond is whole.
        assert_eq!((cut, rows.len()), (window(0, 3, 0), 12));
        let mut rows = all.clone();
        let whole = bounded(window(0, 100, 3), &mut rows, 10);
        assert_eq!((whole, rows.len()), (window(0, 100, 3), 30));
    }

    #[test]
    fn portions_are_bounded() {
        let ranges = [
            window(0, 1, 5_000),
            window(1, 2, 3_000),
            window(2, 3, 1_000),
            window(3, 4, 20_000),
            window(4, 5, 0),
        ];
        let sizes: Vec<usize> = portions(&ranges).iter().map(|p| p.len()).collect();
        assert_eq!(sizes, [2, 1, 1, 1]);
    }

    #[test]
    fn what_may_have_expired_is_not_looked_at() {
        assert_eq!(oldest(1_000, Duration::ZERO), i64::MIN);
        assert_eq!(oldest(100_000_000, Duration::from_secs(10)), 91_000_000);
    }
}
