//! Can any broker be reached? And what that says about an attempt that failed.
//!
//! Owns the decision, and nothing that it needs a clock, a lock or a producer for: the watch of
//! [`super::kafka`] asks the cluster and tells the answers. Invariants:
//!
//! 1. *Down* needs proof: a probe that found no connection for the whole of its patience. A
//!    complaint alone (a lost connection, one broker of many) only asks for a probe.
//! 2. *Down* ends with proof too: a broker's answer. Until then every attempt fails at once.
//! 3. A refused login outranks a lost connection until a broker answers: events must not be given
//!    up because one of the brokers that refuse us is also down.
//! 4. A lost producer outranks everything, for good: only a new one can go on.
//! 5. Until a broker has answered once, probes are wanted without any complaint; alone they prove nothing,
//!    since a first connection may take long.

use std::sync::Arc;

use rdkafka::error::RDKafkaErrorCode;

use super::error::{DeliveryError, Kind};

/// Why no broker can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// No connection.
    Unreachable,
    /// Connections, but the brokers do not accept our credentials, or TLS fails.
    Authentication,
}

impl Cause {
    /// What an error that concerns no single record says about the cluster, if anything.
    pub fn of(kind: Kind) -> Option<Self> {
        match kind {
            Kind::Unreachable | Kind::TimedOut => Some(Self::Unreachable),
            Kind::Authentication => Some(Self::Authentication),
            Kind::LeaderMoved
            | Kind::NotEnoughReplicas
            | Kind::Throttled
            | Kind::BrokerStorage
            | Kind::Authorization
            | Kind::UnknownTopic
            | Kind::InvalidTopic
            | Kind::TooLarge
            | Kind::InvalidRecord
            | Kind::BatchRefused
            | Kind::Unsupported
            | Kind::Purged
            | Kind::ProducerLost
            | Kind::Other => None,
        }
    }

    /// The kind of an attempt that fails because of it.
    pub fn kind(self) -> Kind {
        match self {
            Self::Unreachable => Kind::Unreachable,
            Self::Authentication => Kind::Authentication,
        }
    }

    fn code(self) -> RDKafkaErrorCode {
        match self {
            Self::Unreachable => RDKafkaErrorCode::BrokerTransportFailure,
            Self::Authentication => RDKafkaErrorCode::Authentication,
        }
    }
}

/// What a probe of the cluster found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// A broker answered.
    Answered,
    /// There was no usable connection for as long as the probe may take.
    NoBroker,
    /// There was a connection, but no answer in time. It proves neither.
    NoAnswer,
}

/// What a probe has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing that anybody needs to know.
    None,
    /// No broker can be used from now on, and why.
    Down(Cause),
    /// A broker answers again.
    Up,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing speaks against it.
    Assumed,
    /// Something did; a probe will tell.
    Suspected(Cause),
    Down(Cause),
}

/// What is known about the cluster and the producer.
#[derive(Debug)]
pub struct Reach {
    state: State,
    /// What was last said about `state`'s cause.
    reason: Option<Arc<str>>,
    /// Whether a broker has ever answered.
    met: bool,
    /// Why the producer is lost, if it is.
    lost: Option<Arc<str>>,
    closing: bool,
}

impl Default for Reach {
    fn default() -> Self {
        Self {
            state: State::Assumed,
            reason: None,
            met: false,
            lost: None,
            closing: false,
        }
    }
}

impl Reach {
    /// The producer complains about the cluster. `reason` is what it says.
    pub fn complained(&mut self, kind: Kind, reason: &str) {
        let Some(cause) = Cause::of(kind) else {
            return;
        };
        let known = self.cause();
        if known == Some(Cause::Authentication) && cause == Cause::Unreachable {
            return;
        }
        self.reason = Some(Arc::from(reason));
        self.state = match self.state {
            State::Down(_) => State::Down(cause),
            State::Assumed | State::Suspected(_) => State::Suspected(cause),
        };
    }

    /// The producer has had a fatal error. The first one counts.
    pub fn lost(&mut self, reason: &str) {
        self.lost.get_or_insert_with(|| Arc::from(reason));
    }

    /// An attempt timed out: reason enough to ask whether anybody is there.
    pub fn timed_out(&mut self) {
        if self.state == State::Assumed {
            self.state = State::Suspected(Cause::Unreachable);
        }
    }

    /// Whether a probe is wanted.
    pub fn wants_probe(&self) -> bool {
        let asked = self.met && self.state == State::Assumed;
        !self.closing && self.lost.is_none() && !asked
    }

    /// A probe has ended.
    pub fn probed(&mut self, probe: Probe) -> Change {
        self.met |= probe == Probe::Answered;
        match (self.state, probe) {
            (State::Assumed, _) | (State::Down(_), Probe::NoBroker | Probe::NoAnswer) => {
                Change::None
            }
            (State::Suspected(_), Probe::Answered | Probe::NoAnswer) => {
                self.state = State::Assumed;
                self.reason = None;
                Change::None
            }
            (State::Suspected(cause), Probe::NoBroker) => {
                self.state = State::Down(cause);
                Change::Down(cause)
            }
            (State::Down(_), Probe::Answered) => {
                self.state = State::Assumed;
                self.reason = None;
                Change::Up
            }
        }
    }

    /// The sink is closing: what is purged from now on is purged for that reason.
    pub fn close(&mut self) {
        self.closing = true;
    }

    /// Whether the sink is closing.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// Whether no broker can be used, for certain.
    pub fn is_down(&self) -> bool {
        matches!(self.state, State::Down(_))
    }

    /// Whether a broker has answered, and none is out of reach by now.
    pub fn is_met(&self) -> bool {
        self.met && !self.is_down()
    }

    /// What is said about the present trouble.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// Why an attempt need not even begin, if so.
    pub fn refusal(&self) -> Option<DeliveryError> {
        let (code, kind, detail) = match (&self.lost, self.state) {
            (Some(lost), _) => (
                RDKafkaErrorCode::Fatal,
                Kind::ProducerLost,
                Some(Arc::clone(lost)),
            ),
            (None, State::Down(cause)) => (cause.code(), cause.kind(), self.reason.clone()),
            (None, State::Assumed | State::Suspected(_)) => return None,
        };
        Some(DeliveryError {
            code,
            kind,
            possibly_persisted: false,
            detail,
        })
    }

    /// What an attempt that failed with `code` failed of.
    pub fn judge(&self, code: RDKafkaErrorCode) -> DeliveryError {
        let error = DeliveryError::from_code(code);
        if let Some(lost) = &self.lost {
            return error.because(Kind::ProducerLost, Some(Arc::clone(lost)));
        }
        let purged = code == RDKafkaErrorCode::PurgeQueue;
        if purged && !self.closing {
            // Only the watch purges, and only while no broker can be reached. One may be back by
            // now, and the record may have been sent once before the connection was lost.
            let cause = self.cause().unwrap_or(Cause::Unreachable);
            return DeliveryError {
                possibly_persisted: true,
                ..error.because(cause.kind(), self.reason.clone())
            };
        }
        match (self.state, error.kind) {
            (
                State::Down(cause) | State::Suspected(cause @ Cause::Authentication),
                Kind::TimedOut | Kind::Unreachable,
            ) => error.because(cause.kind(), self.reason.clone()),
            _ => error,
        }
    }

    fn cause(&self) -> Option<Cause> {
        match self.state {
            State::Assumed => None,
            State::Suspected(cause) | State::Down(cause) => Some(cause),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use Cause::{Authentication, Unreachable};
    use State::{Assumed, Down, Suspected};

    /// What happens to it.
    #[derive(Debug, Clone, Copy)]
    enum Event {
        Complaint(Kind),
        TimedOut,
        Probe(Probe),
    }

    fn in_state(state: State) -> Reach {
        Reach {
            state,
            met: true,
            ..Reach::default()
        }
    }

    #[test]
    fn a_broker_is_looked_for_until_one_has_answered() {
        let mut reach = Reach::default();
        assert!(reach.wants_probe() && !reach.is_met());
        for slow in [Probe::NoAnswer, Probe::NoBroker] {
            assert_eq!(reach.probed(slow), Change::None);
            assert!(reach.wants_probe() && !reach.is_met() && !reach.is_down());
        }
        // What is wrong is for a complaint to say.
        reach.complained(Kind::Authentication, "a wrong password");
        assert_eq!(reach.probed(Probe::NoBroker), Change::Down(Authentication));
        assert!(reach.wants_probe() && !reach.is_met());
        assert_eq!(reach.probed(Probe::Answered), Change::Up);
        assert!(!reach.wants_probe() && reach.is_met());
        reach.complained(Kind::Unreachable, "lost");
        assert!(
            reach.wants_probe() && reach.is_met(),
            "a complaint is no proof"
        );
        reach.probed(Probe::NoBroker);
        assert!(!reach.is_met());
    }

    #[test]
    fn the_transitions() {
        use Event::{Complaint, Probe as Found, TimedOut};
        use Kind as K;
        use Probe::{Answered, NoAnswer, NoBroker};
        let cases = [
            // A complaint asks for a probe, nothing more.
            (Assumed, Complaint(K::Unreachable), Suspected(Unreachable)),
            (Assumed, Complaint(K::TimedOut), Suspected(Unreachable)),
            (
                Assumed,
                Complaint(K::Authentication),
                Suspected(Authentication),
            ),
            (Assumed, Complaint(K::TooLarge), Assumed),
            (Assumed, Complaint(K::UnknownTopic), Assumed),
            (Assumed, Complaint(K::ProducerLost), Assumed),
            (Assumed, TimedOut, Suspected(Unreachable)),
            // A refused login outranks a lost connection.
            (
                Suspected(Unreachable),
                Complaint(K::Authentication),
                Suspected(Authentication),
            ),
            (
                Suspected(Authentication),
                Complaint(K::Unreachable),
                Suspected(Authentication),
            ),
            (
                Suspected(Authentication),
                TimedOut,
                Suspected(Authentication),
            ),
            (
                Down(Unreachable),
                Complaint(K::Authentication),
                Down(Authentication),
            ),
            (
                Down(Authentication),
                Complaint(K::Unreachable),
                Down(Authentication),
            ),
            (Down(Unreachable), TimedOut, Down(Unreachable)),
            // A probe decides.
            (Assumed, Found(NoBroker), Assumed),
            (Assumed, Found(Answered), Assumed),
            (Suspected(Unreachable), Found(Answered), Assumed),
            (Suspected(Authentication), Found(Answered), Assumed),
            (Suspected(Unreachable), Found(NoAnswer), Assumed),
            (Suspected(Unreachable), Found(NoBroker), Down(Unreachable)),
            (
                Suspected(Authentication),
                Found(NoBroker),
                Down(Authentication),
            ),
            (Down(Unreachable), Found(NoBroker), Down(Unreachable)),
            (Down(Unreachable), Found(NoAnswer), Down(Unreachable)),
            (Down(Unreachable), Found(Answered), Assumed),
            (Down(Authentication), Found(Answered), Assumed),
        ];
        for (from, event, to) in cases {
            let mut reach = in_state(from);
            let change = match event {
                Complaint(kind) => {
                    reach.complained(kind, "said so");
                    Change::None
                }
                TimedOut => {
                    reach.timed_out();
                    Change::None
                }
                Found(probe) => reach.probed(probe),
            };
            assert_eq!(reach.state, to, "{from:?} {event:?}");
            let expected = match (from, to) {
                (Suspected(_), Down(cause)) => Change::Down(cause),
                (Down(_), Assumed) => Change::Up,
                _ => Change::None,
            };
            assert_eq!(change, expected, "{from:?} {event:?}");
            assert_eq!(reach.wants_probe(), to != Assumed);
        }
    }

    #[test]
    fn only_what_is_down_refuses_attempts() {
        for state in [Assumed, Suspected(Unreachable), Suspected(Authentication)] {
            assert_eq!(in_state(state).refusal(), None);
        }
        for cause in [Unreachable, Authentication] {
            let mut reach = in_state(Suspected(cause));
            reach.complained(cause.kind(), "broker 1: why");
            reach.probed(Probe::NoBroker);
            let refusal = reach.refusal().expect("it is down");
            assert_eq!(refusal.kind, cause.kind());
            assert!(!refusal.possibly_persisted, "it was never handed over");
            assert!(refusal.to_string().contains("broker 1: why"), "{refusal}");
        }
    }

    #[test]
    fn what_failed_is_judged_by_what_is_known() {
        use RDKafkaErrorCode as C;
        let cases = [
            (Assumed, C::MessageTimedOut, Kind::TimedOut),
            (Suspected(Unreachable), C::MessageTimedOut, Kind::TimedOut),
            (
                Suspected(Authentication),
                C::MessageTimedOut,
                Kind::Authentication,
            ),
            (Down(Unreachable), C::MessageTimedOut, Kind::Unreachable),
            (
                Down(Authentication),
                C::MessageTimedOut,
                Kind::Authentication,
            ),
            (
                Down(Authentication),
                C::BrokerTransportFailure,
                Kind::Authentication,
            ),
            (Down(Unreachable), C::PurgeQueue, Kind::Unreachable),
            (Down(Authentication), C::PurgeQueue, Kind::Authentication),
            // The report may arrive when a broker is back.
            (Assumed, C::PurgeQueue, Kind::Unreachable),
            // What the broker says about the record stays what it is.
            (
                Down(Unreachable),
                C::TopicAuthorizationFailed,
                Kind::Authorization,
            ),
            (
                Suspected(Authentication),
                C::NotEnoughReplicas,
                Kind::NotEnoughReplicas,
            ),
        ];
        for (state, code, kind) in cases {
            let error = in_state(state).judge(code);
            assert_eq!((error.kind, error.code), (kind, code), "{state:?} {code:?}");
            assert!(!matches!(code, C::PurgeQueue) || error.possibly_persisted);
        }
    }

    #[test]
    fn while_closing_a_purge_is_a_purge_and_nothing_is_probed() {
        let mut reach = in_state(Down(Unreachable));
        reach.close();
        let error = reach.judge(RDKafkaErrorCode::PurgeQueue);
        assert_eq!(error.kind, Kind::Purged);
        assert!(!reach.wants_probe());
    }

    #[test]
    fn a_lost_producer_makes_every_failure_fatal_for_good() {
        use RDKafkaErrorCode as C;
        let mut reach = in_state(Down(Authentication));
        reach.lost("out of sequence");
        reach.lost("a later complaint");
        reach.probed(Probe::Answered);
        for code in [
            C::PurgeQueue,
            C::MessageTimedOut,
            C::NotEnoughReplicas,
            C::Fatal,
        ] {
            let error = reach.judge(code);
            assert_eq!(error.kind, Kind::ProducerLost, "{code:?}");
            assert_eq!(error.detail.as_deref(), Some("out of sequence"));
        }
        let refusal = reach.refusal().expect("it is lost");
        assert_eq!(refusal.kind, Kind::ProducerLost);
        assert!(!reach.wants_probe());
    }
}
