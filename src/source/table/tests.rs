//! A source on an emulated database.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use outbox_writer::{Event, Layout, WakeUp};
use scylla::client::session_builder::SessionBuilder;
use scylla::value::{CqlTimeuuid, CqlValue};
use scylla_cdc::cdc_types::StreamID;
use scylla_emulator::Emulator;
use tokio::sync::Notify;

use super::*;
use crate::ack::Ack;
use crate::checkpoint::{self, Published};
use crate::config::{Sources, TableName};
use crate::decode::{Decoder, MappingError};
use crate::event::Change;
use crate::pipeline::{Closed, Taken};
use crate::runtime::pauses::Pause;
use crate::source::intake::Intake;
use crate::source::wake_up;

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
        pace: Arc::new(Pace::new(&config.follow)),
        config,
        intake: taker.clone(),
        checkpoints: Some(Arc::new(store.expect("the tables are there"))),
        metrics: Arc::default(),
        clock: Arc::default(),
        progress: Arc::default(),
        wake_ups: None,
        pause: Pause::default(),
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

#[tokio::test]
async fn a_relay_that_was_away_for_longer_than_the_ttl_refuses_until_it_is_told() {
    let emulator = Emulator::start().await.expect("the emulator starts");
    let session = shop(&emulator).await;
    let store = checkpoint::Store::new(Arc::clone(&session), "outbox_relay", "test").await;
    let store = Arc::new(store.expect("the tables are there"));
    let table = TableName {
        keyspace: "shop".to_owned(),
        table: "outbox".to_owned(),
    };
    let generations = Generations::of(Arc::clone(&session), table.clone()).await;
    let listed = generations.expect("a keyspace").timestamps().await;
    let generation = listed.expect("generations")[0];
    let day = 86_400_000_000;
    let now = Clock::default().now().wall;
    let of = |group: u8, watermark: i64, closed: bool| GroupCheckpoint {
        key: GroupKey {
            generation,
            group: vec![group],
        },
        watermark,
        published: Published::nothing(watermark),
        closed,
    };
    let first_started = |at: i64| {
        let insert = format!(
            "INSERT INTO outbox_relay.sources (relay, source, start) VALUES ('test', 'shop.outbox', 0) \
             USING TIMESTAMP {at}"
        );
        let session = Arc::clone(&session);
        async move { run(&session, &insert).await }
    };
    first_started(now - 5 * day).await;
    // What is closed is done with, however old.
    let checkpoints = [of(1, now - 3 * day, true), of(2, now - day / 3, false)];
    let saved = store.save(&table, &checkpoints).await;
    saved.expect("a save");
    let ended = |more: &'static str| {
        let sources = Sources {
            set: ["outboxes=[{\"table\":\"shop.outbox\"}]", more]
                .map(ToOwned::to_owned)
                .to_vec(),
            ..Sources::default()
        };
        let config = Arc::new(sources.load().expect("a right configuration").config);
        let outbox = Arc::new(config.outboxes[0].clone());
        let source = TableSource::new(SourceContext {
            session: Arc::clone(&session),
            intake: Taker {
                outbox: Arc::clone(&outbox),
                taken: Arc::default(),
                more: Arc::default(),
            },
            outbox,
            pace: Arc::new(Pace::new(&config.follow)),
            config,
            checkpoints: Some(Arc::clone(&store)),
            metrics: Arc::default(),
            clock: Arc::default(),
            progress: Arc::default(),
            wake_ups: None,
            pause: Pause::default(),
        });
        async move {
            let (_phase, phases) = watch::channel(Phase::Finishing);
            let mut running = Running::open(&source.context, phases).await?;
            running.finish(1).await;
            Ok::<(), Error>(())
        }
    };
    ended("follow.accept_expired=false")
        .await
        .expect("a third of a day is fine");
    let mut forgotten = of(4, now - 2 * day, false);
    forgotten.key.generation = generation - 1;
    store.save(&table, &[forgotten]).await.expect("a save");
    ended("follow.accept_expired=false")
        .await
        .expect("ScyllaDB has forgotten its streams, and so the rows have expired");
    let older = [of(3, now - 2 * day, false)];
    store.save(&table, &older).await.expect("a save");
    let refused = ended("follow.accept_expired=false").await;
    let Err(error @ Error::Expired { from, .. }) = refused else {
        panic!("it starts as if nothing had happened: {refused:?}");
    };
    assert_eq!(from, now - 2 * day);
    assert!(
        error.to_string().contains("follow.accept_expired: true"),
        "{error}"
    );
    ended("follow.accept_expired=true")
        .await
        .expect("the loss is accepted");
    // A relay that began an hour ago with the oldest rows of the log was never away for so long.
    first_started(now - day / 24).await;
    ended("follow.accept_expired=false")
        .await
        .expect("it is only behind");
}

/// From the writer's batch to the group that is due.
#[tokio::test]
async fn a_hint_makes_the_group_of_the_row_due_and_no_other() {
    let emulator = Emulator::start().await.expect("the emulator starts");
    let session = shop(&emulator).await;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("wake.sock");
    let sources = Sources {
        set: vec![
            "outboxes=[{\"table\":\"shop.outbox\"}]".to_owned(),
            format!("follow.wake_up=unix://{}", path.display()),
        ],
        ..Sources::default()
    };
    let config = Arc::new(sources.load().expect("a right configuration").config);
    let address = config.follow.wake_up.clone().expect("a place for hints");
    let outbox = Arc::new(config.outboxes[0].clone());
    let metrics = Arc::<Metrics>::default();
    let wake_ups = WakeUps::new(Arc::clone(&metrics));
    let context = SourceContext {
        session: Arc::clone(&session),
        intake: Taker {
            outbox: Arc::clone(&outbox),
            taken: Arc::default(),
            more: Arc::default(),
        },
        outbox,
        pace: Arc::new(Pace::new(&config.follow)),
        config,
        checkpoints: None,
        metrics: Arc::clone(&metrics),
        clock: Arc::default(),
        progress: Arc::default(),
        wake_ups: Some(wake_ups.clone()),
        pause: Pause::default(),
    };
    let layout = Layout {
        event_type: None,
        content_type: None,
        headers: None,
        created_at: None,
        ..Layout::default()
    };
    let writer = WakeUp::unix(&path).expect("a socket");
    let writer = outbox_writer::Outbox::builder()
        .layout(layout)
        .wake_up(writer);
    let writer = writer
        .build(&session, "shop.outbox")
        .await
        .expect("it opens");
    let (_phase, phases) = watch::channel(Phase::Running);
    let mut running = Running::open(&context, phases).await.expect("it opens");
    assert!(running.groups.len() > 1);
    let check = async {
        while !path.exists() {
            tokio::task::yield_now().await;
        }
        for key in ["a", "b", "c", "d", "e"] {
            run(&session, "TRUNCATE shop.outbox_scylla_cdc_log").await;
            let event = Event::new("t", key, "").text("x");
            let written = writer.batch().event(event).execute(&session).await;
            written.expect("it is written");
            let stream = "SELECT \"cdc$stream_id\" FROM shop.outbox_scylla_cdc_log";
            let rows = session.query_unpaged(stream, ()).await.expect("the log");
            let rows = rows.into_rows_result().expect("rows");
            let (stream,) = rows.single_row::<(Vec<u8>,)>().expect("a stream");

            let mut tokens = Vec::new();
            running.hints.next(&mut tokens).await;
            running.hint(&mut tokens);
            let hinted = std::mem::take(&mut running.hinted);
            assert_eq!(hinted.len(), 1);
            let group = &mut running.groups[hinted[0] as usize];
            group.hinted = false;
            assert!(group.streams.contains(&StreamID::new(stream)), "{key}");
        }
    };
    tokio::select! {
        ended = wake_up::listen(&address, &wake_ups) => panic!("{ended:?}"),
        () = check => {}
    }
    assert_eq!((metrics.hints.get(), metrics.hints_garbage.get()), (5, 0));
}
