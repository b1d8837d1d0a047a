//! Dead letters as the pipeline's task makes them, and its answers to who replays them.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::core::Burial;
use super::keeper::Kept;
use super::permits::{Admitted, Command, Content, Owner};
use super::publisher::Pipeline;
use crate::dead_letters::{DeadLetter, Reason};
use crate::telemetry::journey::End;

/// What the dead letter of an event of the outbox called `table` says; `None` for what is no row's.
pub fn letter(
    burial: &Burial<Admitted>,
    table: &str,
    now_millis: i64,
    stamp: i64,
) -> Option<DeadLetter> {
    let item = &burial.item;
    let Owner::Row(ack) = &item.owner else {
        return None;
    };
    let (record, row) = match &item.content {
        Content::Record(record) => (Some(record.clone()), None),
        Content::Broken { row, .. } => (None, Some(Arc::clone(row))),
    };
    Some(DeadLetter {
        table: table.to_owned(),
        key: item.key.clone(),
        place: ack.place(),
        label: item.label.clone(),
        reason: burial.reason,
        failure: burial.failure.clone(),
        parks: burial.parks,
        record,
        row,
        first_failed_millis: now_millis,
        last_failed_millis: now_millis,
        stamp,
        put_at: 0,
    })
}

impl Pipeline {
    /// Makes a dead letter of an event. Its row is settled when that is durable.
    pub(super) fn bury(&mut self, burial: Burial<Admitted>) {
        let Some(keeper) = &mut self.keeper else {
            // Without dead letters, the row of what cannot be published stays unsettled.
            return;
        };
        self.metrics.parked_keys.set(self.core.parked_keys() as u64);
        let table = self.tables.get(usize::from(burial.item.table.0));
        let table = table.map_or("", String::as_str);
        let Some(letter) = letter(&burial, table, now_millis(), keeper.stamp()) else {
            return;
        };
        if let Some(failure) = &letter.failure {
            self.failures.log_buried(&letter, failure, Instant::now());
        }
        keeper.take(burial.item, letter);
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
        self.tell(&admitted, End::DeadLetter(letter.reason.name()));
        self.core.kept(admitted, letter.parks);
    }

    pub(super) fn answer(&mut self, command: Command) {
        command.answer(&mut self.core);
        self.metrics.parked_keys.set(self.core.parked_keys() as u64);
    }
}

fn now_millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}
