//! When the live groups of a bundle are read together, and how far back.
//!
//! A bundle is as many stream groups as one request may ask for. Its polls read rows from a little below
//! the newest one on; rows that appear behind that are found by rescans, the nearer to now the more often:
//! a row that appears *d* after its time is found within about *d*/4. A pure state machine: the time is an
//! argument. Invariants:
//!
//! 1. A poll reads from no later than where the poll before it started, less [`LEAST_OVERLAP`], of each
//!    group that takes part.
//! 2. Everything above `confirmed` is read every `rescan`, by rescans or by a poll that reaches back so
//!    far. A long rescan is cut into slices, and polls have their turn between them.
//! 3. After a poll, the bundle rests at least as long as the poll took; after a slice, rescans do.
//! 4. While writers name the groups of nearly all rows, polls are rare; they come back within a second
//!    or two when writers do not.

use super::follower::{Moment, Settings};

/// How far below the newest row a poll starts, at least: covers small differences between the clocks of
/// writers and between replicas.
pub const LEAST_OVERLAP: i64 = 100_000;
/// The same at most.
pub const MOST_OVERLAP: i64 = 2_000_000;
/// Rows that a poll may see again.
const REPEATED_ROWS: f64 = 8.0;
/// A bundle that has had no row for so long is polled every eighth of that.
const QUIET_PART: i64 = 8;
/// A stretch is scanned again after a quarter of its length.
const RESCAN_PART: i64 = 4;
/// So many times as many rows with hints as without mean that polls are not needed so often; they are
/// made after so many times the pause.
const HINTED_ROWS: f64 = 8.0;
const HINTED_PAUSE: i64 = 10;
/// Rows that a slice of a rescan should have.
const SLICE_ROWS: f64 = 4_000.0;
/// A slice covers at least so many microseconds.
const LEAST_SLICE: i64 = 1_000_000;
/// Each stretch is so many times as long as the one before it.
const STRETCH_GROWTH: i64 = 6;

/// A stretch before now that is scanned again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    length: i64,
    every: i64,
    at: i64,
}

/// A rescan that is under way: what is left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Scan {
    after: i64,
    end: i64,
    /// How far it reaches back from when it began; `None` is to `confirmed`.
    length: Option<i64>,
}

/// What to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// Rows later than this.
    Poll(i64),
    /// Ids later than `after`, and up to `upto`.
    Rescan {
        /// Exclusive lower bound.
        after: i64,
        /// Inclusive upper bound; `None` is everything that is there.
        upto: Option<i64>,
    },
    /// Nothing before these ticks.
    At(i64),
}

/// What is known of the groups that would take part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The least `confirmed`.
    pub confirmed: i64,
    /// The earliest start of a last poll.
    pub tailed_at: i64,
    /// Whether all of it has to be read now, for the end of a generation.
    pub everything: bool,
}

/// The schedule of one bundle.
#[derive(Debug, Clone)]
pub struct Rounds {
    poll: i64,
    idle_poll: i64,
    rescan: i64,
    nearer: Vec<Stretch>,
    everything_at: i64,
    scan: Option<Scan>,
    /// Whether the last read was a slice of a rescan.
    scanned: bool,
    /// Ticks of the next slice.
    slice_at: i64,
    newest: i64,
    poll_at: i64,
    last_row_at: i64,
    /// Rows per microsecond.
    rate: f64,
    counted: usize,
    counted_from: i64,
    /// Rows of late in groups that writers have not named, and in such that they have; halved every
    /// second.
    unhinted_rows: f64,
    hinted_rows: f64,
}

impl Rounds {
    /// A bundle that was never read.
    pub fn new(settings: &Settings, now: Moment) -> Self {
        let mut nearer = Vec::new();
        let mut length = settings.confirm.max(1);
        while length / RESCAN_PART * 2 < settings.rescan {
            nearer.push(Stretch {
                length,
                every: (length / RESCAN_PART).max(1),
                at: now.ticks,
            });
            length *= STRETCH_GROWTH;
        }
        Self {
            poll: settings.poll,
            idle_poll: settings.idle_poll,
            rescan: settings.rescan,
            nearer,
            everything_at: now.ticks,
            scan: None,
            scanned: false,
            slice_at: now.ticks,
            newest: i64::MIN,
            poll_at: now.ticks,
            last_row_at: now.ticks,
            rate: 0.0,
            counted: 0,
            counted_from: now.ticks,
            unhinted_rows: 0.0,
            hinted_rows: 0.0,
        }
    }

    /// What to read now.
    pub fn next(&mut self, now: Moment, part: Part) -> Round {
        if part.everything {
            self.scan = None;
            return Round::Rescan {
                after: part.confirmed,
                upto: None,
            };
        }
        let from = self.poll_from(part);
        if self.scan.is_none() {
            self.scan = self.due(now, part, from);
        }
        let poll = now.ticks >= self.poll_at;
        if let Some(scan) = self.scan
            && now.ticks >= self.slice_at
            && !(poll && self.scanned)
        {
            let upto = scan.after.saturating_add(self.slice()).min(scan.end);
            return Round::Rescan {
                after: scan.after,
                upto: Some(upto),
            };
        }
        if poll {
            return Round::Poll(from);
        }
        Round::At(self.next_at(part.confirmed < from))
    }

    /// The longest rescan that is due.
    fn due(&mut self, now: Moment, part: Part, end: i64) -> Option<Scan> {
        if now.ticks >= self.everything_at && part.confirmed < end {
            return Some(Scan {
                after: part.confirmed,
                end,
                length: None,
            });
        }
        for stretch in self.nearer.iter_mut().rev() {
            if now.ticks >= stretch.at {
                let after = now.wall.saturating_sub(stretch.length).max(part.confirmed);
                if after < end {
                    return Some(Scan {
                        after,
                        end,
                        length: Some(stretch.length),
                    });
                }
                // Polls reach back as far.
                stretch.at = now.ticks + stretch.every;
            }
        }
        None
    }

    fn slice(&self) -> i64 {
        if self.rate <= 0.0 {
            return i64::MAX / 4;
        }
        ((SLICE_ROWS / self.rate) as i64).max(LEAST_SLICE)
    }

    /// Where a poll starts.
    pub fn poll_from(&self, part: Part) -> i64 {
        let newest = self.newest.min(part.tailed_at);
        newest.saturating_sub(self.overlap()).max(part.confirmed)
    }

    fn overlap(&self) -> i64 {
        if self.rate <= 0.0 {
            return MOST_OVERLAP;
        }
        ((REPEATED_ROWS / self.rate) as i64).clamp(LEAST_OVERLAP, MOST_OVERLAP)
    }

    fn next_at(&self, behind: bool) -> i64 {
        let stretches = self.nearer.iter().map(|stretch| stretch.at);
        let rescan = stretches.chain([self.everything_at]).min();
        match rescan {
            _ if self.scan.is_some() => self.slice_at.min(self.poll_at),
            Some(rescan) if behind => rescan.min(self.poll_at),
            _ => self.poll_at,
        }
    }

    /// After a poll that started at `started`.
    fn rested(&mut self, started: Moment, now: Moment) {
        let took = now.ticks.saturating_sub(started.ticks);
        self.poll_at = self.poll_at.max(now.ticks + took);
    }

    /// Whether writers have named the groups of nearly all rows of late, so that polls are not needed.
    fn is_hinted(&self) -> bool {
        self.hinted_rows > HINTED_ROWS * self.unhinted_rows
    }

    /// A poll has shown so many rows that were not known, and this newest row. It has found them before
    /// anybody else; `hinted` of them are in groups that writers have named just now.
    pub fn polled(
        &mut self,
        fresh: usize,
        hinted: usize,
        newest: Option<i64>,
        [started, now]: [Moment; 2],
    ) {
        self.scanned = false;
        if let Some(newest) = newest {
            self.newest = self.newest.max(newest.min(started.wall));
        }
        self.count(fresh, hinted, now);
        let quiet = now.ticks.saturating_sub(self.last_row_at);
        let least = if self.is_hinted() {
            self.poll.saturating_mul(HINTED_PAUSE).min(self.idle_poll)
        } else {
            self.poll
        };
        let pause = (quiet / QUIET_PART).clamp(least, self.idle_poll);
        // From start to start, as long as that leaves a rest.
        self.poll_at = started.ticks + pause;
        self.rested(started, now);
    }

    fn count(&mut self, fresh: usize, hinted: usize, now: Moment) {
        self.counted += fresh;
        self.hinted_rows += hinted as f64;
        self.unhinted_rows += fresh.saturating_sub(hinted) as f64;
        if fresh > 0 {
            self.last_row_at = now.ticks;
        }
        let passed = now.ticks.saturating_sub(self.counted_from);
        if passed >= 1_000_000 {
            let rate = self.counted as f64 / passed as f64;
            self.rate = f64::midpoint(self.rate, rate);
            self.unhinted_rows /= 2.0;
            self.hinted_rows /= 2.0;
            self.counted = 0;
            self.counted_from = now.ticks;
        }
    }

    /// A rescan up to `upto` has come to its end, and has shown so many rows that were not known.
    pub fn rescanned(&mut self, upto: Option<i64>, fresh: usize, [started, now]: [Moment; 2]) {
        self.scanned = true;
        if fresh > 0 {
            self.last_row_at = now.ticks;
        }
        if let (Some(scan), Some(upto)) = (&mut self.scan, upto) {
            scan.after = scan.after.max(upto);
            if scan.after >= scan.end {
                let length = scan.length;
                self.scan = None;
                self.scanned_whole(length, now);
            }
        } else {
            self.scan = None;
            self.scanned_whole(None, now);
        }
        // Polls do not wait for the rest that follows a slice.
        let took = now.ticks.saturating_sub(started.ticks);
        self.slice_at = now.ticks + took;
    }

    fn scanned_whole(&mut self, length: Option<i64>, now: Moment) {
        if length.is_none() {
            self.everything_at = now.ticks + self.rescan;
        }
        for stretch in &mut self.nearer {
            if length.is_none_or(|length| stretch.length <= length) {
                stretch.at = now.ticks + stretch.every;
            }
        }
    }

    /// A round did not come to its end: it is made again after a pause.
    pub fn again(&mut self, now: Moment) {
        self.poll_at = self.poll_at.max(now.ticks + self.poll);
        self.slice_at = self.slice_at.max(now.ticks + self.poll);
    }

    /// A read of some of the groups by themselves has shown so many rows that were not known: the
    /// bundle is hot. `hinted` says that it was made because of a writer's hint.
    pub fn woken(&mut self, fresh: usize, hinted: bool, now: Moment) {
        self.count(fresh, if hinted { fresh } else { 0 }, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn settings() -> Settings {
        Settings {
            poll: 10_000,
            idle_poll: SECOND,
            late_window: 180 * SECOND,
            rescan: 45 * SECOND,
            confirm: 5 * SECOND,
            target_rows: 2_000,
        }
    }

    fn at(micros: i64) -> Moment {
        Moment {
            wall: 1_000 * SECOND + micros,
            ticks: micros,
        }
    }

    /// Runs the schedule for a while with rows every so often; gives polls, rescans and the longest
    /// pause between two polls.
    fn run(duration: i64, rows_every: i64) -> (u32, u32, i64) {
        let mut rounds = Rounds::new(&settings(), at(0));
        let (mut polls, mut rescans, mut longest, mut polled_at) = (0, 0, 0, 0);
        let mut now = 0;
        let mut confirmed = at(-180 * SECOND).wall;
        let mut tailed_at = at(0).wall;
        while now < duration {
            let part = Part {
                confirmed,
                tailed_at,
                everything: false,
            };
            match rounds.next(at(now), part) {
                Round::Poll(after) => {
                    assert!(after >= confirmed && after <= tailed_at);
                    let row = now / rows_every;
                    let fresh = (row - polled_at / rows_every) as usize;
                    let newest = at(row * rows_every).wall;
                    polls += 1;
                    longest = longest.max(now - polled_at);
                    polled_at = now;
                    tailed_at = at(now).wall;
                    now += 300;
                    rounds.polled(fresh, 0, Some(newest), [at(now - 300), at(now)]);
                }
                Round::Rescan { after, upto } => {
                    rescans += 1;
                    let started = now;
                    now += 1_000;
                    let end = upto.expect("only the end of a generation has none");
                    assert!(after < end && end <= tailed_at);
                    rounds.rescanned(upto, 0, [at(started), at(now)]);
                    if after <= confirmed {
                        confirmed = confirmed.max(end.min(at(started - 180 * SECOND).wall));
                    }
                }
                Round::At(ticks) => {
                    assert!(ticks > now);
                    now = ticks;
                }
            }
        }
        (polls, rescans, longest)
    }

    #[test]
    fn a_hot_bundle_is_polled_every_time() {
        let (polls, rescans, _) = run(100 * SECOND, 20_000);
        assert!((9_000..=10_000).contains(&polls), "{polls}");
        // Every 1.25 s, every 7.5 s and every 45 s.
        assert!((80..=110).contains(&rescans), "{rescans}");
    }

    #[test]
    fn a_cold_bundle_is_polled_once_a_second_and_not_rescanned() {
        let (polls, rescans, longest) = run(1_000 * SECOND, 2_000 * SECOND);
        assert!(polls < 1_100, "{polls}");
        assert!(longest <= SECOND + 10_000, "{longest}");
        assert!(rescans < 30, "{rescans}");
    }

    #[test]
    fn the_pause_grows_with_the_silence() {
        let mut rounds = Rounds::new(&settings(), at(0));
        rounds.polled(1, 0, Some(at(0).wall), [at(0), at(0)]);
        let part = Part {
            confirmed: at(-SECOND).wall,
            tailed_at: at(0).wall,
            everything: false,
        };
        rounds.rescanned(None, 0, [at(0), at(0)]);
        assert_eq!(rounds.next(at(1), part), Round::At(10_000));
        rounds.polled(0, 0, None, [at(800_000), at(800_000)]);
        assert_eq!(rounds.next(at(800_001), part), Round::At(900_000));
        // A slow database is left alone for as long as it took.
        rounds.polled(0, 0, None, [at(SECOND), at(SECOND + 500_000)]);
        assert_eq!(
            rounds.next(at(SECOND + 500_001), part),
            Round::At(2 * SECOND)
        );
    }

    #[test]
    fn while_hints_find_the_rows_polls_are_rare_and_without_them_they_come_back() {
        let mut rounds = Rounds::new(&settings(), at(0));
        let pause = |rounds: &mut Rounds, now: i64, fresh: usize| {
            rounds.polled(fresh, 0, None, [at(now), at(now)]);
            rounds.poll_at - now
        };
        for n in 0..300 {
            rounds.woken(1, true, at(n * 10_000));
        }
        assert_eq!(pause(&mut rounds, 3 * SECOND, 1), 100_000);
        let mut now = 3 * SECOND;
        while pause(&mut rounds, now, 10) > 10_000 {
            now += 100_000;
            assert!(now < 5 * SECOND, "hints have stopped");
        }
    }

    #[test]
    fn the_end_of_a_generation_needs_a_read_of_everything() {
        let mut rounds = Rounds::new(&settings(), at(0));
        let part = Part {
            confirmed: at(-SECOND).wall,
            tailed_at: at(0).wall,
            everything: true,
        };
        let everything = Round::Rescan {
            after: part.confirmed,
            upto: None,
        };
        assert_eq!(rounds.next(at(1), part), everything);
    }

    #[test]
    fn a_long_rescan_lets_polls_through() {
        let mut rounds = Rounds::new(&settings(), at(0));
        let mut now = SECOND;
        // A thousand rows a second.
        for _ in 0..4 {
            now += SECOND;
            rounds.polled(1_000, 0, Some(at(now).wall), [at(now), at(now)]);
        }
        let part = Part {
            confirmed: at(now - 180 * SECOND).wall,
            tailed_at: at(now).wall,
            everything: false,
        };
        let (mut slices, mut polls_between, mut covered) = (0, 0, part.confirmed);
        now += 20_000;
        while rounds.everything_at <= now {
            match rounds.next(at(now), part) {
                Round::Rescan { after, upto } => {
                    assert_eq!(after, covered, "slices follow each other");
                    covered = upto.expect("a slice has an end");
                    slices += 1;
                    rounds.rescanned(upto, 0, [at(now), at(now + 4_000)]);
                    now += 4_000;
                }
                Round::Poll(_) => {
                    polls_between += 1;
                    rounds.polled(4, 0, None, [at(now), at(now + 500)]);
                    now += 500;
                }
                Round::At(ticks) => now = ticks,
            }
        }
        assert!(covered >= at(4 * SECOND).wall);
        assert!(slices > 30, "{slices}");
        assert!(polls_between > slices / 4, "{polls_between} of {slices}");
    }
}
