//! The source of one outbox table: its groups, their reads, its checkpoints.
//!
//! One task owns the state of all groups; a heap of due times starts reads as tasks of a set, so
//! that an idle group costs nothing between two reads. It never waits for a row to be taken. Groups that
//! have caught up are read in bundles ([`bundles`]), others each by itself.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use scylla::client::session::Session;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::clock::Clock;
use super::follower::{Kind, Moment, Next, Outcome, Read, Settings};
use super::generations::Generations;
use super::group::{Group, Saved};
use super::intake::OpenIntake;
use super::pace::Pace;
use super::pass::{self, Ended, Member, Pass, Shared};
use super::plan::Plan;
use super::reader::{self, LogReader};
use super::ring::Ring;
use super::wake_up::{Hints, WakeUps};
use crate::ack::Settled;
use crate::checkpoint::{GroupCheckpoint, GroupKey, Store};
use crate::config::{Config, Outbox};
use crate::runtime::health::{Progress, checks::FAILING_READS};
use crate::runtime::pauses::Pause;
use crate::runtime::{Chain, Phase};
use crate::telemetry::metrics::Metrics;

use bundles::{Bundle, Unit};
pub use error::Error;
use error::{is_about_the_table, is_overload};

/// How long to wait when nothing is due.
const IDLE: Duration = Duration::from_hours(1);
/// How often a group that waits for room is looked at again.
const RECHECK_MICROS: i64 = 50_000;
/// A second change of the table within this time is an error rather than a change.
const REOPEN_PAUSE_MICROS: i64 = 5_000_000;
/// Settlements taken at once.
const SETTLED_AT_ONCE: usize = 4_096;

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
    /// Bounds the reads of all tables.
    pub pace: Arc<Pace>,
    /// The relay's clock.
    pub clock: Arc<Clock>,
    /// What the source has done, for the health monitor.
    pub progress: Arc<Progress>,
    /// Hints of writers, if they are taken.
    pub wake_ups: Option<WakeUps>,
    /// Whether a person has paused the table.
    pub pause: Pause,
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
        // The last attempts to save are over then.
        if !matches!(ended, Ok(()) | Err(Error::Unsaved(_))) {
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
    epoch: u64,
    members: Vec<Member<I>>,
    read: Read,
    of: Of,
    ended: Result<Ended, pass::Error>,
}

/// Whose turn a read was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    /// A group's by itself.
    Group,
    /// A bundle's.
    Bundle(u32),
    /// That of groups which writers have named.
    Hint,
}

struct Running<'c, O: OpenIntake> {
    context: &'c SourceContext<O>,
    shared: Arc<Shared>,
    settings: Settings,
    reader: Arc<LogReader>,
    prototype: O::Intake,
    epoch: u64,
    reopened_at: Option<i64>,
    generations: Generations,
    start: i64,
    stored: HashMap<GroupKey, GroupCheckpoint>,
    plan: Plan,
    groups: Vec<Group<O::Intake>>,
    bundles: Vec<Bundle>,
    /// The slots of each generation's groups; `None` for those that an earlier run has closed.
    rings: BTreeMap<i64, Ring<Option<u32>>>,
    hints: Hints,
    /// Groups in which something was written just now, as writers say.
    hinted: Vec<u32>,
    /// Reads under way because of hints.
    hinted_reads: usize,
    /// Whether the last turn was that of hints.
    hinted_last: bool,
    due: BinaryHeap<Reverse<(i64, Unit)>>,
    reads: JoinSet<Done<O::Intake>>,
    saves: saves::Saves,
    sweeps: sweeps::Sweeps,
    /// Groups whose reads fail again and again.
    failing: usize,
    /// Whether writes to the table are logged.
    logged: bool,
    settled: mpsc::UnboundedReceiver<Settled>,
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
        let listed = generations.timestamps().await?;
        let (start, stored) = resume::resume(context, &reader, &listed).await?;
        let (sender, settled) = mpsc::unbounded_channel();
        let settings = Settings::new(follow);
        let shared = Shared {
            metrics: Arc::clone(&context.metrics),
            progress: Arc::clone(&context.progress),
            pace: Arc::clone(&context.pace),
            clock: Arc::clone(&context.clock),
            settled: sender,
            phase,
            tracked: AtomicUsize::new(0),
            limit: follow.tracked_positions.get(),
            late_window: settings.late_window,
            confirm: settings.confirm,
        };
        let mut running = Self {
            context,
            shared: Arc::new(shared),
            saves: saves::Saves::default(),
            sweeps: sweeps::Sweeps::new(settings.late_window),
            settings,
            reader,
            prototype,
            epoch: 0,
            reopened_at: None,
            generations,
            start,
            stored,
            plan: Plan::default(),
            groups: Vec::new(),
            bundles: Vec::new(),
            rings: BTreeMap::new(),
            hints: (context.wake_ups.as_ref()).map_or_else(Hints::none, |wake_ups| {
                wake_ups.subscribe(&context.outbox.table)
            }),
            hinted: Vec::new(),
            hinted_reads: 0,
            hinted_last: false,
            due: BinaryHeap::new(),
            reads: JoinSet::new(),
            failing: 0,
            logged: true,
            settled,
        };
        context.progress.failing_groups(0);
        context.progress.logged(true);
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
        let mut looks: JoinSet<surroundings::Looked> = JoinSet::new();
        let mut settled = Vec::with_capacity(SETTLED_AT_ONCE);
        let mut tokens = Vec::new();
        let mut now_phase = *phase.borrow_and_update();
        let mut pause = self.context.pause.clone();
        while now_phase < Phase::Finishing {
            let paused = pause.is_paused();
            let reading = if paused { Phase::Draining } else { now_phase };
            let still = self.reads.is_empty() && self.sweeps.tasks.is_empty();
            self.context.progress.rests(paused && still);
            let wake = self.start_reads(reading).min(self.start_sweep(reading));
            tokio::select! {
                () = pause.changed() => {}
                changed = phase.changed() => {
                    let ended = changed.is_err();
                    now_phase = if ended { Phase::Finishing } else { *phase.borrow_and_update() };
                }
                _ = self.settled.recv_many(&mut settled, SETTLED_AT_ONCE) => self.settle(&mut settled),
                () = self.hints.next(&mut tokens) => self.hint(&mut tokens),
                Some(done) = self.reads.join_next() => self.done(done).await?,
                () = tokio::time::sleep(wake) => {}
                _ = save.tick() => self.start_save(),
                Some(saved) = self.saves.tasks.join_next() => self.saved(saved),
                Some(swept) = self.sweeps.tasks.join_next() => self.swept(swept),
                _ = look.tick(), if looks.is_empty() => {
                    let generations = self.generations.clone();
                    let session = Arc::clone(&self.context.session);
                    let table = self.context.outbox.table.clone();
                    looks.spawn(surroundings::look(generations, session, table));
                }
                Some(looked) = looks.join_next() => self.looked(looked.map_err(Error::Panicked)?).await,
            }
        }
        if self.finish(saves::LAST_SAVES).await {
            Ok(())
        } else {
            Err(Error::Unsaved(self.context.outbox.table.clone()))
        }
    }

    /// Starts what is due; gives back how long nothing else will be.
    fn start_reads(&mut self, phase: Phase) -> Duration {
        if phase > Phase::Running {
            return IDLE;
        }
        loop {
            self.start_hinted();
            let now = self.context.clock.now();
            let pace = self.context.pace.wait(now.ticks);
            let next = self.due.peek().copied();
            let due = next.map_or(i64::MAX, |Reverse((at, _))| at - now.ticks);
            let hints = pace > 0 && !self.hinted.is_empty();
            let wait = if hints { pace } else { pace.max(due) };
            let Some(Reverse((at, unit))) = next.filter(|_| wait <= 0) else {
                return IDLE.min(Duration::from_micros(wait.max(0) as u64));
            };
            self.due.pop();
            match unit {
                Unit::Group(slot) => self.turn_of_group(slot, at, now),
                Unit::Bundle(bundle) => self.turn_of_bundle(bundle, at, now),
            }
        }
    }

    /// What a group by itself does next.
    fn turn_of_group(&mut self, slot: u32, at: i64, now: Moment) {
        let group = &mut self.groups[slot as usize];
        if group.due != Some(at) {
            return;
        }
        group.due = None;
        if group.reading {
            return;
        }
        let pausing = now.ticks < group.follower.retry_at();
        if !pausing && group.stragglers.lock().is_waiting() {
            let watermark = group.follower.watermark();
            let read = Read {
                kind: Kind::Stragglers,
                after: i64::MIN,
                upto: Some(watermark),
                started: now,
                row_limit: None,
            };
            return self.start_read(&[slot], read, Of::Group);
        }
        let load = group.load(&self.shared);
        match group.follower.next(now, load) {
            Next::Read(read) => self.start_read(&[slot], read, Of::Group),
            Next::At(ticks) => self.schedule(slot, ticks.max(now.ticks + 1)),
            Next::AfterSettlement => {
                group.waiting = true;
                self.schedule(slot, now.ticks + RECHECK_MICROS);
            }
            Next::Live => {
                let bundle = group.bundle;
                self.schedule_bundle(bundle, now.ticks);
            }
        }
    }

    fn may_read(&self, slot: u32) -> bool {
        let group = &self.groups[slot as usize];
        let readable = !group.reading && !group.closed;
        readable && self.plan.may_read(group.key.generation, group.range_end)
    }

    fn schedule(&mut self, slot: u32, ticks: i64) {
        if self.may_read(slot) {
            self.groups[slot as usize].due = Some(ticks);
            self.due.push(Reverse((ticks, Unit::Group(slot))));
        }
    }

    fn start_read(&mut self, slots: &[u32], read: Read, of: Of) {
        let mut members = Vec::with_capacity(slots.len());
        for slot in slots {
            let group = &mut self.groups[*slot as usize];
            group.reading = true;
            group.waiting = false;
            group.hinted = false;
            let intake = group.intake.take();
            members.push(Member {
                slot: *slot,
                streams: Arc::clone(&group.streams),
                tracker: group.tracker.clone(),
                stragglers: group.stragglers.clone(),
                intake: intake.unwrap_or_else(|| self.prototype.clone()),
                late_before: group.follower.late_before(),
                published: group.published.clone(),
                outcome: Outcome::default(),
            });
        }
        match of {
            Of::Group => {}
            Of::Bundle(bundle) => self.bundles[bundle as usize].reading = true,
            Of::Hint => self.hinted_reads += 1,
        }
        let epoch = self.epoch;
        let (shared, reader) = (Arc::clone(&self.shared), Arc::clone(&self.reader));
        let mut pass = Pass::new(shared, reader, read, members);
        self.reads.spawn(async move {
            let ended = pass.run().await;
            Done {
                epoch,
                members: pass.members,
                read: pass.read,
                of,
                ended,
            }
        });
    }

    async fn done(&mut self, done: Result<Done<O::Intake>, JoinError>) -> Result<(), Error> {
        let Done {
            epoch,
            members,
            read,
            of,
            ended,
        } = done.map_err(Error::Panicked)?;
        let now = self.context.clock.now();
        let current = epoch == self.epoch;
        if of == Of::Hint {
            self.hinted_reads -= 1;
        }
        let mut outcomes = Vec::with_capacity(members.len());
        for member in members {
            let group = &mut self.groups[member.slot as usize];
            group.reading = false;
            group.intake = current.then_some(member.intake);
            outcomes.push((member.slot, member.outcome));
        }
        match ended {
            Ok(Ended::Complete) => self.read_complete(&read, &outcomes, of, now),
            Ok(Ended::GivenUp) => {
                for (slot, _) in &outcomes {
                    self.groups[*slot as usize].follower.given_up(&read);
                }
                if let Of::Bundle(bundle) = of {
                    self.bundles[bundle as usize].rounds.again(now);
                }
            }
            // The pipeline has ended. The supervisor sees it too and stops the relay; until then
            // what is settled is still saved.
            Ok(Ended::Stopped) | Err(pass::Error::Closed(_)) => return Ok(()),
            Err(pass::Error::Reader(error)) => {
                for (slot, _) in &outcomes {
                    self.groups[*slot as usize].follower.failed(now);
                    self.read_badly(*slot);
                }
                self.read_failed(error, current, now).await?;
            }
        }
        for (slot, _) in &outcomes {
            self.moved(*slot);
            let group = &self.groups[*slot as usize];
            if group.hinted {
                self.hinted.push(*slot);
            }
            let straggling = group.stragglers.lock().is_waiting();
            if !matches!(of, Of::Bundle(_)) || !group.follower.is_live() || straggling {
                self.schedule(*slot, now.ticks);
            }
        }
        if let Of::Bundle(bundle) = of {
            self.bundles[bundle as usize].reading = false;
            self.schedule_bundle(bundle, now.ticks);
        }
        Ok(())
    }

    fn read_complete(&mut self, read: &Read, outcomes: &[(u32, Outcome)], of: Of, now: Moment) {
        self.context.progress.read();
        for (slot, outcome) in outcomes {
            let group = &mut self.groups[*slot as usize];
            group.follower.completed(read, *outcome);
            if read.kind == Kind::Resume {
                group.recognised();
            }
            if read.kind == Kind::Stragglers {
                let done = group.stragglers.lock().forget_waiting();
                self.saves
                    .windows
                    .extend(done.into_iter().map(|window| (*slot, window)));
            }
            self.read_well(*slot);
        }
        self.round_complete(read, outcomes, of, now);
    }

    fn read_well(&mut self, slot: u32) {
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

    async fn read_failed(
        &mut self,
        error: reader::Error,
        current: bool,
        now: Moment,
    ) -> Result<(), Error> {
        self.context.metrics.read_errors.add(1);
        if is_overload(&error) {
            self.context.pace.complained(now.ticks);
        }
        // An error of a reader that was replaced meanwhile says nothing of the new one.
        if current && is_about_the_table(&error) {
            return self.reopen(error, now.ticks).await;
        }
        tracing::warn!(
            table = %self.context.outbox.table,
            error = %Chain(&error),
            "a read of the log has failed and will be made again"
        );
        Ok(())
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
        for Settled { group: slot, row } in settled.drain(..) {
            let Some(group) = self.groups.get(slot as usize) else {
                continue;
            };
            if !group.tracker.lock().settle(row)
                && let Some(window) = group.stragglers.lock().settle(row)
            {
                self.saves.windows.push((slot, window));
            }
            slots.push(slot);
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
            self.plan.drained(generation, group.range_end);
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

    /// Starts the groups that wait for nothing any more.
    fn schedule_readable(&mut self) {
        let now = self.context.clock.now().ticks;
        for slot in 0..self.groups.len() {
            let group = &self.groups[slot];
            if group.due.is_none() && !group.reading && !group.follower.is_live() {
                self.schedule(slot as u32, now);
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

mod bundles;
mod error;
mod resume;
mod saves;
mod surroundings;
mod sweeps;
#[cfg(test)]
mod tests;
