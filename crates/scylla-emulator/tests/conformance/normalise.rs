//! Brings values into the form of the recording, so that random ids and times compare.

use std::collections::BTreeMap;

use scylla::value::{CqlTimeuuid, CqlValue};
use serde_json::{Map, Value, json};

type NamedRow = BTreeMap<String, Option<CqlValue>>;

/// A value as the recording writes it.
pub(crate) fn value(value: &CqlValue) -> Value {
    match value {
        CqlValue::Ascii(text) | CqlValue::Text(text) => json!(text),
        CqlValue::Boolean(flag) => json!(flag),
        CqlValue::TinyInt(number) => json!(number),
        CqlValue::SmallInt(number) => json!(number),
        CqlValue::Int(number) => json!(number),
        CqlValue::BigInt(number) => json!(number),
        CqlValue::Uuid(uuid) => json!(uuid.to_string()),
        CqlValue::Timeuuid(uuid) => json!(uuid.to_string()),
        CqlValue::Blob(bytes) => json!(hex(bytes)),
        CqlValue::Timestamp(time) => json!(datetime(time.0)),
        CqlValue::Set(elements) => {
            json!({"set": elements.iter().map(self::value).collect::<Vec<_>>()})
        }
        CqlValue::List(elements) => json!(elements.iter().map(self::value).collect::<Vec<_>>()),
        CqlValue::Map(entries) => json!({"map": entries
            .iter()
            .enumerate()
            .map(|(index, (key, value))| json!([cell_key(index, key), self::value(value)]))
            .collect::<Vec<_>>()}),
        other => json!(format!("{other:?}")),
    }
}

/// The cells of a list are keyed by timeuuids in the log.
fn cell_key(index: usize, key: &CqlValue) -> Value {
    match key {
        CqlValue::Timeuuid(_) => json!(format!("cell{}", index + 1)),
        other => value(other),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold("0x".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// `2023-11-14 22:13:20`, with microseconds if there are any, as Python prints it.
fn datetime(millis: i64) -> String {
    let (seconds, rest) = (millis.div_euclid(1_000), millis.rem_euclid(1_000));
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (mut year, mut day) = (1970, days);
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    while day >= 365 + i64::from(leap(year)) {
        day -= 365 + i64::from(leap(year));
        year += 1;
    }
    let lengths = [
        31,
        28 + i64::from(leap(year)),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let mut month = 0;
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    let date = format!(
        "{year:04}-{:02}-{:02} {hour:02}:{minute:02}:{second:02}",
        month + 1,
        day + 1
    );
    if rest == 0 {
        date
    } else {
        format!("{date}.{:06}", rest * 1_000)
    }
}

/// Replaces dates such as `2026/11/23 22:47:36`.
pub(crate) fn dates(text: &str) -> String {
    const SHAPE: &[u8] = b"0000/00/00 00:00:00";
    let bytes = text.as_bytes();
    let is_date = |at: usize| {
        bytes.get(at..at + SHAPE.len()).is_some_and(|window| {
            window.iter().zip(SHAPE).all(|(byte, shape)| match shape {
                b'0' => byte.is_ascii_digit(),
                other => byte == other,
            })
        })
    };
    let mut result = String::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        if is_date(at) {
            result.push_str("DATE");
            at += SHAPE.len();
        } else {
            let next = text[at..].chars().next().expect("inside the text");
            result.push(next);
            at += next.len_utf8();
        }
    }
    result
}

struct LogRow {
    stream: String,
    time: CqlTimeuuid,
    micros: i64,
    sequence: i64,
    content: Map<String, Value>,
}

fn log_row(row: NamedRow) -> LogRow {
    let (Some(Some(CqlValue::Blob(stream))), Some(Some(CqlValue::Timeuuid(time)))) =
        (row.get("cdc$stream_id"), row.get("cdc$time"))
    else {
        panic!("a log row has a stream and a time")
    };
    let (stream, time) = (hex(stream), *time);
    let micros = micros(&time);
    let content: Map<String, Value> = row
        .into_iter()
        .filter(|(name, _)| name != "cdc$stream_id" && name != "cdc$time")
        .filter_map(|(name, cell)| Some((name, value(&cell?))))
        .collect();
    let sequence = content["cdc$batch_seq_no"].as_i64().expect("a number");
    LogRow {
        stream,
        time,
        micros,
        sequence,
        content,
    }
}

fn micros(uuid: &CqlTimeuuid) -> i64 {
    const GREGORIAN_OFFSET: i64 = 0x01b2_1dd2_1381_4000;
    let bytes = uuid.as_bytes();
    let part = |range: std::ops::Range<usize>| {
        bytes[range]
            .iter()
            .fold(0_i64, |number, byte| (number << 8) | i64::from(*byte))
    };
    let ticks = ((part(6..8) & 0x0fff) << 48) | (part(4..6) << 32) | part(0..4);
    (ticks - GREGORIAN_OFFSET) / 10
}

/// The rows of a log: by microsecond, then by the content of the rows that share a time, then by sequence number;
/// streams and times are numbered as they appear.
pub(crate) fn log(rows: Vec<NamedRow>) -> Vec<Value> {
    let mut groups: Vec<Vec<LogRow>> = Vec::new();
    for row in rows.into_iter().map(log_row) {
        match groups.iter_mut().find(|group| group[0].time == row.time) {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    for group in &mut groups {
        group.sort_by_key(|row| row.sequence);
    }
    let content = |group: &[LogRow]| {
        group
            .iter()
            .map(|row| Value::Object(row.content.clone()).to_string())
            .collect::<String>()
    };
    groups.sort_by_cached_key(|group| (group[0].micros, content(group)));
    let (mut streams, mut micros) = (Vec::new(), Vec::new());
    let mut result = Vec::new();
    for (index, group) in groups.into_iter().enumerate() {
        for row in group {
            let stream = format!("S{}", number(&mut streams, row.stream));
            let time = format!("T{}@us{}", index + 1, number(&mut micros, row.micros));
            let mut content = row.content;
            content.insert("cdc$stream_id".to_owned(), json!(stream));
            content.insert("cdc$time".to_owned(), json!(time));
            result.push(Value::Object(content));
        }
    }
    result
}

/// The number of `item` among the items seen so far, from one.
fn number<T: PartialEq>(seen: &mut Vec<T>, item: T) -> usize {
    if let Some(at) = seen.iter().position(|known| *known == item) {
        return at + 1;
    }
    seen.push(item);
    seen.len()
}
