//! Rows that are made records again, on an emulated database.

use std::collections::BTreeMap;

use bytes::Bytes;
use scylla::client::session_builder::SessionBuilder;
use scylla::value::{CqlTimeuuid, CqlValue};
use scylla_cdc::cdc_types::StreamID;
use scylla_cdc::consumer::OperationType;
use scylla_emulator::Emulator;

use super::*;
use crate::config::Sources;
use crate::dead_letters::letter::{Place, Reason};
use crate::dead_letters::row::KeptRow;
use crate::event::Position;
use crate::source::bounds::first_timeuuid;

const T: TableId = TableId(0);

async fn run(session: &Session, cql: &str) {
    let done = session.query_unpaged(cql, ()).await;
    done.expect("a statement that succeeds");
}

async fn shop(emulator: &Emulator) -> Arc<Session> {
    let builder = SessionBuilder::new().known_node(emulator.address().to_string());
    let session = builder.build().await.expect("a session");
    run(
        &session,
        "CREATE KEYSPACE shop WITH replication = \
         {'class': 'NetworkTopologyStrategy', 'replication_factor': 1}",
    )
    .await;
    run(
        &session,
        "CREATE TABLE shop.outbox (aggregate_id text, id timeuuid, payload text, body text, \
         aggregate_type text, PRIMARY KEY (aggregate_id, id)) WITH cdc = {'enabled': true}",
    )
    .await;
    Arc::new(session)
}

/// With `columns` of the mapping, as JSON.
fn recoder(session: &Arc<Session>, columns: &str) -> Recoder {
    let outboxes = format!("outboxes=[{{\"table\":\"shop.outbox\",\"columns\":{columns}}}]");
    let sources = Sources {
        set: vec![outboxes],
        ..Sources::default()
    };
    let config = sources.load().expect("a right configuration").config;
    Recoder::new(Arc::clone(session), config.outboxes)
}

/// A row as an intake kept it, with the columns that the table had then.
async fn kept(recoder: &Recoder, payload: &str) -> KeptRow {
    let open = recoder.open(T).await.expect("the table suits");
    let id = CqlTimeuuid::nil();
    let values = BTreeMap::from([
        ("aggregate_id", CqlValue::Text("a".to_owned())),
        ("id", CqlValue::Timeuuid(id)),
        ("payload", CqlValue::Text(payload.to_owned())),
        ("aggregate_type", CqlValue::Text("order".to_owned())),
    ]);
    let value = |name: &String| values.get(name.as_str()).cloned();
    let change = Change {
        position: place().position,
        operation: OperationType::RowInsert,
        columns: Arc::clone(&open.columns),
        values: open.columns.names.iter().map(value).collect(),
        read_at: tokio::time::Instant::now(),
    };
    KeptRow::of(&change, &open.types)
}

/// A place that the log does not have.
fn place() -> Place {
    Place {
        position: Position {
            time: first_timeuuid(1_000_000),
            seq: 0,
        },
        stream: StreamID::new(vec![7; 16]),
    }
}

fn letter(row: Option<KeptRow>) -> DeadLetter {
    DeadLetter {
        table: "shop.outbox".to_owned(),
        key: Bytes::from_static(b"a"),
        place: place(),
        label: Label::default(),
        reason: Reason::Undecodable,
        failure: None,
        parks: true,
        record: None,
        row: row.map(Arc::new),
        first_failed_millis: 0,
        last_failed_millis: 0,
        stamp: 0,
        put_at: 0,
    }
}

#[tokio::test]
async fn a_kept_row_is_made_a_record_although_the_log_has_lost_it() {
    let emulator = Emulator::start().await.expect("the emulator starts");
    let session = shop(&emulator).await;
    let recoder = recoder(&session, "{}");
    let row = kept(&recoder, "no JSON").await;
    let mended = letter(Some(row));

    let record = |made: Result<Option<(Record, Label)>, String>| {
        let (record, label) = made.expect("no error").expect("an event");
        assert_eq!(label.event_id, CqlTimeuuid::nil().to_string());
        assert_eq!(
            (&*record.topic, &record.key[..]),
            ("outbox.event.order", &b"a"[..])
        );
        assert_eq!(record.payload.as_deref(), Some(&b"no JSON"[..]));
        assert_eq!(record.timestamp_millis, 1_000);
    };
    record(recoder.record(T, &mended).await);

    // Without the row there is nothing left to make a record of.
    let lost = recoder.record(T, &letter(None)).await;
    let lost = lost.expect_err("the log has no such row");
    assert!(lost.contains("not in the log any more"), "{lost}");

    let off = "ALTER TABLE shop.outbox WITH cdc = {'enabled': false}";
    run(&session, off).await;
    recoder.forget().await;
    record(recoder.record(T, &mended).await);
}

#[tokio::test]
async fn what_was_not_kept_is_not_taken_for_null() {
    let emulator = Emulator::start().await.expect("the emulator starts");
    let session = shop(&emulator).await;
    let row = kept(&recoder(&session, "{}"), "p").await;
    let mapped_anew = recoder(&session, "{\"payload\":\"body\"}");
    let error = mapped_anew.record(T, &letter(Some(row))).await;
    let error = error.expect_err("nobody knows the body");
    assert!(
        error.contains("`body` was not kept") && error.contains("not in the log any more"),
        "{error}"
    );
}

#[tokio::test]
async fn what_was_not_kept_is_read_from_the_log_while_it_is_there() {
    let emulator = Emulator::start().await.expect("the emulator starts");
    let session = shop(&emulator).await;
    let row = kept(&recoder(&session, "{}"), "p").await;
    run(
        &session,
        "INSERT INTO shop.outbox (aggregate_id, id, aggregate_type, body) \
         VALUES ('a', now(), 'order', 'b')",
    )
    .await;
    let log = "SELECT \"cdc$stream_id\", \"cdc$time\", \"cdc$batch_seq_no\" \
               FROM shop.outbox_scylla_cdc_log";
    let read = session.query_unpaged(log, ()).await.expect("the log");
    let read = read.into_rows_result().expect("rows");
    let (stream, time, seq) = read
        .first_row::<(StreamID, CqlTimeuuid, i32)>()
        .expect("a row");
    let mut letter = letter(Some(row));
    letter.place = Place {
        position: Position { time, seq },
        stream,
    };
    let mapped_anew = recoder(&session, "{\"payload\":\"body\"}");
    let made = mapped_anew.record(T, &letter).await;
    let (record, _) = made.expect("no error").expect("an event");
    assert_eq!(record.payload.as_deref(), Some(&b"b"[..]));
}
