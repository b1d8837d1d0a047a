//! Properties of librdkafka: which a user may set.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use twox_hash::XxHash3_64;

use super::path::Path;
use super::raw;
use super::read::Reader;
use super::resolve::{addresses, file_of_secrets, secret_file, secret_path};
use super::resolved::Kafka;
use super::values::{REDACTED, is_secret};

/// Properties that the relay sets itself, and why nobody else may.
const OWN: [(&str, &str); 19] = [
    ("bootstrap.servers", "set kafka.brokers"),
    ("metadata.broker.list", "set kafka.brokers"),
    ("client.id", "it is relay.name"),
    (
        "acks",
        "an event counts as published when all in-sync replicas have it",
    ),
    (
        "request.required.acks",
        "an event counts as published when all in-sync replicas have it",
    ),
    (
        "enable.idempotence",
        "without it a retry can reorder or double events",
    ),
    (
        "enable.gapless.guarantee",
        "it ends the producer at the first failed event; the relay retries",
    ),
    ("message.timeout.ms", "set retry.attempt_timeout"),
    ("delivery.timeout.ms", "set retry.attempt_timeout"),
    ("request.timeout.ms", "it follows retry.attempt_timeout"),
    (
        "partitioner",
        "murmur2_random puts keys where Java clients put them; another one would break their order",
    ),
    ("queuing.strategy", "only fifo keeps the order of a key"),
    (
        "transactional.id",
        "the relay does not publish in transactions",
    ),
    (
        "delivery.report.only.error",
        "the relay needs every delivery report",
    ),
    (
        "message.send.max.retries",
        "retries end with retry.attempt_timeout alone",
    ),
    ("retries", "retries end with retry.attempt_timeout alone"),
    ("log_level", "set log.level"),
    ("group.id", "the relay does not consume"),
    (
        "enable.sasl.oauthbearer.unsecure.jwt",
        "tokens come from kafka.oauth_token_file",
    ),
];

const IN_FLIGHT: [&str; 2] = ["max.in.flight", "max.in.flight.requests.per.connection"];

pub(super) fn resolve(raw: &raw::Kafka, path: &Path, reader: &mut Reader<'_>) -> Kafka {
    addresses(&raw.brokers, &path.key("brokers"), reader);
    let mut properties = raw.properties.0.clone();
    for (name, value) in &raw.properties.0 {
        let path = path.key("properties").key(name);
        check(name, value, &path, reader);
        if let Some(file) = located(name, value, &path, reader) {
            properties.insert(name.clone(), file);
        }
    }
    for (name, file) in &raw.property_files {
        let path = path.key("property_files").key(name);
        if properties.contains_key(name) {
            reader.problem(&path, "kafka.properties sets it too: keep one of the two");
        } else if let Some(secret) = secret_file(file, &path, reader) {
            check(name, secret.expose(), &path, reader);
            properties.insert(name.clone(), secret.expose().to_owned());
        }
    }
    let files = contents(&properties);
    let oauth_token_file = token_file(raw, &properties, path, reader);
    Kafka {
        brokers: raw.brokers.clone(),
        properties,
        files,
        oauth_token_file,
    }
}

/// Properties that name a file of TLS.
fn is_file(name: &str) -> bool {
    const FILES: [&str; 5] = ["ca", "certificate", "key", "keystore", "crl"];
    let named = name
        .strip_prefix("ssl.")
        .and_then(|name| name.strip_suffix(".location"));
    named.is_some_and(|named| FILES.contains(&named))
}

/// Hashes of what files of TLS hold, to see at a reload whether that is something else. A folder, or what
/// cannot be read, has none.
fn contents(properties: &BTreeMap<String, String>) -> BTreeMap<String, u64> {
    let files = properties.iter().filter(|(name, _)| is_file(name));
    let read = files.filter_map(|(name, file)| {
        let held = std::fs::read(file).ok()?;
        Some((name.clone(), XxHash3_64::oneshot(&held)))
    });
    read.collect()
}

/// Properties that name a file of TLS, which must be there; one that is a credential of systemd gets
/// its path.
fn located(name: &str, value: &str, path: &Path, reader: &mut Reader<'_>) -> Option<String> {
    if !is_file(name) || (name == "ssl.ca.location" && value == "probe") {
        return None;
    }
    let file = secret_path(value, path, reader)?;
    if let Err(error) = std::fs::metadata(&file) {
        let message = format!("the file {} cannot be read: {error}", file.display());
        reader.problem(path, message);
    }
    file.into_os_string().into_string().ok()
}

/// The file of the login's token: needed with OAUTHBEARER, and with that alone.
fn token_file(
    raw: &raw::Kafka,
    properties: &BTreeMap<String, String>,
    path: &Path,
    reader: &mut Reader<'_>,
) -> Option<PathBuf> {
    let mechanism = ["sasl.mechanism", "sasl.mechanisms"];
    let mechanism = mechanism
        .into_iter()
        .find(|name| properties.contains_key(*name));
    let wanted = mechanism.filter(|name| properties[*name].eq_ignore_ascii_case("OAUTHBEARER"));
    let key = path.key("oauth_token_file");
    match (&raw.oauth_token_file, wanted) {
        (None, Some(name)) => {
            let message = "OAUTHBEARER needs a token: set kafka.oauth_token_file";
            reader.problem(&path.key("properties").key(name), message);
            None
        }
        (Some(_), None) => {
            let message = "only the login OAUTHBEARER has a token: set sasl.mechanism to \
                           OAUTHBEARER under kafka.properties, and security.protocol to sasl_ssl";
            reader.problem(&key, message);
            None
        }
        (Some(file), Some(_)) => {
            let (file, _) = file_of_secrets(file, &key, reader)?;
            Some(file)
        }
        (None, None) => None,
    }
}

fn check(name: &str, value: &str, path: &Path, reader: &mut Reader<'_>) {
    if let Some((_, reason)) = OWN.iter().find(|(own, _)| *own == name) {
        reader.problem(path, format!("this property cannot be set: {reason}"));
        return;
    }
    let too_many = || value.parse::<u64>().is_ok_and(|number| number > 5);
    if IN_FLIGHT.contains(&name) && too_many() {
        let message = "it cannot be above 5: idempotence keeps the order of at most 5 requests";
        reader.problem(path, message);
        return;
    }
    // librdkafka knows its properties and their values.
    let mut config = ClientConfig::new();
    config.set(name, value);
    if let Err(error) = config.create_native_config() {
        let detail = match error {
            KafkaError::ClientConfig(_, description, _, _) if !value.is_empty() => {
                let secret = is_secret(name) || path.is_under(&property_files());
                let shown = if secret { REDACTED } else { value };
                description.replace(value, shown)
            }
            _ => "librdkafka refuses it".to_owned(),
        };
        reader.problem(path, detail);
    }
}

fn property_files() -> Path {
    Path::root().key("kafka").key("property_files")
}
