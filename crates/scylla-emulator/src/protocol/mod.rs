//! The CQL native protocol, versions 3 and 4: frames to requests, answers to frames. No I/O.
//!
//! Invariants
//! 1. Whatever bytes arrive, the answer is a request or an [`Error`](crate::error::Error); never a panic, and never an
//!    allocation that is larger than a small multiple of the frame.
//! 2. A frame's body is at most [`frame::MAX_BODY`] bytes.
//!
//! Compression, tracing and custom payloads are not offered; a custom payload is read and ignored.

pub(crate) mod event;
pub(crate) mod frame;
pub(crate) mod read;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod write;
