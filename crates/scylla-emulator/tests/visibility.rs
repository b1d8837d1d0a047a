//! Log rows that are seen late, and log rows that expire, as the Rust driver sees them.

use std::time::Duration;

use futures::TryStreamExt as _;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::statement::Statement;
use scylla::statement::batch::Batch;
use scylla_emulator::Emulator;
use scylla_emulator::engine::Outcome;
use scylla_emulator::visibility::{Hide, Rule};

const SETUP: [&str; 3] = [
    "CREATE KEYSPACE ks WITH replication = {'class': 'NetworkTopologyStrategy', 'replication_factor': 1}",
    "CREATE TABLE ks.t (pk int, ck int, v text, PRIMARY KEY (pk, ck)) WITH cdc = {'enabled': true, 'ttl': 2}",
    "CREATE TABLE ks.other (pk int PRIMARY KEY, v text) WITH cdc = {'enabled': true}",
];
const INSERT: &str = "INSERT INTO ks.t (pk, ck, v) VALUES (?, ?, ?)";
/// So long that the test is over before.
const LONG: Duration = Duration::from_hours(1);

async fn start() -> (Emulator, Session) {
    let emulator = Emulator::builder()
        .shards(1)
        .vnodes(1)
        .start()
        .await
        .expect("start");
    let session = SessionBuilder::new()
        .known_node_addr(emulator.address())
        .build()
        .await
        .expect("connect");
    for statement in SETUP {
        session.query_unpaged(statement, ()).await.expect(statement);
    }
    (emulator, session)
}

/// A table without expiry, for tests that advance the clock.
async fn keep(session: &Session) {
    let alter = "ALTER TABLE ks.t WITH cdc = {'enabled': true, 'ttl': 0}";
    session.query_unpaged(alter, ()).await.expect(alter);
}

async fn insert(session: &Session, ck: i32, v: &str) {
    session
        .query_unpaged(INSERT, (1, ck, v))
        .await
        .expect("insert");
}

/// `ck` of the log rows of `ks.t` in the order of the log, read with this page size.
async fn logged(session: &Session, page: i32) -> Vec<i32> {
    let mut statement = Statement::new("SELECT ck FROM ks.t_scylla_cdc_log");
    statement.set_page_size(page);
    let rows = session.query_iter(statement, ()).await.expect("read");
    let rows = rows.rows_stream::<(i32,)>().expect("columns");
    rows.map_ok(|(ck,)| ck).try_collect().await.expect("rows")
}

fn count(emulator: &Emulator, table: &str) -> usize {
    match emulator.execute(&format!("SELECT * FROM ks.{table}")) {
        Ok(Outcome::Rows(rows)) => rows.rows.len(),
        other => panic!("no rows: {other:?}"),
    }
}

#[tokio::test]
async fn a_row_is_hidden_for_its_time_in_pages_of_every_size() {
    let (emulator, session) = start().await;
    keep(&session).await;
    let rule = Rule::on("ks.t", Hide::For(LONG))
        .with_value("late")
        .times(2);
    let late = emulator.visibility().inject(rule);
    for (ck, v) in ["a", "late", "b", "x-late-y", "late too", "c"]
        .into_iter()
        .enumerate()
    {
        insert(&session, ck as i32, v).await;
    }
    assert_eq!(late.hits(), 2, "the third is one too many");
    assert_eq!(emulator.visibility().hidden(), 2);
    assert_eq!(count(&emulator, "t"), 6, "the base table shows all");
    for page in 1..=7 {
        assert_eq!(
            logged(&session, page).await,
            [0, 2, 4, 5],
            "pages of {page}"
        );
    }
    emulator.clock().advance(LONG);
    for page in 1..=7 {
        assert_eq!(
            logged(&session, page).await,
            [0, 1, 2, 3, 4, 5],
            "pages of {page}"
        );
    }
}

#[tokio::test]
async fn a_share_of_the_writes_is_hidden_for_a_random_time() {
    let (emulator, session) = start().await;
    keep(&session).await;
    let (from, to) = (Duration::from_mins(10), Duration::from_mins(20));
    let half_time = Duration::from_mins(5);
    let rule = Rule::on("ks.t", Hide::Between(from, to))
        .share(0.25)
        .seed(7);
    let late = emulator.visibility().inject(rule);
    session
        .query_unpaged("INSERT INTO ks.other (pk, v) VALUES (1, 'a')", ())
        .await
        .expect("insert");
    for ck in 0..400 {
        insert(&session, ck, "v").await;
    }
    let hidden = usize::try_from(late.hits()).unwrap();
    assert!((60..140).contains(&hidden), "{hidden} of 400");
    assert_eq!(count(&emulator, "other_scylla_cdc_log"), 1);
    assert_eq!(count(&emulator, "t_scylla_cdc_log"), 400 - hidden);
    emulator.clock().advance(from + half_time);
    let half = 400 - count(&emulator, "t_scylla_cdc_log");
    assert!((1..hidden).contains(&half), "{half} of {hidden}");
    emulator.clock().advance(half_time + Duration::from_secs(1));
    assert_eq!(count(&emulator, "t_scylla_cdc_log"), 400);
    emulator.visibility().clear();
    insert(&session, 400, "v").await;
    assert_eq!(count(&emulator, "t_scylla_cdc_log"), 401);
}

#[tokio::test]
async fn a_page_shows_a_later_write_without_an_earlier_one() {
    let (emulator, session) = start().await;
    emulator
        .visibility()
        .inject(Rule::on("ks.t", Hide::Reads(2)).with_value("first"));
    insert(&session, 1, "first").await;
    insert(&session, 2, "second").await;
    let narrow = "SELECT ck FROM ks.t_scylla_cdc_log WHERE \"cdc$time\" > now() ALLOW FILTERING";
    session
        .query_unpaged(narrow, ())
        .await
        .expect("would not return it, and does not count");
    assert_eq!(logged(&session, 10).await, [2]);
    assert_eq!(logged(&session, 10).await, [2]);
    assert_eq!(logged(&session, 10).await, [1, 2]);
}

#[tokio::test]
async fn the_rows_of_a_batch_are_hidden_by_partition_or_together() {
    let (emulator, session) = start().await;
    let mut batch = Batch::default();
    batch.append_statement(INSERT);
    batch.append_statement(INSERT);
    batch.append_statement("INSERT INTO ks.other (pk, v) VALUES (?, ?)");
    let values = ((1, 1, "a"), (2, 2, "b"), (1, "c"));
    let rule = Rule::on("ks.t", Hide::For(LONG)).with_value("a").times(1);
    emulator.visibility().inject(rule.clone());
    session.batch(&batch, values).await.expect("batch");
    assert_eq!(logged(&session, 10).await, [2]);
    assert_eq!(count(&emulator, "other_scylla_cdc_log"), 1);
    emulator.visibility().inject(rule.whole_write());
    session.batch(&batch, values).await.expect("batch");
    assert_eq!(logged(&session, 10).await, [2]);
    assert_eq!(count(&emulator, "other_scylla_cdc_log"), 1);
    assert_eq!(emulator.visibility().hidden(), 2);
}

#[tokio::test]
async fn log_rows_expire() {
    let (emulator, session) = start().await;
    emulator
        .visibility()
        .inject(Rule::on("ks.t", Hide::For(LONG)).with_value("late"));
    insert(&session, 1, "v").await;
    insert(&session, 2, "late").await;
    assert_eq!(count(&emulator, "t_scylla_cdc_log"), 1);
    emulator.clock().advance(Duration::from_secs(3));
    assert_eq!(count(&emulator, "t_scylla_cdc_log"), 0, "read as expired");
    assert_eq!(count(&emulator, "t"), 2, "the base table has no TTL");
    insert(&session, 3, "v").await;
    assert_eq!(logged(&session, 1).await, [3]);
    emulator.clock().advance(LONG);
    assert_eq!(
        count(&emulator, "t_scylla_cdc_log"),
        0,
        "one that nobody saw, too"
    );
}
