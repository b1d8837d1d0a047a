//! Log rows that readers see late: the write is acknowledged at once, and its log rows appear when a rule says.
//!
//! Invariants
//! 1. Without a rule in force a write takes the same path as ever.
//! 2. The log rows of one write to one partition (they share stream and `cdc$time`) appear together.
//! 3. Base tables are never affected, nor are rows that were written before a rule was injected.
//! 4. Of the rules that match, the one that was injected first applies. A rule's seed and the order of the writes
//!    decide which writes it chooses and for how long.
//!
//! Times are the emulator's clock: advancing it brings hidden rows forward. How a row is hidden is storage's business.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::cdc::log_name;
use crate::hits::Injected;
use crate::hooks::{Random as _, SeededRandom};
use crate::mutation::{CellChange, Change, Mutation};
use crate::storage::Veil;
use crate::types::{Value, encode};

/// Rules in force at a time; [`Visibility::inject`] forgets the oldest beyond this.
pub const MAX_RULES: usize = 256;

/// Most reads that a row can be hidden from.
pub const MAX_READS: u32 = 10_000;

/// How long log rows stay hidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hide {
    /// For this time after the write.
    For(Duration),
    /// For a random time between these two.
    Between(Duration, Duration),
    /// From so many reads (pages) that would return them, [`MAX_READS`] at most: a page that shows a later write
    /// without an earlier one.
    Reads(u32),
}

/// Which writes have their log rows hidden.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    keyspace: String,
    log_table: String,
    hide: Hide,
    share: f64,
    seed: u64,
    value: Option<Vec<u8>>,
    left: Option<u64>,
    whole_write: bool,
}

impl Rule {
    /// All writes to a base table with CDC, as in `ks.t`. A write is what one statement or batch changes in one
    /// partition.
    pub fn on(table: impl AsRef<str>, hide: Hide) -> Self {
        let (keyspace, table) = table
            .as_ref()
            .split_once('.')
            .unwrap_or(("", table.as_ref()));
        Self {
            keyspace: keyspace.to_owned(),
            log_table: log_name(table),
            hide,
            share: 1.0,
            seed: 1,
            value: None,
            left: None,
            whole_write: false,
        }
    }

    /// Only this share of the writes (0 to 1), chosen at random.
    #[must_use]
    pub fn share(mut self, share: f64) -> Self {
        self.share = share;
        self
    }

    /// What the random choices start from; 1 unless said otherwise.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Only writes that log a value (key columns included) that contains these bytes.
    #[must_use]
    pub fn with_value(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.value = Some(bytes.into());
        self
    }

    /// Only so many writes; for ever unless said otherwise.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.left = Some(times);
        self
    }

    /// Hides all log rows of the statement or batch that such a write is part of, whatever their tables: a logged
    /// batch whose coordinator died.
    #[must_use]
    pub fn whole_write(mut self) -> Self {
        self.whole_write = true;
        self
    }

    fn matches(&self, log: &Mutation) -> bool {
        self.left != Some(0)
            && log.table.name == self.log_table
            && log.table.keyspace == self.keyspace
            && self.value.as_deref().is_none_or(|bytes| logs(log, bytes))
    }
}

/// Whether a log mutation has a value that contains these bytes.
fn logs(log: &Mutation, wanted: &[u8]) -> bool {
    let holds = |value: &Value| {
        wanted.is_empty()
            || encode(value)
                .windows(wanted.len())
                .any(|window| window == wanted)
    };
    log.changes.iter().any(|change| match change {
        Change::Upsert(upsert) => upsert
            .cells
            .iter()
            .any(|(_, cell)| matches!(cell, CellChange::Set(value) if holds(value))),
        Change::DeleteRow(_) | Change::DeleteRange(_) | Change::DeletePartition => false,
    })
}

#[derive(Debug)]
struct Active {
    rule: Rule,
    random: SeededRandom,
    hits: watch::Sender<u64>,
}

impl Active {
    /// Whether the dice choose a write that matches.
    fn chooses(&self) -> bool {
        self.rule.share >= 1.0 || self.fraction() < self.rule.share
    }

    /// A number from 0 up to 1.
    fn fraction(&self) -> f64 {
        (self.random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn apply(&mut self, now_micros: i64) -> Arc<Veil> {
        if let Some(left) = &mut self.rule.left {
            *left -= 1;
        }
        self.hits.send_modify(|hits| *hits += 1);
        let after = |time: Duration| {
            now_micros.saturating_add(i64::try_from(time.as_micros()).unwrap_or(i64::MAX))
        };
        Arc::new(match self.rule.hide {
            Hide::For(time) => Veil::until(after(time)),
            Hide::Between(from, to) => {
                let span = to.saturating_sub(from);
                Veil::until(after(from + span.mul_f64(self.fraction())))
            }
            Hide::Reads(reads) => Veil::from_reads(reads.min(MAX_READS)),
        })
    }
}

/// The rules of a server. None are in force at the start.
#[derive(Debug, Default)]
pub struct Visibility {
    active: AtomicUsize,
    hidden: AtomicU64,
    rules: Mutex<Vec<Active>>,
}

impl Visibility {
    fn lock(&self) -> MutexGuard<'_, Vec<Active>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a rule in force. What is returned counts the writes that it hid.
    pub fn inject(&self, rule: Rule) -> Injected {
        let (hits, injected) = Injected::new();
        let random = SeededRandom::new(rule.seed);
        let mut rules = self.lock();
        if rules.len() >= MAX_RULES {
            rules.remove(0);
        }
        rules.push(Active { rule, random, hits });
        self.active.store(rules.len(), Ordering::Release);
        injected
    }

    /// Ends all rules. What is hidden stays so for its time.
    pub fn clear(&self) {
        let mut rules = self.lock();
        rules.clear();
        self.active.store(0, Ordering::Release);
    }

    /// How many writes have been hidden since the start, under all rules.
    pub fn hidden(&self) -> u64 {
        self.hidden.load(Ordering::Relaxed)
    }

    /// What hides each of the log mutations of one statement or batch; empty when nothing is hidden.
    pub(crate) fn veils(&self, log: &[Mutation], now_micros: i64) -> Vec<Option<Arc<Veil>>> {
        if log.is_empty() || self.active.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let mut rules = self.lock();
        let mut veils: Vec<Option<Arc<Veil>>> = vec![None; log.len()];
        for (at, mutation) in log.iter().enumerate() {
            if veils[at].is_some() {
                continue;
            }
            let found = rules
                .iter_mut()
                .find(|active| active.rule.matches(mutation));
            let Some(active) = found.filter(|active| active.chooses()) else {
                continue;
            };
            let veil = active.apply(now_micros);
            self.hidden.fetch_add(1, Ordering::Relaxed);
            if active.rule.whole_write {
                for other in veils.iter_mut().filter(|veil| veil.is_none()) {
                    *other = Some(Arc::clone(&veil));
                }
            } else {
                veils[at] = Some(veil);
            }
        }
        veils
    }
}
