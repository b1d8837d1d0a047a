//! What the relay tells and takes over HTTP, as a process with a genuine broker.

use crate::support::bench::Bench;
use crate::support::collector::Record;
use crate::support::http::{Client, TOKEN};
use crate::support::traffic::{Plan, tables};
use crate::support::{kafka, oracle, until};
use anyhow::{Context, Result};
use outbox_writer::{Event, Outbox};
use serde_json::{Value, json};

/// Larger than the topic takes, smaller than the producer does.
const HUGE: usize = 100_000;

pub(crate) async fn bench(broker: &kafka::Broker, client: &Client, more: &str) -> Result<Bench> {
    let more = format!("{}{more}", client.configuration());
    Bench::configured(&broker.bootstrap, &more).await
}

async fn write(bench: &Bench, key: &str, payload: &str) -> Result<String> {
    let (orders, _) = tables(&bench.name);
    let outbox = Outbox::new(&bench.database.session, &orders).await?;
    let event = Event::new("order", key, "Placed").text(payload);
    let receipt = outbox
        .batch()
        .event(event)
        .execute(&bench.database.session)
        .await?;
    Ok(receipt.event_ids[0].to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_status_and_metrics_tell_how_the_relay_fares() -> Result<()> {
    let Some(broker) = kafka::broker("health, status and metrics").await else {
        return Ok(());
    };
    let client = Client::new()?;
    let bench = bench(&broker, &client, "").await?;
    let relay = bench.relay.start().await?;
    let plan = Plan {
        events: 500,
        keys: 50,
        ahead: 500,
    };
    if let Err(error) = bench.write_and_arrive(plan).await {
        let status = client.json("/api/status").await?;
        let letters = client.json("/api/dead-letters").await?;
        panic!("{error:#}: {status:#}, {letters:#}\n{}", relay.log());
    }
    let open = client.with_token(None);
    assert_eq!(open.get("/livez").await?.body, "ok");
    // A consumer may have a record before the relay has heard of a broker.
    until("the relay is ready", async || {
        Ok(open.get("/readyz").await?.status == 200)
    })
    .await?;
    assert_eq!(open.json("/readyz").await?["ready"], true);

    until("all acknowledgements are counted", async || {
        Ok(open.json("/api/status").await?["totals"]["published"] == 500)
    })
    .await?;
    until("both tables have told where they stand", async || {
        let status = open.json("/api/status").await?;
        let tables = status["tables"].as_array().context("tables")?.clone();
        Ok(tables.len() == 2 && tables.iter().all(|table| table["state"] == "running"))
    })
    .await?;
    let status = open.json("/api/status").await?;
    assert_eq!(status["relay"], json!(bench.name));
    assert_eq!(status["admin"], true);
    assert_eq!(status["breaker"]["state"], "closed");
    assert_eq!(status["latency"]["total"]["count"], 500);
    let table = &status["tables"][0];
    assert!(table["groups"].as_u64() > Some(0), "{table}");
    assert!(table["lag_seconds"].as_f64() > Some(0.0), "{table}");
    assert!(table["expires_in_seconds"].as_f64() > Some(0.0), "{table}");
    let events: u64 = status["tables"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|t| t["events"].as_u64())
        .sum();
    assert_eq!(events, 500);

    let (orders, _) = tables(&bench.name);
    let groups = open
        .json(&format!("/api/tables/{orders}/groups?limit=2"))
        .await?;
    assert!(
        (1..=2).contains(&groups["groups"].as_array().map_or(0, Vec::len)),
        "{groups}"
    );
    assert_eq!(open.get("/api/tables/no.such/groups").await?.status, 404);

    let metrics = open.get("/metrics").await?;
    assert!(
        metrics
            .header("content-type")
            .is_some_and(|form| form.starts_with("text/plain"))
    );
    for line in [
        "outbox_relay_events_total{outcome=\"published\"} 500",
        "outbox_relay_stage_seconds_count{stage=\"total\"} 500",
        "outbox_relay_ready 1",
        "# TYPE outbox_relay_events_total counter",
        "# TYPE process_resident_memory_bytes gauge",
    ] {
        let found = metrics.body.lines().any(|found| found.starts_with(line));
        assert!(found, "no {line} in\n{}", metrics.body);
    }
    // The commands ask the same server.
    let health = bench.relay.command(&["healthcheck", "--ready"]).await?;
    assert_eq!(health.lines().count(), 1, "{health}");
    let told = bench.relay.command(&["status", "--output", "json"]).await?;
    let told: Value = serde_json::from_str(&told)?;
    assert_eq!(told["live"]["totals"]["published"], 500, "{told:#}");
    assert_eq!(told["owner"]["role"], "relay", "{told:#}");
    let accept = "accept: application/openmetrics-text;version=1.0.0\r\n";
    let metrics = open.ask("GET", "/metrics", accept, "").await?;
    assert!(
        metrics
            .header("content-type")
            .is_some_and(|form| form.contains("openmetrics"))
    );
    assert!(metrics.body.ends_with("# EOF\n"));
    assert!(
        metrics
            .body
            .contains("# TYPE outbox_relay_events counter\n"),
        "{}",
        metrics.body
    );
    relay.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn administration_asks_for_the_token() -> Result<()> {
    let Some(broker) = kafka::broker("administration asks for the token").await else {
        return Ok(());
    };
    let client = Client::new()?;
    let bench = bench(&broker, &client, "").await?;
    let relay = bench.relay.start().await?;
    let guarded = [
        ("GET", "/api/dead-letters"),
        ("GET", "/api/dead-letters/some-id"),
        ("POST", "/api/dead-letters/replay"),
        ("POST", "/api/dead-letters/discard"),
        ("GET", "/api/requests/some-id"),
        ("POST", "/api/tables/a.b/pause"),
        ("POST", "/api/tables/a.b/resume"),
        ("POST", "/api/reload"),
        ("GET", "/api/log-level"),
        ("PUT", "/api/log-level"),
    ];
    for (method, path) in guarded {
        let longer = "a-token-of-the-tests-01234567890";
        assert!(longer.starts_with(TOKEN));
        let wrong = ["wrong-token-0123456789", &TOKEN[..TOKEN.len() - 1], longer];
        for token in [None].into_iter().chain(wrong.map(Some)) {
            let answer = client.with_token(token).ask(method, path, "", "").await?;
            assert_eq!(answer.status, 401, "{method} {path}");
            assert!(answer.json()?["error"].is_string());
        }
    }
    assert_eq!(client.get("/api/dead-letters").await?.status, 200);
    assert_eq!(client.get("/api/nothing").await?.status, 404);
    assert_eq!(client.ask("DELETE", "/livez", "", "").await?.status, 405);
    for body in [
        "{}",
        "{\"all\": true, \"filter\": {\"key\": \"a\"}}",
        "{\"fliter\": {}}",
        "no JSON",
        "{\"filter\": {\"reason\": \"none\"}}",
    ] {
        let answer = client.post("/api/dead-letters/discard", body).await?;
        assert!((400..=422).contains(&answer.status), "{body}: {answer:?}");
        assert!(answer.json()?["error"].is_string(), "{answer:?}");
    }
    let large = format!("{{\"filter\": {{\"key\": \"{}\"}}}}", "k".repeat(100_000));
    assert_eq!(
        client
            .post("/api/dead-letters/replay", &large)
            .await?
            .status,
        413
    );

    let page = client.get("/").await?;
    let policy = page.header("content-security-policy").context("a policy")?;
    let nonce = policy
        .split("'nonce-")
        .nth(1)
        .and_then(|rest| rest.split('\'').next());
    let nonce = nonce.context("a nonce")?;
    assert!(
        page.body.contains(&format!("<script nonce=\"{nonce}\"")),
        "the script has the nonce"
    );
    assert!(!page.body.contains("__NONCE__"));
    let again = client.get("/").await?;
    assert!(!again.body.contains(nonce), "a nonce is used once");

    // The level changes at once, and with the configuration again.
    assert_eq!(client.json("/api/log-level").await?["level"], "info");
    let level = client
        .ask("PUT", "/api/log-level", "", "{\"level\": \"debug\"}")
        .await?;
    assert_eq!(level.json()?["level"], "debug");
    for wrong in ["outbox=loud", "deebug"] {
        let body = format!("{{\"level\": \"{wrong}\"}}");
        let level = client.ask("PUT", "/api/log-level", "", &body).await?;
        assert_eq!(level.status, 400, "{wrong}");
    }
    assert_eq!(client.json("/api/log-level").await?["level"], "debug");

    // A reload brings back what the configuration says.
    client.post("/api/reload", "").await?;
    assert_eq!(client.json("/api/log-level").await?["level"], "info");

    // Without a token in the configuration, all of it is off.
    bench.relay.reconfigure(
        &client
            .configuration()
            .replace(&format!(", admin_token: {TOKEN}"), ""),
    )?;
    let reloaded = client.post("/api/reload", "").await?.json()?;
    assert_eq!(
        reloaded["applied"],
        json!(["http.admin_token"]),
        "{reloaded}"
    );
    assert_eq!(client.get("/api/dead-letters").await?.status, 403);
    assert_eq!(client.json("/api/status").await?["admin"], false);
    relay.stop().await
}

/// Waits until so many dead letters are listed.
async fn listed(client: &Client, query: &str, count: usize) -> Result<Vec<Value>> {
    let mut letters = Vec::new();
    until("dead letters are listed", async || {
        let list = client.json(&format!("/api/dead-letters{query}")).await?;
        letters.clone_from(list["dead_letters"].as_array().context("a list")?);
        Ok(letters.len() == count)
    })
    .await?;
    Ok(letters)
}

/// Waits until a request has ended, and gives its report.
async fn ended(client: &Client, answer: &Value) -> Result<Value> {
    let id = answer["request"].as_str().context("a request")?;
    let mut report = Value::Null;
    until("the request ends", async || {
        report = client.json(&format!("/api/requests/{id}")).await?;
        Ok(report["state"] == "done" || report["state"] == "failed")
    })
    .await?;
    Ok(report)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_holds_more_than_some_megabytes_of_dead_letters() -> Result<()> {
    let Some(broker) = kafka::broker("large dead letters over HTTP").await else {
        return Ok(());
    };
    let client = Client::new()?;
    let bench = bench(&broker, &client, "").await?;
    let topic = &bench.topics[0];
    kafka::set_topic(&broker.bootstrap, topic, "max.message.bytes", "50000").await?;
    let relay = bench.relay.start().await?;
    for _ in 0..99 {
        write(&bench, "poison", &"x".repeat(HUGE)).await?;
    }
    listed(&client, "?limit=1000", 99).await?;
    let answer = client.json("/api/dead-letters?whole=true").await?;
    let whole = answer["dead_letters"].as_array().context("a list")?;
    // 8 MiB are passed by the 84th of 100,000 bytes and their headers.
    assert_eq!((whole.len(), &answer["more"]), (84, &json!(true)));
    assert!(whole.iter().all(|letter| letter["payload"].is_string()));
    relay.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_is_found_understood_and_replayed() -> Result<()> {
    let Some(broker) = kafka::broker("dead letters over HTTP").await else {
        return Ok(());
    };
    let client = Client::new()?;
    let bench = bench(&broker, &client, "").await?;
    let topic = &bench.topics[0];
    kafka::set_topic(&broker.bootstrap, topic, "max.message.bytes", "50000").await?;
    let relay = bench.relay.start().await?;
    let poison = write(&bench, "poison", &"x".repeat(HUGE)).await?;
    let after = write(&bench, "poison", "after").await?;
    let unwanted = write(&bench, "unwanted", &"y".repeat(HUGE)).await?;
    listed(&client, "", 3).await?;

    let found = listed(&client, "?key=poison&reason=permanent", 1).await?;
    assert_eq!(
        (&found[0]["id"], &found[0]["reason"]),
        (&json!(poison), &json!("permanent"))
    );
    assert!(found[0].get("payload").is_none(), "a list has no payloads");
    let whole = listed(&client, "?key=poison&reason=permanent&whole=true", 1).await?;
    assert_eq!(whole[0]["payload"].as_str().map(str::len), Some(HUGE));
    let first = client.json("/api/dead-letters?limit=1").await?;
    assert_eq!(
        (
            first["dead_letters"].as_array().map(Vec::len),
            &first["more"]
        ),
        (Some(1), &json!(true))
    );
    let letter = client.json(&format!("/api/dead-letters/{poison}")).await?;
    let letter = &letter["dead_letters"][0];
    assert_eq!(letter["payload"].as_str().map(str::len), Some(HUGE));
    assert!(
        letter["remedy"]
            .as_str()
            .is_some_and(|remedy| remedy.contains("max.message.bytes"))
    );
    assert_eq!(client.get("/api/dead-letters/none").await?.status, 404);
    let metrics = client.get("/metrics").await?.body;
    assert!(
        metrics.contains("outbox_relay_dead_letters_total{reason=\"permanent\"} 2"),
        "{metrics}"
    );
    assert!(metrics.contains("outbox_relay_parked_keys 2"), "{metrics}");
    assert!(!metrics.contains("poison"), "no key is a label");
    until("they are counted", async || {
        let waiting = &client.json("/api/status").await?["dead_letters"];
        Ok(waiting["permanent"] == 2 && waiting["parked"] == 1)
    })
    .await?;

    kafka::set_topic(&broker.bootstrap, topic, "max.message.bytes", "1000000").await?;
    let filter = "{\"filter\": {\"key\": \"poison\"}, \"dry_run\": true}";
    let dry = client
        .post("/api/dead-letters/replay", filter)
        .await?
        .json()?;
    assert_eq!(dry["progress"]["planned"], 2, "{dry}");
    assert_eq!(
        listed(&client, "", 3).await?.len(),
        3,
        "a dry run does nothing"
    );
    let asked = client
        .post("/api/dead-letters/replay", &filter.replace("true", "false"))
        .await?;
    assert_eq!(asked.status, 202);
    let report = ended(&client, &asked.json()?).await?;
    assert_eq!(
        (&report["state"], &report["progress"]["published"]),
        (&json!("done"), &json!(2))
    );
    let asked = client
        .post(
            "/api/dead-letters/discard",
            "{\"filter\": {\"key\": \"unwanted\"}}",
        )
        .await?;
    assert_eq!(
        ended(&client, &asked.json()?).await?["progress"]["discarded"],
        1
    );
    listed(&client, "", 0).await?;
    until("none is counted any more", async || {
        let metrics = client.get("/metrics").await?.body;
        assert!(metrics.contains("outbox_relay_dead_letters_discarded_total 1"));
        Ok(metrics.contains("outbox_relay_dead_letters_stored{reason=\"permanent\"} 0"))
    })
    .await?;
    let records = bench.collector.all().await?;
    let ids: Vec<String> = records.iter().map(Record::id).collect();
    assert_eq!(
        ids,
        [poison, after],
        "in order, each once, and not {unwanted}"
    );
    let unknown = client
        .get("/api/requests/00000000-0000-1000-8000-000000000000")
        .await?;
    assert_eq!(unknown.status, 404);
    relay.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_table_waits_while_the_other_goes_on() -> Result<()> {
    let case = "a paused table";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let client = Client::new()?;
    let bench = bench(
        &broker,
        &client,
        "supervision: { health_interval: 100ms }\n",
    )
    .await?;
    let relay = bench.relay.start().await?;
    let plan = Plan {
        events: 200,
        keys: 20,
        ahead: 200,
    };
    bench.write_and_arrive(plan).await?;
    let (orders, _) = tables(&bench.name);
    let paused = client
        .post(&format!("/api/tables/{orders}/pause"), "")
        .await?;
    assert_eq!(paused.json()?["paused"], true);
    assert_eq!(
        client.post("/api/tables/no.such/pause", "").await?.status,
        404
    );
    until("no read of it is under way", async || {
        Ok(client.json("/api/status").await?["tables"][0]["state"] == "paused")
    })
    .await?;
    let before = bench.written_of("order");
    bench.write(plan).await?;
    bench
        .arrived_of("invoice", bench.written_of("invoice"))
        .await?;
    let published = bench.collector.all().await?;
    let orders_published = published
        .iter()
        .filter(|record| record.topic == bench.topics[0]);
    assert_eq!(
        orders_published.count(),
        before,
        "nothing of a paused table is published"
    );
    until("the health says so", async || {
        let health = client.json("/readyz").await?;
        let mut parts = health["parts"].as_array().into_iter().flatten();
        Ok(parts.any(|part| {
            part["reason"]
                .as_str()
                .is_some_and(|reason| reason.contains("paused"))
        }))
    })
    .await?;
    client
        .post(&format!("/api/tables/{orders}/resume"), "")
        .await?;
    bench.all_arrived().await?;
    let records = bench.assert_delivered(case).await?;
    assert_eq!(oracle::duplicates(&records), 0);
    relay.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_under_load_loses_and_repeats_nothing() -> Result<()> {
    let case = "a reload under load";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let client = Client::new()?;
    let bench = bench(&broker, &client, "").await?;
    let relay = bench.relay.start().await?;
    let plan = Plan {
        events: 3_000,
        keys: 100,
        ahead: 500,
    };
    let reloads = async {
        bench.arrived(500).await?;
        // A bad file changes nothing.
        bench.relay.reconfigure(&format!(
            "{}follow: {{ pol: 5ms }}\n",
            client.configuration()
        ))?;
        let refused = client.post("/api/reload", "").await?;
        assert_eq!(refused.status, 422);
        assert_eq!(refused.json()?["problems"][0]["path"], "follow.pol");
        relay.said("the configuration stays as it is").await?;
        // Parts start anew with what has changed.
        let changed = format!(
            "{}follow: {{ poll: 5ms }}\nlog: {{ level: \"info,outbox_relay=info\" }}\n",
            client.configuration()
        );
        bench.relay.reconfigure(&changed)?;
        let reloaded = client.post("/api/reload", "").await?.json()?;
        assert_eq!(reloaded["restarted"], json!(["follow.poll"]), "{reloaded}");
        assert_eq!(reloaded["applied"], json!(["log.level"]), "{reloaded}");
        relay.said_times("the relay has started", 2).await?;
        bench.arrived(1_500).await?;
        // What it cannot start with is given up for what it could start with.
        let louder = changed.replace("outbox_relay=info", "outbox_relay=debug");
        bench.relay.reconfigure(&format!(
            "{louder}scylla: {{ keyspace: no_such_keyspace }}\n"
        ))?;
        relay.signal("HUP").await?;
        relay.said("goes back to the one before").await?;
        let level = client.json("/api/log-level").await?;
        assert_eq!(level["level"], "info,outbox_relay=info");
        relay.said_times("the relay has started", 3).await?;
        bench.arrived(plan.events).await
    };
    let writing = bench.traffic.write(plan, bench.collector.progress());
    tokio::try_join!(reloads, writing)?;
    // The consumer may have the last record before the relay has its acknowledgement.
    until("counters go on over all of it", async || {
        let metrics = client.get("/metrics").await?.body;
        Ok(metrics.contains("outbox_relay_events_total{outcome=\"published\"} 3000"))
    })
    .await?;
    let records = bench.assert_delivered(case).await?;
    assert_eq!(
        oracle::duplicates(&records),
        0,
        "parts that start anew repeat nothing"
    );
    relay.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_requests_are_bounded_and_refused() -> Result<()> {
    let Some(broker) = kafka::broker("hostile HTTP requests").await else {
        return Ok(());
    };
    let client = Client::new()?;
    let bench = bench(&broker, &client, "").await?;
    let tight = client.configuration().replace(
        "http: {",
        "http: { max_connections: 3, request_timeout: 300ms,",
    );
    bench.relay.reconfigure(&tight)?;
    let relay = bench.relay.start().await?;
    client.listens().await?;

    let none = client.raw(b"\x16\x03\x01 this is no HTTP\r\n\r\n").await?;
    assert!(
        none.is_empty() || none.starts_with("HTTP/1.1 400"),
        "{none}"
    );
    let long = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(200_000));
    let refused = client.raw(long.as_bytes()).await?;
    let too_long = refused.starts_with("HTTP/1.1 414") || refused.starts_with("HTTP/1.1 431");
    assert!(refused.is_empty() || too_long, "{refused}");
    // A request that never ends is given up, and so is a body that never comes.
    let unfinished = client.raw(b"GET /livez HTTP/1.1\r\nhost: a\r\n").await?;
    assert!(!unfinished.contains(" 200 "), "{unfinished}");
    let token = format!("authorization: Bearer {TOKEN}\r\ncontent-type: application/json\r\n");
    let body = format!(
        "POST /api/dead-letters/discard HTTP/1.1\r\nhost: a\r\n{token}content-length: 50\r\n\r\n{{"
    );
    let late = client.raw(body.as_bytes()).await?;
    assert!(
        late.starts_with("HTTP/1.1 504") || late.starts_with("HTTP/1.1 408"),
        "{late}"
    );

    // Whoever takes all connections and says nothing loses them; the others are served then.
    let mut idle = Vec::new();
    for _ in 0..6 {
        idle.push(client.connect().await?);
    }
    until("somebody else is served", async || {
        Ok(client
            .get("/livez")
            .await
            .is_ok_and(|answer| answer.status == 200))
    })
    .await?;
    drop(idle);
    // So do those who ask and never read: there are places for lasting connections again.
    let mut deaf = Vec::new();
    for _ in 0..30 {
        deaf.push(client.deaf().await?);
    }
    until("there is a place for a connection that lasts", async || {
        client.lasts().await
    })
    .await?;
    drop(deaf);
    // None of it has disturbed the relay.
    let plan = Plan {
        events: 100,
        keys: 10,
        ahead: 100,
    };
    bench.write_and_arrive(plan).await?;
    relay.stop().await?;

    // A probe is answered while all places are taken, by clients that are given an hour.
    bench.relay.reconfigure(&client.configuration().replace(
        "http: {",
        "http: { max_connections: 3, request_timeout: 1h,",
    ))?;
    let relay = bench.relay.start().await?;
    client.listens().await?;
    // One that comes while the client before it is still on its way out gets a spare place.
    let mut idle = Vec::new();
    until("the places are taken", async || {
        idle.push(client.connect().await?);
        Ok(!client.lasts().await?)
    })
    .await?;
    for _ in 0..40 {
        assert_eq!(client.get("/livez").await?.status, 200);
    }
    assert!(!client.lasts().await?, "the places are still taken");
    drop(idle);
    relay.stop().await
}
