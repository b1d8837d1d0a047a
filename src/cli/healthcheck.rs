//! `outbox-relay healthcheck`: asks a running relay how it is. For container health checks, which need
//! no shell and no other program for it.
//!
//! Invariant: it prints one line and ends with 0 or 1, whatever happens.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hyper::StatusCode;
use serde::Deserialize;

use super::status::http::Client;
use crate::config::{Sources, parse_duration};

/// Arguments of `healthcheck`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  outbox-relay healthcheck --config relay.yaml\n  \
                  outbox-relay healthcheck --ready --url http://127.0.0.1:9464\n\n\
                  Exit status: 0 healthy, 1 not, or nobody answers"
)]
pub struct Args {
    /// The relay's address; without it, http.listen of the configuration.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Ask whether the relay is ready (/readyz) and not only whether it lives (/livez).
    #[arg(long)]
    ready: bool,
    /// How long the relay may take to answer.
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = parse_duration)]
    timeout: Duration,
}

/// What `/readyz` says.
#[derive(Debug, Deserialize)]
struct Readiness {
    #[serde(default)]
    parts: Vec<Part>,
}

#[derive(Debug, Deserialize)]
struct Part {
    #[serde(rename = "part")]
    name: String,
    state: String,
    reason: Option<String>,
}

/// Asks, prints one line, and gives the exit code.
pub async fn run(sources: &Sources, args: &Args) -> ExitCode {
    match ask(sources, args).await {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("unhealthy: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn ask(sources: &Sources, args: &Args) -> Result<String> {
    let client = if let Some(url) = &args.url {
        Client::new(url, args.timeout)?
    } else {
        let Ok(loaded) = sources.load() else {
            bail!("the configuration cannot be used; `outbox-relay check` says why");
        };
        Client::of(&loaded.config, args.timeout)
            .context("http.listen is empty: nobody can be asked; set it, or give --url")?
    };
    let (path, well) = if args.ready {
        ("/readyz", "ready")
    } else {
        ("/livez", "alive")
    };
    let answer = client.get(path).await?;
    if answer.status == StatusCode::OK {
        return Ok(well.to_owned());
    }
    let said = serde_json::from_slice(&answer.body)
        .map_or_else(|_| answer.line(), |readiness| reasons(&readiness));
    bail!(
        "{} answers {}: {said}",
        client.name(),
        answer.status.as_u16()
    )
}

/// The parts that are not well.
fn reasons(readiness: &Readiness) -> String {
    let unwell = readiness.parts.iter().filter(|part| part.state != "ok");
    let unwell = unwell.map(|part| match &part.reason {
        Some(reason) => format!("{} {} ({reason})", part.name, part.state),
        None => format!("{} {}", part.name, part.state),
    });
    let text = unwell.collect::<Vec<_>>().join("; ");
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unwell_is_told_on_one_line() {
        let readiness = serde_json::from_value(serde_json::json!({
            "ready": false,
            "parts": [
                { "part": "ScyllaDB", "state": "failed", "reason": "no node\nanswers", "for_seconds": 7 },
                { "part": "Kafka", "state": "ok", "reason": null },
                { "part": "checkpoints", "state": "degraded", "reason": null },
            ],
        }));
        assert_eq!(
            reasons(&readiness.expect("its form")),
            "ScyllaDB failed (no node answers); checkpoints degraded"
        );
    }
}
