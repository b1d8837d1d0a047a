//! One read of stream groups, from its first page to the last row handed on.
//!
//! Invariants:
//!
//! 1. A row is registered with the tracker before it is handed on, and handed on once.
//! 2. Rows of a stream are handed on in their order. Where a batch is not complete yet, its stream
//!    is cut there: nothing after it is handed on by this read.
//! 3. Before rows that are younger than `follow.confirm` are handed on, a read of ids that started after
//!    they were seen has shown nothing unknown before them: one page may show a later write without an
//!    earlier one, although that was acknowledged first.
//! 4. After a stop is asked for, nothing more is handed on; what was not stays unregistered.
//!
//! It decides neither what to read nor what a failure means.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range as Indexes;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use scylla::response::PagingState;
use scylla_cdc::cdc_types::StreamID;
use tokio::sync::{mpsc, watch};

use super::changes::{Assembler, LogBatch, LogRow};
use super::clock::Clock;
use super::follower::{Kind, Outcome, Read};
use super::intake::Intake;
use super::pace::Pace;
use super::reader::{self, Log, LogReader, MAX_STREAMS, Range};
use super::stragglers::Stragglers;
use crate::ack::summary::hash;
use crate::ack::{Ack, Mark, Registration, Settled, Tracker};
use crate::checkpoint::Published;
use crate::event::{Position, RowKey};
use crate::pipeline::{Closed, Taken};
use crate::runtime::Phase;
use crate::runtime::health::Progress;
use crate::telemetry::metrics::Metrics;

/// Unknown microseconds up to which each is fetched by a read of its own.
const POINT_READS: usize = 16;
/// Reads of ids before a page is published; if the last one still shows something new, the page is read
/// again later.
const CONFIRMATIONS: usize = 8;

/// What all reads of a table share.
#[derive(Debug)]
pub struct Shared {
    /// The relay's counters.
    pub metrics: Arc<Metrics>,
    /// What the source has done, for the health monitor.
    pub progress: Arc<Progress>,
    /// Bounds the reads of all tables.
    pub pace: Arc<Pace>,
    /// The relay's clock.
    pub clock: Arc<Clock>,
    /// Where rows are settled.
    pub settled: mpsc::UnboundedSender<Settled>,
    /// How far a stop has come.
    pub phase: watch::Receiver<Phase>,
    /// Positions in the trackers of all groups.
    pub tracked: AtomicUsize,
    /// `follow.tracked_positions`.
    pub limit: usize,
    /// `follow.late_window` in microseconds.
    pub late_window: i64,
    /// `follow.confirm` in microseconds.
    pub confirm: i64,
}

impl Shared {
    /// Whether a group that holds `own` positions may hold no more. A group may hold as many as
    /// are still free, so that one that is stuck leaves room for the others.
    pub fn full(&self, own: usize) -> bool {
        own >= self
            .limit
            .saturating_sub(self.tracked.load(Ordering::Relaxed))
    }

    fn stopped(&self) -> bool {
        *self.phase.borrow() > Phase::Running
    }
}

/// Something of a group that its read and the source share.
#[derive(Debug)]
pub struct Guarded<T>(Arc<Mutex<T>>);

impl<T> Guarded<T> {
    /// Shares it.
    pub fn new(value: T) -> Self {
        Self(Arc::new(Mutex::new(value)))
    }

    /// Not to be held while waiting.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Clone for Guarded<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// The tracker of a group, shared by its read and the source that settles rows.
pub type SharedTracker = Guarded<Tracker>;

/// Why a read did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A page was not read.
    #[error(transparent)]
    Reader(#[from] reader::Error),
    /// The pipeline takes nothing more.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// How a read ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All of it was read and handed on.
    Complete,
    /// Too many rows, no room for more, or no end of rows that appear before others.
    GivenUp,
    /// The relay stops.
    Stopped,
}

/// A group that takes part in a read.
#[derive(Debug)]
pub struct Member<I> {
    /// Number of the group inside its source.
    pub slot: u32,
    /// Its streams.
    pub streams: Arc<[StreamID]>,
    /// Its rows above W.
    pub tracker: SharedTracker,
    /// Its rows that have appeared at or before W.
    pub stragglers: Guarded<Stragglers>,
    /// Where its changes go.
    pub intake: I,
    /// A new row at or before this microsecond is late: the tail has passed it.
    pub late_before: i64,
    /// What an earlier run has published above W.
    pub published: Option<Arc<Published>>,
    /// What was read of it so far.
    pub outcome: Outcome,
}

/// A read of some groups.
#[derive(Debug)]
pub struct Pass<I, R = LogReader> {
    shared: Arc<Shared>,
    reader: Arc<R>,
    /// What is read.
    pub read: Read,
    /// The groups that are read.
    pub members: Vec<Member<I>>,
    flat: Flat,
    rows: usize,
    /// Streams in which nothing more is handed on, by their index in `flat`.
    cut: BTreeSet<u16>,
}

/// The streams of all members, one after the other.
#[derive(Debug)]
struct Flat {
    streams: Vec<StreamID>,
    /// Member and index in its group, of each stream.
    owners: Vec<(u16, u16)>,
}

impl Flat {
    fn of<I>(members: &[Member<I>]) -> Self {
        let mut flat = Self {
            streams: Vec::new(),
            owners: Vec::new(),
        };
        for (member, index) in members.iter().zip(0..) {
            flat.streams.extend(member.streams.iter().cloned());
            let streams = u16::try_from(member.streams.len()).unwrap_or(u16::MAX);
            flat.owners
                .extend((0..streams).map(|stream| (index, stream)));
        }
        flat
    }
}

/// A row by the index of its stream in [`Flat`].
type FlatRow = RowKey;
/// Whether a read goes on.
type Flow = Option<Ended>;
/// Batches that are to be handed on, in their order: whether each is complete.
type Batches = BTreeMap<FlatRow, (LogBatch, bool)>;

impl<I: Intake, R: Log> Pass<I, R> {
    /// A read of the members' groups that has not begun.
    pub fn new(shared: Arc<Shared>, reader: Arc<R>, read: Read, members: Vec<Member<I>>) -> Self {
        Self {
            flat: Flat::of(&members),
            shared,
            reader,
            read,
            members,
            rows: 0,
            cut: BTreeSet::new(),
        }
    }

    /// Makes the read.
    pub async fn run(&mut self) -> Result<Ended, Error> {
        let range = Range {
            after: self.read.after,
            upto: self.read.upto,
        };
        let ended = match self.read.kind {
            Kind::Tail | Kind::Window => {
                let all = 0..self.flat.streams.len();
                self.read_rows(all, range).await?
            }
            Kind::Rescan => self.rescan(range).await?,
            Kind::Resume => self.resume(range).await?,
            Kind::Stragglers => self.fetch_stragglers().await?,
        };
        Ok(ended.unwrap_or(Ended::Complete))
    }

    /// Reads rows of the streams with these indexes and hands them on, page by page.
    async fn read_rows(&mut self, streams: Indexes<usize>, range: Range) -> Result<Flow, Error> {
        for start in streams.clone().step_by(MAX_STREAMS) {
            let part = start..streams.end.min(start + MAX_STREAMS);
            let mut assembler = Assembler::new(Arc::clone(self.reader.columns()));
            let mut from = PagingState::start();
            loop {
                if let Some(ended) = self.must_end() {
                    return Ok(Some(ended));
                }
                assembler.next_page();
                let (rows, next) = self.page(part.clone(), range, from).await?;
                let mut batches = Batches::new();
                for row in rows {
                    self.saw(&row);
                    assemble(&mut assembler, row, &mut batches);
                }
                if next.is_none() {
                    add_last(&mut assembler, &mut batches);
                }
                if let Some(ended) = self.publish(batches).await? {
                    return Ok(Some(ended));
                }
                let Some(next) = next else { break };
                from = next;
            }
        }
        Ok(None)
    }

    fn saw(&mut self, row: &LogRow) {
        let (member, _) = self.flat.owners[usize::from(row.stream)];
        let outcome = &mut self.members[usize::from(member)].outcome;
        outcome.rows += 1;
        outcome.newest = outcome.newest.max(Some(row.position.micros()));
    }

    /// One page of rows; their streams are indexes of `flat`.
    async fn page(
        &mut self,
        streams: Indexes<usize>,
        range: Range,
        from: PagingState,
    ) -> Result<(Vec<LogRow>, Option<PagingState>), Error> {
        let first = streams.start as u16;
        let _permit = self.shared.pace.read(self.shared.clock.now().ticks).await;
        self.shared.metrics.reads.add(1);
        let page = self.reader.rows(&self.flat.streams[streams], range, from);
        let mut page = page.await?;
        self.rows += page.rows.len();
        self.shared.metrics.rows_read.add(page.rows.len() as u64);
        self.shared.metrics.read_bytes.add(page.bytes as u64);
        for row in &mut page.rows {
            row.stream += first;
        }
        Ok((page.rows, page.next))
    }

    /// Stream and microsecond of what is in a range of the streams with these indexes, and neither
    /// known nor `shown`. Only that is kept of the ids.
    async fn unknown(
        &self,
        streams: &[u16],
        range: Range,
        shown: &BTreeSet<FlatRow>,
    ) -> Result<BTreeSet<(u16, i64)>, Error> {
        let named: Vec<StreamID> = streams
            .iter()
            .map(|stream| self.flat.streams[usize::from(*stream)].clone())
            .collect();
        let mut unknown = BTreeSet::new();
        let look = |row: RowKey| {
            let stream = streams[usize::from(row.stream)];
            let row = FlatRow { stream, ..row };
            if !shown.contains(&row) && !self.knows(row) {
                unknown.insert((stream, row.position.micros()));
            }
        };
        read_ids(&self.shared, &*self.reader, &named, range, look).await?;
        Ok(unknown)
    }

    /// The same row, by the index of its stream in its group.
    fn own(&self, row: FlatRow) -> (&Member<I>, RowKey) {
        let (member, stream) = self.flat.owners[usize::from(row.stream)];
        let position = row.position;
        (
            &self.members[usize::from(member)],
            RowKey { stream, position },
        )
    }

    fn knows(&self, row: FlatRow) -> bool {
        let (member, row) = self.own(row);
        member.tracker.lock().knows(row)
    }

    fn is_known(&self, batch: &LogBatch) -> bool {
        let mut rows = batch.rows.iter().map(|position| FlatRow {
            stream: batch.stream,
            position: *position,
        });
        rows.all(|row| self.knows(row))
    }

    /// Hands on what is new of some batches, once nothing can be missing before them.
    async fn publish(&mut self, batches: Batches) -> Result<Flow, Error> {
        let mut fresh = Batches::new();
        for (row, (batch, complete)) in batches {
            if !self.is_known(&batch) {
                self.add(row, batch, complete, &mut fresh);
            }
        }
        if !self.confirm(&mut fresh).await? {
            return Ok(Some(Ended::GivenUp));
        }
        for (batch, _) in fresh.into_values() {
            if let Some(ended) = self.hand_on(batch).await? {
                return Ok(Some(ended));
            }
        }
        Ok(None)
    }

    /// Adds a batch, unless its stream is cut before it. One that is not complete, and may still become
    /// so, cuts its stream.
    fn add(&mut self, row: FlatRow, batch: LogBatch, complete: bool, to: &mut Batches) {
        if self.cut.contains(&batch.stream) {
            return;
        }
        let micros = row.position.micros();
        let seen = self
            .read
            .started
            .wall
            .saturating_sub(self.shared.late_window);
        if complete || micros <= seen {
            to.insert(row, (batch, complete));
            return;
        }
        let stream = batch.stream;
        self.cut.insert(stream);
        to.retain(|other, _| other.stream != stream || *other < row);
        let (member, _) = self.flat.owners[usize::from(stream)];
        let outcome = &mut self.members[usize::from(member)].outcome;
        outcome.cut = Some(outcome.cut.map_or(micros, |cut| cut.min(micros)));
    }

    /// Adds what is missing before the batches; false if there was no end of it.
    async fn confirm(&mut self, fresh: &mut Batches) -> Result<bool, Error> {
        let newest = fresh.keys().map(|row| row.position.micros()).max();
        let young = self.read.started.wall.saturating_sub(self.shared.confirm);
        let Some(upto) = newest.filter(|newest| *newest > young) else {
            return Ok(true);
        };
        for _ in 0..CONFIRMATIONS {
            let oldest = fresh.keys().map(|row| row.position.micros()).min();
            let Some(oldest) = oldest else {
                return Ok(true);
            };
            let streams: BTreeSet<u16> = fresh.keys().map(|row| row.stream).collect();
            let streams: Vec<u16> = streams.into_iter().collect();
            let range = Range {
                after: oldest.saturating_sub(self.shared.confirm),
                upto: Some(upto),
            };
            self.shared.metrics.confirmations.add(1);
            let shown: BTreeSet<FlatRow> = fresh
                .values()
                .flat_map(|(batch, _)| {
                    batch.rows.iter().map(|position| FlatRow {
                        stream: batch.stream,
                        position: *position,
                    })
                })
                .collect();
            let mut missing = self.unknown(&streams, range, &shown).await?;
            missing.retain(|(stream, _)| !self.cut.contains(stream));
            if missing.is_empty() {
                return Ok(true);
            }
            self.shared.metrics.merged.add(missing.len() as u64);
            for (row, (batch, complete)) in self.fetch(&missing).await? {
                if !self.is_known(&batch) {
                    self.add(row, batch, complete, fresh);
                }
            }
        }
        Ok(false)
    }

    /// The batches at these microseconds of streams.
    async fn fetch(&mut self, wanted: &BTreeSet<(u16, i64)>) -> Result<Batches, Error> {
        let mut batches = Batches::new();
        if wanted.len() <= POINT_READS {
            for (stream, micros) in wanted {
                let range = Range {
                    after: micros - 1,
                    upto: Some(*micros),
                };
                self.fetch_range(*stream, range, wanted, &mut batches)
                    .await?;
            }
            return Ok(batches);
        }
        let mut bounds: BTreeMap<u16, (i64, i64)> = BTreeMap::new();
        for (stream, micros) in wanted {
            let (oldest, newest) = bounds.entry(*stream).or_insert((*micros, *micros));
            *oldest = (*oldest).min(*micros);
            *newest = (*newest).max(*micros);
        }
        for (stream, (oldest, newest)) in bounds {
            let range = Range {
                after: oldest - 1,
                upto: Some(newest),
            };
            self.fetch_range(stream, range, wanted, &mut batches)
                .await?;
        }
        Ok(batches)
    }

    /// Adds what is wanted of a range of one stream.
    async fn fetch_range(
        &mut self,
        stream: u16,
        range: Range,
        wanted: &BTreeSet<(u16, i64)>,
        batches: &mut Batches,
    ) -> Result<(), Error> {
        let streams = usize::from(stream)..usize::from(stream) + 1;
        let mut assembler = Assembler::new(Arc::clone(self.reader.columns()));
        let mut from = PagingState::start();
        loop {
            assembler.next_page();
            let (rows, next) = self.page(streams.clone(), range, from).await?;
            for row in rows {
                if wanted.contains(&(row.stream, row.position.micros())) {
                    assemble(&mut assembler, row, batches);
                }
            }
            let Some(next) = next else { break };
            from = next;
        }
        add_last(&mut assembler, batches);
        Ok(())
    }

    async fn hand_on(&mut self, batch: LogBatch) -> Result<Flow, Error> {
        let (member, stream) = self.flat.owners[usize::from(batch.stream)];
        let member = &mut self.members[usize::from(member)];
        let straggling = self.read.kind == Kind::Stragglers;
        let key = |position: Position| RowKey { stream, position };
        for change in &batch.changes {
            if self.shared.stopped() {
                return Ok(Some(Ended::Stopped));
            }
            let row = key(change.position);
            if !member.register(row, straggling, &self.shared) {
                continue;
            }
            let settled = Settled {
                group: member.slot,
                row,
            };
            let ack = Ack::new(settled, self.shared.settled.clone())
                .of_streams(Arc::clone(&member.streams));
            match member.intake.take(change, ack).await? {
                Taken::Submitted | Taken::Skipped => {}
                // Nobody publishes here.
                Taken::Unpublishable => member.tracker.lock().hold(row),
            }
        }
        for row in batch.rows.iter().map(|position| key(*position)) {
            member.register_settled(row, straggling, &self.shared);
        }
        Ok(None)
    }

    fn must_end(&self) -> Flow {
        if self.shared.stopped() {
            return Some(Ended::Stopped);
        }
        let limit = self.read.row_limit;
        let too_many = limit.is_some_and(|limit| self.rows > limit);
        // What has a bound moves W, and so makes room.
        let unbound = self.read.upto.is_none();
        let full = |member: &Member<I>| self.shared.full(member.tracker.lock().len());
        let no_room = unbound && self.members.iter().any(full);
        (too_many || no_room).then_some(Ended::GivenUp)
    }

    /// Reads the ids of the range, then the rows that are unknown.
    async fn rescan(&mut self, range: Range) -> Result<Flow, Error> {
        if let Some(ended) = self.must_end() {
            return Ok(Some(ended));
        }
        let all: Vec<u16> = (0..self.flat.streams.len() as u16).collect();
        let unknown = self.unknown(&all, range, &BTreeSet::new()).await?;
        self.fetch_and_publish(&unknown).await
    }

    async fn fetch_and_publish(&mut self, unknown: &BTreeSet<(u16, i64)>) -> Result<Flow, Error> {
        // So many at a time that memory stays bounded.
        let unknown: Vec<(u16, i64)> = unknown.iter().copied().collect();
        for some in unknown.chunks(self.reader.page_rows()) {
            let batches = self.fetch(&some.iter().copied().collect()).await?;
            if let Some(ended) = self.publish(batches).await? {
                return Ok(Some(ended));
            }
        }
        Ok(None)
    }

    /// Recognises what an earlier run has published, and publishes what it has not.
    async fn resume(&mut self, range: Range) -> Result<Flow, Error> {
        let Some(published) = self.members[0].published.clone() else {
            return self.rescan(range).await;
        };
        if let Some(ended) = self.must_end() {
            return Ok(Some(ended));
        }
        // One group: its streams have the same indexes here.
        let mut ids: Vec<RowKey> = Vec::new();
        let streams = &self.flat.streams;
        read_ids(&self.shared, &*self.reader, streams, range, |row| {
            ids.push(row);
        })
        .await?;
        let unsettled: BTreeSet<u64> = published.unsettled.iter().copied().collect();
        let settled = ids.iter().map(|row| hash(*row));
        let settled = settled.filter(|hash| !unsettled.contains(hash));
        let reconciled = published.summary.reconcile(settled);
        let fresh: BTreeSet<u64> = reconciled.fresh.into_iter().chain(unsettled).collect();
        let (fresh, known): (Vec<RowKey>, Vec<RowKey>) =
            ids.into_iter().partition(|row| fresh.contains(&hash(*row)));
        if !reconciled.unresolved.is_empty() {
            self.shared.metrics.unreconciled.add(fresh.len() as u64);
            tracing::warn!(
                rows = fresh.len(),
                "it cannot be told which rows of a stream group an earlier run has published: these \
                 may be published again"
            );
        }
        {
            // Some of them may be known from an attempt that failed later on.
            let mut tracker = self.members[0].tracker.lock();
            let before = tracker.len();
            tracker.restore(known.into_iter().map(Mark::from));
            let restored = tracker.len() - before;
            self.shared.tracked.fetch_add(restored, Ordering::Relaxed);
        }
        let unknown = fresh
            .into_iter()
            .map(|row| (row.stream, row.position.micros()))
            .collect();
        self.fetch_and_publish(&unknown).await
    }

    async fn fetch_stragglers(&mut self) -> Result<Flow, Error> {
        let waiting = self.members[0].stragglers.lock().waiting();
        for some in waiting.chunks(self.reader.page_rows()) {
            let wanted = some.iter().map(|row| (row.stream, row.position.micros()));
            for (batch, _) in self.fetch(&wanted.collect()).await?.into_values() {
                if let Some(ended) = self.hand_on(batch).await? {
                    return Ok(Some(ended));
                }
            }
        }
        Ok(None)
    }
}

impl<I> Member<I> {
    /// Whether a row is to be handed on now; it is registered then.
    fn register(&mut self, row: RowKey, straggling: bool, shared: &Shared) -> bool {
        if straggling {
            let new = self.stragglers.lock().hand_on(row);
            if new {
                shared.metrics.stragglers.add(1);
                Self::late(row, shared);
            }
            return new;
        }
        let new = self.tracker.lock().register(row) == Registration::New;
        if new {
            self.registered(row, shared);
        }
        new
    }

    fn register_settled(&mut self, row: RowKey, straggling: bool, shared: &Shared) {
        if straggling {
            if self.stragglers.lock().hand_on(row) {
                let group = self.slot;
                let _ = shared.settled.send(Settled { group, row });
            }
        } else if self.tracker.lock().register_settled(row) == Registration::New {
            self.registered(row, shared);
        }
    }

    fn registered(&mut self, row: RowKey, shared: &Shared) {
        self.outcome.fresh += 1;
        shared.tracked.fetch_add(1, Ordering::Relaxed);
        if row.position.micros() <= self.late_before {
            Self::late(row, shared);
        }
    }

    /// The row has appeared behind newer ones that are published already.
    fn late(row: RowKey, shared: &Shared) {
        let by = shared
            .clock
            .now()
            .wall
            .saturating_sub(row.position.micros());
        shared.metrics.late.add(1);
        shared.progress.lateness.add(by);
        tracing::debug!(time = %row.position.time, by_micros = by, "a row has appeared late");
    }
}

/// Reads the ids of a range; the streams of what is told are indexes of `streams`.
pub(super) async fn read_ids(
    shared: &Shared,
    reader: &impl Log,
    streams: &[StreamID],
    range: Range,
    mut tell: impl FnMut(RowKey),
) -> Result<(), reader::Error> {
    for (part, first) in streams
        .chunks(MAX_STREAMS)
        .zip((0_u16..).step_by(MAX_STREAMS))
    {
        let mut from = PagingState::start();
        loop {
            let page = {
                let _permit = shared.pace.read(shared.clock.now().ticks).await;
                shared.metrics.reads.add(1);
                reader.keys(part, range, from).await?
            };
            shared.metrics.rows_read.add(page.rows.len() as u64);
            shared.metrics.read_bytes.add(page.bytes as u64);
            for row in page.rows {
                tell(RowKey {
                    stream: row.stream + first,
                    ..row
                });
            }
            let Some(next) = page.next else { break };
            from = next;
        }
    }
    Ok(())
}

/// Adds a row to those that are being put together, and what it completes to the batches.
fn assemble(assembler: &mut Assembler, row: LogRow, batches: &mut Batches) {
    let this = (row.stream, row.position.time);
    // A row of another batch shows that the held one ends without its last row.
    let mut complete = assembler.pending().is_none_or(|held| held == this);
    for batch in assembler.push(row) {
        add_batch(batch, complete, batches);
        complete = true;
    }
}

fn add_last(assembler: &mut Assembler, batches: &mut Batches) {
    if let Some(batch) = assembler.finish() {
        add_batch(batch, false, batches);
    }
}

fn add_batch(batch: LogBatch, complete: bool, batches: &mut Batches) {
    let row = FlatRow {
        stream: batch.stream,
        position: batch.rows[0],
    };
    batches.insert(row, (batch, complete));
}

#[cfg(test)]
mod tests;
