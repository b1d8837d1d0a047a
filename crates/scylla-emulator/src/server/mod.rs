//! The server: listeners, connections, and the handle that a test or a program holds.
//!
//! Invariants
//! 1. Every task belongs to the [`Emulator`]: when it is dropped or stopped, listeners and connections end.
//! 2. The data live in the handle, not in the listeners: [`Emulator::stop_listening`] followed by
//!    [`Emulator::start_listening`] is a restart that keeps them, on the same address.
//! 3. Connections, prepared statements and frames are bounded by the constants in this module and in `protocol`.

mod connection;
pub mod control;
pub mod faults;
mod listening;
mod shared;
mod streams;
#[cfg(feature = "tls")]
mod tls;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Mutex;

use self::faults::Faults;
use self::listening::Listening;
pub(crate) use self::shared::Clients;
use self::shared::Shared;
pub use self::streams::GENERATION_DELAY;
#[cfg(feature = "tls")]
pub use self::tls::{Tls, TlsError};
use crate::cdc::CdcLog;
use crate::cluster::clock::ClockHandle;
use crate::cluster::{Layout, Topology};
use crate::engine::{Engine, EngineConfig, ExecuteParams, Outcome};
use crate::error::Error;
use crate::protocol::event::Event;
use crate::system::{self, SystemTables};
use crate::visibility::Visibility;

/// Most connections at a time; further ones are closed at once.
pub const MAX_CONNECTIONS: usize = 4_096;

/// Most prepared statements kept; when one more comes, all are forgotten and drivers prepare again.
pub const MAX_PREPARED: usize = 20_000;

/// How long a client's handshake may take, with TLS.
#[cfg(feature = "tls")]
pub const MAX_HANDSHAKE: Duration = Duration::from_secs(10);

/// How long [`Emulator::stop_listening`] lets connections finish what they are doing.
pub const STOP_GRACE: Duration = Duration::from_secs(2);

/// Why the emulator did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// Why a node was neither stopped nor started.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// There is no node with this index.
    #[error("there is no node {node}: the nodes are 0 to {last}")]
    Unknown {
        /// The index.
        node: usize,
        /// The last node's index.
        last: usize,
    },
    /// It cannot listen again.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// How an [`Emulator`] is set up.
#[derive(Debug, Clone)]
pub struct Builder {
    listen: SocketAddr,
    layout: Layout,
    clock: ClockHandle,
    credentials: Option<(String, String)>,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            layout: Layout::default(),
            clock: ClockHandle::new(),
            credentials: None,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

impl Builder {
    /// Where to listen; `127.0.0.1:0` (a free port) unless said otherwise. With several nodes, node n listens on the
    /// same port of this address plus n.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = address;
        self
    }

    /// Number of nodes; 1 unless said otherwise. All nodes answer from the same data.
    #[must_use]
    pub fn nodes(mut self, nodes: u16) -> Self {
        self.layout.nodes = nodes.max(1);
        self
    }

    /// Vnodes of each node; 4 unless said otherwise.
    #[must_use]
    pub fn vnodes(mut self, vnodes: u16) -> Self {
        self.layout.vnodes = vnodes.max(1);
        self
    }

    /// Shards of each node, which is also the number of streams of a vnode; 2 unless said otherwise.
    #[must_use]
    pub fn shards(mut self, shards: u16) -> Self {
        self.layout.shards = shards.max(1);
        self
    }

    /// Fixes tokens, host ids, stream ids and the random bits of uuids; 1 unless said otherwise.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.layout.seed = seed;
        self
    }

    /// The clock to go by; real time unless said otherwise.
    #[must_use]
    pub fn clock(mut self, clock: ClockHandle) -> Self {
        self.clock = clock;
        self
    }

    /// How long before the start the first CDC generation began; ten minutes unless said otherwise. Writes with older
    /// timestamps to a table with CDC are refused.
    #[must_use]
    pub fn first_generation_age(mut self, age: Duration) -> Self {
        self.layout.first_generation_age_ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        self
    }

    /// Requires clients to log in with this name and password; no login unless said otherwise.
    #[must_use]
    pub fn credentials(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.credentials = Some((user.into(), password.into()));
        self
    }

    /// Takes encrypted connections only; plain text only unless said otherwise.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Starts the emulator inside the current Tokio runtime.
    pub async fn start(self) -> Result<Emulator, StartError> {
        let first = bind(self.listen).await?;
        let address = first.local_addr().map_err(|source| StartError::Listen {
            address: self.listen,
            source,
        })?;
        let topology = Arc::new(Topology::new(
            &self.layout,
            advertised(address.ip()),
            self.clock,
        ));
        let clients = Arc::new(Clients::default());
        let visibility = Arc::new(Visibility::default());
        let engine = Engine::new(EngineConfig {
            clock: Arc::new(topology.clock().clone()),
            random: Arc::clone(&topology) as _,
            partitioner: Arc::clone(&topology) as _,
            cdc: Arc::new(CdcLog::new(Arc::clone(&topology))),
            virtual_tables: Arc::new(SystemTables::new(
                Arc::clone(&topology),
                Arc::clone(&clients),
            )),
            visibility: Arc::clone(&visibility),
            keyspaces: system::keyspaces(),
        });
        let shared = Shared::new(engine, topology, clients, self.credentials);
        #[cfg(feature = "tls")]
        let shared = shared.with_tls(self.tls);
        let shared = Arc::new(shared);
        let emulator = Emulator {
            shared,
            visibility,
            address,
            listening: Mutex::default(),
        };
        {
            let mut listening = emulator.listening.lock().await;
            listening.push(Some(Listening::start(&emulator.shared, 0, first)));
            listening.resize_with(emulator.shared.topology.nodes.len(), || None);
            emulator.start_all(&mut listening).await?;
        }
        Ok(emulator)
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| StartError::Listen { address, source })
}

/// The address that clients are told when the server listens on every address.
fn advertised(address: IpAddr) -> IpAddr {
    if address.is_unspecified() {
        Ipv4Addr::LOCALHOST.into()
    } else {
        address
    }
}

/// A running emulator. Dropping it stops it.
#[derive(Debug)]
pub struct Emulator {
    shared: Arc<Shared>,
    visibility: Arc<Visibility>,
    address: SocketAddr,
    /// Per node; `None` when it is down.
    listening: Mutex<Vec<Option<Listening>>>,
}

impl Emulator {
    /// Sets up an emulator.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Starts an emulator with default settings on a free port.
    pub async fn start() -> Result<Self, StartError> {
        Self::builder().start().await
    }

    /// The address of the first node.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The emulator's clock, to read, set and advance.
    pub fn clock(&self) -> &ClockHandle {
        self.shared.topology.clock()
    }

    /// Nodes, ring and CDC generations.
    pub fn topology(&self) -> &Arc<Topology> {
        &self.shared.topology
    }

    /// The database itself.
    pub fn engine(&self) -> &Engine {
        &self.shared.engine
    }

    /// What goes wrong on purpose.
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// Which log rows readers see late.
    pub fn visibility(&self) -> &Visibility {
        &self.visibility
    }

    /// Executes a statement without a connection. Clients that registered for schema changes are told of them.
    pub fn execute(&self, cql: &str) -> Result<Outcome, Error> {
        self.execute_on(0, cql)
    }

    /// Executes a statement as the node with this index would.
    pub fn execute_on(&self, node: usize, cql: &str) -> Result<Outcome, Error> {
        let engine = &self.shared.engine;
        let outcome = system::on_node(node, || engine.query(cql, None, &ExecuteParams::default()))?;
        self.shared.announce(&outcome);
        Ok(outcome)
    }

    /// Closes the listeners and all connections; the data stay. Does nothing when already stopped.
    pub async fn stop_listening(&self) {
        let mut listening = self.listening.lock().await;
        let running: Vec<_> = listening.iter_mut().filter_map(Option::take).collect();
        for node in &running {
            node.ask_to_stop();
        }
        for node in running {
            node.stop().await;
        }
    }

    /// Listens again on the same addresses, on those of all nodes. Does nothing when already listening.
    pub async fn start_listening(&self) -> Result<(), StartError> {
        self.start_all(&mut self.listening.lock().await).await
    }

    /// Takes a node down: closes its listener and its connections, and tells registered clients of the others. The
    /// other nodes serve all data and show the node as a peer as before. Does nothing when it is down.
    pub async fn stop_node(&self, node: usize) -> Result<(), NodeError> {
        let address = self.node_address(node)?;
        let mut listening = self.listening.lock().await;
        if let Some(running) = listening[node].take() {
            running.stop().await;
            self.announce_status(address, false);
        }
        Ok(())
    }

    /// Brings a node back on the same address, and tells registered clients. Does nothing when it is up.
    pub async fn start_node(&self, node: usize) -> Result<(), NodeError> {
        let address = self.node_address(node)?;
        let mut listening = self.listening.lock().await;
        if listening[node].is_none() {
            let listener = bind(self.listen_address(node)).await?;
            listening[node] = Some(Listening::start(&self.shared, node, listener));
            self.announce_status(address, true);
        }
        Ok(())
    }

    /// The address that clients use for a node.
    pub fn node_address(&self, node: usize) -> Result<SocketAddr, NodeError> {
        let nodes = &self.shared.topology.nodes;
        let known = nodes.get(node).ok_or(NodeError::Unknown {
            node,
            last: nodes.len() - 1,
        })?;
        Ok(SocketAddr::new(known.address, self.address.port()))
    }

    /// Which nodes are up.
    pub async fn nodes_up(&self) -> Vec<bool> {
        let listening = self.listening.lock().await;
        listening.iter().map(Option::is_some).collect()
    }

    /// Stops the emulator and forgets its data.
    pub async fn stop(self) {
        self.stop_listening().await;
    }

    /// Tells registered clients that a node is up or down.
    pub fn announce_status(&self, node: SocketAddr, up: bool) {
        self.shared.send_event(Event::Status { up, node });
    }

    async fn start_all(&self, listening: &mut [Option<Listening>]) -> Result<(), StartError> {
        let mut listeners = Vec::new();
        for (node, running) in listening.iter().enumerate() {
            if running.is_none() {
                listeners.push((node, bind(self.listen_address(node)).await?));
            }
        }
        for (node, listener) in listeners {
            listening[node] = Some(Listening::start(&self.shared, node, listener));
        }
        Ok(())
    }

    /// The first node listens where it was told to, which may be every address.
    fn listen_address(&self, node: usize) -> SocketAddr {
        match self.shared.topology.nodes.get(node) {
            Some(known) if node > 0 => SocketAddr::new(known.address, self.address.port()),
            _ => self.address,
        }
    }
}
