//! Restarts what ends with an error.
//!
//! Invariant: the pause before a restart doubles from one second to thirty, and is back at one
//! second after a run that lasted a minute. A stop ends the pause and the restarts.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Phase;

/// Pause after the first failure.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause between two runs.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A run that lasted this long makes earlier failures forgotten.
const STABLE_AFTER: Duration = Duration::from_mins(1);

/// Runs `task` until it ends well or the relay stops; `what` names it in the log.
///
/// Returns whether the last run ended well.
pub async fn until_stopped<F, E>(
    what: &str,
    mut phase: watch::Receiver<Phase>,
    mut task: impl FnMut() -> F,
) -> bool
where
    F: Future<Output = Result<(), E>>,
    E: std::error::Error + 'static,
{
    let mut pause = SHORTEST_PAUSE;
    loop {
        let started = Instant::now();
        let Err(error) = task().await else {
            return true;
        };
        if started.elapsed() >= STABLE_AFTER {
            pause = SHORTEST_PAUSE;
        }
        tracing::error!(
            error = %Chain(&error),
            retry_in_s = pause.as_secs(),
            "{what} has failed and will be started again"
        );
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // An error means that the runtime has ended: stop as well.
            _ = phase.wait_for(|phase| *phase > Phase::Running) => return false,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// An error with all its sources on one line, without those whose words the one before has.
pub struct Chain<'e>(pub &'e (dyn std::error::Error + 'static));

impl Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut last = self.0.to_string();
        f.write_str(&last)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            let text = error.to_string();
            if !last.contains(&text) {
                write!(f, ": {text}")?;
                last = text;
            }
            source = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    #[tokio::test(start_paused = true)]
    async fn restarts_with_growing_pauses_until_the_task_ends_well() {
        let (_sender, phase) = watch::channel(Phase::Running);
        let start = Instant::now();
        let starts = Cell::new(Vec::new());
        let well = until_stopped("the test", phase, || {
            let mut seen = starts.take();
            seen.push(start.elapsed().as_secs());
            let done = seen.len() == 8;
            starts.set(seen);
            async move {
                if done {
                    Ok(())
                } else {
                    Err(Outer(std::io::Error::other("inner")))
                }
            }
        })
        .await;
        assert!(well);
        assert_eq!(starts.take(), [0, 1, 3, 7, 15, 31, 61, 91]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_the_pause() {
        let (sender, phase) = watch::channel(Phase::Running);
        let runs = Cell::new(0);
        let stopped = until_stopped("the test", phase, || {
            runs.set(runs.get() + 1);
            sender.send_replace(Phase::Draining);
            async { Err(Outer(std::io::Error::other("inner"))) }
        });
        assert!(!stopped.await);
        assert_eq!(runs.get(), 1);
    }

    #[test]
    fn a_chain_names_every_cause() {
        let error = Outer(std::io::Error::other("inner"));
        assert_eq!(Chain(&error).to_string(), "outer: inner");
        let error = std::io::Error::other(Outer(std::io::Error::other("out")));
        assert_eq!(Chain(&error).to_string(), "outer", "nothing is said twice");
    }
}
