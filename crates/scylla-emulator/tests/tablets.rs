//! CDC of tables with tablets, as the Rust driver sees it.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::value::CqlTimestamp;
use scylla_emulator::cluster::tablets::StreamSet;
use scylla_emulator::engine::Outcome;
use scylla_emulator::{Builder, Emulator};

const SETUP: [&str; 2] = [
    "CREATE KEYSPACE ks WITH replication = {'class': 'NetworkTopologyStrategy', 'replication_factor': 1} AND tablets = {'initial': 2}",
    "CREATE TABLE ks.t (pk int PRIMARY KEY, v int) WITH cdc = {'enabled': true}",
];
const TIMES: &str =
    "SELECT timestamp FROM system.cdc_timestamps WHERE keyspace_name = 'ks' AND table_name = 't'";
const STREAMS: &str = "SELECT stream_id FROM system.cdc_streams WHERE keyspace_name = 'ks' AND table_name = 't' \
                       AND timestamp = ? AND stream_state = ?";
/// Longer than a new stream set takes to become valid.
const SOON: Duration = Duration::from_secs(10);

async fn start(builder: Builder) -> (Emulator, Session) {
    let emulator = builder.start().await.expect("start");
    let session = connect(emulator.address()).await;
    for statement in SETUP {
        session.query_unpaged(statement, ()).await.expect(statement);
    }
    (emulator, session)
}

async fn connect(node: SocketAddr) -> Session {
    let session = SessionBuilder::new().known_node_addr(node).build().await;
    session.expect("connect")
}

async fn times(session: &Session) -> Vec<i64> {
    let rows = session.query_unpaged(TIMES, ()).await.expect("read");
    let rows = rows.into_rows_result().expect("rows");
    let rows = rows.rows::<(CqlTimestamp,)>().expect("columns");
    rows.map(|row| row.expect("a row").0.0).collect()
}

async fn streams(session: &Session, set: &StreamSet, state: i8) -> BTreeSet<Vec<u8>> {
    let values = (CqlTimestamp(set.timestamp_ms), state);
    let rows = session.query_unpaged(STREAMS, values).await.expect("read");
    let rows = rows.into_rows_result().expect("rows");
    let rows = rows.rows::<(Vec<u8>,)>().expect("columns");
    rows.map(|row| row.expect("a row").0).collect()
}

fn ids(set: &StreamSet) -> BTreeSet<Vec<u8>> {
    set.streams.iter().map(|id| id.0.to_vec()).collect()
}

/// The streams that have log rows.
async fn used(session: &Session) -> BTreeSet<Vec<u8>> {
    let read = "SELECT DISTINCT \"cdc$stream_id\" FROM ks.t_scylla_cdc_log";
    let rows = session.query_unpaged(read, ()).await.expect("read");
    let rows = rows.into_rows_result().expect("rows");
    let rows = rows.rows::<(Vec<u8>,)>().expect("columns");
    rows.map(|row| row.expect("a row").0).collect()
}

async fn write(session: &Session) {
    for pk in 0..40 {
        let insert = "INSERT INTO ks.t (pk, v) VALUES (?, 1)";
        session.query_unpaged(insert, (pk,)).await.expect("insert");
    }
}

#[tokio::test]
async fn a_split_and_a_merge_make_new_streams_of_the_table_alone() {
    let (emulator, session) = start(Emulator::builder()).await;
    let other = "CREATE TABLE ks.u (pk int PRIMARY KEY) WITH cdc = {'enabled': true}";
    session.query_unpaged(other, ()).await.expect(other);
    let first = emulator.topology().tablets.of("ks", "t")[0].clone();
    write(&session).await;
    assert_eq!(
        used(&session).await,
        ids(&first),
        "two tablets, two streams"
    );

    let split = emulator.split_tablets("ks", "t").expect("split");
    write(&session).await;
    assert_eq!(used(&session).await.len(), 2, "not valid yet");
    emulator.clock().advance(SOON);
    write(&session).await;
    assert_eq!(used(&session).await, &ids(&first) | &ids(&split));

    let merged = emulator.merge_tablets("ks", "t").expect("merge");
    emulator.clock().advance(SOON);
    write(&session).await;
    assert_eq!(used(&session).await.len(), 2 + 4 + 2);

    let newest_first = [&merged, &split, &first].map(|set| set.timestamp_ms);
    assert_eq!(times(&session).await, newest_first);
    for (before, set) in [
        (None, &first),
        (Some(&first), &split),
        (Some(&split), &merged),
    ] {
        assert_eq!(streams(&session, set, 0).await, ids(set), "current");
        let closed = before.map(|set| ids(set)).unwrap_or_default();
        assert_eq!(streams(&session, set, 1).await, closed, "closed");
        assert_eq!(streams(&session, set, 2).await, ids(set), "opened");
    }
    assert_eq!(emulator.topology().tablets.of("ks", "u").len(), 1);

    assert_eq!(emulator.forget_streams_before(split.timestamp_ms), 1);
    assert_eq!(times(&session).await, newest_first[..2]);
    session
        .query_unpaged("DROP TABLE ks.t", ())
        .await
        .expect("drop");
    assert!(times(&session).await.is_empty());
}

#[tokio::test]
async fn the_rows_of_a_key_lie_in_the_stream_of_its_tablet() {
    let (emulator, session) = start(Emulator::builder()).await;
    write(&session).await;
    let set = emulator.topology().tablets.of("ks", "t")[0].clone();
    let read = "SELECT \"cdc$stream_id\", pk FROM ks.t_scylla_cdc_log";
    let rows = session
        .query_unpaged(read, ())
        .await
        .expect("read")
        .into_rows_result()
        .expect("rows");
    let token = session
        .prepare("SELECT token(pk) FROM ks.t WHERE pk = ?")
        .await
        .expect("prepare");
    for row in rows.rows::<(Vec<u8>, i32)>().expect("columns") {
        let (stream, pk) = row.expect("a row");
        let found = session.execute_unpaged(&token, (pk,)).await.expect("read");
        let (token,) = found
            .into_rows_result()
            .expect("rows")
            .single_row::<(i64,)>()
            .expect("one");
        let end = i64::from_be_bytes(stream[..8].try_into().expect("eight bytes"));
        let index = usize::from(token >= 0);
        assert_eq!(stream, set.streams[index].0, "of {pk}");
        assert!(token <= end);
    }
    let initial =
        "SELECT initial_tablets FROM system_schema.scylla_keyspaces WHERE keyspace_name = 'ks'";
    let rows = session
        .query_unpaged(initial, ())
        .await
        .expect("read")
        .into_rows_result()
        .expect("rows");
    assert_eq!(
        rows.single_row::<(Option<i32>,)>().expect("one"),
        (Some(2),)
    );
}

#[tokio::test]
async fn cdc_may_be_switched_on_later() {
    let (emulator, session) = start(Emulator::builder()).await;
    session
        .query_unpaged("CREATE TABLE ks.u (pk int PRIMARY KEY)", ())
        .await
        .expect("create");
    assert!(emulator.topology().tablets.of("ks", "u").is_empty());
    assert!(emulator.split_tablets("ks", "u").is_err());
    let alter = "ALTER TABLE ks.u WITH cdc = {'enabled': true}";
    session.query_unpaged(alter, ()).await.expect(alter);
    assert_eq!(emulator.topology().tablets.of("ks", "u").len(), 1);
}

#[tokio::test]
async fn a_node_may_lag_behind() {
    let address = SocketAddr::from((Ipv4Addr::new(127, 0, 7, 1), 0));
    let (emulator, _session) = start(Emulator::builder().nodes(2).listen(address)).await;
    let seen = |node: usize| match emulator.execute_on(node, TIMES) {
        Ok(Outcome::Rows(rows)) => rows.rows.len(),
        other => panic!("no rows: {other:?}"),
    };
    emulator.lag_node_view(1, true);
    emulator.split_tablets("ks", "t").expect("split");
    assert_eq!((seen(0), seen(1)), (2, 1));
    emulator.lag_node_view(1, false);
    assert_eq!((seen(0), seen(1)), (2, 2));
}

#[tokio::test]
async fn a_generation_may_be_listed_later_than_it_is_used() {
    let emulator = Emulator::start().await.expect("start");
    let count = |cql: &str| match emulator.execute(cql) {
        Ok(Outcome::Rows(rows)) => rows.rows.len(),
        other => panic!("no rows: {other:?}"),
    };
    let listed = || {
        let times = count("SELECT time FROM system_distributed.cdc_generation_timestamps");
        let read = "SELECT time, range_end FROM system_distributed.cdc_streams_descriptions_v2";
        (times, count(read))
    };
    let vnodes = "CREATE KEYSPACE vn WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}";
    let table = "CREATE TABLE vn.t (pk int PRIMARY KEY) WITH cdc = {'enabled': true}";
    for statement in [vnodes, table] {
        emulator.execute(statement).expect(statement);
    }
    let begins = emulator.clock().now_micros() / 1_000 + 2_000;
    let late = emulator.publish_generation_late(begins, Duration::from_mins(1));
    emulator.clock().advance(SOON);
    emulator
        .execute("INSERT INTO vn.t (pk) VALUES (1)")
        .expect("insert");
    let Ok(Outcome::Rows(rows)) =
        emulator.execute("SELECT \"cdc$stream_id\" FROM vn.t_scylla_cdc_log")
    else {
        panic!("no rows")
    };
    let stream = rows.rows[0][0].clone().expect("an id");
    let mut streams = late.vnodes.iter().flat_map(|vnode| &vnode.streams);
    assert!(streams.any(|id| id.0[..] == stream[..]), "used");
    assert_eq!(listed(), (1, 4), "and not listed");
    emulator.clock().advance(Duration::from_mins(1));
    assert_eq!(listed(), (2, 8));
}
