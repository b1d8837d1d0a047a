//! How many dead letters wait, by reason, for the relay's metrics.
//!
//! Invariants:
//!
//! 1. They are counted at the start, after a change, and once more after that, since what is counted as a
//!    change may reach the table a little later; not while nothing changes.
//! 2. Counting takes at most one part in [`SHARE`] of the time, however many there are.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::store::{Error, Store};
use super::{Census, Reason};
use crate::runtime::Chain;
use crate::telemetry::metrics::Metrics;

/// Pause between two looks for changes, and so how old the numbers are at least.
const EVERY: Duration = Duration::from_secs(10);
/// The part of the time that counting may take.
const SHARE: u32 = 50;

/// Writes and removals so far: another number means that the table may hold something else.
fn changes(metrics: &Metrics) -> u64 {
    let counters = [
        &metrics.dead_letters_exhausted,
        &metrics.dead_letters_permanent,
        &metrics.dead_letters_undecodable,
        &metrics.dead_letters_parked,
        &metrics.replayed,
        &metrics.discarded,
    ];
    counters.iter().map(|counter| counter.get()).sum()
}

/// Counts until it is dropped. What cannot be read is counted at the next look.
pub(super) async fn keep(store: &Store, tables: &[String], metrics: &Arc<Metrics>) -> Infallible {
    let mut counted = None;
    let mut settled = false;
    loop {
        // Taken before: what changes meanwhile is counted again.
        let seen = changes(metrics);
        let began = Instant::now();
        let changed = counted != Some(seen);
        if changed || !settled {
            match count(store, tables).await {
                Ok(census) => {
                    show(&census, metrics);
                    counted = Some(seen);
                    settled = !changed;
                }
                Err(error) => {
                    tracing::debug!(error = %Chain(&error), "dead letters were not counted");
                }
            }
        }
        sleep(EVERY.max(began.elapsed() * (SHARE - 1))).await;
    }
}

async fn count(store: &Store, tables: &[String]) -> Result<Census, Error> {
    let mut census = Census::default();
    for table in tables {
        store.count(table, &mut census).await?;
    }
    Ok(census)
}

fn show(census: &Census, metrics: &Metrics) {
    let gauges = [
        (Reason::Exhausted, &metrics.stored_exhausted),
        (Reason::Permanent, &metrics.stored_permanent),
        (Reason::Undecodable, &metrics.stored_undecodable),
        (Reason::Parked, &metrics.stored_parked),
    ];
    for (reason, gauge) in gauges {
        gauge.set(census.of(reason));
    }
}
