//! The options behind `WITH`.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::ast::{Properties, Property};
use crate::error::Error;
use crate::schema::{CdcOptions, KeyspaceSchema, TableOptions};

fn map(name: &str, value: &Property) -> Result<BTreeMap<String, String>, Error> {
    match value {
        Property::Map(entries) => Ok(entries.iter().cloned().collect()),
        Property::Text(_) => Err(Error::syntax(format!(
            "Invalid value for property '{name}'. It should be a map."
        ))),
    }
}

fn text(name: &str, value: &Property) -> Result<String, Error> {
    match value {
        Property::Text(text) => Ok(text.clone()),
        Property::Map(_) => Err(Error::syntax(format!(
            "Invalid value for property '{name}'. It should be a string"
        ))),
    }
}

fn flag(name: &str, value: &Property) -> Result<bool, Error> {
    match text(name, value)?.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        other => Err(Error::syntax(format!(
            "Invalid boolean value {other} for '{name}'"
        ))),
    }
}

fn integer(name: &str, value: &Property) -> Result<i32, Error> {
    let text = text(name, value)?;
    text.parse()
        .map_err(|_| Error::syntax(format!("Invalid integer value {text} for '{name}'")))
}

fn real(name: &str, value: &Property) -> Result<f64, Error> {
    let text = text(name, value)?;
    text.parse()
        .map_err(|_| Error::syntax(format!("Invalid double value {text} for '{name}'")))
}

fn at_least(name: &str, value: &Property, least: i32) -> Result<i32, Error> {
    let number = integer(name, value)?;
    if number < least {
        return Err(Error::config(format!(
            "{name} must be greater than or equal to {least} (got {number})"
        )));
    }
    Ok(number)
}

fn unknown(name: &str) -> Error {
    Error::syntax(format!("Unknown property '{name}'"))
}

/// Applies the options of a keyspace.
pub(super) fn keyspace(keyspace: &mut KeyspaceSchema, given: &Properties) -> Result<(), Error> {
    let before = keyspace.initial_tablets().is_some();
    let is_new = keyspace.replication.is_empty();
    for (name, value) in given {
        match name.as_str() {
            "replication" => keyspace.replication = replication(map(name, value)?)?,
            "durable_writes" => keyspace.durable_writes = flag(name, value)?,
            "tablets" => keyspace.tablets = Some(tablets(map(name, value)?)?),
            "storage" => return Err(Error::unsupported("The keyspace option 'storage'")),
            _ => return Err(unknown(name)),
        }
    }
    let has_tablets = keyspace.initial_tablets().is_some();
    if !is_new && before != has_tablets {
        return Err(Error::invalid(
            "Cannot alter replication strategy vnode/tablets flavor",
        ));
    }
    let class = keyspace.replication.get("class");
    if has_tablets && class.is_some_and(|class| !class.ends_with("NetworkTopologyStrategy")) {
        return Err(Error::config(
            "Tablets need the replication strategy NetworkTopologyStrategy",
        ));
    }
    Ok(())
}

/// `{'enabled': true | false}`, `{'initial': n}` or both.
fn tablets(map: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Error> {
    for (option, value) in &map {
        let valid = match option.as_str() {
            "enabled" => value == "true" || value == "false",
            "initial" => value.parse::<i32>().is_ok_and(|initial| initial >= 0),
            _ => return Err(Error::config(format!("Unknown tablets option {option}"))),
        };
        if !valid {
            return Err(Error::config(format!(
                "Invalid value for tablets option {option}: {value}"
            )));
        }
    }
    Ok(map)
}

fn replication(mut map: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Error> {
    const PACKAGE: &str = "org.apache.cassandra.locator.";
    let Some(class) = map.remove("class") else {
        return Err(Error::config(
            "Missing mandatory replication strategy class",
        ));
    };
    let short = class.strip_prefix(PACKAGE).unwrap_or(&class);
    match short {
        "SimpleStrategy" if !map.contains_key("replication_factor") => {
            return Err(Error::config(
                "SimpleStrategy requires a replication_factor strategy option.",
            ));
        }
        "SimpleStrategy" | "NetworkTopologyStrategy" | "EverywhereStrategy" | "LocalStrategy" => {}
        _ => {
            return Err(Error::config(format!(
                "Unable to find replication strategy class '{PACKAGE}{short}'"
            )));
        }
    }
    for (option, factor) in &map {
        if factor.parse::<u32>().is_err() {
            return Err(Error::config(format!(
                "Replication factor must be numeric; found '{factor}' for {option}"
            )));
        }
    }
    map.insert("class".into(), format!("{PACKAGE}{short}"));
    Ok(map)
}

/// Applies the options of a table; gives its id when one was asked for.
pub(super) fn table(options: &mut TableOptions, given: &Properties) -> Result<Option<Uuid>, Error> {
    let mut id = None;
    for (name, value) in given {
        match name.as_str() {
            "bloom_filter_fp_chance" => options.bloom_filter_fp_chance = real(name, value)?,
            "caching" => {
                options.caching = map(name, value)?;
                options
                    .caching
                    .entry("keys".into())
                    .or_insert_with(|| "ALL".into());
                options
                    .caching
                    .entry("rows_per_partition".into())
                    .or_insert_with(|| "ALL".into());
            }
            "cdc" => options.cdc = Some(CdcOptions::from_map(&map(name, value)?)?),
            "comment" => options.comment = text(name, value)?,
            "compaction" => options.compaction = compaction(map(name, value)?)?,
            "compression" => options.compression = map(name, value)?,
            "crc_check_chance" => options.crc_check_chance = real(name, value)?,
            "dclocal_read_repair_chance" => {
                options.dclocal_read_repair_chance = real(name, value)?;
            }
            "default_time_to_live" => options.default_time_to_live = at_least(name, value, 0)?,
            "gc_grace_seconds" => options.gc_grace_seconds = at_least(name, value, 0)?,
            "id" => {
                let text = text(name, value)?;
                let invalid = |_| Error::config(format!("Invalid table id {text}"));
                id = Some(Uuid::parse_str(&text).map_err(invalid)?);
            }
            "max_index_interval" => options.max_index_interval = at_least(name, value, 1)?,
            "memtable_flush_period_in_ms" => {
                options.memtable_flush_period_in_ms = at_least(name, value, 0)?;
            }
            "min_index_interval" => options.min_index_interval = at_least(name, value, 1)?,
            "paxos_grace_seconds" => {
                options.paxos_grace_seconds = Some(at_least(name, value, 0)?);
            }
            "per_partition_rate_limit" => {
                options.per_partition_rate_limit = Some(map(name, value)?);
            }
            "read_repair_chance" => options.read_repair_chance = real(name, value)?,
            "speculative_retry" => options.speculative_retry = text(name, value)?,
            "synchronous_updates" => options.synchronous_updates = Some(flag(name, value)?),
            "tombstone_gc" => options.tombstone_gc = Some(map(name, value)?),
            _ => return Err(unknown(name)),
        }
    }
    Ok(id)
}

fn compaction(map: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Error> {
    let Some(class) = map.get("class") else {
        return Err(Error::config(
            "Missing sub-option 'class' for the 'compaction' option.",
        ));
    };
    let short = class.rsplit('.').next().unwrap_or(class);
    let known = [
        "SizeTieredCompactionStrategy",
        "LeveledCompactionStrategy",
        "TimeWindowCompactionStrategy",
        "IncrementalCompactionStrategy",
        "NullCompactionStrategy",
    ];
    if !known.contains(&short) {
        return Err(Error::config(format!(
            "Unable to find compaction strategy class '{class}'"
        )));
    }
    Ok(map)
}
