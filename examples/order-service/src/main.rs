//! Writes made-up orders to ScyllaDB, with their events in the outbox.

use anyhow::{Context, Result};
use clap::Parser;
use order_service::{OrderService, Workload, create_schema, session};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

/// Writes made-up orders to ScyllaDB, each change with its event in the outbox table.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example:\n  order-service --nodes 127.0.0.1:9042 --events 1000 --rate 200"
)]
struct Arguments {
    /// Nodes of the database to start from.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "127.0.0.1:9042",
        env = "SCYLLA_NODES"
    )]
    nodes: Vec<String>,
    /// The keyspace, which is created with its tables unless it exists.
    #[arg(long, default_value = "shop")]
    keyspace: String,
    /// Copies of the data, if the keyspace is created.
    #[arg(long, default_value_t = 1)]
    replication_factor: u32,
    /// How many events to write.
    #[arg(long, default_value_t = 100)]
    events: u64,
    /// Events a second; as fast as the database takes them if it is left out.
    #[arg(long)]
    rate: Option<NonZeroU32>,
    /// How many commands are under way at a time.
    #[arg(long, default_value_t = 8)]
    workers: usize,
    /// What the choices of the made-up customers follow from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print a line for each event.
    #[arg(long, short)]
    verbose: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let nodes = arguments.nodes.join(", ");
    let session = session(&arguments.nodes)
        .await
        .with_context(|| format!("nodes {nodes}"))?;
    create_schema(&session, &arguments.keyspace, arguments.replication_factor).await?;
    let service = Arc::new(OrderService::new(Arc::new(session), &arguments.keyspace).await?);

    let workload = Workload {
        events: arguments.events,
        rate: arguments.rate,
        workers: arguments.workers,
        seed: arguments.seed,
        ..Workload::default()
    };
    let start = Instant::now();
    let mut written = 0_u64;
    let outcome = service
        .simulate(workload, |event| {
            written += 1;
            if arguments.verbose {
                println!(
                    "{} order {} #{} {}",
                    event.event_id, event.order_id, event.sequence_number, event.event_type
                );
            }
        })
        .await;
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "wrote {written} events to {}.outbox_messages in {seconds:.1} s",
        arguments.keyspace
    );
    outcome.context("a command failed")
}
