//! Metrics in the text formats of Prometheus and `OpenMetrics`, and their reference.
//!
//! One list of families, made anew for every answer from what the parts have counted, is the source
//! of both formats and of `docs/metrics.md`. Labels are names of tables and words of this file:
//! never a key.

mod family;
mod process;

use std::fmt::Write as _;

use axum::extract::State as Shared;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::registry::{Registry, Unit};

use family::{Families, Family};
use process::Process;

use super::State;
use super::status::{Distances, now_micros};
use crate::runtime::Live;
use crate::runtime::daemon::Current;
use crate::runtime::health::{self, Snapshot, Watched};
use crate::runtime::supervisor::Kind;
use crate::sink;
use crate::telemetry::histogram::Counts;
use crate::telemetry::metrics::Metrics;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
/// What the families are made from.
struct Seen<'s> {
    metrics: &'s Metrics,
    health: Snapshot,
    limits: (usize, usize),
    in_flight: (usize, usize),
    tables: Vec<Table>,
    process: Process,
}

struct Table {
    name: String,
    paused: bool,
    groups: usize,
    distances: Distances,
    lateness: Counts,
    events: u64,
}

impl<'s> Seen<'s> {
    fn of(current: &'s Current, health: Snapshot, started: f64) -> Self {
        let live = current.hooks.live.borrow();
        let live = live.as_ref();
        let now = now_micros();
        let metrics = &current.hooks.metrics;
        let table = |watched: &Watched| {
            let look = watched
                .progress
                .standing
                .look(|standing| (standing.groups.len(), Distances::of(standing, now)));
            let (groups, distances) = look.unwrap_or_default();
            Table {
                paused: watched.pause.is_paused(),
                groups,
                distances,
                lateness: watched.progress.lateness.counts().0,
                events: metrics.table(&watched.table).events.get(),
                name: watched.table.clone(),
            }
        };
        let tables = live.map(|live| live.tables.iter().map(table).collect());
        let limits = &current.config.limits;
        Self {
            metrics,
            health,
            limits: (limits.in_flight_events.get(), limits.in_flight_bytes.get()),
            in_flight: live.map_or((0, 0), Live::in_flight),
            tables: tables.unwrap_or_default(),
            process: Process::look(started),
        }
    }

    fn per_table(&self, of: impl Fn(&Table) -> Option<f64>) -> Vec<(String, f64)> {
        let tables = self.tables.iter();
        tables
            .filter_map(|table| Some((table.name.clone(), of(table)?)))
            .collect()
    }

    /// Every family, in the order of an event's way.
    fn families(&self) -> Vec<Family> {
        let mut all = self.of_the_relay();
        all.extend(self.of_events());
        all.extend(self.of_dead_letters());
        all.extend(self.of_the_log());
        all.extend(self.of_tables());
        all.extend(self.of_tasks());
        all.extend(self.process.families());
        all
    }

    fn of_the_relay(&self) -> Vec<Family> {
        let state = |state: &health::State| match state {
            health::State::Ok => 0.0,
            health::State::Degraded(_) => 1.0,
            health::State::Failed(_) => 2.0,
        };
        let parts = self.health.parts.iter();
        let parts = parts.map(|part| (part.part.to_string(), state(&part.state)));
        vec![
            Family::by(
                "build_info",
                "Always 1; the version of the relay.",
                "version",
                [(env!("CARGO_PKG_VERSION"), 1.0)],
            ),
            Family::one(
                "ready",
                "1 if the relay is ready, as /readyz says.",
                f64::from(u8::from(self.health.ready)),
            ),
            Family::by(
                "part_state",
                "How a part fares: 0 ok, 1 degraded (a person should look), 2 failed.",
                "part",
                parts,
            ),
        ]
    }

    fn of_events(&self) -> Vec<Family> {
        let m = self.metrics;
        let stages = m
            .stages
            .all()
            .map(|(stage, histogram)| (stage, histogram.counts()));
        let (events, bytes) = self.in_flight;
        vec![
            Family::by(
                "events",
                "Events by outcome: read from the log and handed on, published (acknowledged by all \
                 in-sync replicas), dead_lettered, or repeated (in the log twice, published once).",
                "outcome",
                [
                    ("read", m.events.get()),
                    ("published", m.published.get()),
                    ("dead_lettered", super::status::dead_lettered(m)),
                    ("repeated", m.repetitions.get()),
                ],
            ),
            Family::by(
                "table_events",
                "Events read from the log of a table and handed on.",
                "table",
                self.tables
                    .iter()
                    .map(|table| (table.name.clone(), table.events)),
            ),
            Family::by(
                "stage",
                "How long published events have taken: visible (from the write to the read), queue \
                 (to the last attempt), kafka (to its acknowledgement), total (all of it). The write's \
                 time is the log's, a clock of the cluster or of the writer.",
                "stage",
                stages,
            )
            .in_unit(Unit::Seconds),
            Family::one(
                "in_flight_events",
                "Events between the read and the acknowledgement.",
                events as f64,
            ),
            Family::one(
                "in_flight_events_limit",
                "Most of them: limits.in_flight_events.",
                self.limits.0 as f64,
            ),
            Family::one("in_flight", "Bytes of the events in flight.", bytes as f64)
                .in_unit(Unit::Bytes),
            Family::one(
                "in_flight_bytes_limit",
                "Most of them: limits.in_flight_bytes.",
                self.limits.1 as f64,
            ),
            Family::by(
                "attempt_failures",
                "Attempts to publish that have failed, by the kind of error (docs/errors.md).",
                "kind",
                sink::Kind::ALL.map(|kind| (kind.name(), m.failed_by_kind.get(kind.name()))),
            ),
            Family::one(
                "breaker_state",
                "The breaker before Kafka: 0 closed, 1 half-open, 2 open.",
                m.breaker_state.get() as f64,
            ),
            Family::one(
                "breaker_opened",
                "Times that the breaker has opened.",
                m.breaker_opened.get(),
            ),
        ]
    }

    fn of_dead_letters(&self) -> Vec<Family> {
        let m = self.metrics;
        vec![
            Family::by(
                "dead_letters",
                "Events that have become dead letters, by reason.",
                "reason",
                [
                    ("exhausted", m.dead_letters_exhausted.get()),
                    ("permanent", m.dead_letters_permanent.get()),
                    ("undecodable", m.dead_letters_undecodable.get()),
                    ("parked", m.dead_letters_parked.get()),
                ],
            ),
            Family::one(
                "dead_letter_write_errors",
                "Writes of dead letters, and of their requests, that have failed.",
                m.dead_letter_errors.get(),
            ),
            Family::one(
                "dead_letters_replayed",
                "Dead letters that were published after all.",
                m.replayed.get(),
            ),
            Family::one(
                "dead_letters_discarded",
                "Dead letters that a person has discarded.",
                m.discarded.get(),
            ),
            Family::by(
                "dead_letters_stored",
                "Dead letters that wait in the table, by reason; counted again some seconds after a change.",
                "reason",
                [
                    ("exhausted", m.stored_exhausted.get() as f64),
                    ("permanent", m.stored_permanent.get() as f64),
                    ("undecodable", m.stored_undecodable.get() as f64),
                    ("parked", m.stored_parked.get() as f64),
                ],
            ),
            Family::one(
                "parked_keys",
                "Keys that wait for a dead letter of theirs.",
                m.parked_keys.get() as f64,
            ),
        ]
    }

    fn of_the_log(&self) -> Vec<Family> {
        let m = self.metrics;
        vec![
            Family::one(
                "log_reads",
                "Pages of CDC logs that were asked for.",
                m.reads.get(),
            ),
            Family::one(
                "log_rows_read",
                "Rows of CDC logs that were read, repeated reads included.",
                m.rows_read.get(),
            ),
            Family::one(
                "log_read",
                "Bytes of these rows, as they are on the wire.",
                m.read_bytes.get(),
            )
            .in_unit(Unit::Bytes),
            Family::one(
                "log_read_errors",
                "Reads of CDC logs that have failed.",
                m.read_errors.get(),
            ),
            Family::by(
                "rows_skipped",
                "Log rows that are no events, by kind.",
                "kind",
                [
                    ("update", m.skipped_updates.get()),
                    ("delete", m.skipped_deletes.get()),
                    ("image", m.skipped_images.get()),
                ],
            ),
            Family::by(
                "late_rows",
                "Rows that have appeared behind newer ones that were read already.",
                "table",
                self.tables
                    .iter()
                    .map(|table| (table.name.clone(), table.lateness.count())),
            ),
            Family::by(
                "lateness",
                "How long after their write late rows have appeared.",
                "table",
                self.tables
                    .iter()
                    .map(|table| (table.name.clone(), table.lateness.clone())),
            )
            .in_unit(Unit::Seconds),
            Family::one(
                "stragglers",
                "Late rows that have appeared after follow.late_window, found by a sweep.",
                m.stragglers.get(),
            ),
            Family::one(
                "unreconciled",
                "Rows that may have been published twice because a checkpoint did not tell them apart.",
                m.unreconciled.get(),
            ),
            Family::one(
                "confirmations",
                "Reads of ids before a page was published.",
                m.confirmations.get(),
            ),
            Family::one(
                "swept",
                "Stretches of the log that were compared with what was published of them.",
                m.swept.get(),
            ),
            Family::by(
                "hints",
                "Partitions that writers on this host have named: taken, dropped (the source was behind) or garbage (no hint).",
                "outcome",
                [
                    ("taken", m.hints.get().saturating_sub(m.hints_dropped.get())),
                    ("dropped", m.hints_dropped.get()),
                    ("garbage", m.hints_garbage.get()),
                ],
            ),
        ]
    }

    fn of_tables(&self) -> Vec<Family> {
        let table = |name, help, of: &dyn Fn(&Table) -> Option<f64>| {
            Family::by(name, help, "table", self.per_table(of))
        };
        let seconds = |name, help, of: &dyn Fn(&Table) -> Option<f64>| {
            table(name, help, of).in_unit(Unit::Seconds)
        };
        vec![
            table("table_groups", "Stream groups that are read.", &|table| {
                Some(table.groups as f64)
            }),
            table(
                "table_paused",
                "1 if a person has paused the table.",
                &|table| Some(f64::from(u8::from(table.paused))),
            ),
            seconds(
                "table_watermark_lag",
                "How far the watermark is behind now: follow.late_window and a little when all is well.",
                &|table| table.distances.lag,
            ),
            seconds(
                "table_backlog",
                "How far the tail of the furthest group is behind now: about 0 when all is well.",
                &|table| table.distances.backlog,
            ),
            seconds(
                "table_log_ttl",
                "How long the log keeps its rows.",
                &|table| table.distances.ttl,
            ),
            seconds(
                "table_expires_in",
                "How long until rows that are not settled may vanish from the log; below 0 they may be gone.",
                &|table| table.distances.expires_in,
            ),
        ]
    }

    fn of_tasks(&self) -> Vec<Family> {
        let m = self.metrics;
        let failed = self.health.parts.iter().filter(|part| {
            matches!(part.part, health::Part::Task(_))
                && matches!(part.state, health::State::Failed(_))
        });
        vec![
            Family::one(
                "checkpoints",
                "Checkpoints of stream groups that were saved.",
                m.checkpoints.get(),
            ),
            Family::one(
                "checkpoint_errors",
                "Saves of checkpoints that have failed.",
                m.checkpoint_errors.get(),
            ),
            Family::by(
                "task_restarts",
                "Tasks that were started again after they had failed, by task.",
                "task",
                (Kind::ALL
                    .into_iter()
                    .filter(|kind| kind.policy().restarts()))
                .map(|kind| (kind.name(), m.restarts_by_task.get(kind.name()))),
            ),
            Family::one(
                "task_panics",
                "Tasks that have panicked: defects, please report them.",
                m.task_panics.get(),
            ),
            Family::one(
                "failed_tasks",
                "Tasks that are reported as failed now.",
                failed.count() as f64,
            ),
            Family::by(
                "config_reloads",
                "Configurations that were read again, by outcome.",
                "outcome",
                [
                    ("applied", m.reloads.get()),
                    ("refused", m.reloads_refused.get()),
                ],
            ),
        ]
    }
}

fn wants_open_metrics(headers: &HeaderMap) -> bool {
    let accept = headers.get_all(ACCEPT).iter();
    let mut accept = accept.filter_map(|value| value.to_str().ok());
    accept.any(|value| value.contains("application/openmetrics-text"))
}

/// All metrics.
pub(super) async fn metrics(Shared(state): Shared<State>, headers: HeaderMap) -> Response {
    let current = state.current();
    let health = state.health(&current);
    let families = Seen::of(&current, health, state.0.started_at).families();
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Families(families)));
    let mut body = String::new();
    let open_metrics = wants_open_metrics(&headers);
    let encoded = if open_metrics {
        text::encode(&mut body, &registry)
    } else {
        prometheus_text::encode(&mut body, &registry)
    };
    // Only a writer that fails makes this fail, and a string does not.
    debug_assert!(encoded.is_ok());
    let form = if open_metrics {
        OPEN_METRICS
    } else {
        PROMETHEUS
    };
    ([(CONTENT_TYPE, form)], body).into_response()
}

/// The reference of all metrics, in Markdown.
pub fn reference() -> String {
    let seen = Seen {
        metrics: &Metrics::default(),
        health: Snapshot {
            ready: true,
            parts: Vec::new(),
        },
        limits: (0, 0),
        in_flight: (0, 0),
        tables: Vec::new(),
        process: Process::default(),
    };
    let mut page = String::from(
        "# Metrics\n\nGenerated from the list that `/metrics` is made of; a test fails when it is stale.\n\n\
         `GET /metrics` answers in the text format of Prometheus, or in OpenMetrics if the request \
         accepts that. Labels are names of tables, parts and the words below; no key and no payload \
         is ever one. Counters start at 0 with the process, and go on when its parts start anew \
         after a reload.\n\n| metric | type | label | meaning |\n|---|---|---|---|\n",
    );
    for family in seen.families() {
        let words: Vec<&str> = family.words().collect();
        let label = match (family.label, &*words) {
            (None, _) => String::new(),
            (Some(label @ ("table" | "part" | "version")), _) => format!("`{label}`"),
            (Some(label), words) => format!("`{label}`: {}", words.join(", ")),
        };
        let kind = family.kind.as_str();
        let _ = writeln!(
            page,
            "| `{}` | {kind} | {label} | {} |",
            family.full_name(),
            family.help
        );
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_of_metrics_is_that_of_this_version() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, reference()).expect("write it");
        }
        let stored = std::fs::read_to_string(path).expect("read it");
        assert!(
            stored == reference(),
            "run it with UPDATE=1 to write {path} anew"
        );
    }
}
