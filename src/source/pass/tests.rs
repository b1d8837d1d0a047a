//! Reads of an emulated log.

use std::collections::BTreeSet;

use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::value::{CqlTimeuuid, CqlValue};
use scylla_emulator::Emulator;
use scylla_emulator::visibility::{Hide, Rule};

use super::*;
use crate::config::{
    self, Columns, Outbox, StandardHeaders, TableName, TopicTemplate, ValueFormat,
};
use crate::event::Change;
use crate::source::follower::Moment;
use crate::source::generations::Generations;

/// Remembers the ids of what it takes.
#[derive(Debug, Clone, Default)]
struct Ids(Arc<Mutex<Vec<CqlTimeuuid>>>);

impl Intake for Ids {
    async fn take(&mut self, change: &Change, ack: Ack) -> Result<Taken, Closed> {
        let id = change.value("id").and_then(CqlValue::as_timeuuid);
        let mut ids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ids.extend(id);
        ack.settle();
        Ok(Taken::Submitted)
    }
}

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
        topic: TopicTemplate { parts: Vec::new() },
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

fn read(kind: Kind) -> Read {
    Read {
        kind,
        after: 0,
        upto: None,
        started: Moment { wall: 0, ticks: 0 },
        row_limit: None,
    }
}

fn follow() -> config::Follow {
    let sources = config::Sources {
        set: vec!["outboxes=[{\"table\":\"shop.outbox\"}]".to_owned()],
        ..config::Sources::default()
    };
    let loaded = sources.load().expect("a right configuration");
    loaded.config.follow
}

fn shared(settled: mpsc::UnboundedSender<Settled>, phase: watch::Receiver<Phase>) -> Arc<Shared> {
    Arc::new(Shared {
        metrics: Arc::default(),
        progress: Arc::default(),
        pace: Arc::new(Pace::new(&follow())),
        clock: Arc::default(),
        settled,
        phase,
        tracked: AtomicUsize::new(0),
        limit: 1_000,
        late_window: 0,
        confirm: 1_000_000,
    })
}

fn member(slot: u32, streams: &[StreamID], intake: &Ids) -> Member<Ids> {
    Member {
        slot,
        streams: streams.into(),
        tracker: SharedTracker::new(Tracker::new(0)),
        stragglers: Guarded::new(Stragglers::default()),
        intake: intake.clone(),
        late_before: i64::MIN,
        published: None,
        outcome: Outcome::default(),
    }
}

async fn run(session: &Session, cql: &str) {
    let done = session.query_unpaged(cql, ()).await;
    done.expect("a statement that succeeds");
}

/// An emulator with one vnode and the table `shop.outbox`.
async fn emulated(shards: u16) -> (Emulator, Arc<Session>) {
    let emulator = Emulator::builder().vnodes(1).shards(shards).start().await;
    let emulator = emulator.expect("the emulator starts");
    let builder = SessionBuilder::new().known_node(emulator.address().to_string());
    let session = Arc::new(builder.build().await.expect("a session"));
    run(
        &session,
        "CREATE KEYSPACE shop WITH replication = \
         {'class': 'NetworkTopologyStrategy', 'replication_factor': 1}",
    )
    .await;
    run(
        &session,
        "CREATE TABLE shop.outbox (key text, id timeuuid, payload list<int>, \
         PRIMARY KEY (key, id)) WITH cdc = {'enabled': true}",
    )
    .await;
    (emulator, session)
}

/// A vnode has a stream for each shard, and one request may ask for a hundred.
#[tokio::test]
async fn a_group_of_more_streams_than_a_request_may_ask_for_is_read_whole() {
    let (_emulator, session) = emulated(130).await;
    for key in 0..200 {
        let insert = format!("INSERT INTO shop.outbox (key, id) VALUES ('{key}', now())");
        run(&session, &insert).await;
    }
    let outbox = outbox();
    let generations = Generations::of(Arc::clone(&session), outbox.table.clone())
        .await
        .expect("the keyspace is described");
    let timestamps = generations.timestamps().await.expect("timestamps");
    let groups = generations.groups(timestamps[0]).await.expect("groups");
    assert_eq!((groups.len(), groups[0].streams.len()), (1, 130));
    let reader = LogReader::open(Arc::clone(&session), &outbox, 50).await;
    let reader = Arc::new(reader.expect("the log is there"));
    // The sender lives as long as the test, or every phase would count as the last one.
    let (_phase, phase) = watch::channel(Phase::Running);
    let (settled, _settlements) = mpsc::unbounded_channel();
    let shared = shared(settled, phase);

    for kind in [Kind::Window, Kind::Rescan] {
        let intake = Ids::default();
        let member = member(0, &groups[0].streams, &intake);
        let (shared, reader) = (Arc::clone(&shared), Arc::clone(&reader));
        let mut pass = Pass::new(Arc::clone(&shared), reader, read(kind), vec![member]);
        let ended = pass.run().await.expect("the log can be read");
        assert_eq!(ended, Ended::Complete, "{kind:?}");
        let ids: BTreeSet<_> = intake.0.lock().expect("no panic").iter().copied().collect();
        assert_eq!(ids.len(), 200, "{kind:?}");
        shared.tracked.store(0, Ordering::Relaxed);
    }
}

/// The log has a list as a map of its cells, whose keys nobody has written.
#[tokio::test]
async fn a_list_is_read_as_it_was_written() {
    let (_emulator, session) = emulated(1).await;
    run(
        &session,
        "INSERT INTO shop.outbox (key, id, payload) VALUES ('a', now(), [3, 1, 2])",
    )
    .await;
    let outbox = outbox();
    let generations = Generations::of(Arc::clone(&session), outbox.table.clone())
        .await
        .expect("the keyspace is described");
    let timestamps = generations.timestamps().await.expect("timestamps");
    let groups = generations.groups(timestamps[0]).await.expect("groups");
    let reader = LogReader::open(session, &outbox, 50).await;
    let reader = reader.expect("the log is there");
    let range = Range {
        after: 0,
        upto: None,
    };
    let page = reader.rows(&groups[0].streams, range, PagingState::start());
    let rows = page.await.expect("the log can be read").rows;
    let payload = reader
        .columns()
        .names
        .iter()
        .position(|name| name == "payload")
        .expect("it is mapped");
    let elements = [3, 1, 2].map(CqlValue::Int).to_vec();
    assert_eq!(rows[0].values[payload], Some(CqlValue::List(elements)));
    assert_eq!(
        crate::decode::text::cql_type(&reader.column_types()[payload].1),
        "list<int>"
    );
}

/// The earlier write was acknowledged before the later one was made; one page does not show it.
#[tokio::test]
async fn a_page_without_an_earlier_row_is_mended_before_it_is_published() {
    let (emulator, session) = emulated(1).await;
    let hidden = Rule::on("shop.outbox", Hide::Reads(1)).times(1);
    let hidden = emulator.visibility().inject(hidden);
    for _ in 0..3 {
        run(
            &session,
            "INSERT INTO shop.outbox (key, id) VALUES ('a', now())",
        )
        .await;
    }
    assert_eq!(hidden.hits(), 1, "the first one");
    let outbox = outbox();
    let generations = Generations::of(Arc::clone(&session), outbox.table.clone())
        .await
        .expect("the keyspace is described");
    let timestamps = generations.timestamps().await.expect("timestamps");
    let groups = generations.groups(timestamps[0]).await.expect("groups");
    let reader = LogReader::open(Arc::clone(&session), &outbox, 50).await;
    let reader = Arc::new(reader.expect("the log is there"));
    let (_phase, phase) = watch::channel(Phase::Running);
    let (settled, _settlements) = mpsc::unbounded_channel();
    let shared = shared(settled, phase);
    let intake = Ids::default();
    let member = member(0, &groups[0].streams, &intake);
    let mut read = read(Kind::Tail);
    read.started = shared.clock.now();
    let mut pass = Pass::new(Arc::clone(&shared), reader, read, vec![member]);
    let ended = pass.run().await.expect("the log can be read");
    assert_eq!(ended, Ended::Complete);
    let ids = intake.0.lock().expect("no panic").clone();
    assert_eq!(ids.len(), 3);
    assert!(ids.is_sorted(), "{ids:?}");
    assert_eq!(shared.metrics.merged.get(), 1);
}
