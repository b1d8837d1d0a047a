//! Resolved configuration: what every other module reads.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use scylla::statement::Consistency;

/// Everything the relay needs to know, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who this relay is.
    pub relay: Relay,
    /// The ScyllaDB cluster.
    pub scylla: Scylla,
    /// The Kafka cluster.
    pub kafka: Kafka,
    /// The outbox tables; at least one.
    pub outboxes: Vec<Outbox>,
    /// How the log is followed.
    pub follow: Follow,
    /// What happens to an attempt that fails.
    pub retry: Retry,
    /// When Kafka itself is taken to be at fault.
    pub breaker: Breaker,
    /// What becomes of events that could not be published.
    pub dead_letters: DeadLetters,
    /// How progress is saved.
    pub checkpoint: Checkpoint,
    /// Bounds on what is in flight.
    pub limits: Limits,
    /// How the relay stops.
    pub shutdown: Shutdown,
    /// Where logs go.
    pub log: Log,
    /// The HTTP server.
    pub http: Http,
    /// Where spans go, if anywhere.
    pub otlp: Option<Otlp>,
    /// What happens when a task fails.
    pub supervision: Supervision,
}

impl Config {
    /// Names of the outbox tables, in their order.
    pub fn tables(&self) -> Vec<String> {
        let outboxes = self.outboxes.iter();
        outboxes.map(|outbox| outbox.table.to_string()).collect()
    }
}

/// Who this relay is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    /// Names checkpoints, dead letters and the Kafka client id. 1 to 64 of `[A-Za-z0-9._-]`.
    pub name: String,
}

/// How ScyllaDB is reached.
#[derive(Debug, Clone)]
pub struct Scylla {
    /// Contact points, `host:port`.
    pub nodes: Vec<String>,
    /// The keyspace of the relay's own tables.
    pub keyspace: String,
    /// Consistency of every read of the log and of every write of the relay's own tables.
    pub consistency: Consistency,
    /// Datacenter that requests go to, if it is to be preferred.
    pub datacenter: Option<String>,
    /// User name, together with `password`.
    pub username: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// Encryption; `None` is plain text.
    pub tls: Option<Tls>,
    /// How long one request may take.
    pub request_timeout: Duration,
}

/// Encryption of the connections to ScyllaDB. All PEM has been read, and parsed once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The authorities that are trusted; `None` is those of the system.
    pub authorities: Option<Pem>,
    /// The relay's own certificate and key.
    pub identity: Option<Identity>,
    /// What a node's certificate must name.
    pub names: NodeNames,
}

/// Certificates as a file has them.
#[derive(Clone, PartialEq, Eq)]
pub struct Pem {
    /// The file.
    pub file: PathBuf,
    /// What it held when it was read.
    pub text: String,
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

/// A certificate and its private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate, then those that lead to its authority.
    pub certificates: Pem,
    /// The key, PEM.
    pub key: Secret,
}

/// What a node's certificate must name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeNames {
    /// The address by which the node is reached.
    Address,
    /// This DNS name.
    Dns(String),
    /// Nothing: any certificate of the authorities will do.
    Any,
}

/// How Kafka is reached.
#[derive(Clone, PartialEq, Eq)]
pub struct Kafka {
    /// Bootstrap servers, `host:port`.
    pub brokers: Vec<String>,
    /// librdkafka properties of the user, applied after the relay's own defaults. What the
    /// guarantees rest on (idempotence, acks) cannot be changed.
    pub properties: BTreeMap<String, String>,
    /// Hashes of the files of TLS that properties name, by property.
    pub(crate) files: BTreeMap<String, u64>,
    /// The file of the login OAUTHBEARER's token. It changes, so that it is read when it is needed.
    pub oauth_token_file: Option<PathBuf>,
}

impl fmt::Debug for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Properties may hold passwords and keys; their names are enough.
        f.debug_struct("Kafka")
            .field("brokers", &self.brokers)
            .field("files", &self.files.keys())
            .field("properties", &self.properties.keys())
            .field("oauth_token_file", &self.oauth_token_file)
            .finish()
    }
}

/// A keyspace and a table.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName {
    /// Keyspace, as ScyllaDB stores it.
    pub keyspace: String,
    /// Table, as ScyllaDB stores it.
    pub table: String,
}

impl TableName {
    /// The name of the table's CDC log in the same keyspace.
    pub fn log_table(&self) -> String {
        format!("{}_scylla_cdc_log", self.table)
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.keyspace, self.table)
    }
}

/// One outbox table and how its rows become records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbox {
    /// The base table (its log is [`TableName::log_table`]).
    pub table: TableName,
    /// Which column plays which part.
    pub columns: Columns,
    /// Where records go.
    pub topic: TopicTemplate,
    /// Further headers.
    pub headers: Vec<HeaderMapping>,
    /// Form of the key's bytes.
    pub key_format: ValueFormat,
    /// Form of the payload's bytes.
    pub payload_format: ValueFormat,
    /// Whether a null or empty payload becomes a tombstone; otherwise it is an empty value.
    pub tombstone_on_empty: bool,
    /// Names of the headers that the relay sets by itself.
    pub standard_headers: StandardHeaders,
}

/// Which column plays which part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    /// The event's own id.
    pub id: String,
    /// The record's key (the aggregate's id): decides partition and order.
    pub key: String,
    /// The payload.
    pub payload: String,
    /// The aggregate's type (`{aggregate_type}` in the topic template).
    pub aggregate_type: Option<String>,
    /// The event's type.
    pub event_type: Option<String>,
    /// The payload's media type.
    pub content_type: Option<String>,
    /// When the event happened.
    pub created_at: Option<String>,
    /// A `map<text, text>` (or text to blob) column whose entries all become headers.
    pub headers: Option<String>,
    /// The W3C trace context (`traceparent`) of the write.
    pub traceparent: Option<String>,
    /// Parts whose column comes from the preset: a table may lack it, then the part is unmapped.
    /// `id`, `key` and `payload` never are: no event can do without them.
    pub optional: BTreeSet<&'static str>,
}

/// A mapped column that a table does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingColumn {
    /// The part that the column was to play, as in the configuration's `columns`.
    pub part: &'static str,
    /// The column's name.
    pub column: String,
}

impl Columns {
    /// The mapping for a table that has the columns for which `has` is true: what a preset maps
    /// and the table lacks is unmapped; anything else that the table lacks is missing.
    pub fn for_table(&self, has: impl Fn(&str) -> bool) -> (Self, Vec<MissingColumn>) {
        let mut columns = self.clone();
        let mut missing = Vec::new();
        for (part, column) in self.mapped().into_iter().filter(|(_, column)| !has(column)) {
            if self.optional.contains(part) {
                columns.unmap(part);
            } else {
                missing.push(MissingColumn {
                    part,
                    column: column.to_owned(),
                });
            }
        }
        (columns, missing)
    }

    fn unmap(&mut self, part: &'static str) {
        match part {
            "aggregate_type" => self.aggregate_type = None,
            "event_type" => self.event_type = None,
            "content_type" => self.content_type = None,
            "created_at" => self.created_at = None,
            "headers" => self.headers = None,
            "traceparent" => self.traceparent = None,
            _ => {}
        }
    }

    /// All columns that are mapped, each with the part it plays.
    pub fn mapped(&self) -> Vec<(&'static str, &str)> {
        let optional = [
            ("aggregate_type", &self.aggregate_type),
            ("event_type", &self.event_type),
            ("content_type", &self.content_type),
            ("created_at", &self.created_at),
            ("headers", &self.headers),
            ("traceparent", &self.traceparent),
        ];
        let required = [
            ("id", &self.id),
            ("key", &self.key),
            ("payload", &self.payload),
        ];
        required
            .into_iter()
            .map(|(part, column)| (part, column.as_str()))
            .chain(
                optional
                    .into_iter()
                    .filter_map(|(part, c)| Some((part, c.as_deref()?))),
            )
            .collect()
    }
}

/// A header taken from a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderMapping {
    /// Name of the header.
    pub name: String,
    /// Column that gives its value, in its natural text form (blobs as they are).
    pub column: String,
}

/// Names of the headers that the relay sets by itself; `None` leaves one out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandardHeaders {
    /// Carries the event's id. Consumers recognise duplicates by it. Default `id`.
    pub id: String,
    /// Carries the event's type. Default `type`.
    pub event_type: Option<String>,
    /// Carries the payload's media type. Default `content-type`.
    pub content_type: Option<String>,
    /// Carries the time the event was created, RFC 3339. Default `created-at`.
    pub created_at: Option<String>,
    /// Carries the W3C trace context. Default `traceparent`.
    pub traceparent: Option<String>,
}

/// How a column's value becomes bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueFormat {
    /// The column's natural form: blobs as they are, text as UTF-8, anything else as the text
    /// that `cqlsh` would show (uuid `4f…`, numbers in decimal); collections as JSON.
    Natural,
    /// As `Natural`, and the bytes must be a JSON document; anything else is undecodable.
    Json,
    /// The bytes of ScyllaDB's serialisation of blobs and text only; other types are refused.
    Bytes,
}

/// A topic name with placeholders: `outbox.event.{aggregate_type}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicTemplate {
    /// The parts, in order.
    pub parts: Vec<TopicPart>,
}

/// A part of a topic template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicPart {
    /// Text as it stands.
    Literal(String),
    /// The aggregate's type.
    AggregateType,
    /// The event's type.
    EventType,
    /// A column of the outbox row by its name: `{column:region}`.
    Column(String),
    /// The keyspace of the outbox table.
    Keyspace,
    /// The name of the outbox table.
    Table,
}

/// Where a relay without checkpoints starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the oldest row that the log still has.
    Earliest,
    /// With rows written after the relay's first start.
    Latest,
    /// With rows written at or after this time, microseconds since the Unix epoch.
    At(i64),
}

/// How the log is followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Follow {
    /// Pause between two reads of a group that has just had rows.
    pub poll: Duration,
    /// Longest pause between two reads of a group that has long had none.
    pub idle_poll: Duration,
    /// How far W trails: what appears later than this is left to the sweep.
    pub late_window: Duration,
    /// How far before a new row unknown ones are looked for before it is published.
    pub confirm: Duration,
    /// Whether older stretches are compared with what was published of them.
    pub sweep: bool,
    /// Where a relay without checkpoints starts.
    pub start: Start,
    /// Rows of one page.
    pub page_rows: NonZeroU32,
    /// Reads under way at once, all tables together.
    pub concurrent_reads: NonZeroUsize,
    /// Reads per second, all tables together.
    pub reads_per_second: NonZeroU32,
    /// Positions above W kept in memory, per table. At the limit the table is read less.
    pub tracked_positions: NonZeroUsize,
    /// Pause between two looks for new generations.
    pub generation_poll: Duration,
    /// Where hints of writers are taken, if anywhere.
    pub wake_up: Option<WakeUpAddress>,
    /// Whether an event that is in the log twice is published once.
    pub deduplicate: bool,
    /// Whether to start although rows may have expired before they were read.
    pub accept_expired: bool,
}

/// Where hints of writers are taken: on this host only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WakeUpAddress {
    /// By UDP, at an address of the loopback interface.
    Udp(SocketAddr),
    /// By a Unix datagram socket at this absolute path.
    Unix(PathBuf),
}

impl fmt::Display for WakeUpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp(address) => write!(f, "udp://{address}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// What happens to an attempt that fails: the same event is tried again, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// Pause after the first attempt.
    pub initial_backoff: Duration,
    /// Growth of the pause.
    pub multiplier: f64,
    /// Longest pause.
    pub max_backoff: Duration,
    /// How long one attempt may take (librdkafka's `message.timeout.ms`).
    pub attempt_timeout: Duration,
    /// Attempts of one event, the first included.
    pub max_attempts: NonZeroU32,
    /// What follows the last of them.
    pub on_exhausted: OnExhausted,
}

/// What follows the last attempt of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExhausted {
    /// It becomes a dead letter.
    DeadLetter,
    /// It is attempted for ever.
    Hold,
}

/// The circuit breaker before a Kafka cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    /// Consecutive failures that open it.
    pub failure_threshold: NonZeroU32,
    /// How long it stays open.
    pub open_for: Duration,
    /// Successes that close it when it is half-open.
    pub success_threshold: NonZeroU32,
}

/// What becomes of events that could not be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetters {
    /// Whether later events of the key join an event that failed for good.
    pub on_permanent: OnPermanent,
    /// Whether exhausted events are replayed by themselves.
    pub auto_replay: bool,
    /// Pause between two such replays while some are left.
    pub auto_replay_interval: Duration,
    /// Parked keys kept in memory.
    pub max_parked_keys: NonZeroUsize,
    /// Keys replayed at once.
    pub replay_concurrency: NonZeroUsize,
}

/// What becomes of the key of an event that failed for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnPermanent {
    /// Its later events join it.
    ParkKey,
    /// Its later events are published, out of order.
    Skip,
}

/// How progress is saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Pause between two saves of a group that has moved.
    pub interval: Duration,
    /// Pause between two saves of a group that had no rows.
    pub idle_interval: Duration,
}

/// Bounds on what is in flight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Events between the source and the delivery report.
    pub in_flight_events: NonZeroUsize,
    /// Bytes between the source and the delivery report.
    pub in_flight_bytes: NonZeroUsize,
}

/// How the relay stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shutdown {
    /// How long events in flight may take to be published after a stop is asked for.
    pub drain_timeout: Duration,
}

/// Where logs go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Filter in the syntax of `tracing_subscriber::EnvFilter`.
    pub level: String,
    /// Form of the lines on standard error and in the files.
    pub format: LogFormat,
    /// Files, in addition to standard error.
    pub file: Option<LogFile>,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line each.
    Text,
    /// One JSON object each.
    Json,
}

/// Log files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFile {
    /// Directory; it must exist or be creatable.
    pub dir: PathBuf,
    /// When a new file begins.
    pub rotation: LogRotation,
    /// Files kept; the oldest is removed.
    pub keep: NonZeroUsize,
}

/// When a new log file begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogRotation {
    /// At each full hour (UTC).
    Hourly,
    /// At midnight (UTC).
    Daily,
    /// Never.
    Never,
}

/// The HTTP server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// Where it listens, if anywhere.
    pub listen: Option<SocketAddr>,
    /// What administration asks for; without it, it is off.
    pub admin_token: Option<Secret>,
    /// Connections at once.
    pub max_connections: NonZeroUsize,
    /// How long a request may take to be read, and to be answered.
    pub request_timeout: Duration,
}

/// Spans for OpenTelemetry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Otlp {
    /// Base address of the receiver, without a slash at its end.
    pub endpoint: String,
    /// Of the events without a trace context, one in so many is traced; 0 is none.
    pub sample_one_in: usize,
    /// How long one export may take.
    pub timeout: Duration,
}

/// What happens when a task of the relay fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Supervision {
    /// Pause before the first restart; it doubles.
    pub initial_backoff: Duration,
    /// Longest pause before a restart.
    pub max_backoff: Duration,
    /// A run that lasted this long makes the failures before it forgotten.
    pub stable_after: Duration,
    /// Restarts inside `window`; one more failure escalates.
    pub max_restarts: NonZeroUsize,
    /// Time in which restarts are counted.
    pub window: Duration,
    /// Pause between two attempts to start a task that is reported as failed.
    pub failed_retry: Duration,
    /// Pause between two checks of the parts.
    pub health_interval: Duration,
    /// A table without a completed read for this long is degraded; at least twice
    /// `follow.idle_poll`.
    pub stalled_after: Duration,
    /// Which failed tables make the relay not ready.
    pub unready_when: UnreadyWhen,
}

/// Which failed tables make the relay not ready.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UnreadyWhen {
    /// Every one.
    #[default]
    AllFailed,
    /// Any one.
    AnyFailed,
}

/// A value that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(value: String) -> Self {
        Self(value)
    }

    /// The secret itself; the caller must not log it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}
