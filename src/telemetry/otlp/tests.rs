//! Journeys, and the spans that are exported of them.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry::Value;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::SpanData;

use super::*;
use crate::telemetry::journey::Read;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const WRITE: &str = "b7ad6b7169203331";

/// Keeps what is exported.
#[derive(Debug, Clone, Default)]
struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Kept {
    fn export(&self, batch: Vec<SpanData>) -> impl Future<Output = OTelSdkResult> + Send {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(batch);
        std::future::ready(Ok(()))
    }
}

fn at(millis: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + millis)
}

fn journey(traceparent: Option<&str>) -> Journey<'_> {
    Journey {
        table: "app.orders_outbox",
        topic: Some("orders.events"),
        event_id: "e-1",
        event_type: Some("Placed"),
        traceparent,
        read: Some(Read {
            written: at(0),
            asked: at(7),
        }),
        submitted: at(9),
        sent: Some(at(10)),
        appended: Some(Appended {
            partition: 3,
            offset: 1 << 40,
        }),
        ended: at(14),
        attempts: 2,
        end: End::Published,
    }
}

/// What is exported of these journeys.
fn exported(sample_one_in: usize, journeys: &[Journey<'_>]) -> Vec<SpanData> {
    let kept = Kept::default();
    let spans = Spans::with(kept.clone(), sample_one_in, "a-relay");
    for journey in journeys {
        spans.ended(journey);
    }
    spans.close();
    let mut kept = kept.0.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::take(&mut kept)
}

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{WRITE}-{flags}")
}

fn named<'s>(spans: &'s [SpanData], name: &str) -> &'s SpanData {
    let found = spans.iter().find(|span| span.name == name);
    found.unwrap_or_else(|| panic!("no {name} in {spans:#?}"))
}

fn attribute(span: &SpanData, key: &str) -> Option<Value> {
    let mut attributes = span.attributes.iter();
    let found = attributes.find(|attribute| attribute.key.as_str() == key);
    found.map(|attribute| attribute.value.clone())
}

#[test]
fn a_published_event_is_a_tree_under_the_span_of_its_write() {
    let spans = exported(0, &[journey(Some(&traceparent("01")))]);
    assert_eq!(spans.len(), 5, "{spans:#?}");
    let whole = named(&spans, "outbox app.orders_outbox");
    assert_eq!(whole.span_context.trace_id().to_string(), TRACE);
    assert_eq!(whole.parent_span_id.to_string(), WRITE);
    assert!(whole.parent_span_is_remote);
    assert_eq!((whole.start_time, whole.end_time), (at(0), at(14)));
    assert_eq!(attribute(whole, "outbox_relay.attempts"), Some(2.into()));
    assert_eq!(attribute(whole, "outbox_relay.replay"), Some(false.into()));
    assert_eq!(whole.status, Status::Unset);
    for (name, start, end) in [
        ("wait", 0, 7),
        ("read", 7, 9),
        ("queue", 9, 10),
        ("send orders.events", 10, 14),
    ] {
        let span = named(&spans, name);
        assert_eq!(span.span_context.trace_id().to_string(), TRACE, "{name}");
        assert_eq!(span.parent_span_id, whole.span_context.span_id(), "{name}");
        assert_eq!(
            (span.start_time, span.end_time),
            (at(start), at(end)),
            "{name}"
        );
    }
    let send = named(&spans, "send orders.events");
    assert_eq!(send.span_kind, SpanKind::Producer);
    assert_eq!(
        attribute(send, "messaging.destination.name"),
        Some("orders.events".into())
    );
    assert_eq!(attribute(send, "messaging.message.id"), Some("e-1".into()));
    let partition = attribute(send, "messaging.destination.partition.id");
    assert_eq!(partition, Some("3".into()));
    let offset = attribute(send, "messaging.kafka.offset");
    assert_eq!(offset, Some((1_i64 << 40).into()));
}

#[test]
fn what_the_write_did_not_sample_is_not_exported() {
    let unsampled = traceparent("00");
    let journeys = [journey(Some(&unsampled)), journey(None)];
    assert!(exported(0, &journeys).is_empty());
    let spans = exported(1, &journeys);
    assert_eq!(spans.len(), 5, "only the one without a context: {spans:#?}");
    let whole = named(&spans, "outbox app.orders_outbox");
    assert_eq!(whole.parent_span_id, SpanId::INVALID);
    assert_ne!(whole.span_context.trace_id().to_string(), TRACE);
}

#[test]
fn of_those_without_a_context_about_one_in_so_many_is_traced() {
    let journeys = vec![journey(None); 2000];
    let traced = exported(10, &journeys).len() / 5;
    // Binomial: 200 expected, a standard deviation of 13.4.
    assert!((100..=300).contains(&traced), "{traced}");
}

#[test]
fn a_dead_letter_is_an_error_and_was_never_sent() {
    let context = traceparent("01");
    let mut dead = journey(Some(&context));
    dead.end = End::DeadLetter("permanent");
    let spans = exported(0, &[dead]);
    assert_eq!(spans.len(), 4, "{spans:#?}");
    let whole = named(&spans, "outbox app.orders_outbox");
    assert!(
        matches!(whole.status, Status::Error { .. }),
        "{:?}",
        whole.status
    );
    assert_eq!(attribute(whole, "error.type"), Some("permanent".into()));
}

#[test]
fn a_replay_has_neither_waited_nor_been_read() {
    let context = traceparent("01");
    let mut replay = journey(Some(&context));
    replay.read = None;
    let spans = exported(0, &[replay]);
    let mut names: Vec<_> = spans.iter().map(|span| span.name.as_ref()).collect();
    names.sort_unstable();
    let wanted = ["outbox app.orders_outbox", "queue", "send orders.events"];
    assert_eq!(names, wanted);
    let whole = named(&spans, "outbox app.orders_outbox");
    assert_eq!(whole.start_time, at(9));
    assert_eq!(attribute(whole, "outbox_relay.replay"), Some(true.into()));
}

#[test]
fn a_writers_clock_that_runs_ahead_makes_no_negative_spans() {
    let context = traceparent("01");
    let mut ahead = journey(Some(&context));
    ahead.read = Some(Read {
        written: at(500),
        asked: at(7),
    });
    for span in exported(0, &[ahead]) {
        assert!(span.end_time >= span.start_time, "{span:#?}");
    }
}

#[test]
fn only_a_trace_context_is_one() {
    let good = [
        traceparent("01"),
        traceparent("00"),
        traceparent("ff"),
        format!("01-{TRACE}-{WRITE}-01-what-comes-later"),
    ];
    for text in &good {
        let context = context(text).expect("a trace context");
        assert_eq!(context.trace_id().to_string(), TRACE);
        assert_eq!(context.span_id().to_string(), WRITE);
        assert!(context.is_remote());
    }
    assert!(context(&good[2]).is_some_and(|context| context.is_sampled()));
    assert!(context(&good[1]).is_some_and(|context| !context.is_sampled()));
    let zeros = "0".repeat(32);
    let bad = [
        String::new(),
        "garbage".to_owned(),
        format!("ff-{TRACE}-{WRITE}-01"),
        format!("00-{TRACE}-{WRITE}-01-more"),
        format!("00-{zeros}-{WRITE}-01"),
        format!("00-{TRACE}-{}-01", &zeros[..16]),
        format!("00-{}-{WRITE}-01", TRACE.to_uppercase()),
        format!("00-{TRACE}-{WRITE}"),
        format!("00-{TRACE}-{WRITE}-1"),
        format!("00-{TRACE}+{WRITE}-01"),
    ];
    for text in &bad {
        assert!(context(text).is_none(), "{text}");
    }
}
