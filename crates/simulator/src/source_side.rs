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
use outbox_relay::config::TableName;
use outbox_relay::event::{ChangeColumns, Position, RowKey};
use outbox_relay::pipeline::PublishIntake;
use outbox_relay::runtime::Phase;
use outbox_relay::source::changes::LogRow;
use outbox_relay::source::follower::{Moment, Next, Outcome, Read, Settings};
use outbox_relay::source::generations::StreamGroup;
use outbox_relay::source::group::{Group, Saved};
use outbox_relay::source::pass::{self, Ended, Pass, Shared};
use outbox_relay::source::plan::{self, Plan};
use outbox_relay::source::reader::{self, Log, Page, Range};
use outbox_relay::telemetry::metrics::Metrics;
use scylla::response::PagingState;
use scylla::value::CqlTimeuuid;
use scylla_cdc::cdc_types::StreamID;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::database::{Save, StreamKey, stream_id};
use crate::scenario::Scenario;
use crate::wire::{Answer, Request, Wire};

/// How often a group that waits for room is looked at again, as in the relay.
const RECHECK: i64 = 50_000;

/// A checkpoint as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form {
    /// W.
    pub watermark: i64,
    /// The rows above it, in their stored form.
    pub published: Vec<u8>,
    /// Whether the group has come to its end.
    pub closed: bool,
}

impl Form {
    fn of(checkpoint: &GroupCheckpoint) -> Self {
        Self {
            watermark: checkpoint.watermark,
            published: published::encode(&checkpoint.published),
            closed: checkpoint.closed,
        }
    }

    fn read(&self, key: &GroupKey) -> GroupCheckpoint {
        GroupCheckpoint {
            key: key.clone(),
            watermark: self.watermark,
            published: published::decode(&self.published).expect("what was saved can be read"),
            closed: self.closed,
        }
    }
}

/// The simulated log of the table.
#[derive(Debug)]
struct SimulatedLog {
    wire: Arc<Wire>,
    columns: Arc<ChangeColumns>,
    streams: BTreeMap<StreamID, StreamKey>,
}

impl SimulatedLog {
    async fn page(
        &self,
        streams: &[StreamID],
        range: Range,
        from: PagingState,
        keys: bool,
    ) -> Answer {
        let request = Request::Page {
            streams: streams.iter().map(|stream| self.streams[stream]).collect(),
            range,
            after: read_paging(&from),
            keys,
        };
        self.wire.call(request).await
    }
}

fn failed() -> reader::Error {
    reader::Error::NoTable(TableName {
        keyspace: String::new(),
        table: String::new(),
    })
}

/// A place between two pages.
fn write_paging((stream, position): (u16, Position)) -> PagingState {
    let mut bytes = stream.to_be_bytes().to_vec();
    bytes.extend_from_slice(position.time.as_bytes());
    bytes.extend_from_slice(&position.seq.to_be_bytes());
    PagingState::new_from_raw_bytes(bytes)
}

fn read_paging(state: &PagingState) -> Option<(u16, Position)> {
    let bytes = state.as_bytes_slice()?;
    let (stream, rest) = bytes.split_first_chunk::<2>()?;
    let (time, rest) = rest.split_first_chunk::<16>()?;
    let seq = i32::from_be_bytes(rest.try_into().ok()?);
    let time = CqlTimeuuid::from_bytes(*time);
    Some((u16::from_be_bytes(*stream), Position { time, seq }))
}

impl Log for SimulatedLog {
    fn columns(&self) -> &Arc<ChangeColumns> {
        &self.columns
    }

    async fn keys(
        &self,
        streams: &[StreamID],
        range: Range,
        from: PagingState,
    ) -> Result<Page<RowKey>, reader::Error> {
        match self.page(streams, range, from, true).await {
            Answer::Keys(rows, next) => Ok(Page {
                rows,
                next: next.map(write_paging),
            }),
            _ => Err(failed()),
        }
    }

    async fn rows(
        &self,
        streams: &[StreamID],
        range: Range,
        from: PagingState,
    ) -> Result<Page<LogRow>, reader::Error> {
        match self.page(streams, range, from, false).await {
            Answer::Rows(rows, next) => Ok(Page {
                rows,
                next: next.map(write_paging),
            }),
            _ => Err(failed()),
        }
    }
}

/// A read that has ended.
struct Done {
    intake: PublishIntake,
    read: Read,
    outcome: Result<Ended, pass::Error>,
}

type Reading = Pin<Box<dyn Future<Output = Done> + Send>>;

/// What a read did, for the trace.
pub type Said = String;

/// The source of the one table.
pub struct SourceSide {
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
    reads: Vec<Option<Reading>>,
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
    pub fn new(
        scenario: &Arc<Scenario>,
        wire: &Arc<Wire>,
        columns: Arc<ChangeColumns>,
        prototype: PublishIntake,
        phase: watch::Receiver<Phase>,
        stored: &BTreeMap<GroupKey, Save>,
        traced: bool,
    ) -> Self {
        let (sender, settled) = mpsc::unbounded_channel();
        let settings = scenario.settings.clone();
        let shared = Shared {
            metrics: Arc::new(Metrics::default()),
            reads: Arc::new(Semaphore::new(4)),
            settled: sender,
            phase,
            tracked: AtomicUsize::new(0),
            limit: scenario.tracked,
            late_window: settings.late_window,
        };
        let log = SimulatedLog {
            wire: Arc::clone(wire),
            columns,
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
            reads: Vec::new(),
            settled,
            known: Vec::new(),
            saving: None,
            stamp: newest.unwrap_or(0),
            said: traced.then(Vec::new),
        }
    }

    /// What was worth a line since the last time.
    pub fn said(&mut self) -> Vec<Said> {
        self.said.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The oldest watermark of a stored group that is not closed.
    pub fn oldest_stored(stored: &BTreeMap<GroupKey, Save>) -> Option<i64> {
        let open = stored.values().filter(|save| !save.form.closed);
        open.map(|save| save.form.watermark).min()
    }

    /// These generations are listed (milliseconds).
    pub fn looked(&mut self, listed: &[i64], start: i64, now: Moment) {
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
                self.add(timestamp, start);
            }
        }
        self.schedule_readable(now.ticks);
    }

    fn add(&mut self, timestamp: i64, start: i64) {
        let generation = self
            .scenario
            .generations
            .iter()
            .position(|t| *t == timestamp);
        let generation = generation.expect("a listed generation") as u8;
        let watermark = plan::first_watermark(timestamp, start);
        let mut closed = 0;
        for group in 0..self.scenario.groups as u8 {
            let streams = 0..self.scenario.streams as u8;
            let described = StreamGroup {
                id: vec![group],
                streams: streams.map(|s| stream_id([generation, group, s])).collect(),
            };
            let key = GroupKey {
                generation: timestamp,
                group: described.id.clone(),
            };
            let saved = self.stored.remove(&key);
            let checkpoint = saved.as_ref().map(|save| save.form.read(&key));
            if checkpoint.as_ref().is_some_and(|stored| stored.closed) {
                closed += 1;
                continue;
            }
            self.groups.push(Group::new(
                timestamp,
                described,
                checkpoint.as_ref(),
                watermark,
                self.settings.clone(),
                &self.shared,
            ));
            self.names.push([generation, group]);
            self.reads.push(None);
            let known = saved.into_iter().flat_map(|save| save.settled);
            self.known.push(known.collect());
        }
        self.plan.add(timestamp, self.scenario.groups, closed);
    }

    fn schedule(&mut self, slot: usize, ticks: i64) {
        let group = &mut self.groups[slot];
        let readable = !group.reading && !group.closed;
        if readable && self.plan.may_read(group.key.generation) {
            group.due = Some(ticks);
        }
    }

    fn schedule_readable(&mut self, now: i64) {
        for slot in 0..self.groups.len() {
            let group = &self.groups[slot];
            if group.due.is_none() && !group.reading {
                self.schedule(slot, now);
            }
        }
    }

    /// Does everything that can be done now; says whether anything was.
    pub fn progress(&mut self, now: Moment) -> bool {
        let mut any = self.settle(now);
        if *self.shared.phase.borrow() == Phase::Running {
            any |= self.start_reads(now);
        }
        for slot in 0..self.reads.len() {
            any |= self.poll(slot, now);
        }
        any | self.settle(now)
    }

    fn start_reads(&mut self, now: Moment) -> bool {
        let mut any = false;
        for slot in 0..self.groups.len() {
            let group = &mut self.groups[slot];
            if group.due.is_none_or(|due| due > now.ticks) {
                continue;
            }
            any = true;
            group.due = None;
            let load = group.load(&self.shared);
            match group.follower.next(now, load) {
                Next::Read(read) => self.start_read(slot, read),
                Next::At(ticks) => self.schedule(slot, ticks.max(now.ticks + 1)),
                Next::AfterSettlement => {
                    group.waiting = true;
                    self.schedule(slot, now.ticks + RECHECK);
                }
            }
        }
        any
    }

    fn start_read(&mut self, slot: usize, read: Read) {
        let group = &mut self.groups[slot];
        group.reading = true;
        group.waiting = false;
        let intake = group.intake.take();
        let mut pass = Pass {
            shared: Arc::clone(&self.shared),
            reader: Arc::clone(&self.log),
            slot: slot as u32,
            streams: Arc::clone(&group.streams),
            tracker: group.tracker.clone(),
            intake: intake.unwrap_or_else(|| self.prototype.clone()),
            read,
            outcome: Outcome::default(),
            cut_stream: None,
        };
        self.reads[slot] = Some(Box::pin(async move {
            let outcome = pass.run().await;
            Done {
                intake: pass.intake,
                read: pass.read,
                outcome,
            }
        }));
    }

    fn poll(&mut self, slot: usize, now: Moment) -> bool {
        let Some(reading) = &mut self.reads[slot] else {
            return false;
        };
        let mut context = Context::from_waker(noop_waker_ref());
        let Poll::Ready(done) = reading.as_mut().poll(&mut context) else {
            return false;
        };
        self.reads[slot] = None;
        self.done(slot, done, now);
        true
    }

    fn done(&mut self, slot: usize, done: Done, now: Moment) {
        let Done {
            intake,
            read,
            outcome,
        } = done;
        let group = &mut self.groups[slot];
        group.reading = false;
        group.intake = Some(intake);
        if let Some(said) = &mut self.said {
            let ended = match &outcome {
                Ok(Ended::Complete(outcome)) => {
                    format!("{} rows, {} fresh", outcome.rows, outcome.fresh)
                }
                Ok(ended) => format!("{ended:?}"),
                Err(_) => "failed".to_owned(),
            };
            said.push(format!(
                "read {:?} of group {:?} ({}, {:?}]: {ended}",
                read.kind,
                self.names[slot],
                crate::trace::time(read.after),
                read.upto.map(crate::trace::time),
            ));
        }
        match outcome {
            Ok(Ended::Complete(outcome)) => group.follower.completed(&read, outcome, now),
            Ok(Ended::GivenUp) => group.follower.given_up(&read),
            Ok(Ended::Stopped) | Err(pass::Error::Closed(_)) => return,
            Err(pass::Error::Reader(_)) => group.follower.failed(now),
        }
        self.moved(slot, now);
        self.schedule(slot, now.ticks);
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
            self.plan.drained(generation);
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
    pub fn next_due(&self) -> Option<i64> {
        if *self.shared.phase.borrow() > Phase::Running {
            return None;
        }
        self.groups.iter().filter_map(|group| group.due).min()
    }

    /// What is to be saved now, unless a save is under way.
    pub fn save(&mut self, now: Moment, system: i64, last: bool) -> Option<Request> {
        if self.saving.is_some() {
            return None;
        }
        let mut saves = Vec::new();
        let mut states = Vec::new();
        self.stamp = system.max(self.stamp + 1);
        for (slot, group) in self.groups.iter().enumerate() {
            let Some((checkpoint, saved)) = group.checkpoint(now.ticks, self.idle_save, last)
            else {
                continue;
            };
            states.push((slot as u32, saved));
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
    pub fn saved(&mut self, saves: &[Save], ok: bool) {
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
    pub fn end_reads(&mut self) {
        self.reads.fill_with(|| None);
    }

    /// Whether every row up to this microsecond is behind the watermark of its group.
    pub fn has_passed(&self, micros: i64, generations: usize) -> bool {
        let newest = self
            .names
            .iter()
            .any(|name| usize::from(name[0]) + 1 == generations);
        let passed =
            |group: &Group<PublishIntake>| group.closed || group.follower.watermark() >= micros;
        (newest || self.groups.is_empty()) && self.groups.iter().all(passed)
    }

    /// The oldest watermark of an open group.
    pub fn oldest(&self) -> Option<i64> {
        let open = self.groups.iter().filter(|group| !group.closed);
        open.map(|group| group.follower.watermark()).min()
    }

    /// Rows that the trackers hold, and how many they may hold at most by their own rules.
    pub fn tracked(&self) -> usize {
        let lens = self.groups.iter().map(|group| group.tracker.lock().len());
        lens.sum()
    }
}
