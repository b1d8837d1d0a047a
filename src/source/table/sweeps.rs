//! Comparisons of old stretches of the log with what was published of them, one group at a time.

use std::collections::VecDeque;
use std::sync::Arc;

use scylla_cdc::cdc_types::StreamID;
use tokio::task::{JoinError, JoinSet};

use super::{Duration, IDLE, OpenIntake, Phase, Running};
use crate::checkpoint::{self, GroupKey, Store, Window};
use crate::config::TableName;
use crate::event::RowKey;
use crate::runtime::Chain;
use crate::source::group::LEAST_WINDOW;
use crate::source::pass::{Guarded, Shared, read_ids};
use crate::source::reader::{self, LogReader, Range};
use crate::source::stragglers::Stragglers;
use crate::source::sweep;

/// A sweep rests so many times as long as it has taken, at least.
const REST: i64 = 9;

/// A sweep of a group that has found so many rows is left at that; the next one goes on.
const FOUND_AT_ONCE: usize = 4_096;

/// The sweeps of one table.
#[derive(Debug)]
pub(super) struct Sweeps {
    pub(super) tasks: JoinSet<Swept>,
    /// How far back every pass reaches at least, and how long a pass takes at least, in microseconds.
    base: i64,
    pass: u64,
    /// The groups that are left of this pass.
    queue: VecDeque<u32>,
    /// Ticks of the next group.
    at: i64,
}

/// A sweep of one group that has come to its end.
#[derive(Debug)]
pub(super) struct Swept {
    slot: u32,
    started: i64,
    ranges: u64,
    found: Result<usize, Error>,
}

/// Why a sweep did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Reader(#[from] reader::Error),
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
}

impl Sweeps {
    pub(super) fn new(late_window: i64) -> Self {
        Self {
            tasks: JoinSet::new(),
            base: late_window.max(LEAST_WINDOW),
            pass: 0,
            queue: VecDeque::new(),
            at: i64::MIN,
        }
    }
}

/// What a sweep of one group needs.
struct Sweep {
    shared: Arc<Shared>,
    reader: Arc<LogReader>,
    store: Arc<Store>,
    table: TableName,
    key: GroupKey,
    streams: Arc<[StreamID]>,
    stragglers: Guarded<Stragglers>,
    from: i64,
    upto: i64,
}

impl<O: OpenIntake> Running<'_, O> {
    /// Starts the sweep of the next group if it is due; gives back how long there is nothing to do.
    pub(super) fn start_sweep(&mut self, phase: Phase) -> Duration {
        let Some(store) = self.context.checkpoints.clone() else {
            return IDLE;
        };
        let wanted = self.context.config.follow.sweep && phase == Phase::Running;
        if !wanted || !self.sweeps.tasks.is_empty() || self.groups.is_empty() {
            return IDLE;
        }
        let now = self.context.clock.now();
        if self.sweeps.at == i64::MIN {
            self.sweeps.at = now.ticks.saturating_add(self.sweeps.base);
        }
        let wait = self.sweeps.at.saturating_sub(now.ticks);
        if wait > 0 {
            return Duration::from_micros(wait as u64);
        }
        if self.sweeps.queue.is_empty() {
            self.sweeps.pass += 1;
            let open = self
                .groups
                .iter()
                .zip(0..)
                .filter(|(group, _)| !group.closed);
            self.sweeps.queue = open.map(|(_, slot)| slot).collect();
        }
        let Some(slot) = self.sweeps.queue.pop_front() else {
            self.sweeps.at = now.ticks.saturating_add(self.sweeps.base);
            return IDLE;
        };
        let group = &self.groups[slot as usize];
        let upto = group.windows.saved_upto();
        let reach = sweep::reach(self.sweeps.pass, self.sweeps.base);
        let from = group
            .first
            .max(upto.saturating_sub(reach))
            .max(sweep::oldest(now.wall, self.log_ttl()));
        let busy = group.closed || !group.stragglers.lock().is_empty();
        if busy || from >= upto || self.saves.windows.iter().any(|(of, _)| *of == slot) {
            self.rest(now.ticks, now.ticks);
            return Duration::ZERO;
        }
        let sweep = Sweep {
            shared: Arc::clone(&self.shared),
            reader: Arc::clone(&self.reader),
            store,
            table: self.context.outbox.table.clone(),
            key: group.key.clone(),
            streams: Arc::clone(&group.streams),
            stragglers: group.stragglers.clone(),
            from,
            upto,
        };
        self.sweeps.tasks.spawn(async move {
            let mut ranges = 0;
            let found = sweep.run(&mut ranges).await;
            Swept {
                slot,
                started: now.ticks,
                ranges,
                found,
            }
        });
        IDLE
    }

    /// A pass takes as long as it reaches back at least, and a tenth of the time at most.
    fn rest(&mut self, started: i64, now: i64) {
        let took = now.saturating_sub(started);
        let groups = self.groups.len().max(1) as i64;
        let pause = (self.sweeps.base / groups).max(took.saturating_mul(REST));
        self.sweeps.at = now.saturating_add(pause);
    }

    pub(super) fn swept(&mut self, swept: Result<Swept, JoinError>) {
        let now = self.context.clock.now().ticks;
        let table = &self.context.outbox.table;
        let swept = match swept {
            Ok(swept) => swept,
            Err(error) => {
                tracing::error!(%table, error = %Chain(&error), "a sweep of the log has panicked");
                self.rest(now, now);
                return;
            }
        };
        self.context.metrics.swept.add(swept.ranges);
        match swept.found {
            Ok(0) => {}
            Ok(rows) => tracing::warn!(
                %table, rows,
                "rows have appeared in the log after the late window, and are published now"
            ),
            Err(error) => tracing::warn!(
                %table, error = %Chain(&error),
                "a sweep of a stream group has failed, and is left to the next pass"
            ),
        }
        self.rest(swept.started, now);
        if !self.groups[swept.slot as usize]
            .stragglers
            .lock()
            .is_empty()
        {
            self.schedule(swept.slot, now);
        }
    }
}

impl Sweep {
    /// Compares; gives back how many rows have to be published.
    async fn run(&self, compared: &mut u64) -> Result<usize, Error> {
        let windows = self.store.windows(&self.table, &self.key).await?;
        let ranges = sweep::ranges(&windows, self.from, self.upto);
        let mut found = 0;
        for portion in sweep::portions(&ranges) {
            let rows = self.rows(portion).await?;
            for range in portion {
                *compared += 1;
                found += self.compare(range, &rows);
            }
            if found >= FOUND_AT_ONCE {
                // The rest is left to the next pass.
                break;
            }
        }
        Ok(found)
    }

    fn compare(&self, range: &Window, rows: &[RowKey]) -> usize {
        let inside = |row: &&RowKey| {
            let micros = row.position.micros();
            micros > range.begin && micros <= range.upto
        };
        let mut rows: Vec<RowKey> = rows.iter().filter(inside).copied().collect();
        let range = sweep::bounded(*range, &mut rows, FOUND_AT_ONCE);
        self.stragglers.lock().compare(range, &rows)
    }

    /// The ids of some ranges, which follow each other.
    async fn rows(&self, ranges: &[Window]) -> Result<Vec<RowKey>, Error> {
        let range = Range {
            after: ranges.first().map_or(self.from, |range| range.begin),
            upto: Some(ranges.last().map_or(self.upto, |range| range.upto)),
        };
        let mut rows = Vec::new();
        let tell = |row| rows.push(row);
        read_ids(&self.shared, &*self.reader, &self.streams, range, tell).await?;
        Ok(rows)
    }
}
