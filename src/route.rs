//! From an event to a record: topic, headers, timestamp.
//!
//! Owns the topic template and the headers that the relay sets by itself. Pure: no I/O, no clock.
//! Invariants:
//!
//! 1. A record's topic is a name that Kafka accepts; otherwise the event is [`Unroutable`].
//! 2. The standard headers come first (id, type, content type, created-at, trace context), then
//!    those of the row, in the event's order. A standard header without a value is left out.
//! 3. The record's timestamp is the event's creation time, or else the time of the row's write.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::config::{Outbox, StandardHeaders, TableName, TopicPart, TopicTemplate};
use crate::decode::text::rfc3339_millis;
use crate::event::{Event, Header, Record};

/// Longest name of a topic in bytes; Kafka's own limit.
pub const MAX_TOPIC_LEN: usize = 249;
/// Names kept so that equal ones share their memory. Beyond, the cache begins anew.
const MAX_CACHED_TOPICS: usize = 1024;

/// An event has no topic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unroutable {
    /// A placeholder has no value.
    #[error(
        "the topic template needs {placeholder}, which is null or empty in this row: the \
         application must write it for every event, or the template must do without it"
    )]
    EmptyPlaceholder {
        /// The placeholder as the configuration writes it.
        placeholder: String,
    },
    /// Kafka would not accept the name.
    #[error(
        "the topic template gives a name that Kafka does not accept ({problem}): correct the \
         values in the row or the template"
    )]
    InvalidTopic {
        /// Which rule it breaks.
        problem: &'static str,
    },
}

/// Gives the events of one outbox table their topics and headers.
#[derive(Debug, Clone)]
pub struct Router {
    table: TableName,
    template: TopicTemplate,
    names: Names,
    name: String,
    topics: HashMap<String, Arc<str>>,
}

#[derive(Debug, Clone)]
struct Names {
    id: Arc<str>,
    event_type: Option<Arc<str>>,
    content_type: Option<Arc<str>>,
    created_at: Option<Arc<str>>,
    traceparent: Option<Arc<str>>,
}

impl Names {
    fn new(standard: &StandardHeaders) -> Self {
        let name = |name: &Option<String>| name.as_deref().map(Arc::from);
        Self {
            id: Arc::from(standard.id.as_str()),
            event_type: name(&standard.event_type),
            content_type: name(&standard.content_type),
            created_at: name(&standard.created_at),
            traceparent: name(&standard.traceparent),
        }
    }
}

impl Router {
    /// A router for `outbox`.
    pub fn new(outbox: &Outbox) -> Self {
        Self {
            table: outbox.table.clone(),
            template: outbox.topic.clone(),
            names: Names::new(&outbox.standard_headers),
            name: String::new(),
            topics: HashMap::new(),
        }
    }

    /// The record of an event. `&mut` only for the cache of topic names: the same event always
    /// gives the same record.
    pub fn route(&mut self, event: Event) -> Result<Record, Unroutable> {
        let topic = self.topic(&event)?;
        let timestamp = event.created_at_millis;
        let timestamp = timestamp.unwrap_or_else(|| event.written_at_micros.div_euclid(1000));
        let mut headers = Vec::with_capacity(event.headers.len() + 5);
        let mut standard = |name: Option<&Arc<str>>, value: Option<String>| {
            if let (Some(name), Some(value)) = (name, value) {
                headers.push(Header {
                    name: Arc::clone(name),
                    value: Some(Bytes::from(value)),
                });
            }
        };
        standard(Some(&self.names.id), Some(event.id));
        standard(self.names.event_type.as_ref(), event.event_type);
        standard(self.names.content_type.as_ref(), event.content_type);
        let created_at = event.created_at_millis.map(rfc3339_millis);
        standard(self.names.created_at.as_ref(), created_at);
        standard(self.names.traceparent.as_ref(), event.traceparent);
        headers.extend(event.headers);
        Ok(Record {
            topic,
            key: event.key,
            payload: event.payload,
            headers,
            // Zero would mean "now" to the producer, and Kafka refuses times before 1970.
            timestamp_millis: timestamp.max(1),
        })
    }

    fn topic(&mut self, event: &Event) -> Result<Arc<str>, Unroutable> {
        self.name.clear();
        for part in &self.template.parts {
            let (value, placeholder) = match part {
                TopicPart::Literal(text) => (Some(text.as_str()), "literal"),
                TopicPart::AggregateType => (event.aggregate_type.as_deref(), "{aggregate_type}"),
                TopicPart::EventType => (event.event_type.as_deref(), "{event_type}"),
                TopicPart::Keyspace => (Some(self.table.keyspace.as_str()), "{keyspace}"),
                TopicPart::Table => (Some(self.table.table.as_str()), "{table}"),
                TopicPart::Column(column) => {
                    let mut values = event.template_values.iter();
                    let value = values
                        .find(|(name, _)| name == column)
                        .map(|(_, v)| v.as_str());
                    (value, column.as_str())
                }
            };
            let Some(value) = value.filter(|value| !value.is_empty()) else {
                let column = matches!(part, TopicPart::Column(_));
                let placeholder = if column {
                    format!("{{column:{placeholder}}}")
                } else {
                    placeholder.into()
                };
                return Err(Unroutable::EmptyPlaceholder { placeholder });
            };
            self.name.push_str(value);
        }
        if let Some(topic) = self.topics.get(&self.name) {
            return Ok(Arc::clone(topic));
        }
        check_topic(&self.name).map_err(|problem| Unroutable::InvalidTopic { problem })?;
        if self.topics.len() >= MAX_CACHED_TOPICS {
            self.topics.clear();
        }
        let topic: Arc<str> = Arc::from(self.name.as_str());
        self.topics.insert(self.name.clone(), Arc::clone(&topic));
        Ok(topic)
    }
}

/// Kafka's rules for topic names; the error is the rule that the name breaks.
pub fn check_topic(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("it is empty");
    }
    if name == "." || name == ".." {
        return Err("it must not be `.` or `..`");
    }
    if name.len() > MAX_TOPIC_LEN {
        return Err("it is longer than 249 characters");
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if !name.bytes().all(allowed) {
        return Err("only ASCII letters, digits, `.`, `_` and `-` are allowed");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
