//! `outbox-relay checkpoint`: how far the stream groups have come, and where the relay goes on.
//!
//! Invariants:
//!
//! 1. `show`, and `reset` without `--yes`, write nothing.
//! 2. `reset` writes only while it owns the relay's name, so that no relay runs.

mod reset;
mod show;

use std::num::NonZeroU64;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Subcommand;

use super::OutputFormat;
use super::moment::Moment;
use crate::checkpoint::Store;
use crate::config::{Config, Outbox};
use crate::scylla as cluster;

/// Arguments of `checkpoint`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Show how far each table has come, as it is stored.
    #[command(
        after_help = "Examples:\n  outbox-relay checkpoint show --config relay.yaml\n  \
                      outbox-relay checkpoint show --table shop.outbox_messages --groups --output json"
    )]
    Show(Show),
    /// Set where a stopped relay goes on: what was written from there on is published (again).
    #[command(
        after_help = "A rewind publishes again what was published since TIME. A move forward gives up \
                      what was written before TIME and is not published, also if it appears late. \
                      The relay must be stopped.\n\n\
                      Examples:\n  outbox-relay checkpoint reset --to 2h --dry-run\n  \
                      outbox-relay checkpoint reset --to 2026-01-31T12:00:00Z --table \
                      shop.outbox_messages --yes\n  \
                      outbox-relay checkpoint reset --to latest --yes"
    )]
    Reset(Reset),
}

#[derive(Debug, Clone, clap::Args)]
struct Show {
    /// Only of this outbox table (keyspace.table).
    #[arg(long)]
    table: Option<String>,
    /// Show each stream group, with what is known of it.
    #[arg(long)]
    groups: bool,
    /// Form of the output.
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    output: OutputFormat,
}

#[derive(Debug, Clone, clap::Args)]
struct Reset {
    /// Where to go on: RFC 3339, a time ago such as 2h, earliest (all that the log has) or latest.
    #[arg(long, value_name = "TIME", value_parser = Moment::parse)]
    to: Moment,
    /// Only this outbox table (keyspace.table); without it, all of the configuration.
    #[arg(long)]
    table: Option<String>,
    /// Only say what it would do.
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Do it; without it, and without --dry-run, nothing is changed.
    #[arg(long)]
    yes: bool,
    /// Also go back to a time of which rows have expired in the log.
    #[arg(long)]
    allow_expired: bool,
    /// Rows of a table's log that are read to count events; beyond them the count is a lower bound.
    #[arg(long, value_name = "ROWS", default_value = "1000000")]
    count_limit: NonZeroU64,
    /// Form of the output.
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    output: OutputFormat,
}

/// Does what the arguments say.
///
/// # Errors
///
/// When the database cannot be reached, or when something forbids the reset.
pub async fn run(config: Arc<Config>, args: &Args) -> Result<()> {
    let table = match &args.command {
        Command::Show(args) => &args.table,
        Command::Reset(args) => &args.table,
    };
    let outboxes = chosen(&config, table.as_deref())?;
    let session = Arc::new(cluster::connect(&config.scylla).await?);
    let (keyspace, name) = (&config.scylla.keyspace, &config.relay.name);
    let store = Store::new(Arc::clone(&session), keyspace, name).await?;
    match &args.command {
        Command::Show(args) => show::run(session, &store, &outboxes, args)
            .await
            .context("show the checkpoints"),
        Command::Reset(args) => Box::pin(reset::run(&config, session, store, &outboxes, args))
            .await
            .context("reset the checkpoints"),
    }
}

/// The outboxes that are meant.
pub(super) fn chosen(config: &Config, table: Option<&str>) -> Result<Vec<Outbox>> {
    let Some(table) = table else {
        return Ok(config.outboxes.clone());
    };
    let mut outboxes = config.outboxes.iter();
    if let Some(outbox) = outboxes.find(|outbox| outbox.table.to_string() == table) {
        return Ok(vec![outbox.clone()]);
    }
    let known = config.tables();
    bail!("{table} is not configured; tables: {}", known.join(", "))
}
