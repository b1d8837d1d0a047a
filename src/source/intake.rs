//! Where a source hands changes to.

use std::future::Future;
use std::sync::Arc;

use super::reader::LogReader;
use crate::ack::Ack;
use crate::config::{Follow, Outbox};
use crate::decode::{Decoder, MappingError};
use crate::event::{Change, TableId};
use crate::pipeline::{Closed, Handle, PublishIntake, Taken};
use crate::route::Router;
use crate::telemetry::metrics::Metrics;

/// Takes the changes of one table, in the order of each stream of the log.
pub trait Intake: Clone + Send + Sync + 'static {
    /// Takes a change; may wait, and the reader of its stream group waits too. Whoever makes the
    /// change durable settles `ack`.
    fn take(
        &mut self,
        change: &Change,
        ack: Ack,
    ) -> impl Future<Output = Result<Taken, Closed>> + Send;
}

/// Makes intakes for a table as it looks now; asked again when the table was altered.
pub trait OpenIntake: Send + Sync + 'static {
    /// What it makes.
    type Intake: Intake;

    /// An intake for the columns that `reader` gives.
    ///
    /// # Errors
    ///
    /// When the table lacks a column that is mapped, or it has an unusable type.
    fn open(&self, reader: &LogReader) -> Result<Self::Intake, MappingError>;
}

impl Intake for PublishIntake {
    async fn take(&mut self, change: &Change, ack: Ack) -> Result<Taken, Closed> {
        PublishIntake::take(self, change, ack).await
    }
}

/// The part of `follow.tracked_positions` that one stream group may use to recognise repetitions.
const SHARE: usize = 200;

/// Opens the intake that publishes: decode, route, pipeline.
#[derive(Debug)]
pub struct Publish {
    /// The outbox's id.
    pub table: TableId,
    /// Its configuration.
    pub outbox: Arc<Outbox>,
    /// The pipeline's permits.
    pub handle: Handle,
    /// The relay's counters.
    pub metrics: Arc<Metrics>,
    /// How rows that repeat an event are recognised.
    pub follow: Follow,
}

impl OpenIntake for Publish {
    type Intake = PublishIntake;

    fn open(&self, reader: &LogReader) -> Result<PublishIntake, MappingError> {
        let types = reader.column_types();
        let decoder = Decoder::new(&self.outbox, &types)?;
        let intake = PublishIntake::new(
            self.table,
            &self.outbox.table.to_string(),
            types.into(),
            Arc::new(decoder),
            Router::new(&self.outbox),
            self.handle.clone(),
            Arc::clone(&self.metrics),
        );
        if !self.follow.deduplicate {
            return Ok(intake);
        }
        let window = i64::try_from(self.follow.late_window.as_micros()).unwrap_or(i64::MAX);
        let limit = self.follow.tracked_positions.get().div_ceil(SHARE);
        Ok(intake.without_repetitions(window, limit))
    }
}
