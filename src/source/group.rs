//! One stream group: what it reads, what of it is settled, what of it is saved.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use scylla_cdc::cdc_types::StreamID;

use super::follower::{Follower, Load, Settings};
use super::generations::StreamGroup;
use super::pass::{Guarded, Shared, SharedTracker};
use super::stragglers::Stragglers;
use super::windows::Windows;
use crate::ack::{Mark, Tracker};
use crate::checkpoint::{GroupCheckpoint, GroupKey, Published};

/// A window is closed when it is as long as the late window, and at least so many microseconds.
pub const LEAST_WINDOW: i64 = 5_000_000;

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
}

/// A stream group of a table.
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, each asked for by itself"
)]
#[derive(Debug)]
pub struct Group<I> {
    /// Its name.
    pub key: GroupKey,
    /// The last token of its range.
    pub range_end: i64,
    /// Its streams.
    pub streams: Arc<[StreamID]>,
    /// What it reads next.
    pub follower: Follower,
    /// Its rows above W.
    pub tracker: SharedTracker,
    /// Its rows that have appeared at or before W.
    pub stragglers: Guarded<Stragglers>,
    /// What an earlier run has published above W, until that is recognised.
    pub published: Option<Arc<Published>>,
    /// Where its changes go; kept between two reads.
    pub intake: Option<I>,
    /// The bundle that it is read with when it is live.
    pub bundle: u32,
    /// Ticks of the next look at the group; `None` while it is read, live, or may not be read.
    pub due: Option<i64>,
    /// Whether a read is under way.
    pub reading: bool,
    /// Whether the group waits for a settlement.
    pub waiting: bool,
    /// Whether a writer has said that it has written here, and nothing was read since.
    pub hinted: bool,
    /// Ticks of the last time that a writer has said so.
    pub hinted_at: Option<i64>,
    /// Whether nothing of it can come before the next generation any more.
    pub drained: bool,
    /// Whether it has come to its end.
    pub closed: bool,
    /// What is stored of it.
    pub saved: Option<Saved>,
    /// Reads that have failed since the last good one.
    pub failed_reads: u32,
    /// What was published below W and is not saved yet.
    pub windows: Windows,
    /// Where the log began to be read: nothing at or before this is published.
    pub first: i64,
}

/// What a group is made from.
#[derive(Debug)]
pub struct Beginning<'c> {
    /// Its generation's timestamp, milliseconds since the Unix epoch.
    pub generation: i64,
    /// Its name and streams.
    pub group: StreamGroup,
    /// What is stored of it.
    pub checkpoint: Option<&'c GroupCheckpoint>,
    /// Where a group without a checkpoint begins.
    pub first: i64,
    /// The bundle that it is read with when it is live.
    pub bundle: u32,
}

impl<I> Group<I> {
    /// A group that begins after its watermark.
    pub fn new(beginning: Beginning<'_>, settings: Settings, shared: &Shared) -> Self {
        let Beginning {
            generation,
            group,
            checkpoint,
            first,
            bundle,
        } = beginning;
        let watermark = checkpoint.map_or(first, |checkpoint| checkpoint.watermark);
        let published = checkpoint.map(|checkpoint| checkpoint.published.clone());
        let published = published.unwrap_or_else(|| Published::nothing(watermark));
        let mut tracker = Tracker::new(watermark);
        tracker.restore(published.recent.iter().copied());
        shared.tracked.fetch_add(tracker.len(), Ordering::Relaxed);
        if published.upto > watermark {
            tracker.resume();
        }
        let saved = checkpoint.map(|_| Saved {
            watermark,
            revision: tracker.revision(),
            closed: false,
            at: 0,
        });
        Self {
            key: GroupKey {
                generation,
                group: group.id,
            },
            range_end: group.range_end,
            streams: group.streams.into(),
            follower: Follower::new(settings, watermark).resuming(published.upto),
            tracker: SharedTracker::new(tracker),
            stragglers: Guarded::new(Stragglers::default()),
            windows: Windows::new(published.window),
            published: (published.upto > watermark).then(|| Arc::new(published)),
            intake: None,
            bundle,
            due: None,
            reading: false,
            waiting: false,
            hinted: false,
            hinted_at: None,
            drained: false,
            closed: false,
            saved,
            failed_reads: 0,
            first,
        }
    }

    /// Moves W as far as it goes and forgets what it has passed. Gives back how many rows of the
    /// group are pending.
    pub fn advance(&mut self, shared: &Shared) -> usize {
        let mut tracker = self.tracker.lock();
        if self.published.is_some() {
            // What an earlier run has published is in no tracker yet, and would be left out of the
            // window.
            return tracker.pending();
        }
        let before = tracker.len();
        let watermark = self.follower.advance(tracker.floor());
        let forgotten: Vec<Mark> = tracker.forget(watermark).collect();
        shared
            .tracked
            .fetch_sub(before - tracker.len(), Ordering::Relaxed);
        let pending = tracker.pending();
        drop(tracker);
        let length = shared.late_window.max(LEAST_WINDOW);
        self.windows.passed(&forgotten, watermark, length);
        pending
    }

    /// All that an earlier run has published is recognised.
    pub fn recognised(&mut self) {
        self.published = None;
        self.tracker.lock().recognised();
    }

    /// How loaded the group is.
    pub fn load(&self, shared: &Shared) -> Load {
        let tracker = self.tracker.lock();
        Load {
            full: shared.full(tracker.len()),
            pending: tracker.pending(),
        }
    }

    /// What is to be saved at `now` (microseconds since the Unix epoch) and `ticks`: `None` if the saved
    /// state says it already, or if only time has moved W and the last save is less than
    /// `idle_interval` microseconds old. `last` is for the save of a stop.
    pub fn checkpoint(
        &self,
        now: i64,
        ticks: i64,
        idle_interval: i64,
        last: bool,
    ) -> Option<(GroupCheckpoint, Saved)> {
        let tracker = self.tracker.lock();
        let state = Saved {
            watermark: self.follower.watermark(),
            revision: tracker.revision(),
            closed: self.closed,
            at: ticks,
        };
        if let Some(saved) = self.saved {
            let rows = saved.revision != state.revision;
            let moved = saved.watermark != state.watermark;
            let idle = ticks.saturating_sub(saved.at) < idle_interval;
            let needed = rows || saved.closed != state.closed || (moved && (last || !idle));
            if !needed {
                return None;
            }
        }
        let published = if let Some(published) = &self.published {
            // Of what an earlier run has published, what is saved is still all that is known.
            Published::clone(published).and(&tracker)
        } else {
            let seen = self.follower.read_once();
            Published::of(&tracker, state.watermark, self.windows.open(), now, seen)
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
