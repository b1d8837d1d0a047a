//! Looking for dead letters without disturbing anybody.

use super::filter::Filter;
use super::store::{BUCKETS, Store, bucket};
use super::{DeadLetter, Error};

/// Looks at what the filter means, without payloads and key by key, until `each` says no.
///
/// # Errors
///
/// When the table cannot be read, or `each` fails.
pub async fn each<E: From<Error>>(
    store: &Store,
    tables: &[String],
    filter: &Filter,
    mut each: impl AsyncFnMut(DeadLetter) -> Result<bool, E>,
) -> Result<(), E> {
    let only = filter.key.as_ref().map(|key| bucket(key.as_bytes()));
    for table in tables.iter().filter(|table| filter.wants_table(table)) {
        for bucket in (0..BUCKETS).filter(|bucket| only.is_none_or(|only| only == *bucket)) {
            let mut walk = store.walk(table, bucket).await?;
            while let Some(letter) = walk.next().await? {
                if filter.matches(&letter) && !each(letter).await? {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// So many of what the filter means, and whether there are more.
///
/// # Errors
///
/// When the table cannot be read.
pub async fn first(
    store: &Store,
    tables: &[String],
    filter: &Filter,
    limit: usize,
) -> Result<(Vec<DeadLetter>, bool), Error> {
    let (mut found, mut more) = (Vec::new(), false);
    for table in tables.iter().filter(|table| filter.wants_table(table)) {
        let only = filter.key.as_ref().map(|key| bucket(key.as_bytes()));
        for bucket in (0..BUCKETS).filter(|bucket| only.is_none_or(|only| only == *bucket)) {
            let mut walk = store.walk(table, bucket).await?;
            while let Some(letter) = walk.next().await? {
                if !filter.matches(&letter) {
                    continue;
                }
                more = found.len() == limit;
                if more {
                    return Ok((found, more));
                }
                found.push(letter);
            }
        }
    }
    Ok((found, more))
}
