//! The outbox table: its name, the names of its columns, and the CQL that creates it.
//!
//! Invariant: a name that reaches a statement has been checked to be letters, digits and
//! underscores, and is quoted where CQL would otherwise change or refuse it. Names are taken
//! literally: `Orders` is not `orders`.

use crate::error::Error;
use std::fmt;

/// The longest name of a keyspace or a table in ScyllaDB, in characters.
const MAX_NAME: usize = 48;

/// Reserved words of CQL, which need quotes as names.
const RESERVED: [&str; 51] = [
    "add",
    "allow",
    "alter",
    "and",
    "apply",
    "asc",
    "authorize",
    "batch",
    "begin",
    "by",
    "columnfamily",
    "create",
    "delete",
    "desc",
    "describe",
    "drop",
    "entries",
    "execute",
    "from",
    "full",
    "grant",
    "if",
    "in",
    "index",
    "infinity",
    "insert",
    "into",
    "is",
    "keyspace",
    "limit",
    "modify",
    "nan",
    "norecursive",
    "not",
    "null",
    "of",
    "on",
    "or",
    "order",
    "primary",
    "rename",
    "replace",
    "revoke",
    "schema",
    "select",
    "set",
    "table",
    "to",
    "token",
    "update",
    "where",
];

/// The names of the outbox table's columns. Columns that are `None` are not written.
///
/// ```
/// # use outbox_writer::Layout;
/// let layout = Layout { headers: None, ..Layout::default() };
/// assert_eq!(layout.aggregate_id, "aggregate_id");
/// assert_eq!(Layout::debezium().aggregate_id, "aggregateid");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The event's id: `timeuuid` (recommended), `uuid` or `text`.
    pub id: String,
    /// The aggregate's id, which becomes the record's key: `text`, `uuid`, `timeuuid`, `bigint`,
    /// `int` or `blob`.
    pub aggregate_id: String,
    /// The payload: `blob` (recommended) or `text`.
    pub payload: String,
    /// The aggregate's type: `text`.
    pub aggregate_type: Option<String>,
    /// The event's type: `text`.
    pub event_type: Option<String>,
    /// The payload's media type: `text`.
    pub content_type: Option<String>,
    /// The headers: `map<text, text>`, best frozen.
    pub headers: Option<String>,
    /// When the event was added to its batch, by the clock of the application: `timestamp`.
    pub created_at: Option<String>,
}

impl Default for Layout {
    /// The columns of the recommended table.
    fn default() -> Self {
        Self {
            id: "id".to_owned(),
            aggregate_id: "aggregate_id".to_owned(),
            payload: "payload".to_owned(),
            aggregate_type: Some("aggregate_type".to_owned()),
            event_type: Some("event_type".to_owned()),
            content_type: Some("content_type".to_owned()),
            headers: Some("headers".to_owned()),
            created_at: Some("created_at".to_owned()),
        }
    }
}

impl Layout {
    /// The columns that Debezium's outbox router expects: `id`, `aggregatetype`, `aggregateid`,
    /// `type` and `payload`.
    pub fn debezium() -> Self {
        Self {
            id: "id".to_owned(),
            aggregate_id: "aggregateid".to_owned(),
            payload: "payload".to_owned(),
            aggregate_type: Some("aggregatetype".to_owned()),
            event_type: Some("type".to_owned()),
            content_type: None,
            headers: None,
            created_at: None,
        }
    }

    /// The mapped columns, in the order in which they are written.
    pub(crate) fn columns(&self) -> Vec<(Role, &str)> {
        let optional = [
            (Role::AggregateType, &self.aggregate_type),
            (Role::EventType, &self.event_type),
            (Role::ContentType, &self.content_type),
            (Role::Headers, &self.headers),
            (Role::CreatedAt, &self.created_at),
        ];
        let mut columns = vec![
            (Role::AggregateId, self.aggregate_id.as_str()),
            (Role::Id, self.id.as_str()),
            (Role::Payload, self.payload.as_str()),
        ];
        columns.extend(
            optional
                .into_iter()
                .filter_map(|(role, name)| Some((role, name.as_deref()?))),
        );
        columns
    }
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Id,
    AggregateId,
    AggregateType,
    EventType,
    Payload,
    ContentType,
    Headers,
    CreatedAt,
}

impl Role {
    fn recommended_type(self, partition: PartitionBy) -> &'static str {
        match self {
            Self::Id if partition == PartitionBy::EventId => "uuid",
            Self::Id => "timeuuid",
            Self::AggregateId | Self::AggregateType | Self::EventType | Self::ContentType => "text",
            Self::Payload => "blob",
            Self::Headers => "frozen<map<text, text>>",
            Self::CreatedAt => "timestamp",
        }
    }
}

/// What rows of the outbox table share a partition, which decides the order that can be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PartitionBy {
    /// The aggregate's id, clustered by the event's id: all events of an aggregate lie in one
    /// stream of the CDC log, and are published in the order in which they were written.
    #[default]
    AggregateId,
    /// The event's id: every event is a partition of its own, as many existing outbox tables have
    /// it. The events of one aggregate then lie in different streams of the CDC log, which are
    /// read independently of each other, so their order is *not* kept.
    EventId,
}

/// What [`ddl`] puts into the CREATE TABLE statement.
#[derive(Debug, Clone)]
pub struct DdlOptions {
    /// The names of the columns.
    pub layout: Layout,
    /// The partition key.
    pub partition_by: PartitionBy,
    /// Seconds after which rows of the outbox table expire, 0 for never. The table is only the
    /// place through which events enter the CDC log: an hour is plenty for a person to look at.
    pub ttl_seconds: u32,
    /// Seconds after which rows of the CDC log expire. This is how long the relay may be down
    /// without losing an event; ScyllaDB's own default is one day.
    pub cdc_ttl_seconds: u32,
}

impl Default for DdlOptions {
    /// The recommended table: by aggregate, rows expire after an hour, the CDC log after three
    /// days (so that a relay that breaks on a Friday evening may be repaired on Monday).
    fn default() -> Self {
        Self {
            layout: Layout::default(),
            partition_by: PartitionBy::AggregateId,
            ttl_seconds: 3_600,
            cdc_ttl_seconds: 259_200,
        }
    }
}

/// The CQL that creates an outbox table.
///
/// ```
/// # use outbox_writer::{DdlOptions, ddl};
/// println!("{}", ddl("shop.outbox_messages", &DdlOptions::default())?);
/// # Ok::<(), outbox_writer::Error>(())
/// ```
///
/// Fails with [`Error::TableName`] or [`Error::ColumnName`] if a name is none.
pub fn ddl(table: &str, options: &DdlOptions) -> Result<String, Error> {
    let table = TableName::parse(table)?;
    let mut cql = format!("CREATE TABLE IF NOT EXISTS {table} (\n");
    for (role, name) in options.layout.columns() {
        let column = Identifier::column(name)?;
        let cql_type = role.recommended_type(options.partition_by);
        cql.extend(["    ", &column.to_string(), " ", cql_type, ",\n"]);
    }
    let id = Identifier::column(&options.layout.id)?;
    let key = match options.partition_by {
        PartitionBy::AggregateId => {
            let aggregate_id = Identifier::column(&options.layout.aggregate_id)?;
            format!("({aggregate_id}), {id}")
        }
        PartitionBy::EventId => id.to_string(),
    };
    let (ttl, cdc_ttl) = (options.ttl_seconds, options.cdc_ttl_seconds);
    Ok(format!(
        "{cql}    PRIMARY KEY ({key})\n) WITH default_time_to_live = {ttl}\n  \
         AND cdc = {{'enabled': true, 'ttl': {cdc_ttl}}}"
    ))
}

/// A checked name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identifier(String);

impl Identifier {
    fn parse(name: &str) -> Option<Self> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_';
        (!name.is_empty() && name.chars().all(allowed)).then(|| Self(name.to_owned()))
    }

    pub(crate) fn column(name: &str) -> Result<Self, Error> {
        Self::parse(name).ok_or_else(|| Error::ColumnName {
            name: name.to_owned(),
        })
    }

    fn needs_quotes(&self) -> bool {
        !self.0.starts_with(|c: char| c.is_ascii_lowercase())
            || self.0.contains(|c: char| c.is_ascii_uppercase())
            || RESERVED.contains(&self.0.as_str())
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.needs_quotes() {
            write!(f, "\"{}\"", self.0)
        } else {
            f.write_str(&self.0)
        }
    }
}

/// `table` in the session's keyspace, or `keyspace.table`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableName {
    keyspace: Option<Identifier>,
    table: Identifier,
}

impl TableName {
    pub(crate) fn parse(name: &str) -> Result<Self, Error> {
        let part = |name: &str| Identifier::parse(name).filter(|name| name.0.len() <= MAX_NAME);
        let parsed = match name.split_once('.') {
            Some((keyspace, table)) => part(keyspace)
                .zip(part(table))
                .map(|(keyspace, table)| (Some(keyspace), table)),
            None => part(name).map(|table| (None, table)),
        };
        let (keyspace, table) = parsed.ok_or_else(|| Error::TableName {
            name: name.to_owned(),
        })?;
        Ok(Self { keyspace, table })
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.keyspace {
            Some(keyspace) => write!(f, "{keyspace}.{}", self.table),
            None => write!(f, "{}", self.table),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recommended_table() {
        let cql = ddl("shop.outbox_messages", &DdlOptions::default()).expect("valid names");
        assert_eq!(
            cql,
            "CREATE TABLE IF NOT EXISTS shop.outbox_messages (
    aggregate_id text,
    id timeuuid,
    payload blob,
    aggregate_type text,
    event_type text,
    content_type text,
    headers frozen<map<text, text>>,
    created_at timestamp,
    PRIMARY KEY ((aggregate_id), id)
) WITH default_time_to_live = 3600
  AND cdc = {'enabled': true, 'ttl': 259200}"
        );
    }

    #[test]
    fn a_table_by_event_id_with_debeziums_names() {
        let options = DdlOptions {
            layout: Layout::debezium(),
            partition_by: PartitionBy::EventId,
            ..DdlOptions::default()
        };
        let cql = ddl("outbox", &options).expect("valid names");
        assert!(cql.contains("    id uuid,\n"), "{cql}");
        assert!(cql.contains("    type text,\n"), "{cql}");
        assert!(cql.contains("PRIMARY KEY (id)\n"), "{cql}");
    }

    #[test]
    fn names_are_quoted_only_where_they_must_be() {
        let shown = |name: &str| TableName::parse(name).map(|name| name.to_string());
        assert_eq!(shown("shop.outbox").ok().as_deref(), Some("shop.outbox"));
        assert_eq!(
            shown("Shop.order").ok().as_deref(),
            Some("\"Shop\".\"order\"")
        );
        assert_eq!(shown("_t").ok().as_deref(), Some("\"_t\""));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for name in [
            "",
            ".",
            "a.",
            ".b",
            "a.b.c",
            "a;b",
            "a b",
            "a\"b",
            "ü",
            &"x".repeat(49),
        ] {
            assert!(
                matches!(TableName::parse(name), Err(Error::TableName { .. })),
                "{name:?}"
            );
        }
        assert!(matches!(
            Identifier::column("a\"b"),
            Err(Error::ColumnName { .. })
        ));
    }
}
