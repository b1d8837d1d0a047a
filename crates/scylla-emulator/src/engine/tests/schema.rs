use super::support::{Db, positional};
use crate::engine::{ExecuteParams, Outcome};
use crate::error::ErrorCode;
use crate::types::Value;

#[test]
fn keyspaces_and_tables() {
    Db::new(&[]).check(&[
        ("CREATE KEYSPACE ks WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}", "0x2400 Keyspace ks already exists"),
        ("CREATE KEYSPACE IF NOT EXISTS ks WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}", "ok"),
        ("CREATE KEYSPACE k9 WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1} AND tablets = {'enabled': true}", "0x2300 Tablets need the replication strategy NetworkTopologyStrategy"),
        ("CREATE KEYSPACE k9 WITH replication = {'class': 'NetworkTopologyStrategy', 'dc1': 3} AND tablets = {'initial': 'x'}", "0x2300 Invalid value for tablets option initial: x"),
        ("CREATE KEYSPACE k9 WITH replication = {'class': 'NetworkTopologyStrategy', 'dc1': 3} AND tablets = {'initial': 8}", "ok"),
        ("ALTER KEYSPACE k9 WITH tablets = {'enabled': false}", "0x2200 Cannot alter replication strategy vnode/tablets flavor"),
        ("ALTER KEYSPACE k9 WITH tablets = {'enabled': true}", "ok"),
        ("DROP KEYSPACE k9", "ok"),
        ("CREATE KEYSPACE k2 WITH replication = {'class': 'Nope'}", "0x2300 Unable to find replication strategy class…"),
        ("CREATE KEYSPACE k2 WITH replication = {'class': 'NetworkTopologyStrategy', 'dc1': 3} AND tablets = {'enabled': false} AND durable_writes = true", "ok"),
        ("USE k2", "ok"),
        ("USE k3", "0x2200 Keyspace 'k3' does not exist"),
        ("DROP KEYSPACE k2", "ok"),
        ("DROP KEYSPACE IF EXISTS k2", "ok"),
        ("DROP KEYSPACE k2", "0x2300 Cannot drop non existing keyspace 'k2'."),
        ("DROP KEYSPACE system", "0x2100 system keyspace is not user-modifiable."),
        ("CREATE TABLE t (a int PRIMARY KEY) WITH comment = 'x' AND gc_grace_seconds = 1 AND compaction = {'class': 'LeveledCompactionStrategy'} AND caching = {'keys': 'NONE'}", "ok"),
        ("CREATE TABLE t (a int PRIMARY KEY)", "0x2400 …"),
        ("CREATE TABLE u (a int PRIMARY KEY) WITH nonsense = 1", "0x2000 Unknown property 'nonsense'"),
        ("CREATE TABLE u (a int)", "0x2200 No PRIMARY KEY specifed (exactly one required)"),
        ("CREATE TABLE u (a int PRIMARY KEY, b int STATIC)", "0x2200 Static columns are only useful…"),
        ("CREATE TABLE u (a list<int> PRIMARY KEY)", "0x2200 Invalid non-frozen collection type for PRIMARY KEY component a"),
        ("CREATE TABLE u (a int, b nope, PRIMARY KEY (a))", "0x2200 Unknown type ks.nope"),
        ("CREATE TABLE u (a int PRIMARY KEY, b list<set<int>>)", "0x2200 Non-frozen user types or collections are not allowed inside collections…"),
        ("CREATE TABLE u (a int PRIMARY KEY) WITH COMPACT STORAGE", "0x2200 COMPACT STORAGE is not supported by the emulator"),
        ("CREATE INDEX ON t (a)", "0x2200 CREATE, ALTER or DROP INDEX is not supported by the emulator"),
        ("CREATE MATERIALIZED VIEW v AS SELECT * FROM t PRIMARY KEY (a)", "0x2200 A materialized view is not supported by the emulator"),
        ("ALTER TABLE t ADD b int, c text", "ok"),
        ("ALTER TABLE t ADD b int", "0x2200 Invalid column name b because it conflicts with an existing column"),
        ("INSERT INTO t (a, b, c) VALUES (1, 2, 'x')", "ok"),
        ("ALTER TABLE t DROP b", "ok"),
        ("ALTER TABLE t ADD b int", "ok"),
        ("SELECT * FROM t", "1,null,x"),
        ("ALTER TABLE t RENAME a TO z", "ok"),
        ("SELECT z FROM t", "1"),
        ("ALTER TABLE t DROP z", "0x2200 Cannot drop PRIMARY KEY part z"),
        ("ALTER TABLE t DROP nonesuch", "0x2200 Column nonesuch was not found in table t"),
        ("SELECT * FROM nope.t", "0x2200 Keyspace nope does not exist"),
        ("SELECT * FROM nope", "0x2200 unconfigured table nope"),
        ("DROP TABLE t", "ok"),
        ("CREATE TABLE t (a int PRIMARY KEY)", "ok"),
        ("SELECT * FROM t", ""),
        ("CREATE TABLE c (a int PRIMARY KEY, n counter)", "ok"),
        ("UPDATE c SET n = n + 1 WHERE a = 1", "0x2200 Writing to a counter table is not supported by the emulator"),
    ]);
}

#[test]
fn cdc_tables() {
    Db::new(&["CREATE TABLE t (a int PRIMARY KEY, v int) WITH cdc = {'enabled': true, 'ttl': 60}"])
        .check(&[
            ("SELECT * FROM t_scylla_cdc_log", ""),
            (
                "DROP TABLE t_scylla_cdc_log",
                "0x2100 Cannot DROP cdc log table <table ks.t_scylla_cdc_log>",
            ),
            (
                "CREATE TABLE t_scylla_cdc_log (a int PRIMARY KEY)",
                "0x2400 …",
            ),
            (
                "CREATE TABLE c (a int PRIMARY KEY, n counter) WITH cdc = {'enabled': true}",
                "0x2200 Cannot create CDC log for table ks.c. Counter support not implemented",
            ),
            (
                "CREATE TABLE o (a int PRIMARY KEY) WITH cdc = {'enabled': 'maybe'}",
                "0x2300 Invalid value for CDC option \"enabled\": maybe",
            ),
            ("ALTER TABLE t WITH cdc = {'enabled': false}", "ok"),
            ("SELECT * FROM t_scylla_cdc_log", ""),
            ("DROP TABLE t", "ok"),
            (
                "SELECT * FROM t_scylla_cdc_log",
                "0x2200 unconfigured table t_scylla_cdc_log",
            ),
        ]);
}

#[test]
fn prepared_statements_follow_the_schema() {
    let db = Db::new(&["CREATE TABLE t (a int PRIMARY KEY, v int)"]);
    let all = db
        .engine
        .prepare("SELECT * FROM t", Some("ks"))
        .expect("valid");
    let insert = db
        .engine
        .prepare("INSERT INTO t (a, v) VALUES (?, ?)", Some("ks"))
        .expect("valid");
    db.ok("ALTER TABLE t ADD w int");
    let params = ExecuteParams {
        values: positional(&[Value::Int(1), Value::Int(2)]),
        ..ExecuteParams::default()
    };
    assert_eq!(db.engine.execute(&insert, &params), Ok(Outcome::Void));
    let stale = db
        .engine
        .execute(&all, &ExecuteParams::default())
        .expect_err("other columns");
    assert_eq!(stale.code, ErrorCode::Unprepared);
    db.ok("DROP TABLE t");
    assert_eq!(
        db.engine
            .execute(&insert, &params)
            .expect_err("no table")
            .code,
        ErrorCode::Invalid
    );
}

#[test]
fn statements_run_side_by_side() {
    let db = Db::new(&["CREATE TABLE t (a int, b int, v int, PRIMARY KEY (a, b))"]);
    let insert = db
        .engine
        .prepare("INSERT INTO t (a, b, v) VALUES (?, ?, 0)", Some("ks"))
        .expect("valid");
    std::thread::scope(|scope| {
        for a in 0..4 {
            let (db, insert) = (&db, &insert);
            scope.spawn(move || {
                for b in 0..50 {
                    let values = positional(&[Value::Int(a), Value::Int(b)]);
                    let params = ExecuteParams {
                        values,
                        ..ExecuteParams::default()
                    };
                    db.engine.execute(insert, &params).expect("a write");
                    db.ok(&format!("SELECT count(*) FROM t WHERE a = {a}"));
                }
            });
        }
    });
    db.check(&[("SELECT count(*) FROM t", "200")]);
}
