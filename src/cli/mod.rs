//! The commands.
//!
//! Owns the arguments and what is printed. Exit codes: 0 fine, 1 failed, 2 usage (clap's), 78 bad
//! configuration.

pub mod check;
pub mod checkpoint;
mod claim;
pub mod completions;
pub mod dead_letters;
#[cfg(feature = "demo")]
pub mod demo;
pub mod healthcheck;
pub mod man;
mod moment;
mod out;
pub mod schema;
pub mod status;
pub mod tail;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};

use crate::config::{self, Loaded, Sources};
use crate::runtime::{daemon, signals::StopSignals};
use crate::telemetry;

/// Exit code for a configuration that cannot be used (`EX_CONFIG` of sysexits.h).
const BAD_CONFIG: u8 = 78;

const ROOT_HELP: &str = "\
Examples:
  outbox-relay check --config relay.yaml
  outbox-relay run --config relay.yaml
  outbox-relay status --config relay.yaml

Environment:
  OUTBOX_RELAY_CONFIG         the configuration file, where no --config is given
  OUTBOX_RELAY__SECTION__KEY  sets one key, as in OUTBOX_RELAY__FOLLOW__POLL=20ms; overrides files

Exit status:
  0   done
  1   failed, or a check has found an error
  2   the command line cannot be understood
  78  the configuration cannot be used";

/// Publishes ScyllaDB outbox tables to Kafka.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, after_help = ROOT_HELP)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Args)]
struct Global {
    /// Configuration file; a later one overrides an earlier one, key by key.
    #[arg(
        long,
        short,
        global = true,
        value_name = "FILE",
        env = "OUTBOX_RELAY_CONFIG"
    )]
    config: Vec<PathBuf>,
    /// Sets one key, as in --set follow.poll=20ms, or --set 'outboxes=[{table: shop.outbox}]' for a list;
    /// overrides files and environment.
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Log filter, as in `--log-level info,outbox_relay=debug`.
    #[arg(long, global = true, value_name = "FILTER")]
    log_level: Option<String>,
}

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the relay until SIGTERM or SIGINT.
    #[command(after_help = "Example:\n  outbox-relay run --config relay.yaml")]
    Run,
    /// Show events flow, with database, broker and order service embedded.
    #[cfg(feature = "demo")]
    Demo(demo::Args),
    /// Look at configuration, tables, log and topics; say what to do about what is wrong.
    Check(check::Args),
    /// Print (or create) the relay's own tables and the outbox tables.
    Schema(schema::Args),
    /// Print events as they would be published; publish nothing.
    Tail(tail::Args),
    /// Show how far the tables have come, or set where a stopped relay goes on.
    #[command(after_help = "Examples:\n  outbox-relay checkpoint show\n  \
                            outbox-relay checkpoint reset --to 2h --dry-run")]
    Checkpoint(checkpoint::Args),
    /// List, show, replay, discard and export events that could not be published.
    #[command(after_help = "Examples:\n  outbox-relay dead-letters list\n  \
                            outbox-relay dead-letters replay --reason permanent --dry-run")]
    DeadLetters(dead_letters::Args),
    /// Show how a relay is: lag and W of its tables, owner, breaker, dead letters.
    Status(status::Args),
    /// Ask a running relay whether it is well; for health checks of containers.
    Healthcheck(healthcheck::Args),
    /// Look at the configuration.
    #[command(
        subcommand,
        after_help = "Examples:\n  outbox-relay config print\n  \
                                        outbox-relay config reference > relay.yaml"
    )]
    Config(ConfigCommand),
    /// Print completions for a shell.
    Completions(completions::Args),
    /// Print the manual page, or write the page of each command.
    Man(man::Args),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the configuration in force, without secrets.
    #[command(after_help = "Example:\n  outbox-relay config print --config relay.yaml")]
    Print {
        /// Form of the output; text is YAML.
        #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
        output: OutputFormat,
    },
    /// Print the JSON schema of a configuration file.
    #[command(after_help = "Example:\n  outbox-relay config schema > relay.schema.json")]
    Schema,
    /// Print every key with its meaning and default.
    #[command(after_help = "Example:\n  outbox-relay config reference > relay.yaml")]
    Reference,
}

/// The command line as it is described to shells and readers.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the command that the arguments name; reports an error on standard error.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match execute(&cli) {
        Ok(status) => status,
        Err(error) => {
            if let Some(error) = error.downcast_ref::<config::Error>() {
                eprintln!("{error}");
                if cli.global.config.is_empty() {
                    eprintln!(
                        "no configuration file was given: --config FILE, or OUTBOX_RELAY_CONFIG"
                    );
                }
                return ExitCode::from(BAD_CONFIG);
            }
            if out::closed(&error) {
                return ExitCode::SUCCESS;
            }
            eprintln!("outbox-relay: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(cli: &Cli) -> Result<ExitCode> {
    let done = match &cli.command {
        Command::Check(args) => {
            let _logs = telemetry::start_stderr("off");
            return block_on(check::run(&sources(cli), args));
        }
        Command::Healthcheck(args) => {
            return block_on(async { Ok(healthcheck::run(&sources(cli), args).await) });
        }
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => man::run(args),
        Command::Config(ConfigCommand::Schema) => {
            out::line(serde_json::to_string_pretty(&config::schema())?)
        }
        Command::Config(ConfigCommand::Reference) => out::text(config::reference()),
        Command::Config(ConfigCommand::Print { output }) => print_config(&load(cli)?, *output),
        #[cfg(feature = "demo")]
        Command::Demo(args) => {
            let filter = cli.global.log_level.as_deref().unwrap_or("warn");
            telemetry::filter::parse(filter).context("understand --log-level")?;
            let logs = telemetry::start_stderr(filter);
            block_on(demo::run(args, logs.level()))
        }
        Command::Run => {
            let loaded = load(cli)?;
            let logs = telemetry::start(&loaded.config.log).context("start the log")?;
            let signals =
                StopSignals::install_for_daemon().context("install the signal handlers")?;
            let level = logs.level();
            block_on(async {
                let relay = daemon::run(sources(cli), loaded, level, &signals);
                Box::pin(relay).await.map(drop).map_err(Into::into)
            })
        }
        Command::Schema(args) => {
            let config = load(cli)?.config;
            let _logs = telemetry::start_stderr("warn");
            block_on(schema::run(&config, args))
        }
        Command::Checkpoint(args) => {
            let config = Arc::new(load(cli)?.config);
            let _logs = telemetry::start_stderr("error");
            block_on(checkpoint::run(config, args))
        }
        Command::DeadLetters(args) => {
            let config = Arc::new(load(cli)?.config);
            let _logs = telemetry::start_stderr("error");
            block_on(dead_letters::run(config, args))
        }
        Command::Status(args) => {
            let _logs = telemetry::start_stderr("error");
            block_on(status::run(&sources(cli), args))
        }
        Command::Tail(args) => {
            let config = Arc::new(load(cli)?.config);
            let _logs = telemetry::start_stderr("warn");
            block_on(tail::run(config, args))
        }
    };
    done.map(|()| ExitCode::SUCCESS)
}

fn block_on<T>(task: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?
        .block_on(task)
}

fn load(cli: &Cli) -> Result<Loaded, config::Error> {
    sources(cli).load()
}

fn sources(cli: &Cli) -> Sources {
    let level = cli.global.log_level.as_ref();
    let flag = |level: &String| {
        (
            "--log-level".to_owned(),
            "log.level".to_owned(),
            level.clone(),
        )
    };
    Sources {
        files: cli.global.config.clone(),
        env: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
        set: cli.global.set.clone(),
        flags: level.map(flag).into_iter().collect(),
    }
}

fn print_config(loaded: &Loaded, output: OutputFormat) -> Result<()> {
    match output {
        OutputFormat::Text => out::text(loaded.to_yaml()?),
        OutputFormat::Json => out::line(serde_json::to_string_pretty(&loaded.to_json()?)?),
    }
}

#[cfg(test)]
mod tests;
