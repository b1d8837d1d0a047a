//! A database that answers with errors, late, or not at all.
//!
//! Errors are made by the emulator, which knows statements; a network that fails is a proxy's.

use crate::support::bench::{Bench, Setup};
use crate::support::database::Database;
use crate::support::proxy::{Mode, Proxy};
use crate::support::relay::{READ_FAILED, SAVE_FAILED};
use crate::support::traffic::{Plan, tables};
use crate::support::{kafka, oracle, until};
use anyhow::{Context, Result};
use scylla_emulator::Emulator;
use scylla_emulator::error::Error;
use scylla_emulator::faults::{Effect, Fault, Faults};
use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

const PLAN: Plan = Plan {
    events: 200,
    keys: 40,
    ahead: 200,
};

/// Requests that are given up soon, so that a database which says nothing is noticed soon.
const SHORT_REQUESTS: &str = "scylla: { request_timeout: 1s }";

/// A case's bench with a relay that gives requests up soon.
fn faults(bench: &Bench) -> Result<&Faults> {
    Ok(bench.database.emulator().context("the emulator")?.faults())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_of_one_table_fail_in_every_way_and_the_other_goes_on() -> Result<()> {
    let case = "failing reads";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = Bench::emulated(&broker, SHORT_REQUESTS).await?;
    let (orders, _) = tables(&bench.name);
    let log = format!(
        "{}_scylla_cdc_log",
        orders.split('.').nth(1).unwrap_or_default()
    );
    let relay = bench.relay.start().await?;
    let effects = [
        Effect::Fail(Error::read_timeout(&bench.name, &log)),
        Effect::Fail(Error::unavailable()),
        Effect::Fail(Error::overloaded()),
        Effect::Fail(Error::server("std::bad_alloc")),
        Effect::Silence,
        Effect::Truncate,
        Effect::Disconnect,
    ];
    for effect in effects {
        let shown = format!("{effect:?}");
        let before = bench.written_of("order");
        let mut failing = faults(&bench)?.inject(Fault::on(&log, effect));
        bench.write(PLAN).await?;
        bench
            .arrived_of("invoice", bench.written_of("invoice"))
            .await
            .with_context(|| shown.clone())?;
        failing.reached(4).await;
        let records = bench.collector.all().await?;
        let published = records
            .iter()
            .filter(|r| r.topic.ends_with("order"))
            .count();
        assert_eq!(
            published, before,
            "{shown}: nothing can be read of this table"
        );
        faults(&bench)?.clear();
        bench.all_arrived().await.with_context(|| shown.clone())?;
    }
    relay.said(READ_FAILED).await?;
    relay.stop().await?;
    let records = bench.assert_delivered(case).await?;
    assert_eq!(oracle::duplicates(&records), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_are_forgotten_as_after_a_restart_of_a_node() -> Result<()> {
    let case = "unprepared";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = Bench::emulated(&broker, SHORT_REQUESTS).await?;
    let relay = bench.relay.start().await?;
    bench.write_and_arrive(PLAN).await?;
    let mut forgotten =
        faults(&bench)?.inject(Fault::on("_scylla_cdc_log", Effect::Unprepared).times(40));
    bench.write(PLAN).await?;
    forgotten.reached(40).await;
    bench.all_arrived().await?;
    relay.stop().await?;
    let records = bench.assert_delivered(case).await?;
    assert_eq!(oracle::duplicates(&records), 0);
    Ok(())
}

/// The vnode of a stream, as its id says.
fn vnode(stream: &[u8]) -> u64 {
    let low = stream
        .last_chunk()
        .map_or(0, |bytes| u64::from_be_bytes(*bytes));
    (low >> 4) & ((1 << 22) - 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_of_one_stream_group_fail_and_the_others_go_on() -> Result<()> {
    let case = "a failing stream group";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = Bench::emulated(&broker, SHORT_REQUESTS).await?;
    let relay = bench.relay.start().await?;
    bench.write_and_arrive(PLAN).await?;
    let cql = format!(
        "SELECT \"cdc$stream_id\", aggregate_id FROM {}_scylla_cdc_log",
        tables(&bench.name).0
    );
    let rows = bench.database.session.query_unpaged(cql, ()).await?;
    let rows = rows.into_rows_result()?;
    let rows: Vec<(Vec<u8>, String)> = rows.rows()?.collect::<Result<_, _>>()?;
    let (stream, _) = rows.first().context("a row of the log")?;
    let stuck = rows
        .iter()
        .filter(|(other, _)| vnode(other) == vnode(stream));
    let stuck: HashSet<_> = stuck.map(|(_, key)| key.as_bytes()).collect();
    let keys: BTreeSet<_> = rows.iter().map(|(_, key)| key).collect();
    assert!(
        stuck.len() < keys.len(),
        "{} of {} keys",
        stuck.len(),
        keys.len()
    );

    let timeout = Effect::Fail(Error::read_timeout(&bench.name, "log"));
    let fault = Fault::on("_scylla_cdc_log", timeout).with_value(stream.clone());
    let mut failing = faults(&bench)?.inject(fault);
    bench.write(PLAN).await?;
    let flows = |key: &[u8]| !stuck.contains(key) && key.starts_with(b"order");
    let written = bench.traffic.written();
    let expected = written
        .iter()
        .filter(|write| flows(write.key.as_bytes()))
        .count();
    let of = |record: &crate::support::collector::Record| flows(&record.key);
    bench.collector.wait_for(expected, of).await?;
    failing.reached(3).await;
    faults(&bench)?.clear();
    bench.all_arrived().await?;
    relay.stop().await?;
    let records = bench.assert_delivered(case).await?;
    assert_eq!(oracle::duplicates(&records), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_cannot_be_written() -> Result<()> {
    let case = "failing checkpoints";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = Bench::emulated(&broker, SHORT_REQUESTS).await?;
    let own = format!("relay_{}", bench.name);
    // The table's first start cannot be saved at first, either.
    let overloaded = Effect::Fail(Error::overloaded());
    let start = Fault::on(format!("INSERT INTO \"{own}\".sources"), overloaded).times(3);
    faults(&bench)?.inject(start);
    let relay = bench.relay.start().await?;
    bench.write_and_arrive(PLAN).await?;

    let save = format!("INSERT INTO \"{own}\".checkpoints");
    let timeout = || Error::write_timeout(&own, "checkpoints", "UNLOGGED_BATCH");
    let mut failing = faults(&bench)?.inject(Fault::on(&save, Effect::Fail(timeout())));
    failing.reached(1).await;
    let before = bench.watermarks().await?;
    for _ in 0..3 {
        bench.write_and_arrive(PLAN).await?;
        failing.reached(failing.hits() + 1).await;
    }
    assert_eq!(
        bench.watermarks().await?,
        before,
        "W stays where it was stored"
    );
    relay.said(SAVE_FAILED).await?;
    // What was published since is published again, and no more is known to be missing.
    relay.kill().await?;
    let relay = bench.relay.start().await?;
    bench.write_and_arrive(PLAN).await?;

    faults(&bench)?.clear();
    // A write that took place although it timed out changes nothing for the worse.
    let late = Fault::on(&save, Effect::FailAfter(timeout())).times(2);
    faults(&bench)?.inject(late).reached(2).await;
    until("the watermarks move again", async || {
        Ok(bench.watermarks().await? != before)
    })
    .await?;
    for (group, watermark) in bench.watermarks().await? {
        let stored = before.get(&group).copied().unwrap_or(watermark);
        assert!(
            watermark >= stored,
            "W moved back from {stored} to {watermark}"
        );
    }
    relay.stop().await?;
    let records = bench.assert_delivered(case).await?;
    let repeated = oracle::duplicates(&records);
    bench.relay.start().await?.stop().await?;
    let again = bench.assert_delivered(case).await?;
    assert_eq!(oracle::duplicates(&again), repeated, "after a clean stop");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_is_restarted() -> Result<()> {
    let case = "database restart";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = Bench::emulated(&broker, SHORT_REQUESTS).await?;
    let emulator = bench.database.emulator().context("the emulator")?;
    let relay = bench.relay.start().await?;
    bench.write_and_arrive(PLAN).await?;
    for _ in 0..2 {
        bench.write(PLAN).await?;
        emulator.stop_listening().await;
        let failed = relay.count(READ_FAILED);
        relay.said_times(READ_FAILED, failed + 4).await?;
        emulator.start_listening().await?;
        // A node that comes back knows no prepared statement.
        let forgotten = Fault::on("_scylla_cdc_log", Effect::Unprepared).times(8);
        emulator.faults().inject(forgotten);
        bench.all_arrived().await?;
        bench.database.answers().await?;
    }
    relay.stop().await?;
    let records = bench.assert_delivered(case).await?;
    assert_eq!(oracle::duplicates(&records), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_way_to_the_database_is_cut_in_every_way() -> Result<()> {
    let case = "no way to the database";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let database = Database::start().await?;
    let proxy = Proxy::start(database.node.parse()?)?;
    let setup = Setup {
        direct: &broker.bootstrap,
        relay_database: Some(&proxy.address().to_string()),
        more: SHORT_REQUESTS,
        ..Setup::default()
    };
    let bench = Bench::with(database, setup).await?;

    // It is started while the database is away.
    proxy.set(Mode::Refuse).await?;
    let relay = bench.relay.launch(&[])?;
    relay.said("ScyllaDB cannot be reached").await?;
    bench.write(PLAN).await?;
    proxy.set(Mode::Pass).await?;
    bench.all_arrived().await?;

    for mode in [Mode::Refuse, Mode::BlackHole, Mode::DropAnswers] {
        let failed = relay.count(READ_FAILED);
        proxy.set(mode).await?;
        bench.write(PLAN).await?;
        relay.said_times(READ_FAILED, failed + 4).await?;
        proxy.set(Mode::Pass).await?;
        bench
            .all_arrived()
            .await
            .with_context(|| format!("{mode:?}"))?;
    }
    proxy.set(Mode::Slow(Duration::from_millis(20))).await?;
    bench.write_and_arrive(PLAN).await?;
    proxy.set(Mode::Pass).await?;
    relay.stop().await?;
    let records = bench.assert_delivered(case).await?;
    assert_eq!(oracle::duplicates(&records), 0);
    Ok(())
}

/// One of three nodes goes down under load and comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_three_is_down() -> Result<()> {
    let case = "a node down";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let setup = Setup {
        direct: &broker.bootstrap,
        ..Setup::default()
    };
    let database = Database::emulated(Emulator::builder().nodes(3)).await?;
    let bench = Bench::with(database, setup).await?;
    let emulator = bench.database.emulator().context("the emulator")?;
    let few = Plan {
        events: 200,
        keys: 100,
        ahead: 200,
    };
    let relay = bench.relay.start().await?;
    for node in [1, 2] {
        bench.write_and_arrive(few).await?;
        emulator.stop_node(node).await?;
        bench.write_and_arrive(few).await?;
        emulator.start_node(node).await?;
    }
    bench.write_and_arrive(few).await?;
    relay.stop().await?;
    let records = bench.assert_delivered(case).await?;
    assert_eq!(oracle::duplicates(&records), 0);
    Ok(())
}
