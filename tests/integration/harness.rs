//! The harness itself: a broker can be had, and records are read as they were produced.

use crate::support::collector::{Collector, Record};
use crate::support::{kafka, unique};
use anyhow::Result;
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use std::time::Duration;

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
