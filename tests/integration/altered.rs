//! Outbox tables that are altered, dropped, or lose their log while the relay runs.

use crate::support::bench::Bench;
use crate::support::kafka::Broker;
use crate::support::traffic::{Plan, tables};
use crate::support::{kafka, oracle};
use anyhow::{Context, Result};
use outbox_writer::{DdlOptions, ddl};

const FEW: Plan = Plan {
    events: 60,
    keys: 30,
    ahead: 60,
};

async fn bench(broker: &Broker) -> Result<Bench> {
    Bench::configured(&broker.bootstrap, "follow: { generation_poll: 200ms }").await
}

async fn run(bench: &Bench, cql: &str) -> Result<()> {
    let done = bench.database.session.query_unpaged(cql, ()).await;
    done.map(drop).with_context(|| cql.to_owned())
}

/// Events of the first table by hand, some for each of a few keys.
async fn orders(bench: &Bench) -> Result<()> {
    for number in 0..30 {
        bench
            .traffic
            .write_at(&format!("key {}", number % 10), None)
            .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_come_and_go() -> Result<()> {
    let case = "columns added and dropped";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = bench(&broker).await?;
    let (table, _) = tables(&bench.name);
    let relay = bench.relay.start().await?;
    bench.write_and_arrive(FEW).await?;
    let alterations = [
        format!("ALTER TABLE {table} ADD note text"),
        format!("ALTER TABLE {table} DROP note"),
        // A column that the preset maps and can do without.
        format!("ALTER TABLE {table} DROP content_type"),
        format!("ALTER TABLE {table} ADD content_type text"),
    ];
    for alteration in alterations {
        run(&bench, &alteration).await?;
        orders(&bench).await?;
        bench
            .all_arrived()
            .await
            .with_context(|| alteration.clone())?;
    }
    relay.stop().await?;
    let records = bench.assert_delivered(case).await?;
    assert_eq!(oracle::duplicates(&records), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_that_every_event_needs_is_dropped_and_comes_back() -> Result<()> {
    let case = "the payload's column dropped";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = bench(&broker).await?;
    let (table, _) = tables(&bench.name);
    let relay = bench.relay.start().await?;
    bench.write_and_arrive(FEW).await?;
    // Rows that have been published are known to be: what would be read again is empty now.
    relay.stop().await?;
    let relay = bench.relay.start().await?;
    run(&bench, &format!("ALTER TABLE {table} DROP payload")).await?;
    relay.said("the table has no column `payload`").await?;
    invoices_go_on(&bench).await?;
    run(&bench, &format!("ALTER TABLE {table} ADD payload blob")).await?;
    orders(&bench).await?;
    bench.all_arrived().await?;
    relay.stop().await?;
    let records = bench.assert_delivered(case).await?;
    assert_eq!(oracle::duplicates(&records), 0);
    Ok(())
}

/// Writes events of the second table only, and waits for them.
async fn invoices_go_on(bench: &Bench) -> Result<()> {
    bench.traffic.write_second(20).await?;
    let written = bench.written_of("invoice");
    bench.arrived_of("invoice", written).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_is_dropped_and_made_again() -> Result<()> {
    let case = "table dropped";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = bench(&broker).await?;
    let (table, _) = tables(&bench.name);
    let relay = bench.relay.start().await?;
    bench.write_and_arrive(FEW).await?;
    run(&bench, &format!("DROP TABLE {table}")).await?;
    relay.said(&format!("table {table} does not exist")).await?;
    invoices_go_on(&bench).await?;
    run(&bench, &ddl(&table, &DdlOptions::default())?).await?;
    orders(&bench).await?;
    bench.all_arrived().await?;
    relay.stop().await?;
    bench.assert_delivered(case).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cdc_is_switched_off_and_on() -> Result<()> {
    let case = "CDC off and on";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = bench(&broker).await?;
    let (table, _) = tables(&bench.name);
    let relay = bench.relay.start().await?;
    bench.write_and_arrive(FEW).await?;
    run(
        &bench,
        &format!("ALTER TABLE {table} WITH cdc = {{'enabled': false}}"),
    )
    .await?;
    relay.said("CDC is off").await?;
    invoices_go_on(&bench).await?;
    run(
        &bench,
        &format!("ALTER TABLE {table} WITH cdc = {{'enabled': true}}"),
    )
    .await?;
    relay.said("CDC is on again").await?;
    orders(&bench).await?;
    bench.all_arrived().await?;
    relay.stop().await?;
    let records = bench.assert_delivered(case).await?;
    assert_eq!(oracle::duplicates(&records), 0);
    Ok(())
}
