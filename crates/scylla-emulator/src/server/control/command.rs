//! The commands of the control port.
//!
//! Invariants
//! 1. A command is checked as a whole before it does anything.
//! 2. What an `id` stands for is remembered for the newest [`MAX_IDS`] of them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::error::{Error, ErrorCode};
use crate::faults::{Effect, Fault, Injected};
use crate::server::{Emulator, GENERATION_DELAY};
use crate::visibility::{Hide, Rule};

/// Faults and rules whose hits can be asked for.
const MAX_IDS: usize = 1_024;

/// How far from the emulator's time a command may point, in milliseconds: a hundred years.
const MAX_MS: i64 = 100 * 366 * 86_400_000;

/// What was injected, by id.
#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<BTreeMap<u64, Injected>>);

impl Registry {
    fn add(&self, injected: Injected) -> u64 {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let id = known.last_key_value().map_or(1, |(last, _)| last + 1);
        if known.len() >= MAX_IDS {
            known.pop_first();
        }
        known.insert(id, injected);
        id
    }

    fn hits(&self, id: u64) -> Option<u64> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&id).map(Injected::hits)
    }
}

/// A command as it is written.
#[derive(Debug, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Command {
    InjectFault {
        pattern: String,
        effect: EffectSpec,
        value: Option<String>,
        value_hex: Option<String>,
        times: Option<u64>,
    },
    ClearFaults {},
    Hide {
        table: String,
        for_ms: Option<u64>,
        between_ms: Option<(u64, u64)>,
        reads: Option<u32>,
        share: Option<f64>,
        seed: Option<u64>,
        value: Option<String>,
        value_hex: Option<String>,
        times: Option<u64>,
        #[serde(default)]
        whole_write: bool,
    },
    ClearHide {},
    Hits {
        id: u64,
    },
    Status {},
    Advance {
        ms: u64,
    },
    SetClock {
        micros: i64,
    },
    Skew {
        ms: i64,
    },
    NewGeneration {
        in_ms: Option<i64>,
        #[serde(default)]
        listed_after_ms: u64,
    },
    SplitTablets {
        table: String,
        in_ms: Option<i64>,
    },
    MergeTablets {
        table: String,
        in_ms: Option<i64>,
    },
    ForgetStreams {
        #[serde(default)]
        closed_for_ms: i64,
    },
    LagNodeView {
        node: usize,
        lag: bool,
    },
    StopNode {
        node: usize,
    },
    StartNode {
        node: usize,
    },
    StopListening {},
    StartListening {},
}

/// [`Effect`] as it is written.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum EffectSpec {
    Fail(ErrorSpec),
    FailAfter(ErrorSpec),
    Unprepared,
    DelayMs(u64),
    Silence,
    Truncate,
    Disconnect,
}

/// An error that a statement fails with.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ErrorSpec {
    Overloaded,
    Unavailable,
    ReadTimeout,
    WriteTimeout,
    BatchTimeout,
    ServerError,
    Invalid,
    Unauthorized,
}

impl From<ErrorSpec> for Error {
    fn from(spec: ErrorSpec) -> Self {
        const MESSAGE: &str = "a fault that was asked for";
        match spec {
            ErrorSpec::Overloaded => Self::overloaded(),
            ErrorSpec::Unavailable => Self::unavailable(),
            ErrorSpec::ReadTimeout => Self::read_timeout("ks", "t"),
            ErrorSpec::WriteTimeout => Self::write_timeout("ks", "t", "SIMPLE"),
            ErrorSpec::BatchTimeout => Self::write_timeout("ks", "t", "BATCH"),
            ErrorSpec::ServerError => Self::new(ErrorCode::ServerError, MESSAGE),
            ErrorSpec::Invalid => Self::new(ErrorCode::Invalid, MESSAGE),
            ErrorSpec::Unauthorized => Self::new(ErrorCode::Unauthorized, MESSAGE),
        }
    }
}

impl From<EffectSpec> for Effect {
    fn from(spec: EffectSpec) -> Self {
        match spec {
            EffectSpec::Fail(error) => Self::Fail(error.into()),
            EffectSpec::FailAfter(error) => Self::FailAfter(error.into()),
            EffectSpec::Unprepared => Self::Unprepared,
            EffectSpec::DelayMs(ms) => Self::Delay(Duration::from_millis(ms)),
            EffectSpec::Silence => Self::Silence,
            EffectSpec::Truncate => Self::Truncate,
            EffectSpec::Disconnect => Self::Disconnect,
        }
    }
}

type Fields = Map<String, Value>;

fn fields<const N: usize>(fields: [(&str, Value); N]) -> Fields {
    let owned = fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value));
    owned.collect()
}

impl Command {
    /// Does what it says; what is returned is added to the answer.
    pub(super) async fn run(
        self,
        emulator: &Emulator,
        registry: &Registry,
    ) -> Result<Fields, String> {
        let nothing = Fields::new();
        match self {
            Self::InjectFault { .. } | Self::Hide { .. } => {
                let id = registry.add(self.inject(emulator)?);
                return Ok(fields([("id", json!(id))]));
            }
            Self::Hits { id } => {
                let hits = registry.hits(id).ok_or("there is no such id (any more)")?;
                return Ok(fields([("hits", json!(hits))]));
            }
            Self::Status {} => return status(emulator).await,
            Self::NewGeneration { .. }
            | Self::SplitTablets { .. }
            | Self::MergeTablets { .. }
            | Self::ForgetStreams { .. } => return self.streams(emulator),
            Self::ClearFaults {} => emulator.faults().clear(),
            Self::ClearHide {} => emulator.visibility().clear(),
            Self::Advance { ms } => {
                let ms = within(i64::try_from(ms).unwrap_or(i64::MAX))?;
                emulator
                    .clock()
                    .advance(Duration::from_millis(ms.unsigned_abs()));
            }
            Self::SetClock { micros } => {
                within(micros / 1_000)?;
                emulator.clock().set(micros);
            }
            Self::Skew { ms } => emulator.clock().skew(within(ms)? * 1_000),
            Self::LagNodeView { node, lag } => {
                emulator.node_address(node).map_err(text)?;
                emulator.lag_node_view(node, lag);
            }
            Self::StopNode { node } => emulator.stop_node(node).await.map_err(text)?,
            Self::StartNode { node } => emulator.start_node(node).await.map_err(text)?,
            Self::StopListening {} => emulator.stop_listening().await,
            Self::StartListening {} => emulator.start_listening().await.map_err(text)?,
        }
        Ok(nothing)
    }

    fn inject(self, emulator: &Emulator) -> Result<Injected, String> {
        match self {
            Self::InjectFault {
                pattern,
                effect,
                value,
                value_hex,
                times,
            } => {
                let mut fault = Fault::on(pattern, effect.into());
                if let Some(bytes) = bytes(value, value_hex)? {
                    fault = fault.with_value(bytes);
                }
                if let Some(times) = times {
                    fault = fault.times(times);
                }
                Ok(emulator.faults().inject(fault))
            }
            Self::Hide {
                table,
                for_ms,
                between_ms,
                reads,
                share,
                seed,
                value,
                value_hex,
                times,
                whole_write,
            } => {
                named(&table)?;
                let span = Duration::from_millis;
                let hide = match (for_ms, between_ms, reads) {
                    (Some(ms), None, None) => Hide::For(span(ms)),
                    (None, Some((from, to)), None) => Hide::Between(span(from), span(to)),
                    (None, None, Some(reads)) => Hide::Reads(reads),
                    _ => return Err("one of for_ms, between_ms and reads is needed".to_owned()),
                };
                let mut rule = Rule::on(table, hide)
                    .share(share.unwrap_or(1.0))
                    .seed(seed.unwrap_or(1));
                if let Some(bytes) = bytes(value, value_hex)? {
                    rule = rule.with_value(bytes);
                }
                if let Some(times) = times {
                    rule = rule.times(times);
                }
                if whole_write {
                    rule = rule.whole_write();
                }
                Ok(emulator.visibility().inject(rule))
            }
            _ => Err("nothing to inject".to_owned()),
        }
    }

    fn streams(self, emulator: &Emulator) -> Result<Fields, String> {
        let now_ms = emulator.clock().now_micros().div_euclid(1_000);
        let soon = GENERATION_DELAY.as_millis() as i64;
        let at = |in_ms: Option<i64>| Ok::<_, String>(now_ms + within(in_ms.unwrap_or(soon))?);
        let (table, in_ms) = match &self {
            Self::NewGeneration {
                in_ms,
                listed_after_ms,
            } => {
                let delay = Duration::from_millis(*listed_after_ms);
                let made = emulator.publish_generation_late(at(*in_ms)?, delay);
                return Ok(fields([("timestamp_ms", json!(made.timestamp_ms))]));
            }
            Self::ForgetStreams { closed_for_ms } => {
                let before = now_ms - within(*closed_for_ms)?;
                let forgotten = emulator.forget_streams_before(before);
                return Ok(fields([("forgotten", json!(forgotten))]));
            }
            Self::SplitTablets { table, in_ms } | Self::MergeTablets { table, in_ms } => {
                (named(table)?, at(*in_ms)?)
            }
            _ => return Err("nothing about streams".to_owned()),
        };
        let (keyspace, table) = table;
        let made = if matches!(self, Self::SplitTablets { .. }) {
            emulator.split_tablets_at(keyspace, table, in_ms)
        } else {
            emulator.merge_tablets_at(keyspace, table, in_ms)
        };
        let made = made.map_err(text)?;
        Ok(fields([
            ("timestamp_ms", json!(made.timestamp_ms)),
            ("streams", json!(made.streams.len())),
        ]))
    }
}

async fn status(emulator: &Emulator) -> Result<Fields, String> {
    let mut nodes = Vec::new();
    for (node, up) in emulator.nodes_up().await.into_iter().enumerate() {
        let address = emulator.node_address(node).map_err(text)?;
        nodes.push(json!({ "address": address.to_string(), "up": up }));
    }
    Ok(fields([
        ("nodes", Value::Array(nodes)),
        ("now_micros", json!(emulator.clock().now_micros())),
        ("hidden", json!(emulator.visibility().hidden())),
    ]))
}

/// An error with its causes, in one line.
fn text(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn within(ms: i64) -> Result<i64, String> {
    if (-MAX_MS..=MAX_MS).contains(&ms) {
        Ok(ms)
    } else {
        Err(format!("{ms} ms are too far away"))
    }
}

/// The keyspace and the table of `ks.t`.
fn named(table: &str) -> Result<(&str, &str), String> {
    let parts = table.split_once('.');
    parts
        .ok_or_else(|| format!("a table is named with its keyspace, as in \"ks.t\", not {table:?}"))
}

fn bytes(value: Option<String>, hex: Option<String>) -> Result<Option<Vec<u8>>, String> {
    let hex = match (value, hex) {
        (Some(_), Some(_)) => return Err("value and value_hex exclude each other".to_owned()),
        (value, None) => return Ok(value.map(String::into_bytes)),
        (None, Some(hex)) => hex,
    };
    let invalid = || "value_hex needs two hexadecimal digits a byte".to_owned();
    let digits = hex.strip_prefix("0x").unwrap_or(&hex).as_bytes();
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(invalid());
    }
    let digit = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    let bytes = pairs
        .iter()
        .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    bytes.collect::<Option<_>>().map(Some).ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_text_or_hexadecimal() {
        let hex = |text: &str| bytes(None, Some(text.to_owned()));
        assert_eq!(bytes(Some("ab".to_owned()), None), Ok(Some(b"ab".to_vec())));
        assert_eq!(hex("0x00fF"), Ok(Some(vec![0, 255])));
        assert_eq!(bytes(None, None), Ok(None));
        assert!(hex("0").is_err());
        assert!(hex("zz").is_err());
        assert!(bytes(Some(String::new()), Some(String::new())).is_err());
    }

    #[test]
    fn the_newest_ids_are_known() {
        let registry = Registry::default();
        for _ in 0..=MAX_IDS {
            registry.add(Injected::new().1);
        }
        assert_eq!(registry.hits(1), None);
        assert_eq!(registry.hits(MAX_IDS as u64 + 1), Some(0));
    }
}
