//! Logs, counters and spans.
//!
//! Owns the set-up of `tracing`, the counters that the parts raise, and the export of spans. Never
//! holds a payload, a key or a secret. Lines go to standard error and, if asked for, to files: when
//! their disk is full or slow, lines are lost and the relay goes on.

mod files;
pub mod filter;
pub mod histogram;
pub mod journey;
pub mod lateness;
pub mod metrics;
#[cfg(feature = "otlp")]
pub mod otlp;
pub mod standing;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tracing_appender::non_blocking::WorkerGuard;
use tracing_appender::rolling::InitError;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use self::filter::FilterError;
use crate::config::{Config, Log, LogFormat};
#[cfg(feature = "otlp")]
use crate::runtime::Chain;
use crate::telemetry::journey::Journal;

/// Why the log cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `log.level` is no filter.
    #[error("understand log.level")]
    Filter(#[from] FilterError),
    /// A log file cannot be made.
    #[error(
        "open a log file in {} (log.file.dir): the relay needs a directory that it may write to",
        dir.display()
    )]
    File {
        /// The directory.
        dir: PathBuf,
        /// What went wrong there.
        #[source]
        source: InitError,
    },
    /// The directory of the log files cannot be made.
    #[error("make the directory {} (log.file.dir)", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
}

/// Keeps the log files open; what is still to be written is written when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Guard {
    level: LogLevel,
    _worker: Option<WorkerGuard>,
}

impl Guard {
    /// The level, to be changed while the relay runs.
    pub fn level(&self) -> LogLevel {
        self.level.clone()
    }
}

type Change = dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync;

/// What is logged, which can change at any time. Clones share it.
#[derive(Clone)]
pub struct LogLevel {
    now: Arc<Mutex<String>>,
    change: Arc<Change>,
}

impl std::fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LogLevel").field(&self.get()).finish()
    }
}

/// Why the level stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum LevelError {
    /// It is no filter.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The log has ended.
    #[error("the log has ended")]
    Gone(#[from] reload::Error),
}

impl LogLevel {
    fn new(
        now: &str,
        change: impl Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync + 'static,
    ) -> Self {
        Self {
            now: Arc::new(Mutex::new(now.to_owned())),
            change: Arc::new(change),
        }
    }

    /// The filter in force, as it was written.
    pub fn get(&self) -> String {
        self.now
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Takes another filter.
    ///
    /// # Errors
    ///
    /// When it is none; then nothing changes.
    pub fn set(&self, level: &str) -> Result<(), LevelError> {
        let filter = filter::parse(level)?;
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        (self.change)(filter)?;
        level.clone_into(&mut now);
        Ok(())
    }
}

/// Starts the log as configured.
///
/// # Errors
///
/// When the filter is none, or when a log file cannot be made. A disk that fills up later is no
/// error.
pub fn start(log: &Log) -> Result<Guard, Error> {
    let filter = filter::parse(&log.level)?;
    let (file, worker) = match &log.file {
        None => (None, None),
        Some(file) => {
            let dir = || file.dir.clone();
            let made = std::fs::create_dir_all(&file.dir);
            made.map_err(|source| Error::Directory { dir: dir(), source })?;
            let opened = files::open(file);
            let (writer, worker) = opened.map_err(|source| Error::File { dir: dir(), source })?;
            (Some(formed(writer, log.format)), Some(worker))
        }
    };
    let stderr = formed(io::stderr, log.format);
    let layers: Vec<_> = file.into_iter().chain([stderr]).collect();
    let (filter, handle) = reload::Layer::new(filter);
    // A log that is already there, as in tests, stays.
    let _ = tracing_subscriber::registry()
        .with(layers)
        .with(filter)
        .try_init();
    Ok(Guard {
        level: LogLevel::new(&log.level, move |filter| handle.reload(filter)),
        _worker: worker,
    })
}

/// Starts a plain log on standard error, for commands that only print.
pub fn start_stderr(level: &str) -> Guard {
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("warn"));
    let layer = fmt::layer().with_ansi(false).with_writer(io::stderr);
    let (filter, handle) = reload::Layer::new(filter);
    let _ = tracing_subscriber::registry()
        .with(layer)
        .with(filter)
        .try_init();
    Guard {
        level: LogLevel::new(level, move |filter| handle.reload(filter)),
        _worker: None,
    }
}

/// Where journeys are told: nowhere, unless the configuration asks for spans. Without an exporter the
/// relay publishes all the same.
#[cfg(feature = "otlp")]
pub fn journal(config: &Config) -> Option<Arc<dyn Journal>> {
    let otlp = config.otlp.as_ref()?;
    match otlp::Spans::start(otlp, &config.relay.name) {
        Ok(spans) => Some(Arc::new(spans)),
        Err(error) => {
            let error = Chain(&error);
            tracing::error!(%error, "no spans are exported");
            None
        }
    }
}

/// Nowhere: the program was built without the feature `otlp`.
#[cfg(not(feature = "otlp"))]
pub fn journal(_: &Config) -> Option<Arc<dyn Journal>> {
    None
}

fn formed<W>(writer: W, format: LogFormat) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // An error of the writer must stay silent: by default it would be printed to standard error,
    // which panics if that is what cannot be written.
    let layer = fmt::layer()
        .with_ansi(false)
        .log_internal_errors(false)
        .with_writer(writer);
    match format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().boxed(),
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;
    use crate::config::{LogFile, LogRotation};

    #[test]
    fn a_log_directory_that_cannot_be_used_is_an_error_that_names_it() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let log = Log {
            level: "info".to_owned(),
            format: LogFormat::Text,
            file: Some(LogFile {
                dir: file.path().join("logs"),
                rotation: LogRotation::Daily,
                keep: 7.try_into().expect("not zero"),
            }),
        };
        let error = start(&log).expect_err("a file holds no directory");
        let text = error.to_string();
        assert!(text.contains(&*file.path().to_string_lossy()), "{text}");
        assert!(text.contains("log.file.dir") && error.source().is_some());
    }
}
