//! From a writer's acknowledgement to the consumer, and what it costs the database and the relay.
//!
//! `cargo bench --bench latency` starts a genuine Apache Kafka, the emulator with three nodes of 256 vnodes,
//! and the relay as a process with its default configuration; then it writes 1,000 events/s over 5,000
//! keys and prints, for each number of streams, the latencies and the reads. A machine is noisy: compare
//! lines of one run.
//!
//! Options (environment): `BENCH_SECONDS` (30), `BENCH_RATE` (1000 events/s), `BENCH_KEYS` (5000),
//! `BENCH_FOLLOW` (what of `follow` is different, as YAML), `BENCH_CASES` (a comma-separated choice of
//! `hot`, `hints`, `costs`).

#![allow(
    dead_code,
    unused_imports,
    clippy::wildcard_imports,
    reason = "the support of the integration tests has more than this needs"
)]

#[path = "../tests/integration/support/mod.rs"]
mod support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use outbox_writer::{DdlOptions, Event, Outbox, WakeUp, ddl};
use scylla::client::session_builder::SessionBuilder;
use scylla_emulator::Emulator;
use support::collector::Collector;
use support::relay::Relay;
use support::{kafka, unique};
use tokio::task::JoinSet;

const WRITERS: usize = 32;
const WARM_UP: Duration = Duration::from_secs(10);
const NODES: u16 = 3;
const VNODES: u16 = 256;

/// One line of the report.
#[derive(Debug, Clone, Copy)]
struct Case {
    name: &'static str,
    nodes: u16,
    vnodes: u16,
    shards: u16,
    rate: u32,
    hints: bool,
}

fn setting(name: &str, default: u32) -> u32 {
    let value = std::env::var(name).ok();
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

#[tokio::main]
async fn main() -> Result<()> {
    // `cargo test --benches` only wants to know that it builds.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let rate = setting("BENCH_RATE", 1_000);
    let chosen = std::env::var("BENCH_CASES").unwrap_or_else(|_| "hot,hints,costs".to_owned());
    let case = |name, vnodes, shards, rate, hints| Case {
        name,
        nodes: if vnodes == VNODES { NODES } else { 1 },
        vnodes,
        shards,
        rate,
        hints,
    };
    let mut cases = Vec::new();
    for choice in chosen.split(',') {
        match choice {
            "hot" => cases.push(case("768 groups", VNODES, 1, rate, false)),
            "hints" => cases.push(case("768 groups, hints", VNODES, 1, rate, true)),
            "costs" => cases.extend([
                case("16 streams, idle", 8, 2, 0, false),
                case("16 streams", 8, 2, rate, false),
                case("768 streams, idle", VNODES, 1, 0, false),
                case("6144 streams, idle", VNODES, 8, 0, false),
                case("6144 streams", VNODES, 8, rate, false),
                case("6144 streams, hints", VNODES, 8, rate, true),
            ]),
            other => anyhow::bail!("no case {other}"),
        }
    }
    println!(
        "| case | events/s | p50 ms | p99 ms | max ms | reads/s | rows read/event | relay CPU % | relay MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for case in cases {
        run(case).await.with_context(|| case.name)?;
    }
    Ok(())
}

#[expect(
    clippy::too_many_lines,
    reason = "one measurement, from its set-up to its line"
)]
async fn run(case: Case) -> Result<()> {
    let broker = kafka::broker(case.name).await.context("no Kafka")?;
    let name = unique("bench");
    let topic = format!("{name}.order");
    kafka::create_topics(&broker.bootstrap, std::slice::from_ref(&topic)).await?;
    let emulator = Emulator::builder()
        .nodes(case.nodes)
        .vnodes(case.vnodes)
        .shards(case.shards)
        .start()
        .await?;
    let node = emulator.address().to_string();
    for keyspace in [name.clone(), format!("relay_{name}")] {
        emulator.execute(&format!(
            "CREATE KEYSPACE {keyspace} WITH replication = \
             {{'class': 'NetworkTopologyStrategy', 'replication_factor': 1}}"
        ))?;
    }
    let table = format!("{name}.outbox");
    emulator.execute(&ddl(&table, &DdlOptions::default())?)?;

    let port = support::free_port()?;
    let follow = std::env::var("BENCH_FOLLOW").unwrap_or_default();
    let wake_up = if case.hints {
        format!("wake_up: \"udp://127.0.0.1:{port}\", ")
    } else {
        String::new()
    };
    let relay = Relay::new(&format!(
        r#"relay: {{ name: "{name}" }}
scylla: {{ nodes: ["{node}"], keyspace: relay_{name} }}
kafka: {{ brokers: ["{}"] }}
outboxes: [{{ table: {table}, topic: "{name}.{{aggregate_type}}" }}]
follow: {{ {wake_up}{follow} }}
"#,
        broker.bootstrap
    ))?;
    relay.command(&["schema", "--apply"]).await?;
    let process = relay.start().await?;

    let session = SessionBuilder::new().known_node(&node).build().await?;
    let session = Arc::new(session);
    let mut outbox = Outbox::builder();
    if case.hints {
        outbox = outbox.wake_up(WakeUp::udp(&format!("127.0.0.1:{port}"))?);
    }
    let outbox = outbox.build(&session, &table).await?;
    let collector = Collector::start(&broker.bootstrap, std::slice::from_ref(&topic))?;

    // The first seconds are not measured: connections are opened, groups are taken up, and the broker's
    // machine compiles what it runs.
    let acknowledged: Arc<Mutex<HashMap<String, Instant>>> = Arc::default();
    let events = Arc::new(AtomicUsize::new(0));
    let started = Instant::now();
    let begun = started + WARM_UP;
    let end = begun + Duration::from_secs(u64::from(setting("BENCH_SECONDS", 30)));
    let mut writers = JoinSet::new();
    if case.rate > 0 {
        for writer in 0..WRITERS {
            let (session, outbox) = (Arc::clone(&session), outbox.clone());
            let (acknowledged, events) = (Arc::clone(&acknowledged), Arc::clone(&events));
            writers.spawn(async move {
                let keys = setting("BENCH_KEYS", 5_000) as usize;
                let pause = Duration::from_secs_f64(WRITERS as f64 / f64::from(case.rate));
                let mut due = started + pause.mul_f64(writer as f64 / WRITERS as f64);
                let mut number = writer;
                while Instant::now() < end {
                    tokio::time::sleep_until(due.into()).await;
                    due += pause;
                    // Keys of one writer only, in no order.
                    let key = number.wrapping_mul(7_919) / WRITERS % (keys / WRITERS);
                    let key = format!("order-{writer}-{key}");
                    number += WRITERS;
                    let event = Event::new("order", key, "Placed").text("a".repeat(300));
                    let receipt = outbox.batch().event(event).execute(&session).await?;
                    events.fetch_add(1, Ordering::Relaxed);
                    let now = Instant::now();
                    if now >= begun {
                        let mut acknowledged =
                            acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
                        acknowledged.insert(receipt.event_ids[0].to_string(), now);
                    }
                }
                anyhow::Ok(())
            });
        }
    }
    tokio::time::sleep_until(begun.into()).await;
    let cpu = process.cpu_ticks()?;
    tokio::time::sleep_until(end.into()).await;
    while let Some(ended) = writers.join_next().await {
        ended??;
    }
    let elapsed = begun.elapsed().as_secs_f64();
    let cpu = (process.cpu_ticks()? - cpu) as f64 / 100.0 / elapsed * 100.0;
    let written = acknowledged
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let events = events.load(Ordering::Relaxed);
    collector.wait(|now| now.events >= events).await?;
    let records = collector.all().await?;
    let mut latencies: Vec<f64> = records
        .iter()
        .filter_map(|record| {
            let acknowledged = written.get(&record.id())?;
            let latency = record.arrived.saturating_duration_since(*acknowledged);
            Some(latency.as_secs_f64() * 1e3)
        })
        .collect();
    latencies.sort_by(f64::total_cmp);
    let mib = process.resident_kib()? as f64 / 1024.0;
    let started = process.started();
    let log = process.stop_and_log().await?;
    let lifetime = started.elapsed().as_secs_f64();
    let counter = |name: &str| -> f64 {
        let line = log
            .lines()
            .rfind(|line| line.contains("relay has stopped"))
            .unwrap_or_default();
        let value = line
            .split([' ', '"', '='])
            .skip_while(|word| *word != name)
            .nth(1);
        value
            .and_then(|value| value.parse().ok())
            .unwrap_or(f64::NAN)
    };
    let at = |part: f64| {
        let index = ((latencies.len() as f64 * part) as usize).min(latencies.len().max(1) - 1);
        latencies.get(index).copied().unwrap_or(f64::NAN)
    };
    println!(
        "| {} | {:.0} | {:.1} | {:.1} | {:.1} | {:.0} | {:.1} | {:.0} | {:.0} |",
        case.name,
        written.len() as f64 / elapsed,
        at(0.5),
        at(0.99),
        at(1.0),
        counter("reads") / lifetime,
        counter("rows_read") / events.max(1) as f64,
        cpu,
        mib,
    );
    anyhow::ensure!(
        records.len() == events,
        "{} records of {events} events",
        records.len()
    );
    Ok(())
}
