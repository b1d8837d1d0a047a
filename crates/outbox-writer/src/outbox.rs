//! An outbox table, prepared for writing.
//!
//! Owns: the prepared statements, the limits, the columns' types. Opening an outbox checks what
//! can be checked once: names, columns and their types, the order of rows, and that CDC is on.
//!
//! Not here: the session. It is passed to each call, so an application uses one for everything.

use crate::batch::Batch;
use crate::error::Error;
use crate::ids::IdKind;
use crate::layout::{Identifier, Layout, Role, TableName};
use crate::row::Column;
use crate::table::{self, BatchOrder};
use crate::wake_up::WakeUp;
use scylla::client::session::Session;
use scylla::statement::prepared::PreparedStatement;
use std::sync::Arc;

/// What an event and a batch may not exceed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) payload_bytes: usize,
    pub(crate) batch_bytes: usize,
    pub(crate) headers: usize,
    pub(crate) header_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            payload_bytes: 1024 * 1024 - 64 * 1024,
            batch_bytes: 1024 * 1024,
            headers: 64,
            header_bytes: 16 * 1024,
        }
    }
}

/// An outbox table, prepared for writing. Cheap to clone; one is enough for an application.
#[derive(Debug, Clone)]
pub struct Outbox {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) insert: PreparedStatement,
    /// Deletes the row again, in the mode that stores nothing.
    pub(crate) delete: Option<Delete>,
    pub(crate) columns: Vec<Column>,
    pub(crate) id: Column,
    /// What decides the order of an aggregate's events in one batch.
    pub(crate) order: BatchOrder,
    pub(crate) limits: Limits,
    pub(crate) hints: Option<Hints>,
}

/// Who is to be told of a batch that was written.
#[derive(Debug)]
pub(crate) struct Hints {
    wake_up: WakeUp,
    /// `keyspace.table`, as the schema has it.
    table: String,
}

impl Hints {
    fn new(wake_up: WakeUp, insert: &PreparedStatement) -> Option<Self> {
        let (keyspace, table) = (insert.get_keyspace_name()?, insert.get_table_name()?);
        let table = format!("{keyspace}.{table}");
        Some(Self { wake_up, table })
    }

    /// Tells of the partitions with these tokens.
    pub(crate) fn tell(&self, tokens: &[i64]) {
        self.wake_up.tell(&self.table, tokens);
    }
}

#[derive(Debug)]
pub(crate) struct Delete {
    pub(crate) statement: PreparedStatement,
    /// The columns of the primary key, in the order of the statement's markers.
    pub(crate) key: Vec<Column>,
}

impl Outbox {
    /// Opens the outbox `table` (`keyspace.table`, or `table` in the session's keyspace) with the
    /// recommended columns and the default limits.
    ///
    /// Fails if the table or a column is missing, has the wrong type, or CDC is off.
    pub async fn new(session: &Session, table: &str) -> Result<Self, Error> {
        Self::builder().build(session, table).await
    }

    /// Opens an outbox with other columns, limits or modes.
    pub fn builder() -> OutboxBuilder {
        OutboxBuilder::default()
    }

    /// An empty batch.
    pub fn batch(&self) -> Batch {
        Batch::new(Arc::clone(&self.inner))
    }
}

impl Inner {
    pub(crate) fn id_kind(&self) -> IdKind {
        self.id.id_kind()
    }

    pub(crate) fn column(&self, role: Role) -> Option<&Column> {
        self.columns.iter().find(|column| column.role == role)
    }
}

/// How an outbox is to be opened.
///
/// ```no_run
/// # use outbox_writer::{Error, Layout, Outbox};
/// # async fn open(session: &scylla::client::session::Session) -> Result<Outbox, Error> {
/// Outbox::builder()
///     .layout(Layout::debezium())
///     .max_payload_bytes(256 * 1024)
///     .store_nothing(true)
///     .build(session, "shop.outbox")
///     .await
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct OutboxBuilder {
    layout: Layout,
    limits: Limits,
    ttl_seconds: Option<u32>,
    store_nothing: bool,
    require_cdc: bool,
    wake_up: Option<WakeUp>,
}

impl Default for OutboxBuilder {
    fn default() -> Self {
        Self {
            layout: Layout::default(),
            limits: Limits::default(),
            ttl_seconds: None,
            store_nothing: false,
            require_cdc: true,
            wake_up: None,
        }
    }
}

impl OutboxBuilder {
    /// The names of the columns. Default: those of the recommended table.
    #[must_use]
    pub fn layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }

    /// The largest payload in bytes. Default: 983,040 (1 MiB less 64 KiB), which fits with key and
    /// headers into the largest record that a Kafka broker takes by default (1,048,588 bytes).
    #[must_use]
    pub fn max_payload_bytes(mut self, bytes: usize) -> Self {
        self.limits.payload_bytes = bytes;
        self
    }

    /// The most bytes that the values of one batch may have together. Default: 1 MiB, above which
    /// ScyllaDB refuses a batch by default (`batch_size_fail_threshold_in_kb`; it warns in its log
    /// from 128 KiB on).
    #[must_use]
    pub fn max_batch_bytes(mut self, bytes: usize) -> Self {
        self.limits.batch_bytes = bytes;
        self
    }

    /// The most headers of an event. Default: 64.
    #[must_use]
    pub fn max_headers(mut self, count: usize) -> Self {
        self.limits.headers = count;
        self
    }

    /// The most bytes that names and values of an event's headers may have together. Default:
    /// 16 KiB.
    #[must_use]
    pub fn max_header_bytes(mut self, bytes: usize) -> Self {
        self.limits.header_bytes = bytes;
        self
    }

    /// Seconds after which the outbox row expires (`USING TTL`). Default: the table's own
    /// `default_time_to_live`. The CDC log has a TTL of its own, which this does not touch.
    #[must_use]
    pub fn ttl_seconds(mut self, seconds: u32) -> Self {
        self.ttl_seconds = Some(seconds);
        self
    }

    /// Whether each batch deletes the outbox row in the same breath as it inserts it, so that the
    /// table stays empty and the event lives in the CDC log alone. Default: `false`.
    ///
    /// The log then has two rows with one `cdc$time` for an event, the insert and the delete; the
    /// relay publishes the first and skips the second. A tombstone remains in the table for its
    /// `gc_grace_seconds`, which nobody reads.
    #[must_use]
    pub fn store_nothing(mut self, store_nothing: bool) -> Self {
        self.store_nothing = store_nothing;
        self
    }

    /// Whether [`build`](Self::build) fails for a table whose CDC is off, whose events would never
    /// be published. Default: `true`.
    #[must_use]
    pub fn require_cdc(mut self, require_cdc: bool) -> Self {
        self.require_cdc = require_cdc;
        self
    }

    /// Whom to tell of each batch that was written: a relay on the same host, which then reads the
    /// event at once. Default: nobody; the relay finds it at its next poll.
    #[must_use]
    pub fn wake_up(mut self, wake_up: WakeUp) -> Self {
        self.wake_up = Some(wake_up);
        self
    }

    /// Prepares the statements and checks the table.
    pub async fn build(self, session: &Session, table: &str) -> Result<Outbox, Error> {
        let table = TableName::parse(table)?;
        let insert = prepare(session, self.insert_cql(&table)?).await?;
        let columns = self.typed_columns(&insert)?;
        let order =
            table::inspect(session, &insert, &table, &self.layout, self.require_cdc).await?;
        let id = columns
            .iter()
            .find(|column| column.role == Role::Id)
            .cloned()
            .ok_or_else(|| Error::ColumnName {
                name: self.layout.id.clone(),
            })?;
        let partition: Vec<Role> = insert
            .get_variable_pk_indexes()
            .iter()
            .filter_map(|index| Some(columns.get(usize::from(index.index))?.role))
            .collect();
        let delete = if self.store_nothing {
            Some(self.delete(session, &table, &columns, &partition).await?)
        } else {
            None
        };
        let hints = self
            .wake_up
            .and_then(|wake_up| Hints::new(wake_up, &insert));
        Ok(Outbox {
            inner: Arc::new(Inner {
                insert,
                delete,
                columns,
                id,
                order,
                limits: self.limits,
                hints,
            }),
        })
    }

    fn insert_cql(&self, table: &TableName) -> Result<String, Error> {
        let columns = self.layout.columns();
        let names: Vec<String> = columns
            .iter()
            .map(|(_, name)| Ok(Identifier::column(name)?.to_string()))
            .collect::<Result<_, Error>>()?;
        let markers = vec!["?"; names.len()].join(", ");
        let ttl = self
            .ttl_seconds
            .map(|seconds| format!(" USING TTL {seconds}"))
            .unwrap_or_default();
        let names = names.join(", ");
        Ok(format!(
            "INSERT INTO {table} ({names}) VALUES ({markers}){ttl}"
        ))
    }

    fn typed_columns(&self, insert: &PreparedStatement) -> Result<Vec<Column>, Error> {
        self.layout
            .columns()
            .into_iter()
            .zip(insert.get_variable_col_specs().iter())
            .map(|((role, name), spec)| Column::new(role, name, spec.typ()))
            .collect()
    }

    async fn delete(
        &self,
        session: &Session,
        table: &TableName,
        columns: &[Column],
        partition: &[Role],
    ) -> Result<Delete, Error> {
        let key_roles: &[Role] = match partition {
            [Role::AggregateId] => &[Role::AggregateId, Role::Id],
            [Role::Id] => &[Role::Id],
            _ => {
                return Err(Error::PartitionKey {
                    table: table.to_string(),
                    aggregate_id: self.layout.aggregate_id.clone(),
                    id: self.layout.id.clone(),
                });
            }
        };
        let key: Vec<Column> = key_roles
            .iter()
            .filter_map(|role| columns.iter().find(|column| column.role == *role).cloned())
            .collect();
        let conditions = key
            .iter()
            .map(|column| Ok(format!("{} = ?", Identifier::column(&column.name)?)))
            .collect::<Result<Vec<_>, Error>>()?
            .join(" AND ");
        let statement = prepare(session, format!("DELETE FROM {table} WHERE {conditions}")).await?;
        Ok(Delete { statement, key })
    }
}

async fn prepare(session: &Session, statement: String) -> Result<PreparedStatement, Error> {
    match session.prepare(statement.as_str()).await {
        Ok(prepared) => Ok(prepared),
        Err(source) => Err(Error::Prepare {
            statement,
            source: Box::new(source),
        }),
    }
}
