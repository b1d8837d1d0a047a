//! What must be true, and what was found not to be.

use std::fmt;

/// The predicates of `docs/faults.md`, and the invariants that can be looked at directly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Oracle {
    /// Every acknowledged write is in the topic or among the dead letters.
    O1,
    /// Nothing is invented or altered.
    O2,
    /// Per key, first occurrences are in the order of the writes.
    O3,
    /// Repetitions stay within their bound; none after a clean stop.
    O4,
    /// At a stored W, everything at or before it is durable, and nothing more comes.
    O5,
    /// W never moves back.
    O6,
    /// After healing the lag goes to zero, and memory stays inside its bounds.
    O7,
    /// A row is settled only when its event is durable.
    Settled,
    /// One attempt of a key is under way at a time.
    OneAtATime,
    /// Nothing is attempted while the breaker is open or the claim has run out.
    Silence,
    /// An event whose attempts are used up has had all of them.
    Attempts,
    /// The relay's code has panicked.
    Panic,
}

impl fmt::Display for Oracle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::O1 => "O1 no loss",
            Self::O2 => "O2 nothing invented",
            Self::O3 => "O3 order",
            Self::O4 => "O4 bounded repetitions",
            Self::O5 => "O5 durable up to W",
            Self::O6 => "O6 W never goes back",
            Self::O7 => "O7 lag and memory",
            Self::Settled => "settled only if durable",
            Self::OneAtATime => "one attempt of a key",
            Self::Silence => "silence",
            Self::Attempts => "all attempts",
            Self::Panic => "no panic",
        };
        f.write_str(name)
    }
}

/// A predicate that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub oracle: Oracle,
    /// When, microseconds since the Unix epoch.
    pub at: i64,
    /// What was found.
    pub found: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = crate::trace::time(self.at);
        write!(f, "{} at {at}: {}", self.oracle, self.found)
    }
}
