//! An event-sourced order service, as an example of an application with an outbox.
//!
//! - [`order`]: the aggregate; commands, events, and what is allowed. Plain Rust.
//! - [`store`]: `event_store` and `outbox_messages`, written in one logged batch.
//! - [`service`]: the command handler; one command at a time for an order.
//! - [`workload`]: writes made-up orders, for demonstrations and tests.

pub mod order;
pub mod service;
pub mod store;
pub mod workload;

pub use order::{Command, Event, Order, Refusal, Status};
pub use service::{Acknowledged, Error, OrderService, session};
pub use store::{Store, create_schema};
pub use workload::Workload;
