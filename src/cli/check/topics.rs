//! Settings of brokers and topics: what Kafka will do with the relay's records.
//!
//! They are asked for as any admin client does (`DescribeConfigs`), which some users may not do and some
//! servers do not know: then what depends on them is not checked.

use std::collections::HashMap;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::{ClientConfig, FromClientConfig};
use rdkafka::error::RDKafkaErrorCode;

use super::code::Code;
use super::finding::Finding;

/// Settings of one resource by name, or why they are not known.
pub(super) type Settings = Result<HashMap<String, String>, String>;

/// Settings of a broker and of topics.
#[derive(Debug)]
pub(super) struct Described {
    pub(super) broker: Settings,
    pub(super) topics: HashMap<String, Settings>,
}

/// Asks for settings. Blocks.
pub(super) fn describe(
    properties: &ClientConfig,
    broker: Option<i32>,
    topics: &[&str],
    patience: Duration,
) -> Described {
    let all = ask(properties, broker, topics, patience);
    let (mut found, failed) = match all {
        Ok(found) => (found, "Kafka does not tell them".to_owned()),
        Err(reason) => (HashMap::new(), reason),
    };
    let mut take = |key: &Key| found.remove(key).unwrap_or_else(|| Err(failed.clone()));
    Described {
        broker: take(&Key::Broker),
        topics: topics
            .iter()
            .map(|topic| ((*topic).to_owned(), take(&Key::Topic((*topic).to_owned()))))
            .collect(),
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
enum Key {
    Broker,
    Topic(String),
}

fn ask(
    properties: &ClientConfig,
    broker: Option<i32>,
    topics: &[&str],
    patience: Duration,
) -> Result<HashMap<Key, Settings>, String> {
    let admin: AdminClient<DefaultClientContext> =
        AdminClient::from_config(properties).map_err(|error| error.to_string())?;
    let options = AdminOptions::new().request_timeout(Some(patience));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let mut found = HashMap::new();
    // A broker's settings are its own to tell, so they are another request than the topics'.
    for resources in [
        broker.map(ResourceSpecifier::Broker).into_iter().collect(),
        topics
            .iter()
            .map(|topic| ResourceSpecifier::Topic(topic))
            .collect::<Vec<_>>(),
    ] {
        if resources.is_empty() {
            continue;
        }
        let asked = runtime.block_on(admin.describe_configs(&resources, &options));
        for (resource, specifier) in asked
            .map_err(|error| error.to_string())?
            .into_iter()
            .zip(&resources)
        {
            let key = match specifier {
                ResourceSpecifier::Topic(name) => Key::Topic((*name).to_owned()),
                _ => Key::Broker,
            };
            found.insert(key, resource.map(settings).map_err(refused));
        }
    }
    Ok(found)
}

fn settings(resource: ConfigResource) -> HashMap<String, String> {
    let entries = resource.entries.into_iter();
    entries
        .filter_map(|entry| Some((entry.name, entry.value?)))
        .collect()
}

fn refused(code: RDKafkaErrorCode) -> String {
    format!("{code} (it needs the right DESCRIBE_CONFIGS)")
}

/// Whether the broker creates topics by itself; none if it does not tell.
pub(super) fn creates_topics(broker: &Settings) -> Option<bool> {
    let value = broker.as_ref().ok()?.get("auto.create.topics.enable")?;
    Some(value == "true")
}

pub(super) fn auto_creation(subject: &str, broker: &Settings) -> Finding {
    let of = |name: &str| {
        let value = broker.as_ref().ok().and_then(|settings| settings.get(name));
        value.map_or("?", String::as_str)
    };
    match (creates_topics(broker), broker) {
        (Some(true), _) => Finding::ok(
            Code::AutoCreation,
            subject,
            format!(
                "creates a topic that is missing, with {} partition(s) and {} replica(s)",
                of("num.partitions"),
                of("default.replication.factor")
            ),
        ),
        (Some(false), _) => Finding::ok(
            Code::AutoCreation,
            subject,
            "creates no topics: each must be there before its first event",
        ),
        (None, Err(reason)) => Finding::unknown(Code::AutoCreation, subject, reason),
        (None, Ok(_)) => Finding::unknown(Code::AutoCreation, subject, "the broker does not tell"),
    }
}

/// What brokers tell of their version: the protocol knows only which requests they take.
pub(super) fn version(subject: &str, broker: &Settings) -> Finding {
    let (_, librdkafka) = rdkafka::util::get_rdkafka_version();
    let told = broker.as_ref().ok().and_then(|settings| {
        let names = ["inter.broker.protocol.version", "metadata.version"];
        let told = names.iter().find_map(|name| settings.get(*name));
        told.filter(|value| !value.is_empty())
    });
    match told {
        Some(told) => Finding::ok(
            Code::KafkaVersion,
            subject,
            format!("speaks {told} between brokers; librdkafka {librdkafka}"),
        ),
        None => Finding::unknown(
            Code::KafkaVersion,
            subject,
            format!("brokers do not tell their version; librdkafka {librdkafka}"),
        ),
    }
}

/// Whether a topic outlives the loss of a broker.
pub(super) fn durability(
    topic: &str,
    replicas: usize,
    brokers: usize,
    settings: &Settings,
) -> Finding {
    let subject = format!("topic {topic}");
    let warning = |message: String| {
        let remedy = "replicate it three times with min.insync.replicas=2, or a lost broker loses \
                      acknowledged events";
        Finding::warning(Code::TopicDurability, subject.clone(), message, remedy)
    };
    if replicas < 2 && brokers > 1 {
        return warning("has a single replica".to_owned());
    }
    let insync = settings
        .as_ref()
        .map(|settings| number(settings, "min.insync.replicas"));
    let insync = match insync {
        Ok(Some(insync)) => insync,
        Ok(None) => {
            let reason = "the broker does not tell min.insync.replicas";
            return Finding::unknown(Code::TopicDurability, subject, reason);
        }
        Err(reason) => return Finding::unknown(Code::TopicDurability, subject, reason),
    };
    let said = format!("{replicas} replica(s), min.insync.replicas={insync}");
    if insync > replicas as u64 {
        let remedy = "set min.insync.replicas to less than the number of replicas, or add replicas";
        let message = format!("has {said}: no write is ever acknowledged");
        return Finding::error(Code::TopicDurability, subject, message, remedy);
    }
    if replicas < 2 {
        let message = format!("has {said}, as there is one broker: not for production");
        return Finding::ok(Code::TopicDurability, subject, message);
    }
    if insync < 2 {
        return warning(format!(
            "has {said}: one copy is enough for an acknowledgement"
        ));
    }
    if insync == replicas as u64 {
        let remedy = "set min.insync.replicas to less than the number of replicas";
        let message = format!("has {said}: a single broker that is down stops publishing");
        return Finding::warning(Code::TopicDurability, subject, message, remedy);
    }
    Finding::ok(Code::TopicDurability, subject, format!("has {said}"))
}

/// Whether a topic takes what the producer sends. `wanted` is a limit that a person has set in
/// `kafka.properties`; without one it is the topic's to say.
pub(super) fn size(topic: &str, wanted: Option<u64>, settings: &Settings) -> Finding {
    let subject = format!("topic {topic}");
    let limit = match settings
        .as_ref()
        .map(|settings| number(settings, "max.message.bytes"))
    {
        Ok(Some(limit)) => limit,
        Ok(None) => {
            let reason = "the broker does not tell max.message.bytes";
            return Finding::unknown(Code::TopicSize, subject, reason);
        }
        Err(reason) => return Finding::unknown(Code::TopicSize, subject, reason),
    };
    match wanted {
        Some(wanted) if wanted > limit => Finding::warning(
            Code::TopicSize,
            subject,
            format!(
                "takes {limit} bytes (max.message.bytes), and message.max.bytes of kafka.properties \
                 allows {wanted}: larger events become dead letters"
            ),
            "raise max.message.bytes of the topic, or lower message.max.bytes to the same",
        ),
        Some(wanted) => Finding::ok(
            Code::TopicSize,
            subject,
            format!("takes {limit} bytes; message.max.bytes of kafka.properties allows {wanted}"),
        ),
        None => Finding::ok(
            Code::TopicSize,
            subject,
            format!("takes {limit} bytes (max.message.bytes); larger events become dead letters"),
        ),
    }
}

fn number(settings: &HashMap<String, String>, name: &str) -> Option<u64> {
    settings.get(name)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "it stands for an answer")]
    fn settings(of: &[(&str, &str)]) -> Settings {
        Ok(of
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect())
    }

    #[test]
    fn a_topic_outlives_a_broker_with_two_copies_in_sync_of_three() {
        let insync = |n: &str| settings(&[("min.insync.replicas", n)]);
        for (replicas, brokers, settings, level, word) in [
            (1, 1, insync("1"), Level::Ok, "not for production"),
            (1, 3, insync("1"), Level::Warning, "single replica"),
            (3, 3, insync("1"), Level::Warning, "one copy"),
            (3, 3, insync("2"), Level::Ok, "min.insync.replicas=2"),
            (3, 3, insync("3"), Level::Warning, "stops publishing"),
            (2, 3, insync("3"), Level::Error, "no write"),
            (1, 1, insync("2"), Level::Error, "no write"),
            (
                3,
                3,
                Err("it is dark".to_owned()),
                Level::Ok,
                "not checked: it is dark",
            ),
            (3, 3, settings(&[]), Level::Ok, "not checked"),
        ] {
            let found = durability("t", replicas, brokers, &settings);
            assert_eq!(found.level, level, "{found:?}");
            assert!(found.message.contains(word), "{found:?}");
        }
    }

    #[test]
    fn a_limit_that_a_person_set_must_fit_the_topic() {
        let limit = settings(&[("max.message.bytes", "1000")]);
        let level = |wanted| size("t", wanted, &limit).level;
        assert_eq!(level(None), Level::Ok);
        assert_eq!(level(Some(1_000)), Level::Ok);
        assert_eq!(level(Some(1_001)), Level::Warning);
        assert!(
            size("t", None, &settings(&[]))
                .message
                .contains("not checked")
        );
    }

    #[test]
    fn what_the_broker_does_not_tell_is_not_checked() {
        let on = settings(&[
            ("auto.create.topics.enable", "true"),
            ("num.partitions", "6"),
            ("default.replication.factor", "3"),
            ("inter.broker.protocol.version", "3.9-IV0"),
        ]);
        let found = auto_creation("Kafka", &on);
        assert!(
            found.message.contains("6 partition(s) and 3 replica(s)"),
            "{found:?}"
        );
        assert_eq!(creates_topics(&on), Some(true));
        assert!(version("Kafka", &on).message.contains("3.9-IV0"));
        let off = settings(&[("auto.create.topics.enable", "false")]);
        assert_eq!(creates_topics(&off), Some(false));
        for dark in [settings(&[]), Err("dark".to_owned())] {
            assert_eq!(creates_topics(&dark), None);
            assert!(
                auto_creation("Kafka", &dark)
                    .message
                    .starts_with("not checked")
            );
            assert!(version("Kafka", &dark).message.starts_with("not checked"));
        }
    }
}
