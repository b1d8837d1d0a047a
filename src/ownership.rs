//! Who may publish in the name of a relay: one process at a time.
//!
//! Owns the tables `owners` and `last_owners` of the relay's keyspace. Two processes of one relay's name would publish
//! everything twice and could not keep the order of a key; a replay beside a running relay could
//! not either. Invariants:
//!
//! 1. A process owns a relay's name from a lightweight transaction that took it until it releases
//!    it, another one takes it over, or [`LEASE`] passes without a renewal.
//! 2. A lease that has ended is renewed only if nobody has owned the name since.
//! 3. It is taken over before that only from a process of the same host that is known to be gone.
//!
//! It does not stop what an owner does that has lost its name: the runtime does.

pub mod look;

use std::fmt;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use scylla::client::session::Session;
use scylla::errors::{ExecutionError, IntoRowsResultError, PrepareError, RowsError};
use scylla::response::query_result::QueryResult;
use scylla::serialize::row::SerializeRow;
use scylla::statement::SerialConsistency;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::{CqlTimestamp, CqlValue, Row};
use uuid::Uuid;

use crate::scylla::quoted;

/// How long an owner that renews nothing keeps the name. A relay that is killed and starts on
/// another host waits at most this long.
pub const LEASE: Duration = Duration::from_secs(10);
/// How long a transaction may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long before the end of its lease an owner does nothing more in the relay's name: what it
/// sent just before is then on its way.
pub const MARGIN: Duration = Duration::from_secs(2);
/// Pause between two renewals.
pub const RENEW_EVERY: Duration = Duration::from_secs(3);

/// Why the owner could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The table is missing or looks different.
    #[error(
        "prepare a statement for the owners in keyspace {keyspace} \
         (`outbox-relay schema --apply` creates the table)"
    )]
    Prepare {
        /// The relay's keyspace.
        keyspace: String,
        /// What the driver says.
        #[source]
        source: Box<PrepareError>,
    },
    /// The transaction failed; it may have been made.
    #[error("read or write the owner of the relay's name")]
    Execute(#[source] Box<ExecutionError>),
    /// Its answer cannot be read.
    #[error("read the answer of a lightweight transaction")]
    Answer(#[source] Box<AnswerError>),
}

/// Why the answer of a transaction cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// It holds no rows.
    #[error(transparent)]
    NoRows(#[from] Box<IntoRowsResultError>),
    /// Its rows have another form.
    #[error(transparent)]
    Rows(#[from] RowsError),
    /// A row cannot be read.
    #[error(transparent)]
    Row(#[from] scylla::errors::DeserializationError),
    /// It does not say whether it was applied.
    #[error("it does not say whether it was applied")]
    Applied,
}

/// What a process does with a relay's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `outbox-relay run`.
    Relay,
    /// A command that replays or discards dead letters.
    Command,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Command => "command",
        }
    }
}

/// Who owns a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    owner: Uuid,
    place: String,
    pid: i32,
    started: i64,
    role: String,
}

impl Holder {
    /// Whether it is a running relay, which can be asked to do something.
    pub fn is_relay(&self) -> bool {
        self.role == Role::Relay.name()
    }

    /// Whether it is a process of this host that has ended.
    fn is_gone(&self) -> bool {
        if Some(&self.place) != place().as_ref() {
            return false;
        }
        match process_start(self.pid) {
            Some(started) => started != self.started,
            // Processes of other users may be hidden.
            None => process_is_missing(self.pid),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.place.split(' ').next().unwrap_or_default();
        write!(f, "a {} (process {} on {host})", self.role, self.pid)
    }
}

/// The outcome of an attempt to own a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// It is ours, for [`LEASE`].
    Ours,
    /// Somebody else has it.
    Held(Holder),
}

/// What a transaction found.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    /// It was applied.
    Applied,
    /// It was not: this process has the name.
    Held(Holder),
    /// It was not: the row is not there any more.
    Free,
}

/// The outcome of a renewal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renewal {
    /// The name is ours, for [`LEASE`].
    Ours,
    /// Somebody else has it, or has had it meanwhile.
    Lost(Option<Holder>),
}

/// The claim of this process on a relay's name.
#[derive(Debug, Clone)]
pub struct Ownership {
    session: Arc<Session>,
    relay: String,
    me: Holder,
    insert: PreparedStatement,
    replace: PreparedStatement,
    delete: PreparedStatement,
    first: PreparedStatement,
    next: PreparedStatement,
    last: PreparedStatement,
}

/// The CQL that creates the tables in `keyspace`, which must exist.
pub fn ddl(keyspace: &str) -> Vec<(&'static str, String)> {
    let keyspace = quoted(keyspace);
    vec![
        (
            "owners",
            format!(
                "CREATE TABLE IF NOT EXISTS {keyspace}.owners (\n    \
                 relay text,\n    \
                 owner uuid,\n    \
                 place text,\n    \
                 pid int,\n    \
                 started bigint,\n    \
                 role text,\n    \
                 since timestamp,\n    \
                 PRIMARY KEY ((relay))\n)"
            ),
        ),
        (
            "last_owners",
            format!(
                "CREATE TABLE IF NOT EXISTS {keyspace}.last_owners (\n    \
                 relay text,\n    \
                 owner uuid,\n    \
                 PRIMARY KEY ((relay))\n)"
            ),
        ),
    ]
}

impl Ownership {
    /// Prepares the statements. The table must exist. Nothing is claimed yet.
    ///
    /// # Errors
    ///
    /// When the table is missing or looks different.
    pub async fn new(
        session: Arc<Session>,
        keyspace: &str,
        relay: &str,
        role: Role,
    ) -> Result<Self, Error> {
        let table = format!("{}.owners", quoted(keyspace));
        let prepare = async |cql: String| {
            let prepared = session.prepare(cql).await;
            let mut prepared = prepared.map_err(|source| Error::Prepare {
                keyspace: keyspace.to_owned(),
                source: Box::new(source),
            })?;
            // One owner in all datacenters, and an answer while the lease still holds.
            prepared.set_serial_consistency(Some(SerialConsistency::Serial));
            prepared.set_request_timeout(Some(PATIENCE));
            Ok::<_, Error>(prepared)
        };
        let ttl = LEASE.as_secs();
        let insert = prepare(format!(
            "INSERT INTO {table} (relay, owner, place, pid, started, role, since) \
             VALUES (?, ?, ?, ?, ?, ?, ?) IF NOT EXISTS USING TTL {ttl}"
        ));
        let replace = prepare(format!(
            "UPDATE {table} USING TTL {ttl} SET owner = ?, place = ?, pid = ?, started = ?, \
             role = ?, since = ? WHERE relay = ? IF owner = ?"
        ));
        let delete = prepare(format!("DELETE FROM {table} WHERE relay = ? IF owner = ?"));
        let last = format!("{}.last_owners", quoted(keyspace));
        let first = prepare(format!(
            "INSERT INTO {last} (relay, owner) VALUES (?, ?) IF NOT EXISTS"
        ));
        let next = prepare(format!(
            "UPDATE {last} SET owner = ? WHERE relay = ? IF EXISTS"
        ));
        let last = prepare(format!("SELECT owner FROM {last} WHERE relay = ?"));
        let pid = i32::try_from(std::process::id()).unwrap_or_default();
        Ok(Self {
            insert: insert.await?,
            replace: replace.await?,
            delete: delete.await?,
            first: first.await?,
            next: next.await?,
            last: last.await?,
            relay: relay.to_owned(),
            me: Holder {
                owner: Uuid::new_v4(),
                place: place().unwrap_or_else(|| "unknown".to_owned()),
                pid,
                started: process_start(pid).unwrap_or_default(),
                role: role.name().to_owned(),
            },
            session,
        })
    }

    /// Claims the name.
    ///
    /// # Errors
    ///
    /// When ScyllaDB does not answer; the claim may have been made, and is to be made again.
    pub async fn claim(&self) -> Result<Claim, Error> {
        loop {
            let holder = match self.insert().await? {
                Outcome::Applied => break,
                Outcome::Held(holder) => holder,
                Outcome::Free => continue,
            };
            let ours = holder.owner == self.me.owner;
            if !ours && !holder.is_gone() {
                return Ok(Claim::Held(holder));
            }
            if self.replace(&holder).await? == Outcome::Applied {
                break;
            }
            // Another one was faster. Of it, this answer tells no more than the columns of its
            // condition.
        }
        self.remember().await?;
        Ok(Claim::Ours)
    }

    /// Renews the claim. A lease that has ended is taken up again only if nobody has had the name
    /// since: what this process knows would be out of date otherwise.
    ///
    /// # Errors
    ///
    /// When ScyllaDB does not answer; the claim may have been renewed, and is to be renewed again.
    pub async fn renew(&self) -> Result<Renewal, Error> {
        if self.replace(&self.me).await? == Outcome::Applied {
            return Ok(Renewal::Ours);
        }
        loop {
            match self.insert().await? {
                Outcome::Applied => break,
                Outcome::Held(holder) if holder.owner == self.me.owner => break,
                Outcome::Held(holder) => return Ok(Renewal::Lost(Some(holder))),
                Outcome::Free => {}
            }
        }
        if self.last().await? == Some(self.me.owner) {
            return Ok(Renewal::Ours);
        }
        self.release().await?;
        Ok(Renewal::Lost(None))
    }

    /// Notes, for good, that the name was ours last.
    async fn remember(&self) -> Result<(), Error> {
        let (relay, owner) = (&self.relay, self.me.owner);
        let first = self.session.execute_unpaged(&self.first, (relay, owner));
        let first = first.await.map_err(|e| Error::Execute(Box::new(e)))?;
        let first = applied(first).map_err(|e| Error::Answer(Box::new(e)))?;
        if !first {
            let next = self.session.execute_unpaged(&self.next, (owner, relay));
            next.await.map_err(|e| Error::Execute(Box::new(e)))?;
        }
        Ok(())
    }

    /// Who had the name last.
    async fn last(&self) -> Result<Option<Uuid>, Error> {
        let read = self.session.execute_unpaged(&self.last, (&self.relay,));
        let read = read.await.map_err(|e| Error::Execute(Box::new(e)))?;
        let answer = |error: AnswerError| Error::Answer(Box::new(error));
        let rows = read
            .into_rows_result()
            .map_err(|error| answer(Box::new(error).into()))?;
        let rows = rows
            .rows::<(Option<Uuid>,)>()
            .map_err(|e| answer(e.into()))?;
        let mut last = None;
        for row in rows {
            last = row.map_err(|e| answer(e.into()))?.0;
        }
        Ok(last)
    }

    /// Gives the name up, if it is ours.
    ///
    /// # Errors
    ///
    /// When ScyllaDB does not answer. Then the lease ends by itself.
    pub async fn release(&self) -> Result<(), Error> {
        let values = (&self.relay, self.me.owner);
        self.transaction(&self.delete, values).await.map(drop)
    }

    /// Takes the name if nobody has it.
    async fn insert(&self) -> Result<Outcome, Error> {
        let me = &self.me;
        let now = now();
        let values = (
            &self.relay,
            me.owner,
            &me.place,
            me.pid,
            me.started,
            &me.role,
            now,
        );
        self.transaction(&self.insert, values).await
    }

    /// Takes the name from `old` if it still has it.
    async fn replace(&self, old: &Holder) -> Result<Outcome, Error> {
        let me = &self.me;
        let now = now();
        let values = (
            me.owner,
            &me.place,
            me.pid,
            me.started,
            &me.role,
            now,
            &self.relay,
            old.owner,
        );
        self.transaction(&self.replace, values).await
    }

    async fn transaction(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<Outcome, Error> {
        let answer = self.session.execute_unpaged(statement, values).await;
        let answer = answer.map_err(|source| Error::Execute(Box::new(source)))?;
        holder(answer).map_err(|source| Error::Answer(Box::new(source)))
    }
}

fn now() -> CqlTimestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    CqlTimestamp(since.map_or(0, |since| since.as_millis() as i64))
}

/// Whether a lightweight transaction was applied.
///
/// # Errors
///
/// When the answer does not say so.
pub fn applied(answer: QueryResult) -> Result<bool, AnswerError> {
    holder(answer).map(|outcome| outcome == Outcome::Applied)
}

fn holder(answer: QueryResult) -> Result<Outcome, AnswerError> {
    let rows = answer.into_rows_result().map_err(Box::new)?;
    let names: Vec<String> = rows
        .column_specs()
        .iter()
        .map(|spec| spec.name().to_owned())
        .collect();
    let mut read = rows.rows::<Row>()?;
    let row = read.next().ok_or(AnswerError::Applied)??;
    let value = |name: &str| {
        let at = names.iter().position(|known| known == name)?;
        row.columns.get(at)?.clone()
    };
    match value("[applied]") {
        Some(CqlValue::Boolean(true)) => return Ok(Outcome::Applied),
        Some(CqlValue::Boolean(false)) => {}
        _ => return Err(AnswerError::Applied),
    }
    let text = |name| match value(name) {
        Some(CqlValue::Text(text)) => text,
        _ => String::new(),
    };
    // The row has expired, or was removed, since somebody saw it.
    let Some(CqlValue::Uuid(owner)) = value("owner") else {
        return Ok(Outcome::Free);
    };
    Ok(Outcome::Held(Holder {
        owner,
        place: text("place"),
        pid: match value("pid") {
            Some(CqlValue::Int(pid)) => pid,
            _ => 0,
        },
        started: match value("started") {
            Some(CqlValue::BigInt(started)) => started,
            _ => 0,
        },
        role: text("role"),
    }))
}

/// Where process numbers mean the same: the host's name, its boot, and the namespace of its
/// process numbers. `None` where the system does not tell.
fn place() -> Option<String> {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!(
        "{} {} {}",
        host.trim(),
        boot.trim(),
        namespace.display()
    ))
}

/// Whether there is no process of this number, as far as the system tells.
fn process_is_missing(pid: i32) -> bool {
    let pid = rustix::process::Pid::from_raw(pid);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH))
}

/// When a process started, in the system's own ticks; `None` if there is none of this number, or
/// only its remains.
fn process_start(pid: i32) -> Option<i64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command in parentheses and may hold anything.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    (state != "Z").then(|| fields.nth(18)?.parse().ok())?
}

#[cfg(test)]
mod claims;

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> Holder {
        let pid = i32::try_from(std::process::id()).expect("a small number");
        Holder {
            owner: Uuid::new_v4(),
            place: place().expect("tests run on Linux"),
            pid,
            started: process_start(pid).expect("this process runs"),
            role: "relay".into(),
        }
    }

    #[test]
    fn a_process_is_gone_if_its_number_is_unused_or_used_again() {
        assert!(!me().is_gone());
        let reused = Holder {
            started: me().started - 1,
            ..me()
        };
        assert!(reused.is_gone());
        let elsewhere = Holder {
            place: "other boot pid:[1]".into(),
            ..reused
        };
        assert!(!elsewhere.is_gone(), "nobody knows");
        let unused = Holder {
            pid: i32::MAX,
            ..me()
        };
        assert!(unused.is_gone());
        assert_eq!(
            elsewhere.to_string(),
            format!("a relay (process {} on other)", elsewhere.pid)
        );
    }
}
