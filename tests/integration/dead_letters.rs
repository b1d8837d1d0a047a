//! Events that cannot be published: kept, understood, replayed in their place, or discarded.

use crate::support::bench::Bench;
use crate::support::collector::Record;
use crate::support::traffic::{Plan, tables};
use crate::support::{STALL, kafka};
use anyhow::{Context, Result, bail, ensure};
use outbox_writer::{Event, Outbox};
use serde_json::Value;
use std::time::Instant;
use tokio::time::sleep;

const POISON: &str = "poison";
/// Larger than the topic takes, smaller than the producer does.
const HUGE: usize = 100_000;
const SMALL_LIMIT: &str = "50000";
const LARGE_LIMIT: &str = "1000000";

/// Writes events of one key beside the bench's traffic.
struct Writer<'b> {
    bench: &'b Bench,
    outbox: Outbox,
}

impl<'b> Writer<'b> {
    async fn new(bench: &'b Bench) -> Result<Self> {
        let (orders, _) = tables(&bench.name);
        let outbox = Outbox::new(&bench.database.session, &orders).await?;
        Ok(Self { bench, outbox })
    }

    /// Writes an event with this payload; gives its id.
    async fn write(&self, key: &str, payload: impl Into<String>) -> Result<String> {
        let event = Event::new("order", key, "Placed").text(payload);
        let receipt = self
            .outbox
            .batch()
            .event(event)
            .execute(&self.bench.database.session)
            .await?;
        Ok(receipt.event_ids[0].to_string())
    }
}

/// The objects that a command prints, one a line.
async fn objects(bench: &Bench, arguments: &[&str]) -> Result<Vec<Value>> {
    let printed = bench.relay.command(arguments).await?;
    let lines = printed.lines().map(serde_json::from_str);
    Ok(lines.collect::<Result<_, _>>()?)
}

async fn list(bench: &Bench) -> Result<Vec<Value>> {
    objects(bench, &["dead-letters", "list", "--output", "json"]).await
}

/// Waits until so many dead letters are listed.
async fn listed(bench: &Bench, count: usize) -> Result<Vec<Value>> {
    let deadline = Instant::now() + STALL;
    loop {
        let letters = list(bench).await?;
        if letters.len() == count {
            return Ok(letters);
        }
        if Instant::now() > deadline {
            bail!(
                "{} dead letters instead of {count}: {letters:#?}",
                letters.len()
            );
        }
        sleep(std::time::Duration::from_millis(200)).await;
    }
}

fn reasons(letters: &[Value]) -> Vec<&str> {
    letters
        .iter()
        .filter_map(|letter| letter["reason"].as_str())
        .collect()
}

fn ids_of(records: &[Record], key: &str) -> Vec<String> {
    let of_key = records.iter().filter(|record| record.key == key.as_bytes());
    of_key.map(Record::id).collect()
}

/// Polls until an id has arrived.
async fn arrived(bench: &Bench, id: &str) -> Result<Vec<Record>> {
    let deadline = Instant::now() + STALL;
    loop {
        let records = bench.collector.all().await?;
        if records.iter().any(|record| record.id() == id) {
            return Ok(records);
        }
        ensure!(Instant::now() < deadline, "event {id} does not arrive");
        sleep(std::time::Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poison_event_parks_its_key_while_a_thousand_others_flow() -> Result<()> {
    let case = "a poison event";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = Bench::new(&broker.bootstrap).await?;
    let topic = bench.topics[0].clone();
    kafka::set_topic(&broker.bootstrap, &topic, "max.message.bytes", SMALL_LIMIT).await?;
    let writer = Writer::new(&bench).await?;
    let relay = bench.relay.start().await?;

    let mut ids = vec![writer.write(POISON, "before").await?];
    ids.push(writer.write(POISON, "x".repeat(HUGE)).await?);
    ids.push(writer.write(POISON, "after").await?);
    let plan = Plan {
        events: 2_000,
        keys: 1_000,
        ahead: 1_000,
    };
    bench
        .traffic
        .write(plan, bench.collector.progress())
        .await?;
    // All of the others, and the one before the poison.
    bench.arrived(plan.events + 1).await?;
    let letters = listed(&bench, 2).await?;
    assert_eq!(reasons(&letters), ["permanent", "parked"]);
    assert_eq!(letters[0]["error_kind"], "too_large");
    assert_eq!([&letters[0]["id"], &letters[1]["id"]], [&ids[1], &ids[2]]);
    ids.push(writer.write(POISON, "later still").await?);
    listed(&bench, 3).await?;

    let shown = bench
        .relay
        .command(&["dead-letters", "show", &ids[1]])
        .await?;
    for word in [
        "permanent",
        "max.message.bytes",
        "message.max.bytes",
        "replay",
        &ids[1],
    ] {
        assert!(shown.contains(word), "`show` does not say {word}:\n{shown}");
    }

    // Nothing has changed: the replay fails, and says so.
    let again = [
        "dead-letters",
        "replay",
        "--key",
        POISON,
        "--output",
        "json",
    ];
    let output = bench.relay.output(&again).await?;
    assert_eq!(output.status.code(), Some(1));
    let failed: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(
        (&failed["failed"], &failed["published"]),
        (&1.into(), &0.into())
    );
    assert_eq!(list(&bench).await?[0]["attempts"], 2);

    kafka::set_topic(&broker.bootstrap, &topic, "max.message.bytes", LARGE_LIMIT).await?;
    let dry = objects(&bench, &[&again[..], &["--dry-run"]].concat()).await?;
    assert_eq!(
        (&dry[0]["planned"], &dry[0]["published"]),
        (&3.into(), &0.into())
    );
    let done = objects(&bench, &again).await?;
    assert_eq!(
        (&done[0]["published"], &done[0]["failed"]),
        (&3.into(), &0.into())
    );
    assert_eq!(list(&bench).await?, Vec::<Value>::new());
    // The key flows again.
    ids.push(writer.write(POISON, "and on").await?);
    let records = arrived(&bench, &ids[4]).await?;
    assert_eq!(ids_of(&records, POISON), ids, "in order, and each once");
    relay.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_of_a_stopped_relay_are_replayed_or_discarded() -> Result<()> {
    let case = "dead letters of a stopped relay";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = Bench::new(&broker.bootstrap).await?;
    let topic = bench.topics[0].clone();
    kafka::set_topic(&broker.bootstrap, &topic, "max.message.bytes", SMALL_LIMIT).await?;
    let writer = Writer::new(&bench).await?;
    let relay = bench.relay.start().await?;
    let mut ids = Vec::new();
    for key in ["a", "b"] {
        ids.push(writer.write(key, "x".repeat(HUGE)).await?);
        ids.push(writer.write(key, "after").await?);
    }
    listed(&bench, 4).await?;
    relay.stop().await?;

    // A restart knows which keys are parked, and repeats nothing.
    let relay = bench.relay.start().await?;
    ids.push(writer.write("a", "after the restart").await?);
    listed(&bench, 5).await?;
    relay.stop().await?;

    let file = tempfile::tempdir()?;
    let file = file.path().join("dead.jsonl");
    let path = file.to_str().context("a path")?;
    bench
        .relay
        .command(&["dead-letters", "export", "--key", "b", "--file", path])
        .await?;
    let exported = std::fs::read_to_string(&file)?;
    let exported: Vec<Value> = exported
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    assert_eq!(exported.len(), 2);
    assert_eq!(exported[0]["payload"].as_str().map(str::len), Some(HUGE));

    let refused = bench
        .relay
        .output(&["dead-letters", "discard", "--key", "b"])
        .await?;
    assert_eq!(
        refused.status.code(),
        Some(1),
        "without --yes nothing is discarded"
    );
    bench
        .relay
        .command(&["dead-letters", "discard", "--key", "b", "--yes"])
        .await?;
    assert_eq!(list(&bench).await?.len(), 3);

    kafka::set_topic(&broker.bootstrap, &topic, "max.message.bytes", LARGE_LIMIT).await?;
    // Two people at once: one does it, the other one is told or finds nothing left.
    let again = [
        "dead-letters",
        "replay",
        "--all",
        "--rate",
        "20",
        "--output",
        "json",
    ];
    let (first, second) = tokio::try_join!(bench.relay.output(&again), bench.relay.output(&again))?;
    assert!(first.status.success() || second.status.success());
    assert_eq!(list(&bench).await?, Vec::<Value>::new());

    let relay = bench.relay.start().await?;
    let last = writer.write("a", "the last").await?;
    let records = arrived(&bench, &last).await?;
    let expected = [ids[0].clone(), ids[1].clone(), ids[4].clone(), last];
    assert_eq!(ids_of(&records, "a"), expected);
    assert_eq!(
        ids_of(&records, "b"),
        Vec::<String>::new(),
        "discarded is discarded"
    );
    let next = writer.write("b", "b goes on").await?;
    arrived(&bench, &next).await?;
    relay.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undecodable_row_is_a_dead_letter_that_can_be_mended() -> Result<()> {
    let case = "an undecodable row";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = Bench::new(&broker.bootstrap).await?;
    let json =
        |yaml: String| yaml.replacen("    topic:", "    payload_format: json\n    topic:", 1);
    bench.relay.rewrite(json)?;
    let writer = Writer::new(&bench).await?;
    let relay = bench.relay.start().await?;
    let mut ids = Vec::new();
    for payload in ["{\"n\": 1}", "no JSON", "{\"n\": 3}"] {
        ids.push(writer.write("mixed", payload).await?);
    }
    let other = writer.write("other", "{}").await?;
    arrived(&bench, &other).await?;
    let letters = listed(&bench, 2).await?;
    assert_eq!(reasons(&letters), ["undecodable", "parked"]);
    assert_eq!(letters[0]["id"], ids[1]);
    let shown = bench
        .relay
        .command(&["dead-letters", "show", &ids[1]])
        .await?;
    assert!(
        shown.contains("JSON") && shown.contains("what to do"),
        "{shown}"
    );
    assert!(shown.contains("payload: no JSON"), "{shown}");
    let exported = objects(&bench, &["dead-letters", "export", "--id", &ids[1]]).await?;
    let row = &exported[0]["row"];
    assert_eq!(
        (&row["payload"], &row["id"], &row["aggregate_id"]),
        (&"no JSON".into(), &ids[1].as_str().into(), &"mixed".into())
    );
    assert!(letters[0].get("row").is_none(), "a list is without values");
    relay.stop().await?;
    // As after the TTL of the log: the dead letter is all that is left of the row.
    let (orders, _) = tables(&bench.name);
    let off = format!("ALTER TABLE {orders} WITH cdc = {{'enabled': false}}");
    bench.database.session.query_unpaged(off, ()).await?;

    // With a configuration that takes the row as it is, a replay publishes what was kept of it.
    bench
        .relay
        .rewrite(|yaml| yaml.replace("payload_format: json", "payload_format: natural"))?;
    bench
        .relay
        .command(&["dead-letters", "replay", "--id", &ids[1]])
        .await?;
    let records = arrived(&bench, &ids[2]).await?;
    assert_eq!(ids_of(&records, "mixed"), ids);
    assert_eq!(list(&bench).await?, Vec::<Value>::new());
    Ok(())
}
