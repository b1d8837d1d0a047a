//! Publishing dead letters after all, and discarding them.
//!
//! Owns the walk over the table and what is done with each key. Everything goes through the
//! pipeline: the same attempts, breaker, limits and order. Invariants:
//!
//! 1. The dead letters of a key are published one after the other, in the order of their places;
//!    one that fails ends the replay of its key.
//! 2. A dead letter is removed after Kafka has acknowledged it, before the next of its key.
//! 3. A key is released only when the table holds none of its dead letters, and none is on its way.
//! 4. Memory is bounded by the number of keys replayed at once, whatever the table holds.
//!
//! Whoever runs it owns the relay's name ([`crate::ownership`]), so that no two replay at once.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use super::extent::{Asked, Decision, Extent};
use super::filter::Filter;
use super::letter::{DeadLetter, Failure, Place, Reason};
use super::parking::Quiet;
use super::recode::Recoder;
use super::store::{self, BUCKETS, Store, bucket};
use crate::event::TableId;
use crate::pipeline::{self, Closed, Handle, Replayed};
use crate::runtime::Chain;
use crate::runtime::Phase;

/// Dead letters of one key read at once.
const PAGE: i32 = 16;
/// Pause before a look at a key whose last dead letters are still being written.
const QUIET_PAUSE: Duration = Duration::from_millis(20);
/// Pause before a removal that has failed is tried again.
const REMOVE_PAUSE: Duration = Duration::from_millis(500);

/// Why a replay came to no end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The table cannot be read or written.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The pipeline has ended.
    #[error("the pipeline has ended before the replay")]
    Closed(#[from] Closed),
    /// The relay stops.
    #[error("the relay stops before the replay has ended")]
    Stopped,
    /// The replay of a key has panicked: a defect of the relay.
    #[error("the replay of a key has panicked; this is a defect, please report it")]
    Panicked(#[source] JoinError),
}

/// What to do with dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Publish them.
    Replay,
    /// Remove them without publishing them.
    Discard,
}

/// What to do with which dead letters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// What.
    pub action: Action,
    /// Which.
    pub filter: Filter,
    /// At most so many a second; `None` as fast as it goes.
    #[serde(default)]
    pub rate: Option<NonZeroU32>,
    /// Only count what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// What was done so far, or would be done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Dead letters that are meant.
    pub matched: u64,
    /// Keys that they belong to.
    pub keys: u64,
    /// Dead letters to be published (or discarded): the meant ones, and for a replay what their
    /// order needs.
    pub planned: u64,
    /// Published.
    pub published: u64,
    /// Discarded.
    pub discarded: u64,
    /// Rows of undecodable events that turned out to be no events, and were removed.
    pub skipped: u64,
    /// Failed again; the replay of their keys has stopped there.
    pub failed: u64,
}

#[derive(Debug, Default)]
struct Counters {
    matched: AtomicU64,
    keys: AtomicU64,
    planned: AtomicU64,
    published: AtomicU64,
    discarded: AtomicU64,
    skipped: AtomicU64,
    failed: AtomicU64,
}

impl Counters {
    fn progress(&self) -> Progress {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Progress {
            matched: get(&self.matched),
            keys: get(&self.keys),
            planned: get(&self.planned),
            published: get(&self.published),
            discarded: get(&self.discarded),
            skipped: get(&self.skipped),
            failed: get(&self.failed),
        }
    }
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// Paces what is published.
#[derive(Debug)]
struct Pace {
    pause: Duration,
    next: Mutex<Option<Instant>>,
}

impl Pace {
    fn new(rate: Option<NonZeroU32>) -> Self {
        let pause = rate.map_or(Duration::ZERO, |rate| Duration::from_secs(1) / rate.get());
        Self {
            pause,
            next: Mutex::new(None),
        }
    }

    async fn wait(&self) {
        if self.pause.is_zero() {
            return;
        }
        let at = {
            let mut next = self.next.lock().await;
            let at = next.map_or_else(Instant::now, |next| next.max(Instant::now()));
            *next = Some(at + self.pause);
            at
        };
        sleep_until(at).await;
    }
}

/// Replays and discards.
#[derive(Debug, Clone)]
pub struct Replayer {
    /// The dead letters.
    pub store: Store,
    /// The pipeline.
    pub handle: Handle,
    /// Names of the outbox tables, in the order of their ids.
    pub tables: Vec<String>,
    /// Keys replayed at once.
    pub concurrency: usize,
    /// Makes records of rows that could not be decoded.
    pub recoder: Arc<Recoder>,
    /// The stop of the relay.
    pub phase: watch::Receiver<Phase>,
}

impl Replayer {
    /// Carries an order out; what was done so far is in `progress`, now and then.
    ///
    /// # Errors
    ///
    /// When the table cannot be read, or the relay stops. What was published by then is published.
    pub async fn carry_out(
        &self,
        order: &Order,
        asked: Asked,
        progress: &watch::Sender<Progress>,
    ) -> Result<Progress, Error> {
        let run = Run {
            replayer: self.clone(),
            order: order.clone(),
            asked,
            counters: Counters::default(),
            pace: Pace::new(order.rate),
        };
        let run = Arc::new(run);
        let mut keys = JoinSet::new();
        let walked = run.walk(&mut keys, progress).await;
        if walked.is_err() {
            keys.abort_all();
        }
        let mut outcome = walked;
        while let Some(ended) = keys.join_next().await {
            progress.send_replace(run.counters.progress());
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => outcome = outcome.and(Err(error)),
                Err(error) if error.is_cancelled() => {}
                Err(panic) => outcome = outcome.and(Err(Error::Panicked(panic))),
            }
        }
        let done = run.counters.progress();
        progress.send_replace(done);
        outcome.map(|()| done)
    }
}

struct Run {
    replayer: Replayer,
    order: Order,
    asked: Asked,
    counters: Counters,
    pace: Pace,
}

/// A key that is being looked at.
struct Looked {
    key: Bytes,
    extent: Extent,
    /// Meant dead letters whose key is not parked; they have no order to keep.
    loose: u64,
    meant: u64,
}

impl Looked {
    fn new(key: Bytes, asked: Asked) -> Self {
        Self {
            key,
            extent: Extent::new(asked),
            loose: 0,
            meant: 0,
        }
    }
}

type Keys = JoinSet<Result<(), Error>>;

impl Run {
    async fn walk(
        self: &Arc<Self>,
        keys: &mut Keys,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), Error> {
        for (index, table) in self.replayer.tables.iter().enumerate() {
            if !self.order.filter.wants_table(table) {
                continue;
            }
            let table_id = TableId(index as u16);
            let only = self
                .order
                .filter
                .key
                .as_ref()
                .map(|key| bucket(key.as_bytes()));
            for bucket in (0..BUCKETS).filter(|bucket| only.is_none_or(|only| only == *bucket)) {
                let mut looked: Option<Looked> = None;
                let mut walk = self.replayer.store.walk(table, bucket).await?;
                while let Some(letter) = walk.next().await? {
                    self.go_on()?;
                    if looked
                        .as_ref()
                        .is_none_or(|looked| looked.key != letter.key)
                    {
                        let next = Looked::new(letter.key.clone(), self.asked);
                        if let Some(looked) = looked.replace(next) {
                            self.begin(keys, table_id, looked).await?;
                            progress.send_replace(self.counters.progress());
                        }
                    }
                    if let Some(looked) = &mut looked {
                        self.look(looked, &letter);
                    }
                }
                if let Some(looked) = looked {
                    self.begin(keys, table_id, looked).await?;
                }
            }
        }
        Ok(())
    }

    fn look(&self, looked: &mut Looked, letter: &DeadLetter) {
        let meant = self.is_meant(letter);
        looked.meant += u64::from(meant);
        if letter.parks {
            looked.extent.look(letter, meant);
        } else if meant {
            looked.loose += 1;
        }
    }

    fn is_meant(&self, letter: &DeadLetter) -> bool {
        let waits = self.asked == Asked::ByItself && !letter.reason.is_replayed_by_itself();
        !waits && self.order.filter.matches(letter)
    }

    fn go_on(&self) -> Result<(), Error> {
        if *self.replayer.phase.borrow() > Phase::Running {
            return Err(Error::Stopped);
        }
        Ok(())
    }

    /// Begins what is to be done with a key, when there is room for one more.
    async fn begin(
        self: &Arc<Self>,
        keys: &mut Keys,
        table: TableId,
        looked: Looked,
    ) -> Result<(), Error> {
        let Looked {
            key,
            extent,
            loose,
            meant,
        } = looked;
        let decision = extent.decide();
        let planned = match self.order.action {
            Action::Discard => meant,
            Action::Replay => loose + decision.as_ref().map_or(0, |decision| decision.publish),
        };
        if planned == 0 {
            return Ok(());
        }
        add(&self.counters.matched, meant);
        add(&self.counters.keys, 1);
        add(&self.counters.planned, planned);
        if self.order.dry_run {
            return Ok(());
        }
        while keys.len() >= self.replayer.concurrency {
            match keys.join_next().await {
                Some(Ok(ended)) => ended?,
                Some(Err(panic)) => return Err(Error::Panicked(panic)),
                None => break,
            }
        }
        let run = Arc::clone(self);
        keys.spawn(async move {
            let one = OneKey { run, table, key };
            match one.run.order.action {
                Action::Replay => one.replay(decision, loose).await,
                Action::Discard => one.discard().await,
            }
        });
        Ok(())
    }
}

/// What becomes of one dead letter.
enum Done {
    Gone,
    Failed,
}

/// What is done with one key.
struct OneKey {
    run: Arc<Run>,
    table: TableId,
    key: Bytes,
}

impl OneKey {
    fn store(&self) -> &Store {
        &self.run.replayer.store
    }

    fn table_name(&self) -> &str {
        &self.run.replayer.tables[usize::from(self.table.0)]
    }

    /// Publishes the dead letters of the key as far as `decision` says, and those without an order
    /// that are meant, `loose` in number.
    async fn replay(&self, decision: Option<Decision>, mut loose: u64) -> Result<(), Error> {
        let mut left = Cursor::default();
        loop {
            self.run.go_on()?;
            if left.stop && loose == 0 {
                return Ok(());
            }
            let quiet = self.quiet().await?;
            let letters = left.page(self).await?;
            if letters.is_empty() {
                if left.parking || self.release(quiet).await? {
                    return Ok(());
                }
                left = Cursor::default();
                continue;
            }
            for letter in letters {
                if !self.wants(&letter, decision.as_ref()) {
                    left.leave(&letter);
                    // What is behind it in its order stays as well.
                    if letter.parks {
                        left.stop = true;
                    }
                    continue;
                }
                if left.stop && letter.parks {
                    left.leave(&letter);
                    continue;
                }
                loose = loose.saturating_sub(u64::from(!letter.parks));
                match self.publish(&letter).await? {
                    Done::Gone => left.gone(&letter),
                    Done::Failed => {
                        left.leave(&letter);
                        left.stop |= letter.parks;
                    }
                }
            }
        }
    }

    fn wants(&self, letter: &DeadLetter, decision: Option<&Decision>) -> bool {
        if !letter.parks {
            return self.run.is_meant(letter);
        }
        let waits = self.run.asked == Asked::ByItself && !letter.reason.is_replayed_by_itself();
        decision.is_some_and(|decision| {
            let within = letter.place <= decision.upto;
            let joined = decision.whole && letter.reason == Reason::Parked;
            !waits && (within || joined)
        })
    }

    async fn discard(&self) -> Result<(), Error> {
        let mut left = Cursor::default();
        loop {
            self.run.go_on()?;
            let quiet = self.quiet().await?;
            let letters = left.page(self).await?;
            if letters.is_empty() {
                if left.parking || self.release(quiet).await? {
                    return Ok(());
                }
                left = Cursor::default();
                continue;
            }
            for letter in letters {
                if self.run.is_meant(&letter) {
                    self.remove(&letter).await?;
                    add(&self.run.counters.discarded, 1);
                    left.gone(&letter);
                } else {
                    left.leave(&letter);
                }
            }
        }
    }

    async fn quiet(&self) -> Result<Quiet, Error> {
        let handle = &self.run.replayer.handle;
        Ok(handle.quiet(self.table, self.key.clone()).await?)
    }

    /// The table holds nothing of the key that parks it; says whether the key is free, too.
    async fn release(&self, quiet: Quiet) -> Result<bool, Error> {
        match quiet {
            Quiet::NotParked => Ok(true),
            Quiet::Not => {
                sleep(QUIET_PAUSE).await;
                Ok(false)
            }
            Quiet::Since(since) => {
                let handle = &self.run.replayer.handle;
                let released = handle.release(self.table, self.key.clone(), since).await?;
                Ok(released)
            }
        }
    }

    async fn publish(&self, letter: &DeadLetter) -> Result<Done, Error> {
        let run = &self.run;
        let (record, label) = match &letter.record {
            Some(record) => (record.clone(), letter.label.clone()),
            None => match run.replayer.recoder.record(self.table, letter).await {
                Ok(Some(made)) => made,
                Ok(None) => {
                    self.remove(letter).await?;
                    add(&run.counters.skipped, 1);
                    return Ok(Done::Gone);
                }
                Err(message) => {
                    let failure = Failure {
                        kind: Reason::Undecodable.name().to_owned(),
                        message,
                        attempts: 0,
                    };
                    return self.failed(letter, Reason::Undecodable, &failure).await;
                }
            },
        };
        run.pace.wait().await;
        let replay = pipeline::Replay {
            table: self.table,
            record,
            label,
            attempts: letter
                .failure
                .as_ref()
                .map_or(0, |failure| failure.attempts),
        };
        match run.replayer.handle.replay(replay).await? {
            Replayed::Published => {
                self.remove(letter).await?;
                add(&run.counters.published, 1);
                Ok(Done::Gone)
            }
            Replayed::Failed(reason, failure) => self.failed(letter, reason, &failure).await,
        }
    }

    async fn failed(
        &self,
        letter: &DeadLetter,
        reason: Reason,
        failure: &Failure,
    ) -> Result<Done, Error> {
        add(&self.run.counters.failed, 1);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_millis() as i64);
        self.store()
            .failed_again(letter, reason, failure, now)
            .await?;
        Ok(Done::Failed)
    }

    /// Removes a dead letter that is published or discarded; tries again until the relay stops,
    /// since it would be published twice otherwise.
    async fn remove(&self, letter: &DeadLetter) -> Result<(), Error> {
        loop {
            let Err(error) = self.store().remove(letter).await else {
                return Ok(());
            };
            tracing::warn!(
                table = letter.table,
                event = letter.label.event_id,
                error = %Chain(&error),
                "a dead letter that is done with was not removed; it is tried again"
            );
            if self.run.go_on().is_err() {
                return Err(error.into());
            }
            sleep(REMOVE_PAUSE).await;
        }
    }
}

/// How far a key has been looked at, and what was left.
#[derive(Debug, Default)]
struct Cursor {
    /// The last place looked at.
    last: Option<Place>,
    /// Places left behind at the time of `last`: a page begins with that time.
    left: HashSet<Place>,
    /// Whether something was left that keeps the key parked.
    parking: bool,
    /// Whether nothing more of the key's order is published.
    stop: bool,
}

impl Cursor {
    /// The next dead letters of the key, without those that were left.
    async fn page(&self, of: &OneKey) -> Result<Vec<DeadLetter>, Error> {
        let from = self.last.as_ref().map(|place| place.position.time);
        // Those that were left at this time are read once more.
        let limit = PAGE.saturating_add(i32::try_from(self.left.len()).unwrap_or(i32::MAX));
        let letters = of.store().of_key(of.table_name(), &of.key, from, limit);
        let mut letters = letters.await?;
        letters.retain(|letter| !self.left.contains(&letter.place));
        Ok(letters)
    }

    fn pass(&mut self, place: &Place) {
        let same = |last: &Place| last.position.time == place.position.time;
        if !self.last.as_ref().is_some_and(same) {
            self.left.clear();
        }
        self.last = Some(place.clone());
    }

    fn leave(&mut self, letter: &DeadLetter) {
        self.pass(&letter.place);
        self.left.insert(letter.place.clone());
        self.parking |= letter.parks;
    }

    fn gone(&mut self, letter: &DeadLetter) {
        self.pass(&letter.place);
    }
}
