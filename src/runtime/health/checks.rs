//! What the monitor concludes from what it sees: pure, time is an argument.

use std::time::Duration;

use super::State;

/// Failed reads of a stream group in a row from which on the group is reported. With the pauses of
/// the source (100 ms doubling to 10 s) that is about half a minute of failures.
pub const FAILING_READS: u32 = 10;
/// Probes that fail in a row from which on ScyllaDB counts as not reachable. One may be a node
/// that is just restarted.
const FAILED_PROBES: u32 = 3;
/// Saves that fail in a row from which on they are reported; one is made again a second later.
const FAILED_SAVES: u64 = 3;

/// What a source has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Completed reads.
    pub reads: u64,
    /// Stream groups whose reads fail again and again.
    pub failing_groups: usize,
    /// Failed saves since the last good one.
    pub failed_saves: u64,
    /// Whether writes to the table are not logged: its CDC is off.
    pub unlogged: bool,
    /// Seconds until rows of the log expire that are not settled, if that is near; zero if they may
    /// have expired.
    pub expires_in: Option<u64>,
}

/// Judges whether the log of one table is read.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    reads: u64,
    moved_at: Duration,
}

impl Reading {
    /// Begins to look.
    pub fn new(seen: Seen, now: Duration) -> Self {
        Self {
            reads: seen.reads,
            moved_at: now,
        }
    }

    /// The state at `now`, a time since any origin. Rows need not come, but reads must end.
    pub fn judge(&mut self, seen: Seen, now: Duration, stalled_after: Duration) -> State {
        if seen.reads != self.reads {
            *self = Self::new(seen, now);
        }
        if now.saturating_sub(self.moved_at) >= stalled_after {
            return State::Degraded(
                format!(
                    "no read has been completed for {stalled_after:?}: the pipeline is full or \
                     ScyllaDB does not answer"
                )
                .into(),
            );
        }
        if seen.unlogged {
            return State::Degraded(
                "CDC is off: what is written to the table is not published".into(),
            );
        }
        match seen.expires_in {
            None => {}
            Some(0) => {
                return State::Degraded(
                    "rows may have expired in the log before they were published".into(),
                );
            }
            Some(_) => {
                return State::Degraded(
                    "rows that are not published yet will expire in the log: less than half of its \
                     TTL is left"
                        .into(),
                );
            }
        }
        match seen.failing_groups {
            0 => State::Ok,
            groups => State::Degraded(
                format!("{groups} stream groups cannot be read; the others go on").into(),
            ),
        }
    }
}

/// Judges whether checkpoints are saved, of all tables together.
pub fn saves(seen: impl Iterator<Item = Seen>) -> State {
    let failing = seen.filter(|seen| seen.failed_saves >= FAILED_SAVES);
    match failing.count() {
        0 => State::Ok,
        tables => State::Degraded(
            format!(
                "the checkpoints of {tables} tables cannot be saved: events go on, and those since \
                 the last good save are published again after a restart"
            )
            .into(),
        ),
    }
}

/// Judges whether ScyllaDB answers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reachable {
    failed: u32,
}

impl Reachable {
    /// The state after one more probe; `error` is why it has failed.
    pub fn judge(&mut self, error: Option<String>) -> State {
        let Some(error) = error else {
            self.failed = 0;
            return State::Ok;
        };
        self.failed = self.failed.saturating_add(1);
        if self.failed < FAILED_PROBES {
            State::Degraded(error.into())
        } else {
            State::Failed(error.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_mins(1);

    fn seen(reads: u64, failing_groups: usize, failed_saves: u64) -> Seen {
        Seen {
            reads,
            failing_groups,
            failed_saves,
            unlogged: false,
            expires_in: None,
        }
    }

    #[test]
    fn a_table_is_stalled_only_without_completed_reads() {
        let mut reading = Reading::new(seen(7, 0, 0), Duration::ZERO);
        for (reads, at, state) in [
            (7, 59, "ok"),
            (7, 60, "degraded"),
            (8, 70, "ok"),
            (8, 129, "ok"),
            (8, 130, "degraded"),
            (8, 500, "degraded"),
            (9, 501, "ok"),
        ] {
            let judged = reading.judge(seen(reads, 0, 0), Duration::from_secs(at), LIMIT);
            assert_eq!(judged.name(), state, "at {at} s");
        }
    }

    #[test]
    fn a_table_whose_cdc_is_off_is_reported_though_its_log_is_read() {
        let mut reading = Reading::new(seen(0, 0, 0), Duration::ZERO);
        let unlogged = Seen {
            unlogged: true,
            ..seen(5, 3, 0)
        };
        let state = reading.judge(unlogged, Duration::ZERO, LIMIT);
        assert_eq!(
            state.reason(),
            Some("CDC is off: what is written to the table is not published")
        );
    }

    #[test]
    fn rows_that_are_about_to_expire_are_reported() {
        let mut reading = Reading::new(seen(0, 0, 0), Duration::ZERO);
        let mut reason = |expires_in| {
            let seen = Seen {
                expires_in,
                ..seen(5, 0, 0)
            };
            let state = reading.judge(seen, Duration::ZERO, LIMIT);
            state.reason().unwrap_or_default().to_owned()
        };
        assert_eq!(reason(None), "");
        assert!(reason(Some(9)).contains("less than half"));
        assert!(reason(Some(0)).contains("may have expired"));
    }

    #[test]
    fn stream_groups_that_fail_are_reported_though_others_are_read() {
        let mut reading = Reading::new(seen(0, 0, 0), Duration::ZERO);
        let state = reading.judge(seen(5, 3, 0), Duration::ZERO, LIMIT);
        assert_eq!(
            state.reason(),
            Some("3 stream groups cannot be read; the others go on")
        );
        assert_eq!(
            reading.judge(seen(6, 0, 0), Duration::ZERO, LIMIT),
            State::Ok
        );
    }

    #[test]
    fn checkpoints_are_degraded_when_one_table_cannot_save() {
        let of = |failed: [u64; 2]| saves(failed.map(|saves| seen(0, 0, saves)).into_iter());
        assert_eq!(of([0, 2]), State::Ok);
        assert_eq!(of([3, 0]).name(), "degraded");
        assert_eq!(of([9, 3]).name(), "degraded");
    }

    #[test]
    fn scylla_fails_at_the_third_probe_in_a_row() {
        let mut reachable = Reachable::default();
        let probes = [true, false, false, true, false, false, false, false, true];
        let states = probes.map(|well| {
            let error = (!well).then(|| "timed out".to_owned());
            reachable.judge(error).name()
        });
        let (ok, degraded, failed) = ("ok", "degraded", "failed");
        let expected = [
            ok, degraded, degraded, ok, degraded, degraded, failed, failed, ok,
        ];
        assert_eq!(states, expected);
    }
}
