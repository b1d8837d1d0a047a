//! An event as the application describes it, before it becomes a row.
//!
//! Owns: the fields of an event and their order of assembly. Not here: limits and the check that
//! the event is complete, which depend on the outbox that it goes to: the batch makes it.

use crate::error::Error;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use uuid::Uuid;

/// The payload of an event.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Payload {
    /// Not given yet.
    Missing,
    /// The event is meant to have none.
    Empty,
    /// Bytes as they will arrive in Kafka.
    Bytes(Vec<u8>),
}

/// The size only: a payload does not belong in a log.
impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("Missing"),
            Self::Empty => f.write_str("Empty"),
            Self::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
        }
    }
}

/// Something that happened to an aggregate and that others shall learn of.
///
/// ```
/// # use outbox_writer::Event;
/// # #[derive(serde::Serialize)] struct OrderPlaced { total_cents: u64 }
/// # fn main() -> Result<(), outbox_writer::Error> {
/// let event = Event::new("order", "order-17", "OrderPlaced")
///     .json(&OrderPlaced { total_cents: 4_200 })?
///     .header("tenant", "acme");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_field_names,
    reason = "`event_type` is the name of the field everywhere else, and `type` is reserved"
)]
pub struct Event {
    pub(crate) id: Option<Uuid>,
    pub(crate) aggregate_type: String,
    pub(crate) aggregate_id: String,
    pub(crate) event_type: String,
    pub(crate) payload: Payload,
    pub(crate) content_type: Option<String>,
    pub(crate) headers: BTreeMap<String, String>,
}

impl Event {
    /// An event without payload yet: call [`json`](Self::json), [`bytes`](Self::bytes) or
    /// [`text`](Self::text) next.
    ///
    /// `aggregate_type` usually chooses the topic. `aggregate_id` becomes the key of the Kafka
    /// record: events of one aggregate stay in order. `event_type` tells consumers what it is.
    pub fn new(
        aggregate_type: impl Into<String>,
        aggregate_id: impl Into<String>,
        event_type: impl Into<String>,
    ) -> Self {
        Self {
            id: None,
            aggregate_type: aggregate_type.into(),
            aggregate_id: aggregate_id.into(),
            event_type: event_type.into(),
            payload: Payload::Missing,
            content_type: None,
            headers: BTreeMap::new(),
        }
    }

    /// Sets the payload to `value` as JSON, and the content type to `application/json`.
    ///
    /// Fails with [`Error::Json`] if `value` cannot be written as JSON, for example a map whose
    /// keys are no strings.
    pub fn json<T: Serialize + ?Sized>(self, value: &T) -> Result<Self, Error> {
        let json = serde_json::to_vec(value).map_err(Error::Json)?;
        Ok(self.payload(json, "application/json"))
    }

    /// Sets the payload to `bytes`, and the content type to `application/octet-stream`. The
    /// payload column must be a `blob` unless the bytes are UTF-8.
    #[must_use]
    pub fn bytes(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.payload(bytes.into(), "application/octet-stream")
    }

    /// Sets the payload to `text`, and the content type to `text/plain; charset=utf-8`.
    #[must_use]
    pub fn text(self, text: impl Into<String>) -> Self {
        self.payload(text.into().into_bytes(), "text/plain; charset=utf-8")
    }

    /// Says that the event has no payload. A relay that is so configured publishes a tombstone
    /// for it, with which a compacted topic forgets the key.
    #[must_use]
    pub fn without_payload(mut self) -> Self {
        self.payload = Payload::Empty;
        self.content_type = None;
        self
    }

    /// Replaces the content type that the payload method chose.
    #[must_use]
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = Some(content_type.into());
        self
    }

    /// Adds a header, or replaces the one of this name.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// Sets the event's own id instead of a generated one.
    ///
    /// In a table that is clustered by the id, ids of one aggregate must increase from event to
    /// event: the batch refuses two that do not, but two batches it cannot compare.
    #[must_use]
    pub fn id(mut self, id: Uuid) -> Self {
        self.id = Some(id);
        self
    }

    fn payload(mut self, bytes: Vec<u8>, content_type: &str) -> Self {
        self.payload = Payload::Bytes(bytes);
        self.content_type = Some(content_type.to_owned());
        self
    }
}
