//! What can go wrong with a delivery, and what follows from it.
//!
//! [`kind_of`] turns an error code of librdkafka into a [`Kind`]; [`Kind::class`] says what the
//! relay does about it and [`Kind::remedy`] what a person can do. Both are total, without a
//! wildcard over our own kinds: a new kind does not compile until it has both.

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
            Self::Unsupported => "check the broker's version and `kafka.properties`",
            Self::Purged => "none: the relay sends it again",
            Self::ProducerLost => "none: the relay builds a new producer",
            Self::Other => "look at the broker's log for this time",
        }
    }
}

/// One attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind:?}: {code}")]
pub struct DeliveryError {
    /// What librdkafka says.
    pub code: RDKafkaErrorCode,
    /// What it means.
    pub kind: Kind,
    /// Whether the record may be in the topic nevertheless. True whenever it was handed to a
    /// broker and no answer rules it out.
    pub possibly_persisted: bool,
}

impl DeliveryError {
    /// The error that a code stands for.
    pub fn from_code(code: RDKafkaErrorCode) -> Self {
        Self {
            code,
            kind: kind_of(code),
            possibly_persisted: possibly_persisted(code),
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
}

/// What an error code means for a producer. Codes that only consumers, transactions or
/// administration can meet are [`Kind::Other`].
pub fn kind_of(code: RDKafkaErrorCode) -> Kind {
    use RDKafkaErrorCode as C;
    match code {
        C::BrokerTransportFailure
        | C::Resolve
        | C::AllBrokersDown
        | C::BrokerDestroy
        | C::DestroyBroker
        | C::UnknownBroker
        | C::NodeUpdate
        | C::BrokerNotAvailable
        | C::NetworkException
        | C::RebootstrapRequired => Kind::Unreachable,
        C::MessageTimedOut | C::OperationTimedOut | C::TimedOutQueue | C::RequestTimedOut => {
            Kind::TimedOut
        }
        C::LeaderNotAvailable
        | C::NotLeaderForPartition
        | C::ReplicaNotAvailable
        | C::FencedLeaderEpoch
        | C::UnknownLeaderEpoch
        | C::StaleControllerEpoch
        | C::NotController => Kind::LeaderMoved,
        C::NotEnoughReplicas | C::NotEnoughReplicasAfterAppend | C::ISRInsufficient => {
            Kind::NotEnoughReplicas
        }
        C::ThrottlingQuotaExceeded | C::QueueFull | C::Retry | C::WaitCache => Kind::Throttled,
        C::KafkaStorageError | C::LogDirNotFound => Kind::BrokerStorage,
        C::Authentication
        | C::SSL
        | C::SaslAuthenticationFailed
        | C::IllegalSASLState
        | C::UnsupportedSASLMechanism
        | C::DelegationTokenExpired => Kind::Authentication,
        C::TopicAuthorizationFailed
        | C::ClusterAuthorizationFailed
        | C::TransactionalIdAuthorizationFailed => Kind::Authorization,
        C::UnknownTopicOrPartition | C::UnknownTopic | C::UnknownPartition | C::UnknownTopicId => {
            Kind::UnknownTopic
        }
        C::InvalidTopic => Kind::InvalidTopic,
        C::MessageSizeTooLarge | C::MessageBatchTooLarge | C::InvalidMessageSize => Kind::TooLarge,
        C::InvalidRecord
        | C::InvalidMessage
        | C::BadMessage
        | C::InvalidTimestamp
        | C::InvalidArgument
        | C::PolicyViolation => Kind::InvalidRecord,
        C::UnsupportedVersion
        | C::UnsupportedForMessageFormat
        | C::UnsupportedCompressionType
        | C::BadCompression
        | C::UnsupportedFeature
        | C::NotImplemented
        | C::InvalidRequiredAcks
        | C::InvalidConfig
        | C::InvalidRequest => Kind::Unsupported,
        C::PurgeQueue | C::PurgeInflight => Kind::Purged,
        C::Fatal
        | C::OutOfOrderSequenceNumber
        | C::DuplicateSequenceNumber
        | C::InvalidProducerEpoch
        | C::UnknownProducerId
        | C::InvalidProducerIdMapping
        | C::ProducerFenced
        | C::Fenced
        | C::GaplessGuarantee
        | C::Inconsistent
        | C::State => Kind::ProducerLost,
        _ => Kind::Other,
    }
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
