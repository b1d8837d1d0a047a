//! What one stream group reads next by itself, and how far its watermark W may move.
//!
//! A pure state machine: the time is an argument, reads are described and their results reported.
//! A group that has caught up is *live*: it is then read together with others, as [`super::rounds`]
//! says. Invariants:
//!
//! 1. `confirmed` moves to *t* only when a read that covers everything between `confirmed` and
//!    *t* started at *t* + `late_window` or later and has completed. It never moves back.
//! 2. W is the lesser of `confirmed` and the floor of what was handed on, and never moves back.
//! 3. The tail moves on only over what a completed read could see when it *started*: rows that
//!    arrive in a stream whose page was already read are left to the next read.
//! 4. When memory is full the follower reads less (bounded windows that move W, or nothing until
//!    something is settled); it never skips.
//! 5. Rows that an earlier run has published are recognised before anything else is read.
//!
//! It does not know streams, pages or values, and keeps no rows: that is the tracker's.

use std::time::Duration;

use crate::config;

/// A point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Microseconds since the Unix epoch. May jump; compared with the times of rows.
    pub wall: i64,
    /// Microseconds since an arbitrary start. Never goes back; schedules reads.
    pub ticks: i64,
}

/// How a group is followed. All in microseconds, but `target_rows`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Pause after a read that found rows.
    pub poll: i64,
    /// Longest pause of a group without rows.
    pub idle_poll: i64,
    /// How far `confirmed` trails.
    pub late_window: i64,
    /// Pause between two reads of everything above `confirmed`.
    pub rescan: i64,
    /// How far before a new row a write may lie that was acknowledged before that row was written,
    /// and was not seen yet: how long a write may take.
    pub confirm: i64,
    /// Rows that a catch-up window should have; four times as many end the read.
    pub target_rows: usize,
}

/// All of the late window is read so many times before W passes.
const RESCANS: i64 = 4;
const LIVE_GAP: i64 = 1_000_000;
const FIRST_WINDOW: i64 = 1_000_000;
const LONGEST_WINDOW: i64 = 30 * 86_400 * 1_000_000;
const FIRST_BACKOFF: i64 = 100_000;
const LONGEST_BACKOFF: i64 = 10_000_000;

impl Settings {
    /// The settings that a configuration means.
    pub fn new(follow: &config::Follow) -> Self {
        let micros =
            |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 4);
        let late_window = micros(follow.late_window);
        Self {
            poll: micros(follow.poll).max(1),
            idle_poll: micros(follow.idle_poll).max(micros(follow.poll)).max(1),
            late_window,
            rescan: (late_window / RESCANS).max(1),
            confirm: micros(follow.confirm).min(late_window),
            target_rows: 2 * follow.page_rows.get() as usize,
        }
    }
}

/// Why a read is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Ids of what an earlier run has published above W: compared with what it has saved.
    Resume,
    /// A bounded window of the past.
    Window,
    /// Rows from a little below the newest one on.
    Tail,
    /// Ids of a stretch that was read before; what is unknown is then fetched.
    Rescan,
    /// Rows at or before W that have appeared all the same, by their positions.
    Stragglers,
}

/// A read that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// Why.
    pub kind: Kind,
    /// Rows later than this microsecond.
    pub after: i64,
    /// Rows at or before this microsecond; `None` is without bound.
    pub upto: Option<i64>,
    /// When it was decided; its first page is asked for after this.
    pub started: Moment,
    /// The read may be given up after so many rows; it is then made again with a smaller window.
    pub row_limit: Option<usize>,
}

/// What a completed read has shown of a group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Log rows returned.
    pub rows: usize,
    /// Rows that were not known before.
    pub fresh: usize,
    /// Time of the newest row returned.
    pub newest: Option<i64>,
    /// Time of the oldest batch that was left out because it was not complete yet.
    pub cut: Option<i64>,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Make this read and report it.
    Read(Read),
    /// Ask again at these ticks.
    At(i64),
    /// Ask again when a row of the group is settled or the table has room again.
    AfterSettlement,
    /// It has caught up: it is read with the others of its bundle, until it says otherwise.
    Live,
}

/// The load that decides whether a group may read ahead.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Whether the group may hold no more positions.
    pub full: bool,
    /// Rows of the group that were handed on and are not settled.
    pub pending: usize,
}

/// The reading state of one stream group.
#[derive(Debug, Clone)]
pub struct Follower {
    settings: Settings,
    watermark: i64,
    confirmed: i64,
    /// What an earlier run has published above W reaches to here, and is not recognised yet.
    resume_upto: Option<i64>,
    live: bool,
    /// Everything at or before this has been read once.
    cursor: i64,
    /// Rows at or before this are late when they are seen first.
    tail_floor: i64,
    /// When the last read without an upper bound started.
    tailed_at: i64,
    covered_at: i64,
    window: i64,
    backoff: i64,
    retry_at: i64,
}

impl Follower {
    /// Starts strictly after `watermark`, microseconds since the Unix epoch.
    pub fn new(settings: Settings, watermark: i64) -> Self {
        Self {
            settings,
            watermark,
            confirmed: watermark,
            resume_upto: None,
            live: false,
            cursor: watermark,
            tail_floor: i64::MIN,
            tailed_at: watermark,
            covered_at: i64::MIN,
            window: FIRST_WINDOW,
            backoff: 0,
            retry_at: i64::MIN,
        }
    }

    /// The same, of a group some of whose rows above W and at or before `upto` were published by an
    /// earlier run.
    #[must_use]
    pub fn resuming(mut self, upto: i64) -> Self {
        self.resume_upto = (upto > self.watermark).then_some(upto);
        self
    }

    /// W: everything at or before it is durable, and nothing more is expected there.
    pub fn watermark(&self) -> i64 {
        self.watermark
    }

    /// Everything at or before this has been read for good.
    pub fn confirmed(&self) -> i64 {
        self.confirmed
    }

    /// Whether the group is read with the others of its bundle.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// A row at or before this microsecond that is seen first now is late: the tail has passed it.
    pub fn late_before(&self) -> i64 {
        self.tail_floor
    }

    /// When the last read without an upper bound started: microseconds since the Unix epoch.
    pub fn tailed_at(&self) -> i64 {
        self.tailed_at
    }

    /// When a group whose last read failed may be read again, in ticks.
    pub fn retry_at(&self) -> i64 {
        self.retry_at
    }

    /// Everything at or before this has been read once: microseconds since the Unix epoch.
    pub fn read_once(&self) -> i64 {
        if self.live {
            self.tailed_at.max(self.cursor)
        } else {
            self.cursor.max(self.confirmed)
        }
    }

    /// Moves W as far as `confirmed` and the tracker's floor allow; gives W back.
    pub fn advance(&mut self, floor: i64) -> i64 {
        self.watermark = self.watermark.max(self.confirmed.min(floor));
        self.watermark
    }

    /// Whether everything written before `boundary` has been read: by a read of everything that
    /// started at `boundary` or later, or because `confirmed` has passed it.
    pub fn has_covered(&self, boundary: i64) -> bool {
        self.confirmed >= boundary || self.covered_at >= boundary
    }

    /// What to do now.
    pub fn next(&mut self, now: Moment, load: Load) -> Next {
        if now.ticks < self.retry_at {
            return Next::At(self.retry_at);
        }
        if let Some(upto) = self.resume_upto {
            return Next::Read(Self::read(Kind::Resume, self.watermark, Some(upto), now));
        }
        let horizon = now.wall.saturating_sub(self.settings.late_window);
        if load.full {
            self.fall_back();
            return self.next_when_full(now, load, horizon);
        }
        if self.live {
            // A live group that could not read for long falls back to windows, with enough distance
            // that an idle group does not change its mode between two polls.
            let longest = self.settings.idle_poll * 2 + 30 * LIVE_GAP;
            if now.wall.saturating_sub(self.tailed_at) <= longest {
                return Next::Live;
            }
            self.fall_back();
        }
        self.cursor = self.cursor.max(self.confirmed);
        // What is older than this needs no second look before it is published.
        let old = now.wall.saturating_sub(self.settings.confirm);
        if old.saturating_sub(self.cursor) > LIVE_GAP {
            return Next::Read(self.window(self.cursor, old, now));
        }
        Next::Read(Self::read(Kind::Tail, self.cursor, None, now))
    }

    /// The group is read by itself again.
    fn fall_back(&mut self) {
        if self.live {
            self.live = false;
            let read = self.tailed_at.saturating_sub(self.settings.confirm);
            self.cursor = self.cursor.min(read).max(self.confirmed);
        }
    }

    fn next_when_full(&self, now: Moment, load: Load, horizon: i64) -> Next {
        if load.pending > 0 {
            return Next::AfterSettlement;
        }
        // Room comes with W, and W with time: a look at every microsecond would only read. Other
        // groups may make room as well.
        let (step, gained) = (self.settings.idle_poll, horizon - self.confirmed);
        if gained < step {
            return Next::At(now.ticks + (step - gained.max(0)));
        }
        if self.cursor <= self.confirmed {
            return Next::Read(self.window(self.confirmed, horizon, now));
        }
        let upto = self.cursor.min(horizon);
        Next::Read(Self::read(Kind::Rescan, self.confirmed, Some(upto), now))
    }

    fn window(&self, after: i64, end: i64, now: Moment) -> Read {
        let upto = after.saturating_add(self.window).min(end);
        let mut read = Self::read(Kind::Window, after, Some(upto), now);
        if upto - after > 1 {
            read.row_limit = Some(self.settings.target_rows * 4);
        }
        read
    }

    fn read(kind: Kind, after: i64, upto: Option<i64>, started: Moment) -> Read {
        Read {
            kind,
            after,
            upto,
            started,
            row_limit: None,
        }
    }

    /// The read has returned everything, and every row of it is registered. It may have been one of
    /// many groups.
    pub fn completed(&mut self, read: &Read, outcome: Outcome) {
        self.backoff = 0;
        if read.kind == Kind::Stragglers {
            return;
        }
        let below_cut = outcome.cut.map_or(i64::MAX, |cut| cut - 1);
        let started = read.started.wall;
        if read.after <= self.confirmed {
            let seen = started.saturating_sub(self.settings.late_window);
            let upto = read.upto.unwrap_or(i64::MAX).min(seen).min(below_cut);
            self.confirmed = self.confirmed.max(upto);
            if read.upto.is_none() && outcome.cut.is_none() {
                self.covered_at = self.covered_at.max(started);
            }
        }
        match read.kind {
            Kind::Resume => {
                self.resume_upto = None;
                let upto = read.upto.unwrap_or(started).min(started).min(below_cut);
                self.cursor = self.cursor.max(upto);
                self.tail_floor = self.tail_floor.max(upto);
            }
            Kind::Window => {
                let upto = read.upto.unwrap_or(started).min(below_cut);
                self.cursor = self.cursor.max(upto);
                self.tail_floor = self.tail_floor.max(upto);
                self.resize(outcome.rows);
            }
            Kind::Tail => {
                self.live = true;
                self.tailed_at = self.tailed_at.max(started);
                self.tail_floor = self.tail_floor.max(read.after.min(started));
                let newest = outcome.newest.unwrap_or(i64::MIN);
                self.cursor = self.cursor.max(newest.min(started).min(below_cut));
            }
            Kind::Rescan | Kind::Stragglers => {}
        }
    }

    fn resize(&mut self, rows: usize) {
        if rows > self.settings.target_rows {
            self.window = (self.window / 2).max(1);
        } else if rows <= self.settings.target_rows / 4 {
            self.window = (self.window * 2).min(LONGEST_WINDOW);
        }
    }

    /// The read was given up for its number of rows or for lack of room. What was handed on
    /// stays registered; the rest is read again.
    pub fn given_up(&mut self, read: &Read) {
        self.backoff = 0;
        if read.kind == Kind::Window {
            self.window = (read.upto.unwrap_or(read.after) - read.after).min(self.window);
            self.window = (self.window / 4).max(1);
        }
    }

    /// The read failed: the group pauses, then reads the same again. The pause is at most 100 ms,
    /// doubling up to 10 s, and at least half of that.
    ///
    /// Groups whose reads failed together, on one connection for example, would go on to read at
    /// the same instants, and one whose read breaks the connection would break those of all others
    /// for ever. So the pause depends on the moment of the failure, to the microsecond, and the group
    /// is read by itself until that succeeds.
    pub fn failed(&mut self, now: Moment) {
        self.fall_back();
        self.backoff = (self.backoff * 2).clamp(FIRST_BACKOFF, LONGEST_BACKOFF);
        let half = self.backoff / 2;
        let spread = scattered(now.ticks ^ self.confirmed) % half as u64;
        self.retry_at = now.ticks + half + spread as i64;
    }
}

/// Takes neighbouring numbers far apart (`SplitMix64`).
fn scattered(number: i64) -> u64 {
    let mut z = (number as u64).wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pauses(failed_at: i64, failures: usize) -> Vec<i64> {
        let settings = Settings {
            poll: 10_000,
            idle_poll: 1_000_000,
            late_window: 10_000_000,
            rescan: 1_000_000,
            confirm: 1_000_000,
            target_rows: 2_000,
        };
        let mut follower = Follower::new(settings, 0);
        let mut ticks = failed_at;
        let mut pauses = Vec::new();
        for _ in 0..failures {
            let now = Moment { wall: ticks, ticks };
            follower.failed(now);
            let Next::At(again) = follower.next(now, Load::default()) else {
                panic!("a group that failed reads at once");
            };
            pauses.push(again - ticks);
            ticks = again;
        }
        pauses
    }

    #[test]
    fn a_failed_group_pauses_ever_longer_within_bounds() {
        let mut longest = 100_000;
        for pause in pauses(1_000_000, 20) {
            assert!(
                (longest / 2..longest).contains(&pause),
                "{pause} of {longest}"
            );
            longest = (longest * 2).min(10_000_000);
        }
    }

    #[test]
    fn groups_that_failed_together_do_not_go_on_together() {
        // A hundred groups whose reads failed within a tenth of a millisecond.
        let mut again: Vec<i64> = (0..100).map(|micros| pauses(micros, 8)[7]).collect();
        again.sort_unstable();
        let together = again.windows(2).filter(|pair| pair[1] - pair[0] < 1_000);
        assert!(together.count() < 10, "{again:?}");
        let span = again[99] - again[0];
        assert!(span > 4_000_000, "spread over {span} \u{b5}s only");
    }
}
