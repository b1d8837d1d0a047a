//! Two relays of one name: one publishes, the other one waits for its turn.

use crate::support::bench::{Bench, IN_FLIGHT};
use crate::support::collector::Record;
use crate::support::relay::{NAME_IN_USE, NAME_LOST, READY};
use crate::support::traffic::Plan;
use crate::support::{kafka, oracle, say, until};
use anyhow::Result;
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// How long an owner that renews nothing keeps the name, at most.
const LEASE: Duration = Duration::from_secs(10);
/// The longest time between two checkpoints: the interval of one second, and as much again for the
/// write itself on a machine that is busy with tests.
const CHECKPOINT_AGE: Duration = Duration::from_secs(2);

const PLAN: Plan = Plan {
    events: 2_000,
    keys: 200,
    ahead: 2_000,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_relay_waits_and_takes_over_when_the_first_stops() -> Result<()> {
    let case = "two relays of one name";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = Bench::new(&broker.bootstrap).await?;
    let first = bench.relay.start().await?;
    let second = bench.relay.launch(&[])?;
    second.said(NAME_IN_USE).await?;
    let stopping = async {
        bench.arrived(PLAN.events / 4).await?;
        assert_eq!(second.count(READY), 0, "the first one runs");
        first.stop().await?;
        second.said(READY).await
    };
    tokio::try_join!(bench.write(PLAN), stopping)?;
    bench.write(PLAN).await?;
    bench.all_arrived().await?;
    second.stop().await?;
    let records = bench.assert_delivered(case).await?;
    assert_eq!(oracle::duplicates(&records), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_frozen_for_longer_than_its_lease_is_replaced_and_ends() -> Result<()> {
    let case = "a relay frozen for longer than its lease";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = Bench::new(&broker.bootstrap).await?;
    let mut first = bench.relay.start().await?;
    let second = bench.relay.launch(&[])?;
    second.said(NAME_IN_USE).await?;
    // What is published before the last checkpoint is not published again.
    let started = Instant::now();
    while started.elapsed() < 2 * CHECKPOINT_AGE {
        bench
            .write_and_arrive(Plan {
                events: 100,
                ..PLAN
            })
            .await?;
    }
    let before = bench.traffic.written().len();
    let freezing = async {
        bench.arrived(before + 100).await?;
        first.signal("STOP").await?;
        anyhow::Ok(Instant::now())
    };
    let ((), frozen) = tokio::try_join!(bench.write(PLAN), freezing)?;
    let at_freeze = bench.collector.all().await?;
    second.said(READY).await?;
    let taken_over = frozen.elapsed();
    say(&format!("{case}: taken over after {taken_over:?}"));
    let for_long = async || Ok(frozen.elapsed() > LEASE + CHECKPOINT_AGE);
    until("the relay is frozen for longer than its lease", for_long).await?;
    // It wakes up while its successor publishes.
    let waking = async {
        first.signal("CONT").await?;
        first.said(NAME_LOST).await?;
        first.ended().await
    };
    let ((), status) = tokio::try_join!(bench.write(PLAN), waking)?;
    assert_eq!(status.code(), Some(1), "{status}");
    bench.all_arrived().await?;
    bench
        .write_and_arrive(Plan {
            events: 100,
            ..PLAN
        })
        .await?;
    second.stop().await?;

    let records = bench.assert_delivered(case).await?;
    let recent: HashSet<String> = at_freeze
        .iter()
        .filter(|record| record.arrived + CHECKPOINT_AGE >= frozen)
        .map(Record::id)
        .collect();
    let (repeated, recent) = (oracle::duplicates(&records), recent.len());
    say(&format!(
        "{case}: {repeated} repeated; {recent} published in the {CHECKPOINT_AGE:?} before, up to \
         {IN_FLIGHT} in flight"
    ));
    assert!(repeated <= IN_FLIGHT + recent, "{repeated} duplicates");
    Ok(())
}
