//! New streams in the middle of the traffic.

use crate::support::bench::Bench;
use crate::support::traffic::Plan;
use crate::support::{kafka, oracle, say};
use anyhow::Result;

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
