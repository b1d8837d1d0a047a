//! The control port, over a socket.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use scylla::client::session_builder::SessionBuilder;
use scylla_emulator::control::{Control, ControlError, MAX_LINE};
use scylla_emulator::engine::Outcome;
use scylla_emulator::{Builder, Emulator};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

const SETUP: [&str; 4] = [
    "CREATE KEYSPACE ks WITH replication = {'class': 'NetworkTopologyStrategy', 'replication_factor': 1}",
    "CREATE TABLE ks.t (pk int PRIMARY KEY, v text) WITH cdc = {'enabled': true}",
    "CREATE KEYSPACE tb WITH replication = {'class': 'NetworkTopologyStrategy', 'replication_factor': 1} AND tablets = {'initial': 2}",
    "CREATE TABLE tb.t (pk int PRIMARY KEY) WITH cdc = {'enabled': true}",
];

struct Setup {
    emulator: Arc<Emulator>,
    control: Control,
    client: BufReader<TcpStream>,
}

async fn start(builder: Builder) -> Setup {
    let emulator = Arc::new(builder.start().await.expect("start"));
    for statement in SETUP {
        emulator.execute(statement).expect(statement);
    }
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let control = Control::start(Arc::clone(&emulator), any)
        .await
        .expect("control");
    let client = BufReader::new(
        TcpStream::connect(control.address())
            .await
            .expect("connect"),
    );
    Setup {
        emulator,
        control,
        client,
    }
}

impl Setup {
    async fn line(&mut self, line: &str) -> Value {
        let stream = self.client.get_mut();
        stream
            .write_all(format!("{line}\n").as_bytes())
            .await
            .expect("send");
        let mut answer = String::new();
        self.client.read_line(&mut answer).await.expect("receive");
        serde_json::from_str(&answer).expect("JSON")
    }

    /// Sends a command that must succeed.
    async fn ok(&mut self, command: Value) -> Value {
        let answer = self.line(&command.to_string()).await;
        assert_eq!(answer["ok"], json!(true), "{command}: {answer}");
        answer
    }

    async fn error(&mut self, command: Value) -> String {
        let answer = self.line(&command.to_string()).await;
        assert_eq!(answer["ok"], json!(false), "{command}: {answer}");
        answer["error"].as_str().expect("a text").to_owned()
    }

    fn count(&self, cql: &str) -> usize {
        match self.emulator.execute(cql) {
            Ok(Outcome::Rows(rows)) => rows.rows.len(),
            other => panic!("no rows: {other:?}"),
        }
    }
}

#[tokio::test]
async fn faults_and_late_rows() {
    const INSERT: &str = "INSERT INTO ks.t (pk, v) VALUES (?, ?)";
    let mut setup = start(Emulator::builder()).await;
    let session = SessionBuilder::new().known_node_addr(setup.emulator.address());
    let session = session.build().await.expect("connect");
    let fault = json!({"command": "inject_fault", "pattern": "INTO ks.t", "effect": {"fail": "overloaded"}, "value": "bad", "times": 1});
    let fault = setup.ok(fault).await["id"].clone();
    let delay = json!({"command": "inject_fault", "pattern": "nothing", "effect": {"delay_ms": 5}});
    setup.ok(delay).await;
    setup
        .ok(json!({"command": "inject_fault", "pattern": "nothing", "effect": "silence"}))
        .await;
    let late =
        json!({"command": "hide", "table": "ks.t", "for_ms": 3_600_000, "value_hex": "6c617465"});
    let late = setup.ok(late).await["id"].clone();
    session
        .query_unpaged(INSERT, (1, "fine"))
        .await
        .expect("insert");
    session
        .query_unpaged(INSERT, (2, "late"))
        .await
        .expect("insert");
    session
        .query_unpaged(INSERT, (3, "bad"))
        .await
        .expect_err("overloaded");
    for id in [fault, late] {
        let hits = setup.ok(json!({"command": "hits", "id": id})).await;
        assert_eq!(hits["hits"], json!(1));
    }
    let log = "SELECT * FROM ks.t_scylla_cdc_log";
    assert_eq!(setup.count(log), 1);
    setup
        .ok(json!({"command": "advance", "ms": 3_600_000}))
        .await;
    assert_eq!(setup.count(log), 2);
    setup.ok(json!({"command": "clear_faults"})).await;
    setup.ok(json!({"command": "clear_hide"})).await;
    setup.ok(json!({"command": "hide", "table": "ks.t", "reads": 1, "share": 1.0, "whole_write": true})).await;
    session
        .query_unpaged(INSERT, (3, "bad"))
        .await
        .expect("insert");
    assert_eq!((setup.count(log), setup.count(log)), (2, 3));
    assert_eq!(
        setup.ok(json!({"command": "status"})).await["hidden"],
        json!(2)
    );
    setup
        .ok(json!({"command": "advance", "ms": 2 * 86_400_000}))
        .await;
    assert_eq!(setup.count(log), 0, "expired");
}

#[tokio::test]
async fn time_streams_and_nodes() {
    let address = SocketAddr::from((Ipv4Addr::new(127, 0, 10, 1), 0));
    let mut setup = start(Emulator::builder().nodes(2).listen(address)).await;
    setup.ok(json!({"command": "skew", "ms": -60_000})).await;
    let now = setup.ok(json!({"command": "status"})).await["now_micros"]
        .as_i64()
        .expect("a number");
    setup
        .ok(json!({"command": "set_clock", "micros": now + 120_000_000}))
        .await;

    let generations = "SELECT time FROM system_distributed.cdc_generation_timestamps";
    let late = json!({"command": "new_generation", "in_ms": 100, "listed_after_ms": 60_000});
    let timestamp = setup.ok(late).await["timestamp_ms"]
        .as_i64()
        .expect("a number");
    assert!(timestamp > now / 1_000);
    assert_eq!(setup.count(generations), 1);
    setup.ok(json!({"command": "advance", "ms": 61_000})).await;
    assert_eq!(setup.count(generations), 2);

    let sets = "SELECT timestamp FROM system.cdc_timestamps WHERE keyspace_name = 'tb' AND table_name = 't'";
    setup
        .ok(json!({"command": "lag_node_view", "node": 0, "lag": true}))
        .await;
    let split = setup
        .ok(json!({"command": "split_tablets", "table": "tb.t", "in_ms": 0}))
        .await;
    assert_eq!(split["streams"], json!(4));
    assert_eq!(setup.count(sets), 1);
    setup
        .ok(json!({"command": "lag_node_view", "node": 0, "lag": false}))
        .await;
    let merged = setup
        .ok(json!({"command": "merge_tablets", "table": "tb.t"}))
        .await;
    assert_eq!(merged["streams"], json!(2));
    assert_eq!(setup.count(sets), 3);
    setup.ok(json!({"command": "advance", "ms": 10_000})).await;
    let forgotten = setup.ok(json!({"command": "forget_streams"})).await;
    assert_eq!(
        forgotten["forgotten"],
        json!(3),
        "two sets and a generation"
    );

    setup.ok(json!({"command": "stop_node", "node": 1})).await;
    let nodes = setup.ok(json!({"command": "status"})).await["nodes"].clone();
    assert_eq!(
        (&nodes[0]["up"], &nodes[1]["up"]),
        (&json!(true), &json!(false))
    );
    setup.ok(json!({"command": "start_node", "node": 1})).await;
    setup.ok(json!({"command": "stop_listening"})).await;
    setup.ok(json!({"command": "start_listening"})).await;
    assert_eq!(setup.emulator.nodes_up().await, [true, true]);
}

#[tokio::test]
async fn what_is_wrong_is_told_and_does_nothing() {
    let mut setup = start(Emulator::builder()).await;
    for (command, part) in [
        (
            json!({"command": "reboot"}),
            "unknown variant `reboot`, expected one of `inject_fault`",
        ),
        (json!({"command": "advance"}), "missing field `ms`"),
        (json!({"command": "advance", "ms": -1}), "expected u64"),
        (
            json!({"command": "advance", "ms": u64::MAX}),
            "too far away",
        ),
        (
            json!({"command": "advance", "ms": 1, "sec": 1}),
            "unknown field `sec`",
        ),
        (json!({"command": "hide", "table": "ks.t"}), "one of for_ms"),
        (
            json!({"command": "hide", "table": "t", "reads": 1}),
            "named with its keyspace",
        ),
        (json!({"command": "hits", "id": 9}), "no such id"),
        (
            json!({"command": "stop_node", "node": 1}),
            "there is no node 1",
        ),
        (
            json!({"command": "split_tablets", "table": "ks.t"}),
            "no table ks.t",
        ),
        (
            json!({"command": "inject_fault", "pattern": "x", "effect": "explode"}),
            "unknown variant `explode`",
        ),
        (json!([]), ""),
    ] {
        let error = setup.error(command.clone()).await;
        assert!(error.contains(part), "{command}: {error}");
    }
    let error = setup.line("no JSON").await;
    assert_eq!(error["ok"], json!(false));
    setup.ok(json!({"command": "status"})).await;
}

#[tokio::test]
async fn lines_are_bounded_and_addresses_local() {
    let mut setup = start(Emulator::builder()).await;
    let long = "x".repeat(MAX_LINE + 10);
    assert_eq!(setup.line(&long).await["ok"], json!(false));
    let mut rest = String::new();
    let read = setup.client.read_line(&mut rest).await;
    assert!(matches!(read, Ok(0) | Err(_)), "closed");
    let again = TcpStream::connect(setup.control.address()).await;
    again.expect("others are served");
    let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let refused = Control::start(Arc::clone(&setup.emulator), everywhere).await;
    assert!(matches!(refused, Err(ControlError::NotLoopback(_))));
}
