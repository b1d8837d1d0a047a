use std::time::Duration;

use super::support::{Db, positional};
use crate::engine::{
    BatchKind, BatchParams, BatchStatement, BindValue, BindValues, ExecuteParams, Outcome,
    StatementSource,
};
use crate::types::{Value, encode};

#[test]
fn collections() {
    Db::new(&["CREATE TABLE t (pk int PRIMARY KEY, s set<int>, l list<text>, m map<text, int>, f frozen<list<int>>)"]).check(&[
        ("INSERT INTO t (pk, s, l, m, f) VALUES (1, {2, 1, 2}, ['a', 'b'], {'x': 1}, [3, 1])", "ok"),
        ("SELECT s, l, m, f FROM t", "{1 2},[a b],{x:1},[3 1]"),
        ("UPDATE t SET s = s + {5}, l = l + ['c'], m = m + {'y': 2} WHERE pk = 1", "ok"),
        ("SELECT s, l, m FROM t", "{1 2 5},[a b c],{x:1 y:2}"),
        ("UPDATE t SET s = s - {1, 9}, l = ['0', '00'] + l, m = m - {'x'} WHERE pk = 1", "ok"),
        ("SELECT s, l, m FROM t", "{2 5},[0 00 a b c],{y:2}"),
        ("UPDATE t SET l = ['-1'] + l, m['z'] = 9 WHERE pk = 1", "ok"),
        ("UPDATE t SET l[1] = 'zero', m['y'] = null WHERE pk = 1", "ok"),
        ("SELECT l, m FROM t", "[-1 zero 00 a b c],{z:9}"),
        ("UPDATE t SET l = l - ['00', 'c'] WHERE pk = 1", "ok"),
        ("DELETE l[0], s[2], m['z'] FROM t WHERE pk = 1", "ok"),
        ("SELECT s, l, m FROM t", "{5},[zero a b],null"),
        ("UPDATE t SET l = ['new'], s = {} WHERE pk = 1", "ok"),
        ("SELECT s, l FROM t", "null,[new]"),
        ("SELECT pk FROM t WHERE l CONTAINS 'new' ALLOW FILTERING", "1"),
        ("UPDATE t SET l[7] = 'x' WHERE pk = 1", "0x2200 List index 7 out of bound, list has size 1"),
        ("UPDATE t SET f = f + [1] WHERE pk = 1", "0x2200 Invalid operation for frozen collection column f"),
        ("UPDATE t SET s = ['x'] WHERE pk = 1", "0x2200 Invalid list literal for s of type set<int>"),
        ("DELETE l FROM t WHERE pk = 1", "ok"),
        ("SELECT pk, l FROM t", "1,null"),
    ]);
}

#[test]
fn user_types_and_tuples() {
    Db::new(&[
        "CREATE TYPE address (street text, number int)",
        "CREATE TABLE t (pk int PRIMARY KEY, a frozen<address>, b address, c tuple<int, text>)",
    ]).check(&[
        ("INSERT INTO t (pk, a, b, c) VALUES (1, {street: 's', number: 1}, {street: 'q'}, (1, 'x'))", "ok"),
        ("SELECT a, b, c, a.street FROM t", "(s 1),(q null),(1 x),s"),
        ("UPDATE t SET b.number = 7 WHERE pk = 1", "ok"),
        ("SELECT b FROM t", "(q 7)"),
        ("INSERT INTO t (pk, a) VALUES (2, {nope: 1})", "0x2200 Unknown field 'nope' in value of user defined type address"),
        ("DROP TYPE address", "0x2200 Cannot drop user type ks.address as it is still used by table ks.t"),
    ]);
}

#[test]
fn ttl_and_timestamps() {
    let db = Db::new(&[
        "CREATE TABLE t (pk int, ck int, v int, w int, PRIMARY KEY (pk, ck)) WITH default_time_to_live = 1000",
    ]);
    db.check(&[
        (
            "INSERT INTO t (pk, ck, v) VALUES (1, 1, 1) USING TTL 100 AND TIMESTAMP 5",
            "ok",
        ),
        (
            "UPDATE t USING TTL 0 AND TIMESTAMP 6 SET w = 2 WHERE pk = 1 AND ck = 1",
            "ok",
        ),
        ("INSERT INTO t (pk, ck, v) VALUES (1, 2, 1)", "ok"),
        (
            "SELECT ck, v, w, writetime(v), ttl(w) FROM t WHERE pk = 1 AND ck = 1",
            "1,1,2,5,null",
        ),
    ]);
    db.clock.advance(Duration::from_secs(101));
    db.check(&[("SELECT ck, v, w FROM t WHERE pk = 1", "1,null,2; 2,1,null")]);
    db.clock.advance(Duration::from_secs(1000));
    db.check(&[
        ("SELECT ck, v, w FROM t WHERE pk = 1", "1,null,2"),
        (
            "INSERT INTO t (pk, ck) VALUES (1, 3) USING TTL -1",
            "0x2200 A TTL must be greater or equal to 0",
        ),
        (
            "INSERT INTO t (pk, ck) VALUES (1, 3) USING TTL 630720001",
            "0x2200 ttl is too large…",
        ),
        ("DELETE FROM t USING TTL 1 WHERE pk = 1", "0x…"),
    ]);
}

#[test]
fn deletes() {
    let db = Db::new(&[
        "CREATE TABLE t (pk int, a int, b int, v int, st int static, PRIMARY KEY (pk, a, b))",
    ]);
    let fill = || {
        for a in 1..=3 {
            for b in 1..=2 {
                db.ok(&format!(
                    "INSERT INTO t (pk, a, b, v, st) VALUES (1, {a}, {b}, 0, 5)"
                ));
            }
        }
    };
    let rest = "SELECT a, b FROM t WHERE pk = 1";
    for (cql, left) in [
        (
            "DELETE FROM t WHERE pk = 1 AND a = 1 AND b = 1",
            "1,2; 2,1; 2,2; 3,1; 3,2",
        ),
        ("DELETE FROM t WHERE pk = 1 AND a = 2", "1,1; 1,2; 3,1; 3,2"),
        ("DELETE FROM t WHERE pk = 1 AND a > 1", "1,1; 1,2"),
        (
            "DELETE FROM t WHERE pk = 1 AND a >= 2 AND a < 3",
            "1,1; 1,2; 3,1; 3,2",
        ),
        (
            "DELETE FROM t WHERE pk = 1 AND (a, b) > (2, 1)",
            "1,1; 1,2; 2,1",
        ),
        (
            "DELETE FROM t WHERE pk = 1 AND a IN (1, 3) AND b = 2",
            "1,1; 2,1; 2,2; 3,1",
        ),
        ("DELETE FROM t WHERE pk = 1", ""),
    ] {
        fill();
        db.check(&[(cql, "ok"), (rest, left)]);
    }
    fill();
    db.check(&[
        ("DELETE v FROM t WHERE pk = 1 AND a = 1 AND b = 1", "ok"),
        ("SELECT v FROM t WHERE pk = 1 AND a = 1", "null; 0"),
        ("DELETE st FROM t WHERE pk = 1", "ok"),
        ("SELECT DISTINCT st FROM t WHERE pk = 1", "null"),
        (
            "DELETE v FROM t WHERE pk = 1",
            "0x2200 Missing mandatory PRIMARY KEY part a",
        ),
        (
            "DELETE FROM t WHERE a = 1",
            "0x2200 Missing mandatory PRIMARY KEY part pk",
        ),
        (
            "DELETE FROM t WHERE pk = 1 AND b = 1",
            "0x2200 Missing mandatory PRIMARY KEY part a",
        ),
        (
            "DELETE FROM t WHERE pk = 1 AND v = 1",
            "0x2200 Invalid where clause: non PRIMARY KEY column v…",
        ),
        ("TRUNCATE t", "ok"),
        ("SELECT * FROM t", ""),
    ]);
}

#[test]
fn an_update_leaves_no_row_without_cells() {
    Db::new(&["CREATE TABLE t (pk int, ck int, v int, PRIMARY KEY (pk, ck))"]).check(&[
        ("UPDATE t SET v = 1 WHERE pk = 1 AND ck = 1", "ok"),
        ("UPDATE t SET v = null WHERE pk = 1 AND ck = 1", "ok"),
        ("SELECT * FROM t", ""),
        ("INSERT INTO t (pk, ck) VALUES (1, 1)", "ok"),
        ("SELECT * FROM t", "1,1,null"),
    ]);
}

#[test]
fn conditions() {
    Db::new(&["CREATE TABLE t (pk int, ck int, v int, m map<text, int>, st int static, PRIMARY KEY (pk, ck))"]).check(&[
        ("INSERT INTO t (pk, ck, v) VALUES (1, 1, 1) IF NOT EXISTS", "true,null,null,null,null,null"),
        ("INSERT INTO t (pk, ck, v) VALUES (1, 1, 2) IF NOT EXISTS", "false,1,1,null,null,1"),
        ("UPDATE t SET v = 2 WHERE pk = 1 AND ck = 1 IF v = 1", "true,1"),
        ("UPDATE t SET v = 3 WHERE pk = 1 AND ck = 1 IF v = 1", "false,2"),
        ("UPDATE t SET v = 3 WHERE pk = 1 AND ck = 9 IF v = 1", "false,null"),
        ("UPDATE t SET v = 3 WHERE pk = 1 AND ck = 1 IF v IN (1, 2) AND m = null", "true,null,2"),
        ("UPDATE t SET m = {'a': 1} WHERE pk = 1 AND ck = 1 IF v > 2 AND v != 4", "true,3"),
        ("UPDATE t SET v = 4 WHERE pk = 1 AND ck = 1 IF m['a'] = 1", "true,{a:1}"),
        ("UPDATE t SET v = 5 WHERE pk = 1 AND ck = 7 IF EXISTS", "false,null,null,null,null,null"),
        ("DELETE FROM t WHERE pk = 1 AND ck = 1 IF v = 9", "false,4"),
        ("DELETE FROM t WHERE pk = 1 AND ck = 1 IF EXISTS", "true,1,1,null,{a:1},4"),
        ("SELECT * FROM t", ""),
        ("UPDATE t SET st = 1 WHERE pk = 1 IF st = null", "true,null"),
        ("UPDATE t SET st = 2 WHERE pk = 1 IF st = 1", "true,1"),
        ("SELECT pk, st FROM t", "1,2"),
        ("BEGIN BATCH INSERT INTO t (pk, ck, v) VALUES (1, 5, 5) IF NOT EXISTS; UPDATE t SET st = 3 WHERE pk = 1 IF st = 2; APPLY BATCH", "true,…"),
        ("SELECT ck, v, st FROM t", "5,5,3"),
        ("BEGIN BATCH INSERT INTO t (pk, ck) VALUES (1, 6); INSERT INTO t (pk, ck) VALUES (1, 5) IF NOT EXISTS; APPLY BATCH", "false,…"),
        ("SELECT ck FROM t", "5"),
        ("INSERT INTO t (pk, ck) VALUES (1, 1) IF NOT EXISTS USING TIMESTAMP 1", "0x2200 Cannot provide custom timestamp for conditional updates"),
        ("UPDATE t SET v = 1 WHERE pk = 1 AND ck = 1 IF pk = 1", "0x2200 PRIMARY KEY column 'pk' cannot have IF conditions"),
        ("UPDATE t SET v = 1 WHERE pk IN (1, 2) AND ck = 1 IF v = 1", "0x2200 IN on the PRIMARY KEY is not supported with conditional updates"),
    ]);
}

#[test]
fn batches() {
    let db = Db::new(&["CREATE TABLE t (pk int, ck int, v int, PRIMARY KEY (pk, ck))"]);
    db.check(&[
        ("BEGIN UNLOGGED BATCH USING TIMESTAMP 7 INSERT INTO t (pk, ck, v) VALUES (1, 1, 1); DELETE FROM t WHERE pk = 2; APPLY BATCH;", "ok"),
        ("SELECT pk, writetime(v) FROM t", "1,7"),
        ("BEGIN BATCH INSERT INTO t (pk, ck) VALUES (3, 3); DELETE FROM t WHERE pk = 3 AND ck = 3; APPLY BATCH", "ok"),
        ("SELECT pk FROM t WHERE pk = 3", ""),
        ("BEGIN BATCH APPLY BATCH", "ok"),
        ("BEGIN BATCH INSERT INTO t (pk) VALUES (3); APPLY BATCH", "0x2200 Missing mandatory PRIMARY KEY part ck"),
    ]);
    let insert = db
        .engine
        .prepare("INSERT INTO t (pk, ck, v) VALUES (?, ?, ?)", Some("ks"))
        .expect("valid");
    let row = |n: i32| BatchStatement {
        source: StatementSource::Prepared(insert.clone()),
        values: positional(&[Value::Int(9), Value::Int(n), Value::Int(n)]),
    };
    let text = BatchStatement {
        source: StatementSource::Text("UPDATE t SET v = 8 WHERE pk = 9 AND ck = ?".into()),
        values: positional(&[Value::Int(8)]),
    };
    let batch = db.engine.execute_batch(
        BatchKind::Logged,
        &[row(1), row(2), text],
        Some("ks"),
        &BatchParams::default(),
    );
    assert_eq!(batch, Ok(Outcome::Void));
    db.check(&[("SELECT ck, v FROM t WHERE pk = 9", "1,1; 2,2; 8,8")]);
    let select = BatchStatement {
        source: StatementSource::Text("SELECT * FROM t".into()),
        values: BindValues::default(),
    };
    assert!(
        db.engine
            .execute_batch(
                BatchKind::Logged,
                &[select],
                Some("ks"),
                &BatchParams::default()
            )
            .is_err()
    );
}

#[test]
fn unset_and_null_values() {
    let db = Db::new(&[
        "CREATE TABLE t (pk int PRIMARY KEY, v int, w int)",
        "INSERT INTO t (pk, v, w) VALUES (1, 1, 1)",
    ]);
    let int = |n| BindValue::Bytes(encode(&Value::Int(n)));
    for (values, expected) in [
        (vec![BindValue::Unset, BindValue::Null, int(1)], "ok"),
        (
            vec![int(1), int(1), BindValue::Null],
            "0x2200 Invalid null value in condition for column pk",
        ),
        (
            vec![int(1), int(1), BindValue::Unset],
            "0x2200 Invalid unset value for column pk",
        ),
        (
            vec![BindValue::Bytes(vec![1].into()), int(1), int(1)],
            "0x2200 Exception while binding column v: marshaling error: Expected 4 or 0 bytes for a int (1)",
        ),
    ] {
        let params = ExecuteParams {
            values: BindValues::Positional(values),
            ..ExecuteParams::default()
        };
        assert_eq!(
            db.run_with("UPDATE t SET v = ?, w = ? WHERE pk = ?", &params),
            expected
        );
    }
    db.check(&[("SELECT v, w FROM t", "1,null")]);
    let named = BindValues::Named(vec![("key".into(), int(1)), ("v".into(), int(7))]);
    let params = ExecuteParams {
        values: named,
        ..ExecuteParams::default()
    };
    assert_eq!(
        db.run_with("UPDATE t SET v = ? WHERE pk = :key", &params),
        "ok"
    );
    db.check(&[("SELECT v FROM t", "7")]);
}
