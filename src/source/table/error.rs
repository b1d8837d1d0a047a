//! What goes wrong with a source, and what that says.

use std::time::Duration;

use scylla::errors::{DbError, ExecutionError, RequestAttemptError};
use tokio::task::JoinError;

use crate::checkpoint;
use crate::config::TableName;
use crate::decode::MappingError;
use crate::source::{generations, reader};

/// Why a source cannot go on by itself. The supervisor starts it again; it resumes from W.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log cannot be read.
    #[error(transparent)]
    Reader(#[from] reader::Error),
    /// The table's columns do not fit the configuration.
    #[error(transparent)]
    Mapping(#[from] MappingError),
    /// ScyllaDB does not tell its streams.
    #[error(transparent)]
    Generations(#[from] generations::Error),
    /// The checkpoints cannot be read, or the first start cannot be saved.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    /// Rows may have expired in the log before they were read.
    #[error(
        "the relay was away for longer than the log of {table} keeps its rows ({} s): what was \
         written between {from} and {to} (microseconds since the Unix epoch) may be lost; look \
         for it in {table} itself, then set follow.accept_expired: true to go on without it",
        ttl.as_secs()
    )]
    Expired {
        /// The table.
        table: TableName,
        /// How long its log keeps rows.
        ttl: Duration,
        /// The oldest watermark.
        from: i64,
        /// What is older has expired.
        to: i64,
    },
    /// The last checkpoint was not saved.
    #[error(
        "the last checkpoint of {0} was not saved: events since the one before will be published \
         again"
    )]
    Unsaved(TableName),
    /// A read has panicked: a defect of the relay.
    #[error("a read of the log has panicked; this is a defect, please report it")]
    Panicked(#[source] JoinError),
}

/// Whether an error says that ScyllaDB has too much to do.
pub(super) fn is_overload(error: &reader::Error) -> bool {
    let reader::Error::Read { source, .. } = error else {
        return false;
    };
    match source.as_ref() {
        ExecutionError::RequestTimeout(_) => true,
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(error, _)) => matches!(
            error,
            DbError::Overloaded
                | DbError::IsBootstrapping
                | DbError::ReadTimeout { .. }
                | DbError::RateLimitReached { .. }
        ),
        _ => false,
    }
}

/// Whether an error may come from an altered, dropped or forbidden table, so that the same read
/// will not succeed.
pub(super) fn is_about_the_table(error: &reader::Error) -> bool {
    match error {
        reader::Error::Describe(_) => false,
        reader::Error::NoTable(_)
        | reader::Error::CdcOff(_)
        | reader::Error::LogColumn { .. }
        | reader::Error::Prepare { .. }
        | reader::Error::Page { .. } => true,
        reader::Error::Read { source, .. } => match source.as_ref() {
            ExecutionError::BadQuery(_) | ExecutionError::PrepareError(_) => true,
            ExecutionError::LastAttemptError(error) => matches!(
                error,
                RequestAttemptError::RepreparedIdChanged { .. }
                    | RequestAttemptError::CqlResultParseError(_)
                    | RequestAttemptError::DbError(
                        DbError::Invalid
                            | DbError::SyntaxError
                            | DbError::ConfigError
                            | DbError::Unauthorized,
                        _,
                    )
            ),
            _ => false,
        },
    }
}
