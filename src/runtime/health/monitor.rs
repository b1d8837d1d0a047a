//! The task that checks the parts and logs what changes.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::checks::{self, Reachable, Reading};
use super::{Board, Part, Progress, Reporter, Snapshot, State};
use crate::config;
use crate::runtime::pauses::Pause;
use crate::runtime::supervisor::BoxError;
use crate::runtime::{Chain, Phase};
use crate::telemetry::lateness::Counts;
use crate::telemetry::metrics::Metrics;

/// What a probe may take at least: a slow answer is an answer.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);

/// How often the counters are logged.
const COUNT_EVERY: Duration = Duration::from_mins(1);

/// A table that the monitor watches.
#[derive(Debug, Clone)]
pub struct Watched {
    /// The table's name.
    pub table: String,
    /// What its source counts.
    pub progress: Arc<Progress>,
    /// Whether a person has paused it.
    pub pause: Pause,
}

/// Checks ScyllaDB, sources and checkpoints every `supervision.health_interval`, and logs the
/// changes of all parts but tasks, and the counters once a minute.
#[derive(Debug)]
pub struct Monitor<P> {
    board: Board,
    settings: config::Supervision,
    tables: Vec<Watched>,
    probe: P,
    scylla: Reporter,
    checkpoints: Reporter,
    logs: Vec<Reporter>,
    metrics: Arc<Metrics>,
}

impl<P, F> Monitor<P>
where
    P: Fn() -> F,
    F: Future<Output = Result<(), BoxError>>,
{
    /// A monitor; `probe` asks ScyllaDB for something small.
    pub fn new(
        board: Board,
        settings: config::Supervision,
        tables: Vec<Watched>,
        metrics: Arc<Metrics>,
        probe: P,
    ) -> Self {
        let logs = tables.iter();
        let logs = logs.map(|watched| board.reporter(Part::Log(watched.table.clone())));
        Self {
            scylla: board.reporter(Part::Scylla),
            checkpoints: board.reporter(Part::Checkpoints),
            logs: logs.collect(),
            board,
            settings,
            tables,
            metrics,
            probe,
        }
    }

    /// Checks until a stop begins: what is then out of order is no news. Cancel-safe.
    pub async fn run(&self, mut phase: watch::Receiver<Phase>) -> Result<(), Infallible> {
        tokio::select! {
            never = self.check() => never,
            // An error means that the runtime has ended: stop as well.
            _ = phase.wait_for(|phase| *phase > Phase::Running) => Ok(()),
        }
    }

    async fn check(&self) -> ! {
        let origin = Instant::now();
        let mut ticks = interval(self.settings.health_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let begin = |watched: &Watched| Reading::new(watched.progress.seen(), origin.elapsed());
        let mut readings: Vec<Reading> = self.tables.iter().map(begin).collect();
        let mut reachable = Reachable::default();
        let mut changes = Changes::default();
        let mut counted = Instant::now();
        let mut late = vec![None; self.tables.len()];
        loop {
            ticks.tick().await;
            self.look(&mut readings, origin);
            self.scylla.set(reachable.judge(self.probed().await));
            changes.log(&self.board.snapshot());
            if counted.elapsed() >= COUNT_EVERY {
                counted = Instant::now();
                tracing::info!(counters = %self.metrics, "counters");
                self.log_late_rows(&mut late);
            }
        }
    }

    /// Tells of tables that have had late rows since the last time.
    fn log_late_rows(&self, told: &mut [Option<Counts>]) {
        for (watched, told) in self.tables.iter().zip(told) {
            let counts = watched.progress.lateness.counts();
            if !counts.is_empty() && told.as_ref() != Some(&counts) {
                tracing::info!(
                    table = %watched.table,
                    rows = %counts,
                    "rows have appeared behind newer ones, by their lateness since the start"
                );
                *told = Some(counts);
            }
        }
    }

    fn look(&self, readings: &mut [Reading], origin: Instant) {
        for ((watched, reading), log) in self.tables.iter().zip(readings).zip(&self.logs) {
            let seen = watched.progress.seen();
            if watched.pause.is_paused() {
                *reading = Reading::new(seen, origin.elapsed());
                log.set(State::Degraded(
                    "a person has paused the table: nothing is read until it is resumed".into(),
                ));
                continue;
            }
            log.set(reading.judge(seen, origin.elapsed(), self.settings.stalled_after));
        }
        let seen = self.tables.iter().map(|watched| watched.progress.seen());
        self.checkpoints.set(checks::saves(seen));
    }

    /// Why ScyllaDB did not answer, if it did not.
    async fn probed(&self) -> Option<String> {
        let patience = self.settings.health_interval.max(LEAST_PATIENCE);
        match timeout(patience, (self.probe)()).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("a small request has failed: {}", Chain(&*error))),
            Err(_) => Some("a small request was not answered in time".to_owned()),
        }
    }
}

/// Which states have been logged.
#[derive(Debug, Default)]
struct Changes {
    states: HashMap<Part, &'static str>,
    ready: Option<bool>,
}

impl Changes {
    fn log(&mut self, snapshot: &Snapshot) {
        for status in &snapshot.parts {
            // The supervisor has logged what happens to tasks.
            if matches!(status.part, Part::Task(_)) {
                continue;
            }
            let name = status.state.name();
            let before = self.states.insert(status.part.clone(), name);
            if before.unwrap_or(State::Ok.name()) == name {
                continue;
            }
            let part = &status.part;
            match &status.state {
                State::Ok => tracing::info!(%part, "health: ok again"),
                State::Degraded(reason) => tracing::warn!(%part, %reason, "health: degraded"),
                State::Failed(reason) => tracing::error!(%part, %reason, "health: failed"),
            }
        }
        if self.ready.replace(snapshot.ready) == Some(!snapshot.ready) {
            tracing::warn!(ready = snapshot.ready, "readiness has changed");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::config::UnreadyWhen;
    use crate::pipeline::testing;
    use tokio::sync::watch;

    fn states(board: &Board) -> Vec<(String, &'static str)> {
        let parts = board.snapshot().parts;
        let state =
            |status: super::super::PartStatus| (status.part.to_string(), status.state.name());
        parts.into_iter().map(state).collect()
    }

    fn of(states: [&'static str; 3]) -> Vec<(String, &'static str)> {
        let parts = ["ScyllaDB", "checkpoints", "log of shop.outbox"];
        parts.map(str::to_owned).into_iter().zip(states).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_monitor_sees_what_the_parts_do_not_tell() {
        let (board, progress) = (Board::default(), Arc::new(Progress::default()));
        let (ready, is_ready) = watch::channel(false);
        let answers = Arc::new(AtomicBool::new(true));
        let probe = {
            let answers = Arc::clone(&answers);
            move || {
                let answers = answers.load(Ordering::Relaxed);
                async move {
                    if !answers {
                        std::future::pending::<()>().await;
                    }
                    Ok(())
                }
            }
        };
        let watched = Watched {
            table: "shop.outbox".to_owned(),
            progress: Arc::clone(&progress),
            pause: Pause::default(),
        };
        let settings = testing::config().supervision;
        let monitor = Monitor::new(
            board.clone(),
            settings,
            vec![watched],
            Arc::default(),
            probe,
        );
        board.open(UnreadyWhen::AllFailed, ready);
        let (phase, phases) = watch::channel(Phase::Running);
        let run = monitor.run(phases);
        tokio::pin!(run);
        let mut seconds = async |seconds| {
            let all = Duration::from_secs(seconds);
            assert!(timeout(all, &mut run).await.is_err());
        };

        // Idle: reads end, nothing is found, nothing is saved.
        for _ in 0..20 {
            progress.read();
            seconds(5).await;
        }
        assert_eq!(states(&board), of(["ok", "ok", "ok"]));
        for _ in 0..3 {
            progress.saved(false);
        }
        seconds(61).await;
        assert_eq!(states(&board), of(["ok", "degraded", "degraded"]));
        assert!(*is_ready.borrow());

        progress.read();
        progress.saved(true);
        answers.store(false, Ordering::Relaxed);
        seconds(12).await;
        assert_eq!(states(&board), of(["degraded", "ok", "ok"]));
        progress.read();
        seconds(20).await;
        assert_eq!(states(&board), of(["failed", "ok", "ok"]));
        assert!(!*is_ready.borrow());

        answers.store(true, Ordering::Relaxed);
        seconds(20).await;
        assert!(*is_ready.borrow(), "{:?}", states(&board));
        phase.send_replace(Phase::Draining);
        assert_eq!(run.await, Ok(()));
    }

    /// Collects log lines.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no panic").extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_change_is_logged_once() {
        let board = Board::default();
        let kafka = board.reporter(Part::Kafka);
        let task = board.reporter(Part::Task(crate::runtime::supervisor::Kind::Http.into()));
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .finish();
        let mut changes = Changes::default();
        tracing::subscriber::with_default(subscriber, || {
            let mut rounds = || (0..3).for_each(|_| changes.log(&board.snapshot()));
            rounds();
            kafka.failed("the breaker is open");
            task.failed("told by the supervisor");
            rounds();
            kafka.failed("still open");
            rounds();
            kafka.ok();
            rounds();
        });
        let text = lines.0.lock().expect("no panic").clone();
        let text = String::from_utf8(text).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].contains("ERROR") && lines[0].contains("the breaker is open"));
        assert!(lines[1].contains("INFO") && lines[1].contains("Kafka"));
    }
}
