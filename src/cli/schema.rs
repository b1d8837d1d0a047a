//! `outbox-relay schema`: the CQL of the relay's own tables and of the configured outbox tables.
//!
//! Invariant: `--apply` creates what is missing and changes nothing that exists.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use outbox_writer::{DdlOptions, Layout};
use scylla::client::session::Session;
use serde::Serialize;

use super::{OutputFormat, out};
use crate::config::{Columns, Config, Outbox, TableName, TopicPart};
use crate::schema::own_tables;
use crate::scylla as cluster;

/// Copies of the data when nobody says how many, if there are as many nodes.
const REPLICATION_FACTOR: usize = 3;

/// Arguments of `schema`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  outbox-relay schema --config relay.yaml\n  \
                  outbox-relay schema --apply --config relay.yaml"
)]
pub struct Args {
    /// Create what is missing; without it the CQL is printed and nothing is contacted.
    #[arg(long)]
    pub apply: bool,
    /// Copies of the data of a keyspace that is created, in each datacenter [default: 3, or the
    /// number of nodes if there are fewer].
    #[arg(long, value_name = "N")]
    pub replication_factor: Option<usize>,
    /// Form of the output.
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    pub output: OutputFormat,
}

/// One keyspace or table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Item {
    name: String,
    cql: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<State>,
}

/// What `--apply` found or did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Exists,
    Created,
}

/// Prints the schema, or creates what is missing of it.
pub async fn run(config: &Config, args: &Args) -> Result<()> {
    let items = if args.apply {
        let session = cluster::connect(&config.scylla).await?;
        apply(&session, config, args.replication_factor).await?
    } else {
        items(
            config,
            args.replication_factor.unwrap_or(REPLICATION_FACTOR),
        )?
    };
    match args.output {
        OutputFormat::Json => out::line(serde_json::to_string_pretty(&items)?),
        OutputFormat::Text => items.iter().try_for_each(print),
    }
}

/// Creates what is missing for `config`; a keyspace gets `replication_factor` copies.
#[cfg(feature = "demo")]
pub(super) async fn create_missing(
    session: &Session,
    config: &Config,
    replication_factor: Option<usize>,
) -> Result<()> {
    apply(session, config, replication_factor).await.map(drop)
}

fn print(item: &Item) -> Result<()> {
    match item.state {
        None => out::line(format_args!("{};\n", item.cql)),
        Some(State::Exists) => out::line(format_args!("exists   {}", item.name)),
        Some(State::Created) => out::line(format_args!("created  {}", item.name)),
    }
}

async fn apply(
    session: &Session,
    config: &Config,
    replication_factor: Option<usize>,
) -> Result<Vec<Item>> {
    let nodes = session.get_cluster_state().get_nodes_info().len().max(1);
    let copies = replication_factor.unwrap_or(REPLICATION_FACTOR.min(nodes));
    let mut items = items(config, copies)?;
    for item in &mut items {
        item.state = Some(if exists(session, &item.name).await? {
            State::Exists
        } else {
            let created = session.query_unpaged(item.cql.as_str(), ()).await;
            created.with_context(|| format!("create {}", item.name))?;
            State::Created
        });
    }
    session
        .await_schema_agreement()
        .await
        .context("wait until all nodes agree on the schema")?;
    Ok(items)
}

async fn exists(session: &Session, name: &str) -> Result<bool> {
    Ok(match name.split_once('.') {
        None => cluster::keyspace_exists(session, name).await?,
        Some((keyspace, table)) => {
            let table = TableName {
                keyspace: keyspace.to_owned(),
                table: table.to_owned(),
            };
            cluster::describe_table(session, &table).await?.is_some()
        }
    })
}

/// Keyspaces first, then the tables in them.
fn items(config: &Config, copies: usize) -> Result<Vec<Item>> {
    let own = &config.scylla.keyspace;
    let outboxes = config.outboxes.iter().map(|outbox| &outbox.table.keyspace);
    let keyspaces: BTreeSet<&String> = std::iter::once(own).chain(outboxes).collect();
    let mut items: Vec<Item> = keyspaces
        .into_iter()
        .map(|name| keyspace(name, copies))
        .collect();
    for (table, cql) in own_tables(own) {
        items.push(Item {
            name: format!("{own}.{table}"),
            cql,
            state: None,
        });
    }
    for outbox in &config.outboxes {
        let name = outbox.table.to_string();
        let options = DdlOptions {
            layout: layout(&outbox.columns),
            ..DdlOptions::default()
        };
        let cql = outbox_writer::ddl(&name, &options)
            .with_context(|| format!("the CQL of outbox table {name}"))?;
        let cql = with_columns(&cql, &further_columns(outbox));
        items.push(Item {
            name,
            cql,
            state: None,
        });
    }
    Ok(items)
}

fn keyspace(name: &str, copies: usize) -> Item {
    let quoted = cluster::quoted(name);
    let cql = format!(
        "CREATE KEYSPACE IF NOT EXISTS {quoted} WITH replication = \
         {{'class': 'NetworkTopologyStrategy', 'replication_factor': {copies}}}"
    );
    Item {
        name: name.to_owned(),
        cql,
        state: None,
    }
}

/// Columns that the mapping names beside those that the writer library knows.
fn further_columns(outbox: &Outbox) -> Vec<String> {
    let known: BTreeSet<&str> = outbox
        .columns
        .mapped()
        .into_iter()
        .filter(|(part, _)| *part != "traceparent")
        .map(|(_, column)| column)
        .collect();
    let headers = outbox.headers.iter().map(|header| header.column.as_str());
    let in_topic = outbox.topic.parts.iter().filter_map(|part| match part {
        TopicPart::Column(column) => Some(column.as_str()),
        TopicPart::Literal(_)
        | TopicPart::AggregateType
        | TopicPart::EventType
        | TopicPart::Keyspace
        | TopicPart::Table => None,
    });
    let further: BTreeSet<&str> = headers
        .chain(in_topic)
        .chain(outbox.columns.traceparent.as_deref())
        .filter(|column| !known.contains(column))
        .collect();
    further.into_iter().map(ToOwned::to_owned).collect()
}

/// The CQL of a table with further text columns.
fn with_columns(cql: &str, columns: &[String]) -> String {
    const KEY: &str = "    PRIMARY KEY (";
    let mut lines = String::new();
    for column in columns {
        lines.extend(["    \"", &column.replace('"', "\"\""), "\" text,\n"]);
    }
    lines.push_str(KEY);
    cql.replacen(KEY, &lines, 1)
}

/// The writer library's words for the relay's column mapping.
fn layout(columns: &Columns) -> Layout {
    Layout {
        id: columns.id.clone(),
        aggregate_id: columns.key.clone(),
        payload: columns.payload.clone(),
        aggregate_type: columns.aggregate_type.clone(),
        event_type: columns.event_type.clone(),
        content_type: columns.content_type.clone(),
        headers: columns.headers.clone(),
        created_at: columns.created_at.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    #[test]
    fn an_outbox_table_has_every_column_that_the_mapping_names() {
        let sources = Sources {
            set: vec![
                "outboxes=[{\"table\":\"billing.events\",\"topic\":\"billing.{column:region}\",\
                 \"columns\":{\"traceparent\":\"trace\",\"key\":\"account\"},\
                 \"headers\":{\"region\":\"region\",\"owner\":\"account\"}}]"
                    .to_owned(),
            ],
            ..Sources::default()
        };
        let config = sources.load().expect("a right configuration").config;
        let items = items(&config, 1).expect("valid names");
        let table = items.last().expect("the outbox table");
        let columns: Vec<&str> = table
            .cql
            .lines()
            .filter_map(|line| line.strip_prefix("    "))
            .collect();
        assert_eq!(
            &columns[columns.len() - 4..],
            [
                "created_at timestamp,",
                "\"region\" text,",
                "\"trace\" text,",
                "PRIMARY KEY ((account), id)"
            ],
            "{}",
            table.cql
        );
        assert_eq!(table.cql.matches("account text").count(), 1);
    }
}
