//! Owns the relay's name while the relay runs.
//!
//! Invariants:
//!
//! 1. Nothing is read or published before the name is owned.
//! 2. Nothing is published, and no checkpoint saved, later than [`MARGIN`] before the end of the
//!    lease: who cannot renew its claim stands still until it can.
//! 3. A relay that has lost its name to another process ends at once, as if it had been killed: two
//!    would publish everything twice.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::Chain;
use super::health::Reporter;
use crate::ownership::{Claim, Holder, LEASE, MARGIN, Ownership, RENEW_EVERY, Renewal};

/// Pause between two attempts to get a name that another process has.
const RETRY: Duration = Duration::from_secs(1);
/// Pause between two lines that say so.
const SAY_EVERY: Duration = Duration::from_secs(30);

/// The relay's name has, or has had, a new owner.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the relay's name was taken over by {}, after this process had not renewed its claim for too long",
    .0.as_ref().map_or_else(|| "another process for a while".to_owned(), ToString::to_string)
)]
pub(super) struct Lost(Option<Holder>);

/// Until when a claim that began at `began` is good for.
fn good_until(began: Instant) -> Instant {
    began + LEASE.saturating_sub(MARGIN)
}

/// Waits until the name is ours; gives the time until which it may be used.
///
/// What it waits for is told to `waits`.
pub(super) async fn claim(ownership: &Ownership, waits: &Reporter) -> Instant {
    let mut said: Option<Instant> = None;
    let mut say = || {
        let due = said.is_none_or(|at| at.elapsed() >= SAY_EVERY);
        said = if due { Some(Instant::now()) } else { said };
        due
    };
    loop {
        let began = Instant::now();
        match ownership.claim().await {
            Ok(Claim::Ours) => return good_until(began),
            Ok(Claim::Held(holder)) => {
                waits.degraded(format!(
                    "the relay's name is in use by {holder}: this is a standby"
                ));
                if say() {
                    tracing::warn!(
                        %holder,
                        "the relay's name is in use: waiting until it is free; give another relay \
                         another relay.name"
                    );
                }
            }
            Err(error) => {
                let error = Chain(&error).to_string();
                waits.degraded(format!("the relay's name was not claimed: {error}"));
                if say() {
                    tracing::warn!(error, "the relay's name was not claimed; it is tried again");
                }
            }
        }
        sleep(RETRY).await;
    }
}

/// Renews the claim until it is lost. Cancel-safe at each await.
pub(super) async fn hold(
    ownership: &Ownership,
    until: &watch::Sender<Instant>,
) -> Result<(), Lost> {
    let mut renewals = interval(RENEW_EVERY);
    renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        renewals.tick().await;
        let began = Instant::now();
        match ownership.renew().await {
            Ok(Renewal::Ours) => {
                let before = until.send_replace(good_until(began));
                if before < began {
                    tracing::warn!("the relay's name is ours again: publishing goes on");
                }
            }
            Ok(Renewal::Lost(holder)) => return Err(Lost(holder)),
            Err(error) => tracing::warn!(
                error = %Chain(&error),
                publishes_for_ms = until.borrow().saturating_duration_since(began).as_millis() as u64,
                "the claim on the relay's name was not renewed; it is tried again"
            ),
        }
    }
}
