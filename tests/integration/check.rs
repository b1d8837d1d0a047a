//! `check` names everything that is wrong, at once, and changes nothing.

use crate::support::database::Database;
use crate::support::relay::Relay;
use crate::support::{free_port, kafka, unique};
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
        Self::with(yaml, &[]).await
    }

    async fn with(yaml: &str, arguments: &[&str]) -> Result<Self> {
        let relay = Relay::new(yaml)?;
        let arguments = [&["check", "--output", "json"], arguments].concat();
        let output = relay.output(&arguments).await?;
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

    /// Asserts that a finding of this code and subject is of this level and says these words.
    #[track_caller]
    fn assert_found(&self, code: &str, subject: &str, level: &str, words: &[&str]) {
        let of = |finding: &&Value| {
            finding["code"] == code
                && finding["subject"]
                    .as_str()
                    .is_some_and(|s| s.contains(subject))
        };
        let found: Vec<&Value> = self.findings.iter().filter(of).collect();
        let said = |finding: &&Value| {
            let message = finding["message"].as_str().unwrap_or_default();
            finding["level"] == level && words.iter().all(|word| message.contains(word))
        };
        assert!(
            found.iter().any(said),
            "no {level} {code} of {subject} that says {words:?}: {found:#?}"
        );
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
        &[
            "the relay's tables",
            "checkpoints is missing",
            "requests is missing",
        ],
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

/// A database with keyspaces of its own, and a broker that is none.
struct Base {
    database: Database,
    shop: String,
    yaml: String,
}

impl Base {
    /// The relay's tables are there; `outboxes` and whatever `more` says come from the caller.
    async fn new(database: Database) -> Result<Self> {
        let (shop, own) = (unique("shop"), unique("own"));
        database.create_keyspace(&shop).await?;
        database.create_keyspace(&own).await?;
        let yaml = format!(
            "relay: {{ name: check }}\nscylla: {{ nodes: [\"{}\"], keyspace: {own} }}\n\
             kafka: {{ brokers: [\"127.0.0.1:{}\"] }}\n",
            database.node,
            free_port()?
        );
        let tables = format!("{yaml}outboxes: [{{ table: {shop}.good }}]\n");
        Relay::new(&tables)?.command(&["schema", "--apply"]).await?;
        Ok(Self {
            database,
            shop,
            yaml,
        })
    }

    async fn table(&self, name: &str, rest: &str) -> Result<String> {
        table(&self.database, &self.shop, name, rest).await
    }

    async fn report(&self, outboxes: &str) -> Result<Report> {
        Report::of(&format!("{}{outboxes}", self.yaml)).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_lose_the_order_are_told() -> Result<()> {
    let base = Base::new(Database::start().await?).await?;
    let columns = "aggregate_id text, id timeuuid, aggregate_type text, event_type text, payload blob, \
                   day int";
    let cdc = "cdc = {'enabled': true, 'ttl': 604800}";
    let spread = format!("{columns}, PRIMARY KEY ((aggregate_id, day), id)) WITH {cdc}");
    let spread = base.table("spread", &spread).await?;
    let typed = format!("{columns}, PRIMARY KEY ((aggregate_type, aggregate_id), id)) WITH {cdc}");
    let typed = base.table("typed", &typed).await?;
    let reversed = format!(
        "{columns}, PRIMARY KEY ((aggregate_id), id)) WITH CLUSTERING ORDER BY (id DESC) AND {cdc}"
    );
    let reversed = base.table("reversed", &reversed).await?;
    let day_first = format!("{columns}, PRIMARY KEY ((aggregate_id), day, id)) WITH {cdc}");
    let day_first = base.table("day_first", &day_first).await?;
    let tables = [&spread, &typed, &reversed, &day_first];
    let list: Vec<String> = tables
        .iter()
        .map(|table| format!("{{ table: {table} }}"))
        .collect();
    let report = base
        .report(&format!("outboxes: [{}]\n", list.join(", ")))
        .await?;
    report.assert_found(
        "event-key",
        &spread,
        "warning",
        &["(aggregate_id, day)", "SHOULD NOT"],
    );
    report.assert_found("event-key", &typed, "ok", &["ordered by aggregate_id"]);
    report.assert_found("event-id", &reversed, "warning", &["descending"]);
    report.assert_found("event-id", &day_first, "warning", &["day comes before id"]);
    report.assert_found("event-id", &typed, "ok", &["ordered by id"]);
    report.assert_found("log-ttl", &typed, "ok", &["604800 s", "3360 times"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_that_keep_too_little_are_told() -> Result<()> {
    let base = Base::new(Database::start().await?).await?;
    let with = |options: &str| {
        let log = "{'enabled': true, 'ttl': 604800}";
        GOOD.replace(log, &format!("{{'enabled': true, {options}}}"))
    };
    let keys = base
        .table("keys", &with("'delta': 'keys', 'ttl': 604800"))
        .await?;
    let brief = base.table("brief", &with("'ttl': 120")).await?;
    let lasting = base.table("lasting", &with("'ttl': 0")).await?;
    let list = [&keys, &brief, &lasting].map(|table| format!("{{ table: {table} }}"));
    let report = base
        .report(&format!("outboxes: [{}]\n", list.join(", ")))
        .await?;
    assert_eq!(report.status, Some(1));
    report.assert_found("cdc-delta", &keys, "error", &["keys only"]);
    report.assert_found("log-ttl", &brief, "error", &["120 s", "follow.late_window"]);
    report.assert_found("log-ttl", &lasting, "warning", &["for ever"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn warnings_fail_only_when_that_is_asked_for() -> Result<()> {
    let database = Database::start().await?;
    let cluster = MockCluster::new(1)?;
    cluster.create_topic("orders", 3, 1)?;
    let base = Base::new(database).await?;
    let brokers = format!(
        "kafka: {{ brokers: [\"{}\"] }}",
        cluster.bootstrap_servers()
    );
    let yaml: Vec<&str> = base
        .yaml
        .lines()
        .filter(|line| !line.starts_with("kafka"))
        .collect();
    let images = base
        .table(
            "images",
            &GOOD.replace("'enabled': true", "'enabled': true, 'postimage': true"),
        )
        .await?;
    let yaml = format!(
        "{}\n{brokers}\noutboxes: [{{ table: {images}, topic: orders }}]\n",
        yaml.join("\n")
    );
    let report = Report::of(&yaml).await?;
    assert_eq!((report.at("error").len(), report.status), (0, Some(0)));
    report.assert_found("cdc-images", &images, "warning", &["images"]);
    assert_eq!(Report::with(&yaml, &["--strict"]).await?.status, Some(1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_another_form_are_told_column_by_column() -> Result<()> {
    let base = Base::new(Database::start().await?).await?;
    let own = base
        .yaml
        .split("keyspace: ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    let own = own.context("the relay's keyspace")?.to_owned();
    let session = &base.database.session;
    session
        .query_unpaged(format!("DROP TABLE {own}.windows"), ())
        .await?;
    session
        .query_unpaged(format!("DROP TABLE {own}.sources"), ())
        .await?;
    let other = format!(
        "CREATE TABLE {own}.sources (relay text, source text, start text, PRIMARY KEY ((relay), source))"
    );
    session.query_unpaged(other, ()).await?;
    let report = base.report("outboxes: [{ table: no.where }]\n").await?;
    let words = ["windows is missing", "sources.start is text and not bigint"];
    report.assert_found("own-tables", &own, "error", &words);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_differ_are_told_by_how_much() -> Result<()> {
    let base = Base::new(Database::emulator_only().await?).await?;
    let outboxes = format!("outboxes: [{{ table: {}.good }}]\n", base.shop);
    let report = base.report(&outboxes).await?;
    report.assert_found("clock", "clocks", "ok", &["differ by", "give or take"]);
    let emulator = base.database.emulator().context("the emulator")?;
    for (seconds, level) in [(20, "warning"), (300, "error")] {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let ahead = now + std::time::Duration::from_secs(seconds);
        emulator.clock().set(ahead.as_micros() as i64);
        let report = base.report(&outboxes).await?;
        report.assert_found("clock", "clocks", level, &["differ by about"]);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_and_datacenters_are_judged() -> Result<()> {
    let three = scylla_emulator::Emulator::builder()
        .nodes(3)
        .vnodes(4)
        .shards(2);
    let base = Base::new(Database::emulated(three).await?).await?;
    let outboxes = format!("outboxes: [{{ table: {}.good }}]\n", base.shop);
    let report = base.report(&outboxes).await?;
    report.assert_found("replication", &base.shop, "warning", &["one replica"]);
    report.assert_found("consistency", &base.shop, "ok", &["1 of 1", "R + W > RF"]);
    let elsewhere = Base {
        yaml: base
            .yaml
            .replace("scylla: {", "scylla: { datacenter: elsewhere,"),
        ..base
    };
    let report = elsewhere.report(&outboxes).await?;
    report.assert_found(
        "datacenter",
        "scylla.datacenter",
        "error",
        &["no elsewhere"],
    );

    let one = Base::new(Database::emulator_only().await?.with_tablets()).await?;
    let good = one.table("tablets", GOOD).await?;
    let report = one
        .report(&format!("outboxes: [{{ table: {good} }}]\n"))
        .await?;
    report.assert_found("streams", &good, "ok", &["tablets"]);
    report.assert_found("replication", &one.shop, "ok", &["not for production"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_genuine_kafka_tells_what_it_will_do_with_records() -> Result<()> {
    let Some(broker) = kafka::node_broker("check").await else {
        return Ok(());
    };
    let base = Base::new(Database::start().await?).await?;
    let (topic, missing) = (unique("topic"), unique("missing"));
    kafka::create_topics(&broker.bootstrap, std::slice::from_ref(&topic)).await?;
    let yaml: Vec<&str> = base
        .yaml
        .lines()
        .filter(|line| !line.starts_with("kafka"))
        .collect();
    let yaml = format!(
        "{}\noutboxes: [{{ table: {shop}.good, topic: {topic} }}, {{ table: {shop}.more, topic: {missing} }}]\n",
        yaml.join("\n"),
        shop = base.shop
    );
    let brokers = |brokers: &str, properties: &str| {
        format!("{yaml}kafka: {{ brokers: [\"{brokers}\"], properties: {{ {properties} }} }}\n")
    };
    let report = Report::of(&brokers(&broker.bootstrap, "")).await?;
    report.assert_found("topic", &topic, "ok", &["exists"]);
    report.assert_found("topic", &missing, "warning", &["does not exist"]);
    report.assert_found(
        "topic-access",
        &missing,
        "ok",
        &["not checked: there is no such topic"],
    );
    report.assert_found("topic-access", &topic, "ok", &["may be written"]);
    report.assert_found("topic-size", &topic, "ok", &["1048588 bytes"]);
    report.assert_found("topic-durability", &topic, "ok", &["min.insync.replicas=1"]);
    report.assert_found(
        "auto-creation",
        "Kafka",
        "ok",
        &["creates a topic", "6 partition(s)"],
    );
    report.assert_found("kafka-version", "Kafka", "ok", &["librdkafka"]);
    // Asking did not create it.
    let again = Report::of(&brokers(&broker.bootstrap, "")).await?;
    again.assert_found("topic", &missing, "warning", &["does not exist"]);

    let large = brokers(&broker.bootstrap, "message.max.bytes: 2000000");
    kafka::set_topic(&broker.bootstrap, &topic, "min.insync.replicas", "2").await?;
    let report = Report::of(&large).await?;
    report.assert_found("topic-size", &topic, "warning", &["1048588", "2000000"]);
    report.assert_found(
        "topic-durability",
        &topic,
        "error",
        &["no write is ever acknowledged"],
    );

    let node = broker.node().context("a node")?;
    let guest = "security.protocol: sasl_plaintext, sasl.mechanism: PLAIN, sasl.username: guest, \
                 sasl.password: secret";
    let report = Report::of(&brokers(&node.login(), guest)).await?;
    report.assert_found("topic-access", &topic, "error", &["may not be described"]);
    let wrong = guest.replace("secret", "wrong");
    let report = Report::of(&brokers(&node.login(), &wrong)).await?;
    report.assert_found("kafka-connection", "Kafka", "error", &["uthentication"]);
    Ok(())
}
