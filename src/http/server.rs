//! The server: its socket and its limits.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Request, State as Shared};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::answer::Refusal;
use super::{State, latency, router};
use crate::config::Http;

/// Bytes of a request's body at most: a filter is much smaller.
const BODY: usize = 64 << 10;
/// Bytes of a request's line and headers at most.
const HEAD: usize = 32 << 10;
/// Pause after a connection could not be accepted, as when no file can be opened any more.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the server has ended. It is started again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on.
    #[error("listen on {address} (http.listen): is another process there?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// Serves until it is dropped, with all of its connections.
///
/// # Errors
///
/// When the address cannot be listened on.
pub async fn serve(
    address: SocketAddr,
    settings: &Http,
    state: State,
) -> Result<Infallible, Error> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|source| Error::Listen { address, source })?;
    tracing::info!(%address, "HTTP server is listening");
    match serve_on(&listener, settings, state).await {}
}

/// Serves on a socket that listens, until it is dropped.
pub async fn serve_on(listener: &TcpListener, settings: &Http, state: State) -> Infallible {
    let connections = accept(listener, settings, state.clone());
    tokio::select! {
        never = connections => never,
        never = watch_latency(&state) => never,
    }
}

/// Keeps what the latencies of the last minute are told from.
async fn watch_latency(state: &State) -> Infallible {
    let mut ticks = interval(latency::EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let metrics = state.current().hooks.metrics;
        state.0.latency.look(&metrics.stages, Instant::now());
    }
}

async fn accept(listener: &TcpListener, settings: &Http, state: State) -> Infallible {
    let app = router(state)
        .layer(DefaultBodyLimit::max(BODY))
        .layer(from_fn_with_state(settings.request_timeout, in_time));
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(settings.request_timeout)
        .max_buf_size(HEAD)
        .half_close(false);
    let room = Arc::new(Semaphore::new(settings.max_connections.get()));
    let mut connections = JoinSet::new();
    loop {
        let permit = Arc::clone(&room).acquire_owned().await;
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let service = TowerToHyperService::new(app.clone());
                let connection = server.serve_connection(TokioIo::new(stream), service);
                connections.spawn(async move {
                    // A client that breaks off, or speaks another protocol, is its own business.
                    let _ = connection.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "an HTTP connection was not accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Ends requests that take too long.
async fn in_time(Shared(limit): Shared<Duration>, request: Request, next: Next) -> Response {
    if let Ok(response) = tokio::time::timeout(limit, next.run(request)).await {
        return response;
    }
    let late = "this took longer than http.request_timeout";
    Refusal::new(StatusCode::GATEWAY_TIMEOUT, late).into_response()
}
