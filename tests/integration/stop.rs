//! A clean stop loses nothing and repeats nothing.

use crate::support::bench::Bench;
use crate::support::traffic::Plan;
use crate::support::{kafka, oracle};
use anyhow::Result;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_in_the_middle_and_a_restart() -> Result<()> {
    let case = "SIGTERM in the middle";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = Bench::new(&broker.bootstrap).await?;
    let plan = Plan {
        events: 4_000,
        keys: 200,
        ahead: 600,
    };
    let stops = async {
        for stop in 1..=3 {
            let relay = bench.relay.start().await?;
            bench.arrived(stop * plan.events / 4).await?;
            relay.stop().await?;
        }
        let relay = bench.relay.start().await?;
        bench.arrived(plan.events).await?;
        relay.stop().await
    };
    let writing = bench.traffic.write(plan, bench.collector.progress());
    tokio::try_join!(stops, writing)?;
    let records = bench.assert_delivered(case).await?;
    assert_eq!(
        oracle::duplicates(&records),
        0,
        "a clean stop repeats nothing"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_with_nothing_new_publishes_nothing() -> Result<()> {
    let case = "an idle restart";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = Bench::new(&broker.bootstrap).await?;
    let plan = Plan {
        events: 300,
        keys: 30,
        ahead: 300,
    };
    let relay = bench.relay.start().await?;
    bench.write_and_arrive(plan).await?;
    relay.stop().await?;
    bench.relay.start().await?.stop().await?;
    // What is written now shows that the third relay has read past everything that was there.
    let relay = bench.relay.start().await?;
    let more = Plan { events: 30, ..plan };
    bench.write_and_arrive(more).await?;
    relay.stop().await?;
    let records = bench.assert_delivered(case).await?;
    assert_eq!(oracle::duplicates(&records), 0);
    Ok(())
}
