//! Arguments of `dead-letters`.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use clap::{Subcommand, ValueEnum};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cli::OutputFormat;
use crate::config::parse_duration;
use crate::dead_letters::Reason;
use crate::dead_letters::filter::Filter;
use crate::dead_letters::replay::{Action, Order};

/// Arguments of `dead-letters`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Clone, Subcommand)]
pub(super) enum Command {
    /// List dead letters, key by key in the order of their events.
    #[command(
        after_help = "Examples:\n  outbox-relay dead-letters list --reason permanent\n  \
                      outbox-relay dead-letters list --since 2h --output json"
    )]
    List(List),
    /// Show all of one dead letter, what is wrong with it, and what to do.
    #[command(
        after_help = "Example:\n  outbox-relay dead-letters show 0197a3c2-5b1e-7000-8000-000000000001"
    )]
    Show(Show),
    /// Publish dead letters after all, in their keys' order.
    #[command(
        after_help = "To keep a key's order, earlier dead letters of the key are published too, and \
                      so are events that only joined them. Ends with status 1 if one failed again.\n\n\
                      Examples:\n  outbox-relay dead-letters replay --topic orders --dry-run\n  \
                      outbox-relay dead-letters replay --reason permanent --rate 100\n  \
                      outbox-relay dead-letters replay --all"
    )]
    Replay(Replay),
    /// Remove dead letters without publishing them.
    #[command(
        after_help = "Examples:\n  outbox-relay dead-letters discard --key order-17 --dry-run\n  \
                      outbox-relay dead-letters discard --key order-17 --yes"
    )]
    Discard(Discard),
    /// Write dead letters, with their payloads, as JSON lines.
    #[command(
        after_help = "Example:\n  outbox-relay dead-letters export --reason undecodable --file dead.jsonl"
    )]
    Export(Export),
}

impl Command {
    /// The table that is asked for.
    pub(super) fn table(&self) -> Option<&str> {
        match self {
            Self::List(args) => args.filter.table.as_deref(),
            Self::Show(_) => None,
            Self::Replay(args) => args.filter.table.as_deref(),
            Self::Discard(args) => args.filter.table.as_deref(),
            Self::Export(args) => args.filter.table.as_deref(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ReasonArg {
    /// Its attempts were used up.
    Exhausted,
    /// Kafka refuses it.
    Permanent,
    /// Its row cannot be made a record.
    Undecodable,
    /// It joined an earlier one of its key.
    Parked,
}

impl From<ReasonArg> for Reason {
    fn from(reason: ReasonArg) -> Self {
        match reason {
            ReasonArg::Exhausted => Self::Exhausted,
            ReasonArg::Permanent => Self::Permanent,
            ReasonArg::Undecodable => Self::Undecodable,
            ReasonArg::Parked => Self::Parked,
        }
    }
}

#[derive(Debug, Clone, clap::Args)]
pub(super) struct FilterArgs {
    /// Only of this outbox table (keyspace.table).
    #[arg(long)]
    pub(super) table: Option<String>,
    /// Only for this topic.
    #[arg(long)]
    topic: Option<String>,
    /// Only of this key, as text.
    #[arg(long)]
    key: Option<String>,
    /// Only of this event type.
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Only the event of this id.
    #[arg(long)]
    id: Option<String>,
    /// Only for this reason.
    #[arg(long, value_enum)]
    reason: Option<ReasonArg>,
    /// Only those that failed at or after this time: RFC 3339, or a time ago such as 2h.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<i64>,
    /// Only those that failed before this time.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<i64>,
}

impl FilterArgs {
    pub(super) fn filter(&self) -> Filter {
        Filter {
            table: self.table.clone(),
            topic: self.topic.clone(),
            key: self.key.clone(),
            event_type: self.event_type.clone(),
            id: self.id.clone(),
            reason: self
                .reason
                .map(|reason| Reason::from(reason).name().to_owned()),
            since_millis: self.since,
            until_millis: self.until,
        }
    }
}

#[derive(Debug, Clone, clap::Args)]
pub(super) struct List {
    #[command(flatten)]
    pub(super) filter: FilterArgs,
    /// Print at most so many.
    #[arg(long, default_value_t = 100)]
    pub(super) limit: u64,
    /// Form of the output; json is one object per line.
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    pub(super) output: OutputFormat,
}

#[derive(Debug, Clone, clap::Args)]
pub(super) struct Show {
    /// The event's id.
    pub(super) id: String,
    /// Form of the output.
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    pub(super) output: OutputFormat,
}

#[derive(Debug, Clone, clap::Args)]
pub(super) struct Export {
    #[command(flatten)]
    pub(super) filter: FilterArgs,
    /// Where to; without it, standard output. A file that exists is not overwritten.
    #[arg(long, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
}

#[derive(Debug, Clone, clap::Args)]
pub(super) struct Replay {
    #[command(flatten)]
    pub(super) filter: FilterArgs,
    /// All dead letters; otherwise something must say which.
    #[arg(long)]
    all: bool,
    /// Publish at most so many a second.
    #[arg(long, value_name = "PER SECOND")]
    rate: Option<NonZeroU32>,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Form of the output.
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    pub(super) output: OutputFormat,
}

#[derive(Debug, Clone, clap::Args)]
pub(super) struct Discard {
    #[command(flatten)]
    pub(super) filter: FilterArgs,
    /// All dead letters; otherwise something must say which.
    #[arg(long)]
    all: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Discard; without it, and without --dry-run, nothing is done.
    #[arg(long)]
    yes: bool,
    /// Form of the output.
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    pub(super) output: OutputFormat,
}

fn chosen(filter: &Filter, all: bool) -> Result<()> {
    let nothing = *filter == Filter::default();
    if nothing && !all {
        bail!("say which: give a filter such as --topic or --reason, or --all");
    }
    if all && !nothing {
        bail!("--all and a filter exclude each other");
    }
    Ok(())
}

impl Replay {
    pub(super) fn order(&self) -> Result<Order> {
        let filter = self.filter.filter();
        chosen(&filter, self.all)?;
        Ok(Order {
            action: Action::Replay,
            filter,
            rate: self.rate,
            dry_run: self.dry_run,
            asked_at: now_micros(),
        })
    }
}

impl Discard {
    pub(super) fn order(&self) -> Result<Order> {
        let filter = self.filter.filter();
        chosen(&filter, self.all)?;
        if !self.yes && !self.dry_run {
            bail!("discarded events are never published: look with --dry-run, then give --yes");
        }
        Ok(Order {
            action: Action::Discard,
            filter,
            rate: None,
            dry_run: self.dry_run,
            asked_at: now_micros(),
        })
    }
}

fn now_micros() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_micros() as i64)
}

fn parse_time(text: &str) -> Result<i64, String> {
    if let Ok(time) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok((time.unix_timestamp_nanos() / 1_000_000) as i64);
    }
    let ago = parse_duration(text).map_err(|_| {
        "is neither a time such as 2026-01-31T12:00:00Z nor a time ago such as 2h".to_owned()
    })?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    Ok(now.saturating_sub(ago).as_millis() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_absolute_or_ago() {
        assert_eq!(parse_time("1970-01-01T00:00:01.5Z"), Ok(1_500));
        let ago = parse_time("2h").expect("a time ago");
        let now = parse_time("0s").expect("now");
        assert!((7_199_000..=7_201_000).contains(&(now - ago)));
        assert!(parse_time("yesterday").is_err());
    }

    #[test]
    fn nothing_is_done_to_all_by_mistake() {
        assert!(chosen(&Filter::default(), false).is_err());
        assert!(chosen(&Filter::default(), true).is_ok());
        assert!(chosen(&Filter::exhausted(), false).is_ok());
        assert!(chosen(&Filter::exhausted(), true).is_err());
    }
}
