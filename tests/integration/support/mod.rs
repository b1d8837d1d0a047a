//! What the cases stand on: a broker, a database, the relay's process, traffic and oracles.
//!
//! - [`kafka`]: from `KAFKA_BROKERS`, else Docker, else Apache Kafka from Maven Central.
//! - [`database`]: from `SCYLLA_URI`, else Docker, else the emulator in this process.
//! - `check`: what `outbox-relay check` says of one thing.
//! - [`http`]: a client of the relay's HTTP server.
//! - [`proxy`]: a network that can be broken, before a broker or a database.
//! - [`relay`]: the built binary with a configuration of its own.
//! - [`seed`]: random numbers that can be had again.
//! - [`traffic`]: writes events and remembers each that was acknowledged.
//! - [`collector`]: reads the topics from the beginning and remembers every record.
//! - [`oracle`]: pure predicates on what was written and what was read.
//! - [`certificates`]: authorities, and what they sign.
//! - [`bench`]: all of it put together for one case.

pub(crate) mod bench;
pub(crate) mod certificates;
#[cfg(feature = "tls")]
pub(crate) mod check;
pub(crate) mod collector;
pub(crate) mod database;
pub(crate) mod http;
pub(crate) mod kafka;
pub(crate) mod oracle;
pub(crate) mod proxy;
pub(crate) mod relay;
pub(crate) mod seed;
pub(crate) mod traffic;

use anyhow::{Result, ensure};
use std::io::Write;
use std::time::{Duration, Instant};

/// A case fails when nothing moves for this long. Generous: machines that run tests are slow.
pub(crate) const STALL: Duration = Duration::from_secs(90);

/// Pause between two looks of [`until`].
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Prints a line for the person who runs the tests, also when the case passes: the test runner
/// captures only what the print macros write.
pub(crate) fn say(line: &str) {
    // Nobody reads it if standard error is closed.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Waits until a look says yes. Looks again and again: for what nobody announces.
pub(crate) async fn until(what: &str, mut look: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + STALL;
    while !look().await? {
        ensure!(Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// A word that no other case and no other run uses.
pub(crate) fn unique(word: &str) -> String {
    let id = uuid::Uuid::new_v4().simple().to_string();
    format!("{word}_{}", &id[..12])
}

/// A port of the loopback interface that is free now.
pub(crate) fn free_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?
        .local_addr()?
        .port())
}
