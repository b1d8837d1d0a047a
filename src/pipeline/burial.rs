//! What becomes a dead letter, and which keys are parked.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::Replayed;
use super::keeper::Kept;
use super::lanes::LaneId;
use super::permits::{Admitted, Command, Content, Owner};
use super::publisher::Pipeline;
use crate::config::OnPermanent;
use crate::dead_letters::{DeadLetter, Failure, Reason};

impl Pipeline {
    /// The head of the lane, which is in flight, will not be published from here.
    pub(super) fn give_up(
        &mut self,
        lane: LaneId,
        reason: Reason,
        mut failure: Failure,
        now: Instant,
    ) {
        let head = self.lanes.head(lane);
        if let Owner::Replay { attempts, .. } = head.owner {
            failure.attempts = failure.attempts.saturating_add(attempts);
            let head = self.lanes.acknowledged(lane);
            if let Owner::Replay { reply, .. } = head.owner {
                // A replay that has been given up does not need to know.
                drop(reply.send(Replayed::Failed(reason, failure)));
            }
            return;
        }
        let skips = reason != Reason::Exhausted && self.on_permanent == OnPermanent::Skip;
        let parked = self.parking.is_parked(head.table, &head.key);
        let room = skips || parked || self.parking.has_room();
        if self.keeper.is_none() || !room {
            // It holds its key: a later attempt may find Kafka, or room, again.
            let attempts = failure.attempts.max(1);
            return self.retry(lane, attempts, now);
        }
        if skips {
            let head = self.lanes.acknowledged(lane);
            return self.bury(head, reason, Some(failure), false);
        }
        let mut items = self.lanes.evicted(lane).into_iter();
        if let Some(head) = items.next() {
            self.parking.park(head.table, &head.key);
            self.bury(head, reason, Some(failure), true);
        }
        for item in items {
            match item.owner {
                Owner::Row(_) => self.join(item),
                // The lane of a parked key is its replay's alone; this one came a moment too soon.
                Owner::Replay { .. } => self.lanes.push((item.table, item.key.clone()), item),
            }
        }
    }

    /// Puts an event with the dead letters of its key, which is parked.
    pub(super) fn join(&mut self, item: Admitted) {
        match &item.content {
            Content::Record(_) => self.bury(item, Reason::Parked, None, true),
            Content::Broken { reason, .. } => {
                let failure = undecodable(reason);
                self.bury(item, Reason::Undecodable, Some(failure), true);
            }
        }
    }

    /// Makes a dead letter of an event. Its row is settled when that is durable.
    pub(super) fn bury(
        &mut self,
        item: Admitted,
        reason: Reason,
        failure: Option<Failure>,
        parks: bool,
    ) {
        let (Some(keeper), Owner::Row(ack)) = (&mut self.keeper, &item.owner) else {
            // Without dead letters, the row of what cannot be published stays unsettled.
            return;
        };
        if parks {
            self.parking.write_begins(item.table, &item.key);
        }
        self.metrics.parked_keys.set(self.parking.len() as u64);
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
        if letter.parks {
            self.parking.write_ended(admitted.table, &admitted.key);
        }
        match letter.reason {
            Reason::Exhausted => &self.metrics.dead_letters_exhausted,
            Reason::Permanent => &self.metrics.dead_letters_permanent,
            Reason::Undecodable => &self.metrics.dead_letters_undecodable,
            Reason::Parked => &self.metrics.dead_letters_parked,
        }
        .add(1);
        admitted.settle();
    }

    pub(super) fn answer(&mut self, command: Command) {
        // Who asked may have given up; then nobody needs the answer.
        match command {
            Command::Quiet { table, key, reply } => {
                let _ = reply.send(self.parking.quiet(table, &key));
            }
            Command::Release {
                table,
                key,
                since,
                reply,
            } => {
                let released = self.parking.release(table, &key, since);
                self.metrics.parked_keys.set(self.parking.len() as u64);
                let _ = reply.send(released);
            }
        }
    }
}

pub(super) fn undecodable(reason: &str) -> Failure {
    Failure {
        kind: Reason::Undecodable.name().to_owned(),
        message: reason.to_owned(),
        attempts: 0,
    }
}

fn now_millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}
