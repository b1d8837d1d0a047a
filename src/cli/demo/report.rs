//! What the demo says about the events it has seen: pure bookkeeping.
//!
//! Invariant: an event counts as published when its first record has been consumed; every further
//! record of it is a duplicate, and a first record behind a later one of its order is out of order.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use order_service::Acknowledged;
use serde::Serialize;
use uuid::Uuid;

/// A record, as the consumer saw it.
#[derive(Debug, Clone)]
pub(super) struct Arrival {
    /// The header `id`.
    pub(super) event_id: Uuid,
    /// When the consumer had it.
    pub(super) at: SystemTime,
}

/// An event whose write and whose first record are both known.
#[derive(Debug, Clone)]
pub(super) struct Delivered {
    /// What was written.
    pub(super) event: Acknowledged,
    /// From the write's acknowledgement to the consumer; zero if the record was faster.
    pub(super) latency: Duration,
}

/// Written and consumed events, matched.
#[derive(Debug, Default)]
pub(super) struct Report {
    written: HashMap<Uuid, Acknowledged>,
    arrived: HashMap<Uuid, SystemTime>,
    arrivals: Vec<Uuid>,
    duplicates: u64,
    latencies: Vec<Duration>,
    delivered: HashSet<Uuid>,
}

/// The last line of a demo.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Summary {
    /// Events that the database acknowledged.
    pub(super) written: u64,
    /// Written events that were consumed at least once.
    pub(super) published: u64,
    /// Records beyond the first of an event.
    pub(super) duplicates: u64,
    /// First records that came behind a later event of the same order.
    pub(super) out_of_order: u64,
    /// From the write's acknowledgement to the consumer, in milliseconds.
    pub(super) latency_ms: Latency,
}

/// Percentiles in milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Latency {
    /// Half of the events took at most this.
    pub(super) p50: f64,
    /// 90 % of the events took at most this.
    pub(super) p90: f64,
    /// 99 % of the events took at most this.
    pub(super) p99: f64,
    /// The slowest event.
    pub(super) max: f64,
}

impl Report {
    /// Notes a write; gives the delivery if the record was there first.
    pub(super) fn written(&mut self, event: Acknowledged) -> Option<Delivered> {
        let id = event.event_id;
        self.written.insert(id, event);
        self.deliver(id)
    }

    /// Notes a record; gives the delivery if its write is known and it is the event's first.
    pub(super) fn arrived(&mut self, arrival: &Arrival) -> Option<Delivered> {
        if self.arrived.contains_key(&arrival.event_id) {
            self.duplicates += 1;
            return None;
        }
        self.arrived.insert(arrival.event_id, arrival.at);
        self.arrivals.push(arrival.event_id);
        self.deliver(arrival.event_id)
    }

    fn deliver(&mut self, id: Uuid) -> Option<Delivered> {
        let (event, at) = (self.written.get(&id)?, self.arrived.get(&id)?);
        let latency = at.duration_since(event.at).unwrap_or_default();
        self.delivered.insert(id);
        self.latencies.push(latency);
        Some(Delivered {
            event: event.clone(),
            latency,
        })
    }

    /// Events that were written and consumed.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered.len() as u64
    }

    /// Whether everything that was written has been consumed.
    pub(super) fn complete(&self) -> bool {
        self.delivered.len() == self.written.len()
    }

    /// The summary of what has been noted so far.
    pub(super) fn summary(&self) -> Summary {
        let mut newest: HashMap<Uuid, i64> = HashMap::new();
        let mut out_of_order = 0;
        for event in self.arrivals.iter().filter_map(|id| self.written.get(id)) {
            let newest = newest.entry(event.order_id).or_insert(i64::MIN);
            if event.sequence_number < *newest {
                out_of_order += 1;
            }
            *newest = event.sequence_number.max(*newest);
        }
        Summary {
            written: self.written.len() as u64,
            published: self.delivered.len() as u64,
            duplicates: self.duplicates,
            out_of_order,
            latency_ms: Latency::of(&self.latencies),
        }
    }
}

impl Latency {
    fn of(latencies: &[Duration]) -> Self {
        let mut sorted: Vec<f64> = latencies.iter().map(|l| l.as_secs_f64() * 1e3).collect();
        sorted.sort_by(f64::total_cmp);
        let at = |quantile: f64| {
            let rank = (quantile * sorted.len() as f64).ceil() as usize;
            let value = sorted
                .get(rank.saturating_sub(1))
                .copied()
                .unwrap_or_default();
            (value * 10.0).round() / 10.0
        };
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            max: at(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(order: u128, sequence_number: i64) -> Acknowledged {
        Acknowledged {
            event_id: Uuid::from_u128(order * 100 + sequence_number as u128),
            order_id: Uuid::from_u128(order),
            sequence_number,
            event_type: "OrderPlaced",
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(10),
        }
    }

    fn arrival(event: &Acknowledged, after_ms: u64) -> Arrival {
        Arrival {
            event_id: event.event_id,
            at: event.at + Duration::from_millis(after_ms),
        }
    }

    #[test]
    fn counts_what_was_lost_repeated_and_swapped() {
        let mut report = Report::default();
        let events = [write(1, 1), write(1, 2), write(1, 3), write(2, 1)];
        for event in &events {
            assert!(report.written(event.clone()).is_none());
        }
        assert!(report.arrived(&arrival(&events[1], 5)).is_some());
        assert!(report.arrived(&arrival(&events[0], 7)).is_some());
        assert!(report.arrived(&arrival(&events[0], 8)).is_none());
        assert!(report.arrived(&arrival(&events[3], 9)).is_some());
        assert!(!report.complete());
        let summary = report.summary();
        assert_eq!((summary.written, summary.published), (4, 3));
        assert_eq!((summary.duplicates, summary.out_of_order), (1, 1));
        assert_eq!(
            summary.latency_ms,
            Latency {
                p50: 7.0,
                p90: 9.0,
                p99: 9.0,
                max: 9.0
            }
        );
    }

    #[test]
    fn a_record_may_be_faster_than_the_acknowledgement() {
        let mut report = Report::default();
        let event = write(1, 1);
        let early = Arrival {
            event_id: event.event_id,
            at: SystemTime::UNIX_EPOCH,
        };
        assert!(report.arrived(&early).is_none());
        let delivered = report.written(event).expect("both are known");
        assert_eq!(delivered.latency, Duration::ZERO);
        assert!(report.complete());
    }

    #[test]
    fn an_empty_report_has_no_latency() {
        assert_eq!(Report::default().summary().latency_ms, Latency::default());
    }
}
