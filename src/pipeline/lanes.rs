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

    /// The head of a lane that has items.
    pub fn head(&self, lane: LaneId) -> &T {
        let lane = self.slots[lane.0].as_ref().expect("the lane exists");
        &lane.items.front().expect("a lane has items").1
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

    /// The head in flight will not be published from here, and neither will what is behind it:
    /// removes the lane and returns its items, oldest first.
    pub fn evicted(&mut self, lane: LaneId) -> Vec<T> {
        self.land(lane);
        let removed = self.slots[lane.0].take().expect("the lane exists");
        self.by_key.remove(&removed.key);
        self.free.push(lane.0);
        self.len -= removed.items.len();
        removed.items.into_iter().map(|(_, item)| item).collect()
    }

    /// Takes out the heads that `pick` picks, of lanes that are not in flight.
    pub fn withdrawn(&mut self, pick: impl Fn(&T) -> bool) -> Vec<T> {
        let mut items = Vec::new();
        for slot in 0..self.slots.len() {
            let Some(lane) = &mut self.slots[slot] else {
                continue;
            };
            let picked = lane.items.front().is_some_and(|(_, item)| pick(item));
            if lane.state == State::InFlight || !picked {
                continue;
            }
            if let State::Waiting(due) = lane.state {
                let number = lane.items.front().expect("a lane has items").0;
                self.waiting.remove(&(due, number, slot));
                lane.state = State::Ready;
                self.ready.push_back(slot);
            }
            lane.failures = 0;
            items.extend(lane.items.pop_front().map(|(_, item)| item));
            self.len -= 1;
            if lane.items.is_empty() {
                let removed = self.slots[slot].take().expect("the lane exists");
                self.by_key.remove(&removed.key);
                self.free.push(slot);
            }
        }
        if !items.is_empty() {
            let slots = &self.slots;
            self.ready.retain(|slot| slots[*slot].is_some());
        }
        items
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn key(lane: u8) -> LaneKey {
        (
            TableId(u16::from(lane % 2)),
            Bytes::copy_from_slice(&[lane]),
        )
    }

    fn next(lanes: &mut Lanes<u32>) -> Option<(LaneId, u32)> {
        lanes.next().map(|dispatch| (dispatch.lane, *dispatch.item))
    }

    fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn one_item_of_a_lane_is_in_flight() {
        let mut lanes = Lanes::new();
        for item in [1, 2, 3] {
            lanes.push(key(0), item);
        }
        let (lane, first) = next(&mut lanes).expect("the head is ready");
        assert_eq!((first, next(&mut lanes)), (1, None));
        assert_eq!(lanes.acknowledged(lane), 1);
        assert_eq!(next(&mut lanes).map(|(_, item)| item), Some(2));
    }

    #[test]
    fn a_failed_head_holds_up_its_own_lane_only() {
        let mut lanes = Lanes::new();
        for (lane, item) in [(0, 1), (0, 2), (1, 10), (1, 11)] {
            lanes.push(key(lane), item);
        }
        let (poor, _) = next(&mut lanes).expect("lane 0");
        assert_eq!(lanes.failed(poor), 1);
        lanes.retry_at(poor, millis(100));
        let (rich, item) = next(&mut lanes).expect("lane 1");
        assert_eq!(item, 10);
        lanes.acknowledged(rich);
        assert_eq!(next(&mut lanes), Some((rich, 11)));
        lanes.due(millis(99));
        assert_eq!(next(&mut lanes), None);
        assert_eq!(lanes.next_due(), Some(millis(100)));
        lanes.due(millis(100));
        assert_eq!(next(&mut lanes), Some((poor, 1)));
        assert_eq!(lanes.failed(poor), 2);
        lanes.retry_at(poor, millis(300));
        lanes.due(millis(300));
        next(&mut lanes).expect("the same head");
        lanes.acknowledged(poor);
        assert_eq!(next(&mut lanes), Some((poor, 2)));
        assert_eq!(lanes.failed(poor), 1, "a new head starts to count anew");
    }

    #[test]
    fn an_interruption_makes_what_was_in_flight_ready_again_oldest_first() {
        let mut lanes = Lanes::new();
        for lane in [3, 1, 2, 4] {
            lanes.push(key(lane), u32::from(lane));
        }
        let flying: Vec<LaneId> = (0..3)
            .map(|_| next(&mut lanes).expect("a head is ready").0)
            .collect();
        lanes.failed(flying[1]);
        lanes.interrupted();
        assert_eq!(lanes.in_flight(), 0);
        let order: Vec<u32> = std::iter::from_fn(|| next(&mut lanes))
            .map(|(_, i)| i)
            .collect();
        assert_eq!(order, [3, 1, 2, 4]);
    }

    #[test]
    fn a_withdrawn_head_leaves_its_lane_ready_or_gone() {
        let mut lanes = Lanes::new();
        for (lane, item) in [(0, 1), (0, 2), (1, 10), (2, 20), (3, 30)] {
            lanes.push(key(lane), item);
        }
        let (flying, _) = next(&mut lanes).expect("lane 0");
        let (failed, _) = next(&mut lanes).expect("lane 1");
        lanes.failed(failed);
        lanes.retry_at(failed, millis(100));
        assert_eq!(lanes.withdrawn(|item| *item != 30), [10, 20]);
        assert_eq!((lanes.len(), lanes.lanes(), lanes.next_due()), (3, 2, None));
        assert_eq!(lanes.acknowledged(flying), 1);
        assert_eq!(lanes.withdrawn(|item| *item == 2), [2]);
        assert_eq!(next(&mut lanes).map(|(_, item)| item), Some(30));
        lanes.push(key(0), 3);
        assert_eq!(next(&mut lanes).map(|(_, item)| item), Some(3));
        assert_eq!(next(&mut lanes), None);
    }

    #[test]
    fn an_evicted_lane_gives_all_it_held_and_starts_anew() {
        let mut lanes = Lanes::new();
        for (lane, item) in [(0, 1), (1, 10), (0, 2), (0, 3)] {
            lanes.push(key(lane), item);
        }
        let (poor, _) = next(&mut lanes).expect("lane 0");
        lanes.failed(poor);
        assert_eq!(lanes.evicted(poor), [1, 2, 3]);
        assert_eq!((lanes.len(), lanes.lanes(), lanes.in_flight()), (1, 1, 0));
        lanes.push(key(0), 4);
        assert_eq!(next(&mut lanes).map(|(_, item)| item), Some(10));
        let (lane, item) = next(&mut lanes).expect("the new lane 0");
        assert_eq!((item, lanes.failed(lane)), (4, 1));
    }

    #[test]
    fn lanes_without_items_are_gone_and_their_slots_are_used_again() {
        let mut lanes = Lanes::new();
        for round in 0..1000_u32 {
            let name = (TableId(0), Bytes::from(round.to_string()));
            lanes.push(name, round);
            let (lane, _) = next(&mut lanes).expect("ready");
            lanes.acknowledged(lane);
        }
        assert_eq!((lanes.lanes(), lanes.slots.len(), lanes.len()), (0, 1, 0));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(u8),
        Next,
        Acknowledge(usize),
        Fail(usize, u64),
        Postpone(usize),
        Pass(u64),
        Interrupt,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0_u8..6).prop_map(Step::Push),
            6 => Just(Step::Next),
            4 => any::<usize>().prop_map(Step::Acknowledge),
            2 => (any::<usize>(), 0_u64..50).prop_map(|(n, delay)| Step::Fail(n, delay)),
            1 => any::<usize>().prop_map(Step::Postpone),
            3 => (0_u64..30).prop_map(Step::Pass),
            1 => Just(Step::Interrupt),
        ]
    }

    /// What a lane must look like, with nothing clever about it.
    #[derive(Debug, Default)]
    struct Model {
        items: VecDeque<u32>,
        flying: bool,
        due: Option<u64>,
    }

    impl Model {
        fn is_ready(&self) -> bool {
            !self.items.is_empty() && !self.flying && self.due.is_none()
        }
    }

    #[derive(Default)]
    struct World {
        lanes: Lanes<u32>,
        model: BTreeMap<u8, Model>,
        owner: HashMap<u32, u8>,
        flying: Vec<(LaneId, u32)>,
        pushed: u32,
        now: u64,
        acknowledged: BTreeMap<u8, Vec<u32>>,
    }

    impl World {
        fn lane_of(&mut self, item: u32) -> (u8, &mut Model) {
            let name = self.owner[&item];
            (
                name,
                self.model
                    .get_mut(&name)
                    .expect("the lane has been pushed to"),
            )
        }

        fn pick(&mut self, n: usize) -> Option<(LaneId, u32)> {
            let len = self.flying.len();
            (len > 0).then(|| self.flying.swap_remove(n % len))
        }

        fn dispatch(&mut self) -> bool {
            let anybody = self.model.values().any(Model::is_ready);
            assert_eq!(self.lanes.has_ready(), anybody);
            let Some((lane, item)) = next(&mut self.lanes) else {
                assert!(!anybody, "a ready lane is dispatched");
                return false;
            };
            let (_, model) = self.lane_of(item);
            assert!(
                model.is_ready(),
                "one in flight per lane, and not before its time"
            );
            assert_eq!(model.items.front(), Some(&item), "the oldest goes first");
            model.flying = true;
            self.flying.push((lane, item));
            true
        }

        fn acknowledge(&mut self, lane: LaneId, item: u32) {
            assert_eq!(self.lanes.acknowledged(lane), item);
            let (name, model) = self.lane_of(item);
            model.flying = false;
            assert_eq!(model.items.pop_front(), Some(item));
            self.acknowledged.entry(name).or_default().push(item);
        }

        fn pass(&mut self, time: u64) {
            self.now += time;
            let now = self.now;
            self.lanes.due(millis(now));
            for model in self.model.values_mut() {
                model.due = model.due.filter(|due| *due > now);
            }
        }

        fn apply(&mut self, step: &Step) {
            match *step {
                Step::Push(name) => {
                    let item = self.pushed;
                    self.pushed += 1;
                    self.owner.insert(item, name);
                    self.model.entry(name).or_default().items.push_back(item);
                    self.lanes.push(key(name), item);
                }
                Step::Next => {
                    self.dispatch();
                }
                Step::Acknowledge(n) => {
                    if let Some((lane, item)) = self.pick(n) {
                        self.acknowledge(lane, item);
                    }
                }
                Step::Fail(n, delay) => {
                    if let Some((lane, item)) = self.pick(n) {
                        self.lanes.failed(lane);
                        let due = self.now + delay;
                        self.lanes.retry_at(lane, millis(due));
                        let (_, model) = self.lane_of(item);
                        model.flying = false;
                        model.due = Some(due);
                    }
                }
                Step::Postpone(n) => {
                    if let Some((lane, item)) = self.pick(n) {
                        self.lanes.postponed(lane);
                        self.lane_of(item).1.flying = false;
                    }
                }
                Step::Pass(time) => self.pass(time),
                Step::Interrupt => {
                    self.lanes.interrupted();
                    for (_, item) in std::mem::take(&mut self.flying) {
                        self.lane_of(item).1.flying = false;
                    }
                }
            }
        }

        fn check(&self) {
            let waiting: usize = self.model.values().map(|lane| lane.items.len()).sum();
            let busy = self
                .model
                .values()
                .filter(|lane| !lane.items.is_empty())
                .count();
            assert_eq!(self.lanes.len(), waiting);
            assert_eq!(self.lanes.lanes(), busy);
            assert_eq!(self.lanes.in_flight(), self.flying.len());
            let due = self.model.values().filter_map(|lane| lane.due).min();
            assert_eq!(self.lanes.next_due(), due.map(millis));
        }
    }

    proptest! {
        #[test]
        fn lanes_do_what_the_naive_model_does(steps in prop::collection::vec(step(), 0..400)) {
            let mut world = World::default();
            for step in &steps {
                world.apply(step);
                world.check();
            }
            while !world.lanes.is_empty() {
                world.pass(50);
                while world.dispatch() {}
                while let Some((lane, item)) = world.pick(0) {
                    world.acknowledge(lane, item);
                }
                world.check();
            }
            // Nothing is lost, and every lane was acknowledged in the order of its pushes.
            let total: usize = world.acknowledged.values().map(Vec::len).sum();
            prop_assert_eq!(total, world.pushed as usize);
            for items in world.acknowledged.values() {
                prop_assert!(items.is_sorted());
            }
        }
    }
}
