//! The latency of the last minute, from histograms that only grow.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::telemetry::histogram::Counts;
use crate::telemetry::metrics::Stages;

/// How far back the window reaches.
const REACH: Duration = Duration::from_mins(1);
/// Pause between two looks at the histograms.
pub(super) const EVERY: Duration = Duration::from_secs(5);

/// How long events of a stage have taken, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Latency {
    count: u64,
    p50: Option<f64>,
    p99: Option<f64>,
}

type Looks = VecDeque<(Instant, Vec<Counts>)>;

/// Looks of the last minute. Bounded by [`REACH`] and [`EVERY`].
#[derive(Debug, Default)]
pub(super) struct Window(Mutex<Looks>);

fn counts(stages: &Stages) -> Vec<Counts> {
    stages
        .all()
        .iter()
        .map(|(_, stage)| stage.counts())
        .collect()
}

impl Window {
    /// Looks at the histograms; to be called every [`EVERY`].
    pub(super) fn look(&self, stages: &Stages, now: Instant) {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        looks.push_back((now, counts(stages)));
        // The last one that is older stays: the window begins with it.
        while looks
            .get(1)
            .is_some_and(|(at, _)| now.duration_since(*at) >= REACH)
        {
            looks.pop_front();
        }
    }

    /// Each stage's name with its latency since the window's beginning.
    pub(super) fn latencies(&self, stages: &Stages) -> Vec<(&'static str, Latency)> {
        let looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = looks.front().map(|(_, counts)| counts);
        let named = stages.all().into_iter().zip(counts(stages)).enumerate();
        named
            .map(|(index, ((name, _), now))| {
                let recent = begin.map_or_else(|| now.clone(), |begin| now.since(&begin[index]));
                let seconds = |share| recent.quantile(share).map(|micros| micros / 1e6);
                let latency = Latency {
                    count: recent.count(),
                    p50: seconds(0.5),
                    p99: seconds(0.99),
                };
                (name, latency)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let (stages, window) = (Stages::default(), Window::default());
        let total = |window: &Window| window.latencies(&stages)[3].1.count;
        let begin = Instant::now();
        stages.total.add(10_000);
        assert_eq!(total(&window), 1, "nothing was looked at before");
        for second in (0..=120).step_by(5) {
            stages.total.add(10_000);
            window.look(&stages, begin + Duration::from_secs(second));
        }
        assert_eq!(total(&window), 12, "those of the last minute");
        assert!(window.0.lock().expect("not poisoned").len() <= 13);
    }
}
