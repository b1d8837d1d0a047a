//! The compact form of the published rows above W.
//!
//! Version 1: the byte `1`, the number of rows, then the rows in the order of [`RowKey`]; numbers
//! are LEB128. A row is the difference of its stream index from the row before, the difference of
//! its ticks (zigzag, from the row before), the low eight bytes of its `cdc$time`, and its
//! `cdc$batch_seq_no` (zigzag): some 12 to 16 bytes.

use scylla::value::CqlTimeuuid;

use crate::event::{Position, RowKey};

const VERSION: u8 = 1;

/// Why a stored form cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// A later version of the relay has written it.
    #[error(
        "unknown version {0} of the published rows; start a relay of the version that wrote it"
    )]
    Version(u8),
    /// It ends too early or holds an impossible number.
    #[error("the published rows are damaged at byte {0}")]
    Damaged(usize),
}

/// The compact form of `rows`, which may come in any order. No rows have no bytes.
pub fn encode(rows: &[RowKey]) -> Vec<u8> {
    if rows.is_empty() {
        return Vec::new();
    }
    let mut rows = rows.to_vec();
    rows.sort_unstable();
    rows.dedup();
    let mut bytes = Vec::with_capacity(4 + rows.len() * 16);
    bytes.push(VERSION);
    put(&mut bytes, rows.len() as u64);
    let (mut stream, mut ticks) = (0_u16, 0_i64);
    for row in rows {
        let time = row.position.time.as_bytes();
        let now = ticks_of(time);
        put(&mut bytes, u64::from(row.stream - stream));
        put(&mut bytes, zigzag(now - ticks));
        bytes.extend_from_slice(&time[8..]);
        put(&mut bytes, zigzag(i64::from(row.position.seq)));
        (stream, ticks) = (row.stream, now);
    }
    bytes
}

/// The rows of a compact form, in the order of [`RowKey`].
pub fn decode(bytes: &[u8]) -> Result<Vec<RowKey>, FormError> {
    let mut reader = Reader { bytes, at: 0 };
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let [version] = reader.take()?;
    if version != VERSION {
        return Err(FormError::Version(version));
    }
    let count = reader.number()? as usize;
    // A row takes at least eleven bytes, so a damaged count cannot ask for more memory than that.
    let mut rows = Vec::with_capacity(count.min(bytes.len() / 11));
    let (mut stream, mut ticks) = (0_u16, 0_i64);
    for _ in 0..count {
        let step = u16::try_from(reader.number()?).ok();
        stream = step
            .and_then(|step| stream.checked_add(step))
            .ok_or(reader.damaged())?;
        let step = unzigzag(reader.number()?);
        ticks = ticks
            .checked_add(step)
            .filter(|t| *t >> 60 == 0)
            .ok_or(reader.damaged())?;
        let low: [u8; 8] = reader.take()?;
        let seq = i32::try_from(unzigzag(reader.number()?)).map_err(|_| reader.damaged())?;
        rows.push(RowKey {
            stream,
            position: Position {
                time: timeuuid(ticks, low),
                seq,
            },
        });
    }
    if reader.at == bytes.len() {
        Ok(rows)
    } else {
        Err(reader.damaged())
    }
}

fn ticks_of(bytes: &[u8; 16]) -> i64 {
    let high = [
        bytes[6] & 0x0f,
        bytes[7],
        bytes[4],
        bytes[5],
        bytes[0],
        bytes[1],
        bytes[2],
        bytes[3],
    ];
    i64::from_be_bytes(high)
}

fn timeuuid(ticks: i64, low: [u8; 8]) -> CqlTimeuuid {
    let t = ticks.to_be_bytes();
    let high = [t[4], t[5], t[6], t[7], t[2], t[3], t[0] | 0x10, t[1]];
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&high);
    bytes[8..].copy_from_slice(&low);
    CqlTimeuuid::from_bytes(bytes)
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

fn put(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl Reader<'_> {
    fn damaged(&self) -> FormError {
        FormError::Damaged(self.at)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], FormError> {
        let taken = self
            .bytes
            .get(self.at..self.at + N)
            .and_then(|b| b.try_into().ok());
        let taken = taken.ok_or(self.damaged())?;
        self.at += N;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u64, FormError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.take()?;
            let bits = u64::from(byte & 0x7f);
            if bits.leading_zeros() < shift {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.damaged())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row() -> impl Strategy<Value = RowKey> {
        (any::<u16>(), 0..1_i64 << 60, any::<[u8; 8]>(), any::<i32>()).prop_map(
            |(stream, ticks, low, seq)| RowKey {
                stream,
                position: Position {
                    time: timeuuid(ticks, low),
                    seq,
                },
            },
        )
    }

    proptest! {
        #[test]
        fn every_set_of_rows_comes_back(rows in proptest::collection::vec(row(), 0..50)) {
            let mut expected = rows.clone();
            expected.sort_unstable();
            expected.dedup();
            prop_assert_eq!(decode(&encode(&rows)).unwrap(), expected);
        }

        #[test]
        fn damage_is_an_error_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn a_cut_form_is_an_error(rows in proptest::collection::vec(row(), 1..20), cut in 1..200_usize) {
            let bytes = encode(&rows);
            let cut = cut.min(bytes.len() - 1);
            prop_assert!(decode(&bytes[..bytes.len() - cut]).is_err());
        }
    }

    #[test]
    fn a_later_version_is_named() {
        assert_eq!(decode(&[2, 0]), Err(FormError::Version(2)));
    }

    #[test]
    fn rows_of_one_stream_are_small() {
        let rows: Vec<RowKey> = (0..1_000)
            .map(|n| RowKey {
                stream: 3,
                position: Position {
                    time: timeuuid((1 << 57) + n * 12_345, [7; 8]),
                    seq: 0,
                },
            })
            .collect();
        assert!(encode(&rows).len() < 14 * rows.len());
    }
}
