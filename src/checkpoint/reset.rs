//! What the checkpoints of a table become when a person sets where its relay goes on.
//!
//! Pure: rows are read by the caller, as [`Look::reads`] says, and told one by one. Invariants:
//!
//! 1. After a reset to `at`, no row later than `at` is recorded as published, and every row at or before it
//!    that was is, as far as anybody can tell: what is published again is exactly what lies behind `at`.
//! 2. A row at or before `at` that is not published is never recorded as published. It is given up only if
//!    the reset skips ([`Outlook::skips`]): a person is told how many, and agrees.

use std::collections::HashSet;

use super::{GroupCheckpoint, GroupKey, OpenWindow, Published, Window};
use crate::ack::Mark;
use crate::ack::summary::{Summary, hash};
use crate::event::RowKey;

/// What is written for one table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reset {
    /// Where the table's first start was from now on, if that changes or is to count as of now.
    pub start: Option<i64>,
    /// The groups.
    pub groups: Vec<GroupCheckpoint>,
    /// Windows that are removed, by their group and begin.
    pub removed: Vec<(GroupKey, i64)>,
}

/// A row of the log as a reset sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Which row.
    pub row: RowKey,
    /// Whether it may be an event.
    pub event: bool,
}

/// A stretch of the log that is read, in microseconds since the Unix epoch: (after, upto].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// Later than this.
    pub after: i64,
    /// At or before this.
    pub upto: i64,
    /// What its rows are.
    pub part: Part,
}

/// What the rows of a stretch are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The window in which `at` lies. Has to be read to its end.
    Window,
    /// Rows at or before W, only counted. May be left at any row.
    Below,
    /// Rows above W of which a summary is kept. Has to be read to its end.
    Summed,
    /// Rows above those. May be left at any row, if that is told ([`Look::left`]).
    Above,
}

/// What is known of a group, and what reads of it show.
#[derive(Debug, Clone)]
pub struct Look {
    checkpoint: GroupCheckpoint,
    windows: Vec<Window>,
    /// Rows later than this are published (again).
    at: i64,
    /// Whether W moves back.
    below: bool,
    window: Option<Window>,
    unsettled: HashSet<u64>,
    recent: HashSet<u64>,
    inside: Vec<u64>,
    within: Vec<u64>,
    summed: Vec<(Mark, bool)>,
    above: Summary,
    again: u64,
    skipped: u64,
    complete: bool,
}

/// What a reset would do to a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlook {
    /// Events that would be published again.
    pub again: u64,
    /// Events that are not published and never would be.
    pub skipped: u64,
    /// Whether all of them were counted.
    pub complete: bool,
    /// Whether W moves back.
    below: bool,
    key: GroupKey,
    /// What is stored if nothing is given up.
    kept: Option<GroupCheckpoint>,
    at: i64,
    closed: bool,
    removed: Vec<i64>,
}

impl Look {
    /// A look at a group whose events later than `at` are to be published from now on.
    pub fn new(checkpoint: GroupCheckpoint, windows: Vec<Window>, at: i64) -> Self {
        let open = checkpoint.published.window;
        let open = Window {
            begin: open.begin,
            upto: checkpoint.watermark,
            summary: open.summary,
        };
        // The open window reaches up to W; older ones are stored each by itself. What a crash has left
        // behind overlaps others, and is passed over as a sweep does.
        let mut reach = i64::MIN;
        let in_order = windows
            .iter()
            .chain(std::iter::once(&open))
            .filter(|window| {
                let follows = window.begin >= reach;
                reach = if follows { window.upto } else { reach };
                follows
            });
        let mut in_order = in_order.copied();
        let window = in_order.find(|window| window.begin < at && window.upto > at);
        let below = at < checkpoint.watermark;
        let window = window.filter(|_| below);
        let published = &checkpoint.published;
        Self {
            below,
            unsettled: published.unsettled.iter().copied().collect(),
            recent: published.recent.iter().map(|mark| mark.hash).collect(),
            at,
            window,
            windows,
            checkpoint,
            inside: Vec::new(),
            within: Vec::new(),
            summed: Vec::new(),
            above: Summary::default(),
            again: 0,
            skipped: 0,
            complete: true,
        }
    }

    /// The stretches to read, in this order.
    pub fn reads(&self) -> Vec<Stretch> {
        let watermark = self.checkpoint.watermark;
        let published = &self.checkpoint.published;
        let mut reads = Vec::new();
        let mut read = |after, upto, part| {
            if upto > after {
                reads.push(Stretch { after, upto, part });
            }
        };
        if let Some(window) = &self.window {
            read(window.begin, window.upto, Part::Window);
        }
        read(self.at, watermark, Part::Below);
        if self.checkpoint.closed {
            return reads;
        }
        read(watermark, published.upto, Part::Summed);
        let newest = published.recent.iter().map(|mark| mark.micros).max();
        let newest = newest.unwrap_or(i64::MIN).max(self.at);
        read(published.upto.max(watermark), newest, Part::Above);
        reads
    }

    /// A row of a stretch.
    pub fn saw(&mut self, part: Part, seen: Seen) {
        let mark = Mark::from(seen.row);
        match part {
            Part::Window => {
                self.inside.push(mark.hash);
                if mark.micros <= self.at {
                    self.within.push(mark.hash);
                }
            }
            Part::Below => self.again += u64::from(seen.event),
            Part::Summed => self.summed.push((mark, seen.event)),
            Part::Above => {
                let known = self.recent.contains(&hash(seen.row));
                self.tell(mark, seen.event, known);
            }
        }
    }

    /// The rest of a stretch is not read.
    pub fn left(&mut self) {
        self.complete = false;
    }

    fn tell(&mut self, mark: Mark, event: bool, known: bool) {
        match (mark.micros <= self.at, known) {
            (true, true) => self.above.add(mark.hash),
            (true, false) => self.skipped += u64::from(event),
            (false, true) => self.again += u64::from(event),
            (false, false) => {}
        }
    }

    /// Events that are given up, as far as is known now.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// What the reads have shown.
    pub fn end(mut self) -> Outlook {
        let settled = self.summed.iter().map(|(mark, _)| mark.hash);
        let settled = settled.filter(|hash| !self.unsettled.contains(hash));
        let fresh = self.checkpoint.published.summary.reconcile(settled).fresh;
        let fresh: HashSet<u64> = fresh.into_iter().collect();
        for (mark, event) in std::mem::take(&mut self.summed) {
            let known = !fresh.contains(&mark.hash) && !self.unsettled.contains(&mark.hash);
            self.tell(mark, event, known);
        }
        let at = self.at;
        Outlook {
            again: self.again,
            skipped: self.skipped,
            complete: self.complete,
            below: self.below,
            key: self.checkpoint.key.clone(),
            at,
            closed: self.checkpoint.closed && !self.below,
            removed: self
                .windows
                .iter()
                .filter(|window| window.upto > at)
                .map(|window| window.begin)
                .collect(),
            kept: self.kept(),
        }
    }

    /// What is stored so that nothing is given up.
    fn kept(&self) -> Option<GroupCheckpoint> {
        let key = self.checkpoint.key.clone();
        if self.below {
            let mut published = Published::nothing(self.at);
            if let Some(window) = &self.window {
                let fresh = window.summary.reconcile(self.inside.iter().copied()).fresh;
                let fresh: HashSet<u64> = fresh.into_iter().collect();
                let within = self.within.iter().copied();
                published.window = OpenWindow {
                    begin: window.begin,
                    summary: within.filter(|hash| !fresh.contains(hash)).collect(),
                };
            }
            return Some(GroupCheckpoint {
                key,
                watermark: self.at,
                published,
                closed: false,
            });
        }
        (!self.checkpoint.closed).then(|| GroupCheckpoint {
            key,
            watermark: self.checkpoint.watermark,
            published: Published {
                upto: self.at,
                summary: self.above,
                unsettled: Vec::new(),
                recent: Vec::new(),
                window: self.checkpoint.published.window,
            },
            closed: false,
        })
    }
}

impl Outlook {
    /// Whether events of the group are given up, or may be.
    pub fn skips(&self) -> bool {
        self.skipped > 0 || !(self.complete || self.below)
    }

    /// Adds what is written for the group to `reset`. If the table's reset `skips`, W goes to `at` in all
    /// of its groups.
    pub fn write(self, skips: bool, reset: &mut Reset) {
        let removed = self.removed.iter().map(|begin| (self.key.clone(), *begin));
        reset.removed.extend(removed);
        if self.closed {
            return;
        }
        let Some(mut kept) = self.kept else { return };
        if skips && kept.watermark < self.at {
            kept.watermark = self.at;
            kept.published = Published::nothing(self.at);
        }
        reset.groups.push(kept);
    }
}

#[cfg(test)]
mod tests;
