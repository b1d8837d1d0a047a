//! What one stream group reads next, and how far its watermark W may move.
//!
//! A pure state machine: the time is an argument, reads are described and their results reported.
//! Invariants:
//!
//! 1. `confirmed` moves to *t* only when a read that covers everything between `confirmed` and
//!    *t* started at *t* + `late_window` or later and has completed. It never moves back.
//! 2. W is the lesser of `confirmed` and the floor of what was handed on, and never moves back.
//! 3. Every read starts at or above `confirmed`, so what W has passed (and the tracker has
//!    forgotten) is never seen again.
//! 4. The tail moves on only over what a completed read could see when it *started*: rows that
//!    arrive in a stream whose page was already read are left to the next read.
//! 5. When memory is full the follower reads less (bounded windows that move W, or nothing until
//!    something is settled); it never skips.
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
    /// How far below the newest row a tail read starts.
    pub overlap: i64,
    /// Rows that a catch-up window should have; four times as many end the read.
    pub target_rows: usize,
}

/// How far below the newest row a tail read starts: covers small differences between the clocks
/// of writers and between replicas. What comes later than this is found by a rescan.
const OVERLAP: Duration = Duration::from_millis(200);

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
        Self {
            poll: micros(follow.poll).max(1),
            idle_poll: micros(follow.idle_poll).max(micros(follow.poll)).max(1),
            late_window: micros(follow.late_window),
            rescan: micros(follow.rescan).max(1),
            overlap: micros(OVERLAP),
            target_rows: 2 * follow.page_rows.get() as usize,
        }
    }
}

/// Why a read is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Rows from a little below the newest one on.
    Tail,
    /// Ids of everything above `confirmed`; what is unknown is then fetched.
    Rescan,
    /// A bounded window of the past.
    Window,
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
    /// A new row at or before this microsecond is late: the tail has passed it.
    pub late_before: i64,
}

/// What a completed read has shown.
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
    live: bool,
    cursor: i64,
    tail_floor: i64,
    cut: Option<i64>,
    covered_at: i64,
    window: i64,
    delay: i64,
    tail_at: i64,
    rescan_at: i64,
    read_at: i64,
    backoff: i64,
    retry_at: i64,
}

impl Follower {
    /// Starts strictly after `watermark`, microseconds since the Unix epoch.
    pub fn new(settings: Settings, watermark: i64) -> Self {
        Self {
            delay: settings.poll,
            settings,
            watermark,
            confirmed: watermark,
            live: false,
            cursor: watermark,
            tail_floor: i64::MIN,
            cut: None,
            covered_at: i64::MIN,
            window: FIRST_WINDOW,
            tail_at: i64::MIN,
            rescan_at: i64::MIN,
            read_at: i64::MIN,
            backoff: 0,
            retry_at: i64::MIN,
        }
    }

    /// W: everything at or before it is durable, and nothing more is expected there.
    pub fn watermark(&self) -> i64 {
        self.watermark
    }

    /// Everything at or before this has been read for good.
    pub fn confirmed(&self) -> i64 {
        self.confirmed
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
        let horizon = now.wall.saturating_sub(self.settings.late_window);
        let gap = horizon.saturating_sub(self.confirmed);
        if load.full {
            return self.next_when_full(now, load, horizon);
        }
        // A live group that could not read for long falls back to windows, with enough distance
        // that an idle group does not change its mode between two polls.
        let fall_back = self.settings.idle_poll.max(self.settings.rescan) * 2 + 30 * LIVE_GAP;
        self.live = gap <= if self.live { fall_back } else { LIVE_GAP };
        if !self.live {
            return Next::Read(self.window(now, horizon));
        }
        let after = self.tail_after();
        if after > self.confirmed && now.ticks >= self.rescan_at {
            return Next::Read(self.read(Kind::Rescan, self.confirmed, None, now));
        }
        if now.ticks >= self.tail_at {
            return Next::Read(self.read(Kind::Tail, after, None, now));
        }
        if after > self.confirmed {
            Next::At(self.tail_at.min(self.rescan_at))
        } else {
            Next::At(self.tail_at)
        }
    }

    fn next_when_full(&self, now: Moment, load: Load, horizon: i64) -> Next {
        if load.pending > 0 {
            return Next::AfterSettlement;
        }
        if horizon <= self.confirmed {
            return Next::At(now.ticks + self.settings.poll);
        }
        Next::Read(self.window(now, horizon))
    }

    fn tail_after(&self) -> i64 {
        let below = self.cursor.saturating_sub(self.settings.overlap);
        let below = self.cut.map_or(below, |cut| below.min(cut - 1));
        below.max(self.confirmed)
    }

    fn window(&self, now: Moment, horizon: i64) -> Read {
        let upto = self.confirmed.saturating_add(self.window).min(horizon);
        let mut read = self.read(Kind::Window, self.confirmed, Some(upto), now);
        if upto - self.confirmed > 1 {
            read.row_limit = Some(self.settings.target_rows * 4);
        }
        read
    }

    fn read(&self, kind: Kind, after: i64, upto: Option<i64>, started: Moment) -> Read {
        Read {
            kind,
            after,
            upto,
            started,
            row_limit: None,
            late_before: self.tail_floor,
        }
    }

    /// The read has returned everything, and every row of it is registered.
    pub fn completed(&mut self, read: &Read, outcome: Outcome, now: Moment) {
        self.backoff = 0;
        self.read_at = now.ticks;
        let below_cut = outcome.cut.map_or(i64::MAX, |cut| cut - 1);
        let covering = read.after <= self.confirmed;
        if covering {
            let seen = read.started.wall.saturating_sub(self.settings.late_window);
            let upto = read.upto.unwrap_or(i64::MAX).min(seen).min(below_cut);
            self.confirmed = self.confirmed.max(upto);
            if read.upto.is_none() {
                if outcome.cut.is_none() {
                    self.covered_at = self.covered_at.max(read.started.wall);
                }
                self.rescan_at = now.ticks + self.settings.rescan;
            }
        }
        match read.kind {
            Kind::Tail => self.tail_completed(read, outcome, now),
            Kind::Rescan => {
                self.cut = outcome.cut;
                if outcome.fresh > 0 {
                    self.heat(now);
                }
            }
            Kind::Window => self.window_completed(outcome, now),
        }
    }

    fn tail_completed(&mut self, read: &Read, outcome: Outcome, now: Moment) {
        self.cut = outcome.cut;
        self.tail_floor = self.tail_floor.max(read.after);
        if let Some(newest) = outcome.newest {
            self.cursor = self.cursor.max(newest.min(read.started.wall));
        }
        if outcome.fresh > 0 {
            self.heat(now);
        } else {
            self.tail_at = now.ticks + self.delay;
            self.delay = (self.delay * 2).min(self.settings.idle_poll);
        }
    }

    /// A writer says that it has just written to the group: it is read at once, but not sooner than
    /// `poll` after the last read, and then polled as one that has rows. Only the time of reads
    /// changes, so that a false hint costs a read.
    pub fn hinted(&mut self, now: Moment) {
        self.delay = self.settings.poll;
        let soonest = self.read_at.saturating_add(self.settings.poll);
        self.tail_at = self.tail_at.min(soonest.max(now.ticks));
    }

    fn heat(&mut self, now: Moment) {
        self.delay = self.settings.poll;
        self.tail_at = now.ticks + self.delay;
    }

    fn window_completed(&mut self, outcome: Outcome, now: Moment) {
        if outcome.rows > self.settings.target_rows {
            self.window = (self.window / 2).max(1);
        } else if outcome.rows < self.settings.target_rows / 4 {
            self.window = (self.window * 2).min(LONGEST_WINDOW);
        }
        self.tail_at = now.ticks;
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
    /// for ever. So the pause depends on the moment of the failure, to the microsecond.
    pub fn failed(&mut self, now: Moment) {
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

    fn settings() -> Settings {
        Settings {
            poll: 10_000,
            idle_poll: 1_000_000,
            late_window: 10_000_000,
            rescan: 1_000_000,
            overlap: 200_000,
            target_rows: 2_000,
        }
    }

    /// The next read of a live group, completed in no time without a row; its ticks.
    fn reads(follower: &mut Follower, mut now: Moment) -> i64 {
        loop {
            match follower.next(now, Load::default()) {
                Next::Read(read) => {
                    follower.completed(&read, Outcome::default(), now);
                    return now.ticks;
                }
                Next::At(ticks) => {
                    now.wall += ticks - now.ticks;
                    now.ticks = ticks;
                }
                Next::AfterSettlement => panic!("nothing is pending"),
            }
        }
    }

    #[test]
    fn a_hint_wakes_a_group_that_sleeps_but_reads_none_without_pause() {
        let at = |ticks| Moment { wall: ticks, ticks };
        let mut follower = Follower::new(settings(), 0);
        let mut ticks = 0;
        for _ in 0..20 {
            ticks = reads(&mut follower, at(ticks));
        }
        let hinted = ticks + 300_000;
        let mut asleep = follower.clone();
        assert!(reads(&mut asleep, at(hinted)) >= ticks + 990_000);
        follower.hinted(at(hinted));
        assert_eq!(reads(&mut follower, at(hinted)), hinted, "at once");
        for more in 1..=5 {
            // However many hints come.
            follower.hinted(at(hinted + 10_000 * more - 9_999));
            follower.hinted(at(hinted + 10_000 * more - 1));
            let next = reads(&mut follower, at(hinted + 10_000 * more - 9_999));
            assert_eq!(next, hinted + 10_000 * more);
        }
        // One that comes while a read is under way may be about a row that it does not see.
        let Next::Read(read) = follower.next(at(hinted + 70_000), Load::default()) else {
            panic!("a read is due");
        };
        follower.hinted(at(hinted + 70_001));
        follower.completed(&read, Outcome::default(), at(hinted + 72_000));
        let next = reads(&mut follower, at(hinted + 72_000));
        assert_eq!(next, hinted + 82_000);
    }

    fn pauses(failed_at: i64, failures: usize) -> Vec<i64> {
        let mut follower = Follower::new(settings(), 0);
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
