//! Frames: a header of nine bytes and a body.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::error::Error;

/// Largest body that is accepted, in bytes.
pub(crate) const MAX_BODY: usize = 64 * 1024 * 1024;

const HEADER: usize = 9;
const RESPONSE: u8 = 0x80;
const FLAG_COMPRESSION: u8 = 0x01;
const FLAG_CUSTOM_PAYLOAD: u8 = 0x04;

/// Protocol versions that the server speaks.
pub(crate) const VERSIONS: std::ops::RangeInclusive<u8> = 3..=4;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opcode {
    Startup,
    Options,
    Query,
    Prepare,
    Execute,
    Register,
    Batch,
    AuthResponse,
}

impl Opcode {
    fn from_wire(byte: u8) -> Option<Self> {
        Some(match byte {
            0x01 => Self::Startup,
            0x05 => Self::Options,
            0x07 => Self::Query,
            0x09 => Self::Prepare,
            0x0A => Self::Execute,
            0x0B => Self::Register,
            0x0D => Self::Batch,
            0x0F => Self::AuthResponse,
            _ => return None,
        })
    }
}

/// What an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Answer {
    Error = 0x00,
    Ready = 0x02,
    Authenticate = 0x03,
    Supported = 0x06,
    Result = 0x08,
    Event = 0x0C,
    AuthSuccess = 0x10,
}

/// A request as it arrived.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) version: u8,
    pub(crate) stream: i16,
    pub(crate) opcode: Opcode,
    pub(crate) custom_payload: bool,
    pub(crate) body: Bytes,
}

/// What the front of a buffer holds.
#[derive(Debug)]
pub(crate) enum Decoded {
    /// Not a whole frame yet.
    Incomplete,
    /// A frame, taken out of the buffer.
    Frame(Frame),
    /// A frame that must be answered with an error; the connection can go on.
    Refused {
        version: u8,
        stream: i16,
        error: Error,
    },
    /// The bytes make no sense: answer and close.
    Broken {
        version: u8,
        stream: i16,
        error: Error,
    },
}

/// Takes the next frame out of `buffer`.
pub(crate) fn decode(buffer: &mut BytesMut) -> Decoded {
    let Some(&first) = buffer.first() else {
        return Decoded::Incomplete;
    };
    let version = first & !RESPONSE;
    let known = if VERSIONS.contains(&version) {
        version
    } else {
        *VERSIONS.end()
    };
    if buffer.len() < HEADER {
        return Decoded::Incomplete;
    }
    let stream = i16::from_be_bytes([buffer[2], buffer[3]]);
    let broken = |message: String| Decoded::Broken {
        version: known,
        stream,
        error: Error::protocol(message),
    };
    if first & RESPONSE != 0 {
        return broken("Unexpected response frame from a client".into());
    }
    if !VERSIONS.contains(&version) {
        return broken(format!(
            "Invalid or unsupported protocol version ({version}); the lowest supported version is {} and the \
             greatest is {}",
            VERSIONS.start(),
            VERSIONS.end()
        ));
    }
    let length = i32::from_be_bytes([buffer[5], buffer[6], buffer[7], buffer[8]]);
    let Some(length) = usize::try_from(length)
        .ok()
        .filter(|length| *length <= MAX_BODY)
    else {
        return broken(format!(
            "Frame body of {length} bytes exceeds the limit of {MAX_BODY} bytes"
        ));
    };
    if buffer.len() < HEADER + length {
        buffer.reserve(HEADER + length - buffer.len());
        return Decoded::Incomplete;
    }
    let (flags, opcode) = (buffer[1], buffer[4]);
    buffer.advance(HEADER);
    let body = buffer.split_to(length).freeze();
    let refused = |message: String| Decoded::Refused {
        version,
        stream,
        error: Error::protocol(message),
    };
    if flags & FLAG_COMPRESSION != 0 {
        return refused("Compression was not negotiated".into());
    }
    let Some(opcode) = Opcode::from_wire(opcode) else {
        return refused(format!("Unknown opcode {opcode}"));
    };
    let custom_payload = flags & FLAG_CUSTOM_PAYLOAD != 0;
    Decoded::Frame(Frame {
        version,
        stream,
        opcode,
        custom_payload,
        body,
    })
}

/// Appends a frame to `out`; `body` writes the body.
pub(crate) fn encode(
    out: &mut BytesMut,
    version: u8,
    stream: i16,
    answer: Answer,
    body: impl FnOnce(&mut BytesMut),
) {
    out.put_u8(version | RESPONSE);
    out.put_u8(0);
    out.put_i16(stream);
    out.put_u8(answer as u8);
    let length_at = out.len();
    out.put_i32(0);
    body(out);
    let length = (out.len() - length_at - 4) as i32;
    out[length_at..length_at + 4].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(content: &[u8]) -> BytesMut {
        BytesMut::from(content)
    }

    #[test]
    fn a_frame_is_taken_when_it_is_whole() {
        let mut buffer = bytes(&[4, 0, 0, 7, 5, 0, 0, 0, 1]);
        assert!(matches!(decode(&mut buffer), Decoded::Incomplete));
        buffer.put_u8(9);
        let Decoded::Frame(frame) = decode(&mut buffer) else {
            panic!("a frame")
        };
        assert_eq!(
            (frame.version, frame.stream, frame.opcode),
            (4, 7, Opcode::Options)
        );
        assert_eq!(&frame.body[..], [9]);
        assert!(buffer.is_empty());
    }

    #[test]
    fn version_five_is_refused_in_version_four() {
        let mut buffer = bytes(&[5, 0, 0, 1, 5, 0, 0, 0, 0]);
        let Decoded::Broken {
            version: 4,
            stream: 1,
            error,
        } = decode(&mut buffer)
        else {
            panic!("refused")
        };
        assert!(error.message.contains("unsupported protocol version"));
    }

    #[test]
    fn oversized_and_compressed_frames_are_refused() {
        assert!(matches!(
            decode(&mut bytes(&[4, 0, 0, 0, 7, 0x7f, 0, 0, 0])),
            Decoded::Broken { .. }
        ));
        assert!(matches!(
            decode(&mut bytes(&[4, 1, 0, 0, 7, 0, 0, 0, 0])),
            Decoded::Refused { .. }
        ));
        assert!(matches!(
            decode(&mut bytes(&[4, 0, 0, 0, 0x55, 0, 0, 0, 0])),
            Decoded::Refused { .. }
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_without_panic(content in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut buffer = bytes(&content);
            let _ = decode(&mut buffer);
        }
    }
}
