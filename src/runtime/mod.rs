//! Assembles the relay's parts, supervises them and stops them in order.
//!
//! Invariants:
//!
//! 1. Stop order: stop reading, drain lanes up to a deadline, flush the producer, last checkpoint.
//! 2. The first SIGTERM or SIGINT drains; the second one exits at once.

mod relay;
pub mod restart;
pub mod signals;

pub use relay::{Error, Hooks, Summary, run};

/// How far a stop has come. Every part follows it through a `tokio::sync::watch` channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Read and publish.
    Running,
    /// Read no more; what was read is still published and settled.
    Draining,
    /// Nothing is published any more: save the last checkpoint and return.
    Finishing,
}
