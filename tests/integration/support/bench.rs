//! One case's database, topics, relay, traffic and collector.

use super::collector::{Collector, Record};
use super::database::Database;
use super::kafka;
use super::oracle;
use super::relay::Relay;
use super::traffic::{Plan, Traffic, tables};
use super::unique;
use anyhow::Result;

/// Events that a relay of the cases holds at most.
pub(crate) const IN_FLIGHT: usize = 400;

/// Everything that a case needs. The relay is not running yet.
pub(crate) struct Bench {
    /// The keyspace of the outbox tables, and the relay's name.
    pub(crate) name: String,
    /// Topics of the two tables.
    pub(crate) topics: [String; 2],
    pub(crate) database: Database,
    pub(crate) relay: Relay,
    pub(crate) collector: Collector,
    pub(crate) traffic: Traffic,
}

impl Bench {
    pub(crate) async fn new(bootstrap: &str) -> Result<Self> {
        Self::with(bootstrap, |yaml| yaml).await
    }

    /// The same, with a configuration that `edit` has changed.
    pub(crate) async fn with(bootstrap: &str, edit: impl FnOnce(String) -> String) -> Result<Self> {
        let database = Database::start().await?;
        let name = unique("case");
        let topics = ["order", "invoice"].map(|kind| format!("{name}.{kind}"));
        kafka::create_topics(bootstrap, &topics).await?;
        database.create_keyspace(&name).await?;
        let traffic = Traffic::new(&database, &name, topics.clone()).await?;
        let collector = Collector::start(bootstrap, &topics)?;
        let relay = Relay::new(&edit(configuration(&name, &database.node, bootstrap)))?;
        relay.command(&["schema", "--apply"]).await?;
        Ok(Self {
            name,
            topics,
            database,
            relay,
            collector,
            traffic,
        })
    }

    /// Writes `plan` and waits until all of it has been published, with a relay that runs.
    pub(crate) async fn write_and_arrive(&self, plan: Plan) -> Result<()> {
        self.traffic.write(plan, self.collector.progress()).await?;
        self.arrived(self.traffic.written().len()).await
    }

    /// Waits until so many different events have been published.
    pub(crate) async fn arrived(&self, events: usize) -> Result<()> {
        let enough = self.collector.wait(|progress| progress.events >= events);
        enough.await.map(drop)
    }

    /// Asserts that nothing is lost, invented, altered or reordered, and gives all records.
    pub(crate) async fn assert_delivered(&self, case: &str) -> Result<Vec<Record>> {
        let records = self.collector.all().await?;
        oracle::assert_delivered(case, &self.traffic.written(), &records);
        Ok(records)
    }
}

fn configuration(name: &str, node: &str, bootstrap: &str) -> String {
    let (orders, billing) = tables(name);
    let brokers: Vec<String> = bootstrap.split(',').map(|b| format!("\"{b}\"")).collect();
    let brokers = brokers.join(", ");
    format!(
        r#"relay: {{ name: "{name}" }}
scylla: {{ nodes: ["{node}"], keyspace: relay_{name} }}
kafka: {{ brokers: [{brokers}] }}
outboxes:
  - table: {orders}
    topic: "{name}.{{aggregate_type}}"
  - table: {billing}
    preset: debezium
    topic: "{name}.{{aggregate_type}}"
limits: {{ in_flight_events: {IN_FLIGHT} }}
log: {{ level: info, format: json }}
"#
    )
}
