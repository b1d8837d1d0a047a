//! What a Kafka client's user may do with topics, as the brokers themselves tell it
//! (`Metadata` with `include_topic_authorized_operations`, [KIP-430], Kafka 2.3 and later).
//!
//! librdkafka asks for it by `DescribeTopics`, which the crate `rdkafka` does not wrap; so the calls are
//! here, alone. Nothing is created, and nothing is written.
//!
//! [KIP-430]: https://cwiki.apache.org/confluence/x/lYqcBg

use std::ffi::{CStr, CString, NulError, c_char};
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use rdkafka::bindings as sys;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::RDKafkaErrorCode;

/// What brokers distinguish for topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Operation {
    /// Consume records.
    Read = 3,
    /// Publish records.
    Write = 4,
    /// Create the topic.
    Create = 5,
    /// Delete the topic or its records.
    Delete = 6,
    /// Change the topic.
    Alter = 7,
    /// See that the topic exists, and its partitions.
    Describe = 8,
    /// See the topic's settings.
    DescribeConfigs = 10,
    /// Change the topic's settings.
    AlterConfigs = 11,
}

/// What a user may do with one topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operations {
    /// A bit for each operation's number in the protocol.
    bits: u32,
}

impl Operations {
    /// Whether this is among them.
    pub fn contain(self, operation: Operation) -> bool {
        self.bits & (1 << operation as u32) != 0
    }
}

impl FromIterator<Operation> for Operations {
    fn from_iter<I: IntoIterator<Item = Operation>>(operations: I) -> Self {
        let bit = |operation| 1 << operation as u32;
        Self {
            bits: operations
                .into_iter()
                .map(bit)
                .fold(0, |all, bit| all | bit),
        }
    }
}

/// What the brokers say of one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// What the client's user may do with it. Brokers without an authorizer allow all.
    Operations(Operations),
    /// Nothing about operations: the brokers are older than Kafka 2.3, or do as if they were.
    NotTold,
    /// No description: the user may not even see the topic, or there is none of this name.
    Refused(RDKafkaErrorCode),
}

/// Why nothing is known of any topic.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No answer in time.
    #[error("no broker answers within {} s", .0.as_secs())]
    Late(Duration),
    /// A topic's name with a zero byte, which no topic has.
    #[error("this is no topic's name: {0}")]
    Name(#[from] NulError),
    /// A time limit or a broker's id that librdkafka does not take: it takes 1 ms to 1 h, and no id below 0.
    #[error("librdkafka does not take an option: {0}")]
    Option(String),
    /// The request failed.
    #[error("{reason} ({code})")]
    Request {
        /// The kind of failure.
        code: RDKafkaErrorCode,
        /// librdkafka's words for it.
        reason: String,
    },
    /// librdkafka gave nothing where something was due.
    #[error("librdkafka gives no {0}")]
    Nothing(&'static str),
}

/// Asks the broker of this id what the user of `client` may do with each of `topics`, which must differ from
/// each other; answers come in their order. Blocks for at most `patience`, which is 1 ms to 1 h, and half a
/// second. Every broker can tell; one that lives is in the client's metadata.
///
/// # Errors
///
/// When no broker answered, or librdkafka refuses to ask. What concerns one topic alone is its [`Answer`].
pub fn of_topics<C: ClientContext>(
    client: &Client<C>,
    broker: i32,
    topics: &[&str],
    patience: Duration,
) -> Result<Vec<Answer>, Error> {
    if topics.is_empty() {
        return Ok(Vec::new());
    }
    let names = topics.iter().map(|name| CString::new(*name));
    let names = names.collect::<Result<Vec<_>, _>>()?;
    let kafka = client.native_ptr();
    let collection = collection(&names)?;
    let options = options(client, broker, patience)?;
    // SAFETY: `kafka` lives as long as `client`, which is borrowed.
    let queue = unsafe { sys::rd_kafka_queue_new(kafka) };
    let queue = Owned::new(queue, sys::rd_kafka_queue_destroy, "queue")?;
    // SAFETY: all four are alive. The call copies names and options; the queue is counted by reference, so
    // that an answer after it is destroyed does no harm.
    unsafe {
        sys::rd_kafka_DescribeTopics(kafka, collection.get(), options.get(), queue.get());
    };
    answers(&answer(&queue, patience)?)
}

/// Something of librdkafka that is ours to destroy.
struct Owned<T> {
    pointer: NonNull<T>,
    destroy: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    /// Takes over what `pointer` leads to, which nobody else may destroy, and which `destroy` destroys.
    fn new(
        pointer: *mut T,
        destroy: unsafe extern "C" fn(*mut T),
        what: &'static str,
    ) -> Result<Self, Error> {
        let pointer = NonNull::new(pointer).ok_or(Error::Nothing(what))?;
        Ok(Self { pointer, destroy })
    }

    fn get(&self) -> *mut T {
        self.pointer.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: by `new`, it is alive, ours, and destroyed by this function; nothing uses it any more.
        unsafe { (self.destroy)(self.pointer.as_ptr()) }
    }
}

fn collection(names: &[CString]) -> Result<Owned<sys::rd_kafka_TopicCollection_t>, Error> {
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    // SAFETY: there are so many pointers, each to a string that ends with a zero; they are copied.
    let collection = unsafe {
        sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len())
    };
    let destroy = sys::rd_kafka_TopicCollection_destroy;
    Owned::new(collection, destroy, "list of topics")
}

fn options<C: ClientContext>(
    client: &Client<C>,
    broker: i32,
    patience: Duration,
) -> Result<Owned<sys::rd_kafka_AdminOptions_t>, Error> {
    let of = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
    // SAFETY: the client is borrowed, and so alive.
    let options = unsafe { sys::rd_kafka_AdminOptions_new(client.native_ptr(), of) };
    let options = Owned::new(options, sys::rd_kafka_AdminOptions_destroy, "options")?;
    // SAFETY: the options are alive.
    let error =
        unsafe { sys::rd_kafka_AdminOptions_set_include_authorized_operations(options.get(), 1) };
    if let Some(error) = NonNull::new(error) {
        let _error = Owned {
            pointer: error,
            destroy: sys::rd_kafka_error_destroy,
        };
        return Err(Error::Nothing("operations with topics"));
    }
    let millis = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the options are alive, and there is so much room for the words.
    limited(|words, room| unsafe {
        sys::rd_kafka_AdminOptions_set_request_timeout(options.get(), millis, words, room)
    })?;
    // SAFETY: the options are alive, and there is so much room for the words.
    limited(|words, room| unsafe {
        sys::rd_kafka_AdminOptions_set_broker(options.get(), broker, words, room)
    })?;
    Ok(options)
}

/// Sets an option by a call that takes where to put words about an error, and the room there.
fn limited(set: impl FnOnce(*mut c_char, usize) -> sys::rd_kafka_resp_err_t) -> Result<(), Error> {
    let mut words = [0; 256];
    let code = set(words.as_mut_ptr(), words.len());
    if RDKafkaErrorCode::from(code) == RDKafkaErrorCode::NoError {
        return Ok(());
    }
    // SAFETY: librdkafka ends its words with a zero within the room; without words there are zeros alone.
    Err(Error::Option(unsafe { text(words.as_ptr()) }))
}

/// Waits for the answer on a queue that nothing else comes to.
fn answer(
    queue: &Owned<sys::rd_kafka_queue_t>,
    patience: Duration,
) -> Result<Owned<sys::rd_kafka_event_t>, Error> {
    // librdkafka itself ends the request after `patience`, and says so.
    let end = Instant::now() + patience + Duration::from_millis(500);
    let left = end.saturating_duration_since(Instant::now());
    let millis = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the queue is alive.
    let event = unsafe { sys::rd_kafka_queue_poll(queue.get(), millis) };
    let event = Owned::new(event, sys::rd_kafka_event_destroy, "answer");
    let event = event.map_err(|_| Error::Late(patience))?;
    // SAFETY: the event is alive.
    let code = unsafe { sys::rd_kafka_event_error(event.get()) };
    let code = RDKafkaErrorCode::from(code);
    if code == RDKafkaErrorCode::NoError {
        return Ok(event);
    }
    // SAFETY: the event is alive.
    let said = unsafe { sys::rd_kafka_event_error_string(event.get()) };
    // SAFETY: it is null or a string that lives as long as the event.
    let reason = unsafe { text(said) };
    Err(Error::Request { code, reason })
}

fn answers(event: &Owned<sys::rd_kafka_event_t>) -> Result<Vec<Answer>, Error> {
    // SAFETY: the event is alive; for an event of another kind the result is null.
    let result = unsafe { sys::rd_kafka_event_DescribeTopics_result(event.get()) };
    if result.is_null() {
        return Err(Error::Nothing("description of topics"));
    }
    let mut count = 0;
    // SAFETY: the result lives as long as the event.
    let topics = unsafe { sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count) };
    // SAFETY: it is null or has so many pointers, and lives as long as the event.
    let topics = unsafe { list(topics.cast_const(), count) };
    Ok(topics.iter().map(|topic| of_topic(event, *topic)).collect())
}

/// Reads a description that belongs to `_event`, which keeps it alive.
fn of_topic(
    _event: &Owned<sys::rd_kafka_event_t>,
    topic: *const sys::rd_kafka_TopicDescription_t,
) -> Answer {
    // SAFETY: the description is alive.
    let error = unsafe { sys::rd_kafka_TopicDescription_error(topic) };
    // SAFETY: the error is null, which is no error, or lives as long as the description.
    let code = unsafe { sys::rd_kafka_error_code(error) };
    let code = RDKafkaErrorCode::from(code);
    if code != RDKafkaErrorCode::NoError {
        return Answer::Refused(code);
    }
    let mut count = 0;
    // SAFETY: the description is alive.
    let operations =
        unsafe { sys::rd_kafka_TopicDescription_authorized_operations(topic, &raw mut count) };
    if operations.is_null() {
        return Answer::NotTold;
    }
    // As numbers: a later librdkafka may know operations that the enumeration here lacks.
    // SAFETY: there are so many of them, of this size, and they live as long as the description.
    let operations = unsafe { list(operations.cast::<u32>(), count) };
    let known = operations.iter().filter(|number| **number < u32::BITS);
    Answer::Operations(Operations {
        bits: known.fold(0, |bits, number| bits | 1 << number),
    })
}

/// A list of C's.
///
/// # Safety
///
/// `first` is null or leads to `count` values that live and do not change for `'a`.
unsafe fn list<'a, T>(first: *const T, count: usize) -> &'a [T] {
    if first.is_null() {
        return &[];
    }
    // SAFETY: by the caller.
    unsafe { std::slice::from_raw_parts(first, count) }
}

/// A text of C's, empty for null.
///
/// # Safety
///
/// `words` is null or leads to a string that ends with a zero.
unsafe fn text(words: *const c_char) -> String {
    if words.is_null() {
        return String::new();
    }
    // SAFETY: by the caller.
    let words = unsafe { CStr::from_ptr(words) };
    words.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use rdkafka::ClientConfig;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, Producer};

    use super::*;

    fn producer(brokers: &str) -> BaseProducer {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers);
        config.create().expect("a producer")
    }

    #[test]
    fn a_broker_that_does_not_tell_is_told_from_one_without_the_topic() {
        let cluster = MockCluster::new(1).expect("a cluster");
        cluster.create_topic("orders", 1, 1).expect("a topic");
        let producer = producer(&cluster.bootstrap_servers());
        let patience = Duration::from_secs(30);
        let asked = of_topics(producer.client(), 1, &["nowhere", "orders"], patience);
        let missing = Answer::Refused(RDKafkaErrorCode::UnknownTopicOrPartition);
        assert_eq!(asked.expect("answers"), [missing, Answer::NotTold]);
        let nothing = of_topics(producer.client(), 1, &[], patience);
        assert_eq!(nothing.expect("answers"), []);
    }

    #[test]
    fn what_cannot_be_asked_is_an_error() {
        let cluster = MockCluster::new(1).expect("a cluster");
        let producer = producer(&cluster.bootstrap_servers());
        let ask = |topics: &[&str], patience| of_topics(producer.client(), 1, topics, patience);
        let second = Duration::from_secs(1);
        assert!(matches!(ask(&["a\0b"], second), Err(Error::Name(_))));
        let limit = ask(&["a"], Duration::MAX);
        assert!(
            matches!(&limit, Err(Error::Option(said)) if said.contains("timeout")),
            "{limit:?}"
        );
        let none = of_topics(producer.client(), -1, &["a"], second);
        assert!(matches!(&none, Err(Error::Option(_))), "{none:?}");
        let twice = ask(&["a", "a"], second);
        assert!(
            matches!(&twice, Err(Error::Request { reason, .. }) if reason.contains("Duplicate")),
            "{twice:?}"
        );
    }

    #[test]
    fn a_broker_that_is_not_there_is_an_error_in_time() {
        let producer = producer("127.0.0.1:1");
        let asked = of_topics(
            producer.client(),
            1,
            &["orders"],
            Duration::from_millis(300),
        );
        assert!(
            matches!(asked, Err(Error::Request { .. } | Error::Late(_))),
            "{asked:?}"
        );
    }

    #[test]
    fn operations_are_a_set() {
        let some: Operations = [Operation::Describe, Operation::Write]
            .into_iter()
            .collect();
        assert!(some.contain(Operation::Write) && some.contain(Operation::Describe));
        assert!(!some.contain(Operation::Read));
    }
}
