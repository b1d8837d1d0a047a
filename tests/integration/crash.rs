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

/// A step of the time that a relay lives at least, between none and three of them.
const LIFE: Duration = Duration::from_millis(700);

/// Events of 200 keys. The writers may be as far ahead as a batch of them is long, so that they
/// come to their end although the relay is killed in between.
fn plan(events: usize) -> Plan {
    Plan {
        events,
        keys: 200,
        ahead: 1_000,
    }
}

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
    let mut kills = Vec::new();
    for kill in 1..=KILLS {
        let relay = bench.relay.start().await?;
        let started = Instant::now();
        // Some die before their first checkpoint, some after their second.
        let life = LIFE * (kill % 4) as u32;
        while started.elapsed() < life {
            bench.write_and_arrive(plan(100)).await?;
        }
        let before = bench.traffic.written().len();
        let writing = bench.traffic.write(plan(600), bench.collector.progress());
        let killing = async {
            bench.arrived(before + 100).await?;
            let at = Instant::now();
            relay.kill().await?;
            let records = bench.collector.all().await?.len();
            anyhow::Ok(Kill { at, records })
        };
        let ((), kill) = tokio::try_join!(writing, killing)?;
        kills.push(kill);
    }
    let relay = bench.relay.start().await?;
    bench.write_and_arrive(plan(100)).await?;
    relay.stop().await?;
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
        let recent: HashSet<String> = records[..kill.records]
            .iter()
            .filter(|record| record.arrived + CHECKPOINT_AGE >= kill.at)
            .map(Record::id)
            .collect();
        let recent = recent.len();
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
