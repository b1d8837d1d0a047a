use std::collections::BTreeSet;

use super::*;
use crate::config::{Columns, ValueFormat};

fn outbox(parts: Vec<TopicPart>) -> Outbox {
    let some = |name: &str| Some(name.to_owned());
    Outbox {
        table: TableName {
            keyspace: "shop".into(),
            table: "outbox_messages".into(),
        },
        columns: Columns {
            id: "id".into(),
            key: "key".into(),
            payload: "payload".into(),
            aggregate_type: None,
            event_type: None,
            content_type: None,
            created_at: None,
            headers: None,
            traceparent: None,
            optional: BTreeSet::new(),
        },
        topic: TopicTemplate { parts },
        headers: Vec::new(),
        key_format: ValueFormat::Natural,
        payload_format: ValueFormat::Natural,
        tombstone_on_empty: false,
        standard_headers: StandardHeaders {
            id: "id".into(),
            event_type: some("type"),
            content_type: None,
            created_at: some("created-at"),
            traceparent: some("traceparent"),
        },
    }
}

fn event() -> Event {
    Event {
        id: "7".into(),
        key: Bytes::from_static(b"k"),
        aggregate_type: Some("Order".into()),
        event_type: Some("OrderPlaced".into()),
        payload: None,
        content_type: Some("application/json".into()),
        created_at_millis: Some(1_767_323_045_006),
        written_at_micros: 5_000_999,
        traceparent: None,
        headers: vec![Header {
            name: Arc::from("x"),
            value: None,
        }],
        template_values: vec![("region".into(), "eu".into())],
    }
}

fn literal(text: &str) -> TopicPart {
    TopicPart::Literal(text.to_owned())
}

fn topic(parts: Vec<TopicPart>, event: Event) -> Result<Arc<str>, Unroutable> {
    Router::new(&outbox(parts))
        .route(event)
        .map(|record| record.topic)
}

#[test]
fn every_placeholder_has_its_value_and_keeps_its_case() {
    let parts = vec![
        TopicPart::Keyspace,
        literal("."),
        TopicPart::Table,
        literal("."),
        TopicPart::AggregateType,
        literal("-"),
        TopicPart::EventType,
        literal("_"),
        TopicPart::Column("region".into()),
    ];
    let topic = topic(parts, event()).expect("a topic");
    assert_eq!(&*topic, "shop.outbox_messages.Order-OrderPlaced_eu");
}

#[test]
fn a_placeholder_without_a_value_is_named() {
    let bare = Event {
        aggregate_type: None,
        event_type: Some(String::new()),
        template_values: Vec::new(),
        ..event()
    };
    let cases = [
        (TopicPart::AggregateType, "{aggregate_type}"),
        (TopicPart::EventType, "{event_type}"),
        (TopicPart::Column("region".into()), "{column:region}"),
    ];
    for (part, expected) in cases {
        let Err(Unroutable::EmptyPlaceholder { placeholder }) =
            topic(vec![literal("t."), part], bare.clone())
        else {
            panic!("{expected} has no value")
        };
        assert_eq!(placeholder, expected);
    }
}

#[test]
fn names_that_kafka_refuses_are_refused() {
    let long = "x".repeat(MAX_TOPIC_LEN + 1);
    for name in [".", "..", "a b", "ä", "a/b", long.as_str()] {
        let event = Event {
            aggregate_type: Some(name.to_owned()),
            ..event()
        };
        let result = topic(vec![TopicPart::AggregateType], event);
        assert!(
            matches!(result, Err(Unroutable::InvalidTopic { .. })),
            "{name}"
        );
    }
    for name in ["...", "A-z_0.9", &"x".repeat(MAX_TOPIC_LEN)] {
        assert_eq!(check_topic(name), Ok(()), "{name}");
    }
    assert!(check_topic("").is_err());
}

#[test]
fn standard_headers_come_first_and_only_with_a_value() {
    let record = Router::new(&outbox(vec![literal("t")]))
        .route(event())
        .expect("a record");
    let headers: Vec<(&str, Option<&[u8]>)> = record
        .headers
        .iter()
        .map(|h| (&*h.name, h.value.as_deref()))
        .collect();
    assert_eq!(
        headers,
        [
            ("id", Some(&b"7"[..])),
            ("type", Some(b"OrderPlaced")),
            ("created-at", Some(b"2026-01-02T03:04:05.006Z")),
            ("x", None),
        ]
    );
    let traced = Event {
        traceparent: Some("00-aa-bb-01".into()),
        ..event()
    };
    let record = Router::new(&outbox(vec![literal("t")]))
        .route(traced)
        .expect("a record");
    assert_eq!(&*record.headers[3].name, "traceparent");
}

#[test]
fn the_timestamp_is_the_creation_or_else_the_write() {
    let mut router = Router::new(&outbox(vec![literal("t")]));
    let mut millis = |created_at_millis, written_at_micros| {
        let event = Event {
            created_at_millis,
            written_at_micros,
            ..event()
        };
        router.route(event).expect("a record").timestamp_millis
    };
    assert_eq!(millis(Some(42), 5_000_999), 42);
    assert_eq!(millis(None, 5_000_999), 5000);
    assert_eq!(
        millis(Some(-9), 5_000_999),
        1,
        "Kafka knows no time before 1970"
    );
}

#[test]
fn topics_share_their_names_and_the_cache_is_bounded() {
    let mut router = Router::new(&outbox(vec![TopicPart::AggregateType]));
    let mut route = |n: usize| {
        let event = Event {
            aggregate_type: Some(format!("t{n}")),
            ..event()
        };
        router.route(event).expect("a record").topic
    };
    assert!(Arc::ptr_eq(&route(1), &route(1)));
    for n in 0..3 * MAX_CACHED_TOPICS {
        assert_eq!(&*route(n), format!("t{n}"));
    }
    assert!(router.topics.len() <= MAX_CACHED_TOPICS);
}
