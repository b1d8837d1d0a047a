//! Permits: how much may be in flight.
//!
//! Owns the two budgets, events and bytes, and the channel that what is admitted goes through.
//! Both budgets are first come, first served, so one caller's submits keep their order.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::core::{Core, Item, Kind};
use super::{Broken, Delivery, Replay, Replayed};
use crate::ack::{Ack, Settled};
use crate::config;
use crate::dead_letters::parking::Quiet;
use crate::dead_letters::{KeptRow, Label};
use crate::event::{Record, TableId};
use crate::retry::breaker;
use crate::sink::Appended;

/// The pipeline has ended and takes nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the pipeline has ended")]
pub struct Closed;

struct Budget {
    events: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    /// Bytes that one permit of `bytes` stands for: 1 unless the budget exceeds 4 GiB.
    unit: usize,
    /// All permits of `bytes`.
    whole: u32,
    /// All permits of `events`.
    most_events: usize,
}

impl Budget {
    fn new(limits: &config::Limits) -> Self {
        let bytes = limits.in_flight_bytes.get();
        let unit = bytes / u32::MAX as usize + 1;
        let whole = u32::try_from(bytes / unit).unwrap_or(u32::MAX).max(1);
        let events = limits.in_flight_events.get().min(Semaphore::MAX_PERMITS);
        Self {
            events: Arc::new(Semaphore::new(events)),
            bytes: Arc::new(Semaphore::new(whole as usize)),
            unit,
            whole,
            most_events: events,
        }
    }

    /// What a record of `size` bytes costs: at least one permit, at most all there are.
    fn cost(&self, size: usize) -> u32 {
        u32::try_from(size.div_ceil(self.unit))
            .unwrap_or(u32::MAX)
            .clamp(1, self.whole)
    }
}

/// What is to be published.
pub(super) enum Content {
    Record(Record),
    /// Nothing: the row cannot be made a record.
    Broken {
        /// Why not.
        reason: String,
        /// What the dead letter keeps of it.
        row: Arc<KeptRow>,
    },
}

/// Who waits for the outcome.
pub(super) enum Owner {
    /// The source that read the row.
    Row(Ack),
    /// The replay of a dead letter that had so many attempts.
    Replay {
        reply: oneshot::Sender<Replayed>,
        attempts: u32,
    },
}

/// An item with the permits that it holds until it is settled or dropped.
pub struct Admitted {
    pub(super) table: TableId,
    pub(super) key: Bytes,
    pub(super) label: Label,
    pub(super) content: Content,
    pub(super) owner: Owner,
    pub(super) times: Times,
    _event: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

/// When an item was read, handed over and last attempted, and how often.
#[derive(Debug)]
pub(super) struct Times {
    /// `None` for a replay.
    pub(super) read: Option<Instant>,
    pub(super) submitted: Instant,
    pub(super) sent: Cell<Option<Instant>>,
    pub(super) appended: Cell<Option<Appended>>,
    pub(super) attempts: Cell<u32>,
}

/// How long an item has taken until `now`, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Took {
    /// Since its row was written.
    pub(super) written: i64,
    /// Since it was handed over.
    pub(super) submitted: i64,
    /// Since its last attempt.
    pub(super) sent: i64,
}

impl Item for Admitted {
    fn table(&self) -> TableId {
        self.table
    }

    fn key(&self) -> &Bytes {
        &self.key
    }

    fn kind(&self) -> Kind<'_> {
        match (&self.owner, &self.content) {
            (Owner::Replay { attempts, .. }, _) => Kind::Replay {
                attempts: *attempts,
            },
            (Owner::Row(_), Content::Broken { reason, .. }) => Kind::Broken(reason),
            (Owner::Row(_), Content::Record(_)) => Kind::Event,
        }
    }
}

impl fmt::Debug for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admitted")
            .field("table", &self.table)
            .field("label", &self.label)
            .finish_non_exhaustive()
    }
}

impl Admitted {
    /// What is to be published; `None` if the row cannot be made a record.
    pub fn record(&self) -> Option<&Record> {
        match &self.content {
            Content::Record(record) => Some(record),
            Content::Broken { .. } => None,
        }
    }

    /// An attempt is made.
    pub(super) fn sent(&self, now: Instant) {
        self.times.sent.set(Some(now));
        let attempts = &self.times.attempts;
        attempts.set(attempts.get().saturating_add(1));
    }

    /// How long it has taken; `wall` is `now` in microseconds since the Unix epoch. `None` for a
    /// replay, which has waited for a person.
    pub(super) fn took(&self, now: Instant, wall: i64) -> Option<Took> {
        let Owner::Row(ack) = &self.owner else {
            return None;
        };
        let since = |at: Instant| now.saturating_duration_since(at).as_micros() as i64;
        let submitted = since(self.times.submitted);
        Some(Took {
            written: wall.saturating_sub(ack.row().row.position.micros()),
            submitted,
            sent: self.times.sent.get().map_or(0, since),
        })
    }

    /// The row that is settled with it; `None` for a replay.
    pub fn row(&self) -> Option<Settled> {
        match &self.owner {
            Owner::Row(ack) => Some(ack.row()),
            Owner::Replay { .. } => None,
        }
    }

    /// Tells a replay what became of it otherwise than by being published.
    pub fn answer(self, replayed: Replayed) {
        if let Owner::Replay { reply, .. } = self.owner {
            // A replay that has been given up does not need to know.
            drop(reply.send(replayed));
        }
    }

    /// Settles the row or tells the replay, then gives the permits back.
    pub fn settle(self) {
        match self.owner {
            Owner::Row(ack) => ack.settle(),
            // A replay that has been given up does not need to know.
            Owner::Replay { reply, .. } => drop(reply.send(Replayed::Published)),
        }
    }
}

/// A question to the pipeline.
pub(super) enum Command {
    Quiet {
        table: TableId,
        key: Bytes,
        reply: oneshot::Sender<Quiet>,
    },
    Release {
        table: TableId,
        key: Bytes,
        since: u32,
        reply: oneshot::Sender<bool>,
    },
}

impl Command {
    /// Answers it. Who asked may have given up; then nobody needs the answer.
    pub(super) fn answer(self, core: &mut Core<Admitted>) {
        match self {
            Self::Quiet { table, key, reply } => drop(reply.send(core.quiet(table, &key))),
            Self::Release {
                table,
                key,
                since,
                reply,
            } => drop(reply.send(core.release(table, &key, since))),
        }
    }
}

/// The pipeline's end of the channel. Dropping it closes the budgets, so that nobody waits for
/// permits that will never come.
pub struct Input {
    pub(super) admitted: mpsc::UnboundedReceiver<Admitted>,
    pub(super) commands: mpsc::UnboundedReceiver<Command>,
    pub(super) breaker: watch::Sender<breaker::State>,
    budget: Arc<Budget>,
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input")
            .field("admitted", &self.admitted.len())
            .finish_non_exhaustive()
    }
}

impl Input {
    /// Hands everything that has come to `core`, without waiting.
    pub fn take(&mut self, core: &mut Core<Admitted>) {
        while let Ok(item) = self.admitted.try_recv() {
            core.admit(item);
        }
        while let Ok(command) = self.commands.try_recv() {
            command.answer(core);
        }
    }

    /// Whether nothing has come that was not taken.
    pub fn is_empty(&self) -> bool {
        self.admitted.is_empty() && self.commands.is_empty()
    }

    /// Tells the handles how the breaker has moved.
    pub fn breaker_moved(&self, to: breaker::State) {
        self.breaker.send_replace(to);
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.budget.events.close();
        self.budget.bytes.close();
    }
}

/// Hands deliveries to the pipeline.
#[derive(Clone)]
pub struct Handle {
    budget: Arc<Budget>,
    admitted: mpsc::UnboundedSender<Admitted>,
    commands: mpsc::UnboundedSender<Command>,
    breaker: watch::Receiver<breaker::State>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("free_events", &self.budget.events.available_permits())
            .field("free_bytes", &self.budget.bytes.available_permits())
            .finish_non_exhaustive()
    }
}

/// Permits within these limits, and the channel for what is admitted.
pub fn channel(limits: &config::Limits) -> (Handle, Input) {
    let budget = Arc::new(Budget::new(limits));
    // Unbounded, because the permits bound what is inside.
    let (sender, receiver) = mpsc::unbounded_channel();
    // Bounded by its senders: each waits for the answer.
    let (ask, asked) = mpsc::unbounded_channel();
    let (state, states) = watch::channel(breaker::State::Closed);
    let handle = Handle {
        budget: Arc::clone(&budget),
        admitted: sender,
        commands: ask,
        breaker: states,
    };
    let input = Input {
        admitted: receiver,
        commands: asked,
        breaker: state,
        budget,
    };
    (handle, input)
}

impl Handle {
    /// Waits for room, then hands the delivery over. Submits of one caller, each awaited before
    /// the next, reach the lanes in their order.
    ///
    /// Not cancel safe: a future that is dropped before it ends drops its delivery unsettled.
    pub async fn submit(&self, delivery: Delivery) -> Result<(), Closed> {
        let Delivery {
            table,
            record,
            label,
            ack,
            read_at,
        } = delivery;
        let key = record.key.clone();
        let content = Content::Record(record);
        let owner = Owner::Row(ack);
        self.admit(table, key, label, content, owner, Some(read_at))
            .await
    }

    /// As [`Handle::submit`], for a row that should be an event and cannot be made a record: it
    /// becomes a dead letter when the events of its key before it are done.
    pub async fn submit_broken(&self, broken: Broken) -> Result<(), Closed> {
        let Broken {
            table,
            key,
            label,
            reason,
            row,
            ack,
            read_at,
        } = broken;
        let row = Arc::new(row);
        let content = Content::Broken { reason, row };
        let owner = Owner::Row(ack);
        self.admit(table, key, label, content, owner, Some(read_at))
            .await
    }

    /// Publishes a dead letter, before anything else of its key, which is parked. The caller
    /// replays the dead letters of a key one after the other.
    pub async fn replay(&self, wanted: Replay) -> Result<Replayed, Closed> {
        let Replay {
            table,
            record,
            label,
            attempts,
        } = wanted;
        let (reply, answer) = oneshot::channel();
        let key = record.key.clone();
        let owner = Owner::Replay { reply, attempts };
        let content = Content::Record(record);
        // It waits neither for Kafka nor for the permits of those that do.
        let mut breaker = self.breaker();
        tokio::select! {
            biased;
            admitted = self.admit(table, key, label, content, owner, None) => admitted?,
            open = breaker.wait_for(|state| *state == breaker::State::Open) => {
                return open.map(|_| Replayed::Postponed).map_err(|_| Closed);
            }
        }
        answer.await.map_err(|_| Closed)
    }

    /// See [`Parking::quiet`](crate::dead_letters::Parking::quiet).
    pub async fn quiet(&self, table: TableId, key: Bytes) -> Result<Quiet, Closed> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Quiet { table, key, reply };
        self.commands.send(command).map_err(|_| Closed)?;
        answer.await.map_err(|_| Closed)
    }

    /// See [`Parking::release`](crate::dead_letters::Parking::release).
    pub async fn release(&self, table: TableId, key: Bytes, since: u32) -> Result<bool, Closed> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Release {
            table,
            key,
            since,
            reply,
        };
        self.commands.send(command).map_err(|_| Closed)?;
        answer.await.map_err(|_| Closed)
    }

    /// Events and bytes that are in flight now.
    pub fn in_flight(&self) -> (usize, usize) {
        let Budget {
            events,
            bytes,
            unit,
            whole,
            most_events,
        } = &*self.budget;
        let free = bytes.available_permits();
        (
            most_events.saturating_sub(events.available_permits()),
            (*whole as usize).saturating_sub(free).saturating_mul(*unit),
        )
    }

    /// The state of the breaker before Kafka.
    pub fn breaker(&self) -> watch::Receiver<breaker::State> {
        self.breaker.clone()
    }

    async fn admit(
        &self,
        table: TableId,
        key: Bytes,
        label: Label,
        content: Content,
        owner: Owner,
        read: Option<Instant>,
    ) -> Result<(), Closed> {
        let times = Times {
            read,
            submitted: Instant::now(),
            sent: Cell::new(None),
            appended: Cell::new(None),
            attempts: Cell::new(0),
        };
        let cost = self.budget.cost(match &content {
            Content::Record(record) => record.size(),
            Content::Broken { reason, row } => key.len() + reason.len() + row.size(),
        });
        let event = Arc::clone(&self.budget.events)
            .acquire_owned()
            .await
            .map_err(|_| Closed)?;
        let bytes = Arc::clone(&self.budget.bytes)
            .acquire_many_owned(cost)
            .await
            .map_err(|_| Closed)?;
        let admitted = Admitted {
            table,
            key,
            label,
            content,
            owner,
            times,
            _event: event,
            _bytes: bytes,
        };
        self.admitted.send(admitted).map_err(|_| Closed)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    fn budget(bytes: usize) -> Budget {
        Budget::new(&config::Limits {
            in_flight_events: NonZeroUsize::new(10).expect("not zero"),
            in_flight_bytes: NonZeroUsize::new(bytes).expect("not zero"),
        })
    }

    #[test]
    fn a_record_costs_its_size_but_never_more_than_there_is() {
        let budget = budget(100);
        assert_eq!(
            [0, 1, 99, 100, 101, 1 << 40].map(|n| budget.cost(n)),
            [1, 1, 99, 100, 100, 100]
        );
    }

    #[test]
    fn budgets_beyond_four_gibibytes_count_in_coarser_units() {
        let budget = budget(16 << 30);
        assert!(budget.whole as usize * budget.unit <= 16 << 30);
        assert!(budget.whole as usize * budget.unit >= 15 << 30);
        assert_eq!(budget.cost(1), 1);
        assert_eq!(budget.cost(32 << 30), budget.whole);
    }
}
