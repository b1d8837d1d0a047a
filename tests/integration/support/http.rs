//! A client of the relay's HTTP server: one connection a request.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{free_port, until};

/// What the cases use as the admin token.
pub(crate) const TOKEN: &str = "a-token-of-the-tests-0123456789";

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("{self:?}"))
    }

    /// The value of a header, by its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }
}

/// Where a relay listens.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    address: String,
    token: Option<&'static str>,
}

impl Client {
    /// Of a relay that listens on a free port.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            address: format!("127.0.0.1:{}", free_port()?),
            token: Some(TOKEN),
        })
    }

    /// Without a token, or with another one.
    pub(crate) fn with_token(&self, token: Option<&'static str>) -> Self {
        Self {
            token,
            ..self.clone()
        }
    }

    /// What of the relay's configuration makes it listen there, and patient: nothing of what these
    /// cases look at should rest on a slow machine's timeouts.
    pub(crate) fn configuration(&self) -> String {
        format!(
            "http: {{ listen: \"{}\", admin_token: {TOKEN} }}\n\
             retry: {{ attempt_timeout: 1m }}\nshutdown: {{ drain_timeout: 1m }}\n",
            self.address
        )
    }

    /// Sends a request and takes the whole answer.
    pub(crate) async fn ask(
        &self,
        method: &str,
        path: &str,
        more: &str,
        body: &str,
    ) -> Result<Answer> {
        let mut stream = TcpStream::connect(&self.address).await?;
        let token = self
            .token
            .map(|token| format!("authorization: Bearer {token}\r\n"));
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n{}{more}\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.address,
            token.unwrap_or_default(),
            body.len()
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let answer = String::from_utf8(answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        // Answers are small or have a length; none is sent in chunks.
        ensure!(
            !head.to_ascii_lowercase().contains("transfer-encoding"),
            "{head}"
        );
        Ok(Answer {
            status,
            head: head.to_owned(),
            body: body.to_owned(),
        })
    }

    /// A connection, and nothing more.
    pub(crate) async fn connect(&self) -> Result<TcpStream> {
        Ok(TcpStream::connect(&self.address).await?)
    }

    /// A client that asks for more and more, and never reads an answer.
    pub(crate) async fn deaf(&self) -> Result<TcpStream> {
        let mut stream = self.connect().await?;
        let asks = "GET / HTTP/1.1\r\nhost: a\r\n\r\n".repeat(200);
        let patience = Duration::from_millis(100);
        // The server reads no more once its answers do not leave.
        let _ = tokio::time::timeout(patience, stream.write_all(asks.as_bytes())).await;
        Ok(stream)
    }

    /// Whether a connection takes a second request: one beyond the limit is for one alone.
    pub(crate) async fn lasts(&self) -> Result<bool> {
        let mut stream = self.connect().await?;
        for _ in 0..2 {
            let asked = stream
                .write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n")
                .await;
            let mut answer = [0; 1024];
            let read = match asked {
                Ok(()) => stream.read(&mut answer).await.unwrap_or(0),
                Err(_) => 0,
            };
            if !answer[..read].starts_with(b"HTTP/1.1 200") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sends bytes, and takes what comes until the server closes the connection.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> Result<String> {
        let mut stream = self.connect().await?;
        // The server may close before it has read all, or answered.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Answer> {
        self.ask("GET", path, "", "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Result<Answer> {
        self.ask("POST", path, "", body).await
    }

    /// The JSON of a good answer.
    pub(crate) async fn json(&self, path: &str) -> Result<Value> {
        let answer = self.get(path).await?;
        ensure!(answer.status == 200, "{path}: {answer:?}");
        answer.json()
    }

    /// Waits until the server answers.
    pub(crate) async fn listens(&self) -> Result<()> {
        until("the HTTP server answers", async || {
            Ok(self.get("/livez").await.is_ok())
        })
        .await
    }
}
