//! The pipeline and this sink against librdkafka's mock cluster, which runs in the process.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, OwnedMessage};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::topic_partition_list::Offset;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use scylla::value::CqlTimeuuid;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::*;
use crate::ack::{Ack, Settled};
use crate::config::Config;
use crate::event::{Header as EventHeader, Position, RowKey, TableId};
use crate::pipeline::{self, Delivery, Handle, Summary, testing};
use crate::runtime::Phase;
use crate::telemetry::metrics::Metrics;

pub(super) const TOPIC: &str = "outbox.event.order";
const PARTITIONS: i32 = 7;
/// Far more than any of this takes; it only turns a hang into a failure.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);

pub(super) type Broker = MockCluster<'static, DefaultProducerContext>;

pub(super) fn broker() -> Broker {
    let broker = MockCluster::new(1).expect("a mock cluster");
    broker.create_topic(TOPIC, PARTITIONS, 1).expect("a topic");
    broker
}

pub(super) fn config(broker: &Broker) -> Config {
    let mut config = testing::config();
    config.kafka.brokers = vec![broker.bootstrap_servers()];
    config.retry.attempt_timeout = Duration::from_secs(2);
    config.retry.initial_backoff = Duration::from_millis(10);
    config.retry.max_backoff = Duration::from_millis(50);
    config.breaker.open_for = Duration::from_millis(100);
    config
}

struct Relay {
    handle: Handle,
    phase: watch::Sender<Phase>,
    run: JoinSet<Summary>,
    metrics: Arc<Metrics>,
    settle: mpsc::UnboundedSender<Settled>,
    settled: mpsc::UnboundedReceiver<Settled>,
}

impl Relay {
    fn start(config: &Config) -> Self {
        let sink = KafkaSink::new(config).expect("the properties are right");
        let metrics = Arc::new(Metrics::default());
        let (handle, pipeline) =
            pipeline::new(config, Box::new(sink), Arc::clone(&metrics)).expect("a producer");
        let (phase, phases) = watch::channel(Phase::Running);
        let mut run = JoinSet::new();
        run.spawn(pipeline.run(phases));
        let (settle, settled) = mpsc::unbounded_channel();
        Self {
            handle,
            phase,
            run,
            metrics,
            settle,
            settled,
        }
    }

    async fn submit(&self, records: &[Record]) {
        for record in records {
            let position = Position {
                time: CqlTimeuuid::nil(),
                seq: 0,
            };
            let row = Settled {
                group: 0,
                row: RowKey {
                    stream: 0,
                    position,
                },
            };
            let ack = Ack::new(row, self.settle.clone());
            let delivery = Delivery {
                table: TableId(0),
                record: record.clone(),
                label: crate::dead_letters::Label::default(),
                ack,
                read_at: Instant::now(),
            };
            self.handle
                .submit(delivery)
                .await
                .expect("the pipeline runs");
        }
    }

    async fn drain(self) -> Summary {
        self.phase.send_replace(Phase::Draining);
        let mut ended = timeout(PATIENCE, self.run.join_all())
            .await
            .expect("the drain ends");
        ended.pop().expect("one pipeline")
    }
}

/// `count` records over `keys` keys, each numbered in its payload.
pub(super) fn records(count: usize, keys: usize) -> Vec<Record> {
    let record = |n: usize| Record {
        topic: Arc::from(TOPIC),
        key: Bytes::from(format!("order-{}", n % keys)),
        payload: (n % 10 != 9)
            .then(|| Bytes::from([&n.to_be_bytes()[..], &[0, 255, n as u8]].concat())),
        headers: vec![
            EventHeader {
                name: Arc::from("id"),
                value: Some(Bytes::from(n.to_string())),
            },
            EventHeader {
                name: Arc::from("empty"),
                value: Some(Bytes::new()),
            },
            EventHeader {
                name: Arc::from("null"),
                value: None,
            },
        ],
        timestamp_millis: 1_700_000_000_000 + n as i64,
    };
    (0..count).map(record).collect()
}

/// Everything in the topic, partition by partition.
pub(super) fn topic(broker: &Broker) -> Vec<OwnedMessage> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", broker.bootstrap_servers())
        .set("group.id", "test")
        .set("enable.partition.eof", "false")
        .create()
        .expect("a consumer");
    let mut assignment = TopicPartitionList::new();
    let mut total = 0;
    for partition in 0..PARTITIONS {
        assignment
            .add_partition_offset(TOPIC, partition, Offset::Beginning)
            .expect("a partition");
        let (low, high) = consumer
            .fetch_watermarks(TOPIC, partition, PATIENCE)
            .expect("watermarks");
        total += high - low;
    }
    consumer.assign(&assignment).expect("assign");
    let mut messages = Vec::new();
    while messages.len() < total as usize {
        let message = consumer
            .poll(PATIENCE)
            .expect("there is more")
            .expect("no error");
        messages.push(message.detach());
    }
    messages
}

fn as_record(message: &OwnedMessage) -> Record {
    let bytes = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
    let headers = message.headers().map(|headers| {
        let header = |header: Header<'_, &[u8]>| EventHeader {
            name: Arc::from(header.key),
            value: header.value.map(bytes),
        };
        headers.iter().map(header).collect()
    });
    Record {
        topic: Arc::from(message.topic()),
        key: bytes(message.key().expect("a key")),
        payload: message.payload().map(bytes),
        headers: headers.unwrap_or_default(),
        timestamp_millis: message.timestamp().to_millis().expect("a timestamp"),
    }
}

/// The hash by which Java clients choose partitions: murmur2 with their seed.
fn murmur2(key: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ key.len() as u32;
    let mut chunks = key.chunks_exact(4);
    for chunk in &mut chunks {
        let mut word = u32::from_le_bytes(chunk.try_into().expect("four bytes")).wrapping_mul(M);
        word = (word ^ (word >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ word;
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        let word = rest
            .iter()
            .rev()
            .fold(0, |word, byte| (word << 8) | u32::from(*byte));
        hash = (hash ^ word).wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// Per key, the records in the order of their partition, without repetitions.
fn by_key(records: impl Iterator<Item = Record>) -> BTreeMap<Bytes, Vec<Record>> {
    let mut keys: BTreeMap<Bytes, Vec<Record>> = BTreeMap::new();
    for record in records {
        let list = keys.entry(record.key.clone()).or_default();
        if !list.contains(&record) {
            list.push(record);
        }
    }
    keys
}

fn assert_complete_and_ordered(broker: &Broker, sent: &[Record]) {
    let messages = topic(broker);
    let found = by_key(messages.iter().map(as_record));
    assert_eq!(found, by_key(sent.iter().cloned()));
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn the_hash_is_that_of_java_clients() {
    // Known answers of the Java client's own tests.
    let cases = [
        ("21", -973_932_308_i32),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
        ("a-little-bit-longer-string", -1_486_304_829),
        (
            "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
            -58_897_971,
        ),
        ("abc", 479_470_107),
    ];
    for (key, expected) in cases {
        assert_eq!(murmur2(key.as_bytes()) as i32, expected, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_arrive_byte_for_byte_in_order_where_java_would_put_them() {
    let broker = broker();
    let relay = Relay::start(&config(&broker));
    let sent = records(5000, 300);
    relay.submit(&sent).await;
    let metrics = Arc::clone(&relay.metrics);
    let mut settled = Vec::new();
    let mut relay = relay;
    while settled.len() < sent.len() {
        settled.push(relay.settled.recv().await.expect("the test holds a sender"));
    }
    assert_eq!(
        relay.drain().await,
        Summary {
            published: 5000,
            left: 0
        }
    );
    assert_eq!(metrics.failed_attempts.get(), 0);
    let messages = topic(&broker);
    assert_eq!(messages.len(), sent.len(), "no duplicates");
    for message in &messages {
        let hash = murmur2(message.key().expect("a key")) & 0x7fff_ffff;
        assert_eq!(message.partition(), (hash % PARTITIONS as u32) as i32);
    }
    assert_complete_and_ordered(&broker, &sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_requests_are_repeated_until_all_is_there_in_order() {
    use RDKafkaRespErr as E;
    let broker = broker();
    let relay = Relay::start(&config(&broker));
    let sent = records(2000, 50);
    broker.request_errors(
        RDKafkaApiKey::Produce,
        &[
            E::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
            E::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
            E::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
            E::RD_KAFKA_RESP_ERR__TRANSPORT,
            E::RD_KAFKA_RESP_ERR_INVALID_RECORD,
            E::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
            E::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE,
        ],
    );
    relay.submit(&sent).await;
    let metrics = Arc::clone(&relay.metrics);
    assert_eq!(
        relay.drain().await,
        Summary {
            published: 2000,
            left: 0
        }
    );
    assert!(
        metrics.failed_attempts.get() > 0,
        "some errors reach the application"
    );
    assert_complete_and_ordered(&broker, &sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_may_go_and_come_back() {
    let broker = broker();
    let mut config = config(&broker);
    config.retry.attempt_timeout = Duration::from_millis(300);
    config.limits.in_flight_events = NonZeroUsize::new(2000).expect("not zero");
    config
        .kafka
        .properties
        .insert("reconnect.backoff.max.ms".into(), "100".into());
    let relay = Relay::start(&config);
    let sent = records(1500, 40);
    relay.submit(&sent[..500]).await;
    broker.broker_down(1).expect("down");
    relay.submit(&sent[500..]).await;
    let metrics = Arc::clone(&relay.metrics);
    until("a failed attempt", || metrics.failed_attempts.get() > 0).await;
    broker.broker_up(1).expect("up");
    assert_eq!(
        relay.drain().await,
        Summary {
            published: 1500,
            left: 0
        }
    );
    assert_complete_and_ordered(&broker, &sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_acknowledgements_cost_duplicates_and_no_order() {
    let broker = broker();
    let mut config = config(&broker);
    config.retry.attempt_timeout = Duration::from_secs(1);
    config
        .kafka
        .properties
        .insert("socket.timeout.ms".into(), "1500".into());
    let relay = Relay::start(&config);
    let sent = records(400, 40);
    relay.submit(&sent[..100]).await;
    let metrics = Arc::clone(&relay.metrics);
    until("the first hundred", || metrics.published.get() == 100).await;
    broker
        .broker_round_trip_time(1, Duration::from_secs(4))
        .expect("slow");
    relay.submit(&sent[100..]).await;
    until("a failed attempt", || metrics.failed_attempts.get() > 0).await;
    broker
        .broker_round_trip_time(1, Duration::ZERO)
        .expect("fast");
    assert_eq!(
        relay.drain().await,
        Summary {
            published: 400,
            left: 0
        }
    );
    assert_complete_and_ordered(&broker, &sent);
    let copies = topic(&broker).len() as u64;
    let failed = metrics.failed_attempts.get();
    assert!(copies <= 400 + failed, "{copies} copies, {failed} failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_that_dies_is_replaced() {
    let broker = broker();
    let config = config(&broker);
    // The broker refuses the producer's id: librdkafka makes that fatal for the instance.
    broker.request_errors(
        RDKafkaApiKey::InitProducerId,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED],
    );
    let relay = Relay::start(&config);
    let sent = records(300, 20);
    relay.submit(&sent).await;
    let metrics = Arc::clone(&relay.metrics);
    assert_eq!(
        relay.drain().await,
        Summary {
            published: 300,
            left: 0
        }
    );
    assert!(metrics.failed_attempts.get() > 0);
    assert_complete_and_ordered(&broker, &sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_without_a_broker_ends_at_its_deadline() {
    let broker = broker();
    let mut config = config(&broker);
    config.shutdown.drain_timeout = Duration::from_millis(200);
    broker.broker_down(1).expect("down");
    let relay = Relay::start(&config);
    relay.submit(&records(10, 10)).await;
    assert_eq!(
        relay.drain().await,
        Summary {
            published: 0,
            left: 10
        }
    );
}

#[test]
fn what_the_guarantees_rest_on_cannot_be_configured_away() {
    let mut config = testing::config();
    config.kafka.brokers = vec!["127.0.0.1:9092".into()];
    for (name, value) in [
        ("acks", "0"),
        ("enable.idempotence", "false"),
        ("linger.ms", "50"),
    ] {
        config.kafka.properties.insert(name.into(), value.into());
    }
    let properties = producer_properties(&config);
    let value = |name| properties.get(name);
    assert_eq!(value("acks"), Some("all"));
    assert_eq!(value("enable.idempotence"), Some("true"));
    assert_eq!(value("message.timeout.ms"), Some("5000"));
    assert_eq!(value("linger.ms"), Some("50"), "the rest is the user's");
    assert_eq!(value("topic.metadata.propagation.max.ms"), Some("2000"));
    assert_eq!(value("reconnect.backoff.max.ms"), Some("500"));
    for name in GUARDED_PROPERTIES {
        config.kafka.properties.insert((*name).into(), "1".into());
    }
    assert_eq!(
        producer_properties(&config).config_map().len(),
        properties.config_map().len()
    );
}

#[test]
fn either_property_of_reconnecting_replaces_both_of_ours() {
    // librdkafka refuses a maximum below the minimum.
    for (name, value) in [
        ("reconnect.backoff.ms", "5000"),
        ("reconnect.backoff.max.ms", "120"),
    ] {
        let mut config = testing::config();
        config.kafka.properties.insert(name.into(), value.into());
        let properties = producer_properties(&config);
        assert_eq!(properties.get(name), Some(value));
        let mut sink = KafkaSink::new(&config).expect("it is right");
        sink.open(Reporter::channel().0).expect("it suits the rest");
    }
}

#[test]
fn an_unknown_property_is_an_error_before_the_start() {
    let mut config = testing::config();
    config.kafka.properties.insert("linger".into(), "5".into());
    let error = KafkaSink::new(&config).expect_err("no such property");
    let source = std::error::Error::source(&error)
        .expect("librdkafka says which")
        .to_string();
    assert!(source.contains("linger"), "{source}");
}
