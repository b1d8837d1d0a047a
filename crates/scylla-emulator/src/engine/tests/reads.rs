use super::support::{Db, positional};
use crate::engine::ExecuteParams;
use crate::types::{Value, encode};

fn filled() -> Db {
    let db = Db::new(&[
        "CREATE TABLE t (pk int, a int, b text, v int, st text static, PRIMARY KEY (pk, a, b)) \
         WITH CLUSTERING ORDER BY (a DESC, b ASC)",
        "INSERT INTO t (pk, st) VALUES (3, 'alone')",
        "INSERT INTO t (pk, st) VALUES (1, 's')",
    ]);
    for a in 1..=3 {
        for b in ["x", "y"] {
            db.ok(&format!(
                "INSERT INTO t (pk, a, b, v) VALUES (1, {a}, '{b}', {})",
                a * 10
            ));
        }
    }
    db.ok("INSERT INTO t (pk, a, b, v) VALUES (2, 1, 'x', 99)");
    db
}

#[test]
fn rows_of_a_partition() {
    filled().check(&[
        (
            "SELECT a, b FROM t WHERE pk = 1",
            "3,x; 3,y; 2,x; 2,y; 1,x; 1,y",
        ),
        (
            "SELECT a, b FROM t WHERE pk = 1 ORDER BY a ASC",
            "1,y; 1,x; 2,y; 2,x; 3,y; 3,x",
        ),
        (
            "SELECT a, b FROM t WHERE pk = 1 ORDER BY a DESC, b ASC LIMIT 3",
            "3,x; 3,y; 2,x",
        ),
        (
            "SELECT a, b FROM t WHERE pk = 1 AND a > 1",
            "3,x; 3,y; 2,x; 2,y",
        ),
        (
            "SELECT a, b FROM t WHERE pk = 1 AND a >= 2 AND a < 3",
            "2,x; 2,y",
        ),
        ("SELECT a, b FROM t WHERE pk = 1 AND a <= 1", "1,x; 1,y"),
        (
            "SELECT a, b FROM t WHERE pk = 1 AND a = 2 AND b > 'x'",
            "2,y",
        ),
        (
            "SELECT a, b FROM t WHERE pk = 1 AND a IN (3, 1, 3) AND b = 'x'",
            "3,x; 1,x",
        ),
        (
            "SELECT a, b FROM t WHERE pk = 1 AND (a, b) IN ((1, 'y'), (3, 'x'))",
            "3,x; 1,y",
        ),
        (
            "SELECT a, b FROM t WHERE pk = 1 AND (a, b) = (2, 'x')",
            "2,x",
        ),
        ("SELECT a, b FROM t WHERE pk = 1 AND a > 3", ""),
        ("SELECT a FROM t WHERE pk = 1 AND a > 3 AND a < 1", ""),
        ("SELECT a FROM t WHERE pk = 1 AND a IN ()", ""),
        ("SELECT pk, st, v FROM t WHERE pk = 3", "3,alone,null"),
        ("SELECT pk, st FROM t WHERE pk = 3 AND a = 1", ""),
        ("SELECT DISTINCT pk, st FROM t WHERE pk = 1", "1,s"),
        ("SELECT * FROM t WHERE pk = 2", "2,1,x,null,99"),
        (
            "SELECT pk, a FROM t WHERE pk IN (2, 1) PER PARTITION LIMIT 1",
            "1,3; 2,1",
        ),
        ("SELECT pk FROM t WHERE pk = 7", ""),
        ("SELECT pk AS k, count(*) AS n FROM t WHERE pk = 1", "1,6"),
        (
            "SELECT count(*), count(v), min(v), max(v), sum(v), avg(v) FROM t WHERE pk = 1",
            "6,6,10,30,120,20",
        ),
        (
            "SELECT count(1), max(v), sum(v) FROM t WHERE pk = 7",
            "0,null,0",
        ),
        (
            "SELECT a, count(*) FROM t WHERE pk = 1 GROUP BY pk, a",
            "3,2; 2,2; 1,2",
        ),
    ]);
}

#[test]
fn scans_filters_and_refusals() {
    let db = filled();
    db.check(&[
        ("SELECT DISTINCT pk FROM t", "1; 2; 3"),
        (
            "SELECT pk, a, b FROM t WHERE v = 99 ALLOW FILTERING",
            "2,1,x",
        ),
        (
            "SELECT pk, a, b FROM t WHERE a = 1 ALLOW FILTERING",
            "1,1,x; 1,1,y; 2,1,x",
        ),
        (
            "SELECT pk, b FROM t WHERE pk = 1 AND b = 'y' AND a > 1 ALLOW FILTERING",
            "1,y; 1,y",
        ),
        (
            "SELECT v FROM t WHERE v = 1",
            "0x2200 Cannot execute this query as it might involve data filtering…",
        ),
        (
            "SELECT v FROM t WHERE a = 1",
            "0x2200 Cannot execute this query as it might involve data filtering…",
        ),
        (
            "SELECT v FROM t WHERE pk > 1",
            "0x2200 Only EQ and IN relation are supported on the partition key…",
        ),
        (
            "SELECT v FROM t WHERE nope = 1",
            "0x2200 Unrecognized name nope…",
        ),
        (
            "SELECT v FROM t WHERE pk = 'x'",
            "0x2200 Invalid STRING constant (x) for \"pk\" of type int",
        ),
        (
            "SELECT v FROM t WHERE pk = 1 ORDER BY v",
            "0x2200 Order by is currently only supported on the clustered columns…",
        ),
        (
            "SELECT v FROM t WHERE pk = 1 ORDER BY b",
            "0x2200 Order by currently only support the ordering of columns…",
        ),
        (
            "SELECT v FROM t WHERE pk = 1 ORDER BY a ASC, b ASC",
            "0x2200 Unsupported order by relation",
        ),
        (
            "SELECT v FROM t ORDER BY a",
            "0x2200 ORDER BY is only supported when the partition key…",
        ),
        (
            "SELECT v FROM t WHERE pk = 1 LIMIT 0",
            "0x2200 LIMIT must be strictly positive",
        ),
        (
            "SELECT DISTINCT v FROM t",
            "0x2200 SELECT DISTINCT queries must only request…",
        ),
        ("SELECT nope(v) FROM t", "0x2200 Unknown function 'nope'"),
        (
            "SELECT JSON v FROM t",
            "0x2200 SELECT JSON is not supported by the emulator",
        ),
        (
            "SELECT v FROM t WHERE pk = ?",
            "0x2200 Invalid amount of bind variables…",
        ),
        (
            "SELECT v FROM t WHERE pk = 1 AND pk = 2",
            "0x2200 pk cannot be restricted by more than one relation…",
        ),
        ("LIST ROLES", "0x2200 LIST is not supported by the emulator"),
        (
            "SELECT v FROM t WHERE pk = 1 AND token(pk) > 0",
            "0x2200 Columns \"pk\" cannot be restricted by both a normal relation and a token relation",
        ),
        (
            "SELECT v FROM t WHERE pk = 1 AND a = 1 AND (b) > ('x')",
            "0x2200 Mixing single column relations and multi column relations…",
        ),
    ]);
}

#[test]
fn a_statement_addresses_a_hundred_keys_at_most() {
    let list = |count: i32| {
        (0..count)
            .map(|n| n.to_string())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let db = filled();
    let partitions = |count| {
        db.run(&format!(
            "SELECT DISTINCT pk FROM t WHERE pk IN ({})",
            list(count)
        ))
    };
    assert_eq!(partitions(100), "1; 2; 3");
    assert_eq!(
        partitions(101),
        "0x0000 partition key cartesian product size 101 is greater than maximum 100"
    );
    let rows = db.run(&format!(
        "SELECT b FROM t WHERE pk = 1 AND a IN ({}) AND b IN ('x', 'y')",
        list(51)
    ));
    assert!(
        rows.starts_with("0x0000 clustering key cartesian product size 102"),
        "{rows}"
    );
}

#[test]
fn a_range_of_the_partition_key_filters() {
    filled().check(&[
        (
            "SELECT DISTINCT pk FROM t WHERE pk > 1 ALLOW FILTERING",
            "2; 3",
        ),
        (
            "SELECT pk, a FROM t WHERE pk >= 1 AND pk < 3 AND a = 1 AND b = 'x' ALLOW FILTERING",
            "1,1; 2,1",
        ),
        (
            "DELETE FROM t WHERE pk > 1",
            "0x2200 Only EQ and IN relation are supported on the partition key…",
        ),
    ]);
}

#[test]
fn nested_calls_are_typed_once() {
    let db = filled();
    let nested = format!("{}v{}", "blobAsInt(intAsBlob(".repeat(15), "))".repeat(15));
    assert_eq!(
        db.run(&format!("SELECT {nested} FROM t WHERE pk = 2")),
        "99"
    );
    let prepared = db.engine.prepare(
        "SELECT blobAsInt(intAsBlob((int) ?)) FROM t WHERE pk = ?",
        Some("ks"),
    );
    assert_eq!(prepared.expect("valid").bind.len(), 2);
}

#[test]
fn decimals_are_compared_as_numbers() {
    Db::new(&[
        "CREATE TABLE d (p int, c decimal, v int, PRIMARY KEY (p, c))",
        "INSERT INTO d (p, c, v) VALUES (1, 1.1, 1)",
        "INSERT INTO d (p, c, v) VALUES (1, 1.10, 2)",
        "INSERT INTO d (p, c, v) VALUES (1, -3e2, 3)",
    ])
    .check(&[
        ("SELECT v FROM d WHERE p = 1", "3; 2"),
        ("SELECT v FROM d WHERE p = 1 AND c = 1.100", "2"),
    ]);
}

#[test]
fn token_ranges_cover_the_ring_once() {
    let db = filled();
    let rows = |cql: &str| db.run(cql);
    let all = rows("SELECT pk, token(pk) FROM t PER PARTITION LIMIT 1");
    assert_eq!(all.split("; ").count(), 3, "{all}");
    let middle = all.split([',', ';']).nth(1).expect("a token").to_owned();
    let low = rows(&format!(
        "SELECT DISTINCT pk FROM t WHERE token(pk) <= {middle}"
    ));
    let high = rows(&format!(
        "SELECT DISTINCT pk FROM t WHERE token(pk) > {middle}"
    ));
    assert_eq!(format!("{low}; {high}"), rows("SELECT DISTINCT pk FROM t"));
    let by_key = rows("SELECT DISTINCT pk FROM t WHERE token(pk) = token(2)");
    assert_eq!(by_key, "2");
    let bounds = format!("token(pk) > {} AND token(pk) <= {}", i64::MIN, i64::MAX);
    assert_eq!(
        rows(&format!("SELECT DISTINCT pk FROM t WHERE {bounds}")),
        "1; 2; 3"
    );
}

#[test]
fn pages_are_positions() {
    let db = filled();
    let query = "SELECT pk, a, b FROM t";
    let pages = db.pages(query, &[], 2);
    assert_eq!(pages.join("; "), db.run(query));
    assert_eq!(pages.len(), 4, "{pages:?}");
    let pages = db.pages(
        "SELECT a FROM t WHERE pk = 1 ORDER BY a ASC LIMIT 5",
        &[],
        2,
    );
    assert_eq!(pages, ["1; 1", "2; 2", "3"]);
    let pages = db.pages(
        "SELECT a FROM t WHERE pk IN ? PER PARTITION LIMIT 3",
        &[Value::List(vec![Value::Int(1), Value::Int(2)])],
        2,
    );
    assert_eq!(pages, ["3; 3", "2; 1"]);
    assert_eq!(
        db.pages("SELECT DISTINCT pk FROM t", &[], 1),
        ["1", "2", "3"]
    );
    // A row that appears before the position does not shift what comes next.
    let params = ExecuteParams {
        page_size: Some(2),
        ..ExecuteParams::default()
    };
    let first = db
        .engine
        .query("SELECT a, b FROM t WHERE pk = 1", Some("ks"), &params);
    let Ok(crate::engine::Outcome::Rows(first)) = first else {
        panic!("{first:?}")
    };
    db.ok("INSERT INTO t (pk, a, b) VALUES (1, 9, 'new')");
    db.ok("DELETE FROM t WHERE pk = 1 AND a = 3 AND b = 'y'");
    let params = ExecuteParams {
        paging_state: first.paging_state,
        ..ExecuteParams::default()
    };
    assert_eq!(
        db.run_with("SELECT a, b FROM t WHERE pk = 1", &params),
        "2,x; 2,y; 1,x; 1,y"
    );
    let bad = ExecuteParams {
        paging_state: Some(vec![1, 2, 3].into()),
        ..ExecuteParams::default()
    };
    assert_eq!(
        db.run_with("SELECT a FROM t", &bad),
        "0x000a Invalid value for the paging state"
    );
}

#[test]
fn the_log_readers_queries() {
    let db = Db::new(&[
        "CREATE TABLE log (\"cdc$stream_id\" blob, \"cdc$time\" timeuuid, \"cdc$batch_seq_no\" int, v int, \
         PRIMARY KEY (\"cdc$stream_id\", \"cdc$time\", \"cdc$batch_seq_no\"))",
    ]);
    for millis in 1..=5 {
        for stream in ["0x01", "0x02"] {
            db.ok(&format!("INSERT INTO log (\"cdc$stream_id\", \"cdc$time\", \"cdc$batch_seq_no\", v) VALUES ({stream}, maxTimeuuid({millis}), 0, {millis})"));
        }
    }
    db.check(&[(
        "SELECT v FROM log WHERE \"cdc$stream_id\" = 0x01 AND \"cdc$time\" > maxTimeuuid(1) AND \"cdc$time\" <= maxTimeuuid(3) BYPASS CACHE",
        "2; 3",
    ), (
        "SELECT count(*) FROM log WHERE \"cdc$stream_id\" IN (0x01, 0x02) AND \"cdc$time\" >= minTimeuuid(2) BYPASS CACHE USING TIMEOUT 1s",
        "8",
    ), (
        "SELECT toUnixTimestamp(\"cdc$time\"), toTimestamp(\"cdc$time\") FROM log WHERE \"cdc$stream_id\" = 0x02 LIMIT 1",
        "1,1",
    )]);
    let prepared = db.engine.prepare(
        "SELECT v FROM log WHERE \"cdc$stream_id\" IN ? AND \"cdc$time\" > :from AND \"cdc$time\" <= :to LIMIT ? BYPASS CACHE",
        Some("ks"),
    ).expect("valid");
    let names: Vec<&str> = prepared
        .bind
        .iter()
        .map(|spec| spec.name.as_str())
        .collect();
    assert_eq!(names, ["in(cdc$stream_id)", "from", "to", "[limit]"]);
    let one = db.engine.prepare(
        "SELECT v FROM log WHERE \"cdc$time\" > ? AND \"cdc$stream_id\" = ?",
        Some("ks"),
    );
    assert_eq!(one.expect("valid").partition_key_markers, [1]);
    let blob = |byte: u8| Value::Blob(vec![byte].into());
    let params = ExecuteParams {
        values: positional(&[
            Value::List(vec![blob(2), blob(1), blob(2)]),
            Value::TimeUuid(crate::types::timeuuid_from_parts(
                2_000,
                0,
                0x8080_8080_8080_8080,
            )),
            Value::TimeUuid(crate::types::timeuuid_from_parts(
                3_999,
                9,
                0x7f7f_7f7f_7f7f_7f7f,
            )),
            Value::Int(10),
        ]),
        ..ExecuteParams::default()
    };
    let rows = db.engine.execute(&prepared, &params);
    let Ok(crate::engine::Outcome::Rows(rows)) = rows else {
        panic!("{rows:?}")
    };
    let wanted = [2, 3, 2, 3].map(|v| vec![Some(encode(&Value::Int(v)))]);
    assert_eq!(rows.rows, wanted);
}
