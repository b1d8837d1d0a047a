//! Counts what a log holds: ids, operations and which columns are set, but no values.
//!
//! Invariant: a page is whole or an error, as with [`super::reader`], whose bounds and errors it has.
//! For commands; the relay itself reads with [`super::reader::LogReader`].

use std::sync::Arc;

use scylla::client::session::Session;
use scylla::response::{PagingState, PagingStateResponse};
use scylla::statement::prepared::PreparedStatement;
use scylla::value::{CqlValue, Row};
use scylla_cdc::cdc_types::StreamID;
use scylla_cdc::consumer::OperationType;

use super::bounds::last_timeuuid;
use super::reader::{Error, MAX_STREAMS, PageError, Range, StreamIndex, prepare_selection};
use crate::checkpoint::reset::Seen;
use crate::config::{Outbox, TableName};
use crate::event::{Position, RowKey};
use crate::scylla::{ColumnKind, TableDescription, quoted};

const COLUMNS: &str = "\"cdc$stream_id\", \"cdc$time\", \"cdc$batch_seq_no\", \"cdc$operation\"";
const PAGE_ROWS: i32 = 5_000;

/// Reads the ids of one table's log.
#[derive(Debug)]
pub struct Census {
    session: Arc<Session>,
    table: TableName,
    read: PreparedStatement,
}

impl Census {
    /// Prepares the read. The table must have a log.
    ///
    /// # Errors
    ///
    /// When it has none, or ScyllaDB cannot be asked.
    pub async fn open(
        session: Arc<Session>,
        outbox: &Outbox,
        described: &TableDescription,
    ) -> Result<Self, Error> {
        let table = outbox.table.clone();
        let set = decisive(outbox, described);
        let set: Vec<String> = set
            .map(|column| format!(", writetime({})", quoted(column)))
            .collect();
        let selection = format!("{COLUMNS}{}", set.concat());
        let read = prepare_selection(&session, &table, &selection, "IN ?", PAGE_ROWS).await?;
        Ok(Self {
            session,
            table,
            read,
        })
    }

    /// Tells the rows of a group in a range, stream by stream, until `tell` says no. The index of a row's
    /// stream is that in `streams`, which are in the order of the group.
    ///
    /// # Errors
    ///
    /// When a page cannot be read or understood.
    pub async fn rows(
        &self,
        streams: &[StreamID],
        range: Range,
        mut tell: impl FnMut(Seen) -> bool,
    ) -> Result<(), Error> {
        let after = last_timeuuid(range.after);
        let upto = last_timeuuid(range.upto.unwrap_or(i64::MAX));
        let parts = streams.chunks(MAX_STREAMS);
        for (part, first) in parts.zip((0_u16..).step_by(MAX_STREAMS)) {
            let mut from = PagingState::start();
            loop {
                let values = (part, after, upto);
                let read = self.session.execute_single_page(&self.read, values, from);
                let (result, paging) = read.await.map_err(|source| Error::Read {
                    table: self.table.clone(),
                    source: Box::new(source),
                })?;
                let seen = || -> Result<Vec<Seen>, PageError> {
                    let rows = result.into_rows_result().map_err(Box::new)?;
                    let index = StreamIndex::new(part);
                    let mut seen = Vec::with_capacity(rows.rows_num());
                    for row in rows.rows::<Row>()? {
                        let columns = row?.columns;
                        let [stream, time, seq, operation, set @ ..] = &columns[..] else {
                            return Err(PageError::Null("its id and operation"));
                        };
                        let (
                            Some(CqlValue::Blob(stream)),
                            Some(CqlValue::Timeuuid(time)),
                            Some(CqlValue::Int(seq)),
                            Some(CqlValue::TinyInt(operation)),
                        ) = (stream, time, seq, operation)
                        else {
                            return Err(PageError::Null("its id and operation"));
                        };
                        let stream = index.of(stream)? + first;
                        let position = Position {
                            time: *time,
                            seq: *seq,
                        };
                        let whole = set.iter().all(Option::is_some);
                        seen.push(Seen {
                            row: RowKey { stream, position },
                            event: is_event(*operation, whole)?,
                        });
                    }
                    Ok(seen)
                };
                let seen = seen().map_err(|source| Error::Page {
                    table: self.table.clone(),
                    source: Box::new(source),
                })?;
                if !seen.into_iter().all(&mut tell) {
                    return Ok(());
                }
                match paging {
                    PagingStateResponse::HasMorePages { state } => from = state,
                    PagingStateResponse::NoMorePages => break,
                }
            }
        }
        Ok(())
    }
}

/// The columns that an update must set to be an event, as [`crate::decode`] has it; the primary key always
/// is set.
fn decisive<'c>(
    outbox: &'c Outbox,
    described: &'c TableDescription,
) -> impl Iterator<Item = &'c String> {
    let columns = &outbox.columns;
    let optional = [
        &columns.aggregate_type,
        &columns.event_type,
        &columns.created_at,
    ];
    let named = [&columns.id, &columns.key, &columns.payload];
    let named = named.into_iter().chain(optional.into_iter().flatten());
    named.filter(|name| {
        let column = described.column(name);
        column.is_some_and(|column| matches!(column.kind, ColumnKind::Regular | ColumnKind::Static))
    })
}

/// Whether a row of this operation may be an event; `whole` if it sets all the columns that decide it.
fn is_event(operation: i8, whole: bool) -> Result<bool, PageError> {
    let operation =
        OperationType::try_from(operation).map_err(|_| PageError::Operation(operation))?;
    Ok(match operation {
        OperationType::RowInsert => true,
        OperationType::RowUpdate => whole,
        _ => false,
    })
}
