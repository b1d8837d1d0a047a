//! In which order the generations of a table are read.
//!
//! Owns the barrier between generations. Invariants:
//!
//! 1. A group is read only when every group of an earlier generation that shares tokens with it is
//!    drained: it has been read by a read that started [`GRACE_MICROS`] after its generation's end or
//!    later, and all that was handed on is settled. So no row of a partition overtakes an earlier one
//!    of it, and a group that is stuck holds up none but its own tokens.
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

/// A group of a generation: which tokens it has, and how far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    /// Its tokens end here, and begin after those of the part before it; the first one's begin after
    /// those of the last one.
    range_end: i64,
    drained: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Stage {
    /// In the order of their tokens; not empty.
    parts: Vec<Part>,
    undrained: usize,
    unclosed: usize,
}

impl Stage {
    fn at(&self, range_end: i64) -> Option<usize> {
        let found = self
            .parts
            .binary_search_by_key(&range_end, |part| part.range_end);
        found.ok()
    }

    /// The tokens of a part: (after, upto], over the end of the ring if `after` is not less.
    fn tokens(&self, range_end: i64) -> Option<(i64, i64)> {
        let at = self.at(range_end)?;
        let before = at.checked_sub(1).unwrap_or(self.parts.len() - 1);
        Some((self.parts[before].range_end, range_end))
    }

    /// Whether all parts that share a token with (after, upto] are drained.
    fn is_drained(&self, (after, upto): (i64, i64)) -> bool {
        if self.undrained == 0 {
            return true;
        }
        let drained = |parts: &[Part]| parts.iter().all(|part| part.drained);
        // The part that holds the token after `after`, and the one that holds `upto`: the first one if
        // there is none beyond.
        let first = self.parts.partition_point(|part| part.range_end <= after);
        let last = self.parts.partition_point(|part| part.range_end < upto);
        if after < upto {
            let beyond = last == self.parts.len();
            let end = if beyond { last } else { last + 1 };
            return drained(&self.parts[first..end]) && (!beyond || self.parts[0].drained);
        }
        let end = (last + 1).min(self.parts.len());
        drained(&self.parts[first..]) && drained(&self.parts[..end]) && self.parts[0].drained
    }
}

/// The generations that are read or will be, by timestamp in milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    stages: BTreeMap<i64, Stage>,
}

impl Plan {
    /// Adds a generation by the last token of each of its groups, and whether an earlier run has closed
    /// the group. Does nothing if the generation is known.
    pub fn add(&mut self, timestamp: i64, groups: impl IntoIterator<Item = (i64, bool)>) {
        let parts = groups.into_iter().map(|(range_end, closed)| Part {
            range_end,
            drained: closed,
        });
        let mut parts: Vec<Part> = parts.collect();
        parts.sort_unstable_by_key(|part| part.range_end);
        let open = parts.iter().filter(|part| !part.drained).count();
        self.stages.entry(timestamp).or_insert(Stage {
            parts,
            undrained: open,
            unclosed: open,
        });
    }

    /// Whether the generation is known.
    pub fn knows(&self, timestamp: i64) -> bool {
        self.stages.contains_key(&timestamp)
    }

    /// Whether the group of this generation whose tokens end at `range_end` may be read now.
    pub fn may_read(&self, timestamp: i64, range_end: i64) -> bool {
        let Some(stage) = self.stages.get(&timestamp) else {
            return false;
        };
        let Some(tokens) = stage.tokens(range_end) else {
            return false;
        };
        let mut earlier = self.stages.range(..timestamp);
        earlier.all(|(_, stage)| stage.is_drained(tokens))
    }

    /// The time (microseconds) that reads of this generation have to reach before it counts as
    /// drained or closed; `None` while it is the newest one.
    pub fn boundary(&self, timestamp: i64) -> Option<i64> {
        let (next, _) = self.stages.range(timestamp.saturating_add(1)..).next()?;
        Some(next.saturating_mul(1_000).saturating_add(GRACE_MICROS))
    }

    /// The group of this generation whose tokens end at `range_end` is drained.
    pub fn drained(&mut self, timestamp: i64, range_end: i64) {
        if let Some(stage) = self.stages.get_mut(&timestamp)
            && let Some(at) = stage.at(range_end)
            && !std::mem::replace(&mut stage.parts[at].drained, true)
        {
            stage.undrained -= 1;
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
    use proptest::prelude::*;

    use super::*;

    fn add(plan: &mut Plan, timestamp: i64, ends: &[i64]) {
        plan.add(timestamp, ends.iter().map(|end| (*end, false)));
    }

    #[test]
    fn a_generation_waits_until_all_groups_of_the_one_before_are_drained() {
        let mut plan = Plan::default();
        add(&mut plan, 1_000, &[0, 10]);
        assert_eq!(plan.boundary(1_000), None);
        add(&mut plan, 2_000, &[5]);
        add(&mut plan, 3_000, &[7]);
        assert_eq!(plan.boundary(1_000), Some(2_000_000 + GRACE_MICROS));
        assert!(plan.may_read(1_000, 0) && !plan.may_read(2_000, 5));
        plan.drained(1_000, 0);
        plan.drained(1_000, 0);
        assert!(!plan.may_read(2_000, 5));
        plan.drained(1_000, 10);
        assert!(plan.may_read(2_000, 5) && !plan.may_read(3_000, 7));
        assert!(!plan.is_closed(1_000));
        plan.closed(1_000);
        plan.closed(1_000);
        assert!(plan.is_closed(1_000) && plan.may_read(1_000, 0));
        assert!(
            !plan.may_read(4_000, 0),
            "an unknown generation is not read"
        );
        assert!(!plan.may_read(1_000, 3), "nor is an unknown group");
    }

    #[test]
    fn a_group_that_is_stuck_holds_up_its_own_tokens_only() {
        let mut plan = Plan::default();
        add(&mut plan, 1, &[0, 100, 200]);
        add(&mut plan, 2, &[50, 100, 150, 250]);
        plan.drained(1, 0);
        plan.drained(1, 200);
        // (0, 100] is left: (250, 50] and (50, 100] share tokens with it.
        let readable = [50, 100, 150, 250].map(|end| plan.may_read(2, end));
        assert_eq!(readable, [false, false, true, true]);
        plan.drained(1, 100);
        assert!(plan.may_read(2, 50));
    }

    #[test]
    fn closed_groups_of_an_earlier_run_do_not_hold_up() {
        let mut plan = Plan::default();
        plan.add(1, [(0, true), (5, true)]);
        plan.add(2, [(0, true), (5, false)]);
        add(&mut plan, 3, &[0, 5]);
        assert!(plan.is_closed(1) && plan.may_read(2, 5));
        assert!(plan.may_read(3, 0) && !plan.may_read(3, 5));
    }

    proptest! {
        /// Against the definition: two groups share a token.
        #[test]
        fn groups_wait_for_those_with_whom_they_share_tokens(
            old in prop::collection::btree_set(-8_i64..8, 1..6),
            drained in prop::collection::vec(any::<bool>(), 6),
            new in prop::collection::btree_set(-8_i64..8, 1..6),
        ) {
            let mut plan = Plan::default();
            let old: Vec<i64> = old.into_iter().collect();
            let new: Vec<i64> = new.into_iter().collect();
            add(&mut plan, 1, &old);
            add(&mut plan, 2, &new);
            for (end, drained) in old.iter().zip(&drained) {
                if *drained {
                    plan.drained(1, *end);
                }
            }
            let owner = |ends: &[i64], token: i64| {
                ends.iter().copied().find(|end| *end >= token).unwrap_or(ends[0])
            };
            for end in &new {
                let tokens = (-9..=9).filter(|token| owner(&new, *token) == *end);
                let expected = tokens.map(|token| owner(&old, token)).all(|old_end| {
                    drained[old.iter().position(|end| *end == old_end).unwrap()]
                });
                prop_assert_eq!(plan.may_read(2, *end), expected, "{} of {:?} after {:?}", end, new, old);
            }
        }
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
