//! The paging state: where the last page ended, as bytes that the client gives back.
//!
//! It names a position, not a count of rows: rows that were written or deleted in between neither
//! shift nor repeat what is read next.

use bytes::Bytes;

use super::read::Cursor;
use crate::error::Error;
use crate::schema::TableSchema;
use crate::storage::PartitionPosition;
use crate::types::{Value, decode as decode_value, encode as encode_value};

const VERSION: u8 = 1;

/// Where a page ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PagingState {
    /// The last row.
    pub(super) cursor: Cursor,
    /// Rows that LIMIT leaves.
    pub(super) remaining: Option<u64>,
    /// Rows returned from the last row's partition.
    pub(super) in_partition: u64,
}

pub(super) fn encode(state: &PagingState) -> Bytes {
    let mut out = vec![VERSION];
    out.extend_from_slice(&state.remaining.unwrap_or(u64::MAX).to_be_bytes());
    out.extend_from_slice(&state.in_partition.to_be_bytes());
    out.extend_from_slice(&state.cursor.partition.token.to_be_bytes());
    put(&mut out, &state.cursor.partition.key);
    match &state.cursor.row {
        None => out.push(0),
        Some(row) => {
            out.push(1);
            for value in row {
                put(&mut out, &encode_value(value));
            }
        }
    }
    out.into()
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

pub(super) fn decode(bytes: &Bytes, table: &TableSchema) -> Result<PagingState, Error> {
    parse(bytes, table).ok_or_else(|| Error::protocol("Invalid value for the paging state"))
}

fn parse(bytes: &Bytes, table: &TableSchema) -> Option<PagingState> {
    let mut rest = bytes.clone();
    if take(&mut rest, 1)?[0] != VERSION {
        return None;
    }
    let mut number = || Some(u64::from_be_bytes(*take(&mut rest, 8)?.first_chunk()?));
    let remaining = number()?;
    let in_partition = number()?;
    let token = number()? as i64;
    let key = take_sized(&mut rest)?;
    let row = match take(&mut rest, 1)?[0] {
        0 => None,
        1 => {
            let columns = table.clustering_key().iter();
            let values: Option<Vec<Value>> = columns
                .map(|column| decode_value(&column.ty, &take_sized(&mut rest)?).ok())
                .collect();
            Some(values?)
        }
        _ => return None,
    };
    rest.is_empty().then_some(PagingState {
        cursor: Cursor {
            partition: PartitionPosition { token, key },
            row,
        },
        remaining: (remaining != u64::MAX).then_some(remaining),
        in_partition,
    })
}

fn take(rest: &mut Bytes, count: usize) -> Option<Bytes> {
    (rest.len() >= count).then(|| rest.split_to(count))
}

fn take_sized(rest: &mut Bytes) -> Option<Bytes> {
    let size = u32::from_be_bytes(*take(rest, 4)?.first_chunk()?);
    take(rest, usize::try_from(size).ok()?)
}
