//! Reads outbox tables through their CDC logs.
pub mod bounds;
pub mod generations;
