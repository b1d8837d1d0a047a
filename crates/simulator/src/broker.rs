//! The simulated Kafka cluster: what becomes of one attempt.

use outbox_relay::event::Record;
use outbox_relay::sink::{DeliveryError, SendError};
use rdkafka::error::RDKafkaErrorCode as Code;

use crate::oracle::Oracle;
use crate::process::Relay;
use crate::world::{Event, World};

/// The brokers, and the topic.
#[derive(Debug, Default)]
pub(crate) struct Broker {
    /// All brokers are away until then.
    pub(crate) away_until: i64,
    /// Records in the topic.
    pub(crate) appended: u64,
    /// What was refused is taken now.
    pub(crate) mended: bool,
}

/// Errors that pass by themselves, of all kinds that the relay tells apart.
const TRANSIENT: [Code; 7] = [
    Code::NotEnoughReplicas,
    Code::NotLeaderForPartition,
    Code::ThrottlingQuotaExceeded,
    Code::InvalidDifferentRecord,
    Code::SaslAuthenticationFailed,
    Code::PurgeQueue,
    Code::Unknown,
];
/// After this long an attempt has failed, microseconds.
const ATTEMPT_TIMEOUT: i64 = 500_000;

impl World {
    /// Hands a record to the producer of `relay`.
    pub(crate) fn send(
        &mut self,
        relay: &mut Relay,
        token: u64,
        record: &Record,
    ) -> Result<(), SendError> {
        let event = self.recognise(record)?;
        self.check_send(relay, event);
        let faults = self.scenario.faults.clone();
        if self.goes_wrong(faults.queue_full) {
            return Err(SendError::QueueFull);
        }
        let said = &mut self.events[event];
        said.sent = true;
        let name = said.name();
        let refused = said.poison && !self.broker.mended;
        relay
            .attempts_under_way
            .insert(self.events[event].key, token);
        let (life, producer) = (relay.life, relay.producer);
        let report = |world: &mut Self, delay: i64, error: Option<Code>| {
            world.say(|| match error {
                Some(error) => format!("sent: {name} (token {token}); will fail: {error:?}"),
                None => format!("sent: {name} (token {token})"),
            });
            world.after(delay, Event::Report(life, producer, token, error));
        };
        if self.now < self.broker.away_until {
            let (delay, error) = if self.random.chance(700) {
                (self.random.range(100, 20_000), Code::BrokerTransportFailure)
            } else {
                (ATTEMPT_TIMEOUT, Code::MessageTimedOut)
            };
            report(self, delay, Some(error));
            return Ok(());
        }
        if refused {
            if self.random.chance(300) {
                let error = DeliveryError::from_code(Code::MessageSizeTooLarge);
                relay.attempts_under_way.remove(&self.events[event].key);
                return Err(SendError::Failed(error));
            }
            let delay = self.random.delay(5_000);
            report(self, delay, Some(Code::MessageSizeTooLarge));
            return Ok(());
        }
        let append = self.random.delay(3_000);
        if self.goes_wrong(faults.fatal) {
            if self.random.chance(500) {
                self.events[event].allowance += 1;
                self.after(append, Event::Append(life, event));
            }
            let delay = append + self.random.delay(3_000);
            report(self, delay, Some(Code::OutOfOrderSequenceNumber));
        } else if self.goes_wrong(faults.lost_answer) {
            self.events[event].allowance += 1;
            // It may be appended after the attempt has been given up, too.
            let append = if self.random.chance(200) {
                ATTEMPT_TIMEOUT + self.random.range(1, 300_000)
            } else {
                append
            };
            self.after(append, Event::Append(life, event));
            report(self, ATTEMPT_TIMEOUT, Some(Code::MessageTimedOut));
        } else if self.goes_wrong(faults.transient) {
            let delay = self.random.delay(3_000);
            let error = self.random.pick(&TRANSIENT);
            report(self, delay, Some(error));
        } else {
            self.after(append, Event::Append(life, event));
            let delay = append + self.random.delay(2_000);
            report(self, delay, None);
        }
        Ok(())
    }

    /// Which event a record is; it must say exactly what was written.
    fn recognise(&mut self, record: &Record) -> Result<usize, SendError> {
        let payload = record.payload.clone().unwrap_or_default();
        let Some(event) = self.by_payload.get(&payload).copied() else {
            self.violated(Oracle::O2, || format!("nobody wrote {record:?}"));
            return Err(SendError::QueueFull);
        };
        let said = &self.events[event];
        let id = record.headers.iter().find(|header| &*header.name == "id");
        let id = id.and_then(|header| header.value.clone());
        let same = record.key == format!("k{}", said.key).as_bytes()
            && id.as_deref() == Some(said.name().as_bytes())
            && &*record.topic == "events"
            && record.headers.len() == 1
            && !said.broken;
        if !same {
            self.violated(Oracle::O2, || format!("{record:?} is not what was written"));
        }
        Ok(event)
    }

    fn check_send(&mut self, relay: &Relay, event: usize) {
        let said = &self.events[event];
        let (name, key) = (said.name(), said.key);
        if relay.core.breaker() == outbox_relay::retry::breaker::State::Open {
            self.violated(Oracle::Silence, || {
                format!("{name} is attempted while the breaker is open")
            });
        }
        if self.publish_until.is_some_and(|until| self.now >= until) {
            self.violated(Oracle::Silence, || {
                format!("{name} is attempted after the claim has run out")
            });
        }
        if let Some(token) = relay.attempts_under_way.get(&key) {
            self.violated(Oracle::OneAtATime, || {
                format!("{name} is attempted while attempt {token} of its key is under way")
            });
        }
    }

    /// The producer of a life reports.
    pub(crate) fn report(&mut self, life: u32, producer: u32, token: u64, error: Option<Code>) {
        if let Some(relay) = &mut self.relay
            && relay.life == life
            && relay.producer == producer
        {
            relay.reports.push((token, error));
        }
    }
}
