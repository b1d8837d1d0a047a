//! Faults on purpose, as the Rust driver sees them.

use std::time::Duration;

use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::{DbError, ExecutionError, RequestAttemptError};
use scylla::statement::batch::Batch;
use scylla_emulator::Emulator;
use scylla_emulator::error::Error;
use scylla_emulator::faults::{Effect, Fault};

const SETUP: [&str; 3] = [
    "CREATE KEYSPACE ks WITH replication = {'class': 'NetworkTopologyStrategy', 'replication_factor': 1}",
    "CREATE TABLE ks.t (pk int PRIMARY KEY, v text)",
    "INSERT INTO ks.t (pk, v) VALUES (1, 'a')",
];
const SELECT: &str = "SELECT v FROM ks.t WHERE pk = 1";
const INSERT: &str = "INSERT INTO ks.t (pk, v) VALUES (?, ?)";

async fn start() -> (Emulator, Session) {
    let emulator = Emulator::builder().shards(1).start().await.expect("start");
    let session = SessionBuilder::new()
        .known_node_addr(emulator.address())
        .build()
        .await
        .expect("connect");
    for statement in SETUP {
        session.query_unpaged(statement, ()).await.expect(statement);
    }
    (emulator, session)
}

async fn rows(session: &Session) -> i64 {
    let result = session.query_unpaged("SELECT COUNT(*) FROM ks.t", ()).await;
    let rows = result.expect("count").into_rows_result().expect("rows");
    rows.single_row::<(i64,)>().expect("one row").0
}

fn database_error(error: &ExecutionError) -> &DbError {
    match error {
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(error, _)) => error,
        other => panic!("no error of the database: {other:?}"),
    }
}

/// Whether an error is the one that was asked for.
type Is = fn(&DbError) -> bool;

#[tokio::test]
async fn errors_come_with_their_details() {
    let (emulator, session) = start().await;
    let errors: [(Error, Is); 4] = [
        (Error::overloaded(), |e| matches!(e, DbError::Overloaded)),
        (Error::unavailable(), |e| {
            matches!(
                e,
                DbError::Unavailable {
                    required: 2,
                    alive: 0,
                    ..
                }
            )
        }),
        (Error::read_timeout("ks", "t"), |e| {
            matches!(
                e,
                DbError::ReadTimeout {
                    received: 1,
                    required: 2,
                    data_present: false,
                    ..
                }
            )
        }),
        (Error::write_timeout("ks", "t", "BATCH"), |e| {
            matches!(
                e,
                DbError::WriteTimeout {
                    received: 1,
                    required: 2,
                    ..
                }
            )
        }),
    ];
    for (error, is_it) in errors {
        let mut fault = emulator
            .faults()
            .inject(Fault::on(SELECT, Effect::Fail(error)));
        let refused = session
            .query_unpaged(SELECT, ())
            .await
            .expect_err("refused");
        assert!(is_it(database_error(&refused)), "{refused:?}");
        fault.reached(1).await;
        emulator.faults().clear();
        session.query_unpaged(SELECT, ()).await.expect("healed");
    }
}

#[tokio::test]
async fn a_write_may_time_out_and_take_place() {
    let (emulator, session) = start().await;
    let insert = session.prepare(INSERT).await.expect("prepare");
    let mut batch = Batch::default();
    batch.append_statement(insert.clone());
    batch.append_statement(insert);
    let values = ((2, "b"), (3, "c"));
    let timeout = Error::write_timeout("ks", "t", "BATCH");
    let fault = |effect| Fault::on("INSERT INTO ks.t", effect).times(1);
    emulator
        .faults()
        .inject(fault(Effect::Fail(timeout.clone())));
    session.batch(&batch, values).await.expect_err("refused");
    assert_eq!(rows(&session).await, 1);
    emulator.faults().inject(fault(Effect::FailAfter(timeout)));
    session.batch(&batch, values).await.expect_err("refused");
    assert_eq!(rows(&session).await, 3);
    session.batch(&batch, values).await.expect("used up");
}

#[tokio::test]
async fn drivers_prepare_again_what_is_forgotten() {
    let (emulator, session) = start().await;
    let insert = session.prepare(INSERT).await.expect("prepare");
    let fault = emulator
        .faults()
        .inject(Fault::on(INSERT, Effect::Unprepared).times(1));
    session
        .execute_unpaged(&insert, (2, "b"))
        .await
        .expect("prepared again");
    assert_eq!((fault.hits(), rows(&session).await), (1, 2));
}

#[tokio::test]
async fn a_connection_that_is_cut_or_closed_is_replaced() {
    let (emulator, session) = start().await;
    for effect in [Effect::Truncate, Effect::Disconnect] {
        emulator
            .faults()
            .inject(Fault::on(INSERT, effect.clone()).times(1));
        let written = session.query_unpaged(INSERT, (2, "b")).await;
        assert!(written.is_err(), "{effect:?}");
        let other = async {
            while session.query_unpaged(SELECT, ()).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), other)
            .await
            .expect("a new connection");
    }
}

#[tokio::test]
async fn what_is_delayed_or_silenced_holds_up_nothing_else() {
    let (emulator, session) = start().await;
    emulator.faults().inject(Fault::on(
        "'slow'",
        Effect::Delay(Duration::from_millis(200)),
    ));
    let mut never = emulator
        .faults()
        .inject(Fault::on("'never'", Effect::Silence));
    let slow = "INSERT INTO ks.t (pk, v) VALUES (2, 'slow')";
    let silent = "INSERT INTO ks.t (pk, v) VALUES (3, 'never')";
    let quick = async {
        never.reached(1).await;
        rows(&session).await
    };
    tokio::select! {
        answer = session.query_unpaged(silent, ()) => panic!("answered: {answer:?}"),
        (written, before) = async { tokio::join!(session.query_unpaged(slow, ()), quick) } => {
            written.expect("late, but written");
            assert!(before <= 2, "the silenced one is not executed");
        }
    }
    assert_eq!(rows(&session).await, 2);
}
