//! The relay as a whole: connect, run, stop.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use scylla::client::session::Session;
use scylla::statement::{Consistency, Statement};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::health::{Board, Monitor, Part, Reporter, Watched};
use super::live::Live;
use super::owner;
use super::pauses::Pauses;
use super::supervisor::{BoxError, Deadlines, Fatal, Kept, Kind, Name, Supervisor};
use super::{Chain, Phase};
use crate::checkpoint;
use crate::config::{Config, Outbox};
use crate::dead_letters::recode::Recoder;
use crate::dead_letters::replay::Replayer;
use crate::dead_letters::requests::Requests;
use crate::dead_letters::{self, Loaded};
use crate::event::TableId;
use crate::ownership::{self, Ownership, Role};
use crate::pipeline::{self, DeadLetterBox, Handle, Pipeline};
use crate::scylla as cluster;
use crate::sink::{KafkaSink, OpenError};
use crate::source::clock::Clock;
use crate::source::intake::Publish;
use crate::source::pace::Pace;
use crate::source::wake_up::{self, WakeUps};
use crate::source::{SourceContext, TableSource};
use crate::telemetry;
use crate::telemetry::journey::Journal;
use crate::telemetry::metrics::Metrics;

/// How long the last checkpoint may take. Past that the relay ends without it: what was published
/// since the one before will be published again.
const LAST_CHECKPOINT: Duration = Duration::from_secs(15);
/// What the pipeline may take beyond `shutdown.drain_timeout`, which it keeps to by itself.
const DRAIN_GRACE: Duration = Duration::from_secs(2);
/// How long giving up the relay's name may take.
const RELEASE: Duration = Duration::from_secs(2);
/// Pause between two attempts to reach ScyllaDB at the start.
const CONNECT_PAUSE: Duration = Duration::from_secs(2);
/// What the health monitor asks: every node can answer it from memory.
const PROBE: &str = "SELECT key FROM system.local WHERE key = 'local'";

/// What the surroundings of a relay may look at.
#[derive(Debug, Clone, Default)]
pub struct Hooks {
    /// Set once both clusters are connected and every table has been started; from then on it
    /// follows the board, and it is false again when a stop begins.
    pub ready: watch::Sender<bool>,
    /// The relay's counters.
    pub metrics: Arc<Metrics>,
    /// How the relay's parts fare.
    pub health: Board,
    /// The tables that a person has paused.
    pub pauses: Pauses,
    /// The relay once it is started; `None` before that and from the moment it stops.
    pub live: watch::Sender<Option<Live>>,
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
    /// The dead letters cannot be used.
    #[error("open the dead letters")]
    DeadLetters(#[source] dead_letters::Error),
    /// The relay's name cannot be claimed.
    #[error("claim the relay's name")]
    Ownership(#[from] ownership::Error),
    /// The producer cannot be made.
    #[error("open the Kafka producer")]
    Producer(#[source] OpenError),
    /// A task has ended without which nothing can be published.
    #[error(transparent)]
    Task(#[from] Fatal),
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
    let waits = hooks.health.reporter(Part::Start);
    waits.degraded("ScyllaDB has not answered yet");
    let session = tokio::select! {
        session = connect(&config, &waits) => Arc::new(session),
        () = &mut stop => return Ok(Summary { checkpointed: true, ..Summary::default() }),
    };
    let ownership = Ownership::new(
        Arc::clone(&session),
        &config.scylla.keyspace,
        &config.relay.name,
        Role::Relay,
    );
    let ownership = Arc::new(ownership.await?);
    let claimed = tokio::select! {
        until = owner::claim(&ownership, &waits) => Some(until),
        () = &mut stop => None,
    };
    let Some(until) = claimed else {
        // A claim that was under way may have been made.
        give_up(&ownership).await;
        return Ok(Summary {
            checkpointed: true,
            ..Summary::default()
        });
    };
    let started = Relay::start(&config, &hooks, session, (Arc::clone(&ownership), until)).await;
    let Ok(mut relay) = started else {
        give_up(&ownership).await;
        return started.map(|_| Summary::default());
    };
    waits.ok();
    tracing::info!(relay = %config.relay.name, tables = config.outboxes.len(), "the relay has started");
    (hooks.health).open(config.supervision.unready_when, hooks.ready.clone());

    let fatal = tokio::select! {
        fatal = relay.supervisor.watch() => Some(fatal),
        () = &mut stop => None,
    };
    hooks.health.close();
    hooks.live.send_replace(None);
    let journal = relay.journal.take();
    let lost = |fatal: &Fatal| fatal.task.kind == Kind::Lease;
    let fatal = match fatal {
        Some(fatal) if lost(&fatal) => {
            // Its new owner has begun where the last checkpoint is: every word more is one too many.
            tracing::error!("the relay ends at once, without a last checkpoint");
            drop(relay);
            close(journal).await;
            return Err(fatal.into());
        }
        other => other,
    };
    let (summary, more) = relay.stop(config.shutdown.drain_timeout).await;
    give_up(&ownership).await;
    close(journal).await;
    tracing::info!(
        published = summary.published,
        left = summary.left,
        counters = %hooks.metrics,
        checkpointed = summary.checkpointed,
        "relay has stopped"
    );
    match fatal.or(more) {
        Some(fatal) => Err(fatal.into()),
        None => Ok(summary),
    }
}

struct Relay {
    supervisor: Supervisor,
    /// What the pipeline says at its end.
    published: Arc<OnceLock<pipeline::Summary>>,
    /// Where the ways of events are told.
    journal: Option<Arc<dyn Journal>>,
}

impl Relay {
    async fn start(
        config: &Arc<Config>,
        hooks: &Hooks,
        session: Arc<Session>,
        (ownership, until): (Arc<Ownership>, Instant),
    ) -> Result<Self, Error> {
        let (keyspace, name) = (&config.scylla.keyspace, &config.relay.name);
        let store = checkpoint::Store::new(Arc::clone(&session), keyspace, name).await;
        let (extend, until) = watch::channel(until);
        let store = store.map_err(Error::Checkpoints)?.with_limit(until.clone());
        let store = Arc::new(store);
        let mut relay = Self {
            supervisor: Supervisor::new(
                config.supervision.clone(),
                hooks.health.clone(),
                Arc::clone(&hooks.metrics),
            ),
            published: Arc::default(),
            journal: telemetry::journal(config),
        };
        // From here on the name is renewed: what follows may take long.
        relay.start_lease(ownership, extend);
        let mut letters = DeadLetters::open(config, &session).await?;
        letters.store = letters.store.with_limit(until.clone());
        let health = |part| hooks.health.reporter(part);
        let sink = KafkaSink::new(config).map_err(Error::Producer)?;
        let sink = sink.with_health(health(Part::KafkaConnection));
        let metrics = Arc::clone(&hooks.metrics);
        let (handle, pipeline) =
            pipeline::new(config, Box::new(sink), Arc::clone(&metrics)).map_err(Error::Producer)?;
        let tables = letters.tables.clone();
        let pipeline = pipeline.with_dead_letters(DeadLetterBox {
            keep: Arc::new(letters.store.clone()),
            parking: letters.loaded.parking,
            tables: tables.clone(),
        });
        let mut pipeline = pipeline.with_limit(until);
        if let Some(journal) = &relay.journal {
            let headers = config.outboxes.iter();
            let headers = headers.map(|outbox| outbox.standard_headers.traceparent.clone());
            pipeline = pipeline.with_journal(Arc::clone(journal), headers.collect());
        }
        let pipeline = pipeline.with_health(health(Part::Kafka), health(Part::DeadLetters));
        relay.start_pipeline(pipeline);
        let task = Replays {
            store: letters.store.clone(),
            requests: letters.requests.clone(),
            recoder: Arc::new(Recoder::new(Arc::clone(&session), config.outboxes.clone())),
            handle: handle.clone(),
            tables,
            config: Arc::clone(config),
            metrics: Arc::clone(&metrics),
            exhausted: letters.loaded.exhausted,
        };
        let replays = Arc::new(task);
        relay.start_replays(Arc::clone(&replays));
        let sources = Sources {
            pace: Arc::new(Pace::new(&config.follow)),
            clock: Arc::new(Clock::default()),
            wake_ups: relay.start_wake_up(config, &hooks.metrics),
            metrics: Arc::clone(&hooks.metrics),
            config: Arc::clone(config),
            session: Arc::clone(&session),
            store,
            handle: handle.clone(),
        };
        let mut tables = Vec::new();
        for (index, outbox) in config.outboxes.iter().enumerate() {
            let watched = Watched {
                table: outbox.table.to_string(),
                progress: Arc::default(),
                pause: hooks.pauses.of(&outbox.table.to_string()),
            };
            let source = sources.source(index, outbox, &watched);
            tables.push(watched);
            relay.start_source(Name::source(&outbox.table), source);
        }
        hooks.live.send_replace(Some(Live {
            session: Arc::clone(&session),
            letters: letters.store,
            requests: letters.requests,
            tables: tables.clone().into(),
            handle,
            replays,
        }));
        relay.start_monitor(config, &hooks.health, tables, session, metrics);
        Ok(relay)
    }

    /// The pipeline is run once: what it holds in flight does not outlive it.
    fn start_pipeline(&mut self, pipeline: Pipeline) {
        let published = Arc::clone(&self.published);
        let pipeline = Kept::new(pipeline);
        self.supervisor.start(Kind::Pipeline, move |phase| {
            let published = Arc::clone(&published);
            let pipeline = pipeline.take();
            async move {
                let _ = published.set(pipeline?.run(phase).await);
                Ok::<(), BoxError>(())
            }
        });
    }

    fn start_lease(&mut self, ownership: Arc<Ownership>, until: watch::Sender<Instant>) {
        let until = Arc::new(until);
        self.supervisor.start(Kind::Lease, move |_| {
            let (ownership, until) = (Arc::clone(&ownership), Arc::clone(&until));
            async move { owner::hold(&ownership, &until).await }
        });
    }

    /// Without a place for hints there are none, and no task.
    fn start_wake_up(&mut self, config: &Config, metrics: &Arc<Metrics>) -> Option<WakeUps> {
        let address = Arc::new(config.follow.wake_up.clone()?);
        let wake_ups = WakeUps::new(Arc::clone(metrics));
        let passed = wake_ups.clone();
        self.supervisor.start(Kind::WakeUp, move |_| {
            let (address, wake_ups) = (Arc::clone(&address), passed.clone());
            async move {
                wake_up::listen(&address, &wake_ups)
                    .await
                    .map(|never| match never {})
            }
        });
        Some(wake_ups)
    }

    fn start_replays(&mut self, replays: Arc<Replays>) {
        self.supervisor.start(Kind::Replayer, move |phase| {
            let task = replays.task(phase.clone());
            async move { task.run(phase).await }
        });
    }

    fn start_source(&mut self, name: Name, source: TableSource<Publish>) {
        let source = Arc::new(source);
        self.supervisor.start(name, move |phase| {
            let source = Arc::clone(&source);
            async move { source.run(phase).await }
        });
    }

    fn start_monitor(
        &mut self,
        config: &Config,
        board: &Board,
        tables: Vec<Watched>,
        session: Arc<Session>,
        metrics: Arc<Metrics>,
    ) {
        let probe = move || {
            let session = Arc::clone(&session);
            let mut probe = Statement::new(PROBE);
            probe.set_consistency(Consistency::One);
            probe.set_is_idempotent(true);
            async move {
                let answer = session.query_unpaged(probe, ()).await;
                answer.map(drop).map_err(BoxError::from)
            }
        };
        let settings = config.supervision.clone();
        let monitor = Arc::new(Monitor::new(
            board.clone(),
            settings,
            tables,
            metrics,
            probe,
        ));
        self.supervisor.start(Kind::HealthMonitor, move |phase| {
            let monitor = Arc::clone(&monitor);
            async move { monitor.run(phase).await }
        });
    }

    /// Stops in order: no more reads, empty lanes, last checkpoints, then the rest.
    async fn stop(mut self, drain_timeout: Duration) -> (Summary, Option<Fatal>) {
        let deadlines = Deadlines {
            drain: drain_timeout.saturating_add(DRAIN_GRACE),
            finish: LAST_CHECKPOINT,
        };
        let stopped = self.supervisor.stop(deadlines).await;
        for task in &stopped.unfinished {
            tracing::warn!(
                %task,
                "no last checkpoint was saved; what was published since the one before will be \
                 published again"
            );
        }
        let published = self.published.get();
        let summary = Summary {
            published: published.map_or(0, |pipeline| pipeline.published),
            left: published.map_or(0, |pipeline| pipeline.left),
            checkpointed: stopped.unfinished.is_empty(),
        };
        (summary, stopped.fatal)
    }
}

/// Passes on what a journal holds. Nobody waits for it: the relay's name is free already.
async fn close(journal: Option<Arc<dyn Journal>>) {
    if let Some(journal) = journal {
        // What is lost of it is no reason to fail.
        drop(tokio::task::spawn_blocking(move || journal.close()).await);
    }
}

/// Gives the relay's name to whoever wants it next. If that fails, the lease ends by itself.
async fn give_up(ownership: &Ownership) {
    let released = timeout(RELEASE, ownership.release()).await;
    if let Ok(Err(error)) = released {
        tracing::warn!(error = %Chain(&error), "the relay's name was not given up");
    }
}

/// What is known of the dead letters at the start.
struct DeadLetters {
    store: dead_letters::Store,
    requests: Requests,
    loaded: Loaded,
    tables: Vec<String>,
}

impl DeadLetters {
    async fn open(config: &Config, session: &Arc<Session>) -> Result<Self, Error> {
        let (keyspace, name) = (&config.scylla.keyspace, &config.relay.name);
        let store = dead_letters::Store::new(Arc::clone(session), keyspace, name).await;
        let store = store.map_err(Error::DeadLetters)?;
        let requests = Requests::new(Arc::clone(session), keyspace, name).await;
        let tables = config.tables();
        let limit = config.dead_letters.max_parked_keys.get();
        let loaded = dead_letters::load(&store, &tables, limit).await;
        Ok(Self {
            store,
            requests: requests.map_err(Error::DeadLetters)?,
            loaded: loaded.map_err(Error::DeadLetters)?,
            tables,
        })
    }
}

/// What the task that replays dead letters is made of, at each of its starts.
pub(super) struct Replays {
    store: dead_letters::Store,
    requests: Requests,
    recoder: Arc<Recoder>,
    handle: Handle,
    tables: Vec<String>,
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    exhausted: bool,
}

impl Replays {
    fn task(&self, phase: watch::Receiver<Phase>) -> dead_letters::task::Task {
        dead_letters::task::Task {
            replayer: self.replayer(phase),
            requests: self.requests.clone(),
            config: self.config.dead_letters.clone(),
            metrics: Arc::clone(&self.metrics),
            exhausted: self.exhausted,
        }
    }

    pub(super) fn replayer(&self, phase: watch::Receiver<Phase>) -> Replayer {
        Replayer {
            store: self.store.clone(),
            handle: self.handle.clone(),
            tables: self.tables.clone(),
            concurrency: self.config.dead_letters.replay_concurrency.get(),
            recoder: Arc::clone(&self.recoder),
            phase,
        }
    }
}

/// What the sources of all tables share.
struct Sources {
    config: Arc<Config>,
    session: Arc<Session>,
    store: Arc<checkpoint::Store>,
    handle: Handle,
    metrics: Arc<Metrics>,
    pace: Arc<Pace>,
    clock: Arc<Clock>,
    wake_ups: Option<WakeUps>,
}

impl Sources {
    fn source(&self, index: usize, outbox: &Outbox, watched: &Watched) -> TableSource<Publish> {
        let outbox = Arc::new(outbox.clone());
        let intake = Publish {
            table: TableId(index as u16),
            outbox: Arc::clone(&outbox),
            handle: self.handle.clone(),
            metrics: Arc::clone(&self.metrics),
            follow: self.config.follow.clone(),
        };
        TableSource::new(SourceContext {
            session: Arc::clone(&self.session),
            outbox,
            config: Arc::clone(&self.config),
            intake,
            checkpoints: Some(Arc::clone(&self.store)),
            metrics: Arc::clone(&self.metrics),
            pace: Arc::clone(&self.pace),
            clock: Arc::clone(&self.clock),
            progress: Arc::clone(&watched.progress),
            wake_ups: self.wake_ups.clone(),
            pause: watched.pause.clone(),
        })
    }
}

async fn connect(config: &Config, waits: &Reporter) -> Session {
    loop {
        match cluster::connect(&config.scylla).await {
            Ok(session) => return session,
            Err(error) => {
                waits.degraded(format!("ScyllaDB cannot be reached: {}", Chain(&error)));
                tracing::error!(
                    error = %Chain(&error),
                    remedy = error.remedy(),
                    retry_in_s = CONNECT_PAUSE.as_secs(),
                    "ScyllaDB cannot be reached"
                );
            }
        }
        tokio::time::sleep(CONNECT_PAUSE).await;
    }
}
