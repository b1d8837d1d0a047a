//! What a poll of the CDC log costs: `cargo bench -p scylla-emulator`. Figures, no judgement.

use std::time::{Duration, Instant};

use scylla::client::session_builder::SessionBuilder;
use scylla::value::CqlTimeuuid;
use scylla_emulator::Emulator;
use scylla_emulator::engine::{BindValue, BindValues, ExecuteParams, Outcome};
use scylla_emulator::types::{Value, encode, timeuuid_from_parts};
use uuid::Uuid;

const SETUP: [&str; 2] = [
    "CREATE KEYSPACE ks WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
    "CREATE TABLE ks.t (pk bigint, ck bigint, v text, PRIMARY KEY (pk, ck)) WITH cdc = {'enabled': true}",
];
const INSERT: &str = "INSERT INTO ks.t (pk, ck, v) VALUES (?, ?, ?)";
const SELECT: &str = "SELECT \"cdc$stream_id\", \"cdc$time\", \"cdc$batch_seq_no\", \"cdc$operation\", pk, ck, v \
                      FROM ks.t_scylla_cdc_log WHERE \"cdc$stream_id\" IN ? AND \"cdc$time\" > ? \
                      AND \"cdc$time\" <= ? BYPASS CACHE";
const ROWS: i64 = 200_000;
const STREAMS: usize = 100;
const FOR: Duration = Duration::from_secs(2);

fn bytes(value: &Value) -> BindValue {
    BindValue::Bytes(encode(value))
}

fn values(values: &[Value]) -> ExecuteParams {
    ExecuteParams {
        values: BindValues::Positional(values.iter().map(bytes).collect()),
        page_size: Some(1_000),
        ..ExecuteParams::default()
    }
}

fn at(micros: i64) -> Uuid {
    timeuuid_from_parts(micros, 0, 0x8080_8080_8080_8080)
}

/// CPU time of this process, in hundredths of a second (the kernel's unit).
fn cpu() -> u32 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let behind_name = stat.rsplit(')').next().expect("fields");
    let fields = behind_name.split_whitespace().skip(11).take(2);
    fields
        .map(|ticks| ticks.parse::<u32>().expect("ticks"))
        .sum()
}

fn report(what: &str, reads: u32, rows: usize, took: Duration, cpu: u32) {
    let each = |time: Duration| time / reads.max(1);
    println!(
        "{what}: {:?} a read, {:?} of CPU, {} rows",
        each(took),
        each(Duration::from_millis(u64::from(cpu) * 10)),
        rows / reads as usize
    );
}

/// Polls of a hundred streams each.
#[tokio::main(worker_threads = 2)]
async fn main() {
    // `cargo test --benches` only wants to know that it builds.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let emulator = Emulator::builder()
        .vnodes(768)
        .shards(8)
        .start()
        .await
        .expect("start");
    for statement in SETUP {
        emulator.execute(statement).expect(statement);
    }
    let engine = emulator.engine();
    let insert = engine.prepare(INSERT, None).expect("prepare");
    let started = Instant::now();
    let mut late = 0;
    for row in 0..ROWS {
        if row == ROWS - ROWS / 100 {
            late = emulator.clock().unique_micros();
        }
        let row = [
            Value::BigInt(row % 50_000),
            Value::BigInt(row),
            Value::text("x".repeat(200)),
        ];
        engine.execute(&insert, &values(&row)).expect("insert");
    }
    println!("write: {:?} a row", started.elapsed() / ROWS as u32);
    let end = emulator.clock().unique_micros();
    let generation = emulator.topology().generations.all()[0].clone();
    let streams: Vec<Vec<u8>> = generation
        .vnodes
        .iter()
        .flat_map(|vnode| &vnode.streams)
        .map(|id| id.0.to_vec())
        .collect();
    assert_eq!(streams.len(), 6_144);
    let chunks: Vec<&[Vec<u8>]> = streams.chunks(STREAMS).collect();
    let spans = [
        ("empty", end, end + 1_000_000),
        ("the last hundredth", late, end),
    ];

    let select = engine.prepare(SELECT, None).expect("prepare");
    for (what, from, to) in spans {
        let (mut reads, mut rows, started, before) = (0_u32, 0, Instant::now(), cpu());
        while started.elapsed() < FOR {
            let chunk = chunks[reads as usize % (chunks.len() - 1)];
            let list = chunk
                .iter()
                .map(|id| Value::Blob(id.clone().into()))
                .collect();
            let params = values(&[
                Value::List(list),
                Value::TimeUuid(at(from)),
                Value::TimeUuid(at(to)),
            ]);
            let Ok(Outcome::Rows(found)) = engine.execute(&select, &params) else {
                panic!("rows")
            };
            rows += found.rows.len();
            reads += 1;
        }
        report(
            &format!("engine, {what}"),
            reads,
            rows,
            started.elapsed(),
            cpu() - before,
        );
    }

    let session = SessionBuilder::new()
        .known_node_addr(emulator.address())
        .build()
        .await
        .expect("connect");
    let select = session.prepare(SELECT).await.expect("prepare");
    for (what, from, to) in spans {
        let (mut reads, mut rows, started, before) = (0_u32, 0, Instant::now(), cpu());
        while started.elapsed() < FOR {
            let chunk = chunks[reads as usize % (chunks.len() - 1)];
            let bounds = (
                chunk,
                CqlTimeuuid::from(at(from)),
                CqlTimeuuid::from(at(to)),
            );
            let found = session
                .execute_unpaged(&select, bounds)
                .await
                .expect("read");
            rows += found.into_rows_result().expect("rows").rows_num();
            reads += 1;
        }
        report(
            &format!("driver, {what}"),
            reads,
            rows,
            started.elapsed(),
            cpu() - before,
        );
    }
}
