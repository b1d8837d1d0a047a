//! Faults on purpose: what a statement meets instead of its ordinary answer.
//!
//! Invariants
//! 1. Without a fault in force a request takes the same path as ever.
//! 2. A fault sees the text and the bound values of a statement and nothing else; of the faults that match, the one
//!    that was injected first applies.
//! 3. Requests that are no statements (the greeting, `PREPARE`, `REGISTER`) never meet a fault.
//!
//! Not here: what a statement means, and faults of the network between client and server.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::error::Error;
pub use crate::hits::Injected;

/// Faults in force at a time; [`Faults::inject`] forgets the oldest beyond this.
pub const MAX_FAULTS: usize = 256;

/// What happens to a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// It is not executed, and answered with this error.
    Fail(Error),
    /// It is executed, and answered with this error all the same: a timeout of a write that took place.
    FailAfter(Error),
    /// A prepared statement is said to be unknown, as after a restart of the node. Others are executed.
    Unprepared,
    /// It is executed after a while. The other requests of the connection do not wait for it.
    Delay(Duration),
    /// It is neither executed nor ever answered.
    Silence,
    /// It is executed, half of the answer is sent, and the connection is closed.
    Truncate,
    /// It is not executed, and the connection is closed.
    Disconnect,
}

/// Which statements meet which effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pattern: String,
    value: Option<Vec<u8>>,
    left: Option<u64>,
    effect: Effect,
}

impl Fault {
    /// Statements whose text contains `pattern`; a batch, if one of its statements does.
    pub fn on(pattern: impl Into<String>, effect: Effect) -> Self {
        Self {
            pattern: pattern.into(),
            value: None,
            left: None,
            effect,
        }
    }

    /// Only statements with a bound value that contains these bytes.
    #[must_use]
    pub fn with_value(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.value = Some(bytes.into());
        self
    }

    /// Only so often; for ever unless said otherwise.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.left = Some(times);
        self
    }

    fn matches(&self, seen: &Seen<'_>) -> bool {
        let texts = |text: &&str| text.contains(&self.pattern);
        let holds = |bytes: &[u8]| {
            let wanted = self.value.as_deref().unwrap_or_default();
            wanted.is_empty() || bytes.windows(wanted.len()).any(|window| window == wanted)
        };
        self.left != Some(0)
            && seen.texts.iter().any(texts)
            && (self.value.is_none() || seen.values.iter().any(|bytes| holds(bytes)))
    }
}

/// What a fault can look at.
#[derive(Debug, Default)]
pub(super) struct Seen<'a> {
    /// The texts of the statements: several in a batch.
    pub(super) texts: Vec<&'a str>,
    /// The bound values.
    pub(super) values: Vec<&'a [u8]>,
}

/// The faults of a server. None are in force at the start.
#[derive(Debug, Default)]
pub struct Faults {
    active: AtomicUsize,
    list: Mutex<Vec<Active>>,
}

#[derive(Debug)]
struct Active {
    fault: Fault,
    hits: watch::Sender<u64>,
}

impl Faults {
    fn lock(&self) -> MutexGuard<'_, Vec<Active>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a fault in force, on all nodes.
    pub fn inject(&self, fault: Fault) -> Injected {
        let (hits, injected) = Injected::new();
        let mut list = self.lock();
        if list.len() >= MAX_FAULTS {
            list.remove(0);
        }
        list.push(Active { fault, hits });
        self.active.store(list.len(), Ordering::Release);
        injected
    }

    /// Ends all faults. What was delayed is still answered late, and what was silenced never.
    pub fn clear(&self) {
        let mut list = self.lock();
        list.clear();
        self.active.store(0, Ordering::Release);
    }

    /// Whether statements have to be shown to [`Faults::meet`].
    pub(super) fn any(&self) -> bool {
        self.active.load(Ordering::Acquire) > 0
    }

    /// The effect that a statement meets.
    pub(super) fn meet(&self, seen: &Seen<'_>) -> Option<Effect> {
        let mut list = self.lock();
        let met = list.iter_mut().find(|active| active.fault.matches(seen))?;
        if let Some(left) = &mut met.fault.left {
            *left -= 1;
        }
        met.hits.send_modify(|hits| *hits += 1);
        Some(met.fault.effect.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen<'a>(texts: &[&'a str], values: &[&'a [u8]]) -> Seen<'a> {
        Seen {
            texts: texts.to_vec(),
            values: values.to_vec(),
        }
    }

    #[test]
    fn the_first_fault_that_matches_applies_until_it_is_used_up() {
        let faults = Faults::default();
        assert!(!faults.any());
        let once = faults.inject(Fault::on("FROM ks.t", Effect::Disconnect).times(1));
        let rest = faults.inject(Fault::on("SELECT", Effect::Silence));
        assert!(faults.any());
        let select = seen(&["SELECT * FROM ks.t"], &[]);
        assert_eq!(faults.meet(&select), Some(Effect::Disconnect));
        assert_eq!(faults.meet(&select), Some(Effect::Silence));
        assert_eq!(faults.meet(&seen(&["INSERT INTO ks.u"], &[])), None);
        assert_eq!((once.hits(), rest.hits()), (1, 1));
        faults.clear();
        assert!(!faults.any());
        assert_eq!(faults.meet(&select), None);
    }

    #[test]
    fn a_batch_matches_by_one_of_its_statements_and_a_value_by_its_bytes() {
        let faults = Faults::default();
        faults.inject(Fault::on("INTO ks.t", Effect::Unprepared).with_value([2, 3]));
        let texts = ["INSERT INTO ks.u", "INSERT INTO ks.t"];
        assert_eq!(faults.meet(&seen(&texts, &[&[1, 2]])), None);
        assert_eq!(faults.meet(&seen(&texts[..1], &[&[1, 2, 3]])), None);
        let met = faults.meet(&seen(&texts, &[&[9], &[1, 2, 3]]));
        assert_eq!(met, Some(Effect::Unprepared));
    }

    #[test]
    fn the_oldest_of_too_many_is_forgotten() {
        let faults = Faults::default();
        for number in 0..=MAX_FAULTS {
            faults.inject(Fault::on(format!("<{number}>"), Effect::Silence));
        }
        assert_eq!(faults.meet(&seen(&["<0>"], &[])), None);
        assert_eq!(faults.meet(&seen(&["<1>"], &[])), Some(Effect::Silence));
    }
}
