//! An event's way from its row to Kafka, told when it has ended.
//!
//! What a trace is made of, whoever makes it. Never holds a payload or a key.

use std::fmt::Debug;
use std::time::SystemTime;

use crate::sink::Appended;

/// An event's way, when it has ended.
#[derive(Debug, Clone, Copy)]
pub struct Journey<'e> {
    /// The outbox table.
    pub table: &'e str,
    /// The topic; `None` if the row could not be made a record.
    pub topic: Option<&'e str>,
    /// The event's own id.
    pub event_id: &'e str,
    /// The type of the event, if there is one.
    pub event_type: Option<&'e str>,
    /// The W3C trace context that the row came with.
    pub traceparent: Option<&'e str>,
    /// When the row was written and read; `None` for a dead letter that is published after all.
    pub read: Option<Read>,
    /// When it was handed over to be published.
    pub submitted: SystemTime,
    /// When it was handed to the producer, the last time if it was tried again; `None` if it never
    /// was.
    pub sent: Option<SystemTime>,
    /// Where its record is, once Kafka has acknowledged it.
    pub appended: Option<Appended>,
    /// When it ended.
    pub ended: SystemTime,
    /// How often it was handed to the producer.
    pub attempts: u32,
    /// How it ended.
    pub end: End<'e>,
}

/// When a row was written and read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    /// The time of the write, by the clock that gave the batch its timestamp.
    pub written: SystemTime,
    /// When the page was asked for that has shown the row.
    pub asked: SystemTime,
}

/// How an event's way has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End<'e> {
    /// Kafka has acknowledged it.
    Published,
    /// It is a durable dead letter, for this reason.
    DeadLetter(&'e str),
}

/// Takes journeys. It must return at once: the pipeline calls it between two records.
pub trait Journal: Debug + Send + Sync {
    /// An event's way has ended.
    fn ended(&self, journey: &Journey<'_>);

    /// Passes on what it holds, for a short time, and ends. Blocks.
    fn close(&self);
}
