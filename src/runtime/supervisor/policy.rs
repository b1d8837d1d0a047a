//! What is done when a task of a kind ends: data, no behaviour.
//!
//! Invariants:
//!
//! 1. Every kind has exactly one policy; `docs/supervision.md` shows all of them, from here.
//! 2. Only kinds without which nothing can be published end the process.

use std::fmt;

/// Kinds of tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The task that runs the supervisor. It is the root: nobody supervises it but its caller.
    Coordinator,
    /// Lanes, producer and the writes of dead letters; one for all tables.
    Pipeline,
    /// Reads one outbox table.
    Source,
    /// Brings dead letters back to the pipeline.
    Replayer,
    /// Checks the parts.
    HealthMonitor,
    /// Renews the claim on the relay's name.
    Lease,
    /// Receives the hints of writers.
    WakeUp,
    /// Answers HTTP requests.
    Http,
}

/// What follows when a run of a task ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// It is started again after a pause; until then and for as long as it fails, it is degraded.
    Restart,
    /// The process drains what can be drained and exits non-zero.
    Drain,
    /// Nothing: the task has done its work.
    Leave,
}

/// What follows when a task has used up its restarts (`supervision.max_restarts` inside
/// `supervision.window`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Escalation {
    /// Nothing new: it is restarted at the longest pause, for ever.
    None,
    /// It is reported as failed, and tried again every `supervision.failed_retry`.
    Failed,
}

/// How a task takes part in a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtStop {
    /// Ends by itself after [`Phase::Draining`](crate::runtime::Phase::Draining), when nothing is left for it.
    Drains,
    /// Ends by itself after [`Phase::Finishing`](crate::runtime::Phase::Finishing), with a last checkpoint.
    Finishes,
    /// Works until the last checkpoints are saved, and is then ended from outside: it must be
    /// cancel-safe at each await.
    IsEnded,
}

/// What is done about the tasks of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// A run has ended with an error.
    pub on_error: Reaction,
    /// A run has panicked.
    pub on_panic: Reaction,
    /// A run has ended well although nobody asked for a stop.
    pub on_end: Reaction,
    /// The restarts are used up.
    pub escalation: Escalation,
    /// The relay stops.
    pub at_stop: AtStop,
    /// Why.
    pub why: &'static str,
}

impl Policy {
    const fn restart(escalation: Escalation, at_stop: AtStop, why: &'static str) -> Self {
        Self {
            on_error: Reaction::Restart,
            on_panic: Reaction::Restart,
            on_end: Reaction::Restart,
            escalation,
            at_stop,
            why,
        }
    }

    /// Whether a task may be started again, whatever has ended its run.
    pub fn restarts(&self) -> bool {
        [self.on_error, self.on_panic, self.on_end].contains(&Reaction::Restart)
    }

    const fn drain(at_stop: AtStop, why: &'static str) -> Self {
        Self {
            on_error: Reaction::Drain,
            on_panic: Reaction::Drain,
            on_end: Reaction::Drain,
            escalation: Escalation::None,
            at_stop,
            why,
        }
    }
}

impl Kind {
    /// Every kind, in the order of the documentation.
    pub const ALL: [Self; 8] = [
        Self::Coordinator,
        Self::Pipeline,
        Self::Source,
        Self::Replayer,
        Self::HealthMonitor,
        Self::Lease,
        Self::WakeUp,
        Self::Http,
    ];

    /// The supervision table.
    pub const fn policy(self) -> Policy {
        use AtStop::{Drains, Finishes, IsEnded};
        match self {
            Self::Coordinator => Policy::drain(
                IsEnded,
                "without it no failure would be seen any more; a new process starts from what is \
                 saved",
            ),
            Self::Pipeline => Policy::drain(
                Drains,
                "it holds what is in flight, in order; a new process reads it again from the last \
                 checkpoint, which a restart inside this one would do too, only with more to go \
                 wrong",
            ),
            Self::Source => Policy::restart(
                Escalation::Failed,
                Finishes,
                "it resumes from its watermark, so a restart loses nothing; a table that fails for \
                 good must not stop the others",
            ),
            Self::Replayer => Policy {
                on_end: Reaction::Leave,
                ..Policy::restart(
                    Escalation::None,
                    Drains,
                    "dead letters stay in their table until they are replayed",
                )
            },
            Self::HealthMonitor => Policy::restart(
                Escalation::None,
                IsEnded,
                "events flow without it; only what is reported grows old",
            ),
            Self::Lease => Policy {
                on_error: Reaction::Drain,
                ..Policy::restart(
                    Escalation::None,
                    IsEnded,
                    "an error means that another process owns the relay's name: two would publish \
                     everything twice, so it ends at once and without a last checkpoint; a claim that \
                     only could not be renewed is tried again, and nothing is published meanwhile",
                )
            },
            Self::WakeUp => Policy::restart(
                Escalation::None,
                IsEnded,
                "a hint only saves time: without it, polling finds the same events",
            ),
            Self::Http => Policy::restart(
                Escalation::None,
                IsEnded,
                "events flow without it; it is the last to stop, so that a stop can be watched",
            ),
        }
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Pipeline => "pipeline",
            Self::Source => "source",
            Self::Replayer => "replayer",
            Self::HealthMonitor => "health monitor",
            Self::Lease => "lease",
            Self::WakeUp => "wake-up listener",
            Self::Http => "HTTP server",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Names a task: its kind and, where a kind has several, what it works on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name {
    /// The kind.
    pub kind: Kind,
    /// For a source: its table.
    pub of: Option<String>,
}

impl Name {
    /// The source of `table`.
    pub fn source(table: &impl fmt::Display) -> Self {
        Self {
            kind: Kind::Source,
            of: Some(table.to_string()),
        }
    }
}

impl From<Kind> for Name {
    fn from(kind: Kind) -> Self {
        Self { kind, of: None }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.of {
            Some(of) => write!(f, "{} of {of}", self.kind),
            None => self.kind.fmt(f),
        }
    }
}
