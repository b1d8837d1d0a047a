use proptest::prelude::*;

use super::parse;
use crate::ast::{
    Action, Assignment, Conditions, Literal, Property, Relation, Select, Statement, TableChange,
    Term,
};
use crate::error::ErrorCode;

fn select(cql: &str) -> Select {
    match parse(cql) {
        Ok(Statement::Select(select)) => *select,
        other => panic!("{cql}: {other:?}"),
    }
}

#[test]
fn selects() {
    let all = select(
        "select distinct a, \"B\" AS x FROM ks.t WHERE a = ? AND (b, c) > (1, :v) AND token(a) <= 5 \
         AND d IN ? AND e CONTAINS KEY 'k' GROUP BY a ORDER BY b DESC, c PER PARTITION LIMIT 2 LIMIT ? \
         ALLOW FILTERING BYPASS CACHE USING TIMEOUT 50ms;",
    );
    assert!(all.distinct && all.allow_filtering);
    assert_eq!(all.items.len(), 2);
    assert_eq!(all.items[1].alias.as_deref(), Some("x"));
    assert_eq!(all.relations.len(), 5);
    assert_eq!(
        all.order_by,
        [("b".to_owned(), true), ("c".to_owned(), false)]
    );
    assert_eq!(
        all.timeout,
        Some(Term::Literal(Literal::Duration("50ms".into())))
    );
    assert!(
        matches!(&all.relations[4], Relation::Column(name, crate::ast::Operator::ContainsKey, _) if name == "e")
    );
    // Words that are not reserved are names.
    assert_eq!(select("SELECT key, json, distinct FROM ttl").items.len(), 3);
    assert!(select("SELECT JSON a FROM t").json);
    assert!(
        select("SELECT count(*), cast(a AS text), ttl(b), u.f FROM t")
            .items
            .len()
            == 4
    );
}

#[test]
fn modifications() {
    let Ok(Statement::Modify(insert)) = parse(
        "INSERT INTO t (a, b, c, d) VALUES (-1, 'it''s', {'k': [1, 2]}, $$raw'$$) IF NOT EXISTS USING TTL 5 AND TIMESTAMP ?",
    ) else {
        panic!("insert")
    };
    assert_eq!(insert.conditions, Conditions::IfNotExists);
    let Action::Insert(_, values) = &insert.action else {
        panic!("{insert:?}")
    };
    assert_eq!(values[0], Term::Literal(Literal::Integer("-1".into())));
    assert_eq!(values[1], Term::Literal(Literal::Text("it's".into())));
    assert_eq!(values[3], Term::Literal(Literal::Text("raw'".into())));
    let Ok(Statement::Modify(update)) = parse(
        "UPDATE t SET a = a + {1}, b = [1] + b, c = c - ['x'], d['k'] = 2, e.f = 3, g = null WHERE pk = 1 IF x IN (1, 2) AND y[0] != 3",
    ) else {
        panic!("update")
    };
    let Action::Update(assignments, _) = &update.action else {
        panic!("{update:?}")
    };
    assert!(matches!(assignments[1].1, Assignment::Prepend(_)));
    assert!(matches!(assignments[3].1, Assignment::Element(..)));
    let batch = parse(
        "BEGIN UNLOGGED BATCH USING TIMESTAMP 1 DELETE a[1], b FROM t WHERE c = 1; UPDATE t SET a = 1 WHERE b = 2 APPLY BATCH",
    );
    assert!(matches!(batch, Ok(Statement::Batch(batch)) if batch.statements.len() == 2));
}

#[test]
fn schema_statements() {
    let Ok(Statement::CreateTable(create)) = parse(
        "CREATE TABLE IF NOT EXISTS ks.t (a int, b frozen<map<text, list<int>>>, s set<text> static, PRIMARY KEY ((a, b), c), c timeuuid) \
         WITH CLUSTERING ORDER BY (c DESC) AND cdc = {'enabled': true, 'ttl': 5} AND comment = 'x' -- done",
    ) else {
        panic!("create")
    };
    assert_eq!(create.columns.len(), 4);
    assert_eq!(create.clustering_order, [("c".to_owned(), true)]);
    assert_eq!(
        create.properties[0].1,
        Property::Map(vec![
            ("enabled".into(), "true".into()),
            ("ttl".into(), "5".into())
        ])
    );
    assert!(
        matches!(parse("ALTER TABLE t DROP (a, b)"), Ok(Statement::AlterTable { change: TableChange::Drop(names), .. }) if names.len() == 2)
    );
    for cql in [
        "DROP TABLE IF EXISTS t",
        "USE \"Ks\"",
        "TRUNCATE TABLE t",
        "CREATE TYPE t (a int, b text)",
        "DROP KEYSPACE k",
        "// c\n/* c */ DROP TYPE t",
    ] {
        assert!(parse(cql).is_ok(), "{cql}");
    }
    assert!(matches!(
        parse("CREATE CUSTOM INDEX i ON t (a) USING 'x'"),
        Ok(Statement::Unsupported(_))
    ));
}

#[test]
fn errors_name_the_place() {
    for (cql, message) in [
        (
            "SELEC * FROM t",
            "line 1:0 no viable alternative at input 'SELEC'",
        ),
        (
            "SELECT *\n  FORM t",
            "line 2:2 no viable alternative at input 'FORM'",
        ),
        (
            "SELECT * FROM t WHERE",
            "line 1:21 no viable alternative at input '<EOF>'",
        ),
        (
            "SELECT * FROM t WHERE a = 1 b",
            "line 1:28 no viable alternative at input 'b'",
        ),
        (
            "SELECT * FROM t; SELECT",
            "line 1:17 no viable alternative at input 'SELECT'",
        ),
        ("", "line 1:0 no viable alternative at input '<EOF>'"),
        (
            "SELECT ~",
            "line 1:7 no viable alternative at character '~'",
        ),
        (
            "INSERT INTO t (a) VALUES ('x)",
            "line 1:26 no viable alternative at character '''",
        ),
    ] {
        let error = parse(cql).expect_err(cql);
        assert_eq!(
            (error.code, error.message.as_str()),
            (ErrorCode::Syntax, message),
            "{cql}"
        );
    }
}

#[test]
fn nesting_is_bounded() {
    for (open, close) in [("[", "]"), ("(", ")"), ("{", "}")] {
        let deep = format!(
            "UPDATE t SET a = {}1{} WHERE b = 1",
            open.repeat(5000),
            close.repeat(5000)
        );
        assert_eq!(parse(&deep).expect_err("deep").code, ErrorCode::Syntax);
        // As deep as is allowed does not take for ever.
        let allowed = format!(
            "UPDATE t SET a = {}1{} WHERE b = 1",
            open.repeat(super::MAX_DEPTH),
            close.repeat(super::MAX_DEPTH)
        );
        let _ = parse(&allowed);
    }
    let deep = format!(
        "CREATE TABLE t (a {}int{} PRIMARY KEY)",
        "frozen<".repeat(5000),
        ">".repeat(5000)
    );
    assert_eq!(parse(&deep).expect_err("deep").code, ErrorCode::Syntax);
}

#[test]
fn failing_calls_and_chains_are_bounded() {
    for call in ["cast(", "f("] {
        let failing = format!("SELECT {}a FROM t", call.repeat(super::MAX_DEPTH));
        assert_eq!(parse(&failing).expect_err("open").code, ErrorCode::Syntax);
    }
    let hints = format!("UPDATE t SET a = {}1 WHERE b = 1", "(int)".repeat(50_000));
    assert_eq!(parse(&hints).expect_err("hints").code, ErrorCode::Syntax);
    let fields = format!("SELECT a{} FROM t", ".b".repeat(50_000));
    assert_eq!(parse(&fields).expect_err("fields").code, ErrorCode::Syntax);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_parses_or_fails(text in any::<String>()) {
        let _ = parse(&text);
    }

    #[test]
    fn any_words_parse_or_fail(words in prop::collection::vec(prop::sample::select(vec![
        "SELECT", "*", "FROM", "t", "WHERE", "a", "=", "?", ":", "x", "(", ")", "[", "]", "{", "}", ",", "1", "'s'",
        "INSERT", "INTO", "VALUES", "IF", "NOT", "EXISTS", "UPDATE", "SET", "+", "-", "DELETE", "BEGIN", "BATCH",
        "APPLY", "USING", "TTL", "CREATE", "TABLE", "PRIMARY", "KEY", "int", "set", "<", ">", ".", ";", "AND", "IN",
        "WITH", "token", "1h", "0xff", "1.5e3", "--", "/*", "*/", "$$", "\"q\"", "null", "ALTER", "DROP", "LIMIT",
    ]), 0..24)) {
        let _ = parse(&words.join(" "));
    }
}
