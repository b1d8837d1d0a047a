//! When a task is started again: a pure state machine, one a task.
//!
//! It reads no clock: times are durations since an origin that the caller chooses. Invariants:
//!
//! 1. A pause doubles from `initial_backoff` to `max_backoff`, and is back at the first after a
//!    run that lasted `stable_after`.
//! 2. Of a task that escalates, at most `max_restarts` restarts lie in any `window`, unless a run
//!    between them was stable. One more failure makes it failed, which is told once.
//! 3. A failed task is started again every `failed_retry` until a run is stable.
//! 4. It remembers at most `max_restarts` times.

use std::collections::VecDeque;
use std::time::Duration;

use super::policy::{Escalation, Policy, Reaction};
use crate::config;

/// How a run has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Well, although nobody asked for a stop.
    Finished,
    /// With an error.
    Failed,
    /// With a panic.
    Panicked,
}

/// What to do about a task whose run has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Start it again.
    Restart {
        /// The pause before.
        after: Duration,
    },
    /// Report it as failed, and start it again all the same.
    Fail {
        /// The pause before.
        after: Duration,
        /// Whether it was not failed before.
        newly: bool,
    },
    /// Drain, and exit non-zero.
    Drain,
    /// Do nothing.
    Leave,
}

/// What is known of a task's past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It has not failed, or its last run is stable.
    Well,
    /// It has failed and is, or will be, running again.
    Restarting,
    /// Its restarts are used up.
    Failed,
}

/// The past of one task.
#[derive(Debug, Clone)]
pub struct Restarts {
    policy: Policy,
    limits: config::Supervision,
    pause: Duration,
    recent: VecDeque<Duration>,
    status: Status,
}

impl Restarts {
    /// A task that has not run yet.
    pub fn new(policy: Policy, limits: config::Supervision) -> Self {
        Self {
            policy,
            pause: limits.initial_backoff,
            limits,
            recent: VecDeque::new(),
            status: Status::Well,
        }
    }

    /// What is known of the task's past.
    pub fn status(&self) -> Status {
        self.status
    }

    /// When a run that began at `started` is stable, if that would change anything.
    pub fn stable_at(&self, started: Duration) -> Option<Duration> {
        let at = started.saturating_add(self.limits.stable_after);
        (self.status != Status::Well).then_some(at)
    }

    /// The run that began at `started` goes on. Says whether the task has just recovered.
    pub fn running(&mut self, started: Duration, now: Duration) -> bool {
        let recovered = self.stable_at(started).is_some_and(|at| now >= at);
        if recovered {
            self.forget();
        }
        recovered
    }

    /// The run that began at `started` has ended now.
    pub fn ended(&mut self, end: End, started: Duration, now: Duration) -> Decision {
        let reaction = match end {
            End::Finished => self.policy.on_end,
            End::Failed => self.policy.on_error,
            End::Panicked => self.policy.on_panic,
        };
        if now.saturating_sub(started) >= self.limits.stable_after {
            self.forget();
        }
        match reaction {
            Reaction::Drain => Decision::Drain,
            Reaction::Leave => Decision::Leave,
            Reaction::Restart => self.restart(now),
        }
    }

    fn restart(&mut self, now: Duration) -> Decision {
        let after = self.limits.failed_retry;
        if self.status == Status::Failed {
            let newly = false;
            return Decision::Fail { after, newly };
        }
        while (self.recent.front()).is_some_and(|at| now.saturating_sub(*at) >= self.limits.window)
        {
            self.recent.pop_front();
        }
        if self.recent.len() >= self.limits.max_restarts.get() {
            match self.policy.escalation {
                Escalation::Failed => {
                    self.status = Status::Failed;
                    self.recent.clear();
                    let newly = true;
                    return Decision::Fail { after, newly };
                }
                Escalation::None => drop(self.recent.pop_front()),
            }
        }
        self.recent.push_back(now);
        self.status = Status::Restarting;
        let after = self.pause;
        self.pause = after.saturating_mul(2).min(self.limits.max_backoff);
        Decision::Restart { after }
    }

    fn forget(&mut self) {
        self.pause = self.limits.initial_backoff;
        self.recent.clear();
        self.status = Status::Well;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pipeline::testing;
    use crate::runtime::supervisor::Kind;

    const SECOND: Duration = Duration::from_secs(1);

    fn restarts(kind: Kind, max_restarts: usize) -> Restarts {
        let limits = config::Supervision {
            max_restarts: max_restarts.try_into().expect("not zero"),
            ..testing::config().supervision
        };
        Restarts::new(kind.policy(), limits)
    }

    /// Runs of so many seconds each, each started when the pause before it has passed.
    fn decisions(restarts: &mut Restarts, end: End, runs: &[u32]) -> Vec<Decision> {
        let mut now = Duration::ZERO;
        let decide = |run: &u32| {
            let started = now;
            now += SECOND * *run;
            let decision = restarts.ended(end, started, now);
            if let Decision::Restart { after } | Decision::Fail { after, .. } = decision {
                now += after;
            }
            decision
        };
        runs.iter().map(decide).collect()
    }

    fn restart(seconds: u32) -> Decision {
        let after = SECOND * seconds;
        Decision::Restart { after }
    }

    fn fail(newly: bool) -> Decision {
        let after = 120 * SECOND;
        Decision::Fail { after, newly }
    }

    #[test]
    fn a_source_is_restarted_ever_later_and_then_failed() {
        for end in [End::Failed, End::Panicked, End::Finished] {
            let mut source = restarts(Kind::Source, 7);
            let runs = decisions(&mut source, end, &[0; 10]);
            let pauses = [1, 2, 4, 8, 16, 30, 30].map(restart);
            assert_eq!(runs[..7], pauses);
            assert_eq!(runs[7..], [fail(true), fail(false), fail(false)]);
            assert_eq!(source.status(), Status::Failed);
        }
    }

    #[test]
    fn a_stable_run_makes_failures_forgotten() {
        let mut source = restarts(Kind::Source, 2);
        let runs = decisions(&mut source, End::Failed, &[0, 0, 60, 0, 59, 60]);
        let expected = [1, 2, 1, 2].map(restart);
        assert_eq!(runs[..4], expected);
        assert_eq!(runs[4..], [fail(true), restart(1)], "a failed one recovers");
    }

    #[test]
    fn failures_far_apart_do_not_add_up() {
        let mut source = restarts(Kind::Source, 2);
        source.limits.stable_after = 7_200 * SECOND;
        let runs = decisions(&mut source, End::Failed, &[0, 300, 300, 300, 0]);
        assert_eq!(runs[..4], [1, 2, 4, 8].map(restart));
        assert_eq!(runs[4], fail(true));
    }

    #[test]
    fn a_running_task_recovers_when_its_run_is_stable() {
        let mut source = restarts(Kind::Source, 1);
        assert_eq!(source.stable_at(Duration::ZERO), None);
        decisions(&mut source, End::Failed, &[0, 0]);
        let started = 500 * SECOND;
        assert_eq!(source.stable_at(started), Some(560 * SECOND));
        assert!(!source.running(started, 559 * SECOND));
        assert!(source.running(started, 560 * SECOND));
        assert!(!source.running(started, 561 * SECOND), "told once");
        assert_eq!(source.status(), Status::Well);
    }

    #[test]
    fn tasks_that_only_log_are_restarted_for_ever() {
        for kind in [Kind::HealthMonitor, Kind::Http] {
            let runs = decisions(&mut restarts(kind, 2), End::Panicked, &[0; 8]);
            assert_eq!(runs, [1, 2, 4, 8, 16, 30, 30, 30].map(restart), "{kind}");
        }
    }

    #[test]
    fn however_the_pipeline_ends_the_process_drains() {
        for end in [End::Failed, End::Panicked, End::Finished] {
            let runs = decisions(&mut restarts(Kind::Pipeline, 3), end, &[0, 3_600]);
            assert_eq!(runs, [Decision::Drain; 2]);
        }
    }

    #[test]
    fn a_replay_may_come_to_its_end() {
        let runs = decisions(&mut restarts(Kind::Replayer, 3), End::Finished, &[0]);
        assert_eq!(runs, [Decision::Leave]);
    }

    proptest! {
        #[test]
        fn restarts_are_bounded_in_every_window(
            max_restarts in 1_usize..12,
            runs in prop::collection::vec(0_u32..90, 1..80),
        ) {
            let mut source = restarts(Kind::Source, max_restarts);
            let limits = source.limits.clone();
            let mut now = Duration::ZERO;
            let mut unstable: Vec<Duration> = Vec::new();
            let mut failed = false;
            for run in runs {
                let started = now;
                now += SECOND * run;
                if run >= 60 {
                    unstable.clear();
                    failed = false;
                }
                match source.ended(End::Failed, started, now) {
                    Decision::Restart { after } => {
                        prop_assert!(!failed, "a failed task is retried slowly");
                        prop_assert!(after >= limits.initial_backoff);
                        prop_assert!(after <= limits.max_backoff);
                        unstable.push(now);
                        let inside = unstable.iter().filter(|at| **at + limits.window > now);
                        prop_assert!(inside.count() <= max_restarts);
                        now += after;
                    }
                    Decision::Fail { after, newly } => {
                        prop_assert_eq!(newly, !failed, "told once");
                        prop_assert_eq!(after, limits.failed_retry);
                        let inside = unstable.iter().filter(|at| **at + limits.window > now);
                        prop_assert!(failed || inside.count() == max_restarts);
                        failed = true;
                        now += after;
                    }
                    other => prop_assert!(false, "{:?}", other),
                }
                prop_assert_eq!(source.status() == Status::Failed, failed);
                prop_assert!(source.recent.len() <= max_restarts);
            }
        }
    }
}
