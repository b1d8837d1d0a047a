//! TLS and passwords on the way to the database, against the emulator: what works, and how each
//! thing that does not is told.

use crate::support::bench::{Bench, Setup};
use crate::support::certificates::{Authority, Issued};
use crate::support::database::Database;
use crate::support::kafka;
use crate::support::oracle;
use crate::support::relay::Relay;
use crate::support::traffic::Plan;
use anyhow::{Context, Result};
use rdkafka::mocking::MockCluster;
use scylla_emulator::{Builder, Emulator, Tls};
use serde_json::Value;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

const PLAN: Plan = Plan {
    events: 100,
    keys: 20,
    ahead: 100,
};

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

    /// `cert_file: …, key_file: …`
    fn identity(&self, name: &str, issued: &Issued) -> Result<String> {
        let certificate = self.add(&format!("{name}.pem"), &issued.certificate)?;
        let key = self.add(&format!("{name}-key.pem"), &issued.key)?;
        Ok(format!("cert_file: {certificate}, key_file: {key}"))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

fn served(own: &Issued, clients: Option<&Authority>) -> Result<Builder> {
    let clients = clients.map(Authority::pem);
    let tls = Tls::from_pem(&own.certificate, &own.key, clients.as_deref())?;
    Ok(Emulator::builder().vnodes(4).shards(2).tls(tls))
}

/// Events written over such a connection arrive by a relay that has the same.
async fn delivers(case: &str, builder: Builder, more: &str) -> Result<()> {
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let setup = Setup {
        direct: &broker.bootstrap,
        more,
        ..Setup::default()
    };
    let bench = Bench::with(Database::guarded(builder, more).await?, setup).await?;
    let relay = bench.relay.start().await?;
    bench.write_and_arrive(PLAN).await?;
    let log = relay.stop_and_log().await?;
    assert!(!log.contains("hunter2"), "{log}");
    let records = bench.assert_delivered(case).await?;
    assert_eq!(oracle::duplicates(&records), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_and_a_password_from_a_file() -> Result<()> {
    let authority = Authority::new("ours")?;
    let own = authority.issue("node", &["127.0.0.1"])?;
    let files = Files::new()?;
    let more = format!(
        "scylla: {{ username: relay, password_file: {}, tls: {{ enabled: true, ca_file: {} }} }}\n",
        files.add("password", "hunter2\n")?,
        files.add("ca.pem", &authority.pem())?,
    );
    let builder = served(&own, None)?.credentials("relay", "hunter2");
    delivers("TLS and a password", builder, &more).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_on_both_sides() -> Result<()> {
    let (nodes, clients) = (Authority::new("nodes")?, Authority::new("clients")?);
    let own = nodes.issue("node", &["127.0.0.1"])?;
    let files = Files::new()?;
    let more = format!(
        "scylla: {{ tls: {{ enabled: true, ca_file: {}, {} }} }}\n",
        files.add("ca.pem", &nodes.pem())?,
        files.identity("relay", &clients.issue("relay", &[])?)?,
    );
    delivers("mutual TLS", served(&own, Some(&clients))?, &more).await
}

/// What `check` says of a database that lets the relay in or not.
struct Found {
    level: String,
    message: String,
    remedy: String,
}

async fn look(builder: Builder, scylla: &str) -> Result<Found> {
    let emulator = builder.start().await?;
    let cluster = MockCluster::new(1)?;
    let yaml = format!(
        "scylla: {{ nodes: [\"{}\"], {scylla} }}\nkafka: {{ brokers: [\"{}\"] }}\n\
         outboxes: [{{ table: shop.outbox_messages }}]\n",
        emulator.address(),
        cluster.bootstrap_servers()
    );
    let output = Relay::new(&yaml)?
        .output(&["check", "--output", "json"])
        .await?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!printed.contains("hunter"), "{printed}");
    let findings: Value = serde_json::from_str(&printed)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let findings = findings["findings"].as_array().context("a list")?.clone();
    let about = |finding: &&Value| {
        let subject = finding["subject"].as_str().unwrap_or_default();
        subject.starts_with("ScyllaDB at")
    };
    let text = |key: &str, finding: &Value| finding[key].as_str().unwrap_or_default().to_owned();
    let finding = findings.iter().find(about);
    let finding = finding.with_context(|| format!("nothing about ScyllaDB: {printed}"))?;
    Ok(Found {
        level: text("level", finding),
        message: text("message", finding),
        remedy: text("remedy", finding),
    })
}

/// `check` fails with these words in its message and its remedy.
#[track_caller]
fn told(case: &str, found: &Found, message: &[&str], remedy: &str) {
    let Found {
        level,
        message: said,
        remedy: told,
    } = found;
    assert_eq!(level, "error", "{case}: {said}");
    for words in message {
        assert!(said.contains(words), "{case}: {words:?} is not in {said:?}");
    }
    assert!(
        told.contains(remedy),
        "{case}: {remedy:?} is not in {told:?} ({said})"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_are_not_accepted_are_told_with_a_remedy() -> Result<()> {
    let (ours, theirs) = (Authority::new("ours")?, Authority::new("theirs")?);
    let files = Files::new()?;
    let ca = files.add("ca.pem", &ours.pem())?;
    let tls = |more: &str| format!("tls: {{ enabled: true, ca_file: {ca}{more} }}");

    let own = theirs.issue("node-7", &["127.0.0.1"])?;
    let found = look(served(&own, None)?, &tls("")).await?;
    told(
        "another authority",
        &found,
        &["CN=node-7", "CN=theirs", "is not accepted"],
        "scylla.tls.ca_file",
    );

    let own = ours.issue_expired("node-7", &["127.0.0.1"])?;
    let found = look(served(&own, None)?, &tls("")).await?;
    told("expired", &found, &["CN=node-7", "expired"], "renew");

    let own = ours.issue("node-7", &["10.0.0.7", "db.example.com"])?;
    let found = look(served(&own, None)?, &tls("")).await?;
    told(
        "another address",
        &found,
        &["IP address mismatch", "10.0.0.7", "db.example.com"],
        "scylla.tls.server_name",
    );
    let found = look(served(&own, None)?, &tls(", server_name: x.example.com")).await?;
    told(
        "another name",
        &found,
        &["ostname mismatch", "db.example.com"],
        "scylla.tls.server_name",
    );
    let found = look(served(&own, None)?, &tls(", server_name: db.example.com")).await?;
    assert_eq!(found.level, "ok", "{}", found.message);
    let found = look(served(&own, None)?, &tls(", verify_hostname: false")).await?;
    assert_eq!(found.level, "ok", "{}", found.message);

    // Whoever does not look at names looks at everything else.
    let own = theirs.issue("node-7", &["10.0.0.7"])?;
    let found = look(served(&own, None)?, &tls(", verify_hostname: false")).await?;
    told("no names", &found, &["CN=theirs"], "scylla.tls.ca_file");
    let own = ours.issue_expired("node-7", &["10.0.0.7"])?;
    let found = look(served(&own, None)?, &tls(", verify_hostname: false")).await?;
    told("no names, expired", &found, &["expired"], "renew");
    assert!(files.path().exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_is_refused_is_told_with_a_remedy() -> Result<()> {
    let (ours, theirs) = (Authority::new("ours")?, Authority::new("theirs")?);
    let own = ours.issue("node", &["127.0.0.1"])?;
    let files = Files::new()?;
    let ca = files.add("ca.pem", &ours.pem())?;
    let tls = |more: &str| format!("tls: {{ enabled: true, ca_file: {ca}{more} }}");

    let found = look(served(&own, Some(&ours))?, &tls("")).await?;
    told(
        "no certificate",
        &found,
        &["ended the connection"],
        "scylla.tls.cert_file and key_file",
    );

    let strange = format!(
        ", {}",
        files.identity("strange", &theirs.issue("relay", &[])?)?
    );
    let found = look(served(&own, Some(&ours))?, &tls(&strange)).await?;
    told("a strange certificate", &found, &[], "scylla.tls.cert_file");

    let guarded = || Ok::<_, anyhow::Error>(served(&own, None)?.credentials("relay", "hunter2"));
    let wrong = format!(
        "username: relay, password_file: {}, {}",
        files.add("wrong", "hunter3")?,
        tls("")
    );
    let found = look(guarded()?, &wrong).await?;
    told("a wrong password", &found, &[], "scylla.password_file");

    let found = look(Emulator::builder(), &tls("")).await?;
    told("no TLS there", &found, &[], "takes no TLS");

    let found = look(served(&own, None)?, "request_timeout: 10s").await?;
    told("no TLS here", &found, &[], "scylla.tls");
    Ok(())
}
