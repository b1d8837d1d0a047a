//! From a change of the log to a delivery.
//!
//! Joins decode, route and the permits for one outbox table.

use std::sync::Arc;

use scylla::frame::response::result::ColumnType;

use super::seen::Seen;
use super::{Broken, Closed, Delivery, Handle};
use crate::ack::Ack;
use crate::dead_letters::{KeptRow, Label};
use crate::decode::{Decision, Decoder, Reason, SkipReason};
use crate::event::{Change, TableId};
use crate::route::{Router, Unroutable};
use crate::telemetry::metrics::{Metrics, TableMetrics};

/// A row that should be an event and cannot be published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unpublishable {
    /// It is no event.
    #[error(transparent)]
    Undecodable(#[from] Reason),
    /// It has no topic.
    #[error(transparent)]
    Unroutable(#[from] Unroutable),
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// On its way; the delivery report settles it.
    Submitted,
    /// No event; settled.
    Skipped,
    /// It should be an event, and cannot be published. Nobody will settle it.
    Unpublishable,
}

/// Takes the changes of one outbox table, in the order of the log, and submits the events.
#[derive(Debug, Clone)]
pub struct PublishIntake {
    table: TableId,
    name: Arc<str>,
    /// Of the changes: what is kept of a row that cannot be published is serialised with them.
    types: Arc<[(String, ColumnType<'static>)]>,
    decoder: Arc<Decoder>,
    router: Router,
    handle: Handle,
    metrics: Arc<Metrics>,
    counts: Arc<TableMetrics>,
    /// What was handed on lately, unless repetitions are to be published.
    seen: Option<Seen>,
}

impl PublishIntake {
    /// An intake for the outbox `table`, called `name` in logs, whose changes have columns of
    /// these `types`.
    pub fn new(
        table: TableId,
        name: &str,
        types: Arc<[(String, ColumnType<'static>)]>,
        decoder: Arc<Decoder>,
        router: Router,
        handle: Handle,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            table,
            counts: metrics.table(name),
            name: Arc::from(name),
            types,
            decoder,
            router,
            handle,
            metrics,
            seen: None,
        }
    }

    /// Publishes an event once that is in the log twice, within `window` microseconds and as far as
    /// `limit` events of a stream group can be remembered.
    #[must_use]
    pub fn without_repetitions(mut self, window: i64, limit: usize) -> Self {
        self.seen = Some(Seen::new(window, limit));
        self
    }

    /// Submits the change if it is an event, waiting for permits. What is none is settled at once.
    ///
    /// A row that cannot be published is counted, reported in the log, and becomes a dead letter in
    /// its key's order.
    ///
    /// Not cancel safe, as [`Handle::submit`].
    pub async fn take(&mut self, change: &Change, ack: Ack) -> Result<Taken, Closed> {
        let record = match self.decoder.decode(change) {
            Decision::Event(event) => {
                let label = Label {
                    event_id: event.id.clone(),
                    event_type: event.event_type.clone(),
                };
                let routed = self.router.route(event).map_err(Unpublishable::from);
                routed.map(|record| (record, label))
            }
            Decision::Skip(reason) => {
                self.skipped(reason);
                ack.settle();
                return Ok(Taken::Skipped);
            }
            Decision::Undecodable(reason) => Err(Unpublishable::from(reason)),
        };
        match record {
            Ok((record, label)) => {
                let micros = change.position.micros();
                let seen = self.seen.as_mut();
                let repeats = seen.is_some_and(|seen| seen.repeats(&record, micros));
                if repeats {
                    self.metrics.repetitions.add(1);
                    ack.settle();
                    return Ok(Taken::Skipped);
                }
                self.metrics.events.add(1);
                self.counts.events.add(1);
                let delivery = Delivery {
                    table: self.table,
                    record,
                    label,
                    ack,
                    read_at: change.read_at,
                };
                self.handle.submit(delivery).await?;
                Ok(Taken::Submitted)
            }
            Err(reason) => {
                self.metrics.undecodable.add(1);
                tracing::warn!(
                    table = %self.name,
                    time = %change.position.time,
                    seq = change.position.seq,
                    %reason,
                    "a row cannot be published and becomes a dead letter"
                );
                let (label, key) = self.decoder.outline(change);
                let broken = Broken {
                    table: self.table,
                    key: key.unwrap_or_default(),
                    label,
                    reason: reason.to_string(),
                    row: KeptRow::of(change, &self.types),
                    ack,
                    read_at: change.read_at,
                };
                self.handle.submit_broken(broken).await?;
                Ok(Taken::Submitted)
            }
        }
    }

    fn skipped(&self, reason: SkipReason) {
        self.metrics.skipped.add(1);
        match reason {
            SkipReason::PartialUpdate => self.metrics.skipped_updates.add(1),
            SkipReason::Delete => self.metrics.skipped_deletes.add(1),
            SkipReason::Image => self.metrics.skipped_images.add(1),
        }
    }
}
