//! Rows that are seen late, in pages that do not show them yet, and after the late window.

use crate::support::bench::{Bench, Setup};
use crate::support::database::Database;
use crate::support::relay::RelayProcess;
use crate::support::traffic::{Plan, tables};
use crate::support::{kafka, oracle, say};
use anyhow::{Context, Result};
use scylla_emulator::Emulator;
use scylla_emulator::faults::Injected;
use scylla_emulator::visibility::{Hide, Rule};
use std::time::{Duration, Instant};

/// Hides rows of the first table.
fn hide(bench: &Bench, rule: impl FnOnce(&str) -> Rule) -> Result<Injected> {
    let (orders, _) = tables(&bench.name);
    let emulator = bench.database.emulator().context("the emulator")?;
    Ok(emulator.visibility().inject(rule(&orders)))
}

/// Writes one event of its own key, whose log rows are hidden if a rule names the key.
async fn write_one(bench: &Bench, key: &str) -> Result<()> {
    bench.traffic.write_at(key, None).await
}

/// Stops the relay, and gives a counter of its last log line.
async fn stop_and_count(relay: RelayProcess, counter: &str) -> Result<u64> {
    let log = relay.stop_and_log().await?;
    let line = log.lines().rfind(|line| line.contains("relay has stopped"));
    let words = line.unwrap_or_default().split([' ', '"', '=']);
    let value = words.skip_while(|word| *word != counter).nth(1);
    Ok(value.and_then(|value| value.parse().ok()).unwrap_or(0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_shows_a_later_write_without_an_earlier_one() -> Result<()> {
    let case = "pages without an earlier write";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = Bench::emulated(&broker, "").await?;
    let hidden = hide(&bench, |table| {
        Rule::on(table, Hide::Reads(1)).share(0.3).seed(7)
    })?;
    let relay = bench.relay.start().await?;
    // Few keys, so that the next write of a key follows at once.
    let plan = Plan {
        events: 1_500,
        keys: 16,
        ahead: 1_500,
    };
    bench.write_and_arrive(plan).await?;
    let merged = stop_and_count(relay, "merged").await?;
    say(&format!(
        "{case}: {} writes hidden from a page, {merged} merged in",
        hidden.hits()
    ));
    let records = bench.assert_delivered(case).await?;
    assert_eq!(oracle::duplicates(&records), 0);
    assert!(merged > 0, "no page was without an earlier write");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_appear_after_the_late_window_are_found() -> Result<()> {
    let case = "later than the late window";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = Bench::emulated(&broker, "follow: { late_window: 2s, confirm: 1s }").await?;
    let hidden = hide(&bench, |table| {
        Rule::on(table, Hide::For(Duration::from_secs(9))).with_value("very late")
    })?;
    let few = Plan {
        events: 60,
        keys: 30,
        ahead: 60,
    };
    let relay = bench.relay.start().await?;
    bench.write_and_arrive(few).await?;
    for number in 0..5 {
        write_one(&bench, &format!("very late {number}")).await?;
    }
    // The ordinary ones go on; the late ones arrive when they can be seen.
    bench.write(few).await?;
    bench.all_arrived().await?;
    let found = stop_and_count(relay, "stragglers").await?;
    assert_eq!(found, 5);

    // Nobody looks while they appear.
    let relay = bench.relay.start().await?;
    bench.write_and_arrive(few).await?;
    write_one(&bench, "very late, and the relay stops").await?;
    let written = Instant::now();
    // W has to pass them.
    tokio::time::sleep(Duration::from_secs(5)).await;
    relay.stop().await?;
    tokio::time::sleep_until((written + Duration::from_secs(10)).into()).await;
    let relay = bench.relay.start().await?;
    bench.all_arrived().await?;
    write_one(&bench, "very late, and the relay dies").await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    relay.kill().await?;
    let relay = bench.relay.start().await?;
    bench.write_and_arrive(few).await?;
    relay.stop().await?;
    assert_eq!(hidden.hits(), 7);
    let records = bench.assert_delivered(case).await?;
    let duplicates = oracle::duplicates(&records);
    assert_eq!(duplicates, 0, "nothing was in flight when it died");
    Ok(())
}

/// How much is written, for how long, and how late a part of it appears.
#[derive(Debug, Clone, Copy)]
struct Scale {
    vnodes: u16,
    rounds: usize,
    plan: Plan,
    late_window: Duration,
    very_late: Duration,
}

impl Scale {
    /// Small enough for every run, or with `OUTBOX_RELAY_SOAK=1` as large as the default configuration
    /// is made for: some six minutes of 1,000 events/s.
    fn chosen() -> Self {
        let soak = std::env::var_os("OUTBOX_RELAY_SOAK").is_some_and(|value| value == "1");
        let plan = |events, keys| Plan {
            events,
            keys,
            ahead: events,
        };
        if soak {
            Self {
                vnodes: 256,
                rounds: 360,
                plan: plan(1_000, 5_000),
                late_window: Duration::from_mins(3),
                very_late: Duration::from_mins(10),
            }
        } else {
            Self {
                vnodes: 32,
                rounds: 20,
                plan: plan(300, 300),
                late_window: Duration::from_secs(6),
                very_late: Duration::from_secs(12),
            }
        }
    }
}

/// One write in a hundred appears late within the window, a handful later; the relay is stopped in the
/// middle, and killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_percent_appears_late() -> Result<()> {
    let case = "one percent late";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let scale = Scale::chosen();
    let database = Emulator::builder().nodes(3).vnodes(scale.vnodes).shards(1);
    let late_window = scale.late_window.as_secs();
    let setup = Setup {
        direct: &broker.bootstrap,
        more: &format!(
            "follow: {{ late_window: {late_window}s }}\nlimits: {{ in_flight_events: 10000 }}"
        ),
        ..Setup::default()
    };
    let bench = Bench::with(Database::emulated(database).await?, setup).await?;
    let most = scale.late_window.mul_f64(0.94);
    let late = hide(&bench, |table| {
        Rule::on(table, Hide::Between(Duration::ZERO, most)).with_value("late within")
    })?;
    let very_late = hide(&bench, |table| {
        Rule::on(table, Hide::For(scale.very_late)).with_value("very late")
    })?;
    let mut relay = bench.relay.start().await?;
    let mut killed = 0;
    for round in 0..scale.rounds {
        let begun = Instant::now();
        for number in 0..scale.plan.events / 100 {
            write_one(&bench, &format!("late within {round} {number}")).await?;
        }
        if round % (scale.rounds / 5) == 1 {
            write_one(&bench, &format!("very late {round}")).await?;
        }
        bench.write(scale.plan).await?;
        if round == scale.rounds / 3 {
            relay.stop().await?;
            relay = bench.relay.start().await?;
        }
        if round == scale.rounds / 2 {
            killed = bench.collector.progress().borrow().records;
            relay.kill().await?;
            killed = bench.collector.progress().borrow().records.max(killed);
            relay = bench.relay.start().await?;
        }
        tokio::time::sleep_until((begun + Duration::from_secs(1)).into()).await;
    }
    let ordinary = bench.traffic.written().len();
    say(&format!(
        "{case}: {ordinary} written, {} of them late, {} very late; {killed} were published when the \
         relay was killed",
        late.hits(),
        very_late.hits()
    ));
    // Nothing moves for minutes before the very late ones.
    let mut progress = bench.collector.progress();
    let all = progress.wait_for(|progress| progress.events >= ordinary);
    tokio::time::timeout(scale.very_late * 4, all)
        .await
        .context("the very late rows do not arrive")??;
    let found = stop_and_count(relay, "stragglers").await?;
    let records = bench.assert_delivered(case).await?;
    let duplicates = oracle::duplicates(&records);
    say(&format!(
        "{case}: {found} found by sweeps, {duplicates} repeated by the kill"
    ));
    assert!(found >= 3, "{found}");
    // What was published since the last checkpoint, which is a second old at most, and what was in
    // flight.
    let bound = 3 * scale.plan.events;
    assert!(
        duplicates <= bound,
        "{duplicates} repeated, {bound} allowed"
    );
    Ok(())
}
