//! Writes an application's rows and its events to ScyllaDB in one logged batch.
//!
//! An application that changes its tables and tells others about it has two things to do that can
//! fail apart. With an *outbox* it does one: the event is a row of an outbox table, written in the
//! same batch as the application's own rows. A relay finds the row in ScyllaDB's change data
//! capture log and publishes it to Kafka.
//!
//! ```no_run
//! use outbox_writer::{Event, Outbox};
//! use scylla::client::session_builder::SessionBuilder;
//!
//! #[derive(serde::Serialize)]
//! struct OrderPlaced {
//!     total_cents: i64,
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let session = SessionBuilder::new().known_node("127.0.0.1:9042").build().await?;
//! let outbox = Outbox::new(&session, "shop.outbox_messages").await?;
//! let insert = session
//!     .prepare("INSERT INTO shop.orders (id, total_cents) VALUES (?, ?)")
//!     .await?;
//!
//! let event = Event::new("order", "order-17", "OrderPlaced")
//!     .json(&OrderPlaced { total_cents: 4_200 })?
//!     .header("tenant", "acme");
//! let receipt = outbox
//!     .batch()
//!     .statement(&insert, ("order-17", 4_200_i64))
//!     .event(event)
//!     .execute(&session)
//!     .await?;
//! println!("event {}", receipt.event_ids[0]);
//! # Ok(()) }
//! ```
//!
//! # When a write fails
//!
//! A timeout does not say whether the batch was written: ScyllaDB may bring it to an end up to a
//! minute later. The answer is to write the *same* batch again, with the same event ids and the
//! same timestamp, which is one write however often it is repeated:
//!
//! ```no_run
//! # async fn example(session: scylla::client::session::Session, batch: outbox_writer::Batch)
//! # -> Result<(), outbox_writer::Error> {
//! let mut batch = batch.prepare()?;
//! let mut attempts = 0;
//! let receipt = loop {
//!     attempts += 1;
//!     match batch.execute(&session).await {
//!         Err(error) if error.may_have_been_written() && attempts < 5 => {}
//!         outcome => break outcome?,
//!     }
//! };
//! # let _ = receipt; Ok(()) }
//! ```
//!
//! # The table
//!
//! [`ddl`] prints the recommended one: partitioned by the aggregate's id and clustered by the
//! event's, so that all events of an aggregate lie in one stream of the CDC log and are published
//! in order; with a TTL, because a row is of no use once it is in the log; and with a TTL for the
//! log, which is the time that a relay may be down.
//!
//! A table whose partition key is the event's id works as well. Each event is then a partition of
//! its own, the events of one aggregate lie in different streams of the log, and **their order is
//! not kept**: it would rest on timestamps of streams that are read one by one.
//!
//! In another table two events of one aggregate may come out of the log in another order than
//! they were added in (it clusters by the id in descending order, or by another column first), or
//! as one row (the id is not in its primary key). A batch takes only one event of an aggregate then.
//!
//! # What the ids are for
//!
//! Ids are made by this library unless an event brings its own: version 1 UUIDs for a `timeuuid`
//! column, version 7 for a `uuid` or text column. They increase in the order in which the events
//! are added, because ScyllaDB logs the rows of one partition in a batch in the order of their
//! clustering keys, not in the order of the statements. No two are ever equal, because a row that
//! is written twice in one batch is one row of the log.
//!
//! A batch carries one client-side timestamp, which is above that of every earlier batch of the
//! process. If the clock of the machine is set back, timestamps go on from the last one; a clock
//! that was far ahead before it was set back makes ScyllaDB refuse writes (it takes timestamps
//! only some seconds ahead of its own clock), until the clock has caught up or the process is
//! restarted.
//!
//! A batch of a single row (an event alone, stored) is sent as a logged batch, too; ScyllaDB
//! leaves out the batchlog for it, as there is nothing to keep together.
//!
//! # Waking the relay
//!
//! A relay on the same host can be told which partitions were written, so that it reads them at
//! once instead of at its next poll. This is an option that costs a datagram a batch and risks
//! nothing: it neither delays nor fails a write, and a hint that is lost costs only latency.
//!
//! ```no_run
//! # use outbox_writer::{Error, Outbox, WakeUp};
//! # async fn open(session: &scylla::client::session::Session) -> Result<Outbox, Error> {
//! // The relay's configuration: follow: { wake_up: "unix:///run/outbox-relay/wake.sock" }
//! let wake_up = WakeUp::unix("/run/outbox-relay/wake.sock")?;
//! let outbox = Outbox::builder()
//!     .wake_up(wake_up.clone())
//!     .build(session, "shop.outbox_messages")
//!     .await?;
//! println!("{} hints sent, {} lost", wake_up.sent(), wake_up.failed());
//! # Ok(outbox) }
//! ```

mod attempts;
mod batch;
mod cells;
mod clock;
mod error;
mod event;
mod ids;
mod layout;
mod outbox;
mod row;
mod table;
mod wake_up;

pub use batch::{Batch, PreparedBatch, Receipt};
pub use error::Error;
pub use event::Event;
pub use ids::timeuuid;
pub use layout::{DdlOptions, Layout, PartitionBy, ddl};
pub use outbox::{Outbox, OutboxBuilder};
pub use wake_up::WakeUp;
