//! Assembles the relay's parts, supervises them and stops them in order.
//!
//! Invariants:
//!
//! 1. Stop order: not ready, stop reading, drain lanes up to a deadline, flush the producer, last
//!    checkpoint, then what only watches.
//! 2. The first SIGTERM or SIGINT drains; the second one exits at once. SIGHUP reloads.
//! 3. A task that fails is handled as the policy of its kind says ([`supervisor::policy`]); a
//!    table that fails never stops another.

mod chain;
pub mod daemon;
pub mod health;
mod live;
mod owner;
pub mod pauses;
mod relay;
pub mod signals;
pub mod supervisor;
mod systemd;
#[cfg(test)]
mod tests;

pub use chain::Chain;
pub use live::Live;
pub use relay::{Error, Hooks, Summary, run};

/// How far a stop has come. Every part follows it through a `tokio::sync::watch` channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Read and publish.
    Running,
    /// Read no more; what was read is still published and settled.
    Draining,
    /// Nothing is settled any more: save the last checkpoint and return.
    Finishing,
}
