//! What came of the attempts that the driver made for one call.
//!
//! The driver may send a batch several times, and its error tells of the last time alone: a broken
//! connection and then "unavailable" from another node comes back as "unavailable", which by itself
//! would be a certain refusal.
//!
//! Invariant: the outcome is certain only if every attempt that was sent has been refused.

use crate::error::attempt_is_open;
use scylla::errors::{RequestAttemptError, RequestError};
use scylla::observability::history::{AttemptId, HistoryListener, RequestId, SpeculativeId};
use scylla::policies::retry::RetryDecision;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the attempts of one call.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    sent: AtomicUsize,
    refused: AtomicUsize,
}

impl Attempts {
    /// Whether an attempt may have been written.
    pub(crate) fn any_open(&self) -> bool {
        self.sent.load(Ordering::Relaxed) > self.refused.load(Ordering::Relaxed)
    }
}

impl HistoryListener for Attempts {
    fn log_request_start(&self) -> RequestId {
        RequestId(0)
    }

    fn log_request_success(&self, _: RequestId) {}

    fn log_request_error(&self, _: RequestId, _: &RequestError) {}

    fn log_new_speculative_fiber(&self, _: RequestId) -> SpeculativeId {
        SpeculativeId(0)
    }

    fn log_attempt_start(
        &self,
        _: RequestId,
        _: Option<SpeculativeId>,
        _: SocketAddr,
    ) -> AttemptId {
        AttemptId(self.sent.fetch_add(1, Ordering::Relaxed))
    }

    fn log_attempt_success(&self, _: AttemptId) {}

    fn log_attempt_error(&self, _: AttemptId, error: &RequestAttemptError, _: &RetryDecision) {
        if !attempt_is_open(error) {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scylla::errors::DbError;
    use scylla::statement::Consistency;

    fn attempt(attempts: &Attempts, error: DbError) {
        let address = SocketAddr::from(([127, 0, 0, 1], 9042));
        let id = attempts.log_attempt_start(RequestId(0), None, address);
        let error = RequestAttemptError::DbError(error, String::new());
        attempts.log_attempt_error(id, &error, &RetryDecision::DontRetry);
    }

    fn unavailable() -> DbError {
        DbError::Unavailable {
            consistency: Consistency::LocalQuorum,
            required: 2,
            alive: 1,
        }
    }

    #[test]
    fn only_refusals_make_the_outcome_certain() {
        let attempts = Attempts::default();
        assert!(!attempts.any_open());
        attempt(&attempts, unavailable());
        attempt(&attempts, DbError::IsBootstrapping);
        assert!(!attempts.any_open());
        attempt(&attempts, DbError::ServerError);
        attempt(&attempts, unavailable());
        assert!(attempts.any_open(), "a later refusal does not undo it");
    }

    #[test]
    fn an_attempt_without_an_answer_is_open() {
        let attempts = Attempts::default();
        let address = SocketAddr::from(([127, 0, 0, 1], 9042));
        let _ = attempts.log_attempt_start(RequestId(0), None, address);
        attempt(&attempts, unavailable());
        assert!(attempts.any_open());
    }
}
