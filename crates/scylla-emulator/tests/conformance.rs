//! Replays every recorded scenario of a genuine ScyllaDB 5.1.19 and compares what comes back: rows, errors with their
//! text, the CDC log's rows and its columns.
//!
//! Runs on an emulator of its own, or on the server that `SCYLLA_URI` (`host:port`) names: the same suite must pass on
//! both. Placeholders and normalisation are described in `tests/golden/README.md`.

#[path = "conformance/normalise.rs"]
mod normalise;

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::{DbError, ExecutionError, RequestAttemptError};
use scylla::response::query_result::QueryResult;
use scylla::value::{CqlValue, Row};
use scylla_emulator::Emulator;
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Deserialize)]
struct Recording {
    scenarios: BTreeMap<String, Scenario>,
}

#[derive(Clone, Deserialize)]
struct Scenario {
    ddl: Vec<String>,
    steps: Vec<Step>,
    log: BTreeMap<String, Vec<Value>>,
    columns: BTreeMap<String, Vec<Value>>,
}

#[derive(Clone, Deserialize)]
struct Step {
    cql: String,
    error: Option<Failure>,
    rows: Option<Vec<Value>>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Failure {
    class: String,
    text: String,
}

fn recording() -> Recording {
    serde_json::from_str(include_str!("golden/scylla-5.1.19.json")).expect("the recording is JSON")
}

/// The server under test; the emulator lives as long as this.
struct Server {
    session: Session,
    _emulator: Option<Emulator>,
}

async fn server() -> Server {
    let (uri, emulator) = if let Ok(uri) = std::env::var("SCYLLA_URI") {
        (uri, None)
    } else {
        let emulator = Emulator::start().await.expect("start the emulator");
        (emulator.address().to_string(), Some(emulator))
    };
    let session = SessionBuilder::new()
        .known_node(uri)
        .build()
        .await
        .expect("connect");
    Server {
        session,
        _emulator: emulator,
    }
}

fn now_micros() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    i64::try_from(since.as_micros()).expect("before the year 294247")
}

/// Fills in `{ks}` and `{now±n}`. Where the latter occurs, doubled braces stand for single ones.
fn fill_in(cql: &str, keyspace: &str) -> String {
    let mut text = cql.replace("{ks}", keyspace);
    let mut timed = false;
    while let Some(start) = text.find("{now") {
        let end = start + text[start..].find('}').expect("a closed placeholder");
        let offset: i64 = text[start + 4..end]
            .trim_start_matches('+')
            .parse()
            .unwrap_or(0);
        text.replace_range(start..=end, &(now_micros() + offset).to_string());
        timed = true;
    }
    if timed {
        text.replace("{{", "{").replace("}}", "}")
    } else {
        text
    }
}

/// As Python's driver reports it.
fn failure(error: &ExecutionError, keyspace: &str) -> Failure {
    let ExecutionError::LastAttemptError(RequestAttemptError::DbError(kind, message)) = error
    else {
        return Failure {
            class: "other".to_owned(),
            text: error.to_string(),
        };
    };
    let (class, text) = match kind {
        DbError::AlreadyExists { keyspace, table } if table.is_empty() => (
            "AlreadyExists",
            format!("Keyspace '{keyspace}' already exists"),
        ),
        DbError::AlreadyExists { keyspace, table } => (
            "AlreadyExists",
            format!("Table '{keyspace}.{table}' already exists"),
        ),
        DbError::Invalid => (
            "InvalidRequest",
            format!("Error from server: code=2200 [Invalid query] message=\"{message}\""),
        ),
        DbError::Unauthorized => (
            "Unauthorized",
            format!("Error from server: code=2100 [Unauthorized] message=\"{message}\""),
        ),
        DbError::SyntaxError => (
            "SyntaxException",
            format!(
                "<Error from server: code=2000 [Syntax error in CQL query] message=\"{message}\">"
            ),
        ),
        DbError::ConfigError => (
            "ConfigurationException",
            format!(
                "<Error from server: code=2300 [Query invalid because of configuration issue] message=\"{message}\">"
            ),
        ),
        other => ("other", format!("{other:?}: {message}")),
    };
    let text = normalise::dates(&text.replace(keyspace, "ks"));
    Failure {
        class: class.to_owned(),
        text,
    }
}

/// Rows as maps from column names to values; null columns are there.
fn named_rows(result: QueryResult) -> Vec<BTreeMap<String, Option<CqlValue>>> {
    let Ok(rows) = result.into_rows_result() else {
        return Vec::new();
    };
    let names: Vec<String> = rows
        .column_specs()
        .iter()
        .map(|spec| spec.name().to_owned())
        .collect();
    rows.rows::<Row>()
        .expect("untyped rows")
        .map(|row| {
            names
                .iter()
                .cloned()
                .zip(row.expect("a row").columns)
                .collect()
        })
        .collect()
}

async fn replay(session: &Session, keyspace: &str, scenario: &Scenario) -> Vec<String> {
    let mut differences = Vec::new();
    let create = format!(
        "CREATE KEYSPACE {keyspace} WITH replication = {{'class': 'SimpleStrategy', 'replication_factor': 1}}"
    );
    for ddl in std::iter::once(&create).chain(&scenario.ddl) {
        if let Err(error) = session.query_unpaged(fill_in(ddl, keyspace), ()).await {
            return vec![format!("{ddl}: {error}")];
        }
    }
    for step in &scenario.steps {
        let outcome = session
            .query_unpaged(fill_in(&step.cql, keyspace), ())
            .await;
        let (error, rows) = match outcome {
            Ok(result) if result.is_rows() => (None, Some(returned_rows(result))),
            Ok(_) => (None, None),
            Err(error) => (Some(failure(&error, keyspace)), None),
        };
        let expected = step.error.clone().map(|recorded| Failure {
            text: normalise::dates(&recorded.text),
            ..recorded
        });
        if error != expected {
            differences.push(format!(
                "{}\n  expected {expected:?}\n  got      {error:?}",
                step.cql
            ));
        }
        if rows != step.rows {
            differences.push(format!(
                "{}\n  expected {:?}\n  got      {rows:?}",
                step.cql, step.rows
            ));
        }
    }
    for (table, expected) in &scenario.log {
        compare(
            "log",
            table,
            expected,
            &log_rows(session, keyspace, table).await,
            &mut differences,
        );
    }
    for (table, expected) in &scenario.columns {
        let columns = log_columns(session, keyspace, table).await;
        compare("columns", table, expected, &columns, &mut differences);
    }
    if differences.is_empty() {
        session
            .query_unpaged(format!("DROP KEYSPACE {keyspace}"), ())
            .await
            .expect("drop the keyspace");
    }
    differences
}

fn compare(
    what: &str,
    table: &str,
    expected: &[Value],
    got: &[Value],
    differences: &mut Vec<String>,
) {
    if expected.len() != got.len() {
        differences.push(format!(
            "{what} of {table}: {} expected, {} found",
            expected.len(),
            got.len()
        ));
    }
    for (expected, got) in expected.iter().zip(got) {
        if expected != got {
            differences.push(format!(
                "{what} of {table}\n  expected {expected}\n  got      {got}"
            ));
        }
    }
}

fn returned_rows(result: QueryResult) -> Vec<Value> {
    let value = |value: Option<CqlValue>| value.map_or(Value::Null, |v| normalise::value(&v));
    named_rows(result)
        .into_iter()
        .map(|row| {
            Value::Object(
                row.into_iter()
                    .map(|(name, v)| (name, value(v)))
                    .collect::<Map<_, _>>(),
            )
        })
        .collect()
}

async fn log_rows(session: &Session, keyspace: &str, table: &str) -> Vec<Value> {
    let select = format!("SELECT * FROM {keyspace}.{table}_scylla_cdc_log");
    let result = session
        .query_unpaged(select, ())
        .await
        .expect("read the log");
    normalise::log(named_rows(result))
}

async fn log_columns(session: &Session, keyspace: &str, table: &str) -> Vec<Value> {
    let select = format!(
        "SELECT column_name, type, kind, position, clustering_order FROM system_schema.columns \
         WHERE keyspace_name = '{keyspace}' AND table_name = '{table}_scylla_cdc_log'"
    );
    let result = session
        .query_unpaged(select, ())
        .await
        .expect("read the columns");
    let rows = result.into_rows_result().expect("rows");
    rows.rows::<(String, String, String, i32, String)>()
        .expect("typed rows")
        .map(|row| {
            let (name, ty, kind, position, order) = row.expect("a row");
            json!([name, ty, kind, position, order.to_uppercase()])
        })
        .collect()
}

/// A keyspace name that no other run uses at the same time.
fn keyspace_name(index: usize) -> String {
    format!(
        "conformance_{}_{}_{index}",
        std::process::id(),
        now_micros() % 1_000_000_000
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recorded_scenario_replays() {
    let server = server().await;
    let recording = recording();
    assert!(recording.scenarios.len() >= 36, "the recording is whole");
    let mut failures = Vec::new();
    for (index, (name, scenario)) in recording.scenarios.iter().enumerate() {
        let differences = replay(&server.session, &keyspace_name(index), scenario).await;
        failures.extend(
            differences
                .into_iter()
                .map(|difference| format!("[{name}] {difference}")),
        );
    }
    assert!(
        failures.is_empty(),
        "{} differences:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

/// A suite that cannot fail proves nothing: every altered expectation must be noticed.
#[tokio::test(flavor = "multi_thread")]
async fn altered_recordings_are_noticed() {
    let server = server().await;
    let scenarios = recording().scenarios;
    let mut wrong = Vec::new();
    let mut altered = |name: &str, alter: &dyn Fn(&mut Scenario)| {
        let mut scenario = scenarios[name].clone();
        alter(&mut scenario);
        wrong.push(scenario);
    };
    altered("insert", &|s| {
        s.log.get_mut("t").expect("t")[0]["cdc$operation"] = json!(1);
    });
    altered("insert", &|s| {
        s.log.get_mut("t").expect("t")[0]["cdc$time"] = json!("T2@us2");
    });
    altered("insert", &|s| {
        drop(s.columns.get_mut("t").expect("t").remove(3));
    });
    altered("static column", &|s| {
        drop(s.log.get_mut("t").expect("t").pop());
    });
    altered("lwt insert applied then not", &|s| {
        s.steps[1].rows.as_mut().expect("rows")[0]["[applied]"] = json!(true);
    });
    altered("errors", &|s| {
        let error = s
            .steps
            .iter_mut()
            .find_map(|step| step.error.as_mut())
            .expect("an error");
        error.text.push('!');
    });
    for (index, scenario) in wrong.iter().enumerate() {
        let differences = replay(&server.session, &keyspace_name(1_000 + index), scenario).await;
        assert!(!differences.is_empty(), "alteration {index} went unnoticed");
    }
}
