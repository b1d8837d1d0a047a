//! Reads outbox tables through their CDC logs.
pub mod bounds;
pub mod changes;
pub mod generations;
pub mod reader;
