//! The tables that belong to the relay itself.
//!
//! Each part owns the form of its tables; here is the list of all, for those that create them.

use crate::{checkpoint, dead_letters, ownership};

/// Name and CQL of each of the relay's tables in `keyspace`, which must exist. Each statement may
/// be run again.
pub fn own_tables(keyspace: &str) -> Vec<(&'static str, String)> {
    let mut tables = checkpoint::ddl(keyspace);
    tables.extend(dead_letters::store::ddl(keyspace));
    tables.extend(ownership::ddl(keyspace));
    tables
}
