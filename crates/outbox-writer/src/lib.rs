//! Writes application rows and outbox events in one logged batch.
