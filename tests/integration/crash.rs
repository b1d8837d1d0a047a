//! A relay that is killed loses nothing, keeps the order, and repeats little.

use crate::support::bench::{Bench, IN_FLIGHT};
use crate::support::collector::Record;
use crate::support::traffic::Plan;
use crate::support::{kafka, say};
use anyhow::Result;
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// How often the relay is killed.
const KILLS: usize = 10;
/// The longest time between two checkpoints: the interval of one second, and as much again for the
/// write itself on a machine that is busy with tests.
const CHECKPOINT_AGE: Duration = Duration::from_secs(2);

/// A killed relay's end.
struct Kill {
    at: Instant,
    /// How many records were in the topics then.
    records: usize,
}

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
        let mut kills = Vec::new();
        for kill in 1..=KILLS {
            let relay = bench.relay.start().await?;
            bench.arrived(kill * plan.events / (KILLS + 1)).await?;
            let at = Instant::now();
            relay.kill().await?;
            let records = bench.collector.all().await?.len();
            kills.push(Kill { at, records });
        }
        let relay = bench.relay.start().await?;
        bench.arrived(plan.events).await?;
        relay.stop().await?;
        Ok(kills)
    };
    let writing = bench.traffic.write(plan, bench.collector.progress());
    let (kills, ()) = tokio::try_join!(kills, writing)?;
    let records = bench.assert_delivered(case).await?;
    assert_duplicates_are_bounded(case, &records, &kills);
    Ok(())
}

/// A relay that dies may repeat what was in flight and what was published after the last
/// checkpoint; its successor is the one that repeats it.
fn assert_duplicates_are_bounded(case: &str, records: &[Record], kills: &[Kill]) {
    let mut seen = HashSet::new();
    let mut repeated = vec![0; kills.len() + 1];
    for (index, record) in records.iter().enumerate() {
        if !seen.insert(record.id()) {
            repeated[kills.partition_point(|kill| kill.records <= index)] += 1;
        }
    }
    assert_eq!(repeated[0], 0, "{case}: repeated before the first kill");
    for (kill, (repeated, number)) in kills.iter().zip(repeated[1..].iter().zip(1..)) {
        let recent = records[..kill.records]
            .iter()
            .filter(|record| record.arrived + CHECKPOINT_AGE >= kill.at)
            .count();
        let bound = IN_FLIGHT + recent;
        say(&format!(
            "{case}: kill {number}: {repeated} repeated; {recent} published in the \
             {CHECKPOINT_AGE:?} before, up to {IN_FLIGHT} in flight"
        ));
        assert!(
            *repeated <= bound,
            "{case}: {repeated} repeated after kill {number}, allowed are {bound}"
        );
    }
}
