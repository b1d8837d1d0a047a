//! The built binary as a process, with a configuration and a log of its own.

use super::STALL;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What the relay logs once it reads and publishes.
const READY: &str = "relay is ready";
/// Lines of the log that are kept for a failure's message.
const KEPT_LINES: usize = 4_000;
/// Lines that a failure's message shows.
const SHOWN_LINES: usize = 60;

/// A configuration from which relays are started, one after the other.
pub(crate) struct Relay {
    directory: TempDir,
}

impl Relay {
    pub(crate) fn new(yaml: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        fs::write(directory.path().join("relay.yaml"), yaml)?;
        Ok(Self { directory })
    }

    /// Changes the configuration for what is started next.
    pub(crate) fn rewrite(&self, edit: impl FnOnce(String) -> String) -> Result<()> {
        let yaml = fs::read_to_string(self.config())?;
        Ok(fs::write(self.config(), edit(yaml))?)
    }

    fn config(&self) -> PathBuf {
        self.directory.path().join("relay.yaml")
    }

    /// Runs a command of the binary that ends by itself, and gives what it printed.
    pub(crate) async fn command(&self, arguments: &[&str]) -> Result<String> {
        let output = self.output(arguments).await?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!(
                "outbox-relay {arguments:?} ended with {}:\n{printed}{}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(printed)
    }

    /// Runs a command of the binary that ends by itself, however it ends.
    pub(crate) async fn output(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outbox-relay"));
        command.args(arguments).arg("--config").arg(self.config());
        Ok(command.output().await?)
    }

    /// Starts the relay and waits until it says that it is ready.
    pub(crate) async fn start(&self) -> Result<RelayProcess> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_outbox-relay"))
            .args(["run", "--config"])
            .arg(self.config())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("start the relay")?;
        let stderr = child.stderr.take().context("the relay's stderr")?;
        let log = Arc::default();
        let (ready, mut became_ready) = watch::channel(false);
        let mut reader = JoinSet::new();
        reader.spawn(read_log(stderr, Arc::clone(&log), ready));
        let process = RelayProcess { child, log, reader };
        match tokio::time::timeout(STALL, became_ready.wait_for(|ready| *ready)).await {
            Ok(Ok(_)) => Ok(process),
            Ok(Err(_)) => bail!("the relay ended before it was ready:\n{}", process.log()),
            Err(_) => bail!("the relay does not get ready:\n{}", process.log()),
        }
    }
}

type Log = Arc<Mutex<Vec<String>>>;

async fn read_log(stderr: ChildStderr, log: Log, ready: watch::Sender<bool>) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if line.contains(READY) {
            ready.send_replace(true);
        }
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.len() >= KEPT_LINES {
            log.drain(..KEPT_LINES / 2);
        }
        log.push(line);
    }
}

/// A running relay. Dropping it kills it.
pub(crate) struct RelayProcess {
    child: Child,
    log: Log,
    reader: JoinSet<()>,
}

impl RelayProcess {
    /// The last lines of the log.
    pub(crate) fn log(&self) -> String {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log[log.len().saturating_sub(SHOWN_LINES)..].join("\n")
    }

    /// Sends SIGTERM, waits for the end, and fails unless the relay ends with status 0.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let pid = self.child.id().context("the relay has ended already")?;
        let signalled = Command::new("kill")
            .args(["-TERM", &pid.to_string()])
            .status()
            .await?;
        ensure!(signalled.success(), "SIGTERM could not be sent");
        let Ok(status) = tokio::time::timeout(STALL, self.child.wait()).await else {
            bail!("the relay does not stop:\n{}", self.log());
        };
        // The log is complete when its reader has come to the end.
        while self.reader.join_next().await.is_some() {}
        let status = status?;
        ensure!(
            status.success(),
            "the relay ended with {status}:\n{}",
            self.log()
        );
        Ok(())
    }

    /// Sends SIGKILL and waits for the end.
    pub(crate) async fn kill(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}

impl Drop for RelayProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the relay's log:\n{}", self.log());
        }
    }
}
