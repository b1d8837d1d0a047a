//! How the relay's parts fare, and whether it is ready.
//!
//! Parts tell their state through [`Reporter`]s, latches on one [`Board`]; the [`Monitor`] looks
//! after those that cannot tell it themselves. Invariants:
//!
//! 1. A part has one state: ok, degraded (it works, and a person should look) or failed (it does
//!    not do its work).
//! 2. Readiness follows from the states alone, by the role of each part ([`Part::role`]) and
//!    `supervision.unready_when`. It is false before everything is started and once a stop begins.
//! 3. Idle is ok: nothing to read, publish or save is no fault.
//! 4. A change of state is logged once: of a task by the supervisor, of any other part by the
//!    monitor.
//!
//! It mends nothing: that is the supervisor's, the pipeline's and the sources' business.

mod board;
pub mod checks;
mod monitor;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::supervisor::{Kind, Name};
use crate::source::expiry::Expiry;
use crate::telemetry::lateness::Lateness;
use crate::telemetry::standing::Standing;

pub use board::{Board, PartStatus, Reporter, Snapshot, State};
pub use monitor::{Monitor, Watched};

/// A part of the relay whose state is told apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Part {
    /// What the relay waits for before it begins.
    Start,
    /// Whether ScyllaDB answers.
    Scylla,
    /// Whether a broker can be reached, also while there is nothing to publish.
    KafkaConnection,
    /// Whether Kafka takes records: the producer and the breaker before it.
    Kafka,
    /// Whether the log of this table is read.
    Log(String),
    /// Whether progress is saved.
    Checkpoints,
    /// Whether dead letters can be written.
    DeadLetters,
    /// Whether a task runs; told by the supervisor.
    Task(Name),
}

/// What a failed part means for readiness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Not ready.
    Needed,
    /// One of the tables: as `supervision.unready_when` says.
    Table,
    /// Nothing.
    Reported,
}

impl Part {
    /// What a failure of the part means for readiness.
    pub fn role(&self) -> Role {
        match self {
            Self::Scylla | Self::KafkaConnection | Self::Kafka => Role::Needed,
            Self::Start | Self::Log(_) | Self::Checkpoints | Self::DeadLetters => Role::Reported,
            Self::Task(name) => match name.kind {
                Kind::Coordinator | Kind::Pipeline => Role::Needed,
                Kind::Source => Role::Table,
                Kind::Replayer | Kind::HealthMonitor | Kind::Lease | Kind::WakeUp | Kind::Http => {
                    Role::Reported
                }
            },
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => f.write_str("start"),
            Self::Scylla => f.write_str("ScyllaDB"),
            Self::KafkaConnection => f.write_str("Kafka connection"),
            Self::Kafka => f.write_str("Kafka"),
            Self::Log(table) => write!(f, "log of {table}"),
            Self::Checkpoints => f.write_str("checkpoints"),
            Self::DeadLetters => f.write_str("dead letters"),
            Self::Task(name) => write!(f, "task {name}"),
        }
    }
}

/// What a source counts for the monitor, which knows the time.
#[derive(Debug, Default)]
pub struct Progress {
    reads: AtomicU64,
    failing_groups: AtomicUsize,
    failed_saves: AtomicU64,
    unlogged: AtomicBool,
    resting: AtomicBool,
    /// Seconds until rows that are not settled expire, plus one; zero if there is time enough.
    expires: AtomicU64,
    /// How late rows have appeared.
    pub lateness: Lateness,
    /// Where the table's groups stand.
    pub standing: Standing,
}

impl Progress {
    /// A read has come to its end, whatever it found, or there was nothing to read.
    pub fn read(&self) {
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    /// So many stream groups have had [`checks::FAILING_READS`] failed reads in a row or more.
    pub fn failing_groups(&self, groups: usize) {
        self.failing_groups.store(groups, Ordering::Relaxed);
    }

    /// Writes to the table are logged, or not.
    pub fn logged(&self, logged: bool) {
        self.unlogged.store(!logged, Ordering::Relaxed);
    }

    /// The table is paused and no read of it is under way, or not.
    pub fn rests(&self, resting: bool) {
        self.resting.store(resting, Ordering::Relaxed);
    }

    /// Whether the table is paused and no read of it is under way.
    pub fn is_resting(&self) -> bool {
        self.resting.load(Ordering::Relaxed)
    }

    /// How long the rows that are not settled yet stay in the log.
    pub fn expires(&self, expiry: Expiry) {
        let coded = match expiry {
            Expiry::Far => 0,
            Expiry::Near(left) => left.as_secs().saturating_add(1),
            Expiry::Past => 1,
        };
        self.expires.store(coded, Ordering::Relaxed);
    }

    /// Checkpoints were saved, or not.
    pub fn saved(&self, well: bool) {
        if well {
            self.failed_saves.store(0, Ordering::Relaxed);
        } else {
            self.failed_saves.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What there is to see now.
    pub fn seen(&self) -> checks::Seen {
        checks::Seen {
            reads: self.reads.load(Ordering::Relaxed),
            failing_groups: self.failing_groups.load(Ordering::Relaxed),
            failed_saves: self.failed_saves.load(Ordering::Relaxed),
            unlogged: self.unlogged.load(Ordering::Relaxed),
            expires_in: self.expires.load(Ordering::Relaxed).checked_sub(1),
        }
    }
}
