//! The configuration as it is written: every key, with its meaning and its default.
//!
//! From these sections come the reader of the files, the JSON schema and `config/relay.yaml`.
//! Invariants:
//!
//! 1. Every key is declared once, here, and every key has an effect.
//! 2. Every key but an outbox's `table` has a default.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use schemars::JsonSchema;
use serde::Serialize;

use super::read::{Node, Read, Reader};
use super::reference::{Field, Show, Shown};
use super::resolved::{Start, TopicTemplate};
use super::values::{
    Bytes, Consistency, Entry, Format, ListenAt, LogForm, OnExhausted, OnPermanent, Password,
    Preset, Properties, Rotation, Span, StartAt, Table, UnreadyWhen, WakeUpAt,
};

/// Declares a section. A key that is unset by default shows an example in the reference.
macro_rules! section {
    ($(#[doc = $about:literal])* $name:ident {
        $($(#[doc = $doc:literal])* $field:ident: $type:ty = $default:expr $(=> $example:literal)?;)*
    }) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
        #[schemars(default, deny_unknown_fields)]
        pub(super) struct $name {
            $($(#[doc = $doc])* pub(super) $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl Read for $name {
            fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
                let fields = reader.fields(node, &[$(stringify!($field)),*])?;
                let mut section = Self::default();
                $(if let Some(child) = fields.get(stringify!($field))
                    && let Some(value) = Read::read(child, reader)
                {
                    section.$field = value;
                })*
                Some(section)
            }
        }

        impl Show for $name {
            fn show(&self) -> Shown {
                Shown::Section(vec![$(Field {
                    name: stringify!($field),
                    doc: &[$($doc),*],
                    example: [$($example,)? ""][0],
                    value: self.$field.show(),
                }),*])
            }
        }
    };
}

section! {
    /// The configuration of outbox-relay.
    Raw {
        /// Who this relay is.
        relay: Relay = Relay::default();
        /// How ScyllaDB is reached.
        scylla: Scylla = Scylla::default();
        /// How Kafka is reached.
        kafka: Kafka = Kafka::default();
        /// The outbox tables; at least one. Events of all tables are published side by side.
        outboxes: Vec<Outbox> = Vec::new();
        /// How the CDC log is followed.
        follow: Follow = Follow::default();
        /// What happens to an attempt to publish that fails: the event is tried again, and later
        /// events of its key wait.
        retry: Retry = Retry::default();
        /// When the relay stops to try, because it is Kafka that fails.
        breaker: Breaker = Breaker::default();
        /// What happens to events that could not be published.
        dead_letters: DeadLetters = DeadLetters::default();
        /// How progress is saved.
        checkpoint: Checkpoint = Checkpoint::default();
        /// Bounds on what is in flight. At a limit the relay reads less; it never drops.
        limits: Limits = Limits::default();
        /// How the relay stops.
        shutdown: Shutdown = Shutdown::default();
        /// Where logs go.
        log: Log = Log::default();
        /// The HTTP server: health, metrics, status, the page, and what a person may ask for.
        http: Http = Http::default();
        /// Spans for OpenTelemetry (docs/tracing.md): how long each event waited, and where.
        otlp: Otlp = Otlp::default();
        /// What happens when a task of the relay fails, and what its health depends on. Tasks are
        /// restarted one by one: a table that fails never stops another (docs/supervision.md).
        supervision: Supervision = Supervision::default();
    }
}

section! {
    /// Who this relay is.
    Relay {
        /// Names the checkpoints and the Kafka client id: a relay of another name starts anew.
        /// 1 to 64 letters, digits, dots, underscores and hyphens.
        name: String = "outbox-relay".to_owned();
    }
}

section! {
    /// How ScyllaDB is reached.
    Scylla {
        /// Contact points, host:port. One that answers is enough; the others are found through it.
        nodes: Vec<String> = vec!["127.0.0.1:9042".to_owned()];
        /// Keyspace of the relay's own tables. `outbox-relay schema --apply` makes it.
        keyspace: String = "outbox_relay".to_owned();
        /// Consistency of reads of the log and of writes of checkpoints: one, two, three, quorum,
        /// all, local_quorum or local_one. Together with that of the application's writes it must
        /// overlap (R + W > replicas), or acknowledged events can be missed; local_quorum on both
        /// sides does inside one datacenter.
        consistency: Consistency = Consistency::LocalQuorum;
        /// Datacenter whose nodes are asked first. Needed for local_quorum with several.
        datacenter: Option<String> = None => "dc1";
        /// User, if the cluster asks for one.
        username: Option<String> = None => "relay";
        /// The user's password. Prefer password_file, or the environment variable
        /// OUTBOX_RELAY__SCYLLA__PASSWORD.
        password: Option<Password> = None => "\"secret\"";
        /// File that holds the password and nothing else; a newline at its end is ignored. Like every
        /// file of secrets it may begin with ${CREDENTIALS_DIRECTORY}/, for credentials of systemd.
        password_file: Option<String> = None => "/run/secrets/scylla-password";
        /// Encryption of the connections; docs/security.md has examples. The files are PEM, read at
        /// the start and at a reload.
        tls: Tls = Tls::default();
        /// How long one request may take. Longer than the server's own timeouts (5s for reads),
        /// so that the server's error, which says more, comes first.
        request_timeout: Span = Span::secs(10);
    }
}

section! {
    /// Encryption of the connections to ScyllaDB.
    Tls {
        /// Whether connections are encrypted. All nodes must take TLS on the port that the first one
        /// was found on (client_encryption_options in scylla.yaml).
        enabled: bool = false;
        /// Certificates of the authorities that may vouch for nodes. Default: the system's.
        ca_file: Option<String> = None => "/etc/outbox-relay/scylla-ca.pem";
        /// The relay's own certificate, and those between it and the authority after it, if the
        /// cluster asks for one (require_client_auth).
        cert_file: Option<String> = None => "/etc/outbox-relay/scylla-client.pem";
        /// The private key of cert_file, not encrypted.
        key_file: Option<String> = None => "/run/secrets/scylla-client-key.pem";
        /// Whether a node's certificate must name the node: the IP address by which it is reached, or
        /// server_name. Without it any certificate of the authorities passes for any node.
        verify_hostname: bool = true;
        /// The DNS name that every node's certificate must carry in place of its address, where
        /// certificates name no addresses.
        server_name: Option<String> = None => "scylla.example.com";
    }
}

section! {
    /// How Kafka is reached.
    Kafka {
        /// Bootstrap servers, host:port.
        brokers: Vec<String> = vec!["127.0.0.1:9092".to_owned()];
        /// Properties of librdkafka, such as compression.type: zstd. Those on which the guarantees
        /// rest (acks, idempotence, the partitioner and some more) are refused. TLS and logins are
        /// properties too: docs/security.md has each of them.
        properties: Properties = Properties::default();
        /// Properties whose values are read from files, such as
        /// sasl.password: /run/secrets/kafka-password. A newline at the file's end is ignored.
        property_files: BTreeMap<String, String> = BTreeMap::new();
        /// File with the token of the login OAUTHBEARER, a JWT, written by whoever fetches it. It is
        /// read again before the token expires.
        oauth_token_file: Option<String> = None => "/var/run/secrets/tokens/kafka";
    }
}

section! {
    /// An outbox table and how its rows become records.
    Outbox {
        /// The table, keyspace.table. Its CDC must be on.
        table: Option<Table> = None => "shop.outbox_messages";
        /// Names of columns, topic and headers: outbox-writer (what the writer library makes) or
        /// debezium (what Debezium's outbox router expects). Columns that only the preset names
        /// may be missing from the table, except for id, key and payload.
        preset: Preset = Preset::OutboxWriter;
        /// Columns that differ from the preset. `null` leaves one out.
        columns: Columns = Columns::default();
        /// Topic, with {aggregate_type}, {event_type}, {keyspace}, {table} or {column:name} in it.
        /// Default: as the preset says; both say the same.
        topic: Option<Template> = None => "\"outbox.event.{aggregate_type}\"";
        /// Further headers, each with the column that gives its value: { region: region_column }.
        headers: BTreeMap<String, String> = BTreeMap::new();
        /// Names of the headers that the relay sets by itself. `null` leaves one out.
        standard_headers: StandardHeaders = StandardHeaders::default();
        /// Form of the key: natural (text and blobs as they are, anything else as text), json (the
        /// same, and it must be JSON) or bytes (text and blobs only).
        key_format: Format = Format::Natural;
        /// Form of the payload, as for key_format.
        payload_format: Format = Format::Natural;
        /// Whether a null or empty payload becomes a tombstone (a record without a value, which
        /// compaction takes as a deletion). Otherwise it is an empty value.
        tombstone_on_empty: bool = false;
    }
}

section! {
    /// Which column plays which part. Commented out: what the preset outbox-writer says.
    Columns {
        /// The event's own id; consumers recognise duplicates by it. Any scalar type.
        id: Entry = Entry::Preset => "id";
        /// The record's key (the aggregate's id): decides partition and order. Any scalar type.
        key: Entry = Entry::Preset => "aggregate_id";
        /// The payload. Text or blob are published as they are.
        payload: Entry = Entry::Preset => "payload";
        /// The aggregate's type, for {aggregate_type} in the topic.
        aggregate_type: Entry = Entry::Preset => "aggregate_type";
        /// The event's type.
        event_type: Entry = Entry::Preset => "event_type";
        /// The payload's media type.
        content_type: Entry = Entry::Preset => "content_type";
        /// When the event happened: timestamp or timeuuid.
        created_at: Entry = Entry::Preset => "created_at";
        /// A map<text, text> or map<text, blob> whose entries all become headers.
        headers: Entry = Entry::Preset => "headers";
        /// The W3C trace context of the write. No preset maps it.
        traceparent: Entry = Entry::Preset => "traceparent";
    }
}

section! {
    /// Names of the headers that the relay sets. Commented out: what the preset outbox-writer says.
    StandardHeaders {
        /// Carries the event's id. It cannot be left out.
        id: Entry = Entry::Preset => "id";
        /// Carries the event's type. The preset debezium leaves it out.
        event_type: Entry = Entry::Preset => "type";
        /// Carries the payload's media type. The preset debezium leaves it out.
        content_type: Entry = Entry::Preset => "content-type";
        /// Carries when the event happened, in RFC 3339. The preset debezium leaves it out.
        created_at: Entry = Entry::Preset => "created-at";
        /// Carries the W3C trace context, if a column is mapped to it.
        traceparent: Entry = Entry::Preset => "traceparent";
    }
}

section! {
    /// How the CDC log is followed.
    Follow {
        /// Pause between two reads of streams that have just had rows: the price of a low latency
        /// is a read per pause and stream group.
        poll: Span = Span::millis(10);
        /// Longest pause between two reads of streams that have long had none. An event after a
        /// long silence waits at most this long.
        idle_poll: Span = Span::secs(1);
        /// How long the relay looks again at what it has read, all of it every quarter of that time
        /// and the nearer part more often, for rows that appear behind newer ones (slow writers, clock
        /// differences, replayed batchlogs). A checkpoint trails by it. What appears later is left to
        /// the sweep.
        late_window: Span = Span::secs(180);
        /// How far before a new row a read of ids looks for rows that are not known, before the new one
        /// is published: how long a write may take until it is acknowledged. The order of a key holds
        /// for writes that are not slower. At least ScyllaDB's write_request_timeout_in_ms, 2 s.
        confirm: Span = Span::secs(5);
        /// Whether stretches of the log that are older than the late window are compared, ever more
        /// rarely and up to nine tenths of the log's TTL, with what was published of them: finds rows
        /// that appear later than the late window.
        sweep: bool = true;
        /// Where a relay without checkpoints starts: earliest (everything the log still has),
        /// latest (what is written from now on) or a time such as 2026-01-31T12:00:00Z.
        start: StartAt = StartAt(Start::Earliest);
        /// Rows of one read: enough for a good throughput, few enough for a read to be quick.
        page_rows: u64 = 1000;
        /// Reads under way at once, all tables together; bounds the load on ScyllaDB.
        concurrent_reads: u64 = 64;
        /// Reads per second, all tables together. Polls wait for their turn; reads that publish what a
        /// poll has found do not. When ScyllaDB is overloaded, fewer are made.
        reads_per_second: u64 = 2000;
        /// Rows of the late window remembered per table, 16 bytes each. At the limit the
        /// table is read less: take more than the rows written in a late window.
        tracked_positions: u64 = 5_000_000;
        /// Pause between two looks for new stream generations (after a topology change). ScyllaDB
        /// announces one before it starts, so that this may be slow.
        generation_poll: Span = Span::secs(5);
        /// Where writers on this host may tell what they have just written, so that it is read at once
        /// and not at the next poll: udp://127.0.0.1:9465 (loopback only, hints are not
        /// authenticated) or unix:///run/outbox-relay/wake.sock (mode 0660). Writers are given the
        /// same address. Empty: nowhere. Nothing rests on a hint: without it polling finds the event.
        wake_up: WakeUpAt = WakeUpAt(None);
        /// Whether an event that is in the log twice within the late window (a repeated statement, a
        /// completed lightweight transaction) is published once: same topic, key, payload and headers.
        deduplicate: bool = true;
        /// Whether to start although rows may have expired in the log before they were read, because
        /// the relay was away for longer than the log's TTL. They are lost; otherwise the table's
        /// source refuses to start.
        accept_expired: bool = false;
    }
}

section! {
    /// What happens to an attempt to publish that fails.
    Retry {
        /// Pause after the first attempt.
        initial_backoff: Span = Span::millis(100);
        /// Growth of the pause with every attempt.
        multiplier: f64 = 2.0;
        /// Longest pause: brokers that come back are found within it.
        max_backoff: Span = Span::millis(500);
        /// How long one attempt may take, from the producer to the acknowledgement of all replicas
        /// that are in sync. Long enough for a change of leader that librdkafka handles by itself.
        attempt_timeout: Span = Span::secs(5);
        /// Attempts of one event, the first included. Attempts that probe whether Kafka is back,
        /// and those refused for wrong credentials, do not count.
        max_attempts: u64 = 5;
        /// What happens to an event after its last attempt: dead_letter (it is kept in ScyllaDB and
        /// published later, in its key's order) or hold (it is attempted for ever and holds its key).
        on_exhausted: OnExhausted = OnExhausted::DeadLetter;
    }
}

section! {
    /// The circuit breaker before Kafka. While it is open nothing is attempted, and waiting uses up
    /// no attempts.
    Breaker {
        /// Failed attempts in a row, of any keys, that open it. Failures of single events (too
        /// large, not authorised) do not count.
        failure_threshold: u64 = 5;
        /// How long it stays open before a few events may probe whether Kafka is back.
        open_for: Span = Span::secs(30);
        /// Successful probes that close it; a failed one opens it again.
        success_threshold: u64 = 3;
    }
}

section! {
    /// Events that could not be published, kept in the relay's keyspace.
    DeadLetters {
        /// What happens to the key of an event that fails for good: park_key (later events of the
        /// key join it, so that a replay keeps their order) or skip (they are published, and the
        /// key's order is given up).
        on_permanent: OnPermanent = OnPermanent::ParkKey;
        /// Whether events whose attempts were used up are published by themselves once Kafka is
        /// back. Those that failed for good wait for a person.
        auto_replay: bool = true;
        /// Pause between two such replays while some are left: an error of a single topic opens no
        /// breaker, whose closing would start one.
        auto_replay_interval: Span = Span::secs(60);
        /// Parked keys kept in memory, some 100 bytes each. At the limit a failing event holds its
        /// key instead of becoming a dead letter.
        max_parked_keys: u64 = 1_000_000;
        /// Replays under way at once, each of another key.
        replay_concurrency: u64 = 64;
    }
}

section! {
    /// How progress is saved.
    Checkpoint {
        /// Pause between two saves of streams that have moved on. After a crash, events since the
        /// last save are published again.
        interval: Span = Span::secs(1);
        /// Pause between two saves of streams without events, whose progress is time passing.
        idle_interval: Span = Span::secs(60);
    }
}

section! {
    /// Bounds on what is in flight.
    Limits {
        /// Events read and not yet acknowledged by Kafka: some hundred per partition keep a
        /// cluster busy.
        in_flight_events: u64 = 10_000;
        /// Bytes of those events: bounds the relay's memory.
        in_flight_bytes: Bytes = Bytes(64 << 20);
    }
}

section! {
    /// How the relay stops.
    Shutdown {
        /// How long events in flight may take to be published after SIGTERM or SIGINT. What is
        /// left is published after the next start. Below the 30s that Kubernetes waits.
        drain_timeout: Span = Span::secs(20);
    }
}

section! {
    /// Where logs go. They always go to standard error.
    Log {
        /// Least level: error, warn, info, debug, trace, or a filter such as
        /// info,outbox_relay::source=debug.
        level: String = "info".to_owned();
        /// Form of the lines: text or json.
        format: LogForm = LogForm::Text;
        /// Files in addition to standard error.
        file: LogFile = LogFile::default();
    }
}

section! {
    /// Log files. A full disk loses lines, never events.
    LogFile {
        /// Directory; without one there are no files.
        dir: Option<String> = None => "/var/log/outbox-relay";
        /// When a new file begins: hourly, daily (UTC) or never.
        rotation: Rotation = Rotation::Daily;
        /// Files kept: a week of daily ones.
        keep: u64 = 7;
    }
}

section! {
    /// The HTTP server.
    Http {
        /// Where the server listens: an address and a port. The loopback interface by default; in a
        /// container 0.0.0.0:9464. Empty: nowhere. Whoever reaches it may read health, metrics and
        /// status, which hold neither keys nor payloads.
        listen: ListenAt = ListenAt(Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464)));
        /// The token that dead letters, pauses, replays, reloads and the log level ask for, as in
        /// Authorization: Bearer TOKEN; 16 characters or more. Without one they are off. Prefer
        /// admin_token_file, or the environment variable OUTBOX_RELAY__HTTP__ADMIN_TOKEN.
        admin_token: Option<Password> = None => "\"a long random word\"";
        /// File that holds the token and nothing else; a newline at its end is ignored.
        admin_token_file: Option<String> = None => "/etc/outbox-relay/credentials/admin-token";
        /// Connections at once. Beyond them 16 more are taken for one request and 2s each, so that probes
        /// are answered; others wait.
        max_connections: u64 = 64;
        /// How long a request may take to be read, to be answered, and its answer to be taken.
        request_timeout: Span = Span::secs(30);
    }
}

section! {
    /// Spans for OpenTelemetry. Exporting them never holds up an event: what the receiver does not
    /// take in time is dropped.
    Otlp {
        /// Base address of the receiver, such as an OpenTelemetry collector, that takes OTLP over
        /// HTTP as protobuf; spans are posted to /v1/traces under it. Unset: no spans. Needs a
        /// program built with the feature `otlp`. Headers that the receiver asks for come from the
        /// environment variable OTEL_EXPORTER_OTLP_HEADERS.
        endpoint: Option<String> = None => "http://127.0.0.1:4318";
        /// An event whose row has a W3C trace context is traced if that says that it is sampled. Of
        /// the others, one in so many begins a trace of its own; 0: none.
        sample_one_in: u64 = 0;
        /// How long one export may take.
        timeout: Span = Span::secs(10);
    }
}

section! {
    /// What happens when a task of the relay fails.
    Supervision {
        /// Pause before the first restart of a task. Short, since most failures are gone by then.
        initial_backoff: Span = Span::secs(1);
        /// Longest pause before a restart; the pause doubles up to it. A database that comes back
        /// is found within it.
        max_backoff: Span = Span::secs(30);
        /// How long a run must last for the failures before it to be forgotten.
        stable_after: Span = Span::secs(60);
        /// Restarts of one table's source within the window; one more failure, and the table is
        /// reported as failed: an error in the log, visible in the health. Other tables go on.
        max_restarts: u64 = 10;
        /// The window in which restarts are counted. The pauses before that many restarts must fit
        /// into it: no table would ever be reported otherwise.
        window: Span = Span::secs(600);
        /// Pause between two attempts to start the source of a table that is reported as failed.
        /// Nothing is lost meanwhile, but the CDC log keeps rows for its TTL only.
        failed_retry: Span = Span::secs(120);
        /// Pause between two checks of the parts (ScyllaDB, sources, checkpoints). A change of a
        /// part's health is in the log within it.
        health_interval: Span = Span::secs(5);
        /// A table without a completed read for this long is reported as degraded: the pipeline is
        /// full or ScyllaDB does not answer. At least twice follow.idle_poll is taken, so that an
        /// idle table is healthy.
        stalled_after: Span = Span::secs(60);
        /// Which failed tables make the relay not ready: all_failed (as long as one table is
        /// published, taking the relay out of service helps nobody) or any_failed (a failed table
        /// is to stop a roll-out).
        unready_when: UnreadyWhen = UnreadyWhen::AllFailed;
    }
}

/// A topic template as it is written.
pub(super) type Template = TopicTemplate;

impl Outbox {
    /// The outbox with what the preset says filled in, as it is in force.
    pub(super) fn effective(&self) -> Self {
        let mut outbox = self.clone();
        let (columns, headers) = self.preset.names();
        let entry = |entry: &mut Entry, preset| {
            *entry = entry.or(preset).map_or(Entry::Unmapped, Entry::Named);
        };
        entry(&mut outbox.columns.id, Some(columns.id));
        entry(&mut outbox.columns.key, Some(columns.key));
        entry(&mut outbox.columns.payload, Some(columns.payload));
        entry(&mut outbox.columns.aggregate_type, columns.aggregate_type);
        entry(&mut outbox.columns.event_type, columns.event_type);
        entry(&mut outbox.columns.content_type, columns.content_type);
        entry(&mut outbox.columns.created_at, columns.created_at);
        entry(&mut outbox.columns.headers, columns.headers);
        entry(&mut outbox.columns.traceparent, None);
        entry(&mut outbox.standard_headers.id, Some("id"));
        entry(&mut outbox.standard_headers.event_type, headers.event_type);
        entry(
            &mut outbox.standard_headers.content_type,
            headers.content_type,
        );
        entry(&mut outbox.standard_headers.created_at, headers.created_at);
        entry(
            &mut outbox.standard_headers.traceparent,
            Some("traceparent"),
        );
        if outbox.topic.is_none() {
            outbox.topic = TopicTemplate::parse("outbox.event.{aggregate_type}").ok();
        }
        outbox
    }
}

/// Column names of a preset.
pub(super) struct PresetColumns {
    id: &'static str,
    key: &'static str,
    payload: &'static str,
    aggregate_type: Option<&'static str>,
    event_type: Option<&'static str>,
    content_type: Option<&'static str>,
    created_at: Option<&'static str>,
    headers: Option<&'static str>,
}

/// Header names of a preset.
pub(super) struct PresetHeaders {
    event_type: Option<&'static str>,
    content_type: Option<&'static str>,
    created_at: Option<&'static str>,
}

impl Preset {
    fn names(self) -> (PresetColumns, PresetHeaders) {
        match self {
            Self::OutboxWriter => (
                PresetColumns {
                    id: "id",
                    key: "aggregate_id",
                    payload: "payload",
                    aggregate_type: Some("aggregate_type"),
                    event_type: Some("event_type"),
                    content_type: Some("content_type"),
                    created_at: Some("created_at"),
                    headers: Some("headers"),
                },
                PresetHeaders {
                    event_type: Some("type"),
                    content_type: Some("content-type"),
                    created_at: Some("created-at"),
                },
            ),
            Self::Debezium => (
                PresetColumns {
                    id: "id",
                    key: "aggregateid",
                    payload: "payload",
                    aggregate_type: Some("aggregatetype"),
                    event_type: Some("type"),
                    content_type: None,
                    created_at: None,
                    headers: None,
                },
                PresetHeaders {
                    event_type: None,
                    content_type: None,
                    created_at: None,
                },
            ),
        }
    }
}
