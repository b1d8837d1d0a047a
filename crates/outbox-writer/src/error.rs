//! What can go wrong, and whether the batch may have been written all the same.
//!
//! Invariants:
//! 1. Every variant but [`Error::Execute`] is raised before anything is sent to the database.
//! 2. No message contains a payload, a key or a header value.
//!
//! Not here: retrying. [`Error::may_have_been_written`] tells the caller what a failure means;
//! [`PreparedBatch::execute`](crate::PreparedBatch::execute) may then be called again.

use scylla::errors::{BadQuery, DbError, ExecutionError, PrepareError, RequestAttemptError};
use scylla::serialize::SerializationError;
use thiserror::Error;
use uuid::Uuid;

/// Why an outbox could not be opened, or a batch was refused or failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The name of the table is not `table` or `keyspace.table`.
    #[error(
        "{name:?} is not a table name: write `table` or `keyspace.table`, at most 48 letters, digits and underscores each"
    )]
    TableName {
        /// The name as given.
        name: String,
    },

    /// A column name is empty or contains something other than letters, digits and underscores.
    #[error("{name:?} is not a column name: use letters, digits and underscores")]
    ColumnName {
        /// The name as given.
        name: String,
    },

    /// A statement of the outbox could not be prepared: the table or a column is missing, or the
    /// database cannot be reached.
    #[error(
        "cannot prepare `{statement}`: does the table exist, with these columns? \
         `outbox_writer::ddl` prints the recommended one"
    )]
    Prepare {
        /// The statement.
        statement: String,
        /// The driver's error.
        #[source]
        source: Box<PrepareError>,
    },

    /// The schema tables could not be read to see whether change data capture is on.
    #[error("cannot read the schema of `{table}`")]
    ReadSchema {
        /// The outbox table.
        table: String,
        /// The driver's error.
        #[source]
        source: Box<ExecutionError>,
    },

    /// The table has no change data capture log: events written to it would never be published.
    #[error(
        "change data capture is off for `{table}`, so nothing written to it would ever be \
         published: ALTER TABLE {table} WITH cdc = {{'enabled': true}}"
    )]
    CdcOff {
        /// The outbox table.
        table: String,
    },

    /// A column of the outbox table has a type that this library cannot fill.
    #[error("column `{column}` has the type {found}, but must be one of: {expected}")]
    ColumnType {
        /// The column.
        column: String,
        /// The types that would do.
        expected: &'static str,
        /// The type of the column.
        found: String,
    },

    /// The partition key of the table is neither the aggregate id nor the event id.
    #[error(
        "the partition key of `{table}` must be `{aggregate_id}` (recommended) or `{id}`, so that \
         `store_nothing` knows which row to delete"
    )]
    PartitionKey {
        /// The outbox table.
        table: String,
        /// The column of the aggregate id.
        aggregate_id: String,
        /// The column of the event id.
        id: String,
    },

    /// Hints may go to an address of the loopback interface only.
    #[error(
        "{address:?} is no place for hints: write an address of this host's loopback interface \
         and a port, such as 127.0.0.1:9465, as in the relay's `follow.wake_up`"
    )]
    WakeUpAddress {
        /// The address as given.
        address: String,
    },

    /// The operating system gives no socket for hints.
    #[error("cannot open a socket for hints to the relay")]
    WakeUpSocket {
        /// The system's error.
        #[source]
        source: std::io::Error,
    },

    /// A batch without an event: use the driver's own batch for it.
    #[error("the batch has no event: add one, or write the statements without the outbox")]
    NoEvent,

    /// An event without an aggregate id: it would have no key and thereby no order.
    #[error("event {id} has an empty aggregate id, so it would have neither key nor order")]
    NoKey {
        /// The event.
        id: Uuid,
    },

    /// The aggregate id is longer than ScyllaDB allows a partition key to be.
    #[error("event {id}: the aggregate id has {bytes} bytes, a key may have {limit}")]
    KeyTooLong {
        /// The event.
        id: Uuid,
        /// The length of the aggregate id in bytes.
        bytes: usize,
        /// The most that is allowed, in bytes.
        limit: usize,
    },

    /// The aggregate id does not fit the type of its column.
    #[error("event {id}: the aggregate id is no {expected}, which column `{column}` demands")]
    KeyType {
        /// The event.
        id: Uuid,
        /// The column of the aggregate id.
        column: String,
        /// The type of that column.
        expected: &'static str,
    },

    /// An event without an aggregate type or without an event type.
    #[error("event {id} has an empty {what}")]
    NoType {
        /// The event.
        id: Uuid,
        /// Which of the two types.
        what: &'static str,
    },

    /// An event to which no payload was given.
    #[error(
        "event {id} has no payload: call `json`, `bytes` or `text`, or `without_payload` if it is \
         meant to have none"
    )]
    NoPayload {
        /// The event.
        id: Uuid,
    },

    /// The payload could not be turned into JSON.
    #[error("cannot write the payload as JSON")]
    Json(#[source] serde_json::Error),

    /// The payload is above the limit of the outbox.
    #[error(
        "event {id}: the payload has {bytes} bytes, the limit is {limit}: store it elsewhere and \
         send a reference, or raise `max_payload_bytes` here and `max.message.bytes` in Kafka"
    )]
    PayloadTooLarge {
        /// The event.
        id: Uuid,
        /// The size of the payload in bytes.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },

    /// The payload column is text, the payload is not valid UTF-8.
    #[error("event {id}: column `{column}` is text, but the payload is not valid UTF-8")]
    PayloadNotText {
        /// The event.
        id: Uuid,
        /// The payload column.
        column: String,
    },

    /// The event has headers, the table has no column for them.
    #[error("event {id} has headers, but the layout of the outbox has no column for headers")]
    NoHeadersColumn {
        /// The event.
        id: Uuid,
    },

    /// The headers of an event are too many or too large, or one has no name.
    #[error(
        "event {id}: {count} headers of {bytes} bytes together, allowed are {max_count} headers \
         of {max_bytes} bytes together, each with a name"
    )]
    Headers {
        /// The event.
        id: Uuid,
        /// How many headers the event has.
        count: usize,
        /// Bytes of all names and values.
        bytes: usize,
        /// How many are allowed.
        max_count: usize,
        /// Bytes that are allowed.
        max_bytes: usize,
    },

    /// The id that the application chose is no timeuuid, but the column is.
    #[error("event {id}: column `{column}` is a timeuuid, which takes UUIDs of version 1 only")]
    IdVersion {
        /// The event.
        id: Uuid,
        /// The id column.
        column: String,
    },

    /// Two events of one batch have the same id: they would become one row.
    #[error("event {id} is twice in the batch: two events with one id are one row")]
    DuplicateId {
        /// The id.
        id: Uuid,
    },

    /// The ids of two events of one aggregate do not sort in the order of addition. ScyllaDB logs
    /// the rows of one partition in the order of their ids, so the events would swap.
    #[error(
        "event {id} was added after event {after} of the same aggregate, but sorts before it, so \
         it would be published before it"
    )]
    IdOrder {
        /// The event that was added later.
        id: Uuid,
        /// The event that was added earlier.
        after: Uuid,
    },

    /// The values do not fit the application's prepared statement.
    #[error("statement {index} of the batch: its values do not fit")]
    Values {
        /// Position of the statement among the application's statements, from 0.
        index: usize,
        /// The driver's error.
        #[source]
        source: SerializationError,
    },

    /// A conditional statement (`IF …`): ScyllaDB allows those only in a batch on one partition of
    /// one table, so it cannot stand in a batch with an outbox row.
    #[error(
        "statement {index} of the batch is conditional (IF …), which cannot be batched with a row \
         of another table"
    )]
    Conditional {
        /// Position of the statement among the application's statements, from 0.
        index: usize,
    },

    /// The batch has more statements than the CQL protocol can carry.
    #[error("the batch has {count} statements, the CQL protocol allows {limit}")]
    TooManyStatements {
        /// The statements, those of the outbox included.
        count: usize,
        /// The limit of the protocol.
        limit: usize,
    },

    /// The values of the batch are above the limit of the outbox.
    #[error(
        "the values of the batch have {bytes} bytes, the limit is {limit}: split it, or raise \
         `max_batch_bytes` here and `batch_size_fail_threshold_in_kb` in scylla.yaml"
    )]
    BatchTooLarge {
        /// Bytes of all values.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },

    /// Two events of one aggregate stand in one batch, and the log would show them in another order
    /// than that of addition, or as one row.
    #[error(
        "event {id} was added after event {after} of the same aggregate, and the table cannot keep \
         their order in one batch: {reason}. Write them in two batches, or use the recommended table"
    )]
    TableOrder {
        /// The event that was added later.
        id: Uuid,
        /// The event that was added earlier.
        after: Uuid,
        /// What is wrong with the table.
        reason: &'static str,
    },

    /// The database or the driver reported an error. Whether the batch was written all the same
    /// tells [`Error::may_have_been_written`].
    #[error("cannot write the batch")]
    Execute {
        /// The driver's error, which tells of its last attempt.
        #[source]
        source: Box<ExecutionError>,
        /// Whether an attempt of this call, or an earlier call, may have written the batch.
        may_have_been_written: bool,
    },
}

impl Error {
    /// Whether the batch may have been written, or may still be, although this error came back.
    ///
    /// `true` for timeouts and broken connections: ScyllaDB may have put the batch into its
    /// batchlog and bring it to an end up to a minute later. To learn the outcome, call
    /// [`PreparedBatch::execute`](crate::PreparedBatch::execute) of the *same* batch again: it
    /// writes the same ids with the same timestamp, so it is one event however often it is
    /// written. `false` means that the batch was certainly refused, by every attempt that the
    /// driver made, and that no earlier call of the same batch has left its outcome open.
    pub fn may_have_been_written(&self) -> bool {
        match self {
            Self::Execute {
                may_have_been_written,
                ..
            } => *may_have_been_written,
            _ => false,
        }
    }

    /// Whether ScyllaDB refused the timestamp because the streams of its CDC log have changed since.
    ///
    /// It has no error code of its own for this, only the text.
    pub(crate) fn is_of_an_earlier_generation(&self) -> bool {
        let Self::Execute { source, .. } = self else {
            return false;
        };
        match source.as_ref() {
            ExecutionError::LastAttemptError(RequestAttemptError::DbError(
                DbError::Invalid,
                text,
            )) => text.contains("cdc:") && text.contains("earlier generation"),
            _ => false,
        }
    }
}

/// Everything that is not a certain refusal counts as open. This looks at the last attempt alone; see
/// [`Attempts`](crate::attempts::Attempts).
pub(crate) fn outcome_is_open(error: &ExecutionError) -> bool {
    match error {
        ExecutionError::BadQuery(
            BadQuery::SerializationError(_)
            | BadQuery::TooManyQueriesInBatchStatement(_)
            | BadQuery::PartitionKeyExtraction
            | BadQuery::ValuesTooLongForKey(..),
        )
        | ExecutionError::EmptyPlan
        | ExecutionError::PrepareError(_)
        | ExecutionError::ConnectionPoolError(_) => false,
        ExecutionError::LastAttemptError(error) => attempt_is_open(error),
        _ => true,
    }
}

/// Whether an attempt that ended in this error may have been written.
pub(crate) fn attempt_is_open(error: &RequestAttemptError) -> bool {
    match error {
        RequestAttemptError::SerializationError(_)
        | RequestAttemptError::CqlRequestSerialization(_)
        | RequestAttemptError::UnableToAllocStreamId
        | RequestAttemptError::RepreparedIdChanged { .. } => false,
        RequestAttemptError::DbError(error, _) => !is_refusal(error),
        _ => true,
    }
}

/// Answers that a coordinator gives before it has written anything.
fn is_refusal(error: &DbError) -> bool {
    matches!(
        error,
        DbError::SyntaxError
            | DbError::Invalid
            | DbError::AuthenticationError
            | DbError::Unauthorized
            | DbError::ConfigError
            | DbError::Unavailable { .. }
            | DbError::Unprepared { .. }
            | DbError::ProtocolError
            | DbError::IsBootstrapping
            | DbError::RateLimitReached { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use scylla::errors::WriteType;
    use scylla::statement::Consistency;
    use std::time::Duration;

    fn db(error: DbError) -> bool {
        outcome_is_open(&ExecutionError::LastAttemptError(
            RequestAttemptError::DbError(error, String::new()),
        ))
    }

    #[test]
    fn timeouts_leave_the_outcome_open() {
        let timeout = DbError::WriteTimeout {
            consistency: Consistency::LocalQuorum,
            received: 1,
            required: 2,
            write_type: WriteType::BatchLog,
        };
        assert!(db(timeout));
        assert!(db(DbError::ServerError));
        assert!(outcome_is_open(&ExecutionError::RequestTimeout(
            Duration::from_secs(1)
        )));
    }

    #[test]
    fn a_change_of_streams_is_told_by_its_text() {
        let invalid = |text: &str| Error::Execute {
            source: Box::new(ExecutionError::LastAttemptError(
                RequestAttemptError::DbError(DbError::Invalid, text.to_owned()),
            )),
            may_have_been_written: false,
        };
        let text = "cdc: attempted to get a stream from an earlier generation than the currently \
                    used one. With CDC you cannot send writes with timestamps too far into the past";
        assert!(invalid(text).is_of_an_earlier_generation());
        assert!(!invalid("Unknown identifier").is_of_an_earlier_generation());
        assert!(!Error::NoEvent.is_of_an_earlier_generation());
    }

    #[test]
    fn refusals_do_not() {
        assert!(!db(DbError::Invalid));
        assert!(!db(DbError::Unauthorized));
        assert!(!outcome_is_open(&ExecutionError::EmptyPlan));
        assert!(!Error::NoEvent.may_have_been_written());
    }
}
