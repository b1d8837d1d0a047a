//! The emulator as the Rust driver sees it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use futures::TryStreamExt;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::{DbError, ExecutionError, RequestAttemptError};
use scylla::response::{PagingState, PagingStateResponse};
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::unprepared::Statement;
use scylla::value::{
    CqlDate, CqlDecimal, CqlDuration, CqlTime, CqlTimestamp, CqlTimeuuid, CqlValue, CqlVarint,
    MaybeUnset, Row,
};
use scylla_emulator::{Builder, Emulator};
use uuid::Uuid;

const KEYSPACE: &str = "CREATE KEYSPACE ks WITH replication = \
                        {'class': 'NetworkTopologyStrategy', 'replication_factor': 1}";

async fn connect(emulator: &Emulator) -> Session {
    SessionBuilder::new()
        .known_node_addr(emulator.address())
        .build()
        .await
        .expect("connect")
}

async fn start(builder: Builder, ddl: &[&str]) -> (Emulator, Session) {
    let emulator = builder.start().await.expect("start");
    let session = connect(&emulator).await;
    for statement in [KEYSPACE].iter().chain(ddl) {
        session
            .query_unpaged(*statement, ())
            .await
            .expect(statement);
    }
    (emulator, session)
}

const TABLE: &str =
    "CREATE TABLE ks.t (pk int, ck int, v text, PRIMARY KEY (pk, ck)) WITH cdc = {'enabled': true}";

#[tokio::test]
async fn the_driver_sees_node_shards_and_schema() {
    let (emulator, session) = start(Emulator::builder().vnodes(8).shards(3), &[TABLE]).await;
    session.refresh_metadata().await.expect("metadata");
    let state = session.get_cluster_state();
    let [node] = state.get_nodes_info() else {
        panic!("one node")
    };
    assert_eq!(node.address.port(), emulator.address().port());
    assert_eq!(node.datacenter.as_deref(), Some("datacenter1"));
    assert_eq!(node.host_id, emulator.topology().nodes[0].host_id);
    assert_eq!(node.sharder().expect("a sharder").nr_shards.get(), 3);
    let keyspace = state.get_keyspace("ks").expect("the keyspace");
    let table = &keyspace.tables["t"];
    assert_eq!(table.partition_key, ["pk"]);
    assert_eq!(table.clustering_key, ["ck"]);
    let log = &keyspace.tables["t_scylla_cdc_log"];
    assert_eq!(
        log.partitioner.as_deref(),
        Some("com.scylladb.dht.CDCPartitioner")
    );
}

#[tokio::test]
async fn a_connection_is_opened_to_each_shard() {
    let (_emulator, session) = start(Emulator::builder().shards(3), &[]).await;
    // The pool fills in the background: ask until it has, for at most ten seconds.
    let all_shards = async {
        loop {
            let clients = session
                .query_unpaged("SELECT shard_id FROM system.clients", ())
                .await
                .expect("clients")
                .into_rows_result()
                .expect("rows");
            let shards: BTreeSet<i32> = clients
                .rows::<(i32,)>()
                .expect("ints")
                .map(|row| row.expect("a row").0)
                .collect();
            if shards == BTreeSet::from([0, 1, 2]) {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), all_shards)
        .await
        .expect("a connection per shard");
}

#[tokio::test]
async fn several_nodes_answer_from_the_same_data() {
    let (emulator, session) = start(Emulator::builder().nodes(3), &[TABLE]).await;
    assert_eq!(session.get_cluster_state().get_nodes_info().len(), 3);
    let addresses: HashSet<IpAddr> = session
        .get_cluster_state()
        .get_nodes_info()
        .iter()
        .map(|node| node.address.ip())
        .collect();
    let expected = emulator
        .topology()
        .nodes
        .iter()
        .map(|node| node.address)
        .collect();
    assert_eq!(addresses, expected);
    let insert = session
        .prepare("INSERT INTO ks.t (pk, ck, v) VALUES (?, 0, 'x')")
        .await
        .unwrap();
    for pk in 0..30 {
        session
            .execute_unpaged(&insert, (pk,))
            .await
            .expect("insert");
    }
    assert_eq!(count(&session, "SELECT COUNT(*) FROM ks.t").await, 30);
}

async fn count(session: &Session, select: &str) -> i64 {
    let result = session
        .query_unpaged(select, ())
        .await
        .expect(select)
        .into_rows_result()
        .unwrap();
    result.single_row::<(i64,)>().expect("a count").0
}

#[tokio::test]
async fn pages_cover_all_rows_once_and_in_order() {
    let (_emulator, session) = start(Emulator::builder(), &[TABLE]).await;
    let insert = session
        .prepare("INSERT INTO ks.t (pk, ck, v) VALUES (?, ?, ?)")
        .await
        .unwrap();
    for ck in 0..250 {
        session
            .execute_unpaged(&insert, (1, ck, format!("value {ck}")))
            .await
            .expect("insert");
        session
            .execute_unpaged(&insert, (ck, 0, "first"))
            .await
            .expect("insert");
    }
    let mut select = session
        .prepare("SELECT ck FROM ks.t WHERE pk = ?")
        .await
        .unwrap();
    select.set_page_size(37);
    let rows = session
        .execute_iter(select.clone(), (1,))
        .await
        .expect("iterate");
    let cks: Vec<i32> = rows
        .rows_stream::<(i32,)>()
        .unwrap()
        .map_ok(|row| row.0)
        .try_collect()
        .await
        .unwrap();
    assert_eq!(cks, (0..250).collect::<Vec<_>>());

    let mut pages = 0;
    let mut state = PagingState::start();
    loop {
        let (result, next) = session
            .execute_single_page(&select, (1,), state)
            .await
            .expect("page");
        let rows = result.into_rows_result().unwrap();
        assert!(rows.rows_num() <= 37);
        pages += 1;
        match next {
            PagingStateResponse::HasMorePages { state: next } => state = next,
            PagingStateResponse::NoMorePages => break,
        }
    }
    assert_eq!(pages, 7);

    let mut all = Statement::new("SELECT pk, ck FROM ks.t");
    all.set_page_size(13);
    let rows = session.query_iter(all, ()).await.expect("scan");
    let keys: Vec<(i32, i32)> = rows
        .rows_stream::<(i32, i32)>()
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    let distinct: HashSet<_> = keys.iter().copied().collect();
    assert_eq!((keys.len(), distinct.len()), (250 + 249, 250 + 249));
}

#[tokio::test]
async fn batches_are_applied_as_a_whole() {
    let (_emulator, session) = start(Emulator::builder(), &[TABLE]).await;
    let insert = session
        .prepare("INSERT INTO ks.t (pk, ck, v) VALUES (?, ?, ?)")
        .await
        .unwrap();
    for kind in [BatchType::Logged, BatchType::Unlogged] {
        let mut batch = Batch::new(kind);
        batch.append_statement(insert.clone());
        batch.append_statement("INSERT INTO ks.t (pk, ck, v) VALUES (2, 0, 'text')");
        batch.append_statement(insert.clone());
        let values = ((1, 1, "a"), (), (3, 1, "c"));
        session.batch(&batch, values).await.expect("batch");
    }
    assert_eq!(count(&session, "SELECT COUNT(*) FROM ks.t").await, 3);
    assert_eq!(
        count(&session, "SELECT COUNT(*) FROM ks.t_scylla_cdc_log").await,
        6
    );

    let mut batch = Batch::new(BatchType::Logged);
    batch.append_statement(insert);
    batch.append_statement("INSERT INTO ks.nonesuch (pk) VALUES (1)");
    assert!(session.batch(&batch, ((9, 9, "z"), ())).await.is_err());
    assert_eq!(
        count(&session, "SELECT COUNT(*) FROM ks.t WHERE pk = 9").await,
        0
    );
}

#[tokio::test]
async fn lightweight_transactions_say_whether_they_applied() {
    let (_emulator, session) = start(Emulator::builder(), &[TABLE]).await;
    let insert = "INSERT INTO ks.t (pk, ck, v) VALUES (1, 1, 'a') IF NOT EXISTS";
    let update = "UPDATE ks.t SET v = 'b' WHERE pk = 1 AND ck = 1 IF v = 'a'";
    let insert = session.prepare(insert).await.unwrap();
    let update = session.prepare(update).await.unwrap();
    for (statement, applied) in [
        (&insert, true),
        (&insert, false),
        (&update, true),
        (&update, false),
    ] {
        let result = session
            .execute_unpaged(statement, ())
            .await
            .expect("execute");
        let rows = result.into_rows_result().expect("rows");
        assert_eq!(
            rows.column_specs().iter().next().expect("a column").name(),
            "[applied]"
        );
        let row = rows.first_row::<Row>().expect("a row");
        assert_eq!(row.columns[0], Some(CqlValue::Boolean(applied)));
    }
}

#[tokio::test]
async fn values_of_every_type_come_back() {
    let uuid = Uuid::from_u128(0x0123_4567_89ab_4def_8123_4567_89ab_cdef);
    let timeuuid = CqlTimeuuid::from_str("5132b130-ae79-11e4-ab27-000000000001").unwrap();
    let values = [
        ("ascii", CqlValue::Ascii("plain".into())),
        ("bigint", CqlValue::BigInt(i64::MIN)),
        ("blob", CqlValue::Blob(vec![0, 255, 7])),
        ("boolean", CqlValue::Boolean(true)),
        ("date", CqlValue::Date(CqlDate((1 << 31) + 19_000))),
        (
            "decimal",
            CqlValue::Decimal(CqlDecimal::from_signed_be_bytes_and_exponent(
                vec![0x12, 0x34],
                3,
            )),
        ),
        ("double", CqlValue::Double(-0.125)),
        (
            "duration",
            CqlValue::Duration(CqlDuration {
                months: 1,
                days: 2,
                nanoseconds: 3,
            }),
        ),
        ("float", CqlValue::Float(1.5)),
        ("inet", CqlValue::Inet("::1".parse().unwrap())),
        ("int", CqlValue::Int(-7)),
        ("smallint", CqlValue::SmallInt(-300)),
        ("text", CqlValue::Text("grün".into())),
        ("time", CqlValue::Time(CqlTime(86_399_999_999_999))),
        (
            "timestamp",
            CqlValue::Timestamp(CqlTimestamp(1_700_000_000_123)),
        ),
        ("timeuuid", CqlValue::Timeuuid(timeuuid)),
        ("tinyint", CqlValue::TinyInt(-1)),
        ("uuid", CqlValue::Uuid(uuid)),
        (
            "varint",
            CqlValue::Varint(CqlVarint::from_signed_bytes_be(vec![0x7f, 0xff, 0xff])),
        ),
        (
            "list<int>",
            CqlValue::List(vec![CqlValue::Int(2), CqlValue::Int(1)]),
        ),
        (
            "set<text>",
            CqlValue::Set(vec![CqlValue::Text("a".into()), CqlValue::Text("b".into())]),
        ),
        (
            "map<text, blob>",
            CqlValue::Map(vec![(CqlValue::Text("k".into()), CqlValue::Blob(vec![1]))]),
        ),
        (
            "frozen<list<bigint>>",
            CqlValue::List(vec![CqlValue::BigInt(5)]),
        ),
        (
            "tuple<int, text>",
            CqlValue::Tuple(vec![Some(CqlValue::Int(1)), None]),
        ),
    ];
    let columns: Vec<String> = values
        .iter()
        .enumerate()
        .map(|(at, (ty, _))| format!("c{at} {ty}"))
        .collect();
    let table = format!(
        "CREATE TABLE ks.types (pk int PRIMARY KEY, {})",
        columns.join(", ")
    );
    let (_emulator, session) = start(Emulator::builder(), &[&table]).await;
    for (at, (ty, value)) in values.iter().enumerate() {
        let insert = format!("INSERT INTO ks.types (pk, c{at}) VALUES (1, ?)");
        session.query_unpaged(insert, (value,)).await.expect(ty);
        let select = format!("SELECT c{at} FROM ks.types WHERE pk = 1");
        let rows = session
            .query_unpaged(select, ())
            .await
            .expect(ty)
            .into_rows_result()
            .unwrap();
        let row = rows.single_row::<Row>().expect("a row");
        assert_eq!(row.columns[0].as_ref(), Some(value), "{ty}");
    }
}

#[tokio::test]
async fn unset_values_leave_a_column_alone() {
    let (_emulator, session) = start(Emulator::builder(), &[TABLE]).await;
    let insert = session
        .prepare("INSERT INTO ks.t (pk, ck, v) VALUES (1, 1, ?)")
        .await
        .unwrap();
    session.execute_unpaged(&insert, ("kept",)).await.unwrap();
    session
        .execute_unpaged(&insert, (MaybeUnset::<String>::Unset,))
        .await
        .unwrap();
    let select = "SELECT v FROM ks.t WHERE pk = 1 AND ck = 1";
    let rows = session
        .query_unpaged(select, ())
        .await
        .unwrap()
        .into_rows_result()
        .unwrap();
    assert_eq!(
        rows.single_row::<(Option<String>,)>().unwrap().0.as_deref(),
        Some("kept")
    );
}

#[tokio::test]
async fn named_values_and_use_keyspace_work() {
    let (_emulator, session) = start(Emulator::builder(), &[TABLE]).await;
    session.use_keyspace("ks", false).await.expect("USE");
    let insert = session
        .prepare("INSERT INTO t (pk, ck, v) VALUES (:p, :c, :v)")
        .await
        .unwrap();
    let values = HashMap::from([
        ("p", CqlValue::Int(4)),
        ("c", CqlValue::Int(5)),
        ("v", CqlValue::Text("n".into())),
    ]);
    session
        .execute_unpaged(&insert, values)
        .await
        .expect("execute");
    assert_eq!(
        count(&session, "SELECT COUNT(*) FROM t WHERE pk = 4 AND ck = 5").await,
        1
    );
}

#[tokio::test]
async fn a_statement_prepared_before_an_alteration_goes_on_working() {
    let (emulator, session) = start(Emulator::builder(), &[TABLE]).await;
    let other = connect(&emulator).await;
    let insert = session
        .prepare("INSERT INTO ks.t (pk, ck, v) VALUES (?, ?, ?)")
        .await
        .unwrap();
    session.execute_unpaged(&insert, (1, 1, "a")).await.unwrap();
    other
        .query_unpaged("ALTER TABLE ks.t ADD w int", ())
        .await
        .expect("alter");
    assert!(other.await_schema_agreement().await.is_ok());
    session
        .execute_unpaged(&insert, (1, 2, "b"))
        .await
        .expect("prepared again by the driver");
    assert_eq!(count(&session, "SELECT COUNT(*) FROM ks.t").await, 2);
}

#[tokio::test]
async fn a_new_generation_takes_the_writes_that_come_after_it() {
    let (emulator, session) = start(Emulator::builder().vnodes(2).shards(2), &[TABLE]).await;
    let insert = session
        .prepare("INSERT INTO ks.t (pk, ck, v) VALUES (?, 0, 'x')")
        .await
        .unwrap();
    for pk in 0..20 {
        session.execute_unpaged(&insert, (pk,)).await.unwrap();
    }
    let new = emulator.new_generation();
    emulator.clock().advance(Duration::from_secs(10));
    for pk in 0..20 {
        session.execute_unpaged(&insert, (pk,)).await.unwrap();
    }
    let times = "SELECT time, expired FROM system_distributed.cdc_generation_timestamps WHERE key = 'timestamps'";
    let rows = session
        .query_unpaged(times, ())
        .await
        .unwrap()
        .into_rows_result()
        .unwrap();
    let times: Vec<(CqlTimestamp, Option<CqlTimestamp>)> =
        rows.rows().unwrap().map(Result::unwrap).collect();
    assert_eq!(times.len(), 2, "newest first");
    assert_eq!(times[0], (CqlTimestamp(new.timestamp_ms), None));
    let mut seen = 0;
    for (time, _) in times {
        let select =
            "SELECT streams FROM system_distributed.cdc_streams_descriptions_v2 WHERE time = ?";
        let rows = session
            .query_unpaged(select, (time,))
            .await
            .unwrap()
            .into_rows_result()
            .unwrap();
        let streams: Vec<Vec<u8>> = rows
            .rows::<(Vec<Vec<u8>>,)>()
            .unwrap()
            .flat_map(|row| row.unwrap().0)
            .collect();
        assert_eq!(streams.len(), 4, "two vnodes of two shards");
        let log = "SELECT \"cdc$time\" FROM ks.t_scylla_cdc_log WHERE \"cdc$stream_id\" = ?";
        let log = session.prepare(log).await.unwrap();
        let mut of_generation = 0;
        for stream in streams {
            let rows = session
                .execute_unpaged(&log, (stream,))
                .await
                .unwrap()
                .into_rows_result()
                .unwrap();
            of_generation += rows.rows_num();
        }
        assert_eq!(of_generation, 20);
        seen += of_generation;
    }
    assert_eq!(seen, 40);
}

#[tokio::test]
async fn data_survive_a_restart_of_the_listener() {
    let (emulator, session) = start(Emulator::builder(), &[TABLE]).await;
    let insert = "INSERT INTO ks.t (pk, ck, v) VALUES (1, 1, 'a')";
    session.query_unpaged(insert, ()).await.unwrap();
    emulator.stop_listening().await;
    assert!(session.query_unpaged(insert, ()).await.is_err());
    let refused = SessionBuilder::new()
        .known_node_addr(emulator.address())
        .build()
        .await;
    assert!(refused.is_err());
    emulator.start_listening().await.expect("listen again");
    let session = connect(&emulator).await;
    assert_eq!(count(&session, "SELECT COUNT(*) FROM ks.t").await, 1);
}

#[tokio::test]
async fn a_login_is_asked_for_when_configured() {
    let emulator = Emulator::builder()
        .credentials("relay", "secret")
        .start()
        .await
        .unwrap();
    let session = SessionBuilder::new().known_node_addr(emulator.address());
    assert!(
        session
            .clone()
            .user("relay", "wrong")
            .build()
            .await
            .is_err()
    );
    assert!(session.clone().build().await.is_err());
    let session = session
        .user("relay", "secret")
        .build()
        .await
        .expect("log in");
    assert_eq!(
        count(&session, "SELECT COUNT(*) FROM system.local").await,
        1
    );
}

#[tokio::test]
async fn an_unsupported_statement_is_a_clear_error() {
    let (_emulator, session) = start(Emulator::builder(), &[TABLE]).await;
    for statement in [
        "CREATE MATERIALIZED VIEW ks.mv AS SELECT * FROM ks.t WHERE pk IS NOT NULL AND ck IS NOT NULL PRIMARY KEY (ck, pk)",
        "CREATE INDEX ON ks.t (v)",
        "CREATE FUNCTION ks.f (i int) RETURNS NULL ON NULL INPUT RETURNS int LANGUAGE lua AS 'return i'",
    ] {
        let error = session
            .query_unpaged(statement, ())
            .await
            .expect_err(statement);
        let ExecutionError::LastAttemptError(RequestAttemptError::DbError(kind, message)) = &error
        else {
            panic!("{statement}: {error}")
        };
        assert!(
            matches!(kind, DbError::Invalid | DbError::SyntaxError),
            "{statement}: {error}"
        );
        assert!(message.contains("not supported"), "{statement}: {message}");
    }
}
