//! How hard ScyllaDB is asked: the reads of all tables together.
//!
//! Invariants:
//!
//! 1. At most `follow.concurrent_reads` pages are asked for at a time.
//! 2. Over any while, at most `follow.reads_per_second` pages are asked for on top of those that cannot
//!    wait: polls wait until there is room, while what publishes a row that was seen does not, and makes
//!    the polls after it wait.
//! 3. After an answer that says *overloaded*, or none in time, the rate is halved, down to a sixty-fourth;
//!    it comes back by a tenth of the limit per second.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::config;

/// The least part of the limit that is left.
const LEAST: f64 = 1.0 / 64.0;
/// Part of the limit that comes back in a second.
const RECOVERY: f64 = 0.1;
/// Two complaints within so many microseconds are one.
const ONE_COMPLAINT: i64 = 100_000;
/// Microseconds of reads that may be made at once after a while without any.
const BURST: f64 = 20_000.0;

/// The pure part: a bucket of reads that may be made, filled at a rate. Times are ticks in microseconds.
#[derive(Debug, Clone)]
struct Budget {
    /// Reads per microsecond without complaints.
    limit: f64,
    /// Part of the limit that is in force.
    share: f64,
    /// Reads that may be made now; below zero are those that did not wait.
    left: f64,
    at: i64,
    complained_at: i64,
}

impl Budget {
    fn new(reads_per_second: f64) -> Self {
        Self {
            limit: reads_per_second / 1e6,
            share: 1.0,
            left: 0.0,
            at: 0,
            complained_at: i64::MIN / 2,
        }
    }

    fn rate(&self) -> f64 {
        self.limit * self.share
    }

    fn refill(&mut self, now: i64) {
        let passed = now.saturating_sub(self.at).max(0) as f64;
        self.at = self.at.max(now);
        let most = (self.rate() * BURST).max(1.0);
        self.left = (self.left + passed * self.rate()).min(most);
        self.share = (self.share + passed / 1e6 * RECOVERY).min(1.0);
    }

    fn take(&mut self, now: i64) {
        self.refill(now);
        self.left -= 1.0;
    }

    /// How long a poll has to wait, in microseconds.
    fn wait(&mut self, now: i64) -> i64 {
        self.refill(now);
        let lacking = 1.0 - self.left;
        if lacking <= 0.0 {
            0
        } else {
            (lacking / self.rate()).ceil().min(1e9) as i64
        }
    }

    fn complained(&mut self, now: i64) {
        self.refill(now);
        if now.saturating_sub(self.complained_at) >= ONE_COMPLAINT {
            self.complained_at = now;
            self.share = (self.share / 2.0).max(LEAST);
        }
    }
}

/// Shared by the sources of all tables.
#[derive(Debug)]
pub struct Pace {
    permits: Semaphore,
    budget: Mutex<Budget>,
}

impl Pace {
    /// The pace that a configuration allows.
    pub fn new(follow: &config::Follow) -> Self {
        Self {
            permits: Semaphore::new(follow.concurrent_reads.get()),
            budget: Mutex::new(Budget::new(f64::from(follow.reads_per_second.get()))),
        }
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a read and waits until it may be made. `None` never comes: the permits are not closed.
    pub(super) async fn read(&self, now: i64) -> Option<SemaphorePermit<'_>> {
        self.budget().take(now);
        self.permits.acquire().await.ok()
    }

    /// How long a poll has to wait, in microseconds; 0 is not at all.
    pub fn wait(&self, now: i64) -> i64 {
        self.budget().wait(now)
    }

    /// ScyllaDB has said that it is overloaded, or nothing.
    pub fn complained(&self, now: i64) {
        self.budget().complained(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    /// Polls as often as it may; gives the number of reads.
    fn polls(budget: &mut Budget, from: i64, to: i64) -> u32 {
        let mut now = from;
        let mut reads = 0;
        while now < to {
            let wait = budget.wait(now);
            if wait == 0 {
                budget.take(now);
                reads += 1;
            }
            now += wait;
        }
        reads
    }

    #[test]
    fn polls_keep_to_the_rate() {
        let mut budget = Budget::new(500.0);
        let reads = polls(&mut budget, 0, 10 * SECOND);
        assert!((4_950..=5_050).contains(&reads), "{reads}");
    }

    #[test]
    fn what_cannot_wait_makes_polls_wait() {
        let mut budget = Budget::new(100.0);
        for _ in 0..50 {
            budget.take(SECOND);
        }
        let wait = budget.wait(SECOND);
        assert!((400_000..=520_000).contains(&wait), "{wait}");
    }

    #[test]
    fn complaints_halve_the_rate_and_it_comes_back() {
        let mut budget = Budget::new(1_000.0);
        for n in 0..100 {
            budget.complained(SECOND + n * 1_000);
        }
        let reads = polls(&mut budget, SECOND + 100_000, SECOND + 200_000);
        assert!(reads < 70, "one complaint halves: {reads}");
        for n in 0..100 {
            budget.complained(2 * SECOND + n * 100_000);
        }
        let rate = budget.share;
        assert!((LEAST..0.1).contains(&rate), "{rate}");
        let reads = polls(&mut budget, 30 * SECOND, 31 * SECOND);
        assert!((950..=1_050).contains(&reads), "{reads}");
    }
}
