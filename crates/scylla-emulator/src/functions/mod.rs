//! The scalar functions of CQL.

use bytes::Bytes;
use uuid::Uuid;

use crate::error::Error;
use crate::hooks::{Clock, Random};
use crate::types::{CqlType, Decimal, Value, decode, encode, timeuuid_from_parts, timeuuid_micros};

/// Days of the `date` type before the epoch.
const EPOCH_DAY: i64 = 1 << 31;
const MILLIS_PER_DAY: i64 = 86_400_000;

/// A function of values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scalar {
    /// `now()`, `currentTimeUUID()`
    Now,
    /// `uuid()`
    Uuid,
    /// `currentTimestamp()`
    CurrentTimestamp,
    /// `currentDate()`
    CurrentDate,
    /// `minTimeuuid(timestamp)`
    MinTimeuuid,
    /// `maxTimeuuid(timestamp)`
    MaxTimeuuid,
    /// `toTimestamp`, `dateOf`
    ToTimestamp,
    /// `toDate`
    ToDate,
    /// `toUnixTimestamp`, `unixTimestampOf`
    ToUnixTimestamp,
    /// `token(partition key)`: evaluated by the caller, which knows the partitioner.
    Token,
    /// `<type>AsBlob`
    AsBlob,
    /// `blobAs<type>`
    FromBlob(CqlType),
    /// `CAST(… AS type)`
    Cast(CqlType),
}

/// A function with its parameters' types and its result's.
#[derive(Debug, Clone)]
pub struct Signature {
    /// Which one.
    pub scalar: Scalar,
    /// The parameters' types.
    pub parameters: Vec<CqlType>,
    /// The result's type.
    pub result: CqlType,
}

/// Finds a function by its name in lower case and, where it is overloaded, its first argument's
/// type.
pub fn find(name: &str, argument: Option<&CqlType>) -> Option<Signature> {
    let of = |scalar, parameters: &[CqlType], result| {
        Some(Signature {
            scalar,
            parameters: parameters.to_vec(),
            result,
        })
    };
    // Overloaded functions take a timeuuid unless the argument says otherwise.
    let time = match argument {
        Some(CqlType::Date) => CqlType::Date,
        Some(CqlType::Timestamp) => CqlType::Timestamp,
        _ => CqlType::TimeUuid,
    };
    match name {
        "now" | "currenttimeuuid" => of(Scalar::Now, &[], CqlType::TimeUuid),
        "uuid" => of(Scalar::Uuid, &[], CqlType::Uuid),
        "currenttimestamp" => of(Scalar::CurrentTimestamp, &[], CqlType::Timestamp),
        "currentdate" => of(Scalar::CurrentDate, &[], CqlType::Date),
        "mintimeuuid" => of(
            Scalar::MinTimeuuid,
            &[CqlType::Timestamp],
            CqlType::TimeUuid,
        ),
        "maxtimeuuid" => of(
            Scalar::MaxTimeuuid,
            &[CqlType::Timestamp],
            CqlType::TimeUuid,
        ),
        "totimestamp" => of(Scalar::ToTimestamp, &[time], CqlType::Timestamp),
        "dateof" => of(
            Scalar::ToTimestamp,
            &[CqlType::TimeUuid],
            CqlType::Timestamp,
        ),
        "todate" => of(Scalar::ToDate, &[time], CqlType::Date),
        "tounixtimestamp" => of(Scalar::ToUnixTimestamp, &[time], CqlType::BigInt),
        "unixtimestampof" => of(
            Scalar::ToUnixTimestamp,
            &[CqlType::TimeUuid],
            CqlType::BigInt,
        ),
        _ => {
            if let Some(ty) = name.strip_suffix("asblob").and_then(CqlType::native) {
                return of(Scalar::AsBlob, &[ty], CqlType::Blob);
            }
            let ty = name.strip_prefix("blobas").and_then(CqlType::native)?;
            of(Scalar::FromBlob(ty.clone()), &[CqlType::Blob], ty)
        }
    }
}

/// Evaluates a function; null arguments give null.
pub fn call(
    scalar: &Scalar,
    arguments: &[Option<Value>],
    clock: &dyn Clock,
    random: &dyn Random,
) -> Result<Option<Value>, Error> {
    let low = || (random.next_u64() & 0x3fff_ffff_ffff_ffff) | (1 << 63);
    let argument = match (scalar, arguments) {
        (Scalar::Now, _) => {
            let uuid = timeuuid_from_parts(clock.unique_micros(), 0, low());
            return Ok(Some(Value::TimeUuid(uuid)));
        }
        (Scalar::Uuid, _) => {
            let high = (random.next_u64() & !0xf000) | 0x4000;
            return Ok(Some(Value::Uuid(Uuid::from_u64_pair(high, low()))));
        }
        (Scalar::CurrentTimestamp, _) => {
            return Ok(Some(Value::Timestamp(clock.now_micros().div_euclid(1000))));
        }
        (Scalar::CurrentDate, _) => {
            return Ok(Some(date_of_millis(clock.now_micros().div_euclid(1000))));
        }
        (_, [Some(argument)]) => argument,
        (_, [None]) => return Ok(None),
        _ => {
            return Err(Error::invalid(
                "Invalid number of arguments in function call",
            ));
        }
    };
    Ok(match scalar {
        Scalar::MinTimeuuid => min_max(argument, 0, 0x8080_8080_8080_8080),
        Scalar::MaxTimeuuid => min_max(argument, 9_999, 0x7f7f_7f7f_7f7f_7f7f),
        Scalar::ToTimestamp => millis(argument).map(Value::Timestamp),
        Scalar::ToUnixTimestamp => millis(argument).map(Value::BigInt),
        Scalar::ToDate => millis(argument).map(date_of_millis),
        Scalar::AsBlob => Some(Value::Blob(encode(argument))),
        Scalar::FromBlob(ty) => Some(from_blob(argument, ty)?),
        Scalar::Cast(ty) => Some(cast(argument, ty)?),
        Scalar::Now
        | Scalar::Uuid
        | Scalar::CurrentTimestamp
        | Scalar::CurrentDate
        | Scalar::Token => None,
    })
}

/// The smallest or largest timeuuid of a millisecond.
fn min_max(argument: &Value, extra_ticks: i64, low: u64) -> Option<Value> {
    let Value::Timestamp(millis) = argument else {
        return None;
    };
    let micros = millis.saturating_mul(1000).saturating_add(extra_ticks / 10);
    Some(Value::TimeUuid(timeuuid_from_parts(
        micros,
        (extra_ticks % 10) as u8,
        low,
    )))
}

fn millis(argument: &Value) -> Option<i64> {
    match argument {
        Value::TimeUuid(uuid) => Some(timeuuid_micros(uuid).div_euclid(1000)),
        Value::Timestamp(millis) => Some(*millis),
        Value::Date(days) => Some((i64::from(*days) - EPOCH_DAY) * MILLIS_PER_DAY),
        _ => None,
    }
}

fn date_of_millis(millis: i64) -> Value {
    let days = millis.div_euclid(MILLIS_PER_DAY) + EPOCH_DAY;
    Value::Date(u32::try_from(days).unwrap_or(if days < 0 { 0 } else { u32::MAX }))
}

fn from_blob(argument: &Value, ty: &CqlType) -> Result<Value, Error> {
    let bytes = match argument {
        Value::Blob(bytes) => bytes.clone(),
        _ => Bytes::new(),
    };
    decode(ty, &bytes).map_err(|_| {
        Error::invalid(format!(
            "In call to function system.blobas{ty}, value 0x{} is not a valid binary representation for type {ty}",
            hex(&bytes)
        ))
    })
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn cast(argument: &Value, ty: &CqlType) -> Result<Value, Error> {
    let unsupported = || Error::unsupported(format!("CAST of this value to {ty}"));
    if matches!(ty, CqlType::Text | CqlType::Ascii) {
        return display(argument).map(Value::Text).ok_or_else(unsupported);
    }
    let integer = match argument {
        Value::TinyInt(n) => i64::from(*n),
        Value::SmallInt(n) => i64::from(*n),
        Value::Int(n) => i64::from(*n),
        Value::BigInt(n) | Value::Counter(n) => *n,
        Value::Float(n) => return real(f64::from(*n), ty).ok_or_else(unsupported),
        Value::Double(n) => return real(*n, ty).ok_or_else(unsupported),
        Value::TimeUuid(_) | Value::Timestamp(_) | Value::Date(_) => {
            let millis = millis(argument).ok_or_else(unsupported)?;
            return match ty {
                CqlType::Timestamp => Ok(Value::Timestamp(millis)),
                CqlType::Date => Ok(date_of_millis(millis)),
                _ => Err(unsupported()),
            };
        }
        _ => return Err(unsupported()),
    };
    Ok(match ty {
        CqlType::TinyInt => Value::TinyInt(integer as i8),
        CqlType::SmallInt => Value::SmallInt(integer as i16),
        CqlType::Int => Value::Int(integer as i32),
        CqlType::BigInt => Value::BigInt(integer),
        CqlType::Float => Value::Float(integer as f32),
        CqlType::Double => Value::Double(integer as f64),
        CqlType::VarInt => Value::VarInt(integer.into()),
        CqlType::Decimal => Value::Decimal(Decimal {
            unscaled: integer.into(),
            scale: 0,
        }),
        _ => return Err(unsupported()),
    })
}

fn real(number: f64, ty: &CqlType) -> Option<Value> {
    Some(match ty {
        CqlType::TinyInt => Value::TinyInt(number as i8),
        CqlType::SmallInt => Value::SmallInt(number as i16),
        CqlType::Int => Value::Int(number as i32),
        CqlType::BigInt => Value::BigInt(number as i64),
        CqlType::Float => Value::Float(number as f32),
        CqlType::Double => Value::Double(number),
        _ => return None,
    })
}

fn display(value: &Value) -> Option<String> {
    Some(match value {
        Value::Text(text) => text.clone(),
        Value::TinyInt(n) => n.to_string(),
        Value::SmallInt(n) => n.to_string(),
        Value::Int(n) => n.to_string(),
        Value::BigInt(n) | Value::Counter(n) => n.to_string(),
        Value::VarInt(n) => n.to_string(),
        Value::Decimal(n) => n.to_string(),
        Value::Boolean(flag) => flag.to_string(),
        Value::Uuid(uuid) | Value::TimeUuid(uuid) => uuid.to_string(),
        Value::Inet(address) => address.to_string(),
        _ => return None,
    })
}
