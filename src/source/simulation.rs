//! Follower, rounds and tracker against a naive log: rows appear late, pages cut reads, settlements come
//! in any order, the process dies at any step, memory is tight. Nothing may be lost, and nothing
//! handed on twice but after a crash.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::bounds::timeuuid;
use super::follower::{Follower, Kind, Load, Moment, Next, Outcome, Read, Settings};
use super::rounds::{Part, Round, Rounds};
use crate::ack::summary::hash;
use crate::ack::{Mark, Registration, Tracker};
use crate::checkpoint::{Published, published};
use crate::event::{Position, RowKey, UUID_EPOCH_OFFSET};

const LATE_WINDOW: i64 = 10_000_000;
const START: i64 = 1_000_000_000_000;

/// A row: when it was written, when it can be seen first.
#[derive(Debug, Clone)]
struct Written {
    micros: i64,
    visible: i64,
    stream: u16,
}

#[derive(Debug, Clone)]
struct Scenario {
    rows: Vec<Written>,
    page: usize,
    limit: usize,
    /// Numbers that decide what happens next.
    choices: Vec<u8>,
    crashes: bool,
}

fn written() -> impl Strategy<Value = Written> {
    let delay = prop_oneof![
        6 => Just(0_i64),
        3 => 0..300_000_i64,
        1 => 0..LATE_WINDOW - 1,
        2 => LATE_WINDOW - 500_000..LATE_WINDOW - 1,
    ];
    // Coarse times, so that several rows share a microsecond.
    (0..4_000_i64, delay, 0..3_u16).prop_map(|(step, delay, stream)| {
        let micros = START + step * 10_000;
        Written {
            micros,
            visible: micros + delay,
            stream,
        }
    })
}

fn scenarios(crashes: bool) -> impl Strategy<Value = Scenario> {
    (
        prop::collection::vec(written(), 0..120),
        1..8_usize,
        4..200_usize,
        prop::collection::vec(any::<u8>(), 300),
    )
        .prop_map(move |(rows, page, limit, choices)| Scenario {
            rows,
            page,
            limit,
            choices,
            crashes,
        })
}

struct World {
    scenario: Scenario,
    log: BTreeMap<RowKey, i64>,
    now: i64,
    next_choice: usize,
    follower: Follower,
    rounds: Rounds,
    tracker: Tracker,
    /// What an earlier run has published, until it is recognised.
    published: Option<Published>,
    unsettled: Vec<RowKey>,
    durable: BTreeSet<RowKey>,
    handed_on: BTreeMap<RowKey, u32>,
    saved: (i64, Vec<u8>),
    restored: usize,
}

fn settings() -> Settings {
    Settings {
        poll: 10_000,
        idle_poll: 200_000,
        late_window: LATE_WINDOW,
        rescan: 1_000_000,
        confirm: 400_000,
        target_rows: 8,
    }
}

impl World {
    fn new(scenario: Scenario) -> Self {
        let key = |(n, row): (usize, &Written)| {
            let ticks = UUID_EPOCH_OFFSET + row.micros as u64 * 10;
            let position = Position {
                time: timeuuid(ticks, [n as u8; 8]),
                seq: 0,
            };
            let stream = row.stream;
            (RowKey { stream, position }, row.visible)
        };
        let log = scenario.rows.iter().enumerate().map(key).collect();
        let watermark = START - 60_000_000;
        let now = START - 20_000_000;
        let moment = Moment {
            wall: now,
            ticks: now,
        };
        Self {
            log,
            scenario,
            now,
            next_choice: 0,
            follower: Follower::new(settings(), watermark),
            rounds: Rounds::new(&settings(), moment),
            tracker: Tracker::new(watermark),
            published: None,
            unsettled: Vec::new(),
            durable: BTreeSet::new(),
            handed_on: BTreeMap::new(),
            saved: (watermark, Vec::new()),
            restored: 0,
        }
    }

    fn choose(&mut self, of: usize) -> usize {
        let choices = &self.scenario.choices;
        let choice = choices[self.next_choice % choices.len()];
        self.next_choice += 1;
        usize::from(choice) % of
    }

    fn moment(&self) -> Moment {
        Moment {
            wall: self.now,
            ticks: self.now,
        }
    }

    fn full(&self) -> bool {
        self.tracker.len() >= self.scenario.limit.saturating_sub(self.tracker.len())
    }

    fn shown(&self, read: &Read, after: Option<RowKey>) -> Vec<RowKey> {
        let in_range = |row: &RowKey| {
            let micros = row.position.micros();
            micros > read.after && read.upto.is_none_or(|upto| micros <= upto)
        };
        self.log
            .iter()
            .filter(|(row, visible)| **visible <= self.now && in_range(row))
            .map(|(row, _)| *row)
            .filter(|row| after.is_none_or(|after| *row > after))
            .take(self.scenario.page)
            .collect()
    }

    /// Reads page by page; between two pages time passes and settlements arrive. A page shows
    /// what is visible when it is read. Says whether it came to its end.
    fn read(&mut self, read: &Read) -> Option<Outcome> {
        if read.kind == Kind::Resume {
            self.recognise(read);
        }
        let mut outcome = Outcome::default();
        let mut last: Option<RowKey> = None;
        loop {
            let page = self.shown(read, last);
            let Some(end) = page.last().copied() else {
                break;
            };
            last = Some(end);
            outcome.rows += page.len();
            for row in page {
                outcome.newest = outcome.newest.max(Some(row.position.micros()));
                if self.tracker.register(row) == Registration::New {
                    outcome.fresh += 1;
                    *self.handed_on.entry(row).or_default() += 1;
                    self.unsettled.push(row);
                }
            }
            self.now += match self.choose(16) {
                0 => 2_000_000,
                n => n as i64 * 1_000,
            };
            self.check_memory();
            self.settle_some();
            let too_many = read.row_limit.is_some_and(|limit| outcome.rows > limit);
            if too_many || (read.upto.is_none() && self.full()) {
                self.follower.given_up(read);
                return None;
            }
        }
        self.follower.completed(read, outcome);
        Some(outcome)
    }

    /// Tells apart what an earlier run has published.
    fn recognise(&mut self, read: &Read) {
        let Some(published) = self.published.take() else {
            return;
        };
        let (page, everything) = (self.scenario.page, usize::MAX);
        self.scenario.page = everything;
        let shown = self.shown(read, None);
        self.scenario.page = page;
        let of_summary = shown.iter().map(|row| hash(*row));
        let of_summary = of_summary.filter(|hash| !published.unsettled.contains(hash));
        let fresh = published.summary.reconcile(of_summary).fresh;
        let known = shown.iter().filter(|row| {
            let hash = hash(**row);
            !fresh.contains(&hash) && !published.unsettled.contains(&hash)
        });
        let known: Vec<Mark> = known.map(|row| (*row).into()).collect();
        self.restored += known.len();
        self.tracker.restore(known);
    }

    /// Over its limit the group holds at most what a window brings before it is given up, and the
    /// page that was under way.
    fn check_memory(&self) {
        let window = 4 * settings().target_rows;
        let most = self.scenario.limit / 2 + window + 2 * self.scenario.page;
        let tracked = self.tracker.len();
        assert!(
            tracked <= most.max(self.restored),
            "{tracked} rows tracked, {most} allowed"
        );
    }

    fn settle_some(&mut self) {
        let n = self.choose(5);
        for _ in 0..n.min(self.unsettled.len()) {
            let at = self.choose(self.unsettled.len());
            let row = self.unsettled.swap_remove(at);
            self.durable.insert(row);
            assert!(self.tracker.settle(row));
        }
        self.advance();
    }

    fn advance(&mut self) {
        if self.published.is_some() {
            return;
        }
        let before = self.follower.watermark();
        let watermark = self.follower.advance(self.tracker.floor());
        let _ = self.tracker.forget(watermark).count();
        assert!(watermark >= before, "W never moves back");
        // Everything at or before W is durable, and nothing more can appear there.
        for row in self.log.keys() {
            let passed = row.position.micros() <= watermark;
            assert!(
                !passed || self.durable.contains(row),
                "W has passed {row:?}"
            );
        }
    }

    fn save(&mut self) {
        if self.published.is_some() {
            return;
        }
        let watermark = self.follower.watermark();
        let window = Published::nothing(watermark).window;
        // Most of what is there is summed, or the summary would hardly be used.
        let now = self.now + 1_500_000;
        let seen = self.follower.read_once();
        let published = Published::of(&self.tracker, watermark, window, now, seen);
        self.saved = (watermark, published::encode(&published, watermark));
    }

    fn crash(&mut self) {
        let (watermark, bytes) = self.saved.clone();
        let published = published::decode(&bytes, watermark).expect("it was encoded");
        self.follower = Follower::new(settings(), watermark).resuming(published.upto);
        self.rounds = Rounds::new(&settings(), self.moment());
        self.tracker = Tracker::new(watermark);
        self.tracker.restore(published.recent.iter().copied());
        self.unsettled.clear();
        self.restored = 4 * settings().target_rows + self.tracker.len() + 2 * self.scenario.page;
        // A resumed read has no limit: it brings what was in flight.
        self.restored += self.scenario.rows.len();
        self.published = (published.upto > watermark).then_some(published);
    }

    fn step(&mut self) {
        let load = Load {
            full: self.full(),
            pending: self.tracker.pending(),
        };
        let now = self.moment();
        match self.follower.next(now, load) {
            Next::Read(read) => {
                assert!(read.after >= self.follower.watermark());
                if self.choose(10) == 0 {
                    self.follower.failed(now);
                } else {
                    self.read(&read);
                }
            }
            Next::Live => self.round(now),
            Next::At(ticks) => {
                assert!(ticks > self.now, "the follower waits for the past");
                self.now = ticks;
            }
            Next::AfterSettlement => {
                assert!(!self.unsettled.is_empty(), "waits for nothing");
                self.now += 1_000;
            }
        }
        self.now += 1;
        self.settle_some();
        if self.choose(8) == 0 {
            self.save();
        }
        if self.scenario.crashes && self.choose(40) == 0 {
            self.crash();
        }
    }

    fn round(&mut self, now: Moment) {
        let part = Part {
            confirmed: self.follower.confirmed(),
            tailed_at: self.follower.tailed_at(),
            everything: false,
        };
        let read = |kind, after, upto| Read {
            kind,
            after,
            upto,
            started: now,
            row_limit: None,
        };
        let read = match self.rounds.next(now, part) {
            Round::Poll(after) => read(Kind::Tail, after, None),
            Round::Rescan { after, upto } => read(Kind::Rescan, after, upto),
            Round::At(ticks) => {
                assert!(ticks > self.now, "the rounds wait for the past");
                self.now = ticks;
                return;
            }
        };
        let outcome = self.read(&read);
        let ended = self.moment();
        match (outcome, read.kind) {
            (None, _) => self.rounds.again(ended),
            (Some(outcome), Kind::Tail) => {
                self.rounds
                    .polled(outcome.fresh, 0, outcome.newest, [now, ended]);
            }
            (Some(outcome), _) => {
                self.rounds
                    .rescanned(read.upto, outcome.fresh, [now, ended]);
            }
        }
    }

    /// Runs until W has passed every row; fails if that does not happen.
    fn run(&mut self) {
        let end = self.log.keys().map(|row| row.position.micros()).max();
        let end = end.unwrap_or(START);
        for step in 0..60_000 {
            if step > 4_000 {
                // Crashing for ever is no way to get anywhere.
                self.scenario.crashes = false;
            }
            self.step();
            if self.follower.watermark() >= end {
                return;
            }
        }
        panic!(
            "no progress: W is {} before the end, {} rows tracked",
            end - self.follower.watermark(),
            self.tracker.len()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_row_is_handed_on_exactly_once(scenario in scenarios(false)) {
        let mut world = World::new(scenario);
        world.run();
        for row in world.log.keys() {
            prop_assert_eq!(world.handed_on.get(row), Some(&1), "{:?}", row);
        }
    }

    #[test]
    fn no_crash_loses_a_row(scenario in scenarios(true)) {
        let mut world = World::new(scenario);
        world.run();
        for row in world.log.keys() {
            prop_assert!(world.handed_on.contains_key(row), "{:?}", row);
        }
    }
}

fn now(micros: i64) -> Moment {
    Moment {
        wall: micros,
        ticks: micros,
    }
}

fn next_read(follower: &mut Follower, at: i64) -> Read {
    match follower.next(now(at), Load::default()) {
        Next::Read(read) => read,
        other => panic!("{other:?}"),
    }
}

/// A read of everything above `confirmed`, as the rounds make it.
fn everything(follower: &Follower, started: i64) -> Read {
    Read {
        kind: Kind::Rescan,
        after: follower.confirmed(),
        upto: None,
        started: now(started),
        row_limit: None,
    }
}

#[test]
fn an_empty_day_takes_few_reads() {
    let day = 86_400_000_000;
    let mut follower = Follower::new(settings(), START - day);
    let mut reads = 0;
    loop {
        let read = next_read(&mut follower, START);
        if read.kind != Kind::Window {
            break;
        }
        follower.completed(&read, Outcome::default());
        reads += 1;
    }
    assert!(reads < 25, "{reads} reads");
}

#[test]
fn a_read_that_started_early_confirms_little() {
    let mut follower = Follower::new(settings(), START);
    let started = START + LATE_WINDOW + 500_000;
    // However long it takes.
    let read = everything(&follower, started);
    follower.completed(&read, Outcome::default());
    assert_eq!(follower.advance(i64::MAX), START + 500_000);
}

#[test]
fn a_clock_that_goes_back_moves_nothing_back() {
    let mut follower = Follower::new(settings(), START);
    let read = everything(&follower, START + LATE_WINDOW + 900_000);
    follower.completed(&read, Outcome::default());
    let before = follower.advance(i64::MAX);
    let back = Moment {
        wall: START - 60_000_000,
        ticks: START + LATE_WINDOW + 9_000_000,
    };
    let Next::Read(read) = follower.next(back, Load::default()) else {
        panic!("a read is due");
    };
    follower.completed(&read, Outcome::default());
    assert_eq!(follower.advance(i64::MAX), before);
}

#[test]
fn an_incomplete_batch_holds_the_watermark() {
    let mut follower = Follower::new(settings(), START);
    let started = START + LATE_WINDOW + 1_000;
    let read = everything(&follower, started);
    let cut = Outcome {
        rows: 2,
        fresh: 1,
        newest: Some(started - 1),
        cut: Some(START + 5),
    };
    follower.completed(&read, cut);
    assert_eq!(follower.advance(i64::MAX), START + 4);
    assert!(!follower.has_covered(started));
}

#[test]
fn a_group_is_live_when_a_read_without_end_has_begun_where_the_others_ended() {
    let mut follower = Follower::new(settings(), START);
    let at = START + 60_000_000;
    let mut ended = START;
    loop {
        let read = next_read(&mut follower, at);
        assert_eq!(read.after, ended, "nothing is left out");
        follower.completed(&read, Outcome::default());
        if read.kind == Kind::Tail {
            break;
        }
        ended = read.upto.expect("a window has an end");
        assert!(
            ended <= at - settings().confirm,
            "what is young is confirmed"
        );
    }
    assert_eq!(follower.next(now(at), Load::default()), Next::Live);
    // A failure, and it begins again before what it has read last.
    follower.failed(now(at));
    let read = next_read(&mut follower, at + 10_000_000);
    assert!(read.after <= at - settings().confirm);
}

#[test]
fn a_full_group_waits_for_settlements_and_then_reads_only_the_settled_past() {
    let mut follower = Follower::new(settings(), START);
    let at = START + LATE_WINDOW + 500_000;
    let load = |pending| Load {
        full: true,
        pending,
    };
    assert_eq!(follower.next(now(at), load(1)), Next::AfterSettlement);
    let Next::Read(read) = follower.next(now(at), load(0)) else {
        panic!("nothing is pending, so a window can free memory");
    };
    assert_eq!(
        (read.kind, read.upto),
        (Kind::Window, Some(START + 500_000))
    );
    follower.completed(&read, Outcome::default());
    // Nothing older is left: only time helps.
    assert!(matches!(follower.next(now(at), load(0)), Next::At(ticks) if ticks > at));
}

#[test]
fn what_an_earlier_run_has_published_is_recognised_first() {
    let mut follower = Follower::new(settings(), START).resuming(START + 3_000_000);
    let full = Load {
        full: true,
        pending: 1,
    };
    let at = START + 60_000_000;
    let Next::Read(read) = follower.next(now(at), full) else {
        panic!("it is read whatever there is room for");
    };
    assert_eq!(
        (read.kind, read.after, read.upto),
        (Kind::Resume, START, Some(START + 3_000_000))
    );
    follower.completed(&read, Outcome::default());
    let read = next_read(&mut follower, at);
    assert_eq!((read.kind, read.after), (Kind::Window, START + 3_000_000));
}
