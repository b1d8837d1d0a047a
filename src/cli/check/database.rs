//! ScyllaDB: can it be reached, are the tables there, and do they suit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use scylla::client::session::Session;
use scylla::value::CqlTimestamp;
use tokio::time::{Instant, timeout};

use super::code::Code;
use super::finding::{Finding, Findings};
use super::replication::Cluster;
use super::{innermost, own_tables, reason};
use crate::config::{Config, Outbox, TableName};
use crate::decode::Decoder;
use crate::scylla::{self as cluster, CdcOptions, ColumnKind, TableDescription};
use crate::source::generations::{Distribution, Generations};
use crate::source::reader::{self, LogReader};

/// How long ScyllaDB may take until it has let us in.
const PATIENCE: Duration = Duration::from_secs(15);
/// A difference of clocks from which on a person should know.
const SKEW: Duration = Duration::from_secs(1);
/// A log that keeps its rows for a shorter time gives little time to mend a stopped relay.
const SHORT_TTL: Duration = Duration::from_hours(1);
/// How many times `follow.late_window` a log should keep its rows.
const MARGIN: u32 = 10;

/// Looks at the cluster, the relay's own tables and `outboxes`.
pub(super) async fn check(config: &Config, outboxes: &[Outbox]) -> Findings {
    let mut findings = Findings::default();
    let subject = format!("ScyllaDB at {}", config.scylla.nodes.join(", "));
    let session = match timeout(PATIENCE, cluster::connect(&config.scylla)).await {
        Ok(Ok(session)) => Arc::new(session),
        failed => {
            let remedy = "start it, or correct scylla.nodes (host:port of a node's CQL port); with \
                          authentication, set scylla.username and scylla.password_file; with \
                          encryption, scylla.tls";
            let (message, known) = if let Ok(Err(error)) = failed {
                (unreachable(&error), error.remedy())
            } else {
                let message = format!("does not let us in within {} s", PATIENCE.as_secs());
                (message, None)
            };
            findings.push(Finding::error(
                Code::ScyllaConnection,
                subject,
                message,
                known.unwrap_or(remedy),
            ));
            return findings;
        }
    };
    let version = version(&session).await;
    let nodes = session.get_cluster_state().get_nodes_info().len();
    findings.push(Finding::ok(
        Code::ScyllaConnection,
        subject,
        format!("answers; version {version}, {nodes} known node(s)"),
    ));
    #[cfg(feature = "tls")]
    if let Some(tls) = &config.scylla.tls {
        findings.extend(super::certificates::scylla(tls));
    }
    findings.push(clock(&session, config).await);
    findings.push(own_tables::check(&session, config).await);
    let mut keyspaces: Vec<&str> = vec![&config.scylla.keyspace];
    keyspaces.extend(outboxes.iter().map(|o| o.table.keyspace.as_str()));
    copies(&session, config, &keyspaces, &mut findings);
    for outbox in outboxes {
        Table {
            session: &session,
            config,
            outbox,
            findings: &mut findings,
        }
        .check()
        .await;
    }
    findings
}

/// Why there is no session.
fn unreachable(error: &cluster::Error) -> String {
    match error {
        cluster::Error::Connect {
            refused: Some(refused),
            ..
        } => refused.reason.clone(),
        error => innermost(error),
    }
}

async fn version(session: &Session) -> String {
    let rows = session
        .query_unpaged(
            "SELECT version FROM system.versions WHERE key = 'local'",
            (),
        )
        .await;
    let row = rows.ok().and_then(|rows| rows.into_rows_result().ok());
    row.and_then(|rows| rows.first_row::<(String,)>().ok())
        .map_or_else(|| "unknown".to_owned(), |(version,)| version)
}

fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

async fn clock(session: &Session, config: &Config) -> Finding {
    let subject = "clocks of this host and of ScyllaDB";
    let (sent, wall) = (Instant::now(), since_epoch());
    let answer = session
        .query_unpaged("SELECT toTimestamp(now()) FROM system.local", ())
        .await;
    let half = sent.elapsed() / 2;
    let rows = answer
        .ok()
        .and_then(|answer| answer.into_rows_result().ok());
    let Some((CqlTimestamp(there),)) = rows.and_then(|rows| rows.first_row().ok()) else {
        return Finding::warning(
            Code::Clock,
            subject,
            "could not be compared: the server gives no time",
            "see that both follow NTP",
        );
    };
    let there = Duration::from_millis(u64::try_from(there).unwrap_or_default());
    let skew = (wall + half).abs_diff(there);
    // The server may have answered at any moment of the round trip.
    let sure = skew.saturating_sub(half);
    let message = format!(
        "differ by about {} ms, give or take {} ms",
        skew.as_millis(),
        half.as_millis()
    );
    let remedy = "let both follow NTP: the relay takes a row for complete once it is older than \
                  follow.late_window by its own clock";
    if sure * 2 > config.follow.late_window {
        Finding::error(Code::Clock, subject, message, remedy)
    } else if sure > SKEW {
        Finding::warning(Code::Clock, subject, message, remedy)
    } else {
        Finding::ok(Code::Clock, subject, message)
    }
}

/// Datacenters, and the copies of what lies in these keyspaces.
fn copies(session: &Session, config: &Config, keyspaces: &[&str], findings: &mut Findings) {
    let state = session.get_cluster_state();
    let mut nodes: BTreeMap<String, usize> = BTreeMap::new();
    for node in state.get_nodes_info() {
        *nodes
            .entry(node.datacenter.clone().unwrap_or_default())
            .or_default() += 1;
    }
    let cluster = Cluster {
        nodes: &nodes,
        datacenter: config.scylla.datacenter.as_deref(),
        consistency: config.scylla.consistency,
    };
    if let Some(finding) = cluster.datacenter() {
        findings.push(finding);
    }
    let mut seen = BTreeSet::new();
    for name in keyspaces.iter().filter(|name| seen.insert(**name)) {
        // One that is missing is told where its tables are.
        if let Some(keyspace) = state.get_keyspace(*name) {
            let subject = format!("keyspace {name}");
            findings.push(cluster.copies(&subject, &keyspace.strategy));
            findings.push(cluster.consistency(&subject, &keyspace.strategy));
        }
    }
}

/// One outbox table.
struct Table<'c> {
    session: &'c Arc<Session>,
    config: &'c Config,
    outbox: &'c Outbox,
    findings: &'c mut Findings,
}

impl Table<'_> {
    fn name(&self) -> &TableName {
        &self.outbox.table
    }

    fn ok(&mut self, code: Code, message: impl Into<String>) {
        let finding = Finding::ok(code, self.name().to_string(), message);
        self.findings.push(finding);
    }

    fn warning(&mut self, code: Code, message: impl Into<String>, remedy: impl Into<String>) {
        let finding = Finding::warning(code, self.name().to_string(), message, remedy);
        self.findings.push(finding);
    }

    fn error(&mut self, code: Code, message: impl Into<String>, remedy: impl Into<String>) {
        let finding = Finding::error(code, self.name().to_string(), message, remedy);
        self.findings.push(finding);
    }

    async fn check(mut self) {
        let description = match cluster::describe_table(self.session, self.name()).await {
            Ok(Some(description)) => description,
            Ok(None) => {
                let remedy = "create it (`outbox-relay schema` prints its CQL), or correct \
                              outboxes.table";
                return self.error(Code::Table, "does not exist", remedy);
            }
            Err(error) => {
                let remedy = "let the relay's user read system_schema";
                return self.error(Code::Table, reason(&error), remedy);
            }
        };
        self.cdc(description.cdc.as_ref());
        self.columns(&description).await;
        self.key(&description);
        // Without a log, what is left of its streams is of no interest.
        if description.cdc.as_ref().is_some_and(|cdc| cdc.enabled) {
            self.generations().await;
        }
    }

    fn cdc(&mut self, cdc: Option<&CdcOptions>) {
        let Some(cdc) = cdc.filter(|cdc| cdc.enabled) else {
            let remedy = format!(
                "ALTER TABLE {} WITH cdc = {{'enabled': true, 'ttl': 604800}}; what was written \
                 before is not in the log",
                self.name()
            );
            return self.error(Code::Cdc, "CDC is off: no event can be seen", remedy);
        };
        self.ok(Code::Cdc, "CDC is on");
        if !cdc.full_delta {
            let remedy = "set 'delta': 'full' in the table's cdc options";
            self.error(
                Code::CdcDelta,
                "the log has keys only ('delta': 'keys')",
                remedy,
            );
        }
        if cdc.preimage || cdc.postimage {
            let remedy = "set 'preimage': false and 'postimage': false: the relay skips images, and \
                          each costs ScyllaDB a read and a write";
            self.warning(Code::CdcImages, "the log has pre- or post-images", remedy);
        } else {
            self.ok(Code::CdcImages, "the log has no images");
        }
        self.log_ttl(cdc.ttl);
    }

    fn log_ttl(&mut self, ttl: Duration) {
        let window = self.config.follow.late_window;
        let (kept, late) = (ttl.as_secs(), window.as_secs());
        let message = format!(
            "the log keeps rows for {kept} s, {} times follow.late_window ({late} s)",
            kept / late.max(1)
        );
        if ttl.is_zero() {
            let remedy = "set a 'ttl' in the table's cdc options, such as 604800 (a week)";
            self.warning(Code::LogTtl, "the log keeps rows for ever", remedy);
        } else if ttl <= window {
            let remedy = "set a longer 'ttl' in the table's cdc options: rows may be gone before \
                          they have been read for the last time (follow.late_window)";
            self.error(Code::LogTtl, message, remedy);
        } else if ttl < SHORT_TTL || ttl < window * MARGIN {
            let remedy = "set a longer 'ttl' in the table's cdc options, such as 604800 (a week): a relay \
                          that is down for longer loses events, and W is follow.late_window behind \
                          even when it runs";
            self.warning(Code::LogTtl, message, remedy);
        } else {
            self.ok(Code::LogTtl, message);
        }
    }

    async fn columns(&mut self, description: &TableDescription) {
        let opened = LogReader::open(Arc::clone(self.session), self.outbox, 1).await;
        let types = match opened {
            Ok(reader) => reader.column_types(),
            // That was said before; the columns can be looked at all the same.
            Err(reader::Error::CdcOff(_)) => {
                match reader::base_column_types(self.session, self.outbox, description).await {
                    Ok(types) => types,
                    Err(error) => return self.unreadable(&error),
                }
            }
            Err(error) => return self.unreadable(&error),
        };
        match Decoder::new(self.outbox, &types) {
            Ok(_) => self.ok(Code::Columns, "its columns suit the mapping"),
            Err(error) => {
                for problem in error.problems {
                    let remedy = "correct outboxes.columns, or the table";
                    self.error(Code::Columns, problem.to_string(), remedy);
                }
            }
        }
    }

    fn unreadable(&mut self, error: &reader::Error) {
        let remedy = "let the relay's user read the table and its log";
        self.error(Code::Columns, reason(error), remedy);
    }

    fn key(&mut self, description: &TableDescription) {
        let key: Vec<&str> = description
            .partition_key()
            .map(|column| column.name.as_str())
            .collect();
        let mapped = self.outbox.columns.key.as_str();
        let remedy = format!(
            "use a table with PRIMARY KEY (({mapped}), …) if the order of events matters; \
             docs/delivery-guarantees.md says what holds without"
        );
        // Events of one key and different types are of different aggregates.
        let kind = self.outbox.columns.aggregate_type.as_deref();
        let spreads = |column: &&str| *column != mapped && Some(*column) != kind;
        if !key.contains(&mapped) {
            let message = format!(
                "its partition key is ({}) and not {mapped}, the events' key: the events of one key \
                 lie in several streams of the log, and their order SHOULD NOT be relied on: only \
                 follow.confirm ({} s) holds newer ones back",
                key.join(", "),
                self.config.follow.confirm.as_secs_f64()
            );
            return self.warning(Code::EventKey, message, remedy);
        }
        if let Some(more) = key.iter().find(|column| spreads(column)) {
            let message = format!(
                "its partition key is ({}): with another {more}, events of one {mapped} lie in another \
                 stream of the log, and their order SHOULD NOT be relied on",
                key.join(", ")
            );
            return self.warning(Code::EventKey, message, remedy);
        }
        self.ok(Code::EventKey, format!("events are ordered by {mapped}"));
        if !key.contains(&self.outbox.columns.id.as_str()) {
            self.id_in_key(description);
        }
    }

    /// Where the event's id stands in the clustering key: it decides the order of the events of a
    /// batch, and whether two of them are two rows.
    fn id_in_key(&mut self, description: &TableDescription) {
        let id = self.outbox.columns.id.clone();
        let clustering: Vec<_> = description
            .columns
            .iter()
            .filter(|column| matches!(column.kind, ColumnKind::Clustering(_)))
            .collect();
        let remedy = "make it the first clustering column, in ascending order";
        match clustering.iter().position(|column| column.name == id) {
            None => {
                let message = format!("{id}, the event's id, is not in its primary key");
                let remedy = "make it a clustering column: otherwise a second event overwrites the \
                              first in one batch, and both may be one row";
                self.warning(Code::EventId, message, remedy);
            }
            Some(at) if clustering[..=at].iter().any(|column| column.descending) => {
                let message = format!(
                    "its rows are in descending order, so that the log shows the events of one \
                     {} in one batch in the reverse of the order of {id}",
                    self.outbox.columns.key
                );
                self.warning(Code::EventId, message, remedy);
            }
            Some(at) => {
                let mapped = &self.outbox.columns;
                let harmless = [&mapped.created_at, &mapped.aggregate_type];
                let before = clustering[..at].iter().find(|column| {
                    !harmless
                        .iter()
                        .any(|name| name.as_deref() == Some(column.name.as_str()))
                });
                if let Some(before) = before {
                    let message = format!(
                        "{} comes before {id} in its clustering key, so that it decides the order of \
                         the events of one batch",
                        before.name
                    );
                    self.warning(Code::EventId, message, remedy);
                } else {
                    self.ok(
                        Code::EventId,
                        format!("events of one batch are ordered by {id}"),
                    );
                }
            }
        }
    }

    async fn generations(&mut self) {
        let generations = Generations::of(Arc::clone(self.session), self.name().clone()).await;
        let listed = match generations {
            Ok(generations) => {
                let kind = match generations.distribution() {
                    Distribution::Vnodes => "vnodes",
                    Distribution::Tablets => "tablets",
                };
                generations
                    .timestamps()
                    .await
                    .map(|listed| (kind, listed.len()))
            }
            Err(error) => Err(error),
        };
        match listed {
            Ok((kind, 0)) => {
                let remedy = "wait a minute: a new cluster, or a table that was just altered, gets \
                              its streams a little later";
                self.warning(
                    Code::Streams,
                    format!("has no CDC streams yet ({kind})"),
                    remedy,
                );
            }
            Ok((kind, count)) => {
                let message = format!("has CDC streams ({kind}, {count} generation(s))");
                self.ok(Code::Streams, message);
            }
            Err(error) => {
                let remedy =
                    "let the relay's user read system, system_schema and system_distributed";
                self.error(Code::Streams, reason(&error), remedy);
            }
        }
    }
}
