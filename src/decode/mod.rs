//! From a change of the log to an event.
//!
//! Owns the meaning of operations, the mapping of columns, and the form of values ([`text`]).
//! Pure: no I/O, no clock. Invariants:
//!
//! 1. A row without an id or without a key never becomes an event; it is *undecodable*, and the
//!    reason says what to change.
//! 2. The same change decodes to the same event, byte for byte.
//! 3. No header from the row has the name of a header that the relay sets by itself.
//!
//! Which changes are events:
//!
//! - an insert (`INSERT`) always;
//! - an update (`UPDATE`) only when it is a full-row upsert: the id, the key and the payload are
//!   set, and so are the aggregate type, the event type and the creation time where such columns
//!   are mapped. The content type, the trace context and header columns may be missing. An update
//!   that sets the payload to null or leaves it out (marking a row as processed, say) is none;
//! - nothing else: deletes, and pre- and post-images, are skipped.
//!
//! Deliberately absent: topics ([`crate::route`]), merging of log rows ([`crate::source`]).

pub mod text;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use scylla::frame::response::result::{CollectionType, ColumnType, NativeType};
use scylla::value::CqlValue;
use scylla_cdc::consumer::OperationType;

use crate::config::{self, Outbox, StandardHeaders, TopicPart, ValueFormat};
use crate::dead_letters::Label;
use crate::event::{Change, Event, Header, timeuuid_micros};

/// What a change is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// An event, to be published.
    Event(Event),
    /// None; nothing is to be done.
    Skip(SkipReason),
    /// It should be an event, and cannot be made one.
    Undecodable(Reason),
}

/// Why a change is no event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SkipReason {
    /// An update of some columns.
    PartialUpdate,
    /// A row, a range of rows or a partition was deleted.
    Delete,
    /// A pre- or post-image.
    Image,
}

/// Why a row cannot become an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// A column has gone from the table.
    #[error(
        "column `{column}` (mapped as {part}) is not in the table any more: add it again or \
         change the mapping"
    )]
    MissingColumn {
        /// The column.
        column: String,
        /// The part it plays.
        part: &'static str,
    },
    /// A value that every event needs is null or empty.
    #[error(
        "column `{column}` (mapped as {part}) is null or empty: the application must write it \
         for every event"
    )]
    Null {
        /// The column.
        column: String,
        /// The part it plays.
        part: &'static str,
    },
    /// A value has a type that does not suit its part.
    #[error(
        "column `{column}` (mapped as {part}) holds a {found}, which cannot be used as {part}: {needed}"
    )]
    WrongType {
        /// The column.
        column: String,
        /// The part it plays.
        part: &'static str,
        /// What it holds.
        found: &'static str,
        /// What could be used.
        needed: &'static str,
    },
    /// The bytes are no JSON document although the format says so.
    #[error(
        "column `{column}` (mapped as {part}) is not JSON: {problem}; write JSON, or set the \
         format to `natural`"
    )]
    NotJson {
        /// The column.
        column: String,
        /// The part it plays.
        part: &'static str,
        /// Where parsing stopped. Never the text itself.
        problem: String,
    },
    /// A header's name cannot be sent.
    #[error("column `{column}` has an entry whose name is empty or contains a NUL: rename it")]
    HeaderName {
        /// The map column.
        column: String,
    },
    /// A value has no text form.
    #[error("column `{column}` (mapped as {part}) cannot be written as text: {problem}")]
    NoText {
        /// The column.
        column: String,
        /// The part it plays.
        part: &'static str,
        /// Why not.
        problem: text::NoText,
    },
}

/// The mapping does not suit the table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MappingProblem {
    /// The table has no such column.
    #[error("the table has no column `{column}` (mapped as {part}); it has: {available}")]
    Missing {
        /// The column.
        column: String,
        /// The part it plays.
        part: String,
        /// The columns that exist.
        available: String,
    },
    /// The column's type does not suit.
    #[error("column `{column}` has type {found}, which cannot be used as {part}: {needed}")]
    Type {
        /// The column.
        column: String,
        /// The part it plays.
        part: String,
        /// Its type, as CQL writes it.
        found: String,
        /// What could be used.
        needed: &'static str,
    },
    /// A header has a name that the relay uses.
    #[error(
        "header `{name}` (from column `{column}`) is set by the relay itself: choose another \
         name, or rename the relay's under `standard_headers`"
    )]
    ReservedHeader {
        /// The header.
        name: String,
        /// The column it is mapped from.
        column: String,
    },
}

/// All problems of one mapping.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct MappingError {
    /// The outbox table.
    pub table: String,
    /// At least one problem.
    pub problems: Vec<MappingProblem>,
}

impl fmt::Display for MappingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the columns of {} do not suit the configuration",
            self.table
        )?;
        self.problems
            .iter()
            .try_for_each(|problem| write!(f, "; {problem}"))
    }
}

/// A column that is looked for, and where it was last known to be.
#[derive(Debug, Clone)]
struct Slot {
    part: &'static str,
    column: String,
    hint: usize,
}

impl Slot {
    /// The column's value; `Err` if the change does not have the column.
    fn value<'c>(&self, change: &'c Change) -> Result<Option<&'c CqlValue>, Reason> {
        let names = &change.columns.names;
        let index = if names
            .get(self.hint)
            .is_some_and(|name| *name == self.column)
        {
            Some(self.hint)
        } else {
            names.iter().position(|name| *name == self.column)
        };
        let index = index.ok_or_else(|| Reason::MissingColumn {
            column: self.column.clone(),
            part: self.part,
        })?;
        Ok(change.values.get(index).and_then(Option::as_ref))
    }

    fn null(&self) -> Reason {
        Reason::Null {
            column: self.column.clone(),
            part: self.part,
        }
    }

    fn wrong_type(&self, value: &CqlValue, needed: &'static str) -> Reason {
        let found = text::type_name(value);
        Reason::WrongType {
            column: self.column.clone(),
            part: self.part,
            found,
            needed,
        }
    }

    fn no_text(&self, problem: text::NoText) -> Reason {
        Reason::NoText {
            column: self.column.clone(),
            part: self.part,
            problem,
        }
    }

    fn text(&self, change: &Change) -> Result<Option<String>, Reason> {
        self.value(change)?
            .map(|value| text::of(value).map_err(|problem| self.no_text(problem)))
            .transpose()
    }
}

/// Turns the changes of one outbox table into events.
#[derive(Debug, Clone)]
pub struct Decoder {
    id: Slot,
    key: Slot,
    payload: Slot,
    aggregate_type: Option<Slot>,
    event_type: Option<Slot>,
    content_type: Option<Slot>,
    created_at: Option<Slot>,
    header_map: Option<Slot>,
    traceparent: Option<Slot>,
    headers: Vec<(Arc<str>, Slot)>,
    template: Vec<Slot>,
    key_format: ValueFormat,
    payload_format: ValueFormat,
    tombstone_on_empty: bool,
    reserved: Vec<String>,
    traceparent_header: Option<String>,
}

impl Decoder {
    /// A decoder for `outbox`, whose table has `columns` (names and CQL types, in the order in
    /// which changes carry them; any order is right, this one is fast). Fails with everything
    /// that does not fit.
    pub fn new(
        outbox: &Outbox,
        columns: &[(String, ColumnType<'static>)],
    ) -> Result<Self, MappingError> {
        let has = |column: &str| columns.iter().any(|(name, _)| name == column);
        let (mapped, missing) = outbox.columns.for_table(has);
        let problems = check::problems(outbox, &mapped, &missing, columns);
        if !problems.is_empty() {
            return Err(MappingError {
                table: outbox.table.to_string(),
                problems,
            });
        }
        let slot = |part: &'static str, column: &str| Slot {
            part,
            column: column.to_owned(),
            hint: columns
                .iter()
                .position(|(name, _)| name == column)
                .unwrap_or(0),
        };
        let optional =
            |part, column: &Option<String>| column.as_ref().map(|column| slot(part, column));
        let template = outbox.topic.parts.iter().filter_map(|part| match part {
            TopicPart::Column(column) => Some(slot("part of the topic", column)),
            TopicPart::Literal(_)
            | TopicPart::AggregateType
            | TopicPart::EventType
            | TopicPart::Keyspace
            | TopicPart::Table => None,
        });
        let headers = outbox.headers.iter().map(|header| {
            (
                Arc::from(header.name.as_str()),
                slot("a header", &header.column),
            )
        });
        Ok(Self {
            id: slot("the id", &mapped.id),
            key: slot("the key", &mapped.key),
            payload: slot("the payload", &mapped.payload),
            aggregate_type: optional("the aggregate type", &mapped.aggregate_type),
            event_type: optional("the event type", &mapped.event_type),
            content_type: optional("the content type", &mapped.content_type),
            created_at: optional("the creation time", &mapped.created_at),
            header_map: optional("the headers", &mapped.headers),
            traceparent: optional("the trace context", &mapped.traceparent),
            headers: headers.collect(),
            template: template.collect(),
            key_format: outbox.key_format,
            payload_format: outbox.payload_format,
            tombstone_on_empty: outbox.tombstone_on_empty,
            reserved: reserved_headers(&outbox.standard_headers),
            traceparent_header: outbox.standard_headers.traceparent.clone(),
        })
    }

    /// What a change is.
    pub fn decode(&self, change: &Change) -> Decision {
        match change.operation {
            OperationType::RowInsert => {}
            OperationType::RowUpdate => match self.is_full_row(change) {
                Ok(true) => {}
                Ok(false) => return Decision::Skip(SkipReason::PartialUpdate),
                Err(reason) => return Decision::Undecodable(reason),
            },
            OperationType::RowDelete
            | OperationType::PartitionDelete
            | OperationType::RowRangeDelInclLeft
            | OperationType::RowRangeDelExclLeft
            | OperationType::RowRangeDelInclRight
            | OperationType::RowRangeDelExclRight => return Decision::Skip(SkipReason::Delete),
            OperationType::PreImage | OperationType::PostImage => {
                return Decision::Skip(SkipReason::Image);
            }
        }
        match self.event(change) {
            Ok(event) => Decision::Event(event),
            Err(reason) => Decision::Undecodable(reason),
        }
    }

    /// What can be told of a change that cannot be decoded: what it is called, and its key.
    pub fn outline(&self, change: &Change) -> (Label, Option<Bytes>) {
        let text = |slot: &Slot| slot.text(change).ok().flatten();
        let label = Label {
            event_id: text(&self.id).unwrap_or_default(),
            event_type: self.event_type.as_ref().and_then(text),
        };
        let key = bytes_of(&self.key, self.key_format, change);
        (label, key.ok().flatten())
    }

    fn is_full_row(&self, change: &Change) -> Result<bool, Reason> {
        for slot in [&self.id, &self.key, &self.payload] {
            if slot.value(change)?.is_none() {
                return Ok(false);
            }
        }
        let optional = [&self.aggregate_type, &self.event_type, &self.created_at];
        for slot in optional.into_iter().flatten() {
            // A column that is gone cannot be set.
            if matches!(slot.value(change), Ok(None)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn event(&self, change: &Change) -> Result<Event, Reason> {
        let id = self.id.text(change)?.filter(|id| !id.is_empty());
        let id = id.ok_or_else(|| self.id.null())?;
        let key = bytes_of(&self.key, self.key_format, change)?.ok_or_else(|| self.key.null())?;
        let payload = bytes_of(&self.payload, self.payload_format, change)?;
        let payload = match payload {
            Some(payload) => Some(payload),
            None if self.tombstone_on_empty => None,
            None => Some(Bytes::new()),
        };
        let (headers, traceparent) = self.headers(change)?;
        let mut template_values = Vec::with_capacity(self.template.len());
        for slot in &self.template {
            if let Some(value) = slot.text(change)? {
                template_values.push((slot.column.clone(), value));
            }
        }
        Ok(Event {
            id,
            key,
            aggregate_type: optional_text(self.aggregate_type.as_ref(), change)?,
            event_type: optional_text(self.event_type.as_ref(), change)?,
            payload,
            content_type: self.content_type(change)?,
            created_at_millis: self.created_at(change)?,
            written_at_micros: change.position.micros(),
            traceparent,
            headers,
            template_values,
        })
    }

    fn content_type(&self, change: &Change) -> Result<Option<String>, Reason> {
        let mapped = optional_text(self.content_type.as_ref(), change)?;
        Ok(mapped.or_else(|| {
            (self.payload_format == ValueFormat::Json).then(|| "application/json".to_owned())
        }))
    }

    fn created_at(&self, change: &Change) -> Result<Option<i64>, Reason> {
        let Some(slot) = &self.created_at else {
            return Ok(None);
        };
        match optional_value(slot, change) {
            None | Some(CqlValue::Empty) => Ok(None),
            Some(CqlValue::Timestamp(time)) => Ok(Some(time.0)),
            Some(CqlValue::Timeuuid(time)) => Ok(Some(timeuuid_micros(*time).div_euclid(1000))),
            Some(other) => Err(slot.wrong_type(other, check::CREATED_AT)),
        }
    }

    /// Headers from mapped columns in the order of the configuration, then the entries of the
    /// header map, sorted by name; and the trace context, from its column or else from the map.
    fn headers(&self, change: &Change) -> Result<(Vec<Header>, Option<String>), Reason> {
        let mut headers = Vec::with_capacity(self.headers.len());
        for (name, slot) in &self.headers {
            if let Some(value) = optional_value(slot, change) {
                let value = natural(slot, value)?;
                headers.push(Header {
                    name: Arc::clone(name),
                    value: Some(value),
                });
            }
        }
        let mapped = headers.len();
        let mut traceparent = optional_text(self.traceparent.as_ref(), change)?;
        for (name, value) in self.map_entries(change)? {
            if self.traceparent_header.is_some() && name == "traceparent" && traceparent.is_none() {
                traceparent = std::str::from_utf8(&value).ok().map(ToOwned::to_owned);
            }
            let taken = headers[..mapped].iter().any(|header| *header.name == *name);
            if !taken && !self.reserved.iter().any(|reserved| reserved == name) {
                headers.push(Header {
                    name: Arc::from(name),
                    value: Some(value),
                });
            }
        }
        headers[mapped..].sort_by(|a, b| a.name.cmp(&b.name));
        Ok((headers, traceparent.filter(|context| !context.is_empty())))
    }

    fn map_entries<'c>(&self, change: &'c Change) -> Result<Vec<(&'c str, Bytes)>, Reason> {
        let Some(slot) = &self.header_map else {
            return Ok(Vec::new());
        };
        let Some(value) = optional_value(slot, change) else {
            return Ok(Vec::new());
        };
        let CqlValue::Map(entries) = value else {
            return Err(slot.wrong_type(value, check::HEADER_MAP));
        };
        let mut named = Vec::with_capacity(entries.len());
        for (name, value) in entries {
            let (CqlValue::Text(name) | CqlValue::Ascii(name)) = name else {
                return Err(slot.wrong_type(name, check::HEADER_MAP));
            };
            if name.is_empty() || name.contains('\0') {
                return Err(Reason::HeaderName {
                    column: slot.column.clone(),
                });
            }
            named.push((name.as_str(), natural(slot, value)?));
        }
        Ok(named)
    }
}

/// The value of a column that may be null, and may be gone.
fn optional_value<'c>(slot: &Slot, change: &'c Change) -> Option<&'c CqlValue> {
    slot.value(change).ok().flatten()
}

fn optional_text(slot: Option<&Slot>, change: &Change) -> Result<Option<String>, Reason> {
    let value = slot.and_then(|slot| Some((slot, optional_value(slot, change)?)));
    value
        .map(|(slot, value)| text::of(value).map_err(|problem| slot.no_text(problem)))
        .transpose()
}

/// The bytes of a value in its natural form: blobs as they are, everything else as text.
fn natural(slot: &Slot, value: &CqlValue) -> Result<Bytes, Reason> {
    match value {
        CqlValue::Blob(blob) => Ok(Bytes::copy_from_slice(blob)),
        CqlValue::Text(text) | CqlValue::Ascii(text) => Ok(Bytes::copy_from_slice(text.as_bytes())),
        other => text::of(other)
            .map(Bytes::from)
            .map_err(|problem| slot.no_text(problem)),
    }
}

/// The bytes of a key or payload in its format; `None` if it is null or empty.
fn bytes_of(slot: &Slot, format: ValueFormat, change: &Change) -> Result<Option<Bytes>, Reason> {
    let Some(value) = slot.value(change)? else {
        return Ok(None);
    };
    let is_bytes = matches!(
        value,
        CqlValue::Blob(_) | CqlValue::Text(_) | CqlValue::Ascii(_)
    );
    if format == ValueFormat::Bytes && !is_bytes {
        return Err(slot.wrong_type(value, check::BYTES));
    }
    let bytes = natural(slot, value)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    if format == ValueFormat::Json {
        text::check_json(&bytes).map_err(|problem| Reason::NotJson {
            column: slot.column.clone(),
            part: slot.part,
            problem,
        })?;
    }
    Ok(Some(bytes))
}

fn reserved_headers(standard: &StandardHeaders) -> Vec<String> {
    let optional = [
        &standard.event_type,
        &standard.content_type,
        &standard.created_at,
        &standard.traceparent,
    ];
    std::iter::once(&standard.id)
        .chain(optional.into_iter().flatten())
        .cloned()
        .collect()
}

/// Whether the table's columns suit the mapping.
mod check {
    use super::{
        CollectionType, ColumnType, MappingProblem, NativeType, Outbox, TopicPart, ValueFormat,
        config, reserved_headers, text,
    };
    use crate::config::MissingColumn;

    pub(super) const CREATED_AT: &str = "use a timestamp or a timeuuid";
    pub(super) const HEADER_MAP: &str = "use a map<text, text> or a map<text, blob>";
    pub(super) const BYTES: &str =
        "use a blob or text, or set the format to `natural` to publish its text form";
    const SCALAR: &str = "use a column of a scalar type, such as text or uuid";

    type Columns<'a> = &'a [(String, ColumnType<'static>)];

    pub(super) fn problems(
        outbox: &Outbox,
        mapped: &config::Columns,
        gone: &[config::MissingColumn],
        columns: Columns<'_>,
    ) -> Vec<MappingProblem> {
        let mut problems = Vec::new();
        for MissingColumn { part, column } in gone {
            problems.push(missing(part, column, columns));
        }
        let mut look = |part: &str, column: &str, needed: &'static str, suits: Suits<'_>| {
            let Some((_, found)) = columns.iter().find(|(name, _)| name == column) else {
                problems.push(missing(part, column, columns));
                return;
            };
            if !suits(found) {
                problems.push(MappingProblem::Type {
                    column: column.to_owned(),
                    part: part.to_owned(),
                    found: text::cql_type(found),
                    needed,
                });
            }
        };
        let gone = |part: &str| gone.iter().any(|gone| gone.part == part);
        for (part, column) in mapped.mapped().into_iter().filter(|(part, _)| !gone(part)) {
            match part {
                "key" if outbox.key_format == ValueFormat::Bytes => {
                    look(part, column, BYTES, &is_bytes);
                }
                "payload" if outbox.payload_format == ValueFormat::Bytes => {
                    look(part, column, BYTES, &is_bytes);
                }
                "payload" => look(part, column, "", &|_| true),
                "created_at" => look(part, column, CREATED_AT, &is_time),
                "headers" => look(part, column, HEADER_MAP, &is_header_map),
                _ => look(part, column, SCALAR, &is_scalar),
            }
        }
        for header in &outbox.headers {
            look(
                &format!("header `{}`", header.name),
                &header.column,
                "",
                &|_| true,
            );
        }
        for part in &outbox.topic.parts {
            if let TopicPart::Column(column) = part {
                look("part of the topic", column, SCALAR, &is_scalar);
            }
        }
        let reserved = reserved_headers(&outbox.standard_headers);
        for header in outbox
            .headers
            .iter()
            .filter(|header| reserved.contains(&header.name))
        {
            problems.push(MappingProblem::ReservedHeader {
                name: header.name.clone(),
                column: header.column.clone(),
            });
        }
        problems
    }

    type Suits<'a> = &'a dyn Fn(&ColumnType<'static>) -> bool;

    fn missing(part: &str, column: &str, columns: Columns<'_>) -> MappingProblem {
        let available: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
        MappingProblem::Missing {
            column: column.to_owned(),
            part: part.to_owned(),
            available: available.join(", "),
        }
    }

    fn is_scalar(found: &ColumnType<'static>) -> bool {
        matches!(found, ColumnType::Native(_))
    }

    fn is_bytes(found: &ColumnType<'static>) -> bool {
        use NativeType as N;
        matches!(found, ColumnType::Native(N::Blob | N::Text | N::Ascii))
    }

    fn is_time(found: &ColumnType<'static>) -> bool {
        matches!(
            found,
            ColumnType::Native(NativeType::Timestamp | NativeType::Timeuuid)
        )
    }

    fn is_header_map(found: &ColumnType<'static>) -> bool {
        let ColumnType::Collection {
            typ: CollectionType::Map(name, value),
            ..
        } = found
        else {
            return false;
        };
        matches!(
            **name,
            ColumnType::Native(NativeType::Text | NativeType::Ascii)
        ) && is_bytes(value)
    }
}

#[cfg(test)]
mod tests;
