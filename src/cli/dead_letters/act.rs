//! `replay` and `discard`: by the running relay, or here.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use scylla::client::session::Session;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::cli::{OutputFormat, claim, out};
use crate::config::Config;
use crate::dead_letters::extent::Asked;
use crate::dead_letters::recode::Recoder;
use crate::dead_letters::replay::{Order, Progress, Replayer};
use crate::dead_letters::requests::{Requests, State};
use crate::dead_letters::{self, Store, view};
use crate::ownership::{Claim, Ownership, Role};
use crate::pipeline::{self, DeadLetterBox};
use crate::runtime::Phase;
use crate::runtime::signals::StopSignals;
use crate::sink::KafkaSink;
use crate::telemetry::metrics::Metrics;

/// Pause between two looks at what a running relay has done.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// Pause between two looks at whether the relay still runs.
const OWNER_EVERY: Duration = Duration::from_secs(5);

pub(super) async fn run(
    config: Arc<Config>,
    session: Arc<Session>,
    store: Store,
    order: Order,
    output: OutputFormat,
) -> Result<()> {
    let here = Here {
        config: Arc::clone(&config),
        session: Arc::clone(&session),
        store,
        order: order.clone(),
        until: None,
    };
    let progress = if order.dry_run {
        here.carry_out().await?
    } else {
        let (keyspace, name) = (&config.scylla.keyspace, &config.relay.name);
        let ownership = Ownership::new(Arc::clone(&session), keyspace, name, Role::Command);
        let ownership = ownership.await?;
        let requests = Requests::new(session, keyspace, name).await?;
        let began = Instant::now();
        match ownership.claim().await? {
            Claim::Ours => Box::pin(owned(&ownership, began, here)).await?,
            Claim::Held(holder) if holder.is_relay() => {
                match ask(&ownership, &requests, &order, output).await? {
                    Some(progress) => progress,
                    // The relay has stopped without it, and the name is ours now.
                    None => Box::pin(owned(&ownership, Instant::now(), here)).await?,
                }
            }
            Claim::Held(holder) => {
                bail!("dead letters are in the hands of {holder}: try again later")
            }
        }
    };
    match output {
        OutputFormat::Text => out::line(view::summary(order.action, order.dry_run, &progress))?,
        OutputFormat::Json => out::line(serde_json::to_string(&progress)?)?,
    }
    if progress.failed > 0 {
        bail!(
            "{} failed again; `list` and `show` say why",
            progress.failed
        );
    }
    if progress.postponed > 0 {
        bail!("{} keys were put off: try again later", progress.postponed);
    }
    Ok(())
}

/// Works while the name is ours, and gives it back.
async fn owned(ownership: &Ownership, began: Instant, here: Here) -> Result<Progress> {
    let work = async |until| {
        let until = Some(until);
        Here { until, ..here }.carry_out().await
    };
    Box::pin(claim::owned(ownership, began, work)).await
}

struct Here {
    config: Arc<Config>,
    session: Arc<Session>,
    store: Store,
    order: Order,
    /// Until when the relay's name is ours; a dry run needs none.
    until: Option<watch::Receiver<Instant>>,
}

impl Here {
    /// Replays with a pipeline of its own, until it is done or a signal comes.
    async fn carry_out(self) -> Result<Progress> {
        let Self {
            config,
            session,
            store,
            order,
            until,
        } = self;
        let signals = StopSignals::install().context("install the signal handlers")?;
        let tables = config.tables();
        let limit = config.dead_letters.max_parked_keys.get();
        let loaded = dead_letters::load(&store, &tables, limit).await?;
        let store = match &until {
            Some(until) => store.with_limit(until.clone()),
            None => store,
        };
        let sink = KafkaSink::new(&config)?;
        let (handle, pipeline) =
            pipeline::new(&config, Box::new(sink), Arc::new(Metrics::default()))?;
        let pipeline = pipeline.with_dead_letters(DeadLetterBox {
            keep: Arc::new(store.clone()),
            // What is parked stays so, and what a replay releases is released.
            parking: loaded.parking,
            tables: tables.clone(),
        });
        let pipeline = match until {
            Some(until) => pipeline.with_limit(until),
            None => pipeline,
        };
        let (phase, phases) = watch::channel(Phase::Running);
        let mut running = JoinSet::new();
        running.spawn(pipeline.run(phases.clone()));
        let replayer = Replayer {
            store,
            handle,
            tables,
            concurrency: config.dead_letters.replay_concurrency.get(),
            recoder: Arc::new(Recoder::new(session, config.outboxes.clone())),
            phase: phases,
        };
        let (progress, _) = watch::channel(Progress::default());
        let work = replayer.carry_out(&order, Asked::ByPerson, &progress);
        tokio::pin!(work);
        let outcome = tokio::select! {
            outcome = &mut work => outcome,
            () = signals.stop() => {
                phase.send_replace(Phase::Draining);
                work.await
            }
        };
        phase.send_replace(Phase::Draining);
        while running.join_next().await.is_some() {}
        Ok(outcome?)
    }
}

/// Asks the running relay, and waits until it is done. `None` if the relay ends before it has begun:
/// then the request is withdrawn, and the name is ours.
async fn ask(
    ownership: &Ownership,
    requests: &Requests,
    order: &Order,
    output: OutputFormat,
) -> Result<Option<Progress>> {
    let signals = StopSignals::install().context("install the signal handlers")?;
    let id = requests.ask(order).await.context("ask the running relay")?;
    if output == OutputFormat::Text {
        eprintln!("the running relay carries it out (request {id})");
    }
    let mut look_at_owner = Instant::now() + OWNER_EVERY;
    loop {
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            () = signals.stop() => {
                if requests.withdraw(id).await? {
                    bail!("interrupted; the request was withdrawn");
                }
                bail!("interrupted; the relay has begun the request and carries it out");
            }
        }
        match requests.report(id).await {
            Ok(report) => match report.state {
                State::Open | State::Running => {}
                State::Done => return Ok(Some(report.progress)),
                State::Failed => bail!(
                    "the running relay came to no end: {}",
                    report.error.unwrap_or_default()
                ),
            },
            Err(error) => tracing::warn!(%error, "a look at the request has failed"),
        }
        if Instant::now() >= look_at_owner {
            look_at_owner = Instant::now() + OWNER_EVERY;
            if ownership.claim().await? == Claim::Ours {
                if requests.withdraw(id).await? {
                    return Ok(None);
                }
                ownership.release().await?;
                bail!("the relay has ended in the middle of it; it goes on at its next start");
            }
        }
    }
}
