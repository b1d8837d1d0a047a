//! The harness itself: a broker can be had, and records are read as they were produced.

use crate::support::collector::{Collector, Progress, Record};
use crate::support::database::Database;
use crate::support::traffic::{Plan, Traffic, tables};
use crate::support::{kafka, unique};
use anyhow::Result;
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use std::collections::HashSet;
use std::time::Duration;
use tokio::sync::watch;

async fn produce(bootstrap: &str, topic: &str, id: &str) -> Result<()> {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .create()?;
    let headers = OwnedHeaders::new().insert(Header {
        key: "id",
        value: Some(id),
    });
    let record = FutureRecord::to(topic)
        .key("key")
        .payload(id)
        .headers(headers);
    producer
        .send(record, Duration::from_secs(30))
        .await
        .map_err(|(error, _)| error)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_read_as_they_were_produced() -> Result<()> {
    let Some(broker) = kafka::broker("the harness").await else {
        return Ok(());
    };
    let topics = [unique("harness")];
    kafka::create_topics(&broker.bootstrap, &topics).await?;
    let collector = Collector::start(&broker.bootstrap, &topics)?;
    for id in ["1", "2", "1"] {
        produce(&broker.bootstrap, &topics[0], id).await?;
    }
    let records = collector.all().await?;
    let ids: Vec<String> = records.iter().map(Record::id).collect();
    assert_eq!(ids, ["1", "2", "1"]);
    assert_eq!(collector.progress().borrow().events, 2);
    assert_eq!(records[0].key, b"key");
    assert_eq!(records[0].payload.as_deref(), Some(b"1".as_slice()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_keeps_its_records_when_it_is_killed() -> Result<()> {
    let Some(mut node) = kafka::own_node("a broker of one's own").await else {
        return Ok(());
    };
    let bootstrap = node.bootstrap();
    let topics = [unique("harness")];
    kafka::create_topics(&bootstrap, &topics).await?;
    produce(&bootstrap, &topics[0], "before").await?;
    let node = tokio::task::spawn_blocking(move || {
        node.kill()?;
        node.restart()?;
        anyhow::Ok(node)
    })
    .await??;
    produce(&bootstrap, &topics[0], "after").await?;
    let records = Collector::start(&bootstrap, &topics)?.all().await?;
    assert_eq!(records.len(), 2);
    drop(node);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traffic_remembers_what_it_wrote() -> Result<()> {
    let database = Database::start().await?;
    let keyspace = unique("traffic");
    database.create_keyspace(&keyspace).await?;
    let topics = ["order", "invoice"].map(str::to_owned);
    let traffic = Traffic::new(&database, &keyspace, topics).await?;
    let plan = Plan {
        events: 500,
        keys: 60,
        ahead: 1_000,
    };
    let (_progress, nothing_published) = watch::channel(Progress::default());
    traffic.write(plan, nothing_published.clone()).await?;
    traffic.write(plan, nothing_published).await?;

    let written = traffic.written();
    let ids: HashSet<_> = written.iter().map(|write| &write.id).collect();
    let keys: HashSet<_> = written.iter().map(|write| &write.key).collect();
    assert_eq!((written.len(), ids.len(), keys.len()), (1_000, 1_000, 60));
    let mut rows = 0;
    for table in <[String; 2]>::from(tables(&keyspace)) {
        let count = format!("SELECT COUNT(*) FROM {table}");
        let result = database.session.query_unpaged(count, ()).await?;
        rows += result.into_rows_result()?.single_row::<(i64,)>()?.0;
    }
    assert_eq!(rows, 1_000);
    Ok(())
}
