//! Publishing dead letters after all, and discarding them.
//!
//! Owns the walk over the table and what is done with each key. Everything goes through the
//! pipeline: the same attempts, breaker, limits and order. Invariants:
//!
//! 1. The dead letters of a key are published one after the other, in the order of their places;
//!    one that fails ends the replay of its key.
//! 2. A dead letter is removed after Kafka has acknowledged it, before the next of its key. Nothing
//!    that was begun is dropped: at an error, or a stop, no new key and no next dead letter is begun.
//! 3. A key is released only when a look at all of its dead letters, which began when none was on its
//!    way to the table, has found none.
//! 4. Memory is bounded by the number of keys replayed at once, each with one payload, whatever the
//!    table holds.
//! 5. A key that fails does not stop another one.
//!
//! Whoever runs it owns the relay's name ([`crate::ownership`]), so that no two replay at once.

mod one_key;

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use one_key::OneKey;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::extent::{Asked, Extent};
use super::filter::Filter;
use super::letter::{DeadLetter, Place};
use super::recode::Recoder;
use super::store::{self, BUCKETS, Store, bucket};
use crate::event::TableId;
use crate::pipeline::{Closed, Handle};
use crate::runtime::Chain;
use crate::runtime::Phase;

/// Dead letters of one key that are published, beyond those that a person asked for, before other
/// things get their turn: a key that gets new events as fast as it is replayed would never let go.
const AT_ONCE: u64 = 10_000;

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
    /// When it was asked for, microseconds since the Unix epoch: what became a dead letter later is
    /// not discarded.
    #[serde(default)]
    pub asked_at: i64,
}

impl Order {
    /// To publish whatever there is, without a person's wish.
    pub fn replay_all() -> Self {
        Self {
            action: Action::Replay,
            filter: Filter::default(),
            rate: None,
            dry_run: false,
            asked_at: 0,
        }
    }
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
    /// Keys whose replay has stopped for another reason: Kafka takes no records now, or their dead
    /// letters could not be read or removed.
    #[serde(default)]
    pub postponed: u64,
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
    postponed: AtomicU64,
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
            postponed: get(&self.postponed),
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

    /// Waits for the turn of the next one, or for a stop.
    async fn wait(&self, phase: &watch::Receiver<Phase>) {
        if self.pause.is_zero() {
            return;
        }
        let at = {
            let mut next = self.next.lock().await;
            let at = next.map_or_else(Instant::now, |next| next.max(Instant::now()));
            *next = Some(at + self.pause);
            at
        };
        let mut phase = phase.clone();
        tokio::select! {
            () = sleep_until(at) => {}
            // An error means that the runtime has ended: stop as well.
            _ = phase.wait_for(|phase| *phase > Phase::Running) => {}
        }
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
    /// When the table cannot be walked, or the relay stops. What was published by then is published.
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
            halted: AtomicBool::new(false),
            put_off: AtomicBool::new(false),
        };
        let run = Arc::new(run);
        let mut keys = JoinSet::new();
        let mut outcome = run.walk(&mut keys, progress).await;
        if outcome.is_err() {
            run.halted.store(true, Ordering::Relaxed);
        }
        while let Some(ended) = keys.join_next().await {
            progress.send_replace(run.counters.progress());
            outcome = outcome.and(run.key_ended(ended));
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
    /// Set when nothing new is to be begun.
    halted: AtomicBool,
    /// Set when Kafka takes no records: the walk ends, and what was begun comes to its end.
    put_off: AtomicBool,
}

/// A key that is being looked at.
struct Looked {
    key: Bytes,
    extent: Extent,
    /// Meant dead letters whose key is not parked; they have no order to keep.
    loose: u64,
    meant: u64,
    /// The last of the meant ones.
    last: Option<Place>,
}

impl Looked {
    fn new(key: Bytes, asked: Asked) -> Self {
        Self {
            key,
            extent: Extent::new(asked),
            loose: 0,
            meant: 0,
            last: None,
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
                    if self.put_off.load(Ordering::Relaxed) {
                        return Ok(());
                    }
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
        if meant {
            looked.meant += 1;
            looked.last = Some(letter.place.clone());
        }
        if letter.parks {
            looked.extent.look(letter, meant);
        } else if meant {
            looked.loose += 1;
        }
    }

    fn is_meant(&self, letter: &DeadLetter) -> bool {
        match (self.asked, self.order.action) {
            (Asked::ByItself, _) => letter.reason.is_replayed_by_itself(),
            (Asked::ByPerson, Action::Replay) => self.order.filter.matches(letter),
            // Nobody has seen what came later.
            (Asked::ByPerson, Action::Discard) => {
                letter.put_at <= self.order.asked_at && self.order.filter.matches(letter)
            }
        }
    }

    fn go_on(&self) -> Result<(), Error> {
        let stopping = *self.replayer.phase.borrow() > Phase::Running;
        if stopping || self.halted.load(Ordering::Relaxed) {
            return Err(Error::Stopped);
        }
        Ok(())
    }

    /// What the end of a key means for the whole: only what no other key would survive either.
    fn key_ended(&self, ended: Result<Result<(), Error>, JoinError>) -> Result<(), Error> {
        match ended {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Error::Store(error))) => {
                add(&self.counters.postponed, 1);
                tracing::warn!(error = %Chain(&error), "the replay of a key has stopped");
                Ok(())
            }
            Ok(Err(error)) => {
                self.halted.store(true, Ordering::Relaxed);
                Err(error)
            }
            Err(panic) => {
                self.halted.store(true, Ordering::Relaxed);
                Err(Error::Panicked(panic))
            }
        }
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
            last,
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
            let Some(ended) = keys.join_next().await else {
                break;
            };
            self.key_ended(ended)?;
        }
        let most = match self.asked {
            Asked::ByItself => AT_ONCE,
            Asked::ByPerson => planned.saturating_add(AT_ONCE),
        };
        let run = Arc::clone(self);
        keys.spawn(async move {
            let mut one = OneKey {
                run,
                table,
                key,
                failed: HashSet::new(),
                published: 0,
                most,
            };
            match (one.run.order.action, last) {
                (Action::Replay, _) => one.replay(decision, loose).await,
                (Action::Discard, Some(last)) => one.discard(&last).await,
                (Action::Discard, None) => Ok(()),
            }
        });
        Ok(())
    }
}
