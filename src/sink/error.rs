//! What can go wrong with a delivery, and what follows from it.
//!
//! [`kind_of`] turns an error code of librdkafka into a [`Kind`]; [`Kind::class`] says what the
//! relay does about it, [`Kind::is_outage`] and [`Kind::uses_up_attempts`] what it counts for, and
//! [`Kind::remedy`] what a person can do. Invariants:
//!
//! 1. All of these are total, without a wildcard over our own kinds: a new kind does not compile
//!    until it has its answer to each.
//! 2. [`kind_of`] and `docs/errors.md` come from one table; a test fails when the page is stale.
//! 3. [`Kind::name`] is stable: it is stored with dead letters and labels metrics.
//! 4. An error of which the record is the cause never counts as an outage, whatever it is: one
//!    poison event must not stop the others.

use std::sync::Arc;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// What the relay does after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Passes by itself: try again.
    Transient,
    /// The same record will fail again until somebody changes something.
    Permanent,
    /// The producer is of no more use: build a new one and hand it what is unacknowledged.
    Fatal,
}

/// What went wrong, in terms that a person can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// No connection to the broker.
    Unreachable,
    /// No acknowledgement within `retry.attempt_timeout`.
    TimedOut,
    /// The partition has no leader now, or another one.
    LeaderMoved,
    /// Fewer in-sync replicas than `min.insync.replicas`.
    NotEnoughReplicas,
    /// The broker asks to slow down, or is busy.
    Throttled,
    /// The broker cannot write its disk.
    BrokerStorage,
    /// The broker did not accept our credentials, or TLS failed.
    Authentication,
    /// We may not write to the topic, or not produce idempotently.
    Authorization,
    /// The topic or partition does not exist.
    UnknownTopic,
    /// The topic's name is not allowed.
    InvalidTopic,
    /// The record is larger than the broker, the topic or the producer allows.
    TooLarge,
    /// The broker refuses the record itself.
    InvalidRecord,
    /// The broker refused the batch that the record was in, perhaps because of another record.
    BatchRefused,
    /// The broker does not understand what we ask for.
    Unsupported,
    /// The producer was purged or stopped with the record inside.
    Purged,
    /// The producer has lost its sequence and cannot go on.
    ProducerLost,
    /// Anything else.
    Other,
}

impl Kind {
    /// All kinds, in the order of their declaration.
    pub const ALL: [Self; 17] = [
        Self::Unreachable,
        Self::TimedOut,
        Self::LeaderMoved,
        Self::NotEnoughReplicas,
        Self::Throttled,
        Self::BrokerStorage,
        Self::Authentication,
        Self::Authorization,
        Self::UnknownTopic,
        Self::InvalidTopic,
        Self::TooLarge,
        Self::InvalidRecord,
        Self::BatchRefused,
        Self::Unsupported,
        Self::Purged,
        Self::ProducerLost,
        Self::Other,
    ];

    /// The name in metrics, logs, dead letters and documents: snake case, and stable.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
            Self::LeaderMoved => "leader_moved",
            Self::NotEnoughReplicas => "not_enough_replicas",
            Self::Throttled => "throttled",
            Self::BrokerStorage => "broker_storage",
            Self::Authentication => "authentication",
            Self::Authorization => "authorization",
            Self::UnknownTopic => "unknown_topic",
            Self::InvalidTopic => "invalid_topic",
            Self::TooLarge => "too_large",
            Self::InvalidRecord => "invalid_record",
            Self::BatchRefused => "batch_refused",
            Self::Unsupported => "unsupported",
            Self::Purged => "purged",
            Self::ProducerLost => "producer_lost",
            Self::Other => "other",
        }
    }

    /// The kind of this [`Kind::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// What has happened, in a sentence for a person.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Unreachable => "no broker can be reached",
            Self::TimedOut => {
                "no acknowledgement within `retry.attempt_timeout`; what librdkafka repeats by \
                 itself until then (a leader that moves, too few replicas) ends here too"
            }
            Self::LeaderMoved => "the partition has no leader now, or another one",
            Self::NotEnoughReplicas => "fewer replicas are in sync than `min.insync.replicas`",
            Self::Throttled => "the broker asks to slow down, or is busy",
            Self::BrokerStorage => "the broker cannot write its disk",
            Self::Authentication => "the broker does not accept our credentials, or TLS failed",
            Self::Authorization => "we may not write to the topic, or not idempotently",
            Self::UnknownTopic => {
                "the topic does not exist, and the broker does not create it by itself"
            }
            Self::InvalidTopic => "the topic's name is not allowed",
            Self::TooLarge => {
                "the record is larger than the producer, the broker or the topic allows"
            }
            Self::InvalidRecord => "the broker refuses the record itself",
            Self::BatchRefused => {
                "the broker refused the batch that the record travelled in; the record may be \
                 innocent, and travels alone next time"
            }
            Self::Unsupported => "the broker does not understand what it is asked for",
            Self::Purged => "the producer was stopped with the record inside",
            Self::ProducerLost => "the producer has lost its sequence and cannot go on",
            Self::Other => "an error that the relay has no better name for",
        }
    }

    /// Whether it counts towards opening the breaker: the cluster is at fault and not the record,
    /// so other records would fare no better.
    ///
    /// Not an outage are permanent errors (the record or its topic is at fault), a refused batch
    /// (another record is), a purge and a lost producer (the relay's own doing, mended by a new
    /// producer), and an error that we cannot name: it may be the record's, and one event must not
    /// stop the others.
    pub fn is_outage(self) -> bool {
        match self {
            Self::Unreachable
            | Self::TimedOut
            | Self::LeaderMoved
            | Self::NotEnoughReplicas
            | Self::Throttled
            | Self::BrokerStorage
            | Self::Authentication => true,
            Self::Authorization
            | Self::UnknownTopic
            | Self::InvalidTopic
            | Self::TooLarge
            | Self::InvalidRecord
            | Self::BatchRefused
            | Self::Unsupported
            | Self::Purged
            | Self::ProducerLost
            | Self::Other => false,
        }
    }

    /// Whether a failure of this kind counts as one of the event's `retry.max_attempts`.
    ///
    /// It does not where the event had no chance: the broker never looked at it because it does
    /// not know us (a person must act, and no event is to be dead-lettered meanwhile) or because
    /// of the record beside it, or the relay itself gave the attempt up.
    pub fn uses_up_attempts(self) -> bool {
        match self {
            Self::Authentication | Self::BatchRefused | Self::Purged | Self::ProducerLost => false,
            Self::Unreachable
            | Self::TimedOut
            | Self::LeaderMoved
            | Self::NotEnoughReplicas
            | Self::Throttled
            | Self::BrokerStorage
            | Self::Authorization
            | Self::UnknownTopic
            | Self::InvalidTopic
            | Self::TooLarge
            | Self::InvalidRecord
            | Self::Unsupported
            | Self::Other => true,
        }
    }

    /// What the relay does.
    pub fn class(self) -> Class {
        match self {
            Self::Unreachable
            | Self::TimedOut
            | Self::LeaderMoved
            | Self::NotEnoughReplicas
            | Self::Throttled
            | Self::BrokerStorage
            | Self::Authentication
            | Self::BatchRefused
            | Self::Purged
            | Self::Other => Class::Transient,
            Self::Authorization
            | Self::UnknownTopic
            | Self::InvalidTopic
            | Self::TooLarge
            | Self::InvalidRecord
            | Self::Unsupported => Class::Permanent,
            Self::ProducerLost => Class::Fatal,
        }
    }

    /// What a person can do.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Unreachable => {
                "check that the brokers run and that `kafka.brokers` and their advertised \
                 listeners can be reached from here"
            }
            Self::TimedOut => {
                "check the brokers' load and the network; raise `retry.attempt_timeout` if \
                 acknowledgements are slow by design"
            }
            Self::LeaderMoved => "passes with the election; if not, look for offline partitions",
            Self::NotEnoughReplicas => {
                "bring the missing replicas back, or lower the topic's `min.insync.replicas`"
            }
            Self::Throttled => "raise the client's quota, or give the brokers more room",
            Self::BrokerStorage => "look at the broker's log directories: full or failing disk",
            Self::Authentication => {
                "check the credentials and certificates under `kafka.properties`"
            }
            Self::Authorization => {
                "grant the relay's principal WRITE and DESCRIBE on the topic (and \
                 IDEMPOTENT_WRITE on the cluster for brokers before 3.0)"
            }
            Self::UnknownTopic => "create the topic, or switch on `auto.create.topics.enable`",
            Self::InvalidTopic => "correct the outbox's `topic` template",
            Self::TooLarge => {
                "raise `message.max.bytes` under `kafka.properties` and on the broker, and the \
                 topic's `max.message.bytes`, or make the payload smaller"
            }
            Self::InvalidRecord => {
                "compare the record with the topic's settings (a compacted topic needs keys; \
                 `message.timestamp.type` and its bounds)"
            }
            Self::BatchRefused => {
                "none: the relay sends it again, alone. If it happens often, lower `batch.size` \
                 under `kafka.properties` below the topic's `max.message.bytes`"
            }
            Self::Unsupported => "check the broker's version and `kafka.properties`",
            Self::Purged => "none: the relay sends it again",
            Self::ProducerLost => "none: the relay builds a new producer",
            Self::Other => "look at the broker's log for this time",
        }
    }
}

// `Other` is declared last: a kind that is missing from the list does not compile.
const _: () = assert!(Kind::ALL.len() == Kind::Other as usize + 1);

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// One attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {code}{}", after_colon(.detail.as_deref()))]
pub struct DeliveryError {
    /// What librdkafka says.
    pub code: RDKafkaErrorCode,
    /// What it means.
    pub kind: Kind,
    /// Whether the record may be in the topic nevertheless. True whenever it was handed to a
    /// broker and no answer rules it out.
    pub possibly_persisted: bool,
    /// What librdkafka or the broker said about the cause, such as the broker's address and why
    /// the connection failed. Never a payload, a key or a secret.
    pub detail: Option<Arc<str>>,
}

fn after_colon(detail: Option<&str>) -> String {
    detail.map_or_else(String::new, |detail| format!(": {detail}"))
}

impl DeliveryError {
    /// The error that a code stands for.
    pub fn from_code(code: RDKafkaErrorCode) -> Self {
        Self {
            code,
            kind: kind_of(code),
            possibly_persisted: possibly_persisted(code),
            detail: None,
        }
    }

    /// The same failure with what is known about its cause.
    #[must_use]
    pub fn because(self, kind: Kind, detail: Option<Arc<str>>) -> Self {
        Self {
            kind,
            detail,
            ..self
        }
    }

    /// What the relay does about it.
    pub fn class(&self) -> Class {
        self.kind.class()
    }
}

impl From<&KafkaError> for DeliveryError {
    fn from(error: &KafkaError) -> Self {
        Self::from_code(
            error
                .rdkafka_error_code()
                .unwrap_or(RDKafkaErrorCode::Unknown),
        )
    }
}

/// `send` did not accept a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// No room now; nothing was attempted.
    #[error("the producer's queue is full")]
    QueueFull,
    /// The record, or the producer, is of no use as it is.
    #[error(transparent)]
    Failed(#[from] DeliveryError),
}

/// A sink could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// librdkafka refuses a property, or cannot start.
    #[error("create the Kafka producer; check `kafka.properties`")]
    Producer(#[source] KafkaError),
    /// The thread that watches over the brokers cannot be started.
    #[error("start the thread that watches over the brokers")]
    Watch(#[source] std::io::Error),
}

/// From one table: the kind of each code, and the codes of each kind.
macro_rules! codes {
    ($($kind:ident: $($code:ident)+;)+) => {
        /// What an error code means for a producer. Codes that only consumers, transactions or
        /// administration can meet are [`Kind::Other`].
        pub fn kind_of(code: RDKafkaErrorCode) -> Kind {
            match code {
                $($(RDKafkaErrorCode::$code)|+ => Kind::$kind,)+
                _ => Kind::Other,
            }
        }

        /// The codes that [`kind_of`] names.
        #[cfg(test)]
        pub(super) const CODES: &[(Kind, &[RDKafkaErrorCode])] =
            &[$((Kind::$kind, &[$(RDKafkaErrorCode::$code),+])),+];
    };
}

codes! {
    Unreachable: BrokerTransportFailure Resolve AllBrokersDown BrokerDestroy DestroyBroker
        UnknownBroker NodeUpdate BrokerNotAvailable NetworkException RebootstrapRequired;
    TimedOut: MessageTimedOut OperationTimedOut TimedOutQueue RequestTimedOut;
    LeaderMoved: LeaderNotAvailable NotLeaderForPartition ReplicaNotAvailable
        FencedLeaderEpoch UnknownLeaderEpoch StaleControllerEpoch NotController;
    NotEnoughReplicas: NotEnoughReplicas NotEnoughReplicasAfterAppend ISRInsufficient;
    Throttled: ThrottlingQuotaExceeded QueueFull Retry WaitCache;
    BrokerStorage: KafkaStorageError LogDirNotFound;
    Authentication: Authentication SSL SaslAuthenticationFailed IllegalSASLState
        UnsupportedSASLMechanism DelegationTokenExpired;
    Authorization: TopicAuthorizationFailed ClusterAuthorizationFailed
        TransactionalIdAuthorizationFailed;
    UnknownTopic: UnknownTopicOrPartition UnknownTopic UnknownPartition UnknownTopicId;
    InvalidTopic: InvalidTopic;
    TooLarge: MessageSizeTooLarge MessageBatchTooLarge InvalidMessageSize;
    InvalidRecord: InvalidRecord InvalidTimestamp InvalidArgument PolicyViolation;
    BatchRefused: InvalidDifferentRecord;
    Unsupported: UnsupportedVersion UnsupportedForMessageFormat UnsupportedCompressionType
        BadCompression UnsupportedFeature NotImplemented InvalidRequiredAcks InvalidConfig
        InvalidRequest;
    Purged: PurgeQueue PurgeInflight;
    ProducerLost: Fatal OutOfOrderSequenceNumber DuplicateSequenceNumber
        InvalidProducerEpoch UnknownProducerId InvalidProducerIdMapping ProducerFenced
        Fenced GaplessGuarantee Inconsistent State;
}

/// Whether a record with this outcome can be in the topic. librdkafka knows it per message but
/// its Rust interface does not pass it on, so this errs on the side of "yes".
fn possibly_persisted(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as C;
    !matches!(
        code,
        C::QueueFull
            | C::PurgeQueue
            | C::UnknownTopic
            | C::UnknownPartition
            | C::UnknownTopicOrPartition
            | C::InvalidTopic
            | C::TopicAuthorizationFailed
            | C::ClusterAuthorizationFailed
            | C::MessageSizeTooLarge
            | C::MessageBatchTooLarge
            | C::InvalidRecord
            | C::InvalidDifferentRecord
            | C::InvalidMessage
            | C::InvalidTimestamp
            | C::NotEnoughReplicas
            | C::NotLeaderForPartition
            | C::LeaderNotAvailable
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_kinds() {
        for (index, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index);
            assert_eq!(Kind::from_name(kind.name()), Some(kind));
        }
        assert_eq!(Kind::from_name("Unreachable"), None);
    }

    #[test]
    fn an_outage_is_transient_and_what_uses_up_no_attempts_is_never_dead_lettered() {
        for kind in Kind::ALL {
            let class = kind.class();
            assert!(!kind.is_outage() || class == Class::Transient, "{kind}");
            assert!(
                kind.uses_up_attempts() || class != Class::Permanent,
                "{kind}"
            );
        }
    }

    #[test]
    fn codes_have_the_class_that_their_remedy_needs() {
        use RDKafkaErrorCode as C;
        let cases = [
            (C::MessageTimedOut, Class::Transient, true),
            (C::BrokerTransportFailure, Class::Transient, true),
            (C::NotEnoughReplicas, Class::Transient, false),
            (C::NotEnoughReplicasAfterAppend, Class::Transient, true),
            (C::NotLeaderForPartition, Class::Transient, false),
            (C::ThrottlingQuotaExceeded, Class::Transient, true),
            (C::SaslAuthenticationFailed, Class::Transient, true),
            (C::PurgeInflight, Class::Transient, true),
            (C::PurgeQueue, Class::Transient, false),
            (C::Unknown, Class::Transient, true),
            (C::MessageSizeTooLarge, Class::Permanent, false),
            (C::InvalidRecord, Class::Permanent, false),
            (C::UnknownTopicOrPartition, Class::Permanent, false),
            (C::TopicAuthorizationFailed, Class::Permanent, false),
            (C::Fatal, Class::Fatal, true),
            (C::OutOfOrderSequenceNumber, Class::Fatal, true),
        ];
        for (code, class, persisted) in cases {
            let error = DeliveryError::from_code(code);
            assert_eq!(
                (error.class(), error.possibly_persisted),
                (class, persisted),
                "{code:?}"
            );
            assert!(!error.kind.remedy().is_empty());
        }
    }
}
