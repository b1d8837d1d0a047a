//! Events that could not be published, kept in ScyllaDB until they are replayed or discarded.
//!
//! Owns the tables `dead_letters` and `requests` of the relay's keyspace, which keys are parked
//! ([`parking`]), and the replay ([`replay`]). Invariants:
//!
//! 1. A dead letter is known by its place in the log: writing it again, after a crash, changes
//!    nothing of why it is here.
//! 2. The dead letters of a key are read, and replayed, in the order of their places.
//! 3. A replayed event is removed only after Kafka has acknowledged it.
//! 4. A parked key is released only when none of its dead letters is left.
//!
//! It does not decide what becomes a dead letter: the pipeline does.

pub mod extent;
pub mod filter;
pub mod letter;
pub mod parking;
pub mod recode;
pub mod replay;
pub mod requests;
pub mod store;
pub mod task;

use futures::future::BoxFuture;
use std::sync::Arc;

pub use letter::{DeadLetter, Failure, Label, Place, Reason};
pub use parking::Parking;
pub use store::{Error, Store};

/// Where the pipeline puts dead letters.
pub trait Keep: Send + Sync {
    /// Keeps a dead letter; when this returns, it is durable. May be called again with the same.
    fn keep(&self, letter: Arc<DeadLetter>) -> BoxFuture<'static, Result<(), Error>>;
}
