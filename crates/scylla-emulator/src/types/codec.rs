//! The binary layout of values in native protocol v4.

use std::net::IpAddr;

use bytes::Bytes;
use uuid::Uuid;

use super::{CqlType, Decimal, Duration, Value, decode_varint, encode_varint};

/// How deep a value may nest, whatever its type says.
const MAX_DEPTH: usize = 64;

/// Bytes that are not a value of the type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// A fixed-size type got another size.
    #[error("Expected {expected} bytes for a {type_name} ({got})")]
    Size {
        /// The type's name.
        type_name: String,
        /// The size or sizes that are right.
        expected: &'static str,
        /// The size that came.
        got: usize,
    },
    /// Text that is not UTF-8, or not ASCII.
    #[error("Validation failed - non-{0} bytes in text")]
    Text(&'static str),
    /// The value ends in the middle.
    #[error("Truncated value of type {0}")]
    Truncated(String),
    /// The value goes on after its end.
    #[error("Extra bytes after a value of type {0}")]
    Trailing(String),
    /// A collection's element is null.
    #[error("null is not supported inside collections")]
    NullElement,
    /// A number outside its range.
    #[error("Value out of range for type {0}")]
    Range(String),
    /// Nested too deeply.
    #[error("Value nested too deeply")]
    Depth,
}

/// The protocol v4 bytes of a value (without its length).
pub fn encode(value: &Value) -> Bytes {
    match value {
        Value::Blob(bytes) => bytes.clone(),
        Value::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
        Value::BigInt(n) | Value::Timestamp(n) => Bytes::copy_from_slice(&n.to_be_bytes()),
        Value::Int(n) => Bytes::copy_from_slice(&n.to_be_bytes()),
        Value::TinyInt(n) => Bytes::copy_from_slice(&n.to_be_bytes()),
        Value::TimeUuid(uuid) | Value::Uuid(uuid) => Bytes::copy_from_slice(uuid.as_bytes()),
        other => {
            let mut out = Vec::new();
            encode_to_vec(other, &mut out);
            out.into()
        }
    }
}

/// Appends the protocol v4 bytes of a value (without its length).
pub fn encode_to_vec(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Empty => {}
        Value::Text(text) => out.extend_from_slice(text.as_bytes()),
        Value::Blob(bytes) => out.extend_from_slice(bytes),
        Value::Boolean(b) => out.push(u8::from(*b)),
        Value::BigInt(n) | Value::Counter(n) | Value::Time(n) | Value::Timestamp(n) => {
            out.extend_from_slice(&n.to_be_bytes());
        }
        Value::Date(d) => out.extend_from_slice(&d.to_be_bytes()),
        Value::Int(n) => out.extend_from_slice(&n.to_be_bytes()),
        Value::SmallInt(n) => out.extend_from_slice(&n.to_be_bytes()),
        Value::TinyInt(n) => out.extend_from_slice(&n.to_be_bytes()),
        Value::Double(n) => out.extend_from_slice(&n.to_be_bytes()),
        Value::Float(n) => out.extend_from_slice(&n.to_be_bytes()),
        Value::Decimal(d) => {
            out.extend_from_slice(&d.scale.to_be_bytes());
            out.extend_from_slice(&encode_varint(&d.unscaled));
        }
        Value::VarInt(n) => out.extend_from_slice(&encode_varint(n)),
        Value::Duration(d) => {
            encode_vint(i64::from(d.months), out);
            encode_vint(i64::from(d.days), out);
            encode_vint(d.nanos, out);
        }
        Value::Inet(IpAddr::V4(ip)) => out.extend_from_slice(&ip.octets()),
        Value::Inet(IpAddr::V6(ip)) => out.extend_from_slice(&ip.octets()),
        Value::TimeUuid(u) | Value::Uuid(u) => out.extend_from_slice(u.as_bytes()),
        Value::List(elements) | Value::Set(elements) => {
            out.extend_from_slice(&(elements.len() as i32).to_be_bytes());
            for element in elements {
                encode_with_length(Some(element), out);
            }
        }
        Value::Map(entries) => {
            out.extend_from_slice(&(entries.len() as i32).to_be_bytes());
            for (key, value) in entries {
                encode_with_length(Some(key), out);
                encode_with_length(Some(value), out);
            }
        }
        Value::Tuple(fields) => {
            for field in fields {
                encode_with_length(field.as_ref(), out);
            }
        }
    }
}

fn encode_with_length(value: Option<&Value>, out: &mut Vec<u8>) {
    let Some(value) = value else {
        out.extend_from_slice(&(-1i32).to_be_bytes());
        return;
    };
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    encode_to_vec(value, out);
    let length = (out.len() - at - 4) as i32;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

/// Reads the bytes of one value.
pub fn decode(ty: &CqlType, bytes: &Bytes) -> Result<Value, CodecError> {
    decode_at(ty, bytes, 0)
}

/// Reads a list of values of one type (what a bound `IN ?` marker holds); null elements are `None`.
pub fn decode_cell_list(ty: &CqlType, bytes: &Bytes) -> Result<Vec<Option<Value>>, CodecError> {
    let mut input = Reader {
        rest: bytes.clone(),
        ty,
    };
    let count = input.count()?;
    let mut elements = Vec::with_capacity(count.min(1024));
    for _ in 0..count {
        elements.push(match input.cell()? {
            Some(cell) => Some(decode_at(ty, &cell, 1)?),
            None => None,
        });
    }
    input.end()?;
    Ok(elements)
}

fn decode_at(ty: &CqlType, bytes: &Bytes, depth: usize) -> Result<Value, CodecError> {
    if depth > MAX_DEPTH {
        return Err(CodecError::Depth);
    }
    if let CqlType::Frozen(inner) = ty {
        return decode_at(inner, bytes, depth + 1);
    }
    if bytes.is_empty() && has_empty_value(ty) {
        return Ok(Value::Empty);
    }
    Ok(match ty {
        CqlType::Frozen(_) => return Err(CodecError::Depth),
        CqlType::Ascii => Value::Text(text(bytes, true)?),
        CqlType::Text => Value::Text(text(bytes, false)?),
        CqlType::Blob => Value::Blob(bytes.clone()),
        CqlType::Boolean => Value::Boolean(fixed::<1>(ty, bytes, "1 or 0")?[0] != 0),
        CqlType::BigInt => Value::BigInt(i64::from_be_bytes(fixed(ty, bytes, "8 or 0")?)),
        CqlType::Counter => Value::Counter(i64::from_be_bytes(fixed(ty, bytes, "8 or 0")?)),
        CqlType::Timestamp => Value::Timestamp(i64::from_be_bytes(fixed(ty, bytes, "8 or 0")?)),
        CqlType::Time => {
            let nanos = i64::from_be_bytes(fixed(ty, bytes, "8 or 0")?);
            if !(0..86_400_000_000_000).contains(&nanos) {
                return Err(CodecError::Range(ty.to_string()));
            }
            Value::Time(nanos)
        }
        CqlType::Date => Value::Date(u32::from_be_bytes(fixed(ty, bytes, "4 or 0")?)),
        CqlType::Int => Value::Int(i32::from_be_bytes(fixed(ty, bytes, "4 or 0")?)),
        CqlType::SmallInt => Value::SmallInt(i16::from_be_bytes(fixed(ty, bytes, "2 or 0")?)),
        CqlType::TinyInt => Value::TinyInt(i8::from_be_bytes(fixed(ty, bytes, "1 or 0")?)),
        CqlType::Double => Value::Double(f64::from_be_bytes(fixed(ty, bytes, "8 or 0")?)),
        CqlType::Float => Value::Float(f32::from_be_bytes(fixed(ty, bytes, "4 or 0")?)),
        CqlType::TimeUuid => {
            let uuid = Uuid::from_bytes(fixed(ty, bytes, "16 or 0")?);
            if uuid.as_bytes()[6] >> 4 != 1 {
                return Err(CodecError::Range(ty.to_string()));
            }
            Value::TimeUuid(uuid)
        }
        CqlType::Uuid => Value::Uuid(Uuid::from_bytes(fixed(ty, bytes, "16 or 0")?)),
        CqlType::VarInt => Value::VarInt(decode_varint(bytes)),
        CqlType::Decimal => {
            let Some((scale, digits)) = bytes.split_first_chunk::<4>() else {
                return Err(CodecError::Truncated(ty.to_string()));
            };
            let scale = i32::from_be_bytes(*scale);
            Value::Decimal(Decimal {
                unscaled: decode_varint(digits),
                scale,
            })
        }
        CqlType::Duration => decode_duration(bytes)?,
        CqlType::Inet => match bytes.len() {
            4 => Value::Inet(IpAddr::from(fixed::<4>(ty, bytes, "4 or 16")?)),
            _ => Value::Inet(IpAddr::from(fixed::<16>(ty, bytes, "4 or 16")?)),
        },
        CqlType::List(element) => Value::List(elements(element, bytes, depth)?),
        CqlType::Set(element) => Value::set(elements(element, bytes, depth)?),
        CqlType::Map(key, value) => decode_map(ty, key, value, bytes, depth)?,
        CqlType::Tuple(types) => fields(ty, types.iter(), bytes, depth)?,
        CqlType::Udt(udt) => fields(ty, udt.fields.iter().map(|(_, t)| t), bytes, depth)?,
    })
}

/// Types whose zero-length bytes are a value of their own.
fn has_empty_value(ty: &CqlType) -> bool {
    !matches!(
        ty,
        CqlType::Ascii
            | CqlType::Text
            | CqlType::Blob
            | CqlType::Tuple(_)
            | CqlType::Udt(_)
            | CqlType::List(_)
            | CqlType::Set(_)
            | CqlType::Map(..)
            | CqlType::Duration
    )
}

fn fixed<const N: usize>(
    ty: &CqlType,
    bytes: &[u8],
    expected: &'static str,
) -> Result<[u8; N], CodecError> {
    bytes.try_into().map_err(|_| CodecError::Size {
        type_name: ty.to_string(),
        expected,
        got: bytes.len(),
    })
}

fn text(bytes: &[u8], ascii: bool) -> Result<String, CodecError> {
    if ascii && !bytes.is_ascii() {
        return Err(CodecError::Text("ASCII"));
    }
    std::str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|_| CodecError::Text("UTF-8"))
}

fn elements(element: &CqlType, bytes: &Bytes, depth: usize) -> Result<Vec<Value>, CodecError> {
    let mut input = Reader {
        rest: bytes.clone(),
        ty: element,
    };
    let count = input.count()?;
    let mut values = Vec::with_capacity(count.min(1024));
    for _ in 0..count {
        let cell = input.cell()?.ok_or(CodecError::NullElement)?;
        values.push(decode_at(element, &cell, depth + 1)?);
    }
    input.end()?;
    Ok(values)
}

fn decode_map(
    ty: &CqlType,
    key: &CqlType,
    value: &CqlType,
    bytes: &Bytes,
    depth: usize,
) -> Result<Value, CodecError> {
    let mut input = Reader {
        rest: bytes.clone(),
        ty,
    };
    let count = input.count()?;
    let mut entries = Vec::with_capacity(count.min(1024));
    for _ in 0..count {
        let key_cell = input.cell()?.ok_or(CodecError::NullElement)?;
        let value_cell = input.cell()?.ok_or(CodecError::NullElement)?;
        entries.push((
            decode_at(key, &key_cell, depth + 1)?,
            decode_at(value, &value_cell, depth + 1)?,
        ));
    }
    input.end()?;
    Ok(Value::map(entries))
}

fn fields<'a>(
    ty: &CqlType,
    types: impl Iterator<Item = &'a CqlType>,
    bytes: &Bytes,
    depth: usize,
) -> Result<Value, CodecError> {
    let mut input = Reader {
        rest: bytes.clone(),
        ty,
    };
    let mut values = Vec::new();
    for field in types {
        values.push(
            match if input.rest.is_empty() {
                None
            } else {
                input.cell()?
            } {
                Some(cell) => Some(decode_at(field, &cell, depth + 1)?),
                None => None,
            },
        );
    }
    input.end()?;
    Ok(Value::Tuple(values))
}

fn decode_duration(bytes: &[u8]) -> Result<Value, CodecError> {
    let truncated = || CodecError::Truncated("duration".into());
    let range = || CodecError::Range("duration".into());
    let mut rest = bytes;
    let mut next = || decode_vint(&mut rest).ok_or_else(truncated);
    let (months, days, nanos) = (next()?, next()?, next()?);
    if !rest.is_empty() {
        return Err(CodecError::Trailing("duration".into()));
    }
    let months = i32::try_from(months).map_err(|_| range())?;
    let days = i32::try_from(days).map_err(|_| range())?;
    Ok(Value::Duration(Duration {
        months,
        days,
        nanos,
    }))
}

/// A zig-zag number whose first byte's leading ones tell how many bytes follow.
fn encode_vint(value: i64, out: &mut Vec<u8>) {
    let zigzag = ((value << 1) ^ (value >> 63)) as u64;
    let bits = 64 - zigzag.leading_zeros() as usize;
    let extra = if bits > 56 {
        8
    } else {
        bits.saturating_sub(1) / 7
    };
    let bytes = zigzag.to_be_bytes();
    if extra == 8 {
        out.push(0xff);
        out.extend_from_slice(&bytes);
    } else {
        let prefix = !(0xff_u8.checked_shr(extra as u32).unwrap_or(0));
        out.push(bytes[7 - extra] | prefix);
        out.extend_from_slice(&bytes[8 - extra..]);
    }
}

fn decode_vint(rest: &mut &[u8]) -> Option<i64> {
    let (&first, tail) = rest.split_first()?;
    let extra = first.leading_ones() as usize;
    if tail.len() < extra {
        return None;
    }
    let mut value = u64::from(first & 0xff_u8.checked_shr(extra as u32).unwrap_or(0));
    for byte in &tail[..extra] {
        value = (value << 8) | u64::from(*byte);
    }
    *rest = &tail[extra..];
    Some(((value >> 1) as i64) ^ -((value & 1) as i64))
}

/// Cells with a four-byte length each.
struct Reader<'a> {
    rest: Bytes,
    ty: &'a CqlType,
}

impl Reader<'_> {
    fn int(&mut self) -> Result<i32, CodecError> {
        let Some(bytes) = self.rest.first_chunk::<4>() else {
            return Err(CodecError::Truncated(self.ty.to_string()));
        };
        let number = i32::from_be_bytes(*bytes);
        let _ = self.rest.split_to(4);
        Ok(number)
    }

    /// An element count; each element takes four bytes at least.
    fn count(&mut self) -> Result<usize, CodecError> {
        let count = usize::try_from(self.int()?).unwrap_or(0);
        if count > self.rest.len() / 4 {
            return Err(CodecError::Truncated(self.ty.to_string()));
        }
        Ok(count)
    }

    fn cell(&mut self) -> Result<Option<Bytes>, CodecError> {
        let Ok(length) = usize::try_from(self.int()?) else {
            return Ok(None);
        };
        if length > self.rest.len() {
            return Err(CodecError::Truncated(self.ty.to_string()));
        }
        Ok(Some(self.rest.split_to(length)))
    }

    fn end(&self) -> Result<(), CodecError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(CodecError::Trailing(self.ty.to_string()))
        }
    }
}
