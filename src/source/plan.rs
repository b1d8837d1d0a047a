//! In which order the generations of a table are read.
//!
//! Owns the barrier between generations. Invariants:
//!
//! 1. A generation is read only when every group of every earlier one is drained: it has been
//!    read by a read that started [`GRACE_MICROS`] after the generation's end or later, and all
//!    that was handed on is settled. So no row of a key overtakes an earlier one of it.
//! 2. A drained group is still followed until its watermark has passed the end plus the grace:
//!    rows that appear late in old streams are found. Then it is closed.
//! 3. Nothing becomes unread again: drained and closed groups stay so.
//!
//! It has no clock and does not know how groups are read.

use std::collections::BTreeMap;
use std::time::Duration;

/// How long after its end a generation may still get rows: a node whose clock is late, or that has
/// not heard of the new generation yet, writes to the old streams for a little longer.
pub const GRACE_MICROS: i64 = 5_000_000;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Stage {
    undrained: usize,
    unclosed: usize,
}

/// The generations that are read or will be, by timestamp in milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    stages: BTreeMap<i64, Stage>,
}

impl Plan {
    /// Adds a generation with `groups` groups, `closed` of which an earlier run has closed.
    /// Does nothing if the generation is known.
    pub fn add(&mut self, timestamp: i64, groups: usize, closed: usize) {
        let open = groups.saturating_sub(closed);
        self.stages.entry(timestamp).or_insert(Stage {
            undrained: open,
            unclosed: open,
        });
    }

    /// Whether the generation is known.
    pub fn knows(&self, timestamp: i64) -> bool {
        self.stages.contains_key(&timestamp)
    }

    /// Whether groups of this generation may be read now.
    pub fn may_read(&self, timestamp: i64) -> bool {
        let earlier = self.stages.range(..timestamp);
        self.knows(timestamp) && earlier.into_iter().all(|(_, stage)| stage.undrained == 0)
    }

    /// The time (microseconds) that reads of this generation have to reach before it counts as
    /// drained or closed; `None` while it is the newest one.
    pub fn boundary(&self, timestamp: i64) -> Option<i64> {
        let (next, _) = self.stages.range(timestamp.saturating_add(1)..).next()?;
        Some(next.saturating_mul(1_000).saturating_add(GRACE_MICROS))
    }

    /// One more group of this generation is drained. The caller reports each group once.
    pub fn drained(&mut self, timestamp: i64) {
        if let Some(stage) = self.stages.get_mut(&timestamp) {
            stage.undrained = stage.undrained.saturating_sub(1);
        }
    }

    /// One more group of this generation is closed. The caller reports each group once.
    pub fn closed(&mut self, timestamp: i64) {
        if let Some(stage) = self.stages.get_mut(&timestamp) {
            stage.unclosed = stage.unclosed.saturating_sub(1);
        }
    }

    /// Whether all groups of this generation are closed.
    pub fn is_closed(&self, timestamp: i64) -> bool {
        self.stages
            .get(&timestamp)
            .is_some_and(|stage| stage.unclosed == 0)
    }
}

/// Which of the listed generations (milliseconds, oldest first) can still hold rows that have to
/// be read: those that end after `start` (microseconds), the relay's first start, and whose rows
/// have not expired at `now`. A `log_ttl` of zero is for ever. `has_open_checkpoint` tells which
/// generations an earlier run has begun and not finished: they are always read.
pub fn needed(
    listed: &[i64],
    start: i64,
    log_ttl: Duration,
    now: i64,
    has_open_checkpoint: impl Fn(i64) -> bool,
) -> Vec<i64> {
    let ttl = i64::try_from(log_ttl.as_micros()).unwrap_or(i64::MAX);
    let oldest = if ttl == 0 {
        i64::MIN
    } else {
        now.saturating_sub(ttl)
    };
    let ends = listed.iter().skip(1).map(|next| Some(*next)).chain([None]);
    let holds_rows = |end: Option<i64>| {
        end.is_none_or(|end| {
            let end = end.saturating_mul(1_000).saturating_add(GRACE_MICROS);
            end > start && end > oldest
        })
    };
    listed
        .iter()
        .zip(ends)
        .filter(|(timestamp, end)| holds_rows(*end) || has_open_checkpoint(**timestamp))
        .map(|(timestamp, _)| *timestamp)
        .collect()
}

/// Where a group without a checkpoint begins: its watermark in microseconds.
///
/// A generation has no rows from before its timestamp, except for clocks that disagree, hence the
/// grace.
pub fn first_watermark(timestamp: i64, start: i64) -> i64 {
    let generation = timestamp.saturating_mul(1_000).saturating_sub(GRACE_MICROS);
    generation.max(start) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_waits_until_all_groups_of_the_one_before_are_drained() {
        let mut plan = Plan::default();
        plan.add(1_000, 2, 0);
        assert_eq!(plan.boundary(1_000), None);
        plan.add(2_000, 1, 0);
        plan.add(3_000, 1, 0);
        assert_eq!(plan.boundary(1_000), Some(2_000_000 + GRACE_MICROS));
        assert!(plan.may_read(1_000) && !plan.may_read(2_000));
        plan.drained(1_000);
        assert!(!plan.may_read(2_000));
        plan.drained(1_000);
        assert!(plan.may_read(2_000) && !plan.may_read(3_000));
        assert!(!plan.is_closed(1_000));
        plan.closed(1_000);
        plan.closed(1_000);
        assert!(plan.is_closed(1_000) && plan.may_read(1_000));
        assert!(!plan.may_read(4_000), "an unknown generation is not read");
    }

    #[test]
    fn closed_groups_of_an_earlier_run_do_not_hold_up() {
        let mut plan = Plan::default();
        plan.add(1, 2, 2);
        plan.add(2, 2, 1);
        plan.add(3, 2, 0);
        assert!(plan.is_closed(1) && plan.may_read(2) && !plan.may_read(3));
    }

    #[test]
    fn only_generations_that_can_hold_rows_are_needed() {
        let listed = [0, 1_000_000, 2_000_000];
        let second = 1_000_000;
        let none = |_| false;
        let day = Duration::from_hours(24);
        let all = needed(&listed, i64::MIN, Duration::ZERO, i64::MAX, none);
        assert_eq!(all, listed);
        let latest = needed(&listed, 1_500_000 * 1_000, day, 2_500 * second, none);
        assert_eq!(latest, [1_000_000, 2_000_000]);
        let expired = needed(&listed, i64::MIN, day, 100_000 * second, none);
        assert_eq!(expired, [2_000_000]);
        let begun = needed(&listed, i64::MIN, day, 100_000 * second, |t| t == 0);
        assert_eq!(begun, [0, 2_000_000]);
    }
}
