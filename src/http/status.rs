//! Health and status.

use axum::Json;
use axum::extract::{Path, Query, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::State;
use super::answer::Refusal;
use crate::retry::breaker;
use crate::runtime::Live;
use crate::runtime::daemon::Current;
use crate::runtime::health::{self, Part, PartStatus, Snapshot, Watched};
use crate::runtime::supervisor::Name;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::standing::{GroupStanding, TableStanding};

/// Groups of one answer at most.
const MOST_GROUPS: usize = 10_000;

/// Microseconds since the Unix epoch.
pub(super) fn now_micros() -> i64 {
    (OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000) as i64
}

/// A time as RFC 3339, from microseconds since the Unix epoch.
pub(super) fn rfc3339(micros: i64) -> Option<String> {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000).ok()?;
    time.format(&Rfc3339).ok()
}

fn seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}

/// The process answers: that is all there is to it.
pub(super) async fn livez() -> &'static str {
    "ok"
}

impl State {
    /// The health of the relay and of what is around it.
    pub(super) fn health(&self, current: &Current) -> Snapshot {
        let mut snapshot = current.hooks.health.snapshot();
        snapshot.parts.extend(self.0.parts.around.snapshot().parts);
        snapshot
    }
}

/// Whether the relay is ready, and how its parts fare.
pub(super) async fn readyz(Shared(state): Shared<State>) -> Response {
    let snapshot = state.health(&state.current());
    let status = if snapshot.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(snapshot)).into_response()
}

/// Everything that can be said of the relay without a key or a payload.
pub(super) async fn status(Shared(state): Shared<State>) -> Json<Value> {
    let current = state.current();
    let metrics = &current.hooks.metrics;
    let Snapshot { ready, parts } = state.health(&current);
    let live = current.hooks.live.borrow().clone();
    let (events, bytes) = live.as_ref().map_or((0, 0), Live::in_flight);
    let latency = state.0.latency.latencies(&metrics.stages).into_iter();
    let latency: Map<String, Value> = latency
        .map(|(stage, latency)| (stage.to_owned(), json!(latency)))
        .collect();
    let limits = &current.config.limits;
    Json(json!({
        "relay": current.config.relay.name,
        "version": env!("CARGO_PKG_VERSION"),
        "now": rfc3339(now_micros()),
        "uptime_seconds": state.0.started.elapsed().as_secs(),
        "ready": ready,
        "admin": state.0.parts.token.borrow().is_some(),
        "breaker": {
            "state": breaker_state(metrics).name(),
            "opened": metrics.breaker_opened.get(),
        },
        "limits": {
            "in_flight_events": limits.in_flight_events,
            "in_flight_bytes": limits.in_flight_bytes,
        },
        "in_flight": { "events": events, "bytes": bytes },
        "totals": totals(metrics),
        "latency": latency,
        "parked_keys": metrics.parked_keys.get(),
        "dead_letters": stored(metrics),
        "tables": tables(&current, live.as_ref(), &parts),
        "parts": parts,
    }))
}

/// Dead letters that wait, by reason.
fn stored(metrics: &Metrics) -> Value {
    json!({
        "exhausted": metrics.stored_exhausted.get(),
        "permanent": metrics.stored_permanent.get(),
        "undecodable": metrics.stored_undecodable.get(),
        "parked": metrics.stored_parked.get(),
    })
}

/// The state of the breaker, as the pipeline tells it.
pub(super) fn breaker_state(metrics: &Metrics) -> breaker::State {
    match metrics.breaker_state.get() {
        0 => breaker::State::Closed,
        1 => breaker::State::HalfOpen,
        _ => breaker::State::Open,
    }
}

/// Events that have become dead letters.
pub(super) fn dead_lettered(metrics: &Metrics) -> u64 {
    metrics.dead_letters_exhausted.get()
        + metrics.dead_letters_permanent.get()
        + metrics.dead_letters_undecodable.get()
        + metrics.dead_letters_parked.get()
}

fn totals(metrics: &Metrics) -> Value {
    json!({
        "read": metrics.events.get(),
        "published": metrics.published.get(),
        "repeated": metrics.repetitions.get(),
        "failed_attempts": metrics.failed_attempts.get(),
        "late": metrics.late.get(),
        "dead_lettered": dead_lettered(metrics),
        "replayed": metrics.replayed.get(),
        "restarts": metrics.task_restarts.get(),
        "reads": metrics.reads.get(),
        "rows_read": metrics.rows_read.get(),
    })
}

/// One table.
#[derive(Debug, Serialize)]
struct Table {
    #[serde(rename = "table")]
    name: String,
    state: &'static str,
    groups: usize,
    generations: usize,
    watermark: Option<String>,
    lag_seconds: Option<f64>,
    backlog_seconds: Option<f64>,
    log_ttl_seconds: Option<f64>,
    expires_in_seconds: Option<f64>,
    late_window_seconds: f64,
    events: u64,
    late: u64,
}

/// What follows from where a table stands at `now`, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Distances {
    pub(super) watermark: Option<i64>,
    pub(super) lag: Option<f64>,
    pub(super) backlog: Option<f64>,
    pub(super) ttl: Option<f64>,
    pub(super) expires_in: Option<f64>,
}

impl Distances {
    pub(super) fn of(standing: &TableStanding, now: i64) -> Self {
        let behind = |at: i64| seconds(now.saturating_sub(at).max(0));
        let watermark = standing.watermark();
        let ttl = (!standing.log_ttl.is_zero()).then_some(standing.log_ttl.as_secs_f64());
        let lag = watermark.map(behind);
        Self {
            watermark,
            lag,
            backlog: standing.tail().map(behind),
            ttl,
            expires_in: ttl.zip(lag).map(|(ttl, lag)| ttl - lag),
        }
    }
}

fn tables(current: &Current, live: Option<&Live>, parts: &[PartStatus]) -> Vec<Table> {
    let now = now_micros();
    let late_window_seconds = current.config.follow.late_window.as_secs_f64();
    let outboxes = current.config.outboxes.iter();
    let table = |(index, outbox): (usize, &crate::config::Outbox)| {
        let table = outbox.table.to_string();
        let watched = live.and_then(|live| live.tables.get(index));
        let standing = |watched: &Watched| {
            (watched.progress.standing).look(|standing| {
                let (groups, generations) = (standing.groups.len(), standing.generations());
                (groups, generations, Distances::of(standing, now))
            })
        };
        let seen = watched.and_then(standing);
        let (groups, generations, distances) = seen.unwrap_or_default();
        let source = Part::Task(Name::source(&table));
        let failed = parts
            .iter()
            .any(|part| part.part == source && matches!(part.state, health::State::Failed(_)));
        let resting = watched.is_none_or(|watched| watched.progress.is_resting());
        let state = if current.hooks.pauses.is_paused(&table) {
            if resting { "paused" } else { "pausing" }
        } else if failed {
            "failed"
        } else if seen.is_none() {
            "starting"
        } else {
            "running"
        };
        Table {
            state,
            groups,
            generations,
            watermark: distances.watermark.and_then(rfc3339),
            lag_seconds: distances.lag,
            backlog_seconds: distances.backlog,
            log_ttl_seconds: distances.ttl,
            expires_in_seconds: distances.expires_in,
            late_window_seconds,
            events: current.hooks.metrics.table(&table).events.get(),
            late: watched.map_or(0, |watched| watched.progress.lateness.counts().0.count()),
            name: table,
        }
    };
    outboxes.enumerate().map(table).collect()
}

/// How many groups are asked for.
#[derive(Debug, Deserialize)]
pub(super) struct Limit {
    limit: Option<usize>,
}

/// The groups of a table, those furthest behind first.
pub(super) async fn groups(
    Shared(state): Shared<State>,
    Path(table): Path<String>,
    limit: Result<Query<Limit>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Value>, Refusal> {
    let limit = limit?.0.limit.unwrap_or(1_000).min(MOST_GROUPS);
    let current = state.current();
    current.known(&table)?;
    let live = current.hooks.live.borrow().clone();
    let watched = live.iter().flat_map(|live| live.tables.iter());
    let watched = watched.into_iter().find(|watched| watched.table == table);
    let standing = watched.and_then(|watched| {
        watched
            .progress
            .standing
            .look(|standing| standing.groups.clone())
    });
    let mut groups = standing.unwrap_or_default();
    groups.sort_by_key(|group| (group.watermark, group.generation, group.range_end));
    let now = now_micros();
    let group = |group: &GroupStanding| {
        json!({
            "generation": rfc3339(group.generation * 1_000),
            "range_end": group.range_end,
            "streams": group.streams,
            "watermark": rfc3339(group.watermark),
            "lag_seconds": seconds(now.saturating_sub(group.watermark).max(0)),
        })
    };
    Ok(Json(json!({
        "groups": groups.iter().take(limit).map(group).collect::<Vec<_>>(),
        "more": groups.len() > limit,
    })))
}

impl Current {
    /// Whether a table is configured; an answer if it is not.
    pub(super) fn known(&self, table: &str) -> Result<(), Refusal> {
        let names = self.config.tables();
        if names.iter().any(|name| name == table) {
            return Ok(());
        }
        let known = names.join(", ");
        Err(Refusal::unknown(format!(
            "{table} is not configured; tables: {known}"
        )))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn distances_follow_from_the_group_that_is_furthest_behind() {
        let group = |watermark, tail| GroupStanding {
            generation: 1,
            range_end: 0,
            streams: 1,
            watermark,
            tail,
        };
        let mut standing = TableStanding {
            groups: vec![group(10_000_000, 98_000_000), group(20_000_000, 99_000_000)],
            log_ttl: Duration::from_secs(100),
        };
        let distances = Distances::of(&standing, 100_000_000);
        assert_eq!(distances.lag, Some(90.0));
        assert_eq!(distances.backlog, Some(2.0));
        assert_eq!(distances.expires_in, Some(10.0));
        standing.log_ttl = Duration::ZERO;
        assert_eq!(
            Distances::of(&standing, 0).expires_in,
            None,
            "rows stay for ever"
        );
        assert_eq!(
            Distances::of(&standing, 0).lag,
            Some(0.0),
            "a clock that is behind"
        );
    }
}
