//! A made-up day in the shop: orders are placed, filled, confirmed, shipped or cancelled.
//!
//! Invariants:
//! 1. Exactly as many events are acknowledged as were asked for, unless a command fails.
//! 2. The commands of a worker follow from the seed; the ids do not.
//! 3. All tasks end with the returned future, also when it is dropped.

use crate::order::{Command, Order, Status};
use crate::service::{Acknowledged, Error, OrderService};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

/// What is to be written.
#[derive(Debug, Clone)]
pub struct Workload {
    /// How many events.
    pub events: u64,
    /// Events a second, over all workers; `None` for as fast as the database takes them.
    pub rate: Option<NonZeroU32>,
    /// How many commands are under way at a time.
    pub workers: usize,
    /// How many unfinished orders each worker goes back and forth between.
    pub orders_per_worker: usize,
    /// What the choices follow from.
    pub seed: u64,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            events: 100,
            rate: None,
            workers: 8,
            orders_per_worker: 5,
            seed: 1,
        }
    }
}

/// What the workers share.
struct Shared {
    service: Arc<OrderService>,
    workload: Workload,
    taken: AtomicU64,
    start: Instant,
}

impl OrderService {
    /// Writes `workload`, and calls `acknowledged` for each event once the database has it.
    ///
    /// The first command that fails ends it with its error.
    pub async fn simulate(
        self: &Arc<Self>,
        workload: Workload,
        mut acknowledged: impl FnMut(Acknowledged),
    ) -> Result<(), Error> {
        let workers = workload.workers.max(1);
        let shared = Arc::new(Shared {
            service: Arc::clone(self),
            workload,
            taken: AtomicU64::new(0),
            start: Instant::now(),
        });
        let (sender, mut receiver) = mpsc::channel(workers);
        let mut tasks = JoinSet::new();
        for worker in 0..workers {
            tasks.spawn(work(Arc::clone(&shared), worker as u64, sender.clone()));
        }
        drop(sender);
        while let Some(event) = receiver.recv().await {
            acknowledged(event?);
        }
        Ok(())
    }
}

async fn work(shared: Arc<Shared>, worker: u64, events: mpsc::Sender<Result<Acknowledged, Error>>) {
    let mut choices = Choices::new(shared.workload.seed, worker);
    let mut orders: Vec<(Uuid, Order)> = Vec::new();
    loop {
        let number = shared.taken.fetch_add(1, Ordering::Relaxed);
        if number >= shared.workload.events {
            return;
        }
        if let Some(rate) = shared.workload.rate {
            let due = Duration::from_secs(1).mul_f64(number as f64 / f64::from(rate.get()));
            sleep_until(shared.start + due).await;
        }
        if orders.len() < shared.workload.orders_per_worker.max(1) {
            orders.push((Uuid::new_v4(), Order::default()));
        }
        let chosen = choices.below(orders.len() as u64) as usize;
        let (order_id, order) = &mut orders[chosen];
        let command = next_command(order, &mut choices);
        // The worker is the only one with this order, so it can follow the state by itself.
        if let Ok(event) = order.decide(command.clone()) {
            order.apply(&event);
        }
        let result = shared.service.handle(*order_id, command).await;
        if matches!(order.status(), Status::Shipped | Status::Cancelled) {
            orders.swap_remove(chosen);
        }
        let failed = result.is_err();
        if events.send(result).await.is_err() || failed {
            return;
        }
    }
}

fn next_command(order: &Order, choices: &mut Choices) -> Command {
    match order.status() {
        Status::New => Command::Place {
            customer: format!("customer-{}", choices.below(1_000)),
        },
        Status::Open if order.version() < 2 || choices.below(3) < 2 && order.version() < 20 => {
            Command::AddLine {
                sku: format!("sku-{}", choices.below(500)),
                quantity: 1 + choices.below(5) as u32,
                unit_cents: 100 + choices.below(10_000),
            }
        }
        Status::Open => Command::Confirm,
        _ if choices.below(10) == 0 => Command::Cancel {
            reason: "out of stock".to_owned(),
        },
        _ => Command::Ship {
            carrier: ["post", "courier", "bicycle"][choices.below(3) as usize].to_owned(),
        },
    }
}

/// A small generator of repeatable choices (splitmix64).
struct Choices(u64);

impl Choices {
    fn new(seed: u64, worker: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9).wrapping_add(worker << 32))
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % limit.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_allowed_and_orders_come_to_an_end() {
        let mut choices = Choices::new(7, 0);
        for _ in 0..500 {
            let mut order = Order::default();
            while !matches!(order.status(), Status::Shipped | Status::Cancelled) {
                let command = next_command(&order, &mut choices);
                let event = order.decide(command).expect("an allowed command");
                order.apply(&event);
                assert!(order.version() < 50, "the order does not end");
            }
        }
    }
}
