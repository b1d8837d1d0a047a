use std::ops::Bound;
use std::time::Duration;

use proptest::prelude::*;

use super::support::Db;

/// Statements with a timestamp each, whose order must not matter.
fn statement() -> impl Strategy<Value = String> {
    let key = 0..3_i32;
    (0..6_u8, key, 0..4_i32, 1..6_i64).prop_map(|(kind, ck, v, ts)| match kind {
        0 | 1 => format!("INSERT INTO t (pk, ck, v) VALUES (1, {ck}, {v}) USING TIMESTAMP {ts}"),
        2 => {
            format!("UPDATE t USING TIMESTAMP {ts} SET s = s + {{{v}}} WHERE pk = 1 AND ck = {ck}")
        }
        3 => format!("DELETE FROM t USING TIMESTAMP {ts} WHERE pk = 1 AND ck = {ck}"),
        4 => format!("DELETE FROM t USING TIMESTAMP {ts} WHERE pk = 1 AND ck >= {ck}"),
        _ => format!("UPDATE t USING TIMESTAMP {ts} SET s = {{{v}}} WHERE pk = 1 AND ck = {ck}"),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_arrival_does_not_matter(
        statements in prop::collection::vec(statement(), 1..12),
        seed in any::<u64>(),
    ) {
        let ddl = "CREATE TABLE t (pk int, ck int, v int, s set<int>, PRIMARY KEY (pk, ck))";
        let (one, two) = (Db::new(&[ddl]), Db::new(&[ddl]));
        let mut shuffled = statements.clone();
        let mut random = seed;
        for at in (1..shuffled.len()).rev() {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            shuffled.swap(at, (random >> 33) as usize % (at + 1));
        }
        for (a, b) in statements.iter().zip(&shuffled) {
            one.ok(a);
            two.ok(b);
            // The same write twice is one write.
            two.ok(b);
        }
        prop_assert_eq!(one.run("SELECT * FROM t"), two.run("SELECT * FROM t"));
    }
}

#[test]
fn equal_timestamps() {
    let db = Db::new(&["CREATE TABLE t (pk int PRIMARY KEY, v text)"]);
    db.check(&[
        (
            "INSERT INTO t (pk, v) VALUES (1, 'b') USING TIMESTAMP 5",
            "ok",
        ),
        (
            "INSERT INTO t (pk, v) VALUES (1, 'a') USING TIMESTAMP 5",
            "ok",
        ),
        ("SELECT v FROM t", "b"),
        (
            "INSERT INTO t (pk, v) VALUES (1, null) USING TIMESTAMP 5",
            "ok",
        ),
        (
            "INSERT INTO t (pk, v) VALUES (1, 'z') USING TIMESTAMP 5",
            "ok",
        ),
        ("SELECT pk, v FROM t", "1,null"),
        ("DELETE FROM t USING TIMESTAMP 5 WHERE pk = 1", "ok"),
        (
            "INSERT INTO t (pk, v) VALUES (1, 'z') USING TIMESTAMP 5",
            "ok",
        ),
        ("SELECT * FROM t", ""),
        (
            "INSERT INTO t (pk, v) VALUES (1, 'later') USING TIMESTAMP 6",
            "ok",
        ),
        ("SELECT v FROM t", "later"),
    ]);
}

#[test]
fn quiet_partitions_go_when_nothing_is_left_of_them() {
    let db = Db::new(&[
        "CREATE TABLE t (pk int, ck int, v int, PRIMARY KEY (pk, ck)) WITH default_time_to_live = 60",
    ]);
    let partitions = || {
        let state = db.engine.read();
        let table = state.catalog.table("ks", "t").expect("the table");
        let all = (Bound::Unbounded, Bound::Unbounded);
        state.storage.scan(table.id, all.0, all.1).count()
    };
    for pk in 0..100 {
        db.ok(&format!("INSERT INTO t (pk, ck, v) VALUES ({pk}, 1, 1)"));
    }
    db.ok("DELETE FROM t WHERE pk = 1 AND ck = 1");
    db.ok("INSERT INTO t (pk, ck, v) VALUES (2, 2, 2) USING TTL 0");
    db.clock.advance(Duration::from_secs(61));
    for ck in 0..60 {
        db.ok(&format!("INSERT INTO t (pk, ck, v) VALUES (1000, {ck}, 1)"));
    }
    assert_eq!(partitions(), 101, "late writes may still come");
    db.clock.advance(Duration::from_hours(2));
    for ck in 0..60 {
        db.ok(&format!("INSERT INTO t (pk, ck, v) VALUES (1000, {ck}, 1)"));
    }
    assert_eq!(partitions(), 2);
    assert_eq!(db.run("SELECT pk, ck FROM t WHERE pk = 2"), "2,2");
}

#[test]
fn a_large_partition_that_is_not_written_loses_its_expired_rows() {
    let db = Db::new(&[
        "CREATE TABLE t (pk int, ck int, v int, PRIMARY KEY (pk, ck)) WITH gc_grace_seconds = 0",
    ]);
    for ck in 0..1_000 {
        db.ok(&format!(
            "INSERT INTO t (pk, ck, v) VALUES (1, {ck}, 1) USING TTL {}",
            if ck < 900 { 60 } else { 600 }
        ));
    }
    let stored = || {
        let state = db.engine.read();
        let table = state.catalog.table("ks", "t").expect("table").id;
        let all = state
            .storage
            .scan(table, Bound::Unbounded, Bound::Unbounded)
            .map(|(_, partition)| partition.rows(Bound::Unbounded, Bound::Unbounded).count());
        all.sum::<usize>()
    };
    assert_eq!(stored(), 1_000);
    db.clock.advance(Duration::from_secs(61));
    for _ in 0..40 {
        db.ok("INSERT INTO t (pk, ck, v) VALUES (2, 1, 1)");
    }
    assert_eq!(stored(), 101);
}
