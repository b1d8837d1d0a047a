//! How often something that was injected has applied.

use tokio::sync::watch;

/// Something that was injected: a fault, or a rule of [`visibility`](crate::visibility). Dropping it leaves that in
/// force.
#[derive(Debug, Clone)]
pub struct Injected {
    hits: watch::Receiver<u64>,
}

impl Injected {
    /// A counter and who watches it.
    pub(crate) fn new() -> (watch::Sender<u64>, Self) {
        let (sender, hits) = watch::channel(0);
        (sender, Self { hits })
    }

    /// How often it has applied: statements that met the fault, writes that were hidden.
    pub fn hits(&self) -> u64 {
        *self.hits.borrow()
    }

    /// Waits until it has applied so often; returns at once when it is not in force any more.
    pub async fn reached(&mut self, hits: u64) {
        let _ = self.hits.wait_for(|now| *now >= hits).await;
    }
}
