//! What a simulated relay asks of the world, and the answers.
//!
//! The relay's futures are polled by hand: one that waits for an answer is asked again after each
//! event of the world.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use bytes::Bytes;
use outbox_relay::dead_letters::{DeadLetter, Failure, Reason};
use outbox_relay::event::{Position, RowKey};
use outbox_relay::source::changes::LogRow;
use outbox_relay::source::reader::Range;

use crate::database::{Save, StreamKey};

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    /// A page of the log.
    Page {
        /// The streams, in the order of the answer.
        streams: Vec<StreamKey>,
        /// The microseconds.
        range: Range,
        /// The last row of the page before: index of its stream, and its place.
        after: Option<(u16, Position)>,
        /// Keys without values.
        keys: bool,
    },
    /// Saves checkpoints.
    Save(Vec<Save>),
    /// Writes a dead letter.
    Put(Arc<DeadLetter>),
    /// All keys that have dead letters.
    LetterKeys,
    /// The dead letters of a key, in their order.
    LettersOf(Bytes),
    /// Removes a dead letter, with this timestamp.
    Remove(DeadLetter, i64),
    /// A replay has failed again.
    FailedAgain(DeadLetter, Reason, Failure, i64),
    /// So many microseconds have passed.
    Sleep(i64),
}

/// What is answered.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// Rows, and where the next page begins.
    Rows(Vec<LogRow>, Option<(u16, Position)>),
    /// Keys of rows, and where the next page begins.
    Keys(Vec<RowKey>, Option<(u16, Position)>),
    /// Dead letters.
    Letters(Vec<DeadLetter>),
    /// Keys that have dead letters.
    LetterKeys(Vec<Bytes>),
    /// It is done.
    Done,
    /// It failed, or nothing is known of it.
    Failed,
}

#[derive(Debug, Default)]
struct Inner {
    asked: Vec<(u64, Request)>,
    answers: BTreeMap<u64, Answer>,
    next: u64,
}

/// The way to the world and back.
#[derive(Debug, Default)]
pub(crate) struct Wire(Mutex<Inner>);

impl Wire {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks; gives back the number of the request.
    pub(crate) fn ask(&self, request: Request) -> u64 {
        let mut inner = self.inner();
        let number = inner.next;
        inner.next += 1;
        inner.asked.push((number, request));
        number
    }

    /// Asks and waits for the answer.
    pub(crate) async fn call(&self, request: Request) -> Answer {
        let number = self.ask(request);
        std::future::poll_fn(|_| match self.inner().answers.remove(&number) {
            Some(answer) => Poll::Ready(answer),
            None => Poll::Pending,
        })
        .await
    }

    /// What was asked since the last time.
    pub(crate) fn take_asked(&self) -> Vec<(u64, Request)> {
        std::mem::take(&mut self.inner().asked)
    }

    /// Answers a request of [`Wire::call`].
    pub(crate) fn answer(&self, number: u64, answer: Answer) {
        self.inner().answers.insert(number, answer);
    }
}
