//! What is around a table: its generations of streams, and whether it is logged.

use std::sync::Arc;

use scylla::client::session::Session;

use super::Error;
use super::{Chain, Duration, OpenIntake, Running};
use crate::checkpoint::{GroupCheckpoint, GroupKey};
use crate::config::TableName;
use crate::scylla::{self as cluster, TableDescription};
use crate::source::generations::{self, Generations};
use crate::source::group::{Beginning, Group};
use crate::source::plan;

/// What a look at the table's surroundings has shown.
pub(super) struct Looked {
    timestamps: Result<Vec<i64>, generations::Error>,
    description: Result<Option<TableDescription>, cluster::Error>,
}

/// Looks around.
pub(super) async fn look(
    generations: Generations,
    session: Arc<Session>,
    table: TableName,
) -> Looked {
    Looked {
        timestamps: generations.timestamps().await,
        description: cluster::describe_table(&session, &table).await,
    }
}

impl<O: OpenIntake> Running<'_, O> {
    pub(super) async fn looked(&mut self, looked: Looked) {
        // Errors, and a table that is gone, are the reads' to tell.
        if let Ok(Some(description)) = &looked.description {
            self.written_to_log(description.cdc_enabled());
        }
        let updated = match looked.timestamps {
            Ok(listed) => self.update(&listed).await,
            Err(error) => Err(error.into()),
        };
        if updated.is_ok() && self.groups.iter().all(|group| group.closed) {
            // Nothing to read is as good as a read.
            self.context.progress.read();
        }
        if let Err(error) = updated {
            tracing::warn!(
                table = %self.context.outbox.table,
                error = %Chain(&error),
                "a look for new generations of streams has failed and will be repeated"
            );
        }
    }

    /// Whether writes to the table are logged. The reads do not see it: the log stays as it is.
    fn written_to_log(&mut self, logged: bool) {
        if logged == self.logged {
            return;
        }
        self.logged = logged;
        self.context.progress.logged(logged);
        let table = &self.context.outbox.table;
        if logged {
            tracing::info!(%table, "CDC is on again; what was written meanwhile is no event");
        } else {
            tracing::error!(
                %table,
                "CDC is off: what is written to the table now will never be published; run: \
                 ALTER TABLE {table} WITH cdc = {{'enabled': true}}"
            );
        }
    }

    /// Takes up generations that are new.
    pub(super) async fn update(&mut self, listed: &[i64]) -> Result<(), Error> {
        let ttl = self.log_ttl();
        let open = |generation: i64| {
            let of = |(key, group): (&GroupKey, &GroupCheckpoint)| {
                key.generation == generation && !group.closed
            };
            self.stored.iter().any(of)
        };
        let now = self.context.clock.now().wall;
        let needed = plan::needed(listed, self.start, ttl, now, open);
        let mut fresh = Vec::new();
        for timestamp in needed {
            if !self.plan.knows(timestamp) {
                fresh.push((timestamp, self.generations.groups(timestamp).await?));
            }
        }
        for (timestamp, groups) in fresh {
            if groups.is_empty() {
                continue;
            }
            self.add(timestamp, groups);
        }
        self.schedule_readable();
        Ok(())
    }

    /// How long the log keeps its rows; zero is for ever.
    pub(super) fn log_ttl(&self) -> Duration {
        let cdc = self.reader.description().cdc.as_ref();
        cdc.map_or(Duration::ZERO, |cdc| cdc.ttl)
    }

    fn add(&mut self, timestamp: i64, groups: Vec<generations::StreamGroup>) {
        let total = groups.len();
        let first = plan::first_watermark(timestamp, self.start);
        let now = self.context.clock.now();
        let mut parts = Vec::with_capacity(total);
        let mut ring = Vec::with_capacity(total);
        for group in groups {
            let key = GroupKey {
                generation: timestamp,
                group: group.id.clone(),
            };
            let checkpoint = self.stored.remove(&key);
            let checkpoint = checkpoint.as_ref();
            let closed = checkpoint.is_some_and(|checkpoint| checkpoint.closed);
            parts.push((group.range_end, closed));
            if closed {
                ring.push((group.range_end, None));
                continue;
            }
            let slot = self.groups.len() as u32;
            ring.push((group.range_end, Some(slot)));
            let bundle = self.join_bundle(timestamp, slot, group.streams.len(), now);
            let beginning = Beginning {
                generation: timestamp,
                group,
                checkpoint,
                first,
                bundle,
            };
            let group = Group::new(beginning, self.settings.clone(), &self.shared);
            self.groups.push(group);
        }
        self.rings.insert(timestamp, ring.into_iter().collect());
        self.plan.add(timestamp, parts);
        tracing::info!(
            table = %self.context.outbox.table,
            generation = timestamp,
            groups = total,
            "a generation of streams is taken up"
        );
    }
}
