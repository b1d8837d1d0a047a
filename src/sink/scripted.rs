//! A sink for tests that does what its script says: deliver, refuse, fail after the append, hold,
//! answer late.
//!
//! Owns no policy: the script decides per send. What has been "appended" can be looked at, and
//! awaited, through [`Control`].

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use rdkafka::error::RDKafkaErrorCode;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Appended, DeliveryError, OpenError, Reporter, SendError, Sink};
use crate::event::Record;

/// What becomes of one send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Append and say so.
    Deliver,
    /// Do not append; report this error.
    Reject(RDKafkaErrorCode),
    /// Append, then report this error: the answer was lost.
    LoseAnswer(RDKafkaErrorCode),
    /// Neither append nor answer until [`Control::release`] or [`Control::reject`].
    Hold,
    /// Append, and say so after this time.
    Slow(Duration),
    /// Do not accept: the queue is full.
    Full,
    /// Do not accept: this error, at once.
    Refuse(RDKafkaErrorCode),
}

type Script = Box<dyn FnMut(u64, &Record) -> Step + Send>;

#[derive(Default)]
struct Shared {
    appended: Vec<Record>,
    held: VecDeque<(u64, Record)>,
    reports: Option<Reporter>,
    opened: u64,
    sends: u64,
}

impl Shared {
    fn append(&mut self, record: &Record) -> Appended {
        self.appended.push(record.clone());
        Appended {
            partition: 0,
            offset: self.appended.len() as i64 - 1,
        }
    }
}

/// The sink. Its script is called with the number of the send (from 0) and the record.
pub struct ScriptedSink {
    script: Script,
    control: Control,
    late: JoinSet<()>,
}

impl fmt::Debug for ScriptedSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedSink").finish_non_exhaustive()
    }
}

/// Looks into a [`ScriptedSink`] while the pipeline owns it.
#[derive(Clone)]
pub struct Control {
    shared: Arc<Mutex<Shared>>,
    sends: Arc<watch::Sender<u64>>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

impl ScriptedSink {
    /// A sink that follows `script`, and its control.
    pub fn new(script: impl FnMut(u64, &Record) -> Step + Send + 'static) -> (Self, Control) {
        let control = Control {
            shared: Arc::new(Mutex::new(Shared::default())),
            sends: Arc::new(watch::Sender::new(0)),
        };
        let sink = Self {
            script: Box::new(script),
            control: control.clone(),
            late: JoinSet::new(),
        };
        (sink, control)
    }

    /// A sink that delivers everything.
    pub fn delivering() -> (Self, Control) {
        Self::new(|_, _| Step::Deliver)
    }
}

impl Control {
    fn shared(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is in the "topic", in order.
    pub fn appended(&self) -> Vec<Record> {
        self.shared().appended.clone()
    }

    /// How often the sink has been opened.
    pub fn opened(&self) -> u64 {
        self.shared().opened
    }

    /// How often `send` has been called.
    pub fn sends(&self) -> u64 {
        self.shared().sends
    }

    /// Waits until `send` has been called at least `count` times.
    pub async fn sent(&self, count: u64) {
        let mut sends = self.sends.subscribe();
        let _ = sends.wait_for(|&sends| sends >= count).await;
    }

    /// Appends and answers what is held, oldest first; returns how many.
    pub fn release(&self) -> usize {
        let mut shared = self.shared();
        let held = std::mem::take(&mut shared.held);
        let count = held.len();
        for (token, record) in held {
            let appended = shared.append(&record);
            if let Some(reports) = &shared.reports {
                reports.report(token, Ok(appended));
            }
        }
        count
    }

    /// Reports this error for all that is held, oldest first, and appends none of it; returns how
    /// many.
    pub fn reject(&self, code: RDKafkaErrorCode) -> usize {
        let mut shared = self.shared();
        let held = std::mem::take(&mut shared.held);
        if let Some(reports) = &shared.reports {
            for (token, _) in &held {
                reports.report(*token, Err(DeliveryError::from_code(code)));
            }
        }
        held.len()
    }
}

impl Sink for ScriptedSink {
    fn open(&mut self, reports: Reporter) -> Result<(), OpenError> {
        let mut shared = self.control.shared();
        shared.reports = Some(reports);
        shared.held.clear();
        shared.opened += 1;
        self.late.abort_all();
        Ok(())
    }

    fn send(&mut self, token: u64, record: &Record) -> Result<(), SendError> {
        let mut shared = self.control.shared();
        let Some(reports) = shared.reports.clone() else {
            return Err(SendError::Failed(DeliveryError::from_code(
                RDKafkaErrorCode::State,
            )));
        };
        let step = (self.script)(shared.sends, record);
        shared.sends += 1;
        self.control.sends.send_replace(shared.sends);
        match step {
            Step::Deliver => {
                let appended = shared.append(record);
                reports.report(token, Ok(appended));
            }
            Step::Reject(code) => reports.report(token, Err(DeliveryError::from_code(code))),
            Step::LoseAnswer(code) => {
                shared.append(record);
                reports.report(token, Err(DeliveryError::from_code(code)));
            }
            Step::Hold => shared.held.push_back((token, record.clone())),
            Step::Slow(delay) => {
                let appended = shared.append(record);
                self.late.spawn(async move {
                    tokio::time::sleep(delay).await;
                    reports.report(token, Ok(appended));
                });
            }
            Step::Full => return Err(SendError::QueueFull),
            Step::Refuse(code) => return Err(SendError::Failed(DeliveryError::from_code(code))),
        }
        Ok(())
    }

    fn close(&mut self, timeout: Duration) -> BoxFuture<'_, ()> {
        async move {
            let all = async { while self.late.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(timeout, all).await;
            self.control.shared().reports = None;
        }
        .boxed()
    }
}
