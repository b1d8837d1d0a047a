//! What the relay tells and takes over HTTP.
//!
//! Owns the server, its limits, who may ask for what, and the forms of the answers. Invariants:
//!
//! 1. Health, metrics, status and the page are open to whoever reaches the address, and hold neither
//!    keys nor payloads. Everything else asks for the token, and is off without one.
//! 2. A request is bounded: in size, in the time to be read and answered, and in the number of
//!    connections beside it.
//! 3. It decides nothing about events: what changes something is asked of the part that owns it.
//!
//! Deliberately absent: TLS (a proxy's business), users and roles, anything that publishes.

mod admin;
mod answer;
mod auth;
pub mod exposition;
mod latency;
mod page;
mod server;
mod status;

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::routing::{get, post};
use tokio::sync::watch;

use crate::config::Secret;
use crate::runtime::daemon::{Current, Reloads};
use crate::runtime::health::Board;
use crate::telemetry::LogLevel;

pub use server::{Error, serve, serve_on};

/// What the server looks at and asks.
#[derive(Debug)]
pub struct Parts {
    /// The relay that runs now.
    pub current: watch::Receiver<Current>,
    /// How the parts around the relay fare.
    pub around: Board,
    /// The token that is asked for.
    pub token: watch::Receiver<Option<Secret>>,
    /// Reads the configuration again.
    pub reloads: Reloads,
    /// The log's level.
    pub level: LogLevel,
}

/// Everything that requests are answered from. Clones share it.
#[derive(Debug, Clone)]
pub struct State(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    parts: Parts,
    started: Instant,
    /// Seconds since the Unix epoch.
    started_at: f64,
    latency: latency::Window,
}

impl State {
    /// The state of a server.
    pub fn new(parts: Parts) -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        Self(Arc::new(Inner {
            parts,
            started: Instant::now(),
            started_at: since_epoch.map_or(0.0, |since| since.as_secs_f64()),
            latency: latency::Window::default(),
        }))
    }

    fn current(&self) -> Current {
        self.0.parts.current.borrow().clone()
    }
}

/// All that is answered.
fn router(state: State) -> Router {
    let guarded = Router::new()
        .route("/api/dead-letters", get(admin::list))
        .route("/api/dead-letters/replay", post(admin::replay))
        .route("/api/dead-letters/discard", post(admin::discard))
        .route("/api/dead-letters/{id}", get(admin::show))
        .route("/api/requests/{id}", get(admin::request))
        .route("/api/tables/{table}/pause", post(admin::pause))
        .route("/api/tables/{table}/resume", post(admin::resume))
        .route("/api/reload", post(admin::reload))
        .route("/api/log-level", get(admin::level).put(admin::set_level))
        .layer(axum::middleware::from_fn_with_state(
            state.clone(),
            auth::ask_for_token,
        ));
    Router::new()
        .route("/", get(page::page))
        .route("/livez", get(status::livez))
        .route("/readyz", get(status::readyz))
        .route("/metrics", get(exposition::metrics))
        .route("/api/status", get(status::status))
        .route("/api/tables/{table}/groups", get(status::groups))
        .merge(guarded)
        .fallback(answer::nothing_here)
        .method_not_allowed_fallback(answer::not_so)
        .layer(axum::middleware::map_response(answer::harden))
        .with_state(state)
}
