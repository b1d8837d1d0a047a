//! The command handler: loads an order, decides, stores what happened.
//!
//! # Two commands for one order at a time
//!
//! Two tasks that load version 4 of an order and both store event 5 overwrite each other: an INSERT
//! is an upsert. The database cannot refuse the second, because a conditional statement (`IF NOT
//! EXISTS`) must not stand in one batch with a row of another table, and the outbox is another
//! table. What this service does instead: one task at a time handles an order, behind a lock.
//! That is enough *within one process*; several must be given their orders by something that sends
//! all commands of an order to the same one (a consumer group, a consistent hash in the load
//! balancer). Where that is not to be had, a process claims the sequence number first, with a
//! lightweight transaction on a table of its own, and pays its round trips for each command.
//!
//! # When a write times out
//!
//! The batch may have been written, or may yet be: ScyllaDB replays its batchlog up to a minute
//! later. Deciding anew from what can be read now could store two different events 5. The service
//! keeps the batch and lets no other command touch the order until the same batch, with the same id
//! and timestamp, has been written.
//!
//! Invariants:
//! 1. A command is decided on all events that were stored for the order, and on no others.
//! 2. Memory is bounded: at most [`CACHED_ORDERS`] orders a shard stay in memory.

use crate::order::{Command, Order, Refusal};
use crate::store::{self, Entry, Store};
use outbox_writer::PreparedBatch;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::NewSessionError;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;
use thiserror::Error;
use tokio::sync::Mutex;
use uuid::Uuid;

/// Locks: commands of orders that share one wait for each other.
const SHARDS: usize = 256;
/// Orders that one shard keeps in memory.
pub const CACHED_ORDERS: usize = 256;
/// How often a batch with an open outcome is written before the caller is told.
const ATTEMPTS: usize = 3;

/// Why a command was not carried out.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// No connection to the database.
    #[error("cannot connect to the database")]
    Connect(#[source] Box<NewSessionError>),
    /// The order does not allow it.
    #[error("order {order_id}: {refusal}")]
    Refused {
        /// The order.
        order_id: Uuid,
        /// Why.
        #[source]
        refusal: Refusal,
    },
    /// The store failed, and nothing was written.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The outcome is open. The next command for the order finds out first.
    #[error("order {order_id}: the outcome of the last write is not known yet")]
    OutcomeOpen {
        /// The order.
        order_id: Uuid,
        /// Why.
        #[source]
        source: outbox_writer::Error,
    },
    /// Too many orders of one shard have open outcomes.
    #[error("too many writes with an open outcome: the database does not answer")]
    Busy,
}

/// An event that was acknowledged by the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged {
    /// The id of the event and of its message.
    pub event_id: Uuid,
    /// The order, which is the key of the message.
    pub order_id: Uuid,
    /// The position among the events of the order, from 1.
    pub sequence_number: i64,
    /// What happened.
    pub event_type: &'static str,
    /// When the acknowledgement arrived.
    pub at: SystemTime,
}

/// The order service of one keyspace.
#[derive(Debug)]
pub struct OrderService {
    store: Store,
    shards: Vec<Mutex<HashMap<Uuid, Known>>>,
}

/// What is known of an order.
#[derive(Debug)]
struct Known {
    order: Order,
    /// A write whose outcome is open.
    open: Option<(Entry, PreparedBatch)>,
}

impl OrderService {
    /// Connects to the database; the schema must exist.
    pub async fn connect(nodes: &[String], keyspace: &str) -> Result<Self, Error> {
        Self::new(Arc::new(session(nodes).await?), keyspace).await
    }

    /// The service on an existing session.
    pub async fn new(session: Arc<Session>, keyspace: &str) -> Result<Self, Error> {
        let store = Store::new(session, keyspace).await?;
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Ok(Self { store, shards })
    }

    /// Opens a new order.
    pub async fn place_order(&self, customer: &str) -> Result<Acknowledged, Error> {
        let customer = customer.to_owned();
        self.handle(Uuid::new_v4(), Command::Place { customer })
            .await
    }

    /// Carries out a command.
    pub async fn handle(&self, order_id: Uuid, command: Command) -> Result<Acknowledged, Error> {
        let shard = usize::from(order_id.as_bytes()[0]) % SHARDS;
        let mut orders = self.shards[shard].lock().await;
        if !orders.contains_key(&order_id) {
            make_room(&mut orders)?;
            let order = Order::from_events(&self.store.load(order_id).await?);
            orders.insert(order_id, Known { order, open: None });
        }
        let Some(known) = orders.get_mut(&order_id) else {
            return Err(Error::Busy);
        };
        if known.open.is_some() {
            self.write(known).await?;
        }
        let event = known
            .order
            .decide(command)
            .map_err(|refusal| Error::Refused { order_id, refusal })?;
        let entry = Entry {
            order_id,
            sequence_number: known.order.version() + 1,
            event_id: outbox_writer::timeuuid(),
            event,
        };
        let batch = self.store.batch(&entry)?;
        let (event_id, sequence_number) = (entry.event_id, entry.sequence_number);
        let event_type = entry.event.event_type();
        known.open = Some((entry, batch));
        self.write(known).await?;
        Ok(Acknowledged {
            event_id,
            order_id,
            sequence_number,
            event_type,
            at: SystemTime::now(),
        })
    }

    /// Writes what is open, and takes note of it once the outcome is known.
    ///
    /// Cancel safety: what is open stays open when the caller goes away midway.
    async fn write(&self, known: &mut Known) -> Result<(), Error> {
        let Some((entry, batch)) = &mut known.open else {
            return Ok(());
        };
        let order_id = entry.order_id;
        let mut attempt = 1;
        loop {
            match self.store.write(batch).await {
                Ok(()) => {
                    known.order.apply(&entry.event);
                    known.open = None;
                    return Ok(());
                }
                Err(error) if error.may_have_been_written() && attempt < ATTEMPTS => attempt += 1,
                Err(source) if source.may_have_been_written() => {
                    return Err(Error::OutcomeOpen { order_id, source });
                }
                // By every attempt, those of earlier commands included.
                Err(refused) => {
                    known.open = None;
                    return Err(store::Error::from(refused).into());
                }
            }
        }
    }
}

/// A session with the driver's defaults, `LOCAL_QUORUM` among them.
pub async fn session(nodes: &[String]) -> Result<Session, Error> {
    SessionBuilder::new()
        .known_nodes(nodes)
        .build()
        .await
        .map_err(|source| Error::Connect(Box::new(source)))
}

/// Forgets the orders whose state can be loaded again.
fn make_room(orders: &mut HashMap<Uuid, Known>) -> Result<(), Error> {
    if orders.len() >= CACHED_ORDERS {
        orders.retain(|_, known| known.open.is_some());
    }
    if orders.len() >= CACHED_ORDERS {
        return Err(Error::Busy);
    }
    Ok(())
}
