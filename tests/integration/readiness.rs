//! What a relay says while it waits for a database, a broker or its name.

use crate::http::bench;
use crate::support::http::Client;
use crate::support::{free_port, kafka, until};
use anyhow::Result;
use serde_json::{Value, json};

/// What is told of a part.
fn part<'h>(health: &'h Value, name: &str) -> &'h Value {
    let parts = health["parts"].as_array();
    let named = |part: &&Value| part["part"] == name;
    parts
        .and_then(|parts| parts.iter().find(named))
        .unwrap_or(&Value::Null)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_answers_while_the_database_does_not() -> Result<()> {
    let Some(broker) = kafka::broker("HTTP without a database").await else {
        return Ok(());
    };
    let client = Client::new()?;
    let bench = bench(&broker, &client, "").await?;
    let nowhere = format!(
        "{}scylla: {{ nodes: [\"127.0.0.1:{}\"] }}\n",
        client.configuration(),
        free_port()?
    );
    bench.relay.reconfigure(&nowhere)?;
    let relay = bench.relay.launch(&[])?;
    client.listens().await?;
    until("it is told what the relay waits for", async || {
        let health = client.get("/readyz").await?;
        assert_eq!(health.status, 503);
        Ok(part(&health.json()?, "start")["reason"]
            .as_str()
            .is_some_and(|reason| reason.starts_with("ScyllaDB cannot be reached: ")))
    })
    .await?;
    let status = client.json("/api/status").await?;
    assert_eq!(
        (&status["ready"], &status["tables"][0]["state"]),
        (&json!(false), &json!("starting"))
    );
    assert_eq!(client.get("/api/dead-letters").await?.status, 503);
    assert_eq!(client.get("/metrics").await?.status, 200);
    // The right address, and a reload: no new process is needed.
    bench.relay.reconfigure(&client.configuration())?;
    let reloaded = client.post("/api/reload", "").await?.json()?;
    assert_eq!(reloaded["restarted"], json!(["scylla.nodes"]), "{reloaded}");
    until("the the relay has started", async || {
        Ok(client.get("/readyz").await?.status == 200)
    })
    .await?;
    relay.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_is_not_ready_before_a_broker_has_answered_though_it_has_nothing_to_do()
-> Result<()> {
    let Some(broker) = kafka::broker("HTTP without a broker").await else {
        return Ok(());
    };
    let client = Client::new()?;
    let bench = bench(&broker, &client, "").await?;
    let right = client.configuration();
    let nowhere = format!(
        "{right}kafka: {{ brokers: [\"127.0.0.1:{}\"] }}\n",
        free_port()?
    );
    bench.relay.reconfigure(&nowhere)?;
    let relay = bench.relay.start().await?;
    client.listens().await?;
    until("it is told that no broker can be reached", async || {
        let health = client.get("/readyz").await?;
        assert_eq!(health.status, 503, "{}", health.body);
        Ok(part(&health.json()?, "Kafka connection")["reason"]
            .as_str()
            .is_some_and(|reason| reason.starts_with("no broker can be reached")))
    })
    .await?;
    // A second relay of the name is not ready either, and says whom it waits for.
    let standby = Client::new()?;
    let address = standby.configuration();
    let other = bench.relay.file("standby.yaml");
    std::fs::write(&other, address)?;
    let waiting = bench
        .relay
        .launch(&["--config", &other.display().to_string()])?;
    until("it is told who has the name", async || {
        let Ok(health) = standby.get("/readyz").await else {
            return Ok(false);
        };
        assert_eq!(health.status, 503, "{}", health.body);
        Ok(part(&health.json()?, "start")["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("this is a standby")))
    })
    .await?;
    waiting.kill().await?;

    bench.relay.reconfigure(&right)?;
    let reloaded = client.post("/api/reload", "").await?.json()?;
    assert_eq!(
        reloaded["restarted"],
        json!(["kafka.brokers"]),
        "{reloaded}"
    );
    until("the relay is ready", async || {
        let health = client.get("/readyz").await?;
        let connection = part(&health.json()?, "Kafka connection")["state"].clone();
        Ok(health.status == 200 && connection == "ok")
    })
    .await?;
    relay.stop().await
}
