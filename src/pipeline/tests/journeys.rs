//! What a journal is told.

use std::sync::{Mutex, PoisonError};

use super::*;
use crate::telemetry::journey::{End, Journal, Journey};

/// Notes of what was told: the end, attempts, and milliseconds from submit to send and to the end.
#[derive(Debug, Clone, Default)]
pub(super) struct Notes(Arc<Mutex<Vec<String>>>);

impl Journal for Notes {
    fn ended(&self, journey: &Journey<'_>) {
        let since = |moment: std::time::SystemTime| {
            let passed = moment.duration_since(journey.submitted);
            passed.expect("after the submit").as_millis()
        };
        let end = match journey.end {
            End::Published => "published",
            End::DeadLetter(reason) => reason,
        };
        let note = format!(
            "{end} to {}: {} attempts, sent {:?}, ended {}, {}",
            journey.topic.unwrap_or("nowhere"),
            journey.attempts,
            journey.sent.map(since),
            since(journey.ended),
            journey.traceparent.unwrap_or("untraced"),
        );
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notes.push(note);
    }

    fn close(&self) {}
}

impl Notes {
    fn all(&self) -> Vec<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The trace context, in the header that the table's configuration names.
fn header(context: &'static str) -> Header {
    Header {
        name: Arc::from("trace"),
        value: Some(Bytes::from_static(context.as_bytes())),
    }
}

#[tokio::test(start_paused = true)]
async fn a_journal_is_told_of_what_is_published_and_of_what_is_kept() {
    let (mut relay, _shelf) = with_shelf(testing::config(), |send, record| match &record.key[..] {
        b"big" => Step::Reject(Code::MessageSizeTooLarge),
        _ if send < 2 => Step::Reject(ODD),
        _ => Step::Deliver,
    });
    let mut traced = relay.delivery("k", b"");
    traced.record.headers.push(header("00-a-b-01"));
    relay.handle.submit(traced).await.expect("it runs");
    relay.settled(1).await;
    relay.submit("big").await;
    relay.settled(1).await;
    let expected = [
        "published to t: 3 attempts, sent Some(300), ended 300, 00-a-b-01",
        "permanent to t: 1 attempts, sent Some(0), ended 0, untraced",
    ];
    assert_eq!(relay.notes.all(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_replay_is_told_with_the_trace_context_of_its_record() {
    let (relay, _shelf) = with_shelf(testing::config(), |_, _| Step::Deliver);
    let wanted = Replay {
        table: TableId(0),
        record: Record {
            topic: Arc::from("t"),
            key: Bytes::from_static(b"k"),
            payload: None,
            headers: vec![header("00-c-d-01")],
            timestamp_millis: 1,
        },
        label: Label::default(),
        attempts: 5,
    };
    let replayed = relay.handle.replay(wanted).await.expect("it runs");
    assert_eq!(replayed, Replayed::Published);
    let expected = ["published to t: 1 attempts, sent Some(0), ended 0, 00-c-d-01"];
    assert_eq!(relay.notes.all(), expected);
}
