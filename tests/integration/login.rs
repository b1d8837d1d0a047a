//! Credentials that the broker does not accept, or that may do nothing.

use crate::support::bench::{Bench, Setup};
use crate::support::database::Database;
use crate::support::kafka;
use crate::support::kafka::Broker;
use crate::support::relay::{ATTEMPT_FAILED, Relay};
use crate::support::traffic::Plan;
use crate::support::unique;
use anyhow::{Context, Result};
use serde_json::Value;

const PLAN: Plan = Plan {
    events: 100,
    keys: 20,
    ahead: 100,
};

/// What `check` says of a topic that may be written.
const WRITES: (&str, &str) = ("ok", "may be written");

/// How the relay logs in.
fn credentials(user: &str, password: &str) -> String {
    format!(
        "kafka: {{ properties: {{ security.protocol: sasl_plaintext, sasl.mechanism: PLAIN, \
         sasl.username: {user}, sasl.password: {password} }} }}\n\
         retry: {{ attempt_timeout: 2s }}"
    )
}

async fn bench(broker: &Broker, more: &str) -> Result<Bench> {
    let node = broker.node().context("a node")?;
    let setup = Setup {
        direct: &broker.bootstrap,
        relay_brokers: Some(&node.login()),
        more,
        ..Setup::default()
    };
    Bench::with(Database::start().await?, setup).await
}

/// A relay with these credentials fails as `said`; after a restart with the right ones everything
/// arrives.
async fn refused(case: &str, user: &str, password: &str, said: &[&str]) -> Result<()> {
    let Some(broker) = kafka::node_broker(case).await else {
        return Ok(());
    };
    let bench = bench(&broker, &credentials(user, password)).await?;
    bench.write(PLAN).await?;
    let relay = bench.relay.start().await?;
    for words in said {
        relay.said(words).await?;
    }
    relay.kill().await?;
    assert_eq!(
        bench.collector.all().await?.len(),
        0,
        "nothing can be published"
    );
    bench.relay.reconfigure(&credentials("relay", "secret"))?;
    let relay = bench.relay.start().await?;
    // What had become a dead letter by then waits for a person, and its key with it.
    bench
        .relay
        .command(&["dead-letters", "replay", "--all"])
        .await?;
    bench.all_arrived().await?;
    relay.stop().await?;
    bench.assert_delivered(case).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_publishes_nothing_and_loses_nothing() -> Result<()> {
    let said = ["Authentication failed", ATTEMPT_FAILED];
    refused("a wrong password", "relay", "wrong", &said).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_may_not_write_is_told_what_to_grant() -> Result<()> {
    let said = [ATTEMPT_FAILED, "grant the relay's principal WRITE"];
    refused("no authorization", "guest", "secret", &said).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_tells_which_topics_may_not_be_written() -> Result<()> {
    let case = "rights to topics";
    let Some(broker) = kafka::node_broker(case).await else {
        return Ok(());
    };
    let node = broker.node().context("a node")?;
    let [hidden, seen, written] = ["hidden", "seen", "written"].map(unique);
    let topics = [hidden.clone(), seen.clone(), written.clone()];
    kafka::create_topics(&broker.bootstrap, &topics).await?;
    node.allow("guest", "Describe", &seen)?;
    node.allow("guest", "Write", &written)?;
    let outbox = |topic| format!("{{ table: shop.outbox_{topic}, topic: {topic} }}");
    let outboxes: Vec<String> = topics.iter().map(outbox).collect();
    let database = Database::start().await?;
    let yaml = format!(
        "scylla: {{ nodes: [\"{}\"] }}\noutboxes: [{}]\n",
        database.node,
        outboxes.join(", ")
    );
    for (user, rights) in [
        ("relay", [WRITES, WRITES, WRITES]),
        (
            "guest",
            [
                ("error", "may not be described"),
                ("error", "may only describe it"),
                WRITES,
            ],
        ),
    ] {
        let relay = Relay::with(&yaml, &credentials(user, "secret"))?;
        let brokers = format!("kafka.brokers=[\"{}\"]", node.login());
        let arguments = ["check", "--output", "json", "--set", &brokers];
        let output = relay.output(&arguments).await?;
        let printed: Value = serde_json::from_slice(&output.stdout)?;
        for (topic, (level, words)) in topics.iter().zip(rights) {
            let findings = printed["findings"].as_array().context("a list")?;
            let about = |finding: &&Value| {
                let subject = format!("topic {topic}");
                finding["code"] == "topic-access" && finding["subject"] == subject.as_str()
            };
            let found = findings.iter().find(about);
            let found = found.with_context(|| format!("nothing about {topic}: {printed:#}"))?;
            assert_eq!(found["level"], level, "{user}: {found}");
            let message = found["message"].as_str().unwrap_or_default();
            assert!(message.contains(words), "{user}: {found}");
        }
    }
    Ok(())
}
