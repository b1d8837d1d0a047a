//! An in-memory, ScyllaDB-compatible CQL server with change data capture.

pub mod cluster;
