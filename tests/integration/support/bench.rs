//! One case's database, topics, relay, traffic and collector.

use super::collector::{Collector, Record};
use super::database::Database;
use super::kafka::{self, Node, Proxied};
use super::oracle;
use super::relay::Relay;
use super::traffic::{Plan, Traffic, tables};
use super::unique;
use anyhow::Result;
use scylla::value::CqlTimestamp;
use std::collections::BTreeMap;

/// Events that a relay of the cases holds at most.
pub(crate) const IN_FLIGHT: usize = 400;

/// Everything that a case needs. The relay is not running yet.
pub(crate) struct Bench {
    /// The keyspace of the two tables, and the first part of the names of the topics.
    pub(crate) name: String,
    /// Topics of the two tables.
    pub(crate) topics: [String; 2],
    pub(crate) database: Database,
    pub(crate) relay: Relay,
    pub(crate) collector: Collector,
    pub(crate) traffic: Traffic,
}

/// Where a case differs from the plain one.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Setup<'a> {
    /// Where topics are made and read.
    pub(crate) direct: &'a str,
    /// The relay's way to the broker, if it is another one.
    pub(crate) relay_brokers: Option<&'a str>,
    /// The relay's way to the database, if it is another one.
    pub(crate) relay_database: Option<&'a str>,
    /// What of the relay's configuration is different or comes in addition.
    pub(crate) more: &'a str,
}

impl Bench {
    pub(crate) async fn new(bootstrap: &str) -> Result<Self> {
        Self::configured(bootstrap, "").await
    }

    /// As [`Bench::new`], with `more` in the relay's configuration.
    pub(crate) async fn configured(bootstrap: &str, more: &str) -> Result<Self> {
        let setup = Setup {
            direct: bootstrap,
            more,
            ..Setup::default()
        };
        Self::with(Database::start().await?, setup).await
    }

    /// A relay that reaches the broker through its proxy.
    pub(crate) async fn behind(broker: &Proxied, more: &str) -> Result<Self> {
        let setup = Setup {
            direct: broker.direct(),
            relay_brokers: Some(&broker.bootstrap()),
            more,
            ..Setup::default()
        };
        Self::with(Database::start().await?, setup).await
    }

    /// On the emulator, whatever else there is: only its clock can be set, and it fails on purpose.
    pub(crate) async fn emulated(broker: &kafka::Broker, more: &str) -> Result<Self> {
        let setup = Setup {
            direct: &broker.bootstrap,
            more,
            ..Setup::default()
        };
        Self::with(Database::emulator_only().await?, setup).await
    }

    pub(crate) async fn with(database: Database, setup: Setup<'_>) -> Result<Self> {
        let name = unique("case");
        let topics = ["order", "invoice"].map(|kind| format!("{name}.{kind}"));
        kafka::create_topics(setup.direct, &topics).await?;
        database.create_keyspace(&name).await?;
        let traffic = Traffic::new(&database, &name, topics.clone()).await?;
        let collector = Collector::start(setup.direct, &topics)?;
        let relay = Relay::with(&configuration(&name, &database.node, setup), setup.more)?;
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

    /// Kills the broker and starts it again.
    pub(crate) async fn kill_and_restart(&self, mut node: Node) -> Result<Node> {
        self.collector.pause()?;
        let restarted = tokio::task::spawn_blocking(move || {
            node.kill()?;
            node.restart()?;
            anyhow::Ok(node)
        });
        let node = restarted.await??;
        self.collector.resume()?;
        Ok(node)
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

    /// Waits until so many different events of the first table (`order`) or the second (`invoice`)
    /// have been published.
    pub(crate) async fn arrived_of(&self, kind: &str, events: usize) -> Result<()> {
        let topic = format!("{}.{kind}", self.name);
        let of = |record: &Record| record.topic == topic;
        self.collector.wait_for(events, of).await
    }

    /// How many events of the first table (`order`) or the second (`invoice`) were written.
    pub(crate) fn written_of(&self, kind: &str) -> usize {
        let topic = format!("{}.{kind}", self.name);
        let written = self.traffic.written();
        written.iter().filter(|write| write.topic == topic).count()
    }

    /// Writes `plan` and does not wait for the relay.
    pub(crate) async fn write(&self, plan: Plan) -> Result<()> {
        let ahead = usize::MAX / 2;
        let progress = self.collector.progress();
        self.traffic.write(Plan { ahead, ..plan }, progress).await
    }

    /// Waits until everything that was written has been published.
    pub(crate) async fn all_arrived(&self) -> Result<()> {
        self.arrived(self.traffic.written().len()).await
    }

    /// The stored watermarks by the id of their stream group, of the first table (`order`).
    pub(crate) async fn watermarks(&self) -> Result<BTreeMap<(CqlTimestamp, Vec<u8>), i64>> {
        let cql = format!(
            "SELECT source, generation, stream_group, watermark FROM relay_{}.checkpoints",
            self.name
        );
        let rows = self.database.session.query_unpaged(cql, ()).await?;
        let rows = rows.into_rows_result()?;
        let mut watermarks = BTreeMap::new();
        for row in rows.rows::<(String, CqlTimestamp, Vec<u8>, i64)>()? {
            let (source, generation, group, watermark) = row?;
            if source == tables(&self.name).0 {
                watermarks.insert((generation, group), watermark);
            }
        }
        Ok(watermarks)
    }

    /// Asserts that nothing is lost, invented, altered or reordered, and gives all records.
    pub(crate) async fn assert_delivered(&self, case: &str) -> Result<Vec<Record>> {
        let records = self.collector.all().await?;
        oracle::assert_delivered(case, &self.traffic.written(), &records);
        Ok(records)
    }
}

fn configuration(name: &str, node: &str, setup: Setup<'_>) -> String {
    let (orders, billing) = tables(name);
    let node = setup.relay_database.unwrap_or(node);
    let bootstrap = setup.relay_brokers.unwrap_or(setup.direct);
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
http: {{ listen: "" }}
"#
    )
}
