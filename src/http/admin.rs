//! What asks for the token: dead letters, pauses, reloads, the log's level.

use std::num::NonZeroU32;

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::State;
use super::answer::Refusal;
use super::status::now_micros;
use crate::config;
use crate::dead_letters::filter::Filter;
use crate::dead_letters::find::Find;
use crate::dead_letters::replay::{Action, Order};
use crate::dead_letters::types::Types;
use crate::dead_letters::{self, DeadLetter, Reason, view};
use crate::event::Record;
use crate::runtime::Live;
use crate::runtime::daemon::Current;

/// Dead letters of one answer at most.
const MOST_LETTERS: usize = 1_000;
/// Whole dead letters of one answer at most. Of one event id there is one, but for repeated ids.
const MOST_WHOLE: usize = 100;
/// Bytes of their records and rows after which no more are added to an answer.
const MOST_BYTES: usize = 8 << 20;

impl Current {
    /// The relay, if it runs.
    fn live(&self) -> Result<Live, Refusal> {
        let live = self.hooks.live.borrow().clone();
        live.ok_or_else(|| Refusal::later("the relay is not connected yet, or it stops"))
    }
}

/// Which dead letters are asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Wanted {
    table: Option<String>,
    topic: Option<String>,
    key: Option<String>,
    #[serde(rename = "type")]
    event_type: Option<String>,
    id: Option<String>,
    reason: Option<String>,
    since: Option<String>,
    until: Option<String>,
    limit: Option<usize>,
    /// With payloads, headers and rows.
    whole: bool,
}

/// A value of a form that was left empty is none.
fn given(value: Option<String>) -> Option<String> {
    value.filter(|value| !value.is_empty())
}

fn millis(name: &str, value: Option<String>) -> Result<Option<i64>, Refusal> {
    let Some(text) = given(value) else {
        return Ok(None);
    };
    let time = OffsetDateTime::parse(&text, &Rfc3339);
    let time = time.map_err(|_| Refusal::bad(format!("{name}: write 2026-01-31T12:00:00Z")))?;
    Ok(Some((time.unix_timestamp_nanos() / 1_000_000) as i64))
}

impl Wanted {
    fn filter(self) -> Result<Filter, Refusal> {
        let filter = Filter {
            table: given(self.table),
            topic: given(self.topic),
            key: given(self.key),
            event_type: given(self.event_type),
            id: given(self.id),
            reason: given(self.reason),
            since_millis: millis("since", self.since)?,
            until_millis: millis("until", self.until)?,
        };
        possible(&filter)?;
        Ok(filter)
    }
}

fn possible(filter: &Filter) -> Result<(), Refusal> {
    match &filter.reason {
        Some(reason) if reason.parse::<Reason>().is_err() => Err(Refusal::bad(
            "reason: write exhausted, permanent, undecodable or parked",
        )),
        _ => Ok(()),
    }
}

/// Dead letters, key by key in the order of their events, without payloads unless they are asked for.
pub(super) async fn list(
    Shared(state): Shared<State>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<Value>, Refusal> {
    let Query(wanted) = wanted?;
    let current = state.current();
    let live = current.live()?;
    let wanted_whole = wanted.whole;
    let most = if wanted_whole {
        MOST_WHOLE
    } else {
        MOST_LETTERS
    };
    let limit = wanted.limit.unwrap_or(100).min(most);
    let filter = wanted.filter()?;
    if let Some(table) = &filter.table {
        current.known(table)?;
    }
    let tables = current.config.tables();
    let mut find = Find::new(&live.letters, &tables, &filter);
    if wanted_whole {
        let (letters, more) = wholes(&current, &live, find, limit).await?;
        return Ok(Json(json!({ "dead_letters": letters, "more": more })));
    }
    let (mut letters, mut more) = (Vec::new(), false);
    while let Some(letter) = find.next().await.map_err(|error| Refusal::failed(&error))? {
        more = letters.len() == limit;
        if more {
            break;
        }
        letters.push(Value::Object(view::outline(&letter)));
    }
    Ok(Json(json!({ "dead_letters": letters, "more": more })))
}

/// All of the dead letters of one event id.
pub(super) async fn show(
    Shared(state): Shared<State>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let current = state.current();
    let live = current.live()?;
    let filter = Filter {
        id: Some(id.clone()),
        ..Filter::default()
    };
    let tables = current.config.tables();
    let find = Find::new(&live.letters, &tables, &filter);
    let (letters, more) = wholes(&current, &live, find, MOST_WHOLE).await?;
    if letters.is_empty() {
        return Err(Refusal::unknown(format!("there is none of event {id}")));
    }
    Ok(Json(json!({ "dead_letters": letters, "more": more })))
}

/// All of so many dead letters, as far as they fit into one answer, and whether there are more. The
/// first one is there whatever its size.
async fn wholes(
    current: &Current,
    live: &Live,
    mut find: Find<'_>,
    limit: usize,
) -> Result<(Vec<Value>, bool), Refusal> {
    let failed = |error: dead_letters::Error| Refusal::failed(&error);
    let mut types = Types::new(live.session.clone(), current.config.clone());
    let (mut letters, mut bytes) = (Vec::new(), 0);
    while let Some(outline) = find.next().await.map_err(failed)? {
        if letters.len() == limit || bytes >= MOST_BYTES {
            return Ok((letters, true));
        }
        // It may be gone meanwhile.
        if let Some(letter) = live.letters.get(&outline).await.map_err(failed)? {
            bytes += letter.record.as_ref().map_or(0, Record::size);
            bytes += letter.row.as_ref().map_or(0, |row| row.size());
            letters.push(whole(&letter, &mut types).await);
        }
    }
    Ok((letters, false))
}

async fn whole(letter: &DeadLetter, types: &mut Types) -> Value {
    let row = match &letter.row {
        Some(row) => Some(view::row(row, types.of(&letter.table).await)),
        None => None,
    };
    Value::Object(view::whole(letter, row))
}

/// What is to be done with which dead letters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    #[serde(default)]
    filter: Filter,
    #[serde(default)]
    all: bool,
    #[serde(default)]
    rate: Option<NonZeroU32>,
    #[serde(default)]
    dry_run: bool,
}

impl Asked {
    fn order(self, action: Action) -> Result<Order, Refusal> {
        let nothing = self.filter == Filter::default();
        if nothing && !self.all {
            return Err(Refusal::bad("say which: give a filter, or all: true"));
        }
        if self.all && !nothing {
            return Err(Refusal::bad("all and a filter exclude each other"));
        }
        possible(&self.filter)?;
        Ok(Order {
            action,
            filter: self.filter,
            rate: self.rate,
            dry_run: self.dry_run,
            asked_at: now_micros(),
        })
    }
}

/// Has dead letters published after all.
pub(super) async fn replay(
    Shared(state): Shared<State>,
    asked: Result<Json<Asked>, JsonRejection>,
) -> Result<Response, Refusal> {
    carry_out(&state, asked?.0.order(Action::Replay)?).await
}

/// Has dead letters removed without publishing them.
pub(super) async fn discard(
    Shared(state): Shared<State>,
    asked: Result<Json<Asked>, JsonRejection>,
) -> Result<Response, Refusal> {
    carry_out(&state, asked?.0.order(Action::Discard)?).await
}

async fn carry_out(state: &State, order: Order) -> Result<Response, Refusal> {
    let current = state.current();
    let live = current.live()?;
    if let Some(table) = &order.filter.table {
        current.known(table)?;
    }
    if order.dry_run {
        let progress = live.preview(&order).await;
        let progress = progress.map_err(|error| Refusal::failed(&error))?;
        return Ok(Json(json!({ "progress": progress })).into_response());
    }
    let request = live.requests.ask(&order).await;
    let request = request.map_err(|error| Refusal::failed(&error))?;
    tracing::info!(%request, action = ?order.action, "a request has come over HTTP");
    Ok((StatusCode::ACCEPTED, Json(json!({ "request": request }))).into_response())
}

/// How far a request has come.
pub(super) async fn request(
    Shared(state): Shared<State>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let id = Uuid::parse_str(&id).map_err(|_| Refusal::bad("this is no id of a request"))?;
    let live = state.current().live()?;
    let report = live.requests.find(id).await;
    match report.map_err(|error| Refusal::failed(&error))? {
        Some(report) => Ok(Json(json!({
            "state": report.state,
            "progress": report.progress,
            "error": report.error,
        }))),
        None => Err(Refusal::unknown(format!("there is no request {id}"))),
    }
}

/// A table, and whether it is paused.
#[derive(Debug, Serialize)]
pub(super) struct Paused {
    table: String,
    paused: bool,
}

/// Reads no more of a table.
pub(super) async fn pause(
    Shared(state): Shared<State>,
    Path(table): Path<String>,
) -> Result<Json<Paused>, Refusal> {
    set_paused(&state, table, true)
}

/// Reads a table again.
pub(super) async fn resume(
    Shared(state): Shared<State>,
    Path(table): Path<String>,
) -> Result<Json<Paused>, Refusal> {
    set_paused(&state, table, false)
}

fn set_paused(state: &State, table: String, paused: bool) -> Result<Json<Paused>, Refusal> {
    let current = state.current();
    current.known(&table)?;
    if current.hooks.pauses.set(&table, paused) {
        tracing::warn!(%table, paused, "a person has paused or resumed a table");
    }
    Ok(Json(Paused { table, paused }))
}

/// Reads the configuration again.
pub(super) async fn reload(Shared(state): Shared<State>) -> Result<Response, Refusal> {
    match state.0.parts.reloads.ask().await {
        Some(Ok(reloaded)) => Ok(Json(reloaded).into_response()),
        Some(Err(error)) => Err(refused(&error)),
        None => Err(Refusal::later(
            "nothing can be reloaded: the relay stops, or has no file",
        )),
    }
}

fn refused(error: &config::Error) -> Refusal {
    let problems = error.problems.iter().map(|problem| {
        json!({
            "path": problem.path.to_string(),
            "origin": problem.origin.to_string(),
            "message": problem.message,
        })
    });
    Refusal {
        status: StatusCode::UNPROCESSABLE_ENTITY,
        body: json!({
            "error": "the configuration cannot be used; nothing has changed",
            "problems": problems.collect::<Vec<_>>(),
        }),
    }
}

/// What is logged.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Level {
    level: String,
}

/// What is logged now.
pub(super) async fn level(Shared(state): Shared<State>) -> Json<Level> {
    let level = state.0.parts.level.get();
    Json(Level { level })
}

/// Logs more, or less, until the next reload or restart.
pub(super) async fn set_level(
    Shared(state): Shared<State>,
    wanted: Result<Json<Level>, JsonRejection>,
) -> Result<Json<Level>, Refusal> {
    let Json(Level { level }) = wanted?;
    let set = state.0.parts.level.set(&level);
    set.map_err(|error| Refusal::bad(error.to_string()))?;
    tracing::info!(%level, "the log's level has changed");
    Ok(Json(Level { level }))
}
