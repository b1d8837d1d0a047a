//! TLS and logins on the way to a genuine Kafka: what works, and how each thing that does not is
//! told.

use crate::support::bench::{Bench, Setup};
use crate::support::certificates::{Authority, Issued};
use crate::support::check::{self, Found};
use crate::support::database::Database;
use crate::support::kafka::{self, Broker, Node};
use crate::support::oracle;
use crate::support::relay::{ATTEMPT_FAILED, BREAKER_OPENS, DEAD_LETTER, Relay};
use crate::support::traffic::Plan;
use crate::support::until;
use anyhow::{Context, Result};
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

const PLAN: Plan = Plan {
    events: 100,
    keys: 20,
    ahead: 100,
};

/// What is never to be seen.
const PASSWORD: &str = "secret";

/// Files as a relay's host has them.
struct Files(TempDir);

impl Files {
    fn new() -> Result<Self> {
        Ok(Self(tempfile::tempdir()?))
    }

    fn add(&self, name: &str, text: &str) -> Result<String> {
        let file = self.0.path().join(name);
        fs::write(&file, text)?;
        Ok(file.display().to_string())
    }
}

/// A configuration of Kafka: these properties, these files of properties, this token's file.
fn kafka_yaml(properties: &[(&str, &str)], files: &[(&str, &str)], token: Option<&str>) -> String {
    let map = |pairs: &[(&str, &str)]| {
        let pair = |(name, value): &(&str, &str)| format!("\"{name}\": \"{value}\"");
        pairs.iter().map(pair).collect::<Vec<_>>().join(", ")
    };
    let token = token.map_or_else(String::new, |file| format!(", oauth_token_file: {file}"));
    format!(
        "kafka: {{ properties: {{ {} }}, property_files: {{ {} }}{token} }}\n",
        map(properties),
        map(files)
    )
}

fn scram(ca: &str, mechanism: &str, password: &str) -> String {
    let properties = [
        ("security.protocol", "SASL_SSL"),
        ("ssl.ca.location", ca),
        ("sasl.mechanism", mechanism),
        ("sasl.username", "relay"),
    ];
    kafka_yaml(&properties, &[("sasl.password", password)], None)
}

async fn bench(broker: &Broker, listener: &str, more: &str) -> Result<Bench> {
    let setup = Setup {
        direct: &broker.bootstrap,
        relay_brokers: Some(listener),
        more,
        ..Setup::default()
    };
    Bench::with(Database::start().await?, setup).await
}

fn node(broker: &Broker) -> Result<&Node> {
    broker.node().context("a node")
}

/// Everything arrives, and no secret is in the log or in what `config print` shows.
async fn delivers(case: &str, bench: &Bench, secrets: &[&str]) -> Result<()> {
    let relay = bench.relay.start().await?;
    bench.write_and_arrive(PLAN).await?;
    let log = relay.stop_and_log().await?;
    let printed = bench.relay.command(&["config", "print"]).await?;
    for secret in secrets {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
        assert!(!printed.contains(secret), "{secret} is in\n{printed}");
    }
    let records = bench.assert_delivered(case).await?;
    assert_eq!(oracle::duplicates(&records), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scram_over_tls() -> Result<()> {
    let case = "SCRAM over TLS";
    let Some(broker) = kafka::node_broker(case).await else {
        return Ok(());
    };
    let files = Files::new()?;
    let ca = files.add("ca.pem", &node(&broker)?.authority().pem())?;
    let password = files.add("word", PASSWORD)?;
    for mechanism in ["SCRAM-SHA-512", "SCRAM-SHA-256"] {
        let more = scram(&ca, mechanism, &password);
        let bench = bench(&broker, &node(&broker)?.secure(), &more).await?;
        delivers(&format!("{case}, {mechanism}"), &bench, &[PASSWORD]).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_instead_of_a_login() -> Result<()> {
    let case = "mutual TLS with Kafka";
    let Some(broker) = kafka::node_broker(case).await else {
        return Ok(());
    };
    let files = Files::new()?;
    let node = node(&broker)?;
    let ca = files.add("ca.pem", &node.authority().pem())?;
    let Issued { certificate, key } = node.authority().issue("relay", &[])?;
    let file = files.add("relay.pem", &certificate)?;
    let key_file = files.add("relay-key.pem", &key)?;
    let properties = [
        ("security.protocol", "ssl"),
        ("ssl.ca.location", &*ca),
        ("ssl.certificate.location", &file),
    ];
    let more = kafka_yaml(&properties, &[("ssl.key.pem", &key_file)], None);
    let bench = bench(&broker, &node.mutual(), &more).await?;
    let line = key.lines().nth(1).context("a line of the key")?;
    delivers(case, &bench, &[line, "BEGIN PRIVATE KEY"]).await
}

/// A token that nobody has signed, which lasts so long from now.
fn token(subject: &str, life: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_secs() as i64);
    let claims = format!(
        r#"{{"sub":"{subject}","iat":{},"exp":{}}}"#,
        now - 7200,
        now + life
    );
    format!(
        "{}.{}.",
        base64_url(r#"{"alg":"none"}"#),
        base64_url(&claims)
    )
}

fn base64_url(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let digits = |chunk: &[u8]| {
        let bits = chunk
            .iter()
            .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - chunk.len()));
        let digit = move |place: usize| DIGITS[(bits >> (18 - 6 * place)) as usize & 63] as char;
        (0..=chunk.len()).map(digit).collect::<String>()
    };
    text.as_bytes().chunks(3).map(digits).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_from_a_file_that_is_renewed() -> Result<()> {
    let case = "OAUTHBEARER";
    let Some(broker) = kafka::node_broker(case).await else {
        return Ok(());
    };
    let files = Files::new()?;
    let node = node(&broker)?;
    let ca = files.add("ca.pem", &node.authority().pem())?;
    let expired = token("relay", -3600);
    let file = files.add("token", &expired)?;
    let properties = [
        ("security.protocol", "sasl_ssl"),
        ("ssl.ca.location", &*ca),
        ("sasl.mechanism", "OAUTHBEARER"),
    ];
    let more = kafka_yaml(&properties, &[], Some(&file));
    let bench = bench(&broker, &node.secure(), &more).await?;
    bench.write(PLAN).await?;
    let relay = bench.relay.start().await?;
    relay.said("has expired").await?;
    assert_eq!(bench.collector.all().await?.len(), 0, "{case}");
    // Whoever fetches tokens is late, but not too late.
    let good = token("relay", 3600);
    files.add("token", &good)?;
    bench.all_arrived().await?;
    assert_eq!(relay.count(DEAD_LETTER), 0, "{}", relay.log());
    let log = relay.stop_and_log().await?;
    for token in [&expired, &good] {
        assert!(!log.contains(&token[..40]), "{log}");
    }
    bench.assert_delivered(case).await?;
    // A check waits for Kafka for some seconds only, which a busy machine may take.
    until("check is let in, too", async || {
        Ok(look(&node.secure(), &more).await?.level == "ok")
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_opens_the_breaker_and_uses_up_nothing() -> Result<()> {
    let case = "a wrong password, SCRAM";
    let Some(broker) = kafka::node_broker(case).await else {
        return Ok(());
    };
    let files = Files::new()?;
    let node = node(&broker)?;
    let ca = files.add("ca.pem", &node.authority().pem())?;
    let password = files.add("word", "hunter2")?;
    let more = format!(
        "{}retry: {{ attempt_timeout: 2s }}\nbreaker: {{ open_for: 100ms }}\n",
        scram(&ca, "SCRAM-SHA-512", &password)
    );
    let bench = bench(&broker, &node.secure(), &more).await?;
    bench.write(PLAN).await?;
    let relay = bench.relay.start().await?;
    relay.said("Kafka does not let us in").await?;
    relay.said(BREAKER_OPENS).await?;
    // More failures than an event has attempts.
    relay.said_times(ATTEMPT_FAILED, 2).await?;
    assert_eq!(relay.count(DEAD_LETTER), 0, "{}", relay.log());
    assert_eq!(relay.count("hunter2"), 0, "{}", relay.log());
    assert_eq!(bench.collector.all().await?.len(), 0, "{case}");
    relay.kill().await?;
    let found = look(&node.secure(), &more).await?;
    found.tells(case, &["uthentication failed"], "sasl.password");

    files.add("word", PASSWORD)?;
    let relay = bench.relay.start().await?;
    bench.all_arrived().await?;
    assert_eq!(relay.count(DEAD_LETTER), 0, "{}", relay.log());
    relay.stop().await?;
    bench.assert_delivered(case).await.map(drop)
}

/// What `check` says of a broker that lets the relay in or not.
async fn look(listener: &str, more: &str) -> Result<Found> {
    let emulator = scylla_emulator::Emulator::start().await?;
    let yaml = format!(
        "scylla: {{ nodes: [\"{}\"] }}\noutboxes: [{{ table: shop.outbox_messages }}]\n",
        emulator.address(),
    );
    let relay = Relay::with(&yaml, more)?;
    let brokers = format!("kafka.brokers=[\"{listener}\"]");
    check::look(&relay, &["--set", &brokers], "Kafka at", "hunter2").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_are_not_accepted_are_told_with_a_remedy() -> Result<()> {
    let case = "certificates of Kafka";
    let Some(broker) = kafka::node_broker(case).await else {
        return Ok(());
    };
    let files = Files::new()?;
    let node = node(&broker)?;
    let ca = files.add("ca.pem", &node.authority().pem())?;
    let other = files.add("other.pem", &Authority::new("another")?.pem())?;
    let password = files.add("word", PASSWORD)?;

    let more = scram(&other, "SCRAM-SHA-512", &password);
    let found = look(&node.secure(), &more).await?;
    found.tells(
        "another authority",
        &["certificate verify failed"],
        "ssl.ca.location",
    );
    let bench = bench(&broker, &node.secure(), &more).await?;
    bench.write(PLAN).await?;
    let relay = bench.relay.start().await?;
    relay.said("certificate verify failed").await?;
    relay.said(BREAKER_OPENS).await?;
    assert_eq!(relay.count(DEAD_LETTER), 0, "{}", relay.log());
    relay.kill().await?;

    let localhost = node.secure().replace("127.0.0.1", "localhost");
    let found = look(&localhost, &scram(&ca, "SCRAM-SHA-512", &password)).await?;
    found.tells(
        "another name",
        &["certificate verify failed"],
        "ssl.endpoint.identification.algorithm",
    );

    let no_certificate = kafka_yaml(
        &[("security.protocol", "ssl"), ("ssl.ca.location", &ca)],
        &[],
        None,
    );
    let found = look(&node.mutual(), &no_certificate).await?;
    found.tells("no certificate", &[], "ssl.certificate.location");

    let found = look(&node.bootstrap(), &no_certificate).await?;
    found.tells("no TLS there", &[], "security.protocol");
    Ok(())
}
