//! From an event to the values of its row.
//!
//! Owns: the types of the outbox table's columns, and the conversion of an event's fields to them.
//!
//! Invariants:
//! 1. A field that the event does not have is left unset, never written as null: no tombstone, and
//!    one log row instead of two where a TTL is set.
//! 2. The conversion is pure: the time is passed in.

use crate::error::Error;
use crate::event::{Event, Payload};
use crate::ids::IdKind;
use crate::layout::Role;
use scylla::cluster::metadata::{CollectionType, ColumnType, NativeType};
use scylla::value::{CqlTimestamp, CqlTimeuuid, CqlValue, MaybeUnset};
use std::mem;
use uuid::Uuid;

pub(crate) type Value = MaybeUnset<CqlValue>;

/// A column of the outbox table that this library fills.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub(crate) role: Role,
    pub(crate) name: String,
    kind: Kind,
}

/// The types that this library can fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Timeuuid,
    Uuid,
    Text,
    Blob,
    BigInt,
    Int,
    Timestamp,
    TextMap,
}

impl Kind {
    fn of(column: &ColumnType<'_>) -> Option<Self> {
        match column {
            ColumnType::Native(native) => match native {
                NativeType::Timeuuid => Some(Self::Timeuuid),
                NativeType::Uuid => Some(Self::Uuid),
                NativeType::Text | NativeType::Ascii => Some(Self::Text),
                NativeType::Blob => Some(Self::Blob),
                NativeType::BigInt => Some(Self::BigInt),
                NativeType::Int => Some(Self::Int),
                NativeType::Timestamp => Some(Self::Timestamp),
                _ => None,
            },
            ColumnType::Collection {
                typ: CollectionType::Map(key, value),
                ..
            } => (Self::of(key) == Some(Self::Text) && Self::of(value) == Some(Self::Text))
                .then_some(Self::TextMap),
            _ => None,
        }
    }
}

impl Column {
    /// The column `name` of type `column_type` in the role `role`, if it can play it.
    pub(crate) fn new(role: Role, name: &str, column_type: &ColumnType<'_>) -> Result<Self, Error> {
        let (allowed, expected): (&[Kind], _) = match role {
            Role::Id => (
                &[Kind::Timeuuid, Kind::Uuid, Kind::Text],
                "timeuuid, uuid, text",
            ),
            Role::AggregateId => (
                &[
                    Kind::Text,
                    Kind::Uuid,
                    Kind::Timeuuid,
                    Kind::BigInt,
                    Kind::Int,
                    Kind::Blob,
                ],
                "text, uuid, timeuuid, bigint, int, blob",
            ),
            Role::Payload => (&[Kind::Blob, Kind::Text], "blob, text"),
            Role::AggregateType | Role::EventType | Role::ContentType => (&[Kind::Text], "text"),
            Role::Headers => (&[Kind::TextMap], "map<text, text>, frozen or not"),
            Role::CreatedAt => (&[Kind::Timestamp], "timestamp"),
        };
        match Kind::of(column_type).filter(|kind| allowed.contains(kind)) {
            Some(kind) => Ok(Self {
                role,
                name: name.to_owned(),
                kind,
            }),
            None => Err(Error::ColumnType {
                column: name.to_owned(),
                expected,
                found: format!("{column_type:?}"),
            }),
        }
    }

    /// Which ids the column takes; only meaningful for the id column.
    pub(crate) fn id_kind(&self) -> IdKind {
        match self.kind {
            Kind::Timeuuid => IdKind::Timeuuid,
            Kind::Text => IdKind::Text,
            _ => IdKind::Uuid,
        }
    }

    /// The value of this column in the row of `event`, whose payload is moved out.
    pub(crate) fn value(
        &self,
        event: &mut Event,
        id: Uuid,
        now_millis: i64,
    ) -> Result<Value, Error> {
        let value = match self.role {
            Role::Id => Some(self.id(id)),
            Role::AggregateId => Some(self.key(&event.aggregate_id, id)?),
            Role::AggregateType => Some(CqlValue::Text(event.aggregate_type.clone())),
            Role::EventType => Some(CqlValue::Text(event.event_type.clone())),
            Role::Payload => {
                self.payload(mem::replace(&mut event.payload, Payload::Missing), id)?
            }
            Role::ContentType => event.content_type.clone().map(CqlValue::Text),
            Role::Headers => headers(event),
            Role::CreatedAt => Some(CqlValue::Timestamp(CqlTimestamp(now_millis))),
        };
        Ok(value.map_or(MaybeUnset::Unset, MaybeUnset::Set))
    }

    fn id(&self, id: Uuid) -> CqlValue {
        match self.kind {
            Kind::Timeuuid => CqlValue::Timeuuid(CqlTimeuuid::from(id)),
            Kind::Text => CqlValue::Text(id.to_string()),
            _ => CqlValue::Uuid(id),
        }
    }

    fn key(&self, key: &str, id: Uuid) -> Result<CqlValue, Error> {
        let (value, expected) = match self.kind {
            Kind::Uuid => (Uuid::parse_str(key).ok().map(CqlValue::Uuid), "UUID"),
            Kind::Timeuuid => (
                Uuid::parse_str(key)
                    .ok()
                    .filter(|key| IdKind::Timeuuid.accepts(*key))
                    .map(|key| CqlValue::Timeuuid(CqlTimeuuid::from(key))),
                "UUID of version 1",
            ),
            Kind::BigInt => (key.parse().ok().map(CqlValue::BigInt), "64-bit number"),
            Kind::Int => (key.parse().ok().map(CqlValue::Int), "32-bit number"),
            Kind::Blob => (Some(CqlValue::Blob(key.as_bytes().to_vec())), "text"),
            _ => (Some(CqlValue::Text(key.to_owned())), "text"),
        };
        value.ok_or_else(|| Error::KeyType {
            id,
            column: self.name.clone(),
            expected,
        })
    }

    fn payload(&self, payload: Payload, id: Uuid) -> Result<Option<CqlValue>, Error> {
        match payload {
            Payload::Missing => Err(Error::NoPayload { id }),
            Payload::Empty => Ok(None),
            Payload::Bytes(bytes) if self.kind == Kind::Blob => Ok(Some(CqlValue::Blob(bytes))),
            Payload::Bytes(bytes) => match String::from_utf8(bytes) {
                Ok(text) => Ok(Some(CqlValue::Text(text))),
                Err(_) => Err(Error::PayloadNotText {
                    id,
                    column: self.name.clone(),
                }),
            },
        }
    }
}

fn headers(event: &Event) -> Option<CqlValue> {
    if event.headers.is_empty() {
        return None;
    }
    let text = |text: &String| CqlValue::Text(text.clone());
    Some(CqlValue::Map(
        event
            .headers
            .iter()
            .map(|(name, value)| (text(name), text(value)))
            .collect(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(role: Role, native: NativeType) -> Column {
        Column::new(role, "c", &ColumnType::Native(native)).expect("an allowed type")
    }

    fn event() -> Event {
        Event::new("order", "17", "Placed").text("hello")
    }

    fn value(column: &Column, event: &Event) -> Result<Option<CqlValue>, Error> {
        Ok(match column.value(&mut event.clone(), Uuid::nil(), 5)? {
            MaybeUnset::Set(value) => Some(value),
            MaybeUnset::Unset => None,
        })
    }

    #[test]
    fn the_key_takes_the_type_of_its_column() {
        let key = |native, key: &str| {
            value(
                &column(Role::AggregateId, native),
                &Event::new("t", key, "e"),
            )
        };
        let uuid = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
        assert_eq!(
            key(NativeType::Text, "a").ok(),
            Some(Some(CqlValue::Text("a".into())))
        );
        assert_eq!(
            key(NativeType::BigInt, "-3").ok(),
            Some(Some(CqlValue::BigInt(-3)))
        );
        assert_eq!(key(NativeType::Int, "7").ok(), Some(Some(CqlValue::Int(7))));
        assert!(matches!(
            key(NativeType::Uuid, uuid),
            Ok(Some(CqlValue::Uuid(_)))
        ));
        assert!(matches!(
            key(NativeType::Timeuuid, uuid),
            Ok(Some(CqlValue::Timeuuid(_)))
        ));
        assert!(matches!(
            key(NativeType::Uuid, "a"),
            Err(Error::KeyType { .. })
        ));
        assert!(matches!(
            key(NativeType::Int, "3000000000"),
            Err(Error::KeyType { .. })
        ));
        let version_4 = "9b2c1c8e-4d5e-4f6a-8b7c-0d1e2f3a4b5c";
        assert!(matches!(
            key(NativeType::Timeuuid, version_4),
            Err(Error::KeyType { .. })
        ));
    }

    #[test]
    fn a_text_payload_must_be_utf_8() {
        let text = column(Role::Payload, NativeType::Text);
        let blob = column(Role::Payload, NativeType::Blob);
        let binary = event().bytes([0xff, 0xfe]);
        assert!(matches!(
            value(&text, &binary),
            Err(Error::PayloadNotText { .. })
        ));
        assert!(matches!(value(&blob, &binary), Ok(Some(CqlValue::Blob(_)))));
        assert!(matches!(
            value(&text, &event()),
            Ok(Some(CqlValue::Text(_)))
        ));
    }

    #[test]
    fn what_the_event_does_not_have_is_left_unset() {
        let payload = column(Role::Payload, NativeType::Blob);
        let content_type = column(Role::ContentType, NativeType::Text);
        let none = event().without_payload();
        assert_eq!(value(&payload, &none).ok(), Some(None));
        assert_eq!(value(&content_type, &none).ok(), Some(None));
        assert_eq!(headers(&none), None);
        let forgotten = Event::new("order", "17", "Placed");
        assert!(matches!(
            value(&payload, &forgotten),
            Err(Error::NoPayload { .. })
        ));
    }

    #[test]
    fn a_column_that_cannot_play_its_role_is_refused() {
        let counter = ColumnType::Native(NativeType::Counter);
        let error = Column::new(Role::Payload, "payload", &counter).expect_err("a counter");
        assert!(error.to_string().contains("blob, text"), "{error}");
    }
}
