//! Owns the relay's name while the relay runs.
//!
//! Invariants:
//!
//! 1. Nothing is read or published before the name is owned.
//! 2. A relay that has lost its name to another process drains and ends: two would publish
//!    everything twice.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::Chain;
use crate::ownership::{Claim, Error, Holder, Ownership, RENEW_EVERY};

/// Pause between two attempts to get a name that another process has.
const RETRY: Duration = Duration::from_secs(1);
/// Pause between two lines that say so.
const SAY_EVERY: Duration = Duration::from_secs(30);

/// The relay's name has a new owner.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the relay's name was taken over by {0}, after this process had not renewed its claim for too \
     long; it publishes nothing more"
)]
pub(super) struct Lost(Holder);

/// Waits until the name is ours.
pub(super) async fn claim(ownership: &Ownership) -> Result<(), Error> {
    let mut said: Option<Instant> = None;
    loop {
        if let Claim::Held(holder) = ownership.claim().await? {
            if said.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
                said = Some(Instant::now());
                tracing::warn!(
                    %holder,
                    "the relay's name is in use: waiting until it is free; give another relay \
                     another relay.name"
                );
            }
            sleep(RETRY).await;
        } else {
            return Ok(());
        }
    }
}

/// Renews the claim until it is lost. Cancel-safe at each await.
pub(super) async fn hold(ownership: &Ownership) -> Result<(), Lost> {
    let mut renewals = interval(RENEW_EVERY);
    renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        renewals.tick().await;
        match ownership.claim().await {
            Ok(Claim::Ours) => {}
            Ok(Claim::Held(holder)) => return Err(Lost(holder)),
            // Who cannot be told of the claim cannot be told of another one either.
            Err(error) => tracing::warn!(
                error = %Chain(&error),
                "the claim on the relay's name was not renewed; it is tried again"
            ),
        }
    }
}
