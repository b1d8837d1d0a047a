//! One stream group: what it reads, what of it is settled, what of it is saved.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use scylla_cdc::cdc_types::StreamID;

use super::follower::{Follower, Load, Settings};
use super::generations::StreamGroup;
use super::pass::{Shared, SharedTracker};
use crate::ack::Tracker;
use crate::checkpoint::{GroupCheckpoint, GroupKey};

/// Published positions of one group that a periodic save carries at most. With more, only W is
/// saved until there are fewer, and a crash may repeat them; a clean stop saves all of them.
pub const PERIODIC_POSITIONS: usize = 10_000;

/// A group's state when it was last saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved {
    /// W.
    pub watermark: i64,
    /// [`Tracker::revision`].
    pub revision: u64,
    /// Whether the group had come to its end.
    pub closed: bool,
    /// Ticks of the save.
    pub at: i64,
    /// Whether the published positions were left out for their number.
    pub partial: bool,
}

/// A stream group of a table.
#[expect(
    clippy::struct_excessive_bools,
    reason = "four independent facts, each asked for by itself"
)]
#[derive(Debug)]
pub struct Group<I> {
    /// Its name.
    pub key: GroupKey,
    /// Its streams.
    pub streams: Arc<[StreamID]>,
    /// What it reads next.
    pub follower: Follower,
    /// Its rows above W.
    pub tracker: SharedTracker,
    /// Where its changes go; kept between two reads.
    pub intake: Option<I>,
    /// Ticks of the next look at the group; `None` while it is read or may not be read.
    pub due: Option<i64>,
    /// Whether a read is under way.
    pub reading: bool,
    /// Whether the group waits for a settlement.
    pub waiting: bool,
    /// Whether nothing of it can come before the next generation any more.
    pub drained: bool,
    /// Whether it has come to its end.
    pub closed: bool,
    /// What is stored of it.
    pub saved: Option<Saved>,
    /// Reads that have failed since the last good one.
    pub failed_reads: u32,
}

impl<I> Group<I> {
    /// A group that starts strictly after `watermark`, or where `checkpoint` says.
    pub fn new(
        generation: i64,
        group: StreamGroup,
        checkpoint: Option<&GroupCheckpoint>,
        watermark: i64,
        settings: Settings,
        shared: &Shared,
    ) -> Self {
        let watermark = checkpoint.map_or(watermark, |checkpoint| checkpoint.watermark);
        let mut tracker = Tracker::new(watermark);
        for row in checkpoint
            .iter()
            .flat_map(|checkpoint| &checkpoint.published)
        {
            tracker.register_settled(*row);
        }
        shared.tracked.fetch_add(tracker.len(), Ordering::Relaxed);
        let saved = checkpoint.map(|_| Saved {
            watermark,
            revision: tracker.revision(),
            closed: false,
            at: 0,
            partial: false,
        });
        Self {
            key: GroupKey {
                generation,
                group: group.id,
            },
            streams: group.streams.into(),
            follower: Follower::new(settings, watermark),
            tracker: SharedTracker::new(tracker),
            intake: None,
            due: None,
            reading: false,
            waiting: false,
            drained: false,
            closed: false,
            saved,
            failed_reads: 0,
        }
    }

    /// Moves W as far as it goes and forgets what it has passed. Gives back how many rows of the
    /// group are pending.
    pub fn advance(&mut self, shared: &Shared) -> usize {
        let mut tracker = self.tracker.lock();
        let before = tracker.len();
        let watermark = self.follower.advance(tracker.floor());
        tracker.forget(watermark);
        shared
            .tracked
            .fetch_sub(before - tracker.len(), Ordering::Relaxed);
        tracker.pending()
    }

    /// How loaded the group is.
    pub fn load(&self, shared: &Shared) -> Load {
        let tracker = self.tracker.lock();
        Load {
            full: shared.full(tracker.len()),
            pending: tracker.pending(),
        }
    }

    /// What is to be saved now: `None` if the saved state says it already, or if only time has
    /// moved W and the last save is less than `idle_interval` microseconds old. `last` is for the
    /// save of a stop: everything, exactly.
    pub fn checkpoint(
        &self,
        now: i64,
        idle_interval: i64,
        last: bool,
    ) -> Option<(GroupCheckpoint, Saved)> {
        let tracker = self.tracker.lock();
        let partial = !last && tracker.settled_count() > PERIODIC_POSITIONS;
        let state = Saved {
            watermark: self.follower.watermark(),
            revision: tracker.revision(),
            closed: self.closed,
            at: now,
            partial,
        };
        if let Some(saved) = self.saved {
            let rows = saved.revision != state.revision || (saved.partial && !partial);
            let moved = saved.watermark != state.watermark;
            let idle = now.saturating_sub(saved.at) < idle_interval;
            let needed = rows || saved.closed != state.closed || (moved && (last || !idle));
            if !needed {
                return None;
            }
        }
        let published = if partial {
            Vec::new()
        } else {
            tracker.settled().collect()
        };
        let checkpoint = GroupCheckpoint {
            key: self.key.clone(),
            watermark: state.watermark,
            published,
            closed: state.closed,
        };
        Some((checkpoint, state))
    }
}
