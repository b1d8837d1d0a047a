//! The demo's consumer: reads every partition of one topic from its beginning.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::report::Arrival;

/// A consumer on a thread of its own, until it is dropped.
#[derive(Debug)]
pub(super) struct Consumer {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Consumer {
    /// Starts to read `topic`. What arrives comes out of the receiver.
    pub(super) fn start(
        brokers: &str,
        topic: &str,
        partitions: i32,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Arrival>)> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", "outbox-relay-demo")
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", "10")
            .create()
            .context("create the consumer")?;
        let mut assignment = TopicPartitionList::new();
        for partition in 0..partitions {
            assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
        }
        consumer
            .assign(&assignment)
            .context("assign the topic's partitions")?;
        let (sender, receiver) = mpsc::unbounded_channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("demo-consumer".into())
            .spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else {
                        continue;
                    };
                    let Some(event_id) = event_id(&message) else {
                        continue;
                    };
                    if sender
                        .send(Arrival {
                            event_id,
                            at: SystemTime::now(),
                        })
                        .is_err()
                    {
                        return;
                    }
                }
            })?;
        Ok((
            Self {
                stop,
                thread: Some(thread),
            },
            receiver,
        ))
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn event_id(message: &BorrowedMessage<'_>) -> Option<Uuid> {
    let headers = message.headers()?;
    let value = headers.iter().find(|header| header.key == "id")?.value?;
    Uuid::try_parse_ascii(value).ok()
}
