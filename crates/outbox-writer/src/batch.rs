//! A batch: the application's statements and its events, written together or not at all.
//!
//! Invariants:
//! 1. All checks come before anything is sent; a batch that fails one is never sent.
//! 2. One *logged* batch carries one client-side timestamp, above that of every earlier batch of
//!    this process.
//! 3. Executing a [`PreparedBatch`] again writes the same ids and values; and the same timestamp
//!    once an attempt may have been written, unless ScyllaDB does not take that timestamp any more.
//! 4. No two events of a batch share an id; events of one aggregate are in the log in the order of
//!    addition, or the batch is refused (a table by event id has no order and is not checked).
//! 5. Hints are sent after a batch is known to be written, and only then; they change no outcome.
//!
//! Not here: retries. The driver's retry policy applies; see [`Batch::idempotent`].

use crate::attempts::Attempts;
use crate::cells::Cells;
use crate::clock;
use crate::error::{Error, outcome_is_open};
use crate::event::{Event, Payload};
use crate::layout::Role;
use crate::outbox::Inner;
use crate::row::Value;
use crate::table::BatchOrder;
use scylla::client::session::Session;
use scylla::serialize::row::SerializeRow;
use scylla::statement::Consistency;
use scylla::statement::batch::{Batch as CqlBatch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use uuid::Uuid;

/// The most statements of a batch in the CQL protocol.
const MAX_STATEMENTS: usize = u16::MAX as usize;
/// The longest partition key of ScyllaDB in bytes.
const MAX_KEY_BYTES: usize = u16::MAX as usize;

/// A batch under construction. The first problem is kept and reported by
/// [`prepare`](Self::prepare) or [`execute`](Self::execute).
#[derive(Debug)]
#[must_use = "a batch does nothing until it is executed"]
pub struct Batch {
    outbox: Arc<Inner>,
    content: Result<Content, Error>,
    consistency: Option<Consistency>,
    idempotent: Option<bool>,
}

#[derive(Debug, Default)]
struct Content {
    statements: Vec<PreparedStatement>,
    values: Vec<Cells>,
    application_statements: usize,
    event_ids: Vec<Uuid>,
    /// Tokens of the outbox rows, if somebody is to be told of them.
    tokens: Vec<i64>,
    seen: HashSet<Uuid>,
    last_of_aggregate: HashMap<String, Uuid>,
    /// When the latest event was added, which may be part of the key.
    added_millis: i64,
}

impl Batch {
    pub(crate) fn new(outbox: Arc<Inner>) -> Self {
        Self {
            outbox,
            content: Ok(Content::default()),
            consistency: None,
            idempotent: None,
        }
    }

    /// Adds one of the application's own statements with its values.
    ///
    /// The values are serialized now, so they may be borrowed. Conditional statements (`IF …`)
    /// cannot be in a batch with rows of another table.
    pub fn statement(self, statement: &PreparedStatement, values: impl SerializeRow) -> Self {
        self.and_then(|_, content| content.add_statement(statement, &values))
    }

    /// Adds an event. Its id is made now, unless the event has one.
    pub fn event(self, event: Event) -> Self {
        self.and_then(|outbox, content| content.add_event(outbox, event))
    }

    /// Adds several events, in this order.
    pub fn events(self, events: impl IntoIterator<Item = Event>) -> Self {
        events.into_iter().fold(self, Self::event)
    }

    /// The consistency level. Default: the session's, which is `LOCAL_QUORUM` unless it was
    /// changed. Nothing below a quorum is safe: the relay reads at a quorum and must meet a replica
    /// that has the row.
    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.consistency = Some(consistency);
        self
    }

    /// Whether the driver may send the batch again by itself after an error that leaves the outcome
    /// open. Default: if every statement of the application says so
    /// ([`PreparedStatement::set_is_idempotent`]); the outbox's own statements always are.
    ///
    /// Plain INSERT, UPDATE and DELETE with values are idempotent here, because all attempts carry
    /// the same timestamp. Counters, appending to a list, and `now()` or `uuid()` in the text of a
    /// statement are not.
    pub fn idempotent(mut self, idempotent: bool) -> Self {
        self.idempotent = Some(idempotent);
        self
    }

    /// Checks the batch. The result can be executed again after an error.
    pub fn prepare(self) -> Result<PreparedBatch, Error> {
        let mut content = self.content?;
        content.check(self.outbox.limits.batch_bytes)?;
        let idempotent = self.idempotent.unwrap_or_else(|| content.is_idempotent());
        let statements = content.statements.into_iter().map(Into::into).collect();
        let mut batch = CqlBatch::new_with_statements(BatchType::Logged, statements);
        batch.set_is_idempotent(idempotent);
        if let Some(consistency) = self.consistency {
            batch.set_consistency(consistency);
        }
        content.tokens.sort_unstable();
        content.tokens.dedup();
        Ok(PreparedBatch {
            outbox: self.outbox,
            batch,
            values: content.values,
            event_ids: content.event_ids,
            tokens: content.tokens,
            open: false,
        })
    }

    /// Checks the batch and writes it.
    ///
    /// After an error that leaves the outcome open ([`Error::may_have_been_written`]) only the same
    /// batch may be written again, so an application that retries calls [`prepare`](Self::prepare)
    /// and then [`PreparedBatch::execute`] until it knows.
    pub async fn execute(self, session: &Session) -> Result<Receipt, Error> {
        self.prepare()?.execute(session).await
    }

    fn and_then(mut self, add: impl FnOnce(&Inner, &mut Content) -> Result<(), Error>) -> Self {
        if let Ok(content) = &mut self.content
            && let Err(problem) = add(&self.outbox, content)
        {
            self.content = Err(problem);
        }
        self
    }
}

impl Content {
    fn add_statement(
        &mut self,
        statement: &PreparedStatement,
        values: &impl SerializeRow,
    ) -> Result<(), Error> {
        let index = self.application_statements;
        if statement.is_confirmed_lwt() {
            return Err(Error::Conditional { index });
        }
        let values =
            Cells::new(statement, values).map_err(|source| Error::Values { index, source })?;
        self.application_statements += 1;
        self.push(statement, values);
        Ok(())
    }

    fn add_event(&mut self, outbox: &Inner, mut event: Event) -> Result<(), Error> {
        let id = event.id.unwrap_or_else(|| outbox.id_kind().generate());
        check_event(outbox, &event, id)?;
        self.check_id(outbox, &event.aggregate_id, id)?;
        let now = clock::unix_millis().max(self.added_millis);
        self.added_millis = now;
        let row: Vec<Value> = outbox
            .columns
            .iter()
            .map(|column| column.value(&mut event, id, now))
            .collect::<Result<_, _>>()?;
        self.push_row(&outbox.insert, &row)?;
        if outbox.hints.is_some() {
            self.tokens.extend(self.last_token());
        }
        if let Some(delete) = &outbox.delete {
            let key: Vec<Value> = delete
                .key
                .iter()
                .map(|column| column.value(&mut event, id, now))
                .collect::<Result<_, _>>()?;
            self.push_row(&delete.statement, &key)?;
        }
        self.event_ids.push(id);
        Ok(())
    }

    fn check_id(&mut self, outbox: &Inner, aggregate_id: &str, id: Uuid) -> Result<(), Error> {
        if !self.seen.insert(id) {
            return Err(Error::DuplicateId { id });
        }
        if outbox.order == BatchOrder::None {
            return Ok(());
        }
        let Some(after) = self.last_of_aggregate.insert(aggregate_id.to_owned(), id) else {
            return Ok(());
        };
        match outbox.order {
            BatchOrder::Wrong(reason) => Err(Error::TableOrder { id, after, reason }),
            _ if outbox.id_kind().compare(after, id) != Ordering::Less => {
                Err(Error::IdOrder { id, after })
            }
            _ => Ok(()),
        }
    }

    fn push_row(&mut self, statement: &PreparedStatement, row: &Vec<Value>) -> Result<(), Error> {
        let index = self.statements.len();
        let values =
            Cells::new(statement, row).map_err(|source| Error::Values { index, source })?;
        self.push(statement, values);
        Ok(())
    }

    fn push(&mut self, statement: &PreparedStatement, values: Cells) {
        self.statements.push(statement.clone());
        self.values.push(values);
    }

    /// The token of the last row's partition key.
    fn last_token(&self) -> Option<i64> {
        let (statement, values) = (self.statements.last()?, self.values.last()?);
        let key = values.key_of(statement);
        let token = statement.calculate_token(&key).ok()??;
        Some(token.value())
    }

    fn check(&self, max_bytes: usize) -> Result<(), Error> {
        if self.event_ids.is_empty() {
            return Err(Error::NoEvent);
        }
        if self.statements.len() > MAX_STATEMENTS {
            return Err(Error::TooManyStatements {
                count: self.statements.len(),
                limit: MAX_STATEMENTS,
            });
        }
        let bytes: usize = self.values.iter().map(Cells::len).sum();
        if bytes > max_bytes {
            return Err(Error::BatchTooLarge {
                bytes,
                limit: max_bytes,
            });
        }
        Ok(())
    }

    /// Whether all statements of the application are marked idempotent. Statements of the outbox
    /// are not looked at: they are not marked, but idempotent by construction.
    fn is_idempotent(&self) -> bool {
        let outbox_rows = self.statements.len() - self.application_statements;
        let marked = self
            .statements
            .iter()
            .filter(|statement| statement.get_is_idempotent())
            .count();
        marked + outbox_rows >= self.statements.len()
    }
}

/// Everything about one event that can be checked without the rest of the batch.
fn check_event(outbox: &Inner, event: &Event, id: Uuid) -> Result<(), Error> {
    let missing_type = [
        (Role::AggregateType, &event.aggregate_type, "aggregate type"),
        (Role::EventType, &event.event_type, "event type"),
    ]
    .into_iter()
    .find(|(role, value, _)| value.is_empty() && outbox.column(*role).is_some());
    if let Some((_, _, what)) = missing_type {
        return Err(Error::NoType { id, what });
    }
    if event.aggregate_id.is_empty() {
        return Err(Error::NoKey { id });
    }
    if event.aggregate_id.len() > MAX_KEY_BYTES {
        return Err(Error::KeyTooLong {
            id,
            bytes: event.aggregate_id.len(),
            limit: MAX_KEY_BYTES,
        });
    }
    if !outbox.id_kind().accepts(id) {
        return Err(Error::IdVersion {
            id,
            column: outbox.id.name.clone(),
        });
    }
    let limit = outbox.limits.payload_bytes;
    match &event.payload {
        Payload::Bytes(payload) if payload.len() > limit => Err(Error::PayloadTooLarge {
            id,
            bytes: payload.len(),
            limit,
        }),
        _ => check_headers(outbox, event, id),
    }
}

fn check_headers(outbox: &Inner, event: &Event, id: Uuid) -> Result<(), Error> {
    if event.headers.is_empty() {
        return Ok(());
    }
    if outbox.column(Role::Headers).is_none() {
        return Err(Error::NoHeadersColumn { id });
    }
    let limits = &outbox.limits;
    let bytes: usize = event.headers.iter().map(|(k, v)| k.len() + v.len()).sum();
    let count = event.headers.len();
    if count > limits.headers || bytes > limits.header_bytes || event.headers.contains_key("") {
        return Err(Error::Headers {
            id,
            count,
            bytes,
            max_count: limits.headers,
            max_bytes: limits.header_bytes,
        });
    }
    Ok(())
}

/// A checked batch, which can be executed again and again and is one write all the same.
pub struct PreparedBatch {
    outbox: Arc<Inner>,
    batch: CqlBatch,
    values: Vec<Cells>,
    event_ids: Vec<Uuid>,
    /// Tokens of the outbox rows, without repetitions, if somebody is to be told of them.
    tokens: Vec<i64>,
    /// Whether some attempt may have written the batch: then the timestamp stays.
    open: bool,
}

impl PreparedBatch {
    /// Writes the batch.
    ///
    /// As soon as a call may have written the batch, later calls write the same ids, values and
    /// timestamp. After an error for which [`Error::may_have_been_written`] is true, call it again
    /// soon, within the relay's late window: the relay recognizes the event by its id there, so
    /// that it is published once. After a certain refusal a later call takes a new timestamp.
    ///
    /// ScyllaDB refuses a timestamp from before the streams of its log changed, which can hit a
    /// batch that is under way just then; it is then sent once more with a new timestamp. If an
    /// earlier call had left its outcome open, the event can then be in the log twice, with one id.
    ///
    /// Cancel safety: a call that is dropped midway may or may not have written the batch, as after
    /// a timeout; call it again.
    pub async fn execute(&mut self, session: &Session) -> Result<Receipt, Error> {
        let timestamp = match self.batch.get_timestamp() {
            Some(timestamp) if self.open => timestamp,
            _ => clock::batch_timestamp(),
        };
        match self.attempt(session, timestamp).await {
            Err(error) if error.is_of_an_earlier_generation() => {
                self.attempt(session, clock::batch_timestamp()).await
            }
            outcome => outcome,
        }
    }

    async fn attempt(
        &mut self,
        session: &Session,
        timestamp_micros: i64,
    ) -> Result<Receipt, Error> {
        let was_open = self.open;
        let attempts = Arc::new(Attempts::default());
        self.batch.set_timestamp(Some(timestamp_micros));
        self.batch.set_history_listener(Arc::clone(&attempts) as _);
        // From here on the batch may have been written, also if this call is dropped.
        self.open = true;
        let outcome = session.batch(&self.batch, &self.values).await;
        if let Err(source) = outcome {
            self.open = was_open || attempts.any_open() || outcome_is_open(&source);
            return Err(Error::Execute {
                source: Box::new(source),
                may_have_been_written: self.open,
            });
        }
        if let Some(hints) = &self.outbox.hints {
            hints.tell(&self.tokens);
        }
        Ok(Receipt {
            event_ids: self.event_ids.clone(),
            timestamp_micros,
        })
    }

    /// The ids of the events, in the order of addition.
    pub fn event_ids(&self) -> &[Uuid] {
        &self.event_ids
    }

    /// The timestamp of the last attempt in microseconds since the Unix epoch.
    pub fn timestamp_micros(&self) -> Option<i64> {
        self.batch.get_timestamp()
    }
}

impl fmt::Debug for PreparedBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedBatch")
            .field("statements", &self.values.len())
            .field("event_ids", &self.event_ids)
            .field("timestamp_micros", &self.timestamp_micros())
            .finish_non_exhaustive()
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The ids of the events, in the order of addition.
    pub event_ids: Vec<Uuid>,
    /// The timestamp of all rows of the batch, in microseconds since the Unix epoch.
    pub timestamp_micros: i64,
}
