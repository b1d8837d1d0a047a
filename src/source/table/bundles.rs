//! Groups that have caught up, read together.

use super::{Moment, Of, OpenIntake, Reverse, Running};
use crate::source::follower::{Follower, Kind, Next, Outcome, Read};
use crate::source::reader::MAX_STREAMS;
use crate::source::rounds::{Part, Round, Rounds};

/// Reads because of hints at a time. What is hinted meanwhile is read together.
const HINTED_READS: usize = 2;

/// For so many microseconds a hint explains rows of its group.
const HINT_HOLDS: i64 = 1_000_000;

/// What has its turn at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Unit {
    /// A bundle, by its index.
    Bundle(u32),
    /// A group, by its slot.
    Group(u32),
}

/// Groups of one generation whose streams one request may ask for.
#[derive(Debug)]
pub(super) struct Bundle {
    generation: i64,
    slots: Vec<u32>,
    streams: usize,
    pub(super) rounds: Rounds,
    /// Ticks of its next turn; `None` while it is read, or none of its groups is live.
    due: Option<i64>,
    pub(super) reading: bool,
}

impl<O: OpenIntake> Running<'_, O> {
    /// The bundle of a group that is added: the last one, while it is of the same generation and has
    /// room.
    pub(super) fn join_bundle(
        &mut self,
        generation: i64,
        slot: u32,
        streams: usize,
        now: Moment,
    ) -> u32 {
        let last = self.bundles.last_mut().filter(|bundle| {
            bundle.generation == generation && bundle.streams + streams <= MAX_STREAMS
        });
        if let Some(bundle) = last {
            bundle.slots.push(slot);
            bundle.streams += streams;
        } else {
            self.bundles.push(Bundle {
                generation,
                slots: vec![slot],
                streams,
                rounds: Rounds::new(&self.settings, now),
                due: None,
                reading: false,
            });
        }
        self.bundles.len() as u32 - 1
    }

    pub(super) fn schedule_bundle(&mut self, index: u32, ticks: i64) {
        let bundle = &mut self.bundles[index as usize];
        if !bundle.reading && bundle.due.is_none_or(|due| ticks < due) {
            bundle.due = Some(ticks);
            self.due.push(Reverse((ticks, Unit::Bundle(index))));
        }
    }

    pub(super) fn turn_of_bundle(&mut self, index: u32, at: i64, now: Moment) {
        let bundle = &mut self.bundles[index as usize];
        if bundle.due != Some(at) || bundle.reading {
            return;
        }
        bundle.due = None;
        let slots = std::mem::take(&mut bundle.slots);
        let live: Vec<u32> = slots
            .iter()
            .copied()
            .filter(|slot| self.takes_part(*slot, now))
            .collect();
        self.bundles[index as usize].slots = slots;
        let Some(part) = self.part(&live, now) else {
            return;
        };
        let read = |kind, after, upto| Read {
            kind,
            after,
            upto,
            started: now,
            row_limit: None,
        };
        let bundle = &mut self.bundles[index as usize];
        match bundle.rounds.next(now, part) {
            Round::Poll(after) => {
                self.start_read(&live, read(Kind::Tail, after, None), Of::Bundle(index));
            }
            Round::Rescan { after, upto } => {
                self.start_read(&live, read(Kind::Rescan, after, upto), Of::Bundle(index));
            }
            Round::At(ticks) => self.schedule_bundle(index, ticks.max(now.ticks + 1)),
        }
    }

    /// Whether a group is read with its bundle now. One that has to be read by itself gets its turn.
    fn takes_part(&mut self, slot: u32, now: Moment) -> bool {
        let group = &mut self.groups[slot as usize];
        if group.reading || group.closed || !group.follower.is_live() {
            return false;
        }
        let load = group.load(&self.shared);
        let live = group.follower.next(now, load) == Next::Live;
        if !live && group.due.is_none() {
            self.schedule(slot, now.ticks);
        }
        live
    }

    fn part(&self, slots: &[u32], now: Moment) -> Option<Part> {
        let followers = slots
            .iter()
            .map(|slot| &self.groups[*slot as usize].follower);
        let boundary = slots.first().and_then(|slot| {
            let generation = self.groups[*slot as usize].key.generation;
            self.plan.boundary(generation)
        });
        let over = boundary.filter(|boundary| now.wall >= *boundary);
        Some(Part {
            confirmed: followers.clone().map(Follower::confirmed).min()?,
            tailed_at: followers.clone().map(Follower::tailed_at).min()?,
            everything: over.is_some_and(|boundary| {
                let mut followers = followers.clone();
                followers.any(|follower| !follower.has_covered(boundary))
            }),
        })
    }

    pub(super) fn round_complete(
        &mut self,
        read: &Read,
        outcomes: &[(u32, Outcome)],
        of: Of,
        now: Moment,
    ) {
        let fresh = outcomes.iter().map(|(_, outcome)| outcome.fresh).sum();
        let newest = outcomes.iter().filter_map(|(_, o)| o.newest).max();
        let Of::Bundle(bundle) = of else {
            // Those that were read by themselves wake the others.
            let young = read.kind == Kind::Tail;
            for (slot, outcome) in outcomes.iter().filter(|(_, o)| young && o.fresh > 0) {
                let bundle = self.groups[*slot as usize].bundle;
                let rounds = &mut self.bundles[bundle as usize].rounds;
                rounds.woken(outcome.fresh, of == Of::Hint, now);
            }
            return;
        };
        let named = |slot: u32| {
            let at = self.groups[slot as usize].hinted_at;
            at.is_some_and(|at| read.started.ticks - at <= HINT_HOLDS)
        };
        let hinted = outcomes.iter().filter(|(slot, _)| named(*slot));
        let hinted = hinted.map(|(_, outcome)| outcome.fresh).sum();
        let rounds = &mut self.bundles[bundle as usize].rounds;
        if read.kind == Kind::Tail {
            rounds.polled(fresh, hinted, newest, [read.started, now]);
        } else {
            rounds.rescanned(read.upto, fresh, [read.started, now]);
        }
    }

    /// Writers say that partitions with these tokens were just written.
    pub(super) fn hint(&mut self, tokens: &mut Vec<i64>) {
        let slots: Vec<u32> = self
            .rings
            .values()
            .flat_map(|ring| tokens.iter().filter_map(|token| *ring.get(*token)?))
            .collect();
        tokens.clear();
        let now = self.context.clock.now().ticks;
        for slot in slots {
            let group = &mut self.groups[slot as usize];
            group.hinted_at = Some(now);
            if group.closed || group.hinted {
                continue;
            }
            group.hinted = true;
            if !group.reading {
                self.hinted.push(slot);
            }
        }
    }

    /// Reads the groups that writers have named, as many together as one request may ask for; in turn
    /// with what is due.
    pub(super) fn start_hinted(&mut self) {
        let now = self.context.clock.now();
        let due = self.due.peek();
        let waits = due.is_some_and(|Reverse((at, _))| *at <= now.ticks);
        let others_turn = std::mem::take(&mut self.hinted_last) && waits;
        let busy = self.hinted_reads >= HINTED_READS || self.context.pace.wait(now.ticks) > 0;
        if self.hinted.is_empty() || busy || others_turn {
            return;
        }
        self.hinted_last = true;
        let hinted = std::mem::take(&mut self.hinted);
        let (mut slots, mut streams) = (Vec::new(), 0);
        for slot in hinted {
            let group = &mut self.groups[slot as usize];
            // It was read since, or will be when its read has ended.
            if group.reading || !std::mem::take(&mut group.hinted) {
                continue;
            }
            if !self.may_read(slot) || !self.takes_part(slot, now) {
                continue;
            }
            let more = self.groups[slot as usize].streams.len();
            if streams + more > MAX_STREAMS && !slots.is_empty() {
                self.read_hinted(&std::mem::take(&mut slots), now);
                streams = 0;
            }
            slots.push(slot);
            streams += more;
        }
        self.read_hinted(&slots, now);
    }

    fn read_hinted(&mut self, slots: &[u32], now: Moment) {
        let after = slots.iter().filter_map(|slot| {
            let part = self.part(&[*slot], now)?;
            let bundle = self.groups[*slot as usize].bundle;
            Some(self.bundles[bundle as usize].rounds.poll_from(part))
        });
        let Some(after) = after.min() else {
            return;
        };
        self.context.metrics.hinted_reads.add(1);
        let read = Read {
            kind: Kind::Tail,
            after,
            upto: None,
            started: now,
            row_limit: None,
        };
        self.start_read(slots, read, Of::Hint);
    }
}
