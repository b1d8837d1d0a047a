//! A relay that runs, as others see it.

use std::sync::Arc;

use scylla::client::session::Session;
use tokio::sync::watch;

use super::Phase;
use super::health::Watched;
use super::relay::Replays;
use crate::dead_letters::extent::Asked;
use crate::dead_letters::replay::{self, Order, Progress};
use crate::dead_letters::requests::Requests;
use crate::dead_letters::{self};
use crate::pipeline::Handle;

/// What there is to see and to do while a relay runs. Clones share it.
#[derive(Clone)]
pub struct Live {
    /// Its session.
    pub session: Arc<Session>,
    /// Its dead letters.
    pub letters: dead_letters::Store,
    /// What it is asked to do with them.
    pub requests: Requests,
    /// Its tables, in the order of the configuration.
    pub tables: Arc<[Watched]>,
    pub(super) handle: Handle,
    pub(super) replays: Arc<Replays>,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live")
            .field("tables", &self.tables)
            .finish_non_exhaustive()
    }
}

impl Live {
    /// Events and bytes in flight now.
    pub fn in_flight(&self) -> (usize, usize) {
        self.handle.in_flight()
    }

    /// What an order would do; does nothing.
    ///
    /// # Errors
    ///
    /// When the dead letters cannot be read.
    pub async fn preview(&self, order: &Order) -> Result<Progress, replay::Error> {
        let order = Order {
            dry_run: true,
            ..order.clone()
        };
        let (_running, phase) = watch::channel(Phase::Running);
        let (progress, _) = watch::channel(Progress::default());
        let replayer = self.replays.replayer(phase);
        replayer.carry_out(&order, Asked::ByPerson, &progress).await
    }
}
