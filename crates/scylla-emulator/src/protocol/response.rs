//! Answers to requests.

use bytes::{BufMut, Bytes, BytesMut};

use super::event::write_change;
use super::frame::{self, Answer};
use super::write::WriteExt;
use crate::engine::{ColumnSpec, Outcome, Prepared, RowSet};
use crate::error::{Detail, Error};

mod kind {
    pub(super) const VOID: i32 = 1;
    pub(super) const ROWS: i32 = 2;
    pub(super) const SET_KEYSPACE: i32 = 3;
    pub(super) const PREPARED: i32 = 4;
    pub(super) const SCHEMA_CHANGE: i32 = 5;
}

mod flag {
    pub(super) const GLOBAL_TABLE: i32 = 0x01;
    pub(super) const HAS_MORE_PAGES: i32 = 0x02;
    pub(super) const NO_METADATA: i32 = 0x04;
}

/// An answer.
#[derive(Debug)]
pub(crate) enum Response<'a> {
    Error(&'a Error),
    Ready,
    Authenticate(&'static str),
    AuthSuccess,
    Supported(&'a [(String, Vec<String>)]),
    Outcome {
        outcome: &'a Outcome,
        skip_metadata: bool,
    },
    Prepared(&'a Prepared),
}

impl Response<'_> {
    /// Appends the answer as a frame.
    pub(crate) fn encode(&self, out: &mut BytesMut, version: u8, stream: i16) {
        let answer = match self {
            Self::Error(_) => Answer::Error,
            Self::Ready => Answer::Ready,
            Self::Authenticate(_) => Answer::Authenticate,
            Self::AuthSuccess => Answer::AuthSuccess,
            Self::Supported(_) => Answer::Supported,
            Self::Outcome { .. } | Self::Prepared(_) => Answer::Result,
        };
        frame::encode(out, version, stream, answer, |body| match self {
            Self::Error(error) => write_error(body, error),
            Self::Ready => {}
            Self::Authenticate(class) => body.put_string(class),
            Self::AuthSuccess => body.put_i32(-1),
            Self::Supported(options) => {
                body.put_u16(options.len() as u16);
                for (name, values) in *options {
                    body.put_string(name);
                    body.put_string_list(values.iter().map(String::as_str));
                }
            }
            Self::Outcome {
                outcome,
                skip_metadata,
            } => {
                write_outcome(body, outcome, *skip_metadata);
            }
            Self::Prepared(prepared) => write_prepared(body, prepared, version),
        });
    }
}

fn write_error(body: &mut BytesMut, error: &Error) {
    body.put_i32(error.code.wire());
    body.put_string(&error.message);
    match &error.detail {
        Detail::None => {}
        Detail::AlreadyExists { keyspace, table } => {
            body.put_string(keyspace);
            body.put_string(table);
        }
        Detail::Unprepared { id } => body.put_short_bytes(id),
        Detail::Unavailable {
            consistency,
            required,
            alive,
        } => {
            body.put_u16(*consistency);
            body.put_i32(*required);
            body.put_i32(*alive);
        }
        Detail::WriteTimeout {
            consistency,
            received,
            block_for,
            write_type,
        } => {
            body.put_u16(*consistency);
            body.put_i32(*received);
            body.put_i32(*block_for);
            body.put_string(write_type);
        }
        Detail::ReadTimeout {
            consistency,
            received,
            block_for,
            data_present,
        } => {
            body.put_u16(*consistency);
            body.put_i32(*received);
            body.put_i32(*block_for);
            body.put_u8(u8::from(*data_present));
        }
    }
}

fn write_outcome(body: &mut BytesMut, outcome: &Outcome, skip_metadata: bool) {
    match outcome {
        Outcome::Void => body.put_i32(kind::VOID),
        Outcome::SetKeyspace(keyspace) => {
            body.put_i32(kind::SET_KEYSPACE);
            body.put_string(keyspace);
        }
        Outcome::SchemaChange(change) => {
            body.put_i32(kind::SCHEMA_CHANGE);
            write_change(body, change);
        }
        Outcome::Rows(rows) => {
            body.put_i32(kind::ROWS);
            write_rows(body, rows, skip_metadata);
        }
    }
}

/// The keyspace and table that all columns share.
fn common_table(columns: &[ColumnSpec]) -> Option<(&str, &str)> {
    let first = columns.first()?;
    columns
        .iter()
        .all(|column| column.keyspace == first.keyspace && column.table == first.table)
        .then_some((&first.keyspace, &first.table))
}

fn write_columns(body: &mut BytesMut, common: Option<(&str, &str)>, columns: &[ColumnSpec]) {
    if let Some((keyspace, table)) = common {
        body.put_string(keyspace);
        body.put_string(table);
    }
    for column in columns {
        if common.is_none() {
            body.put_string(&column.keyspace);
            body.put_string(&column.table);
        }
        body.put_string(&column.name);
        body.put_type(&column.ty);
    }
}

fn write_metadata(
    body: &mut BytesMut,
    columns: &[ColumnSpec],
    paging_state: Option<&Bytes>,
    skip_metadata: bool,
) {
    let common = common_table(columns);
    let mut flags = 0;
    if skip_metadata {
        flags |= flag::NO_METADATA;
    } else if common.is_some() {
        flags |= flag::GLOBAL_TABLE;
    }
    if paging_state.is_some() {
        flags |= flag::HAS_MORE_PAGES;
    }
    body.put_i32(flags);
    body.put_i32(columns.len() as i32);
    if let Some(state) = paging_state {
        body.put_value(Some(state));
    }
    if !skip_metadata {
        write_columns(body, common, columns);
    }
}

fn write_rows(body: &mut BytesMut, rows: &RowSet, skip_metadata: bool) {
    write_metadata(
        body,
        &rows.columns,
        rows.paging_state.as_ref(),
        skip_metadata,
    );
    body.put_i32(rows.rows.len() as i32);
    for row in &rows.rows {
        for value in row {
            body.put_value(value.as_deref());
        }
    }
}

fn write_prepared(body: &mut BytesMut, prepared: &Prepared, version: u8) {
    body.put_i32(kind::PREPARED);
    body.put_short_bytes(&prepared.id);
    let common = common_table(&prepared.bind);
    body.put_i32(if common.is_some() {
        flag::GLOBAL_TABLE
    } else {
        0
    });
    body.put_i32(prepared.bind.len() as i32);
    if version >= 4 {
        body.put_i32(prepared.partition_key_markers.len() as i32);
        for marker in &prepared.partition_key_markers {
            body.put_u16(*marker);
        }
    }
    write_columns(body, common, &prepared.bind);
    let no_rows = prepared.result.is_empty();
    write_metadata(body, &prepared.result, None, no_rows);
}

/// What OPTIONS is answered with. The sharding options make drivers open a connection to each shard.
pub(crate) fn supported(shard: u16, shards: u16) -> Vec<(String, Vec<String>)> {
    let one = |name: &str, value: String| (name.to_owned(), vec![value]);
    vec![
        one("CQL_VERSION", crate::system::CQL_VERSION.to_owned()),
        ("COMPRESSION".to_owned(), Vec::new()),
        one("SCYLLA_SHARD", shard.to_string()),
        one("SCYLLA_NR_SHARDS", shards.to_string()),
        one("SCYLLA_PARTITIONER", crate::system::PARTITIONER.to_owned()),
        one(
            "SCYLLA_SHARDING_ALGORITHM",
            "biased-token-round-robin".to_owned(),
        ),
        one(
            "SCYLLA_SHARDING_IGNORE_MSB",
            crate::cluster::sharding::IGNORE_MSB_BITS.to_string(),
        ),
    ]
}
