//! The wire protocol, byte by byte: greetings, downgrade, broken frames, events.

use std::net::SocketAddr;

use scylla_emulator::Emulator;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ERROR: u8 = 0x00;
const READY: u8 = 0x02;
const SUPPORTED: u8 = 0x06;
const RESULT: u8 = 0x08;
const EVENT: u8 = 0x0C;

struct Client(TcpStream);

#[derive(Debug)]
struct Answer {
    version: u8,
    stream: i16,
    opcode: u8,
    body: Vec<u8>,
}

impl Answer {
    fn error_code(&self) -> i32 {
        assert_eq!(self.opcode, ERROR, "{self:?}");
        i32::from_be_bytes(self.body[..4].try_into().unwrap())
    }

    fn contains(&self, text: &str) -> bool {
        self.body
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    }
}

fn frame(version: u8, stream: i16, opcode: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![version, 0];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.push(opcode);
    bytes.extend_from_slice(&i32::try_from(body.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn string(text: &str) -> Vec<u8> {
    let mut bytes = u16::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

fn query(cql: &str) -> Vec<u8> {
    let mut body = i32::try_from(cql.len()).unwrap().to_be_bytes().to_vec();
    body.extend_from_slice(cql.as_bytes());
    body.extend_from_slice(&[0, 1, 0]);
    body
}

fn startup() -> Vec<u8> {
    [vec![0, 1], string("CQL_VERSION"), string("3.0.0")].concat()
}

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    async fn ready(address: SocketAddr) -> Self {
        let mut client = Self::connect(address).await;
        assert_eq!(client.ask(0x01, &startup()).await.opcode, READY);
        client
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    async fn receive(&mut self) -> Answer {
        let mut header = [0; 9];
        self.0.read_exact(&mut header).await.unwrap();
        let length = i32::from_be_bytes(header[5..].try_into().unwrap());
        let mut body = vec![0; usize::try_from(length).unwrap()];
        self.0.read_exact(&mut body).await.unwrap();
        let stream = i16::from_be_bytes([header[2], header[3]]);
        Answer {
            version: header[0],
            stream,
            opcode: header[4],
            body,
        }
    }

    async fn ask(&mut self, opcode: u8, body: &[u8]) -> Answer {
        self.send(&frame(4, 1, opcode, body)).await;
        self.receive().await
    }

    async fn closed(&mut self) -> bool {
        let mut rest = Vec::new();
        self.0
            .read_to_end(&mut rest)
            .await
            .map_or(true, |_| rest.is_empty())
    }
}

#[tokio::test]
async fn a_newer_version_is_refused_so_that_drivers_downgrade() {
    let emulator = Emulator::start().await.unwrap();
    let mut client = Client::connect(emulator.address()).await;
    client.send(&frame(5, 3, 0x05, &[])).await;
    let answer = client.receive().await;
    assert_eq!(
        (answer.version, answer.stream, answer.error_code()),
        (0x84, 3, 0x000A)
    );
    assert!(answer.contains("unsupported protocol version"));
    assert!(client.closed().await);
}

#[tokio::test]
async fn options_tell_shard_and_sharding() {
    let emulator = Emulator::builder().shards(5).start().await.unwrap();
    let mut client = Client::connect(emulator.address()).await;
    let answer = client.ask(0x05, &[]).await;
    assert_eq!(answer.opcode, SUPPORTED);
    for text in [
        "SCYLLA_SHARD",
        "SCYLLA_NR_SHARDS",
        "biased-token-round-robin",
        "CQL_VERSION",
    ] {
        assert!(answer.contains(text), "{text}");
    }
}

#[tokio::test]
async fn requests_before_startup_are_refused() {
    let emulator = Emulator::start().await.unwrap();
    let mut client = Client::connect(emulator.address()).await;
    assert_eq!(
        client
            .ask(0x07, &query("SELECT * FROM system.local"))
            .await
            .error_code(),
        0x000A
    );
    assert_eq!(client.ask(0x01, &startup()).await.opcode, READY);
    assert_eq!(
        client
            .ask(0x07, &query("SELECT * FROM system.local"))
            .await
            .opcode,
        RESULT
    );
}

#[tokio::test]
async fn malformed_frames_are_protocol_errors() {
    let emulator = Emulator::start().await.unwrap();
    let mut client = Client::ready(emulator.address()).await;
    assert_eq!(client.ask(0x07, &[0, 0, 1]).await.error_code(), 0x000A);
    assert_eq!(client.ask(0x0D, &[9, 0, 0]).await.error_code(), 0x000A);
    assert_eq!(client.ask(0x33, &[]).await.error_code(), 0x000A);
    assert_eq!(
        client
            .ask(0x07, &query("SELECT * FROM system.local"))
            .await
            .opcode,
        RESULT
    );
    client.send(&[4, 0, 0, 1, 7, 0x7f, 0xff, 0xff, 0xff]).await;
    assert_eq!(client.receive().await.error_code(), 0x000A);
    assert!(client.closed().await);
}

#[tokio::test]
async fn an_unknown_prepared_id_is_told_back() {
    let emulator = Emulator::start().await.unwrap();
    let mut client = Client::ready(emulator.address()).await;
    let answer = client.ask(0x0A, &[0, 2, 0xca, 0xfe, 0, 1, 0]).await;
    assert_eq!(answer.error_code(), 0x2500);
    assert!(answer.body.ends_with(&[0, 2, 0xca, 0xfe]));
}

#[tokio::test]
async fn schema_changes_are_pushed_to_those_who_registered() {
    let emulator = Emulator::start().await.unwrap();
    let mut registered = Client::ready(emulator.address()).await;
    let register = [vec![0, 1], string("SCHEMA_CHANGE")].concat();
    assert_eq!(registered.ask(0x0B, &register).await.opcode, READY);
    let mut other = Client::ready(emulator.address()).await;
    let create = "CREATE KEYSPACE ks WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}";
    assert_eq!(other.ask(0x07, &query(create)).await.opcode, RESULT);
    let event = registered.receive().await;
    assert_eq!((event.opcode, event.stream), (EVENT, -1));
    for text in ["SCHEMA_CHANGE", "CREATED", "KEYSPACE", "ks"] {
        assert!(event.contains(text), "{text}");
    }
    // A table with CDC is two tables.
    for (statement, kind) in [
        (
            "CREATE TABLE ks.t (a int PRIMARY KEY) WITH cdc = {'enabled': true}",
            "CREATED",
        ),
        ("ALTER TABLE ks.t ADD b int", "UPDATED"),
        ("DROP TABLE ks.t", "DROPPED"),
    ] {
        assert_eq!(
            other.ask(0x07, &query(statement)).await.opcode,
            RESULT,
            "{statement}"
        );
        let (base, log) = (registered.receive().await, registered.receive().await);
        assert!(
            base.contains(kind) && !base.contains("t_scylla_cdc_log"),
            "{statement}"
        );
        assert!(
            log.contains(kind) && log.contains("t_scylla_cdc_log"),
            "{statement}"
        );
    }
}

#[tokio::test]
async fn pipelined_requests_are_all_answered() {
    let emulator = Emulator::start().await.unwrap();
    let mut client = Client::ready(emulator.address()).await;
    let body = query("SELECT key FROM system.local");
    let requests: Vec<u8> = (0..500)
        .flat_map(|stream| frame(4, stream, 0x07, &body))
        .collect();
    client.send(&requests).await;
    for stream in 0..500 {
        let answer = client.receive().await;
        assert_eq!((answer.stream, answer.opcode), (stream, RESULT));
    }
}

#[tokio::test]
async fn version_three_is_spoken() {
    let emulator = Emulator::start().await.unwrap();
    let mut client = Client::connect(emulator.address()).await;
    client.send(&frame(3, 1, 0x01, &startup())).await;
    let answer = client.receive().await;
    assert_eq!((answer.version, answer.opcode), (0x83, READY));
}
