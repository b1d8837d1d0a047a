//! Constants into values of a type, with ScyllaDB's texts for what does not fit.

use std::net::IpAddr;

use bytes::Bytes;
use num_bigint::BigInt;

use super::time;
use crate::ast::Literal;
use crate::error::Error;
use crate::types::{CqlType, Decimal, Duration, Value};

/// The value of a constant for a column (or marker, or parameter) of this name and type; `None`
/// for null.
pub(super) fn value(literal: &Literal, name: &str, ty: &CqlType) -> Result<Option<Value>, Error> {
    let ty = ty.peel();
    let mismatch = |kind: &str, text: &str| {
        Error::invalid(format!(
            "Invalid {kind} constant ({text}) for \"{name}\" of type {ty}"
        ))
    };
    let value = match literal {
        Literal::Null => return Ok(None),
        Literal::Text(text) => match ty {
            CqlType::Text => Value::Text(text.clone()),
            CqlType::Ascii if text.is_ascii() => Value::Text(text.clone()),
            CqlType::Ascii => return Err(Error::invalid("Non-ASCII character in ascii value")),
            CqlType::Inet => Value::Inet(text.parse::<IpAddr>().map_err(|_| {
                Error::invalid(format!(
                    "marshaling error: Failed to parse inet_addr from '{text}'"
                ))
            })?),
            CqlType::Timestamp => Value::Timestamp(time::timestamp(text)?),
            CqlType::Date => Value::Date(time::date(text)?),
            CqlType::Time => Value::Time(time::time(text)?),
            _ => return Err(mismatch("STRING", text)),
        },
        Literal::Integer(text) => integer(text, ty)?.ok_or_else(|| mismatch("INTEGER", text))?,
        Literal::Float(text) => match ty {
            CqlType::Double => Value::Double(float(text)?),
            CqlType::Float => Value::Float(float(text)? as f32),
            CqlType::Decimal => Value::Decimal(decimal(text)?),
            _ => return Err(mismatch("FLOAT", text)),
        },
        Literal::Boolean(flag) => match ty {
            CqlType::Boolean => Value::Boolean(*flag),
            _ => return Err(mismatch("BOOLEAN", &flag.to_string())),
        },
        Literal::Uuid(uuid) => match ty {
            CqlType::Uuid => Value::Uuid(*uuid),
            CqlType::TimeUuid if uuid.get_version_num() == 1 => Value::TimeUuid(*uuid),
            CqlType::TimeUuid => {
                return Err(Error::invalid(format!(
                    "marshaling error: Unsupported UUID version ({})",
                    uuid.get_version_num()
                )));
            }
            _ => return Err(mismatch("UUID", &uuid.to_string())),
        },
        Literal::Hex(digits) => match ty {
            CqlType::Blob => Value::Blob(hex(digits)?),
            _ => return Err(mismatch("HEX", &format!("0x{digits}"))),
        },
        Literal::Duration(text) => match ty {
            CqlType::Duration => Value::Duration(duration(text)?),
            _ => return Err(mismatch("DURATION", text)),
        },
    };
    Ok(Some(value))
}

/// The type that a constant has when nothing else tells it.
pub(super) fn natural_type(literal: &Literal) -> Option<CqlType> {
    Some(match literal {
        Literal::Null => return None,
        Literal::Text(_) => CqlType::Text,
        Literal::Integer(text) if text.parse::<i32>().is_ok() => CqlType::Int,
        Literal::Integer(text) if text.parse::<i64>().is_ok() => CqlType::BigInt,
        Literal::Integer(_) => CqlType::VarInt,
        Literal::Float(_) => CqlType::Double,
        Literal::Boolean(_) => CqlType::Boolean,
        Literal::Uuid(uuid) if uuid.get_version_num() == 1 => CqlType::TimeUuid,
        Literal::Uuid(_) => CqlType::Uuid,
        Literal::Hex(_) => CqlType::Blob,
        Literal::Duration(_) => CqlType::Duration,
    })
}

fn integer(text: &str, ty: &CqlType) -> Result<Option<Value>, Error> {
    fn parse<T: std::str::FromStr>(text: &str) -> Result<T, Error> {
        text.parse().map_err(|_| {
            Error::invalid(format!(
                "marshaling error: Value not in range or not a number: '{text}'"
            ))
        })
    }
    Ok(Some(match ty {
        CqlType::Int => Value::Int(parse(text)?),
        CqlType::BigInt => Value::BigInt(parse(text)?),
        CqlType::Counter => Value::Counter(parse(text)?),
        CqlType::SmallInt => Value::SmallInt(parse(text)?),
        CqlType::TinyInt => Value::TinyInt(parse(text)?),
        CqlType::Timestamp => Value::Timestamp(parse(text)?),
        CqlType::Date => Value::Date(parse(text)?),
        CqlType::Double => Value::Double(parse(text)?),
        CqlType::Float => Value::Float(parse(text)?),
        CqlType::VarInt => Value::VarInt(parse::<BigInt>(text)?),
        CqlType::Decimal => Value::Decimal(decimal(text)?),
        _ => return Ok(None),
    }))
}

fn float(text: &str) -> Result<f64, Error> {
    match text {
        "nan" | "-nan" => Ok(f64::NAN),
        "infinity" => Ok(f64::INFINITY),
        "-infinity" => Ok(f64::NEG_INFINITY),
        _ => text
            .parse()
            .map_err(|_| Error::invalid(format!("marshaling error: Invalid number '{text}'"))),
    }
}

fn decimal(text: &str) -> Result<Decimal, Error> {
    Decimal::parse(text).ok_or_else(|| {
        Error::invalid(format!(
            "marshaling error: unable to make BigDecimal from '{text}'"
        ))
    })
}

fn hex(digits: &str) -> Result<Bytes, Error> {
    let odd = || Error::invalid(format!("marshaling error: Invalid hex constant 0x{digits}"));
    if !digits.len().is_multiple_of(2) {
        return Err(odd());
    }
    let pairs = digits.as_bytes().chunks(2);
    let bytes: Option<Vec<u8>> = pairs
        .map(|pair| {
            let text = std::str::from_utf8(pair).ok()?;
            u8::from_str_radix(text, 16).ok()
        })
        .collect();
    Ok(bytes.ok_or_else(odd)?.into())
}

/// `1y2mo3d4h5m6s7ms8us9ns` or `P1Y2M3DT4H5M6S`.
fn duration(text: &str) -> Result<Duration, Error> {
    let invalid = || {
        Error::invalid(format!(
            "marshaling error: Unable to convert '{text}' to a duration"
        ))
    };
    let (sign, body) = match text.strip_prefix('-') {
        Some(body) => (-1, body),
        None => (1, text),
    };
    let iso = body.starts_with('P');
    let mut in_time = false;
    let (mut months, mut days, mut nanos) = (0_i64, 0_i64, 0_i64);
    let mut rest = body.strip_prefix('P').unwrap_or(body);
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix('T') {
            in_time = true;
            rest = tail;
            continue;
        }
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .ok_or_else(invalid)?;
        let count: i64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let end = rest
            .find(|c: char| c.is_ascii_digit() || (iso && c == 'T'))
            .unwrap_or(rest.len());
        let unit = rest[..end].to_lowercase();
        rest = &rest[end..];
        let (total, factor) = match unit.as_str() {
            "y" => (&mut months, 12),
            "mo" => (&mut months, 1),
            "m" if iso && !in_time => (&mut months, 1),
            "w" => (&mut days, 7),
            "d" => (&mut days, 1),
            "h" => (&mut nanos, 3_600_000_000_000),
            "m" => (&mut nanos, 60_000_000_000),
            "s" => (&mut nanos, 1_000_000_000),
            "ms" => (&mut nanos, 1_000_000),
            "us" | "µs" => (&mut nanos, 1_000),
            "ns" => (&mut nanos, 1),
            _ => return Err(invalid()),
        };
        let part = count.checked_mul(factor).ok_or_else(invalid)?;
        *total = total.checked_add(part).ok_or_else(invalid)?;
    }
    Ok(Duration {
        months: i32::try_from(sign * months).map_err(|_| invalid())?,
        days: i32::try_from(sign * days).map_err(|_| invalid())?,
        nanos: sign * nanos,
    })
}
