//! The way to ScyllaDB: sessions with the configured consistency, and what a table looks like.
//!
//! Invariants:
//!
//! 1. Every statement of a session has the configured consistency and request timeout unless the
//!    caller sets its own.
//! 2. Descriptions are read from `system_schema` when they are asked for; nothing is cached.
//! 3. With `scylla.tls` no byte of CQL travels in plain text.
//!
//! It does not read the log and does not know the relay's own tables.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::{
    ExecutionError, IntoRowsResultError, NewSessionError, NextRowError, PagerExecutionError,
    RowsError, TypeCheckError,
};
use scylla::policies::load_balancing::DefaultPolicy;

use crate::config;
use crate::runtime::Chain;
#[cfg(feature = "tls")]
use crate::tls;

/// Rows of `system_schema` that describe one table: column name, kind, position, clustering order,
/// type.
type ColumnRow = (String, String, i32, String, String);
/// The extensions of one table, of which the CDC options are one.
type ExtensionsRow = (Option<HashMap<String, Vec<u8>>>,);

/// Why ScyllaDB could not be reached or asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No contact point gave a session.
    #[error("connect to ScyllaDB at {}{}", nodes.join(", "), after_colon(refused.as_ref()))]
    Connect {
        /// The contact points of the configuration.
        nodes: Vec<String>,
        /// Why TLS did not accept a node, if it did not.
        refused: Option<Refused>,
        /// What the driver says.
        #[source]
        source: NewSessionError,
    },
    /// TLS could not be prepared.
    #[cfg(feature = "tls")]
    #[error("connect to ScyllaDB at {}", nodes.join(", "))]
    Tls {
        /// The contact points of the configuration.
        nodes: Vec<String>,
        /// What OpenSSL says.
        #[source]
        source: tls::Error,
    },
    /// A read of `system_schema` failed.
    #[error("read the description of {table}")]
    Describe {
        /// The table that was asked for.
        table: String,
        /// What the driver says.
        #[source]
        source: ExecutionError,
    },
    /// A read of `system_schema` gave something other than expected.
    #[error("read the description of {table}: the answer has an unexpected form")]
    Form {
        /// The table that was asked for.
        table: String,
        /// What the driver says.
        #[source]
        source: FormError,
    },
}

/// Why TLS did not accept a node, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Which certificate, and why.
    pub reason: String,
    /// What a person can do.
    pub remedy: &'static str,
}

fn after_colon(refused: Option<&Refused>) -> String {
    refused.map_or_else(String::new, |refused| format!(": {}", refused.reason))
}

impl Error {
    /// What a person can do, if more is known than "look whether it runs".
    pub fn remedy(&self) -> Option<&'static str> {
        let Self::Connect {
            refused, source, ..
        } = self
        else {
            return None;
        };
        if let Some(refused) = refused {
            return Some(refused.remedy);
        }
        // The driver passes on as text what the server says to a login.
        let said = Chain(source).to_string();
        if said.contains("bad credentials") {
            return Some("correct scylla.username and scylla.password_file");
        }
        #[cfg(feature = "tls")]
        return tls::remedy(&said);
        #[cfg(not(feature = "tls"))]
        None
    }
}

/// Why rows could not be read, page by page.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The first page failed.
    #[error(transparent)]
    Execute(#[from] PagerExecutionError),
    /// A column has another type.
    #[error(transparent)]
    Types(#[from] TypeCheckError),
    /// A later page or a row failed.
    #[error(transparent)]
    Row(#[from] NextRowError),
}

/// An identifier as CQL takes it whatever its letters are.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// In which of `buckets` partitions something belongs, by its name: FNV-1a. What matters is that it
/// never changes, since it names a partition.
pub fn bucket(name: &[u8], buckets: i16) -> i16 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = name.iter().fold(0xcbf2_9ce4_8422_2325_u64, step);
    ((hash >> 32) % u64::from(buckets.unsigned_abs())) as i16
}

/// An answer that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FormError {
    /// The answer holds no rows.
    #[error(transparent)]
    NoRows(Box<IntoRowsResultError>),
    /// The answer's columns have other types.
    #[error(transparent)]
    Types(#[from] RowsError),
    /// A row cannot be read.
    #[error(transparent)]
    Row(#[from] scylla::deserialize::DeserializationError),
}

/// Opens a session as the configuration says.
pub async fn connect(config: &config::Scylla) -> Result<Session, Error> {
    let mut profile = ExecutionProfile::builder()
        .consistency(config.consistency)
        .request_timeout(Some(config.request_timeout));
    if let Some(datacenter) = &config.datacenter {
        let policy = DefaultPolicy::builder()
            .prefer_datacenter(datacenter.clone())
            .permit_dc_failover(true)
            .build();
        profile = profile.load_balancing_policy(policy);
    }
    let mut builder = SessionBuilder::new()
        .known_nodes(&config.nodes)
        .connection_timeout(config.request_timeout.min(Duration::from_secs(10)))
        .hostname_resolution_timeout(Some(Duration::from_secs(5)))
        .default_execution_profile_handle(profile.build().into_handle());
    if let (Some(user), Some(password)) = (&config.username, &config.password) {
        builder = builder.user(user, password.expose());
    }
    #[cfg(feature = "tls")]
    if let Some(tls) = &config.tls {
        return connect_by_tls(builder, config, tls).await;
    }
    let session = builder.build().await;
    session.map_err(|source| Error::Connect {
        nodes: config.nodes.clone(),
        refused: None,
        source,
    })
}

#[cfg(feature = "tls")]
async fn connect_by_tls(
    builder: SessionBuilder,
    config: &config::Scylla,
    tls: &config::Tls,
) -> Result<Session, Error> {
    let nodes = || config.nodes.clone();
    let (context, verdicts) = tls::context(tls).map_err(|source| Error::Tls {
        nodes: nodes(),
        source,
    })?;
    let session = builder.tls_context(Some(context)).build().await;
    let session = session.map_err(|source| {
        let refused = verdicts.last().map(|refusal| Refused {
            reason: refusal.to_string(),
            remedy: refusal.remedy(),
        });
        Error::Connect {
            nodes: nodes(),
            refused: refused.or_else(|| ended(&source, tls)),
            source,
        }
    })?;
    verdicts.connected();
    Ok(session)
}

/// A node that took the handshake and then ended the connection: TLS 1.3 judges the certificates of
/// clients after it, and of the alert that says so the driver keeps nothing.
#[cfg(feature = "tls")]
fn ended(error: &NewSessionError, tls: &config::Tls) -> Option<Refused> {
    let broken = Chain(error).to_string().contains("Connection broken");
    let remedy = match tls.identity {
        None => {
            "if the cluster asks for certificates (require_client_auth in client_encryption_options), \
             set scylla.tls.cert_file and key_file"
        }
        Some(_) => {
            "the cluster may not take scylla.tls.cert_file: have it signed by an authority of the \
             truststore in client_encryption_options, and see that it has not expired"
        }
    };
    broken.then(|| Refused {
        reason: "the node ended the connection after the handshake of TLS".to_owned(),
        remedy,
    })
}

/// A table as `system_schema` describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableDescription {
    /// Which table.
    pub name: config::TableName,
    /// Its columns: partition key, clustering key, then the others by name.
    pub columns: Vec<ColumnDescription>,
    /// Its CDC options; `None` if CDC has never been switched on.
    pub cdc: Option<CdcOptions>,
}

/// One column of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnDescription {
    /// Name as ScyllaDB stores it.
    pub name: String,
    /// Its place in the primary key, if it has one.
    pub kind: ColumnKind,
    /// Whether rows are sorted by it in descending order; only for clustering columns.
    pub descending: bool,
    /// Type in CQL, as `system_schema` spells it: `frozen<map<text, text>>`.
    pub cql_type: String,
}

/// The part a column plays in its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ColumnKind {
    /// Component of the partition key, from 0.
    PartitionKey(u16),
    /// Component of the clustering key, from 0.
    Clustering(u16),
    /// One value for a whole partition.
    Static,
    /// Any other column.
    Regular,
}

/// The `cdc = {…}` options of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are ScyllaDB's own switches"
)]
pub struct CdcOptions {
    /// Whether writes are logged now.
    pub enabled: bool,
    /// How long log rows live. Zero is for ever. ScyllaDB's default is one day.
    pub ttl: Duration,
    /// Whether the row before the change is logged too.
    pub preimage: bool,
    /// Whether the row after the change is logged too.
    pub postimage: bool,
    /// Whether the log carries the changed columns in full (`full`) or only the keys (`keys`).
    pub full_delta: bool,
}

impl TableDescription {
    /// The column of this name.
    pub fn column(&self, name: &str) -> Option<&ColumnDescription> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The components of the partition key, in order.
    pub fn partition_key(&self) -> impl Iterator<Item = &ColumnDescription> {
        self.columns
            .iter()
            .filter(|column| matches!(column.kind, ColumnKind::PartitionKey(_)))
    }

    /// Whether writes to the table are logged now.
    pub fn cdc_enabled(&self) -> bool {
        self.cdc.as_ref().is_some_and(|cdc| cdc.enabled)
    }
}

/// Describes a table; `None` if there is none of this name.
pub async fn describe_table(
    session: &Session,
    table: &config::TableName,
) -> Result<Option<TableDescription>, Error> {
    let mut columns = read_columns(session, table).await?;
    if columns.is_empty() {
        return Ok(None);
    }
    columns.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    let cdc = read_cdc(session, table).await?;
    Ok(Some(TableDescription {
        name: table.clone(),
        columns,
        cdc,
    }))
}

/// Whether a keyspace of this name exists.
pub async fn keyspace_exists(session: &Session, keyspace: &str) -> Result<bool, Error> {
    let query = "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?";
    let rows: Vec<(String,)> = read(session, keyspace, query, (keyspace,)).await?;
    Ok(!rows.is_empty())
}

async fn read_columns(
    session: &Session,
    table: &config::TableName,
) -> Result<Vec<ColumnDescription>, Error> {
    let query = "SELECT column_name, kind, position, clustering_order, type \
                 FROM system_schema.columns \
                 WHERE keyspace_name = ? AND table_name = ?";
    let names = (&table.keyspace, &table.table);
    let rows: Vec<ColumnRow> = read(session, &table.to_string(), query, names).await?;
    let describe = |(name, kind, position, order, cql_type): ColumnRow| ColumnDescription {
        name,
        kind: match kind.as_str() {
            "partition_key" => ColumnKind::PartitionKey(position as u16),
            "clustering" => ColumnKind::Clustering(position as u16),
            "static" => ColumnKind::Static,
            _ => ColumnKind::Regular,
        },
        descending: order.eq_ignore_ascii_case("desc"),
        cql_type,
    };
    Ok(rows.into_iter().map(describe).collect())
}

async fn read_cdc(
    session: &Session,
    table: &config::TableName,
) -> Result<Option<CdcOptions>, Error> {
    let query = "SELECT extensions FROM system_schema.tables \
                 WHERE keyspace_name = ? AND table_name = ?";
    let names = (&table.keyspace, &table.table);
    let rows: Vec<ExtensionsRow> = read(session, &table.to_string(), query, names).await?;
    let extensions = rows.into_iter().next().and_then(|(extensions,)| extensions);
    let options = extensions.and_then(|mut extensions| extensions.remove("cdc"));
    Ok(options
        .and_then(|bytes| text_map(&bytes))
        .map(|options| cdc_options(&options)))
}

async fn read<R>(
    session: &Session,
    table: &str,
    query: &str,
    values: impl scylla::serialize::row::SerializeRow,
) -> Result<Vec<R>, Error>
where
    R: for<'frame, 'metadata> scylla::deserialize::row::DeserializeRow<'frame, 'metadata>,
{
    let result = session.query_unpaged(query, values).await;
    let result = result.map_err(|source| Error::Describe {
        table: table.to_owned(),
        source,
    })?;
    let rows = || -> Result<Vec<R>, FormError> {
        let rows = result.into_rows_result();
        let rows = rows.map_err(|error| FormError::NoRows(Box::new(error)))?;
        let rows = rows.rows::<R>()?.collect::<Result<Vec<R>, _>>();
        Ok(rows?)
    };
    rows().map_err(|source| Error::Form {
        table: table.to_owned(),
        source,
    })
}

/// The options that ScyllaDB keeps in `system_schema.tables.extensions`: a map of texts in the
/// server's own serialisation, all numbers little-endian 32-bit: the number of entries, then for
/// each key and value its length and its bytes.
fn text_map(bytes: &[u8]) -> Option<BTreeMap<String, String>> {
    fn number(bytes: &mut &[u8]) -> Option<usize> {
        let (head, tail) = bytes.split_first_chunk::<4>()?;
        *bytes = tail;
        usize::try_from(u32::from_le_bytes(*head)).ok()
    }
    fn text(bytes: &mut &[u8]) -> Option<String> {
        let length = number(bytes)?;
        let (head, tail) = bytes.split_at_checked(length)?;
        *bytes = tail;
        String::from_utf8(head.to_vec()).ok()
    }
    let mut rest = bytes;
    let mut map = BTreeMap::new();
    for _ in 0..number(&mut rest)? {
        let key = text(&mut rest)?;
        map.insert(key, text(&mut rest)?);
    }
    Some(map)
}

fn cdc_options(options: &BTreeMap<String, String>) -> CdcOptions {
    let option = |name: &str| options.get(name).map(String::as_str);
    let on = |value: Option<&str>| matches!(value, Some("true" | "full"));
    CdcOptions {
        enabled: on(option("enabled")),
        ttl: Duration::from_secs(
            option("ttl")
                .and_then(|seconds| seconds.parse().ok())
                .unwrap_or(86_400),
        ),
        preimage: on(option("preimage")),
        postimage: on(option("postimage")),
        full_delta: option("delta").is_none_or(|delta| delta == "full"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serialised(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut bytes = (entries.len() as u32).to_le_bytes().to_vec();
        for text in entries.iter().flat_map(|(key, value)| [key, value]) {
            bytes.extend((text.len() as u32).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        bytes
    }

    #[test]
    fn cdc_options_are_read_from_the_extension() {
        let bytes = serialised(&[
            ("delta", "full"),
            ("enabled", "true"),
            ("postimage", "false"),
            ("preimage", "full"),
            ("ttl", "3600"),
        ]);
        let options = cdc_options(&text_map(&bytes).unwrap());
        let expected = CdcOptions {
            enabled: true,
            ttl: Duration::from_hours(1),
            preimage: true,
            postimage: false,
            full_delta: true,
        };
        assert_eq!(options, expected);
    }

    #[test]
    fn a_truncated_extension_is_none() {
        let bytes = serialised(&[("enabled", "true")]);
        for length in 0..bytes.len() {
            assert_eq!(text_map(&bytes[..length]), None, "{length} bytes");
        }
    }
}
