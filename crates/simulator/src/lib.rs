//! A seeded simulator of the relay.
//!
//! The relay's own decisions (follower, tracker, reads, plan, lanes, breaker, retries, parking,
//! repetitions, the form of checkpoints) run against a simulated database, broker and clock, with
//! crashes, stops and restarts anywhere. One seed is one run, and always the same one. What must
//! be true is looked at while it runs and at its end ([`oracle`]). `docs/simulation.md` says what
//! is simulated and what is not.

mod broker;
mod database;
pub mod oracle;
mod process;
mod random;
mod replayer;
mod scenario;
mod source_side;
mod trace;
mod wire;
mod world;
mod writers;

pub use world::{Outcome, run};
