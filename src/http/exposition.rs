//! Metrics in the text formats of Prometheus and `OpenMetrics`, and their reference.
//!
//! One list of families, made anew for every answer from what the parts have counted, is the source
//! of both formats and of `docs/metrics.md`. Labels are names of tables and words of this file:
//! never a key.

use std::fmt::Write as _;

use axum::extract::State as Shared;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::State;
use super::status::{Distances, now_micros};
use crate::runtime::Live;
use crate::runtime::daemon::Current;
use crate::runtime::health::{self, Snapshot, Watched};
use crate::telemetry::histogram::Counts;
use crate::telemetry::metrics::Metrics;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
const PREFIX: &str = "outbox_relay_";

/// A value of a family.
#[derive(Debug, Clone, PartialEq)]
enum Sample {
    Counter(u64),
    /// A counter of seconds.
    Time(f64),
    Gauge(f64),
    Histogram(Counts),
}

type Labels = Vec<(&'static str, String)>;

/// Values of one name, apart by their labels.
#[derive(Debug, Clone, PartialEq)]
struct Family {
    /// Without prefix, unit and `_total`.
    name: String,
    unit: Option<Unit>,
    help: &'static str,
    kind: MetricType,
    /// The label by which they differ.
    label: Option<&'static str>,
    samples: Vec<(Labels, Sample)>,
}

impl Family {
    fn new(name: &str, help: &'static str, kind: MetricType) -> Self {
        Self {
            name: format!("{PREFIX}{name}"),
            unit: None,
            help,
            kind,
            label: None,
            samples: Vec::new(),
        }
    }

    fn counter(name: &str, help: &'static str, value: u64) -> Self {
        let mut family = Self::new(name, help, MetricType::Counter);
        family.samples.push((Labels::new(), Sample::Counter(value)));
        family
    }

    fn gauge(name: &str, help: &'static str, value: f64) -> Self {
        let mut family = Self::new(name, help, MetricType::Gauge);
        family.samples.push((Labels::new(), Sample::Gauge(value)));
        family
    }

    fn in_unit(mut self, unit: Unit) -> Self {
        self.unit = Some(unit);
        self
    }

    /// A name that others give to every process.
    fn of_the_process(mut self) -> Self {
        self.name = self.name.trim_start_matches(PREFIX).to_owned();
        self
    }

    /// Values that differ by `label`.
    fn by<L: Into<String>>(
        mut self,
        label: &'static str,
        samples: impl IntoIterator<Item = (L, Sample)>,
    ) -> Self {
        self.label = Some(label);
        let samples = samples.into_iter();
        self.samples = samples
            .map(|(value, sample)| (vec![(label, value.into())], sample))
            .collect();
        self
    }

    fn counters<L: Into<String>>(
        name: &str,
        help: &'static str,
        label: &'static str,
        samples: impl IntoIterator<Item = (L, u64)>,
    ) -> Self {
        let samples = samples
            .into_iter()
            .map(|(of, value)| (of, Sample::Counter(value)));
        Self::new(name, help, MetricType::Counter).by(label, samples)
    }

    fn gauges<L: Into<String>>(
        name: &str,
        help: &'static str,
        label: &'static str,
        samples: impl IntoIterator<Item = (L, f64)>,
    ) -> Self {
        let samples = samples
            .into_iter()
            .map(|(of, value)| (of, Sample::Gauge(value)));
        Self::new(name, help, MetricType::Gauge).by(label, samples)
    }

    fn histograms<L: Into<String>>(
        name: &str,
        help: &'static str,
        label: &'static str,
        samples: impl IntoIterator<Item = (L, Counts)>,
    ) -> Self {
        let samples = samples
            .into_iter()
            .map(|(of, value)| (of, Sample::Histogram(value)));
        Self::new(name, help, MetricType::Histogram)
            .by(label, samples)
            .in_unit(Unit::Seconds)
    }

    /// The name under which it is found.
    fn full_name(&self) -> String {
        let unit = self
            .unit
            .as_ref()
            .map_or(String::new(), |unit| format!("_{}", unit.as_str()));
        let total = if matches!(self.kind, MetricType::Counter) {
            "_total"
        } else {
            ""
        };
        format!("{}{unit}{total}", self.name)
    }

    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let unit = self.unit.as_ref();
        let mut encoder = encoder.encode_descriptor(&self.name, self.help, unit, self.kind)?;
        for (labels, sample) in &self.samples {
            if labels.is_empty() {
                encode(&mut encoder, sample)?;
            } else {
                encode(&mut encoder.encode_family(labels)?, sample)?;
            }
        }
        Ok(())
    }
}

fn encode(encoder: &mut MetricEncoder<'_>, sample: &Sample) -> Result<(), std::fmt::Error> {
    match sample {
        Sample::Counter(value) => encoder.encode_counter::<NoLabelSet, _, u64>(value, None),
        Sample::Time(value) => encoder.encode_counter::<NoLabelSet, _, u64>(value, None),
        Sample::Gauge(value) => encoder.encode_gauge(value),
        Sample::Histogram(counts) => {
            let bounds = counts.bounds.iter().map(|bound| *bound as f64 / 1e6);
            let bounds = bounds.chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(counts.buckets.iter().copied()).collect();
            let sum = counts.sum_micros as f64 / 1e6;
            encoder.encode_histogram::<NoLabelSet>(sum, counts.count(), &buckets, None)
        }
    }
}

/// What the families are made from.
struct Seen<'s> {
    metrics: &'s Metrics,
    health: Snapshot,
    limits: (usize, usize),
    in_flight: (usize, usize),
    tables: Vec<Table>,
    process: Process,
}

struct Table {
    name: String,
    paused: bool,
    groups: usize,
    distances: Distances,
    lateness: Counts,
    events: u64,
}

impl<'s> Seen<'s> {
    fn of(current: &'s Current, health: Snapshot, started: f64) -> Self {
        let live = current.hooks.live.borrow();
        let live = live.as_ref();
        let now = now_micros();
        let metrics = &current.hooks.metrics;
        let table = |watched: &Watched| {
            let look = watched
                .progress
                .standing
                .look(|standing| (standing.groups.len(), Distances::of(standing, now)));
            let (groups, distances) = look.unwrap_or_default();
            Table {
                paused: watched.pause.is_paused(),
                groups,
                distances,
                lateness: watched.progress.lateness.counts().0,
                events: metrics.table(&watched.table).events.get(),
                name: watched.table.clone(),
            }
        };
        let tables = live.map(|live| live.tables.iter().map(table).collect());
        let limits = &current.config.limits;
        Self {
            metrics,
            health,
            limits: (limits.in_flight_events.get(), limits.in_flight_bytes.get()),
            in_flight: live.map_or((0, 0), Live::in_flight),
            tables: tables.unwrap_or_default(),
            process: Process::look(started),
        }
    }

    fn per_table(&self, of: impl Fn(&Table) -> Option<f64>) -> Vec<(String, f64)> {
        let tables = self.tables.iter();
        tables
            .filter_map(|table| Some((table.name.clone(), of(table)?)))
            .collect()
    }

    /// Every family, in the order of an event's way.
    fn families(&self) -> Vec<Family> {
        let mut all = self.of_the_relay();
        all.extend(self.of_events());
        all.extend(self.of_the_log());
        all.extend(self.of_tables());
        all.extend(self.of_tasks());
        all.extend(self.process.families());
        all
    }

    fn of_the_relay(&self) -> Vec<Family> {
        let state = |state: &health::State| match state {
            health::State::Ok => 0.0,
            health::State::Degraded(_) => 1.0,
            health::State::Failed(_) => 2.0,
        };
        let parts = self.health.parts.iter();
        let parts = parts.map(|part| (part.part.to_string(), state(&part.state)));
        vec![
            Family::gauges(
                "build_info",
                "Always 1; the version of the relay.",
                "version",
                [(env!("CARGO_PKG_VERSION"), 1.0)],
            ),
            Family::gauge(
                "ready",
                "1 if the relay is ready, as /readyz says.",
                f64::from(u8::from(self.health.ready)),
            ),
            Family::gauges(
                "part_state",
                "How a part fares: 0 ok, 1 degraded (a person should look), 2 failed.",
                "part",
                parts,
            ),
        ]
    }

    fn of_events(&self) -> Vec<Family> {
        let m = self.metrics;
        let stages = m
            .stages
            .all()
            .map(|(stage, histogram)| (stage, histogram.counts()));
        let (events, bytes) = self.in_flight;
        vec![
            Family::counters(
                "events",
                "Events by outcome: read from the log and handed on, published (acknowledged by all \
                 in-sync replicas), dead_lettered, or repeated (in the log twice, published once).",
                "outcome",
                [
                    ("read", m.events.get()),
                    ("published", m.published.get()),
                    ("dead_lettered", super::status::dead_lettered(m)),
                    ("repeated", m.repetitions.get()),
                ],
            ),
            Family::counters(
                "table_events",
                "Events read from the log of a table and handed on.",
                "table",
                self.tables
                    .iter()
                    .map(|table| (table.name.clone(), table.events)),
            ),
            Family::histograms(
                "stage",
                "How long published events have taken: visible (from the write to the read), queue \
                 (to the last attempt), kafka (to its acknowledgement), total (all of it). The write's \
                 time is the log's, a clock of the cluster or of the writer.",
                "stage",
                stages,
            ),
            Family::gauge(
                "in_flight_events",
                "Events between the read and the acknowledgement.",
                events as f64,
            ),
            Family::gauge(
                "in_flight_events_limit",
                "Most of them: limits.in_flight_events.",
                self.limits.0 as f64,
            ),
            Family::gauge("in_flight", "Bytes of the events in flight.", bytes as f64)
                .in_unit(Unit::Bytes),
            Family::gauge(
                "in_flight_bytes_limit",
                "Most of them: limits.in_flight_bytes.",
                self.limits.1 as f64,
            ),
            Family::counter(
                "attempt_failures",
                "Attempts to publish that have failed.",
                m.failed_attempts.get(),
            ),
            Family::gauge(
                "breaker_state",
                "The breaker before Kafka: 0 closed, 1 half-open, 2 open.",
                m.breaker_state.get() as f64,
            ),
            Family::counter(
                "breaker_opened",
                "Times that the breaker has opened.",
                m.breaker_opened.get(),
            ),
            Family::counters(
                "dead_letters",
                "Events that have become dead letters, by reason.",
                "reason",
                [
                    ("exhausted", m.dead_letters_exhausted.get()),
                    ("permanent", m.dead_letters_permanent.get()),
                    ("undecodable", m.dead_letters_undecodable.get()),
                    ("parked", m.dead_letters_parked.get()),
                ],
            ),
            Family::counter(
                "dead_letter_write_errors",
                "Writes of dead letters, and of their requests, that have failed.",
                m.dead_letter_errors.get(),
            ),
            Family::counter(
                "dead_letters_replayed",
                "Dead letters that were published after all.",
                m.replayed.get(),
            ),
            Family::gauge(
                "parked_keys",
                "Keys that wait for a dead letter of theirs.",
                m.parked_keys.get() as f64,
            ),
        ]
    }

    fn of_the_log(&self) -> Vec<Family> {
        let m = self.metrics;
        vec![
            Family::counter(
                "log_reads",
                "Pages of CDC logs that were asked for.",
                m.reads.get(),
            ),
            Family::counter(
                "log_rows_read",
                "Rows of CDC logs that were read, repeated reads included.",
                m.rows_read.get(),
            ),
            Family::counter(
                "log_read",
                "Bytes of these rows, as they are on the wire.",
                m.read_bytes.get(),
            )
            .in_unit(Unit::Bytes),
            Family::counter(
                "log_read_errors",
                "Reads of CDC logs that have failed.",
                m.read_errors.get(),
            ),
            Family::counters(
                "rows_skipped",
                "Log rows that are no events, by kind.",
                "kind",
                [
                    ("update", m.skipped_updates.get()),
                    ("delete", m.skipped_deletes.get()),
                    ("image", m.skipped_images.get()),
                ],
            ),
            Family::counters(
                "late_rows",
                "Rows that have appeared behind newer ones that were read already.",
                "table",
                self.tables
                    .iter()
                    .map(|table| (table.name.clone(), table.lateness.count())),
            ),
            Family::histograms(
                "lateness",
                "How long after their write late rows have appeared.",
                "table",
                self.tables
                    .iter()
                    .map(|table| (table.name.clone(), table.lateness.clone())),
            ),
            Family::counter(
                "stragglers",
                "Late rows that have appeared after follow.late_window, found by a sweep.",
                m.stragglers.get(),
            ),
            Family::counter(
                "unreconciled",
                "Rows that may have been published twice because a checkpoint did not tell them apart.",
                m.unreconciled.get(),
            ),
            Family::counter(
                "confirmations",
                "Reads of ids before a page was published.",
                m.confirmations.get(),
            ),
            Family::counter(
                "swept",
                "Stretches of the log that were compared with what was published of them.",
                m.swept.get(),
            ),
            Family::counters(
                "hints",
                "Partitions that writers on this host have named: taken, dropped (the source was behind) or garbage (no hint).",
                "outcome",
                [
                    ("taken", m.hints.get().saturating_sub(m.hints_dropped.get())),
                    ("dropped", m.hints_dropped.get()),
                    ("garbage", m.hints_garbage.get()),
                ],
            ),
        ]
    }

    fn of_tables(&self) -> Vec<Family> {
        let table = |name, help, of: &dyn Fn(&Table) -> Option<f64>| {
            Family::gauges(name, help, "table", self.per_table(of))
        };
        let seconds = |name, help, of: &dyn Fn(&Table) -> Option<f64>| {
            table(name, help, of).in_unit(Unit::Seconds)
        };
        vec![
            table("table_groups", "Stream groups that are read.", &|table| {
                Some(table.groups as f64)
            }),
            table(
                "table_paused",
                "1 if a person has paused the table.",
                &|table| Some(f64::from(u8::from(table.paused))),
            ),
            seconds(
                "table_watermark_lag",
                "How far the watermark is behind now: follow.late_window and a little when all is well.",
                &|table| table.distances.lag,
            ),
            seconds(
                "table_backlog",
                "How far the tail of the furthest group is behind now: about 0 when all is well.",
                &|table| table.distances.backlog,
            ),
            seconds(
                "table_log_ttl",
                "How long the log keeps its rows.",
                &|table| table.distances.ttl,
            ),
            seconds(
                "table_expires_in",
                "How long until rows that are not settled may vanish from the log; below 0 they may be gone.",
                &|table| table.distances.expires_in,
            ),
        ]
    }

    fn of_tasks(&self) -> Vec<Family> {
        let m = self.metrics;
        let failed = self.health.parts.iter().filter(|part| {
            matches!(part.part, health::Part::Task(_))
                && matches!(part.state, health::State::Failed(_))
        });
        vec![
            Family::counter(
                "checkpoints",
                "Checkpoints of stream groups that were saved.",
                m.checkpoints.get(),
            ),
            Family::counter(
                "checkpoint_errors",
                "Saves of checkpoints that have failed.",
                m.checkpoint_errors.get(),
            ),
            Family::counter(
                "task_restarts",
                "Tasks that were started again after they had failed.",
                m.task_restarts.get(),
            ),
            Family::counter(
                "task_panics",
                "Tasks that have panicked: defects, please report them.",
                m.task_panics.get(),
            ),
            Family::gauge(
                "failed_tasks",
                "Tasks that are reported as failed now.",
                failed.count() as f64,
            ),
            Family::counters(
                "config_reloads",
                "Configurations that were read again, by outcome.",
                "outcome",
                [
                    ("applied", m.reloads.get()),
                    ("refused", m.reloads_refused.get()),
                ],
            ),
        ]
    }
}

/// What the system says of this process. Zero where it does not.
#[derive(Debug, Clone, Copy, Default)]
struct Process {
    started: f64,
    cpu: f64,
    resident: f64,
    open_files: f64,
}

impl Process {
    /// `started`: seconds since the Unix epoch.
    fn look(started: f64) -> Self {
        let status = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The name of the process, in parentheses, may hold blanks.
        let (_, fields) = status.rsplit_once(')').unwrap_or_default();
        let field = |index: usize| -> f64 {
            let field = fields.split_ascii_whitespace().nth(index - 3);
            field
                .and_then(|field| field.parse().ok())
                .unwrap_or_default()
        };
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let page = rustix::param::page_size() as f64;
        // Numbers of the fields as proc(5) counts them.
        Self {
            started,
            cpu: (field(14) + field(15)) / ticks,
            resident: field(24) * page,
            open_files: std::fs::read_dir("/proc/self/fd")
                .map_or(0.0, |files| files.count() as f64),
        }
    }

    fn families(self) -> Vec<Family> {
        let mut cpu = Family::new(
            "process_cpu",
            "Processor time of the process.",
            MetricType::Counter,
        );
        cpu.samples.push((Labels::new(), Sample::Time(self.cpu)));
        vec![
            Family::gauge(
                "process_start_time",
                "When the process was started, since the Unix epoch.",
                self.started,
            )
            .in_unit(Unit::Seconds)
            .of_the_process(),
            cpu.in_unit(Unit::Seconds).of_the_process(),
            Family::gauge(
                "process_resident_memory",
                "Memory of the process.",
                self.resident,
            )
            .in_unit(Unit::Bytes)
            .of_the_process(),
            Family::gauge(
                "process_open_fds",
                "Files and sockets that the process has open.",
                self.open_files,
            )
            .of_the_process(),
        ]
    }
}

/// Families as the library encodes them.
#[derive(Debug)]
struct Families(Vec<Family>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0
            .iter()
            .try_for_each(|family| family.encode(&mut encoder))
    }
}

fn wants_open_metrics(headers: &HeaderMap) -> bool {
    let accept = headers.get_all(ACCEPT).iter();
    let mut accept = accept.filter_map(|value| value.to_str().ok());
    accept.any(|value| value.contains("application/openmetrics-text"))
}

/// All metrics.
pub(super) async fn metrics(Shared(state): Shared<State>, headers: HeaderMap) -> Response {
    let current = state.current();
    let health = state.health(&current);
    let families = Seen::of(&current, health, state.0.started_at).families();
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Families(families)));
    let mut body = String::new();
    let open_metrics = wants_open_metrics(&headers);
    let encoded = if open_metrics {
        text::encode(&mut body, &registry)
    } else {
        prometheus_text::encode(&mut body, &registry)
    };
    // Only a writer that fails makes this fail, and a string does not.
    debug_assert!(encoded.is_ok());
    let form = if open_metrics {
        OPEN_METRICS
    } else {
        PROMETHEUS
    };
    ([(CONTENT_TYPE, form)], body).into_response()
}

/// The reference of all metrics, in Markdown.
pub fn reference() -> String {
    let seen = Seen {
        metrics: &Metrics::default(),
        health: Snapshot {
            ready: true,
            parts: Vec::new(),
        },
        limits: (0, 0),
        in_flight: (0, 0),
        tables: Vec::new(),
        process: Process::default(),
    };
    let mut page = String::from(
        "# Metrics\n\nGenerated from the list that `/metrics` is made of; a test fails when it is stale.\n\n\
         `GET /metrics` answers in the text format of Prometheus, or in OpenMetrics if the request \
         accepts that. Labels are names of tables, parts and the words below; no key and no payload \
         is ever one. Counters start at 0 with the process, and go on when its parts start anew \
         after a reload.\n\n| metric | type | label | meaning |\n|---|---|---|---|\n",
    );
    for family in seen.families() {
        let words: Vec<&str> = family
            .samples
            .iter()
            .flat_map(|(labels, _)| labels)
            .map(|(_, word)| &**word)
            .collect();
        let label = match (family.label, &*words) {
            (None, _) => String::new(),
            (Some(label @ ("table" | "part" | "version")), _) => format!("`{label}`"),
            (Some(label), words) => format!("`{label}`: {}", words.join(", ")),
        };
        let kind = family.kind.as_str();
        let _ = writeln!(
            page,
            "| `{}` | {kind} | {label} | {} |",
            family.full_name(),
            family.help
        );
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_of_metrics_is_that_of_this_version() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, reference()).expect("write it");
        }
        let stored = std::fs::read_to_string(path).expect("read it");
        assert!(
            stored == reference(),
            "run it with UPDATE=1 to write {path} anew"
        );
    }

    #[test]
    fn the_process_has_memory_and_open_files() {
        let process = Process::look(1.7e9);
        assert!(
            process.resident > 1e6 && process.open_files >= 3.0,
            "{process:?}"
        );
        assert!(process.cpu >= 0.0, "{process:?}");
    }
}
