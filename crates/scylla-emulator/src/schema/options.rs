//! The options of a table.

use std::collections::BTreeMap;

use crate::error::Error;

/// Whether the CDC log gets pre-images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CdcImage {
    /// None.
    #[default]
    Off,
    /// Of the columns that the write changes.
    On,
    /// Of the whole row.
    Full,
}

/// What a delta row of the CDC log holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CdcDelta {
    /// Keys and changed columns.
    #[default]
    Full,
    /// Keys alone.
    Keys,
}

/// `cdc = {…}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CdcOptions {
    /// Whether writes are logged.
    pub enabled: bool,
    /// Pre-images.
    pub preimage: CdcImage,
    /// Post-images.
    pub postimage: bool,
    /// What a delta row holds.
    pub delta: CdcDelta,
    /// Seconds that a log row lives; 0 for ever.
    pub ttl: i32,
}

impl Default for CdcOptions {
    fn default() -> Self {
        Self {
            enabled: false,
            preimage: CdcImage::Off,
            postimage: false,
            delta: CdcDelta::Full,
            ttl: 86_400,
        }
    }
}

impl CdcOptions {
    /// Reads the option's map. Values may be quoted or not; their case does not count.
    pub fn from_map(map: &BTreeMap<String, String>) -> Result<Self, Error> {
        let mut options = Self::default();
        for (key, value) in map {
            let lower = value.to_ascii_lowercase();
            let invalid =
                || Error::config(format!("Invalid value for CDC option \"{key}\": {value}"));
            let flag = || match lower.as_str() {
                "true" | "1" => Ok(true),
                "false" | "0" => Ok(false),
                _ => Err(invalid()),
            };
            match key.as_str() {
                "enabled" => options.enabled = flag()?,
                "preimage" => {
                    options.preimage = match lower.as_str() {
                        "full" => CdcImage::Full,
                        _ if flag()? => CdcImage::On,
                        _ => CdcImage::Off,
                    };
                }
                "postimage" => options.postimage = flag()?,
                "delta" => {
                    options.delta = match lower.as_str() {
                        "full" => CdcDelta::Full,
                        "keys" => CdcDelta::Keys,
                        _ => return Err(invalid()),
                    };
                }
                "ttl" => {
                    let ttl: i64 = value.parse().map_err(|_| invalid())?;
                    if ttl < 0 {
                        return Err(Error::config("Invalid CDC option: ttl must be >= 0"));
                    }
                    options.ttl = i32::try_from(ttl)
                        .map_err(|_| Error::config("Invalid CDC option: ttl too large"))?;
                }
                _ => return Err(Error::config(format!("Invalid CDC option: {key}"))),
            }
        }
        Ok(options)
    }

    /// The map that `system_schema` shows.
    pub fn to_map(self) -> BTreeMap<String, String> {
        let preimage = match self.preimage {
            CdcImage::Off => "false",
            CdcImage::On => "true",
            CdcImage::Full => "full",
        };
        let delta = match self.delta {
            CdcDelta::Full => "full",
            CdcDelta::Keys => "keys",
        };
        let map = [
            ("enabled", self.enabled.to_string()),
            ("preimage", preimage.to_owned()),
            ("postimage", self.postimage.to_string()),
            ("delta", delta.to_owned()),
            ("ttl", self.ttl.to_string()),
        ];
        map.map(|(k, v)| (k.to_owned(), v)).into()
    }
}

/// The options of `WITH`. Those without an effect on an in-memory server are kept to be shown.
#[derive(Debug, Clone, PartialEq)]
pub struct TableOptions {
    /// `bloom_filter_fp_chance`
    pub bloom_filter_fp_chance: f64,
    /// `caching`
    pub caching: BTreeMap<String, String>,
    /// `cdc`; `None` when never given.
    pub cdc: Option<CdcOptions>,
    /// `comment`
    pub comment: String,
    /// `compaction`
    pub compaction: BTreeMap<String, String>,
    /// `compression`
    pub compression: BTreeMap<String, String>,
    /// `crc_check_chance`
    pub crc_check_chance: f64,
    /// `dclocal_read_repair_chance`
    pub dclocal_read_repair_chance: f64,
    /// `default_time_to_live` in seconds; 0 for none.
    pub default_time_to_live: i32,
    /// `gc_grace_seconds`
    pub gc_grace_seconds: i32,
    /// `max_index_interval`
    pub max_index_interval: i32,
    /// `memtable_flush_period_in_ms`
    pub memtable_flush_period_in_ms: i32,
    /// `min_index_interval`
    pub min_index_interval: i32,
    /// `paxos_grace_seconds`
    pub paxos_grace_seconds: Option<i32>,
    /// `read_repair_chance`
    pub read_repair_chance: f64,
    /// `speculative_retry`
    pub speculative_retry: String,
    /// `tombstone_gc`
    pub tombstone_gc: Option<BTreeMap<String, String>>,
    /// `per_partition_rate_limit`
    pub per_partition_rate_limit: Option<BTreeMap<String, String>>,
    /// `synchronous_updates`
    pub synchronous_updates: Option<bool>,
}

impl Eq for TableOptions {}

impl Default for TableOptions {
    fn default() -> Self {
        let map = |entries: &[(&str, &str)]| {
            entries
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        Self {
            bloom_filter_fp_chance: 0.01,
            caching: map(&[("keys", "ALL"), ("rows_per_partition", "ALL")]),
            cdc: None,
            comment: String::new(),
            compaction: map(&[("class", "SizeTieredCompactionStrategy")]),
            compression: map(&[(
                "sstable_compression",
                "org.apache.cassandra.io.compress.LZ4Compressor",
            )]),
            crc_check_chance: 1.0,
            dclocal_read_repair_chance: 0.0,
            default_time_to_live: 0,
            gc_grace_seconds: 864_000,
            max_index_interval: 2048,
            memtable_flush_period_in_ms: 0,
            min_index_interval: 128,
            paxos_grace_seconds: None,
            read_repair_chance: 0.0,
            speculative_retry: "99.0PERCENTILE".into(),
            tombstone_gc: None,
            per_partition_rate_limit: None,
            synchronous_updates: None,
        }
    }
}

impl TableOptions {
    /// The CDC options, defaults when never given.
    pub fn cdc(&self) -> CdcOptions {
        self.cdc.unwrap_or_default()
    }
}
