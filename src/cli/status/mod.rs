//! `outbox-relay status`: how a relay is, from the running one and from the database.
//!
//! Invariants:
//!
//! 1. Nothing is written, and nothing is claimed.
//! 2. What cannot be had (no relay answers, the database does not) is said, and the rest is shown.
//! 3. Reads are bounded: dead letters are counted up to a limit, and a count that reached it says so.

pub mod http;
mod live;
mod stored;
mod view;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};

use self::http::Client;
use self::live::Live;
use self::stored::{Limits, Stored};
use self::view::Report;
use super::{OutputFormat, moment, out};
use crate::config::{Config, Sources};

/// How long a relay may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Arguments of `status`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Asks the running relay (http.listen of the configuration, or --url) and the database. \
                  Without a running relay the database alone is shown: W is then as it was saved last, up \
                  to checkpoint.idle_interval behind.\n\n\
                  Examples:\n  outbox-relay status --config relay.yaml\n  \
                  outbox-relay status --url http://relay.internal:9464 --groups\n  \
                  outbox-relay status --database --output json"
)]
pub struct Args {
    /// The running relay's address; it must answer.
    #[arg(long, value_name = "URL", conflicts_with = "database")]
    url: Option<String>,
    /// Show the database alone; ask no relay.
    #[arg(long)]
    database: bool,
    /// List stream groups, those that are furthest behind first.
    #[arg(long)]
    groups: bool,
    /// Stream groups of a table that are listed.
    #[arg(long, value_name = "N", default_value = "20")]
    limit: NonZeroUsize,
    /// Dead letters of a table that are counted; beyond them the count is a lower bound.
    #[arg(long, value_name = "N", default_value = "100000")]
    count_limit: u64,
    /// Form of the output.
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    output: OutputFormat,
}

/// Looks and prints.
///
/// # Errors
///
/// When neither a relay nor the database answers, or not the relay that `--url` names.
pub async fn run(sources: &Sources, args: &Args) -> Result<()> {
    let config = match sources.load() {
        Ok(loaded) => Some(Arc::new(loaded.config)),
        // A relay elsewhere can be asked without its configuration.
        Err(_) if args.url.is_some() && sources.files.is_empty() => None,
        Err(error) => return Err(error.into()),
    };
    let mut notes = Vec::new();
    let live = ask(config.as_deref(), args, &mut notes).await?;
    let stored = match &config {
        None => {
            notes.push("without a configuration the database is not looked at".to_owned());
            None
        }
        Some(config) => {
            let limits = Limits {
                groups: args.groups.then_some(args.limit.get()),
                dead_letters: args.count_limit,
            };
            match Stored::read(config, limits).await {
                Ok(stored) => Some(stored),
                Err(error) if live.is_some() => {
                    notes.push(format!("the database cannot be looked at: {error:#}"));
                    None
                }
                Err(error) => return Err(error),
            }
        }
    };
    let report = Report {
        relay: config.map(|config| config.relay.name.clone()),
        now: moment::now(),
        live,
        stored,
        notes,
        groups: args.groups.then_some(args.limit.get()),
    };
    match args.output {
        OutputFormat::Text => out::text(view::text(&report))?,
        OutputFormat::Json => out::line(serde_json::to_string_pretty(&view::json(&report))?)?,
    }
    Ok(())
}

/// What the running relay says; none if there is none to be asked.
async fn ask(
    config: Option<&Config>,
    args: &Args,
    notes: &mut Vec<String>,
) -> Result<Option<Live>> {
    if args.database {
        return Ok(None);
    }
    let groups = args.groups.then_some(args.limit.get());
    if let Some(url) = &args.url {
        let live = Live::ask(&Client::new(url, PATIENCE)?, groups).await?;
        if let Some(config) = config
            && live.status.relay != config.relay.name
        {
            bail!(
                "the relay at {url} is {}, and not {} of the configuration",
                live.status.relay,
                config.relay.name
            );
        }
        return Ok(Some(live));
    }
    let Some(config) = config else {
        return Ok(None);
    };
    let Some(client) = Client::of(config, PATIENCE) else {
        notes.push(
            "http.listen is empty, so no relay can be asked: this is the database alone".to_owned(),
        );
        return Ok(None);
    };
    match Live::ask(&client, groups).await {
        Ok(live) if live.status.relay == config.relay.name => Ok(Some(live)),
        Ok(live) => {
            notes.push(format!(
                "the relay at {} is {}, another one: this is the database alone",
                client.name(),
                live.status.relay
            ));
            Ok(None)
        }
        Err(error) => {
            notes.push(format!(
                "no relay answers ({:#}): this is the database alone",
                anyhow::Error::new(error)
            ));
            Ok(None)
        }
    }
}
