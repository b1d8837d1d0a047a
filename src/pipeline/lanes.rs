//! The order of delivery: one queue per key, one item of it in flight.
//!
//! Owns the queues and nothing else: time comes in as a [`Duration`] since any fixed origin, so a
//! test or a simulator can drive it. Invariants:
//!
//! 1. Of one lane, at most one item is in flight, and it is the oldest.
//! 2. Items of a lane are first dispatched, and acknowledged, in the order in which they were
//!    pushed. A failed item is dispatched again before any later item of its lane.
//! 3. A lane that waits for a retry holds up no other lane.
//! 4. A lane without items takes no memory besides a free slot; there are never more slots than
//!    there once were items at the same time.
//!
//! Deliberately absent: limits (the permits of [`super::Handle`] bound what can be pushed), the
//! producer, acknowledgements of rows.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::event::TableId;

/// What has an order of its own: the events of one key of one outbox.
pub type LaneKey = (TableId, Bytes);

/// A lane, as long as it has items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneId(usize);

/// The head of a lane on its way to the sink.
#[derive(Debug)]
pub struct Dispatch<'a, T> {
    /// The lane; the answer to the dispatch names it.
    pub lane: LaneId,
    /// The item.
    pub item: &'a T,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In `Lanes::ready`.
    Ready,
    /// With the sink.
    InFlight,
    /// In `Lanes::waiting`, under this time.
    Waiting(Duration),
}

#[derive(Debug)]
struct Lane<T> {
    key: LaneKey,
    /// Items with the number of their push, oldest first; never empty.
    items: VecDeque<(u64, T)>,
    state: State,
    /// Attempts of the head that failed.
    failures: u32,
}

/// All lanes.
#[derive(Debug)]
pub struct Lanes<T> {
    by_key: HashMap<LaneKey, usize>,
    slots: Vec<Option<Lane<T>>>,
    free: Vec<usize>,
    ready: VecDeque<usize>,
    /// (due time, number of the head's push, slot): retries come due in the order of their pushes.
    waiting: BTreeSet<(Duration, u64, usize)>,
    in_flight: usize,
    len: usize,
    pushed: u64,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self {
            by_key: HashMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            ready: VecDeque::new(),
            waiting: BTreeSet::new(),
            in_flight: 0,
            len: 0,
            pushed: 0,
        }
    }
}

impl<T> Lanes<T> {
    /// No lanes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Items that are not acknowledged yet.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether every item is acknowledged.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Items that are in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether [`Lanes::next`] has something to give.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Lanes that have items.
    pub fn lanes(&self) -> usize {
        self.by_key.len()
    }

    /// Puts an item at the end of its lane.
    pub fn push(&mut self, key: LaneKey, item: T) {
        let number = self.pushed;
        self.pushed += 1;
        self.len += 1;
        if let Some(&slot) = self.by_key.get(&key) {
            self.lane_mut(slot).items.push_back((number, item));
            return;
        }
        let lane = Lane {
            key: key.clone(),
            items: VecDeque::from([(number, item)]),
            state: State::Ready,
            failures: 0,
        };
        let slot = if let Some(slot) = self.free.pop() {
            self.slots[slot] = Some(lane);
            slot
        } else {
            self.slots.push(Some(lane));
            self.slots.len() - 1
        };
        self.by_key.insert(key, slot);
        self.ready.push_back(slot);
    }

    /// Takes the head of the lane that has been ready for longest into flight.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator could not lend the item"
    )]
    pub fn next(&mut self) -> Option<Dispatch<'_, T>> {
        let slot = self.ready.pop_front()?;
        self.in_flight += 1;
        let lane = self.lane_mut(slot);
        debug_assert_eq!(lane.state, State::Ready, "only ready lanes are queued");
        lane.state = State::InFlight;
        let (_, item) = lane.items.front().expect("a lane has items");
        Some(Dispatch {
            lane: LaneId(slot),
            item,
        })
    }

    /// Takes back a dispatch that the sink had no room for: it is the next one again, and this
    /// was no attempt.
    pub fn postponed(&mut self, lane: LaneId) {
        self.land(lane);
        self.lane_mut(lane.0).state = State::Ready;
        self.ready.push_front(lane.0);
    }

    /// The head is durable: removes and returns it. The lane's next item becomes ready.
    pub fn acknowledged(&mut self, lane: LaneId) -> T {
        self.land(lane);
        self.len -= 1;
        let entry = self.lane_mut(lane.0);
        let (_, item) = entry.items.pop_front().expect("a lane has items");
        entry.failures = 0;
        entry.state = State::Ready;
        if entry.items.is_empty() {
            let lane_key = self.slots[lane.0].take().expect("the lane exists").key;
            self.by_key.remove(&lane_key);
            self.free.push(lane.0);
        } else {
            self.ready.push_back(lane.0);
        }
        item
    }

    /// The head's attempt failed: counts it and returns how often this head has failed. The lane
    /// then stands still until [`Lanes::retry_at`] says when to go on.
    pub fn failed(&mut self, lane: LaneId) -> u32 {
        let lane = self.lane_mut(lane.0);
        assert_eq!(
            lane.state,
            State::InFlight,
            "only a head in flight can fail"
        );
        lane.failures = lane.failures.saturating_add(1);
        lane.failures
    }

    /// Makes the head in flight wait until `due`; then it is dispatched again.
    pub fn retry_at(&mut self, lane: LaneId, due: Duration) {
        self.land(lane);
        let entry = self.lane_mut(lane.0);
        entry.state = State::Waiting(due);
        let number = entry.items.front().expect("a lane has items").0;
        self.waiting.insert((due, number, lane.0));
    }

    /// Gives up everything in flight, as if it had never been dispatched: the heads become
    /// ready, oldest first, before what is ready already. Nothing counts as an attempt.
    pub fn interrupted(&mut self) {
        let mut heads: Vec<(u64, usize)> = Vec::with_capacity(self.in_flight);
        for (slot, lane) in self.slots.iter_mut().enumerate() {
            if let Some(lane) = lane
                && lane.state == State::InFlight
            {
                lane.state = State::Ready;
                heads.push((lane.items.front().expect("a lane has items").0, slot));
            }
        }
        heads.sort_unstable();
        for (_, slot) in heads.into_iter().rev() {
            self.ready.push_front(slot);
        }
        self.in_flight = 0;
    }

    /// Makes the lanes ready whose retry is due.
    pub fn due(&mut self, now: Duration) {
        while let Some(&(due, _, slot)) = self.waiting.first()
            && due <= now
        {
            self.waiting.pop_first();
            let lane = self.lane_mut(slot);
            debug_assert_eq!(lane.state, State::Waiting(due), "a waiting lane waits");
            lane.state = State::Ready;
            self.ready.push_back(slot);
        }
    }

    /// When the next retry is due, if one waits.
    pub fn next_due(&self) -> Option<Duration> {
        self.waiting.first().map(|&(due, _, _)| due)
    }

    fn land(&mut self, lane: LaneId) {
        assert_eq!(
            self.lane_mut(lane.0).state,
            State::InFlight,
            "only a head in flight gets an answer"
        );
        self.in_flight -= 1;
    }

    fn lane_mut(&mut self, slot: usize) -> &mut Lane<T> {
        self.slots[slot]
            .as_mut()
            .expect("a lane that is referred to has items")
    }
}
