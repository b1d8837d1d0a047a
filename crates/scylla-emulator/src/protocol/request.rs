//! Requests, parsed from frames.

use bytes::Bytes;

use super::frame::{Frame, Opcode};
use super::read::Reader;
use crate::engine::{BatchKind, BindValue, BindValues, Consistency, ExecuteParams};
use crate::error::Error;

type Result<T> = std::result::Result<T, Error>;

/// What comes with a query beside its text.
#[derive(Debug, Clone)]
pub(crate) struct Parameters {
    pub(crate) execute: ExecuteParams,
    pub(crate) skip_metadata: bool,
}

/// A statement of a batch: its text, or the id of a prepared one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BatchStatement {
    Query(String),
    Prepared(Bytes),
}

/// A parsed request.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    Startup(Vec<(String, String)>),
    Options,
    Register(Vec<String>),
    AuthResponse(Option<Bytes>),
    Query { cql: String, parameters: Parameters },
    Prepare { cql: String },
    Execute { id: Bytes, parameters: Parameters },
    Batch(Batch),
}

/// A batch message.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    pub(crate) kind: BatchKind,
    pub(crate) statements: Vec<(BatchStatement, Vec<BindValue>)>,
    pub(crate) timestamp: Option<i64>,
    pub(crate) consistency: Consistency,
    pub(crate) serial_consistency: Option<Consistency>,
}

mod flag {
    pub(super) const VALUES: u8 = 0x01;
    pub(super) const SKIP_METADATA: u8 = 0x02;
    pub(super) const PAGE_SIZE: u8 = 0x04;
    pub(super) const PAGING_STATE: u8 = 0x08;
    pub(super) const SERIAL_CONSISTENCY: u8 = 0x10;
    pub(super) const TIMESTAMP: u8 = 0x20;
    pub(super) const NAMES: u8 = 0x40;
    pub(super) const KNOWN: u8 = 0x7f;
}

impl Request {
    /// Parses a frame's body.
    pub(crate) fn parse(frame: Frame) -> Result<Self> {
        let version = frame.version;
        let mut body = Reader::new(frame.body);
        if frame.custom_payload {
            body.skip_bytes_map()?;
        }
        Ok(match frame.opcode {
            Opcode::Startup => Self::Startup(body.list(|r| Ok((r.string()?, r.string()?)))?),
            Opcode::Options => Self::Options,
            Opcode::Register => Self::Register(body.list(Reader::string)?),
            Opcode::AuthResponse => Self::AuthResponse(body.bytes()?),
            Opcode::Query => {
                let cql = body.long_string()?;
                Self::Query {
                    cql,
                    parameters: parameters(&mut body, version)?,
                }
            }
            Opcode::Prepare => Self::Prepare {
                cql: body.long_string()?,
            },
            Opcode::Execute => {
                let id = body.short_bytes()?;
                Self::Execute {
                    id,
                    parameters: parameters(&mut body, version)?,
                }
            }
            Opcode::Batch => Self::Batch(batch(&mut body, version)?),
        })
    }
}

fn bound(body: &mut Reader, version: u8) -> Result<BindValue> {
    match body.value()? {
        Ok(bytes) => Ok(BindValue::Bytes(bytes)),
        Err(-1) => Ok(BindValue::Null),
        Err(-2) if version >= 4 => Ok(BindValue::Unset),
        Err(_) if version < 4 => Ok(BindValue::Null),
        Err(length) => Err(Error::protocol(format!("Invalid value length {length}"))),
    }
}

fn consistency(body: &mut Reader) -> Result<Consistency> {
    let level = body.short()?;
    if level > 0x0A {
        return Err(Error::protocol(format!(
            "Unknown consistency level {level}"
        )));
    }
    Ok(Consistency(level))
}

fn parameters(body: &mut Reader, version: u8) -> Result<Parameters> {
    let consistency_level = consistency(body)?;
    let flags = body.byte()?;
    if flags & !flag::KNOWN != 0 {
        return Err(Error::protocol(format!(
            "Unknown query flags 0x{flags:02x}"
        )));
    }
    let has = |bit: u8| flags & bit != 0;
    let values = match (has(flag::VALUES), has(flag::NAMES)) {
        (true, true) => BindValues::Named(body.list(|r| Ok((r.string()?, bound(r, version)?)))?),
        (true, false) => BindValues::Positional(body.list(|r| bound(r, version))?),
        (false, _) => BindValues::Positional(Vec::new()),
    };
    let page_size = if has(flag::PAGE_SIZE) {
        Some(body.int()?)
    } else {
        None
    };
    let paging_state = if has(flag::PAGING_STATE) {
        body.bytes()?
    } else {
        None
    };
    let serial_consistency = if has(flag::SERIAL_CONSISTENCY) {
        Some(consistency(body)?)
    } else {
        None
    };
    let timestamp = if has(flag::TIMESTAMP) {
        Some(body.long()?)
    } else {
        None
    };
    let execute = ExecuteParams {
        values,
        default_timestamp: timestamp,
        page_size,
        paging_state,
        consistency: consistency_level,
        serial_consistency,
    };
    Ok(Parameters {
        execute,
        skip_metadata: has(flag::SKIP_METADATA),
    })
}

fn batch(body: &mut Reader, version: u8) -> Result<Batch> {
    let kind = match body.byte()? {
        0 => BatchKind::Logged,
        1 => BatchKind::Unlogged,
        2 => BatchKind::Counter,
        other => return Err(Error::protocol(format!("Unknown batch type {other}"))),
    };
    let statements = body.list(|r| {
        let statement = match r.byte()? {
            0 => BatchStatement::Query(r.long_string()?),
            1 => BatchStatement::Prepared(r.short_bytes()?),
            other => {
                return Err(Error::protocol(format!(
                    "Unknown batch statement kind {other}"
                )));
            }
        };
        Ok((statement, r.list(|r| bound(r, version))?))
    })?;
    let consistency_level = consistency(body)?;
    let flags = body.byte()?;
    if flags & flag::NAMES != 0 {
        return Err(Error::protocol(
            "Names of values are not supported in a batch",
        ));
    }
    let has = |bit: u8| flags & bit != 0;
    let serial_consistency = if has(flag::SERIAL_CONSISTENCY) {
        Some(consistency(body)?)
    } else {
        None
    };
    let timestamp = if has(flag::TIMESTAMP) {
        Some(body.long()?)
    } else {
        None
    };
    Ok(Batch {
        kind,
        statements,
        timestamp,
        consistency: consistency_level,
        serial_consistency,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::{BufMut, BytesMut};
    use proptest::prelude::*;

    fn frame(opcode: Opcode, body: BytesMut) -> Frame {
        Frame {
            version: 4,
            stream: 0,
            opcode,
            custom_payload: false,
            body: body.freeze(),
        }
    }

    #[test]
    fn a_query_with_all_flags() {
        let mut body = BytesMut::new();
        body.put_i32(8);
        body.put_slice(b"SELECT 1");
        body.put_u16(6);
        body.put_u8(0x3f);
        body.put_u16(3);
        body.put_i32(1);
        body.put_u8(7);
        body.put_i32(-1);
        body.put_i32(-2);
        body.put_i32(100);
        body.put_i32(2);
        body.put_slice(b"ps");
        body.put_u16(8);
        body.put_i64(42);
        let Ok(Request::Query { cql, parameters }) = Request::parse(frame(Opcode::Query, body))
        else {
            panic!("a query")
        };
        assert_eq!(cql, "SELECT 1");
        let values = vec![
            BindValue::Bytes(Bytes::from_static(&[7])),
            BindValue::Null,
            BindValue::Unset,
        ];
        assert!(parameters.skip_metadata);
        let params = parameters.execute;
        assert_eq!(params.values, BindValues::Positional(values));
        assert_eq!(params.consistency, Consistency(6));
        assert_eq!(params.serial_consistency, Some(Consistency::SERIAL));
        assert_eq!(params.page_size, Some(100));
        assert_eq!(params.paging_state.as_deref(), Some(&b"ps"[..]));
        assert_eq!(params.default_timestamp, Some(42));
    }

    #[test]
    fn a_truncated_body_is_a_protocol_error() {
        let mut body = BytesMut::new();
        body.put_i32(100);
        body.put_slice(b"SELECT");
        let error = Request::parse(frame(Opcode::Query, body)).unwrap_err();
        assert!(error.message.contains("Truncated frame"));
    }

    proptest! {
        #[test]
        fn any_body_parses_without_panic(
            content in prop::collection::vec(any::<u8>(), 0..200), which in 0_usize..8, payload in any::<bool>()
        ) {
            let opcodes = [
                Opcode::Startup, Opcode::Options, Opcode::Query, Opcode::Prepare, Opcode::Execute,
                Opcode::Register, Opcode::Batch, Opcode::AuthResponse,
            ];
            let mut frame = frame(opcodes[which], BytesMut::from(&content[..]));
            frame.custom_payload = payload;
            let _ = Request::parse(frame);
        }
    }
}
