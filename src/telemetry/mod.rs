//! Logs and counters.
//!
//! Owns the set-up of `tracing` and the counters that the parts raise. Never holds a payload, a
//! key or a secret. Lines go to standard error and, if asked for, to files that a thread of their
//! own writes: when a disk is full or slow, lines are lost and the relay goes on.

pub mod metrics;

use std::{fs, io};

use tracing_appender::non_blocking::WorkerGuard;
use tracing_appender::rolling::{InitError, RollingFileAppender, Rotation};
use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

use crate::config::{Log, LogFile, LogFormat, LogRotation};

/// Why the log cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `log.level` is no filter.
    #[error("understand log.level")]
    Filter(#[from] ParseError),
    /// A log file cannot be made.
    #[error("open a log file in log.file.dir")]
    File(#[from] InitError),
}

/// Keeps the log files open; what is still to be written is written when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Guard {
    _worker: Option<WorkerGuard>,
}

/// Starts the log as configured.
pub fn start(log: &Log) -> Result<Guard, Error> {
    let filter = EnvFilter::try_new(&log.level)?;
    let (file, worker) = match &log.file {
        None => (None, None),
        Some(file) => {
            let (writer, worker) = tracing_appender::non_blocking(appender(file)?);
            let layer = fmt::layer().with_ansi(false).with_writer(writer);
            (Some(formed(layer, log.format)), Some(worker))
        }
    };
    let stderr = formed(
        fmt::layer().with_ansi(false).with_writer(io::stderr),
        log.format,
    );
    let layers: Vec<_> = file.into_iter().chain([stderr]).collect();
    // A log that is already there, as in tests, stays.
    let _ = tracing_subscriber::registry()
        .with(layers)
        .with(filter)
        .try_init();
    Ok(Guard { _worker: worker })
}

/// Starts a plain log on standard error, for commands that only print.
pub fn start_stderr(filter: &str) -> Guard {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("warn"));
    let layer = fmt::layer().with_ansi(false).with_writer(io::stderr);
    let _ = tracing_subscriber::registry()
        .with(layer)
        .with(filter)
        .try_init();
    Guard { _worker: None }
}

fn appender(file: &LogFile) -> Result<RollingFileAppender, InitError> {
    let rotation = match file.rotation {
        LogRotation::Hourly => Rotation::HOURLY,
        LogRotation::Daily => Rotation::DAILY,
        LogRotation::Never => Rotation::NEVER,
    };
    // The appender makes the directory as well, but complains first that it is not there. If it
    // cannot be made, the appender says why.
    let _ = fs::create_dir_all(&file.dir);
    RollingFileAppender::builder()
        .rotation(rotation)
        .filename_prefix("outbox-relay")
        .filename_suffix("log")
        .max_log_files(file.keep.get())
        .build(&file.dir)
}

fn formed<W>(
    layer: fmt::Layer<Registry, fmt::format::DefaultFields, fmt::format::Format, W>,
    format: LogFormat,
) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'w> fmt::MakeWriter<'w> + Send + Sync + 'static,
{
    match format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().boxed(),
    }
}
