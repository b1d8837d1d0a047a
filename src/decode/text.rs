//! The text and JSON forms of CQL values.
//!
//! Scalars have the text that `cqlsh` shows, with these differences: a timestamp is RFC 3339 in
//! UTC with milliseconds (`2026-01-02T03:04:05.006Z`), and floating point numbers have all the
//! digits they need to be read back. Collections, tuples and user-defined types are JSON as
//! `SELECT JSON` writes it: numbers as numbers, all other scalars as strings of their text form,
//! maps and user-defined types as objects.

use std::fmt::Write;

use scylla::frame::response::result::{CollectionType, ColumnType, NativeType};
use scylla::value::{CqlDate, CqlDuration, CqlTime, CqlTimestamp, CqlValue};
use serde::de::IgnoredAny;

/// Longest varint or decimal with a text form, in bytes. Conversion takes quadratic time, so one
/// hostile row could otherwise stop its table for minutes.
pub const MAX_NUMBER_BYTES: usize = 1024;

/// A value has no text form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoText {
    /// A varint or decimal of absurd length.
    #[error("a number of more than {MAX_NUMBER_BYTES} bytes")]
    NumberTooLong,
}

/// The text form of a value; collections as JSON.
pub fn of(value: &CqlValue) -> Result<String, NoText> {
    Ok(match value {
        CqlValue::Ascii(text) | CqlValue::Text(text) => text.clone(),
        CqlValue::Boolean(value) => value.to_string(),
        CqlValue::Blob(bytes) => hex(bytes),
        CqlValue::Counter(counter) => counter.0.to_string(),
        CqlValue::Decimal(decimal) => {
            let (bytes, scale) = decimal.as_signed_be_bytes_slice_and_exponent();
            decimal_text(&varint_text(bytes)?, scale)
        }
        CqlValue::Date(date) => date_text(*date),
        CqlValue::Double(value) => double_text(*value),
        CqlValue::Duration(duration) => duration_text(*duration),
        CqlValue::Empty => String::new(),
        CqlValue::Float(value) => float_text(*value),
        CqlValue::Int(value) => value.to_string(),
        CqlValue::BigInt(value) => value.to_string(),
        CqlValue::Timestamp(CqlTimestamp(millis)) => rfc3339_millis(*millis),
        CqlValue::Inet(address) => address.to_string(),
        CqlValue::SmallInt(value) => value.to_string(),
        CqlValue::TinyInt(value) => value.to_string(),
        CqlValue::Time(time) => time_text(*time),
        CqlValue::Timeuuid(id) => id.to_string(),
        CqlValue::Uuid(id) => id.to_string(),
        CqlValue::Varint(number) => varint_text(number.as_signed_bytes_be_slice())?,
        CqlValue::List(_)
        | CqlValue::Map(_)
        | CqlValue::Set(_)
        | CqlValue::UserDefinedType { .. }
        | CqlValue::Tuple(_)
        | CqlValue::Vector(_) => {
            let mut json = String::new();
            write_json(&mut json, value)?;
            json
        }
        // The driver may learn new types; what they hold is shown as the driver shows it.
        other => other.to_string(),
    })
}

/// What a value is, for messages.
pub fn type_name(value: &CqlValue) -> &'static str {
    match value {
        CqlValue::Ascii(_) => "ascii",
        CqlValue::Boolean(_) => "boolean",
        CqlValue::Blob(_) => "blob",
        CqlValue::Counter(_) => "counter",
        CqlValue::Decimal(_) => "decimal",
        CqlValue::Date(_) => "date",
        CqlValue::Double(_) => "double",
        CqlValue::Duration(_) => "duration",
        CqlValue::Empty => "empty value",
        CqlValue::Float(_) => "float",
        CqlValue::Int(_) => "int",
        CqlValue::BigInt(_) => "bigint",
        CqlValue::Text(_) => "text",
        CqlValue::Timestamp(_) => "timestamp",
        CqlValue::Inet(_) => "inet",
        CqlValue::List(_) => "list",
        CqlValue::Map(_) => "map",
        CqlValue::Set(_) => "set",
        CqlValue::UserDefinedType { .. } => "user-defined type",
        CqlValue::SmallInt(_) => "smallint",
        CqlValue::TinyInt(_) => "tinyint",
        CqlValue::Time(_) => "time",
        CqlValue::Timeuuid(_) => "timeuuid",
        CqlValue::Tuple(_) => "tuple",
        CqlValue::Uuid(_) => "uuid",
        CqlValue::Varint(_) => "varint",
        CqlValue::Vector(_) => "vector",
        _ => "value of an unknown type",
    }
}

/// A column's type as CQL writes it.
pub fn cql_type(column: &ColumnType<'_>) -> String {
    match column {
        ColumnType::Native(native) => native_type(native).to_owned(),
        ColumnType::Collection { frozen, typ } => {
            let inner = match typ {
                CollectionType::List(item) => format!("list<{}>", cql_type(item)),
                CollectionType::Set(item) => format!("set<{}>", cql_type(item)),
                CollectionType::Map(key, value) => {
                    format!("map<{}, {}>", cql_type(key), cql_type(value))
                }
                _ => "collection".to_owned(),
            };
            if *frozen {
                format!("frozen<{inner}>")
            } else {
                inner
            }
        }
        ColumnType::Vector { typ, dimensions } => {
            format!("vector<{}, {dimensions}>", cql_type(typ))
        }
        ColumnType::UserDefinedType { definition, .. } => definition.name.to_string(),
        ColumnType::Tuple(items) => {
            let items: Vec<String> = items.iter().map(cql_type).collect();
            format!("tuple<{}>", items.join(", "))
        }
        _ => "an unknown type".to_owned(),
    }
}

fn native_type(native: &NativeType) -> &'static str {
    match native {
        NativeType::Ascii => "ascii",
        NativeType::Boolean => "boolean",
        NativeType::Blob => "blob",
        NativeType::Counter => "counter",
        NativeType::Date => "date",
        NativeType::Decimal => "decimal",
        NativeType::Double => "double",
        NativeType::Duration => "duration",
        NativeType::Float => "float",
        NativeType::Int => "int",
        NativeType::BigInt => "bigint",
        NativeType::Text => "text",
        NativeType::Timestamp => "timestamp",
        NativeType::Inet => "inet",
        NativeType::SmallInt => "smallint",
        NativeType::TinyInt => "tinyint",
        NativeType::Time => "time",
        NativeType::Timeuuid => "timeuuid",
        NativeType::Uuid => "uuid",
        NativeType::Varint => "varint",
        _ => "an unknown type",
    }
}

/// Says where bytes stop being one JSON document, without quoting them.
pub fn check_json(bytes: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| format!("no UTF-8 at byte {}", error.valid_up_to()))?;
    serde_json::from_str::<IgnoredAny>(text)
        .map(drop)
        .map_err(|error| {
            let what = if error.is_eof() {
                "it ends too early"
            } else {
                "it breaks the syntax"
            };
            format!("{what} at line {} column {}", error.line(), error.column())
        })
}

fn write_json(out: &mut String, value: &CqlValue) -> Result<(), NoText> {
    match value {
        CqlValue::List(items) | CqlValue::Set(items) | CqlValue::Vector(items) => {
            write_items(out, '[', ']', items.iter(), |out, item| {
                write_json(out, item)
            })
        }
        CqlValue::Tuple(items) => write_items(out, '[', ']', items.iter(), |out, item| {
            write_json_or_null(out, item.as_ref())
        }),
        CqlValue::Map(entries) => {
            write_items(out, '{', '}', entries.iter(), |out, (key, value)| {
                write_string(out, &of(key)?);
                out.push(':');
                write_json(out, value)
            })
        }
        CqlValue::UserDefinedType { fields, .. } => {
            write_items(out, '{', '}', fields.iter(), |out, (name, value)| {
                write_string(out, name);
                out.push(':');
                write_json_or_null(out, value.as_ref())
            })
        }
        CqlValue::Empty => {
            out.push_str("null");
            Ok(())
        }
        scalar => {
            let text = of(scalar)?;
            if is_json_literal(scalar) {
                out.push_str(&text);
            } else {
                write_string(out, &text);
            }
            Ok(())
        }
    }
}

fn write_items<T>(
    out: &mut String,
    open: char,
    close: char,
    items: impl Iterator<Item = T>,
    mut write: impl FnMut(&mut String, T) -> Result<(), NoText>,
) -> Result<(), NoText> {
    out.push(open);
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(',');
        }
        write(out, item)?;
    }
    out.push(close);
    Ok(())
}

fn write_json_or_null(out: &mut String, value: Option<&CqlValue>) -> Result<(), NoText> {
    if let Some(value) = value {
        return write_json(out, value);
    }
    out.push_str("null");
    Ok(())
}

fn write_string(out: &mut String, text: &str) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

/// Whether the text form is a JSON number or boolean as it stands.
fn is_json_literal(value: &CqlValue) -> bool {
    match value {
        CqlValue::Float(value) => value.is_finite(),
        CqlValue::Double(value) => value.is_finite(),
        CqlValue::Boolean(_)
        | CqlValue::Counter(_)
        | CqlValue::Decimal(_)
        | CqlValue::Int(_)
        | CqlValue::BigInt(_)
        | CqlValue::SmallInt(_)
        | CqlValue::TinyInt(_)
        | CqlValue::Varint(_) => true,
        _ => false,
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(2 + 2 * bytes.len());
    out.push_str("0x");
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    out
}

fn double_text(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 {
            "Infinity".to_owned()
        } else {
            "-Infinity".to_owned()
        }
    } else if value == 0.0 || (1e-5..1e16).contains(&value.abs()) {
        value.to_string()
    } else {
        format!("{value:e}")
    }
}

fn float_text(value: f32) -> String {
    if value.is_finite() && value != 0.0 && !(1e-5..1e16).contains(&value.abs()) {
        format!("{value:e}")
    } else if value.is_finite() {
        value.to_string()
    } else {
        double_text(f64::from(value))
    }
}

/// Decimal digits of a big-endian two's complement number.
fn varint_text(bytes: &[u8]) -> Result<String, NoText> {
    /// The largest power of ten in 32 bits: one division yields nine digits.
    const CHUNK: u64 = 1_000_000_000;
    if bytes.len() > MAX_NUMBER_BYTES {
        return Err(NoText::NumberTooLong);
    }
    let negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
    let mut magnitude = bytes.to_vec();
    if negative {
        let mut carry = true;
        for byte in magnitude.iter_mut().rev() {
            let (inverted, overflow) = (!*byte).overflowing_add(u8::from(carry));
            *byte = inverted;
            carry = overflow;
        }
        // The most negative number of a length is its own complement; it then reads as positive.
    }
    let mut words: Vec<u32> = magnitude
        .rchunks(4)
        .map(|chunk| {
            chunk
                .iter()
                .fold(0, |word, byte| (word << 8) | u32::from(*byte))
        })
        .collect();
    let mut chunks: Vec<u32> = Vec::new();
    while words.last().is_some_and(|word| *word == 0) {
        words.pop();
    }
    while !words.is_empty() {
        let mut rest = 0_u64;
        for word in words.iter_mut().rev() {
            let part = (rest << 32) | u64::from(*word);
            *word = (part / CHUNK) as u32;
            rest = part % CHUNK;
        }
        chunks.push(rest as u32);
        while words.last().is_some_and(|word| *word == 0) {
            words.pop();
        }
    }
    let Some(first) = chunks.pop() else {
        return Ok("0".to_owned());
    };
    let mut out = if negative {
        format!("-{first}")
    } else {
        first.to_string()
    };
    for chunk in chunks.into_iter().rev() {
        let _ = write!(out, "{chunk:09}");
    }
    Ok(out)
}

/// `unscaled` × 10^-`scale`: plain where that is short, with an exponent otherwise. (A scale of
/// two billion is a legal value of eight bytes.)
fn decimal_text(unscaled: &str, scale: i32) -> String {
    let (sign, digits) = unscaled
        .strip_prefix('-')
        .map_or(("", unscaled), |digits| ("-", digits));
    let scale = i64::from(scale);
    let exponent = digits.len() as i64 - 1 - scale;
    if scale == 0 {
        unscaled.to_owned()
    } else if scale > 0 && exponent >= -6 {
        let digits = format!("{digits:0>width$}", width = scale as usize + 1);
        let (whole, fraction) = digits.split_at(digits.len() - scale as usize);
        format!("{sign}{whole}.{fraction}")
    } else {
        let (first, rest) = digits.split_at(1);
        let point = if rest.is_empty() { "" } else { "." };
        format!("{sign}{first}{point}{rest}E{exponent:+}")
    }
}

/// Milliseconds since the Unix epoch as RFC 3339 in UTC, with milliseconds. Years outside
/// 0..=9999, which RFC 3339 does not have, get a sign as in ISO 8601.
pub fn rfc3339_millis(millis: i64) -> String {
    let days = millis.div_euclid(86_400_000);
    let of_day = millis.rem_euclid(86_400_000);
    let (hour, minute) = (of_day / 3_600_000, of_day / 60_000 % 60);
    let (second, milli) = (of_day / 1000 % 60, of_day % 1000);
    format!(
        "{}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z",
        civil_text(days)
    )
}

fn date_text(CqlDate(days): CqlDate) -> String {
    civil_text(i64::from(days) - (1 << 31))
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar. Years are counted from March, so
/// that the leap day is a year's last, and in eras of 400 years, which all have 146,097 days.
fn civil_text(days: i64) -> String {
    const ERA: i64 = 146_097;
    let days = days + 719_468; // days from 0000-03-01 to 1970-01-01
    let era = days.div_euclid(ERA);
    let of_era = days.rem_euclid(ERA);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153; // months since March
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    match year {
        0..=9999 => format!("{year:04}-{month:02}-{day:02}"),
        _ => format!("{year:+05}-{month:02}-{day:02}"),
    }
}

fn time_text(CqlTime(nanos): CqlTime) -> String {
    const SECOND: i64 = 1_000_000_000;
    let seconds = nanos / SECOND;
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{hour:02}:{minute:02}:{second:02}.{:09}", nanos % SECOND)
}

/// `1y2mo3d4h5m6s7ms8us9ns`, without the units that are zero. A negative duration has one sign
/// in front.
fn duration_text(duration: CqlDuration) -> String {
    let CqlDuration {
        months,
        days,
        nanoseconds,
    } = duration;
    let negative = months < 0 || days < 0 || nanoseconds < 0;
    let nanos = nanoseconds.unsigned_abs();
    let months = u64::from(months.unsigned_abs());
    let parts = [
        (months / 12, "y"),
        (months % 12, "mo"),
        (u64::from(days.unsigned_abs()), "d"),
        (nanos / 3_600_000_000_000, "h"),
        (nanos / 60_000_000_000 % 60, "m"),
        (nanos / 1_000_000_000 % 60, "s"),
        (nanos / 1_000_000 % 1000, "ms"),
        (nanos / 1000 % 1000, "us"),
        (nanos % 1000, "ns"),
    ];
    let mut out = String::new();
    for (amount, unit) in parts.into_iter().filter(|(amount, _)| *amount > 0) {
        let _ = write!(out, "{amount}{unit}");
    }
    match (out.is_empty(), negative) {
        (true, _) => "0s".to_owned(),
        (false, true) => format!("-{out}"),
        (false, false) => out,
    }
}
