//! The relay as a process, between a database and a genuine broker.
//!
//! A case that has no broker prints a line and passes, unless `OUTBOX_RELAY_REQUIRE_KAFKA=1`; see
//! [`support`] for where broker and database come from.

mod altered;
mod backpressure;
mod broker;
mod broker_restart;
mod check;
mod checkpoints;
mod commands;
mod crash;
mod database;
mod dead_letters;
mod delivery;
mod faults_doc;
mod follower;
mod generations;
mod harness;
mod http;
mod late;
mod login;
mod logs;
#[cfg(feature = "otlp")]
mod otlp;
mod outage;
mod ownership;
mod readiness;
mod reference;
mod rows;
#[cfg(feature = "tls")]
mod secure_database;
#[cfg(feature = "tls")]
mod secure_kafka;
mod status;
mod stop;
mod support;
mod systemd;
