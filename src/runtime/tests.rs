//! The relay and its sources against the emulator, where a part fails.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use outbox_writer::DdlOptions;
use rdkafka::mocking::MockCluster;
use scylla_emulator::Emulator;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::health::Part;
use super::supervisor::Name;
use super::{Hooks, Phase, run};
use crate::ack::Ack;
use crate::checkpoint;
use crate::config::{Config, Sources};
use crate::decode::MappingError;
use crate::event::Change;
use crate::pipeline::{Closed, Taken};
use crate::runtime::pauses::Pause;
use crate::schema::own_tables;
use crate::scylla as cluster;
use crate::source::intake::{Intake, OpenIntake};
use crate::source::pace::Pace;
use crate::source::reader::LogReader;
use crate::source::{SourceContext, TableSource};
use crate::telemetry::metrics::Metrics;

const TABLE: &str = "shop.outbox_messages";

/// What a case may take on a busy machine.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_mins(1), what)
        .await
        .expect("in time")
}

/// A database with the relay's tables and one outbox, and a configuration for it.
async fn database(tables: &[&str], set: &[&str]) -> (Emulator, Arc<Config>) {
    let emulator = Emulator::builder().start().await.expect("it starts");
    let replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}";
    let keyspaces = ["outbox_relay", "shop"];
    let mut statements = keyspaces
        .map(|name| format!("CREATE KEYSPACE {name} WITH replication = {replication}"))
        .to_vec();
    let own = own_tables("outbox_relay");
    statements.extend(own.into_iter().map(|(_, cql)| cql));
    statements.push(outbox_writer::ddl(TABLE, &DdlOptions::default()).expect("a table"));
    for statement in statements {
        emulator.execute(&statement).expect("a statement");
    }
    let tables: Vec<String> = tables
        .iter()
        .map(|t| format!("{{\"table\":\"{t}\"}}"))
        .collect();
    let mut all: Vec<String> = set.iter().map(|&set| set.to_owned()).collect();
    if !all.iter().any(|set| set.starts_with("kafka.brokers=")) {
        // Nothing listens there: the case publishes nothing.
        all.push("kafka.brokers=127.0.0.1:1".to_owned());
    }
    all.extend([
        format!("scylla.nodes=[\"{}\"]", emulator.address()),
        format!("outboxes=[{}]", tables.join(",")),
    ]);
    let sources = Sources {
        set: all,
        ..Sources::default()
    };
    let config = sources.load().expect("a configuration").config;
    (emulator, Arc::new(config))
}

#[tokio::test]
async fn a_table_that_is_not_there_is_reported_and_stops_no_other() {
    let set = [
        // Long enough for a broker to answer before the table is given up.
        "supervision.initial_backoff=2s",
        "supervision.max_restarts=2",
        "supervision.unready_when=any_failed",
    ];
    let broker = MockCluster::new(1).expect("a broker");
    let brokers = format!("kafka.brokers={}", broker.bootstrap_servers());
    let set = [&set[..], &[&brokers]].concat();
    let (_emulator, config) = database(&["shop.nowhere", TABLE], &set).await;
    let hooks = Hooks::default();
    let mut ready = hooks.ready.subscribe();
    let stop = async {
        for expected in [true, false] {
            let changed = ready.wait_for(|ready| *ready == expected);
            soon(changed).await.expect("the relay runs");
        }
        let parts = hooks.health.snapshot().parts;
        let state = |part: &Part| {
            let found = parts.iter().find(|status| status.part == *part);
            found.expect("it is there").state.clone()
        };
        let failed = state(&Part::Task(Name::source(&"shop.nowhere")));
        assert_eq!(failed.name(), "failed");
        assert!(
            failed
                .reason()
                .is_some_and(|reason| reason.contains("does not exist"))
        );
        assert_eq!(state(&Part::Task(Name::source(&TABLE))).name(), "ok");
        assert_eq!(state(&Part::Scylla).name(), "ok");
        assert_eq!(state(&Part::KafkaConnection).name(), "ok");
    };
    let summary = soon(Box::pin(run(config, hooks.clone(), stop))).await;
    let summary = summary.expect("one table ends no relay");
    assert!(!summary.checkpointed, "that table has none");
    assert_eq!(hooks.metrics.failed_tasks.get(), 1);
}

/// Takes one event; then the pipeline has ended.
#[derive(Clone, Default)]
struct Ending {
    taken: Arc<AtomicU32>,
    ended: Arc<Notify>,
}

impl Intake for Ending {
    async fn take(&mut self, _: &Change, ack: Ack) -> Result<Taken, Closed> {
        if self.taken.fetch_add(1, Ordering::Relaxed) > 0 {
            self.ended.notify_one();
            return Err(Closed);
        }
        ack.settle();
        Ok(Taken::Submitted)
    }
}

impl OpenIntake for Ending {
    type Intake = Self;

    fn open(&self, _: &LogReader) -> Result<Self, MappingError> {
        Ok(self.clone())
    }
}

#[tokio::test]
async fn when_the_pipeline_is_gone_a_source_still_saves_what_is_settled() {
    let (emulator, config) = database(
        &[TABLE],
        &["checkpoint.interval=1h", "checkpoint.idle_interval=1h"],
    )
    .await;
    for number in 0..2 {
        let insert = format!(
            "INSERT INTO {TABLE} (aggregate_id, id, aggregate_type, payload) \
             VALUES ('key', now(), 'order', 0x{number:02x})"
        );
        emulator.execute(&insert).expect("an event");
    }
    let session = cluster::connect(&config.scylla).await;
    let session = Arc::new(session.expect("it is there"));
    let store = checkpoint::Store::new(Arc::clone(&session), "outbox_relay", &config.relay.name);
    let store = Arc::new(store.await.expect("its tables are there"));
    let intake = Ending::default();
    let outbox = Arc::new(config.outboxes[0].clone());
    let source = TableSource::new(SourceContext {
        session,
        outbox: Arc::clone(&outbox),
        intake: intake.clone(),
        checkpoints: Some(Arc::clone(&store)),
        metrics: Arc::new(Metrics::default()),
        pace: Arc::new(Pace::new(&config.follow)),
        clock: Arc::default(),
        progress: Arc::default(),
        wake_ups: None,
        pause: Pause::default(),
        config,
    });
    let (phase, phases) = watch::channel(Phase::Running);
    let ends = async {
        intake.ended.notified().await;
        phase.send_replace(Phase::Draining);
        phase.send_replace(Phase::Finishing);
    };
    let both = Box::pin(async { tokio::join!(source.run(phases), ends) });
    let (ended, ()) = soon(both).await;
    ended.expect("it ends well");
    let loaded = store.load(&outbox.table).await.expect("what was saved");
    let published = loaded.groups.iter().map(|group| group.published.rows());
    assert_eq!(published.sum::<u64>(), 1);
}
