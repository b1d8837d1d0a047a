//! The relay as a whole: connect, run, stop.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use scylla::client::session::Session;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;

use super::Phase;
use super::restart::{self, Chain};
use crate::checkpoint;
use crate::config::Config;
use crate::event::TableId;
use crate::pipeline::{self, Handle, Pipeline};
use crate::scylla as cluster;
use crate::sink::{KafkaSink, OpenError};
use crate::source::clock::Clock;
use crate::source::intake::Publish;
use crate::source::{SourceContext, TableSource};
use crate::telemetry::metrics::Metrics;

/// How long the last checkpoint may take. Past that the relay ends without it: what was published
/// since the one before will be published again.
const LAST_CHECKPOINT: Duration = Duration::from_secs(15);
/// Pause between two attempts to reach ScyllaDB at the start.
const CONNECT_PAUSE: Duration = Duration::from_secs(2);

/// What the surroundings of a relay may look at.
#[derive(Debug, Clone, Default)]
pub struct Hooks {
    /// Set once both clusters are connected and every table has been started.
    pub ready: watch::Sender<bool>,
    /// The relay's counters.
    pub metrics: Arc<Metrics>,
}

/// What a relay did, told at its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Records that Kafka has acknowledged.
    pub published: u64,
    /// Events that were read and not published when the deadline of the stop passed. They are
    /// read again at the next start.
    pub left: u64,
    /// Whether every table has saved its last checkpoint.
    pub checkpointed: bool,
}

/// Why a relay ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The relay's own tables cannot be used.
    #[error("open the relay's own tables")]
    Checkpoints(#[source] checkpoint::Error),
    /// The producer cannot be made.
    #[error("open the Kafka producer")]
    Producer(#[source] OpenError),
    /// A part has panicked.
    #[error("a part of the relay has panicked")]
    Panic(#[source] JoinError),
    /// The pipeline has ended although nobody asked it to.
    #[error("the pipeline has ended by itself")]
    PipelineEnded,
}

enum Ended {
    Pipeline(pipeline::Summary),
    Source { checkpointed: bool },
}

/// Runs a relay until `stop` resolves, then stops it in order.
///
/// While ScyllaDB cannot be reached at the start, it tries again and again.
///
/// # Errors
///
/// When the relay's own tables or the producer's settings cannot be used, or when a part fails in
/// a way that no restart can mend. What was published by then is not lost, and some of it may be
/// published again by the next run.
pub async fn run(
    config: Arc<Config>,
    hooks: Hooks,
    stop: impl Future<Output = ()>,
) -> Result<Summary, Error> {
    tokio::pin!(stop);
    let session = tokio::select! {
        session = connect(&config) => Arc::new(session),
        () = &mut stop => return Ok(Summary { checkpointed: true, ..Summary::default() }),
    };
    let store = checkpoint::Store::new(
        Arc::clone(&session),
        &config.scylla.keyspace,
        &config.relay.name,
    );
    let store = Arc::new(store.await.map_err(Error::Checkpoints)?);
    let sink = KafkaSink::new(&config).map_err(Error::Producer)?;
    let metrics = Arc::clone(&hooks.metrics);
    let (handle, pipeline) =
        pipeline::new(&config, Box::new(sink), metrics).map_err(Error::Producer)?;

    let (phase, phases) = watch::channel(Phase::Running);
    let mut relay = Relay {
        tasks: JoinSet::new(),
        phase,
        summary: Summary::default(),
    };
    relay.start_pipeline(pipeline, phases.clone());
    relay.start_sources(&config, &hooks, &session, &store, &handle, &phases);
    drop((handle, phases));
    tracing::info!(relay = %config.relay.name, tables = config.outboxes.len(), "relay is ready");
    hooks.ready.send_replace(true);

    let ended = tokio::select! {
        ended = relay.watch() => Err(ended),
        () = &mut stop => Ok(()),
    };
    relay.drain().await?;
    tracing::info!(
        published = relay.summary.published,
        left = relay.summary.left,
        checkpointed = relay.summary.checkpointed,
        "relay has stopped"
    );
    ended.map(|()| relay.summary)
}

struct Relay {
    tasks: JoinSet<Ended>,
    phase: watch::Sender<Phase>,
    summary: Summary,
}

impl Relay {
    fn start_pipeline(&mut self, pipeline: Pipeline, phases: watch::Receiver<Phase>) {
        self.tasks
            .spawn(async move { Ended::Pipeline(pipeline.run(phases).await) });
    }

    fn start_sources(
        &mut self,
        config: &Arc<Config>,
        hooks: &Hooks,
        session: &Arc<Session>,
        store: &Arc<checkpoint::Store>,
        handle: &Handle,
        phases: &watch::Receiver<Phase>,
    ) {
        let reads = Arc::new(Semaphore::new(config.follow.concurrent_reads.get()));
        let clock = Arc::new(Clock::default());
        for (index, outbox) in config.outboxes.iter().enumerate() {
            let outbox = Arc::new(outbox.clone());
            let what = format!("the source of {}", outbox.table);
            let intake = Publish {
                table: TableId(index as u16),
                outbox: Arc::clone(&outbox),
                handle: handle.clone(),
                metrics: Arc::clone(&hooks.metrics),
            };
            let source = TableSource::new(SourceContext {
                session: Arc::clone(session),
                outbox,
                config: Arc::clone(config),
                intake,
                checkpoints: Some(Arc::clone(store)),
                metrics: Arc::clone(&hooks.metrics),
                reads: Arc::clone(&reads),
                clock: Arc::clone(&clock),
            });
            let phases = phases.clone();
            self.tasks.spawn(async move {
                let run = || source.run(phases.clone());
                let checkpointed = restart::until_stopped(&what, phases.clone(), run).await;
                Ended::Source { checkpointed }
            });
        }
    }

    /// Resolves when a part ends although the relay runs.
    async fn watch(&mut self) -> Error {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(Ended::Source { .. })) => {}
                Some(Ok(Ended::Pipeline(summary))) => {
                    self.note(&Ended::Pipeline(summary));
                    return Error::PipelineEnded;
                }
                None => return Error::PipelineEnded,
                Some(Err(panic)) => return Error::Panic(panic),
            }
        }
    }

    /// Stops in order: no more reads, empty lanes, last checkpoint.
    async fn drain(&mut self) -> Result<(), Error> {
        self.summary.checkpointed = true;
        let sources = self.tasks.len().saturating_sub(1);
        let mut ended = 0;
        self.phase.send_replace(Phase::Draining);
        // The pipeline itself keeps to `shutdown.drain_timeout`.
        while let Some(task) = self.tasks.join_next().await {
            match task.map_err(Error::Panic)? {
                summary @ Ended::Pipeline(_) => {
                    self.note(&summary);
                    break;
                }
                source @ Ended::Source { .. } => {
                    ended += 1;
                    self.note(&source);
                }
            }
        }
        self.phase.send_replace(Phase::Finishing);
        let last = async {
            while let Some(task) = self.tasks.join_next().await {
                ended += 1;
                self.note(&task.map_err(Error::Panic)?);
            }
            Ok(())
        };
        let Ok(finished) = timeout(LAST_CHECKPOINT, last).await else {
            self.summary.checkpointed = false;
            tracing::warn!(
                sources_left = sources.saturating_sub(ended),
                "the last checkpoint took too long; what it held will be published again"
            );
            return Ok(());
        };
        finished
    }

    fn note(&mut self, ended: &Ended) {
        match ended {
            Ended::Pipeline(summary) => {
                self.summary.published = summary.published;
                self.summary.left = summary.left;
            }
            Ended::Source { checkpointed } => self.summary.checkpointed &= *checkpointed,
        }
    }
}

async fn connect(config: &Config) -> Session {
    loop {
        match cluster::connect(&config.scylla).await {
            Ok(session) => return session,
            Err(error) => tracing::error!(
                error = %Chain(&error),
                retry_in_s = CONNECT_PAUSE.as_secs(),
                "ScyllaDB cannot be reached"
            ),
        }
        tokio::time::sleep(CONNECT_PAUSE).await;
    }
}
