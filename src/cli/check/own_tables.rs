//! The relay's own tables: whether they are there, and have the columns of this version.

use scylla::client::session::Session;

use super::code::Code;
use super::finding::Finding;
use super::reason;
use crate::config::{Config, TableName};
use crate::schema;
use crate::scylla::{self as cluster, TableDescription};

/// Looks at all of them.
pub(super) async fn check(session: &Session, config: &Config) -> Finding {
    let keyspace = &config.scylla.keyspace;
    let subject = format!("the relay's tables in {keyspace}");
    let mut wrong = Vec::new();
    for (name, cql) in schema::own_tables(keyspace) {
        let table = TableName {
            keyspace: keyspace.clone(),
            table: name.to_owned(),
        };
        match cluster::describe_table(session, &table).await {
            Ok(Some(described)) => wrong.extend(differences(name, &cql, &described)),
            Ok(None) => wrong.push(format!("{name} is missing")),
            Err(error) => {
                let remedy = "let the relay's user read system_schema";
                return Finding::error(Code::OwnTables, subject, reason(&error), remedy);
            }
        }
    }
    if wrong.is_empty() {
        return Finding::ok(
            Code::OwnTables,
            subject,
            "are there, in the form of this version",
        );
    }
    let remedy = "run `outbox-relay schema --apply` with the same configuration: it creates what is \
                  missing; a table of another form has to be altered by hand";
    Finding::error(Code::OwnTables, subject, wrong.join("; "), remedy)
}

/// Columns that a table should have and has not. One more does no harm.
fn differences(name: &str, cql: &str, described: &TableDescription) -> Vec<String> {
    let wanted = columns(cql);
    let differs = |(column, cql_type): (&str, &str)| match described.column(column) {
        Some(there) if there.cql_type == cql_type => None,
        Some(there) => Some(format!(
            "{name}.{column} is {} and not {cql_type}",
            there.cql_type
        )),
        None => Some(format!("{name} has no column {column}")),
    };
    wanted.into_iter().filter_map(differs).collect()
}

/// Names and types of the columns of a statement of [`schema::own_tables`]: each has a line of its own.
fn columns(cql: &str) -> Vec<(&str, &str)> {
    let lines = cql.lines().filter_map(|line| line.strip_prefix("    "));
    let lines = lines.filter(|line| !line.starts_with("PRIMARY KEY"));
    lines
        .filter_map(|line| line.trim_end_matches(',').split_once(' '))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_of_every_table_are_found_in_its_statement() {
        for (name, cql) in schema::own_tables("own") {
            let columns = columns(&cql);
            assert!(columns.contains(&("relay", "text")), "{name}: {columns:?}");
            // One line each, the first and the last two aside.
            let lines = cql.lines().count();
            assert_eq!(columns.len(), lines - 3, "{name}: {columns:?}");
        }
    }
}
