//! Dead letters as a person, or a program, reads them: by commands and over HTTP.

use std::fmt::Write as _;

use scylla::frame::response::result::ColumnType;
use scylla::value::CqlValue;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::replay::{Action, Progress};
use super::row::{self, KeptRow};
use super::{DeadLetter, Reason};
use crate::decode;
use crate::sink::Kind;

/// Characters of a payload that are shown.
const SHOWN: usize = 2_000;

fn rfc3339(millis: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000);
    let text = time.ok().and_then(|time| time.format(&Rfc3339).ok());
    text.unwrap_or_else(|| millis.to_string())
}

/// Text as it is; other bytes as `{"hex": "…"}`.
pub fn bytes(value: &[u8]) -> Value {
    if let Ok(text) = std::str::from_utf8(value) {
        return json!(text);
    }
    let mut hex = String::with_capacity(2 * value.len());
    for byte in value {
        let _ = write!(hex, "{byte:02x}");
    }
    json!({ "hex": hex })
}

fn text(value: &[u8]) -> String {
    written(bytes(value))
}

/// A value of [`fn@bytes`] as a page has it.
fn written(value: Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::String(text) => text,
        other => format!("0x{}", other["hex"].as_str().unwrap_or_default()),
    }
}

/// What a person can do about it.
pub fn remedy(letter: &DeadLetter) -> String {
    let again = "then replay it";
    match (letter.reason, &letter.failure) {
        (Reason::Parked, _) => "nothing is wrong with it: it is published when the earlier dead \
                                letters of its key are replayed or discarded"
            .to_owned(),
        (Reason::Undecodable, _) => format!(
            "correct what the error names: the table's rows, or `outboxes` in the configuration (and \
             restart the relay); {again}, or discard it"
        ),
        (Reason::Exhausted, Some(failure)) => {
            let remedy = Kind::from_name(&failure.kind).map_or("", Kind::remedy);
            format!("{remedy}; it is replayed by itself once Kafka takes records again")
        }
        (Reason::Permanent, Some(failure)) => {
            let remedy = Kind::from_name(&failure.kind).map_or("", Kind::remedy);
            format!("{remedy}; {again}, or discard it")
        }
        (Reason::Exhausted | Reason::Permanent, None) => again.to_owned(),
    }
}

/// All but the payload, the headers and the row.
pub fn outline(letter: &DeadLetter) -> Map<String, Value> {
    let failure = letter.failure.as_ref();
    let fields = json!({
        "id": letter.label.event_id,
        "type": letter.label.event_type,
        "table": letter.table,
        "topic": letter.record.as_ref().map(|record| &*record.topic),
        "key": bytes(&letter.key),
        "reason": letter.reason.name(),
        "error_kind": failure.map(|failure| &failure.kind),
        "error": failure.map(|failure| &failure.message),
        "attempts": failure.map_or(0, |failure| failure.attempts),
        "first_failed": rfc3339(letter.first_failed_millis),
        "last_failed": rfc3339(letter.last_failed_millis),
        "written": rfc3339(letter.place.position.micros() / 1_000),
        "stream": letter.place.stream.to_string(),
        "cdc_time": letter.place.position.time.to_string(),
        "cdc_batch_seq_no": letter.place.position.seq,
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// The columns of a kept row, by name.
pub type Row = Map<String, Value>;

/// A kept row whose columns have these types. A value whose column has no type any more, or one that
/// it does not fit, is shown as its bytes.
pub fn row(kept: &KeptRow, types: &[(String, ColumnType<'static>)]) -> Row {
    let shown = |(name, value): &row::KeptColumn| {
        let cql_type = row::type_of(types, name);
        let value = value.as_ref().map(|value| column(value, cql_type));
        (name.clone(), value.unwrap_or_default())
    };
    kept.columns().iter().map(shown).collect()
}

/// The text form of a value, where there is one.
fn column(value: &bytes::Bytes, cql_type: Option<&ColumnType<'static>>) -> Value {
    match cql_type.map(|cql_type| row::value(value, cql_type)) {
        // A payload in a blob is text most times.
        None | Some(Err(_) | Ok(CqlValue::Blob(_))) => bytes(value),
        Some(Ok(read)) => decode::text::of(&read).map_or_else(|_| bytes(value), Value::String),
    }
}

/// Everything; `row` is that of a dead letter that keeps one.
pub fn whole(letter: &DeadLetter, row: Option<Row>) -> Map<String, Value> {
    let mut fields = outline(letter);
    fields.insert("remedy".into(), json!(remedy(letter)));
    if let Some(row) = row {
        fields.insert("row".into(), Value::Object(row));
    }
    if let Some(record) = &letter.record {
        let headers: Map<String, Value> = record
            .headers
            .iter()
            .map(|header| {
                let value = header.value.as_deref().map_or(Value::Null, bytes);
                (header.name.to_string(), value)
            })
            .collect();
        fields.insert("headers".into(), Value::Object(headers));
        let payload = record.payload.as_deref().map_or(Value::Null, bytes);
        fields.insert("payload".into(), payload);
        fields.insert("timestamp_millis".into(), json!(record.timestamp_millis));
    }
    fields
}

/// The words above the lines of a list.
pub fn heading() -> String {
    columns([
        "FIRST FAILED",
        "REASON",
        "KIND",
        "EVENT",
        "TYPE",
        "TABLE",
        "TOPIC",
        "KEY",
    ])
}

fn columns([failed, reason, kind, id, event_type, table, topic, key]: [&str; 8]) -> String {
    // Keys may be long, and stand at the end.
    format!(
        "{failed:<24}  {reason:<11}  {kind:<18}  {id:<36}  {event_type:<16}  {table}  {topic}  {key}"
    )
}

/// One line of a list.
pub fn line(letter: &DeadLetter) -> String {
    let topic = letter.record.as_ref().map_or("-", |record| &*record.topic);
    let kind = letter
        .failure
        .as_ref()
        .map_or("-", |failure| &*failure.kind);
    let id = match &*letter.label.event_id {
        "" => "-",
        id => id,
    };
    columns([
        &rfc3339(letter.first_failed_millis),
        letter.reason.name(),
        kind,
        id,
        letter.label.event_type.as_deref().unwrap_or("-"),
        &letter.table,
        topic,
        &text(&letter.key),
    ])
}

/// A page about one dead letter; `kept` is the row of one that keeps it.
pub fn page(letter: &DeadLetter, kept: Option<Row>) -> String {
    let mut page = String::new();
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(page, "{name:<14}{value}");
    };
    row("event", &letter.label.event_id);
    row("type", letter.label.event_type.as_deref().unwrap_or("-"));
    row("table", &letter.table);
    row("key", &text(&letter.key));
    if let Some(record) = &letter.record {
        row("topic", &record.topic);
    }
    row("written", &rfc3339(letter.place.position.micros() / 1_000));
    row("reason", letter.reason.name());
    if let Some(failure) = &letter.failure {
        row("error", &format!("{} ({})", failure.message, failure.kind));
        row("attempts", &failure.attempts.to_string());
        row("first failed", &rfc3339(letter.first_failed_millis));
        row("last failed", &rfc3339(letter.last_failed_millis));
    }
    row("what to do", &remedy(letter));
    if let Some(record) = &letter.record {
        for header in &record.headers {
            let value = header
                .value
                .as_deref()
                .map_or_else(|| "null".to_owned(), text);
            row("header", &format!("{}: {value}", header.name));
        }
        let payload = record
            .payload
            .as_deref()
            .map_or_else(|| "null".to_owned(), text);
        let size = record.payload.as_ref().map_or(0, bytes::Bytes::len);
        row("payload", &shortened(&payload, size));
    }
    for (column, value) in kept.into_iter().flatten() {
        let value = written(value);
        let value = shortened(&value, value.len());
        row("column", &format!("{column}: {value}"));
    }
    page
}

/// What is shown of a text that stands for so many bytes.
fn shortened(text: &str, size: usize) -> String {
    let shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        format!("{shown} … ({size} bytes in all)")
    } else {
        shown
    }
}

/// What a replay or a removal did, or would do.
pub fn summary(action: Action, dry_run: bool, progress: &Progress) -> String {
    let Progress {
        matched,
        keys,
        planned,
        published,
        discarded,
        skipped,
        failed,
        postponed,
    } = progress;
    let of = match (matched, keys) {
        (1, _) => "1 dead letter is meant".to_owned(),
        (n, 1) => format!("{n} dead letters of 1 key are meant"),
        (n, keys) => format!("{n} dead letters of {keys} keys are meant"),
    };
    match (action, dry_run) {
        (Action::Replay, true) => {
            format!("{of}; {planned} would be published, with those that their order needs")
        }
        (Action::Discard, true) => format!("{of}; {planned} would be discarded"),
        (Action::Replay, false) => {
            let skipped = match skipped {
                0 => String::new(),
                n => format!(", {n} were no events"),
            };
            let postponed = match postponed {
                0 => String::new(),
                n => {
                    format!(", {n} keys were put off (Kafka takes no records now, or see the log)")
                }
            };
            format!("{of}; {published} published, {failed} failed again{skipped}{postponed}")
        }
        (Action::Discard, false) => format!("{of}; {discarded} discarded"),
    }
}

#[cfg(test)]
mod tests {
    use scylla::frame::response::result::NativeType;

    use super::*;

    #[test]
    fn a_kept_row_is_shown_as_a_person_reads_it() {
        let column = |name: &str, value: &[u8]| {
            let value = bytes::Bytes::copy_from_slice(value);
            (name.to_owned(), Some(value))
        };
        let columns = vec![
            column("count", &7_i32.to_be_bytes()),
            column("text_in_a_blob", b"{\"n\": 1}"),
            column("blob", &[0xff, 0]),
            column("of_another_type_now", b"abc"),
            column("gone", b"old"),
            ("nothing".to_owned(), None),
        ];
        let kept = KeptRow::stored(2, columns).expect("an insert");
        let types = [
            ("count", NativeType::Int),
            ("text_in_a_blob", NativeType::Blob),
            ("blob", NativeType::Blob),
            ("of_another_type_now", NativeType::BigInt),
            ("nothing", NativeType::Text),
        ];
        let types = types.map(|(name, native)| (name.to_owned(), ColumnType::Native(native)));
        assert_eq!(
            Value::Object(row(&kept, &types)),
            json!({
                "count": "7",
                "text_in_a_blob": "{\"n\": 1}",
                "blob": {"hex": "ff00"},
                "of_another_type_now": "abc",
                "gone": "old",
                "nothing": null,
            })
        );
    }
}
