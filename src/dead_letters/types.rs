//! The types of the columns that dead letters keep.

use std::collections::HashMap;
use std::sync::Arc;

use scylla::client::session::Session;
use scylla::frame::response::result::ColumnType;

use crate::config::{Config, Outbox};
use crate::runtime::Chain;
use crate::scylla as cluster;
use crate::source::reader;

type Columns = Vec<(String, ColumnType<'static>)>;

/// Looks at each table when the first kept row of it is shown.
#[derive(Debug)]
pub struct Types {
    session: Arc<Session>,
    config: Arc<Config>,
    known: HashMap<String, Columns>,
}

impl Types {
    /// Nothing is read yet.
    pub fn new(session: Arc<Session>, config: Arc<Config>) -> Self {
        Self {
            session,
            config,
            known: HashMap::new(),
        }
    }

    /// The columns of an outbox table as it is now. None if it cannot be looked at: a dead letter
    /// can be shown all the same, with its values as bytes.
    pub async fn of(&mut self, table: &str) -> &[(String, ColumnType<'static>)] {
        if !self.known.contains_key(table) {
            let mut outboxes = self.config.outboxes.iter();
            let columns = match outboxes.find(|outbox| outbox.table.to_string() == table) {
                Some(outbox) => read(&self.session, outbox).await,
                None => Columns::new(),
            };
            self.known.insert(table.to_owned(), columns);
        }
        self.known.get(table).map_or(&[], Vec::as_slice)
    }
}

async fn read(session: &Session, outbox: &Outbox) -> Columns {
    let table = &outbox.table;
    let described = match cluster::describe_table(session, table).await {
        Ok(Some(described)) => described,
        Ok(None) => {
            tracing::warn!(%table, "the table does not exist any more: values are shown as bytes");
            return Columns::new();
        }
        Err(error) => {
            let error = Chain(&error);
            tracing::warn!(%table, %error, "the table was not described: values are shown as bytes");
            return Columns::new();
        }
    };
    match reader::base_column_types(session, outbox, &described).await {
        Ok(types) => types,
        Err(error) => {
            let error = Chain(&error);
            tracing::warn!(%table, %error, "no types of columns: values are shown as bytes");
            Columns::new()
        }
    }
}
