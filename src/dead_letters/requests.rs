//! What a person asks of a running relay, by way of the table `requests`.
//!
//! Invariants:
//!
//! 1. A request is carried out by the process that owns the relay's name, one after the other in
//!    the order of their ids. One that a crash has cut off is carried out again.
//! 2. The state of a request is written by that process alone once it is there.

use std::sync::Arc;

use futures::TryStreamExt;
use scylla::client::session::Session;
use scylla::statement::SerialConsistency;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::CqlTimeuuid;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::replay::{Order, Progress};
use super::store::{Error, read_error};
use crate::scylla::quoted;

/// How far a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nobody has begun it.
    Open,
    /// It is under way.
    Running,
    /// It has ended.
    Done,
    /// It has ended with an error.
    Failed,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }

    fn of(name: &str) -> Self {
        match name {
            "running" => Self::Running,
            "done" => Self::Done,
            "failed" => Self::Failed,
            _ => Self::Open,
        }
    }

    /// Whether it has ended.
    pub fn has_ended(self) -> bool {
        match self {
            Self::Open | Self::Running => false,
            Self::Done | Self::Failed => true,
        }
    }
}

/// How far a request has come, in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The state.
    pub state: State,
    /// What was done.
    pub progress: Progress,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A request that has not ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Its id.
    pub id: Uuid,
    /// What is asked; the text if it cannot be understood.
    pub order: Result<Order, String>,
}

/// The requests to one relay.
#[derive(Debug, Clone)]
pub struct Requests {
    session: Arc<Session>,
    relay: String,
    insert: PreparedStatement,
    list: PreparedStatement,
    read: PreparedStatement,
    update: PreparedStatement,
    move_on: PreparedStatement,
}

impl Requests {
    /// Prepares the statements. The table must exist.
    ///
    /// # Errors
    ///
    /// When it does not, or looks different.
    pub async fn new(session: Arc<Session>, keyspace: &str, relay: &str) -> Result<Self, Error> {
        let table = format!("{}.requests", quoted(keyspace));
        let prepare = async |cql: String| {
            let prepared = session.prepare(cql).await;
            let mut prepared = prepared.map_err(|source| Error::Prepare {
                keyspace: keyspace.to_owned(),
                source: Box::new(source),
            })?;
            prepared.set_is_idempotent(true);
            Ok::<_, Error>(prepared)
        };
        Ok(Self {
            insert: prepare(format!(
                "INSERT INTO {table} (relay, id, request, state) VALUES (?, ?, ?, ?)"
            ))
            .await?,
            list: prepare(format!(
                "SELECT id, request, state FROM {table} WHERE relay = ?"
            ))
            .await?,
            read: prepare(format!(
                "SELECT state, progress FROM {table} WHERE relay = ? AND id = ?"
            ))
            .await?,
            update: prepare(format!(
                "UPDATE {table} SET state = ?, progress = ? WHERE relay = ? AND id = ?"
            ))
            .await?,
            move_on: {
                let mut move_on = prepare(format!(
                    "UPDATE {table} SET state = ? WHERE relay = ? AND id = ? IF state = ?"
                ))
                .await?;
                // Made again after a lost answer, it would find its own work and deny it.
                move_on.set_is_idempotent(false);
                move_on.set_serial_consistency(Some(SerialConsistency::Serial));
                move_on
            },
            relay: relay.to_owned(),
            session,
        })
    }

    /// Asks for something; gives the request's id.
    ///
    /// # Errors
    ///
    /// When ScyllaDB does not acknowledge the write.
    pub async fn ask(&self, order: &Order) -> Result<Uuid, Error> {
        let id = Uuid::now_v1(&[2, 0, 0, 0, 0, 1]);
        let request = serde_json::to_string(order).unwrap_or_default();
        let values = (
            &self.relay,
            CqlTimeuuid::from(id),
            request,
            State::Open.name(),
        );
        self.write(&self.insert, values).await?;
        Ok(id)
    }

    /// The requests that have not ended, oldest first.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub async fn open(&self) -> Result<Vec<Request>, Error> {
        type Row = (CqlTimeuuid, Option<String>, Option<String>);
        let rows = self.session.execute_iter(self.list.clone(), (&self.relay,));
        let rows = rows.await.map_err(read_error)?;
        let rows = rows.rows_stream::<Row>().map_err(read_error)?;
        let rows: Vec<Row> = rows.try_collect().await.map_err(read_error)?;
        let open = rows
            .into_iter()
            .filter(|(_, _, state)| !State::of(state.as_deref().unwrap_or_default()).has_ended());
        let request = |(id, request, _): Row| Request {
            id: id.into(),
            order: serde_json::from_str(&request.unwrap_or_default())
                .map_err(|error| error.to_string()),
        };
        Ok(open.map(request).collect())
    }

    /// How far a request has come; an unknown one is open.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub async fn report(&self, id: Uuid) -> Result<Report, Error> {
        Ok(self.find(id).await?.unwrap_or(Report {
            state: State::Open,
            progress: Progress::default(),
            error: None,
        }))
    }

    /// How far a request has come, if there is one of this id.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub async fn find(&self, id: Uuid) -> Result<Option<Report>, Error> {
        type Row = (Option<String>, Option<String>);
        let values = (&self.relay, CqlTimeuuid::from(id));
        let rows = self.session.execute_iter(self.read.clone(), values).await;
        let rows = rows
            .map_err(read_error)?
            .rows_stream::<Row>()
            .map_err(read_error)?;
        let rows: Vec<Row> = rows.try_collect().await.map_err(read_error)?;
        let Some((state, progress)) = rows.into_iter().next() else {
            return Ok(None);
        };
        let report = progress.and_then(|text| serde_json::from_str::<Report>(&text).ok());
        Ok(Some(Report {
            state: State::of(state.as_deref().unwrap_or_default()),
            ..report.unwrap_or(Report {
                state: State::Open,
                progress: Progress::default(),
                error: None,
            })
        }))
    }

    /// Begins a request; says whether it is still there to be carried out. One that was begun before
    /// and cut off is.
    ///
    /// # Errors
    ///
    /// When ScyllaDB does not answer.
    pub async fn take(&self, id: Uuid) -> Result<bool, Error> {
        Ok(self.move_on(id, State::Open, State::Running).await?
            || self.report(id).await?.state == State::Running)
    }

    /// Takes a request back that nobody has begun; says whether that was so.
    ///
    /// # Errors
    ///
    /// When ScyllaDB does not answer.
    pub async fn withdraw(&self, id: Uuid) -> Result<bool, Error> {
        self.move_on(id, State::Open, State::Failed).await
    }

    async fn move_on(&self, id: Uuid, from: State, to: State) -> Result<bool, Error> {
        let values = (to.name(), &self.relay, CqlTimeuuid::from(id), from.name());
        let answer = self.session.execute_unpaged(&self.move_on, values).await;
        let answer = answer.map_err(|e| Error::Write(Box::new(e)))?;
        crate::ownership::applied(answer).map_err(|_| Error::Form {
            column: "[applied]",
        })
    }

    /// Says how far a request has come.
    ///
    /// # Errors
    ///
    /// When ScyllaDB does not acknowledge the write.
    pub async fn tell(&self, id: Uuid, report: &Report) -> Result<(), Error> {
        let text = serde_json::to_string(report).unwrap_or_default();
        let values = (
            report.state.name(),
            text,
            &self.relay,
            CqlTimeuuid::from(id),
        );
        self.write(&self.update, values).await
    }

    async fn write(
        &self,
        statement: &PreparedStatement,
        values: impl scylla::serialize::row::SerializeRow,
    ) -> Result<(), Error> {
        let written = self.session.execute_unpaged(statement, values).await;
        written.map(drop).map_err(|e| Error::Write(Box::new(e)))
    }
}
