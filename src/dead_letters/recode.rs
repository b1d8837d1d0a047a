//! Another attempt to make a record of a row that could not be decoded.
//!
//! A dead letter of an undecodable row keeps the row's place in the log and not its values: the row
//! is read again, with the configuration and the table as they are now. When the log has lost it,
//! to its TTL, nothing can be made of it any more.

use std::collections::HashMap;
use std::sync::Arc;

use scylla::client::session::Session;
use scylla::response::PagingState;
use tokio::sync::Mutex;

use super::letter::{DeadLetter, Label};
use crate::config::Outbox;
use crate::decode::{Decision, Decoder};
use crate::event::{Change, Record, TableId};
use crate::route::Router;
use crate::runtime::Chain;
use crate::source::changes::Assembler;
use crate::source::reader::{LogReader, Range};

/// Rows of one page: all log rows of one microsecond and stream.
const PAGE_ROWS: i32 = 100;

/// Reads rows of the log again.
#[derive(Debug)]
pub struct Recoder {
    session: Arc<Session>,
    outboxes: Vec<Outbox>,
    open: Mutex<HashMap<TableId, Arc<Open>>>,
}

#[derive(Debug)]
struct Open {
    reader: LogReader,
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
        let change = self.change(&open, letter).await?;
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
        let reader = LogReader::open(Arc::clone(&self.session), outbox, PAGE_ROWS).await;
        let reader = reader.map_err(|error| Chain(&error).to_string())?;
        let decoder = Decoder::new(outbox, &reader.column_types());
        let open = Arc::new(Open {
            decoder: decoder.map_err(|error| error.to_string())?,
            router: Router::new(outbox),
            reader,
        });
        opened.insert(table, Arc::clone(&open));
        Ok(open)
    }

    async fn change(&self, open: &Open, letter: &DeadLetter) -> Result<Change, String> {
        let micros = letter.place.position.micros();
        let range = Range {
            after: micros - 1,
            upto: Some(micros),
        };
        let streams = [letter.place.stream.clone()];
        let mut assembler = Assembler::new(Arc::clone(open.reader.columns()));
        let mut from = PagingState::start();
        let mut changes = Vec::new();
        loop {
            let page = open.reader.rows(&streams, range, from).await;
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
        changes.into_iter().find(here).ok_or_else(|| {
            "its row is not in the log any more (the log's TTL has passed): discard it".to_owned()
        })
    }
}
