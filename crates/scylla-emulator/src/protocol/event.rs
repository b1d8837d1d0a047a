//! Events that are pushed to connections that registered for them.

use std::net::SocketAddr;

use bytes::BytesMut;

use super::frame::{self, Answer};
use super::write::WriteExt;
use crate::engine::{SchemaChange, SchemaChangeKind, SchemaTarget};

/// Writes what changed, for an event and for the result of a statement alike.
pub(crate) fn write_change(body: &mut BytesMut, change: &SchemaChange) {
    body.put_string(match change.kind {
        SchemaChangeKind::Created => "CREATED",
        SchemaChangeKind::Updated => "UPDATED",
        SchemaChangeKind::Dropped => "DROPPED",
    });
    let (target, name) = match &change.target {
        SchemaTarget::Keyspace => ("KEYSPACE", None),
        SchemaTarget::Table(name) => ("TABLE", Some(name)),
        SchemaTarget::Type(name) => ("TYPE", Some(name)),
    };
    body.put_string(target);
    body.put_string(&change.keyspace);
    if let Some(name) = name {
        body.put_string(name);
    }
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Schema(SchemaChange),
    /// A node is up or down.
    Status {
        up: bool,
        node: SocketAddr,
    },
}

impl Event {
    /// The name that clients register for.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Schema(_) => "SCHEMA_CHANGE",
            Self::Status { .. } => "STATUS_CHANGE",
        }
    }

    /// Appends the event as a frame.
    pub(crate) fn encode(&self, out: &mut BytesMut, version: u8) {
        frame::encode(out, version, -1, Answer::Event, |body| {
            body.put_string(self.kind());
            match self {
                Self::Schema(change) => write_change(body, change),
                Self::Status { up, node } => {
                    body.put_string(if *up { "UP" } else { "DOWN" });
                    body.put_address(*node);
                }
            }
        });
    }
}
