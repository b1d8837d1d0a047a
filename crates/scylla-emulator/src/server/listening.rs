//! The listeners of the nodes and the connections that they accepted.
//!
//! Invariants
//! 1. A node that has stopped has neither a listener nor a connection.
//! 2. Connections get [`STOP_GRACE`] to finish what they are doing; then they are cut.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::shared::Shared;
use super::{MAX_CONNECTIONS, STOP_GRACE, connection};

/// The tasks of a node that listens.
#[derive(Debug)]
pub(super) struct Listening {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Listening {
    /// Accepts connections to the node with this index.
    pub(super) fn start(shared: &Arc<Shared>, node: usize, listener: TcpListener) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(Arc::clone(shared), node, listener, stopped));
        Self { stop, tasks }
    }

    /// Asks listener and connections to end.
    pub(super) fn ask_to_stop(&self) {
        let _ = self.stop.send(true);
    }

    /// Ends listener and connections.
    pub(super) async fn stop(mut self) {
        self.ask_to_stop();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_GRACE, ended).await.is_err() {
            self.tasks.shutdown().await;
        }
    }
}

async fn accept(
    shared: Arc<Shared>,
    node: usize,
    listener: TcpListener,
    mut stop: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.changed() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) if connections.len() < MAX_CONNECTIONS => {
                let connection = open(Arc::clone(&shared), node, stream, peer, stop.clone());
                connections.spawn(connection);
            }
            Ok((_, peer)) => {
                tracing::warn!(%peer, MAX_CONNECTIONS, "refused a connection: too many are open");
            }
            // Out of file descriptors, for example: go on when connections have been closed.
            Err(error) => {
                tracing::warn!(%error, "accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Shakes hands, with TLS, and serves the connection.
async fn open(
    shared: Arc<Shared>,
    node: usize,
    stream: TcpStream,
    peer: SocketAddr,
    stop: watch::Receiver<bool>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "set TCP_NODELAY");
    }
    #[cfg(feature = "tls")]
    if let Some(tls) = shared.tls.clone() {
        let mut stopped = stop.clone();
        let shaken = tokio::select! {
            biased;
            _ = stopped.changed() => return,
            shaken = tokio::time::timeout(super::MAX_HANDSHAKE, tls.accept(stream)) => shaken,
        };
        match shaken {
            Ok(Ok(stream)) => connection::serve(shared, node, stream, peer, stop).await,
            Ok(Err(error)) => tracing::debug!(%peer, %error, "shake hands"),
            Err(_) => tracing::debug!(%peer, "shake hands: the client takes too long"),
        }
        return;
    }
    connection::serve(shared, node, stream, peer, stop).await;
}
