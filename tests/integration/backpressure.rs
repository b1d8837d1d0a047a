//! Kafka is away and rows pour in: memory stays flat, W holds, and all arrives afterwards.
//!
//! `OUTBOX_RELAY_OUTAGE_SECONDS` says how long the outage lasts (default 15); the figures that the
//! case prints for some minutes of it stand in `docs/dead-letters.md`.

use crate::support::bench::{Bench, IN_FLIGHT};
use crate::support::proxy::Mode;
use crate::support::traffic::Plan;
use crate::support::{kafka, oracle, say};
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::time::interval;

/// Events written in each second of the outage.
const RATE: usize = 500;
/// What memory may grow by between the first and the last third of the outage: noise of the
/// allocator, far below what the rows of the outage would take.
const SLACK_KIB: u64 = 8 * 1024;
/// How long after the outage's begin every stream group has surely been written to.
const ALL_WRITTEN: Duration = Duration::from_secs(3);

fn outage() -> Duration {
    let seconds = std::env::var("OUTBOX_RELAY_OUTAGE_SECONDS").ok();
    let seconds = seconds.and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(15))
}

fn now_micros() -> Result<i64> {
    Ok(i64::try_from(
        SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros(),
    )?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_stays_flat_while_kafka_is_away() -> Result<()> {
    let case = "a long outage";
    let Some(broker) = kafka::proxied(case).await else {
        return Ok(());
    };
    let bench = Bench::behind(&broker, "breaker: { open_for: 1s }").await?;
    let relay = bench.relay.start().await?;
    let plan = |events| Plan {
        events,
        keys: 200,
        ahead: 0,
    };
    bench.write(plan(2_000)).await?;
    bench.all_arrived().await?;
    let before = relay.resident_kib()?;

    broker.proxy.set(Mode::Refuse).await?;
    let (began, began_micros) = (Instant::now(), now_micros()?);
    let mut seconds = interval(Duration::from_secs(1));
    let mut resident = Vec::new();
    while began.elapsed() < outage() {
        seconds.tick().await;
        bench.write(plan(RATE)).await?;
        resident.push(relay.resident_kib()?);
    }
    let written = bench.traffic.written().len();
    let arrived = bench.collector.progress().borrow().events;
    ensure!(
        written > arrived + IN_FLIGHT,
        "{written} written, {arrived} arrived"
    );
    let latest = began_micros + i64::try_from(ALL_WRITTEN.as_micros())?;
    for (group, watermark) in bench.watermarks().await? {
        let over = watermark - began_micros;
        assert!(
            watermark < latest,
            "W of {group:?} is {over} µs past the begin of the outage"
        );
    }
    let third = resident.len() / 3;
    let peak = |resident: &[u64]| resident.iter().max().copied().context("samples");
    let (first, last) = (peak(&resident[..third])?, peak(&resident[2 * third..])?);
    say(&format!(
        "{case}: {} events written in {} s; resident {} MiB before, {} MiB at most in the first \
         third, {} MiB in the last",
        written - 2_000,
        began.elapsed().as_secs(),
        before / 1024,
        first / 1024,
        last / 1024
    ));
    assert!(last <= first + SLACK_KIB, "{first} KiB, then {last} KiB");

    broker.proxy.set(Mode::Pass).await?;
    bench.all_arrived().await?;
    relay.stop().await?;
    let records = bench.assert_delivered(case).await?;
    let duplicates = oracle::duplicates(&records);
    assert!(duplicates <= IN_FLIGHT, "{duplicates} duplicates");
    Ok(())
}
