//! A clean stop loses nothing and repeats nothing.

use crate::support::bench::{Bench, IN_FLIGHT};
use crate::support::proxy::Mode;
use crate::support::relay::STOP_ASKED;
use crate::support::traffic::Plan;
use crate::support::{kafka, oracle, until};
use anyhow::Result;
use std::time::{Duration, Instant};

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_sigterm_ends_a_drain_that_cannot_end() -> Result<()> {
    let case = "a second SIGTERM";
    let Some(broker) = kafka::proxied(case).await else {
        return Ok(());
    };
    let bench = Bench::behind(&broker, "shutdown: { drain_timeout: 1h }").await?;
    let plan = Plan {
        events: 200,
        keys: 20,
        ahead: 200,
    };
    let mut relay = bench.relay.start().await?;
    bench.write_and_arrive(plan).await?;
    broker.proxy.set(Mode::BlackHole).await?;
    bench.write(plan).await?;
    let swallowed = async || Ok(broker.proxy.swallowed() > 0);
    until("the relay publishes into the void", swallowed).await?;
    relay.signal("TERM").await?;
    relay.said(STOP_ASKED).await?;
    relay.signal("TERM").await?;
    // That it ends at all is what the second one does: the drain may take an hour.
    let status = relay.ended().await?;
    assert_eq!(status.code(), Some(128 + 15), "{status}");

    broker.proxy.set(Mode::Pass).await?;
    let relay = bench.relay.start().await?;
    bench.all_arrived().await?;
    relay.stop().await?;
    bench.assert_delivered(case).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigstop_for_longer_than_every_timeout_and_sigcont() -> Result<()> {
    let case = "SIGSTOP";
    let Some(broker) = kafka::proxied(case).await else {
        return Ok(());
    };
    let timeouts = "{ retry: { attempt_timeout: 500ms }, scylla: { request_timeout: 500ms }, \
                    breaker: { open_for: 500ms } }";
    let bench = Bench::behind(&broker, timeouts).await?;
    let plan = Plan {
        events: 600,
        keys: 100,
        ahead: 600,
    };
    let relay = bench.relay.start().await?;
    bench.write_and_arrive(plan).await?;
    for _ in 0..3 {
        // It is stopped in the middle of reading and publishing.
        let before = bench.traffic.written().len();
        let stopping = async {
            bench.arrived(before + 100).await?;
            relay.signal("STOP").await
        };
        tokio::try_join!(bench.write(plan), stopping)?;
        let stopped = Instant::now();
        let for_long = async || Ok(stopped.elapsed() > Duration::from_secs(2));
        until("the relay is stopped for long", for_long).await?;
        relay.signal("CONT").await?;
        bench.all_arrived().await?;
    }
    relay.stop().await?;
    let records = bench.assert_delivered(case).await?;
    let repeated = oracle::duplicates(&records);
    assert!(repeated <= 3 * IN_FLIGHT, "{repeated} duplicates");
    Ok(())
}
