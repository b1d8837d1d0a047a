//! What the pipeline says of failures: enough to act on, never a flood.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::dead_letters::{DeadLetter, Failure};
use crate::sink::{DeliveryError, Kind};

/// Failures of one kind are logged once in this time, with their number.
const LOG_EVERY: Duration = Duration::from_secs(10);
/// Dead letters named in the log in this time.
const LOGGED_BURIALS: u64 = 20;

/// Says what fails, at most once per kind and [`LOG_EVERY`]; the level DEBUG has it all.
#[derive(Debug, Default)]
pub(super) struct FailureLog {
    kinds: HashMap<Kind, (Instant, u64)>,
    /// Since when, and how many, events became dead letters.
    buried: Option<(Instant, u64)>,
}

impl FailureLog {
    pub(super) fn log(&mut self, error: &DeliveryError, attempt: u32, now: Instant) {
        let (last, suppressed) = match self.kinds.get_mut(&error.kind) {
            Some((last, suppressed)) if now < *last + LOG_EVERY => {
                *suppressed += 1;
                tracing::debug!(error = %error, attempt, "an attempt to publish failed");
                return;
            }
            Some(entry) => *entry,
            None => (now, 0),
        };
        self.kinds.insert(error.kind, (now, 0));
        tracing::warn!(
            error = %error,
            attempt,
            suppressed,
            in_last = ?now.saturating_duration_since(last),
            remedy = error.kind.remedy(),
            "an attempt to publish failed"
        );
    }

    /// Says that an event became a dead letter, since a person must look at it: at most
    /// [`LOGGED_BURIALS`] in [`LOG_EVERY`], so that a flood of them does not flood the log.
    pub(super) fn log_buried(&mut self, letter: &DeadLetter, failure: &Failure, now: Instant) {
        let (since, count) = self.buried.get_or_insert((now, 0));
        if now >= *since + LOG_EVERY {
            if *count > LOGGED_BURIALS {
                let unsaid = *count - LOGGED_BURIALS;
                tracing::error!(unsaid, "more events became dead letters");
            }
            (*since, *count) = (now, 0);
        }
        *count += 1;
        if *count > LOGGED_BURIALS {
            return;
        }
        let remedy = Kind::from_name(&failure.kind).map(Kind::remedy);
        tracing::error!(
            table = letter.table,
            event = letter.label.event_id,
            reason = letter.reason.name(),
            error = failure.message,
            attempts = failure.attempts,
            remedy,
            "an event becomes a dead letter; see `outbox-relay dead-letters`"
        );
    }
}
