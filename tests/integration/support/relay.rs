//! The built binary as a process, with a configuration and a log of its own.

use super::STALL;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::PathBuf;
use std::process::{ExitStatus, Output, Stdio};
use std::time::Instant;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What the relay logs once it reads and publishes.
pub(crate) const READY: &str = "the relay has started";
/// What it logs when an attempt to publish has failed (not every time).
pub(crate) const ATTEMPT_FAILED: &str = "an attempt to publish failed";
/// What it logs when a page of a log could not be read.
pub(crate) const READ_FAILED: &str = "a read of the log has failed";
/// What it logs when checkpoints could not be written.
pub(crate) const SAVE_FAILED: &str = "checkpoints were not saved";
/// What it logs when the breaker opens, with another state behind it when it moves on.
pub(crate) const BREAKER_OPENS: &str = "the breaker is open";
pub(crate) const BREAKER_MOVES: &str = "the breaker moves";
/// What it logs when an event becomes a dead letter.
pub(crate) const DEAD_LETTER: &str = "an event becomes a dead letter";
/// What it logs while another process has its name.
pub(crate) const NAME_IN_USE: &str = "the relay's name is in use";
/// What it logs when another process has taken its name over.
pub(crate) const NAME_LOST: &str = "the relay ends at once";
/// What it logs at the first SIGTERM or SIGINT.
pub(crate) const STOP_ASKED: &str = "stop asked for";
/// What a thread that panics writes.
const PANIC: &str = "panicked at";
const BINARY: &str = env!("CARGO_BIN_EXE_outbox-relay");
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
        Self::with(yaml, "")
    }

    /// Changes the first file, for what is started from now on.
    pub(crate) fn rewrite(&self, edit: impl FnOnce(String) -> String) -> Result<()> {
        let file = self.file("relay.yaml");
        let yaml = fs::read_to_string(&file)?;
        Ok(fs::write(file, edit(yaml))?)
    }

    /// With a second file that overrides the first one, key by key.
    pub(crate) fn with(yaml: &str, more: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let relay = Self { directory };
        fs::write(relay.file("relay.yaml"), yaml)?;
        relay.reconfigure(more)?;
        Ok(relay)
    }

    /// Replaces the second file, for relays that are started from now on.
    pub(crate) fn reconfigure(&self, more: &str) -> Result<()> {
        Ok(fs::write(self.file("more.yaml"), more)?)
    }

    /// A file beside the configuration.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn configure(&self, command: &mut Command) {
        for file in ["relay.yaml", "more.yaml"] {
            command.arg("--config").arg(self.file(file));
        }
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
        let mut command = Command::new(BINARY);
        command.args(arguments);
        self.configure(&mut command);
        Ok(command.output().await?)
    }

    /// Starts the relay and waits until it says that it is ready.
    pub(crate) async fn start(&self) -> Result<RelayProcess> {
        let process = self.spawn(&mut Command::new(BINARY), &[])?;
        process.said(READY).await?;
        Ok(process)
    }

    /// Starts the relay with further variables of the environment and does not wait.
    pub(crate) fn launch_in(&self, variables: &[(&str, &str)]) -> Result<RelayProcess> {
        self.spawn(Command::new(BINARY).envs(variables.iter().copied()), &[])
    }

    /// Starts the relay with further arguments and does not wait.
    pub(crate) fn launch(&self, arguments: &[&str]) -> Result<RelayProcess> {
        self.spawn(&mut Command::new(BINARY), arguments)
    }

    fn spawn(&self, command: &mut Command, arguments: &[&str]) -> Result<RelayProcess> {
        command.arg("run");
        self.configure(command);
        let mut child = command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("start the relay")?;
        let stderr = child.stderr.take().context("the relay's stderr")?;
        let (report, log) = watch::channel(Log::default());
        let mut reader = JoinSet::new();
        reader.spawn(read_log(stderr, report));
        Ok(RelayProcess {
            child,
            log,
            reader,
            started: Instant::now(),
        })
    }
}

/// What a relay has logged.
#[derive(Default)]
struct Log {
    lines: Vec<String>,
    /// Lines before those that are kept.
    dropped: usize,
}

async fn read_log(stderr: ChildStderr, report: watch::Sender<Log>) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        report.send_modify(|log| {
            if log.lines.len() >= KEPT_LINES {
                log.lines.drain(..KEPT_LINES / 2);
                log.dropped += KEPT_LINES / 2;
            }
            log.lines.push(line);
        });
    }
}

/// A running relay. Dropping it kills it.
pub(crate) struct RelayProcess {
    child: Child,
    log: watch::Receiver<Log>,
    reader: JoinSet<()>,
    started: Instant,
}

impl RelayProcess {
    /// The last lines of the log.
    pub(crate) fn log(&self) -> String {
        let log = self.log.borrow();
        log.lines[log.lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
    }

    /// The memory that the relay has resident, in KiB.
    pub(crate) fn resident_kib(&self) -> Result<u64> {
        let pid = self.child.id().context("the relay has ended")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        Ok(kib.context("no VmRSS")?.parse()?)
    }

    #[allow(dead_code, reason = "for benches")]
    /// The processor time that the relay has used, in hundredths of a second.
    pub(crate) fn cpu_ticks(&self) -> Result<u64> {
        let pid = self.child.id().context("the relay has ended")?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let times = fields.split_whitespace().skip(11).take(2);
        times.map(|time| Ok(time.parse::<u64>()?)).sum()
    }

    #[allow(dead_code, reason = "for benches")]
    /// When it was started.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// Stops it, and gives the last lines of its log.
    pub(crate) async fn stop_and_log(mut self) -> Result<String> {
        self.signal("TERM").await?;
        let status = self.ended().await?;
        ensure!(status.success(), "the relay ended with {status}");
        Ok(self.log())
    }

    /// How many lines of the log (of those that are kept) contain `text`.
    pub(crate) fn count(&self, text: &str) -> usize {
        let log = self.log.borrow();
        log.lines.iter().filter(|line| line.contains(text)).count()
    }

    /// How many lines contain `text` from each line with `begin` to the next one with `end`.
    pub(crate) fn between(&self, begin: &str, end: &str, text: &str) -> Vec<usize> {
        let log = self.log.borrow();
        let mut counts = Vec::new();
        let mut open = false;
        for line in &log.lines {
            if line.contains(begin) {
                open = true;
                counts.push(0);
            } else if line.contains(end) {
                open = false;
            } else if open && line.contains(text) {
                *counts.last_mut().unwrap_or(&mut 0) += 1;
            }
        }
        counts
    }

    /// Waits until a line of the log contains `text`.
    pub(crate) async fn said(&self, text: &str) -> Result<()> {
        self.said_times(text, 1).await
    }

    /// Waits until so many lines of the log contain `text`, since the relay's start. The lines are
    /// the relay's own words: where a case can look at the outcome instead, it does.
    pub(crate) async fn said_times(&self, text: &str, times: usize) -> Result<()> {
        let mut log = self.log.clone();
        let (mut seen, mut next) = (0, 0);
        let said = log.wait_for(|log| {
            let fresh = log.lines.iter().skip(next - log.dropped.min(next));
            seen += fresh.filter(|line| line.contains(text)).count();
            next = log.dropped + log.lines.len();
            seen >= times
        });
        let outcome = tokio::time::timeout(STALL, said)
            .await
            .map(|said| said.is_ok());
        match outcome {
            Ok(true) => Ok(()),
            Ok(false) => bail!("the relay ended and did not say {text:?}:\n{}", self.log()),
            Err(_) => bail!("the relay does not say {text:?}:\n{}", self.log()),
        }
    }

    /// Closes the pipe that takes the relay's log.
    pub(crate) async fn close_log(&mut self) {
        self.reader.shutdown().await;
    }

    /// Sends a signal: TERM, STOP, CONT and so on.
    pub(crate) async fn signal(&self, name: &str) -> Result<()> {
        let pid = self.child.id().context("the relay has ended already")?;
        let signalled = Command::new("kill")
            .args([&format!("-{name}"), &pid.to_string()])
            .status()
            .await?;
        ensure!(signalled.success(), "SIG{name} could not be sent");
        Ok(())
    }

    /// Waits for the end. A relay that has panicked is an error whatever its status.
    pub(crate) async fn ended(&mut self) -> Result<ExitStatus> {
        let Ok(status) = tokio::time::timeout(STALL, self.child.wait()).await else {
            bail!("the relay does not end:\n{}", self.log());
        };
        // The log is complete when its reader has come to the end.
        while self.reader.join_next().await.is_some() {}
        ensure!(
            self.count(PANIC) == 0,
            "the relay panicked:\n{}",
            self.log()
        );
        Ok(status?)
    }

    /// Sends SIGTERM, waits for the end, and fails unless the relay ends with status 0.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.signal("TERM").await?;
        let status = self.ended().await?;
        ensure!(
            status.success(),
            "the relay ended with {status}:\n{}",
            self.log()
        );
        Ok(())
    }

    /// Sends SIGKILL and waits for the end.
    pub(crate) async fn kill(mut self) -> Result<()> {
        self.child.kill().await?;
        self.ended().await.map(drop)
    }
}

impl Drop for RelayProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the relay's log:\n{}", self.log());
        }
    }
}
