//! An in-memory, ScyllaDB-compatible CQL server with change data capture.

pub mod ast;
pub mod cluster;
pub mod engine;
pub mod error;
pub mod hooks;
pub mod mutation;
pub mod parser;
pub mod schema;
pub mod types;
