//! Looking for dead letters without disturbing anybody.

use super::filter::Filter;
use super::store::{BUCKETS, Store, Walk, bucket};
use super::{DeadLetter, Error};

/// What a filter means, without payloads, key by key in the order of their events.
#[derive(Debug)]
pub struct Find<'s> {
    store: &'s Store,
    filter: &'s Filter,
    /// Tables and buckets that are still to be looked at, the next one last.
    places: Vec<(&'s str, i16)>,
    walk: Option<Walk>,
}

impl<'s> Find<'s> {
    /// Looks in these tables.
    pub fn new(store: &'s Store, tables: &'s [String], filter: &'s Filter) -> Self {
        let only = filter.key.as_ref().map(|key| bucket(key.as_bytes()));
        let buckets = move |table: &'s String| {
            let buckets = (0..BUCKETS).filter(move |one| only.is_none_or(|only| only == *one));
            buckets.map(move |bucket| (&**table, bucket))
        };
        let tables = tables.iter().filter(|table| filter.wants_table(table));
        let mut places: Vec<_> = tables.flat_map(buckets).collect();
        places.reverse();
        Self {
            store,
            filter,
            places,
            walk: None,
        }
    }

    /// The next one.
    ///
    /// # Errors
    ///
    /// When the table cannot be read.
    pub async fn next(&mut self) -> Result<Option<DeadLetter>, Error> {
        loop {
            if let Some(walk) = &mut self.walk {
                while let Some(letter) = walk.next().await? {
                    if self.filter.matches(&letter) {
                        return Ok(Some(letter));
                    }
                }
            }
            let Some((table, bucket)) = self.places.pop() else {
                return Ok(None);
            };
            self.walk = Some(self.store.walk(table, bucket).await?);
        }
    }
}
