//! `status`: from the database, from a running relay, and from both.

use crate::support::bench::Bench;
use crate::support::kafka;
use crate::support::traffic::{Plan, tables};
use anyhow::{Context, Result};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

const PLAN: Plan = Plan {
    events: 100,
    keys: 20,
    ahead: 100,
};

async fn json(bench: &Bench, arguments: &[&str]) -> Result<Value> {
    let arguments = [&["status", "--output", "json"], arguments].concat();
    let printed = bench.relay.command(&arguments).await?;
    serde_json::from_str(&printed).with_context(|| printed.clone())
}

/// What the server of a relay of this name answers.
async fn server(relay: &str, table: &str) -> Result<(String, JoinSet<()>)> {
    let status = serde_json::json!({
        "relay": relay, "version": "9.9.9", "now": "2026-01-31T12:00:00.000Z", "uptime_seconds": 61,
        "ready": true, "admin": false, "parts": [],
        "breaker": { "state": "closed", "opened": 0 },
        "limits": { "in_flight_events": 400, "in_flight_bytes": 1_000 },
        "in_flight": { "events": 1, "bytes": 2 }, "totals": {}, "latency": {}, "parked_keys": 0,
        "tables": [{
            "table": table, "state": "paused", "groups": 77, "generations": 1,
            "watermark": null, "lag_seconds": null, "backlog_seconds": null,
            "log_ttl_seconds": null, "expires_in_seconds": null
        }]
    });
    let group = serde_json::json!({
        "generation": "2026-01-31T12:00:00.000Z", "range_end": -123, "streams": 3,
        "watermark": null, "lag_seconds": null
    });
    let groups = serde_json::json!({ "groups": [group], "more": true });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let mut task = JoinSet::new();
    task.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else {
                    break;
                };
                asked.push(byte);
            }
            let of_groups = asked.starts_with(b"GET /api/tables/");
            let body = if of_groups { &groups } else { &status };
            let body = body.to_string();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            // The client may be gone.
            let _ = stream.write_all((head + &body).as_bytes()).await;
        }
    });
    Ok((url, task))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_tells_who_owns_the_name_and_how_far_the_tables_are() -> Result<()> {
    let case = "status";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = Bench::new(&broker.bootstrap).await?;
    let before = json(&bench, &["--database"]).await?;
    assert_eq!(before["owner"], Value::Null);
    assert_eq!(before["tables"][0]["oldest_watermark"], Value::Null);

    let relay = bench.relay.start().await?;
    bench.write_and_arrive(PLAN).await?;
    let running = json(&bench, &["--database"]).await?;
    assert_eq!(running["owner"]["role"], "relay");
    assert_eq!(running["relay"], bench.name.as_str());
    relay.stop().await?;

    let stopped = json(&bench, &["--database", "--groups", "--limit", "3"]).await?;
    assert_eq!(stopped["owner"], Value::Null);
    let (orders, billing) = tables(&bench.name);
    for (table, name) in [(0, &orders), (1, &billing)] {
        let table = &stopped["tables"][table];
        assert_eq!(table["table"], name.as_str());
        assert!(table["lag_seconds"].as_f64() > Some(0.0), "{table:#}");
        assert!(
            table["expires_in_seconds"].as_f64() > Some(0.0),
            "{table:#}"
        );
        assert_eq!(table["dead_letters"]["exact"], true);
        let groups = table["furthest_behind"]["groups"]
            .as_array()
            .context("groups")?;
        assert_eq!(groups.len(), 3);
        let lags: Vec<f64> = groups
            .iter()
            .filter_map(|g| g["lag_seconds"].as_f64())
            .collect();
        assert!(lags.is_sorted_by(|a, b| a >= b), "{lags:?}");
        assert_eq!(groups[0]["watermark"], table["oldest_watermark"]);
    }
    let text = bench.relay.command(&["status", "--database"]).await?;
    assert!(
        text.contains("nobody: no relay runs") && text.contains(&orders),
        "{text}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_relay_is_asked_and_another_one_is_refused() -> Result<()> {
    let case = "status of a running relay";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = Bench::new(&broker.bootstrap).await?;
    let (orders, _) = tables(&bench.name);
    let (url, _server) = server(&bench.name, &orders).await?;
    let both = json(&bench, &["--url", &url, "--groups"]).await?;
    assert_eq!(both["live"]["version"], "9.9.9");
    assert_eq!(both["tables"][0]["state"], "paused");
    assert_eq!(both["tables"][0]["groups"], 77);
    assert_eq!(
        both["tables"][0]["furthest_behind"]["groups"][0]["range_end"],
        -123
    );
    // What the relay does not say is the database's.
    assert_eq!(both["tables"][1]["state"], Value::Null);
    let text = bench
        .relay
        .command(&["status", "--url", &url, "--groups"])
        .await?;
    for said in [
        "version 9.9.9",
        "1 of 400 events",
        "paused",
        "--limit lists more",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }

    let (other, _server) = server("somebody-else", &orders).await?;
    let refused = bench.relay.output(&["status", "--url", &other]).await?;
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("somebody-else"));
    let nobody = format!("127.0.0.1:{}", crate::support::free_port()?);
    let refused = bench.relay.output(&["status", "--url", &nobody]).await?;
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("connect to"));
    Ok(())
}
