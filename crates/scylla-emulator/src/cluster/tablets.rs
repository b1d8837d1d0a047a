//! Streams of tables in keyspaces with tablets: one stream per tablet, a history of stream sets per table.
//!
//! Invariants
//! 1. The tablets of a set cut the ring into equal parts, a power of two of them; a stream's token is the last token
//!    of its tablet, and a row's change is logged in the stream of the tablet that owns the row's token.
//! 2. The sets of a table are ordered by their timestamp and never change once they are published; splitting and
//!    merging make a new set, with new streams for every tablet.
//! 3. The newest set that had begun at a time is never forgotten for that time: what is written has a stream.
//! 4. A node that lags shows what it showed when that began, whatever is published meanwhile; writes through it go to
//!    the streams that are valid.
//!
//! Which node a tablet lives on is not modelled: all nodes answer from one storage.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use uuid::Uuid;

use super::generations::{MAX_GENERATIONS, StreamError, StreamId, index_at};
use super::token::Token;
use crate::hooks::{Random as _, SeededRandom};

/// Most tablets of a table.
pub const MAX_TABLETS: usize = 65_536;

/// The streams of a table, valid from a time on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSet {
    /// Valid from, in milliseconds since the epoch.
    pub timestamp_ms: i64,
    /// The stream of each tablet, in token order; never empty.
    pub streams: Vec<StreamId>,
}

impl StreamSet {
    /// A set for so many tablets, rounded up to a power of two.
    fn new(timestamp_ms: i64, tablets: usize, random: &SeededRandom) -> Self {
        let tablets = tablets.clamp(1, MAX_TABLETS).next_power_of_two();
        let streams = (1..=tablets as u128).map(|end| {
            let last = ((end << 64) / tablets as u128) - 1;
            StreamId::new(Token::from_biased(last as u64), 0, random.next_u64())
        });
        Self {
            timestamp_ms,
            streams: streams.collect(),
        }
    }

    /// The stream that a base row's change is logged in.
    pub fn stream_of(&self, token: Token) -> StreamId {
        let at = self
            .streams
            .partition_point(|stream| stream.token() < token);
        self.streams[at.min(self.streams.len() - 1)]
    }

    fn timestamp_micros(&self) -> i64 {
        self.timestamp_ms.saturating_mul(1_000)
    }
}

/// Why tablets were neither split nor merged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TabletError {
    /// There is no such table with CDC in a keyspace with tablets.
    #[error("no table {keyspace}.{table} with CDC in a keyspace with tablets")]
    UnknownTable {
        /// The keyspace.
        keyspace: String,
        /// The table.
        table: String,
    },
    /// The table has as many tablets as it can have.
    #[error("a table cannot have more than {MAX_TABLETS} tablets")]
    TooMany,
    /// The table has one tablet.
    #[error("the only tablet of a table cannot be merged")]
    OnlyOne,
}

/// What happens to the tablets of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resize {
    /// Each becomes two.
    Split,
    /// Neighbours become one.
    Merge,
}

/// The sets of a table.
#[derive(Debug)]
struct Table {
    keyspace: String,
    name: String,
    sets: Vec<Arc<StreamSet>>,
    /// When each set was published, in the order of all.
    numbers: Vec<u64>,
}

/// Up to what a node shows that lags.
#[derive(Debug, Clone, Copy)]
struct Lag {
    number: u64,
    now_ms: i64,
}

#[derive(Debug, Default)]
struct State {
    tables: HashMap<Uuid, Table>,
    lags: BTreeMap<usize, Lag>,
    published: u64,
}

impl State {
    fn publish(&mut self, table: Uuid, set: StreamSet) -> Option<Arc<StreamSet>> {
        self.published += 1;
        let table = self.tables.get_mut(&table)?;
        let set = Arc::new(set);
        table.sets.push(Arc::clone(&set));
        table.numbers.push(self.published);
        if table.sets.len() > MAX_GENERATIONS {
            table.forget(1);
        }
        Some(set)
    }
}

impl Table {
    fn forget(&mut self, oldest: usize) {
        self.sets.drain(..oldest);
        self.numbers.drain(..oldest);
    }
}

/// A table's names and its sets, oldest first.
pub type TableSets = (String, String, Vec<Arc<StreamSet>>);

/// The stream sets of all tables with tablets.
#[derive(Debug, Default)]
pub struct Tablets(RwLock<State>);

impl Tablets {
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the first streams of the tables (id, keyspace, name, tablets) that have none yet.
    pub(crate) fn add<'a>(
        &self,
        tables: impl IntoIterator<Item = (Uuid, &'a str, &'a str, usize)>,
        now_ms: i64,
        random: &SeededRandom,
    ) {
        let mut state = self.write();
        for (id, keyspace, name, tablets) in tables {
            if state.tables.contains_key(&id) {
                continue;
            }
            let table = Table {
                keyspace: keyspace.to_owned(),
                name: name.to_owned(),
                sets: Vec::new(),
                numbers: Vec::new(),
            };
            state.tables.insert(id, table);
            state.publish(id, StreamSet::new(now_ms, tablets, random));
        }
    }

    /// Forgets the tables that are not there any more.
    pub(crate) fn retain(&self, exists: impl Fn(&str, &str, Uuid) -> bool) {
        self.write()
            .tables
            .retain(|id, table| exists(&table.keyspace, &table.name, *id));
    }

    /// The stream for a base row with `token` and write timestamp `write` (microseconds); `None` for a table without
    /// tablets.
    pub(crate) fn stream_of(
        &self,
        table: Uuid,
        token: Token,
        write: i64,
        now: i64,
    ) -> Option<Result<StreamId, StreamError>> {
        let state = self.read();
        let sets = &state.tables.get(&table)?.sets;
        let at = index_at(sets, |set| set.timestamp_micros(), write, now);
        Some(at.map(|at| sets[at].stream_of(token)))
    }

    /// Publishes a set with twice or half as many tablets as the newest has. Its timestamp is later than the newest
    /// one's, whatever is asked for.
    pub(crate) fn resize(
        &self,
        keyspace: &str,
        table: &str,
        resize: Resize,
        timestamp_ms: i64,
        random: &SeededRandom,
    ) -> Result<Arc<StreamSet>, TabletError> {
        let unknown = || TabletError::UnknownTable {
            keyspace: keyspace.to_owned(),
            table: table.to_owned(),
        };
        let mut state = self.write();
        let mut known = state.tables.iter();
        let found = known.find(|(_, known)| known.keyspace == keyspace && known.name == table);
        let (id, newest) = found
            .and_then(|(id, known)| Some((*id, known.sets.last()?)))
            .ok_or_else(unknown)?;
        let count = match (resize, newest.streams.len()) {
            (Resize::Split, count) if count >= MAX_TABLETS => return Err(TabletError::TooMany),
            (Resize::Split, count) => count * 2,
            (Resize::Merge, 1) => return Err(TabletError::OnlyOne),
            (Resize::Merge, count) => count / 2,
        };
        let timestamp_ms = timestamp_ms.max(newest.timestamp_ms + 1);
        let set = StreamSet::new(timestamp_ms, count, random);
        state.publish(id, set).ok_or_else(unknown)
    }

    /// The sets of a table, oldest first; empty for a table without tablets.
    pub fn of(&self, keyspace: &str, table: &str) -> Vec<Arc<StreamSet>> {
        let state = self.read();
        let mut tables = state.tables.values();
        let found = tables.find(|known| known.keyspace == keyspace && known.name == table);
        found.map_or_else(Vec::new, |known| known.sets.clone())
    }

    /// What a node shows of all tables.
    pub(crate) fn seen_from(&self, node: usize) -> Vec<TableSets> {
        let state = self.read();
        let lag = state.lags.get(&node).copied();
        let tables = state.tables.values().map(|table| {
            let sets = table.sets.iter().zip(&table.numbers);
            let seen = sets.filter(|(set, number)| {
                lag.is_none_or(|lag| **number <= lag.number && set.timestamp_ms <= lag.now_ms)
            });
            let seen = seen.map(|(set, _)| Arc::clone(set)).collect();
            (table.keyspace.clone(), table.name.clone(), seen)
        });
        tables.collect()
    }

    /// Lets a node's view lag from now on, or lets it catch up.
    pub(crate) fn lag(&self, node: usize, lag: bool, now_ms: i64) {
        let mut state = self.write();
        if !lag {
            state.lags.remove(&node);
            return;
        }
        let number = state.published;
        state.lags.entry(node).or_insert(Lag { number, now_ms });
    }

    /// Forgets the sets that another one had replaced at this time; says how many.
    pub(crate) fn forget_before(&self, timestamp_ms: i64) -> usize {
        let mut forgotten = 0;
        for table in self.write().tables.values_mut() {
            let begun = table
                .sets
                .partition_point(|set| set.timestamp_ms <= timestamp_ms);
            let oldest = begun.saturating_sub(1);
            table.forget(oldest);
            forgotten += oldest;
        }
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Uuid = Uuid::from_u128(1);

    fn tablets(count: usize) -> (Tablets, SeededRandom) {
        let (tablets, random) = (Tablets::default(), SeededRandom::new(1));
        tablets.add([(ID, "ks", "t", count)], 1_000, &random);
        (tablets, random)
    }

    fn resize(tablets: &Tablets, resize: Resize, at: i64) -> Result<usize, TabletError> {
        let random = SeededRandom::new(2);
        let set = tablets.resize("ks", "t", resize, at, &random)?;
        Ok(set.streams.len())
    }

    #[test]
    fn tablets_are_equal_parts_that_end_at_their_streams_token() {
        let (tablets, _) = tablets(3);
        let set = &tablets.of("ks", "t")[0];
        let tokens: Vec<i64> = set.streams.iter().map(|stream| stream.token().0).collect();
        assert_eq!(tokens, [-(1 << 62) - 1, -1, (1 << 62) - 1, i64::MAX]);
        for (index, token) in [i64::MIN + 1, -(1 << 62), 0, 1 << 62]
            .into_iter()
            .enumerate()
        {
            assert_eq!(set.stream_of(Token(token)), set.streams[index]);
            assert_eq!(set.stream_of(Token(tokens[index])), set.streams[index]);
        }
        let stream = set.streams[1];
        assert_eq!((stream.vnode(), stream.0[15] & 0xf), (0, 1));
    }

    #[test]
    fn a_split_doubles_and_a_merge_halves() {
        let (tablets, _) = tablets(1);
        assert_eq!(
            resize(&tablets, Resize::Merge, 0),
            Err(TabletError::OnlyOne)
        );
        assert_eq!(resize(&tablets, Resize::Split, 0), Ok(2));
        assert_eq!(resize(&tablets, Resize::Split, 5_000), Ok(4));
        assert_eq!(resize(&tablets, Resize::Merge, 6_000), Ok(2));
        let times: Vec<i64> = tablets
            .of("ks", "t")
            .iter()
            .map(|set| set.timestamp_ms)
            .collect();
        assert_eq!(times, [1_000, 1_001, 5_000, 6_000]);
        assert!(
            tablets
                .resize("ks", "u", Resize::Split, 0, &SeededRandom::new(1))
                .is_err()
        );
    }

    #[test]
    fn a_write_goes_to_the_set_of_its_timestamp() {
        let (tablets, _) = tablets(1);
        resize(&tablets, Resize::Split, 3_000).unwrap();
        let sets = tablets.of("ks", "t");
        let at = |write, now| tablets.stream_of(ID, Token(0), write, now).unwrap();
        assert_eq!(at(2_999_999, 2_000_000), Ok(sets[0].streams[0]));
        assert_eq!(at(3_000_000, 2_000_000), Ok(sets[1].streams[1]));
        assert!(at(2_999_999, 3_000_000).is_err(), "closed");
        assert!(at(999_999, 1_000_000).is_err(), "before the first");
        assert!(tablets.stream_of(Uuid::nil(), Token(0), 0, 0).is_none());
    }

    #[test]
    fn a_node_that_lags_shows_neither_what_comes_nor_what_is_to_begin() {
        let (tablets, random) = tablets(1);
        resize(&tablets, Resize::Split, 3_000).unwrap();
        tablets.lag(1, true, 2_000);
        resize(&tablets, Resize::Split, 4_000).unwrap();
        tablets.add([(Uuid::from_u128(2), "ks", "u", 1)], 1_500, &random);
        tablets.lag(1, true, 9_000);
        let seen = |node| {
            let seen = tablets.seen_from(node).into_iter();
            seen.map(|(_, _, sets)| sets.len()).sum::<usize>()
        };
        assert_eq!((seen(0), seen(1)), (4, 1));
        tablets.lag(1, false, 9_000);
        assert_eq!(seen(1), 4);
    }

    #[test]
    fn the_set_that_was_valid_is_kept() {
        let (tablets, _) = tablets(1);
        resize(&tablets, Resize::Split, 3_000).unwrap();
        resize(&tablets, Resize::Split, 5_000).unwrap();
        assert_eq!(tablets.forget_before(2_999), 0);
        assert_eq!(tablets.forget_before(4_000), 1);
        assert_eq!(tablets.forget_before(9_000), 1);
        assert_eq!(tablets.of("ks", "t").len(), 1);
    }
}
