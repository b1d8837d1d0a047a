//! `checkpoint show` and `checkpoint reset`: what is published again, and that nothing is lost.

use crate::support::bench::Bench;
use crate::support::collector::Record;
use crate::support::traffic::{Plan, tables, time_uuid};
use crate::support::{kafka, oracle, until};
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

const PLAN: Plan = Plan {
    events: 600,
    keys: 60,
    ahead: 600,
};

fn now() -> Result<i64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros() as i64)
}

/// A time between what was written before and what is written later, in RFC 3339.
async fn a_time_between() -> Result<String> {
    let at = now()?;
    let passed = async |micros: i64| {
        let passed = async || Ok(now()? > at + micros);
        until("time passes", passed).await
    };
    // The command line takes fractions; the clocks of writers give each write a time of its own.
    passed(20_000).await?;
    let (seconds, micros) = ((at + 10_000) / 1_000_000, (at + 10_000) % 1_000_000);
    let days = seconds / 86_400;
    let (year, month, day) = date(days);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    Ok(format!(
        "{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z"
    ))
}

/// The date so many days after 1970-01-01.
fn date(mut days: i64) -> (i64, i64, i64) {
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let mut year = 1970;
    while days >= 365 + i64::from(leap(year)) {
        days -= 365 + i64::from(leap(year));
        year += 1;
    }
    let february = 28 + i64::from(leap(year));
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    for (length, month) in lengths.into_iter().zip(1..) {
        if days < length {
            return (year, month, days + 1);
        }
        days -= length;
    }
    (year + 1, 1, 1)
}

/// How often each event is there.
fn times(records: &[Record]) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for record in records {
        *times.entry(record.id()).or_default() += 1;
    }
    times
}

async fn json(bench: &Bench, arguments: &[&str]) -> Result<Value> {
    let arguments = [arguments, &["--output", "json"]].concat();
    let printed = bench.relay.command(&arguments).await?;
    serde_json::from_str(&printed).with_context(|| printed.clone())
}

fn ids(bench: &Bench, from: usize, table: Option<&str>) -> BTreeSet<String> {
    let written = bench.traffic.written();
    let topic = table.map(|kind| format!("{}.{kind}", bench.name));
    let of = |topic_of: &str| topic.as_deref().is_none_or(|topic| topic == topic_of);
    let written = written[from..].iter().filter(|write| of(&write.topic));
    written.map(|write| write.id.clone()).collect()
}

/// Polls until these events are there once more than before.
async fn repeated(bench: &Bench, ids: &BTreeSet<String>) -> Result<Vec<Record>> {
    until("the events are published again", async || {
        let times = times(&bench.collector.all().await?);
        Ok(ids.iter().all(|id| times.get(id) >= Some(&2)))
    })
    .await?;
    bench.collector.all().await
}

#[track_caller]
fn assert_again(records: &[Record], again: &BTreeSet<String>) {
    for (id, times) in times(records) {
        let expected = if again.contains(&id) { 2 } else { 1 };
        assert_eq!(times, expected, "of event {id}");
    }
}

/// Publishes before and after a time, and stops. What is published later than the time, and the time.
async fn stopped(bench: &Bench) -> Result<(usize, String)> {
    let relay = bench.relay.start().await?;
    bench.write_and_arrive(PLAN).await?;
    let time = a_time_between().await?;
    let before = bench.traffic.written().len();
    bench.write_and_arrive(PLAN).await?;
    relay.stop().await?;
    Ok((before, time))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewind_inside_the_late_window_publishes_exactly_the_later_events_again() -> Result<()> {
    let case = "a rewind inside the late window";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = Bench::emulated(&broker, "follow: { late_window: 180s }").await?;
    let (before, time) = stopped(&bench).await?;
    let again = ids(&bench, before, None);

    let reset = ["checkpoint", "reset", "--to", &time];
    let refused = bench.relay.output(&reset).await?;
    assert_eq!(refused.status.code(), Some(1), "without --yes");
    let dry = json(&bench, &[&reset[..], &["--dry-run"]].concat()).await?;
    let done = json(&bench, &[&reset[..], &["--yes"]].concat()).await?;
    for (printed, was_done) in [(&dry, false), (&done, true)] {
        assert_eq!(printed["done"], was_done);
        let tables = printed["tables"].as_array().context("tables")?;
        let counts = tables.iter().filter_map(|t| t["published_again"].as_u64());
        assert_eq!(counts.sum::<u64>(), again.len() as u64, "{printed:#}");
        assert!(
            tables
                .iter()
                .all(|t| t["skipped"] == 0 && t["exact"] == true)
        );
    }
    // What appears late, with a time before that of the reset, is not lost either.
    let late = now()? - 60_000_000;
    bench.traffic.write_at("late", Some(late)).await?;

    let relay = bench.relay.start().await?;
    repeated(&bench, &again).await?;
    bench.all_arrived().await?;
    relay.stop().await?;
    let relay = bench.relay.start().await?;
    bench.traffic.write_at("the last", None).await?;
    bench.all_arrived().await?;
    relay.stop().await?;
    let records = bench.assert_delivered(case).await?;
    assert_again(&records, &again);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewind_below_the_watermark_publishes_exactly_the_later_events_again() -> Result<()> {
    let case = "a rewind below the watermark";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    // Windows are closed after five seconds at least, and sweeps look at them all the time.
    let bench = Bench::emulated(&broker, "follow: { late_window: 1s, confirm: 500ms }").await?;
    let (before, time) = stopped(&bench).await?;
    let again = ids(&bench, before, None);
    // W passes what was written before.
    let relay = bench.relay.start().await?;
    let at = now()?;
    until("W passes the rows", async || {
        let watermarks = bench.watermarks().await?;
        Ok(watermarks
            .values()
            .filter(|watermark| **watermark > at)
            .count()
            > 0)
    })
    .await?;
    relay.stop().await?;
    let shown = json(&bench, &["checkpoint", "show", "--groups"]).await?;
    let groups = shown["tables"][0]["groups"].as_array().context("groups")?;
    assert!(!groups.is_empty() && groups.iter().all(|g| g["watermark_micros"].is_i64()));

    let reset = ["checkpoint", "reset", "--to", &time, "--yes"];
    let done = json(&bench, &reset).await?;
    let tables = done["tables"].as_array().context("tables")?;
    let counts = tables.iter().filter_map(|t| t["published_again"].as_u64());
    assert_eq!(counts.sum::<u64>(), again.len() as u64, "{done:#}");

    let relay = bench.relay.start().await?;
    repeated(&bench, &again).await?;
    // A sweep goes over what lies behind, and finds nothing amiss.
    let at = now()?;
    until("sweeps have passed", async || Ok(now()? > at + 8_000_000)).await?;
    bench.traffic.write_at("the last", None).await?;
    bench.all_arrived().await?;
    relay.stop().await?;
    let records = bench.assert_delivered(case).await?;
    assert_again(&records, &again);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_tables_is_rewound_and_not_while_a_relay_runs() -> Result<()> {
    let case = "a rewind of one table";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = Bench::emulated(&broker, "").await?;
    let (before, time) = stopped(&bench).await?;
    let (orders, billing) = tables(&bench.name);
    let again = ids(&bench, before, Some("order"));
    let reset = [
        "checkpoint",
        "reset",
        "--to",
        &time,
        "--table",
        &orders,
        "--yes",
    ];
    let relay = bench.relay.start().await?;
    let refused = bench.relay.output(&reset).await?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1));
    assert!(said.contains("owns the relay's name"), "{said}");
    relay.stop().await?;

    let other = json(
        &bench,
        &["checkpoint", "show", "--groups", "--table", &billing],
    )
    .await?;
    bench.relay.command(&reset).await?;
    let after = json(
        &bench,
        &["checkpoint", "show", "--groups", "--table", &billing],
    )
    .await?;
    assert_eq!(other, after, "the other table stays as it is");
    let unknown = [
        "checkpoint",
        "reset",
        "--to",
        "1h",
        "--table",
        "no.where",
        "--yes",
    ];
    assert!(!bench.relay.output(&unknown).await?.status.success());

    let relay = bench.relay.start().await?;
    repeated(&bench, &again).await?;
    bench.write_and_arrive(PLAN).await?;
    relay.stop().await?;
    let records = bench.assert_delivered(case).await?;
    assert_again(&records, &again);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_forward_gives_up_what_it_says() -> Result<()> {
    let case = "a move forward";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = Bench::emulated(&broker, "").await?;
    let relay = bench.relay.start().await?;
    bench.write_and_arrive(PLAN).await?;
    relay.stop().await?;
    let before = bench.traffic.written().len();
    bench.write(PLAN).await?;
    let given_up = ids(&bench, before, None);
    let done = json(&bench, &["checkpoint", "reset", "--to", "latest", "--yes"]).await?;
    let tables = done["tables"].as_array().context("tables")?;
    let skipped = tables.iter().filter_map(|t| t["skipped"].as_u64());
    assert_eq!(skipped.sum::<u64>(), given_up.len() as u64, "{done:#}");

    let last = bench.traffic.written().len();
    let relay = bench.relay.start().await?;
    bench.write(PLAN).await?;
    let written = bench.traffic.written();
    bench.arrived(written.len() - given_up.len()).await?;
    relay.stop().await?;
    let records = bench.collector.all().await?;
    let arrived = times(&records);
    assert!(
        written[last..]
            .iter()
            .all(|write| arrived.contains_key(&write.id))
    );
    assert!(given_up.iter().all(|id| !arrived.contains_key(id)));
    assert_eq!(oracle::duplicates(&records), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn earliest_publishes_all_that_the_log_has() -> Result<()> {
    let case = "a rewind to the earliest time";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = Bench::emulated(&broker, "").await?;
    stopped(&bench).await?;
    let all = ids(&bench, 0, None);
    let too_far = ["checkpoint", "reset", "--to", "3650d", "--yes"];
    let refused = bench.relay.output(&too_far).await?;
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--allow-expired"));
    let bounded = ["--to", "earliest", "--count-limit", "10", "--dry-run"];
    let dry = json(&bench, &[&["checkpoint", "reset"][..], &bounded].concat()).await?;
    // A lower bound, or exact where a summary above W has to be read to its end anyway.
    let first = &dry["tables"][0];
    assert!(
        first["published_again"].as_u64() <= Some(all.len() as u64),
        "{dry:#}"
    );
    assert_eq!(first["skipped"], 0);

    bench
        .relay
        .command(&["checkpoint", "reset", "--to", "earliest", "--yes"])
        .await?;
    let relay = bench.relay.start().await?;
    let records = repeated(&bench, &all).await?;
    relay.stop().await?;
    assert_again(&records, &all);
    assert_eq!(bench.assert_delivered(case).await?.len(), 2 * all.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewind_counts_the_updates_that_are_events_and_no_others() -> Result<()> {
    let case = "updates that are counted";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = Bench::emulated(&broker, "").await?;
    let relay = bench.relay.start().await?;
    let (orders, _) = tables(&bench.name);
    let time = a_time_between().await?;
    let session = &bench.database.session;
    for (number, set) in [
        "aggregate_type = 'order', event_type = 'Placed', payload = 0x01, created_at = 1",
        "payload = 0x02",
        "aggregate_type = 'order', event_type = 'Placed', payload = null, created_at = 2",
        "aggregate_type = 'order', event_type = 'Paid', payload = 0x03, created_at = 3",
        "aggregate_type = 'order', event_type = 'Paid', payload = 0x04",
    ]
    .into_iter()
    .enumerate()
    {
        let id = time_uuid();
        let update =
            format!("UPDATE {orders} SET {set} WHERE aggregate_id = 'key {number}' AND id = {id}");
        session.query_unpaged(update.as_str(), ()).await?;
    }
    until("the events arrive", async || {
        Ok(bench.collector.all().await?.len() >= 2)
    })
    .await?;
    relay.stop().await?;
    assert_eq!(bench.collector.all().await?.len(), 2, "{case}");
    let dry = json(&bench, &["checkpoint", "reset", "--to", &time, "--dry-run"]).await?;
    let counts = dry["tables"].as_array().context("tables")?.iter();
    let again: u64 = counts
        .filter_map(|table| table["published_again"].as_u64())
        .sum();
    assert_eq!(again, 2, "{dry:#}");
    bench
        .relay
        .command(&["checkpoint", "reset", "--to", &time, "--yes"])
        .await?;
    let relay = bench.relay.start().await?;
    until("they are published again", async || {
        Ok(bench.collector.all().await?.len() >= 4)
    })
    .await?;
    relay.stop().await?;
    assert_eq!(bench.collector.all().await?.len(), 4, "{case}");
    Ok(())
}
