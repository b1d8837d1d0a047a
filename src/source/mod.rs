//! Reads outbox tables through their CDC logs.
//!
//! Owns what is read when, and how far each stream group's watermark W may move. The pure parts
//! are [`follower`] (one group), [`plan`] (generations), [`ring`] (tokens to groups) and [`changes`]
//! (rows to changes); the shell is [`reader`], [`generations`], [`wake_up`] and [`TableSource`].
//! Invariants:
//!
//! 1. W moves to *t* only when a read that started `follow.late_window` after *t* or later has
//!    returned everything up to *t*, and all of it is settled. W never moves back.
//! 2. A restart resumes strictly from W; rows above W that were published are known by their
//!    positions.
//! 3. Rows of a generation are handed on only when those of the ones before are settled.
//! 4. A group that fails pauses; the other groups and tables go on.
//! 5. At `follow.tracked_positions` and at the limits of the pipeline less is read; nothing is
//!    dropped.
//!
//! It does not know topics, keys or brokers.

pub mod bounds;
pub mod census;
pub mod changes;
pub mod clock;
pub mod expiry;
pub mod follower;
pub mod generations;
pub mod group;
pub mod intake;
pub mod pace;
pub mod pass;
pub mod plan;
pub mod reader;
pub mod ring;
pub mod rounds;
#[cfg(test)]
mod simulation;
pub mod stragglers;
pub mod sweep;
mod table;
pub mod wake_up;
pub mod windows;

pub use table::{Error, SourceContext, TableSource};
