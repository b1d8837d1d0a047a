//! `check` names everything that is wrong, at once, and changes nothing.

use crate::support::database::Database;
use crate::support::relay::Relay;
use crate::support::{free_port, unique};
use anyhow::{Context, Result};
use rdkafka::mocking::MockCluster;
use serde_json::Value;

/// A finding of `check --output json`.
struct Report {
    status: Option<i32>,
    findings: Vec<Value>,
}

impl Report {
    async fn of(yaml: &str) -> Result<Self> {
        let relay = Relay::new(yaml)?;
        let output = relay.output(&["check", "--output", "json"]).await?;
        let printed: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        let findings = printed["findings"].as_array().context("a list")?.clone();
        for finding in &findings {
            let mended = finding["level"] == "ok" || finding["remedy"].as_str() > Some("");
            assert!(mended, "a finding without a remedy: {finding}");
        }
        Ok(Self {
            status: output.status.code(),
            findings,
        })
    }

    /// Subjects and messages of this level.
    fn at(&self, level: &str) -> Vec<String> {
        let here = self.findings.iter().filter(|f| f["level"] == level);
        let text = |f: &Value, key: &str| f[key].as_str().unwrap_or_default().to_owned();
        here.map(|f| format!("{}: {}", text(f, "subject"), text(f, "message")))
            .collect()
    }

    #[track_caller]
    fn assert_errors(&self, wanted: &[&[&str]]) {
        let errors = self.at("error");
        assert_eq!(errors.len(), wanted.len(), "as many as wanted: {errors:#?}");
        for words in wanted {
            let said = |error: &String| words.iter().all(|word| error.contains(word));
            assert!(
                errors.iter().any(said),
                "no error says {words:?}: {errors:#?}"
            );
        }
    }
}

async fn table(database: &Database, keyspace: &str, table: &str, rest: &str) -> Result<String> {
    let name = format!("{keyspace}.{table}");
    let cql = format!("CREATE TABLE {name} ({rest}");
    database
        .session
        .query_unpaged(cql.as_str(), ())
        .await
        .with_context(|| cql.clone())?;
    Ok(name)
}

const GOOD: &str = "aggregate_id text, id timeuuid, aggregate_type text, event_type text, \
                    payload blob, PRIMARY KEY ((aggregate_id), id)) \
                    WITH cdc = {'enabled': true, 'ttl': 604800}";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named_all_at_once() -> Result<()> {
    let database = Database::start().await?;
    let keyspace = unique("check");
    database.create_keyspace(&keyspace).await?;
    let good = table(&database, &keyspace, "good", GOOD).await?;
    let off = "id uuid, aggregate_id text, aggregate_type text, payload blob, created_at text, \
               PRIMARY KEY (id))";
    let off = table(&database, &keyspace, "off", off).await?;
    let bare = "aggregate_id text, id timeuuid, aggregate_type int, body blob, headers int, \
                PRIMARY KEY ((aggregate_id), id)) WITH cdc = {'enabled': true, 'preimage': true, \
                'ttl': 600}";
    let bare = table(&database, &keyspace, "bare", bare).await?;
    let port = free_port()?;
    let yaml = format!(
        "relay: {{ name: check }}
scylla: {{ nodes: [\"{}\"], keyspace: {keyspace} }}
kafka: {{ brokers: [\"127.0.0.1:{port}\"] }}
follow: {{ pol: 10ms }}
outboxes:
  - {{ table: {good} }}
  - {{ table: {off} }}
  - {{ table: {bare} }}
  - {{ table: {keyspace}.nowhere }}
",
        database.node
    );
    let report = Report::of(&yaml).await?;
    assert_eq!(
        report.status,
        Some(78),
        "an unknown key is a bad configuration"
    );
    report.assert_errors(&[
        &["relay.yaml:4", "follow.pol", "did you mean `poll`"],
        &["the relay's tables", "schema --apply"],
        &[&off, "CDC is off"],
        &[&off, "created_at", "text"],
        &[&bare, "payload", "no column"],
        &[&bare, "headers", "int"],
        &[&format!("{keyspace}.nowhere"), "does not exist"],
        &["Kafka at", "refused"],
    ]);
    let warnings = report.at("warning").join("\n");
    for word in ["partition key is (id)", "images", "keeps rows for 600 s"] {
        assert!(warnings.contains(word), "no warning of {word}: {warnings}");
    }
    let tables = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ?";
    let tables = database.session.query_unpaged(tables, (&keyspace,)).await?;
    // Three tables, two logs.
    assert_eq!(
        tables.into_rows_result()?.rows_num(),
        5,
        "check creates nothing"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_does_not_hide_the_broker() -> Result<()> {
    let cluster = MockCluster::new(1)?;
    let yaml = format!(
        "scylla: {{ nodes: [\"127.0.0.1:{}\"] }}
kafka: {{ brokers: [\"{}\"] }}
outboxes: [{{ table: shop.outbox_messages }}]
",
        free_port()?,
        cluster.bootstrap_servers()
    );
    let report = Report::of(&yaml).await?;
    assert_eq!(report.status, Some(1));
    report.assert_errors(&[&["ScyllaDB at", "refused"]]);
    assert!(report.at("ok").iter().any(|ok| ok.starts_with("Kafka at")));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn all_is_well_after_schema_apply() -> Result<()> {
    let database = Database::start().await?;
    let cluster = MockCluster::new(1)?;
    cluster.create_topic("orders", 3, 1)?;
    let (shop, own) = (unique("shop"), unique("own"));
    database.create_keyspace(&shop).await?;
    let yaml = format!(
        "scylla: {{ nodes: [\"{}\"], keyspace: {own} }}
kafka: {{ brokers: [\"{}\"] }}
outboxes: [{{ table: {shop}.outbox_messages, topic: orders }}]
",
        database.node,
        cluster.bootstrap_servers()
    );
    Relay::new(&yaml)?.command(&["schema", "--apply"]).await?;
    let report = Report::of(&yaml).await?;
    report.assert_errors(&[]);
    assert_eq!(report.at("warning"), Vec::<String>::new());
    assert_eq!(report.status, Some(0));
    Ok(())
}
