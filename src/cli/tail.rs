//! `outbox-relay tail`: the events of one table as they would be published.
//!
//! Invariant: nothing is published, and no checkpoint is read or written.

use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::{OutputFormat, out};
use crate::ack::Ack;
use crate::config::{Config, Outbox, Start, parse_start};
use crate::decode::{Decision, Decoder, MappingError};
use crate::event::{Change, Record};
use crate::pipeline::{Closed, Taken};
use crate::route::Router;
use crate::runtime::Phase;
use crate::runtime::pauses::Pause;
use crate::runtime::signals::StopSignals;
use crate::scylla as cluster;
use crate::source::clock::Clock;
use crate::source::intake::{Intake, OpenIntake};
use crate::source::pace::Pace;
use crate::source::reader::LogReader;
use crate::source::{SourceContext, TableSource};
use crate::telemetry::metrics::Metrics;

/// Records that wait to be printed. When the terminal is slow, the log is read more slowly.
const WAITING: usize = 100;

/// Arguments of `tail`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  outbox-relay tail --config relay.yaml --table shop.outbox_messages\n  \
                  outbox-relay tail --config relay.yaml --table shop.outbox_messages \
                  --from earliest --limit 10 --output json"
)]
pub struct Args {
    /// The outbox table, as it is configured: keyspace.table.
    #[arg(long)]
    pub table: String,
    /// Where to start: earliest, latest, or a time (RFC 3339).
    #[arg(long, default_value = "latest", value_parser = parse_start)]
    pub from: Start,
    /// Stop after this many events.
    #[arg(long)]
    pub limit: Option<u64>,
    /// Form of the output; json is one object per line.
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    pub output: OutputFormat,
}

/// Prints events until the limit, a signal, or an error.
pub async fn run(config: Arc<Config>, args: &Args) -> Result<()> {
    let outbox = find(&config, &args.table)?;
    let config = {
        let mut config = Config::clone(&config);
        config.follow.start = args.from;
        Arc::new(config)
    };
    let signals = StopSignals::install().context("install the signal handlers")?;
    let session = Arc::new(cluster::connect(&config.scylla).await?);
    let (printer, mut records) = mpsc::channel(WAITING);
    let source = TableSource::new(SourceContext {
        session,
        intake: OpenPrinter {
            outbox: Arc::clone(&outbox),
            records: printer,
        },
        outbox,
        checkpoints: None,
        metrics: Arc::new(Metrics::default()),
        pace: Arc::new(Pace::new(&config.follow)),
        clock: Arc::new(Clock::default()),
        progress: Arc::default(),
        wake_ups: None,
        pause: Pause::default(),
        config,
    });
    let (phase, phases) = watch::channel(Phase::Running);
    let mut reading = JoinSet::new();
    reading.spawn(async move { source.run(phases).await });

    let mut left = args.limit.unwrap_or(u64::MAX);
    while left > 0 {
        tokio::select! {
            Some(record) = records.recv() => {
                // When nobody reads any more, the source ends with this task.
                print(&record, args.output)?;
                left -= 1;
            }
            ended = reading.join_next() => {
                if let Some(ended) = ended {
                    ended.context("the reader has panicked")??;
                }
                break;
            }
            () = signals.stop() => break,
        }
    }
    phase.send_replace(Phase::Finishing);
    drop(records);
    reading.shutdown().await;
    Ok(())
}

fn find(config: &Config, table: &str) -> Result<Arc<Outbox>> {
    let found = config
        .outboxes
        .iter()
        .find(|outbox| outbox.table.to_string() == table);
    let Some(outbox) = found else {
        let known = config.tables();
        bail!(
            "no outbox table {table} is configured; there are: {}",
            known.join(", ")
        );
    };
    Ok(Arc::new(outbox.clone()))
}

fn print(record: &Record, output: OutputFormat) -> Result<()> {
    match output {
        OutputFormat::Json => out::line(object(record)),
        OutputFormat::Text => out::line(text(record)),
    }
}

fn text(record: &Record) -> String {
    let headers: Vec<String> = record
        .headers
        .iter()
        .map(|header| {
            let value = printable(header.value.as_deref());
            format!("{}={value}", printable(Some(header.name.as_bytes())))
        })
        .collect();
    format!(
        "{}  {}  {}  {}",
        record.topic,
        printable(Some(&record.key)),
        headers.join(" "),
        printable(record.payload.as_deref())
    )
}

/// Text for a terminal: control characters, which could end the line or do worse, are escaped.
fn printable(value: Option<&[u8]>) -> String {
    let Some(bytes) = value else {
        return "null".to_owned();
    };
    let mut text = String::with_capacity(bytes.len());
    for character in String::from_utf8_lossy(bytes).chars() {
        if character.is_control() {
            text.extend(character.escape_default());
        } else {
            text.push(character);
        }
    }
    text
}

fn object(record: &Record) -> Value {
    let headers: Map<String, Value> = record
        .headers
        .iter()
        .map(|header| (header.name.to_string(), bytes(header.value.as_deref())))
        .collect();
    json!({
        "topic": &*record.topic,
        "key": bytes(Some(&record.key)),
        "timestamp_millis": record.timestamp_millis,
        "headers": headers,
        "payload": bytes(record.payload.as_deref()),
    })
}

/// Text as it is; other bytes as `{"hex": "…"}`.
fn bytes(value: Option<&[u8]>) -> Value {
    match value.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => Value::Null,
        Some((_, Ok(text))) => json!(text),
        Some((bytes, Err(_))) => {
            let mut hex = String::with_capacity(2 * bytes.len());
            for byte in bytes {
                let _ = write!(hex, "{byte:02x}");
            }
            json!({ "hex": hex })
        }
    }
}

#[derive(Debug)]
struct OpenPrinter {
    outbox: Arc<Outbox>,
    records: mpsc::Sender<Record>,
}

impl OpenIntake for OpenPrinter {
    type Intake = Printer;

    fn open(&self, reader: &LogReader) -> Result<Printer, MappingError> {
        Ok(Printer {
            decoder: Arc::new(Decoder::new(&self.outbox, &reader.column_types())?),
            router: Router::new(&self.outbox),
            records: self.records.clone(),
        })
    }
}

/// Decodes and routes as the relay does, and hands the record to the terminal.
#[derive(Debug, Clone)]
struct Printer {
    decoder: Arc<Decoder>,
    router: Router,
    records: mpsc::Sender<Record>,
}

impl Intake for Printer {
    async fn take(&mut self, change: &Change, ack: Ack) -> Result<Taken, Closed> {
        let taken = match self.decoder.decode(change) {
            Decision::Skip(_) => Taken::Skipped,
            Decision::Undecodable(reason) => {
                tracing::warn!(%reason, "a row cannot be decoded");
                Taken::Unpublishable
            }
            Decision::Event(event) => match self.router.route(event) {
                Ok(record) => {
                    // The receiver is gone once the limit is reached: the rest is not printed.
                    let _ = self.records.send(record).await;
                    Taken::Submitted
                }
                Err(reason) => {
                    tracing::warn!(%reason, "an event has no topic");
                    Taken::Unpublishable
                }
            },
        };
        ack.settle();
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::event::Header;

    #[test]
    fn bytes_that_are_no_text_are_shown_in_hexadecimal() {
        let record = Record {
            topic: "orders".into(),
            key: Bytes::from_static(b"k"),
            payload: Some(Bytes::from_static(&[0xff, 0x01])),
            headers: vec![Header {
                name: "id".into(),
                value: None,
            }],
            timestamp_millis: 7,
        };
        assert_eq!(
            object(&record),
            json!({
                "topic": "orders", "key": "k", "timestamp_millis": 7,
                "headers": { "id": null }, "payload": { "hex": "ff01" },
            })
        );
        assert_eq!(text(&record), "orders  k  id=null  \u{fffd}\\u{1}");
        let escape = Record {
            payload: Some(Bytes::from_static(b"a\n\x1b[2Jb")),
            ..record
        };
        assert_eq!(text(&escape), "orders  k  id=null  a\\n\\u{1b}[2Jb");
    }
}
