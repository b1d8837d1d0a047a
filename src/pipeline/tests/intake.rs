//! From changes to deliveries: what is skipped, what becomes a dead letter, what is counted.

use std::collections::BTreeSet;

use scylla::frame::response::result::{ColumnType, NativeType};
use scylla::value::CqlValue;
use scylla_cdc::consumer::OperationType::{self, RowDelete, RowInsert, RowUpdate};

use super::*;
use crate::config::{
    Columns, Outbox, StandardHeaders, TableName, TopicPart, TopicTemplate, ValueFormat,
};
use crate::decode::Decoder;
use crate::event::{Change, ChangeColumns};
use crate::route::Router;

const NAMES: [&str; 4] = ["id", "key", "payload", "topic"];

fn outbox() -> Outbox {
    Outbox {
        table: TableName {
            keyspace: "shop".into(),
            table: "outbox".into(),
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
        topic: TopicTemplate {
            parts: vec![TopicPart::Column("topic".into())],
        },
        headers: Vec::new(),
        key_format: ValueFormat::Natural,
        payload_format: ValueFormat::Natural,
        tombstone_on_empty: false,
        standard_headers: StandardHeaders {
            id: "id".into(),
            event_type: None,
            content_type: None,
            created_at: None,
            traceparent: None,
        },
    }
}

fn change(operation: OperationType, values: [&str; 4]) -> Change {
    let value = |text: &str| (!text.is_empty()).then(|| CqlValue::Text(text.to_owned()));
    Change {
        position: Position {
            time: CqlTimeuuid::nil(),
            seq: 0,
        },
        operation,
        columns: Arc::new(ChangeColumns {
            names: NAMES.map(ToOwned::to_owned).to_vec(),
            primary_key: vec![false; 4],
        }),
        values: values.map(value).to_vec(),
        read_at: Instant::now(),
    }
}

#[tokio::test(start_paused = true)]
async fn events_are_submitted_skips_settled_and_the_rest_dead_letters() {
    let shelf = Shelf::default();
    let keep = Arc::new(shelf.clone());
    let mut relay = Relay::with(testing::config(), ROOMY, Some(keep), |_, _| Step::Deliver);
    let text = ColumnType::Native(NativeType::Text);
    let columns = NAMES.map(|name| (name.to_owned(), text.clone()));
    let decoder = Decoder::new(&outbox(), &columns).expect("the mapping suits");
    let mut intake = PublishIntake::new(
        TableId(0),
        "shop.outbox",
        columns.to_vec().into(),
        Arc::new(decoder),
        Router::new(&outbox()),
        relay.handle.clone(),
        Arc::clone(&relay.metrics),
    );
    let cases = [
        (RowInsert, ["1", "k", "0", "t"], Taken::Submitted),
        (RowDelete, ["1", "k", "", ""], Taken::Skipped),
        (RowUpdate, ["1", "k", "", "t"], Taken::Skipped),
        (RowInsert, ["1", "", "p", "t"], Taken::Submitted),
        (RowInsert, ["2", "x", "p", "no topic"], Taken::Submitted),
        (RowUpdate, ["3", "k", "5", "t"], Taken::Submitted),
        (RowInsert, ["4", "x", "6", "t"], Taken::Submitted),
    ];
    for (operation, values, expected) in cases {
        let ack = relay.delivery("", b"").ack;
        let taken = intake.take(&change(operation, values), ack).await;
        assert_eq!(taken, Ok(expected), "{values:?}");
    }
    let mut settled = relay.settled(7).await;
    settled.sort_unstable();
    assert_eq!(settled, [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(relay.topic()["k"], [0, 5]);
    let letters = shelf.kept();
    let told: Vec<_> = letters
        .iter()
        .map(|letter| {
            (
                &*letter.label.event_id,
                &letter.key[..],
                letter.reason.name(),
            )
        })
        .collect();
    // Without a key there is no order to keep; with one, the events behind it join it.
    assert_eq!(
        told,
        [
            ("1", &b""[..], "undecodable"),
            ("2", b"x", "undecodable"),
            ("4", b"x", "parked"),
        ]
    );
    // What has no record keeps its columns.
    let kept = letters[1].row.as_ref().expect("it is kept");
    let kept: Vec<_> = kept
        .columns()
        .iter()
        .map(|(name, value)| (&**name, value.as_deref()))
        .collect();
    let columns = NAMES.map(ToOwned::to_owned);
    let values = [&b"2"[..], b"x", b"p", b"no topic"].map(Some);
    assert!(kept.iter().map(|(name, _)| *name).eq(&columns));
    assert!(kept.iter().map(|(_, value)| *value).eq(values));
    assert!(letters[1].record.is_none() && letters[2].row.is_none());
    let reason = &letters[1].failure.as_ref().expect("it failed").message;
    assert!(reason.contains("topic"), "{reason}");
    let metrics = &relay.metrics;
    let counted = [&metrics.events, &metrics.skipped, &metrics.undecodable]
        .map(crate::telemetry::metrics::Value::get);
    assert_eq!(counted, [3, 2, 2]);
    let skips = [
        &metrics.skipped_updates,
        &metrics.skipped_deletes,
        &metrics.skipped_images,
    ];
    assert_eq!(skips.map(crate::telemetry::metrics::Value::get), [1, 1, 0]);
}
