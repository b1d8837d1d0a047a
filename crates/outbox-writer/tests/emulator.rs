//! The writer against a database: what it writes, and what stands in the change data capture log.

use outbox_writer::{DdlOptions, Error, Event, Layout, Outbox, PartitionBy, WakeUp, ddl};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::value::CqlTimeuuid;
use scylla_emulator::Emulator;
use std::error::Error as StdError;
use std::net::UdpSocket;
use std::time::Duration;
use uuid::Uuid;

type TestResult = Result<(), Box<dyn StdError>>;

/// A database with the keyspace `shop` and the table `shop.orders`.
async fn shop() -> Result<(Emulator, Session), Box<dyn StdError>> {
    let emulator = Emulator::builder().start().await?;
    let session = SessionBuilder::new()
        .known_node(emulator.address().to_string())
        .build()
        .await?;
    run(
        &session,
        "CREATE KEYSPACE shop WITH replication = \
         {'class': 'NetworkTopologyStrategy', 'replication_factor': 1}",
    )
    .await?;
    run(
        &session,
        "CREATE TABLE shop.orders (id text PRIMARY KEY, total bigint)",
    )
    .await?;
    Ok((emulator, session))
}

async fn shop_with_outbox() -> Result<(Emulator, Session, Outbox), Box<dyn StdError>> {
    let (emulator, session) = shop().await?;
    run(
        &session,
        &ddl("shop.outbox_messages", &DdlOptions::default())?,
    )
    .await?;
    let outbox = Outbox::new(&session, "shop.outbox_messages").await?;
    Ok((emulator, session, outbox))
}

async fn run(session: &Session, cql: &str) -> TestResult {
    session.query_unpaged(cql, ()).await?;
    Ok(())
}

/// A log row: time, number in the batch, operation, and the event's id.
type LogRow = (CqlTimeuuid, i32, i8, Option<CqlTimeuuid>);

/// The log of the outbox, in the order of each stream.
async fn log(session: &Session) -> Result<Vec<LogRow>, Box<dyn StdError>> {
    let cql = "SELECT \"cdc$time\", \"cdc$batch_seq_no\", \"cdc$operation\", id \
               FROM shop.outbox_messages_scylla_cdc_log";
    let rows = session.query_unpaged(cql, ()).await?.into_rows_result()?;
    Ok(rows.rows()?.collect::<Result<_, _>>()?)
}

async fn count(session: &Session, table: &str) -> Result<i64, Box<dyn StdError>> {
    let cql = format!("SELECT COUNT(*) FROM {table}");
    let rows = session.query_unpaged(cql, ()).await?.into_rows_result()?;
    Ok(rows.single_row::<(i64,)>()?.0)
}

fn now_micros() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_micros() as i64)
}

fn placed(key: &str) -> Event {
    Event::new("order", key, "Placed").text("{}")
}

#[tokio::test]
async fn rows_and_events_in_one_batch() -> TestResult {
    let (_emulator, session, outbox) = shop_with_outbox().await?;
    let insert = session
        .prepare("INSERT INTO shop.orders (id, total) VALUES (?, ?)")
        .await?;
    let receipt = outbox
        .batch()
        .statement(&insert, ("a", 7_i64))
        .event(placed("a").header("tenant", "acme"))
        .event(Event::new("order", "a", "Paid").bytes([0xff, 0x00]))
        .execute(&session)
        .await?;

    let cql = "SELECT id, WRITETIME(total) FROM shop.orders";
    let rows = session.query_unpaged(cql, ()).await?.into_rows_result()?;
    let (id, micros) = rows.single_row::<(String, i64)>()?;
    assert_eq!((id.as_str(), micros), ("a", receipt.timestamp_micros));

    let log = log(&session).await?;
    let ids: Vec<Uuid> = log.iter().filter_map(|row| Some(row.3?.into())).collect();
    assert_eq!(ids, receipt.event_ids, "the log has the order of addition");
    assert_eq!(log[0].0, log[1].0, "one partition, one time");
    assert!(log.iter().all(|row| row.2 == 2), "inserts");
    Ok(())
}

#[tokio::test]
async fn many_events_of_one_aggregate_keep_the_order_of_addition() -> TestResult {
    let (_emulator, session, outbox) = shop_with_outbox().await?;
    let mut written = Vec::new();
    for _ in 0..10 {
        let events = (0..20).map(|_| placed("a"));
        let receipt = outbox.batch().events(events).execute(&session).await?;
        written.extend(receipt.event_ids);
    }
    let logged: Vec<Uuid> = log(&session)
        .await?
        .into_iter()
        .filter_map(|row| Some(row.3?.into()))
        .collect();
    assert_eq!(logged, written);
    Ok(())
}

#[tokio::test]
async fn executing_again_writes_the_same_row() -> TestResult {
    let (_emulator, session, outbox) = shop_with_outbox().await?;
    let mut batch = outbox.batch().event(placed("a")).prepare()?;
    let first = batch.execute(&session).await?;
    let second = batch.execute(&session).await?;
    assert_eq!(first, second);
    assert_eq!(batch.timestamp_micros(), Some(first.timestamp_micros));
    assert_eq!(count(&session, "shop.outbox_messages").await?, 1);
    let other = outbox.batch().event(placed("a")).execute(&session).await?;
    assert!(other.timestamp_micros > first.timestamp_micros);
    Ok(())
}

#[tokio::test]
async fn an_outbox_that_stores_nothing() -> TestResult {
    let (_emulator, session) = shop().await?;
    run(
        &session,
        &ddl("shop.outbox_messages", &DdlOptions::default())?,
    )
    .await?;
    let outbox = Outbox::builder()
        .store_nothing(true)
        .build(&session, "shop.outbox_messages")
        .await?;
    outbox.batch().event(placed("a")).execute(&session).await?;
    assert_eq!(count(&session, "shop.outbox_messages").await?, 0);
    let log = log(&session).await?;
    let operations: Vec<i8> = log.iter().map(|row| row.2).collect();
    assert_eq!(operations, [2, 3], "the insert, then the delete");
    assert_eq!(log[0].0, log[1].0, "at one time");
    Ok(())
}

#[tokio::test]
async fn a_table_by_event_id_with_debeziums_names() -> TestResult {
    let (_emulator, session) = shop().await?;
    let options = DdlOptions {
        layout: Layout::debezium(),
        partition_by: PartitionBy::EventId,
        ..DdlOptions::default()
    };
    run(&session, &ddl("shop.outbox", &options)?).await?;
    let outbox = Outbox::builder()
        .layout(Layout::debezium())
        .build(&session, "shop.outbox")
        .await?;
    let own_id = Uuid::from_u128(0x0123_4567_89ab_4def_8123_4567_89ab_cdef);
    let batch = outbox
        .batch()
        .event(placed("a").id(own_id))
        .event(placed("a"));
    let receipt = batch.execute(&session).await?;
    assert_eq!(receipt.event_ids[0], own_id);
    assert_eq!(receipt.event_ids[1].get_version_num(), 7);
    assert_eq!(count(&session, "shop.outbox").await?, 2);

    let with_header = outbox.batch().event(placed("a").header("x", "y"));
    let refused = with_header.execute(&session).await;
    assert!(matches!(refused, Err(Error::NoHeadersColumn { .. })));
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_right_is_refused_before_anything_is_sent() -> TestResult {
    let (_emulator, session, _) = shop_with_outbox().await?;
    let outbox = Outbox::builder()
        .max_payload_bytes(100)
        .max_batch_bytes(1_000)
        .max_headers(2)
        .max_header_bytes(20)
        .build(&session, "shop.outbox_messages")
        .await?;
    let insert = session
        .prepare("INSERT INTO shop.orders (id, total) VALUES (?, ?)")
        .await?;
    let (early, late) = (outbox_writer::timeuuid(), outbox_writer::timeuuid());
    let version_4 = Uuid::from_u128(0x0123_4567_89ab_4def_8123_4567_89ab_cdef);
    let batch = || outbox.batch();
    macro_rules! refused {
        ($batch:expr, $error:pat) => {
            let outcome = $batch.execute(&session).await;
            assert!(matches!(outcome, Err($error)), "{outcome:?}");
        };
    }
    refused!(batch().statement(&insert, ("a", 1_i64)), Error::NoEvent);
    refused!(batch().event(placed("")), Error::NoKey { .. });
    refused!(
        batch().event(placed(&"k".repeat(70_000))),
        Error::KeyTooLong { .. }
    );
    refused!(
        batch().event(Event::new("", "a", "e").text("")),
        Error::NoType { .. }
    );
    refused!(
        batch().event(Event::new("t", "a", "").text("")),
        Error::NoType { .. }
    );
    refused!(
        batch().event(Event::new("t", "a", "e")),
        Error::NoPayload { .. }
    );
    refused!(
        batch().event(placed("a").bytes(vec![0; 101])),
        Error::PayloadTooLarge {
            bytes: 101,
            limit: 100,
            ..
        }
    );
    let many = placed("a").header("a", "").header("b", "").header("c", "");
    refused!(batch().event(many), Error::Headers { count: 3, .. });
    refused!(
        batch().event(placed("a").header("a", "x".repeat(20))),
        Error::Headers { .. }
    );
    refused!(
        batch().event(placed("a").header("", "x")),
        Error::Headers { .. }
    );
    refused!(
        batch().event(placed("a").id(version_4)),
        Error::IdVersion { .. }
    );
    let twice = [placed("a").id(early), placed("b").id(early)];
    refused!(batch().events(twice), Error::DuplicateId { .. });
    let swapped = [placed("a").id(late), placed("a").id(early)];
    refused!(batch().events(swapped), Error::IdOrder { .. });
    let large = (0..12).map(|_| placed("a").bytes(vec![0; 100]));
    refused!(
        batch().events(large),
        Error::BatchTooLarge { limit: 1_000, .. }
    );
    refused!(
        batch()
            .statement(&insert, ("a", "no number"))
            .event(placed("a")),
        Error::Values { index: 0, .. }
    );
    assert_eq!(count(&session, "shop.outbox_messages").await?, 0);
    assert!(log(&session).await?.is_empty());

    let other_keys = [placed("a").id(late), placed("b").id(early)];
    batch().events(other_keys).execute(&session).await?;
    Ok(())
}

#[tokio::test]
async fn an_outbox_that_would_lose_events_is_not_opened() -> TestResult {
    let (_emulator, session) = shop().await?;
    let missing = Outbox::new(&session, "shop.nowhere").await;
    assert!(matches!(missing, Err(Error::Prepare { .. })), "{missing:?}");
    let no_name = Outbox::new(&session, "shop.no where").await;
    assert!(
        matches!(no_name, Err(Error::TableName { .. })),
        "{no_name:?}"
    );

    let with_cdc = ddl("shop.quiet", &DdlOptions::default())?;
    let without = with_cdc.split("AND cdc").next().unwrap_or_default();
    run(&session, without).await?;
    let off = Outbox::new(&session, "shop.quiet").await;
    assert!(matches!(off, Err(Error::CdcOff { .. })), "{off:?}");
    let accepted = Outbox::builder().require_cdc(false);
    accepted.build(&session, "shop.quiet").await?;

    run(
        &session,
        "ALTER TABLE shop.quiet WITH cdc = {'enabled': true}",
    )
    .await?;
    Outbox::new(&session, "shop.quiet").await?;
    run(
        &session,
        "ALTER TABLE shop.quiet WITH cdc = {'enabled': false}",
    )
    .await?;
    let off = Outbox::new(&session, "shop.quiet").await;
    assert!(
        matches!(off, Err(Error::CdcOff { .. })),
        "the log is still there, but nothing is logged: {off:?}"
    );

    let odd = "CREATE TABLE shop.odd (aggregate_id text, id timeuuid, payload int, \
               PRIMARY KEY (aggregate_id, id)) WITH cdc = {'enabled': true}";
    run(&session, odd).await?;
    let layout = Layout {
        aggregate_type: None,
        event_type: None,
        content_type: None,
        headers: None,
        created_at: None,
        ..Layout::default()
    };
    let wrong = Outbox::builder()
        .layout(layout)
        .build(&session, "shop.odd")
        .await;
    assert!(matches!(wrong, Err(Error::ColumnType { .. })), "{wrong:?}");
    Ok(())
}

#[tokio::test]
async fn a_table_that_cannot_keep_the_order_takes_one_event_of_an_aggregate() -> TestResult {
    let (_emulator, session) = shop().await?;
    let recommended = ddl("shop.outbox_messages", &DdlOptions::default())?;
    let keys = [
        ("descending", "PRIMARY KEY ((aggregate_id), id)"),
        ("by_type", "PRIMARY KEY ((aggregate_id), event_type, id)"),
        ("one_row", "PRIMARY KEY (aggregate_id)"),
    ];
    for (name, key) in keys {
        let order = if name == "descending" {
            "WITH CLUSTERING ORDER BY (id DESC) AND"
        } else {
            "WITH"
        };
        let cql = recommended
            .replace("outbox_messages", name)
            .replace("PRIMARY KEY ((aggregate_id), id)", key)
            .replace("WITH", order);
        run(&session, &cql).await?;
        let outbox = Outbox::new(&session, &format!("shop.{name}")).await?;
        let two = outbox.batch().event(placed("a")).event(placed("a"));
        let refused = two.execute(&session).await;
        assert!(
            matches!(refused, Err(Error::TableOrder { .. })),
            "{refused:?}"
        );
        let apart = outbox.batch().event(placed("a")).event(placed("b"));
        apart.execute(&session).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_refusal_does_not_undo_an_earlier_attempt() -> TestResult {
    let (_emulator, session, outbox) = shop_with_outbox().await?;
    let mut written = outbox.batch().event(placed("a")).prepare()?;
    let mut never = outbox.batch().event(placed("b")).prepare()?;
    written.execute(&session).await?;
    run(&session, "DROP TABLE shop.outbox_messages").await?;
    let refused = written.execute(&session).await.expect_err("no such table");
    assert!(refused.may_have_been_written(), "{refused:?}");
    let refused = never.execute(&session).await.expect_err("no such table");
    assert!(!refused.may_have_been_written(), "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn a_batch_of_an_earlier_generation_is_written_with_its_ids() -> TestResult {
    let (emulator, session, outbox) = shop_with_outbox().await?;
    let mut batch = outbox.batch().event(placed("a")).prepare()?;
    let first = batch.execute(&session).await?;
    emulator.new_generation_at(first.timestamp_micros / 1_000 + 1);
    emulator
        .clock()
        .advance(std::time::Duration::from_millis(2));
    // The new timestamp, too, may lie before the generation: by less than two milliseconds.
    let mut second = batch.execute(&session).await;
    while second.is_err() && first.timestamp_micros + 1_000_000 > now_micros() {
        second = batch.execute(&session).await;
    }
    let second = second?;
    assert_eq!(second.event_ids, first.event_ids);
    assert!(second.timestamp_micros > first.timestamp_micros);
    Ok(())
}

#[tokio::test]
async fn batches_can_be_written_from_spawned_tasks() -> TestResult {
    let (_emulator, session, outbox) = shop_with_outbox().await?;
    let session = std::sync::Arc::new(session);
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..4 {
        let (session, outbox) = (session.clone(), outbox.clone());
        tasks.spawn(async move {
            let event = placed(&format!("order-{task}"));
            outbox.batch().event(event).execute(&session).await
        });
    }
    while let Some(written) = tasks.join_next().await {
        written??;
    }
    assert_eq!(count(&session, "shop.outbox_messages").await?, 4);
    Ok(())
}

/// The tokens of a datagram about `table`, whose head is the table's name.
fn hinted(listener: &UdpSocket, table: &str) -> Result<Vec<i64>, Box<dyn StdError>> {
    let mut datagram = [0; 2_000];
    let length = listener.recv(&mut datagram)?;
    let head = [b"OBWU\x01\x00", &[table.len() as u8][..], table.as_bytes()].concat();
    assert_eq!(datagram[..head.len()], head);
    let (tokens, rest) = datagram[head.len()..length].as_chunks();
    assert!(rest.is_empty());
    Ok(tokens.iter().copied().map(i64::from_be_bytes).collect())
}

#[tokio::test]
async fn what_was_written_is_told_with_the_tokens_that_the_database_gives() -> TestResult {
    let (_emulator, session, _) = shop_with_outbox().await?;
    let by_two = ddl("shop.by_two", &DdlOptions::default())?.replace(
        "PRIMARY KEY ((aggregate_id), id)",
        "PRIMARY KEY ((aggregate_type, aggregate_id), id)",
    );
    run(&session, &by_two).await?;
    let listener = UdpSocket::bind("127.0.0.1:0")?;
    listener.set_read_timeout(Some(Duration::from_secs(10)))?;
    let wake_up = WakeUp::udp(&listener.local_addr()?.to_string())?;
    for (table, key) in [
        ("shop.outbox_messages", "aggregate_id"),
        ("shop.by_two", "aggregate_type, aggregate_id"),
    ] {
        let outbox = Outbox::builder()
            .wake_up(wake_up.clone())
            .build(&session, table)
            .await?;
        let refused = outbox.batch().event(placed("")).execute(&session).await;
        assert!(refused.is_err());
        let events = ["a", "b", "a", "c"].map(placed);
        outbox.batch().events(events).execute(&session).await?;

        let cql = format!("SELECT token({key}) FROM {table}");
        let rows = session.query_unpaged(cql, ()).await?.into_rows_result()?;
        let mut tokens = rows
            .rows::<(i64,)>()?
            .map(|row| Ok(row?.0))
            .collect::<Result<Vec<_>, Box<dyn StdError>>>()?;
        tokens.sort_unstable();
        tokens.dedup();
        assert_eq!(tokens.len(), 3);
        assert_eq!(hinted(&listener, table)?, tokens, "{table}");
    }
    assert_eq!((wake_up.sent(), wake_up.failed()), (2, 0));

    // Nobody listens any more, which is nobody's concern.
    drop(listener);
    let outbox = Outbox::builder().wake_up(wake_up);
    let outbox = outbox.build(&session, "shop.outbox_messages").await?;
    outbox.batch().event(placed("a")).execute(&session).await?;
    Ok(())
}
