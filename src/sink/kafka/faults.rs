//! Faults of a cluster, one by one, against the sink alone: what each attempt is reported as, and
//! how soon. Times are only compared to tell "at once" from "sat out the timeout".

use std::time::Duration;

use bytes::Bytes;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr as E};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::sasl::refusing_broker;
use super::tests::{Broker, PATIENCE, TOPIC, broker, config, records, topic};
use super::*;
use crate::config::Config;
use crate::event::Record;
use crate::sink::{Class, Report};

/// An attempt may take this long, and an outcome "at once" less than half of it.
const ATTEMPT: Duration = Duration::from_secs(20);
const AT_ONCE: Duration = Duration::from_secs(10);

struct Sut {
    sink: KafkaSink,
    reports: mpsc::UnboundedReceiver<Report>,
    sent: u64,
}

type Outcome = Result<Appended, DeliveryError>;

impl Sut {
    fn open(config: &Config) -> Self {
        let mut sink = KafkaSink::new(config).expect("the properties are right");
        let (reporter, reports) = Reporter::channel();
        sink.open(reporter).expect("a producer");
        Self {
            sink,
            reports,
            sent: 0,
        }
    }

    fn send(&mut self, record: &Record) -> Result<(), DeliveryError> {
        match self.sink.send(self.sent, record) {
            Ok(()) => {
                self.sent += 1;
                Ok(())
            }
            Err(SendError::Failed(error)) => Err(error),
            Err(SendError::QueueFull) => panic!("the queue is large enough"),
        }
    }

    async fn report(&mut self) -> Report {
        timeout(PATIENCE, self.reports.recv())
            .await
            .expect("a report in time")
            .expect("the sink lives")
    }

    /// One attempt.
    async fn attempt(&mut self, record: &Record) -> Outcome {
        self.send(record)?;
        let report = self.report().await;
        assert_eq!(report.token, self.sent - 1);
        report.result
    }

    /// The outcomes of `records`, all sent before the first is looked at.
    async fn attempt_all(&mut self, records: &[Record]) -> Vec<Outcome> {
        let first = self.sent;
        let mut outcomes: Vec<Option<Outcome>> = Vec::new();
        let mut waiting = 0;
        for record in records {
            let refused = self.send(record).err().map(Err);
            waiting += usize::from(refused.is_none());
            outcomes.push(refused);
        }
        assert_eq!(self.sent - first, waiting as u64);
        let accepted: Vec<usize> = (0..records.len())
            .filter(|n| outcomes[*n].is_none())
            .collect();
        for _ in 0..waiting {
            let report = self.report().await;
            let index = accepted[(report.token - first) as usize];
            assert!(outcomes[index].is_none(), "one report per token");
            outcomes[index] = Some(report.result);
        }
        outcomes.into_iter().flatten().collect()
    }

    /// Attempts until it is delivered; what fails before fails of `passing`. Returns how often it
    /// failed.
    async fn delivered_at_last(&mut self, record: &Record, passing: Kind) -> usize {
        let deadline = Instant::now() + PATIENCE;
        let mut failed = 0;
        while let Err(error) = self.attempt(record).await {
            failed += 1;
            assert_eq!(error.kind, passing, "{error}");
            assert!(Instant::now() < deadline, "{error} lasts");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        failed
    }

    /// Waits until attempts are accepted again, then makes one: the first must succeed.
    async fn first_accepted(&mut self, record: &Record) -> Outcome {
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = self.send(record) {
            assert_eq!(error.kind, Kind::Unreachable, "{error}");
            assert!(Instant::now() < deadline, "the broker is not found again");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.report().await.result
    }
}

fn patient(broker: &Broker) -> Config {
    let mut config = config(broker);
    config.retry.attempt_timeout = ATTEMPT;
    config
}

fn kind(outcome: &Outcome) -> Option<Kind> {
    outcome.as_ref().err().map(|error| error.kind)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_broker_attempts_fail_at_once_and_the_first_after_it_is_delivered() {
    let broker = broker();
    let mut sut = Sut::open(&patient(&broker));
    let sent = records(50, 50);
    assert_eq!(kind(&sut.attempt(&sent[0]).await), None);
    for round in 0..3 {
        broker.broker_down(1).expect("down");
        let start = Instant::now();
        for outcome in sut.attempt_all(&sent).await {
            let error = outcome.expect_err("there is no broker");
            assert_eq!(error.kind, Kind::Unreachable, "{error}");
        }
        assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
        let error = sut.send(&sent[1]).expect_err("known to be down");
        assert_eq!(error.kind, Kind::Unreachable, "{error}");
        assert!(!error.possibly_persisted);
        let detail = error.detail.expect("a reason");
        assert!(detail.contains("127.0.0.1"), "{detail}");
        broker.broker_up(1).expect("up");
        let start = Instant::now();
        let outcome = sut.first_accepted(&sent[2]).await;
        assert_eq!(kind(&outcome), None, "{outcome:?} in round {round}");
        assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    }
    // What the purges took out of the sequence must not disturb what follows.
    for outcome in sut.attempt_all(&sent).await {
        assert_eq!(kind(&outcome), None, "{outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_never_was_there_is_found_when_it_comes() {
    let broker = broker();
    broker.broker_down(1).expect("down");
    let mut sut = Sut::open(&patient(&broker));
    let sent = records(20, 20);
    let start = Instant::now();
    for outcome in sut.attempt_all(&sent).await {
        assert_eq!(kind(&outcome), Some(Kind::Unreachable), "{outcome:?}");
    }
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    broker.broker_up(1).expect("up");
    let start = Instant::now();
    assert_eq!(kind(&sut.first_accepted(&sent[0]).await), None);
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_broker_of_three_is_no_outage() {
    let broker = Broker::new(3).expect("a mock cluster");
    broker.create_topic(TOPIC, 3, 3).expect("a topic");
    for partition in 0..3 {
        let leader = Some(partition + 1);
        broker
            .partition_leader(TOPIC, partition, leader)
            .expect("a leader");
    }
    let mut config = patient(&broker);
    config.retry.attempt_timeout = Duration::from_secs(3);
    let mut sut = Sut::open(&config);
    let sent = records(60, 60);
    for outcome in sut.attempt_all(&sent).await {
        assert_eq!(kind(&outcome), None, "{outcome:?}");
    }
    broker.broker_down(2).expect("down");
    let outcomes = sut.attempt_all(&sent).await;
    let failed: Vec<Kind> = outcomes.iter().filter_map(kind).collect();
    assert!(!failed.is_empty() && failed.len() < sent.len());
    assert!(
        failed.iter().all(|kind| *kind == Kind::TimedOut),
        "{failed:?}"
    );
    broker
        .partition_leader(TOPIC, 1, Some(3))
        .expect("a leader");
    for outcome in sut.attempt_all(&sent).await {
        assert_eq!(kind(&outcome), None, "{outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_the_broker_is_reported_as_what_it_means() {
    // What librdkafka repeats by itself never reaches us, unless it outlasts the attempt.
    let cases = [
        (E::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS, None),
        (E::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND, None),
        (E::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, None),
        (E::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE, None),
        (E::RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR, None),
        (E::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT, None),
        (E::RD_KAFKA_RESP_ERR_INVALID_MSG, None),
        (E::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, None),
        (E::RD_KAFKA_RESP_ERR__TRANSPORT, None),
        (
            E::RD_KAFKA_RESP_ERR_THROTTLING_QUOTA_EXCEEDED,
            Some(Kind::Throttled),
        ),
        (
            E::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
            Some(Kind::Authorization),
        ),
        (
            E::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE,
            Some(Kind::BatchRefused),
        ),
        (
            E::RD_KAFKA_RESP_ERR_INVALID_RECORD,
            Some(Kind::BatchRefused),
        ),
    ];
    let broker = broker();
    let mut sut = Sut::open(&patient(&broker));
    let sent = records(1, 1);
    for (error, expected) in cases {
        broker.request_errors(RDKafkaApiKey::Produce, &[error]);
        let outcome = sut.attempt(&sent[0]).await;
        assert_eq!(kind(&outcome), expected, "{error:?}: {outcome:?}");
        // It passes: none of them spoils the producer.
        let expected = expected.unwrap_or(Kind::Other);
        sut.delivered_at_last(&sent[0], expected).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lasts_longer_than_the_attempt_has_timed_out() {
    let broker = broker();
    let mut config = config(&broker);
    config.retry.attempt_timeout = Duration::from_secs(1);
    let mut sut = Sut::open(&config);
    let sent = records(1, 1);
    // The first attempt also waits for connections, a producer id and metadata.
    sut.delivered_at_last(&sent[0], Kind::TimedOut).await;
    for error in [
        E::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        E::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
    ] {
        broker.request_errors(RDKafkaApiKey::Produce, &[error; 1000]);
        let outcome = sut.attempt(&sent[0]).await;
        assert_eq!(kind(&outcome), Some(Kind::TimedOut), "{error:?}");
        broker.clear_request_errors(RDKafkaApiKey::Produce);
        sut.delivered_at_last(&sent[0], Kind::TimedOut).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_refused_alone_is_the_culprit_and_its_companions_are_not() {
    for (error, expected) in [
        (E::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, Kind::TooLarge),
        (E::RD_KAFKA_RESP_ERR_INVALID_RECORD, Kind::InvalidRecord),
    ] {
        let broker = Broker::new(1).expect("a mock cluster");
        broker.create_topic(TOPIC, 1, 1).expect("a topic");
        let mut config = patient(&broker);
        config
            .kafka
            .properties
            .insert("linger.ms".into(), "200".into());
        let mut sut = Sut::open(&config);
        let sent = records(10, 10);
        assert_eq!(kind(&sut.attempt(&sent[9]).await), None);
        broker.request_errors(RDKafkaApiKey::Produce, &[error]);
        for outcome in sut.attempt_all(&sent).await {
            let refused = outcome.expect_err("the batch is refused");
            assert_eq!(refused.kind, Kind::BatchRefused, "{refused}");
            assert_eq!(refused.class(), Class::Transient);
            assert!(!refused.kind.uses_up_attempts());
        }
        broker.request_errors(RDKafkaApiKey::Produce, &[error]);
        let outcomes = sut.attempt_all(&sent).await;
        let failed: Vec<Kind> = outcomes.iter().filter_map(kind).collect();
        assert_eq!(failed, [expected], "each travels alone now");
        for outcome in sut.attempt_all(&sent).await {
            assert_eq!(kind(&outcome), None, "{outcome:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_beyond_our_own_limit_is_too_large_at_once() {
    let broker = broker();
    let mut config = patient(&broker);
    let limit = ("message.max.bytes".to_owned(), "1000000".to_owned());
    config.kafka.properties.extend([limit]);
    let mut sut = Sut::open(&config);
    let mut record = records(1, 1).remove(0);
    record.payload = Some(Bytes::from(vec![7; 2_000_000]));
    let error = sut.send(&record).expect_err("above message.max.bytes");
    assert_eq!(
        (error.kind, error.class()),
        (Kind::TooLarge, Class::Permanent)
    );
    assert!(!error.possibly_persisted);
    record.payload = None;
    assert_eq!(kind(&sut.attempt(&record).await), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_acknowledgement_costs_a_duplicate_at_most() {
    let broker = broker();
    let mut config = config(&broker);
    config.retry.attempt_timeout = Duration::from_secs(1);
    config
        .kafka
        .properties
        .insert("socket.timeout.ms".into(), "3000".into());
    let mut sut = Sut::open(&config);
    let sent = records(1, 1);
    // The first attempt also waits for connections, a producer id and metadata.
    let mut failed = sut.delivered_at_last(&sent[0], Kind::TimedOut).await;
    broker
        .broker_round_trip_time(1, Duration::from_secs(8))
        .expect("slow");
    let error = sut.attempt(&sent[0]).await.expect_err("no answer in time");
    assert_eq!(error.kind, Kind::TimedOut, "{error}");
    assert!(error.possibly_persisted);
    broker
        .broker_round_trip_time(1, Duration::ZERO)
        .expect("fast");
    // The answers that are on their way hold up those behind them.
    failed += 1;
    while let Err(error) = sut.attempt(&sent[0]).await {
        assert!(error.kind.is_outage(), "{error}");
        failed += 1;
        assert!(failed < 30, "{error}");
    }
    let copies = topic(&broker).len();
    assert!(
        (2..=2 + failed).contains(&copies),
        "{copies} copies of 2 records, {failed} failed attempts"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_topic_is_named_as_such_within_the_attempt_and_found_when_it_is_there() {
    let broker = broker();
    broker
        .topic_error("missing", E::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)
        .expect("a topic");
    let mut config = config(&broker);
    config.retry.attempt_timeout = Duration::from_secs(5);
    let mut sut = Sut::open(&config);
    let mut record = records(1, 1).remove(0);
    record.topic = "missing".into();
    let error = sut.attempt(&record).await.expect_err("there is no topic");
    assert_eq!(error.kind, Kind::UnknownTopic, "{error}");
    assert!(!error.possibly_persisted);
    broker
        .topic_error("missing", E::RD_KAFKA_RESP_ERR_NO_ERROR)
        .expect("a topic");
    sut.delivered_at_last(&record, Kind::UnknownTopic).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_producer_fails_everything_as_fatal() {
    let broker = broker();
    broker.request_errors(
        RDKafkaApiKey::InitProducerId,
        &[E::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED],
    );
    let mut sut = Sut::open(&patient(&broker));
    let sent = records(20, 20);
    let start = Instant::now();
    for outcome in sut.attempt_all(&sent).await {
        let error = outcome.expect_err("the producer is lost");
        assert_eq!(error.class(), Class::Fatal, "{error}");
    }
    let error = sut.send(&sent[0]).expect_err("it stays lost");
    assert_eq!(error.class(), Class::Fatal, "{error}");
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    let (reporter, reports) = Reporter::channel();
    sut.sink.open(reporter).expect("a new producer");
    sut.reports = reports;
    for outcome in sut.attempt_all(&sent).await {
        assert_eq!(kind(&outcome), None, "{outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_login_is_named_as_such_at_once() {
    let broker = refusing_broker("your password has expired");
    let mut config = crate::pipeline::testing::config();
    config.kafka.brokers = vec![broker.address()];
    config.retry.attempt_timeout = ATTEMPT;
    for (name, value) in [
        ("security.protocol", "SASL_PLAINTEXT"),
        ("sasl.mechanism", "PLAIN"),
        ("sasl.username", "relay"),
        ("sasl.password", "secret-word"),
    ] {
        config.kafka.properties.insert(name.into(), value.into());
    }
    let mut sut = Sut::open(&config);
    let sent = records(20, 20);
    let start = Instant::now();
    for outcome in sut.attempt_all(&sent).await {
        let error = outcome.expect_err("nobody lets us in");
        assert_eq!(error.kind, Kind::Authentication, "{error}");
        let text = error.to_string();
        assert!(text.contains("your password has expired"), "{text}");
        assert!(!text.contains("secret-word"), "{text}");
    }
    let error = sut.send(&sent[0]).expect_err("known to be refused");
    assert_eq!(error.kind, Kind::Authentication, "{error}");
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
}
