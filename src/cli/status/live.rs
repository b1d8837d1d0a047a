//! What a running relay says of itself: `/api/status` and the groups of its tables.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::http::{Client, Error};

/// The answers of a relay.
#[derive(Debug, Clone)]
pub(super) struct Live {
    /// Who was asked.
    pub(super) url: String,
    /// `/api/status` as it came.
    pub(super) document: Value,
    /// The same, understood.
    pub(super) status: Status,
    /// Groups of its tables, furthest behind first.
    pub(super) groups: BTreeMap<String, Groups>,
}

impl Live {
    /// Asks for the status, and for so many groups of each table.
    pub(super) async fn ask(client: &Client, groups: Option<usize>) -> Result<Self, Error> {
        let path = "/api/status";
        let document: Value = client.document(path).await?;
        let status: Status =
            serde_json::from_value(document.clone()).map_err(|source| Error::Form {
                to: client.name(),
                path: path.to_owned(),
                source,
            })?;
        let mut of_tables = BTreeMap::new();
        if let Some(limit) = groups {
            for table in &status.tables {
                let path = format!("/api/tables/{}/groups?limit={limit}", escaped(&table.name));
                of_tables.insert(table.name.clone(), client.document(&path).await?);
            }
        }
        Ok(Self {
            url: client.name(),
            document,
            status,
            groups: of_tables,
        })
    }
}

/// A name as a part of a path.
fn escaped(name: &str) -> String {
    name.bytes().fold(String::new(), |mut path, byte| {
        if byte.is_ascii_alphanumeric() || b"._-".contains(&byte) {
            path.push(byte.into());
        } else {
            let _ = write!(path, "%{byte:02X}");
        }
        path
    })
}

/// The parts of `/api/status` that are shown to people. What a later version adds is ignored.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Status {
    pub(super) relay: String,
    pub(super) version: String,
    pub(super) uptime_seconds: f64,
    pub(super) ready: bool,
    #[serde(default)]
    pub(super) parts: Vec<Part>,
    pub(super) breaker: Breaker,
    pub(super) limits: InFlight,
    pub(super) in_flight: InFlight,
    #[serde(default)]
    pub(super) totals: BTreeMap<String, u64>,
    #[serde(default)]
    pub(super) latency: BTreeMap<String, Latency>,
    #[serde(default)]
    pub(super) parked_keys: u64,
    pub(super) tables: Vec<Table>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Part {
    #[serde(rename = "part")]
    pub(super) name: String,
    pub(super) state: String,
    pub(super) reason: Option<String>,
    #[serde(default)]
    pub(super) for_seconds: f64,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Breaker {
    pub(super) state: String,
    #[serde(default)]
    pub(super) opened: u64,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct InFlight {
    #[serde(alias = "in_flight_events")]
    pub(super) events: u64,
    #[serde(alias = "in_flight_bytes")]
    pub(super) bytes: u64,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Latency {
    pub(super) count: u64,
    pub(super) p50: Option<f64>,
    pub(super) p99: Option<f64>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Table {
    #[serde(rename = "table")]
    pub(super) name: String,
    pub(super) state: String,
    pub(super) groups: u64,
    pub(super) generations: u64,
    pub(super) watermark: Option<String>,
    pub(super) lag_seconds: Option<f64>,
    pub(super) backlog_seconds: Option<f64>,
    pub(super) log_ttl_seconds: Option<f64>,
    pub(super) expires_in_seconds: Option<f64>,
}

/// Some groups of a table.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Groups {
    pub(super) groups: Vec<Group>,
    #[serde(default)]
    pub(super) more: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Group {
    pub(super) generation: String,
    pub(super) range_end: Option<i64>,
    pub(super) streams: Option<u64>,
    pub(super) watermark: Option<String>,
    pub(super) lag_seconds: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tables_are_paths() {
        assert_eq!(escaped("shop.outbox_messages"), "shop.outbox_messages");
        assert_eq!(escaped("Shop.a b/ü"), "Shop.a%20b%2F%C3%BC");
    }
}
