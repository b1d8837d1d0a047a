//! A Kafka broker for the cases.
//!
//! One broker serves all cases that run at the same time; it is stopped with the last of them. A
//! case that breaks the network gets a proxy before it ([`proxied`]); one that stops or kills its
//! broker starts one of its own ([`Node`]).

mod container;
mod maven;

use crate::support::proxy::Proxy;
use crate::support::say;
use anyhow::{Context, Result, bail};
use rdkafka::ClientConfig;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::metadata::MetadataPartition;
use std::sync::{Arc, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

pub(crate) use maven::Node;

/// Partitions of every topic that a case creates.
pub(crate) const PARTITIONS: i32 = 6;

/// A broker and whatever keeps it alive.
pub(crate) struct Broker {
    /// `host:port`, or several of them separated by commas.
    pub(crate) bootstrap: String,
    source: Source,
    /// As many permits as there are numbers in `free`.
    listeners: Arc<Semaphore>,
    free: std::sync::Mutex<Vec<usize>>,
}

impl Broker {
    fn new(bootstrap: String, source: Source) -> Self {
        Self {
            bootstrap,
            source,
            listeners: Arc::new(Semaphore::new(maven::PROXIED)),
            free: std::sync::Mutex::new((0..maven::PROXIED).collect()),
        }
    }

    fn free(&self) -> MutexGuard<'_, Vec<usize>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node, if the broker is one of Maven's.
    pub(crate) fn node(&self) -> Option<&Node> {
        match &self.source {
            Source::Maven(node) => Some(node),
            Source::Given | Source::Container { .. } => None,
        }
    }
}

enum Source {
    Given,
    Container { _running: Box<container::Running> },
    Maven(Box<Node>),
}

/// A broker behind a proxy. The relay begins at the proxy, and all that the broker tells it leads
/// back there; who begins at [`Proxied::direct`] never meets the proxy.
pub(crate) struct Proxied {
    pub(crate) proxy: Proxy,
    /// Dropped after the proxy, which uses the listener's port.
    lease: Lease,
}

impl Proxied {
    /// `host:port` of the proxy.
    pub(crate) fn bootstrap(&self) -> String {
        self.proxy.address().to_string()
    }

    /// `host:port` of the broker.
    pub(crate) fn direct(&self) -> &str {
        &self.lease.broker.bootstrap
    }
}

/// A proxied listener of a broker, given back when it is dropped.
struct Lease {
    broker: Arc<Broker>,
    number: usize,
    _permit: OwnedSemaphorePermit,
}

impl Lease {
    async fn of(broker: Arc<Broker>) -> Result<Self> {
        let permit = Arc::clone(&broker.listeners).acquire_owned().await?;
        let number = broker.free().pop().context("a permit is a free listener")?;
        Ok(Self {
            broker,
            number,
            _permit: permit,
        })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.broker.free().push(self.number);
    }
}

/// The broker, or `None` after a printed line if there is none for `case`.
///
/// With `OUTBOX_RELAY_REQUIRE_KAFKA=1` a missing broker fails the case.
pub(crate) async fn broker(case: &str) -> Option<Arc<Broker>> {
    static SHARED: Mutex<Weak<Broker>> = Mutex::const_new(Weak::new());
    let mut shared = SHARED.lock().await;
    if let Some(broker) = shared.upgrade() {
        return Some(broker);
    }
    match start().await {
        Ok(broker) => {
            let broker = Arc::new(broker);
            *shared = Arc::downgrade(&broker);
            Some(broker)
        }
        Err(reason) => {
            skip(case, &reason);
            None
        }
    }
}

/// A broker with all the listeners of a [`Node`]: the shared one if it is such a node, else one of
/// the case's own.
pub(crate) async fn node_broker(case: &str) -> Option<Arc<Broker>> {
    let shared = broker(case).await?;
    if shared.node().is_some() {
        return Some(shared);
    }
    let node = own_node(case).await?;
    let broker = Broker::new(node.bootstrap(), Source::Maven(Box::new(node)));
    Some(Arc::new(broker))
}

/// A broker behind a proxy of the case's own, or `None` as for [`broker`].
pub(crate) async fn proxied(case: &str) -> Option<Proxied> {
    let broker = node_broker(case).await?;
    let lease = Lease::of(broker).await;
    let proxied = lease.and_then(|lease| {
        let node = lease
            .broker
            .node()
            .context("a node has proxied listeners")?;
        let proxy = node.proxy(lease.number)?;
        Ok(Proxied { proxy, lease })
    });
    match proxied {
        Ok(proxied) => Some(proxied),
        Err(reason) => {
            skip(case, &reason);
            None
        }
    }
}

/// A broker of the case's own, which can be killed and restarted; only Maven's can.
pub(crate) async fn own_node(case: &str) -> Option<Node> {
    let started = tokio::task::spawn_blocking(Node::mortal)
        .await
        .context("start a node")
        .and_then(|node| node);
    match started {
        Ok(node) => Some(node),
        Err(reason) => {
            skip(case, &reason);
            None
        }
    }
}

fn skip(case: &str, reason: &anyhow::Error) {
    assert!(
        std::env::var_os("OUTBOX_RELAY_REQUIRE_KAFKA").is_none_or(|value| value != "1"),
        "{case}: OUTBOX_RELAY_REQUIRE_KAFKA=1, but there is no broker: {reason:#}"
    );
    say(&format!(
        "skipped: {case}: no Kafka broker ({reason:#}); set KAFKA_BROKERS to use one"
    ));
}

async fn start() -> Result<Broker> {
    if let Ok(bootstrap) = std::env::var("KAFKA_BROKERS") {
        wait_until_ready(&bootstrap).await?;
        return Ok(Broker::new(bootstrap, Source::Given));
    }
    if let Ok((bootstrap, container)) = container::kafka().await {
        wait_until_ready(&bootstrap).await?;
        let source = Source::Container {
            _running: Box::new(container),
        };
        return Ok(Broker::new(bootstrap, source));
    }
    let node = tokio::task::spawn_blocking(Node::lasting).await??;
    Ok(Broker::new(node.bootstrap(), Source::Maven(Box::new(node))))
}

async fn wait_until_ready(bootstrap: &str) -> Result<()> {
    let bootstrap = bootstrap.to_owned();
    tokio::task::spawn_blocking(move || answers(&bootstrap, Duration::from_mins(2), || Ok(())))
        .await?
}

/// Waits until the broker answers a metadata request and all partitions have a leader; `alive` ends the wait early with an error.
fn answers(bootstrap: &str, patience: Duration, alive: impl Fn() -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + patience;
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("reconnect.backoff.max.ms", "200")
        .create()?;
    loop {
        alive()?;
        // A broker that comes back takes a moment to lead its partitions again.
        let led = |partitions: &[MetadataPartition]| partitions.iter().all(|p| p.leader() >= 0);
        let led = consumer
            .fetch_metadata(None, Duration::from_millis(500))
            .map(|metadata| {
                let topics = metadata.topics();
                !metadata.brokers().is_empty() && topics.iter().all(|t| led(t.partitions()))
            });
        match led {
            Ok(true) => return Ok(()),
            _ if Instant::now() < deadline => {}
            other => bail!("the broker at {bootstrap} does not answer: {other:?}"),
        }
    }
}

/// Sets one setting of a topic.
pub(crate) async fn set_topic(
    bootstrap: &str,
    topic: &str,
    setting: &str,
    value: &str,
) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .create()?;
    let alter = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(setting, value);
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
    for result in admin.alter_configs(&[alter], &options).await? {
        result.map_err(|(_, code)| anyhow::anyhow!("set {setting} of {topic}: {code}"))?;
    }
    Ok(())
}

/// Creates the topics with [`PARTITIONS`] partitions each.
pub(crate) async fn create_topics(bootstrap: &str, topics: &[String]) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .create()?;
    let new: Vec<_> = topics
        .iter()
        .map(|topic| NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(1)))
        .collect();
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
    for result in admin.create_topics(&new, &options).await? {
        result.map_err(|(topic, code)| anyhow::anyhow!("create topic {topic}: {code}"))?;
    }
    Ok(())
}
