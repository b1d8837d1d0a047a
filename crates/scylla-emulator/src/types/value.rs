//! A value and its order.

use std::cmp::Ordering;
use std::net::IpAddr;

use bytes::Bytes;
use num_bigint::BigInt;
use uuid::Uuid;

use super::Decimal;

/// 100-nanosecond ticks between 1582-10-15 and 1970-01-01.
const GREGORIAN_OFFSET_TICKS: i64 = 0x01B2_1DD2_1381_4000;

/// Months, days and nanoseconds; not convertible into each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Duration {
    /// Whole months.
    pub months: i32,
    /// Whole days.
    pub days: i32,
    /// Nanoseconds.
    pub nanos: i64,
}

/// A value that is not null.
#[derive(Debug, Clone)]
pub enum Value {
    /// Zero bytes where the type needs some: allowed by the protocol, sorts first.
    Empty,
    /// `ascii`, `text`
    Text(String),
    /// `bigint`
    BigInt(i64),
    /// `blob`
    Blob(Bytes),
    /// `boolean`
    Boolean(bool),
    /// `counter`
    Counter(i64),
    /// `date`: days, where 2^31 is 1970-01-01.
    Date(u32),
    /// `decimal`
    Decimal(Decimal),
    /// `double`
    Double(f64),
    /// `duration`
    Duration(Duration),
    /// `float`
    Float(f32),
    /// `inet`
    Inet(IpAddr),
    /// `int`
    Int(i32),
    /// `smallint`
    SmallInt(i16),
    /// `time`: nanoseconds since midnight.
    Time(i64),
    /// `timestamp`: milliseconds since the epoch.
    Timestamp(i64),
    /// `timeuuid`
    TimeUuid(Uuid),
    /// `tinyint`
    TinyInt(i8),
    /// `uuid`
    Uuid(Uuid),
    /// `varint`
    VarInt(BigInt),
    /// `list`
    List(Vec<Value>),
    /// `set`: sorted, without duplicates.
    Set(Vec<Value>),
    /// `map`: sorted by key, without duplicates.
    Map(Vec<(Value, Value)>),
    /// `tuple` and user types: one entry per field; missing trailing fields count as null.
    Tuple(Vec<Option<Value>>),
}

impl Value {
    /// Text from anything that is text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A set from elements in any order.
    pub fn set(mut elements: Vec<Self>) -> Self {
        elements.sort();
        elements.dedup();
        Self::Set(elements)
    }

    /// A map from entries in any order; of equal keys the last one stays.
    pub fn map(entries: Vec<(Self, Self)>) -> Self {
        let sorted: std::collections::BTreeMap<Self, Self> = entries.into_iter().collect();
        Self::Map(sorted.into_iter().collect())
    }

    /// A rank per variant, to order values of different types.
    fn rank(&self) -> u8 {
        match self {
            Self::Empty => 0,
            Self::Text(_) => 1,
            Self::BigInt(_) => 2,
            Self::Blob(_) => 3,
            Self::Boolean(_) => 4,
            Self::Counter(_) => 5,
            Self::Date(_) => 6,
            Self::Decimal(_) => 7,
            Self::Double(_) => 8,
            Self::Duration(_) => 9,
            Self::Float(_) => 10,
            Self::Inet(_) => 11,
            Self::Int(_) => 12,
            Self::SmallInt(_) => 13,
            Self::Time(_) => 14,
            Self::Timestamp(_) => 15,
            Self::TimeUuid(_) => 16,
            Self::TinyInt(_) => 17,
            Self::Uuid(_) => 18,
            Self::VarInt(_) => 19,
            Self::List(_) => 20,
            Self::Set(_) => 21,
            Self::Map(_) => 22,
            Self::Tuple(_) => 23,
        }
    }
}

impl Ord for Value {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => a.as_bytes().cmp(b.as_bytes()),
            (Self::BigInt(a), Self::BigInt(b))
            | (Self::Counter(a), Self::Counter(b))
            | (Self::Time(a), Self::Time(b))
            | (Self::Timestamp(a), Self::Timestamp(b)) => a.cmp(b),
            (Self::Blob(a), Self::Blob(b)) => a.cmp(b),
            (Self::Boolean(a), Self::Boolean(b)) => a.cmp(b),
            (Self::Date(a), Self::Date(b)) => a.cmp(b),
            (Self::Decimal(a), Self::Decimal(b)) => a.cmp(b),
            (Self::Double(a), Self::Double(b)) => compare_doubles(*a, *b),
            (Self::Float(a), Self::Float(b)) => compare_doubles(f64::from(*a), f64::from(*b)),
            (Self::Duration(a), Self::Duration(b)) => a.cmp(b),
            (Self::Inet(a), Self::Inet(b)) => compare_inet(a, b),
            (Self::Int(a), Self::Int(b)) => a.cmp(b),
            (Self::SmallInt(a), Self::SmallInt(b)) => a.cmp(b),
            (Self::TinyInt(a), Self::TinyInt(b)) => a.cmp(b),
            (Self::TimeUuid(a), Self::TimeUuid(b)) => compare_timeuuids(a, b),
            (Self::Uuid(a), Self::Uuid(b)) => compare_uuids(a, b),
            (Self::VarInt(a), Self::VarInt(b)) => a.cmp(b),
            (Self::List(a), Self::List(b)) | (Self::Set(a), Self::Set(b)) => a.cmp(b),
            (Self::Map(a), Self::Map(b)) => a.cmp(b),
            (Self::Tuple(a), Self::Tuple(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Value {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Value {}

/// Numbers by size, -0 before +0, every NaN equal and last.
fn compare_doubles(a: f64, b: f64) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        (false, false) => a.total_cmp(&b),
    }
}

/// By the bytes of the serialized address.
fn compare_inet(a: &IpAddr, b: &IpAddr) -> Ordering {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => a.octets().cmp(&b.octets()),
        (IpAddr::V6(a), IpAddr::V6(b)) => a.octets().cmp(&b.octets()),
        (IpAddr::V4(a), IpAddr::V6(b)) => a.octets()[..].cmp(&b.octets()[..]),
        (IpAddr::V6(a), IpAddr::V4(b)) => a.octets()[..].cmp(&b.octets()[..]),
    }
}

/// By timestamp, then by the low eight bytes as signed bytes; the version does not count.
fn compare_timeuuids(a: &Uuid, b: &Uuid) -> Ordering {
    let sign_flipped = |u: &Uuid| (u.as_u64_pair().1) ^ 0x8080_8080_8080_8080;
    timeuuid_ticks(a)
        .cmp(&timeuuid_ticks(b))
        .then_with(|| sign_flipped(a).cmp(&sign_flipped(b)))
        .then_with(|| a.as_bytes()[6].cmp(&b.as_bytes()[6]))
}

/// By version; version 1 by timestamp, then by the low bytes; others by their bytes.
fn compare_uuids(a: &Uuid, b: &Uuid) -> Ordering {
    let version = |u: &Uuid| u.as_bytes()[6] >> 4;
    let order = version(a).cmp(&version(b));
    if order == Ordering::Equal && version(a) == 1 {
        return timeuuid_ticks(a)
            .cmp(&timeuuid_ticks(b))
            .then_with(|| a.as_u64_pair().1.cmp(&b.as_u64_pair().1));
    }
    order.then_with(|| a.as_bytes().cmp(b.as_bytes()))
}

/// The 60-bit count of 100 ns ticks since 1582-10-15 in a version 1 uuid.
pub fn timeuuid_ticks(uuid: &Uuid) -> u64 {
    let high = uuid.as_u64_pair().0;
    ((high & 0x0fff) << 48) | ((high & 0xffff_0000) << 16) | (high >> 32)
}

/// Microseconds since the epoch in a version 1 uuid (rounded down).
pub fn timeuuid_micros(uuid: &Uuid) -> i64 {
    (timeuuid_ticks(uuid) as i64 - GREGORIAN_OFFSET_TICKS).div_euclid(10)
}

/// A version 1 uuid from microseconds since the epoch, extra 100 ns ticks and the low eight bytes.
pub fn timeuuid_from_parts(micros: i64, extra_ticks: u8, low: u64) -> Uuid {
    let ticks = micros
        .wrapping_mul(10)
        .wrapping_add(GREGORIAN_OFFSET_TICKS)
        .wrapping_add(i64::from(extra_ticks)) as u64;
    let high = ((ticks & 0xffff_ffff) << 32)
        | ((ticks >> 16) & 0xffff_0000)
        | 0x1000
        | ((ticks >> 48) & 0x0fff);
    Uuid::from_u64_pair(high, low)
}
