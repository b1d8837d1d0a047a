//! A log that cannot be written.

use crate::support::bench::Bench;
use crate::support::traffic::Plan;
use crate::support::{kafka, oracle};
use anyhow::Result;
use std::fs;
use std::path::Path;

const PLAN: Plan = Plan {
    events: 300,
    keys: 30,
    ahead: 300,
};

/// Logs so much that every buffer is full soon.
fn logging(directory: &Path) -> String {
    format!(
        "log: {{ level: trace, file: {{ dir: {:?}, rotation: never }} }}",
        directory.display().to_string()
    )
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disk_of_the_log_files_is_full() -> Result<()> {
    let case = "disk full";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = Bench::new(&broker.bootstrap).await?;
    let logs = bench.relay.file("logs");
    fs::create_dir(&logs)?;
    // A file on a disk that has no room, ever.
    std::os::unix::fs::symlink("/dev/full", logs.join("outbox-relay.log"))?;
    bench.relay.reconfigure(&logging(&logs))?;
    let relay = bench.relay.start().await?;
    bench.write_and_arrive(PLAN).await?;
    relay.stop().await?;
    let relay = bench.relay.start().await?;
    bench.write_and_arrive(PLAN).await?;
    relay.stop().await?;
    let records = bench.assert_delivered(case).await?;
    assert_eq!(oracle::duplicates(&records), 0);
    assert!(
        logs.join("outbox-relay.log").is_symlink(),
        "the file was not replaced"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_reads_standard_error() -> Result<()> {
    let case = "standard error closed";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = Bench::new(&broker.bootstrap).await?;
    let logs = bench.relay.file("logs");
    fs::create_dir(&logs)?;
    bench.relay.reconfigure(&logging(&logs))?;
    let mut relay = bench.relay.start().await?;
    relay.close_log().await;
    bench.write_and_arrive(PLAN).await?;
    relay.stop().await?;
    let records = bench.assert_delivered(case).await?;
    assert_eq!(oracle::duplicates(&records), 0);
    let logged = fs::read_to_string(logs.join("outbox-relay.log"))?;
    assert!(
        logged.contains("relay has stopped"),
        "the files have it all"
    );
    Ok(())
}
