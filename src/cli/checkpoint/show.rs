//! `checkpoint show`: what is stored.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::Result;
use scylla::client::session::Session;
use serde::Serialize;

use super::Show;
use crate::checkpoint::{GroupCheckpoint, GroupKey, Store};
use crate::cli::moment::rfc3339;
use crate::cli::{OutputFormat, out};
use crate::config::{Outbox, TableName};
use crate::source::generations::Generations;

/// What is stored of one table.
#[derive(Debug, Serialize)]
struct Table {
    #[serde(rename = "table")]
    name: String,
    /// Where the log began to be read.
    start: Option<String>,
    started_at: Option<String>,
    generations: Vec<Generation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<Vec<Group>>,
}

#[derive(Debug, Serialize)]
struct Generation {
    #[serde(rename = "generation")]
    begins: String,
    /// Whether ScyllaDB still lists it.
    listed: bool,
    groups: usize,
    /// Of these, those that were read to their end.
    closed: usize,
    oldest_watermark: Option<String>,
    newest_watermark: Option<String>,
    last_saved: Option<String>,
}

#[derive(Debug, Serialize)]
struct Group {
    generation: String,
    #[serde(rename = "group")]
    id: String,
    /// The last token; none if ScyllaDB does not list the group any more.
    range_end: Option<i64>,
    streams: Option<usize>,
    watermark: String,
    watermark_micros: i64,
    /// Rows above W that are known to be published.
    published_above: u64,
    /// Windows below W of which is known what was published.
    windows: usize,
    closed: bool,
    saved_at: Option<String>,
}

pub(super) async fn run(
    session: Arc<Session>,
    store: &Store,
    outboxes: &[Outbox],
    args: &Show,
) -> Result<()> {
    let mut tables = Vec::new();
    for outbox in outboxes {
        tables.push(table(&session, store, &outbox.table, args.groups).await?);
    }
    match args.output {
        OutputFormat::Text => out::text(text(&tables)),
        OutputFormat::Json => {
            let all = serde_json::json!({ "tables": tables });
            out::line(serde_json::to_string_pretty(&all)?)
        }
    }
}

type Saved = (GroupCheckpoint, Option<i64>);

async fn table(
    session: &Arc<Session>,
    store: &Store,
    name: &TableName,
    with_groups: bool,
) -> Result<Table> {
    let loaded = store.load(name).await?;
    let generations = Generations::of(Arc::clone(session), name.clone()).await?;
    let listed = generations.timestamps().await?;
    let mut by_generation: BTreeMap<i64, Vec<Saved>> = BTreeMap::new();
    for (group, saved) in loaded.groups.into_iter().zip(loaded.saved_at) {
        let of = by_generation.entry(group.key.generation).or_default();
        of.push((group, saved));
    }
    let mut groups = Vec::new();
    let mut summaries = Vec::new();
    for (timestamp, mut saved) in by_generation {
        let is_listed = listed.contains(&timestamp);
        summaries.push(generation(timestamp, is_listed, &saved));
        if !with_groups {
            continue;
        }
        let now = if is_listed {
            generations.groups(timestamp).await?
        } else {
            Vec::new()
        };
        let known: HashMap<&[u8], _> = now.iter().map(|group| (&*group.id, group)).collect();
        saved.sort_by(|(a, _), (b, _)| (a.watermark, &a.key).cmp(&(b.watermark, &b.key)));
        for (checkpoint, saved_at) in saved {
            let GroupKey { group: id, .. } = &checkpoint.key;
            let known = known.get(&**id);
            groups.push(Group {
                generation: rfc3339(timestamp.saturating_mul(1_000)),
                id: hex(id),
                range_end: known.map(|group| group.range_end),
                streams: known.map(|group| group.streams.len()),
                watermark: rfc3339(checkpoint.watermark),
                watermark_micros: checkpoint.watermark,
                published_above: checkpoint.published.rows(),
                windows: store.windows(name, &checkpoint.key).await?.len(),
                closed: checkpoint.closed,
                saved_at: saved_at.map(rfc3339),
            });
        }
    }
    Ok(Table {
        name: name.to_string(),
        start: loaded.start.map(rfc3339),
        started_at: loaded.started_at.map(rfc3339),
        generations: summaries,
        groups: with_groups.then_some(groups),
    })
}

fn generation(timestamp: i64, listed: bool, saved: &[Saved]) -> Generation {
    let open = saved.iter().filter(|(group, _)| !group.closed);
    let watermarks = open.map(|(group, _)| group.watermark);
    Generation {
        begins: rfc3339(timestamp.saturating_mul(1_000)),
        listed,
        groups: saved.len(),
        closed: saved.iter().filter(|(group, _)| group.closed).count(),
        oldest_watermark: watermarks.clone().min().map(rfc3339),
        newest_watermark: watermarks.max().map(rfc3339),
        last_saved: saved.iter().filter_map(|(_, at)| *at).max().map(rfc3339),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn text(tables: &[Table]) -> String {
    let mut out = String::new();
    let mut line = |line: String| {
        out.push_str(line.trim_end());
        out.push('\n');
    };
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
    for table in tables {
        line(table.name.clone());
        let Some(start) = &table.start else {
            line("  not read yet".to_owned());
            continue;
        };
        line(format!(
            "  read from {start} on, since {}",
            or_none(&table.started_at)
        ));
        line(format!(
            "  {:<24}  {:>6}  {:>6}  {:<24}  {:<24}  {:<24}",
            "GENERATION", "GROUPS", "CLOSED", "OLDEST W", "NEWEST W", "LAST SAVED"
        ));
        for generation in &table.generations {
            line(format!(
                "  {:<24}  {:>6}  {:>6}  {:<24}  {:<24}  {:<24}{}",
                generation.begins,
                generation.groups,
                generation.closed,
                or_none(&generation.oldest_watermark),
                or_none(&generation.newest_watermark),
                or_none(&generation.last_saved),
                if generation.listed { "" } else { "  (expired)" },
            ));
        }
        let Some(groups) = &table.groups else {
            continue;
        };
        line(format!(
            "  {:<24}  {:>20}  {:>7}  {:<24}  {:>9}  {:>7}  {:<24}  {}",
            "GENERATION", "RANGE END", "STREAMS", "W", "PUBLISHED", "WINDOWS", "SAVED", "STATE"
        ));
        for group in groups {
            let number = |number: Option<String>| number.unwrap_or_else(|| "?".to_owned());
            line(format!(
                "  {:<24}  {:>20}  {:>7}  {:<24}  {:>9}  {:>7}  {:<24}  {}",
                group.generation,
                number(group.range_end.map(|end| end.to_string())),
                number(group.streams.map(|streams| streams.to_string())),
                group.watermark,
                group.published_above,
                group.windows,
                or_none(&group.saved_at),
                if group.closed { "closed" } else { "open" },
            ));
        }
    }
    out
}
