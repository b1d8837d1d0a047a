//! The words of the configuration: durations, sizes, choices, names, and how each is written.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::read::{Node, Read, Reader, Scalar, is_null};
use super::resolved::{Secret, Start, TableName, TopicTemplate, WakeUpAddress};

/// What stands in the place of a secret.
pub(super) const REDACTED: &str = "[redacted]";

/// A duration, written as numbers with units: `10ms`, `1m 30s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span(pub(super) Duration);

impl Span {
    pub(super) const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    pub(super) const fn secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }
}

const TIME_UNITS: [(&str, u64); 6] = [
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

const SIZE_UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// The sum of `number unit` pairs, in the smallest unit.
fn quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let mut rest = text.trim();
    let mut sum = None::<u64>;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let tail = tail.trim_start();
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic());
        let (unit, tail) = tail.split_at(letters.unwrap_or(tail.len()));
        let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
        let part = if number.contains('.') {
            let value = number.parse::<f64>().ok()? * *factor as f64;
            (value < 1e18).then_some(value.round() as u64)?
        } else {
            number.parse::<u64>().ok()?.checked_mul(*factor)?
        };
        sum = Some(sum.unwrap_or(0).checked_add(part)?);
        rest = tail.trim_start();
    }
    sum
}

/// The largest unit that leaves no remainder.
fn with_unit(amount: u64, units: &[(&str, u64)]) -> String {
    let fits = |(_, factor): &&(&str, u64)| amount >= *factor && amount.is_multiple_of(*factor);
    match units.iter().find(fits) {
        Some((unit, factor)) => format!("{}{unit}", amount / factor),
        None => format!(
            "0{}",
            if units.len() == TIME_UNITS.len() {
                "s"
            } else {
                "B"
            }
        ),
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&with_unit(self.0.as_micros() as u64, &TIME_UNITS))
    }
}

impl Scalar for Span {
    fn parse(text: &str) -> Result<Self, String> {
        quantity(text, &TIME_UNITS)
            .map(|micros| Self(Duration::from_micros(micros)))
            .ok_or_else(|| {
                "is not a duration: write a number and a unit (us, ms, s, m, h, d), such as 10ms"
                    .to_owned()
            })
    }
}

/// An amount of bytes, written with a unit: `64MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bytes(pub(super) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&with_unit(self.0, &SIZE_UNITS))
    }
}

impl Scalar for Bytes {
    fn parse(text: &str) -> Result<Self, String> {
        quantity(text, &SIZE_UNITS).map(Self).ok_or_else(|| {
            "is not a size: write a number and a unit (B, KB, KiB, MB, MiB, GB, GiB), such as 64MiB"
                .to_owned()
        })
    }
}

/// Serialises as its text and describes itself as a string in the JSON schema.
macro_rules! written_as_text {
    ($type:ty, $name:expr, $($schema:tt)*) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($($schema)*)
            }
        }
    };
}

written_as_text!(Span, "Duration", {
    "type": "string",
    "pattern": r"^([0-9.]+ *(us|ms|s|m|h|d) *)+$",
});
written_as_text!(Bytes, "Size", {
    "type": "string",
    "pattern": r"^([0-9.]+ *([KMG]i?)?B *)+$",
});

impl Scalar for String {
    const TEXT: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err("is empty".to_owned());
        }
        Ok(text.to_owned())
    }
}

impl Scalar for u64 {
    fn parse(text: &str) -> Result<Self, String> {
        let text: String = text.chars().filter(|c| *c != '_').collect();
        let parsed = text.parse();
        parsed.map_err(|_| "is not a whole number from 0 up".to_owned())
    }
}

impl Scalar for f64 {
    fn parse(text: &str) -> Result<Self, String> {
        match text.parse::<Self>() {
            Ok(number) if number.is_finite() => Ok(number),
            _ => Err("is not a number".to_owned()),
        }
    }
}

impl Scalar for bool {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|_| "is neither true nor false".to_owned())
    }
}

/// A password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Password(pub(super) Secret);

impl fmt::Display for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl Scalar for Password {
    const TEXT: bool = true;
    const SECRET: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("the password is empty".to_owned());
        }
        Ok(Self(Secret::new(text.to_owned())))
    }
}

written_as_text!(Password, "Password", { "type": "string", "writeOnly": true });

/// `keyspace.table`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table(pub(super) TableName);

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether ScyllaDB takes this as the name of a keyspace or a table.
pub(super) fn is_schema_name(name: &str) -> bool {
    (1..=192).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

impl Scalar for Table {
    const TEXT: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        let name = text.split_once('.');
        let name =
            name.filter(|(keyspace, table)| is_schema_name(keyspace) && is_schema_name(table));
        let Some((keyspace, table)) = name else {
            return Err(
                "is not a table: write keyspace.table, of letters, digits and underscores"
                    .to_owned(),
            );
        };
        if table.ends_with("_scylla_cdc_log") {
            return Err("is a CDC log: name the outbox table, the relay finds its log".to_owned());
        }
        Ok(Self(TableName {
            keyspace: keyspace.to_owned(),
            table: table.to_owned(),
        }))
    }
}

written_as_text!(Table, "Table", {
    "type": "string",
    "pattern": r"^[A-Za-z0-9_]+\.[A-Za-z0-9_]+$",
});

/// `earliest`, `latest` or a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StartAt(pub(super) Start);

/// Parses a duration such as `10ms` or `1m 30s`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    Span::parse(text).map(|span| span.0)
}

/// Parses `earliest`, `latest` or an RFC 3339 time.
pub fn parse_start(text: &str) -> Result<Start, String> {
    match text {
        "earliest" => Ok(Start::Earliest),
        "latest" => Ok(Start::Latest),
        time => OffsetDateTime::parse(time, &Rfc3339)
            .map(|time| Start::At((time.unix_timestamp_nanos() / 1000) as i64))
            .map_err(|_| {
                "is not a start: write earliest, latest, or a time such as 2026-01-31T12:00:00Z"
                    .to_owned()
            }),
    }
}

impl fmt::Display for StartAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Start::Earliest => f.write_str("earliest"),
            Start::Latest => f.write_str("latest"),
            Start::At(micros) => {
                let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000);
                let text = time.ok().and_then(|time| time.format(&Rfc3339).ok());
                f.write_str(&text.unwrap_or_default())
            }
        }
    }
}

impl Scalar for StartAt {
    const TEXT: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        parse_start(text).map(Self)
    }
}

written_as_text!(TopicTemplate, "TopicTemplate", { "type": "string" });
written_as_text!(StartAt, "Start", {
    "anyOf": [
        { "enum": ["earliest", "latest"] },
        { "type": "string", "format": "date-time" },
    ],
});

/// Where hints of writers are taken; empty is nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WakeUpAt(pub(super) Option<WakeUpAddress>);

/// The longest path of a socket: the system's structure has 108 bytes, the last one zero.
const SOCKET_PATH_BYTES: usize = 107;

impl fmt::Display for WakeUpAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |address| address.fmt(f))
    }
}

impl Scalar for WakeUpAt {
    const TEXT: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        if let Some(path) = text.strip_prefix("unix://") {
            return match path {
                _ if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') => {
                    Err("names no socket: write an absolute path, such as \
                     unix:///run/outbox-relay/wake.sock"
                        .to_owned())
                }
                _ if path.len() > SOCKET_PATH_BYTES => Err(format!(
                    "is too long: the path of a socket may have {SOCKET_PATH_BYTES} bytes"
                )),
                _ => Ok(Self(Some(WakeUpAddress::Unix(PathBuf::from(path))))),
            };
        }
        let address = text.strip_prefix("udp://").map(str::parse::<SocketAddr>);
        match address {
            Some(Ok(address)) if address.ip().is_loopback() && address.port() != 0 => {
                Ok(Self(Some(WakeUpAddress::Udp(address))))
            }
            Some(Ok(address)) if !address.ip().is_loopback() => Err(
                "is open to other hosts, and hints are not authenticated: write an address of the \
                 loopback interface, such as udp://127.0.0.1:9465, or unix:// and a path"
                    .to_owned(),
            ),
            _ => Err(
                "is no place for hints: write udp://127.0.0.1:9465 (an address and a port of the \
                 loopback interface), unix:///run/outbox-relay/wake.sock, or nothing"
                    .to_owned(),
            ),
        }
    }
}

written_as_text!(WakeUpAt, "WakeUp", {
    "type": "string",
    "pattern": r"^(udp://.+:[0-9]+|unix:///.+)?$",
});

/// Where the HTTP server listens; empty is nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListenAt(pub(super) Option<SocketAddr>);

impl fmt::Display for ListenAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |address| address.fmt(f))
    }
}

impl Scalar for ListenAt {
    const TEXT: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        text.parse()
            .map(|address| Self(Some(address)))
            .map_err(|_| {
                "is no place to listen: write an IP address and a port, such as 127.0.0.1:9464 or \
             0.0.0.0:9464, or nothing"
                    .to_owned()
            })
    }
}

written_as_text!(ListenAt, "Listen", {
    "type": "string",
    "pattern": r"^(.+:[0-9]+)?$",
});

/// A value that is one of a few words.
macro_rules! choice {
    ($(#[$meta:meta])* $name:ident { $($variant:ident = $word:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum $name { $($variant),* }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),* })
            }
        }

        impl Scalar for $name {
            fn parse(text: &str) -> Result<Self, String> {
                match text.to_ascii_lowercase().as_str() {
                    $($word => Ok(Self::$variant),)*
                    _ => Err(format!("is none of {}", [$($word),*].join(", "))),
                }
            }
        }

        written_as_text!($name, stringify!($name), { "enum": [$($word),*] });
    };
}

choice! {
    /// Consistency levels that reads and writes share.
    Consistency {
        One = "one", Two = "two", Three = "three", Quorum = "quorum", All = "all",
        LocalQuorum = "local_quorum", LocalOne = "local_one",
    }
}
choice! {
    /// Named sets of column names.
    Preset { OutboxWriter = "outbox-writer", Debezium = "debezium" }
}
choice! {
    /// Form of bytes.
    Format { Natural = "natural", Json = "json", Bytes = "bytes" }
}
choice! {
    /// Form of log lines.
    LogForm { Text = "text", Json = "json" }
}
choice! {
    /// What follows the last attempt.
    OnExhausted { DeadLetter = "dead_letter", Hold = "hold" }
}
choice! {
    /// What becomes of the key of an event that failed for good.
    OnPermanent { ParkKey = "park_key", Skip = "skip" }
}
choice! {
    /// When a log file ends.
    Rotation { Hourly = "hourly", Daily = "daily", Never = "never" }
}
choice! {
    /// Which failed tables make the relay not ready.
    UnreadyWhen { AllFailed = "all_failed", AnyFailed = "any_failed" }
}

/// An entry that a preset gives unless it is named or unmapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// As the preset says.
    Preset,
    /// Explicitly nothing.
    Unmapped,
    /// Explicitly this.
    Named(String),
}

impl Entry {
    /// The name in force.
    pub(super) fn or(&self, preset: Option<&str>) -> Option<String> {
        match self {
            Self::Preset => preset.map(str::to_owned),
            Self::Unmapped => None,
            Self::Named(name) => Some(name.clone()),
        }
    }
}

impl Read for Entry {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        if is_null(node.value) {
            return Some(Self::Unmapped);
        }
        String::read(node, reader).map(Self::Named)
    }
}

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.or(None).serialize(serializer)
    }
}

impl JsonSchema for Entry {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Entry".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "null"] })
    }
}

/// librdkafka properties; the values of secret ones are not shown.
#[derive(Clone, PartialEq, Eq, Default)]
pub(super) struct Properties(pub(super) BTreeMap<String, String>);

/// Whether a property's value is a secret by its name.
pub(super) fn is_secret(property: &str) -> bool {
    let words = [
        "password",
        "passphrase",
        "secret",
        ".pem",
        "token",
        "oauthbearer.config",
    ];
    words.iter().any(|word| property.contains(word))
}

impl std::fmt::Debug for Properties {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.shown()).finish()
    }
}

impl Properties {
    fn shown(&self) -> impl Iterator<Item = (&String, &str)> {
        self.0.iter().map(|(name, value)| {
            let shown = if is_secret(name) { REDACTED } else { value };
            (name, shown)
        })
    }
}

impl Read for Properties {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        BTreeMap::read(node, reader).map(Self)
    }
}

impl Serialize for Properties {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.shown())
    }
}

impl JsonSchema for Properties {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Properties".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "additionalProperties": { "type": ["string", "number", "boolean"] },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_read_what_they_print() {
        for text in ["10ms", "180s", "1h", "90m", "1d", "250us", "0s"] {
            let span = Span::parse(text).unwrap();
            assert_eq!(Span::parse(&span.to_string()), Ok(span), "{text}");
        }
        assert_eq!(Span::parse("1m 30s"), Ok(Span::secs(90)));
        assert_eq!(Span::parse("1.5s"), Ok(Span::millis(1500)));
        assert_eq!(Bytes::parse("64MiB"), Ok(Bytes(64 << 20)));
        assert_eq!(Bytes(64 << 20).to_string(), "64MiB");
        assert_eq!(Bytes::parse("1 KB"), Ok(Bytes(1000)));
    }

    #[test]
    fn other_text_is_neither() {
        for text in [
            "",
            "10",
            "ten seconds",
            "10 parsecs",
            "-1s",
            "1e9s",
            "1.2.3s",
            "99999999999999999d",
        ] {
            assert!(Span::parse(text).is_err(), "{text}");
            assert!(Bytes::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_start_is_a_word_or_a_time() {
        assert_eq!(parse_start("earliest"), Ok(Start::Earliest));
        let time = "2026-01-31T12:00:00Z";
        let start = StartAt(parse_start(time).unwrap());
        assert_eq!(start.to_string(), time);
        assert!(parse_start("yesterday").is_err());
    }

    #[test]
    fn hints_are_taken_on_this_host_only() {
        for text in [
            "",
            "udp://127.0.0.1:9465",
            "udp://[::1]:9465",
            "unix:///run/outbox-relay/wake.sock",
        ] {
            let at = WakeUpAt::parse(text).unwrap();
            assert_eq!(at.to_string(), text);
        }
        for text in ["udp://0.0.0.0:9465", "udp://10.0.0.1:1", "udp://[::]:9465"] {
            let problem = WakeUpAt::parse(text).unwrap_err();
            assert!(problem.contains("not authenticated"), "{text}: {problem}");
        }
        let long = format!("unix:///{}", "x".repeat(SOCKET_PATH_BYTES));
        for text in [
            " ",
            "off",
            "127.0.0.1:9465",
            "udp://localhost:9465",
            "udp://127.0.0.1",
            "udp://127.0.0.1:0",
            "tcp://127.0.0.1:9465",
            "unix://",
            "unix:///",
            "unix://wake.sock",
            &long,
        ] {
            assert!(WakeUpAt::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_log_is_not_an_outbox() {
        assert!(Table::parse("shop.outbox").is_ok());
        assert!(Table::parse("outbox").is_err());
        assert!(Table::parse("a.b.c").is_err());
        assert!(Table::parse("shop.outbox_scylla_cdc_log").is_err());
    }
}
