//! TLS and passwords on the way to the database, against the emulator: what works, and how each
//! thing that does not is told.

use crate::support::bench::{Bench, Setup};
use crate::support::certificates::{Authority, Issued};
use crate::support::check::{self, Found};
use crate::support::database::Database;
use crate::support::kafka;
use crate::support::oracle;
use crate::support::relay::Relay;
use crate::support::traffic::Plan;
use anyhow::Result;
use rdkafka::mocking::MockCluster;
use scylla_emulator::{Builder, Emulator, Tls};
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
async fn look(builder: Builder, scylla: &str) -> Result<Found> {
    look_at(builder, scylla, "ScyllaDB at").await
}

/// The same of another subject.
async fn look_at(builder: Builder, scylla: &str, subject: &str) -> Result<Found> {
    let emulator = builder.start().await?;
    let cluster = MockCluster::new(1)?;
    let yaml = format!(
        "scylla: {{ nodes: [\"{}\"], {scylla} }}\nkafka: {{ brokers: [\"{}\"] }}\n\
         outboxes: [{{ table: shop.outbox_messages }}]\n",
        emulator.address(),
        cluster.bootstrap_servers()
    );
    check::look(&Relay::new(&yaml)?, &[], subject, "hunter").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_are_not_accepted_are_told_with_a_remedy() -> Result<()> {
    let (ours, theirs) = (Authority::new("ours")?, Authority::new("theirs")?);
    let files = Files::new()?;
    let ca = files.add("ca.pem", &ours.pem())?;
    let tls = |more: &str| format!("tls: {{ enabled: true, ca_file: {ca}{more} }}");

    let own = theirs.issue("node-7", &["127.0.0.1"])?;
    let found = look(served(&own, None)?, &tls("")).await?;
    found.tells(
        "another authority",
        &["CN=node-7", "CN=theirs", "is not accepted"],
        "scylla.tls.ca_file",
    );

    let own = ours.issue_expired("node-7", &["127.0.0.1"])?;
    let found = look(served(&own, None)?, &tls("")).await?;
    found.tells("expired", &["CN=node-7", "expired"], "renew");

    let own = ours.issue("node-7", &["10.0.0.7", "db.example.com"])?;
    let found = look(served(&own, None)?, &tls("")).await?;
    found.tells(
        "another address",
        &["IP address mismatch", "10.0.0.7", "db.example.com"],
        "scylla.tls.server_name",
    );
    let found = look(served(&own, None)?, &tls(", server_name: x.example.com")).await?;
    found.tells(
        "another name",
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
    found.tells("no names", &["CN=theirs"], "scylla.tls.ca_file");
    let own = ours.issue_expired("node-7", &["10.0.0.7"])?;
    let found = look(served(&own, None)?, &tls(", verify_hostname: false")).await?;
    found.tells("no names, expired", &["expired"], "renew");

    // The relay's own certificates are looked at before a server refuses them.
    let Issued { certificate, key } = ours.issue_expired("relay", &[])?;
    let file = files.add("relay.pem", &certificate)?;
    let key = files.add("relay-key.pem", &key)?;
    let own = ours.issue("node-7", &["127.0.0.1"])?;
    let more = tls(&format!(", cert_file: {file}, key_file: {key}"));
    let subject = format!("certificates in {file}");
    let found = look_at(served(&own, None)?, &more, &subject).await?;
    found.tells("its own, expired", &["has expired"], "renew it and reload");
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
    found.tells(
        "no certificate",
        &["ended the connection"],
        "scylla.tls.cert_file and key_file",
    );

    let strange = format!(
        ", {}",
        files.identity("strange", &theirs.issue("relay", &[])?)?
    );
    let found = look(served(&own, Some(&ours))?, &tls(&strange)).await?;
    found.tells("a strange certificate", &[], "scylla.tls.cert_file");

    let guarded = || Ok::<_, anyhow::Error>(served(&own, None)?.credentials("relay", "hunter2"));
    let wrong = format!(
        "username: relay, password_file: {}, {}",
        files.add("wrong", "hunter3")?,
        tls("")
    );
    let found = look(guarded()?, &wrong).await?;
    found.tells("a wrong password", &[], "scylla.password_file");

    let found = look(Emulator::builder(), &tls("")).await?;
    found.tells("no TLS there", &[], "takes no TLS");

    let found = look(served(&own, None)?, "request_timeout: 10s").await?;
    found.tells("no TLS here", &[], "scylla.tls");
    Ok(())
}
