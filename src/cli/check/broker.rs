//! Kafka: can it be reached, and do the topics suit.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::client::{Client, OAuthToken};
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::metadata::{Metadata, MetadataBroker, MetadataTopic};
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};

use super::access;
use super::code::Code;
use super::finding::{Finding, Findings};
use super::topics::{self, Described, Settings};
use crate::config::{Config, Outbox, TopicPart};
use crate::sink::kafka::oauth::Tokens;
use crate::sink::kafka::producer_properties;

/// How long Kafka may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long what librdkafka has to say may take.
const POLL: Duration = Duration::from_millis(200);
/// Names of matching topics that are shown.
const SHOWN_TOPICS: usize = 3;
/// Topics of one template whose settings are looked at.
const DESCRIBED_TOPICS: usize = 20;

/// Looks at the cluster and at the topics of `outboxes`. Blocks.
pub(super) fn check(config: &Config, outboxes: &[Outbox]) -> Findings {
    let mut findings = Findings::default();
    let subject = format!("Kafka at {}", config.kafka.brokers.join(", "));
    let heard = Heard::new(config);
    let properties = producer_properties(config);
    let producer = match BaseProducer::from_config_and_context(&properties, heard.clone()) {
        Ok(producer) => producer,
        Err(error) => {
            let remedy = "correct kafka.properties";
            let message = format!("the producer cannot be made: {error}");
            findings.push(Finding::error(
                Code::KafkaConnection,
                subject,
                message,
                remedy,
            ));
            return findings;
        }
    };
    if heard.tokens.any() {
        // What asks for the login's token waits until it is polled, too.
        producer.poll(POLL);
    }
    // Asking for all topics, because asking for one may create it.
    match producer.client().fetch_metadata(None, PATIENCE) {
        Ok(metadata) => {
            let brokers = metadata.brokers().len();
            let nodes = if brokers == 1 { "broker" } else { "brokers" };
            let message = format!("answers; {brokers} {nodes}");
            findings.push(Finding::ok(Code::KafkaConnection, subject.clone(), message));
            let cluster =
                Cluster::describe(config, outboxes, producer.client(), &metadata, &properties);
            findings.push(topics::version(&subject, &cluster.described.broker));
            findings.push(topics::auto_creation(&subject, &cluster.described.broker));
            for outbox in outboxes {
                cluster.topics(outbox, &mut findings);
            }
        }
        Err(error) => {
            // What it has to say waits until it is polled.
            producer.poll(POLL);
            findings.push(unreachable(subject, &error, &heard));
        }
    }
    findings
}

fn unreachable(subject: String, error: &KafkaError, heard: &Heard) -> Finding {
    let reasons = heard.take();
    let reason = if reasons.is_empty() {
        error.to_string()
    } else {
        reasons.join("; ")
    };
    let known = super::login::remedy(&reason);
    let message = format!("does not answer within {} s: {reason}", PATIENCE.as_secs());
    let remedy = "start the broker, or correct kafka.brokers; with TLS or SASL, look at \
                  security.protocol and the credentials in kafka.properties; the brokers' advertised \
                  listeners must be reachable from here too";
    Finding::error(
        Code::KafkaConnection,
        subject,
        message,
        known.unwrap_or(remedy),
    )
}

/// What Kafka says of itself and of the topics.
struct Cluster<'m> {
    client: &'m Client<Heard>,
    metadata: &'m Metadata,
    /// The broker that is asked.
    broker: Option<i32>,
    described: Described,
    /// `message.max.bytes`, if a person has set it.
    largest: Option<u64>,
}

impl<'m> Cluster<'m> {
    fn describe(
        config: &Config,
        outboxes: &[Outbox],
        client: &'m Client<Heard>,
        metadata: &'m Metadata,
        properties: &ClientConfig,
    ) -> Self {
        let broker = metadata.brokers().first().map(MetadataBroker::id);
        let mut names: Vec<&str> = Vec::new();
        for outbox in outboxes {
            let of = fitting(outbox, metadata).take(DESCRIBED_TOPICS);
            names.extend(of.map(MetadataTopic::name));
        }
        names.sort_unstable();
        names.dedup();
        let set = ["message.max.bytes", "max.request.size"];
        let users = &config.kafka.properties;
        let largest = set.iter().find_map(|name| users.get(*name));
        Self {
            described: topics::describe(properties, broker, &names, PATIENCE),
            client,
            metadata,
            broker,
            largest: largest.and_then(|value| value.parse().ok()),
        }
    }

    /// The topics of an outbox.
    fn topics(&self, outbox: &Outbox, findings: &mut Findings) {
        let creates = topics::creates_topics(&self.described.broker);
        findings.push(topic(outbox, self.metadata, creates));
        let fixed = fixed(outbox);
        let seen = fitting(outbox, self.metadata).take(DESCRIBED_TOPICS);
        let mut names: Vec<&str> = seen.map(MetadataTopic::name).collect();
        if let Some(name) = &fixed
            && !names.contains(&name.as_str())
        {
            // One that is hidden from the relay's user is not among those that are seen.
            names.push(name);
        }
        for finding in access::check(self.client, self.broker, &names, PATIENCE) {
            findings.push(finding);
        }
        let brokers = self.metadata.brokers().len();
        let unknown: Settings = Err("too many topics fit".to_owned());
        for topic in fitting(outbox, self.metadata).take(DESCRIBED_TOPICS) {
            let name = topic.name();
            let settings = self.described.topics.get(name).unwrap_or(&unknown);
            let copies = topic.partitions().iter().map(|p| p.replicas().len());
            let copies = copies.min().unwrap_or(0);
            findings.push(topics::durability(name, copies, brokers, settings));
            findings.push(topics::size(name, self.largest, settings));
        }
    }
}

/// The topics that an outbox may write to.
fn fitting<'m>(outbox: &Outbox, metadata: &'m Metadata) -> impl Iterator<Item = &'m MetadataTopic> {
    let all = metadata.topics().iter();
    all.filter(move |topic| matches(outbox, topic.name()))
}

fn topic(outbox: &Outbox, metadata: &Metadata, creates: Option<bool>) -> Finding {
    let topics: Vec<&MetadataTopic> = fitting(outbox, metadata).collect();
    let subject = format!("topic {} of {}", outbox.topic, outbox.table);
    let Some(first) = topics.first() else {
        let remedy = "create it before the first event, or see that the broker creates topics by \
                      itself (auto.create.topics.enable)";
        return match (fixed(outbox).is_some(), creates) {
            (true, Some(false)) => {
                let message = "does not exist, and the broker does not create it";
                Finding::error(Code::Topic, subject, message, remedy)
            }
            (true, _) => Finding::warning(Code::Topic, subject, "does not exist", remedy),
            (false, _) => {
                let message = "no topic has such a name yet";
                Finding::warning(Code::Topic, subject, message, remedy)
            }
        };
    };
    if let Some(refused) = topics.iter().find(|topic| topic.error().is_some()) {
        let message = format!(
            "{} cannot be described: {:?}",
            refused.name(),
            refused.error()
        );
        let remedy = "allow the relay's user to describe and write the topic";
        return Finding::error(Code::Topic, subject, message, remedy);
    }
    if fixed(outbox).is_some() {
        let partitions = first.partitions().len();
        let message = format!("exists, with {partitions} partitions");
        return Finding::ok(Code::Topic, subject, message);
    }
    let shown: Vec<&str> = topics
        .iter()
        .map(|topic| topic.name())
        .take(SHOWN_TOPICS)
        .collect();
    let more = if topics.len() > SHOWN_TOPICS {
        ", …"
    } else {
        ""
    };
    let message = format!("fits {} ({}{more})", topics.len(), shown.join(", "));
    Finding::ok(Code::Topic, subject, message)
}

/// The topic's name if no event changes it.
fn fixed(outbox: &Outbox) -> Option<String> {
    let mut name = String::new();
    for part in &outbox.topic.parts {
        match part {
            TopicPart::Literal(text) => name.push_str(text),
            TopicPart::Keyspace => name.push_str(&outbox.table.keyspace),
            TopicPart::Table => name.push_str(&outbox.table.table),
            TopicPart::AggregateType | TopicPart::EventType | TopicPart::Column(_) => return None,
        }
    }
    Some(name)
}

/// Whether the template can give this name.
fn matches(outbox: &Outbox, name: &str) -> bool {
    fn rest(parts: &[TopicPart], outbox: &Outbox, name: &str) -> bool {
        let Some((part, parts)) = parts.split_first() else {
            return name.is_empty();
        };
        let text = match part {
            TopicPart::Literal(text) => text,
            TopicPart::Keyspace => &outbox.table.keyspace,
            TopicPart::Table => &outbox.table.table,
            TopicPart::AggregateType | TopicPart::EventType | TopicPart::Column(_) => {
                let mut ends = name.char_indices().map(|(at, c)| at + c.len_utf8());
                return ends.any(|end| rest(parts, outbox, &name[end..]));
            }
        };
        name.strip_prefix(text.as_str())
            .is_some_and(|name| rest(parts, outbox, name))
    }
    rest(&outbox.topic.parts, outbox, name)
}

/// What librdkafka says while it tries, the last lines without repetitions.
#[derive(Debug, Clone)]
struct Heard {
    lines: Arc<Mutex<Vec<String>>>,
    tokens: Tokens,
}

impl Heard {
    const KEPT: usize = 3;

    fn new(config: &Config) -> Self {
        Self {
            lines: Arc::default(),
            tokens: Tokens::new(&config.kafka),
        }
    }

    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.lines())
    }

    fn note(&self, line: &str) {
        // "[thrd:127.0.0.1:1/bootstrap]: 127.0.0.1:1/bootstrap: Connect to … (after 0ms in …)"
        let line = line
            .rsplit_once("bootstrap: ")
            .map_or(line, |(_, said)| said);
        let line = line.split(" (after ").next().unwrap_or(line).to_owned();
        let mut heard = self.lines();
        let summary = line.ends_with("brokers are down");
        if !summary && !heard.contains(&line) && heard.len() < Self::KEPT {
            heard.push(line);
        }
    }
}

impl ClientContext for Heard {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(
        &self,
        _: Option<&str>,
    ) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.tokens.give()
    }

    fn log(&self, level: RDKafkaLogLevel, _facility: &str, message: &str) {
        if (level as i32) <= RDKafkaLogLevel::Error as i32 {
            self.note(message);
        }
    }

    fn error(&self, _error: KafkaError, reason: &str) {
        self.note(reason);
    }
}

impl ProducerContext for Heard {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &rdkafka::producer::DeliveryResult<'_>, (): ()) {}
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;

    use super::super::finding::Level;
    use super::*;
    use crate::config::Sources;

    fn config(brokers: &str, topic: &str) -> Config {
        let sources = Sources {
            set: vec![
                format!("kafka.brokers=[\"{brokers}\"]"),
                format!("outboxes=[{{\"table\":\"shop.outbox\",\"topic\":\"{topic}\"}}]"),
            ],
            ..Sources::default()
        };
        sources.load().expect("a right configuration").config
    }

    fn only_topic(config: &Config) -> Finding {
        let findings = check(config, &config.outboxes);
        let mut topics = findings
            .iter()
            .filter(|finding| finding.code == Code::Topic);
        let topic = topics.next().expect("a topic").clone();
        assert_eq!(topics.next(), None);
        topic
    }

    #[test]
    fn a_topic_that_exists_is_found_and_a_missing_one_is_not_created() {
        let cluster = MockCluster::new(1).expect("a mock cluster");
        cluster
            .create_topic("outbox.event.order", 3, 1)
            .expect("a topic");
        let brokers = cluster.bootstrap_servers();
        let fixed = only_topic(&config(&brokers, "outbox.event.order"));
        assert_eq!(
            (fixed.level, &*fixed.message),
            (Level::Ok, "exists, with 3 partitions")
        );
        let fits = only_topic(&config(&brokers, "outbox.event.{aggregate_type}"));
        assert_eq!(
            (fits.level, &*fits.message),
            (Level::Ok, "fits 1 (outbox.event.order)")
        );
        for _ in 0..2 {
            let missing = only_topic(&config(&brokers, "elsewhere"));
            assert_eq!(
                (missing.level, &*missing.message),
                (Level::Warning, "does not exist")
            );
        }
    }

    #[test]
    fn a_broker_that_is_not_there_is_an_error_with_the_reason() {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a port")
            .port();
        let config = config(&format!("127.0.0.1:{port}"), "orders");
        let findings = check(&config, &config.outboxes);
        let text = findings.to_string();
        assert!(
            findings.any(Level::Error) && text.contains("refused"),
            "{text}"
        );
        assert!(text.contains("kafka.brokers"), "{text}");
    }

    #[test]
    fn a_template_fits_what_it_can_give() {
        let config = config(
            "127.0.0.1:9092",
            "{keyspace}.{aggregate_type}.v{event_type}",
        );
        let outbox = &config.outboxes[0];
        for (name, fits) in [
            ("shop.order.v1", true),
            ("shop.a.b.vv2", true),
            ("shop..v1", false),
            ("shop.order.v", false),
            ("store.order.v1", false),
        ] {
            assert_eq!(matches(outbox, name), fits, "{name}");
        }
    }
}
