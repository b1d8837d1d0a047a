//! The emulated database, a relay's pipeline before a scripted sink, and letters to put there.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rdkafka::error::RDKafkaErrorCode as Code;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla_cdc::cdc_types::StreamID;
use scylla_emulator::Emulator;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::super::extent::Asked;
use super::super::filter::Filter;
use super::super::parking::Quiet;
use super::super::recode::Recoder;
use super::super::replay::{Action, Order, Progress, Replayer};
use super::super::store::BUCKETS;
use super::super::*;
use crate::ack::{Ack, Settled};
use crate::event::{Position, Record, RowKey};
use crate::pipeline::testing::{self, Seed};
use crate::pipeline::{self, DeadLetterBox, Delivery, Handle, Summary};
use crate::runtime::Phase;
use crate::schema::own_tables;
use crate::sink::scripted::{Control, ScriptedSink, Step};
use crate::source::bounds::first_timeuuid;
use crate::telemetry::metrics::Metrics;

pub(super) const TABLE: &str = "shop.outbox";
pub(super) const KEYSPACE: &str = "outbox_relay";

/// What a step of a test may take on a busy machine.
pub(super) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_mins(2), what)
        .await
        .expect("in time")
}

/// The database, with the relay's own tables.
pub(super) struct Base {
    pub(super) emulator: Emulator,
    pub(super) session: Arc<Session>,
    pub(super) store: Store,
}

impl Base {
    pub(super) async fn start() -> Self {
        let emulator = Emulator::start().await.expect("the emulator starts");
        let create = format!(
            "CREATE KEYSPACE {KEYSPACE} WITH replication = \
             {{'class': 'NetworkTopologyStrategy', 'replication_factor': 1}}"
        );
        emulator.execute(&create).expect("a keyspace");
        for (_, create) in own_tables(KEYSPACE) {
            emulator.execute(&create).expect("a table");
        }
        let builder = SessionBuilder::new().known_node(emulator.address().to_string());
        let session = Arc::new(builder.build().await.expect("a session"));
        let store = Store::new(Arc::clone(&session), KEYSPACE, "test").await;
        Self {
            emulator,
            session,
            store: store.expect("its tables are there"),
        }
    }

    /// Puts a dead letter there, as a pipeline does.
    pub(super) async fn put(&self, letter: DeadLetter) -> DeadLetter {
        let stamp = self.store.stamp(0);
        let letter = DeadLetter { stamp, ..letter };
        self.store.put(&letter).await.expect("it is written");
        letter
    }

    /// Puts dead letters of one key there, one for each of these letters, which are the first ones
    /// of their reasons, a capital for one that does not park its key. Their ids are the key and
    /// their number.
    pub(super) async fn puts(&self, key: &str, reasons: &str) {
        for (number, c) in reasons.chars().enumerate() {
            let reason = match c.to_ascii_lowercase() {
                'e' => Reason::Exhausted,
                'f' => Reason::Permanent,
                _ => Reason::Parked,
            };
            let parks = c.is_ascii_lowercase();
            let letter = letter(key, number as u64, reason);
            self.put(DeadLetter { parks, ..letter }).await;
        }
    }

    /// All dead letters, key by key and in their order.
    pub(super) async fn all(&self) -> Vec<DeadLetter> {
        let mut letters = Vec::new();
        for bucket in 0..BUCKETS {
            let mut walk = self.store.walk(TABLE, bucket).await.expect("it is read");
            while let Some(letter) = walk.next().await.expect("it is read") {
                letters.push(letter);
            }
        }
        letters
    }

    /// The ids of all dead letters, sorted by key.
    pub(super) async fn left(&self) -> Vec<String> {
        let mut letters = self.all().await;
        letters.sort_by(|a, b| (&a.key, &a.place).cmp(&(&b.key, &b.place)));
        letters.into_iter().map(|l| l.label.event_id).collect()
    }

    /// The dead letter with this id.
    pub(super) async fn letter(&self, id: &str) -> DeadLetter {
        let mut letters = self.all().await.into_iter();
        let found = letters.find(|letter| letter.label.event_id == id);
        found.expect("it is there")
    }

    pub(super) async fn load(&self) -> Loaded {
        let loaded = load(&self.store, &[TABLE.to_owned()], 10_000).await;
        loaded.expect("they are read")
    }

    /// Starts a relay's pipeline, as the relay does.
    pub(super) async fn relay(
        &self,
        script: impl FnMut(u64, &Record) -> Step + Send + 'static,
    ) -> Relay {
        let mut config = testing::config();
        config.retry.initial_backoff = Duration::from_millis(1);
        config.retry.max_backoff = Duration::from_millis(2);
        config.breaker.open_for = Duration::from_millis(5);
        config.dead_letters.max_parked_keys = NonZeroUsize::new(10_000).expect("not zero");
        let (sink, control) = ScriptedSink::new(script);
        let metrics = Arc::new(Metrics::default());
        let made = pipeline::new(&config, Box::new(sink), Arc::clone(&metrics));
        let (handle, pipeline) = made.expect("the sink opens");
        let tables = vec![TABLE.to_owned()];
        let loaded = self.load().await;
        let pipeline = pipeline.with_dead_letters(DeadLetterBox {
            keep: Arc::new(self.store.clone()),
            parking: loaded.parking,
            tables: tables.clone(),
        });
        let (phase, phases) = watch::channel(Phase::Running);
        let (settle, settled) = mpsc::unbounded_channel();
        let mut run = JoinSet::new();
        run.spawn(pipeline.run(phases.clone()));
        Relay {
            replayer: Replayer {
                store: self.store.clone(),
                handle: handle.clone(),
                tables,
                concurrency: 16,
                recoder: Arc::new(Recoder::new(Arc::clone(&self.session), Vec::new())),
                phase: phases,
            },
            handle,
            control,
            settle,
            settled,
            metrics,
            _phase: phase,
            run,
        }
    }
}

pub(super) fn stream_id() -> StreamID {
    StreamID::new(vec![7; 16])
}

/// When the first event was written, microseconds since the Unix epoch.
pub(super) const EPOCH: u64 = 1_700_000_000_000_000;

/// Where the n-th event stands in the log.
pub(super) fn position(number: u64) -> Position {
    Position {
        time: first_timeuuid((EPOCH + number) as i64),
        seq: 0,
    }
}

pub(super) fn record(key: &str, id: &str) -> Record {
    Record {
        topic: Arc::from("t"),
        key: Bytes::copy_from_slice(key.as_bytes()),
        payload: Some(Bytes::copy_from_slice(id.as_bytes())),
        headers: Vec::new(),
        timestamp_millis: 1,
    }
}

pub(super) fn letter(key: &str, number: u64, reason: Reason) -> DeadLetter {
    let id = format!("{key}{number}");
    let failure = Failure {
        kind: "other".to_owned(),
        message: "as the test says".to_owned(),
        attempts: 1,
    };
    DeadLetter {
        table: TABLE.to_owned(),
        key: Bytes::copy_from_slice(key.as_bytes()),
        place: Place {
            position: position(number),
            stream: stream_id(),
        },
        label: Label {
            event_id: id.clone(),
            event_type: None,
        },
        reason,
        failure: (reason != Reason::Parked).then_some(failure),
        parks: true,
        record: Some(record(key, &id)),
        row: None,
        first_failed_millis: 1,
        last_failed_millis: 1,
        stamp: 0,
        put_at: 0,
    }
}

/// A pipeline that runs, and what replays through it.
pub(super) struct Relay {
    pub(super) replayer: Replayer,
    pub(super) handle: Handle,
    pub(super) control: Control,
    pub(super) settle: mpsc::UnboundedSender<Settled>,
    pub(super) settled: mpsc::UnboundedReceiver<Settled>,
    pub(super) _phase: watch::Sender<Phase>,
    pub(super) run: JoinSet<Summary>,
    pub(super) metrics: Arc<Metrics>,
}

impl Relay {
    pub(super) async fn carry_out(&self, order: &Order, asked: Asked) -> Progress {
        let (progress, _) = watch::channel(Progress::default());
        let done = soon(self.replayer.carry_out(order, asked, &progress)).await;
        let done = done.expect("it comes to its end");
        assert_eq!(*progress.borrow(), done, "what is told is what is done");
        done
    }

    /// A person's replay.
    pub(super) async fn replay(&self, filter: Filter) -> Progress {
        let order = order(Action::Replay, filter, 0);
        self.carry_out(&order, Asked::ByPerson).await
    }

    /// A replay without a person.
    pub(super) async fn by_itself(&self) -> Progress {
        let order = order(Action::Replay, Filter::default(), 0);
        self.carry_out(&order, Asked::ByItself).await
    }

    pub(super) async fn discard(&self, filter: Filter, asked_at: i64) -> Progress {
        let order = order(Action::Discard, filter, asked_at);
        self.carry_out(&order, Asked::ByPerson).await
    }

    /// Submits an event, as a source does.
    pub(super) async fn submit(&self, key: &str, number: u64) {
        let row = RowKey {
            stream: 0,
            position: position(number),
        };
        let ack = Ack::new(Settled { group: 0, row }, self.settle.clone());
        let id = format!("{key}{number}");
        let delivery = Delivery {
            table: TableId(0),
            record: record(key, &id),
            label: Label {
                event_id: id,
                event_type: None,
            },
            ack: ack.of_streams(Arc::from([stream_id()])),
            read_at: Instant::now(),
        };
        let submitted = self.handle.submit(delivery).await;
        submitted.expect("the pipeline runs");
    }

    pub(super) async fn is_parked(&self, key: &str) -> bool {
        let key = Bytes::copy_from_slice(key.as_bytes());
        let quiet = self.handle.quiet(TableId(0), key).await;
        quiet.expect("the pipeline runs") != Quiet::NotParked
    }

    /// The ids in the topic, in their order.
    pub(super) fn topic(&self) -> Vec<String> {
        let records = self.control.appended().into_iter();
        records.map(|record| text(&record)).collect()
    }

    /// The ids in the topic by key, each where it was first.
    pub(super) fn first_occurrences(&self) -> BTreeMap<Bytes, Vec<String>> {
        first_occurrences(self.control.appended())
    }
}

pub(super) fn first_occurrences(topic: Vec<Record>) -> BTreeMap<Bytes, Vec<String>> {
    let mut seen = BTreeSet::new();
    let mut keys: BTreeMap<Bytes, Vec<String>> = BTreeMap::new();
    for record in topic {
        let id = text(&record);
        if seen.insert(id.clone()) {
            keys.entry(record.key).or_default().push(id);
        }
    }
    keys
}

pub(super) fn text(record: &Record) -> String {
    let payload = record.payload.as_deref().expect("a payload");
    String::from_utf8(payload.to_vec()).expect("text")
}

pub(super) fn order(action: Action, filter: Filter, asked_at: i64) -> Order {
    Order {
        action,
        filter,
        rate: None,
        dry_run: false,
        asked_at,
    }
}

pub(super) fn of_id(id: &str) -> Filter {
    Filter {
        id: Some(id.to_owned()),
        ..Filter::default()
    }
}

pub(super) fn of_key(key: &str) -> Filter {
    Filter {
        key: Some(key.to_owned()),
        ..Filter::default()
    }
}

pub(super) fn delivering() -> impl FnMut(u64, &Record) -> Step + Send + 'static {
    |_, _| Step::Deliver
}

/// A sink that often refuses, answers late or not at all, and seldom refuses when nothing is broken.
pub(super) fn moody(
    mut seed: Seed,
    broken: Arc<AtomicBool>,
) -> impl FnMut(u64, &Record) -> Step + Send + 'static {
    move |_, _| {
        let bad = broken.load(Ordering::Relaxed) || seed.below(40) == 0;
        match seed.below(12) {
            0..=2 if bad => Step::Reject(Code::InvalidRecord),
            3 if bad => Step::Reject(Code::Unknown),
            4 => Step::LoseAnswer(Code::MessageTimedOut),
            5 => Step::Full,
            6 | 7 => Step::Slow(Duration::from_millis(seed.below(4) as u64)),
            _ => Step::Deliver,
        }
    }
}
