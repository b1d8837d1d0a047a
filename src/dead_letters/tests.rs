//! Dead letters on the emulated database, behind a pipeline and a scripted sink: kept, taken up at
//! a start, replayed and discarded.

mod base;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use rdkafka::error::RDKafkaErrorCode as Code;
use scylla_emulator::error::Error as DatabaseError;
use scylla_emulator::faults::{Effect, Fault};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::extent::Asked;
use super::filter::Filter;
use super::replay::{Action, Order, Progress};
use super::*;
use crate::ack::Settled;
use crate::event::Record;
use crate::pipeline::testing::Seed;
use crate::sink::scripted::Step;

use base::*;

/// A source of events of a few keys, whose relay may die.
struct World {
    base: Base,
    seed: Seed,
    /// Whether the sink refuses much.
    broken: Arc<AtomicBool>,
    /// The key of each event.
    fed: Vec<String>,
    /// Numbers of the events that are settled, as far as the source has heard.
    settled: BTreeSet<u64>,
    /// The same at the last checkpoint.
    saved: BTreeSet<u64>,
    /// What relays that are dead have published.
    topic: Vec<Record>,
}

impl World {
    async fn new(test: &str) -> Self {
        let base = Base::start().await;
        // A look may not see what was on its way to the table when it began.
        let slowly = Effect::Delay(Duration::from_millis(6));
        base.emulator
            .faults()
            .inject(Fault::on("INSERT INTO", slowly));
        Self {
            base,
            seed: Seed::of(test),
            broken: Arc::new(AtomicBool::new(true)),
            fed: Vec::new(),
            settled: BTreeSet::new(),
            saved: BTreeSet::new(),
            topic: Vec::new(),
        }
    }

    async fn start(&mut self) -> Relay {
        let script = moody(self.seed.split(), Arc::clone(&self.broken));
        self.base.relay(script).await
    }

    fn breaks(&self, broken: bool) {
        self.broken.store(broken, Ordering::Relaxed);
    }

    /// Submits again what the last checkpoint does not have, then so many new events, with at most
    /// a few of them on their way: what a source does that is sometimes slow and sometimes not.
    async fn feed(&mut self, relay: &Relay, settled: &mut Settles, events: usize) {
        const KEYS: usize = 4;
        let first = self.fed.len();
        let new = (0..events).map(|_| format!("k{}-", self.seed.below(KEYS)));
        self.fed.extend(new);
        let numbers = (0..self.fed.len()).map(|number| number as u64);
        let saved = self.saved.clone();
        let again = |number: &u64| *number >= first as u64 || !saved.contains(number);
        let mut on_their_way = 0;
        for number in numbers.filter(again) {
            if self.seed.below(2) == 0 {
                // Comes when a replay has sent something, if one does.
                let more = relay.control.sends() + 1;
                let _ = timeout(Duration::from_millis(10), relay.control.sent(more)).await;
            }
            relay.submit(&self.fed[number as usize], number).await;
            on_their_way += 1;
            let few = self.seed.below(12);
            while on_their_way > few {
                let settled = soon(settled.recv()).await;
                let row = settled.expect("the test holds a sender").row;
                self.settled.insert(row.position.micros() as u64 - EPOCH);
                on_their_way -= 1;
            }
            if self.seed.below(20) == 0 {
                self.saved = self.settled.clone();
            }
        }
    }

    /// The relay dies in the middle of what it does.
    async fn crash(&mut self, mut relay: Relay) {
        relay.run.shutdown().await;
        self.topic.extend(relay.control.appended());
    }

    /// Replays until all is published and nothing is left, and looks at the order.
    async fn ends(&self, relay: &Relay) {
        let mut fed: BTreeMap<Bytes, Vec<String>> = BTreeMap::new();
        for (number, key) in self.fed.iter().enumerate() {
            let ids = fed.entry(Bytes::from(key.clone())).or_default();
            ids.push(format!("{key}{number}"));
        }
        let arrives = async {
            loop {
                relay.replay(Filter::default()).await;
                let topic = [&self.topic[..], &relay.control.appended()].concat();
                let arrived = first_occurrences(topic);
                let count: usize = arrived.values().map(Vec::len).sum();
                if count == self.fed.len() && self.base.all().await.is_empty() {
                    return arrived;
                }
            }
        };
        assert_eq!(soon(Box::pin(arrives)).await, fed);
        relay.replay(Filter::default()).await;
        for key in fed.keys() {
            let key = std::str::from_utf8(key).expect("text");
            assert!(!relay.is_parked(key).await, "{key} is released");
        }
        assert_eq!(self.base.left().await, Vec::<String>::new());
        assert!(self.base.load().await.parking.is_empty());
    }
}

type Settles = mpsc::UnboundedReceiver<Settled>;

/// Replays for ever, as a person and without one.
async fn replaying(relay: &Relay) {
    loop {
        relay.replay(Filter::default()).await;
        relay.by_itself().await;
    }
}

#[tokio::test]
async fn the_order_of_a_key_is_kept_while_new_events_join_its_replay() {
    let mut world = World::new("a replay that new events join").await;
    let mut relay = world.start().await;
    let mut settled = std::mem::replace(&mut relay.settled, mpsc::unbounded_channel().1);
    world.feed(&relay, &mut settled, 150).await;
    let buried = world.base.all().await.len();
    assert!(buried > 0, "a quarter of the attempts fail");
    world.breaks(false);
    // Nothing is ever settled twice, so nothing is submitted again.
    world.saved = (0..150).collect();
    let feeding = world.feed(&relay, &mut settled, 450);
    tokio::select! {
        () = feeding => {}
        () = Box::pin(replaying(&relay)) => {}
    }
    world.ends(&relay).await;
}

#[tokio::test]
async fn crashes_amid_failures_and_replays_lose_and_reorder_nothing() {
    let mut world = World::new("crashes amid failures and replays").await;
    for _ in 0..8 {
        let broken = world.seed.below(3) > 0;
        world.breaks(broken);
        let events = 10 + world.seed.below(90);
        let mut relay = world.start().await;
        let mut settled = std::mem::replace(&mut relay.settled, mpsc::unbounded_channel().1);
        tokio::select! {
            () = world.feed(&relay, &mut settled, events) => {}
            () = Box::pin(replaying(&relay)) => {}
        }
        world.crash(relay).await;
    }
    world.breaks(false);
    let mut relay = world.start().await;
    let mut settled = std::mem::replace(&mut relay.settled, mpsc::unbounded_channel().1);
    world.feed(&relay, &mut settled, 20).await;
    world.ends(&relay).await;
}

#[tokio::test]
async fn an_event_that_joins_unseen_by_the_last_look_keeps_its_key_parked() {
    let base = Base::start().await;
    base.puts("a", "f").await;
    let relay = base.relay(delivering()).await;
    let slowly = |millis| Effect::Delay(Duration::from_millis(millis));
    let faults = base.emulator.faults();
    let mut looks = faults.inject(Fault::on("AND key = ? LIMIT", slowly(50)));
    faults.inject(Fault::on("INSERT INTO", slowly(200)));
    let replaying = async { relay.replay(Filter::default()).await };
    let joining = async {
        // The first look finds one; the second one begins, and will find none.
        soon(looks.reached(2)).await;
        relay.submit("a", 1).await;
        // It is looked again, since one has joined.
        soon(looks.reached(3)).await;
        relay.submit("a", 2).await;
    };
    let (done, ()) = soon(Box::pin(async { tokio::join!(replaying, joining) })).await;
    assert_eq!(done.published, 3);
    assert_eq!(relay.topic(), ["a0", "a1", "a2"]);
    assert!(!relay.is_parked("a").await);
}

#[tokio::test]
async fn an_id_in_the_middle_is_published_with_what_its_order_needs() {
    let base = Base::start().await;
    base.puts("a", "fppfp").await;
    base.puts("b", "fp").await;
    let relay = base.relay(delivering()).await;
    let done = relay.replay(of_id("a1")).await;
    assert_eq!(relay.topic(), ["a0", "a1", "a2"], "up to the next failure");
    let expected = Progress {
        matched: 1,
        keys: 1,
        planned: 3,
        published: 3,
        ..Progress::default()
    };
    assert_eq!(done, expected);
    assert_eq!(base.left().await, ["a3", "a4", "b0", "b1"]);
    assert!(relay.is_parked("a").await && relay.is_parked("b").await);
    relay.replay(of_id("a4")).await;
    assert_eq!(relay.topic()[3..], ["a3", "a4"]);
    assert!(!relay.is_parked("a").await && relay.is_parked("b").await);
}

#[tokio::test]
async fn what_waits_for_a_person_blocks_a_replay_without_one() {
    let base = Base::start().await;
    base.puts("front", "fep").await;
    base.puts("middle", "epfep").await;
    base.puts("free", "eppe").await;
    let relay = base.relay(delivering()).await;
    let done = relay.by_itself().await;
    assert_eq!((done.published, done.failed, done.postponed), (6, 0, 0));
    let mut topic = relay.topic();
    topic.sort();
    let free = ["free0", "free1", "free2", "free3"];
    assert_eq!(topic, [&free[..], &["middle0", "middle1"]].concat());
    let left = [
        "front0", "front1", "front2", "middle2", "middle3", "middle4",
    ];
    assert_eq!(base.left().await, left);
    assert!(!relay.is_parked("free").await && relay.is_parked("middle").await);
    assert_eq!(relay.by_itself().await, Progress::default());
    relay.replay(Filter::default()).await;
    assert_eq!(base.left().await, Vec::<String>::new());
    assert!(!relay.is_parked("front").await && !relay.is_parked("middle").await);
}

#[tokio::test]
async fn dead_letters_of_skipped_events_are_replayed_alone() {
    let base = Base::start().await;
    base.puts("s", "FFF").await;
    base.puts("mixed", "FfpF").await;
    let relay = base.relay(delivering()).await;
    assert!(!relay.is_parked("s").await && relay.is_parked("mixed").await);
    assert_eq!(relay.by_itself().await, Progress::default());
    relay.replay(of_id("s1")).await;
    assert_eq!(relay.topic(), ["s1"]);
    relay.replay(of_id("mixed2")).await;
    assert_eq!(relay.topic(), ["s1", "mixed1", "mixed2"]);
    assert!(
        !relay.is_parked("mixed").await,
        "what is left parks nothing"
    );
    assert_eq!(base.left().await, ["mixed0", "mixed3", "s0", "s2"]);
    relay.replay(Filter::default()).await;
    assert_eq!(base.left().await, Vec::<String>::new());
    assert_eq!(relay.topic().len(), 7);
}

#[tokio::test]
async fn a_dry_run_counts_and_changes_nothing() {
    let base = Base::start().await;
    base.puts("a", "fppfp").await;
    base.puts("s", "F").await;
    let relay = base.relay(delivering()).await;
    for (action, filter, planned) in [
        (Action::Replay, of_id("a2"), 3),
        (Action::Replay, Filter::default(), 6),
        (Action::Discard, of_id("a2"), 1),
        (Action::Discard, Filter::default(), 6),
    ] {
        let order = Order {
            dry_run: true,
            ..order(action, filter, i64::MAX)
        };
        let done = relay.carry_out(&order, Asked::ByPerson).await;
        assert_eq!(
            (done.planned, done.published, done.discarded),
            (planned, 0, 0)
        );
    }
    assert_eq!(base.left().await.len(), 6);
    assert_eq!(relay.topic(), Vec::<String>::new());
}

#[tokio::test]
async fn a_discard_removes_what_was_there_when_it_was_asked_for() {
    let base = Base::start().await;
    base.puts("a", "fp").await;
    base.puts("b", "fp").await;
    let asked_at = base.store.stamp(0);
    let relay = base
        .relay(|_, record| match &record.key[..] {
            b"b" => Step::Reject(Code::InvalidRecord),
            _ => Step::Deliver,
        })
        .await;
    // Since then, an event has joined one key, and the first of the other has failed again.
    base.put(letter("a", 2, Reason::Parked)).await;
    assert_eq!(relay.replay(of_key("b")).await.failed, 1);
    let done = relay.discard(Filter::default(), asked_at).await;
    // The failure is news of a dead letter that was there; what has joined is not.
    assert_eq!((done.matched, done.planned, done.discarded), (4, 4, 4));
    assert_eq!(base.left().await, ["a2"]);
    assert!(relay.is_parked("a").await && !relay.is_parked("b").await);

    let asked_at = base.store.stamp(0);
    let done = relay.discard(of_key("a"), asked_at).await;
    assert_eq!(done.discarded, 1);
    assert!(!relay.is_parked("a").await, "nothing is left of it");
    assert_eq!(base.left().await, Vec::<String>::new());
    assert_eq!(relay.topic(), Vec::<String>::new());
    relay.submit("a", 3).await;
    soon(relay.control.sent(2)).await;
    assert_eq!(relay.topic(), ["a3"], "the key flows again");
}

#[tokio::test]
async fn dead_letters_are_counted_by_reason_also_those_that_park_nothing() {
    let base = Base::start().await;
    base.puts("a", "fppe").await;
    base.puts("b", "F").await;
    let mut census = Census::default();
    let counted = base.store.count(TABLE, &mut census).await;
    counted.expect("they are read");
    let counts = Reason::ALL.map(|reason| census.of(reason));
    assert_eq!(counts, [1, 2, 0, 2], "in the order of the reasons");
}

#[tokio::test]
async fn a_discard_in_the_middle_leaves_the_rest_in_order() {
    let base = Base::start().await;
    base.puts("a", "fppf").await;
    let relay = base.relay(delivering()).await;
    relay.discard(of_id("a1"), base.store.stamp(0)).await;
    assert_eq!(base.left().await, ["a0", "a2", "a3"]);
    assert!(relay.is_parked("a").await);
    relay.replay(Filter::default()).await;
    assert_eq!(relay.topic(), ["a0", "a2", "a3"]);
}

#[tokio::test]
async fn a_start_takes_up_parked_keys_and_replays_what_needs_no_person() {
    let base = Base::start().await;
    assert!(!base.load().await.exhausted);
    base.puts("failed", "fp").await;
    base.puts("skipped", "FE").await;
    let relay = base.relay(delivering()).await;
    assert!(relay.is_parked("failed").await && !relay.is_parked("skipped").await);
    // A person has discarded the first of them, and only what was behind it is left.
    relay.discard(of_id("failed0"), base.store.stamp(0)).await;
    base.puts("parked", "pp").await;
    let loaded = base.load().await;
    assert_eq!((loaded.parking.len(), loaded.exhausted), (2, true));
    let relay = base.relay(delivering()).await;
    assert!(relay.is_parked("failed").await && relay.is_parked("parked").await);
    assert_eq!(
        relay.metrics.parked_keys.get(),
        2,
        "they are counted at once"
    );
    relay.submit("parked", 2).await;
    let done = relay.by_itself().await;
    let of = |key: &str| {
        let topic = relay.topic().into_iter();
        topic.filter(|id| id.starts_with(key)).collect::<Vec<_>>()
    };
    assert_eq!(of("failed"), ["failed1"]);
    assert_eq!(of("parked")[..2], ["parked0", "parked1"]);
    assert_eq!(of("skipped"), ["skipped1"], "it was exhausted");
    assert!(done.published >= 4, "{done:?}");
    soon(relay.control.sent(5)).await;
    assert_eq!(of("parked").len(), 3);
    relay.by_itself().await;
    assert_eq!(base.left().await, ["skipped0"]);
    assert!(!relay.is_parked("parked").await && !relay.is_parked("failed").await);
    assert!(base.load().await.parking.is_empty());
}

#[tokio::test]
async fn one_that_fails_again_stops_its_key_and_no_other() {
    let base = Base::start().await;
    for key in ["a", "b", "bad", "c", "tired"] {
        base.puts(key, "epp").await;
    }
    let mended = Arc::new(AtomicBool::new(false));
    let is_mended = Arc::clone(&mended);
    let relay = base
        .relay(move |_, record| match &text(record)[..] {
            _ if is_mended.load(Ordering::Relaxed) => Step::Deliver,
            "bad1" => Step::Reject(Code::UnknownTopicOrPartition),
            "tired0" => Step::Reject(Code::Unknown),
            _ => Step::Deliver,
        })
        .await;
    let done = relay.replay(Filter::default()).await;
    assert_eq!((done.published, done.failed), (10, 2));
    let left = ["bad1", "bad2", "tired0", "tired1", "tired2"];
    assert_eq!(base.left().await, left);
    let told = async |id: &str| {
        let letter = base.letter(id).await;
        let failure = letter.failure.unwrap_or_default();
        (letter.reason.name(), failure.kind, failure.attempts)
    };
    let permanent = |attempts| ("permanent", "unknown_topic".to_owned(), attempts);
    let exhausted = |attempts| ("exhausted", "other".to_owned(), attempts);
    assert_eq!(
        told("bad1").await,
        permanent(1),
        "it was only parked before"
    );
    assert_eq!(told("tired0").await, exhausted(1 + 5));
    relay.replay(Filter::default()).await;
    assert_eq!(told("bad1").await, permanent(2));
    assert_eq!(told("tired0").await, exhausted(1 + 5 + 5));
    // Nobody is asked about the one that has no topic.
    let done = relay.by_itself().await;
    assert_eq!((done.published, done.failed, done.keys), (0, 1, 1));
    assert_eq!(
        base.letter("bad1").await.first_failed_millis / 1000,
        1_700_000_000
    );
    assert!(relay.is_parked("bad").await && relay.is_parked("tired").await);

    mended.store(true, Ordering::Relaxed);
    relay.replay(Filter::default()).await;
    assert_eq!(base.left().await, Vec::<String>::new());
    let firsts = relay.first_occurrences();
    assert_eq!(firsts[&b"bad"[..]], ["bad0", "bad1", "bad2"]);
    assert_eq!(firsts[&b"tired"[..]], ["tired0", "tired1", "tired2"]);
    assert_eq!(relay.topic().len(), 15, "each once");
}

#[tokio::test]
async fn while_kafka_is_away_a_replay_is_postponed_and_loses_nothing() {
    let base = Base::start().await;
    for key in ["a", "b", "c", "d", "e", "f"] {
        base.puts(key, "ep").await;
    }
    let away = Arc::new(AtomicBool::new(true));
    let is_away = Arc::clone(&away);
    let relay = base
        .relay(move |_, _| {
            if is_away.load(Ordering::Relaxed) {
                Step::Reject(Code::BrokerTransportFailure)
            } else {
                Step::Deliver
            }
        })
        .await;
    let done = relay.by_itself().await;
    assert_eq!((done.published, done.planned), (0, 12));
    assert_eq!(done.postponed + done.failed, 6, "{done:?}");
    assert_eq!(base.left().await.len(), 12);
    away.store(false, Ordering::Relaxed);
    let emptying = async {
        while !base.all().await.is_empty() {
            relay.by_itself().await;
        }
    };
    soon(Box::pin(emptying)).await;
    for (key, ids) in relay.first_occurrences() {
        let key = std::str::from_utf8(&key).expect("text").to_owned();
        assert_eq!(ids, [format!("{key}0"), format!("{key}1")]);
        assert!(!relay.is_parked(&key).await);
    }
    assert_eq!(relay.topic().len(), 12);
}

#[tokio::test]
async fn a_rate_is_kept_and_a_table_that_is_not_meant_is_left() {
    let base = Base::start().await;
    base.puts("a", "fpp").await;
    let relay = base.relay(delivering()).await;
    let elsewhere = Filter {
        table: Some("shop.other".to_owned()),
        ..Filter::default()
    };
    assert_eq!(relay.replay(elsewhere).await, Progress::default());
    let order = Order {
        rate: NonZeroU32::new(20),
        ..order(Action::Replay, Filter::default(), 0)
    };
    let start = std::time::Instant::now();
    relay.carry_out(&order, Asked::ByPerson).await;
    // The first one goes at once, the third one after two pauses of 50 ms.
    assert!(start.elapsed() >= Duration::from_millis(100));
    assert_eq!(relay.topic(), ["a0", "a1", "a2"]);
}

#[tokio::test]
async fn a_removal_that_fails_is_made_again_and_nothing_is_published_twice() {
    let base = Base::start().await;
    base.puts("a", "fp").await;
    let relay = base.relay(delivering()).await;
    let timeout = DatabaseError::write_timeout(KEYSPACE, "dead_letters", "SIMPLE");
    let refuse = Effect::FailAfter(timeout);
    let injected = base
        .emulator
        .faults()
        .inject(Fault::on("DELETE FROM", refuse).times(2));
    let done = relay.replay(Filter::default()).await;
    assert!(injected.hits() > 0);
    assert_eq!((done.published, done.postponed), (2, 0));
    assert_eq!(relay.topic(), ["a0", "a1"]);
    assert!(!relay.is_parked("a").await);
}

#[tokio::test]
async fn ten_thousand_dead_letters_of_five_hundred_keys_are_replayed() {
    const KEYS: u64 = 500;
    const LETTERS: u64 = 10_000;
    /// Of the first key there are several pages.
    const OF_FIRST: u64 = 519;
    let base = Base::start().await;
    let key = |number: u64| match number {
        0..OF_FIRST => 0,
        _ => 1 + number % (KEYS - 1),
    };
    let reason = |number| {
        if number < OF_FIRST + KEYS - 1 && (number == 0 || number >= OF_FIRST) {
            Reason::Exhausted
        } else {
            Reason::Parked
        }
    };
    let name = |number| format!("key{}-", key(number));
    let letters = (0..LETTERS).map(|number| letter(&name(number), number, reason(number)));
    let puts = stream::iter(letters).map(|letter| base.put(letter));
    puts.buffer_unordered(64).for_each(async |_| {}).await;
    let relay = base.relay(delivering()).await;
    let done = relay.by_itself().await;
    let expected = Progress {
        matched: LETTERS,
        keys: KEYS,
        planned: LETTERS,
        published: LETTERS,
        ..Progress::default()
    };
    assert_eq!(done, expected);
    let mut wanted: BTreeMap<Bytes, Vec<String>> = BTreeMap::new();
    for number in 0..LETTERS {
        let ids = wanted.entry(Bytes::from(name(number))).or_default();
        ids.push(format!("{}{number}", name(number)));
    }
    assert_eq!(relay.first_occurrences(), wanted);
    assert_eq!(relay.topic().len() as u64, LETTERS, "each once");
    assert_eq!(base.left().await, Vec::<String>::new());
    for key in wanted.keys() {
        let key = std::str::from_utf8(key).expect("text");
        assert!(!relay.is_parked(key).await);
    }
}
