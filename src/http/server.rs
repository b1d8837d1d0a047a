//! The server: its socket and its limits.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Request, State as Shared};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_io_timeout::TimeoutStream;

use super::answer::Refusal;
use super::{State, latency, router};
use crate::config::Http;

/// Bytes of a request's body at most: a filter is much smaller.
const BODY: usize = 64 << 10;
/// Bytes of a request's line and headers at most.
const HEAD: usize = 32 << 10;
/// Connections beyond `http.max_connections`, so that a probe is answered when all of those are taken. Each
/// is for one request.
const SPARE: usize = 16;
/// How long one of them lasts.
const SPARE_LIFE: Duration = Duration::from_secs(2);
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
    let limit = settings.request_timeout;
    let app = router(state)
        .layer(DefaultBodyLimit::max(BODY))
        .layer(from_fn_with_state(limit, in_time));
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(limit)
        .max_buf_size(HEAD)
        .half_close(false);
    let mut once = server.clone();
    once.keep_alive(false);
    let room = Room::new(settings.max_connections.get());
    let mut connections = JoinSet::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "an HTTP connection was not accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let place = room.take().await;
        while connections.try_join_next().is_some() {}
        let (server, life) = if place.spare {
            (&once, Some(SPARE_LIFE.min(limit)))
        } else {
            (&server, None)
        };
        let service = TowerToHyperService::new(app.clone());
        let connection = server.serve_connection(io(stream, limit), service);
        connections.spawn(async move {
            // A client that breaks off, or speaks another protocol, is its own business.
            let _ = match life {
                None => connection.await,
                Some(life) => timeout(life, connection).await.unwrap_or(Ok(())),
            };
            drop(place);
        });
    }
}

/// A client that does not read its answer is given up after `limit`, as one that does not ask is.
fn io(stream: TcpStream, limit: Duration) -> TokioIo<Pin<Box<TimeoutStream<TcpStream>>>> {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(limit));
    TokioIo::new(Box::pin(stream))
}

/// The places for connections.
struct Room {
    lasting: Arc<Semaphore>,
    spare: Arc<Semaphore>,
}

/// A place, until it is dropped.
struct Place {
    spare: bool,
    _permit: OwnedSemaphorePermit,
}

impl Room {
    fn new(lasting: usize) -> Self {
        Self {
            lasting: Arc::new(Semaphore::new(lasting)),
            spare: Arc::new(Semaphore::new(SPARE)),
        }
    }

    /// Waits for a place; a spare one is the second choice.
    async fn take(&self) -> Place {
        let of = |places: &Arc<Semaphore>| Arc::clone(places).acquire_owned();
        let (spare, permit) = tokio::select! {
            biased;
            permit = of(&self.lasting) => (false, permit),
            permit = of(&self.spare) => (true, permit),
        };
        Place {
            spare,
            _permit: permit.expect("nobody closes the places"),
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
