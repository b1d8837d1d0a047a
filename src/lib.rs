//! Publishes ScyllaDB outbox tables to Kafka.
//!
//! Rows of an outbox table appear in its change data capture (CDC) log. [`source`] reads the log,
//! [`decode`] and [`route`] turn a row into a Kafka record, [`pipeline`] keeps the records of a key
//! in order, [`sink`] hands them to the producer, and only a delivery report lets [`ack`] and
//! [`checkpoint`] move on. `docs/architecture.md` is the map of the code and lists the invariants.
//!
//! The library exists for the `outbox-relay` binary, its tests and its benchmarks; its interface
//! follows the needs of those and makes no promise of stability.

pub mod ack;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod dead_letters;
pub mod decode;
pub mod event;
pub mod fingerprint;
pub mod http;
pub mod ownership;
pub mod pipeline;
pub mod retry;
pub mod route;
pub mod runtime;
pub mod schema;
pub mod scylla;
pub mod sink;
pub mod source;
pub mod telemetry;
#[cfg(feature = "tls")]
pub mod tls;
