//! The official reader sees the same rows in the log as the relay's own.

use crate::support::database::Database;
use crate::support::unique;
use anyhow::{Context, Result};
use async_trait::async_trait;
use outbox_relay::config::{
    Columns, Outbox, StandardHeaders, TableName, TopicPart, TopicTemplate, ValueFormat,
};
use outbox_relay::source::generations::Generations;
use outbox_relay::source::reader::{LogReader, Range};
use outbox_writer::{DdlOptions, Event, ddl};
use scylla::response::PagingState;
use scylla::value::{CqlTimeuuid, CqlValue};
use scylla_cdc::consumer::{CDCRow, Consumer, ConsumerFactory};
use scylla_cdc::log_reader::CDCLogReaderBuilder;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Rows by stream, time and number: what each says.
type Rows = BTreeMap<(String, CqlTimeuuid, i32), Said>;

#[derive(Debug, Clone, PartialEq)]
struct Said {
    operation: i8,
    end_of_batch: bool,
    values: Vec<Option<CqlValue>>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_reader_gets_the_same_rows() -> Result<()> {
    let database = Database::start().await?;
    let keyspace = unique("reference");
    database.create_keyspace(&keyspace).await?;
    let table = TableName {
        keyspace,
        table: "outbox_messages".to_owned(),
    };
    let start = now().saturating_sub(Duration::from_hours(1));
    write_all_kinds(&database, &table).await?;
    if let Some(emulator) = database.emulator() {
        let valid_from = emulator.new_generation().timestamp_ms;
        while emulator.clock().now_micros() <= valid_from * 1_000 {
            write_all_kinds(&database, &table).await?;
        }
        write_all_kinds(&database, &table).await?;
    }
    let ours = ours(&database, &table).await?;
    let theirs = theirs(&database, &table, start).await?;
    assert!(ours.len() > 100, "only {} rows", ours.len());
    let missing: Vec<_> = theirs
        .keys()
        .filter(|key| !ours.contains_key(*key))
        .collect();
    let extra: Vec<_> = ours
        .keys()
        .filter(|key| !theirs.contains_key(*key))
        .collect();
    assert!(missing.is_empty(), "only they see {missing:?}");
    assert!(extra.is_empty(), "only we see {extra:?}");
    assert_eq!(ours, theirs);
    Ok(())
}

/// Inserts, updates, deletes of rows, ranges and partitions, with TTL and in batches.
async fn write_all_kinds(database: &Database, table: &TableName) -> Result<()> {
    let (session, name) = (
        &database.session,
        format!("{}.{}", table.keyspace, table.table),
    );
    session
        .query_unpaged(ddl(&name, &DdlOptions::default())?, ())
        .await?;
    let stored = outbox_writer::Outbox::new(session, &name).await?;
    let passing = outbox_writer::Outbox::builder()
        .store_nothing(true)
        .ttl_seconds(600)
        .build(session, &name)
        .await?;
    for key in 0..20 {
        let key = format!("order-{key}");
        let event = || {
            Event::new("order", &key, "Placed")
                .text("{}")
                .header("a", "b")
        };
        stored
            .batch()
            .events([event(), event()])
            .execute(session)
            .await?;
        passing.batch().event(event()).execute(session).await?;
        let receipt = stored.batch().event(event()).execute(session).await?;
        let id = CqlTimeuuid::from(receipt.event_ids[0]);
        let update = format!(
            "UPDATE {name} SET event_type = 'Seen', payload = null \
             WHERE aggregate_id = ? AND id = ?"
        );
        session.query_unpaged(update, (&key, id)).await?;
        let range = format!("DELETE FROM {name} WHERE aggregate_id = ? AND id < ?");
        session.query_unpaged(range, (&key, id)).await?;
    }
    let partition = format!("DELETE FROM {name} WHERE aggregate_id = 'order-3'");
    session.query_unpaged(partition, ()).await?;
    Ok(())
}

async fn ours(database: &Database, table: &TableName) -> Result<Rows> {
    let session = &database.session;
    let reader = LogReader::open(Arc::clone(session), &outbox(table.clone()), 7).await?;
    let generations = Generations::of(Arc::clone(session), table.clone()).await?;
    let all = Range {
        after: 0,
        upto: None,
    };
    let mut rows = Rows::new();
    for timestamp in generations.timestamps().await? {
        for group in generations.groups(timestamp).await? {
            let mut from = Some(PagingState::start());
            while let Some(state) = from {
                let page = reader.rows(&group.streams, all, state).await?;
                for row in page.rows {
                    let stream = group.streams[usize::from(row.stream)].to_string();
                    let said = Said {
                        operation: row.operation as i8,
                        end_of_batch: row.end_of_batch,
                        values: row.values,
                    };
                    let key = (stream, row.position.time, row.position.seq);
                    anyhow::ensure!(rows.insert(key, said).is_none(), "a row was read twice");
                }
                from = page.next;
            }
        }
    }
    Ok(rows)
}

async fn theirs(database: &Database, table: &TableName, start: Duration) -> Result<Rows> {
    let reader =
        LogReader::open(Arc::clone(&database.session), &outbox(table.clone()), 1_000).await?;
    let collected = Arc::new(Mutex::new(Rows::new()));
    let factory = Collecting {
        columns: reader.columns().names.clone(),
        rows: Arc::clone(&collected),
    };
    let (_reader, finished) = CDCLogReaderBuilder::new()
        .session(Arc::clone(&database.session))
        .keyspace(&table.keyspace)
        .table_name(&table.table)
        .start_timestamp(start)
        .end_timestamp(now() + Duration::from_secs(1))
        .window_size(Duration::from_hours(24))
        .safety_interval(Duration::ZERO)
        .sleep_interval(Duration::from_millis(20))
        .consumer_factory(Arc::new(factory))
        .build()
        .await
        .context("start the official reader")?;
    tokio::time::timeout(crate::support::STALL, finished)
        .await
        .context("the official reader does not end")??;
    let rows = collected.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(rows.clone())
}

#[derive(Clone)]
struct Collecting {
    columns: Vec<String>,
    rows: Arc<Mutex<Rows>>,
}

#[async_trait]
impl ConsumerFactory for Collecting {
    async fn new_consumer(&self) -> Box<dyn Consumer> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Consumer for Collecting {
    async fn consume_cdc(&mut self, mut row: CDCRow<'_>) -> Result<()> {
        let values = self
            .columns
            .iter()
            .map(|name| row.take_value(name))
            .collect();
        let key = (
            row.stream_id.to_string(),
            CqlTimeuuid::from(row.time),
            row.batch_seq_no,
        );
        let said = Said {
            operation: row.operation.clone() as i8,
            end_of_batch: row.end_of_batch,
            values,
        };
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        anyhow::ensure!(rows.insert(key, said).is_none(), "a row was read twice");
        Ok(())
    }
}

fn outbox(table: TableName) -> Outbox {
    let named = |name: &str| Some(name.to_owned());
    Outbox {
        table,
        columns: Columns {
            id: "id".to_owned(),
            key: "aggregate_id".to_owned(),
            payload: "payload".to_owned(),
            aggregate_type: named("aggregate_type"),
            event_type: named("event_type"),
            content_type: named("content_type"),
            created_at: named("created_at"),
            headers: named("headers"),
            traceparent: None,
            optional: BTreeSet::new(),
        },
        topic: TopicTemplate {
            parts: vec![TopicPart::AggregateType],
        },
        headers: Vec::new(),
        key_format: ValueFormat::Natural,
        payload_format: ValueFormat::Natural,
        tombstone_on_empty: false,
        standard_headers: StandardHeaders {
            id: "id".to_owned(),
            event_type: None,
            content_type: None,
            created_at: None,
            traceparent: None,
        },
    }
}

fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}
