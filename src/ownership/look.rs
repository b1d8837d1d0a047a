//! Who owns a relay's name, for those who only want to know.

use scylla::client::session::Session;
use scylla::errors::{ExecutionError, IntoRowsResultError, RowsError};
use scylla::value::CqlTimestamp;
use uuid::Uuid;

use super::LEASE;
use crate::scylla::quoted;

/// Why it could not be found out.
#[derive(Debug, thiserror::Error)]
#[error("read the owner of the relay's name")]
pub struct Error(#[source] Reason);

#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error(transparent)]
    Execute(#[from] ExecutionError),
    #[error(transparent)]
    NoRows(#[from] IntoRowsResultError),
    #[error(transparent)]
    Rows(#[from] RowsError),
    #[error(transparent)]
    Row(#[from] scylla::errors::DeserializationError),
}

/// Who owns a name, and how long. Times are milliseconds since the Unix epoch by the clocks of those who
/// wrote them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// `relay` or `command`.
    pub role: String,
    /// Its host.
    pub host: String,
    /// Its process there.
    pub pid: i32,
    /// When it took the name; none if that is not known.
    pub since: Option<i64>,
    /// When it last renewed its claim.
    pub renewed: i64,
    /// When its lease ends unless it renews it.
    pub until: i64,
}

type OwnerRow = (
    Option<Uuid>,
    Option<String>,
    Option<i32>,
    Option<String>,
    Option<CqlTimestamp>,
);
type LastRow = (Option<Uuid>, Option<i64>);

/// The owner of this relay's name; none if nobody has it. Claims nothing.
///
/// # Errors
///
/// When the tables are missing, or ScyllaDB does not answer.
pub async fn look(session: &Session, keyspace: &str, relay: &str) -> Result<Option<Owner>, Error> {
    let keyspace = quoted(keyspace);
    read(session, &keyspace, relay).await.map_err(Error)
}

async fn read(session: &Session, keyspace: &str, relay: &str) -> Result<Option<Owner>, Reason> {
    let cql =
        format!("SELECT owner, place, pid, role, since FROM {keyspace}.owners WHERE relay = ?");
    let rows = session.query_unpaged(cql, (relay,)).await?;
    let rows = rows.into_rows_result()?;
    let row = rows.rows::<OwnerRow>()?.next().transpose()?;
    let Some((Some(owner), place, pid, role, renewed)) = row else {
        return Ok(None);
    };
    let cql = format!("SELECT owner, writetime(owner) FROM {keyspace}.last_owners WHERE relay = ?");
    let rows = session.query_unpaged(cql, (relay,)).await?;
    let rows = rows.into_rows_result()?;
    let last = rows.rows::<LastRow>()?.next().transpose()?;
    let since = last.and_then(|(last, at)| at.filter(|_| last == Some(owner)));
    let renewed = renewed.map_or(0, |renewed| renewed.0);
    let lease = i64::try_from(LEASE.as_millis()).unwrap_or_default();
    let place = place.unwrap_or_default();
    Ok(Some(Owner {
        role: role.unwrap_or_default(),
        host: place.split(' ').next().unwrap_or_default().to_owned(),
        pid: pid.unwrap_or_default(),
        since: since.map(|micros| micros / 1_000),
        renewed,
        until: renewed.saturating_add(lease),
    }))
}
