//! Follower and tracker against a naive log: rows appear late, pages cut reads, settlements come
//! in any order, the process dies at any step, memory is tight. Nothing may be lost, and nothing
//! handed on twice but after a crash.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::bounds::timeuuid;
use super::follower::{Follower, Kind, Load, Moment, Next, Outcome, Read, Settings};
use crate::ack::{Registration, Tracker};
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
    tracker: Tracker,
    unsettled: Vec<RowKey>,
    durable: BTreeSet<RowKey>,
    handed_on: BTreeMap<RowKey, u32>,
    saved: (i64, Vec<RowKey>),
    restored: usize,
}

fn settings() -> Settings {
    Settings {
        poll: 10_000,
        idle_poll: 200_000,
        late_window: LATE_WINDOW,
        rescan: 1_000_000,
        overlap: 200_000,
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
        Self {
            log,
            scenario,
            now: START - 20_000_000,
            next_choice: 0,
            follower: Follower::new(settings(), watermark),
            tracker: Tracker::new(watermark),
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

    /// Reads page by page; between two pages time passes and settlements arrive. A page shows
    /// what is visible when it is read.
    fn read(&mut self, read: &Read) {
        let mut outcome = Outcome::default();
        let mut last: Option<RowKey> = None;
        loop {
            let in_range = |row: &RowKey| {
                let micros = row.position.micros();
                micros > read.after && read.upto.is_none_or(|upto| micros <= upto)
            };
            let page: Vec<RowKey> = self
                .log
                .iter()
                .filter(|(row, visible)| **visible <= self.now && in_range(row))
                .map(|(row, _)| *row)
                .filter(|row| last.is_none_or(|last| *row > last))
                .take(self.scenario.page)
                .collect();
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
            if too_many || (read.kind != Kind::Window && self.full()) {
                self.follower.given_up(read);
                return;
            }
        }
        let now = self.moment();
        self.follower.completed(read, outcome, now);
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
        let before = self.follower.watermark();
        let watermark = self.follower.advance(self.tracker.floor());
        self.tracker.forget(watermark);
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

    fn crash(&mut self) {
        let (watermark, published) = self.saved.clone();
        self.follower = Follower::new(settings(), watermark);
        self.tracker = Tracker::new(watermark);
        for row in published {
            self.tracker.register_settled(row);
        }
        self.unsettled.clear();
        self.restored = 4 * settings().target_rows + self.tracker.len() + 2 * self.scenario.page;
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
            self.saved = (self.follower.watermark(), self.tracker.settled().collect());
        }
        if self.scenario.crashes && self.choose(40) == 0 {
            self.crash();
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

fn next_read(follower: &mut Follower, now: i64) -> Read {
    let now = Moment {
        wall: now,
        ticks: now,
    };
    match follower.next(now, Load::default()) {
        Next::Read(read) => read,
        other => panic!("{other:?}"),
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
        let now = Moment {
            wall: START,
            ticks: START,
        };
        follower.completed(&read, Outcome::default(), now);
        reads += 1;
    }
    assert!(reads < 25, "{reads} reads");
}

#[test]
fn a_read_that_started_early_confirms_little() {
    let mut follower = Follower::new(settings(), START);
    let started = START + LATE_WINDOW + 500_000;
    let read = next_read(&mut follower, started);
    let ended = started + 60_000_000;
    let now = Moment {
        wall: ended,
        ticks: ended,
    };
    follower.completed(&read, Outcome::default(), now);
    assert_eq!(follower.advance(i64::MAX), START + 500_000);
}

#[test]
fn a_clock_that_goes_back_moves_nothing_back() {
    let mut follower = Follower::new(settings(), START);
    let read = next_read(&mut follower, START + LATE_WINDOW + 900_000);
    let done = |ticks| Moment { wall: START, ticks };
    follower.completed(
        &read,
        Outcome::default(),
        done(START + LATE_WINDOW + 900_000),
    );
    let before = follower.advance(i64::MAX);
    let back = Moment {
        wall: START - 60_000_000,
        ticks: START + LATE_WINDOW + 9_000_000,
    };
    let Next::Read(read) = follower.next(back, Load::default()) else {
        panic!("a read is due");
    };
    follower.completed(&read, Outcome::default(), back);
    assert_eq!(follower.advance(i64::MAX), before);
}

#[test]
fn an_incomplete_batch_holds_the_watermark_and_the_tail() {
    let mut follower = Follower::new(settings(), START);
    let started = START + LATE_WINDOW;
    let read = next_read(&mut follower, started);
    let cut = Outcome {
        rows: 2,
        fresh: 1,
        newest: Some(started - 1),
        cut: Some(START + 5),
    };
    let now = |at| Moment {
        wall: at,
        ticks: at,
    };
    follower.completed(&read, cut, now(started));
    let later = started + 20_000;
    let read = next_read(&mut follower, later);
    assert!(
        read.after <= START + 4,
        "the next tail read sees the batch again"
    );
    assert!(follower.advance(i64::MAX) <= START + 4);
}

#[test]
fn a_full_group_waits_for_settlements_and_then_reads_only_the_settled_past() {
    let mut follower = Follower::new(settings(), START);
    let at = START + LATE_WINDOW + 500_000;
    let now = Moment {
        wall: at,
        ticks: at,
    };
    let load = |pending| Load {
        full: true,
        pending,
    };
    assert_eq!(follower.next(now, load(1)), Next::AfterSettlement);
    let Next::Read(read) = follower.next(now, load(0)) else {
        panic!("nothing is pending, so a window can free memory");
    };
    assert_eq!(
        (read.kind, read.upto),
        (Kind::Window, Some(START + 500_000))
    );
    follower.completed(&read, Outcome::default(), now);
    // Nothing older is left: only time helps.
    assert!(matches!(follower.next(now, load(0)), Next::At(ticks) if ticks > at));
}
