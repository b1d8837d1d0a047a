//! Watches over whether a broker can be reached: the thin shell around [`Reach`].
//!
//! A complaint of librdkafka or an attempt that timed out wakes a thread, which asks the cluster
//! for the metadata of a topic in use (of all, while none is). So does the start, once. While nothing
//! complains it sleeps, and costs nothing.
//! Invariants:
//!
//! 1. While no broker can be reached, nothing stays in the producers' queues: what slipped in is
//!    purged after each probe. What is on its way is not (its answer may still come).
//! 2. While no broker can be reached, probes go on, so librdkafka keeps connecting (it does not by
//!    itself when it has nothing to send), and the first answer is noticed at once.
//! 3. The thread ends within one probe of [`Watch::close`], and keeps no producer alive longer.
//!
//! Why not librdkafka's statistics: they cost in proportion to all partitions, always; and a broker
//! that is not connected need not be down. Why not its `ALL_BROKERS_DOWN`: it says when the last
//! broker was lost but not when one is back, and some builds of it never say it.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{Producer, PurgeConfig};

use super::Producers;
use crate::runtime::health::Reporter;
use crate::sink::error::{DeliveryError, Kind, kind_of};
use crate::sink::reach::{Cause, Change, Probe, Reach};

/// Pause between two probes; a broker that is back is found at most this much later.
const PAUSE: Duration = Duration::from_millis(50);
/// The same after an answer while no topic is in use: then a probe asks for all topics, which are many in a
/// large cluster, and nothing is to be published that waits for it.
const IDLE_PAUSE: Duration = Duration::from_secs(5);
/// Records that are to travel alone. At most one per key is in flight, so this is never reached in
/// earnest; at the limit all are forgotten, and those that are refused again are noted again.
const MAX_ALONE: usize = 100_000;

/// What the producers' callbacks, `send` and the watching thread share.
#[derive(Debug, Default)]
pub(super) struct Watch {
    reach: Mutex<Reach>,
    changed: Condvar,
    /// A topic in use, to ask for. Asking for one that nobody uses could create it.
    topic: OnceLock<Arc<str>>,
    /// Where it is told whether a broker can be reached.
    health: Option<Reporter>,
    /// Topics and keys whose next record travels alone.
    alone: Mutex<HashSet<u64>>,
    hasher: RandomState,
}

impl Watch {
    /// Tells `health`, if there is one, whether a broker can be reached.
    pub(super) fn new(health: Option<Reporter>) -> Self {
        Self {
            health,
            ..Self::default()
        }
    }

    fn reach(&self) -> MutexGuard<'_, Reach> {
        self.reach.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alone(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.alone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// librdkafka has a global error to tell.
    pub(super) fn complained(&self, code: RDKafkaErrorCode, reason: &str) {
        let mut reach = self.reach();
        // "All brokers are down" says less than why the last of them is.
        if code != RDKafkaErrorCode::AllBrokersDown || reach.reason().is_none() {
            reach.complained(kind_of(code), reason);
            self.changed.notify_all();
        }
    }

    /// A producer has had a fatal error.
    pub(super) fn lost(&self, reason: &str) {
        self.reach().lost(reason);
    }

    /// What an attempt that failed with `code` failed of.
    pub(super) fn judge(&self, code: RDKafkaErrorCode) -> DeliveryError {
        let mut reach = self.reach();
        let error = reach.judge(code);
        if error.kind == Kind::TimedOut {
            reach.timed_out();
            self.changed.notify_all();
        }
        error
    }

    /// Why an attempt need not even begin, if so.
    pub(super) fn refusal(&self) -> Option<DeliveryError> {
        self.reach().refusal()
    }

    /// Whether no broker can be reached.
    pub(super) fn is_down(&self) -> bool {
        self.reach().is_down()
    }

    /// A record for this topic has been handed over.
    pub(super) fn uses(&self, topic: &Arc<str>) {
        if self.topic.get().is_none() {
            self.topic.get_or_init(|| Arc::clone(topic));
            // Under the lock, or the thread could miss it between its look and its sleep.
            let _reach = self.reach();
            self.changed.notify_all();
        }
    }

    /// The next record of this topic and key is to travel alone.
    pub(super) fn set_alone(&self, topic: &str, key: &[u8]) {
        let hash = self.hasher.hash_one((topic, key));
        let mut alone = self.alone();
        if alone.len() >= MAX_ALONE {
            alone.clear();
        }
        alone.insert(hash);
    }

    /// Whether this record is to travel alone; only asked once.
    pub(super) fn take_alone(&self, topic: &str, key: &[u8]) -> bool {
        let mut alone = self.alone();
        !alone.is_empty() && alone.remove(&self.hasher.hash_one((topic, key)))
    }

    /// Ends the thread.
    pub(super) fn close(&self) {
        self.reach().close();
        self.changed.notify_all();
    }

    /// Starts the thread that watches over `producers`. A probe without any connection takes
    /// `patience`.
    pub(super) fn start(
        self: &Arc<Self>,
        producers: &Arc<Producers>,
        patience: Duration,
    ) -> std::io::Result<()> {
        let watch = Arc::clone(self);
        let producers = Arc::downgrade(producers);
        std::thread::Builder::new()
            .name("producer-watch".to_owned())
            .spawn(move || {
                let _ended = Ended(&watch);
                watch.run(&producers, patience);
            })
            .map(drop)
    }

    fn run(&self, producers: &Weak<Producers>, patience: Duration) {
        while self.until_suspicious() {
            let topic = self.topic.get().cloned();
            let Some(producers) = producers.upgrade() else {
                return;
            };
            let probe = probe(&producers, topic.as_deref(), patience);
            self.probed(probe);
            if self.is_down() {
                producers.purge();
            }
            drop(producers);
            self.pause();
        }
    }

    fn probed(&self, probe: Probe) {
        let mut reach = self.reach();
        match reach.probed(probe) {
            Change::None => {}
            Change::Up => tracing::info!("a Kafka broker answers again"),
            Change::Down(cause) => {
                let reason = reach.reason().unwrap_or("no connection");
                let remedy = cause.kind().remedy();
                match cause {
                    Cause::Unreachable => tracing::warn!(
                        reason,
                        remedy,
                        "no Kafka broker can be reached; attempts fail at once until one answers"
                    ),
                    Cause::Authentication => tracing::error!(
                        reason,
                        remedy,
                        "Kafka does not let us in; attempts fail at once until a broker does"
                    ),
                }
            }
        }
        let Some(health) = &self.health else { return };
        if reach.is_met() {
            health.ok();
        } else {
            health.failed(match reach.reason() {
                Some(reason) => format!("no broker can be reached: {reason}"),
                None => "no broker has answered yet".to_owned(),
            });
        }
    }

    /// Waits until there is reason for a probe; `false` when the sink is closing.
    fn until_suspicious(&self) -> bool {
        let mut reach = self.reach();
        loop {
            if reach.is_closing() {
                return false;
            }
            if reach.wants_probe() {
                return true;
            }
            reach = self
                .changed
                .wait(reach)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until the next probe may be made, or until the sink is closing.
    fn pause(&self) {
        let reach = self.reach();
        let idle = || self.topic.get().is_none();
        let pause = if idle() && reach.is_met() {
            let rests = |reach: &mut Reach| !reach.is_closing() && idle();
            self.changed.wait_timeout_while(reach, IDLE_PAUSE, rests)
        } else {
            let rests = |reach: &mut Reach| !reach.is_closing();
            self.changed.wait_timeout_while(reach, PAUSE, rests)
        };
        drop(pause);
    }
}

/// Dropped when the thread ends.
struct Ended<'w>(&'w Watch);

impl Drop for Ended<'_> {
    /// After a panic nobody would find out that a broker is back: attempts are made again, and fail
    /// in their own time.
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(
                "the watch over the brokers has panicked; this is a defect, please report it"
            );
            self.0.reach().probed(Probe::Answered);
        }
    }
}

/// Asks any broker for the metadata of `topic`, or of all topics. Blocks, at most twice `patience`.
fn probe(producers: &Producers, topic: Option<&str>, patience: Duration) -> Probe {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let client = producers.main.client();
        let Err(error) = client.fetch_metadata(topic, left.max(PAUSE)) else {
            return Probe::Answered;
        };
        match probe_failed(&error) {
            // A connection that broke in the middle says nothing about the other brokers.
            Probe::NoBroker if Instant::now() < deadline => {}
            probe => return probe,
        }
    }
}

/// What it means that asking has failed.
fn probe_failed(error: &KafkaError) -> Probe {
    match error.rdkafka_error_code().map(kind_of) {
        Some(Kind::Unreachable | Kind::Authentication) => Probe::NoBroker,
        Some(Kind::TimedOut) => Probe::NoAnswer,
        // Whatever it is, a broker has said it, or it is about the topic.
        _ => Probe::Answered,
    }
}

impl Producers {
    /// Gives up what waits in the queues.
    fn purge(&self) {
        let queue = PurgeConfig::default().queue().non_blocking();
        for producer in self.all() {
            if producer.in_flight_count() > 0 {
                producer.purge(queue);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failed_probe_means() {
        use RDKafkaErrorCode as C;
        let cases = [
            (C::BrokerTransportFailure, Probe::NoBroker),
            (C::AllBrokersDown, Probe::NoBroker),
            (C::Authentication, Probe::NoBroker),
            (C::OperationTimedOut, Probe::NoAnswer),
            (C::UnknownTopicOrPartition, Probe::Answered),
            (C::TopicAuthorizationFailed, Probe::Answered),
            (C::InvalidArgument, Probe::Answered),
        ];
        for (code, probe) in cases {
            assert_eq!(
                probe_failed(&KafkaError::MetadataFetch(code)),
                probe,
                "{code:?}"
            );
        }
    }

    #[test]
    fn a_record_travels_alone_once() {
        let watch = Watch::default();
        assert!(!watch.take_alone("topic", b"key"));
        watch.set_alone("topic", b"key");
        assert!(!watch.take_alone("topic", b"other"));
        assert!(!watch.take_alone("top", b"ickey"));
        assert!(watch.take_alone("topic", b"key"));
        assert!(!watch.take_alone("topic", b"key"));
    }

    #[test]
    fn attempts_are_made_again_when_the_watch_has_panicked() {
        let watch = Arc::new(Watch::default());
        watch.complained(RDKafkaErrorCode::BrokerTransportFailure, "refused");
        watch.probed(Probe::NoBroker);
        assert!(watch.refusal().is_some());
        let watched = Arc::clone(&watch);
        let ended = std::thread::spawn(move || {
            let _ended = Ended(&watched);
            panic!("a defect");
        });
        assert!(ended.join().is_err());
        assert!(watch.refusal().is_none());
    }
}
