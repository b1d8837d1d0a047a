//! Logs and counters.
//!
//! Owns the set-up of `tracing` and the counters that the parts raise. Never holds a payload, a
//! key or a secret.

pub mod metrics;
