//! One read of one stream group, from its first page to the last row handed on.
//!
//! Invariants:
//!
//! 1. A row is registered with the tracker before it is handed on, and handed on once.
//! 2. Rows of a stream are handed on in their order. Where a batch is not complete yet, its stream
//!    is cut there: nothing after it is handed on by this read.
//! 3. After a stop is asked for, nothing more is handed on; what was not stays unregistered.
//!
//! It decides neither what to read nor what a failure means.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use scylla::response::PagingState;
use scylla_cdc::cdc_types::StreamID;
use tokio::sync::{Semaphore, mpsc, watch};

use super::changes::{Assembler, LogBatch, LogRow};
use super::follower::{Kind, Outcome, Read};
use super::intake::Intake;
use super::reader::{self, Log, LogReader, MAX_STREAMS, Range};
use crate::ack::{Ack, Registration, Settled, Tracker};
use crate::event::{Position, RowKey};
use crate::pipeline::{Closed, Taken};
use crate::runtime::Phase;
use crate::telemetry::metrics::Metrics;

/// Unknown microseconds up to which a rescan fetches each by a read of its own.
const POINT_READS: usize = 16;

/// What all reads of a table share.
#[derive(Debug)]
pub struct Shared {
    /// The relay's counters.
    pub metrics: Arc<Metrics>,
    /// Bounds the reads that are under way.
    pub reads: Arc<Semaphore>,
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

/// The tracker of a group, shared by its read and the source that settles rows.
#[derive(Debug, Clone)]
pub struct SharedTracker(Arc<Mutex<Tracker>>);

impl SharedTracker {
    /// Shares it.
    pub fn new(tracker: Tracker) -> Self {
        Self(Arc::new(Mutex::new(tracker)))
    }

    /// Not to be held while waiting.
    pub fn lock(&self) -> MutexGuard<'_, Tracker> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

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
    Complete(Outcome),
    /// Too many rows, or no room for more.
    GivenUp,
    /// The relay stops.
    Stopped,
}

/// A read of a group.
#[derive(Debug)]
pub struct Pass<I, R = LogReader> {
    /// What it shares with the other reads.
    pub shared: Arc<Shared>,
    /// The log.
    pub reader: Arc<R>,
    /// Number of the group inside its source.
    pub slot: u32,
    /// The group's streams.
    pub streams: Arc<[StreamID]>,
    /// The group's tracker.
    pub tracker: SharedTracker,
    /// Where changes go.
    pub intake: I,
    /// What to read.
    pub read: Read,
    /// What was read so far; to begin with, nothing.
    pub outcome: Outcome,
    /// The stream that was cut at a batch which is not complete; to begin with, none.
    pub cut_stream: Option<u16>,
}

/// Whether a read goes on.
type Flow = Option<Ended>;

impl<I: Intake, R: Log> Pass<I, R> {
    /// Makes the read.
    pub async fn run(&mut self) -> Result<Ended, Error> {
        let range = Range {
            after: self.read.after,
            upto: self.read.upto,
        };
        let ended = match self.read.kind {
            Kind::Tail | Kind::Window => {
                let streams = Arc::clone(&self.streams);
                self.read_rows(&streams, 0, range).await?
            }
            Kind::Rescan => self.rescan(range).await?,
        };
        Ok(ended.unwrap_or(Ended::Complete(self.outcome)))
    }

    /// Reads rows of `streams`, which begin at index `first` of the group, and hands them on.
    async fn read_rows(
        &mut self,
        streams: &[StreamID],
        first: u16,
        range: Range,
    ) -> Result<Flow, Error> {
        for (part, at) in streams
            .chunks(MAX_STREAMS)
            .zip((first..).step_by(MAX_STREAMS))
        {
            if let Some(ended) = self.read_part(part, at, range).await? {
                return Ok(Some(ended));
            }
        }
        Ok(None)
    }

    /// As [`Pass::read_rows`], for as many streams as one request may ask for.
    async fn read_part(
        &mut self,
        streams: &[StreamID],
        first: u16,
        range: Range,
    ) -> Result<Flow, Error> {
        let mut assembler = Assembler::new(Arc::clone(self.reader.columns()));
        let mut from = PagingState::start();
        loop {
            if let Some(ended) = self.must_end() {
                return Ok(Some(ended));
            }
            let page = {
                let _permit = self.shared.reads.acquire().await;
                self.shared.metrics.reads.add(1);
                self.reader.rows(streams, range, from).await?
            };
            self.outcome.rows += page.rows.len();
            self.shared.metrics.rows_read.add(page.rows.len() as u64);
            for mut row in page.rows {
                row.stream += first;
                if let Some(ended) = self.row(&mut assembler, row).await? {
                    return Ok(Some(ended));
                }
            }
            let Some(next) = page.next else { break };
            from = next;
        }
        match assembler.finish() {
            Some(batch) => self.batch(batch, false).await,
            None => Ok(None),
        }
    }

    async fn row(&mut self, assembler: &mut Assembler, row: LogRow) -> Result<Flow, Error> {
        let micros = row.position.micros();
        self.outcome.newest = self.outcome.newest.max(Some(micros));
        let this = (row.stream, row.position.time);
        // A row of another batch shows that the held one ends without its last row.
        let mut complete = assembler.pending().is_none_or(|held| held == this);
        for batch in assembler.push(row) {
            if let Some(ended) = self.batch(batch, complete).await? {
                return Ok(Some(ended));
            }
            complete = true;
        }
        Ok(None)
    }

    async fn batch(&mut self, batch: LogBatch, complete: bool) -> Result<Flow, Error> {
        if self.cut_stream == Some(batch.stream) {
            return Ok(None);
        }
        let micros = batch.rows[0].micros();
        let seen = self
            .read
            .started
            .wall
            .saturating_sub(self.shared.late_window);
        if !complete && micros > seen {
            self.cut_stream = Some(batch.stream);
            let oldest = self.outcome.cut.map_or(micros, |cut| cut.min(micros));
            self.outcome.cut = Some(oldest);
            return Ok(None);
        }
        self.hand_on(batch).await
    }

    async fn hand_on(&mut self, batch: LogBatch) -> Result<Flow, Error> {
        let key = |position: Position| RowKey {
            stream: batch.stream,
            position,
        };
        for change in &batch.changes {
            if self.shared.stopped() {
                return Ok(Some(Ended::Stopped));
            }
            let row = key(change.position);
            if self.tracker.lock().register(row) == Registration::Known {
                continue;
            }
            self.registered(row);
            let settled = Settled {
                group: self.slot,
                row,
            };
            let ack = Ack::new(settled, self.shared.settled.clone())
                .of_streams(Arc::clone(&self.streams));
            match self.intake.take(change, ack).await? {
                Taken::Submitted | Taken::Skipped => {}
                // Nobody publishes here.
                Taken::Unpublishable => self.tracker.lock().hold(row),
            }
        }
        for row in batch.rows.iter().map(|position| key(*position)) {
            if self.tracker.lock().register_settled(row) == Registration::New {
                self.registered(row);
            }
        }
        Ok(None)
    }

    fn registered(&mut self, row: RowKey) {
        self.outcome.fresh += 1;
        self.shared.tracked.fetch_add(1, Ordering::Relaxed);
        if row.position.micros() <= self.read.late_before {
            self.shared.metrics.late.add(1);
        }
    }

    fn must_end(&self) -> Flow {
        if self.shared.stopped() {
            return Some(Ended::Stopped);
        }
        let too_many = self
            .read
            .row_limit
            .is_some_and(|limit| self.outcome.rows > limit);
        let no_room = self.read.kind != Kind::Window && self.shared.full(self.tracker.lock().len());
        (too_many || no_room).then_some(Ended::GivenUp)
    }

    /// Reads the keys of the range, then the rows that are unknown.
    async fn rescan(&mut self, range: Range) -> Result<Flow, Error> {
        let mut unknown: BTreeSet<(u16, i64)> = BTreeSet::new();
        let streams = Arc::clone(&self.streams);
        for (part, first) in streams.chunks(MAX_STREAMS).zip((0..).step_by(MAX_STREAMS)) {
            let mut from = PagingState::start();
            loop {
                if let Some(ended) = self.must_end() {
                    return Ok(Some(ended));
                }
                let page = {
                    let _permit = self.shared.reads.acquire().await;
                    self.shared.metrics.reads.add(1);
                    self.reader.keys(part, range, from).await?
                };
                self.shared.metrics.rows_read.add(page.rows.len() as u64);
                self.note_unknown(page.rows, first, &mut unknown);
                let Some(next) = page.next else { break };
                from = next;
            }
        }
        self.fetch(&unknown, range).await
    }

    /// Adds stream and microsecond of the rows that the tracker does not know. Their streams count
    /// from `first`.
    fn note_unknown(&self, rows: Vec<RowKey>, first: u16, unknown: &mut BTreeSet<(u16, i64)>) {
        let tracker = self.tracker.lock();
        for mut row in rows {
            row.stream += first;
            if !tracker.knows(row) {
                unknown.insert((row.stream, row.position.micros()));
            }
        }
    }

    async fn fetch(&mut self, unknown: &BTreeSet<(u16, i64)>, range: Range) -> Result<Flow, Error> {
        let Some(oldest) = unknown.iter().map(|(_, micros)| *micros).min() else {
            return Ok(None);
        };
        let streams = Arc::clone(&self.streams);
        if unknown.len() > POINT_READS {
            let range = Range {
                after: oldest - 1,
                upto: range.upto,
            };
            return self.read_rows(&streams, 0, range).await;
        }
        for (stream, micros) in unknown {
            if self.cut_stream == Some(*stream) {
                continue;
            }
            let range = Range {
                after: micros - 1,
                upto: Some(*micros),
            };
            let index = usize::from(*stream);
            let one = &streams[index..=index];
            if let Some(ended) = self.read_rows(one, *stream, range).await? {
                return Ok(Some(ended));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
