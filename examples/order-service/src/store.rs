//! The event store and the outbox, written together.
//!
//! Invariants:
//! 1. An event of an order and its message stand in one logged batch: both exist, or neither.
//! 2. The message carries the id of the event, so that consumers can refer to it.
//!
//! Not here: who may write to an order at a time. `event_store` has the sequence number in its key,
//! but an INSERT overwrites silently, and the usual check, `IF NOT EXISTS`, is not to be had:
//! ScyllaDB allows conditional statements only in a batch on one partition of one table. The
//! service therefore lets one task at a time write to an order; see [`crate::service`].

use crate::order::Event;
use outbox_writer::{DdlOptions, Outbox, PreparedBatch, ddl};
use scylla::client::session::Session;
use scylla::errors::{ExecutionError, PrepareError};
use scylla::statement::prepared::PreparedStatement;
use scylla::value::CqlTimestamp;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use thiserror::Error;
use uuid::Uuid;

/// The version of the events' layout, for readers of later versions.
const EVENT_VERSION: i32 = 1;

/// Why the store failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A statement could not be prepared; most likely the schema has not been created.
    #[error("cannot prepare the statements of the event store: has the schema been created?")]
    Prepare(#[source] Box<PrepareError>),
    /// A table could not be created.
    #[error("cannot create the schema")]
    CreateSchema(#[source] Box<ExecutionError>),
    /// The events of an order could not be read.
    #[error("cannot read the events of order {order_id}")]
    Read {
        /// The order.
        order_id: Uuid,
        /// The driver's error.
        #[source]
        source: Box<ExecutionError>,
    },
    /// A stored event is not what this version understands.
    #[error("event {sequence_number} of order {order_id} cannot be understood: {reason}")]
    Corrupt {
        /// The order.
        order_id: Uuid,
        /// The event.
        sequence_number: i64,
        /// What is wrong with it.
        reason: String,
    },
    /// The batch was refused or could not be written.
    #[error(transparent)]
    Outbox(#[from] outbox_writer::Error),
}

/// Creates the keyspace, the event store and the outbox table, unless they exist.
///
/// `replication_factor` is the number of copies in each datacenter: 3 where data matters.
pub async fn create_schema(
    session: &Session,
    keyspace: &str,
    replication_factor: u32,
) -> Result<(), Error> {
    let outbox = ddl(
        &format!("{keyspace}.outbox_messages"),
        &DdlOptions::default(),
    )?;
    let statements = [
        format!(
            "CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = \
             {{'class': 'NetworkTopologyStrategy', 'replication_factor': {replication_factor}}}"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS {keyspace}.event_store (
                aggregate_id uuid,
                sequence_number bigint,
                event_id uuid,
                event_type text,
                event_version int,
                event_data text,
                created_at timestamp,
                PRIMARY KEY ((aggregate_id), sequence_number)
            )"
        ),
        outbox,
    ];
    for statement in statements {
        session
            .query_unpaged(statement, ())
            .await
            .map_err(|source| Error::CreateSchema(Box::new(source)))?;
    }
    Ok(())
}

/// An event of an order that is to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The order.
    pub order_id: Uuid,
    /// The position among the events of the order, from 1.
    pub sequence_number: i64,
    /// The id of the event and of its message.
    pub event_id: Uuid,
    /// What happened.
    pub event: Event,
}

/// The event store and the outbox of one keyspace.
#[derive(Debug)]
pub struct Store {
    session: Arc<Session>,
    outbox: Outbox,
    insert: PreparedStatement,
    select: PreparedStatement,
}

impl Store {
    /// Prepares the statements; the schema must exist.
    pub async fn new(session: Arc<Session>, keyspace: &str) -> Result<Self, Error> {
        let outbox = Outbox::new(&session, &format!("{keyspace}.outbox_messages")).await?;
        let prepare = async |statement: String| {
            session
                .prepare(statement)
                .await
                .map_err(|source| Error::Prepare(Box::new(source)))
        };
        let mut insert = prepare(format!(
            "INSERT INTO {keyspace}.event_store (aggregate_id, sequence_number, event_id, \
             event_type, event_version, event_data, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)"
        ))
        .await?;
        // The same row with the same timestamp, however often it is written.
        insert.set_is_idempotent(true);
        let mut select = prepare(format!(
            "SELECT sequence_number, event_type, event_data FROM {keyspace}.event_store \
             WHERE aggregate_id = ?"
        ))
        .await?;
        select.set_is_idempotent(true);
        Ok(Self {
            session,
            outbox,
            insert,
            select,
        })
    }

    /// The events of an order, in order; none if there is no such order.
    pub async fn load(&self, order_id: Uuid) -> Result<Vec<Event>, Error> {
        let read = |source| Error::Read {
            order_id,
            source: Box::new(source),
        };
        let rows = self
            .session
            .execute_unpaged(&self.select, (order_id,))
            .await
            .map_err(read)?
            .into_rows_result()
            .map_err(|error| corrupt(order_id, 0, &error))?;
        let rows = rows
            .rows::<(i64, String, String)>()
            .map_err(|error| corrupt(order_id, 0, &error))?;
        let mut events = Vec::new();
        for row in rows {
            let (sequence_number, event_type, data) =
                row.map_err(|error| corrupt(order_id, events.len() as i64 + 1, &error))?;
            let event = decode(&event_type, &data)
                .map_err(|error| corrupt(order_id, sequence_number, &error))?;
            events.push(event);
        }
        Ok(events)
    }

    /// The batch that stores `entry` and its message. It writes nothing yet.
    pub fn batch(&self, entry: &Entry) -> Result<PreparedBatch, Error> {
        let (event_type, data) = encode(&entry.event);
        let message = json!({
            "order_id": entry.order_id,
            "sequence_number": entry.sequence_number,
            "event_type": event_type,
            "data": data,
        });
        let created_at = CqlTimestamp(unix_millis());
        let message = outbox_writer::Event::new("order", entry.order_id.to_string(), event_type)
            .id(entry.event_id)
            .json(&message)?
            .header("sequence-number", entry.sequence_number.to_string());
        let row = (
            entry.order_id,
            entry.sequence_number,
            entry.event_id,
            event_type,
            EVENT_VERSION,
            data.to_string(),
            created_at,
        );
        let batch = self.outbox.batch().statement(&self.insert, row);
        Ok(batch.event(message).prepare()?)
    }

    /// Writes the batch; call it again with the same batch while the outcome is open.
    pub async fn write(&self, batch: &mut PreparedBatch) -> Result<(), outbox_writer::Error> {
        batch.execute(&self.session).await.map(drop)
    }
}

fn corrupt(order_id: Uuid, sequence_number: i64, reason: &impl ToString) -> Error {
    Error::Corrupt {
        order_id,
        sequence_number,
        reason: reason.to_string(),
    }
}

fn encode(event: &Event) -> (&'static str, Value) {
    let mut json = serde_json::to_value(event).unwrap_or_default();
    (event.event_type(), json["event_data"].take())
}

fn decode(event_type: &str, data: &str) -> Result<Event, serde_json::Error> {
    let data: Value = serde_json::from_str(data)?;
    serde_json::from_value(json!({ "event_type": event_type, "event_data": data }))
}

fn unix_millis() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_millis() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_can_be_read() {
        let event = Event::OrderShipped {
            carrier: "post".to_owned(),
        };
        let (event_type, data) = encode(&event);
        assert_eq!(data, json!({ "carrier": "post" }));
        assert_eq!(
            decode(event_type, &data.to_string()).expect("readable"),
            event
        );
        assert!(decode("OrderEaten", "{}").is_err());
    }
}
