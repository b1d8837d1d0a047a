//! The source of one outbox table: its groups, their reads, its checkpoints.
//!
//! One task owns the state of all groups; a heap of due times starts reads as tasks of a set, so
//! that an idle group costs nothing between two reads. It never waits for a row to be taken.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use scylla::client::session::Session;
use scylla::errors::{DbError, ExecutionError, RequestAttemptError};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::clock::Clock;
use super::expiry;
use super::follower::{Next, Outcome, Read, Settings};
use super::generations::{self, Generations};
use super::group::{Group, Saved};
use super::intake::OpenIntake;
use super::pass::{self, Ended, Pass, Shared};
use super::plan::{self, Plan};
use super::reader::{self, LogReader};
use super::ring::Ring;
use super::wake_up::{Hints, WakeUps};
use crate::ack::Settled;
use crate::checkpoint::{self, GroupCheckpoint, GroupKey, Store};
use crate::config::{Config, Outbox, TableName};
use crate::decode::MappingError;
use crate::runtime::health::{Progress, checks::FAILING_READS};
use crate::runtime::{Chain, Phase};
use crate::scylla::{self as cluster, TableDescription};
use crate::telemetry::metrics::Metrics;

/// How often a group that waits for room is looked at again.
const RECHECK_MICROS: i64 = 50_000;
/// A second change of the table within this time is an error rather than a change.
const REOPEN_PAUSE_MICROS: i64 = 5_000_000;
/// Attempts of the last save.
const LAST_SAVES: u32 = 5;
/// Pause between them.
const LAST_SAVE_PAUSE: Duration = Duration::from_millis(500);
/// How long a source that has failed waits for what it has handed on to be settled.
const GIVE_UP_GRACE: Duration = Duration::from_secs(5);
/// Settlements taken at once.
const SETTLED_AT_ONCE: usize = 4_096;

/// Why a source cannot go on by itself. The supervisor starts it again; it resumes from W.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log cannot be read.
    #[error(transparent)]
    Reader(#[from] reader::Error),
    /// The table's columns do not fit the configuration.
    #[error(transparent)]
    Mapping(#[from] MappingError),
    /// ScyllaDB does not tell its streams.
    #[error(transparent)]
    Generations(#[from] generations::Error),
    /// The checkpoints cannot be read, or the first start cannot be saved.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    /// Rows may have expired in the log before they were read.
    #[error(
        "the relay was away for longer than the log of {table} keeps its rows ({} s): what was \
         written between {from} and {to} (microseconds since the Unix epoch) may be lost; look \
         for it in {table} itself, then set follow.accept_expired: true to go on without it",
        ttl.as_secs()
    )]
    Expired {
        /// The table.
        table: TableName,
        /// How long its log keeps rows.
        ttl: Duration,
        /// The oldest watermark.
        from: i64,
        /// What is older has expired.
        to: i64,
    },
    /// A read has panicked: a defect of the relay.
    #[error("a read of the log has panicked; this is a defect, please report it")]
    Panicked(#[source] JoinError),
}

/// What a source needs.
#[derive(Debug)]
pub struct SourceContext<O> {
    /// Session to the cluster, with the configured consistency.
    pub session: Arc<Session>,
    /// The outbox.
    pub outbox: Arc<Outbox>,
    /// The relay's configuration.
    pub config: Arc<Config>,
    /// Where changes go.
    pub intake: O,
    /// Where progress is kept; without it the source starts at `follow.start` and saves nothing.
    pub checkpoints: Option<Arc<Store>>,
    /// The relay's counters.
    pub metrics: Arc<Metrics>,
    /// Bounds the reads of all tables (`follow.concurrent_reads`).
    pub reads: Arc<Semaphore>,
    /// The relay's clock.
    pub clock: Arc<Clock>,
    /// What the source has done, for the health monitor.
    pub progress: Arc<Progress>,
    /// Hints of writers, if they are taken.
    pub wake_ups: Option<WakeUps>,
}

/// Reads one outbox table.
#[derive(Debug)]
pub struct TableSource<O> {
    context: SourceContext<O>,
}

impl<O: OpenIntake> TableSource<O> {
    /// A source that has not begun.
    pub fn new(context: SourceContext<O>) -> Self {
        Self { context }
    }

    /// Reads until the phase is [`Phase::Finishing`]; then saves what is settled and returns.
    ///
    /// From [`Phase::Draining`] on nothing new is read. May be called again after an error: it
    /// resumes from the last checkpoint.
    ///
    /// # Errors
    ///
    /// Only what the source cannot get over by trying the same again.
    pub async fn run(&self, mut phase: watch::Receiver<Phase>) -> Result<(), Error> {
        let opening = Running::open(&self.context, phase.clone());
        let mut running = tokio::select! {
            running = opening => running?,
            // Nothing was read, so there is nothing to save.
            () = stopping(&mut phase) => return Ok(()),
        };
        let ended = running.run(phase).await;
        if ended.is_err() {
            running.give_up().await;
        }
        ended
    }
}

async fn stopping(phase: &mut watch::Receiver<Phase>) {
    // A closed channel means that the runtime has ended: stop as well.
    let _ = phase.wait_for(|phase| *phase > Phase::Running).await;
}

/// A finished read.
struct Done<I> {
    slot: u32,
    epoch: u64,
    intake: I,
    read: Read,
    outcome: Result<Ended, pass::Error>,
}

/// A finished save: what was to be saved, and what came of it.
type SaveResult = (Vec<(u32, Saved)>, Result<(), checkpoint::Error>);

/// What a look at the table's surroundings has shown.
struct Looked {
    timestamps: Result<Vec<i64>, generations::Error>,
    description: Result<Option<TableDescription>, cluster::Error>,
}

struct Running<'c, O: OpenIntake> {
    context: &'c SourceContext<O>,
    shared: Arc<Shared>,
    settings: Settings,
    idle_interval: i64,
    reader: Arc<LogReader>,
    prototype: O::Intake,
    epoch: u64,
    reopened_at: Option<i64>,
    generations: Generations,
    start: i64,
    stored: HashMap<GroupKey, GroupCheckpoint>,
    plan: Plan,
    groups: Vec<Group<O::Intake>>,
    due: BinaryHeap<Reverse<(i64, u32)>>,
    reads: JoinSet<Done<O::Intake>>,
    saves: JoinSet<SaveResult>,
    /// Groups whose reads fail again and again.
    failing: usize,
    /// Whether writes to the table are logged.
    logged: bool,
    settled: mpsc::UnboundedReceiver<Settled>,
    /// The slots of each generation's groups; `None` for those that an earlier run has closed.
    rings: BTreeMap<i64, Ring<Option<u32>>>,
    hints: Hints,
}

impl<'c, O: OpenIntake> Running<'c, O> {
    async fn open(
        context: &'c SourceContext<O>,
        phase: watch::Receiver<Phase>,
    ) -> Result<Self, Error> {
        let follow = &context.config.follow;
        let reader = open_reader(context).await?;
        let prototype = context.intake.open(&reader)?;
        let table = context.outbox.table.clone();
        let generations = Generations::of(Arc::clone(&context.session), table).await?;
        let (start, stored) = resume::resume(context, &reader).await?;
        let (sender, settled) = mpsc::unbounded_channel();
        let settings = Settings::new(follow);
        let shared = Shared {
            metrics: Arc::clone(&context.metrics),
            reads: Arc::clone(&context.reads),
            settled: sender,
            phase,
            tracked: AtomicUsize::new(0),
            limit: follow.tracked_positions.get(),
            late_window: settings.late_window,
        };
        let mut running = Self {
            context,
            shared: Arc::new(shared),
            settings,
            idle_interval: micros(context.config.checkpoint.idle_interval),
            reader,
            prototype,
            epoch: 0,
            reopened_at: None,
            generations,
            start,
            stored,
            plan: Plan::default(),
            groups: Vec::new(),
            due: BinaryHeap::new(),
            reads: JoinSet::new(),
            saves: JoinSet::new(),
            failing: 0,
            logged: true,
            settled,
            rings: BTreeMap::new(),
            hints: (context.wake_ups.as_ref()).map_or_else(Hints::none, |wake_ups| {
                wake_ups.subscribe(&context.outbox.table)
            }),
        };
        context.progress.failing_groups(0);
        context.progress.logged(true);
        let listed = running.generations.timestamps().await?;
        running.update(&listed).await?;
        tracing::info!(
            table = %running.context.outbox.table,
            generations = listed.len(),
            groups = running.groups.len(),
            "reading the log"
        );
        Ok(running)
    }

    async fn run(&mut self, mut phase: watch::Receiver<Phase>) -> Result<(), Error> {
        let config = &self.context.config;
        let mut save = ticker(config.checkpoint.interval);
        let mut look = ticker(config.follow.generation_poll);
        let mut looks: JoinSet<Looked> = JoinSet::new();
        let mut settled = Vec::with_capacity(SETTLED_AT_ONCE);
        let mut hints = Vec::new();
        let mut now_phase = *phase.borrow_and_update();
        while now_phase < Phase::Finishing {
            let wake = self.start_reads(now_phase);
            tokio::select! {
                changed = phase.changed() => {
                    let ended = changed.is_err();
                    now_phase = if ended { Phase::Finishing } else { *phase.borrow_and_update() };
                }
                _ = self.settled.recv_many(&mut settled, SETTLED_AT_ONCE) => self.settle(&mut settled),
                () = self.hints.next(&mut hints) => self.hinted(&mut hints),
                Some(done) = self.reads.join_next() => self.done(done).await?,
                () = tokio::time::sleep(wake) => {}
                _ = save.tick() => self.start_save(),
                Some(saved) = self.saves.join_next() => self.saved(saved),
                _ = look.tick(), if looks.is_empty() => {
                    let generations = self.generations.clone();
                    let session = Arc::clone(&self.context.session);
                    let table = self.context.outbox.table.clone();
                    looks.spawn(async move {
                        Looked {
                            timestamps: generations.timestamps().await,
                            description: cluster::describe_table(&session, &table).await,
                        }
                    });
                }
                Some(looked) = looks.join_next() => self.looked(looked.map_err(Error::Panicked)?).await,
            }
        }
        self.finish(LAST_SAVES).await;
        Ok(())
    }

    /// Starts what is due; gives back how long nothing else will be.
    fn start_reads(&mut self, phase: Phase) -> Duration {
        let idle = Duration::from_hours(1);
        if phase > Phase::Running {
            return idle;
        }
        while let Some(Reverse((at, slot))) = self.due.peek().copied() {
            let now = self.context.clock.now();
            if at > now.ticks {
                return Duration::from_micros((at - now.ticks) as u64);
            }
            self.due.pop();
            let group = &mut self.groups[slot as usize];
            if group.due != Some(at) {
                continue;
            }
            group.due = None;
            let load = group.load(&self.shared);
            match group.follower.next(now, load) {
                Next::Read(read) => self.start_read(slot, read),
                Next::At(ticks) => self.schedule(slot, ticks.max(now.ticks + 1)),
                Next::AfterSettlement => {
                    group.waiting = true;
                    self.schedule(slot, now.ticks + RECHECK_MICROS);
                }
            }
        }
        idle
    }

    fn schedule(&mut self, slot: u32, ticks: i64) {
        let group = &mut self.groups[slot as usize];
        let readable = !group.reading && !group.closed;
        if readable && self.plan.may_read(group.key.generation) {
            group.due = Some(ticks);
            self.due.push(Reverse((ticks, slot)));
        }
    }

    fn start_read(&mut self, slot: u32, read: Read) {
        let group = &mut self.groups[slot as usize];
        group.reading = true;
        group.waiting = false;
        let epoch = self.epoch;
        let intake = group.intake.take();
        let mut pass = Pass {
            shared: Arc::clone(&self.shared),
            reader: Arc::clone(&self.reader),
            slot,
            streams: Arc::clone(&group.streams),
            tracker: group.tracker.clone(),
            intake: intake.unwrap_or_else(|| self.prototype.clone()),
            read,
            outcome: Outcome::default(),
            cut_stream: None,
        };
        self.reads.spawn(async move {
            let outcome = pass.run().await;
            Done {
                slot,
                epoch,
                intake: pass.intake,
                read: pass.read,
                outcome,
            }
        });
    }

    async fn done(&mut self, done: Result<Done<O::Intake>, JoinError>) -> Result<(), Error> {
        let Done {
            slot,
            epoch,
            intake,
            read,
            outcome,
        } = done.map_err(Error::Panicked)?;
        let now = self.context.clock.now();
        let current = epoch == self.epoch;
        let group = &mut self.groups[slot as usize];
        group.reading = false;
        group.intake = current.then_some(intake);
        match outcome {
            Ok(Ended::Complete(outcome)) => {
                group.follower.completed(&read, outcome, now);
                self.read_well(slot);
            }
            Ok(Ended::GivenUp) => group.follower.given_up(&read),
            // The pipeline has ended. The supervisor sees it too and stops the relay; until then
            // what is settled is still saved.
            Ok(Ended::Stopped) | Err(pass::Error::Closed(_)) => return Ok(()),
            Err(pass::Error::Reader(error)) => {
                group.follower.failed(now);
                self.read_badly(slot);
                self.context.metrics.read_errors.add(1);
                // An error of a reader that was replaced meanwhile says nothing of the new one.
                if current && is_about_the_table(&error) {
                    self.reopen(error, now.ticks).await?;
                } else {
                    tracing::warn!(
                        table = %self.context.outbox.table,
                        error = %Chain(&error),
                        "a read of the log has failed and will be made again"
                    );
                }
            }
        }
        self.moved(slot);
        self.schedule(slot, now.ticks);
        Ok(())
    }

    fn read_well(&mut self, slot: u32) {
        self.context.progress.read();
        if std::mem::take(&mut self.groups[slot as usize].failed_reads) >= FAILING_READS {
            self.failing -= 1;
            self.context.progress.failing_groups(self.failing);
        }
    }

    fn read_badly(&mut self, slot: u32) {
        let failed = &mut self.groups[slot as usize].failed_reads;
        *failed = failed.saturating_add(1);
        if *failed == FAILING_READS {
            self.failing += 1;
            self.context.progress.failing_groups(self.failing);
        }
    }

    /// The table may have been altered: describe it and prepare the reads anew.
    async fn reopen(&mut self, error: reader::Error, now: i64) -> Result<(), Error> {
        if self
            .reopened_at
            .is_some_and(|at| now - at < REOPEN_PAUSE_MICROS)
        {
            return Err(error.into());
        }
        tracing::warn!(
            table = %self.context.outbox.table,
            error = %Chain(&error),
            "the table may have been altered: describing it anew"
        );
        let reader = open_reader(self.context).await?;
        self.prototype = self.context.intake.open(&reader)?;
        self.reader = reader;
        self.reopened_at = Some(self.context.clock.now().ticks);
        self.epoch += 1;
        for group in &mut self.groups {
            group.intake = None;
        }
        Ok(())
    }

    fn settle(&mut self, settled: &mut Vec<Settled>) {
        let mut slots: Vec<u32> = Vec::new();
        for Settled { group, row } in settled.drain(..) {
            if let Some(found) = self.groups.get(group as usize) {
                found.tracker.lock().settle(row);
                slots.push(group);
            }
        }
        slots.sort_unstable();
        slots.dedup();
        for slot in slots {
            self.moved(slot);
            if self.groups[slot as usize].waiting {
                let now = self.context.clock.now().ticks;
                self.schedule(slot, now);
            }
        }
    }

    /// Something was read or settled: W may move, and the group may have come to its end.
    fn moved(&mut self, slot: u32) {
        let group = &mut self.groups[slot as usize];
        let pending = group.advance(&self.shared);
        let generation = group.key.generation;
        let Some(boundary) = self.plan.boundary(generation) else {
            return;
        };
        if !group.drained && pending == 0 && !group.reading && group.follower.has_covered(boundary)
        {
            group.drained = true;
            self.plan.drained(generation);
            self.schedule_readable();
        }
        let group = &mut self.groups[slot as usize];
        if group.drained && !group.closed && group.follower.watermark() >= boundary {
            group.closed = true;
            group.due = None;
            self.plan.closed(generation);
            if self.plan.is_closed(generation) {
                tracing::info!(
                    table = %self.context.outbox.table,
                    generation,
                    "a generation of streams is read to its end"
                );
            }
        }
    }

    /// Writers say that partitions with these tokens were just written: their groups are due.
    fn hinted(&mut self, tokens: &mut Vec<i64>) {
        let now = self.context.clock.now();
        let read = |generation: &i64| self.plan.may_read(*generation);
        let rings = self.rings.iter().filter(|(generation, _)| read(generation));
        let slots =
            rings.flat_map(|(_, ring)| tokens.iter().filter_map(|token| *ring.get(*token)?));
        let slots: BTreeSet<u32> = slots.collect();
        tokens.clear();
        for slot in slots {
            self.groups[slot as usize].follower.hinted(now);
            self.schedule(slot, now.ticks);
        }
    }

    /// Starts the groups that wait for nothing any more.
    fn schedule_readable(&mut self) {
        let now = self.context.clock.now().ticks;
        for slot in 0..self.groups.len() {
            let group = &self.groups[slot];
            if group.due.is_none() && !group.reading {
                self.schedule(slot as u32, now);
            }
        }
    }

    async fn looked(&mut self, looked: Looked) {
        // Errors, and a table that is gone, are the reads' to tell.
        if let Ok(Some(description)) = &looked.description {
            self.written_to_log(description.cdc_enabled());
        }
        let updated = match looked.timestamps {
            Ok(listed) => self.update(&listed).await,
            Err(error) => Err(error.into()),
        };
        if updated.is_ok() && self.groups.iter().all(|group| group.closed) {
            // Nothing to read is as good as a read.
            self.context.progress.read();
        }
        if let Err(error) = updated {
            tracing::warn!(
                table = %self.context.outbox.table,
                error = %Chain(&error),
                "a look for new generations of streams has failed and will be repeated"
            );
        }
    }

    /// Whether writes to the table are logged. The reads do not see it: the log stays as it is.
    fn written_to_log(&mut self, logged: bool) {
        if logged == self.logged {
            return;
        }
        self.logged = logged;
        self.context.progress.logged(logged);
        let table = &self.context.outbox.table;
        if logged {
            tracing::info!(%table, "CDC is on again; what was written meanwhile is no event");
        } else {
            tracing::error!(
                %table,
                "CDC is off: what is written to the table now will never be published; run: \
                 ALTER TABLE {table} WITH cdc = {{'enabled': true}}"
            );
        }
    }

    /// Takes up generations that are new.
    async fn update(&mut self, listed: &[i64]) -> Result<(), Error> {
        let ttl = self
            .reader
            .description()
            .cdc
            .as_ref()
            .map_or(Duration::ZERO, |cdc| cdc.ttl);
        let open = |generation: i64| {
            let of = |(key, group): (&GroupKey, &GroupCheckpoint)| {
                key.generation == generation && !group.closed
            };
            self.stored.iter().any(of)
        };
        let now = self.context.clock.now().wall;
        let needed = plan::needed(listed, self.start, ttl, now, open);
        let mut fresh = Vec::new();
        for timestamp in needed {
            if !self.plan.knows(timestamp) {
                fresh.push((timestamp, self.generations.groups(timestamp).await?));
            }
        }
        for (timestamp, groups) in fresh {
            if groups.is_empty() {
                continue;
            }
            self.add(timestamp, groups);
        }
        self.schedule_readable();
        Ok(())
    }

    fn add(&mut self, timestamp: i64, groups: Vec<generations::StreamGroup>) {
        let total = groups.len();
        let watermark = plan::first_watermark(timestamp, self.start);
        let mut closed = 0;
        let mut ends = Vec::with_capacity(total);
        for group in groups {
            let end = group.last_token(self.generations.distribution());
            let key = GroupKey {
                generation: timestamp,
                group: group.id.clone(),
            };
            let checkpoint = self.stored.remove(&key);
            if checkpoint
                .as_ref()
                .is_some_and(|checkpoint| checkpoint.closed)
            {
                closed += 1;
                ends.extend(end.map(|end| (end, None)));
                continue;
            }
            ends.extend(end.map(|end| (end, Some(self.groups.len() as u32))));
            let settings = self.settings.clone();
            let checkpoint = checkpoint.as_ref();
            let group = Group::new(
                timestamp,
                group,
                checkpoint,
                watermark,
                settings,
                &self.shared,
            );
            self.groups.push(group);
        }
        self.rings.insert(timestamp, ends.into_iter().collect());
        self.plan.add(timestamp, total, closed);
        tracing::info!(
            table = %self.context.outbox.table,
            generation = timestamp,
            groups = total,
            "a generation of streams is taken up"
        );
    }

    /// What has to be saved.
    fn unsaved(&self, last: bool) -> (Vec<GroupCheckpoint>, Vec<(u32, Saved)>) {
        let now = self.context.clock.now().ticks;
        let groups = self.groups.iter().zip(0..);
        groups
            .filter_map(|(group, slot)| {
                let (checkpoint, saved) = group.checkpoint(now, self.idle_interval, last)?;
                Some((checkpoint, (slot, saved)))
            })
            .unzip()
    }

    /// Tells how long the rows that are not settled yet stay in the log.
    fn look_at_expiry(&self) {
        let ttl = self
            .reader
            .description()
            .cdc
            .as_ref()
            .map_or(Duration::ZERO, |cdc| cdc.ttl);
        let open = self.groups.iter().filter(|group| !group.closed);
        let Some(oldest) = open.map(|group| group.follower.watermark()).min() else {
            return;
        };
        let now = self.context.clock.now().wall;
        self.context
            .progress
            .expires(expiry::judge(oldest, now, ttl));
    }

    fn start_save(&mut self) {
        self.look_at_expiry();
        let Some(store) = self.context.checkpoints.clone() else {
            return;
        };
        if !self.saves.is_empty() {
            return;
        }
        let (groups, states) = self.unsaved(false);
        if groups.is_empty() {
            return;
        }
        let table = self.context.outbox.table.clone();
        self.saves.spawn(async move {
            let result = store.save(&table, &groups).await;
            (states, result)
        });
    }

    fn saved(&mut self, saved: Result<SaveResult, JoinError>) {
        match saved {
            Ok((states, Ok(()))) => {
                self.context.metrics.checkpoints.add(states.len() as u64);
                self.context.progress.saved(true);
                for (slot, state) in states {
                    self.groups[slot as usize].saved = Some(state);
                }
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
    async fn give_up(&mut self) {
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
        let Some(store) = self.context.checkpoints.clone() else {
            return;
        };
        let (groups, _) = self.unsaved(true);
        if let Err(error) = store.save(&self.context.outbox.table, &groups).await {
            self.save_failed(&error);
        }
    }

    fn has_pending(&self) -> bool {
        let mut groups = self.groups.iter();
        groups.any(|group| group.tracker.lock().pending() > 0)
    }

    /// Ends the reads and takes what is left of saves.
    async fn end_reads(&mut self) {
        self.reads.abort_all();
        while self.reads.join_next().await.is_some() {}
        while let Some(saved) = self.saves.join_next().await {
            self.saved(saved);
        }
    }

    /// Takes what is left of reads and settlements, and saves everything that is settled, in so
    /// many attempts.
    async fn finish(&mut self, attempts: u32) {
        // At a stop the pipeline has ended, so a read that still hands on fails at once; one that
        // waits for the database, or for room, is given up.
        self.end_reads().await;
        let mut settled = Vec::new();
        while let Ok(one) = self.settled.try_recv() {
            settled.push(one);
        }
        self.settle(&mut settled);
        let Some(store) = self.context.checkpoints.clone() else {
            return;
        };
        for attempt in 1..=attempts {
            let (groups, states) = self.unsaved(true);
            let Err(error) = store.save(&self.context.outbox.table, &groups).await else {
                self.saved(Ok((states, Ok(()))));
                return;
            };
            self.save_failed(&error);
            if attempt == attempts {
                tracing::error!(
                    table = %self.context.outbox.table,
                    "the last checkpoint was not saved: events since the one before will be \
                     published again"
                );
            } else {
                tokio::time::sleep(LAST_SAVE_PAUSE).await;
            }
        }
    }
}

/// A ticker whose first tick comes after one period.
fn ticker(period: Duration) -> tokio::time::Interval {
    let period = period.max(Duration::from_millis(1));
    let mut ticker = interval_at(Instant::now() + period, period);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticker
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

async fn open_reader<O>(context: &SourceContext<O>) -> Result<Arc<LogReader>, reader::Error> {
    let page_rows = i32::try_from(context.config.follow.page_rows.get()).unwrap_or(i32::MAX);
    let session = Arc::clone(&context.session);
    let reader = LogReader::open(session, &context.outbox, page_rows).await?;
    Ok(Arc::new(reader))
}

/// Whether an error may come from an altered, dropped or forbidden table, so that the same read
/// will not succeed.
fn is_about_the_table(error: &reader::Error) -> bool {
    match error {
        reader::Error::Describe(_) => false,
        reader::Error::NoTable(_)
        | reader::Error::CdcOff(_)
        | reader::Error::LogColumn { .. }
        | reader::Error::Prepare { .. }
        | reader::Error::Page { .. } => true,
        reader::Error::Read { source, .. } => match source.as_ref() {
            ExecutionError::BadQuery(_) | ExecutionError::PrepareError(_) => true,
            ExecutionError::LastAttemptError(error) => matches!(
                error,
                RequestAttemptError::RepreparedIdChanged { .. }
                    | RequestAttemptError::CqlResultParseError(_)
                    | RequestAttemptError::DbError(
                        DbError::Invalid
                            | DbError::SyntaxError
                            | DbError::ConfigError
                            | DbError::Unauthorized,
                        _,
                    )
            ),
            _ => false,
        },
    }
}

mod resume;
#[cfg(test)]
mod tests;
