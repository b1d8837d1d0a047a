//! The board: one latch a part, and the readiness that follows from them.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Serialize, Serializer};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Part, Role};
use crate::config::UnreadyWhen;

/// How a part fares. A reason is for a person; it holds no key, payload or secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Well, or idle.
    Ok,
    /// It works, and a person should look.
    Degraded(Cow<'static, str>),
    /// It does not do its work.
    Failed(Cow<'static, str>),
}

impl State {
    /// The state without its reason: `ok`, `degraded` or `failed`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded(_) => "degraded",
            Self::Failed(_) => "failed",
        }
    }

    /// Why it is not ok.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Ok => None,
            Self::Degraded(reason) | Self::Failed(reason) => Some(reason),
        }
    }

    fn is_failed(&self) -> bool {
        matches!(self, Self::Failed(_))
    }
}

/// The states of all parts. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Board(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    parts: Vec<Entry>,
    gate: Option<Gate>,
}

#[derive(Debug)]
struct Entry {
    part: Part,
    state: State,
    /// When the state got its present name.
    since: Instant,
    is_ok: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Gate {
    rule: UnreadyWhen,
    ready: watch::Sender<bool>,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The latch of `part`; it is ok until somebody says otherwise. Several reporters of one part
    /// share it: the last word holds.
    pub fn reporter(&self, part: Part) -> Reporter {
        let mut inner = self.lock();
        let known = inner.parts.iter().position(|entry| entry.part == part);
        let index = known.unwrap_or(inner.parts.len());
        if known.is_none() {
            inner.parts.push(Entry {
                part,
                state: State::Ok,
                since: Instant::now(),
                is_ok: Arc::new(AtomicBool::new(true)),
            });
        }
        Reporter {
            is_ok: Arc::clone(&inner.parts[index].is_ok),
            board: self.clone(),
            index,
        }
    }

    /// Everything is started: from now on `ready` follows the parts, by `rule`.
    pub fn open(&self, rule: UnreadyWhen, ready: watch::Sender<bool>) {
        let mut inner = self.lock();
        inner.gate = Some(Gate { rule, ready });
        inner.judge();
    }

    /// A stop begins: not ready, whatever the parts say.
    pub fn close(&self) {
        if let Some(gate) = self.lock().gate.take() {
            gate.ready.send_replace(false);
        }
    }

    /// All states as they are now.
    pub fn snapshot(&self) -> Snapshot {
        let inner = self.lock();
        let parts = inner.parts.iter().map(|entry| PartStatus {
            part: entry.part.clone(),
            state: entry.state.clone(),
            for_seconds: entry.since.elapsed().as_secs(),
        });
        Snapshot {
            ready: inner.gate.as_ref().is_some_and(|gate| *gate.ready.borrow()),
            parts: parts.collect(),
        }
    }
}

impl Inner {
    fn judge(&self) {
        let Some(gate) = &self.gate else { return };
        let of = |role: Role| {
            let entries = self.parts.iter();
            entries.filter(move |entry| entry.part.role() == role)
        };
        let failed = |role| of(role).filter(|entry| entry.state.is_failed()).count();
        let tables = match gate.rule {
            UnreadyWhen::AllFailed => of(Role::Table).count().max(1),
            UnreadyWhen::AnyFailed => 1,
        };
        let ready = failed(Role::Needed) == 0 && failed(Role::Table) < tables;
        gate.ready
            .send_if_modified(|now| std::mem::replace(now, ready) != ready);
    }
}

/// Tells the state of one part; cheap enough to be called for every event. Clones share the latch.
#[derive(Debug, Clone)]
pub struct Reporter {
    board: Board,
    index: usize,
    is_ok: Arc<AtomicBool>,
}

impl Reporter {
    /// The part is well. Costs one load when it was well before.
    pub fn ok(&self) {
        if !self.is_ok.load(Ordering::Acquire) {
            self.set(State::Ok);
        }
    }

    /// The part works, and a person should look.
    pub fn degraded(&self, reason: impl Into<Cow<'static, str>>) {
        self.set(State::Degraded(reason.into()));
    }

    /// The part does not do its work.
    pub fn failed(&self, reason: impl Into<Cow<'static, str>>) {
        self.set(State::Failed(reason.into()));
    }

    /// Sets the state.
    pub fn set(&self, state: State) {
        let mut inner = self.board.lock();
        let entry = &mut inner.parts[self.index];
        let changed = entry.state.name() != state.name();
        entry.is_ok.store(state == State::Ok, Ordering::Release);
        entry.state = state;
        if changed {
            entry.since = Instant::now();
            inner.judge();
        }
    }
}

/// The board at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// Whether the relay is ready.
    pub ready: bool,
    /// Every part, in the order in which they were made.
    pub parts: Vec<PartStatus>,
}

/// A part at one moment. Serialises as `part`, `state`, `reason`, `for_seconds`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartStatus {
    /// Which part.
    pub part: Part,
    /// How it fares.
    pub state: State,
    /// For how long it has been ok, degraded or failed, in whole seconds.
    pub for_seconds: u64,
}

impl Serialize for PartStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Form<'s> {
            part: String,
            state: &'s str,
            reason: Option<&'s str>,
            for_seconds: u64,
        }
        let form = Form {
            part: self.part.to_string(),
            state: self.state.name(),
            reason: self.state.reason(),
            for_seconds: self.for_seconds,
        };
        form.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::runtime::supervisor::{Kind, Name};

    fn table(name: &str) -> Part {
        Part::Task(Name::source(&name))
    }

    fn opened(rule: UnreadyWhen) -> (Board, watch::Receiver<bool>) {
        let board = Board::default();
        let (ready, is_ready) = watch::channel(false);
        board.open(rule, ready);
        (board, is_ready)
    }

    #[test]
    fn readiness_is_false_before_the_start_and_from_the_stop_on() {
        let board = Board::default();
        let kafka = board.reporter(Part::Kafka);
        let (ready, is_ready) = watch::channel(false);
        assert!(!board.snapshot().ready);
        board.open(UnreadyWhen::AllFailed, ready);
        assert!(*is_ready.borrow() && board.snapshot().ready);
        board.close();
        kafka.failed("x");
        kafka.ok();
        assert!(!*is_ready.borrow() && !board.snapshot().ready);
    }

    #[test]
    fn only_a_failed_part_that_is_needed_makes_unready() {
        let monitor = Part::Task(Kind::HealthMonitor.into());
        for (part, needed) in [
            (Part::Scylla, true),
            (Part::Kafka, true),
            (Part::Task(Kind::Pipeline.into()), true),
            (Part::Checkpoints, false),
            (Part::DeadLetters, false),
            (Part::Log("a.b".to_owned()), false),
            (monitor, false),
        ] {
            let (board, ready) = opened(UnreadyWhen::AnyFailed);
            let reporter = board.reporter(part.clone());
            reporter.degraded("slow");
            assert!(*ready.borrow(), "{part}");
            reporter.failed("gone");
            assert_eq!(*ready.borrow(), !needed, "{part}");
            reporter.ok();
            assert!(*ready.borrow(), "{part}");
        }
    }

    #[test]
    fn one_failed_table_counts_as_configured() {
        for (rule, with_one) in [
            (UnreadyWhen::AllFailed, true),
            (UnreadyWhen::AnyFailed, false),
        ] {
            let (board, ready) = opened(rule);
            let tables = ["a.b", "a.c"].map(|name| board.reporter(table(name)));
            assert!(*ready.borrow());
            tables[0].failed("dropped");
            assert_eq!(*ready.borrow(), with_one);
            tables[1].failed("dropped");
            assert!(!*ready.borrow());
            tables[0].ok();
            assert_eq!(*ready.borrow(), with_one);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_tells_every_part_and_for_how_long() {
        let (board, _ready) = opened(UnreadyWhen::AllFailed);
        board.reporter(Part::Scylla);
        let source = board.reporter(table("shop.outbox"));
        source.failed("first");
        tokio::time::advance(Duration::from_secs(70)).await;
        board.reporter(table("shop.outbox")).failed("second");
        let json = serde_json::to_value(board.snapshot()).unwrap();
        let expected = serde_json::json!({ "ready": false, "parts": [
            { "part": "ScyllaDB", "state": "ok", "reason": null, "for_seconds": 70 },
            { "part": "task source of shop.outbox", "state": "failed", "reason": "second",
              "for_seconds": 70 },
        ]});
        assert_eq!(json, expected);
    }

    proptest! {
        /// Whatever is reported in whatever order: readiness is a function of the last states.
        #[test]
        fn readiness_follows_from_the_last_states(
            any in any::<bool>(),
            reports in prop::collection::vec((0_usize..6, 0_u32..3), 0..40),
        ) {
            let rule = if any { UnreadyWhen::AnyFailed } else { UnreadyWhen::AllFailed };
            let (board, ready) = opened(rule);
            let parts = [
                Part::Scylla, Part::Kafka, Part::Checkpoints, table("a.a"), table("a.b"), table("a.c"),
            ];
            let reporters = parts.map(|part| board.reporter(part));
            let mut last = [0; 6];
            for (part, state) in reports {
                last[part] = state;
                match state {
                    0 => reporters[part].ok(),
                    1 => reporters[part].degraded("slow"),
                    _ => reporters[part].failed("gone"),
                }
            }
            let failed = last[3..].iter().filter(|state| **state == 2).count();
            let tables = if any { failed > 0 } else { failed == 3 };
            prop_assert_eq!(*ready.borrow(), last[0] < 2 && last[1] < 2 && !tables);
        }
    }
}
