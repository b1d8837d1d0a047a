//! The pipeline before a scripted sink. Time is paused: it passes only while every task waits.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use rdkafka::error::RDKafkaErrorCode as Code;
use scylla::value::CqlTimeuuid;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::*;
use crate::ack::Settled;
use crate::event::{Header, Position, RowKey};
use crate::runtime::Phase;
use crate::sink::scripted::{Control, ScriptedSink, Step};

struct Relay {
    handle: Handle,
    control: Control,
    phase: watch::Sender<Phase>,
    settled: mpsc::UnboundedReceiver<Settled>,
    settle: mpsc::UnboundedSender<Settled>,
    metrics: Arc<Metrics>,
    run: JoinSet<Summary>,
    submitted: u16,
}

impl Relay {
    fn start(
        limits: (usize, usize),
        script: impl FnMut(u64, &Record) -> Step + Send + 'static,
    ) -> Self {
        let (sink, control) = ScriptedSink::new(script);
        let mut config = testing::config();
        config.limits.in_flight_events = NonZeroUsize::new(limits.0).expect("not zero");
        config.limits.in_flight_bytes = NonZeroUsize::new(limits.1).expect("not zero");
        let metrics = Arc::new(Metrics::default());
        let (handle, pipeline) =
            new(&config, Box::new(sink), Arc::clone(&metrics)).expect("the sink opens");
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
            ack: Ack::new(Settled { group: 0, row }, self.settle.clone()),
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
        (b"bad", 0..9) => Step::Reject(Code::MessageTimedOut),
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
    assert_eq!(start.elapsed().as_millis(), 2700);
    assert_eq!(relay.topic()["bad"], [0, 2, 4]);
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
        0..6 => Step::Reject(Code::NotEnoughReplicas),
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

mod intake {
    use std::collections::BTreeSet;

    use scylla::frame::response::result::{ColumnType, NativeType};
    use scylla::value::CqlValue;
    use scylla_cdc::consumer::OperationType::{self, RowDelete, RowInsert, RowUpdate};

    use super::*;
    use crate::config::{
        Columns, Outbox, StandardHeaders, TableName, TopicPart, TopicTemplate, ValueFormat,
    };
    use crate::decode::Decoder;
    use crate::event::{Change, ChangeColumns};
    use crate::route::Router;

    const NAMES: [&str; 4] = ["id", "key", "payload", "topic"];

    fn outbox() -> Outbox {
        Outbox {
            table: TableName {
                keyspace: "shop".into(),
                table: "outbox".into(),
            },
            columns: Columns {
                id: "id".into(),
                key: "key".into(),
                payload: "payload".into(),
                aggregate_type: None,
                event_type: None,
                content_type: None,
                created_at: None,
                headers: None,
                traceparent: None,
                optional: BTreeSet::new(),
            },
            topic: TopicTemplate {
                parts: vec![TopicPart::Column("topic".into())],
            },
            headers: Vec::new(),
            key_format: ValueFormat::Natural,
            payload_format: ValueFormat::Natural,
            tombstone_on_empty: false,
            standard_headers: StandardHeaders {
                id: "id".into(),
                event_type: None,
                content_type: None,
                created_at: None,
                traceparent: None,
            },
        }
    }

    fn change(operation: OperationType, values: [&str; 4]) -> Change {
        let value = |text: &str| (!text.is_empty()).then(|| CqlValue::Text(text.to_owned()));
        Change {
            position: Position {
                time: CqlTimeuuid::nil(),
                seq: 0,
            },
            operation,
            columns: Arc::new(ChangeColumns {
                names: NAMES.map(ToOwned::to_owned).to_vec(),
                primary_key: vec![false; 4],
            }),
            values: values.map(value).to_vec(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn events_are_submitted_skips_settled_and_the_rest_held() {
        let mut relay = Relay::start(ROOMY, |_, _| Step::Deliver);
        let text = ColumnType::Native(NativeType::Text);
        let columns = NAMES.map(|name| (name.to_owned(), text.clone()));
        let decoder = Decoder::new(&outbox(), &columns).expect("the mapping suits");
        let mut intake = PublishIntake::new(
            TableId(0),
            "shop.outbox",
            Arc::new(decoder),
            Router::new(&outbox()),
            relay.handle.clone(),
            Arc::clone(&relay.metrics),
        );
        let cases = [
            (RowInsert, ["1", "k", "0", "t"], Taken::Submitted),
            (RowDelete, ["1", "k", "", ""], Taken::Skipped),
            (RowUpdate, ["1", "k", "", "t"], Taken::Skipped),
            (RowInsert, ["1", "", "p", "t"], Taken::Unpublishable),
            (RowInsert, ["1", "k", "p", "no topic"], Taken::Unpublishable),
            (RowUpdate, ["2", "k", "5", "t"], Taken::Submitted),
        ];
        for (operation, values, expected) in cases {
            let ack = relay.delivery("", b"").ack;
            let taken = intake.take(&change(operation, values), ack).await;
            assert_eq!(taken, Ok(expected), "{values:?}");
        }
        let mut settled = relay.settled(4).await;
        settled.sort_unstable();
        assert_eq!(settled, [0, 1, 2, 5]);
        assert_eq!(relay.topic()["k"], [0, 5]);
        let metrics = &relay.metrics;
        let counted = [&metrics.events, &metrics.skipped, &metrics.undecodable]
            .map(crate::telemetry::metrics::Value::get);
        assert_eq!(counted, [2, 2, 2]);
        let skips = [
            &metrics.skipped_updates,
            &metrics.skipped_deletes,
            &metrics.skipped_images,
        ];
        assert_eq!(skips.map(crate::telemetry::metrics::Value::get), [1, 1, 0]);
    }
}
