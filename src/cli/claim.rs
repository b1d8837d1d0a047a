//! The relay's name in the hands of a command.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::ownership::{LEASE, MARGIN, Ownership, RENEW_EVERY, Renewal};

/// How long a claim may be used.
const GOOD_FOR: Duration = LEASE.saturating_sub(MARGIN);

/// Does `work` while the relay's name, which was claimed at `began` or later, is ours, and gives it back.
/// What changes something in the relay's name does so only until the time that `work` is told.
///
/// # Errors
///
/// Those of `work`, and when another process takes the name.
pub(super) async fn owned<T>(
    ownership: &Ownership,
    began: Instant,
    work: impl AsyncFnOnce(watch::Receiver<Instant>) -> Result<T>,
) -> Result<T> {
    let (extend, until) = watch::channel(began + GOOD_FOR);
    let work = work(until);
    tokio::pin!(work);
    let outcome = loop {
        tokio::select! {
            outcome = &mut work => break outcome,
            () = sleep(RENEW_EVERY) => {
                let began = Instant::now();
                match ownership.renew().await {
                    Ok(Renewal::Ours) => drop(extend.send_replace(began + GOOD_FOR)),
                    Ok(Renewal::Lost(_)) => {
                        bail!("the relay's name was taken over by another process")
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the claim on the relay's name was not renewed");
                    }
                }
            }
        }
    };
    ownership
        .release()
        .await
        .context("give up the relay's name")?;
    outcome
}
