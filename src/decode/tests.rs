use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use scylla::value::{
    Counter, CqlDate, CqlDecimal, CqlDuration, CqlTime, CqlTimestamp, CqlTimeuuid, CqlVarint,
};

use super::*;
use crate::config::{Columns, HeaderMapping, TableName, TopicTemplate};
use crate::event::{ChangeColumns, Position};

const ID: &str = "5b6962dd-3f90-4c93-8f61-eabfa4a803e2";
/// 2026-01-02T03:04:05.006Z.
const WRITTEN_MILLIS: i64 = 1_767_323_045_006;

fn native(native: NativeType) -> ColumnType<'static> {
    ColumnType::Native(native)
}

fn map(value: NativeType) -> ColumnType<'static> {
    let typ = CollectionType::Map(Box::new(native(NativeType::Text)), Box::new(native(value)));
    ColumnType::Collection { frozen: false, typ }
}

fn table() -> Vec<(String, ColumnType<'static>)> {
    let columns = [
        ("id", native(NativeType::Uuid)),
        ("aggregate_id", native(NativeType::Text)),
        ("aggregate_type", native(NativeType::Text)),
        ("event_type", native(NativeType::Text)),
        ("payload", native(NativeType::Blob)),
        ("created_at", native(NativeType::Timestamp)),
        ("headers", map(NativeType::Text)),
        ("traceparent", native(NativeType::Text)),
        ("region", native(NativeType::Text)),
        ("version", native(NativeType::Int)),
    ];
    columns
        .map(|(name, column)| (name.to_owned(), column))
        .to_vec()
}

fn outbox() -> Outbox {
    let some = |name: &str| Some(name.to_owned());
    Outbox {
        table: TableName {
            keyspace: "shop".into(),
            table: "outbox_messages".into(),
        },
        columns: Columns {
            id: "id".into(),
            key: "aggregate_id".into(),
            payload: "payload".into(),
            aggregate_type: some("aggregate_type"),
            event_type: some("event_type"),
            content_type: None,
            created_at: some("created_at"),
            headers: some("headers"),
            traceparent: some("traceparent"),
            optional: BTreeSet::new(),
        },
        topic: TopicTemplate {
            parts: vec![TopicPart::Column("region".into())],
        },
        headers: vec![HeaderMapping {
            name: "v".into(),
            column: "version".into(),
        }],
        key_format: ValueFormat::Natural,
        payload_format: ValueFormat::Natural,
        tombstone_on_empty: false,
        standard_headers: StandardHeaders {
            id: "id".into(),
            event_type: some("type"),
            content_type: some("content-type"),
            created_at: some("created-at"),
            traceparent: some("traceparent"),
        },
    }
}

fn decoder(outbox: &Outbox) -> Decoder {
    Decoder::new(outbox, &table()).expect("the mapping suits the table")
}

/// A change of the table above with these values; everything else is null.
fn change(operation: OperationType, values: &[(&str, CqlValue)]) -> Change {
    let values: BTreeMap<&str, CqlValue> = values.iter().cloned().collect();
    let names: Vec<String> = table().into_iter().map(|(name, _)| name).collect();
    let ticks = crate::event::UUID_EPOCH_OFFSET + WRITTEN_MILLIS as u64 * 10_000;
    Change {
        position: Position {
            time: CqlTimeuuid::from(uuid::Uuid::from_fields(
                ticks as u32,
                (ticks >> 32) as u16,
                ((ticks >> 48) as u16 & 0x0fff) | 0x1000,
                &[0x80; 8],
            )),
            seq: 0,
        },
        operation,
        values: names
            .iter()
            .map(|name| values.get(name.as_str()).cloned())
            .collect(),
        columns: Arc::new(ChangeColumns {
            primary_key: vec![false; names.len()],
            names,
        }),
        read_at: tokio::time::Instant::now(),
    }
}

fn text_value(value: &str) -> CqlValue {
    CqlValue::Text(value.to_owned())
}

fn full_row() -> Vec<(&'static str, CqlValue)> {
    vec![
        ("id", CqlValue::Uuid(ID.parse().expect("an uuid"))),
        ("aggregate_id", text_value("order-7")),
        ("aggregate_type", text_value("order")),
        ("event_type", text_value("OrderPlaced")),
        ("payload", CqlValue::Blob(b"{\"n\":1}".to_vec())),
        (
            "created_at",
            CqlValue::Timestamp(CqlTimestamp(1_767_323_045_000)),
        ),
        ("region", text_value("eu")),
        ("version", CqlValue::Int(3)),
    ]
}

fn with(column: &'static str, value: CqlValue) -> Vec<(&'static str, CqlValue)> {
    let mut row = without(column);
    row.push((column, value));
    row
}

fn without(column: &str) -> Vec<(&'static str, CqlValue)> {
    full_row()
        .into_iter()
        .filter(|(name, _)| *name != column)
        .collect()
}

fn insert(outbox: &Outbox, row: &[(&str, CqlValue)]) -> Decision {
    decoder(outbox).decode(&change(OperationType::RowInsert, row))
}

fn event(outbox: &Outbox, row: &[(&str, CqlValue)]) -> Event {
    match insert(outbox, row) {
        Decision::Event(event) => event,
        other => panic!("expected an event, got {other:?}"),
    }
}

fn reason(outbox: &Outbox, row: &[(&str, CqlValue)]) -> Reason {
    match insert(outbox, row) {
        Decision::Undecodable(reason) => reason,
        other => panic!("expected an undecodable row, got {other:?}"),
    }
}

fn header(name: &str, value: &str) -> Header {
    Header {
        name: Arc::from(name),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
    }
}

#[test]
fn an_insert_is_an_event() {
    let expected = Event {
        id: ID.to_owned(),
        key: Bytes::from_static(b"order-7"),
        aggregate_type: Some("order".to_owned()),
        event_type: Some("OrderPlaced".to_owned()),
        payload: Some(Bytes::from_static(b"{\"n\":1}")),
        content_type: None,
        created_at_millis: Some(1_767_323_045_000),
        written_at_micros: WRITTEN_MILLIS * 1000,
        traceparent: None,
        headers: vec![header("v", "3")],
        template_values: vec![("region".to_owned(), "eu".to_owned())],
    };
    assert_eq!(event(&outbox(), &full_row()), expected);
}

#[test]
fn an_update_is_an_event_only_as_a_full_row() {
    let decoder = decoder(&outbox());
    let decide = |row: &[(&str, CqlValue)]| decoder.decode(&change(OperationType::RowUpdate, row));
    assert!(matches!(decide(&full_row()), Decision::Event(_)));
    for column in [
        "id",
        "aggregate_id",
        "payload",
        "aggregate_type",
        "event_type",
        "created_at",
    ] {
        let decision = decide(&without(column));
        assert_eq!(
            decision,
            Decision::Skip(SkipReason::PartialUpdate),
            "without {column}"
        );
    }
    for column in ["headers", "traceparent", "version", "region"] {
        assert!(
            matches!(decide(&without(column)), Decision::Event(_)),
            "without {column}"
        );
    }
}

#[test]
fn deletes_and_images_are_skipped() {
    use OperationType as O;
    let decoder = decoder(&outbox());
    let cases = [
        (O::RowDelete, SkipReason::Delete),
        (O::PartitionDelete, SkipReason::Delete),
        (O::RowRangeDelInclLeft, SkipReason::Delete),
        (O::RowRangeDelExclLeft, SkipReason::Delete),
        (O::RowRangeDelInclRight, SkipReason::Delete),
        (O::RowRangeDelExclRight, SkipReason::Delete),
        (O::PreImage, SkipReason::Image),
        (O::PostImage, SkipReason::Image),
    ];
    for (operation, reason) in cases {
        assert_eq!(
            decoder.decode(&change(operation, &full_row())),
            Decision::Skip(reason)
        );
    }
}

#[test]
fn a_row_without_id_or_key_is_undecodable() {
    let null = |column: &str, part| Reason::Null {
        column: column.to_owned(),
        part,
    };
    assert_eq!(reason(&outbox(), &without("id")), null("id", "the id"));
    assert_eq!(
        reason(&outbox(), &without("aggregate_id")),
        null("aggregate_id", "the key")
    );
    let empty = with("aggregate_id", text_value(""));
    assert_eq!(reason(&outbox(), &empty), null("aggregate_id", "the key"));
}

#[test]
fn a_column_that_has_gone_is_named() {
    let mut change = change(OperationType::RowInsert, &full_row());
    let mut columns = (*change.columns).clone();
    columns.names[4] = "body".to_owned();
    change.columns = Arc::new(columns);
    let Decision::Undecodable(reason) = decoder(&outbox()).decode(&change) else {
        panic!("the payload's column is gone")
    };
    assert_eq!(
        reason.to_string(),
        "column `payload` (mapped as the payload) is not in the table any more: add it again or \
         change the mapping"
    );
}

#[test]
fn columns_are_found_wherever_they_are() {
    let mut change = change(OperationType::RowInsert, &full_row());
    let mut columns = (*change.columns).clone();
    columns.names.reverse();
    change.values.reverse();
    change.columns = Arc::new(columns);
    let decision = decoder(&outbox()).decode(&change);
    assert_eq!(decision, Decision::Event(event(&outbox(), &full_row())));
}

#[test]
fn an_empty_payload_is_an_empty_value_or_a_tombstone() {
    let mut outbox = outbox();
    for payload in [
        without("payload"),
        with("payload", CqlValue::Blob(Vec::new())),
    ] {
        outbox.tombstone_on_empty = false;
        assert_eq!(event(&outbox, &payload).payload, Some(Bytes::new()));
        outbox.tombstone_on_empty = true;
        assert_eq!(event(&outbox, &payload).payload, None);
    }
}

#[test]
fn json_is_checked_and_named_as_the_content_type() {
    let mut outbox = outbox();
    outbox.payload_format = ValueFormat::Json;
    let good = event(&outbox, &full_row());
    assert_eq!(good.content_type.as_deref(), Some("application/json"));
    let bad = |bytes: &[u8]| {
        reason(&outbox, &with("payload", CqlValue::Blob(bytes.to_vec()))).to_string()
    };
    assert!(bad(b"{\"secret\":").contains("ends too early at line 1 column 10"));
    assert!(bad(b"{} {}").contains("breaks the syntax at line 1 column 4"));
    assert!(bad(b"\"\xff\"").contains("no UTF-8 at byte 1"));
    assert!(
        !bad(b"{\"secret\": hidden}").contains("secret"),
        "a payload is never quoted"
    );
}

#[test]
fn bytes_refuse_what_has_no_bytes_of_its_own() {
    let mut outbox = outbox();
    outbox.payload_format = ValueFormat::Bytes;
    assert_eq!(
        event(&outbox, &full_row()).payload,
        Some(Bytes::from_static(b"{\"n\":1}"))
    );
    let wrong = reason(&outbox, &with("payload", CqlValue::Int(5)));
    assert!(
        matches!(wrong, Reason::WrongType { found: "int", .. }),
        "{wrong}"
    );
}

#[test]
fn a_creation_time_may_be_a_timeuuid() {
    let mut columns = table();
    columns[5].1 = native(NativeType::Timeuuid);
    let decoder = Decoder::new(&outbox(), &columns).expect("a timeuuid suits");
    let time = change(OperationType::RowInsert, &[]).position.time;
    let row = with("created_at", CqlValue::Timeuuid(time));
    let Decision::Event(event) = decoder.decode(&change(OperationType::RowInsert, &row)) else {
        panic!("a timeuuid is a time")
    };
    assert_eq!(event.created_at_millis, Some(WRITTEN_MILLIS));
}

fn headers(entries: &[(&str, &str)]) -> CqlValue {
    CqlValue::Map(
        entries
            .iter()
            .map(|(k, v)| (text_value(k), text_value(v)))
            .collect(),
    )
}

#[test]
fn header_map_entries_are_sorted_and_override_nothing() {
    let map = headers(&[
        ("z", "last"),
        ("a", "first"),
        ("id", "forged"),
        ("content-type", "forged"),
        ("v", "forged"),
        ("traceparent", "00-from-map"),
    ]);
    let event = event(&outbox(), &with("headers", map));
    assert_eq!(
        event.headers,
        [header("v", "3"), header("a", "first"), header("z", "last")]
    );
    assert_eq!(event.traceparent.as_deref(), Some("00-from-map"));
}

#[test]
fn the_trace_context_of_the_column_wins() {
    let mut row = with("headers", headers(&[("traceparent", "00-from-map")]));
    row.push(("traceparent", text_value("00-from-column")));
    assert_eq!(
        event(&outbox(), &row).traceparent.as_deref(),
        Some("00-from-column")
    );
    let mut unnamed = outbox();
    unnamed.standard_headers.traceparent = None;
    let event = event(&unnamed, &row);
    assert_eq!(event.headers[1..], [header("traceparent", "00-from-map")]);
}

#[test]
fn a_header_name_that_cannot_be_sent_is_undecodable() {
    for name in ["", "a\0b"] {
        let row = with("headers", headers(&[(name, "x")]));
        assert_eq!(
            reason(&outbox(), &row),
            Reason::HeaderName {
                column: "headers".to_owned()
            }
        );
    }
}

#[test]
fn a_mapping_says_all_that_is_wrong_with_it() {
    let mut outbox = outbox();
    outbox.columns.key = "agg_id".to_owned();
    outbox.columns.created_at = Some("version".to_owned());
    outbox.columns.headers = Some("region".to_owned());
    outbox.key_format = ValueFormat::Bytes;
    outbox
        .topic
        .parts
        .push(TopicPart::Column("tenant".to_owned()));
    outbox.headers[0].name = "type".to_owned();
    let error = Decoder::new(&outbox, &table()).expect_err("nothing fits");
    let texts: Vec<String> = error.problems.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 5, "{texts:#?}");
    assert!(texts[0].starts_with("the table has no column `agg_id` (mapped as key); it has: id,"));
    assert!(texts[1].contains("`version` has type int, which cannot be used as created_at"));
    assert!(texts[2].contains("`region` has type text, which cannot be used as headers"));
    assert!(texts[3].contains("no column `tenant`"));
    assert!(texts[4].contains("header `type` (from column `version`)"));
}

#[test]
fn a_key_is_a_scalar() {
    let mut outbox = outbox();
    outbox.columns.key = "headers".into();
    outbox.columns.headers = None;
    let error = Decoder::new(&outbox, &table()).expect_err("a map cannot be a key");
    assert_eq!(
        error.problems,
        [MappingProblem::Type {
            column: "headers".into(),
            part: "key".into(),
            found: "map<text, text>".into(),
            needed: "use a column of a scalar type, such as text or uuid",
        }]
    );
}

#[test]
fn what_a_preset_maps_may_be_missing() {
    let mut outbox = outbox();
    outbox.columns.optional = BTreeSet::from(["traceparent", "created_at"]);
    let columns: Vec<_> = table()
        .into_iter()
        .filter(|(name, _)| name != "traceparent" && name != "created_at")
        .collect();
    let decoder = Decoder::new(&outbox, &columns).expect("optional columns may be missing");
    let change = change(OperationType::RowUpdate, &without("created_at"));
    assert!(matches!(decoder.decode(&change), Decision::Event(_)));
}

fn varint(bytes: &[u8]) -> CqlVarint {
    CqlVarint::from_signed_bytes_be_slice(bytes)
}

fn decimal(bytes: &[u8], scale: i32) -> CqlValue {
    CqlValue::Decimal(CqlDecimal::from_signed_be_bytes_slice_and_exponent(
        bytes, scale,
    ))
}

#[test]
fn scalars_have_the_text_that_a_person_expects() {
    let duration = |months, days, nanoseconds| {
        CqlValue::Duration(CqlDuration {
            months,
            days,
            nanoseconds,
        })
    };
    let timestamp = |millis| CqlValue::Timestamp(CqlTimestamp(millis));
    let cases = [
        (CqlValue::Ascii("a".into()), "a"),
        (text_value("ä\""), "ä\""),
        (CqlValue::Boolean(true), "true"),
        (CqlValue::Blob(vec![0, 0xAB]), "0x00ab"),
        (CqlValue::Counter(Counter(-4)), "-4"),
        (CqlValue::Int(-5), "-5"),
        (CqlValue::BigInt(i64::MIN), "-9223372036854775808"),
        (CqlValue::SmallInt(7), "7"),
        (CqlValue::TinyInt(-128), "-128"),
        (CqlValue::Empty, ""),
        (CqlValue::Uuid(ID.parse().expect("an uuid")), ID),
        (
            CqlValue::Timeuuid(
                "8e14e760-7fa8-11eb-bc66-000000000001"
                    .parse()
                    .expect("a uuid"),
            ),
            "8e14e760-7fa8-11eb-bc66-000000000001",
        ),
        (timestamp(WRITTEN_MILLIS), "2026-01-02T03:04:05.006Z"),
        (timestamp(-1), "1969-12-31T23:59:59.999Z"),
        (timestamp(951_782_400_000), "2000-02-29T00:00:00.000Z"),
        (timestamp(253_402_300_800_000), "+10000-01-01T00:00:00.000Z"),
        (CqlValue::Date(CqlDate(1 << 31)), "1970-01-01"),
        (CqlValue::Date(CqlDate((1 << 31) - 719_528)), "0000-01-01"),
        (CqlValue::Date(CqlDate(0)), "-5877641-06-23"),
        (CqlValue::Date(CqlDate(u32::MAX)), "+5881580-07-11"),
        (
            CqlValue::Time(CqlTime(3_723_000_000_005)),
            "01:02:03.000000005",
        ),
        (CqlValue::Float(0.1), "0.1"),
        (CqlValue::Float(3.0e38), "3e38"),
        (CqlValue::Double(0.1), "0.1"),
        (CqlValue::Double(1.0), "1"),
        (CqlValue::Double(-1e300), "-1e300"),
        (CqlValue::Double(f64::NAN), "NaN"),
        (CqlValue::Double(f64::NEG_INFINITY), "-Infinity"),
        (
            CqlValue::Inet("::1".parse::<IpAddr>().expect("an address")),
            "::1",
        ),
        (
            CqlValue::Inet("10.0.0.1".parse::<IpAddr>().expect("an address")),
            "10.0.0.1",
        ),
        (
            duration(14, 3, 14_706_007_008_009),
            "1y2mo3d4h5m6s7ms8us9ns",
        ),
        (duration(-1, -2, 0), "-1mo2d"),
        (duration(0, 0, 0), "0s"),
        (CqlValue::Varint(varint(&[])), "0"),
        (CqlValue::Varint(varint(&[0xff])), "-1"),
        (CqlValue::Varint(varint(&[0x80])), "-128"),
        (CqlValue::Varint(varint(&[0, 0x80])), "128"),
        (
            CqlValue::Varint(varint(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
            "79228162514264337593543950336",
        ),
        (decimal(&[0x30, 0x39], 2), "123.45"),
        (decimal(&[0xff], 3), "-0.001"),
        (decimal(&[5], 0), "5"),
        (decimal(&[0x30, 0x39], -3), "1.2345E+7"),
        (decimal(&[1], 2_000_000_000), "1E-2000000000"),
    ];
    for (value, expected) in cases {
        assert_eq!(text::of(&value).as_deref(), Ok(expected), "{value:?}");
    }
}

#[test]
fn a_number_of_absurd_length_has_no_text() {
    let number = CqlValue::Varint(varint(&[1; text::MAX_NUMBER_BYTES + 1]));
    assert_eq!(text::of(&number), Err(text::NoText::NumberTooLong));
}

#[test]
fn collections_are_json() {
    let list = CqlValue::List(vec![CqlValue::Int(1), CqlValue::Int(2)]);
    let value = CqlValue::UserDefinedType {
        keyspace: "shop".into(),
        name: "line".into(),
        fields: vec![
            ("list".into(), Some(list)),
            ("none".into(), None),
            (
                "map".into(),
                Some(CqlValue::Map(vec![(
                    CqlValue::Int(1),
                    CqlValue::Double(0.5),
                )])),
            ),
            (
                "tuple".into(),
                Some(CqlValue::Tuple(vec![
                    Some(text_value("a\"\n")),
                    None,
                    Some(CqlValue::Blob(vec![1])),
                    Some(CqlValue::Double(f64::NAN)),
                    Some(CqlValue::Boolean(false)),
                ])),
            ),
            ("set".into(), Some(CqlValue::Set(vec![]))),
            (
                "id".into(),
                Some(CqlValue::Uuid(ID.parse().expect("an uuid"))),
            ),
        ],
    };
    let json = text::of(&value).expect("a text form");
    let expected = format!(
        r#"{{"list":[1,2],"none":null,"map":{{"1":0.5}},"tuple":["a\"\n",null,"0x01","NaN",false],"set":[],"id":"{ID}"}}"#
    );
    assert_eq!(json, expected);
    text::check_json(json.as_bytes()).expect("it is JSON");
}

#[test]
fn types_are_named_as_in_cql() {
    let cases = [
        (native(NativeType::Timeuuid), "timeuuid"),
        (map(NativeType::Blob), "map<text, blob>"),
        (
            ColumnType::Collection {
                frozen: true,
                typ: CollectionType::Set(Box::new(native(NativeType::Int))),
            },
            "frozen<set<int>>",
        ),
        (
            ColumnType::Tuple(vec![native(NativeType::Int), native(NativeType::Text)]),
            "tuple<int, text>",
        ),
    ];
    for (column, expected) in cases {
        assert_eq!(text::cql_type(&column), expected);
    }
}

mod properties {
    use proptest::prelude::*;
    use scylla::value::CqlVarint;

    use super::*;

    proptest! {
        #[test]
        fn varints_read_as_the_number_they_are(number in any::<i128>(), padding in 0_usize..5) {
            let sign = if number < 0 { 0xff } else { 0 };
            let mut bytes = vec![sign; padding];
            bytes.extend_from_slice(&number.to_be_bytes());
            let value = CqlValue::Varint(CqlVarint::from_signed_bytes_be(bytes));
            prop_assert_eq!(text::of(&value).expect("short enough"), number.to_string());
        }

        #[test]
        fn doubles_read_back(value in any::<f64>().prop_filter("a number", |v| v.is_finite())) {
            let text = text::of(&CqlValue::Double(value)).expect("a text form");
            prop_assert_eq!(text.parse::<f64>().expect("a number").to_bits(), value.to_bits());
        }

        #[test]
        fn a_later_day_has_a_later_text(day in -719_528_i64..2_932_895) {
            let text = |day: i64| {
                text::of(&CqlValue::Date(CqlDate((day + (1 << 31)) as u32))).expect("a date")
            };
            prop_assert!(text(day) < text(day + 1));
        }

        #[test]
        fn any_text_is_carried_byte_for_byte(key in "\\PC{1,40}", payload in any::<Vec<u8>>()) {
            let mut row = with("aggregate_id", CqlValue::Text(key.clone()));
            row.retain(|(column, _)| *column != "payload");
            row.push(("payload", CqlValue::Blob(payload.clone())));
            let event = event(&outbox(), &row);
            prop_assert_eq!(&event.key[..], key.as_bytes());
            prop_assert_eq!(event.payload.as_deref(), Some(&payload[..]));
        }
    }
}
