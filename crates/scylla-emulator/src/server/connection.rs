//! One connection: reads frames, executes them in order, writes the answers.
//!
//! Requests of one connection are executed one after the other, as they arrive, except those that a fault delays;
//! answers are flushed when no complete request is left to execute.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::faults::{Effect, Seen};
use super::shared::Shared;
use crate::engine::{
    BatchParams, BatchStatement, BindValue, BindValues, Outcome, Prepared, StatementSource,
};
use crate::error::{Error, ErrorCode};
use crate::protocol::event::Event;
use crate::protocol::frame::{self, Decoded, Frame};
use crate::protocol::request::{self, Request};
use crate::protocol::response::{self, Response};
use crate::system;

/// Answers are flushed once this many bytes have gathered, even when more requests wait.
const FLUSH_BYTES: usize = 1024 * 1024;

/// Buffers that have grown beyond this are given back after use.
const KEEP_BYTES: usize = 256 * 1024;

const AUTHENTICATOR: &str = "org.apache.cassandra.auth.PasswordAuthenticator";

/// Serves a connection until the client goes or `stop` fires.
pub(super) async fn serve(
    server: Arc<Shared>,
    node: usize,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: SocketAddr,
    mut stop: watch::Receiver<bool>,
) {
    let shard = server.clients.enter(peer, node, server.topology.shards);
    let _leave = Leave {
        server: &server,
        peer,
    };
    let mut session = Session::new(&server, node, shard, peer);
    let mut input = BytesMut::with_capacity(16 * 1024);
    let mut output = BytesMut::with_capacity(16 * 1024);
    loop {
        let open = session.answer_all(&mut input, &mut output);
        if !output.is_empty() {
            if stream.write_all(&output).await.is_err() || stream.flush().await.is_err() {
                return;
            }
            reset(&mut output);
        }
        match open {
            Step::Wait => {}
            Step::Again => continue,
            Step::Close => return,
        }
        let due = session.delayed.iter().map(|delayed| delayed.due).min();
        tokio::select! {
            biased;
            _ = stop.changed() => return,
            event = session.events.recv(), if !session.registered.is_empty() => match event {
                Ok(event) => session.push(&event, &mut output),
                Err(RecvError::Lagged(missed)) => tracing::debug!(%peer, missed, "events missed"),
                Err(RecvError::Closed) => return,
            },
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                session.answer_due(&mut output);
            }
            read = stream.read_buf(&mut input) => match read {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            },
        }
    }
}

fn reset(buffer: &mut BytesMut) {
    if buffer.capacity() > KEEP_BYTES {
        *buffer = BytesMut::with_capacity(16 * 1024);
    } else {
        buffer.clear();
    }
}

/// Takes the client off the list when the connection ends, however it ends.
struct Leave<'a> {
    server: &'a Shared,
    peer: SocketAddr,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.server.clients.leave(self.peer);
    }
}

/// What to do after the answers have been flushed.
enum Step {
    /// Wait for more input.
    Wait,
    /// More requests are waiting already.
    Again,
    Close,
}

/// How far a client has come with its greeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    New,
    Authenticating,
    Ready,
}

struct Session<'a> {
    server: &'a Shared,
    node: usize,
    shard: u16,
    peer: SocketAddr,
    stage: Stage,
    version: u8,
    keyspace: Option<String>,
    registered: BTreeSet<String>,
    events: broadcast::Receiver<Event>,
    delayed: Vec<Delayed>,
}

/// A request that is executed later.
struct Delayed {
    due: Instant,
    version: u8,
    stream: i16,
    request: Request,
}

/// What a request is answered with, owned.
enum Answer {
    Ready,
    Authenticate,
    AuthSuccess,
    Supported,
    Outcome {
        outcome: Outcome,
        skip_metadata: bool,
    },
    Prepared(Arc<Prepared>),
}

fn bytes(value: &BindValue) -> Option<&[u8]> {
    match value {
        BindValue::Bytes(bytes) => Some(bytes),
        BindValue::Null | BindValue::Unset => None,
    }
}

fn bytes_of(values: &BindValues) -> Vec<&[u8]> {
    match values {
        BindValues::Positional(values) => values.iter().filter_map(bytes).collect(),
        BindValues::Named(values) => values.iter().filter_map(|(_, v)| bytes(v)).collect(),
    }
}

/// The id of the (first) prepared statement of a request.
fn prepared_id(request: &Request) -> Option<&Bytes> {
    match request {
        Request::Execute { id, .. } => Some(id),
        Request::Batch(batch) => batch.statements.iter().find_map(|(statement, _)| {
            let request::BatchStatement::Prepared(id) = statement else {
                return None;
            };
            Some(id)
        }),
        Request::Options
        | Request::Startup(_)
        | Request::AuthResponse(_)
        | Request::Register(_)
        | Request::Query { .. }
        | Request::Prepare { .. } => None,
    }
}

impl<'a> Session<'a> {
    fn new(server: &'a Shared, node: usize, shard: u16, peer: SocketAddr) -> Self {
        Self {
            server,
            node,
            shard,
            peer,
            stage: Stage::New,
            version: *frame::VERSIONS.end(),
            keyspace: None,
            registered: BTreeSet::new(),
            events: server.subscribe(),
            delayed: Vec::new(),
        }
    }

    fn answer_all(&mut self, input: &mut BytesMut, output: &mut BytesMut) -> Step {
        while output.len() < FLUSH_BYTES {
            match frame::decode(input) {
                Decoded::Incomplete => return Step::Wait,
                Decoded::Frame(frame) => {
                    if !self.answer(frame, output) {
                        return Step::Close;
                    }
                }
                Decoded::Refused {
                    version,
                    stream,
                    error,
                } => {
                    Response::Error(&error).encode(output, version, stream);
                }
                Decoded::Broken {
                    version,
                    stream,
                    error,
                } => {
                    Response::Error(&error).encode(output, version, stream);
                    return Step::Close;
                }
            }
        }
        Step::Again
    }

    /// Answers a request, or does what a fault says; says whether the connection goes on.
    fn answer(&mut self, frame: Frame, output: &mut BytesMut) -> bool {
        let (version, stream) = (frame.version, frame.stream);
        self.version = version;
        let request = match Request::parse(frame) {
            Ok(request) => request,
            Err(error) => {
                Response::Error(&error).encode(output, version, stream);
                return true;
            }
        };
        match self.fault(&request) {
            None => self.respond(request, version, stream, output),
            Some(Effect::Fail(error)) => Response::Error(&error).encode(output, version, stream),
            Some(Effect::FailAfter(error)) => {
                let _ = system::on_node(self.node, || self.execute(request));
                Response::Error(&error).encode(output, version, stream);
            }
            Some(Effect::Unprepared) => match prepared_id(&request) {
                Some(id) => {
                    let error = Error::unprepared(id.clone());
                    Response::Error(&error).encode(output, version, stream);
                }
                None => self.respond(request, version, stream, output),
            },
            Some(Effect::Delay(by)) => self.delayed.push(Delayed {
                due: Instant::now() + by,
                version,
                stream,
                request,
            }),
            Some(Effect::Silence) => {}
            Some(Effect::Truncate) => {
                let whole = output.len();
                self.respond(request, version, stream, output);
                output.truncate(whole + (output.len() - whole) / 2);
                return false;
            }
            Some(Effect::Disconnect) => return false,
        }
        true
    }

    fn fault(&self, request: &Request) -> Option<Effect> {
        let faults = &self.server.faults;
        if !faults.any() {
            return None;
        }
        let prepared = |id| self.server.prepared(id).ok();
        match request {
            Request::Query { cql, parameters } => faults.meet(&Seen {
                texts: vec![cql.as_str()],
                values: bytes_of(&parameters.execute.values),
            }),
            Request::Execute { id, parameters } => {
                let prepared = prepared(id)?;
                faults.meet(&Seen {
                    texts: vec![prepared.cql.as_str()],
                    values: bytes_of(&parameters.execute.values),
                })
            }
            Request::Batch(batch) => {
                let known: Vec<_> = batch
                    .statements
                    .iter()
                    .filter_map(|(statement, _)| match statement {
                        request::BatchStatement::Query(_) => None,
                        request::BatchStatement::Prepared(id) => prepared(id),
                    })
                    .collect();
                let texts = batch.statements.iter().filter_map(|(statement, _)| {
                    let request::BatchStatement::Query(cql) = statement else {
                        return None;
                    };
                    Some(cql.as_str())
                });
                let texts = texts.chain(known.iter().map(|prepared| prepared.cql.as_str()));
                let values = batch.statements.iter().flat_map(|(_, values)| values);
                faults.meet(&Seen {
                    texts: texts.collect(),
                    values: values.filter_map(bytes).collect(),
                })
            }
            Request::Options
            | Request::Startup(_)
            | Request::AuthResponse(_)
            | Request::Register(_)
            | Request::Prepare { .. } => None,
        }
    }

    fn answer_due(&mut self, output: &mut BytesMut) {
        let now = Instant::now();
        while let Some(at) = self.delayed.iter().position(|delayed| delayed.due <= now) {
            let delayed = self.delayed.remove(at);
            self.respond(delayed.request, delayed.version, delayed.stream, output);
        }
    }

    fn respond(&mut self, request: Request, version: u8, stream: i16, output: &mut BytesMut) {
        let answer = system::on_node(self.node, || self.execute(request));
        let supported;
        let response = match &answer {
            Err(error) => Response::Error(error),
            Ok(Answer::Ready) => Response::Ready,
            Ok(Answer::Authenticate) => Response::Authenticate(AUTHENTICATOR),
            Ok(Answer::AuthSuccess) => Response::AuthSuccess,
            Ok(Answer::Supported) => {
                supported = response::supported(self.shard, self.server.topology.shards);
                Response::Supported(&supported)
            }
            Ok(Answer::Outcome {
                outcome,
                skip_metadata,
            }) => Response::Outcome {
                outcome,
                skip_metadata: *skip_metadata,
            },
            Ok(Answer::Prepared(prepared)) => Response::Prepared(prepared),
        };
        response.encode(output, version, stream);
    }

    fn push(&self, event: &Event, output: &mut BytesMut) {
        if self.registered.contains(event.kind()) {
            event.encode(output, self.version);
        }
    }

    fn execute(&mut self, request: Request) -> Result<Answer, Error> {
        match request {
            Request::Options => return Ok(Answer::Supported),
            Request::Startup(options) => return self.startup(options),
            Request::AuthResponse(token) => return self.authenticate(token.as_deref()),
            _ if self.stage != Stage::Ready => {
                return Err(Error::protocol("Expected STARTUP before any other request"));
            }
            Request::Register(kinds) => {
                self.registered.extend(kinds);
                return Ok(Answer::Ready);
            }
            Request::Prepare { cql } => {
                let prepared = self.server.prepare(&cql, self.keyspace.as_deref())?;
                return Ok(Answer::Prepared(prepared));
            }
            _ => {}
        }
        let (outcome, skip_metadata) = self.statement(request)?;
        if let Outcome::SetKeyspace(keyspace) = &outcome {
            self.keyspace = Some(keyspace.clone());
        }
        self.server.announce(&outcome);
        Ok(Answer::Outcome {
            outcome,
            skip_metadata,
        })
    }

    fn statement(&self, request: Request) -> Result<(Outcome, bool), Error> {
        let engine = &self.server.engine;
        let keyspace = self.keyspace.as_deref();
        match request {
            Request::Query { cql, parameters } => {
                Ok((engine.query(&cql, keyspace, &parameters.execute)?, false))
            }
            Request::Execute { id, parameters } => {
                let prepared = self.server.prepared(&id)?;
                let outcome = engine.execute(&prepared, &parameters.execute)?;
                let skip = parameters.skip_metadata
                    && matches!(&outcome, Outcome::Rows(rows) if rows.columns[..] == prepared.result[..]);
                Ok((outcome, skip))
            }
            Request::Batch(batch) => {
                let statement = |(statement, values)| {
                    let source = match statement {
                        request::BatchStatement::Query(cql) => StatementSource::Text(cql),
                        request::BatchStatement::Prepared(id) => {
                            StatementSource::Prepared(self.server.prepared(&id)?)
                        }
                    };
                    let values = BindValues::Positional(values);
                    Ok(BatchStatement { source, values })
                };
                let statements = batch
                    .statements
                    .into_iter()
                    .map(statement)
                    .collect::<Result<Vec<_>, Error>>()?;
                let params = BatchParams {
                    default_timestamp: batch.timestamp,
                    consistency: batch.consistency,
                    serial_consistency: batch.serial_consistency,
                };
                Ok((
                    engine.execute_batch(batch.kind, &statements, keyspace, &params)?,
                    false,
                ))
            }
            Request::Options
            | Request::Startup(_)
            | Request::AuthResponse(_)
            | Request::Register(_)
            | Request::Prepare { .. } => Err(Error::server("Not a statement")),
        }
    }

    fn startup(&mut self, options: Vec<(String, String)>) -> Result<Answer, Error> {
        if self.stage != Stage::New {
            return Err(Error::protocol(
                "Unexpected message STARTUP, the connection is started",
            ));
        }
        if let Some((_, algorithm)) = options.iter().find(|(name, _)| name == "COMPRESSION") {
            return Err(Error::protocol(format!(
                "Unknown compression algorithm: {algorithm}"
            )));
        }
        if !options.iter().any(|(name, _)| name == "CQL_VERSION") {
            return Err(Error::protocol(
                "Missing value CQL_VERSION in STARTUP message",
            ));
        }
        let version = self.version;
        self.server.clients.update(self.peer, |client| {
            client.version = version;
            for (name, value) in options {
                match name.as_str() {
                    "DRIVER_NAME" => client.driver_name = Some(value),
                    "DRIVER_VERSION" => client.driver_version = Some(value),
                    _ => {}
                }
            }
        });
        if self.server.credentials.is_some() {
            self.stage = Stage::Authenticating;
            return Ok(Answer::Authenticate);
        }
        self.ready("anonymous");
        Ok(Answer::Ready)
    }

    fn ready(&mut self, user: &str) {
        self.stage = Stage::Ready;
        self.server.clients.update(self.peer, |client| {
            client.ready = true;
            user.clone_into(&mut client.username);
        });
    }

    /// SASL PLAIN: an empty authorisation id, the name and the password, each after a zero byte.
    fn authenticate(&mut self, token: Option<&[u8]>) -> Result<Answer, Error> {
        let (Stage::Authenticating, Some((user, password))) =
            (self.stage, self.server.credentials.as_ref())
        else {
            return Err(Error::protocol("Unexpected message AUTH_RESPONSE"));
        };
        let mut parts = token.unwrap_or_default().split(|byte| *byte == 0).skip(1);
        let given = (parts.next(), parts.next());
        if given != (Some(user.as_bytes()), Some(password.as_bytes())) {
            return Err(Error::new(
                ErrorCode::BadCredentials,
                "Username and/or password are incorrect",
            ));
        }
        self.ready(user);
        Ok(Answer::AuthSuccess)
    }
}
