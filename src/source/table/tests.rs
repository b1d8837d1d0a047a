//! A source on an emulated database.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use scylla::client::session_builder::SessionBuilder;
use scylla::value::{CqlTimeuuid, CqlValue};
use scylla_emulator::Emulator;
use tokio::sync::Notify;

use super::*;
use crate::ack::Ack;
use crate::config::Sources;
use crate::decode::Decoder;
use crate::event::Change;
use crate::pipeline::{Closed, Taken};
use crate::source::intake::Intake;

/// Counts how often it takes each id. Fails to open when the table does not suit the mapping.
#[derive(Debug, Clone)]
struct Taker {
    outbox: Arc<Outbox>,
    taken: Arc<Mutex<HashMap<CqlTimeuuid, u32>>>,
    more: Arc<Notify>,
}

impl Taker {
    fn counts(&self) -> Vec<u32> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.values().copied().collect()
    }

    async fn until(&self, ids: usize) {
        while self.counts().len() < ids {
            self.more.notified().await;
        }
    }
}

impl Intake for Taker {
    async fn take(&mut self, change: &Change, ack: Ack) -> Result<Taken, Closed> {
        if let Some(id) = change.value("id").and_then(CqlValue::as_timeuuid) {
            let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
            *taken.entry(id).or_default() += 1;
        }
        ack.settle();
        self.more.notify_one();
        Ok(Taken::Submitted)
    }
}

impl OpenIntake for Taker {
    type Intake = Self;

    fn open(&self, reader: &LogReader) -> Result<Self, MappingError> {
        Decoder::new(&self.outbox, &reader.column_types()).map(|_| self.clone())
    }
}

async fn run(session: &Session, cql: &str) {
    let done = session.query_unpaged(cql, ()).await;
    done.expect("a statement that succeeds");
}

async fn shop(emulator: &Emulator) -> Arc<Session> {
    let builder = SessionBuilder::new().known_node(emulator.address().to_string());
    let session = builder.build().await.expect("a session");
    for keyspace in ["shop", "outbox_relay"] {
        let create = format!(
            "CREATE KEYSPACE {keyspace} WITH replication = \
             {{'class': 'NetworkTopologyStrategy', 'replication_factor': 1}}"
        );
        run(&session, &create).await;
    }
    for (_, create) in checkpoint::ddl("outbox_relay") {
        run(&session, &create).await;
    }
    run(
        &session,
        "CREATE TABLE shop.outbox (aggregate_id text, id timeuuid, payload text, \
         aggregate_type text, PRIMARY KEY (aggregate_id, id)) WITH cdc = {'enabled': true}",
    )
    .await;
    Arc::new(session)
}

async fn insert(session: &Session, columns: &str, values: &str) {
    let insert = format!(
        "INSERT INTO shop.outbox (aggregate_id, id, aggregate_type{columns}) \
         VALUES ('a', now(), 't'{values})"
    );
    run(session, &insert).await;
}

#[tokio::test]
async fn a_source_that_fails_saves_what_is_settled() {
    let emulator = Emulator::start().await.expect("the emulator starts");
    let session = shop(&emulator).await;
    let sources = Sources {
        set: vec![
            "outboxes=[{\"table\":\"shop.outbox\"}]".to_owned(),
            // Only the failure saves.
            "checkpoint.interval=1h".to_owned(),
            "checkpoint.idle_interval=1h".to_owned(),
            "follow.poll=1ms".to_owned(),
            "follow.idle_poll=5ms".to_owned(),
        ],
        ..Sources::default()
    };
    let config = Arc::new(sources.load().expect("a right configuration").config);
    let outbox = Arc::new(config.outboxes[0].clone());
    let taker = Taker {
        outbox: Arc::clone(&outbox),
        taken: Arc::default(),
        more: Arc::default(),
    };
    let store = checkpoint::Store::new(Arc::clone(&session), "outbox_relay", "test").await;
    let source = TableSource::new(SourceContext {
        session: Arc::clone(&session),
        outbox,
        config,
        intake: taker.clone(),
        checkpoints: Some(Arc::new(store.expect("the tables are there"))),
        metrics: Arc::default(),
        reads: Arc::new(Semaphore::new(8)),
        clock: Arc::default(),
        progress: Arc::default(),
    });
    let (phase, phases) = watch::channel(Phase::Running);
    for _ in 0..50 {
        insert(&session, ", payload", ", 'x'").await;
    }

    let altered = async {
        taker.until(50).await;
        run(&session, "ALTER TABLE shop.outbox DROP payload").await;
    };
    let (ended, ()) = tokio::join!(source.run(phases.clone()), altered);
    assert!(matches!(ended, Err(Error::Mapping(_))), "{ended:?}");

    run(&session, "ALTER TABLE shop.outbox ADD payload text").await;
    insert(&session, ", payload", ", 'x'").await;
    let stopped = async {
        taker.until(51).await;
        phase.send_replace(Phase::Finishing);
    };
    let (ended, ()) = tokio::join!(source.run(phases), stopped);
    ended.expect("the table suits again");
    assert_eq!(taker.counts(), [1; 51], "each row is handed on once");
}
