//! What the pipeline decides, without a clock and without I/O.
//!
//! Owns the lanes, the attempts under way, the breaker, the schedule of retries and the set of
//! parked keys. Things that happened go in (an item was admitted, an attempt has ended, a dead
//! letter is durable, time has passed); [`Core::next_send`] gives what is to be handed to the sink,
//! [`Core::next_act`] whatever else is to be done. The shell ([`super::Pipeline`]) does it, and so
//! does the simulator. Times are [`Duration`]s since any fixed origin. Invariants:
//!
//! 1. Event n+1 of a key is not given out before event n of it is acknowledged or is being made a
//!    dead letter; while a key is parked, its events join its dead letters.
//! 2. An item leaves in exactly one act, or stays here. Only [`Act::Published`] and [`Act::Kept`]
//!    mean that it is durable.
//! 3. While the breaker is open nothing is given out, and waiting uses up no attempts.
//! 4. Nothing is given out at or after the time until which this process may publish.
//!
//! Deliberately absent: the bound on what may be admitted (permits), the writes of dead letters
//! ([`super::keeping`]), building the producer, logs and metrics.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::lanes::{LaneId, LaneKey, Lanes};
use crate::config::{self, OnExhausted, OnPermanent};
use crate::dead_letters::parking::Quiet;
use crate::dead_letters::{Failure, Parking, Reason};
use crate::event::TableId;
use crate::retry::Policy;
use crate::retry::breaker::{Admission, Breaker, State, Ticket, Transition};
use crate::sink::{Class, DeliveryError, Report};

/// Pause after the producer's queue was full. A report ends it earlier.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(5);

/// What an item is, as far as that decides its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'i> {
    /// A record that was read from the log.
    Event,
    /// A row that should be an event and cannot be made a record, for this reason.
    Broken(&'i str),
    /// A dead letter that is published after all, after so many attempts.
    Replay {
        /// Attempts made before.
        attempts: u32,
    },
}

/// What goes through the pipeline.
pub trait Item {
    /// The outbox.
    fn table(&self) -> TableId;

    /// The key of its order; empty if it has none.
    fn key(&self) -> &bytes::Bytes;

    /// What it is.
    fn kind(&self) -> Kind<'_>;

    /// Its lane.
    fn lane(&self) -> LaneKey {
        (self.table(), self.key().clone())
    }

    /// Whether it is a replay.
    fn is_replay(&self) -> bool {
        matches!(self.kind(), Kind::Replay { .. })
    }
}

/// An item that is to become a dead letter.
#[derive(Debug)]
pub struct Burial<T> {
    /// The item.
    pub item: T,
    /// Why.
    pub reason: Reason,
    /// What went wrong with it; nothing did with one that joins a parked key.
    pub failure: Option<Failure>,
    /// Whether later events of its key join it.
    pub parks: bool,
}

/// What is to be done now.
#[derive(Debug)]
pub enum Act<T> {
    /// Kafka has it: settle its row, or tell its replay.
    Published(T),
    /// Its dead letter is durable: settle its row.
    Kept(T),
    /// Make it a dead letter; [`Core::kept`] is called when that is durable.
    Bury(Burial<T>),
    /// Tell the replay that Kafka takes no records now.
    Postpone(T),
    /// Tell the replay that it failed again.
    Refuse(T, Reason, Failure),
    /// Say that an attempt failed, the event's so many-th.
    Failed(DeliveryError, u32),
    /// Say that the breaker has moved.
    Moved(Transition),
    /// The producer is of no more use: a new one is due after `delay`.
    Lost {
        /// Why.
        error: DeliveryError,
        /// Attempts that were under way; they are made again.
        unacknowledged: usize,
        /// How long to wait.
        delay: Duration,
    },
}

/// An attempt that is to be made now.
#[derive(Debug)]
pub struct Send<'c, T> {
    /// Names the attempt in what is said of it later.
    pub token: u64,
    /// What to send; never a [`Kind::Broken`] one.
    pub item: &'c T,
}

/// The decisions of a pipeline.
#[derive(Debug)]
pub struct Core<T> {
    lanes: Lanes<T>,
    in_flight: HashMap<u64, (LaneId, Ticket)>,
    next_token: u64,
    policy: Policy,
    retry: config::Retry,
    on_permanent: OnPermanent,
    breaker: Breaker,
    parking: Parking,
    /// Without dead letters, what cannot be published is attempted for ever.
    keeps: bool,
    publish_until: Option<Duration>,
    /// Nothing is sent before: the producer's queue was full.
    stalled_until: Option<Duration>,
    /// Set after a fatal error: when to build the producer anew.
    reopen_at: Option<Duration>,
    fatal_errors: u32,
    acts: VecDeque<Act<T>>,
}

impl<T: Item> Core<T> {
    /// Nothing is in it, and no key is parked.
    pub fn new(
        retry: &config::Retry,
        breaker: &config::Breaker,
        dead_letters: &config::DeadLetters,
    ) -> Self {
        Self {
            lanes: Lanes::new(),
            in_flight: HashMap::new(),
            next_token: 0,
            policy: Policy::new(retry),
            retry: retry.clone(),
            on_permanent: dead_letters.on_permanent,
            breaker: Breaker::new(breaker),
            parking: Parking::new(dead_letters.max_parked_keys.get()),
            keeps: false,
            publish_until: None,
            stalled_until: None,
            reopen_at: None,
            fatal_errors: 0,
            acts: VecDeque::new(),
        }
    }

    /// There are dead letters; these keys are parked.
    pub fn keep_dead_letters(&mut self, parking: Parking) {
        self.keeps = true;
        self.parking = parking;
    }

    /// Nothing is given out from `until` on; without a limit, ever.
    pub fn limit(&mut self, until: Option<Duration>) {
        self.publish_until = until;
    }

    /// Items that are admitted and have not left.
    pub fn len(&self) -> usize {
        self.lanes.len()
    }

    /// Whether every item has left.
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Attempts under way.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether a lane waits for its turn.
    pub fn has_ready(&self) -> bool {
        self.lanes.has_ready()
    }

    /// The breaker's state.
    pub fn breaker(&self) -> State {
        self.breaker.state()
    }

    /// Keys that are parked.
    pub fn parked_keys(&self) -> usize {
        self.parking.len()
    }

    /// When the producer is to be built anew, if it is lost.
    pub fn reopen_at(&self) -> Option<Duration> {
        self.reopen_at
    }

    /// When to look again, if nothing happens before.
    pub fn next_due(&self) -> Option<Duration> {
        // The breaker also when nothing waits here: a replay may be waiting to probe.
        let breaker = self.breaker.next_change();
        let due = [
            self.reopen_at,
            self.stalled_until,
            self.lanes.next_due(),
            breaker,
        ];
        due.into_iter().flatten().min()
    }

    /// The next thing to be done, besides attempts.
    pub fn next_act(&mut self) -> Option<Act<T>> {
        self.acts.pop_front()
    }

    /// Takes an item.
    pub fn admit(&mut self, item: T) {
        match item.kind() {
            // It has no order to keep.
            Kind::Broken(reason) if item.key().is_empty() => {
                let failure = undecodable(reason);
                self.bury(item, Reason::Undecodable, Some(failure), false);
            }
            Kind::Event | Kind::Broken(_) if self.parking.is_parked(item.table(), item.key()) => {
                self.join(item);
            }
            Kind::Replay { .. } if self.breaker.state() == State::Open => {
                self.acts.push_back(Act::Postpone(item));
            }
            _ => self.lanes.push(item.lane(), item),
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Duration) {
        self.stalled_until = self.stalled_until.filter(|until| now < *until);
        self.lanes.due(now);
        let transition = self.breaker.tick(now);
        self.moved(transition);
    }

    /// The next attempt to make, if one may be made. The sink's answer is told at once if it does
    /// not accept it ([`Core::queue_full`], [`Core::report`]), otherwise when it is known.
    pub fn next_send(&mut self, now: Duration) -> Option<Send<'_, T>> {
        let stalled = self.stalled_until.is_some_and(|until| now < until);
        let expired = self.publish_until.is_some_and(|until| now >= until);
        if self.reopen_at.is_some() || stalled || expired {
            return None;
        }
        loop {
            let next = self.lanes.next()?;
            let lane = next.lane;
            if let Kind::Broken(reason) = next.item.kind() {
                let failure = undecodable(reason);
                self.give_up(lane, Reason::Undecodable, failure, now);
                continue;
            }
            let Admission::Go(ticket) = self.breaker.admit() else {
                self.lanes.postponed(lane);
                return None;
            };
            let token = self.next_token;
            self.next_token += 1;
            self.in_flight.insert(token, (lane, ticket));
            let item = self.lanes.head(lane);
            return Some(Send { token, item });
        }
    }

    /// The sink had no room for this attempt, and it was none.
    pub fn queue_full(&mut self, token: u64, now: Duration) {
        if let Some((lane, ticket)) = self.in_flight.remove(&token) {
            self.breaker.passed(ticket);
            self.lanes.postponed(lane);
            self.stalled_until = Some(now + QUEUE_FULL_PAUSE);
        }
    }

    /// Reports have come: the sink may have room again.
    pub fn unstall(&mut self) {
        self.stalled_until = None;
    }

    /// The item of an attempt that is under way; none once a lost producer had it.
    pub fn under_way(&self, token: u64) -> Option<&T> {
        let (lane, _) = self.in_flight.get(&token)?;
        Some(self.lanes.head(*lane))
    }

    /// An attempt has ended. One that a lost producer had under way means nothing any more.
    pub fn report(&mut self, token: u64, result: Result<(), DeliveryError>, now: Duration) {
        let Some(attempt) = self.in_flight.remove(&token) else {
            return;
        };
        match result {
            Ok(()) => self.acknowledged(attempt),
            Err(error) => self.failed(attempt, error, now),
        }
    }

    fn acknowledged(&mut self, (lane, ticket): (LaneId, Ticket)) {
        let transition = self.breaker.succeeded(ticket);
        self.moved(transition);
        self.fatal_errors = 0;
        let item = self.lanes.acknowledged(lane);
        self.acts.push_back(Act::Published(item));
    }

    fn failed(&mut self, (lane, ticket): (LaneId, Ticket), error: DeliveryError, now: Duration) {
        let class = error.class();
        if class == Class::Fatal {
            return self.interrupted(ticket, error, now);
        }
        let outage = error.kind.is_outage();
        let transition = if outage {
            self.breaker.failed(ticket, now)
        } else {
            self.breaker.passed(ticket);
            None
        };
        self.moved(transition);
        // A failed probe says something of Kafka and nothing of the event.
        let spared = ticket.is_probe() && outage;
        if class == Class::Transient && (spared || !error.kind.uses_up_attempts()) {
            self.acts.push_back(Act::Failed(error, 0));
            return self.retry(lane, 1, now);
        }
        let attempts = self.lanes.failed(lane);
        let exhausted = attempts >= self.retry.max_attempts.get()
            && self.retry.on_exhausted == OnExhausted::DeadLetter;
        let failure = Failure {
            kind: error.kind.name().to_owned(),
            message: error.to_string(),
            attempts,
        };
        self.acts.push_back(Act::Failed(error, attempts));
        match class {
            Class::Permanent => self.give_up(lane, Reason::Permanent, failure, now),
            Class::Transient if exhausted => self.give_up(lane, Reason::Exhausted, failure, now),
            Class::Transient | Class::Fatal => self.retry(lane, attempts, now),
        }
    }

    /// The head of the lane, which is in flight, is attempted again after a pause.
    fn retry(&mut self, lane: LaneId, attempts: u32, now: Duration) {
        // Kafka takes no records now, and a replay does not wait for it.
        if self.breaker.state() == State::Open && self.lanes.head(lane).is_replay() {
            let item = self.lanes.acknowledged(lane);
            return self.acts.push_back(Act::Postpone(item));
        }
        let due = now + self.policy.delay_after(attempts);
        self.lanes.retry_at(lane, due);
    }

    /// The producer is of no more use: what is in flight is sent again by the next one.
    fn interrupted(&mut self, ticket: Ticket, error: DeliveryError, now: Duration) {
        self.fatal_errors = self.fatal_errors.saturating_add(1);
        let delay = self.policy.delay_after(self.fatal_errors);
        let unacknowledged = self.lanes.in_flight();
        self.breaker.passed(ticket);
        for (_, (_, ticket)) in self.in_flight.drain() {
            self.breaker.passed(ticket);
        }
        self.lanes.interrupted();
        self.reopen_at = Some(now + delay);
        self.acts.push_back(Act::Lost {
            error,
            unacknowledged,
            delay,
        });
    }

    /// There is a new producer.
    pub fn reopened(&mut self) {
        self.reopen_at = None;
    }

    /// The producer could not be built; gives back how long to wait.
    pub fn reopen_failed(&mut self, now: Duration) -> Duration {
        self.fatal_errors = self.fatal_errors.saturating_add(1);
        let delay = self.policy.delay_after(self.fatal_errors);
        self.reopen_at = Some(now + delay);
        delay
    }

    fn moved(&mut self, transition: Option<Transition>) {
        let Some(transition) = transition else {
            return;
        };
        self.acts.push_back(Act::Moved(transition));
        if transition.to == State::Open {
            let replays = self.lanes.withdrawn(T::is_replay);
            self.acts.extend(replays.into_iter().map(Act::Postpone));
        }
    }

    /// The head of the lane, which is in flight, will not be published from here.
    fn give_up(&mut self, lane: LaneId, reason: Reason, mut failure: Failure, now: Duration) {
        let head = self.lanes.head(lane);
        if let Kind::Replay { attempts } = head.kind() {
            failure.attempts = failure.attempts.saturating_add(attempts);
            let head = self.lanes.acknowledged(lane);
            return self.acts.push_back(Act::Refuse(head, reason, failure));
        }
        let skips = reason != Reason::Exhausted && self.on_permanent == OnPermanent::Skip;
        let parked = self.parking.is_parked(head.table(), head.key());
        let room = skips || parked || self.parking.has_room();
        if !self.keeps || !room {
            // It holds its key: a later attempt may find Kafka, or room, again.
            let attempts = failure.attempts.max(1);
            return self.retry(lane, attempts, now);
        }
        if skips {
            let head = self.lanes.acknowledged(lane);
            return self.bury(head, reason, Some(failure), false);
        }
        let mut items = self.lanes.evicted(lane).into_iter();
        if let Some(head) = items.next() {
            self.parking.park(head.table(), head.key());
            self.bury(head, reason, Some(failure), true);
        }
        for item in items {
            if item.is_replay() {
                // The lane of a parked key is its replay's alone; this one came a moment too soon.
                self.lanes.push(item.lane(), item);
            } else {
                self.join(item);
            }
        }
    }

    /// Puts an event with the dead letters of its key, which is parked.
    fn join(&mut self, item: T) {
        if let Kind::Broken(reason) = item.kind() {
            let failure = undecodable(reason);
            self.bury(item, Reason::Undecodable, Some(failure), true);
        } else {
            self.bury(item, Reason::Parked, None, true);
        }
    }

    fn bury(&mut self, item: T, reason: Reason, failure: Option<Failure>, parks: bool) {
        if !self.keeps {
            // Without dead letters, the row of what cannot be published stays unsettled.
            return;
        }
        if parks {
            self.parking.write_begins(item.table(), item.key());
        }
        self.acts.push_back(Act::Bury(Burial {
            item,
            reason,
            failure,
            parks,
        }));
    }

    /// The dead letter of the item is durable.
    pub fn kept(&mut self, item: T, parks: bool) {
        if parks {
            self.parking.write_ended(item.table(), item.key());
        }
        self.acts.push_back(Act::Kept(item));
    }

    /// See [`Parking::quiet`].
    pub fn quiet(&self, table: TableId, key: &[u8]) -> Quiet {
        self.parking.quiet(table, key)
    }

    /// See [`Parking::release`].
    pub fn release(&mut self, table: TableId, key: &[u8], since: u32) -> bool {
        self.parking.release(table, key, since)
    }
}

/// What is wrong with a row that cannot be made a record.
fn undecodable(reason: &str) -> Failure {
    Failure {
        kind: Reason::Undecodable.name().to_owned(),
        message: reason.to_owned(),
        attempts: 0,
    }
}

/// Puts fatal reports last: one must not make us forget the good news that came with it. Says
/// whether there is one.
pub fn fatal_last(reports: &mut [Report]) -> bool {
    reports.sort_by_key(is_fatal);
    reports.last().is_some_and(is_fatal)
}

fn is_fatal(report: &Report) -> bool {
    let error = report.result.as_ref().err();
    error.is_some_and(|error| error.class() == Class::Fatal)
}
