//! The relay's source: its own follower, tracker, reads, plan and form of checkpoints, driven by
//! hand. All that the simulator knows of them is here.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::task::noop_waker_ref;
use outbox_relay::ack::Settled;
use outbox_relay::checkpoint::{GroupCheckpoint, GroupKey, published};
use outbox_relay::event::{ChangeColumns, Position};
use outbox_relay::pipeline::PublishIntake;
use outbox_relay::runtime::Phase;
use outbox_relay::runtime::health::Progress;
use outbox_relay::source::clock::Clock;
use outbox_relay::source::follower::{Follower, Kind, Moment, Next, Outcome, Read, Settings};
use outbox_relay::source::generations::StreamGroup;
use outbox_relay::source::group::{Beginning, Group, Saved};
use outbox_relay::source::pace::Pace;
use outbox_relay::source::pass::{self, Ended, Member, Pass, Shared};
use outbox_relay::source::plan::{self, Plan};
use outbox_relay::source::reader::MAX_STREAMS;
use outbox_relay::source::rounds::{Part, Round, Rounds};
use outbox_relay::telemetry::metrics::Metrics;
use tokio::sync::{mpsc, watch};

use crate::database::{Save, StreamKey, stream_id};
use crate::scenario::Scenario;
use crate::wire::{Request, Wire};

mod log;

use log::SimulatedLog;

/// How often a group that waits for room is looked at again, as in the relay.
const RECHECK: i64 = 50_000;

/// A checkpoint as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Form {
    /// W.
    pub(crate) watermark: i64,
    /// The rows above it, in their stored form.
    pub(crate) published: Vec<u8>,
    /// Whether the group has come to its end.
    pub(crate) closed: bool,
}

impl Form {
    fn of(checkpoint: &GroupCheckpoint) -> Self {
        Self {
            watermark: checkpoint.watermark,
            published: published::encode(&checkpoint.published, checkpoint.watermark),
            closed: checkpoint.closed,
        }
    }

    fn read(&self, key: &GroupKey) -> GroupCheckpoint {
        GroupCheckpoint {
            key: key.clone(),
            watermark: self.watermark,
            published: published::decode(&self.published, self.watermark)
                .expect("what was saved can be read"),
            closed: self.closed,
        }
    }
}

/// A read that has ended.
struct Done {
    members: Vec<Member<PublishIntake>>,
    read: Read,
    /// The bundle whose round it was.
    bundle: Option<usize>,
    ended: Result<Ended, pass::Error>,
}

/// Groups of one generation that are read together once they have caught up.
struct Bundle {
    generation: i64,
    slots: Vec<usize>,
    streams: usize,
    rounds: Rounds,
    due: Option<i64>,
    reading: bool,
}

type Reading = Pin<Box<dyn Future<Output = Done> + Send>>;

/// What a read did, for the trace.
pub(crate) type Said = String;

/// The source of the one table.
pub(crate) struct SourceSide {
    shared: Arc<Shared>,
    settings: Settings,
    idle_save: i64,
    scenario: Arc<Scenario>,
    log: Arc<SimulatedLog>,
    prototype: PublishIntake,
    plan: Plan,
    stored: BTreeMap<GroupKey, Save>,
    groups: Vec<Group<PublishIntake>>,
    /// Generation and group, by their indexes.
    names: Vec<[u8; 2]>,
    bundles: Vec<Bundle>,
    reads: Vec<Reading>,
    pace: Arc<Pace>,
    settled: mpsc::UnboundedReceiver<Settled>,
    /// For the oracles: what was settled, by group.
    known: Vec<BTreeSet<(StreamKey, Position)>>,
    saving: Option<Vec<(u32, Saved)>>,
    /// W by what is surely stored, as the relay's store remembers it.
    surely: BTreeMap<GroupKey, i64>,
    stamp: i64,
    /// What is worth a line of the trace, if there is one.
    said: Option<Vec<Said>>,
}

impl std::fmt::Debug for SourceSide {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceSide").finish_non_exhaustive()
    }
}

impl SourceSide {
    /// A source that begins with what is stored.
    #[expect(clippy::too_many_arguments, reason = "all that a process begins with")]
    pub(crate) fn new(
        scenario: &Arc<Scenario>,
        wire: &Arc<Wire>,
        clock: &Arc<Clock>,
        columns: Arc<ChangeColumns>,
        prototype: PublishIntake,
        phase: watch::Receiver<Phase>,
        stored: &BTreeMap<GroupKey, Save>,
        traced: bool,
    ) -> Self {
        let (sender, settled) = mpsc::unbounded_channel();
        let settings = scenario.settings.clone();
        let pace = Arc::new(Pace::new(&scenario.follow));
        let shared = Shared {
            metrics: Arc::new(Metrics::default()),
            progress: Arc::new(Progress::default()),
            pace: Arc::clone(&pace),
            clock: Arc::clone(clock),
            settled: sender,
            phase,
            tracked: AtomicUsize::new(0),
            limit: scenario.follow.tracked_positions.get(),
            late_window: settings.late_window,
            confirm: settings.confirm,
        };
        let log = SimulatedLog {
            wire: Arc::clone(wire),
            columns,
            page_rows: scenario.page_rows,
            streams: scenario
                .stream_keys()
                .map(|stream| (stream_id(stream), stream))
                .collect(),
        };
        let newest = stored.values().map(|save| save.timestamp).max();
        Self {
            shared: Arc::new(shared),
            settings,
            idle_save: scenario.idle_save,
            scenario: Arc::clone(scenario),
            log: Arc::new(log),
            prototype,
            plan: Plan::default(),
            surely: stored
                .iter()
                .map(|(key, save)| (key.clone(), save.form.watermark))
                .collect(),
            stored: stored.clone(),
            groups: Vec::new(),
            names: Vec::new(),
            bundles: Vec::new(),
            reads: Vec::new(),
            pace,
            settled,
            known: Vec::new(),
            saving: None,
            stamp: newest.unwrap_or(0),
            said: traced.then(Vec::new),
        }
    }

    /// What was worth a line since the last time.
    pub(crate) fn said(&mut self) -> Vec<Said> {
        self.said.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// These generations are listed (milliseconds).
    pub(crate) fn looked(&mut self, listed: &[i64], start: i64, now: Moment) {
        let stored = &self.stored;
        let open = |generation: i64| {
            let mut of = stored
                .iter()
                .filter(|(key, save)| key.generation == generation && !save.form.closed);
            of.next().is_some()
        };
        let ttl = Duration::from_micros(self.scenario.faults.ttl as u64);
        for timestamp in plan::needed(listed, start, ttl, now.wall, open) {
            if !self.plan.knows(timestamp) {
                self.add(timestamp, start, now);
            }
        }
        self.schedule_readable(now.ticks);
    }

    fn add(&mut self, timestamp: i64, start: i64, now: Moment) {
        let generations = &self.scenario.generations;
        let generation = generations.iter().position(|t| *t == timestamp);
        let generation = generation.expect("a listed generation");
        let first = plan::first_watermark(timestamp, start);
        let mut parts = Vec::new();
        let ring = self.scenario.rings[generation].clone();
        for (group, range_end) in (0_u8..).zip(ring) {
            let name = [generation as u8, group];
            let streams = 0..self.scenario.streams as u8;
            let described = StreamGroup {
                id: vec![group],
                range_end,
                streams: streams.map(|s| stream_id([name[0], group, s])).collect(),
            };
            let key = GroupKey {
                generation: timestamp,
                group: described.id.clone(),
            };
            let saved = self.stored.remove(&key);
            let checkpoint = saved.as_ref().map(|save| save.form.read(&key));
            let closed = checkpoint.as_ref().is_some_and(|stored| stored.closed);
            parts.push((range_end, closed));
            if closed {
                continue;
            }
            let slot = self.groups.len();
            let beginning = Beginning {
                generation: timestamp,
                bundle: self.join_bundle(timestamp, slot, described.streams.len(), now),
                group: described,
                checkpoint: checkpoint.as_ref(),
                first,
            };
            let group = Group::new(beginning, self.settings.clone(), &self.shared);
            self.groups.push(group);
            self.names.push(name);
            let known = saved.into_iter().flat_map(|save| save.settled);
            self.known.push(known.collect());
        }
        self.plan.add(timestamp, parts);
    }

    fn join_bundle(&mut self, generation: i64, slot: usize, streams: usize, now: Moment) -> u32 {
        let last = self.bundles.last_mut().filter(|bundle| {
            bundle.generation == generation && bundle.streams + streams <= MAX_STREAMS
        });
        if let Some(bundle) = last {
            bundle.slots.push(slot);
            bundle.streams += streams;
        } else {
            self.bundles.push(Bundle {
                generation,
                slots: vec![slot],
                streams,
                rounds: Rounds::new(&self.settings, now),
                due: None,
                reading: false,
            });
        }
        self.bundles.len() as u32 - 1
    }

    fn schedule(&mut self, slot: usize, ticks: i64) {
        let group = &mut self.groups[slot];
        let readable = !group.reading && !group.closed;
        if readable && self.plan.may_read(group.key.generation, group.range_end) {
            group.due = Some(ticks);
        }
    }

    fn schedule_bundle(&mut self, index: usize, ticks: i64) {
        let bundle = &mut self.bundles[index];
        if !bundle.reading && bundle.due.is_none_or(|due| ticks < due) {
            bundle.due = Some(ticks);
        }
    }

    fn schedule_readable(&mut self, now: i64) {
        for slot in 0..self.groups.len() {
            let group = &self.groups[slot];
            if group.due.is_none() && !group.reading && !group.follower.is_live() {
                self.schedule(slot, now);
            }
        }
    }

    /// Does everything that can be done now; says whether anything was.
    pub(crate) fn progress(&mut self, now: Moment) -> bool {
        let mut any = self.settle(now);
        if *self.shared.phase.borrow() == Phase::Running {
            any |= self.start_reads(now);
        }
        any |= self.poll(now);
        any | self.settle(now)
    }

    fn start_reads(&mut self, now: Moment) -> bool {
        let mut any = false;
        let is_due = |due: Option<i64>| due.is_some_and(|due| due <= now.ticks);
        for index in 0..self.bundles.len() {
            if is_due(self.bundles[index].due) && self.pace.wait(now.ticks) == 0 {
                any = true;
                self.turn_of_bundle(index, now);
            }
        }
        for slot in 0..self.groups.len() {
            if is_due(self.groups[slot].due) && self.pace.wait(now.ticks) == 0 {
                any = true;
                self.turn_of_group(slot, now);
            }
        }
        any
    }

    fn turn_of_group(&mut self, slot: usize, now: Moment) {
        let group = &mut self.groups[slot];
        group.due = None;
        if group.reading {
            return;
        }
        let load = group.load(&self.shared);
        match group.follower.next(now, load) {
            Next::Read(read) => self.start_read(&[slot], read, None),
            Next::At(ticks) => self.schedule(slot, ticks.max(now.ticks + 1)),
            Next::AfterSettlement => {
                group.waiting = true;
                self.schedule(slot, now.ticks + RECHECK);
            }
            Next::Live => {
                let bundle = group.bundle as usize;
                self.schedule_bundle(bundle, now.ticks);
            }
        }
    }

    fn turn_of_bundle(&mut self, index: usize, now: Moment) {
        self.bundles[index].due = None;
        if self.bundles[index].reading {
            return;
        }
        let slots = self.bundles[index].slots.clone();
        let live: Vec<usize> = slots
            .into_iter()
            .filter(|slot| self.takes_part(*slot, now))
            .collect();
        let Some(part) = self.part(&live, now) else {
            return;
        };
        let read = |kind, after, upto| Read {
            kind,
            after,
            upto,
            started: now,
            row_limit: None,
        };
        match self.bundles[index].rounds.next(now, part) {
            Round::Poll(after) => {
                self.start_read(&live, read(Kind::Tail, after, None), Some(index));
            }
            Round::Rescan { after, upto } => {
                self.start_read(&live, read(Kind::Rescan, after, upto), Some(index));
            }
            Round::At(ticks) => self.schedule_bundle(index, ticks.max(now.ticks + 1)),
        }
    }

    fn takes_part(&mut self, slot: usize, now: Moment) -> bool {
        let group = &mut self.groups[slot];
        if group.reading || group.closed || !group.follower.is_live() {
            return false;
        }
        let load = group.load(&self.shared);
        let live = group.follower.next(now, load) == Next::Live;
        if !live && group.due.is_none() {
            self.schedule(slot, now.ticks);
        }
        live
    }

    fn part(&self, slots: &[usize], now: Moment) -> Option<Part> {
        let followers = slots.iter().map(|slot| &self.groups[*slot].follower);
        let boundary = slots.first().and_then(|slot| {
            let generation = self.groups[*slot].key.generation;
            self.plan.boundary(generation)
        });
        let over = boundary.filter(|boundary| now.wall >= *boundary);
        Some(Part {
            confirmed: followers.clone().map(Follower::confirmed).min()?,
            tailed_at: followers.clone().map(Follower::tailed_at).min()?,
            everything: over.is_some_and(|boundary| {
                let mut followers = followers.clone();
                followers.any(|follower| !follower.has_covered(boundary))
            }),
        })
    }

    fn start_read(&mut self, slots: &[usize], read: Read, bundle: Option<usize>) {
        let mut members = Vec::with_capacity(slots.len());
        for slot in slots {
            let group = &mut self.groups[*slot];
            group.reading = true;
            group.waiting = false;
            let intake = group.intake.take();
            members.push(Member {
                slot: *slot as u32,
                streams: Arc::clone(&group.streams),
                tracker: group.tracker.clone(),
                stragglers: group.stragglers.clone(),
                intake: intake.unwrap_or_else(|| self.prototype.clone()),
                late_before: group.follower.late_before(),
                published: group.published.clone(),
                outcome: Outcome::default(),
            });
        }
        if let Some(bundle) = bundle {
            self.bundles[bundle].reading = true;
        }
        let (shared, log) = (Arc::clone(&self.shared), Arc::clone(&self.log));
        let mut pass = Pass::new(shared, log, read, members);
        self.reads.push(Box::pin(async move {
            let ended = pass.run().await;
            Done {
                members: pass.members,
                read: pass.read,
                bundle,
                ended,
            }
        }));
    }

    fn poll(&mut self, now: Moment) -> bool {
        let mut context = Context::from_waker(noop_waker_ref());
        let mut ended = Vec::new();
        self.reads
            .retain_mut(|reading| match reading.as_mut().poll(&mut context) {
                Poll::Ready(done) => {
                    ended.push(done);
                    false
                }
                Poll::Pending => true,
            });
        let any = !ended.is_empty();
        for done in ended {
            self.done(done, now);
        }
        any
    }

    fn tell(&mut self, done: &Done) {
        let Some(said) = &mut self.said else { return };
        let groups = done
            .members
            .iter()
            .map(|member| self.names[member.slot as usize]);
        let groups: Vec<[u8; 2]> = groups.collect();
        let count = |of: fn(&Outcome) -> usize| -> usize {
            done.members.iter().map(|member| of(&member.outcome)).sum()
        };
        let (rows, fresh) = (
            count(|outcome| outcome.rows),
            count(|outcome| outcome.fresh),
        );
        let ended = match &done.ended {
            Ok(ended) => format!("{ended:?}"),
            Err(_) => "failed".to_owned(),
        };
        said.push(format!(
            "read {:?} of {groups:?} ({}, {}], begun {}: {ended}, {rows} rows, {fresh} fresh",
            done.read.kind,
            crate::trace::time(done.read.after),
            done.read.upto.map(crate::trace::time).unwrap_or_default(),
            crate::trace::time(done.read.started.wall),
        ));
        let untold = self.shared.metrics.unreconciled.get();
        if done.read.kind == Kind::Resume && untold > 0 {
            said.push(format!(
                "of {untold} rows so far it cannot be told whether they are published"
            ));
        }
    }

    /// Rows of which this life could not tell whether an earlier one had published them.
    pub(crate) fn untold(&self) -> u64 {
        self.shared.metrics.unreconciled.get()
    }

    fn done(&mut self, done: Done, now: Moment) {
        self.tell(&done);
        let Done {
            members,
            read,
            bundle,
            ended,
        } = done;
        let mut outcomes = Vec::with_capacity(members.len());
        for member in members {
            let slot = member.slot as usize;
            let group = &mut self.groups[slot];
            group.reading = false;
            group.intake = Some(member.intake);
            outcomes.push((slot, member.outcome));
        }
        match ended {
            Ok(Ended::Complete) => self.complete(&read, &outcomes, bundle, now),
            Ok(Ended::GivenUp) => {
                for (slot, _) in &outcomes {
                    self.groups[*slot].follower.given_up(&read);
                }
                if let Some(bundle) = bundle {
                    self.bundles[bundle].rounds.again(now);
                }
            }
            Ok(Ended::Stopped) | Err(pass::Error::Closed(_)) => return,
            Err(pass::Error::Reader(_)) => {
                for (slot, _) in &outcomes {
                    self.groups[*slot].follower.failed(now);
                }
            }
        }
        for (slot, _) in outcomes {
            self.moved(slot, now);
            if bundle.is_none() || !self.groups[slot].follower.is_live() {
                self.schedule(slot, now.ticks);
            }
        }
        if let Some(bundle) = bundle {
            self.bundles[bundle].reading = false;
            self.schedule_bundle(bundle, now.ticks);
        }
    }

    fn complete(
        &mut self,
        read: &Read,
        outcomes: &[(usize, Outcome)],
        bundle: Option<usize>,
        now: Moment,
    ) {
        for (slot, outcome) in outcomes {
            let group = &mut self.groups[*slot];
            group.follower.completed(read, *outcome);
            if read.kind == Kind::Resume {
                group.recognised();
            }
        }
        let fresh = outcomes.iter().map(|(_, outcome)| outcome.fresh).sum();
        let newest = outcomes.iter().filter_map(|(_, o)| o.newest).max();
        let Some(bundle) = bundle else {
            if fresh > 0 && read.kind == Kind::Tail {
                let bundle = self.groups[outcomes[0].0].bundle as usize;
                self.bundles[bundle].rounds.woken(fresh, false, now);
            }
            return;
        };
        let rounds = &mut self.bundles[bundle].rounds;
        if read.kind == Kind::Tail {
            rounds.polled(fresh, 0, newest, [read.started, now]);
        } else {
            rounds.rescanned(read.upto, fresh, [read.started, now]);
        }
    }

    fn settle(&mut self, now: Moment) -> bool {
        let mut slots = BTreeSet::new();
        while let Ok(Settled { group, row }) = self.settled.try_recv() {
            let slot = group as usize;
            self.groups[slot].tracker.lock().settle(row);
            let [generation, group] = self.names[slot];
            let stream = [generation, group, row.stream as u8];
            self.known[slot].insert((stream, row.position));
            slots.insert(slot);
        }
        for slot in &slots {
            self.moved(*slot, now);
            if self.groups[*slot].waiting {
                self.schedule(*slot, now.ticks);
            }
        }
        !slots.is_empty()
    }

    /// As the relay's source: W may move, and the group may have come to its end.
    fn moved(&mut self, slot: usize, now: Moment) {
        let group = &mut self.groups[slot];
        let pending = group.advance(&self.shared);
        let generation = group.key.generation;
        let Some(boundary) = self.plan.boundary(generation) else {
            return;
        };
        let covered = group.follower.has_covered(boundary);
        if !group.drained && pending == 0 && !group.reading && covered {
            group.drained = true;
            self.plan.drained(generation, group.range_end);
            self.schedule_readable(now.ticks);
        }
        let group = &mut self.groups[slot];
        if group.drained && !group.closed && group.follower.watermark() >= boundary {
            group.closed = true;
            group.due = None;
            self.plan.closed(generation);
        }
    }

    /// When a group is to be looked at again, in ticks.
    pub(crate) fn next_due(&self) -> Option<i64> {
        if *self.shared.phase.borrow() > Phase::Running {
            return None;
        }
        let groups = self.groups.iter().filter_map(|group| group.due);
        let due = groups.chain(self.bundles.iter().filter_map(|bundle| bundle.due));
        due.min()
    }

    /// How long polls have to wait for others, in microseconds.
    pub(crate) fn pause(&self, now: i64) -> i64 {
        self.pace.wait(now)
    }

    /// What is to be saved now, unless a save is under way.
    pub(crate) fn save(&mut self, now: Moment, system: i64, last: bool) -> Option<Request> {
        if self.saving.is_some() {
            return None;
        }
        let mut saves = Vec::new();
        let mut states = Vec::new();
        self.stamp = system.max(self.stamp + 1);
        for (slot, group) in self.groups.iter().enumerate() {
            let checkpoint = group.checkpoint(now.wall, now.ticks, self.idle_save, last);
            let Some((checkpoint, state)) = checkpoint else {
                continue;
            };
            states.push((slot as u32, state));
            let lower = self.surely.get(&checkpoint.key);
            if lower.is_some_and(|stored| checkpoint.watermark < *stored) {
                continue;
            }
            saves.push(Save {
                key: checkpoint.key.clone(),
                form: Form::of(&checkpoint),
                timestamp: self.stamp,
                settled: self.known[slot].iter().copied().collect(),
            });
        }
        if states.is_empty() {
            return None;
        }
        self.saving = Some(states);
        Some(Request::Save(saves))
    }

    /// The save has ended.
    pub(crate) fn saved(&mut self, saves: &[Save], ok: bool) {
        let states = self.saving.take().unwrap_or_default();
        if !ok {
            return;
        }
        for save in saves {
            let stored = self.surely.entry(save.key.clone()).or_insert(i64::MIN);
            *stored = save.form.watermark.max(*stored);
        }
        for (slot, state) in states {
            self.groups[slot as usize].saved = Some(state);
        }
    }

    /// Ends all reads: the source stops.
    pub(crate) fn end_reads(&mut self) {
        self.reads.clear();
    }

    /// Whether every row up to this microsecond is behind the watermark of its group.
    pub(crate) fn has_passed(&self, micros: i64, generations: usize) -> bool {
        let newest = self
            .names
            .iter()
            .any(|name| usize::from(name[0]) + 1 == generations);
        let passed =
            |group: &Group<PublishIntake>| group.closed || group.follower.watermark() >= micros;
        (newest || self.groups.is_empty()) && self.groups.iter().all(passed)
    }

    /// The oldest watermark of an open group.
    pub(crate) fn oldest(&self) -> Option<i64> {
        let open = self.groups.iter().filter(|group| !group.closed);
        open.map(|group| group.follower.watermark()).min()
    }

    /// Rows that the trackers hold, and how many they may hold at most by their own rules.
    pub(crate) fn tracked(&self) -> usize {
        let lens = self.groups.iter().map(|group| group.tracker.lock().len());
        lens.sum()
    }
}
