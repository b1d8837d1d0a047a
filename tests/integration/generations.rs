//! New streams in the middle of the traffic.

use crate::support::bench::{Bench, Setup};
use crate::support::database::Database;
use crate::support::traffic::{Plan, tables};
use crate::support::{kafka, oracle, say};
use anyhow::{Context, Result};
use scylla_emulator::Emulator;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_generation_under_load_and_one_while_down() -> Result<()> {
    let case = "generation changes";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = Bench::new(&broker.bootstrap).await?;
    let Some(emulator) = bench.database.emulator() else {
        say(&format!(
            "skipped: {case}: only the emulator can be told to make a generation"
        ));
        return Ok(());
    };
    let few = Plan {
        events: 200,
        keys: 200,
        ahead: 200,
    };
    let passed = |millis: i64| emulator.clock().now_micros() > millis * 1_000;

    let relay = bench.relay.start().await?;
    bench.write_and_arrive(few).await?;
    let under_load = emulator.new_generation().timestamp_ms;
    while !passed(under_load) {
        bench.write_and_arrive(few).await?;
    }
    bench.write_and_arrive(few).await?;
    relay.stop().await?;

    let while_down = emulator.new_generation().timestamp_ms;
    assert!(while_down > under_load, "the second generation is later");
    let unpublished = Plan {
        events: 20,
        keys: 20,
        ahead: usize::MAX / 2,
    };
    while !passed(while_down) {
        bench
            .traffic
            .write(unpublished, bench.collector.progress())
            .await?;
    }
    bench
        .traffic
        .write(unpublished, bench.collector.progress())
        .await?;
    let relay = bench.relay.start().await?;
    bench.write_and_arrive(few).await?;
    relay.stop().await?;

    let records = bench.assert_delivered(case).await?;
    assert_eq!(oracle::duplicates(&records), 0);
    Ok(())
}

const FEW: Plan = Plan {
    events: 200,
    keys: 200,
    ahead: 200,
};
const UNPUBLISHED: Plan = Plan {
    events: 20,
    keys: 20,
    ahead: usize::MAX / 2,
};

/// Writes go to streams that the relay hears of seconds later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generation_that_is_listed_late() -> Result<()> {
    let case = "a generation listed late";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = Bench::emulated(&broker, "follow: { generation_poll: 500ms }").await?;
    let emulator = bench.database.emulator().context("the emulator")?;
    let relay = bench.relay.start().await?;
    bench.write_and_arrive(FEW).await?;
    let begins = emulator.clock().now_micros() / 1_000 + 500;
    let late = Duration::from_secs(4);
    emulator.publish_generation_late(begins, late);
    while emulator.clock().now_micros() < (begins + 6_000) * 1_000 {
        bench.write(UNPUBLISHED).await?;
    }
    bench.write(FEW).await?;
    bench.all_arrived().await?;
    relay.stop().await?;
    let records = bench.assert_delivered(case).await?;
    assert_eq!(oracle::duplicates(&records), 0);
    Ok(())
}

/// Tablets are split and joined under load, while the relay is down, and while a node's view lags.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tablets_are_split_and_merged() -> Result<()> {
    let case = "tablets split and merged";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let setup = Setup {
        direct: &broker.bootstrap,
        more: "follow: { generation_poll: 500ms }",
        ..Setup::default()
    };
    let database = Database::emulated(Emulator::builder().nodes(3)).await?;
    let bench = Bench::with(database.with_tablets(), setup).await?;
    let emulator = bench.database.emulator().context("the emulator")?;
    let (orders, billing) = tables(&bench.name);
    let table = |name: &str| name.split('.').next_back().unwrap_or_default().to_owned();
    let tables = [table(&orders), table(&billing)];
    let resize = |split: bool| -> Result<i64> {
        let mut begins = 0;
        for table in &tables {
            let set = if split {
                emulator.split_tablets(&bench.name, table)?
            } else {
                emulator.merge_tablets(&bench.name, table)?
            };
            begins = set.timestamp_ms.max(begins);
        }
        Ok(begins)
    };
    let passed = |millis: i64| emulator.clock().now_micros() > millis * 1_000;

    let relay = bench.relay.start().await?;
    bench.write_and_arrive(FEW).await?;
    emulator.lag_node_view(1, true);
    let split = resize(true)?;
    while !passed(split) {
        bench.write_and_arrive(FEW).await?;
    }
    bench.write_and_arrive(FEW).await?;
    emulator.lag_node_view(1, false);
    relay.stop().await?;

    let merged = resize(false)?;
    while !passed(merged) {
        bench.write(UNPUBLISHED).await?;
    }
    bench.write(UNPUBLISHED).await?;
    let relay = bench.relay.start().await?;
    bench.write_and_arrive(FEW).await?;
    let again = resize(true)?;
    while !passed(again) {
        bench.write_and_arrive(FEW).await?;
    }
    bench.write_and_arrive(FEW).await?;
    relay.stop().await?;
    let records = bench.assert_delivered(case).await?;
    assert_eq!(oracle::duplicates(&records), 0);
    Ok(())
}
