#![doc = include_str!("control.md")]

mod command;

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use self::command::{Command, Registry};
use super::Emulator;

/// Longest line, in bytes, without the line break.
pub const MAX_LINE: usize = 64 * 1024;

/// Most connections at a time; further ones are closed at once.
pub const MAX_CONTROLS: usize = 16;

/// Why there is no control port.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Whoever reaches the port rules the server, and there is no login.
    #[error("the control port must be on a loopback address, not on {0}")]
    NotLoopback(SocketAddr),
    /// The address cannot be listened on.
    #[error("listen on {address} for control")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// A control port. Dropping it closes it.
#[derive(Debug)]
pub struct Control {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Control {
    /// Opens a control port for an emulator, on a loopback address; port 0 takes a free one.
    pub async fn start(emulator: Arc<Emulator>, address: SocketAddr) -> Result<Self, ControlError> {
        if !address.ip().is_loopback() {
            return Err(ControlError::NotLoopback(address));
        }
        let fail = |source| ControlError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(emulator, listener));
        Ok(Self {
            address,
            _tasks: tasks,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn accept(emulator: Arc<Emulator>, listener: TcpListener) {
    let registry = Arc::new(Registry::default());
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) if connections.len() < MAX_CONTROLS => {
                connections.spawn(serve(Arc::clone(&emulator), Arc::clone(&registry), stream));
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "accept a control connection");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve(emulator: Arc<Emulator>, registry: Arc<Registry>, stream: TcpStream) {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = (&mut read).take(MAX_LINE as u64 + 1);
        match limited.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let is_whole = line.last() == Some(&b'\n');
        if !is_whole && line.len() > MAX_LINE {
            let error = format!("a line has {MAX_LINE} bytes at most");
            let _ = write.write_all(&answer(Err(error))).await;
            return;
        }
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        let result = match serde_json::from_slice::<Command>(text) {
            Ok(command) => command.run(&emulator, &registry).await,
            Err(error) => Err(error.to_string()),
        };
        if write.write_all(&answer(result)).await.is_err() {
            return;
        }
    }
}

/// The line that answers a command.
fn answer(result: Result<Map<String, Value>, String>) -> Vec<u8> {
    let mut fields = Map::new();
    fields.insert("ok".to_owned(), json!(result.is_ok()));
    match result {
        Ok(more) => fields.extend(more),
        Err(error) => {
            fields.insert("error".to_owned(), json!(error));
        }
    }
    let mut line = Value::Object(fields).to_string().into_bytes();
    line.push(b'\n');
    line
}
