//! Starts the relay's tasks, sees them end, and does what their policies say.
//!
//! The table of policies is [`policy`], the decision about one task is the pure state machine
//! [`restarts`], and this is the shell: futures in a `JoinSet`, the clock, the log. Invariants:
//!
//! 1. Every task of the relay is started here, with a kind; none is detached.
//! 2. A panic is handled like an error of the task; its message goes to the log.
//! 3. What happens to one task never touches another, but for a policy that drains the process.
//! 4. A stop has three steps, each with a deadline: tasks that drain, tasks that save a last
//!    checkpoint, then all others are ended.
//! 5. A panic of the supervisor itself ends the process in order, too.
//!
//! It does not know what a task does.

mod kept;
pub mod policy;
pub mod restarts;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

use super::health::{Board, Part, Reporter};
use super::{Chain, Phase};
use crate::config;
use crate::telemetry::metrics::Metrics;

pub use kept::{Gone, Kept, Lent};
pub use policy::{AtStop, Kind, Name};
use restarts::{Decision, End, Restarts, Status};

/// The error of any task.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What tasks that are ended from outside may take to notice it.
const END: Duration = Duration::from_secs(1);
/// Characters of a panic's message and of a reason that are shown.
const SHOWN: usize = 300;

/// Why a run of a task has ended.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It has panicked.
    #[error("it has panicked, which is a defect, please report it: {0}")]
    Panicked(String),
    /// It has failed.
    #[error("it has failed")]
    Failed(#[source] BoxError),
    /// It has ended although nobody asked it to.
    #[error("it has ended by itself")]
    Ended,
}

impl Failure {
    fn end(&self) -> End {
        match self {
            Self::Panicked(_) => End::Panicked,
            Self::Failed(_) => End::Failed,
            Self::Ended => End::Finished,
        }
    }

    fn panicked(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Self::Panicked(shortened(text.unwrap_or("(no message)")))
    }
}

/// A task has ended without which the relay cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("the relay cannot go on without its {task}")]
pub struct Fatal {
    /// The task.
    pub task: Name,
    /// What has happened to it.
    #[source]
    pub failure: Failure,
}

impl Fatal {
    fn new(task: Name, failure: Failure) -> Self {
        tracing::error!(
            %task,
            error = %Chain(&failure),
            "the relay cannot go on without this task: it drains and ends"
        );
        Self { task, failure }
    }
}

/// How a stop went.
#[derive(Debug, Default)]
pub struct Stopped {
    /// Tasks that should have saved a last checkpoint, and have failed or were too slow.
    pub unfinished: Vec<Name>,
    /// What ended the process's last hope to drain, if something did.
    pub fatal: Option<Fatal>,
}

/// Limits of a stop.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// For tasks that drain.
    pub drain: Duration,
    /// For last checkpoints.
    pub finish: Duration,
}

type Run =
    Arc<dyn Fn(watch::Receiver<Phase>) -> BoxFuture<'static, Result<(), BoxError>> + Send + Sync>;

/// Times are since the supervisor's origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running { since: Duration },
    Waiting { until: Duration },
    Ended { well: bool },
}

struct Task {
    name: Name,
    run: Run,
    state: State,
    restarts: Restarts,
    reporter: Reporter,
}

impl Task {
    fn wake_at(&self) -> Option<Duration> {
        match self.state {
            State::Running { since } => self.restarts.stable_at(since),
            State::Waiting { until } => Some(until),
            State::Ended { .. } => None,
        }
    }

    fn at_stop(&self) -> AtStop {
        self.name.kind.policy().at_stop
    }
}

/// The relay's tasks. Dropping it ends all of them at once.
pub struct Supervisor {
    tasks: Vec<Task>,
    running: JoinSet<Result<(), BoxError>>,
    /// Which task a run belongs to.
    runs: HashMap<Id, usize>,
    phase: watch::Sender<Phase>,
    origin: Instant,
    limits: config::Supervision,
    board: Board,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tasks = self.tasks.iter().map(|task| (&task.name, task.state));
        f.debug_map().entries(tasks).finish()
    }
}

impl Supervisor {
    /// A supervisor without tasks, in [`Phase::Running`]. How each task fares is on `board`.
    pub fn new(limits: config::Supervision, board: Board, metrics: Arc<Metrics>) -> Self {
        Self {
            tasks: Vec::new(),
            running: JoinSet::new(),
            runs: HashMap::new(),
            phase: watch::Sender::new(Phase::Running),
            origin: Instant::now(),
            limits,
            board,
            metrics,
        }
    }

    /// Starts a task. `run` makes one run of it, and is called again for each restart; what must
    /// outlive a run is [`Kept`] outside of it. Each run gets the phase of the relay, and ends by
    /// itself as the [`AtStop`] of its kind says.
    ///
    /// Must be called inside a runtime.
    pub fn start<R, F, E>(&mut self, name: impl Into<Name>, run: R)
    where
        R: Fn(watch::Receiver<Phase>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let name = name.into();
        let run = Arc::new(move |phase| {
            let run = run(phase);
            async move { run.await.map_err(Into::into) }.boxed()
        });
        let reporter = self.board.reporter(Part::Task(name.clone()));
        let restarts = Restarts::new(name.kind.policy(), self.limits.clone());
        self.tasks.push(Task {
            name,
            run,
            state: State::Ended { well: true },
            restarts,
            reporter,
        });
        self.run(self.tasks.len() - 1);
    }

    fn run(&mut self, index: usize) {
        let since = self.now();
        let task = &mut self.tasks[index];
        task.state = State::Running { since };
        let run = Arc::clone(&task.run);
        let phase = self.phase.subscribe();
        // Inside the task, so that a panic while the run is made is the task's own.
        let started = self.running.spawn(async move { run(phase).await });
        self.runs.insert(started.id(), index);
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Keeps the tasks running until one ends without which the relay cannot go on.
    ///
    /// Cancel-safe: it may be called again, and [`stop`](Self::stop) may follow.
    pub async fn watch(&mut self) -> Fatal {
        let watched = async {
            loop {
                if let Some(fatal) = self.step().await {
                    break fatal;
                }
            }
        };
        guarded(watched).await
    }

    /// Waits until a run ends or a time comes, and does what follows.
    async fn step(&mut self) -> Option<Fatal> {
        let wake = self.tasks.iter().filter_map(Task::wake_at).min();
        let wake = wake.map(|at| self.origin + at);
        tokio::select! {
            Some(ended) = self.running.join_next_with_id() => self.ended(ended),
            () = sleep_until(wake.unwrap_or(self.origin)), if wake.is_some() => {
                self.woken();
                None
            }
            // Nothing runs and nothing will.
            else => std::future::pending().await,
        }
    }

    fn woken(&mut self) {
        let now = self.now();
        for index in 0..self.tasks.len() {
            let task = &mut self.tasks[index];
            match task.state {
                State::Running { since } => {
                    if task.restarts.running(since, now) {
                        task.reporter.ok();
                        tracing::info!(task = %task.name, "the task runs again");
                        self.count_failed();
                    }
                }
                State::Waiting { until } if until <= now => self.run(index),
                State::Waiting { .. } | State::Ended { .. } => {}
            }
        }
    }

    fn ended(&mut self, ended: Result<(Id, Result<(), BoxError>), JoinError>) -> Option<Fatal> {
        let (id, failure) = match ended {
            Ok((id, Ok(()))) => (id, Failure::Ended),
            Ok((id, Err(error))) => (id, Failure::Failed(error)),
            Err(error) => {
                let id = error.id();
                // Only `stop` aborts runs, and it does not look at them any more.
                let panic = error.try_into_panic().ok()?;
                self.metrics.task_panics.add(1);
                (id, Failure::panicked(&*panic))
            }
        };
        let index = self.runs.remove(&id)?;
        let State::Running { since } = self.tasks[index].state else {
            return None;
        };
        let phase = *self.phase.borrow();
        if phase > Phase::Running && matches!(failure, Failure::Ended) {
            self.tasks[index].state = State::Ended { well: true };
            return None;
        }
        let now = self.now();
        let decision = self.tasks[index].restarts.ended(failure.end(), since, now);
        self.decided(index, decision, failure, now, phase)
    }

    fn decided(
        &mut self,
        index: usize,
        decision: Decision,
        failure: Failure,
        now: Duration,
        phase: Phase,
    ) -> Option<Fatal> {
        let task = &mut self.tasks[index];
        let (after, newly_failed) = match decision {
            Decision::Leave => {
                task.state = State::Ended { well: true };
                return None;
            }
            Decision::Drain => {
                task.state = State::Ended { well: false };
                task.reporter.failed(shown(&failure));
                return Some(Fatal::new(task.name.clone(), failure));
            }
            Decision::Restart { after } => (after, false),
            Decision::Fail { after, newly } => (after, newly),
        };
        if phase > Phase::Running {
            task.state = State::Ended { well: false };
            tracing::warn!(task = %task.name, error = %Chain(&failure), "a task has failed while the relay stops");
            return None;
        }
        task.state = State::Waiting { until: now + after };
        self.metrics.task_restarts.add(1);
        let kind = self.tasks[index].name.kind;
        self.metrics.restarts_by_task.count(kind.name());
        self.report(index, newly_failed, after, &failure);
        None
    }

    fn report(&self, index: usize, newly_failed: bool, after: Duration, failure: &Failure) {
        let task = &self.tasks[index];
        let reason = shown(failure);
        if task.restarts.status() == Status::Failed {
            task.reporter.failed(reason);
        } else {
            task.reporter.degraded(reason);
        }
        let error = Chain(failure);
        let name = &task.name;
        if newly_failed {
            self.count_failed();
            tracing::error!(
                task = %name,
                %error,
                retry_every = ?after,
                "the task fails again and again and is reported as failed; the others go on. \
                 Mend what the error says (`outbox-relay check` says more); it is tried again by \
                 itself"
            );
        } else if matches!(failure, Failure::Panicked(_)) {
            tracing::error!(task = %name, %error, retry_in = ?after, "the task will be started again");
        } else {
            tracing::warn!(task = %name, %error, retry_in = ?after, "the task will be started again");
        }
    }

    fn count_failed(&self) {
        let failed = |task: &&Task| task.restarts.status() == Status::Failed;
        let count = self.tasks.iter().filter(failed).count();
        self.metrics.failed_tasks.set(count as u64);
    }

    /// Stops all tasks: drain, last checkpoints, then the rest. Past a deadline the next step
    /// begins with what has been reached.
    ///
    /// Not cancel-safe: dropped, it leaves the tasks in the step that was reached.
    pub async fn stop(&mut self, deadlines: Deadlines) -> Stopped {
        let mut stopped = Stopped::default();
        for task in &mut self.tasks {
            if matches!(task.state, State::Waiting { .. }) {
                task.state = State::Ended { well: false };
            }
        }
        let steps = [
            (Phase::Draining, AtStop::Drains, deadlines.drain),
            (Phase::Finishing, AtStop::Finishes, deadlines.finish),
        ];
        for (phase, step, deadline) in steps {
            self.phase.send_replace(phase);
            let ended = self.until_ended(step, &mut stopped.fatal);
            if timeout(deadline, ended).await.is_err() {
                tracing::warn!(?phase, ?deadline, "a step of the stop took too long");
            }
        }
        let _ = timeout(END, self.running.shutdown()).await;
        let unfinished = |task: &&Task| {
            task.at_stop() == AtStop::Finishes && task.state != State::Ended { well: true }
        };
        let unfinished = self.tasks.iter().filter(unfinished);
        stopped.unfinished = unfinished.map(|task| task.name.clone()).collect();
        stopped
    }

    async fn until_ended(&mut self, step: AtStop, fatal: &mut Option<Fatal>) {
        let going =
            |task: &Task| task.at_stop() == step && !matches!(task.state, State::Ended { .. });
        while self.tasks.iter().any(going) {
            if let Some(new) = self.step().await {
                fatal.get_or_insert(new);
            }
        }
    }
}

/// Makes a panic of the supervisor itself a reason to drain.
async fn guarded(watched: impl Future<Output = Fatal>) -> Fatal {
    let watched = AssertUnwindSafe(watched).catch_unwind().await;
    watched.unwrap_or_else(|panic| Fatal::new(Kind::Coordinator.into(), Failure::panicked(&*panic)))
}

/// A failure as the reason of a state.
fn shown(failure: &Failure) -> String {
    shortened(&Chain(failure).to_string())
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
