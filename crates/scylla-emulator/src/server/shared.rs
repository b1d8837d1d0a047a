//! What the connections share.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;
use tokio::sync::broadcast;

use super::MAX_PREPARED;
use super::faults::Faults;
use crate::cdc::log_name;
use crate::cluster::Topology;
use crate::engine::{Engine, Outcome, Prepared, SchemaChange, SchemaChangeKind, SchemaTarget};
use crate::error::Error;
use crate::protocol::event::Event;

/// Events that a slow connection may lag behind before it misses the oldest.
const EVENT_BACKLOG: usize = 1_024;

/// A connected client, as `system.clients` shows it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Client {
    pub(crate) node: usize,
    pub(crate) shard: u16,
    pub(crate) ready: bool,
    pub(crate) version: u8,
    pub(crate) driver_name: Option<String>,
    pub(crate) driver_version: Option<String>,
    pub(crate) username: String,
}

/// The connected clients by their address.
#[derive(Debug, Default)]
pub(crate) struct Clients(Mutex<BTreeMap<SocketAddr, Client>>);

impl Clients {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Client>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a client and gives it the shard of its node with the fewest connections.
    pub(crate) fn enter(&self, peer: SocketAddr, node: usize, shards: u16) -> u16 {
        let mut clients = self.lock();
        let mut load = vec![0_u32; usize::from(shards.max(1))];
        for client in clients.values().filter(|client| client.node == node) {
            if let Some(count) = load.get_mut(usize::from(client.shard)) {
                *count += 1;
            }
        }
        let shard = (0_u16..)
            .zip(&load)
            .min_by_key(|(_, count)| **count)
            .map_or(0, |(shard, _)| shard);
        let username = "anonymous".to_owned();
        clients.insert(
            peer,
            Client {
                node,
                shard,
                username,
                ..Client::default()
            },
        );
        shard
    }

    pub(crate) fn update(&self, peer: SocketAddr, change: impl FnOnce(&mut Client)) {
        if let Some(client) = self.lock().get_mut(&peer) {
            change(client);
        }
    }

    pub(crate) fn leave(&self, peer: SocketAddr) {
        self.lock().remove(&peer);
    }

    pub(crate) fn snapshot(&self) -> BTreeMap<SocketAddr, Client> {
        self.lock().clone()
    }
}

/// The database and what connections need beside it.
pub(super) struct Shared {
    pub(super) engine: Engine,
    pub(super) topology: Arc<Topology>,
    pub(super) clients: Arc<Clients>,
    pub(super) credentials: Option<(String, String)>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<super::Tls>,
    pub(super) faults: Faults,
    prepared: RwLock<HashMap<Bytes, Arc<Prepared>>>,
    events: broadcast::Sender<Event>,
    /// Log tables (keyspace, name) that clients have been told of.
    logs: Mutex<BTreeSet<(String, String)>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("topology", &self.topology)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(
        engine: Engine,
        topology: Arc<Topology>,
        clients: Arc<Clients>,
        credentials: Option<(String, String)>,
    ) -> Self {
        let (events, _) = broadcast::channel(EVENT_BACKLOG);
        Self {
            engine,
            topology,
            clients,
            credentials,
            #[cfg(feature = "tls")]
            tls: None,
            faults: Faults::default(),
            prepared: RwLock::default(),
            events,
            logs: Mutex::default(),
        }
    }

    #[cfg(feature = "tls")]
    pub(super) fn with_tls(self, tls: Option<super::Tls>) -> Self {
        Self { tls, ..self }
    }

    /// Prepares a statement and remembers it for all connections.
    pub(super) fn prepare(
        &self,
        cql: &str,
        keyspace: Option<&str>,
    ) -> Result<Arc<Prepared>, Error> {
        let prepared = self.engine.prepare(cql, keyspace)?;
        let mut known = self
            .prepared
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_PREPARED {
            known.clear();
        }
        known.insert(prepared.id.clone(), Arc::clone(&prepared));
        Ok(prepared)
    }

    pub(super) fn prepared(&self, id: &Bytes) -> Result<Arc<Prepared>, Error> {
        let known = self.prepared.read().unwrap_or_else(PoisonError::into_inner);
        known
            .get(id)
            .cloned()
            .ok_or_else(|| Error::unprepared(id.clone()))
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Tells registered connections of a schema change, if the outcome is one: of the table's, and of its CDC log's.
    pub(super) fn announce(&self, outcome: &Outcome) {
        let Outcome::SchemaChange(change) = outcome else {
            return;
        };
        self.send_event(Event::Schema(change.clone()));
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        match &change.target {
            SchemaTarget::Table(base) => {
                let name = log_name(base);
                let exists = self
                    .engine
                    .catalog()
                    .table(&change.keyspace, &name)
                    .is_some();
                let key = (change.keyspace.clone(), name.clone());
                let known = if exists {
                    !logs.insert(key)
                } else {
                    logs.remove(&key)
                };
                let kind = match (known, exists) {
                    (false, true) => SchemaChangeKind::Created,
                    (true, true) => SchemaChangeKind::Updated,
                    (true, false) => SchemaChangeKind::Dropped,
                    (false, false) => return,
                };
                let target = SchemaTarget::Table(name);
                let keyspace = change.keyspace.clone();
                self.send_event(Event::Schema(SchemaChange {
                    kind,
                    keyspace,
                    target,
                }));
            }
            SchemaTarget::Keyspace if change.kind == SchemaChangeKind::Dropped => {
                logs.retain(|(keyspace, _)| *keyspace != change.keyspace);
            }
            SchemaTarget::Keyspace | SchemaTarget::Type(_) => {}
        }
    }

    pub(super) fn send_event(&self, event: Event) {
        // Nobody listening is no error.
        let _ = self.events.send(event);
    }
}
