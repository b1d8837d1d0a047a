//! Permits: how much may be in flight.
//!
//! Owns the two budgets, events and bytes, and the channel that what is admitted goes through.
//! Both budgets are first come, first served, so one caller's submits keep their order.

use std::fmt;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::Delivery;
use crate::config;

/// The pipeline has ended and takes nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the pipeline has ended")]
pub struct Closed;

struct Budget {
    events: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    /// Bytes that one permit of `bytes` stands for: 1 unless the budget exceeds 4 GiB.
    unit: usize,
    /// All permits of `bytes`.
    whole: u32,
}

impl Budget {
    fn new(limits: &config::Limits) -> Self {
        let bytes = limits.in_flight_bytes.get();
        let unit = bytes / u32::MAX as usize + 1;
        let whole = u32::try_from(bytes / unit).unwrap_or(u32::MAX).max(1);
        let events = limits.in_flight_events.get().min(Semaphore::MAX_PERMITS);
        Self {
            events: Arc::new(Semaphore::new(events)),
            bytes: Arc::new(Semaphore::new(whole as usize)),
            unit,
            whole,
        }
    }

    /// What a record of `size` bytes costs: at least one permit, at most all there are.
    fn cost(&self, size: usize) -> u32 {
        u32::try_from(size.div_ceil(self.unit))
            .unwrap_or(u32::MAX)
            .clamp(1, self.whole)
    }
}

/// A delivery with the permits that it holds until it is settled or dropped.
pub(super) struct Admitted {
    pub(super) delivery: Delivery,
    _event: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

impl Admitted {
    /// Settles the row, then gives the permits back.
    pub(super) fn settle(self) {
        self.delivery.ack.settle();
    }
}

/// The pipeline's end of the channel. Dropping it closes the budgets, so that nobody waits for
/// permits that will never come.
pub(super) struct Input {
    pub(super) admitted: mpsc::UnboundedReceiver<Admitted>,
    budget: Arc<Budget>,
}

impl Drop for Input {
    fn drop(&mut self) {
        self.budget.events.close();
        self.budget.bytes.close();
    }
}

/// Hands deliveries to the pipeline.
#[derive(Clone)]
pub struct Handle {
    budget: Arc<Budget>,
    admitted: mpsc::UnboundedSender<Admitted>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("free_events", &self.budget.events.available_permits())
            .field("free_bytes", &self.budget.bytes.available_permits())
            .finish_non_exhaustive()
    }
}

pub(super) fn channel(limits: &config::Limits) -> (Handle, Input) {
    let budget = Arc::new(Budget::new(limits));
    // Unbounded, because the permits bound what is inside.
    let (sender, receiver) = mpsc::unbounded_channel();
    let handle = Handle {
        budget: Arc::clone(&budget),
        admitted: sender,
    };
    (
        handle,
        Input {
            admitted: receiver,
            budget,
        },
    )
}

impl Handle {
    /// Waits for room, then hands the delivery over. Submits of one caller, each awaited before
    /// the next, reach the lanes in their order.
    ///
    /// Not cancel safe: a future that is dropped before it ends drops its delivery unsettled.
    pub async fn submit(&self, delivery: Delivery) -> Result<(), Closed> {
        let cost = self.budget.cost(delivery.record.size());
        let event = Arc::clone(&self.budget.events)
            .acquire_owned()
            .await
            .map_err(|_| Closed)?;
        let bytes = Arc::clone(&self.budget.bytes)
            .acquire_many_owned(cost)
            .await
            .map_err(|_| Closed)?;
        let admitted = Admitted {
            delivery,
            _event: event,
            _bytes: bytes,
        };
        self.admitted.send(admitted).map_err(|_| Closed)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    fn budget(bytes: usize) -> Budget {
        Budget::new(&config::Limits {
            in_flight_events: NonZeroUsize::new(10).expect("not zero"),
            in_flight_bytes: NonZeroUsize::new(bytes).expect("not zero"),
        })
    }

    #[test]
    fn a_record_costs_its_size_but_never_more_than_there_is() {
        let budget = budget(100);
        assert_eq!(
            [0, 1, 99, 100, 101, 1 << 40].map(|n| budget.cost(n)),
            [1, 1, 99, 100, 100, 100]
        );
    }

    #[test]
    fn budgets_beyond_four_gibibytes_count_in_coarser_units() {
        let budget = budget(16 << 30);
        assert!(budget.whole as usize * budget.unit <= 16 << 30);
        assert!(budget.whole as usize * budget.unit >= 15 << 30);
        assert_eq!(budget.cost(1), 1);
        assert_eq!(budget.cost(32 << 30), budget.whole);
    }
}
