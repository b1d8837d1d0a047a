//! CDC streams on request: generations, and the stream sets of tables with tablets.

use std::sync::Arc;
use std::time::Duration;

use super::Emulator;
use crate::cluster::generations::Generation;
use crate::cluster::tablets::{Resize, StreamSet, TabletError};

/// How far ahead of now [`Emulator::new_generation`] makes the new streams valid, and splitting or merging tablets, too.
pub const GENERATION_DELAY: Duration = Duration::from_secs(2);

impl Emulator {
    /// Makes new CDC streams that are valid [`GENERATION_DELAY`] from now on.
    pub fn new_generation(&self) -> Arc<Generation> {
        self.new_generation_at(self.next_generation_ms())
    }

    /// Makes new CDC streams that are valid from a time on, in milliseconds since the epoch.
    pub fn new_generation_at(&self, timestamp_ms: i64) -> Arc<Generation> {
        self.shared.topology.new_generation_at(timestamp_ms)
    }

    /// Makes a generation late to publish: writes go to its streams from a time on (in milliseconds since the epoch),
    /// and readers see it listed only `delay` later.
    pub fn publish_generation_late(&self, timestamp_ms: i64, delay: Duration) -> Arc<Generation> {
        let delay_ms = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
        let listed_ms = timestamp_ms.saturating_add(delay_ms);
        self.shared
            .topology
            .generation_listed_at(timestamp_ms, listed_ms)
    }

    /// Splits each tablet of a table in two, with new streams that are valid [`GENERATION_DELAY`] from now on.
    pub fn split_tablets(
        &self,
        keyspace: &str,
        table: &str,
    ) -> Result<Arc<StreamSet>, TabletError> {
        self.split_tablets_at(keyspace, table, self.next_generation_ms())
    }

    /// Splits each tablet of a table in two, with new streams that are valid from a time on (in milliseconds since the
    /// epoch; later than the newest ones in any case).
    pub fn split_tablets_at(
        &self,
        keyspace: &str,
        table: &str,
        timestamp_ms: i64,
    ) -> Result<Arc<StreamSet>, TabletError> {
        self.resize(keyspace, table, Resize::Split, timestamp_ms)
    }

    /// Joins neighbouring tablets of a table, with new streams that are valid [`GENERATION_DELAY`] from now on.
    pub fn merge_tablets(
        &self,
        keyspace: &str,
        table: &str,
    ) -> Result<Arc<StreamSet>, TabletError> {
        self.merge_tablets_at(keyspace, table, self.next_generation_ms())
    }

    /// Joins neighbouring tablets of a table, with new streams that are valid from a time on, as
    /// [`split_tablets_at`](Self::split_tablets_at) does.
    pub fn merge_tablets_at(
        &self,
        keyspace: &str,
        table: &str,
        timestamp_ms: i64,
    ) -> Result<Arc<StreamSet>, TabletError> {
        self.resize(keyspace, table, Resize::Merge, timestamp_ms)
    }

    fn resize(
        &self,
        keyspace: &str,
        table: &str,
        resize: Resize,
        timestamp_ms: i64,
    ) -> Result<Arc<StreamSet>, TabletError> {
        let topology = &self.shared.topology;
        let random = topology.random();
        topology
            .tablets
            .resize(keyspace, table, resize, timestamp_ms, random)
    }

    /// Forgets the streams that had been closed at a time (in milliseconds since the epoch), of tables with tablets
    /// and of the cluster's generations alike, as ScyllaDB does when the log's TTL has passed since. Says how many
    /// stream sets and generations went. Log rows stay until they expire.
    pub fn forget_streams_before(&self, timestamp_ms: i64) -> usize {
        let topology = &self.shared.topology;
        topology.tablets.forget_before(timestamp_ms)
            + topology.generations.forget_before(timestamp_ms)
    }

    /// Lets a node's view of the streams of tables with tablets (`system.cdc_timestamps`, `system.cdc_streams`) lag:
    /// until it is released with `false`, it shows no stream set that is published later than this call or begins
    /// later.
    pub fn lag_node_view(&self, node: usize, lag: bool) {
        let topology = &self.shared.topology;
        topology.tablets.lag(node, lag, topology.now_ms());
    }

    fn next_generation_ms(&self) -> i64 {
        self.shared.topology.now_ms() + GENERATION_DELAY.as_millis() as i64
    }
}
