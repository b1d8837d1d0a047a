//! `outbox-relay demo`: database, broker, order service, relay and consumer in one process.
//!
//! Owns the assembly and what is printed. The database is the emulator, the broker librdkafka's
//! mock cluster; the relay is the very one that `run` starts.

mod consumer;
mod report;

use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use order_service::{Acknowledged, OrderService, Workload};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use scylla_emulator::Emulator;
use tempfile::NamedTempFile;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use uuid::Uuid;

use self::consumer::Consumer;
use self::report::{Arrival, Delivered, Report, Summary};
use super::OutputFormat;
use crate::config::{Config, Secret, Sources};
use crate::dead_letters::replay::Order;
use crate::http;
use crate::runtime::daemon::{Current, Reloads};
use crate::runtime::health::Board;
use crate::runtime::{self, signals::StopSignals};
use crate::scylla as cluster;
use crate::telemetry::LogLevel;
use crate::telemetry::metrics::Metrics;

const KEYSPACE: &str = "shop";
const TOPIC: &str = "outbox.event.order";
const PARTITIONS: i32 = 6;
/// How long the last events may take to arrive before the demo gives up.
const ARRIVAL_DEADLINE: Duration = Duration::from_mins(1);
/// How long a record that nobody waits for may take to show itself as a duplicate.
const SETTLE: Duration = Duration::from_millis(500);

/// Arguments of `demo`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  outbox-relay demo\n  outbox-relay demo --refuse 200\n  \
                  outbox-relay demo --events 100 --output json"
)]
pub struct Args {
    /// Stop after this many events; without it the demo runs until Ctrl-C.
    #[arg(long)]
    pub events: Option<u64>,
    /// Events written per second.
    #[arg(long, default_value = "50")]
    pub rate: NonZeroU32,
    /// Once so many events are published, the broker refuses some for good: they become dead
    /// letters, to be found, understood and replayed on the page or in the shell. What is left of
    /// them is replayed at the end.
    #[arg(long, value_name = "AFTER")]
    pub refuse: Option<u64>,
    /// Where the page is; another port is taken if this one is not free.
    #[arg(long, default_value = "127.0.0.1:9464")]
    pub listen: SocketAddr,
    /// Form of the output: text has a line per event, json has the summary only.
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    pub output: OutputFormat,
}

/// Runs the demo to its end.
pub async fn run(args: &Args, logs: LogLevel) -> Result<()> {
    let text = args.output == OutputFormat::Text;
    let say = |line: String| {
        if text {
            println!("{line}");
        }
    };
    let signals = StopSignals::install().context("install the signal handlers")?;
    let emulator = Emulator::builder()
        .start()
        .await
        .context("start the database emulator")?;
    let node = emulator.address().to_string();
    say(format!("database   ScyllaDB emulator on {node}"));
    let broker = start_broker()?;
    let brokers = broker.bootstrap_servers();
    say(format!("broker     mock Kafka on {brokers}"));

    let service = start_service(&node).await?;
    let listener = listen(args.listen).await?;
    let file = configuration_file(&node, &brokers, listener.local_addr()?)?;
    let config = relay_config(file.path())?;
    let session = cluster::connect(&config.scylla).await?;
    super::schema::create_missing(&session, &config, None).await?;
    drop(session);
    let mut tasks = JoinSet::new();
    let (stop_relay, stopped) = watch::channel(false);
    let hooks = runtime::Hooks::default();
    let mut is_ready = hooks.ready.subscribe();
    let mut page = JoinSet::new();
    let address = serve_page(&mut page, listener, &config, &hooks, logs)?;
    tasks.spawn(runtime::run(config, hooks.clone(), async move {
        let mut stopped = stopped;
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }));
    timeout(ARRIVAL_DEADLINE, is_ready.wait_for(|ready| *ready))
        .await
        .context("the relay did not get ready")?
        .context("the relay ended before it was ready")?;
    say(format!(
        "relay      {KEYSPACE}.outbox_messages to topic {TOPIC}"
    ));
    say(format!("page       {address}"));
    say(format!(
        "shell      outbox-relay dead-letters list --config {}",
        file.path().display()
    ));
    let (consumer, arrivals) = Consumer::start(&brokers, TOPIC, PARTITIONS)?;

    let mut watcher = Watcher {
        report: Report::default(),
        arrivals,
        say: &say,
        refusal: args.refuse.map(|after| Refusal {
            after,
            broker: &broker,
            metrics: Arc::clone(&hooks.metrics),
            begun: false,
        }),
    };
    let written = watcher.follow(args, service, &signals).await;
    if args.refuse.is_some() && written.is_ok() {
        replay_what_is_left(&hooks).await?;
    }
    watcher.drain(written.is_ok()).await;

    stop_relay.send_replace(true);
    while let Some(ended) = tasks.join_next().await {
        ended
            .context("the relay's task")?
            .context("run the relay")?;
    }
    // The relay has stopped cleanly: what still comes would be a duplicate.
    watcher.listen(SETTLE).await;
    drop(consumer);
    written.context("write orders")?;
    finish(&watcher.report.summary(), args)
}

fn finish(summary: &Summary, args: &Args) -> Result<()> {
    match args.output {
        OutputFormat::Json => println!("{}", serde_json::to_string(summary)?),
        OutputFormat::Text => {
            let latency = &summary.latency_ms;
            println!(
                "\n{} written, {} published, {} duplicates, {} out of order",
                summary.written, summary.published, summary.duplicates, summary.out_of_order
            );
            println!(
                "from the write's acknowledgement to the consumer: p50 {} ms, p90 {} ms, \
                 p99 {} ms, max {} ms",
                latency.p50, latency.p90, latency.p99, latency.max
            );
        }
    }
    let wrong = summary.published != summary.written
        || summary.duplicates + summary.out_of_order > 0
        || args.events.is_some_and(|events| summary.written > events);
    if wrong {
        bail!("the demo did not go as promised");
    }
    Ok(())
}

fn start_broker() -> Result<MockCluster<'static, DefaultProducerContext>> {
    let broker = MockCluster::new(1).context("start the mock broker")?;
    broker
        .create_topic(TOPIC, PARTITIONS, 1)
        .context("create the topic")?;
    Ok(broker)
}

async fn start_service(node: &str) -> Result<Arc<OrderService>> {
    let session = order_service::session(&[node.to_owned()]).await?;
    order_service::create_schema(&session, KEYSPACE, 1).await?;
    Ok(Arc::new(
        OrderService::new(Arc::new(session), KEYSPACE).await?,
    ))
}

/// The relay's configuration as a file, so that the commands of a shell can use it as well.
fn configuration_file(node: &str, brokers: &str, page: SocketAddr) -> Result<NamedTempFile> {
    let mut file = tempfile::Builder::new()
        .prefix("outbox-relay-demo-")
        .suffix(".yaml")
        .tempfile()
        .context("a file for the demo's configuration")?;
    write!(
        file,
        "relay: {{ name: demo }}\nscylla: {{ nodes: [\"{node}\"] }}\n\
         kafka: {{ brokers: \"{brokers}\" }}\nhttp: {{ listen: \"{page}\" }}\n\
         outboxes: [{{ table: {KEYSPACE}.outbox_messages, topic: {TOPIC} }}]\n"
    )?;
    Ok(file)
}

fn relay_config(file: &Path) -> Result<Arc<Config>> {
    let sources = Sources {
        files: vec![file.to_owned()],
        ..Sources::default()
    };
    Ok(Arc::new(
        sources.load().context("the demo's configuration")?.config,
    ))
}

/// A socket for the page: at this address, or at another port if that one is taken.
async fn listen(address: SocketAddr) -> Result<TcpListener> {
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind((address.ip(), 0))
            .await
            .context("listen for the page"),
    }
}

/// Serves the page while the demo runs; gives the address to open, with a token of this demo.
fn serve_page(
    tasks: &mut JoinSet<Infallible>,
    listener: TcpListener,
    config: &Arc<Config>,
    hooks: &runtime::Hooks,
    level: LogLevel,
) -> Result<String> {
    let address = listener.local_addr()?;
    let token = Uuid::new_v4().simple().to_string();
    let current = Current {
        config: Arc::clone(config),
        hooks: hooks.clone(),
    };
    let state = http::State::new(http::Parts {
        current: watch::Sender::new(current).subscribe(),
        around: Board::default(),
        token: watch::Sender::new(Some(Secret::new(token.clone()))).subscribe(),
        reloads: Reloads::none(),
        level,
    });
    let settings = config.http.clone();
    tasks.spawn(async move { http::serve_on(&listener, &settings, state).await });
    Ok(format!("http://{address}/#token={token}"))
}

/// Has the relay publish the dead letters that nobody has replayed.
async fn replay_what_is_left(hooks: &runtime::Hooks) -> Result<()> {
    let live = hooks.live.borrow().clone().context("the relay has ended")?;
    let order = Order::replay_all();
    live.requests.ask(&order).await?;
    Ok(())
}

/// When the broker refuses events for good.
struct Refusal<'b> {
    after: u64,
    broker: &'b MockCluster<'static, DefaultProducerContext>,
    metrics: Arc<Metrics>,
    begun: bool,
}

impl Refusal<'_> {
    /// Has some requests refused after each event that was published, until there is a dead letter:
    /// a refused event travels once more, alone, before it counts as refused itself.
    fn refuse(&mut self) -> Refusing {
        if self.metrics.dead_letters_permanent.get() > 0 {
            self.broker.clear_request_errors(RDKafkaApiKey::Produce);
            return Refusing::Ends;
        }
        let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_RECORD;
        (self.broker).request_errors(RDKafkaApiKey::Produce, &[error; 4]);
        if std::mem::replace(&mut self.begun, true) {
            Refusing::GoesOn
        } else {
            Refusing::Begins
        }
    }
}

/// How far a refusal has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusing {
    Begins,
    GoesOn,
    Ends,
}

/// Matches what is written with what arrives, and prints it.
struct Watcher<'s> {
    report: Report,
    arrivals: mpsc::UnboundedReceiver<Arrival>,
    say: &'s dyn Fn(String),
    refusal: Option<Refusal<'s>>,
}

impl Watcher<'_> {
    /// Lets the service write until it is done or a stop is asked for.
    async fn follow(
        &mut self,
        args: &Args,
        service: Arc<OrderService>,
        signals: &StopSignals,
    ) -> Result<()> {
        let (written, mut acknowledged) = mpsc::unbounded_channel();
        let workload = Workload {
            events: args.events.unwrap_or(u64::MAX),
            rate: Some(args.rate),
            ..Workload::default()
        };
        let writing = service.simulate(workload, move |event| {
            let _ = written.send(event);
        });
        tokio::pin!(writing);
        let outcome = loop {
            tokio::select! {
                biased;
                Some(event) = acknowledged.recv() => self.written(event),
                Some(arrival) = self.arrivals.recv() => self.arrived(&arrival),
                outcome = &mut writing => break outcome.map_err(Into::into),
                () = signals.stop() => break Ok(()),
            }
        };
        // A write that a stop has cut off may still be acknowledged by the database; it is not
        // counted as written and its record is not waited for.
        while let Ok(event) = acknowledged.try_recv() {
            self.written(event);
        }
        outcome
    }

    /// Waits until all that was written has arrived.
    async fn drain(&mut self, wait: bool) {
        let deadline = Instant::now() + ARRIVAL_DEADLINE;
        while wait && !self.report.complete() {
            match timeout_at(deadline, self.arrivals.recv()).await {
                Ok(Some(arrival)) => self.arrived(&arrival),
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Takes what arrives within `time`.
    async fn listen(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        while let Ok(Some(arrival)) = timeout_at(deadline, self.arrivals.recv()).await {
            self.arrived(&arrival);
        }
    }

    fn written(&mut self, event: Acknowledged) {
        let delivered = self.report.written(event);
        self.print(delivered);
    }

    fn arrived(&mut self, arrival: &Arrival) {
        let delivered = self.report.arrived(arrival);
        self.print(delivered);
        let published = self.report.delivered();
        let due = |refusal: &&mut Refusal<'_>| published >= refusal.after;
        match self.refusal.as_mut().filter(due).map(Refusal::refuse) {
            None | Some(Refusing::GoesOn) => {}
            Some(Refusing::Begins) => (self.say)("broker     refuses some events".to_owned()),
            Some(Refusing::Ends) => {
                (self.say)("broker     takes all events again; see the dead letters".to_owned());
                self.refusal = None;
            }
        }
    }

    fn print(&self, delivered: Option<Delivered>) {
        let Some(Delivered { event, latency }) = delivered else {
            return;
        };
        (self.say)(format!(
            "{}  order {}  #{:<2} {:<16} {:>7.1} ms",
            event.event_id,
            event.order_id,
            event.sequence_number,
            event.event_type,
            latency.as_secs_f64() * 1e3
        ));
    }
}
