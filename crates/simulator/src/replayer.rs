//! The replay of dead letters: which ones, in which order, and when a key is let go.
//!
//! The relay's own walk waits for a session; this is the same walk over the simulated table. What
//! it decides with is the relay's: the extent of a replay, the parked keys and the pipeline.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use outbox_relay::dead_letters::extent::{Asked, Decision, Extent};
use outbox_relay::dead_letters::parking::Quiet;
use outbox_relay::dead_letters::{DeadLetter, Failure, Place, Reason};
use outbox_relay::event::TableId;
use outbox_relay::pipeline::{Handle, Replay, Replayed};
use outbox_relay::runtime::Phase;
use tokio::sync::watch;

use crate::wire::{Answer, Request, Wire};

/// The only outbox.
pub(crate) const TABLE: TableId = TableId(0);

const QUIET_PAUSE: i64 = 20_000;
const REMOVE_PAUSE: i64 = 200_000;

/// Timestamps of writes: never twice the same, never below the relay's clock.
#[derive(Debug, Default)]
pub(crate) struct Stamps {
    clock: AtomicI64,
    last: AtomicI64,
}

impl Stamps {
    /// The relay's clock shows this now.
    pub(crate) fn set(&self, clock: i64) {
        self.clock.store(clock, Ordering::Relaxed);
    }

    /// A timestamp after `last`.
    pub(crate) fn next(&self, last: i64) -> i64 {
        let now = self.clock.load(Ordering::Relaxed).max(last + 1);
        let stamp = now.max(self.last.load(Ordering::Relaxed) + 1);
        self.last.store(stamp, Ordering::Relaxed);
        stamp
    }
}

/// Nothing more is to be done: the relay stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stopped;

/// What a replay did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Whether something has failed or was put off, so that another one may help.
    pub(crate) left: bool,
}

/// Replays and discards.
#[derive(Debug, Clone)]
pub(crate) struct Replayer {
    /// The way to the table.
    pub(crate) wire: Arc<Wire>,
    /// The pipeline.
    pub(crate) handle: Handle,
    /// Who asked.
    pub(crate) asked: Asked,
    /// The stop of the relay.
    pub(crate) phase: watch::Receiver<Phase>,
    /// Timestamps.
    pub(crate) stamps: Arc<Stamps>,
}

#[derive(Debug, Default)]
struct Pass {
    changed: bool,
    parking: bool,
    stop: bool,
}

impl Pass {
    fn left(&mut self, letter: &DeadLetter) {
        self.parking |= letter.parks;
        self.stop |= letter.parks;
    }
}

enum Done {
    Gone,
    Failed,
    Postponed,
}

impl Replayer {
    fn go_on(&self) -> Result<(), Stopped> {
        if *self.phase.borrow() > Phase::Running {
            return Err(Stopped);
        }
        Ok(())
    }

    fn is_meant(&self, letter: &DeadLetter) -> bool {
        match self.asked {
            Asked::ByItself => letter.reason.is_replayed_by_itself(),
            Asked::ByPerson => letter.record.is_some(),
        }
    }

    /// Replays all that is meant; a person then discards what cannot be published.
    pub(crate) async fn carry_out(self) -> Result<Summary, Stopped> {
        let mut summary = Summary::default();
        for key in self.keys().await? {
            let letters = self.letters(&key).await?;
            let mut extent = Extent::new(self.asked);
            let mut loose = 0;
            for letter in &letters {
                let meant = self.is_meant(letter);
                if letter.parks {
                    extent.look(letter, meant);
                } else if meant {
                    loose += 1;
                }
            }
            let decision = extent.decide();
            if (decision.is_some() || loose > 0)
                && !self
                    .replay(&key, decision.as_ref(), loose, &mut summary)
                    .await?
            {
                return Ok(summary);
            }
            if self.asked == Asked::ByPerson {
                self.discard(&key).await?;
            }
        }
        Ok(summary)
    }

    async fn keys(&self) -> Result<Vec<Bytes>, Stopped> {
        loop {
            self.go_on()?;
            if let Answer::LetterKeys(keys) = self.wire.call(Request::LetterKeys).await {
                return Ok(keys);
            }
            self.wire.call(Request::Sleep(REMOVE_PAUSE)).await;
        }
    }

    async fn letters(&self, key: &Bytes) -> Result<Vec<DeadLetter>, Stopped> {
        loop {
            let asked = self.wire.call(Request::LettersOf(key.clone()));
            if let Answer::Letters(letters) = asked.await {
                return Ok(letters);
            }
            self.go_on()?;
            self.wire.call(Request::Sleep(REMOVE_PAUSE)).await;
        }
    }

    /// As the relay's replay of a key; false if Kafka takes no records now.
    async fn replay(
        &self,
        key: &Bytes,
        decision: Option<&Decision>,
        loose: u64,
        summary: &mut Summary,
    ) -> Result<bool, Stopped> {
        let mut failed: BTreeSet<Place> = BTreeSet::new();
        loop {
            self.go_on()?;
            let quiet = self.quiet(key).await?;
            let mut pass = Pass::default();
            for letter in self.letters(key).await? {
                self.go_on()?;
                let waits = letter.parks && pass.stop;
                let again = failed.contains(&letter.place);
                if waits || again || !self.wants(&letter, decision) {
                    pass.left(&letter);
                    continue;
                }
                match self.publish(&letter).await? {
                    Done::Gone => pass.changed = true,
                    Done::Failed => {
                        summary.left = true;
                        failed.insert(letter.place.clone());
                        pass.left(&letter);
                    }
                    Done::Postponed => {
                        summary.left = true;
                        return Ok(false);
                    }
                }
            }
            if pass.stop && loose == 0 {
                return Ok(true);
            }
            if pass.changed {
                continue;
            }
            if pass.parking || self.release(key, quiet).await? {
                return Ok(true);
            }
        }
    }

    fn wants(&self, letter: &DeadLetter, decision: Option<&Decision>) -> bool {
        if !letter.parks {
            return self.is_meant(letter);
        }
        let waits = self.asked == Asked::ByItself && !letter.reason.is_replayed_by_itself();
        decision.is_some_and(|decision| {
            let within = letter.place <= decision.upto;
            let joined = decision.whole && letter.reason == Reason::Parked;
            !waits && (within || joined)
        })
    }

    async fn publish(&self, letter: &DeadLetter) -> Result<Done, Stopped> {
        let attempts = letter
            .failure
            .as_ref()
            .map_or(0, |failure| failure.attempts);
        let Some(record) = letter.record.clone() else {
            let failure = Failure {
                kind: Reason::Undecodable.name().to_owned(),
                message: String::new(),
                attempts,
            };
            return self.failed(letter, Reason::Undecodable, failure).await;
        };
        let replay = Replay {
            table: TABLE,
            record,
            label: letter.label.clone(),
            attempts,
        };
        match self.handle.replay(replay).await.map_err(|_| Stopped)? {
            Replayed::Published => {
                self.remove(letter).await?;
                Ok(Done::Gone)
            }
            Replayed::Failed(reason, failure) => self.failed(letter, reason, failure).await,
            Replayed::Postponed => Ok(Done::Postponed),
        }
    }

    async fn failed(
        &self,
        letter: &DeadLetter,
        reason: Reason,
        failure: Failure,
    ) -> Result<Done, Stopped> {
        let stamp = self.stamps.next(letter.stamp);
        let asked = Request::FailedAgain(letter.clone(), reason, failure, stamp);
        // That it is not written is logged, and ends the replay of the key.
        let _ = self.wire.call(asked).await;
        Ok(Done::Failed)
    }

    async fn remove(&self, letter: &DeadLetter) -> Result<(), Stopped> {
        loop {
            let stamp = self.stamps.next(letter.stamp);
            if let Answer::Done = self.wire.call(Request::Remove(letter.clone(), stamp)).await {
                return Ok(());
            }
            self.go_on()?;
            self.wire.call(Request::Sleep(REMOVE_PAUSE)).await;
        }
    }

    async fn discard(&self, key: &Bytes) -> Result<(), Stopped> {
        loop {
            self.go_on()?;
            let quiet = self.quiet(key).await?;
            let mut pass = Pass::default();
            for letter in self.letters(key).await? {
                self.go_on()?;
                if letter.record.is_none() {
                    self.remove(&letter).await?;
                    pass.changed = true;
                } else {
                    pass.left(&letter);
                }
            }
            if pass.changed {
                continue;
            }
            if pass.parking || self.release(key, quiet).await? {
                return Ok(());
            }
        }
    }

    async fn quiet(&self, key: &Bytes) -> Result<Quiet, Stopped> {
        let quiet = self.handle.quiet(TABLE, key.clone()).await;
        quiet.map_err(|_| Stopped)
    }

    async fn release(&self, key: &Bytes, quiet: Quiet) -> Result<bool, Stopped> {
        match quiet {
            Quiet::NotParked => Ok(true),
            Quiet::Not => {
                self.wire.call(Request::Sleep(QUIET_PAUSE)).await;
                Ok(false)
            }
            Quiet::Since(since) => {
                let released = self.handle.release(TABLE, key.clone(), since).await;
                released.map_err(|_| Stopped)
            }
        }
    }
}
