//! Another attempt to make a record of a row that could not be decoded.
//!
//! A dead letter of an undecodable row keeps the row's columns: they are decoded again, with the
//! configuration and the table as they are now, whether the log still has the row or not. The log is
//! read only for the value of a column that was not kept, because it was not mapped then. When the
//! log has lost that, to its TTL, there is an error; what is not known is never taken for null.

use std::collections::HashMap;
use std::sync::Arc;

use scylla::client::session::Session;
use scylla::frame::response::result::ColumnType;
use scylla::response::PagingState;
use tokio::sync::Mutex;

use super::letter::{DeadLetter, Label};
use super::row;
use crate::config::Outbox;
use crate::decode::{Decision, Decoder};
use crate::event::{Change, ChangeColumns, Record, TableId};
use crate::route::Router;
use crate::runtime::Chain;
use crate::scylla as cluster;
use crate::source::changes::Assembler;
use crate::source::reader::{self, LogReader, Range};

/// Rows of one page: all log rows of one microsecond and stream.
const PAGE_ROWS: i32 = 100;

/// Why a row is not in the log.
const LOST: &str =
    "its row is not in the log any more (its TTL has passed, or CDC was switched off)";

/// Makes records of rows that were no records before.
#[derive(Debug)]
pub struct Recoder {
    session: Arc<Session>,
    outboxes: Vec<Outbox>,
    open: Mutex<HashMap<TableId, Arc<Open>>>,
}

#[derive(Debug)]
struct Open {
    columns: Arc<ChangeColumns>,
    types: Vec<(String, ColumnType<'static>)>,
    /// `None` if the table is not logged any more.
    log: Option<LogReader>,
    decoder: Decoder,
    router: Router,
}

impl Recoder {
    /// Nothing is read yet. `outboxes` are in the order of their ids.
    pub fn new(session: Arc<Session>, outboxes: Vec<Outbox>) -> Self {
        Self {
            session,
            outboxes,
            open: Mutex::default(),
        }
    }

    /// Looks at the tables anew at the next use: they may have been altered.
    pub async fn forget(&self) {
        self.open.lock().await.clear();
    }

    /// The record of a dead letter's row; `None` if the row is no event. The error says, to a
    /// person, why there is none.
    pub async fn record(
        &self,
        table: TableId,
        letter: &DeadLetter,
    ) -> Result<Option<(Record, Label)>, String> {
        let open = self.open(table).await?;
        let change = open.change(letter).await?;
        match open.decoder.decode(&change) {
            Decision::Skip(_) => Ok(None),
            Decision::Undecodable(reason) => Err(reason.to_string()),
            Decision::Event(event) => {
                let label = Label {
                    event_id: event.id.clone(),
                    event_type: event.event_type.clone(),
                };
                let routed = open.router.clone().route(event);
                let record = routed.map_err(|unroutable| unroutable.to_string())?;
                Ok(Some((record, label)))
            }
        }
    }

    async fn open(&self, table: TableId) -> Result<Arc<Open>, String> {
        let mut opened = self.open.lock().await;
        if let Some(open) = opened.get(&table) {
            return Ok(Arc::clone(open));
        }
        let outbox = self.outboxes.get(usize::from(table.0));
        let outbox = outbox.ok_or("its table is not configured any more")?;
        let (columns, types, log) = self.table(outbox).await?;
        let decoder = Decoder::new(outbox, &types);
        let open = Arc::new(Open {
            decoder: decoder.map_err(|error| error.to_string())?,
            router: Router::new(outbox),
            columns,
            types,
            log,
        });
        opened.insert(table, Arc::clone(&open));
        Ok(open)
    }

    /// The table as it is now.
    async fn table(&self, outbox: &Outbox) -> Result<Table, String> {
        let session = &self.session;
        match LogReader::open(Arc::clone(session), outbox, PAGE_ROWS).await {
            Ok(log) => Ok((Arc::clone(log.columns()), log.column_types(), Some(log))),
            // What was kept can be decoded all the same.
            Err(off @ reader::Error::CdcOff(_)) => {
                let described = cluster::describe_table(session, &outbox.table).await;
                let described = described.map_err(|error| Chain(&error).to_string())?;
                let described = described.ok_or_else(|| off.to_string())?;
                let types = reader::base_column_types(session, outbox, &described).await;
                let types = types.map_err(|error| Chain(&error).to_string())?;
                let columns = reader::columns(outbox, &described);
                Ok((Arc::new(columns), types, None))
            }
            Err(error) => Err(Chain(&error).to_string()),
        }
    }
}

type Table = (
    Arc<ChangeColumns>,
    Vec<(String, ColumnType<'static>)>,
    Option<LogReader>,
);

impl Open {
    /// The change that the dead letter's row was.
    async fn change(&self, letter: &DeadLetter) -> Result<Change, String> {
        let Some(row) = &letter.row else {
            let logged = self.logged(letter).await?;
            return logged.ok_or_else(|| format!("{LOST}: discard it"));
        };
        let kept = row.change(letter.place.position, &self.columns, &self.types);
        match kept {
            Ok(change) => Ok(change),
            Err(missing @ row::Error::NotKept { .. }) => {
                let logged = self.logged(letter).await?;
                logged.ok_or_else(|| {
                    format!(
                        "{missing}, and {LOST}: map the columns as they were then, or discard it"
                    )
                })
            }
            Err(error @ row::Error::Value { .. }) => Err(error.to_string()),
        }
    }

    /// The same from the log, if it has it.
    async fn logged(&self, letter: &DeadLetter) -> Result<Option<Change>, String> {
        let Some(log) = &self.log else {
            return Ok(None);
        };
        let micros = letter.place.position.micros();
        let range = Range {
            after: micros - 1,
            upto: Some(micros),
        };
        let streams = [letter.place.stream.clone()];
        let mut assembler = Assembler::new(Arc::clone(log.columns()));
        let mut from = PagingState::start();
        let mut changes = Vec::new();
        loop {
            let page = log.rows(&streams, range, from).await;
            let page = page.map_err(|error| Chain(&error).to_string())?;
            for row in page.rows {
                changes.extend(
                    assembler
                        .push(row)
                        .into_iter()
                        .flat_map(|batch| batch.changes),
                );
            }
            let Some(next) = page.next else { break };
            from = next;
        }
        changes.extend(
            assembler
                .finish()
                .into_iter()
                .flat_map(|batch| batch.changes),
        );
        let here = |change: &Change| change.position == letter.place.position;
        Ok(changes.into_iter().find(here))
    }
}

#[cfg(test)]
mod tests;
