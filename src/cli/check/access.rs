//! Whether the relay's user may write the topics.

use std::time::Duration;

use authorized_operations::{Answer, Operation, Operations};
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::RDKafkaErrorCode;

use super::code::Code;
use super::finding::Finding;

/// Why no broker was asked.
const NO_BROKER: &str = "the cluster's metadata has no broker";

const REMEDY: &str = "grant the relay's principal WRITE on the topic (kafka-acls.sh --add --allow-principal \
                      User:… --operation Write --topic …), and CREATE if the broker is to create it";

/// Asks for `topics`, which differ from each other. Nothing is created or published. Blocks.
pub(super) fn check<C: ClientContext>(
    client: &Client<C>,
    broker: Option<i32>,
    topics: &[&str],
    patience: Duration,
) -> Vec<Finding> {
    let asked = broker.ok_or_else(|| NO_BROKER.to_owned()).and_then(|id| {
        authorized_operations::of_topics(client, id, topics, patience)
            .map_err(|error| error.to_string())
    });
    let subjects = topics.iter().map(|name| format!("topic {name}"));
    match asked {
        Ok(answers) => subjects
            .zip(answers)
            .map(|(subject, answer)| judge(subject, &answer))
            .collect(),
        Err(reason) => subjects
            .map(|subject| Finding::unknown(Code::TopicAccess, subject, &reason))
            .collect(),
    }
}

fn judge(subject: String, answer: &Answer) -> Finding {
    let error =
        |message: String| Finding::error(Code::TopicAccess, subject.clone(), message, REMEDY);
    match answer {
        Answer::Operations(operations) if operations.contain(Operation::Write) => Finding::ok(
            Code::TopicAccess,
            subject,
            "may be written by the relay's user",
        ),
        Answer::Operations(operations) => error(format!(
            "may not be written by the relay's user, who may only {}",
            words(*operations)
        )),
        Answer::Refused(RDKafkaErrorCode::TopicAuthorizationFailed) => {
            error("may not be described by the relay's user, and so not be written".to_owned())
        }
        Answer::Refused(RDKafkaErrorCode::UnknownTopicOrPartition) => {
            Finding::unknown(Code::TopicAccess, subject, "there is no such topic yet")
        }
        Answer::Refused(other) => Finding::unknown(Code::TopicAccess, subject, other),
        Answer::NotTold => Finding::unknown(
            Code::TopicAccess,
            subject,
            "it may be described by the relay's user, but the broker does not tell whether it may be \
             written (Kafka does since 2.3)",
        ),
    }
}

fn words(operations: Operations) -> String {
    let all = [
        (Operation::Describe, "describe"),
        (Operation::Read, "read"),
        (Operation::DescribeConfigs, "describe the settings of"),
        (Operation::Create, "create"),
        (Operation::Delete, "delete"),
        (Operation::Alter, "alter"),
        (Operation::AlterConfigs, "alter the settings of"),
    ];
    let named = all
        .iter()
        .filter(|(operation, _)| operations.contain(*operation));
    let words: Vec<&str> = named.map(|(_, word)| *word).collect();
    format!("{} it", words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn a_topic_that_may_be_seen_but_not_written_is_an_error() {
        let of = |operations: &[Operation]| {
            let operations = operations.iter().copied().collect();
            judge("topic t".to_owned(), &Answer::Operations(operations))
        };
        let seen = of(&[Operation::Describe, Operation::Read]);
        assert_eq!(seen.level, Level::Error);
        assert!(
            seen.message.ends_with("may only describe, read it"),
            "{seen:?}"
        );
        assert_eq!(of(&[Operation::Write]).level, Level::Ok);
    }

    #[test]
    fn who_may_not_describe_a_topic_may_not_write_it() {
        let refused = |code| judge("topic t".to_owned(), &Answer::Refused(code));
        let hidden = refused(RDKafkaErrorCode::TopicAuthorizationFailed);
        assert_eq!(hidden.level, Level::Error);
        let missing = refused(RDKafkaErrorCode::UnknownTopicOrPartition);
        assert!(missing.message.starts_with("not checked"), "{missing:?}");
    }

    #[test]
    fn what_the_broker_does_not_tell_is_not_checked() {
        let untold = judge("topic t".to_owned(), &Answer::NotTold);
        assert!(untold.message.starts_with("not checked"), "{untold:?}");
    }
}
