//! What `system_schema` says of the outbox table: is it logged, and in which order are its rows.
//!
//! Invariants:
//! 1. A table counts as logged only if its CDC options say so: ScyllaDB keeps the log table when
//!    CDC is switched off, so that the log's existence says nothing.
//! 2. Events of one aggregate count as ordered by their ids only if nothing but the aggregate, the
//!    time of addition and the id decides the order of its rows, and all of them ascend.

use crate::error::Error;
use crate::layout::{Layout, Role, TableName};
use scylla::client::session::Session;
use scylla::errors::ExecutionError;
use scylla::statement::prepared::PreparedStatement;
use std::collections::HashMap;

/// In which order the log shows two events of one aggregate that stand in one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BatchOrder {
    /// By their ids.
    Ids,
    /// They lie in different partitions: in none.
    None,
    /// In another one than that of their ids, for this reason: there may be only one in a batch.
    Wrong(&'static str),
}

/// A column of the primary key.
#[derive(Debug, Clone)]
struct KeyColumn {
    name: String,
    partition: bool,
    position: i32,
    descending: bool,
}

/// How the log orders the rows of `table`; refuses a table without CDC if `require_cdc` says so.
pub(crate) async fn inspect(
    session: &Session,
    insert: &PreparedStatement,
    table: &TableName,
    layout: &Layout,
    require_cdc: bool,
) -> Result<BatchOrder, Error> {
    let (Some(keyspace), Some(name)) = (insert.get_keyspace_name(), insert.get_table_name()) else {
        return Ok(BatchOrder::None);
    };
    let read_schema = |source| Error::ReadSchema {
        table: table.to_string(),
        source: Box::new(source),
    };
    if require_cdc
        && !cdc_enabled(session, keyspace, name)
            .await
            .map_err(read_schema)?
    {
        return Err(Error::CdcOff {
            table: table.to_string(),
        });
    }
    let key = key(session, keyspace, name).await.map_err(read_schema)?;
    Ok(order(&key, layout))
}

async fn cdc_enabled(
    session: &Session,
    keyspace: &str,
    table: &str,
) -> Result<bool, ExecutionError> {
    let cql = "SELECT extensions FROM system_schema.tables \
               WHERE keyspace_name = ? AND table_name = ?";
    let result = session.query_unpaged(cql, (keyspace, table)).await?;
    let extensions = result.into_rows_result().ok().and_then(|rows| {
        let row = rows.maybe_first_row::<(Option<HashMap<String, Vec<u8>>>,)>();
        row.ok().flatten()?.0
    });
    let options = extensions.and_then(|mut extensions| extensions.remove("cdc"));
    Ok(options
        .and_then(|bytes| text_map(&bytes))
        .is_some_and(|options| options.get("enabled").is_some_and(|value| value == "true")))
}

/// A map of texts in the server's own serialisation, all numbers little-endian 32-bit: the number
/// of entries, then for each key and value its length and its bytes.
fn text_map(bytes: &[u8]) -> Option<HashMap<String, String>> {
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
    let mut map = HashMap::new();
    for _ in 0..number(&mut rest)? {
        let key = text(&mut rest)?;
        map.insert(key, text(&mut rest)?);
    }
    Some(map)
}

async fn key(
    session: &Session,
    keyspace: &str,
    table: &str,
) -> Result<Vec<KeyColumn>, ExecutionError> {
    let cql = "SELECT column_name, kind, position, clustering_order FROM system_schema.columns \
               WHERE keyspace_name = ? AND table_name = ?";
    let result = session.query_unpaged(cql, (keyspace, table)).await?;
    let rows = result.into_rows_result().ok();
    let columns = rows
        .as_ref()
        .and_then(|rows| rows.rows::<(String, String, i32, String)>().ok())
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    let mut key: Vec<KeyColumn> = columns
        .filter(|(_, kind, ..)| kind == "partition_key" || kind == "clustering")
        .map(|(name, kind, position, order)| KeyColumn {
            name,
            partition: kind == "partition_key",
            position,
            descending: order.eq_ignore_ascii_case("desc"),
        })
        .collect();
    key.sort_by_key(|column| (!column.partition, column.position));
    Ok(key)
}

/// What decides the order of two rows of one aggregate that are added one after the other.
fn order(key: &[KeyColumn], layout: &Layout) -> BatchOrder {
    let roles = layout.columns();
    let role = |column: &KeyColumn| {
        let found = roles.iter().find(|(_, name)| *name == column.name);
        found.map(|(role, _)| *role)
    };
    let partition = key.iter().filter(|column| column.partition);
    if partition.map(role).any(|role| role == Some(Role::Id)) {
        return BatchOrder::None;
    }
    for column in key.iter().filter(|column| !column.partition) {
        match role(column) {
            Some(Role::Id | Role::CreatedAt) if column.descending => {
                return BatchOrder::Wrong("its rows are in descending order");
            }
            Some(Role::Id) => return BatchOrder::Ids,
            Some(Role::AggregateId | Role::AggregateType | Role::CreatedAt) => {}
            _ => return BatchOrder::Wrong("another column comes before the id in its key"),
        }
    }
    BatchOrder::Wrong("the id is not in its primary key, so that both would be one row")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(columns: &[(&str, bool)]) -> BatchOrder {
        let mut key = vec![KeyColumn {
            name: "aggregate_id".to_owned(),
            partition: true,
            position: 0,
            descending: false,
        }];
        key.extend(
            columns
                .iter()
                .zip(0..)
                .map(|((name, descending), position)| KeyColumn {
                    name: (*name).to_owned(),
                    partition: false,
                    position,
                    descending: *descending,
                }),
        );
        order(&key, &Layout::default())
    }

    #[test]
    fn ids_order_a_batch_only_where_nothing_else_does() {
        assert_eq!(table(&[("id", false)]), BatchOrder::Ids);
        let by_time = [
            ("aggregate_type", true),
            ("created_at", false),
            ("id", false),
        ];
        assert_eq!(table(&by_time), BatchOrder::Ids);
        for wrong in [
            &[][..],
            &[("id", true)],
            &[("created_at", true), ("id", false)],
            &[("event_type", false), ("id", false)],
            &[("region", false), ("id", false)],
            &[("created_at", false)],
        ] {
            assert!(matches!(table(wrong), BatchOrder::Wrong(_)), "{wrong:?}");
        }
    }

    #[test]
    fn a_partition_per_event_has_no_order() {
        let id = KeyColumn {
            name: "id".to_owned(),
            partition: true,
            position: 0,
            descending: false,
        };
        assert_eq!(order(&[id], &Layout::default()), BatchOrder::None);
    }

    #[test]
    fn damaged_options_are_none() {
        assert_eq!(text_map(&[1, 0, 0, 0, 9]), None);
        assert_eq!(text_map(&[0; 4]), Some(HashMap::new()));
    }
}
