//! Dead letters as the pipeline's task makes them, and its answers to who replays them.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::core::Burial;
use super::keeper::Kept;
use super::permits::{Admitted, Command, Content, Owner};
use super::publisher::Pipeline;
use crate::dead_letters::{DeadLetter, Reason};

impl Pipeline {
    /// Makes a dead letter of an event. Its row is settled when that is durable.
    pub(super) fn bury(&mut self, burial: Burial<Admitted>) {
        let Burial {
            item,
            reason,
            failure,
            parks,
        } = burial;
        let (Some(keeper), Owner::Row(ack)) = (&mut self.keeper, &item.owner) else {
            // Without dead letters, the row of what cannot be published stays unsettled.
            return;
        };
        self.metrics.parked_keys.set(self.core.parked_keys() as u64);
        let now = now_millis();
        let (record, row) = match &item.content {
            Content::Record(record) => (Some(record.clone()), None),
            Content::Broken { row, .. } => (None, Some(Arc::clone(row))),
        };
        let letter = DeadLetter {
            table: self
                .tables
                .get(usize::from(item.table.0))
                .cloned()
                .unwrap_or_default(),
            key: item.key.clone(),
            place: ack.place(),
            label: item.label.clone(),
            reason,
            failure,
            parks,
            record,
            row,
            first_failed_millis: now,
            last_failed_millis: now,
            stamp: keeper.stamp(),
            put_at: 0,
        };
        if let Some(failure) = &letter.failure {
            self.failures.log_buried(&letter, failure, Instant::now());
        }
        keeper.take(item, letter);
    }

    pub(super) fn kept(&mut self, kept: Option<Kept>) {
        let Some(Kept { admitted, letter }) = kept else {
            return;
        };
        match letter.reason {
            Reason::Exhausted => &self.metrics.dead_letters_exhausted,
            Reason::Permanent => &self.metrics.dead_letters_permanent,
            Reason::Undecodable => &self.metrics.dead_letters_undecodable,
            Reason::Parked => &self.metrics.dead_letters_parked,
        }
        .add(1);
        self.core.kept(admitted, letter.parks);
    }

    pub(super) fn answer(&mut self, command: Command) {
        // Who asked may have given up; then nobody needs the answer.
        match command {
            Command::Quiet { table, key, reply } => {
                let _ = reply.send(self.core.quiet(table, &key));
            }
            Command::Release {
                table,
                key,
                since,
                reply,
            } => {
                let released = self.core.release(table, &key, since);
                self.metrics.parked_keys.set(self.core.parked_keys() as u64);
                let _ = reply.send(released);
            }
        }
    }
}

fn now_millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}
