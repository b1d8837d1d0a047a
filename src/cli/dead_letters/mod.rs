//! `outbox-relay dead-letters`: list, show, replay, discard and export them.
//!
//! Invariants:
//!
//! 1. Reading needs the database alone and disturbs nobody.
//! 2. What changes something is done by the process that owns the relay's name: by a running relay,
//!    which is asked and watched, or else by this command, which owns the name meanwhile.
//! 3. Nothing is printed on standard output but what was asked for.

mod act;
mod args;
mod read;

use std::sync::Arc;

use anyhow::{Context, Result, bail};

use crate::config::Config;
use crate::dead_letters::Store;
use crate::dead_letters::types::Types;
use crate::scylla as cluster;
pub use args::Args;
use args::Command;

/// Does what the arguments say.
///
/// # Errors
///
/// When the database cannot be reached, when what is meant does not exist, or when something could
/// not be replayed.
pub async fn run(config: Arc<Config>, args: &Args) -> Result<()> {
    let session = Arc::new(cluster::connect(&config.scylla).await?);
    let (keyspace, name) = (&config.scylla.keyspace, &config.relay.name);
    let store = Store::new(Arc::clone(&session), keyspace, name).await?;
    let tables = config.tables();
    if let Some(table) = args.command.table()
        && !tables.iter().any(|known| known == table)
    {
        bail!("{table} is not configured; tables: {}", tables.join(", "));
    }
    match &args.command {
        Command::List(args) => read::list(&store, &tables, args).await,
        Command::Show(args) => {
            let types = Types::new(session, config);
            read::show(&store, types, &tables, args).await
        }
        Command::Export(args) => {
            let types = Types::new(session, config);
            read::export(&store, types, &tables, args).await
        }
        Command::Replay(args) => {
            let order = args.order()?;
            Box::pin(act::run(config, session, store, order, args.output)).await
        }
        Command::Discard(args) => {
            let order = args.order()?;
            Box::pin(act::run(config, session, store, order, args.output)).await
        }
    }
    .context("dead letters")
}
