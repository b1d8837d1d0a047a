//! ScyllaDB: can it be reached, are the tables there, and do they suit.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use scylla::client::session::Session;
use scylla::statement::Consistency;
use scylla::value::CqlTimestamp;
use tokio::time::{Instant, timeout};

use super::finding::{Finding, Findings};
use crate::checkpoint;
use crate::config::{Config, Outbox, TableName};
use crate::decode::Decoder;
use crate::runtime::Chain;
use crate::scylla::{self as cluster, CdcOptions, ColumnKind, TableDescription};
use crate::source::generations::{Distribution, Generations};
use crate::source::reader::{self, LogReader};

/// How long ScyllaDB may take until it has let us in.
const PATIENCE: Duration = Duration::from_secs(15);
/// A difference of clocks from which on a person should know.
const SKEW: Duration = Duration::from_secs(1);
/// A log that keeps its rows for a shorter time gives little time to mend a stopped relay.
const SHORT_TTL: Duration = Duration::from_hours(1);

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
            findings.push(Finding::error(subject, message, known.unwrap_or(remedy)));
            return findings;
        }
    };
    let version = version(&session).await;
    let nodes = session.get_cluster_state().get_nodes_info().len();
    findings.push(Finding::ok(
        subject.clone(),
        format!("answers; version {version}, {nodes} known node(s)"),
    ));
    #[cfg(feature = "tls")]
    if let Some(tls) = &config.scylla.tls {
        findings.extend(super::certificates::scylla(tls));
    }
    findings.push(clock(&session, config).await);
    findings.push(own_tables(&session, config).await);
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

/// The error and its sources, without what repeats the one before.
fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    Chain(error).to_string()
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

/// What lies behind an error: the driver wraps "connection refused" many times.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
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
            subject,
            "could not be compared: the server gives no time",
            "see that both follow NTP",
        );
    };
    let there = Duration::from_millis(u64::try_from(there).unwrap_or_default());
    let skew = (wall + half).abs_diff(there);
    let message = format!("differ by about {} ms", skew.as_millis());
    let remedy = "let both follow NTP: the relay takes a row for complete once it is older than \
                  follow.late_window by its own clock";
    if skew * 2 > config.follow.late_window {
        Finding::error(subject, message, remedy)
    } else if skew > SKEW {
        Finding::warning(subject, message, remedy)
    } else {
        Finding::ok(subject, message)
    }
}

async fn own_tables(session: &Arc<Session>, config: &Config) -> Finding {
    let keyspace = &config.scylla.keyspace;
    let subject = format!("the relay's tables in {keyspace}");
    match checkpoint::Store::new(Arc::clone(session), keyspace, &config.relay.name).await {
        Ok(_) => Finding::ok(subject, "are there"),
        Err(error) => Finding::error(
            subject,
            reason(&error),
            "run `outbox-relay schema --apply` with the same configuration",
        ),
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

    fn ok(&mut self, message: impl Into<String>) {
        let finding = Finding::ok(self.name().to_string(), message);
        self.findings.push(finding);
    }

    fn warning(&mut self, message: impl Into<String>, remedy: impl Into<String>) {
        let finding = Finding::warning(self.name().to_string(), message, remedy);
        self.findings.push(finding);
    }

    fn error(&mut self, message: impl Into<String>, remedy: impl Into<String>) {
        let finding = Finding::error(self.name().to_string(), message, remedy);
        self.findings.push(finding);
    }

    async fn check(mut self) {
        let description = match cluster::describe_table(self.session, self.name()).await {
            Ok(Some(description)) => description,
            Ok(None) => {
                let remedy = "create it (`outbox-relay schema` prints its CQL), or correct \
                              outboxes.table";
                return self.error("does not exist", remedy);
            }
            Err(error) => {
                return self.error(reason(&error), "let the relay's user read system_schema");
            }
        };
        self.cdc(description.cdc.as_ref());
        self.columns(&description).await;
        self.key(&description);
        self.consistency();
        self.generations().await;
    }

    fn cdc(&mut self, cdc: Option<&CdcOptions>) {
        let Some(cdc) = cdc.filter(|cdc| cdc.enabled) else {
            let remedy = format!(
                "ALTER TABLE {} WITH cdc = {{'enabled': true, 'ttl': 604800}}; what was written \
                 before is not in the log",
                self.name()
            );
            return self.error("CDC is off: no event can be seen", remedy);
        };
        self.ok("CDC is on");
        if !cdc.full_delta {
            let remedy = "set 'delta': 'full' in the table's cdc options";
            self.error("the log has keys only ('delta': 'keys')", remedy);
        }
        if cdc.preimage || cdc.postimage {
            let remedy = "set 'preimage': false and 'postimage': false: the relay skips images, and \
                          each costs ScyllaDB a read and a write";
            self.warning("the log has pre- or post-images", remedy);
        }
        self.log_ttl(cdc.ttl);
    }

    fn log_ttl(&mut self, ttl: Duration) {
        let window = self.config.follow.late_window;
        let message = format!("the log keeps rows for {} s", ttl.as_secs());
        if ttl.is_zero() {
            let remedy = "set a 'ttl' in the table's cdc options, such as 604800 (a week)";
            self.warning("the log keeps rows for ever", remedy);
        } else if ttl <= window {
            let remedy = "set a longer 'ttl' in the table's cdc options: rows may be gone before \
                          they have been read for the last time (follow.late_window)";
            self.error(message, remedy);
        } else if ttl < SHORT_TTL {
            let remedy = "set a longer 'ttl' in the table's cdc options: a relay that is down for \
                          longer loses events";
            self.warning(message, remedy);
        } else {
            self.ok(message);
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
            Ok(_) => self.ok("its columns suit the mapping"),
            Err(error) => {
                for problem in error.problems {
                    let remedy = "correct outboxes.columns, or the table";
                    self.error(problem.to_string(), remedy);
                }
            }
        }
    }

    fn unreadable(&mut self, error: &reader::Error) {
        let remedy = "let the relay's user read the table and its log";
        self.error(reason(error), remedy);
    }

    fn key(&mut self, description: &TableDescription) {
        let key: Vec<&str> = description
            .partition_key()
            .map(|column| column.name.as_str())
            .collect();
        let mapped = self.outbox.columns.key.as_str();
        if !key.contains(&mapped) {
            let message = format!(
                "its partition key is ({}) and not {mapped}, the events' key: the events of one key \
                 lie in several streams of the log",
                key.join(", ")
            );
            let remedy = format!(
                "use a table with PRIMARY KEY (({mapped}), …) if the order of events matters"
            );
            return self.warning(message, remedy);
        }
        self.ok(format!("events are ordered by {mapped}"));
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
                self.warning(message, remedy);
            }
            Some(at) if clustering[..=at].iter().any(|column| column.descending) => {
                let message = format!(
                    "its rows are in descending order, so that the log shows the events of one \
                     {} in one batch in the reverse of the order of {id}",
                    self.outbox.columns.key
                );
                self.warning(message, remedy);
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
                    self.warning(message, remedy);
                }
            }
        }
    }

    fn consistency(&mut self) {
        let weak = matches!(
            self.config.scylla.consistency,
            Consistency::One | Consistency::LocalOne
        );
        let copies = self
            .session
            .get_cluster_state()
            .get_keyspace(&self.name().keyspace)
            .map(|keyspace| replicas(&keyspace.strategy));
        if weak && copies.is_some_and(|copies| copies > 1) {
            let remedy = "set scylla.consistency: local_quorum, and write at LOCAL_QUORUM: a read \
                          must meet at least one replica that has the write";
            let message = format!(
                "is read at {}, and the keyspace has several replicas",
                self.config.scylla.consistency
            );
            self.warning(message, remedy);
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
                self.warning(format!("has no CDC streams yet ({kind})"), remedy);
            }
            Ok((kind, count)) => {
                self.ok(format!("has CDC streams ({kind}, {count} generation(s))"));
            }
            Err(error) => {
                let remedy =
                    "let the relay's user read system, system_schema and system_distributed";
                self.error(reason(&error), remedy);
            }
        }
    }
}

/// The largest number of replicas in a datacenter.
fn replicas(strategy: &scylla::cluster::metadata::Strategy) -> usize {
    use scylla::cluster::metadata::Strategy;
    match strategy {
        Strategy::SimpleStrategy { replication_factor } => *replication_factor,
        Strategy::NetworkTopologyStrategy {
            datacenter_repfactors,
        } => datacenter_repfactors.values().copied().max().unwrap_or(1),
        _ => 1,
    }
}
