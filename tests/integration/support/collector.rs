//! Reads topics from the beginning, and remembers every record.
//!
//! While a broker is killed it must not read: librdkafka's consumer crashes when it is told of
//! several partitions of which one has no leader (confluentinc/librdkafka#5280). Producers, and so
//! the relay, have no such answers.

use super::kafka::PARTITIONS;
use super::{STALL, until};
use anyhow::{Context, Result};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A record as it lies in Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    /// When it was read here.
    pub(crate) arrived: Instant,
    pub(crate) key: Vec<u8>,
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
}

impl Record {
    /// The event's id, from its header.
    pub(crate) fn id(&self) -> String {
        self.headers
            .iter()
            .find(|(name, _)| name == "id")
            .map(|(_, value)| String::from_utf8_lossy(value).into_owned())
            .unwrap_or_default()
    }
}

/// How many records and how many different events have been read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) records: usize,
    pub(crate) events: usize,
}

/// Reads in the background until it is dropped.
pub(crate) struct Collector {
    consumer: Arc<StreamConsumer>,
    topics: Vec<String>,
    assignment: TopicPartitionList,
    records: Arc<Mutex<Vec<Record>>>,
    progress: watch::Receiver<Progress>,
    _reader: JoinSet<()>,
}

impl Collector {
    /// Starts to read all partitions of the topics, which must exist.
    pub(crate) fn start(bootstrap: &str, topics: &[String]) -> Result<Self> {
        let consumer: StreamConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("group.id", super::unique("collector"))
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", "20")
            .set("reconnect.backoff.max.ms", "500")
            .create()?;
        let mut assignment = TopicPartitionList::new();
        for topic in topics {
            for partition in 0..PARTITIONS {
                assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
            }
        }
        consumer.assign(&assignment)?;
        let consumer = Arc::new(consumer);
        let records = Arc::new(Mutex::new(Vec::new()));
        let (report, progress) = watch::channel(Progress::default());
        let mut reader = JoinSet::new();
        reader.spawn(read(Arc::clone(&consumer), Arc::clone(&records), report));
        Ok(Self {
            consumer,
            topics: topics.to_vec(),
            assignment,
            records,
            progress,
            _reader: reader,
        })
    }

    /// Asks the broker for nothing until [`Collector::resume`].
    pub(crate) fn pause(&self) -> Result<()> {
        Ok(self.consumer.pause(&self.assignment)?)
    }

    /// Reads on where it was.
    pub(crate) fn resume(&self) -> Result<()> {
        Ok(self.consumer.resume(&self.assignment)?)
    }

    /// What has been read so far.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Waits until `enough`; fails when no record arrives for a long time.
    pub(crate) async fn wait(&self, enough: impl Fn(Progress) -> bool) -> Result<Progress> {
        let mut progress = self.progress();
        loop {
            let now = *progress.borrow_and_update();
            if enough(now) {
                return Ok(now);
            }
            if let Ok(changed) = tokio::time::timeout(STALL, progress.changed()).await {
                changed.context("the collector ended")?;
                continue;
            }
            let held = self.held().await;
            // Not an error: what is dropped by a panic, such as a relay, shows its log.
            panic!(
                "nothing has arrived for {STALL:?}; so far {now:?}, and the topics hold {held:?}"
            );
        }
    }

    /// Waits until at least `count` different events have arrived of which this is true.
    pub(crate) async fn wait_for(&self, count: usize, of: impl Fn(&Record) -> bool) -> Result<()> {
        let enough = |_| {
            let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
            let these: HashSet<_> = records.iter().filter(|r| of(r)).map(Record::id).collect();
            these.len() >= count
        };
        self.wait(enough).await.map(drop)
    }

    /// How many records the topics hold now.
    async fn held(&self) -> Result<usize> {
        let (consumer, topics) = (Arc::clone(&self.consumer), self.topics.clone());
        tokio::task::spawn_blocking(move || held(&consumer, &topics)).await?
    }

    /// All records that the topics hold by now.
    pub(crate) async fn all(&self) -> Result<Vec<Record>> {
        let mut records = None;
        // A new topic, on a busy machine, has no leaders at once.
        until("every partition tells what it holds", async || {
            records = self.held().await.ok();
            Ok(records.is_some())
        })
        .await?;
        self.wait(|progress| records.is_some_and(|held| progress.records >= held))
            .await?;
        Ok(self
            .records
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone())
    }
}

fn held(consumer: &StreamConsumer, topics: &[String]) -> Result<usize> {
    let mut held = 0;
    for topic in topics {
        for partition in 0..PARTITIONS {
            let (low, high) =
                consumer.fetch_watermarks(topic, partition, Duration::from_secs(30))?;
            held += usize::try_from(high - low)?;
        }
    }
    Ok(held)
}

async fn read(
    consumer: Arc<StreamConsumer>,
    records: Arc<Mutex<Vec<Record>>>,
    report: watch::Sender<Progress>,
) {
    let mut seen = HashSet::new();
    loop {
        // Errors are those of a broker that is down or restarts: the client reconnects by itself.
        let Ok(message) = consumer.recv().await else {
            continue;
        };
        let record = record(&message);
        seen.insert(record.id());
        let mut records = records.lock().unwrap_or_else(PoisonError::into_inner);
        records.push(record);
        report.send_replace(Progress {
            records: records.len(),
            events: seen.len(),
        });
    }
}

fn record(message: &BorrowedMessage<'_>) -> Record {
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        headers
            .iter()
            .map(|header| {
                (
                    header.key.to_owned(),
                    header.value.unwrap_or_default().to_vec(),
                )
            })
            .collect()
    });
    Record {
        topic: message.topic().to_owned(),
        partition: message.partition(),
        arrived: Instant::now(),
        key: message.key().unwrap_or_default().to_vec(),
        payload: message.payload().map(<[u8]>::to_vec),
        headers,
    }
}
