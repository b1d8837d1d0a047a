//! The stable names of what is looked at: `docs/check.md` has a line for each.

use serde::Serialize;

/// What was looked at. A name never changes its meaning; whether all is well is the level's to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Code {
    /// The configuration can be used.
    Configuration,
    /// Who reaches the HTTP server.
    Http,
    /// ScyllaDB lets us in.
    ScyllaConnection,
    /// Certificates that the connections rest on are valid.
    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "none are used"))]
    Certificates,
    /// `scylla.datacenter` exists.
    Datacenter,
    /// The clocks agree.
    Clock,
    /// The relay's own tables.
    OwnTables,
    /// How a keyspace is replicated.
    Replication,
    /// Reads and writes meet in a replica.
    Consistency,
    /// An outbox table exists and can be described.
    Table,
    /// CDC is on.
    Cdc,
    /// The log has whole rows.
    CdcDelta,
    /// The log has no images.
    CdcImages,
    /// How long the log keeps its rows.
    LogTtl,
    /// The columns suit the mapping.
    Columns,
    /// The events of a key lie in one stream.
    EventKey,
    /// The events of a batch are in order.
    EventId,
    /// There are streams: vnodes or tablets.
    Streams,
    /// Kafka answers.
    KafkaConnection,
    /// What the brokers tell of their version and settings.
    KafkaVersion,
    /// Missing topics are created by the broker.
    AutoCreation,
    /// Topics exist.
    Topic,
    /// A topic survives the loss of a broker.
    TopicDurability,
    /// A topic takes what the producer sends.
    TopicSize,
    /// The relay's user may use a topic.
    TopicAccess,
}

impl Code {
    /// All of them.
    #[cfg(test)]
    pub(super) const ALL: [Self; 25] = [
        Self::Configuration,
        Self::Http,
        Self::ScyllaConnection,
        Self::Certificates,
        Self::Datacenter,
        Self::Clock,
        Self::OwnTables,
        Self::Replication,
        Self::Consistency,
        Self::Table,
        Self::Cdc,
        Self::CdcDelta,
        Self::CdcImages,
        Self::LogTtl,
        Self::Columns,
        Self::EventKey,
        Self::EventId,
        Self::Streams,
        Self::KafkaConnection,
        Self::KafkaVersion,
        Self::AutoCreation,
        Self::Topic,
        Self::TopicDurability,
        Self::TopicSize,
        Self::TopicAccess,
    ];

    /// The name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Http => "http",
            Self::ScyllaConnection => "scylla-connection",
            Self::Certificates => "certificates",
            Self::Datacenter => "datacenter",
            Self::Clock => "clock",
            Self::OwnTables => "own-tables",
            Self::Replication => "replication",
            Self::Consistency => "consistency",
            Self::Table => "table",
            Self::Cdc => "cdc",
            Self::CdcDelta => "cdc-delta",
            Self::CdcImages => "cdc-images",
            Self::LogTtl => "log-ttl",
            Self::Columns => "columns",
            Self::EventKey => "event-key",
            Self::EventId => "event-id",
            Self::Streams => "streams",
            Self::KafkaConnection => "kafka-connection",
            Self::KafkaVersion => "kafka-version",
            Self::AutoCreation => "auto-creation",
            Self::Topic => "topic",
            Self::TopicDurability => "topic-durability",
            Self::TopicSize => "topic-size",
            Self::TopicAccess => "topic-access",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_explained() {
        let page = include_str!("../../../docs/check.md");
        for code in Code::ALL {
            let json = serde_json::to_value(code).expect("plain data");
            assert_eq!(json, code.name());
            let row = format!("| `{}` |", code.name());
            assert_eq!(
                page.matches(&row).count(),
                1,
                "docs/check.md has no line {row}"
            );
        }
        assert_eq!(
            page.matches("\n| `").count(),
            Code::ALL.len(),
            "unknown codes"
        );
    }
}
