//! A broker that cannot be reached, does not answer, answers late or not at all.

use crate::support::bench::{Bench, IN_FLIGHT};
use crate::support::proxy::{Mode, Proxy};
use crate::support::relay::ATTEMPT_FAILED;
use crate::support::traffic::Plan;
use crate::support::{kafka, oracle};
use anyhow::{Result, ensure};
use std::time::Duration;

const PLAN: Plan = Plan {
    events: 1_500,
    keys: 100,
    ahead: 500,
};

/// Attempts that end soon, so that a broker which says nothing is noticed soon; and a breaker that
/// is quick to probe.
const SHORT_ATTEMPTS: &str = "{ retry: { attempt_timeout: 1s }, breaker: { open_for: 500ms } }";

/// Breaks the network as `mode` says when a third of the events has arrived, waits until `noticed`,
/// heals it, and gives the number of duplicates.
async fn broken(
    case: &str,
    mode: Mode,
    noticed: impl AsyncFn(&Proxy) -> Result<()>,
) -> Result<usize> {
    let Some(broker) = kafka::proxied(case).await else {
        return Ok(0);
    };
    let bench = Bench::behind(&broker, SHORT_ATTEMPTS).await?;
    let relay = bench.relay.start().await?;
    let breaking = async {
        bench.arrived(PLAN.events / 3).await?;
        broker.proxy.set(mode).await?;
        noticed(&broker.proxy).await?;
        relay.said(ATTEMPT_FAILED).await?;
        broker.proxy.set(Mode::Pass).await?;
        bench.arrived(PLAN.events).await
    };
    let writing = bench.traffic.write(PLAN, bench.collector.progress());
    tokio::try_join!(breaking, writing)?;
    relay.stop().await?;
    let records = bench.assert_delivered(case).await?;
    Ok(oracle::duplicates(&records))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_refused_for_seconds() -> Result<()> {
    let duplicates = broken("connections refused", Mode::Refuse, async |_| Ok(())).await?;
    ensure!(duplicates <= IN_FLIGHT, "{duplicates} duplicates");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_network_swallows_everything_for_seconds() -> Result<()> {
    let duplicates = broken("black hole", Mode::BlackHole, async |_| Ok(())).await?;
    ensure!(duplicates <= IN_FLIGHT, "{duplicates} duplicates");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledgement_is_lost_after_the_append() -> Result<()> {
    let lost = async |proxy: &Proxy| {
        let swallowed = async {
            while proxy.swallowed() == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(crate::support::STALL, swallowed).await?;
        Ok(())
    };
    let duplicates = broken("acknowledgements lost", Mode::DropAnswers, lost).await?;
    ensure!(duplicates <= 2 * IN_FLIGHT, "{duplicates} duplicates");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_broker_stops_the_reader_and_reorders_nothing() -> Result<()> {
    let case = "a slow broker";
    let Some(broker) = kafka::proxied(case).await else {
        return Ok(());
    };
    // The producer's own queue is full long before the relay's limits are reached.
    let full = "kafka: { properties: { queue.buffering.max.messages: 20 } }";
    let bench = Bench::behind(&broker, full).await?;
    let relay = bench.relay.start().await?;
    broker
        .proxy
        .set(Mode::Slow(Duration::from_millis(50)))
        .await?;
    bench
        .write_and_arrive(Plan {
            ahead: 1_500,
            ..PLAN
        })
        .await?;
    relay.stop().await?;
    let records = bench.assert_delivered(case).await?;
    assert_eq!(oracle::duplicates(&records), 0);
    Ok(())
}
