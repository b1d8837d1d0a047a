//! Records to Kafka, through librdkafka.
//!
//! Owns the producer and its properties. Invariants:
//!
//! 1. The producer is idempotent with `acks=all`; what this rests on ([`GUARDED_PROPERTIES`])
//!    cannot be changed by configuration.
//! 2. `send` is called from one place and hands over at once; nothing here retries or reorders.
//!    (The future-based producer would wait and retry by itself while its queue is full, and
//!    concurrent sends could swap.)
//! 3. An attempt ends within `retry.attempt_timeout` (librdkafka's `message.timeout.ms`), about a
//!    second more where librdkafka only looks once a second; at once while it is known that no
//!    broker can be reached (its watch asks, [`super::reach`] decides).
//! 4. Once the producer is lost, no attempt fails with anything less.
//! 5. A record is only reported as too large or invalid when it was refused alone. Brokers judge
//!    batches: the first time, any record in one may be the culprit. It then travels once through a
//!    second producer that makes batches of one. No record of its key is in flight meanwhile.
//!
//! Deliberately absent: a decision about failures ([`super::error`] and the pipeline have it).

pub(crate) mod oauth;
mod watch;

#[cfg(feature = "tls")]
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Header, Message, OwnedHeaders};
use rdkafka::producer::{
    BaseRecord, DeliveryResult, Producer, ProducerContext, PurgeConfig, ThreadedProducer,
};

use self::oauth::Tokens;
use self::watch::Watch;
use super::{Appended, DeliveryError, Kind, OpenError, Reporter, SendError, Sink};
use crate::config;
use crate::event::Record;
use crate::runtime::health::Reporter as Health;

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

/// Pauses between attempts to connect, in milliseconds: a broker that is back is found soon.
/// Either property under `kafka.properties` replaces both.
const RECONNECT: [(&str, &str); 2] = [
    ("reconnect.backoff.ms", "50"),
    ("reconnect.backoff.max.ms", "500"),
];

/// How long a connection may take to be usable, in milliseconds, before it is begun anew: a host
/// that comes back is found within it. `kafka.properties` can change it.
const CONNECTION_SETUP: &str = "5000";

/// How long a topic may seem missing before it is, at most: librdkafka's own default.
const MAX_PROPAGATION_MS: u128 = 30_000;

/// How long there must be no connection before no broker counts as reachable: a tenth of
/// `retry.attempt_timeout`, within these. Less could mistake one broker's restart for an outage.
const MIN_PATIENCE: Duration = Duration::from_millis(100);
const MAX_PATIENCE: Duration = Duration::from_secs(1);

/// How large a record may be for the producer: what is too large is the broker's and the topic's to
/// say. librdkafka's own limit of 1,000,000 bytes is below the brokers' default of 1,048,588.
const LARGEST_RECORD: &str = "104857600";

type Inner = ThreadedProducer<Context>;

/// Publishes to Kafka.
pub struct KafkaSink {
    properties: ClientConfig,
    tokens: Tokens,
    /// How long there may be no connection until the brokers count as unreachable.
    patience: Duration,
    health: Option<Health>,
    open: Option<Open>,
}

/// What an open sink has.
struct Open {
    producers: Arc<Producers>,
    watch: Arc<Watch>,
    reports: Reporter,
}

/// The producers of one `open`.
struct Producers {
    main: Inner,
    /// Makes batches of one, for records whose batch was refused. Made when first needed.
    alone: OnceLock<Inner>,
}

impl std::fmt::Debug for KafkaSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaSink")
            .field("open", &self.open.is_some())
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
        let timeout = config.retry.attempt_timeout;
        Ok(Self {
            properties,
            tokens: Tokens::new(&config.kafka),
            patience: (timeout / 10).clamp(MIN_PATIENCE, MAX_PATIENCE),
            health: None,
            open: None,
        })
    }

    /// Tells `health` whether a broker can be reached: not before one has answered.
    #[must_use]
    pub fn with_health(mut self, health: Health) -> Self {
        health.failed("no broker has answered yet");
        self.health = Some(health);
        self
    }

    /// The producer that makes batches of one.
    fn alone<'a>(&self, open: &'a Open) -> Result<&'a Inner, DeliveryError> {
        if let Some(alone) = open.producers.alone.get() {
            return Ok(alone);
        }
        let mut properties = self.properties.clone();
        properties
            .set("batch.num.messages", "1")
            .set("linger.ms", "0");
        let context = Context {
            reports: open.reports.clone(),
            watch: Arc::clone(&open.watch),
            tokens: self.tokens.clone(),
            alone: true,
        };
        let alone = Inner::from_config_and_context(&properties, context).map_err(|error| {
            DeliveryError::from(&error).because(Kind::Other, Some(error.to_string().into()))
        })?;
        Ok(open.producers.alone.get_or_init(|| alone))
    }
}

impl Open {
    /// Ends producers that nobody waits for. Their destructors wait for their threads, some hundred
    /// milliseconds, so they run on a thread of their own.
    fn discard(self) {
        self.watch.close();
        for producer in self.producers.all() {
            // What waits in the queue must not follow after what a new producer sends.
            producer.purge(PurgeConfig::default().queue().inflight());
        }
        let spawned = std::thread::Builder::new()
            .name("producer-discard".to_owned())
            .spawn(move || drop(self));
        if let Err(error) = spawned {
            tracing::warn!(%error, "start a thread to end the old producer; ended it in place");
        }
    }
}

impl Producers {
    fn all(&self) -> impl Iterator<Item = &Inner> {
        std::iter::once(&self.main).chain(self.alone.get())
    }
}

/// All properties of the producer: our defaults, the user's, then what the guarantees rest on.
pub fn producer_properties(config: &config::Config) -> ClientConfig {
    let mut properties = ClientConfig::new();
    let events = config.limits.in_flight_events.get().min(i32::MAX as usize);
    // The permits bound what is in flight; the producer's own queue must never be the tighter
    // bound, or its "queue full" would add pauses. A single event may exceed the budget.
    let kbytes = (config.limits.in_flight_bytes.get() / 512).clamp(1 << 20, i32::MAX as usize);
    let timeout = config
        .retry
        .attempt_timeout
        .as_millis()
        .clamp(10, i32::MAX as u128);
    // A missing topic is to be named as such, not as a timeout. librdkafka looks once a second.
    let propagation = (timeout * 2 / 5).min(MAX_PROPAGATION_MS);
    let users = &config.kafka.properties;
    if !RECONNECT.iter().any(|(name, _)| users.contains_key(*name)) {
        for (name, value) in RECONNECT {
            properties.set(name, value);
        }
    }
    properties
        .set("socket.connection.setup.timeout.ms", CONNECTION_SETUP)
        .set("topic.metadata.propagation.max.ms", propagation.to_string())
        .set("client.id", &config.relay.name)
        .set("message.max.bytes", LARGEST_RECORD)
        .set("partitioner", "murmur2_random")
        .set("linger.ms", LINGER)
        .set("queue.buffering.max.messages", events.to_string())
        .set("queue.buffering.max.kbytes", kbytes.to_string());
    #[cfg(feature = "tls")]
    if wants_authorities(users)
        && let Some(system) = crate::tls::system_authorities()
    {
        properties.set("ssl.ca.location", system.display().to_string());
    }
    for (name, value) in users {
        if !GUARDED_PROPERTIES.contains(&name.as_str()) {
            properties.set(name, value);
        }
    }
    properties
        .set("bootstrap.servers", config.kafka.brokers.join(","))
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("max.in.flight", "5")
        .set("message.timeout.ms", timeout.to_string())
        .set_log_level(RDKafkaLogLevel::Info);
    properties
}

/// Whether there is TLS and nothing says whom to trust.
#[cfg(feature = "tls")]
fn wants_authorities(users: &BTreeMap<String, String>) -> bool {
    let protocol = users.get("security.protocol");
    let encrypted = protocol.is_some_and(|name| name.to_ascii_lowercase().ends_with("ssl"));
    let given = ["ssl.ca.location", "ssl.ca.pem", "ssl.providers"];
    encrypted && !given.iter().any(|name| users.contains_key(*name))
}

impl Sink for KafkaSink {
    fn open(&mut self, reports: Reporter) -> Result<(), OpenError> {
        if let Some(old) = self.open.take() {
            old.discard();
        }
        let watch = Arc::new(Watch::new(self.health.clone()));
        let context = Context {
            reports: reports.clone(),
            watch: Arc::clone(&watch),
            tokens: self.tokens.clone(),
            alone: false,
        };
        let main = Inner::from_config_and_context(&self.properties, context)
            .map_err(OpenError::Producer)?;
        let producers = Arc::new(Producers {
            main,
            alone: OnceLock::new(),
        });
        watch
            .start(&producers, self.patience)
            .map_err(OpenError::Watch)?;
        self.open = Some(Open {
            producers,
            watch,
            reports,
        });
        Ok(())
    }

    fn send(&mut self, token: u64, record: &Record) -> Result<(), SendError> {
        let Some(open) = &self.open else {
            return Err(SendError::Failed(DeliveryError::from_code(
                RDKafkaErrorCode::State,
            )));
        };
        if let Some(error) = open.watch.refusal() {
            return Err(SendError::Failed(error));
        }
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
        let alone = open.watch.take_alone(&record.topic, &record.key);
        let producer = if alone {
            self.alone(open)?
        } else {
            &open.producers.main
        };
        producer.send(message).map_err(|(error, _)| {
            let error = refused(&error);
            if alone && error == SendError::QueueFull {
                open.watch.set_alone(&record.topic, &record.key);
            }
            error
        })?;
        open.watch.uses(&record.topic);
        Ok(())
    }

    fn close(&mut self, timeout: Duration) -> BoxFuture<'_, ()> {
        let Some(open) = self.open.take() else {
            return futures::future::ready(()).boxed();
        };
        let closing = tokio::task::spawn_blocking(move || {
            let deadline = Instant::now() + timeout;
            open.watch.close();
            for producer in open.producers.all() {
                let left = deadline.saturating_duration_since(Instant::now());
                if let Err(error) = producer.flush(left) {
                    tracing::warn!(%error, "flush the producer: some records have no answer");
                }
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
        if let Some(open) = self.open.take() {
            open.discard();
        }
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
    watch: Arc<Watch>,
    tokens: Tokens,
    /// Whether this producer's batches are of one record.
    alone: bool,
}

impl Context {
    /// What an attempt failed of.
    fn failed(&self, error: &KafkaError, record: &BorrowedMessage<'_>) -> DeliveryError {
        let code = error
            .rdkafka_error_code()
            .unwrap_or(RDKafkaErrorCode::Unknown);
        let error = self.watch.judge(code);
        let of_a_batch = matches!(error.kind, Kind::TooLarge | Kind::InvalidRecord);
        if of_a_batch && !self.alone {
            let key = record.key().unwrap_or_default();
            self.watch.set_alone(record.topic(), key);
            return error.because(Kind::BatchRefused, None);
        }
        error
    }
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    /// Asked for with the login OAUTHBEARER only. An error reaches [`Self::error`] as a failed login.
    fn generate_oauth_token(
        &self,
        _: Option<&str>,
    ) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.tokens.give()
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        use RDKafkaLogLevel as L;
        match level {
            // The error callback and the delivery reports carry only the code behind a fatal error;
            // this line, which precedes both, alone says that it is one. (If it ever should not:
            // every later `send` is refused as fatal.)
            L::Emerg if facility == "FATAL" => {
                self.watch.lost(message);
                tracing::warn!(target: "librdkafka", facility, "{message}");
            }
            // What librdkafka calls an error (a lost connection) it also mends by itself. While no
            // broker can be reached, which the watch has said, every attempt to connect fails.
            L::Emerg | L::Alert | L::Critical | L::Error | L::Warning => {
                if facility == "FAIL" && self.watch.is_down() {
                    tracing::debug!(target: "librdkafka", facility, "{message}");
                } else {
                    tracing::warn!(target: "librdkafka", facility, "{message}");
                }
            }
            L::Notice | L::Info => tracing::info!(target: "librdkafka", facility, "{message}"),
            L::Debug => tracing::debug!(target: "librdkafka", facility, "{message}"),
        }
    }

    /// Called twice per error by the crate. librdkafka logs the same text.
    fn error(&self, error: KafkaError, reason: &str) {
        let code = error
            .rdkafka_error_code()
            .unwrap_or(RDKafkaErrorCode::Unknown);
        self.watch.complained(code, reason);
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
            Err((error, message)) => Err(self.failed(error, message)),
        };
        self.reports.report(token as u64, result);
    }
}

#[cfg(not(target_pointer_width = "64"))]
compile_error!("tokens travel through librdkafka as pointers: a 64-bit target is needed");

#[cfg(test)]
mod faults;
#[cfg(test)]
mod sasl;
#[cfg(test)]
mod tests;
