//! A small HTTP/1.1 client for the relay's own server: one request, one connection.
//!
//! Invariants:
//!
//! 1. A request ends within the client's patience, connecting included.
//! 2. An answer is bounded: a body of more than [`LONGEST_BODY`] bytes is an error.
//!
//! It speaks no TLS and follows no redirect: the relay's server does neither.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::Config;

/// Bytes of an answer's body at most: a relay with a hundred tables has some kilobytes.
pub const LONGEST_BODY: usize = 16 << 20;
/// Where a relay serves HTTP unless its configuration says otherwise.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is none.
    #[error("{url} is no address of a relay: {reason}")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Nobody listens there.
    #[error("connect to {0}")]
    Connect(String, #[source] io::Error),
    /// The connection broke, or what came was no HTTP.
    #[error("ask {0}")]
    Exchange(String, #[source] hyper::Error),
    /// The body broke off, or is too long.
    #[error("read the answer of {0}")]
    Body(String, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// No answer came in time.
    #[error("{0} does not answer within {1:?}")]
    Timeout(String, Duration),
    /// The answer is not what was asked for.
    #[error("{to} answers {path} with {status}: {text}")]
    Status {
        /// Who was asked.
        to: String,
        /// For what.
        path: String,
        /// The status.
        status: StatusCode,
        /// The first line of the body.
        text: String,
    },
    /// The answer has another form.
    #[error("{to} answers {path} in an unknown form; is it a relay of this version?")]
    Form {
        /// Who was asked.
        to: String,
        /// For what.
        path: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The first line of the body, for a person.
    pub fn line(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        let line = text.lines().next().unwrap_or_default();
        line.chars().filter(|c| !c.is_control()).take(300).collect()
    }
}

/// Asks one relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// `host:port`.
    authority: String,
    /// What stands before each path; empty, or `/…` without a slash at its end.
    prefix: String,
    patience: Duration,
}

impl Client {
    /// A client of the relay at `url`, such as `http://127.0.0.1:9464`.
    ///
    /// # Errors
    ///
    /// When the address is none.
    pub fn new(url: &str, patience: Duration) -> Result<Self, Error> {
        let wrong = |reason| Error::Url {
            url: url.to_owned(),
            reason,
        };
        let whole = if url.contains("://") {
            url.to_owned()
        } else {
            format!("http://{url}")
        };
        let uri: Uri = whole.parse().map_err(|_| wrong("it cannot be read"))?;
        if uri.scheme_str() != Some("http") {
            return Err(wrong("it does not begin with http://"));
        }
        let authority = uri.authority().ok_or_else(|| wrong("it has no host"))?;
        if authority.host().is_empty() || authority.as_str().contains('@') {
            return Err(wrong("it has no plain host"));
        }
        if uri.query().is_some() {
            return Err(wrong("it has a query"));
        }
        let port = authority.port_u16().unwrap_or(80);
        Ok(Self {
            authority: format!("{}:{port}", authority.host()),
            prefix: uri.path().trim_end_matches('/').to_owned(),
            patience,
        })
    }

    /// A client of the relay that `config` describes; `None` if that relay serves no HTTP.
    pub fn of(config: &Config, patience: Duration) -> Option<Self> {
        listen(config).map(|listen| Self {
            authority: reachable(listen).to_string(),
            prefix: String::new(),
            patience,
        })
    }

    /// Who is asked, for messages.
    pub fn name(&self) -> String {
        format!("http://{}{}", self.authority, self.prefix)
    }

    /// Asks for a path, such as `/livez`; whatever the status is.
    ///
    /// # Errors
    ///
    /// When no answer comes, or one that is no HTTP.
    pub async fn get(&self, path: &str) -> Result<Answer, Error> {
        timeout(self.patience, self.exchange(path))
            .await
            .unwrap_or_else(|_| Err(Error::Timeout(self.name(), self.patience)))
    }

    /// Asks for a document.
    ///
    /// # Errors
    ///
    /// When no answer comes, or one with another status than 200, or one of another form.
    pub async fn document<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let answer = self.get(path).await?;
        if answer.status != StatusCode::OK {
            return Err(Error::Status {
                to: self.name(),
                path: path.to_owned(),
                status: answer.status,
                text: answer.line(),
            });
        }
        serde_json::from_slice(&answer.body).map_err(|source| Error::Form {
            to: self.name(),
            path: path.to_owned(),
            source,
        })
    }

    async fn exchange(&self, path: &str) -> Result<Answer, Error> {
        let broken = |error| Error::Exchange(self.name(), error);
        let stream = TcpStream::connect(self.authority.as_str()).await;
        let stream = stream.map_err(|error| Error::Connect(self.authority.clone(), error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let request = Request::builder()
            .method(Method::GET)
            .uri(format!("{}{path}", self.prefix))
            .header(header::HOST, &self.authority)
            .header(header::CONNECTION, "close")
            .header(header::ACCEPT, "application/json, text/plain")
            .body(Full::<Bytes>::default())
            .map_err(|_| Error::Url {
                url: format!("{}{path}", self.name()),
                reason: "it cannot be read",
            })?;
        let answer = async move {
            let response = sender.send_request(request).await.map_err(broken)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LONGEST_BODY).collect();
            let body = body
                .await
                .map_err(|error| Error::Body(self.name(), error))?;
            let body = body.to_bytes();
            Ok(Answer { status, body })
        };
        // The connection is driven until the answer is there; it may end before that, with the answer
        // on its way.
        match select(pin!(answer), pin!(connection)).await {
            Either::Left((answer, _)) => answer,
            Either::Right((_, answer)) => answer.await,
        }
    }
}

/// Where the relay of this configuration listens (`http.listen`); `None` if it does not.
pub(in crate::cli) fn listen(config: &Config) -> Option<SocketAddr> {
    config.http.listen
}

/// An address at which a server that listens on all of them can be reached from its host.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::*;

    const PATIENCE: Duration = Duration::from_mins(1);

    /// A server that gives one connection this answer; `None` is silence.
    async fn server(answer: Option<String>) -> (String, JoinSet<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut task = JoinSet::new();
        task.spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                let byte = stream.read_u8().await.expect("a request");
                asked.push(byte);
            }
            match answer {
                Some(answer) => {
                    // A client that has heard enough may be gone.
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
                None => std::future::pending().await,
            }
            String::from_utf8(asked).expect("text")
        });
        (format!("http://{address}"), task)
    }

    fn ok(body: &str) -> String {
        let length = body.len();
        format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}")
    }

    #[tokio::test]
    async fn a_document_is_asked_for_and_read() {
        let (url, mut asked) = server(Some(ok("{\"n\": 7}"))).await;
        let client = Client::new(&format!("{url}/relay/"), PATIENCE).expect("an address");
        let document: serde_json::Value = client.document("/api/status").await.expect("one");
        assert_eq!(document["n"], 7);
        let asked = asked.join_next().await.expect("a task").expect("its end");
        assert!(
            asked.starts_with("GET /relay/api/status HTTP/1.1\r\n"),
            "{asked}"
        );
        let host = url.trim_start_matches("http://");
        assert!(asked.contains(&format!("host: {host}\r\n")), "{asked}");
    }

    #[tokio::test]
    async fn an_answer_may_end_with_its_connection() {
        let (url, _asked) = server(Some("HTTP/1.1 503 No\r\n\r\nnot ready\n".to_owned())).await;
        let client = Client::new(&url, PATIENCE).expect("an address");
        let answer = client.get("/readyz").await.expect("an answer");
        assert_eq!(
            (answer.status.as_u16(), &*answer.line()),
            (503, "not ready")
        );
    }

    #[tokio::test]
    async fn what_is_no_answer_is_an_error_with_its_reason() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let nobody = listener.local_addr().expect("an address");
        drop(listener);
        let client = Client::new(&nobody.to_string(), PATIENCE).expect("an address");
        assert!(matches!(client.get("/").await, Err(Error::Connect(..))));

        let (url, _asked) = server(Some("+OK hello\r\n".to_owned())).await;
        let client = Client::new(&url, PATIENCE).expect("an address");
        assert!(matches!(client.get("/").await, Err(Error::Exchange(..))));

        let (url, _asked) = server(Some(
            "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\ncut".to_owned(),
        ))
        .await;
        let client = Client::new(&url, PATIENCE).expect("an address");
        assert!(matches!(client.get("/").await, Err(Error::Body(..))));

        let (url, _asked) = server(Some(ok(&"x".repeat(LONGEST_BODY + 1)))).await;
        let client = Client::new(&url, PATIENCE).expect("an address");
        assert!(matches!(client.get("/").await, Err(Error::Body(..))));

        let (url, _asked) = server(Some(ok("no JSON"))).await;
        let client = Client::new(&url, PATIENCE).expect("an address");
        let document = client.document::<serde_json::Value>("/").await;
        assert!(matches!(document, Err(Error::Form { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_given_up() {
        let (url, _asked) = server(None).await;
        let client = Client::new(&url, Duration::from_secs(3)).expect("an address");
        let answer = client.get("/livez").await;
        assert!(matches!(answer, Err(Error::Timeout(..))), "{answer:?}");
    }

    #[test]
    fn addresses_are_checked() {
        let new = |url: &str| Client::new(url, PATIENCE).map(|client| client.name());
        for (url, name) in [
            ("http://127.0.0.1:9464", "http://127.0.0.1:9464"),
            ("relay.internal:80/", "http://relay.internal:80"),
            ("http://relay", "http://relay:80"),
            ("http://[::1]:9464/a/b/", "http://[::1]:9464/a/b"),
        ] {
            assert_eq!(new(url).expect(url), name);
        }
        for url in [
            "https://relay",
            "http://",
            "http://a b",
            "http://me:secret@relay",
            "http://relay/?x=1",
        ] {
            assert!(matches!(new(url), Err(Error::Url { .. })), "{url}");
        }
    }

    #[test]
    fn a_server_on_all_addresses_is_asked_at_the_loopback_one() {
        for (listen, at) in [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:2", "[::1]:2"),
            ("10.0.0.1:3", "10.0.0.1:3"),
        ] {
            let listen: SocketAddr = listen.parse().expect("an address");
            assert_eq!(reachable(listen).to_string(), at);
        }
    }
}
