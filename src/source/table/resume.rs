//! Where a source begins: at the first start of its table, or after its checkpoints.

use std::collections::HashMap;
use std::time::Duration;

use super::{Error, SourceContext, micros};
use crate::checkpoint::{self, GroupCheckpoint, GroupKey};
use crate::config::Start;
use crate::runtime::Chain;
use crate::source::expiry::{self, Expiry};
use crate::source::reader::LogReader;

pub(super) type Stored = HashMap<GroupKey, GroupCheckpoint>;

/// Where to begin: the first start (saved at once if this is it) and the checkpoints. `listed` are the
/// generations that ScyllaDB lists.
pub(super) async fn resume<O>(
    context: &SourceContext<O>,
    reader: &LogReader,
    listed: &[i64],
) -> Result<(i64, Stored), Error> {
    let now = context.clock.now().wall;
    let ttl = reader
        .description()
        .cdc
        .as_ref()
        .map_or(Duration::ZERO, |cdc| cdc.ttl);
    let first = match context.config.follow.start {
        Start::Earliest if ttl.is_zero() => 0,
        Start::Earliest => now.saturating_sub(micros(ttl)),
        Start::Latest => now,
        Start::At(time) => time,
    };
    let Some(store) = &context.checkpoints else {
        return Ok((first, Stored::new()));
    };
    let table = &context.outbox.table;
    let loaded = store.load(table).await?;
    let start = if let Some(start) = loaded.start {
        start
    } else {
        store.save_start(table, first).await?;
        first
    };
    guard(context, &loaded, listed, now, ttl)?;
    let stored = loaded
        .groups
        .into_iter()
        .map(|group| (group.key.clone(), group));
    Ok((start, stored.collect()))
}

/// Refuses to go on as if nothing had happened when rows may have expired unread.
fn guard<O>(
    context: &SourceContext<O>,
    loaded: &checkpoint::Loaded,
    listed: &[i64],
    now: i64,
    ttl: Duration,
) -> Result<(), Error> {
    // ScyllaDB forgets a generation when the rows in its streams have expired: nobody can do anything
    // about it then.
    let open = loaded
        .groups
        .iter()
        .filter(|group| !group.closed && listed.contains(&group.key.generation));
    let Some(from) = open.map(|group| group.watermark).min() else {
        return Ok(());
    };
    if expiry::judge(from, now, ttl) != Expiry::Past {
        return Ok(());
    }
    let table = &context.outbox.table;
    let to = now.saturating_sub(micros(ttl));
    // Who began less than a TTL ago was not away for one: it may still be busy with the oldest rows
    // that the log had at its first start, and those expire before its eyes.
    let began = |at: i64| now.saturating_sub(at) < micros(ttl);
    if loaded.started_at.is_some_and(began) {
        tracing::error!(
            %table, from, to,
            "the relay first started when the log already had rows as old as its TTL, and has not \
             read them all: what was written between from and to (microseconds since the Unix \
             epoch) may have expired"
        );
        return Ok(());
    }
    let error = Error::Expired {
        table: table.clone(),
        ttl,
        from,
        to,
    };
    if !context.config.follow.accept_expired {
        return Err(error);
    }
    tracing::error!(error = %Chain(&error), "the loss is accepted by follow.accept_expired");
    Ok(())
}
