//! CDC generations: which streams exist from when on, and which of them a write goes to.
//!
//! Invariants
//! 1. Generations are ordered by their timestamp and never change once they are published.
//! 2. The vnodes of a generation cover the ring: vnode i is `(range_end of i-1, range_end of i]`, the first one wraps.
//! 3. A write with timestamp t goes to the generation valid at t. One that lies before the generation that is current
//!    now, or further than [`LEEWAY_MICROS`] in the future, is refused.
//!
//! Times are microseconds since the epoch for writes and milliseconds for generations, as on the wire.

use std::sync::{Arc, PoisonError, RwLock};

use super::sharding::{first_token_of_shard, shard_of};
use super::token::Token;
use crate::hooks::{Random as _, SeededRandom};

/// How far in the future a write's timestamp may lie.
pub const LEEWAY_MICROS: i64 = 5_000_000;

/// Generations kept; the oldest is forgotten when one more is published.
pub const MAX_GENERATIONS: usize = 1_000;

/// Identifies a stream: 64-bit token, 38 random bits, 22-bit vnode index, 4-bit version (1), all big-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub [u8; 16]);

impl StreamId {
    pub(super) fn new(token: Token, vnode: usize, random: u64) -> Self {
        const VERSION: u64 = 1;
        let low = (random << 26) | ((vnode as u64 & 0x3f_ffff) << 4) | VERSION;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&token.0.to_be_bytes());
        bytes[8..].copy_from_slice(&low.to_be_bytes());
        Self(bytes)
    }

    /// The token that places the stream on the ring.
    pub fn token(&self) -> Token {
        Token::of_stream(&self.0)
    }

    /// The index of the vnode that the stream belongs to.
    pub fn vnode(&self) -> usize {
        let low = u64::from_be_bytes(self.0[8..].try_into().unwrap_or_default());
        ((low >> 4) & 0x3f_ffff) as usize
    }
}

/// A vnode's streams, one for each shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vnode {
    /// Last token of the vnode.
    pub range_end: Token,
    /// Stream of shard 0, 1, …
    pub streams: Vec<StreamId>,
}

/// A set of streams that is valid from a time on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// Valid from, in milliseconds since the epoch.
    pub timestamp_ms: i64,
    /// Readers see it listed from this time on, in milliseconds since the epoch; writes go by `timestamp_ms` alone.
    pub listed_ms: i64,
    /// In order of `range_end`; never empty.
    pub vnodes: Vec<Vnode>,
}

impl Generation {
    /// Makes streams for the vnodes that end at `range_ends`, one for each of a node's `shards`.
    pub fn new(
        timestamp_ms: i64,
        mut range_ends: Vec<Token>,
        shards: u16,
        random: &SeededRandom,
    ) -> Self {
        range_ends.sort_unstable();
        range_ends.dedup();
        if range_ends.is_empty() {
            range_ends.push(Token(i64::MAX));
        }
        let last = range_ends[range_ends.len() - 1];
        let mut previous = last;
        let mut vnodes = Vec::with_capacity(range_ends.len());
        for (index, range_end) in range_ends.into_iter().enumerate() {
            let streams = (0..shards.max(1))
                .map(|shard| {
                    let token = stream_token(previous, range_end, shard, shards);
                    StreamId::new(token, index, random.next_u64())
                })
                .collect();
            vnodes.push(Vnode { range_end, streams });
            previous = range_end;
        }
        Self {
            timestamp_ms,
            listed_ms: i64::MIN,
            vnodes,
        }
    }

    /// Whether readers see it when the server's clock shows this time, in milliseconds.
    pub fn is_listed(&self, now_ms: i64) -> bool {
        self.listed_ms <= now_ms
    }

    /// The index of the vnode that owns a token.
    pub fn vnode_of(&self, token: Token) -> usize {
        let at = self.vnodes.partition_point(|vnode| vnode.range_end < token);
        if at == self.vnodes.len() { 0 } else { at }
    }

    /// The stream that a base row's change is logged in.
    pub fn stream_of(&self, token: Token) -> StreamId {
        let vnode = &self.vnodes[self.vnode_of(token)];
        let shard = shard_of(token, vnode.streams.len() as u16);
        vnode.streams[usize::from(shard).min(vnode.streams.len() - 1)]
    }

    /// Valid from, in microseconds since the epoch.
    pub fn timestamp_micros(&self) -> i64 {
        self.timestamp_ms.saturating_mul(1_000)
    }
}

/// The first token of `shard` in `(start, end]`; `end` when the shard owns none there.
fn stream_token(start: Token, end: Token, shard: u16, shards: u16) -> Token {
    let after = Token(start.0.wrapping_add(1));
    if start < end {
        return first_token_of_shard(after, shard, shards)
            .filter(|token| *token <= end)
            .unwrap_or(end);
    }
    // The range goes over the end of the ring.
    let first = Token(i64::MIN + 1);
    let before_wrap = if start.0 == i64::MAX {
        None
    } else {
        first_token_of_shard(after, shard, shards)
    };
    before_wrap
        .or_else(|| first_token_of_shard(first, shard, shards).filter(|token| *token <= end))
        .unwrap_or(end)
}

/// Why a write has no stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The timestamp lies more than [`LEEWAY_MICROS`] after the server's time.
    #[error(
        "cdc: attempted to get a stream \"from the future\" ({}; current server time: {}). With CDC you cannot send \
         writes with timestamps arbitrarily into the future, because we don't know what streams will be used at that \
         time.\nWe *do* allow sending writes into the near future, but our ability to do that is limited. If you \
         really must use your own timestamps, then make sure your clocks are well-synchronized  with the database's \
         clocks.",
        format_seconds(*.write),
        format_seconds(*.now)
    )]
    FromTheFuture {
        /// The write's timestamp, microseconds.
        write: i64,
        /// The server's time, microseconds.
        now: i64,
    },
    /// The timestamp lies before the generation that is current.
    #[error(
        "cdc: attempted to get a stream from an earlier generation than the currently used one. With CDC you cannot \
         send writes with timestamps too far into the past, because that would break consistency properties (write \
         timestamp: {}, current generation started at: {})",
        format_seconds(*.write),
        format_seconds(*.generation)
    )]
    EarlierGeneration {
        /// The write's timestamp, microseconds.
        write: i64,
        /// Start of the current generation, microseconds.
        generation: i64,
    },
    /// No generation has started yet.
    #[error(
        "cdc::metadata::get_stream: could not find any CDC stream (current time: {}). Are we in the middle of a \
         cluster upgrade?",
        format_seconds(*.now)
    )]
    NoGeneration {
        /// The server's time, microseconds.
        now: i64,
    },
}

/// Which of several sets of streams, oldest first, a write at `write` microseconds belongs to, when the server's clock
/// shows `now`. `start` is when a set begins, in microseconds.
pub(super) fn index_at<T>(
    sets: &[T],
    start: impl Fn(&T) -> i64,
    write: i64,
    now: i64,
) -> Result<usize, StreamError> {
    if write > now.saturating_add(LEEWAY_MICROS) {
        return Err(StreamError::FromTheFuture { write, now });
    }
    let started = |time: i64| sets.partition_point(|set| start(set) <= time);
    let current = started(now)
        .checked_sub(1)
        .ok_or(StreamError::NoGeneration { now })?;
    let generation = start(&sets[current]);
    if generation > write {
        return Err(StreamError::EarlierGeneration { write, generation });
    }
    Ok(started(write) - 1)
}

/// All generations of a cluster.
#[derive(Debug, Default)]
pub struct Generations {
    list: RwLock<Arc<Vec<Arc<Generation>>>>,
}

impl Generations {
    /// Publishes a generation. One with the same timestamp replaces the former.
    pub fn publish(&self, generation: Generation) -> Arc<Generation> {
        let generation = Arc::new(generation);
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let mut next: Vec<_> = list
            .iter()
            .filter(|known| known.timestamp_ms != generation.timestamp_ms)
            .cloned()
            .collect();
        let at = next.partition_point(|known| known.timestamp_ms < generation.timestamp_ms);
        next.insert(at, Arc::clone(&generation));
        if next.len() > MAX_GENERATIONS {
            next.remove(0);
        }
        *list = Arc::new(next);
        generation
    }

    /// All generations, oldest first.
    pub fn all(&self) -> Arc<Vec<Arc<Generation>>> {
        Arc::clone(&self.list.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The generation that a write at `write` microseconds belongs to, when the server's clock shows `now`.
    pub fn at(&self, write: i64, now: i64) -> Result<Arc<Generation>, StreamError> {
        let list = self.all();
        let at = index_at(
            &list,
            |generation| generation.timestamp_micros(),
            write,
            now,
        )?;
        Ok(Arc::clone(&list[at]))
    }

    /// Forgets the generations that another one had replaced at this time; says how many.
    pub(crate) fn forget_before(&self, timestamp_ms: i64) -> usize {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let begun = list.partition_point(|generation| generation.timestamp_ms <= timestamp_ms);
        let oldest = begun.saturating_sub(1);
        *list = Arc::new(list[oldest..].to_vec());
        oldest
    }
}

/// `2026/11/23 22:47:36`, UTC.
fn format_seconds(micros: i64) -> String {
    let seconds = micros.div_euclid(1_000_000);
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    format!(
        "{year:04}/{month:02}/{day:02} {:02}:{:02}:{:02}",
        of_day / 3_600,
        of_day / 60 % 60,
        of_day % 60
    )
}

/// Year, month and day of a number of days since 1970-01-01 in the proleptic Gregorian calendar.
pub(crate) fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn two_generations() -> Generations {
        let random = SeededRandom::new(1);
        let generations = Generations::default();
        for timestamp_ms in [20_000, 10_000] {
            generations.publish(Generation::new(
                timestamp_ms,
                vec![Token(0), Token(100)],
                2,
                &random,
            ));
        }
        generations
    }

    #[test]
    fn a_write_goes_to_the_generation_of_its_timestamp() {
        let generations = two_generations();
        assert_eq!(
            generations
                .at(12 * SECOND, 15 * SECOND)
                .unwrap()
                .timestamp_ms,
            10_000
        );
        assert_eq!(
            generations
                .at(21 * SECOND, 19 * SECOND)
                .unwrap()
                .timestamp_ms,
            20_000
        );
        assert_eq!(
            generations
                .at(20 * SECOND, 20 * SECOND)
                .unwrap()
                .timestamp_ms,
            20_000
        );
    }

    #[test]
    fn far_future_and_past_generations_are_refused() {
        let generations = two_generations();
        assert!(matches!(
            generations.at(26 * SECOND, 20 * SECOND),
            Err(StreamError::FromTheFuture { .. })
        ));
        assert!(generations.at(24 * SECOND, 20 * SECOND).is_ok());
        assert!(matches!(
            generations.at(15 * SECOND, 20 * SECOND),
            Err(StreamError::EarlierGeneration {
                generation: 20_000_000,
                ..
            })
        ));
        assert!(matches!(
            generations.at(9 * SECOND, 9 * SECOND),
            Err(StreamError::NoGeneration { .. })
        ));
    }

    #[test]
    fn a_stream_lies_in_its_vnode_and_shard() {
        let random = SeededRandom::new(3);
        let ends = (0..32).map(|_| Token(random.next_u64() as i64)).collect();
        let generation = Generation::new(0, ends, 4, &random);
        for (index, vnode) in generation.vnodes.iter().enumerate() {
            for (shard, stream) in vnode.streams.iter().enumerate() {
                assert_eq!(generation.vnode_of(stream.token()), index);
                assert_eq!(stream.vnode(), index);
                assert_eq!(stream.0[15] & 0xf, 1);
                assert_eq!(usize::from(shard_of(stream.token(), 4)), shard);
                assert_eq!(generation.stream_of(stream.token()), *stream);
            }
        }
    }

    #[test]
    fn seconds_are_formatted_as_dates() {
        assert_eq!(
            format_seconds(1_700_000_000 * SECOND),
            "2023/11/14 22:13:20"
        );
        assert_eq!(format_seconds(0), "1970/01/01 00:00:00");
        assert_eq!(format_seconds(951_782_400 * SECOND), "2000/02/29 00:00:00");
    }
}
