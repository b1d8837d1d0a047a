//! Everything arrives once, in order, as it was written.

use crate::support::bench::Bench;
use crate::support::traffic::Plan;
use crate::support::{kafka, oracle};
use anyhow::Result;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_events_over_500_keys_and_two_tables() -> Result<()> {
    let case = "10,000 events";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = Bench::new(&broker.bootstrap).await?;
    let relay = bench.relay.start().await?;
    let plan = Plan {
        events: 10_000,
        keys: 500,
        ahead: 2_000,
    };
    bench.write_and_arrive(plan).await?;
    relay.stop().await?;
    let records = bench.assert_delivered(case).await?;
    assert_eq!(bench.traffic.written().len(), plan.events);
    assert_eq!(oracle::duplicates(&records), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_before_the_relay_first_ran() -> Result<()> {
    let case = "written before the first start";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = Bench::new(&broker.bootstrap).await?;
    let plan = Plan {
        events: 1_000,
        keys: 50,
        ahead: 1_000,
    };
    bench
        .traffic
        .write(plan, bench.collector.progress())
        .await?;
    let relay = bench.relay.start().await?;
    bench.arrived(plan.events).await?;
    relay.stop().await?;
    let records = bench.assert_delivered(case).await?;
    assert_eq!(oracle::duplicates(&records), 0);
    Ok(())
}
