//! Where the stream groups of a table stand: told by its source, read by whoever wants to know.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// One stream group that is not read to its end. Times are microseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupStanding {
    /// Its generation's timestamp, in milliseconds.
    pub generation: i64,
    /// The last token of its range.
    pub range_end: i64,
    /// Its streams.
    pub streams: u32,
    /// W: all at or before it is settled.
    pub watermark: i64,
    /// All at or before this has been read once.
    pub tail: i64,
}

/// All groups of a table at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableStanding {
    /// The groups, in no order.
    pub groups: Vec<GroupStanding>,
    /// How long the log keeps its rows; zero is for ever.
    pub log_ttl: Duration,
}

impl TableStanding {
    /// Generations that are read.
    pub fn generations(&self) -> usize {
        let mut seen: Vec<i64> = self.groups.iter().map(|group| group.generation).collect();
        seen.sort_unstable();
        seen.dedup();
        seen.len()
    }

    /// The least W.
    pub fn watermark(&self) -> Option<i64> {
        self.groups.iter().map(|group| group.watermark).min()
    }

    /// The tail that is furthest behind.
    pub fn tail(&self) -> Option<i64> {
        self.groups.iter().map(|group| group.tail).min()
    }
}

/// A place for the standing of one table. Empty until its source has begun to read.
#[derive(Debug, Default)]
pub struct Standing(Mutex<Option<TableStanding>>);

impl Standing {
    /// Tells how the table stands now; `groups` are those that are not read to their end.
    pub fn tell(&self, log_ttl: Duration, groups: impl Iterator<Item = GroupStanding>) {
        let mut standing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The same memory again: this is told once a second.
        let standing = standing.get_or_insert_default();
        standing.log_ttl = log_ttl;
        standing.groups.clear();
        standing.groups.extend(groups);
    }

    /// Looks at how the table stood last.
    pub fn look<T>(&self, look: impl FnOnce(&TableStanding) -> T) -> Option<T> {
        let standing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        standing.as_ref().map(look)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(generation: i64, watermark: i64, tail: i64) -> GroupStanding {
        GroupStanding {
            generation,
            range_end: 0,
            streams: 1,
            watermark,
            tail,
        }
    }

    #[test]
    fn a_table_stands_where_its_last_group_does() {
        let standing = Standing::default();
        assert_eq!(
            standing.look(TableStanding::watermark),
            None,
            "nothing was told"
        );
        let groups = [group(1, 50, 70), group(2, 40, 90), group(2, 60, 80)];
        standing.tell(Duration::from_secs(9), groups.into_iter());
        let look = |table: &TableStanding| (table.generations(), table.watermark(), table.tail());
        assert_eq!(standing.look(look), Some((2, Some(40), Some(70))));
        standing.tell(Duration::from_secs(9), std::iter::empty());
        assert_eq!(standing.look(look), Some((0, None, None)));
    }
}
