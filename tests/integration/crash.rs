//! A relay that is killed loses nothing, keeps the order, and repeats little.

use crate::support::bench::{Bench, IN_FLIGHT};
use crate::support::collector::Record;
use crate::support::traffic::Plan;
use crate::support::{kafka, say};
use anyhow::Result;
use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

/// How often the relay is killed.
const KILLS: usize = 10;
/// The longest time between two checkpoints in milliseconds: the interval of one second, and as
/// much again for the write itself on a machine that is busy with tests.
const CHECKPOINT_AGE: i64 = 2_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigkill_in_the_middle_ten_times() -> Result<()> {
    let case = "SIGKILL ten times";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = Bench::new(&broker.bootstrap).await?;
    let plan = Plan {
        events: 6_600,
        keys: 200,
        ahead: 500,
    };
    let kills = async {
        let mut times = Vec::new();
        for kill in 1..=KILLS {
            let relay = bench.relay.start().await?;
            bench.arrived(kill * plan.events / (KILLS + 1)).await?;
            relay.kill().await?;
            times.push(now_millis());
        }
        let relay = bench.relay.start().await?;
        bench.arrived(plan.events).await?;
        relay.stop().await?;
        Ok(times)
    };
    let writing = bench.traffic.write(plan, bench.collector.progress());
    let (times, ()) = tokio::try_join!(kills, writing)?;
    let records = bench.assert_delivered(case).await?;
    assert_duplicates_are_bounded(case, &records, &times);
    Ok(())
}

/// A relay that dies may repeat what was in flight and what was published after the last
/// checkpoint. What a relay repeats is known by its time: the first relay after a kill repeats
/// records from before that kill.
fn assert_duplicates_are_bounded(case: &str, records: &[Record], kills: &[i64]) {
    let life = |record: &Record| kills.partition_point(|kill| *kill <= record.timestamp);
    let mut published_in = HashMap::new();
    let mut repeated = vec![0; kills.len() + 1];
    for record in records {
        if published_in.insert(record.id(), life(record)).is_some() {
            repeated[life(record)] += 1;
        }
    }
    assert_eq!(repeated[0], 0, "{case}: repeated before the first kill");
    for (index, kill) in kills.iter().enumerate() {
        let recent = records
            .iter()
            .filter(|record| (kill - CHECKPOINT_AGE..*kill).contains(&record.timestamp))
            .count();
        let bound = IN_FLIGHT + recent;
        say(&format!(
            "{case}: kill {}: {} repeated, {recent} published in the {CHECKPOINT_AGE} ms before, \
             up to {IN_FLIGHT} in flight",
            index + 1,
            repeated[index + 1]
        ));
        assert!(
            repeated[index + 1] <= bound,
            "{case}: {} repeated after kill {}, allowed are {bound}",
            repeated[index + 1],
            index + 1
        );
    }
}

fn now_millis() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_millis() as i64)
}
