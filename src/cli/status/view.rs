//! A status as a person, or a program, reads it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::live::{Groups, Latency, Live, Status};
use super::stored::{DeadLetters, Stored};
use crate::cli::moment::{rfc3339, span};
use crate::ownership::look::Owner;

/// All that was found out.
#[derive(Debug, Clone)]
pub(super) struct Report {
    /// The relay's name in the configuration.
    pub(super) relay: Option<String>,
    /// Microseconds since the Unix epoch.
    pub(super) now: i64,
    pub(super) live: Option<Live>,
    pub(super) stored: Option<Stored>,
    /// What could not be found out, and why.
    pub(super) notes: Vec<String>,
    /// Groups of a table that were asked for.
    pub(super) groups: Option<usize>,
}

/// One table, from the running relay where it says something, else from the database.
#[derive(Debug, Clone, Default)]
struct Row {
    table: String,
    state: Option<String>,
    generations: u64,
    groups: u64,
    oldest: Option<String>,
    newest: Option<String>,
    lag: Option<f64>,
    backlog: Option<f64>,
    ttl: Option<f64>,
    expires_in: Option<f64>,
    dead_letters: Option<DeadLetters>,
    listed: Option<Groups>,
}

fn rows(report: &Report) -> Vec<Row> {
    let mut rows = Vec::new();
    for table in report.stored.iter().flat_map(|stored| &stored.tables) {
        rows.push(Row {
            table: table.name.clone(),
            generations: table.generations as u64,
            groups: table.open as u64,
            oldest: table.oldest.map(rfc3339),
            newest: table.newest.map(rfc3339),
            lag: table.lag(report.now),
            ttl: table.ttl,
            expires_in: table.expires_in(report.now),
            dead_letters: Some(table.dead_letters.clone()),
            listed: table.groups.clone(),
            ..Row::default()
        });
    }
    let Some(live) = &report.live else {
        return rows;
    };
    for table in &live.status.tables {
        let known = rows.iter().position(|row| row.table == table.name);
        let at = known.unwrap_or_else(|| {
            rows.push(Row {
                table: table.name.clone(),
                ..Row::default()
            });
            rows.len() - 1
        });
        let row = &mut rows[at];
        row.state = Some(table.state.clone());
        row.generations = table.generations;
        row.groups = table.groups;
        row.oldest.clone_from(&table.watermark);
        // What is stored is older.
        row.newest = None;
        row.lag = table.lag_seconds;
        row.backlog = table.backlog_seconds;
        row.ttl = table.log_ttl_seconds;
        row.expires_in = table.expires_in_seconds;
        if let Some(groups) = live.groups.get(&table.name) {
            row.listed = Some(groups.clone());
        }
    }
    rows
}

/// For programs.
pub(super) fn json(report: &Report) -> Value {
    let name = report.relay.as_deref();
    let name = name.or(report.live.as_ref().map(|live| live.status.relay.as_str()));
    let stored = report.stored.as_ref();
    let tables: Vec<Value> = rows(report).iter().map(|row| table(row, report)).collect();
    json!({
        "relay": name,
        "now": rfc3339(report.now),
        "notes": report.notes,
        "url": report.live.as_ref().map(|live| &live.url),
        "live": report.live.as_ref().map(|live| &live.document),
        "owner": stored.and_then(|stored| stored.owner.as_ref()).map(owner),
        "requests": stored.map(|stored| {
            let requests = stored.requests.iter();
            let shown = requests.map(|r| json!({ "request": r.id, "action": r.action }));
            shown.collect::<Vec<Value>>()
        }),
        "tables": tables,
    })
}

fn table(row: &Row, report: &Report) -> Value {
    let letters = row
        .dead_letters
        .as_ref()
        .map(|letters| json!({ "counts": letters.counts, "exact": letters.complete }));
    let fields = json!({
        "table": row.table,
        "state": row.state,
        "generations": row.generations,
        "groups": row.groups,
        "oldest_watermark": row.oldest,
        "newest_watermark": row.newest,
        "lag_seconds": row.lag,
        "backlog_seconds": row.backlog,
        "log_ttl_seconds": row.ttl,
        "expires_in_seconds": row.expires_in,
        "dead_letters": letters,
    });
    let mut fields = match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    if report.groups.is_some() {
        fields.insert("furthest_behind".to_owned(), json!(row.listed));
    }
    Value::Object(fields)
}

fn owner(owner: &Owner) -> Value {
    json!({
        "role": owner.role,
        "host": owner.host,
        "pid": owner.pid,
        "since": owner.since.map(millis),
        "renewed": millis(owner.renewed),
        "until": millis(owner.until),
    })
}

fn millis(millis: i64) -> String {
    rfc3339(millis.saturating_mul(1_000))
}

/// For people.
pub(super) fn text(report: &Report) -> String {
    let mut out = String::new();
    for note in &report.notes {
        let _ = writeln!(out, "note: {}", plain(note));
    }
    let mut facts: Vec<(&str, String)> = Vec::new();
    match (&report.live, &report.relay) {
        (Some(live), _) => {
            let of = &live.status;
            let up = span(of.uptime_seconds);
            let said = format!(
                "{}, version {}, up {up}, at {}",
                of.relay, of.version, live.url
            );
            facts.push(("relay", said));
        }
        (None, Some(name)) => facts.push(("relay", name.clone())),
        (None, None) => {}
    }
    if let Some(live) = &report.live {
        running(&live.status, &mut facts);
    }
    if let Some(stored) = &report.stored {
        facts.push(("owner", owner_text(stored.owner.as_ref())));
        let requests: Vec<String> = stored
            .requests
            .iter()
            .map(|request| format!("{} {}", request.action, request.id))
            .collect();
        if !requests.is_empty() {
            facts.push(("open requests", requests.join(", ")));
        }
    }
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, said) in &facts {
        let _ = writeln!(out, "{name:<width$}  {}", plain(said));
    }
    let rows = rows(report);
    out.push('\n');
    out.push_str(&tables_text(&rows));
    let letters: Vec<_> = rows.iter().filter_map(letters_text).collect();
    if !letters.is_empty() {
        out.push('\n');
        out.push_str(&letters.concat());
    }
    for row in &rows {
        if let Some(listed) = &row.listed {
            out.push('\n');
            out.push_str(&groups_text(&row.table, listed));
        }
    }
    out
}

fn running(status: &Status, facts: &mut Vec<(&str, String)>) {
    let ready = if status.ready { "yes" } else { "no" };
    facts.push(("ready", ready.to_owned()));
    for part in status.parts.iter().filter(|part| part.state != "ok") {
        let reason = part.reason.as_deref().unwrap_or("no reason given");
        let since = span(part.for_seconds);
        let said = format!("{} {}: {reason} (for {since})", part.name, part.state);
        facts.push(("", said));
    }
    let breaker = format!(
        "{}, opened {} times",
        status.breaker.state, status.breaker.opened
    );
    facts.push(("breaker", breaker));
    let in_flight = format!(
        "{} of {} events, {} of {} bytes",
        status.in_flight.events, status.limits.events, status.in_flight.bytes, status.limits.bytes
    );
    facts.push(("in flight", in_flight));
    let totals = status.totals.iter();
    let totals: Vec<String> = totals
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    facts.push(("since the start", totals.join(", ")));
    for (stage, name) in [
        ("total", "written to acknowledged"),
        ("visible", "written to read"),
        ("queue", "read to producer"),
        ("kafka", "producer to acknowledged"),
    ] {
        if let Some(latency) = status.latency.get(stage) {
            facts.push((name, latency_text(*latency)));
        }
    }
    if status.parked_keys > 0 {
        facts.push(("parked keys", status.parked_keys.to_string()));
    }
}

/// A latency in the unit that a person would name it in.
fn short(seconds: f64) -> String {
    if seconds < 1.0 {
        format!("{:.1} ms", seconds * 1e3)
    } else {
        format!("{seconds:.1} s")
    }
}

fn latency_text(latency: Latency) -> String {
    let millis = |seconds: Option<f64>| seconds.map_or_else(|| "none".to_owned(), short);
    if latency.count == 0 {
        return "no event in the last minute".to_owned();
    }
    format!(
        "p50 {}, p99 {} ({} events in the last minute)",
        millis(latency.p50),
        millis(latency.p99),
        latency.count
    )
}

fn owner_text(owner: Option<&Owner>) -> String {
    let Some(owner) = owner else {
        return "nobody: no relay runs".to_owned();
    };
    let since = owner
        .since
        .map_or_else(|| "an unknown time".to_owned(), millis);
    format!(
        "a {} (process {} on {}) since {since}, its lease ends {}",
        owner.role,
        owner.pid,
        owner.host,
        millis(owner.until)
    )
}

fn or_none(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

fn tables_text(rows: &[Row]) -> String {
    let header = [
        "TABLE",
        "STATE",
        "GENERATIONS",
        "GROUPS",
        "OLDEST W",
        "NEWEST W",
        "LAG",
        "BACKLOG",
        "EXPIRES IN",
        "DEAD LETTERS",
    ];
    let mut lines = vec![header.map(str::to_owned).to_vec()];
    for row in rows {
        let letters = row.dead_letters.as_ref().map(|letters| {
            let more = if letters.complete { "" } else { "+" };
            format!("{}{more}", letters.total())
        });
        lines.push(vec![
            row.table.clone(),
            or_none(row.state.clone()),
            row.generations.to_string(),
            row.groups.to_string(),
            or_none(row.oldest.clone()),
            or_none(row.newest.clone()),
            or_none(row.lag.map(span)),
            or_none(row.backlog.map(span)),
            or_none(row.expires_in.map(span)),
            or_none(letters),
        ]);
    }
    aligned(&lines)
}

/// The dead letters of a table by reason, if there are any.
fn letters_text(row: &Row) -> Option<String> {
    let letters = row
        .dead_letters
        .as_ref()
        .filter(|letters| letters.total() > 0)?;
    let some: BTreeMap<_, _> = letters.counts.iter().filter(|(_, n)| **n > 0).collect();
    let some: Vec<String> = some
        .into_iter()
        .map(|(reason, n)| format!("{n} {reason}"))
        .collect();
    let bound = if letters.complete { "" } else { "at least " };
    Some(format!(
        "dead letters of {}: {bound}{}\n",
        row.table,
        some.join(", ")
    ))
}

fn groups_text(table: &str, listed: &Groups) -> String {
    let header = ["GENERATION", "RANGE END", "STREAMS", "W", "LAG"];
    let mut lines = vec![header.map(str::to_owned).to_vec()];
    for group in &listed.groups {
        lines.push(vec![
            group.generation.clone(),
            or_none(group.range_end.map(|end| end.to_string())),
            or_none(group.streams.map(|streams| streams.to_string())),
            or_none(group.watermark.clone()),
            or_none(group.lag_seconds.map(span)),
        ]);
    }
    let more = if listed.more {
        "; --limit lists more"
    } else {
        ""
    };
    let title = format!("stream groups of {table}, furthest behind first{more}\n");
    title + &aligned(&lines)
}

/// Columns with two spaces between them.
fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{:<width$}", plain(cell)))
            .collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// Text of others without control characters, which could do harm to a terminal.
fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::stored::{Request, Table};
    use super::*;

    fn live() -> Live {
        let document = json!({
            "relay": "orders", "version": "0.1.0", "now": "2026-01-31T12:00:00.000Z",
            "uptime_seconds": 7_260, "ready": false, "admin": true,
            "parts": [
                { "part": "Kafka", "state": "degraded", "reason": "no broker\u{1b}", "for_seconds": 70 },
                { "part": "ScyllaDB", "state": "ok", "reason": null, "for_seconds": 7_000 }
            ],
            "breaker": { "state": "open", "opened": 3 },
            "limits": { "in_flight_events": 10_000, "in_flight_bytes": 67_108_864 },
            "in_flight": { "events": 12, "bytes": 34_567 },
            "totals": { "read": 9, "published": 8 },
            "latency": {
                "total": { "count": 10, "p50": 0.012, "p99": 0.05 },
                "kafka": { "count": 0, "p50": null, "p99": null }
            },
            "parked_keys": 2,
            "tables": [{
                "table": "shop.outbox", "state": "running", "groups": 768, "generations": 1,
                "watermark": "2026-01-31T11:57:00.000Z", "lag_seconds": 181.2,
                "backlog_seconds": 0.0, "log_ttl_seconds": 86_400, "expires_in_seconds": 86_218.8,
                "late_window_seconds": 180, "events": 1, "late": 0
            }]
        });
        Live {
            url: "http://127.0.0.1:9464".to_owned(),
            status: serde_json::from_value(document.clone()).expect("its form"),
            document,
            groups: BTreeMap::new(),
        }
    }

    fn stored(complete: bool) -> Stored {
        let table = |name: &str| Table {
            name: name.to_owned(),
            generations: 1,
            open: 4,
            oldest: Some(1_000_000),
            newest: Some(2_000_000),
            ttl: Some(3_600.0),
            dead_letters: DeadLetters {
                counts: [("parked", 2), ("permanent", 1), ("exhausted", 0)].into(),
                complete,
            },
            groups: None,
        };
        Stored {
            owner: Some(Owner {
                role: "relay".to_owned(),
                host: "there".to_owned(),
                pid: 7,
                since: Some(0),
                renewed: 1_000,
                until: 11_000,
            }),
            requests: vec![Request {
                id: "1".to_owned(),
                action: "replay",
            }],
            tables: vec![table("shop.outbox"), table("billing.outbox")],
        }
    }

    fn report(live: Option<Live>, stored: Option<Stored>) -> Report {
        Report {
            relay: Some("orders".to_owned()),
            now: 61_000_000,
            live,
            stored,
            notes: Vec::new(),
            groups: None,
        }
    }

    #[test]
    fn the_database_alone_says_how_far_behind_the_tables_are() {
        let report = report(None, Some(stored(false)));
        let text = text(&report);
        for said in [
            "owner          a relay (process 7 on there) since 1970-01-01T00:00:00.000Z, its lease ends \
             1970-01-01T00:00:11.000Z\n",
            "open requests  replay 1\n",
            "billing.outbox  -      1            4       1970-01-01T00:00:01.000Z  \
             1970-01-01T00:00:02.000Z  1m 0s  -        59m 0s      3+\n",
            "dead letters of shop.outbox: at least 2 parked, 1 permanent\n",
        ] {
            assert!(text.contains(said), "{said:?} in\n{text}");
        }
        let json = json(&report);
        assert_eq!(json["tables"][1]["lag_seconds"], 60.0);
        assert_eq!(json["tables"][1]["expires_in_seconds"], 3_540.0);
        assert_eq!(json["tables"][0]["dead_letters"]["exact"], false);
        assert_eq!(
            (&json["live"], &json["owner"]["pid"]),
            (&Value::Null, &json!(7))
        );
    }

    #[test]
    fn a_running_relay_knows_better_what_it_says() {
        let report = report(Some(live()), Some(stored(true)));
        let text = text(&report);
        for said in [
            "orders, version 0.1.0, up 2h 1m, at http://127.0.0.1:9464\n",
            "Kafka degraded: no broker  (for 1m 10s)\n",
            "open, opened 3 times\n",
            "12 of 10000 events, 34567 of 67108864 bytes\n",
            "p50 12.0 ms, p99 50.0 ms (10 events in the last minute)\n",
            "no event in the last minute\n",
            "shop.outbox     running  1            768     2026-01-31T11:57:00.000Z  -",
            "23h 56m     3\n",
        ] {
            assert!(text.contains(said), "{said:?} in\n{text}");
        }
        let json = json(&report);
        assert_eq!(json["tables"][0]["groups"], 768);
        assert_eq!(json["tables"][1]["groups"], 4);
        assert_eq!(json["live"]["breaker"]["opened"], 3);
    }
}
