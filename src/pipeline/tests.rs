//! The pipeline before a scripted sink. Time is paused: it passes only while every task waits.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use rdkafka::error::RDKafkaErrorCode as Code;
use scylla::value::CqlTimeuuid;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::*;
use crate::ack::Settled;
use crate::dead_letters::parking::Quiet;
use crate::dead_letters::{DeadLetter, Error, Keep, Parking};
use crate::event::{Header, Position, RowKey};
use crate::runtime::Phase;
use crate::sink::scripted::{Control, ScriptedSink, Step};

mod intake;
mod journeys;
mod keeping;
mod standstill;

struct Relay {
    handle: Handle,
    control: Control,
    phase: watch::Sender<Phase>,
    settled: mpsc::UnboundedReceiver<Settled>,
    settle: mpsc::UnboundedSender<Settled>,
    metrics: Arc<Metrics>,
    notes: journeys::Notes,
    run: JoinSet<Summary>,
    submitted: u16,
}

impl Relay {
    fn start(
        limits: (usize, usize),
        script: impl FnMut(u64, &Record) -> Step + Send + 'static,
    ) -> Self {
        Self::with(testing::config(), limits, None, script)
    }

    fn with(
        config: config::Config,
        limits: (usize, usize),
        dead_letters: Option<Arc<dyn Keep>>,
        script: impl FnMut(u64, &Record) -> Step + Send + 'static,
    ) -> Self {
        Self::within(config, limits, dead_letters, None, script)
    }

    /// Publishes only until `until`, if that is given.
    fn within(
        mut config: config::Config,
        limits: (usize, usize),
        dead_letters: Option<Arc<dyn Keep>>,
        until: Option<watch::Receiver<Instant>>,
        script: impl FnMut(u64, &Record) -> Step + Send + 'static,
    ) -> Self {
        let (sink, control) = ScriptedSink::new(script);
        config.limits.in_flight_events = NonZeroUsize::new(limits.0).expect("not zero");
        config.limits.in_flight_bytes = NonZeroUsize::new(limits.1).expect("not zero");
        let metrics = Arc::new(Metrics::default());
        let (handle, pipeline) =
            new(&config, Box::new(sink), Arc::clone(&metrics)).expect("the sink opens");
        let pipeline = match dead_letters {
            None => pipeline,
            Some(keep) => pipeline.with_dead_letters(DeadLetterBox {
                keep,
                parking: Parking::new(config.dead_letters.max_parked_keys.get()),
                tables: vec!["shop.outbox".to_owned()],
            }),
        };
        let pipeline = match until {
            None => pipeline,
            Some(until) => pipeline.with_limit(until),
        };
        let notes = journeys::Notes::default();
        let pipeline =
            pipeline.with_journal(Arc::new(notes.clone()), vec![Some("trace".to_owned())]);
        let (phase, phases) = watch::channel(Phase::Running);
        let (settle, settled) = mpsc::unbounded_channel();
        let mut run = JoinSet::new();
        run.spawn(pipeline.run(phases));
        Self {
            handle,
            control,
            phase,
            settled,
            settle,
            metrics,
            notes,
            run,
            submitted: 0,
        }
    }

    /// The next event of a key; its row's number is the number of the submit.
    fn delivery(&mut self, key: &str, payload: &[u8]) -> Delivery {
        let position = Position {
            time: CqlTimeuuid::nil(),
            seq: 0,
        };
        let row = RowKey {
            stream: self.submitted,
            position,
        };
        self.submitted += 1;
        Delivery {
            table: TableId(0),
            record: Record {
                topic: Arc::from("t"),
                key: Bytes::copy_from_slice(key.as_bytes()),
                payload: Some(Bytes::copy_from_slice(payload)),
                headers: vec![Header {
                    name: Arc::from("id"),
                    value: None,
                }],
                timestamp_millis: 1,
            },
            label: Label::default(),
            ack: Ack::new(Settled { group: 0, row }, self.settle.clone()),
            read_at: Instant::now(),
        }
    }

    async fn submit(&mut self, key: &str) {
        let payload = self.submitted.to_string();
        let delivery = self.delivery(key, payload.as_bytes());
        self.handle
            .submit(delivery)
            .await
            .expect("the pipeline runs");
    }

    async fn settled(&mut self, count: usize) -> Vec<u16> {
        let mut rows = Vec::new();
        while rows.len() < count {
            rows.push(
                self.settled
                    .recv()
                    .await
                    .expect("the test holds a sender")
                    .row
                    .stream,
            );
        }
        rows
    }

    async fn stop(self, phase: Phase) -> Summary {
        self.phase.send_replace(phase);
        let mut ended = self.run.join_all().await;
        ended.pop().expect("one pipeline")
    }

    /// The numbers in the topic by key, in the order of the topic.
    fn topic(&self) -> HashMap<String, Vec<u16>> {
        let mut topic: HashMap<String, Vec<u16>> = HashMap::new();
        for record in self.control.appended() {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
            let number = text(record.payload.as_deref().expect("a payload"));
            topic
                .entry(text(&record.key))
                .or_default()
                .push(number.parse().expect("a number"));
        }
        topic
    }
}

/// Keeps dead letters in memory; the first so many writes fail.
#[derive(Clone, Default)]
struct Shelf {
    letters: Arc<Mutex<Vec<DeadLetter>>>,
    refusals: Arc<AtomicU32>,
}

impl Shelf {
    fn kept(&self) -> Vec<DeadLetter> {
        self.letters.lock().expect("no test panics in here").clone()
    }

    /// Numbers and reasons of the dead letters of a key.
    fn of(&self, key: &str) -> Vec<(u16, Reason)> {
        let of_key = |letter: &DeadLetter| letter.key == key.as_bytes();
        let letters = self.kept().into_iter().filter(of_key);
        letters
            .map(|letter| (number(&letter), letter.reason))
            .collect()
    }
}

fn number(letter: &DeadLetter) -> u16 {
    let payload = letter
        .record
        .as_ref()
        .and_then(|record| record.payload.clone());
    let text = String::from_utf8(payload.expect("a payload").to_vec()).expect("text");
    text.parse().expect("a number")
}

impl Keep for Shelf {
    fn keep(&self, letter: Arc<DeadLetter>) -> BoxFuture<'static, Result<(), Error>> {
        let fails = self
            .refusals
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            })
            .is_ok();
        let letters = Arc::clone(&self.letters);
        async move {
            if fails {
                return Err(Error::Form { column: "none" });
            }
            letters
                .lock()
                .expect("no test panics in here")
                .push((*letter).clone());
            Ok(())
        }
        .boxed()
    }

    fn stamp(&self) -> i64 {
        1
    }
}

const ROOMY: (usize, usize) = (1000, 1 << 20);

#[tokio::test(start_paused = true)]
async fn what_is_acknowledged_is_settled_and_a_drain_leaves_nothing() {
    let mut relay = Relay::start(ROOMY, |_, _| Step::Deliver);
    for n in 0..100 {
        relay.submit(&format!("k{}", n % 7)).await;
    }
    let mut rows = relay.settled(100).await;
    rows.sort_unstable();
    assert_eq!(rows, (0..100).collect::<Vec<u16>>());
    let topic = relay.topic();
    assert!(
        topic.values().all(|numbers| numbers.is_sorted()),
        "{topic:?}"
    );
    assert_eq!(relay.metrics.published.get(), 100);
    let handle = relay.handle.clone();
    let late = relay.delivery("k", b"0");
    assert_eq!(
        relay.stop(Phase::Draining).await,
        Summary {
            published: 100,
            left: 0
        }
    );
    assert_eq!(handle.submit(late).await, Err(Closed));
}

#[tokio::test(start_paused = true)]
async fn rejected_attempts_are_retried_in_order_after_their_delays() {
    let start = Instant::now();
    let mut relay = Relay::start(ROOMY, |send, record| match (&record.key[..], send) {
        (b"bad", 0..9) => Step::Reject(ODD),
        _ => Step::Deliver,
    });
    for key in ["bad", "good", "bad", "good", "bad"] {
        relay.submit(key).await;
    }
    assert_eq!(relay.settled(2).await, [1, 3], "another key does not wait");
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(relay.settled(3).await, [0, 2, 4]);
    // Sends 0, 3..=8 fail, of which two were the other key's: 100 + 200 + 400 + 4 × 500 ms.
    assert_eq!(relay.metrics.failed_attempts.get(), 7);
    let kinds = crate::sink::Kind::ALL.map(|kind| relay.metrics.failed_by_kind.get(kind.name()));
    assert_eq!(kinds.iter().sum::<u64>(), 7, "each has a kind");
    assert_eq!(start.elapsed().as_millis(), 2700);
    assert_eq!(relay.topic()["bad"], [0, 2, 4]);
}

fn with_shelf(
    config: config::Config,
    script: impl FnMut(u64, &Record) -> Step + Send + 'static,
) -> (Relay, Shelf) {
    let shelf = Shelf::default();
    let keep: Arc<dyn Keep> = Arc::new(shelf.clone());
    (Relay::with(config, ROOMY, Some(keep), script), shelf)
}

/// An error that is neither Kafka's nor the record's: transient, and no outage.
const ODD: Code = Code::Unknown;

#[tokio::test(start_paused = true)]
async fn a_short_outage_costs_three_attempts_and_700_ms() {
    let start = Instant::now();
    let (mut relay, shelf) = with_shelf(testing::config(), |send, _| match send {
        0..3 => Step::Reject(Code::BrokerTransportFailure),
        _ => Step::Deliver,
    });
    relay.submit("k").await;
    assert_eq!(relay.settled(1).await, [0]);
    assert_eq!(start.elapsed().as_millis(), 700);
    assert_eq!(relay.metrics.failed_attempts.get(), 3);
    assert_eq!((relay.topic()["k"].len(), shelf.kept().len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn five_failed_attempts_make_a_dead_letter_that_its_key_joins() {
    let (mut relay, shelf) = with_shelf(testing::config(), |_, record| match &record.key[..] {
        b"bad" => Step::Reject(ODD),
        _ => Step::Deliver,
    });
    for key in ["bad", "good", "bad", "good", "bad"] {
        relay.submit(key).await;
    }
    let mut settled = relay.settled(5).await;
    settled.sort_unstable();
    assert_eq!(settled, [0, 1, 2, 3, 4]);
    assert_eq!(relay.metrics.failed_attempts.get(), 5);
    let expected = [
        (0, Reason::Exhausted),
        (2, Reason::Parked),
        (4, Reason::Parked),
    ];
    assert_eq!(shelf.of("bad"), expected);
    let failure = shelf.kept()[0].failure.clone().expect("it failed");
    assert_eq!((failure.attempts, &*failure.kind), (5, "other"));
    relay.submit("bad").await;
    assert_eq!(relay.settled(1).await, [5]);
    assert_eq!(
        shelf.of("bad")[3],
        (5, Reason::Parked),
        "later events join it too"
    );
    assert_eq!(relay.topic().get("bad"), None);
    assert_eq!(relay.metrics.dead_letters_parked.get(), 3);
    assert_eq!(relay.metrics.parked_keys.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn with_hold_an_event_is_attempted_for_ever() {
    let mut config = testing::config();
    config.retry.on_exhausted = config::OnExhausted::Hold;
    let (mut relay, shelf) = with_shelf(config, |send, _| match send {
        0..50 => Step::Reject(ODD),
        _ => Step::Deliver,
    });
    relay.submit("k").await;
    assert_eq!(relay.settled(1).await, [0]);
    assert_eq!((relay.topic()["k"].len(), shelf.kept().len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_permanent_error_is_a_dead_letter_at_once() {
    let (mut relay, shelf) = with_shelf(testing::config(), |_, record| match &record.key[..] {
        b"huge" => Step::Refuse(Code::MessageSizeTooLarge),
        b"lost" => Step::Reject(Code::UnknownTopicOrPartition),
        _ => Step::Deliver,
    });
    let start = Instant::now();
    for key in ["huge", "lost", "good", "huge"] {
        relay.submit(key).await;
    }
    let mut settled = relay.settled(4).await;
    settled.sort_unstable();
    assert_eq!(
        (settled, start.elapsed()),
        (vec![0, 1, 2, 3], Duration::ZERO)
    );
    assert_eq!(
        shelf.of("huge"),
        [(0, Reason::Permanent), (3, Reason::Parked)]
    );
    assert_eq!(shelf.of("lost"), [(1, Reason::Permanent)]);
    assert_eq!(relay.metrics.breaker_opened.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn with_skip_the_key_goes_on_without_the_event() {
    let mut config = testing::config();
    config.dead_letters.on_permanent = config::OnPermanent::Skip;
    let (mut relay, shelf) = with_shelf(config, |_, record| match record.payload.as_deref() {
        Some(b"0" | b"2") => Step::Reject(Code::InvalidRecord),
        _ => Step::Deliver,
    });
    for _ in 0..4 {
        relay.submit("k").await;
    }
    relay.settled(4).await;
    assert_eq!(relay.topic()["k"], [1, 3]);
    assert_eq!(
        shelf.of("k"),
        [(0, Reason::Permanent), (2, Reason::Permanent)]
    );
    assert!(shelf.kept().iter().all(|letter| !letter.parks));
}

#[tokio::test(start_paused = true)]
async fn a_row_stays_unsettled_until_its_dead_letter_is_written() {
    let (mut relay, shelf) = with_shelf(testing::config(), |_, record| match &record.key[..] {
        b"bad" => Step::Reject(Code::InvalidRecord),
        _ => Step::Deliver,
    });
    shelf.refusals.store(3, Ordering::Relaxed);
    let start = Instant::now();
    for key in ["bad", "good"] {
        relay.submit(key).await;
    }
    assert_eq!(relay.settled(1).await, [1]);
    assert_eq!(relay.settled(1).await, [0]);
    assert_eq!(
        start.elapsed().as_millis(),
        700,
        "pauses of 100, 200 and 400 ms"
    );
    assert_eq!(relay.metrics.dead_letter_errors.get(), 3);
    assert_eq!(shelf.of("bad"), [(0, Reason::Permanent)]);
}

#[tokio::test(start_paused = true)]
async fn at_the_limit_of_parked_keys_an_event_holds_its_key() {
    let mut config = testing::config();
    config.dead_letters.max_parked_keys = NonZeroUsize::new(1).expect("not zero");
    let (mut relay, shelf) = with_shelf(config, |send, record| match &record.key[..] {
        b"b" if send > 20 => Step::Deliver,
        _ => Step::Reject(Code::InvalidRecord),
    });
    for key in ["a", "b", "a", "b"] {
        relay.submit(key).await;
    }
    relay.settled(4).await;
    assert_eq!(shelf.of("a").len(), 2);
    assert_eq!(
        (shelf.of("b").len(), &relay.topic()["b"][..]),
        (0, &[1, 3][..])
    );
}

#[tokio::test(start_paused = true)]
async fn an_outage_amid_a_hundred_orders_loses_and_buries_nothing() {
    let start = Instant::now();
    // Kafka is away from the 41st attempt on, for ten minutes.
    let away = move |send: u64| send >= 40 && start.elapsed() < Duration::from_mins(10);
    let (mut relay, shelf) = with_shelf(testing::config(), move |send, _| {
        if away(send) {
            Step::Reject(Code::BrokerTransportFailure)
        } else {
            Step::Deliver
        }
    });
    for n in 0..100 {
        relay.submit(&format!("order-{}", n % 10)).await;
    }
    relay.settled(100).await;
    let topic = relay.topic();
    for order in 0..10 {
        let expected: Vec<u16> = (0..10).map(|n| n * 10 + order).collect();
        assert_eq!(topic[&format!("order-{order}")], expected);
    }
    assert_eq!(shelf.kept().len(), 0, "waiting uses up no attempts");
    // Five failures open it, with what was under way; then at most three probes in 30 s.
    let failed = relay.metrics.failed_attempts.get();
    assert!(
        (5..=10 + 3 * 20).contains(&failed),
        "{failed} attempts failed"
    );
    assert!(relay.metrics.breaker_opened.get() >= 19);
    assert_eq!(relay.metrics.breaker_state.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_attempted_while_the_breaker_is_open() {
    let sends: Arc<Mutex<Vec<u128>>> = Arc::default();
    let (seen, start) = (Arc::clone(&sends), Instant::now());
    let (mut relay, _) = with_shelf(testing::config(), move |send, _| {
        seen.lock()
            .expect("no panic")
            .push(start.elapsed().as_millis());
        match send {
            0..5 => Step::Reject(Code::MessageTimedOut),
            _ => Step::Deliver,
        }
    });
    let breaker = relay.handle.breaker();
    for key in ["a", "b", "c", "d", "e", "f"] {
        relay.submit(key).await;
    }
    relay.settled(6).await;
    let sends = sends.lock().expect("no panic").clone();
    // The sixth was under way already, or waits with the others.
    let later = sends
        .iter()
        .filter(|at| **at > 0)
        .copied()
        .collect::<Vec<_>>();
    assert!(later.iter().all(|at| *at >= 30_000), "{sends:?}");
    assert_eq!(*breaker.borrow(), crate::retry::breaker::State::Closed);
}

#[tokio::test(start_paused = true)]
async fn wrong_credentials_open_the_breaker_and_bury_nothing() {
    let (mut relay, shelf) = with_shelf(testing::config(), |send, _| match send {
        0..30 => Step::Reject(Code::SaslAuthenticationFailed),
        _ => Step::Deliver,
    });
    relay.submit("k").await;
    assert_eq!(relay.settled(1).await, [0]);
    assert!(relay.metrics.breaker_opened.get() > 5);
    assert_eq!(shelf.kept().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_replay_goes_first_and_its_key_is_released_when_nothing_is_left() {
    let broken = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let is_broken = Arc::clone(&broken);
    let (mut relay, shelf) = with_shelf(testing::config(), move |_, record| {
        let bad = record.key == "k" && is_broken.load(Ordering::Relaxed);
        if bad {
            Step::Reject(Code::InvalidRecord)
        } else {
            Step::Deliver
        }
    });
    for _ in 0..2 {
        relay.submit("k").await;
    }
    relay.settled(2).await;
    let again = |letter: &DeadLetter| Replay {
        table: TableId(0),
        record: letter.record.clone().expect("a record"),
        label: letter.label.clone(),
        attempts: 1,
    };
    let letters = shelf.kept();
    let failed = relay
        .handle
        .replay(again(&letters[0]))
        .await
        .expect("it runs");
    let Replayed::Failed(Reason::Permanent, failure) = failed else {
        panic!("it is still broken: {failed:?}");
    };
    assert_eq!(failure.attempts, 2, "those before count too");
    broken.store(false, Ordering::Relaxed);
    for letter in &letters {
        let replayed = relay.handle.replay(again(letter)).await;
        assert_eq!(replayed, Ok(Replayed::Published));
    }
    // An event that comes meanwhile joins the dead letters, and keeps the key parked.
    let key = Bytes::from_static(b"k");
    let quiet = relay.handle.quiet(TableId(0), key.clone()).await;
    let Ok(Quiet::Since(before)) = quiet else {
        panic!("{quiet:?}");
    };
    relay.submit("k").await;
    relay.settled(1).await;
    assert_eq!(
        relay.handle.release(TableId(0), key.clone(), before).await,
        Ok(false)
    );
    assert_eq!(shelf.of("k").len(), 3);
    let replayed = relay.handle.replay(again(&shelf.kept()[2])).await;
    assert_eq!(replayed, Ok(Replayed::Published));
    let Ok(Quiet::Since(since)) = relay.handle.quiet(TableId(0), key.clone()).await else {
        panic!("no write is under way");
    };
    assert_eq!(relay.handle.release(TableId(0), key, since).await, Ok(true));
    relay.submit("k").await;
    relay.settled(1).await;
    assert_eq!(relay.topic()["k"], [0, 1, 2, 3]);
    assert_eq!(relay.metrics.replayed.get(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_permanent_error_is_retried_too_and_so_is_a_refusal_at_once() {
    let mut relay = Relay::start(ROOMY, |send, _| match send {
        0 => Step::Reject(Code::UnknownTopicOrPartition),
        1 => Step::Refuse(Code::MessageSizeTooLarge),
        _ => Step::Deliver,
    });
    relay.submit("k").await;
    assert_eq!(relay.settled(1).await, [0]);
    assert_eq!(relay.metrics.failed_attempts.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_doubles_one_record_and_keeps_the_order() {
    let mut relay = Relay::start(ROOMY, |send, _| match send {
        0 => Step::LoseAnswer(Code::MessageTimedOut),
        _ => Step::Deliver,
    });
    for _ in 0..3 {
        relay.submit("k").await;
    }
    assert_eq!(relay.settled(3).await, [0, 1, 2]);
    assert_eq!(relay.topic()["k"], [0, 0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn one_event_of_a_key_is_with_the_sink() {
    let mut relay = Relay::start(ROOMY, |_, _| Step::Hold);
    for key in ["a", "a", "b", "a"] {
        relay.submit(key).await;
    }
    for (sent, held, rows) in [(2, 2, vec![0, 2]), (3, 1, vec![1]), (4, 1, vec![3])] {
        relay.control.sent(sent).await;
        assert_eq!(relay.control.release(), held);
        assert_eq!(relay.settled(rows.len()).await, rows);
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_is_no_attempt_and_reorders_nothing() {
    let mut relay = Relay::start(ROOMY, |send, _| match send {
        send if send % 3 == 0 => Step::Full,
        _ => Step::Slow(Duration::from_millis(2)),
    });
    for n in 0..50 {
        relay.submit(&format!("k{}", n % 5)).await;
    }
    relay.settled(50).await;
    assert_eq!(relay.metrics.failed_attempts.get(), 0);
    assert!(relay.topic().values().all(|numbers| numbers.is_sorted()));
    assert_eq!(relay.control.appended().len(), 50);
}

#[tokio::test(start_paused = true)]
async fn after_a_fatal_error_a_new_producer_gets_what_is_unacknowledged() {
    let mut relay = Relay::start(ROOMY, |send, _| match send {
        0..=3 => Step::Hold,
        4 => Step::Reject(Code::Fatal),
        _ => Step::Deliver,
    });
    for n in 0..5 {
        relay.submit(&format!("k{n}")).await;
    }
    relay.submit("k0").await;
    let mut rows = relay.settled(6).await;
    rows.sort_unstable();
    assert_eq!(rows, [0, 1, 2, 3, 4, 5]);
    assert_eq!(relay.control.opened(), 2);
    let order: Vec<Bytes> = relay
        .control
        .appended()
        .into_iter()
        .map(|r| r.key)
        .collect();
    assert_eq!(order, ["k0", "k1", "k2", "k3", "k4", "k0"]);
    assert_eq!(relay.topic()["k0"], [0, 5]);
}

#[tokio::test(start_paused = true)]
async fn permits_stop_the_reader_and_come_back_with_the_acknowledgement() {
    let mut relay = Relay::start((2, 1 << 20), |_, _| Step::Hold);
    relay.submit("a").await;
    relay.submit("b").await;
    let handle = relay.handle.clone();
    let third = relay.delivery("c", b"2");
    let mut third = Box::pin(handle.submit(third));
    assert!(
        (&mut third).now_or_never().is_none(),
        "two events are all there may be"
    );
    relay.control.sent(2).await;
    relay.control.release();
    third.await.expect("room again");
}

#[tokio::test(start_paused = true)]
async fn events_larger_than_the_whole_budget_pass_one_by_one() {
    let mut relay = Relay::start((10, 64), |_, _| Step::Slow(Duration::from_millis(1)));
    for number in ["0", "1", "2"] {
        let mut payload = vec![b'0'; 1000];
        payload.extend_from_slice(number.as_bytes());
        let delivery = relay.delivery("k", &payload);
        relay
            .handle
            .submit(delivery)
            .await
            .expect("the pipeline runs");
    }
    assert_eq!(relay.settled(3).await, [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_drain_gives_up_at_its_deadline_and_says_what_is_left() {
    let start = Instant::now();
    let mut relay = Relay::start(ROOMY, |send, _| match send {
        0 => Step::Deliver,
        _ => Step::Reject(Code::BrokerTransportFailure),
    });
    for key in ["a", "b", "b", "c"] {
        relay.submit(key).await;
    }
    assert_eq!(relay.settled(1).await, [0]);
    let mut settled = std::mem::replace(&mut relay.settled, mpsc::unbounded_channel().1);
    assert_eq!(
        relay.stop(Phase::Draining).await,
        Summary {
            published: 1,
            left: 3
        }
    );
    assert_eq!(start.elapsed(), testing::config().shutdown.drain_timeout);
    assert!(
        settled.recv().now_or_never().flatten().is_none(),
        "what is left stays unsettled"
    );
}

#[tokio::test(start_paused = true)]
async fn a_drain_goes_on_until_the_last_retry_has_succeeded() {
    let mut relay = Relay::start(ROOMY, |send, _| match send {
        0..6 => Step::Reject(ODD),
        _ => Step::Deliver,
    });
    relay.submit("a").await;
    relay.submit("a").await;
    assert_eq!(
        relay.stop(Phase::Draining).await,
        Summary {
            published: 2,
            left: 0
        }
    );
}

#[tokio::test(start_paused = true)]
async fn finishing_ends_at_once_and_wakes_who_waits_for_room() {
    let mut relay = Relay::start((1, 1 << 20), |_, _| Step::Hold);
    relay.submit("a").await;
    let handle = relay.handle.clone();
    let waiting = relay.delivery("b", b"1");
    let mut submits = JoinSet::new();
    submits.spawn(async move { handle.submit(waiting).await });
    relay.control.sent(1).await;
    assert_eq!(
        relay.stop(Phase::Finishing).await,
        Summary {
            published: 0,
            left: 1
        }
    );
    assert_eq!(submits.join_all().await, [Err(Closed)]);
}

#[tokio::test(start_paused = true)]
async fn it_ends_by_itself_when_nobody_can_submit_any_more() {
    let mut relay = Relay::start(ROOMY, |_, _| Step::Slow(Duration::from_millis(5)));
    relay.submit("a").await;
    let Relay {
        handle, run, phase, ..
    } = relay;
    drop(handle);
    assert_eq!(
        run.join_all().await,
        [Summary {
            published: 1,
            left: 0
        }]
    );
    drop(phase);
}
