//! Records to Kafka, through librdkafka.
//!
//! Owns the producer and its properties. Invariants:
//!
//! 1. The producer is idempotent with `acks=all`; what this rests on ([`GUARDED_PROPERTIES`])
//!    cannot be changed by configuration.
//! 2. `send` is called from one place and hands over at once; nothing here retries or reorders.
//!    (The future-based producer would wait and retry by itself while its queue is full, and
//!    concurrent sends could swap.)
//! 3. An attempt ends within `retry.attempt_timeout`: it is librdkafka's `message.timeout.ms`.
//!
//! Deliberately absent: a decision about failures ([`super::error`] and the pipeline have it).

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{
    BaseRecord, DeliveryResult, Producer, ProducerContext, PurgeConfig, ThreadedProducer,
};

use super::{Appended, DeliveryError, OpenError, Reporter, SendError, Sink};
use crate::config;
use crate::event::Record;

/// Properties that belong to the relay. The first name of each row is what it sets.
pub const GUARDED_PROPERTIES: &[&str] = &[
    "bootstrap.servers",
    "metadata.broker.list",
    "enable.idempotence",
    "enable.gapless.guarantee",
    "acks",
    "request.required.acks",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "message.timeout.ms",
    "delivery.timeout.ms",
    "transactional.id",
];

/// How long records are gathered into a batch. Latency comes first: while requests are under way,
/// batches fill by themselves. `linger.ms` under `kafka.properties` changes it.
const LINGER: &str = "2";

type Inner = ThreadedProducer<Context>;

/// Publishes to Kafka.
pub struct KafkaSink {
    properties: ClientConfig,
    producer: Option<Inner>,
}

impl std::fmt::Debug for KafkaSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaSink")
            .field("open", &self.producer.is_some())
            .finish_non_exhaustive()
    }
}

impl KafkaSink {
    /// A sink that is not open yet. Fails if librdkafka does not know a property or its value.
    pub fn new(config: &config::Config) -> Result<Self, OpenError> {
        let properties = producer_properties(config);
        properties
            .create_native_config()
            .map_err(OpenError::Producer)?;
        Ok(Self {
            properties,
            producer: None,
        })
    }
}

/// All properties of the producer: our defaults, the user's, then what the guarantees rest on.
pub fn producer_properties(config: &config::Config) -> ClientConfig {
    let mut properties = ClientConfig::new();
    let events = config.limits.in_flight_events.get().min(i32::MAX as usize);
    // The permits bound what is in flight; the producer's own queue must never be the tighter
    // bound, or its "queue full" would add pauses. A single event may exceed the budget.
    let kbytes = (config.limits.in_flight_bytes.get() / 512).clamp(1 << 20, i32::MAX as usize);
    properties
        .set("client.id", &config.relay.name)
        .set("partitioner", "murmur2_random")
        .set("linger.ms", LINGER)
        .set("queue.buffering.max.messages", events.to_string())
        .set("queue.buffering.max.kbytes", kbytes.to_string());
    for (name, value) in &config.kafka.properties {
        if !GUARDED_PROPERTIES.contains(&name.as_str()) {
            properties.set(name, value);
        }
    }
    let timeout = config
        .retry
        .attempt_timeout
        .as_millis()
        .clamp(10, i32::MAX as u128);
    properties
        .set("bootstrap.servers", config.kafka.brokers.join(","))
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("max.in.flight", "5")
        .set("message.timeout.ms", timeout.to_string())
        .set_log_level(RDKafkaLogLevel::Info);
    properties
}

impl Sink for KafkaSink {
    fn open(&mut self, reports: Reporter) -> Result<(), OpenError> {
        if let Some(old) = self.producer.take() {
            // What waits in its queue must not follow after what the new producer sends.
            old.purge(PurgeConfig::default().queue().inflight());
            discard(old);
        }
        let producer = Inner::from_config_and_context(&self.properties, Context { reports })
            .map_err(OpenError::Producer)?;
        self.producer = Some(producer);
        Ok(())
    }

    fn send(&mut self, token: u64, record: &Record) -> Result<(), SendError> {
        let Some(producer) = &self.producer else {
            return Err(SendError::Failed(DeliveryError::from_code(
                RDKafkaErrorCode::State,
            )));
        };
        let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
        for header in &record.headers {
            headers = headers.insert(Header {
                key: &header.name,
                value: header.value.as_ref().map(|v| &v[..]),
            });
        }
        let mut message: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(&record.topic, token as usize)
                .key(&record.key[..])
                .timestamp(record.timestamp_millis)
                .headers(headers);
        if let Some(payload) = &record.payload {
            message = message.payload(&payload[..]);
        }
        producer.send(message).map_err(|(error, _)| refused(&error))
    }

    fn close(&mut self, timeout: Duration) -> BoxFuture<'_, ()> {
        let Some(producer) = self.producer.take() else {
            return futures::future::ready(()).boxed();
        };
        let closing = tokio::task::spawn_blocking(move || {
            if let Err(error) = producer.flush(timeout) {
                tracing::warn!(%error, "flush the producer: some records have no answer");
            }
        });
        async move {
            if let Err(error) = closing.await {
                tracing::warn!(%error, "close the producer");
            }
        }
        .boxed()
    }
}

impl Drop for KafkaSink {
    fn drop(&mut self) {
        if let Some(producer) = self.producer.take() {
            discard(producer);
        }
    }
}

/// Ends a producer that nobody waits for. Its destructor waits for its threads, some hundred
/// milliseconds, so it runs on a thread of its own.
fn discard(producer: Inner) {
    let spawned = std::thread::Builder::new()
        .name("producer-discard".to_owned())
        .spawn(move || drop(producer));
    if let Err(error) = spawned {
        tracing::warn!(%error, "start a thread to end the old producer; ended it in place");
    }
}

fn refused(error: &KafkaError) -> SendError {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::QueueFull) => SendError::QueueFull,
        _ => SendError::Failed(DeliveryError::from(error)),
    }
}

/// Receives what librdkafka has to say, on the producer's polling thread.
struct Context {
    reports: Reporter,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        use RDKafkaLogLevel as L;
        match level {
            L::Emerg | L::Alert | L::Critical | L::Error => {
                // What librdkafka calls an error (a lost connection) it also mends by itself.
                tracing::warn!(target: "librdkafka", facility, "{message}");
            }
            L::Warning => tracing::warn!(target: "librdkafka", facility, "{message}"),
            L::Notice | L::Info => tracing::info!(target: "librdkafka", facility, "{message}"),
            L::Debug => tracing::debug!(target: "librdkafka", facility, "{message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(target: "librdkafka", %error, "{reason}");
    }
}

impl ProducerContext for Context {
    /// The token. The relay runs on 64-bit targets, where nothing of it is lost.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, token: usize) {
        let result = match result {
            Ok(message) => Ok(Appended {
                partition: message.partition(),
                offset: message.offset(),
            }),
            Err((error, _)) => Err(DeliveryError::from(error)),
        };
        self.reports.report(token as u64, result);
    }
}

#[cfg(not(target_pointer_width = "64"))]
compile_error!("tokens travel through librdkafka as pointers: a 64-bit target is needed");

#[cfg(test)]
mod tests;
