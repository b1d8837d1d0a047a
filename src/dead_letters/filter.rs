//! Which dead letters a person means.

use serde::{Deserialize, Serialize};

use super::letter::{DeadLetter, Reason};

/// All that is given must hold; nothing given means all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// The outbox table, `keyspace.table`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// The topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// The key, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The event's type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    /// The event's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The reason, by its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Failed first at or after this time, milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_millis: Option<i64>,
    /// Failed first before this time, milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_millis: Option<i64>,
}

impl Filter {
    /// What a relay replays without being asked, once Kafka is back.
    pub fn exhausted() -> Self {
        Self {
            reason: Some(Reason::Exhausted.name().to_owned()),
            ..Self::default()
        }
    }

    /// Whether a dead letter of this outbox table can be meant.
    pub fn wants_table(&self, table: &str) -> bool {
        self.table.as_deref().is_none_or(|wanted| wanted == table)
    }

    /// Whether this one is meant.
    pub fn matches(&self, letter: &DeadLetter) -> bool {
        fn is(wanted: Option<&String>, found: Option<&str>) -> bool {
            wanted.is_none_or(|wanted| found == Some(wanted.as_str()))
        }
        let topic = letter.record.as_ref().map(|record| &*record.topic);
        self.wants_table(&letter.table)
            && is(self.topic.as_ref(), topic)
            && is(self.event_type.as_ref(), letter.label.event_type.as_deref())
            && is(self.id.as_ref(), Some(&letter.label.event_id))
            && is(self.reason.as_ref(), Some(letter.reason.name()))
            && self
                .key
                .as_ref()
                .is_none_or(|key| key.as_bytes() == &letter.key[..])
            && self
                .since_millis
                .is_none_or(|since| letter.first_failed_millis >= since)
            && self
                .until_millis
                .is_none_or(|until| letter.first_failed_millis < until)
    }

    /// Whether it can tell dead letters of one key apart. If not, all of a key are meant or none.
    pub fn splits_keys(&self) -> bool {
        let Self {
            table: _,
            key: _,
            topic,
            event_type,
            id,
            reason,
            since_millis,
            until_millis,
        } = self;
        topic.is_some()
            || event_type.is_some()
            || id.is_some()
            || reason.is_some()
            || since_millis.is_some()
            || until_millis.is_some()
    }
}
