//! What is done with the dead letters of one key: looked at in their order, published or removed one
//! after the other, and the key released when none is left.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::time::sleep;

use super::{AT_ONCE, Error, Run, add};
use crate::dead_letters::extent::{Asked, Decision};
use crate::dead_letters::letter::{DeadLetter, Failure, Label, Place, Reason};
use crate::dead_letters::parking::Quiet;
use crate::dead_letters::store::{self, Store};
use crate::event::{Record, TableId};
use crate::pipeline::{self, Replayed};
use crate::runtime::Chain;

/// Dead letters of one key read at once, without their payloads.
const PAGE: i32 = 100;
/// Pause before a look at a key whose last dead letters are still being written.
const QUIET_PAUSE: Duration = Duration::from_millis(20);
/// Pause before a read or a removal that has failed is tried again.
const REMOVE_PAUSE: Duration = Duration::from_millis(500);

/// What becomes of one dead letter.
enum Done {
    Gone,
    Failed,
    /// Kafka takes no records now: nothing more of any key is begun by a replay without a person.
    Postponed,
}

/// What a look at all dead letters of a key has found.
#[derive(Debug, Default)]
struct Pass {
    /// Something was removed.
    changed: bool,
    /// Something is left that keeps the key parked.
    parking: bool,
    /// Nothing more of the key's order is to be done.
    stop: bool,
}

/// What is done with one key.
pub(super) struct OneKey {
    pub(super) run: Arc<Run>,
    pub(super) table: TableId,
    pub(super) key: Bytes,
    /// Places that have failed in this run, [`AT_ONCE`] at most; they are not attempted again by it.
    pub(super) failed: HashSet<Place>,
    pub(super) published: u64,
    /// Publish no more than so many.
    pub(super) most: u64,
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
    pub(super) async fn replay(
        &mut self,
        decision: Option<Decision>,
        loose: u64,
    ) -> Result<(), Error> {
        loop {
            self.run.go_on()?;
            let quiet = self.quiet().await?;
            let mut pass = Pass::default();
            let mut cursor = Cursor::default();
            loop {
                let letters = self.page(&cursor).await?;
                if letters.is_empty() {
                    break;
                }
                for letter in letters {
                    self.run.go_on()?;
                    cursor.pass(&letter.place);
                    let waits = letter.parks && pass.stop;
                    let failed = self.failed.contains(&letter.place);
                    if waits || failed || !self.wants(&letter, decision.as_ref()) {
                        pass.left(&letter);
                        continue;
                    }
                    match self.publish(&letter).await? {
                        Done::Gone => pass.changed = true,
                        Done::Failed => {
                            self.failed.insert(letter.place.clone());
                            pass.left(&letter);
                        }
                        Done::Postponed => {
                            add(&self.run.counters.postponed, 1);
                            self.run.put_off.store(true, Ordering::Relaxed);
                            return Ok(());
                        }
                    }
                    if self.published >= self.most || self.failed.len() as u64 >= AT_ONCE {
                        return self.leave_the_rest().await;
                    }
                }
                // What is behind in the key's order stays, and there is nothing else to look for.
                if pass.stop && loose == 0 {
                    return Ok(());
                }
            }
            if pass.changed {
                continue;
            }
            if pass.parking || self.release(quiet).await? {
                return Ok(());
            }
        }
    }

    /// So many were published that others get their turn; lets the key go if nothing is left.
    async fn leave_the_rest(&self) -> Result<(), Error> {
        let quiet = self.quiet().await?;
        let nothing = self.page(&Cursor::default()).await?.is_empty();
        if !(nothing && self.release(quiet).await?) {
            add(&self.run.counters.postponed, 1);
        }
        Ok(())
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

    /// Removes what is meant, up to the last one that was seen; then lets the key go if nothing is
    /// left.
    pub(super) async fn discard(&mut self, last: &Place) -> Result<(), Error> {
        loop {
            self.run.go_on()?;
            let quiet = self.quiet().await?;
            let mut pass = Pass::default();
            let mut cursor = Cursor::default();
            loop {
                let letters = self.page(&cursor).await?;
                if letters.is_empty() {
                    break;
                }
                for letter in letters {
                    self.run.go_on()?;
                    cursor.pass(&letter.place);
                    if letter.place <= *last && self.run.is_meant(&letter) {
                        self.remove(&letter).await?;
                        add(&self.run.counters.discarded, 1);
                        pass.changed = true;
                    } else {
                        pass.left(&letter);
                    }
                }
            }
            if pass.changed {
                continue;
            }
            if pass.parking || self.release(quiet).await? {
                return Ok(());
            }
        }
    }

    /// The next dead letters of the key; tries again until the relay stops, since a key of which
    /// nothing is left would not be looked at any more.
    async fn page(&self, cursor: &Cursor) -> Result<Vec<DeadLetter>, Error> {
        loop {
            let error = match cursor.page(self).await {
                Ok(letters) => return Ok(letters),
                Err(error @ Error::Store(store::Error::Form { .. })) => return Err(error),
                Err(error) => error,
            };
            tracing::warn!(
                table = self.table_name(),
                error = %Chain(&error),
                "the dead letters of a key were not read; it is tried again"
            );
            self.run.go_on()?;
            sleep(REMOVE_PAUSE).await;
        }
    }

    async fn quiet(&self) -> Result<Quiet, Error> {
        let handle = &self.run.replayer.handle;
        Ok(handle.quiet(self.table, self.key.clone()).await?)
    }

    /// The table holds nothing that parks the key; says whether the key is free, too.
    async fn release(&self, quiet: Quiet) -> Result<bool, Error> {
        match quiet {
            Quiet::NotParked => Ok(true),
            Quiet::Not => {
                sleep(QUIET_PAUSE).await;
                Ok(false)
            }
            Quiet::Since(since) => {
                let handle = &self.run.replayer.handle;
                let released = handle.release(self.table, self.key.clone(), since);
                Ok(released.await?)
            }
        }
    }

    async fn publish(&mut self, outline: &DeadLetter) -> Result<Done, Error> {
        let run = Arc::clone(&self.run);
        run.pace.wait(&run.replayer.phase).await;
        run.go_on()?;
        let Some(letter) = self.store().get(outline).await? else {
            return Ok(Done::Gone);
        };
        let attempts = letter
            .failure
            .as_ref()
            .map_or(0, |failure| failure.attempts);
        let (record, label) = match letter.record.clone() {
            Some(record) => (record, letter.label.clone()),
            None => match self.decode(&letter).await? {
                Ok(Some(made)) => made,
                Ok(None) => {
                    self.remove(&letter).await?;
                    add(&run.counters.skipped, 1);
                    return Ok(Done::Gone);
                }
                Err(message) => {
                    let failure = Failure {
                        kind: Reason::Undecodable.name().to_owned(),
                        message,
                        attempts,
                    };
                    return self.failed(&letter, Reason::Undecodable, &failure).await;
                }
            },
        };
        let replay = pipeline::Replay {
            table: self.table,
            record,
            label,
            attempts,
        };
        match run.replayer.handle.replay(replay).await? {
            Replayed::Published => {
                self.remove(&letter).await?;
                add(&run.counters.published, 1);
                self.published += 1;
                Ok(Done::Gone)
            }
            Replayed::Failed(reason, failure) => self.failed(&letter, reason, &failure).await,
            Replayed::Postponed => Ok(Done::Postponed),
        }
    }

    /// Makes a record of a row that could not be decoded; the error is for a person.
    async fn decode(
        &self,
        letter: &DeadLetter,
    ) -> Result<Result<Option<(Record, Label)>, String>, Error> {
        let replayer = &self.run.replayer;
        let made = replayer.recoder.record(self.table, letter).await;
        let Ok(Some((record, _))) = &made else {
            return Ok(made);
        };
        // A key that can be read now may have dead letters of its own, which go first.
        if record.key != letter.key {
            let quiet = replayer.handle.quiet(self.table, record.key.clone());
            if quiet.await? != Quiet::NotParked {
                return Ok(Err(
                    "its key has dead letters: replay those first".to_owned()
                ));
            }
        }
        Ok(made)
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
        let failed = self.store().failed_again(letter, reason, failure, now);
        failed.await?;
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

impl Pass {
    /// A dead letter stays.
    fn left(&mut self, letter: &DeadLetter) {
        self.parking |= letter.parks;
        // What is behind it in its order stays as well.
        self.stop |= letter.parks;
    }
}

/// How far the dead letters of a key have been looked at.
#[derive(Debug, Default)]
struct Cursor {
    last: Option<Place>,
    /// Places of the time of `last`: a page begins with that time.
    seen: HashSet<Place>,
}

impl Cursor {
    /// The next dead letters of the key.
    async fn page(&self, of: &OneKey) -> Result<Vec<DeadLetter>, Error> {
        let from = self.last.as_ref().map(|place| place.position.time);
        // Those that were seen at this time are read once more.
        let limit = PAGE.saturating_add(i32::try_from(self.seen.len()).unwrap_or(i32::MAX));
        let letters = of.store().of_key(of.table_name(), &of.key, from, limit);
        let mut letters = letters.await?;
        letters.retain(|letter| !self.seen.contains(&letter.place));
        Ok(letters)
    }

    fn pass(&mut self, place: &Place) {
        let same = |last: &Place| last.position.time == place.position.time;
        if !self.last.as_ref().is_some_and(same) {
            self.seen.clear();
        }
        self.last = Some(place.clone());
        self.seen.insert(place.clone());
    }
}
