//! `outbox-relay check`: looks at everything the relay needs and says what to do about the rest.
//!
//! Invariants:
//!
//! 1. Nothing is changed: no table, no topic, no checkpoint.
//! 2. What does not depend on each other is looked at whatever the outcome of the rest, so that
//!    one run shows all there is to mend. A section of the configuration with a problem is not
//!    used: what it would say of a cluster might be wrong.
//! 3. Every warning and every error has a remedy.

mod access;
mod broker;
#[cfg(feature = "tls")]
mod certificates;
mod code;
mod database;
mod finding;
mod http;
mod login;
mod own_tables;
mod replication;
mod topics;

use std::process::ExitCode;

use anyhow::Result;
use code::Code;
use finding::{Finding, Findings, Level};

use super::{BAD_CONFIG, OutputFormat, out};
use crate::config::path::Path;
use crate::config::{Inspected, Outbox, Sources};
use crate::runtime::Chain;

/// Arguments of `check`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  outbox-relay check --config relay.yaml\n  \
                  outbox-relay check --config relay.yaml --strict --output json\n\n\
                  Exit status: 0 no error, 1 an error (with --strict: or a warning), 78 an error in the \
                  configuration")]
pub struct Args {
    /// Fail on warnings too.
    #[arg(long)]
    pub strict: bool,
    /// Form of the output.
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    pub output: OutputFormat,
}

/// Looks at everything and prints what was found.
///
/// # Errors
///
/// Only when the output cannot be printed; what is wrong with the surroundings is a finding.
pub async fn run(sources: &Sources, args: &Args) -> Result<ExitCode> {
    let inspected = sources.inspect();
    let mut findings = configuration(&inspected);
    if !inspected.incomplete {
        if inspected.usable("http") {
            findings.push(http::check(&inspected.config));
        }
        let (database, broker) = tokio::join!(
            check_database(&inspected),
            tokio::task::spawn_blocking({
                let usable = inspected.usable("kafka");
                let outboxes = usable_outboxes(&inspected);
                let config = inspected.config.clone();
                move || usable.then(|| broker::check(&config, &outboxes))
            })
        );
        findings.extend(database);
        findings.extend(broker?.unwrap_or_default());
    }
    match args.output {
        OutputFormat::Text => out::text(&findings)?,
        OutputFormat::Json => out::line(serde_json::to_string_pretty(&findings)?)?,
    }
    Ok(if !inspected.problems.is_empty() {
        ExitCode::from(BAD_CONFIG)
    } else if findings.any(Level::Error) || args.strict && findings.any(Level::Warning) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn configuration(inspected: &Inspected) -> Findings {
    let mut findings = Findings::default();
    if inspected.problems.is_empty() {
        let outboxes = inspected.config.outboxes.len();
        let tables = if outboxes == 1 { "table" } else { "tables" };
        findings.push(Finding::ok(
            Code::Configuration,
            "configuration",
            format!("is right; {outboxes} outbox {tables}"),
        ));
    }
    for problem in &inspected.problems {
        findings.push(Finding::error(
            Code::Configuration,
            "configuration",
            problem.to_string(),
            "correct it; `outbox-relay config reference` lists every key",
        ));
    }
    findings
}

async fn check_database(inspected: &Inspected) -> Findings {
    if inspected.usable("scylla") {
        database::check(&inspected.config, &usable_outboxes(inspected)).await
    } else {
        Findings::default()
    }
}

/// The outboxes without a problem in the configuration.
fn usable_outboxes(inspected: &Inspected) -> Vec<Outbox> {
    let names = |outbox: &Outbox| {
        let index = inspected.raw_index(&outbox.table);
        let path = Path::root().key("outboxes").index(index?);
        let broken = inspected.problems.iter().any(|p| p.path.is_under(&path));
        (!broken).then(|| outbox.clone())
    };
    inspected.config.outboxes.iter().filter_map(names).collect()
}

/// The error and its sources, without what repeats the one before.
fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    Chain(error).to_string()
}

/// What lies behind an error: the driver wraps "connection refused" many times.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
