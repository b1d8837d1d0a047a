//! Pages of a CDC log.
//!
//! Owns the statements that read one table's log. Invariants:
//!
//! 1. A read covers exactly the microseconds (after, upto]; the bounds are timeuuids made here.
//! 2. A page is whole or an error: a row that cannot be understood fails the page, it is never
//!    left out and never a panic.
//! 3. A list of the base table is a list in the rows: the log has it as a map of its cells.
//! 4. Reads bypass ScyllaDB's row cache: a log row is read a few times and never again, and would
//!    only push other rows out.
//!
//! It keeps no position and retries nothing.

use std::sync::Arc;

use scylla::client::session::Session;
use scylla::cluster::metadata::{CollectionType, ColumnType, NativeType};
use scylla::errors::{
    DeserializationError, ExecutionError, IntoRowsResultError, PrepareError, RowsError,
};
use scylla::frame::response::result::ColumnSpec;
use scylla::response::query_result::QueryRowsResult;
use scylla::response::{PagingState, PagingStateResponse};
use scylla::statement::prepared::PreparedStatement;
use scylla::value::{CqlTimeuuid, CqlValue, Row};
use scylla_cdc::cdc_types::StreamID;
use scylla_cdc::consumer::{CDCRow, CDCRowSchema, OperationType};

use super::bounds::last_timeuuid;
use super::changes::LogRow;
use crate::config::{Outbox, TableName, TopicPart};
use crate::event::{ChangeColumns, Position, RowKey};
use crate::scylla::{self as cluster, ColumnKind, TableDescription, quoted};

/// Columns of every log table that the relay reads, with their types.
const LOG_COLUMNS: [(&str, NativeType); 6] = [
    ("cdc$stream_id", NativeType::Blob),
    ("cdc$time", NativeType::Timeuuid),
    ("cdc$batch_seq_no", NativeType::Int),
    ("cdc$operation", NativeType::TinyInt),
    ("cdc$end_of_batch", NativeType::Boolean),
    ("cdc$ttl", NativeType::BigInt),
];
const OPERATION: usize = 3;

/// Streams of one request at most. ScyllaDB refuses to look for more partition keys at once
/// (`max_partition_key_restrictions_per_query`, 100 by default), and a vnode of a node with more
/// shards than that has more streams.
pub const MAX_STREAMS: usize = 100;

/// Why a log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The table could not be described.
    #[error(transparent)]
    Describe(#[from] Box<cluster::Error>),
    /// There is no such table.
    #[error("table {0} does not exist; create it, or correct `outboxes.table`")]
    NoTable(TableName),
    /// The table is not logged.
    #[error("CDC is not enabled on {0}; run: ALTER TABLE {0} WITH cdc = {{'enabled': true}}")]
    CdcOff(TableName),
    /// The log's columns are not those of a CDC log.
    #[error("the log of {table} has no usable column {column}")]
    LogColumn {
        /// The base table.
        table: TableName,
        /// The column that is missing or has another type.
        column: String,
    },
    /// A statement could not be prepared.
    #[error("prepare a read of the log of {table}")]
    Prepare {
        /// The base table.
        table: TableName,
        /// What the driver says.
        #[source]
        source: Box<PrepareError>,
    },
    /// A page could not be read.
    #[error("read the log of {table}")]
    Read {
        /// The base table.
        table: TableName,
        /// What the driver says.
        #[source]
        source: Box<ExecutionError>,
    },
    /// A page was read and could not be understood.
    #[error("understand a page of the log of {table}")]
    Page {
        /// The base table.
        table: TableName,
        /// What is wrong with it.
        #[source]
        source: Box<PageError>,
    },
}

/// Why a page could not be understood.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// It is no page of rows.
    #[error(transparent)]
    NoRows(#[from] Box<IntoRowsResultError>),
    /// Its columns have other types.
    #[error(transparent)]
    Types(#[from] RowsError),
    /// A row has another form.
    #[error(transparent)]
    Row(#[from] DeserializationError),
    /// A column that every log row has is null.
    #[error("a log row without {0}")]
    Null(&'static str),
    /// An operation that this version does not know.
    #[error("a log row with the unknown operation {0}")]
    Operation(i8),
    /// A row of a stream that was not asked for.
    #[error("a log row of a stream that was not asked for")]
    Stream,
}

/// Microseconds of `cdc$time` that a read covers: (after, upto].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Exclusive lower bound.
    pub after: i64,
    /// Inclusive upper bound; `None` for all that is there.
    pub upto: Option<i64>,
}

/// Part of the answer to a read.
#[derive(Debug)]
pub struct Page<T> {
    /// The rows, stream by stream, each in the order of its positions.
    pub rows: Vec<T>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<PagingState>,
    /// Bytes of the rows on the wire.
    pub bytes: usize,
}

/// A log that is read page by page: a table's, or a simulated one.
pub trait Log: Send + Sync + 'static {
    /// The columns of the rows.
    fn columns(&self) -> &Arc<ChangeColumns>;

    /// Rows of one page.
    fn page_rows(&self) -> usize;

    /// See [`LogReader::keys`].
    fn keys(
        &self,
        streams: &[StreamID],
        range: Range,
        from: PagingState,
    ) -> impl Future<Output = Result<Page<RowKey>, Error>> + Send;

    /// See [`LogReader::rows`].
    fn rows(
        &self,
        streams: &[StreamID],
        range: Range,
        from: PagingState,
    ) -> impl Future<Output = Result<Page<LogRow>, Error>> + Send;
}

impl Log for LogReader {
    fn columns(&self) -> &Arc<ChangeColumns> {
        Self::columns(self)
    }

    fn page_rows(&self) -> usize {
        Self::page_rows(self)
    }

    async fn keys(
        &self,
        streams: &[StreamID],
        range: Range,
        from: PagingState,
    ) -> Result<Page<RowKey>, Error> {
        Self::keys(self, streams, range, from).await
    }

    async fn rows(
        &self,
        streams: &[StreamID],
        range: Range,
        from: PagingState,
    ) -> Result<Page<LogRow>, Error> {
        Self::rows(self, streams, range, from).await
    }
}

/// Reads the log of one table.
#[derive(Debug)]
pub struct LogReader {
    session: Arc<Session>,
    description: TableDescription,
    columns: Arc<ChangeColumns>,
    /// Whether the column at the same index of `columns` is a list that is not frozen.
    lists: Vec<bool>,
    keys: Statements,
    rows: Statements,
    page_rows: usize,
}

#[derive(Debug)]
struct Statements {
    /// Of one stream: the driver asks the node and shard that own it.
    one: PreparedStatement,
    /// Of many streams in one request.
    many: PreparedStatement,
}

impl LogReader {
    /// Looks at the table and prepares the reads.
    ///
    /// # Errors
    ///
    /// When there is no such table, when it has no log, or when ScyllaDB cannot be asked.
    pub async fn open(
        session: Arc<Session>,
        outbox: &Outbox,
        page_rows: i32,
    ) -> Result<Self, Error> {
        let table = &outbox.table;
        let described = cluster::describe_table(&session, table)
            .await
            .map_err(Box::new)?;
        let description = described.ok_or_else(|| Error::NoTable(table.clone()))?;
        if !description.cdc_enabled() {
            return Err(Error::CdcOff(table.clone()));
        }
        let columns = columns(outbox, &description);
        let statements = async |selected: &[&str]| {
            let one = prepare(&session, table, selected, "= ?", page_rows).await?;
            let many = prepare(&session, table, selected, "IN ?", page_rows).await?;
            Ok::<_, Error>(Statements { one, many })
        };
        let keys: Vec<&str> = LOG_COLUMNS[..3].iter().map(|(name, _)| *name).collect();
        let all: Vec<&str> = LOG_COLUMNS
            .iter()
            .map(|(name, _)| *name)
            .chain(columns.names.iter().map(String::as_str))
            .collect();
        let (keys, rows) = (statements(&keys).await?, statements(&all).await?);
        check_types(table, &rows.one)?;
        let lists = lists(&columns, &description);
        Ok(Self {
            session,
            description,
            columns: Arc::new(columns),
            lists,
            keys,
            rows,
            page_rows: usize::try_from(page_rows).unwrap_or(1).max(1),
        })
    }

    /// Rows of one page.
    pub fn page_rows(&self) -> usize {
        self.page_rows
    }

    /// The columns of the rows: the base table's primary key, then what the outbox maps.
    pub fn columns(&self) -> &Arc<ChangeColumns> {
        &self.columns
    }

    /// The columns of the rows with their types, in the order of [`LogReader::columns`].
    pub fn column_types(&self) -> Vec<(String, ColumnType<'static>)> {
        let specs = self.rows.one.get_current_result_set_col_specs();
        let specs = specs.get().iter().skip(LOG_COLUMNS.len());
        let owned = |(spec, is_list): (&ColumnSpec<'_>, &bool)| {
            let found = spec.typ().clone().into_owned();
            let found = if *is_list { list_type(found) } else { found };
            (spec.name().to_owned(), found)
        };
        specs.zip(&self.lists).map(owned).collect()
    }

    /// The base table, as it was when this reader was opened.
    pub fn description(&self) -> &TableDescription {
        &self.description
    }

    /// One page of the keys of a group's rows. `streams` must be in the order of the group, and
    /// [`MAX_STREAMS`] at most; the indexes of the rows refer to it.
    pub async fn keys(
        &self,
        streams: &[StreamID],
        range: Range,
        from: PagingState,
    ) -> Result<Page<RowKey>, Error> {
        let (result, next) = self.execute(&self.keys, streams, range, from).await?;
        let parse = || {
            let index = StreamIndex::new(streams);
            let mut rows = Vec::with_capacity(result.rows_num());
            for row in result.rows::<(Vec<u8>, CqlTimeuuid, i32)>()? {
                let (stream, time, seq) = row?;
                rows.push(RowKey {
                    stream: index.of(&stream)?,
                    position: Position { time, seq },
                });
            }
            Ok(rows)
        };
        let rows = parse().map_err(|source| self.page_error(source))?;
        Ok(Page {
            rows,
            next,
            bytes: result.rows_bytes_size(),
        })
    }

    /// One page of a group's rows, as [`LogReader::keys`].
    pub async fn rows(
        &self,
        streams: &[StreamID],
        range: Range,
        from: PagingState,
    ) -> Result<Page<LogRow>, Error> {
        let (result, next) = self.execute(&self.rows, streams, range, from).await?;
        let parse = || {
            let index = StreamIndex::new(streams);
            let schema = CDCRowSchema::new(result.column_specs());
            let mut rows = Vec::with_capacity(result.rows_num());
            for row in result.rows::<Row>()? {
                rows.push(self.log_row(row?, &schema, &index)?);
            }
            Ok(rows)
        };
        let rows = parse().map_err(|source| self.page_error(source))?;
        Ok(Page {
            rows,
            next,
            bytes: result.rows_bytes_size(),
        })
    }

    async fn execute(
        &self,
        statements: &Statements,
        streams: &[StreamID],
        range: Range,
        from: PagingState,
    ) -> Result<(QueryRowsResult, Option<PagingState>), Error> {
        let after = last_timeuuid(range.after);
        let upto = last_timeuuid(range.upto.unwrap_or(i64::MAX));
        let executed = if let [stream] = streams {
            let values = (stream, after, upto);
            self.session
                .execute_single_page(&statements.one, values, from)
                .await
        } else {
            let values = (streams, after, upto);
            self.session
                .execute_single_page(&statements.many, values, from)
                .await
        };
        let (result, paging) = executed.map_err(|source| Error::Read {
            table: self.description.name.clone(),
            source: Box::new(source),
        })?;
        let rows = result
            .into_rows_result()
            .map_err(|source| self.page_error(Box::new(source).into()))?;
        let next = match paging {
            PagingStateResponse::HasMorePages { state } => Some(state),
            PagingStateResponse::NoMorePages => None,
        };
        Ok((rows, next))
    }

    fn log_row(
        &self,
        row: Row,
        schema: &CDCRowSchema,
        index: &StreamIndex<'_>,
    ) -> Result<LogRow, PageError> {
        // `CDCRow` takes for granted what is checked here (and, for types, in `open`).
        for (value, (name, _)) in row.columns.iter().zip(LOG_COLUMNS).take(OPERATION + 1) {
            value.as_ref().ok_or(PageError::Null(name))?;
        }
        if let Some(Some(CqlValue::TinyInt(operation))) = row.columns.get(OPERATION) {
            OperationType::try_from(*operation).map_err(|_| PageError::Operation(*operation))?;
        }
        let stream = match row.columns.first() {
            Some(Some(CqlValue::Blob(stream))) => index.of(stream)?,
            _ => return Err(PageError::Null(LOG_COLUMNS[0].0)),
        };
        let mut row = CDCRow::from_row(row, schema);
        let time = CqlTimeuuid::from(row.time);
        let values = self
            .columns
            .names
            .iter()
            .zip(&self.lists)
            .map(|(name, is_list)| {
                let value = row.take_value(name);
                if *is_list { value.map(list) } else { value }
            })
            .collect();
        Ok(LogRow {
            stream,
            position: Position {
                time,
                seq: row.batch_seq_no,
            },
            operation: row.operation,
            end_of_batch: row.end_of_batch,
            values,
        })
    }

    fn page_error(&self, source: PageError) -> Error {
        Error::Page {
            table: self.description.name.clone(),
            source: Box::new(source),
        }
    }
}

/// Finds the index of a stream inside its group.
pub(super) struct StreamIndex<'s> {
    ids: Vec<(&'s StreamID, u16)>,
}

impl<'s> StreamIndex<'s> {
    pub(super) fn new(streams: &'s [StreamID]) -> Self {
        let mut ids: Vec<_> = streams.iter().zip(0..).collect();
        ids.sort_unstable();
        Self { ids }
    }

    pub(super) fn of(&self, stream: &[u8]) -> Result<u16, PageError> {
        let wanted = StreamID::new(stream.to_vec());
        let found = self.ids.binary_search_by(|(id, _)| (*id).cmp(&wanted));
        found
            .map(|at| self.ids[at].1)
            .map_err(|_| PageError::Stream)
    }
}

/// What [`columns`] gives, with their types in the base table: for a table whose log does not exist,
/// and so cannot be opened.
///
/// # Errors
///
/// When the table cannot be read.
pub async fn base_column_types(
    session: &Session,
    outbox: &Outbox,
    table: &TableDescription,
) -> Result<Vec<(String, ColumnType<'static>)>, Error> {
    let columns = columns(outbox, table);
    let names: Vec<String> = columns.names.iter().map(|name| quoted(name)).collect();
    let cql = format!(
        "SELECT {} FROM {}.{}",
        names.join(", "),
        quoted(&outbox.table.keyspace),
        quoted(&outbox.table.table)
    );
    let prepared = session.prepare(cql).await;
    let prepared = prepared.map_err(|source| Error::Prepare {
        table: outbox.table.clone(),
        source: Box::new(source),
    })?;
    let specs = prepared.get_current_result_set_col_specs();
    let owned = |spec: &ColumnSpec<'_>| (spec.name().to_owned(), spec.typ().clone().into_owned());
    Ok(specs.get().iter().map(owned).collect())
}

/// The columns that an outbox needs: the primary key, then the mapped columns that the table has.
pub fn columns(outbox: &Outbox, table: &TableDescription) -> ChangeColumns {
    let mut columns = ChangeColumns {
        names: Vec::new(),
        primary_key: Vec::new(),
    };
    let is_key = |kind| {
        matches!(
            kind,
            ColumnKind::PartitionKey(_) | ColumnKind::Clustering(_)
        )
    };
    for column in table.columns.iter().filter(|column| is_key(column.kind)) {
        columns.names.push(column.name.clone());
        columns.primary_key.push(true);
    }
    let mapped = outbox
        .columns
        .mapped()
        .into_iter()
        .map(|(_, column)| column);
    let headers = outbox.headers.iter().map(|header| header.column.as_str());
    let in_topic = outbox.topic.parts.iter().filter_map(|part| match part {
        TopicPart::Column(column) => Some(column.as_str()),
        TopicPart::Literal(_)
        | TopicPart::AggregateType
        | TopicPart::EventType
        | TopicPart::Keyspace
        | TopicPart::Table => None,
    });
    for name in mapped.chain(headers).chain(in_topic) {
        if table.column(name).is_some() && !columns.names.iter().any(|known| known == name) {
            columns.names.push(name.to_owned());
            columns.primary_key.push(false);
        }
    }
    columns
}

/// Which of `columns` are lists that are not frozen.
fn lists(columns: &ChangeColumns, table: &TableDescription) -> Vec<bool> {
    let is_list = |name: &String| {
        let column = table.column(name);
        column.is_some_and(|column| column.cql_type.starts_with("list<"))
    };
    columns.names.iter().map(is_list).collect()
}

/// The elements of a list, which the log has by the times of their cells.
fn list(cells: CqlValue) -> CqlValue {
    match cells {
        CqlValue::Map(cells) => {
            CqlValue::List(cells.into_iter().map(|(_, element)| element).collect())
        }
        other => other,
    }
}

fn list_type(cells: ColumnType<'static>) -> ColumnType<'static> {
    match cells {
        ColumnType::Collection {
            typ: CollectionType::Map(_, element),
            frozen,
        } => ColumnType::Collection {
            typ: CollectionType::List(element),
            frozen,
        },
        other => other,
    }
}

pub(super) async fn prepare(
    session: &Session,
    table: &TableName,
    columns: &[&str],
    streams: &str,
    page_rows: i32,
) -> Result<PreparedStatement, Error> {
    let columns: Vec<String> = columns.iter().map(|column| quoted(column)).collect();
    prepare_selection(session, table, &columns.join(", "), streams, page_rows).await
}

/// The same with what is selected as CQL has it.
pub(super) async fn prepare_selection(
    session: &Session,
    table: &TableName,
    selection: &str,
    streams: &str,
    page_rows: i32,
) -> Result<PreparedStatement, Error> {
    let cql = format!(
        "SELECT {selection} FROM {}.{} WHERE \"cdc$stream_id\" {streams} \
         AND \"cdc$time\" > ? AND \"cdc$time\" <= ? BYPASS CACHE",
        quoted(&table.keyspace),
        quoted(&table.log_table())
    );
    let mut prepared = session
        .prepare(cql)
        .await
        .map_err(|source| Error::Prepare {
            table: table.clone(),
            source: Box::new(source),
        })?;
    prepared.set_is_idempotent(true);
    prepared.set_page_size(page_rows);
    Ok(prepared)
}

fn check_types(table: &TableName, statement: &PreparedStatement) -> Result<(), Error> {
    let specs = statement.get_current_result_set_col_specs();
    let mut actual = specs.get().iter();
    for (name, expected) in LOG_COLUMNS {
        let spec = actual.next();
        let right = spec.is_some_and(|spec| *spec.typ() == ColumnType::Native(expected.clone()));
        if !right {
            return Err(Error::LogColumn {
                table: table.clone(),
                column: name.to_owned(),
            });
        }
    }
    Ok(())
}
