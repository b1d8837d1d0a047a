//! What is saved of a table's groups, and when.

use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::{Duration, OpenIntake, Running, SETTLED_AT_ONCE, Saved, micros};
use crate::checkpoint::{self, GroupCheckpoint, GroupKey, Window};
use crate::runtime::Chain;
use crate::source::expiry;
use crate::telemetry::standing::GroupStanding;

/// Attempts of the last save.
pub(super) const LAST_SAVES: u32 = 5;
/// Pause between them.
const LAST_SAVE_PAUSE: Duration = Duration::from_millis(500);
/// How long a source that has failed waits for what it has handed on to be settled.
const GIVE_UP_GRACE: Duration = Duration::from_secs(5);
/// Windows are kept for so many seconds longer than the rows of the log.
const WINDOW_GRACE: u64 = 3_600;

/// A finished save: what was to be saved, and what came of it.
pub(super) type SaveResult = (Changed, Result<(), checkpoint::Error>);

/// What is written by one save.
#[derive(Debug, Default)]
pub(super) struct Unsaved {
    windows: Vec<(GroupKey, Window)>,
    groups: Vec<GroupCheckpoint>,
    changed: Changed,
}

/// Which groups a save is of.
#[derive(Debug, Default)]
pub(super) struct Changed {
    states: Vec<(u32, Saved)>,
    /// Windows that were closed, by group: so many of the oldest ones.
    closed: Vec<(u32, usize)>,
    /// Windows in which late rows were published.
    mended: Vec<(u32, Window)>,
}

/// The saves of one table.
#[derive(Debug, Default)]
pub(super) struct Saves {
    pub(super) tasks: JoinSet<SaveResult>,
    /// Windows in which late rows were published since they were saved.
    pub(super) windows: Vec<(u32, Window)>,
}

impl<O: OpenIntake> Running<'_, O> {
    /// What has to be saved.
    fn unsaved(&self, last: bool) -> Unsaved {
        let now = self.context.clock.now();
        let idle_interval = micros(self.context.config.checkpoint.idle_interval);
        let mut unsaved = Unsaved::default();
        for (group, slot) in self.groups.iter().zip(0..) {
            let closed = group.windows.unsaved();
            if !closed.is_empty() {
                let windows = closed.iter().map(|window| (group.key.clone(), *window));
                unsaved.windows.extend(windows);
                unsaved.changed.closed.push((slot, closed.len()));
            }
            let checkpoint = group.checkpoint(now.wall, now.ticks, idle_interval, last);
            if let Some((checkpoint, state)) = checkpoint {
                unsaved.groups.push(checkpoint);
                unsaved.changed.states.push((slot, state));
            }
        }
        for (slot, window) in &self.saves.windows {
            let key = self.groups[*slot as usize].key.clone();
            unsaved.windows.push((key, *window));
            unsaved.changed.mended.push((*slot, *window));
        }
        unsaved
    }

    fn window_ttl(&self) -> i32 {
        let ttl = self.log_ttl().as_secs();
        if ttl == 0 {
            return 0;
        }
        // ScyllaDB takes twenty years at most.
        ttl.saturating_add(WINDOW_GRACE).min(630_720_000) as i32
    }

    /// Tells where the groups stand, and how long the rows that are not settled yet stay in the log.
    fn look_around(&self) {
        let open = || self.groups.iter().filter(|group| !group.closed);
        let standing = open().map(|group| GroupStanding {
            generation: group.key.generation,
            range_end: group.range_end,
            streams: group.streams.len() as u32,
            watermark: group.follower.watermark(),
            tail: group.follower.read_once(),
        });
        (self.context.progress.standing).tell(self.log_ttl(), standing);
        let Some(oldest) = open().map(|group| group.follower.watermark()).min() else {
            return;
        };
        let now = self.context.clock.now().wall;
        self.context
            .progress
            .expires(expiry::judge(oldest, now, self.log_ttl()));
    }

    pub(super) fn start_save(&mut self) {
        self.look_around();
        let Some(store) = self.context.checkpoints.clone() else {
            return;
        };
        if !self.saves.tasks.is_empty() {
            return;
        }
        let unsaved = self.unsaved(false);
        if unsaved.groups.is_empty() && unsaved.windows.is_empty() {
            return;
        }
        let table = self.context.outbox.table.clone();
        let ttl = self.window_ttl();
        self.saves.tasks.spawn(async move {
            let result = save(&store, &table, &unsaved, ttl).await;
            (unsaved.changed, result)
        });
    }

    pub(super) fn saved(&mut self, saved: Result<SaveResult, JoinError>) {
        match saved {
            Ok((changed, Ok(()))) => {
                let saved = changed.states.len() as u64;
                self.context.metrics.checkpoints.add(saved);
                self.context.progress.saved(true);
                for (slot, state) in changed.states {
                    self.groups[slot as usize].saved = Some(state);
                }
                for (slot, windows) in changed.closed {
                    self.groups[slot as usize].windows.saved(windows);
                }
                let unsaved = &mut self.saves.windows;
                unsaved.retain(|window| !changed.mended.contains(window));
            }
            Ok((_, Err(error))) => self.save_failed(&error),
            Err(error) => self.save_failed(&error),
        }
    }

    fn save_failed(&self, error: &(dyn std::error::Error + 'static)) {
        self.context.metrics.checkpoint_errors.add(1);
        self.context.progress.saved(false);
        tracing::warn!(
            table = %self.context.outbox.table,
            error = %Chain(error),
            "checkpoints were not saved; they will be with the next ones"
        );
    }

    /// Saves what is settled, also of what is settled soon, so that the next run repeats only what
    /// the pipeline has not got rid of by then.
    pub(super) async fn give_up(&mut self) {
        self.end_reads().await;
        let deadline = Instant::now() + GIVE_UP_GRACE;
        let mut settled = Vec::with_capacity(SETTLED_AT_ONCE);
        while self.has_pending() {
            let more = self.settled.recv_many(&mut settled, SETTLED_AT_ONCE);
            if tokio::time::timeout_at(deadline, more).await.is_err() {
                break;
            }
            self.settle(&mut settled);
        }
        self.save_last().await;
    }

    fn has_pending(&self) -> bool {
        let mut groups = self.groups.iter();
        groups.any(|group| group.tracker.lock().pending() > 0)
    }

    /// Ends the reads and takes what is left of saves.
    async fn end_reads(&mut self) {
        self.reads.abort_all();
        while self.reads.join_next().await.is_some() {}
        self.sweeps.tasks.shutdown().await;
        while let Some(saved) = self.saves.tasks.join_next().await {
            self.saved(saved);
        }
    }

    /// Saves everything; whether that went well.
    async fn save_last(&mut self) -> bool {
        let Some(store) = self.context.checkpoints.clone() else {
            return true;
        };
        let unsaved = self.unsaved(true);
        let result = save(
            &store,
            &self.context.outbox.table,
            &unsaved,
            self.window_ttl(),
        );
        let result = result.await;
        let well = result.is_ok();
        self.saved(Ok((unsaved.changed, result)));
        well
    }

    /// Takes what is left of reads and settlements, and saves everything that is settled, in so
    /// many attempts. Whether that went well.
    pub(super) async fn finish(&mut self, attempts: u32) -> bool {
        // At a stop the pipeline has ended, so a read that still hands on fails at once; one that
        // waits for the database, or for room, is given up.
        self.end_reads().await;
        let mut settled = Vec::new();
        while let Ok(one) = self.settled.try_recv() {
            settled.push(one);
        }
        self.settle(&mut settled);
        for attempt in 1..=attempts {
            if self.save_last().await {
                return true;
            }
            if attempt < attempts {
                tokio::time::sleep(LAST_SAVE_PAUSE).await;
            }
        }
        tracing::error!(
            table = %self.context.outbox.table,
            "the last checkpoint was not saved: events since the one before will be published again"
        );
        false
    }
}

/// Windows first: a checkpoint says that those before it are there.
async fn save(
    store: &checkpoint::Store,
    table: &crate::config::TableName,
    unsaved: &Unsaved,
    ttl: i32,
) -> Result<(), checkpoint::Error> {
    for (key, window) in &unsaved.windows {
        store.save_window(table, key, window, ttl).await?;
    }
    store.save(table, &unsaved.groups).await
}
