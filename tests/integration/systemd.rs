//! What a service manager hears of the relay.

use crate::support::bench::Bench;
use crate::support::{STALL, kafka};
use anyhow::{Context, Result};
use tokio::net::UnixDatagram;
use tokio::time::timeout;

/// Hears words until one that begins with `wanted` has come; gives all of them.
async fn heard(socket: &UnixDatagram, wanted: &str) -> Result<Vec<String>> {
    let mut all = Vec::new();
    let mut buffer = [0; 4_096];
    loop {
        let received = timeout(STALL, socket.recv(&mut buffer)).await;
        let received = received.with_context(|| format!("no {wanted} after {all:?}"))??;
        let words = std::str::from_utf8(&buffer[..received])?;
        all.extend(words.lines().map(str::to_owned));
        if all.iter().any(|word| word.starts_with(wanted)) {
            return Ok(all);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn systemd_hears_of_start_life_reload_and_stop() -> Result<()> {
    let Some(broker) = kafka::broker("systemd").await else {
        return Ok(());
    };
    let bench = Bench::new(&broker.bootstrap).await?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path)?;
    let path = path.to_str().context("a path of text")?;
    let variables = [("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "200000")];
    let mut relay = bench.relay.launch_in(&variables)?;
    heard(&socket, "READY=1").await?;
    heard(&socket, "WATCHDOG=1").await?;
    heard(&socket, "STATUS=ready; 0 events published").await?;
    relay.signal("HUP").await?;
    let reload = heard(&socket, "RELOADING=1").await?;
    let stamped = |words: &[String]| words.iter().any(|word| word.starts_with("MONOTONIC_USEC="));
    assert!(stamped(&reload), "a reload says when: {reload:?}");
    heard(&socket, "READY=1").await?;
    relay.signal("TERM").await?;
    heard(&socket, "STOPPING=1").await?;
    assert!(relay.ended().await?.success());
    Ok(())
}
