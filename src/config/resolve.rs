//! From what is written to what holds: ranges, relations between keys, files of secrets.

use std::collections::BTreeSet;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use super::kafka;
use super::otlp;
use super::path::Path;
use super::raw::{self, Raw};
use super::read::Reader;
use super::resolved::{
    Breaker, Checkpoint, Columns, Config, DeadLetters, Follow, HeaderMapping, Http, Limits, Log,
    LogFile, LogFormat, LogRotation, OnExhausted, OnPermanent, Outbox, Relay, Retry, Scylla,
    Secret, Shutdown, StandardHeaders, Supervision, TopicPart, TopicTemplate, UnreadyWhen,
    ValueFormat,
};
use super::tls;
use super::values::{self, Entry, Format, LogForm, Rotation, Span, is_schema_name};

const MILLI: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// Checks everything. The result is right only if the reader has no problem afterwards.
pub(super) fn resolve(raw: &Raw, reader: &mut Reader<'_>) -> Config {
    let root = Path::root();
    Config {
        relay: relay(&raw.relay, &root.key("relay"), reader),
        scylla: scylla(&raw.scylla, &root.key("scylla"), reader),
        kafka: kafka::resolve(&raw.kafka, &root.key("kafka"), reader),
        outboxes: outboxes(&raw.outboxes, &root.key("outboxes"), reader),
        follow: follow(&raw.follow, &root.key("follow"), reader),
        retry: retry(&raw.retry, &root.key("retry"), reader),
        breaker: breaker(&raw.breaker, &root.key("breaker"), reader),
        dead_letters: dead_letters(&raw.dead_letters, &root.key("dead_letters"), reader),
        checkpoint: checkpoint(&raw.checkpoint, &root.key("checkpoint"), reader),
        limits: limits(&raw.limits, &root.key("limits"), reader),
        shutdown: Shutdown {
            drain_timeout: span(
                raw.shutdown.drain_timeout,
                Duration::ZERO..=HOUR,
                &root.key("shutdown").key("drain_timeout"),
                reader,
            ),
        },
        log: log(&raw.log, &root.key("log"), reader),
        http: http(&raw.http, &root.key("http"), reader),
        otlp: otlp::resolve(&raw.otlp, &root.key("otlp"), reader),
        supervision: supervision(raw, &root.key("supervision"), reader),
    }
}

pub(super) fn span(
    span: Span,
    range: std::ops::RangeInclusive<Duration>,
    path: &Path,
    reader: &mut Reader<'_>,
) -> Duration {
    if !range.contains(&span.0) {
        let (least, most) = (Span(*range.start()), Span(*range.end()));
        reader.problem(path, format!("{span} is not between {least} and {most}"));
    }
    span.0
}

fn count(
    number: u64,
    range: std::ops::RangeInclusive<u64>,
    path: &Path,
    reader: &mut Reader<'_>,
) -> NonZeroUsize {
    if !range.contains(&number) {
        let (least, most) = (range.start(), range.end());
        reader.problem(path, format!("{number} is not between {least} and {most}"));
    }
    usize::try_from(number)
        .ok()
        .and_then(NonZeroUsize::new)
        .unwrap_or(NonZeroUsize::MIN)
}

/// Reads a secret from a file, without the newline at its end.
pub(super) fn secret_file(file: &str, path: &Path, reader: &mut Reader<'_>) -> Option<Secret> {
    file_of_secrets(file, path, reader).map(|(_, text)| Secret::new(text))
}

/// What a file holds, without the newline at its end, and where it is.
pub(super) fn file_of_secrets(
    file: &str,
    path: &Path,
    reader: &mut Reader<'_>,
) -> Option<(PathBuf, String)> {
    let file = secret_path(file, path, reader)?;
    let shown = file.display();
    let message = match std::fs::read_to_string(&file) {
        Ok(text) => {
            let text = text.trim_end_matches(['\n', '\r']);
            if !text.is_empty() {
                return Some((file, text.to_owned()));
            }
            format!("the file {shown} is empty")
        }
        // The error of bytes that are no text shows none of them.
        Err(error) => format!("the file {shown} cannot be read: {error}"),
    };
    reader.problem(path, message);
    None
}

/// Where a file of secrets is: `${CREDENTIALS_DIRECTORY}/name` is a credential of systemd.
pub(super) fn secret_path(file: &str, path: &Path, reader: &mut Reader<'_>) -> Option<PathBuf> {
    const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";
    let Some(rest) = file.strip_prefix("${") else {
        return Some(PathBuf::from(file));
    };
    let name = rest
        .strip_prefix(CREDENTIALS)
        .and_then(|rest| rest.strip_prefix("}/"));
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        let message = format!("`{file}`: only ${{{CREDENTIALS}}}/ and a name may stand in a path");
        reader.problem(path, message);
        return None;
    };
    let Some(directory) = reader.variable(CREDENTIALS) else {
        let message = format!(
            "{CREDENTIALS} is not set, so there is no credential `{name}`: systemd sets it for a \
             unit with LoadCredential={name}:/path/of/the/file; elsewhere write the file's path"
        );
        reader.problem(path, message);
        return None;
    };
    Some(FilePath::new(directory).join(name))
}

/// Checks that each address is `host:port`.
pub(super) fn addresses(addresses: &[String], path: &Path, reader: &mut Reader<'_>) {
    if addresses.is_empty() && !reader.has_problem(path) {
        reader.problem(
            path,
            "at least one address is needed, such as 127.0.0.1:9042",
        );
    }
    for (index, address) in addresses.iter().enumerate() {
        let parts = address.rsplit_once(':');
        let right = parts.is_some_and(|(host, port)| {
            let host = host
                .strip_prefix('[')
                .and_then(|h| h.strip_suffix(']'))
                .unwrap_or(host);
            !host.is_empty()
                && !host.contains(char::is_whitespace)
                && !host.contains('/')
                && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
        if !right {
            let message = format!("`{address}` is not an address: write host:port");
            reader.problem(&path.index(index), message);
        }
    }
}

fn relay(raw: &raw::Relay, path: &Path, reader: &mut Reader<'_>) -> Relay {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if raw.name.len() > 64 || !raw.name.chars().all(allowed) {
        let message = "write 1 to 64 letters, digits, '.', '_' and '-'";
        reader.problem(&path.key("name"), message);
    }
    Relay {
        name: raw.name.clone(),
    }
}

fn scylla(raw: &raw::Scylla, path: &Path, reader: &mut Reader<'_>) -> Scylla {
    addresses(&raw.nodes, &path.key("nodes"), reader);
    // ScyllaDB allows 48 characters in a keyspace's name.
    if !is_schema_name(&raw.keyspace) || raw.keyspace.len() > 48 {
        let message = format!(
            "`{}` is not a keyspace: write 1 to 48 letters, digits and underscores",
            raw.keyspace
        );
        reader.problem(&path.key("keyspace"), message);
    }
    let password = match (&raw.password, &raw.password_file) {
        (Some(_), Some(_)) => {
            let message = "password is set too: keep one of the two";
            reader.problem(&path.key("password_file"), message);
            None
        }
        (Some(password), None) => Some(password.0.clone()),
        (None, Some(file)) => secret_file(file, &path.key("password_file"), reader),
        (None, None) => None,
    };
    let given = raw.password.is_some() || raw.password_file.is_some();
    if raw.username.is_some() && !given && !reader.has_problem(&path.key("password")) {
        let message = "a user needs a password: set scylla.password_file";
        reader.problem(&path.key("username"), message);
    }
    if given && raw.username.is_none() && !reader.has_problem(&path.key("username")) {
        let message = "a password needs a user: set scylla.username";
        reader.problem(&path.key("username"), message);
    }
    Scylla {
        nodes: raw.nodes.clone(),
        keyspace: raw.keyspace.clone(),
        consistency: raw.consistency.into(),
        datacenter: raw.datacenter.clone(),
        username: raw.username.clone(),
        password,
        tls: tls::resolve(&raw.tls, &path.key("tls"), reader),
        request_timeout: span(
            raw.request_timeout,
            100 * MILLI..=10 * MINUTE,
            &path.key("request_timeout"),
            reader,
        ),
    }
}

impl From<super::values::Consistency> for scylla::statement::Consistency {
    fn from(level: super::values::Consistency) -> Self {
        use super::values::Consistency as Level;
        match level {
            Level::One => Self::One,
            Level::Two => Self::Two,
            Level::Three => Self::Three,
            Level::Quorum => Self::Quorum,
            Level::All => Self::All,
            Level::LocalQuorum => Self::LocalQuorum,
            Level::LocalOne => Self::LocalOne,
        }
    }
}

fn outboxes(raw: &[raw::Outbox], path: &Path, reader: &mut Reader<'_>) -> Vec<Outbox> {
    if raw.is_empty() && !reader.has_problem(path) {
        let message = "at least one outbox is needed: outboxes: [{ table: keyspace.table }]";
        reader.problem(path, message);
    }
    if raw.len() > 1000 {
        reader.problem(path, "there may be at most 1000 outboxes");
    }
    let mut seen = BTreeSet::new();
    let mut outboxes = Vec::new();
    for (index, raw) in raw.iter().enumerate() {
        let path = path.index(index);
        let Some(table) = &raw.table else {
            if !reader.has_problem(&path.key("table")) {
                let message = "this key is needed: the outbox table, as keyspace.table";
                reader.problem(&path.key("table"), message);
            }
            outbox(raw, &path, reader);
            continue;
        };
        if !seen.insert(table.0.clone()) {
            let message = format!("{table} is listed twice: its events would be published twice");
            reader.problem(&path.key("table"), message);
        }
        outboxes.extend(outbox(raw, &path, reader));
    }
    outboxes
}

/// `None` if the outbox has no table.
fn outbox(raw: &raw::Outbox, path: &Path, reader: &mut Reader<'_>) -> Option<Outbox> {
    let effective = raw.effective();
    let mut columns = columns(raw, &effective.columns, &path.key("columns"), reader);
    let topic = effective
        .topic
        .unwrap_or(TopicTemplate { parts: Vec::new() });
    template_columns(raw, &mut columns, &topic, &path.key("topic"), reader);
    let names = &effective.standard_headers;
    let standard_headers = StandardHeaders {
        id: required(&names.id, &path.key("standard_headers").key("id"), reader),
        event_type: names.event_type.or(None),
        content_type: names.content_type.or(None),
        created_at: names.created_at.or(None),
        traceparent: names.traceparent.or(None),
    };
    let header = |(name, column): (&String, &String)| HeaderMapping {
        name: name.clone(),
        column: column.clone(),
    };
    header_names(raw, &standard_headers, path, reader);
    Some(Outbox {
        table: raw.table.as_ref()?.0.clone(),
        columns,
        topic,
        headers: raw.headers.iter().map(header).collect(),
        key_format: raw.key_format.into(),
        payload_format: raw.payload_format.into(),
        tombstone_on_empty: raw.tombstone_on_empty,
        standard_headers,
    })
}

fn required(entry: &Entry, path: &Path, reader: &mut Reader<'_>) -> String {
    entry.or(None).unwrap_or_else(|| {
        reader.problem(path, "this cannot be left out: give a name");
        String::new()
    })
}

fn columns(
    raw: &raw::Outbox,
    names: &raw::Columns,
    path: &Path,
    reader: &mut Reader<'_>,
) -> Columns {
    let given = [
        ("aggregate_type", &raw.columns.aggregate_type),
        ("event_type", &raw.columns.event_type),
        ("content_type", &raw.columns.content_type),
        ("created_at", &raw.columns.created_at),
        ("headers", &raw.columns.headers),
        ("traceparent", &raw.columns.traceparent),
    ];
    let preset = |(part, entry): (&'static str, &Entry)| (*entry == Entry::Preset).then_some(part);
    Columns {
        id: required(&names.id, &path.key("id"), reader),
        key: required(&names.key, &path.key("key"), reader),
        payload: required(&names.payload, &path.key("payload"), reader),
        aggregate_type: names.aggregate_type.or(None),
        event_type: names.event_type.or(None),
        content_type: names.content_type.or(None),
        created_at: names.created_at.or(None),
        headers: names.headers.or(None),
        traceparent: names.traceparent.or(None),
        optional: given.into_iter().filter_map(preset).collect(),
    }
}

/// A placeholder needs its column: mapped, and in the table.
fn template_columns(
    raw: &raw::Outbox,
    columns: &mut Columns,
    topic: &TopicTemplate,
    path: &Path,
    reader: &mut Reader<'_>,
) {
    for topic_part in &topic.parts {
        let (part, column) = match topic_part {
            TopicPart::AggregateType => ("aggregate_type", &columns.aggregate_type),
            TopicPart::EventType => ("event_type", &columns.event_type),
            _ => continue,
        };
        if column.is_none() {
            let whose = if raw.topic.is_some() {
                "the"
            } else {
                "the default"
            };
            let message = format!(
                "{whose} topic {topic} needs columns.{part}, which is left out: map it or set a \
                 topic without {{{part}}}"
            );
            reader.problem(path, message);
        }
        columns.optional.remove(part);
    }
}

fn header_names(
    raw: &raw::Outbox,
    standard: &StandardHeaders,
    path: &Path,
    reader: &mut Reader<'_>,
) {
    let mut seen = BTreeSet::new();
    let names = [
        ("id", Some(&standard.id)),
        ("event_type", standard.event_type.as_ref()),
        ("content_type", standard.content_type.as_ref()),
        ("created_at", standard.created_at.as_ref()),
        ("traceparent", standard.traceparent.as_ref()),
    ];
    for (part, name) in names {
        if let Some(name) = name
            && !name.is_empty()
            && !seen.insert(name.as_str())
        {
            let path = path.key("standard_headers").key(part);
            reader.problem(&path, format!("two headers have the name `{name}`"));
        }
    }
    for (name, column) in &raw.headers {
        let path = path.key("headers").key(name);
        if seen.contains(name.as_str()) {
            let message = format!(
                "the relay sets a header `{name}` itself: rename that one in standard_headers"
            );
            reader.problem(&path, message);
        }
        if name.is_empty() || column.is_empty() {
            reader.problem(
                &path,
                "write the header's name and the column that gives its value",
            );
        }
    }
}

impl From<Format> for ValueFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Natural => Self::Natural,
            Format::Json => Self::Json,
            Format::Bytes => Self::Bytes,
        }
    }
}

fn follow(raw: &raw::Follow, path: &Path, reader: &mut Reader<'_>) -> Follow {
    let mut time = |key, value, range| span(value, range, &path.key(key), reader);
    let poll = time("poll", raw.poll, MILLI..=MINUTE);
    let idle_poll = time("idle_poll", raw.idle_poll, MILLI..=HOUR);
    let late_window = time("late_window", raw.late_window, 100 * MILLI..=DAY);
    let confirm = time("confirm", raw.confirm, 10 * MILLI..=HOUR);
    let generation_poll = time("generation_poll", raw.generation_poll, 100 * MILLI..=HOUR);
    if idle_poll < poll {
        let message = format!("it must not be shorter than follow.poll ({})", raw.poll);
        reader.problem(&path.key("idle_poll"), message);
    }
    let mut number = |key, value, range| count(value, range, &path.key(key), reader);
    let page_rows = number("page_rows", raw.page_rows, 1..=100_000);
    let concurrent_reads = number("concurrent_reads", raw.concurrent_reads, 1..=65_536);
    let reads_per_second = number("reads_per_second", raw.reads_per_second, 1..=1_000_000);
    let tracked_positions = number(
        "tracked_positions",
        raw.tracked_positions,
        1_000..=1_000_000_000,
    );
    Follow {
        poll,
        idle_poll,
        late_window,
        confirm,
        sweep: raw.sweep,
        start: raw.start.0,
        page_rows: NonZeroU32::try_from(page_rows).unwrap_or(NonZeroU32::MAX),
        concurrent_reads,
        reads_per_second: NonZeroU32::try_from(reads_per_second).unwrap_or(NonZeroU32::MAX),
        tracked_positions,
        generation_poll,
        wake_up: raw.wake_up.0.clone(),
        deduplicate: raw.deduplicate,
        accept_expired: raw.accept_expired,
    }
}

fn retry(raw: &raw::Retry, path: &Path, reader: &mut Reader<'_>) -> Retry {
    let mut time = |key, value, range| span(value, range, &path.key(key), reader);
    let initial_backoff = time("initial_backoff", raw.initial_backoff, MILLI..=HOUR);
    let max_backoff = time("max_backoff", raw.max_backoff, MILLI..=HOUR);
    let attempt_timeout = time("attempt_timeout", raw.attempt_timeout, 10 * MILLI..=HOUR);
    if max_backoff < initial_backoff {
        let message = format!(
            "it must not be shorter than retry.initial_backoff ({})",
            raw.initial_backoff
        );
        reader.problem(&path.key("max_backoff"), message);
    }
    if !(1.0..=100.0).contains(&raw.multiplier) {
        let message = format!("{} is not between 1 and 100", raw.multiplier);
        reader.problem(&path.key("multiplier"), message);
    }
    let max_attempts = count(
        raw.max_attempts,
        1..=1_000_000,
        &path.key("max_attempts"),
        reader,
    );
    Retry {
        initial_backoff,
        multiplier: raw.multiplier,
        max_backoff,
        attempt_timeout,
        max_attempts: small(max_attempts),
        on_exhausted: match raw.on_exhausted {
            values::OnExhausted::DeadLetter => OnExhausted::DeadLetter,
            values::OnExhausted::Hold => OnExhausted::Hold,
        },
    }
}

fn small(number: NonZeroUsize) -> NonZeroU32 {
    NonZeroU32::try_from(number).unwrap_or(NonZeroU32::MAX)
}

fn breaker(raw: &raw::Breaker, path: &Path, reader: &mut Reader<'_>) -> Breaker {
    let mut number = |key: &str, value| small(count(value, 1..=1_000_000, &path.key(key), reader));
    let failure_threshold = number("failure_threshold", raw.failure_threshold);
    let success_threshold = number("success_threshold", raw.success_threshold);
    Breaker {
        failure_threshold,
        open_for: span(raw.open_for, MILLI..=DAY, &path.key("open_for"), reader),
        success_threshold,
    }
}

fn dead_letters(raw: &raw::DeadLetters, path: &Path, reader: &mut Reader<'_>) -> DeadLetters {
    let interval = path.key("auto_replay_interval");
    DeadLetters {
        on_permanent: match raw.on_permanent {
            values::OnPermanent::ParkKey => OnPermanent::ParkKey,
            values::OnPermanent::Skip => OnPermanent::Skip,
        },
        auto_replay: raw.auto_replay,
        auto_replay_interval: span(
            raw.auto_replay_interval,
            100 * MILLI..=DAY,
            &interval,
            reader,
        ),
        max_parked_keys: count(
            raw.max_parked_keys,
            1..=1_000_000_000,
            &path.key("max_parked_keys"),
            reader,
        ),
        replay_concurrency: count(
            raw.replay_concurrency,
            1..=10_000,
            &path.key("replay_concurrency"),
            reader,
        ),
    }
}

fn checkpoint(raw: &raw::Checkpoint, path: &Path, reader: &mut Reader<'_>) -> Checkpoint {
    let mut time = |key, value| span(value, 10 * MILLI..=HOUR, &path.key(key), reader);
    let interval = time("interval", raw.interval);
    let idle_interval = time("idle_interval", raw.idle_interval);
    if idle_interval < interval {
        let message = format!(
            "it must not be shorter than checkpoint.interval ({})",
            raw.interval
        );
        reader.problem(&path.key("idle_interval"), message);
    }
    Checkpoint {
        interval,
        idle_interval,
    }
}

fn limits(raw: &raw::Limits, path: &Path, reader: &mut Reader<'_>) -> Limits {
    let bytes = raw.in_flight_bytes;
    let (least, most) = (64 << 10, 1 << 40);
    if !(least..=most).contains(&bytes.0) {
        let message = format!("{bytes} is not between 64KiB and 1024GiB");
        reader.problem(&path.key("in_flight_bytes"), message);
    }
    Limits {
        in_flight_events: count(
            raw.in_flight_events,
            1..=10_000_000,
            &path.key("in_flight_events"),
            reader,
        ),
        in_flight_bytes: NonZeroUsize::new(bytes.0 as usize).unwrap_or(NonZeroUsize::MIN),
    }
}

fn log(raw: &raw::Log, path: &Path, reader: &mut Reader<'_>) -> Log {
    if let Err(error) = crate::telemetry::filter::parse(&raw.level) {
        let message = format!("`{}` is not a filter: {error}", raw.level);
        reader.problem(&path.key("level"), message);
    }
    let file = &raw.file;
    let path = path.key("file");
    let keep = count(file.keep, 1..=10_000, &path.key("keep"), reader);
    Log {
        level: raw.level.clone(),
        format: match raw.format {
            LogForm::Text => LogFormat::Text,
            LogForm::Json => LogFormat::Json,
        },
        file: file.dir.as_ref().map(|dir| LogFile {
            dir: dir.into(),
            rotation: match file.rotation {
                Rotation::Hourly => LogRotation::Hourly,
                Rotation::Daily => LogRotation::Daily,
                Rotation::Never => LogRotation::Never,
            },
            keep,
        }),
    }
}

/// A token that can be guessed protects nothing.
const LEAST_TOKEN: usize = 16;

fn http(raw: &raw::Http, path: &Path, reader: &mut Reader<'_>) -> Http {
    let from_file = path.key("admin_token_file");
    let (token, at) = match (&raw.admin_token, &raw.admin_token_file) {
        (Some(_), Some(_)) => {
            reader.problem(&from_file, "admin_token is set too: keep one of the two");
            (None, from_file)
        }
        (Some(token), None) => (Some(token.0.clone()), path.key("admin_token")),
        (None, Some(file)) => (secret_file(file, &from_file, reader), from_file),
        (None, None) => (None, from_file),
    };
    if let Some(token) = &token {
        let token = token.expose();
        if token.len() < LEAST_TOKEN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            let message = format!(
                "a token has {LEAST_TOKEN} visible ASCII characters or more: make one with \
                 `openssl rand -hex 32`"
            );
            reader.problem(&at, message);
        }
    }
    Http {
        listen: raw.listen.0,
        admin_token: token,
        max_connections: count(
            raw.max_connections,
            1..=10_000,
            &path.key("max_connections"),
            reader,
        ),
        request_timeout: span(
            raw.request_timeout,
            100 * MILLI..=HOUR,
            &path.key("request_timeout"),
            reader,
        ),
    }
}

fn supervision(raw: &Raw, path: &Path, reader: &mut Reader<'_>) -> Supervision {
    let (follow, raw) = (&raw.follow, &raw.supervision);
    let mut time = |key, value, range| span(value, range, &path.key(key), reader);
    let initial_backoff = time("initial_backoff", raw.initial_backoff, MILLI..=HOUR);
    let max_backoff = time("max_backoff", raw.max_backoff, MILLI..=HOUR);
    let stable_after = time("stable_after", raw.stable_after, MILLI..=DAY);
    let window = time("window", raw.window, MILLI..=DAY);
    let failed_retry = time("failed_retry", raw.failed_retry, MILLI..=DAY);
    let health_interval = time("health_interval", raw.health_interval, 10 * MILLI..=HOUR);
    let stalled_after = time("stalled_after", raw.stalled_after, 100 * MILLI..=DAY);
    let max_restarts = count(
        raw.max_restarts,
        1..=1000,
        &path.key("max_restarts"),
        reader,
    );
    if max_backoff < initial_backoff {
        let message = format!(
            "it must not be shorter than supervision.initial_backoff ({})",
            raw.initial_backoff
        );
        reader.problem(&path.key("max_backoff"), message);
    }
    let pauses = doubling(initial_backoff, max_backoff, max_restarts.get());
    if window < pauses && !reader.has_problem(&path.key("window")) {
        let message = format!(
            "{max_restarts} restarts take {} of pauses alone, longer than {}: a table that fails \
             would never be reported as failed",
            Span(pauses),
            raw.window
        );
        reader.problem(&path.key("window"), message);
    }
    Supervision {
        initial_backoff,
        max_backoff,
        stable_after,
        max_restarts,
        window,
        failed_retry,
        health_interval,
        // An idle table must not look stalled, however rarely it is read.
        stalled_after: stalled_after.max(follow.idle_poll.0.saturating_mul(2)),
        unready_when: match raw.unready_when {
            values::UnreadyWhen::AllFailed => UnreadyWhen::AllFailed,
            values::UnreadyWhen::AnyFailed => UnreadyWhen::AnyFailed,
        },
    }
}

/// The sum of `count` pauses that double from `first` up to `longest`.
fn doubling(first: Duration, longest: Duration, count: usize) -> Duration {
    let pauses = std::iter::successors(Some(first), |pause| {
        Some(pause.saturating_mul(2).min(longest))
    });
    pauses
        .take(count)
        .fold(Duration::ZERO, Duration::saturating_add)
}
