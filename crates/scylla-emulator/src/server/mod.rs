//! The server: listeners, connections, and the handle that a test or a program holds.
//!
//! Invariants
//! 1. Every task belongs to the [`Emulator`]: when it is dropped or stopped, listeners and connections end.
//! 2. The data live in the handle, not in the listeners: [`Emulator::stop_listening`] followed by
//!    [`Emulator::start_listening`] is a restart that keeps them, on the same address.
//! 3. Connections, prepared statements and frames are bounded by the constants in this module and in `protocol`.

mod connection;
pub mod faults;
mod shared;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;

use self::faults::Faults;
pub(crate) use self::shared::Clients;
use self::shared::Shared;
use crate::cdc::CdcLog;
use crate::cluster::clock::ClockHandle;
use crate::cluster::generations::Generation;
use crate::cluster::tablets::{Resize, StreamSet, TabletError};
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

/// How long [`Emulator::stop_listening`] lets connections finish what they are doing.
pub const STOP_GRACE: Duration = Duration::from_secs(2);

/// How far ahead of now [`Emulator::new_generation`] makes the new streams valid.
pub const GENERATION_DELAY: Duration = Duration::from_secs(2);

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

/// How an [`Emulator`] is set up.
#[derive(Debug, Clone)]
pub struct Builder {
    listen: SocketAddr,
    layout: Layout,
    clock: ClockHandle,
    credentials: Option<(String, String)>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            layout: Layout::default(),
            clock: ClockHandle::new(),
            credentials: None,
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
        let shared = Arc::new(Shared::new(engine, topology, clients, self.credentials));
        let emulator = Emulator {
            shared,
            visibility,
            address,
            listening: Mutex::new(None),
        };
        let mut listeners = vec![first];
        listeners.extend(emulator.bind_others().await?);
        *emulator.listening.lock().await = Some(Listening::start(&emulator.shared, listeners));
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
    listening: Mutex<Option<Listening>>,
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

    /// Makes new CDC streams that are valid [`GENERATION_DELAY`] from now on.
    pub fn new_generation(&self) -> Arc<Generation> {
        self.new_generation_at(self.next_generation_ms())
    }

    /// Makes new CDC streams that are valid from a time on, in milliseconds since the epoch.
    pub fn new_generation_at(&self, timestamp_ms: i64) -> Arc<Generation> {
        self.shared.topology.new_generation_at(timestamp_ms)
    }

    /// Makes a generation late to publish: writes go to its streams from a time on (in milliseconds since the epoch),
    /// and readers see it listed only `delay` later.
    pub fn publish_generation_late(&self, timestamp_ms: i64, delay: Duration) -> Arc<Generation> {
        let delay_ms = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
        let listed_ms = timestamp_ms.saturating_add(delay_ms);
        self.shared
            .topology
            .generation_listed_at(timestamp_ms, listed_ms)
    }

    /// Splits each tablet of a table in two, with new streams that are valid [`GENERATION_DELAY`] from now on.
    pub fn split_tablets(
        &self,
        keyspace: &str,
        table: &str,
    ) -> Result<Arc<StreamSet>, TabletError> {
        self.split_tablets_at(keyspace, table, self.next_generation_ms())
    }

    /// Splits each tablet of a table in two, with new streams that are valid from a time on (in milliseconds since the
    /// epoch; later than the newest ones in any case).
    pub fn split_tablets_at(
        &self,
        keyspace: &str,
        table: &str,
        timestamp_ms: i64,
    ) -> Result<Arc<StreamSet>, TabletError> {
        self.resize(keyspace, table, Resize::Split, timestamp_ms)
    }

    /// Joins neighbouring tablets of a table, with new streams that are valid [`GENERATION_DELAY`] from now on.
    pub fn merge_tablets(
        &self,
        keyspace: &str,
        table: &str,
    ) -> Result<Arc<StreamSet>, TabletError> {
        self.merge_tablets_at(keyspace, table, self.next_generation_ms())
    }

    /// Joins neighbouring tablets of a table, with new streams that are valid from a time on, as
    /// [`split_tablets_at`](Self::split_tablets_at) does.
    pub fn merge_tablets_at(
        &self,
        keyspace: &str,
        table: &str,
        timestamp_ms: i64,
    ) -> Result<Arc<StreamSet>, TabletError> {
        self.resize(keyspace, table, Resize::Merge, timestamp_ms)
    }

    fn resize(
        &self,
        keyspace: &str,
        table: &str,
        resize: Resize,
        timestamp_ms: i64,
    ) -> Result<Arc<StreamSet>, TabletError> {
        let topology = &self.shared.topology;
        let random = topology.random();
        topology
            .tablets
            .resize(keyspace, table, resize, timestamp_ms, random)
    }

    /// Forgets the streams that had been closed at a time (in milliseconds since the epoch), of tables with tablets
    /// and of the cluster's generations alike, as ScyllaDB does when the log's TTL has passed since. Says how many
    /// stream sets and generations went. Log rows stay until they expire.
    pub fn forget_streams_before(&self, timestamp_ms: i64) -> usize {
        let topology = &self.shared.topology;
        topology.tablets.forget_before(timestamp_ms)
            + topology.generations.forget_before(timestamp_ms)
    }

    /// Lets a node's view of the streams of tables with tablets (`system.cdc_timestamps`, `system.cdc_streams`) lag:
    /// until it is released with `false`, it shows no stream set that is published later than this call or begins
    /// later.
    pub fn lag_node_view(&self, node: usize, lag: bool) {
        let topology = &self.shared.topology;
        topology.tablets.lag(node, lag, topology.now_ms());
    }

    fn next_generation_ms(&self) -> i64 {
        self.shared.topology.now_ms() + GENERATION_DELAY.as_millis() as i64
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
        if let Some(listening) = self.listening.lock().await.take() {
            listening.stop().await;
        }
    }

    /// Listens again on the same address. Does nothing when already listening.
    pub async fn start_listening(&self) -> Result<(), StartError> {
        let mut listening = self.listening.lock().await;
        if listening.is_none() {
            let mut listeners = vec![bind(self.address).await?];
            listeners.extend(self.bind_others().await?);
            *listening = Some(Listening::start(&self.shared, listeners));
        }
        Ok(())
    }

    /// Stops the emulator and forgets its data.
    pub async fn stop(self) {
        self.stop_listening().await;
    }

    /// Tells registered clients that a node is up or down.
    pub fn announce_status(&self, node: SocketAddr, up: bool) {
        self.shared.send_event(Event::Status { up, node });
    }

    async fn bind_others(&self) -> Result<Vec<TcpListener>, StartError> {
        let mut listeners = Vec::new();
        for node in &self.shared.topology.nodes[1..] {
            listeners.push(bind(SocketAddr::new(node.address, self.address.port())).await?);
        }
        Ok(listeners)
    }
}

/// The tasks of a listening emulator.
#[derive(Debug)]
struct Listening {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Listening {
    fn start(shared: &Arc<Shared>, listeners: Vec<TcpListener>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for (node, listener) in listeners.into_iter().enumerate() {
            tasks.spawn(accept(Arc::clone(shared), node, listener, stopped.clone()));
        }
        Self { stop, tasks }
    }

    async fn stop(mut self) {
        let _ = self.stop.send(true);
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
                let connection =
                    connection::serve(Arc::clone(&shared), node, stream, peer, stop.clone());
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
