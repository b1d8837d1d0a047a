//! What of a stream group is durable above W, in a form whose size does not grow with the rows.
//!
//! Version 2: the byte `2`; `upto`; the begin of the open window; the summaries of `(W, upto]` and of the
//! open window; the hashes of the unsettled rows; the recent rows. Numbers are LEB128 (those that may be
//! negative zigzag), times are differences: `upto` from W, the others from `upto` or from the row before.
//! A cell is its count, and its XOR if the count is not zero; hashes are eight bytes.

use crate::ack::summary::{Cell, Summary};
use crate::ack::{Mark, Tracker};

const VERSION: u8 = 2;
/// Rows that a checkpoint names one by one, at most: the newest ones.
const RECENT_ROWS: usize = 256;
/// Rows as young as this when the log was read last are named one by one: of those more may appear
/// among them.
const RECENT_MICROS: i64 = 2_000_000;

/// Why a stored form cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// Another version of the relay has written it.
    #[error(
        "unknown version {0} of the published rows; start a relay of the version that wrote it"
    )]
    Version(u8),
    /// It ends too early or holds an impossible number.
    #[error("the published rows are damaged at byte {0}")]
    Damaged(usize),
}

/// What was published in a stretch of the log that ends at W, for the sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenWindow {
    /// Later than this microsecond.
    pub begin: i64,
    /// What was published.
    pub summary: Summary,
}

/// The durable rows above W, and the open window below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Up to here, microseconds since the Unix epoch, only a summary is kept.
    pub upto: i64,
    /// The settled rows later than W and at or before `upto`.
    pub summary: Summary,
    /// Hashes of the rows at or before `upto` that were handed on and are not settled.
    pub unsettled: Vec<u64>,
    /// The settled rows later than `upto`.
    pub recent: Vec<Mark>,
    /// What was published just before W.
    pub window: OpenWindow,
}

impl Published {
    /// Nothing is published above `watermark`.
    pub fn nothing(watermark: i64) -> Self {
        Self {
            upto: watermark,
            summary: Summary::default(),
            unsettled: Vec::new(),
            recent: Vec::new(),
            window: OpenWindow {
                begin: watermark,
                summary: Summary::default(),
            },
        }
    }

    /// The same after `tracker` has handed on more rows, and knows what was settled meanwhile.
    #[must_use]
    pub fn and(mut self, tracker: &Tracker) -> Self {
        let handed_on = tracker.unsettled().map(Mark::from);
        for mark in handed_on.take_while(|mark| mark.micros <= self.upto) {
            if !self.unsettled.contains(&mark.hash) {
                self.unsettled.push(mark.hash);
            }
        }
        for mark in tracker.meanwhile() {
            if mark.micros > self.upto {
                self.recent.push(*mark);
            } else {
                self.summary.add(mark.hash);
                self.unsettled.retain(|hash| *hash != mark.hash);
            }
        }
        self
    }

    /// How many rows above W are published.
    pub fn rows(&self) -> u64 {
        self.summary.count() + self.recent.len() as u64
    }

    /// What `tracker` holds above `watermark`, at `now`, when everything at or before `seen` has been
    /// read once (all in microseconds since the Unix epoch). Rows that were never read are no matter of
    /// a summary: they would be taken for new ones among the published, and so many cannot be told apart.
    pub fn of(tracker: &Tracker, watermark: i64, window: OpenWindow, now: i64, seen: i64) -> Self {
        let settled = tracker.settled_count();
        let last_summed = settled.checked_sub(RECENT_ROWS + 1);
        let by_number = last_summed.and_then(|at| tracker.settled().nth(at));
        let by_number = by_number.map_or(watermark, |mark| mark.micros);
        let upto = by_number
            .max(now.min(seen).saturating_sub(RECENT_MICROS))
            .min(seen)
            .max(watermark);
        let (mut summary, mut recent) = (Summary::default(), Vec::new());
        for mark in tracker.settled() {
            if mark.micros <= upto {
                summary.add(mark.hash);
            } else {
                recent.push(mark);
            }
        }
        let below = tracker
            .unsettled()
            .map(Mark::from)
            .take_while(|mark| mark.micros <= upto);
        Self {
            upto,
            summary,
            unsettled: below.map(|mark| mark.hash).collect(),
            recent,
            window,
        }
    }
}

/// The stored form. Nothing published has no bytes.
pub fn encode(published: &Published, watermark: i64) -> Vec<u8> {
    if *published == Published::nothing(watermark) {
        return Vec::new();
    }
    let Published {
        upto,
        summary,
        unsettled,
        recent,
        window,
    } = published;
    let mut bytes = Vec::with_capacity(64 + unsettled.len() * 8 + recent.len() * 12);
    bytes.push(VERSION);
    put(&mut bytes, zigzag(upto.wrapping_sub(watermark)));
    put(&mut bytes, zigzag(window.begin.wrapping_sub(*upto)));
    put_summary(&mut bytes, summary);
    put_summary(&mut bytes, &window.summary);
    put(&mut bytes, unsettled.len() as u64);
    for hash in unsettled {
        bytes.extend_from_slice(&hash.to_be_bytes());
    }
    put(&mut bytes, recent.len() as u64);
    let mut before = *upto;
    for mark in recent {
        put(&mut bytes, zigzag(mark.micros.wrapping_sub(before)));
        bytes.extend_from_slice(&mark.hash.to_be_bytes());
        before = mark.micros;
    }
    bytes
}

/// What a stored form says of a group whose watermark is `watermark`.
pub fn decode(bytes: &[u8], watermark: i64) -> Result<Published, FormError> {
    if bytes.is_empty() {
        return Ok(Published::nothing(watermark));
    }
    let mut reader = Reader { bytes, at: 0 };
    let [version] = reader.take()?;
    if version != VERSION {
        return Err(FormError::Version(version));
    }
    let upto = watermark.wrapping_add(unzigzag(reader.number()?));
    let begin = upto.wrapping_add(unzigzag(reader.number()?));
    let summary = reader.summary()?;
    let window = OpenWindow {
        begin,
        summary: reader.summary()?,
    };
    let unsettled = (0..reader.count(8)?)
        .map(|_| reader.hash())
        .collect::<Result<_, _>>()?;
    let mut before = upto;
    let recent = (0..reader.count(9)?)
        .map(|_| {
            before = before.wrapping_add(unzigzag(reader.number()?));
            Ok(Mark {
                micros: before,
                hash: reader.hash()?,
            })
        })
        .collect::<Result<_, FormError>>()?;
    if reader.at != bytes.len() {
        return Err(reader.damaged());
    }
    Ok(Published {
        upto,
        summary,
        unsettled,
        recent,
        window,
    })
}

/// The stored form of a summary alone.
pub fn encode_summary(summary: &Summary) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    put_summary(&mut bytes, summary);
    bytes
}

/// What the stored form of a summary says.
pub fn decode_summary(bytes: &[u8]) -> Result<Summary, FormError> {
    let mut reader = Reader { bytes, at: 0 };
    let [version] = reader.take()?;
    if version != VERSION {
        return Err(FormError::Version(version));
    }
    let summary = reader.summary()?;
    if reader.at == bytes.len() {
        Ok(summary)
    } else {
        Err(reader.damaged())
    }
}

fn put_summary(bytes: &mut Vec<u8>, summary: &Summary) {
    for cell in summary.cells {
        put(bytes, u64::from(cell.count));
        if cell.count > 0 {
            bytes.extend_from_slice(&cell.xor.to_be_bytes());
        }
    }
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
        let taken = self.bytes.get(self.at..self.at + N);
        let taken = taken.and_then(|slice| slice.try_into().ok());
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

    /// A number of things of at least `size` bytes: a damaged one cannot ask for more memory than
    /// there are bytes.
    fn count(&mut self, size: usize) -> Result<usize, FormError> {
        let count = usize::try_from(self.number()?).map_err(|_| self.damaged())?;
        if count > (self.bytes.len() - self.at) / size {
            return Err(self.damaged());
        }
        Ok(count)
    }

    fn hash(&mut self) -> Result<u64, FormError> {
        Ok(u64::from_be_bytes(self.take()?))
    }

    fn summary(&mut self) -> Result<Summary, FormError> {
        let mut summary = Summary::default();
        for cell in &mut summary.cells {
            let count = u32::try_from(self.number()?).map_err(|_| self.damaged())?;
            let xor = if count > 0 { self.hash()? } else { 0 };
            *cell = Cell { count, xor };
        }
        Ok(summary)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ack::Registration;
    use crate::event::{Position, RowKey, UUID_EPOCH_OFFSET};
    use crate::source::bounds::timeuuid;

    fn summaries() -> impl Strategy<Value = Summary> {
        prop::collection::vec(any::<u64>(), 0..20).prop_map(|hashes| hashes.into_iter().collect())
    }

    fn published() -> impl Strategy<Value = (Published, i64)> {
        let marks = (any::<i64>(), any::<u64>()).prop_map(|(micros, hash)| Mark { micros, hash });
        let parts = (
            any::<i64>(),
            any::<i64>(),
            any::<i64>(),
            summaries(),
            summaries(),
        );
        let lists = (
            prop::collection::vec(any::<u64>(), 0..10),
            prop::collection::vec(marks, 0..10),
        );
        (parts, lists).prop_map(|((watermark, upto, begin, summary, window), lists)| {
            let published = Published {
                upto,
                summary,
                unsettled: lists.0,
                recent: lists.1,
                window: OpenWindow {
                    begin,
                    summary: window,
                },
            };
            (published, watermark)
        })
    }

    proptest! {
        #[test]
        fn what_is_encoded_comes_back((published, watermark) in published()) {
            let bytes = encode(&published, watermark);
            prop_assert_eq!(decode(&bytes, watermark), Ok(published.clone()));
            let summary = published.summary;
            prop_assert_eq!(decode_summary(&encode_summary(&summary)), Ok(summary));
        }

        #[test]
        fn damage_is_an_error_and_never_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..80),
            watermark in any::<i64>(),
        ) {
            let _ = decode(&bytes, watermark);
            let _ = decode_summary(&bytes);
        }

        #[test]
        fn a_cut_form_is_an_error((published, watermark) in published(), cut in 1..200_usize) {
            let bytes = encode(&published, watermark);
            prop_assume!(!bytes.is_empty());
            let left = bytes.len() - cut.min(bytes.len() - 1);
            prop_assert!(decode(&bytes[..left], watermark).is_err());
        }
    }

    #[test]
    fn another_version_is_named() {
        assert_eq!(decode(&[1, 0], 0), Err(FormError::Version(1)));
        assert_eq!(decode_summary(&[3]), Err(FormError::Version(3)));
    }

    fn row(micros: i64) -> RowKey {
        numbered(micros, 0)
    }

    fn numbered(micros: i64, seq: i32) -> RowKey {
        let ticks = UUID_EPOCH_OFFSET + micros as u64 * 10;
        RowKey {
            stream: 0,
            position: Position {
                time: timeuuid(ticks, [0; 8]),
                seq,
            },
        }
    }

    const SECOND: i64 = 1_000_000;

    #[test]
    fn the_newest_rows_are_named_and_the_others_summed() {
        let now = 1_000 * SECOND;
        let mut tracker = Tracker::new(800 * SECOND);
        for n in 0..1_000 {
            assert_eq!(
                tracker.register(row(now - n * SECOND / 10)),
                Registration::New
            );
        }
        let pending = [row(now - 50 * SECOND), row(now - SECOND)];
        for n in 0..1_000 {
            let row = row(now - n * SECOND / 10);
            if !pending.contains(&row) {
                tracker.settle(row);
            }
        }
        let window = Published::nothing(800 * SECOND).window;
        let published = Published::of(&tracker, 800 * SECOND, window, now, i64::MAX);
        // Two seconds of ten rows a second, and the one that is not settled.
        assert_eq!(published.recent.len(), 19);
        assert_eq!(published.upto, now - RECENT_MICROS);
        assert_eq!(published.unsettled, [Mark::from(pending[0]).hash]);
        assert_eq!(published.summary.count(), 1_000 - 20 - 1);
        let size = encode(&published, 800 * SECOND).len();
        assert!(size < 400, "{size} bytes");
    }

    #[test]
    fn however_many_rows_there_are_few_are_named() {
        let mut tracker = Tracker::new(0);
        for n in 0..10_000 {
            tracker.register_settled(numbered(SECOND + n / 10, n as i32));
        }
        let window = Published::nothing(0).window;
        let published = Published::of(&tracker, 0, window, SECOND, i64::MAX);
        assert!(published.recent.len() <= RECENT_ROWS + 10);
        let all = published.summary.count() + published.recent.len() as u64;
        assert_eq!(all, 10_000);
    }
}
