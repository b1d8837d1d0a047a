//! When the live groups of a bundle are read together, and how far back.
//!
//! A bundle is as many stream groups as one request may ask for. Its polls read rows from a little below
//! the newest one on; rows that appear behind that are found by rescans, the nearer to now the more often:
//! a row that appears *d* after its time is found within about *d*/4. A pure state machine: the time is an
//! argument. Invariants:
//!
//! 1. A poll reads from no later than where the poll before it started, less [`LEAST_OVERLAP`], of each
//!    group that takes part.
//! 2. Everything above `confirmed` is read every `rescan`, by a rescan or by a poll that reaches back so
//!    far.
//! 3. After a read, the bundle rests at least as long as the read took.

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
/// Each stretch is so many times as long as the one before it.
const STRETCH_GROWTH: i64 = 6;

/// A stretch before now that is scanned again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    length: i64,
    every: i64,
    at: i64,
}

/// What to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// Rows later than this.
    Poll(i64),
    /// Ids later than this.
    Rescan(i64),
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
    newest: i64,
    poll_at: i64,
    last_row_at: i64,
    /// Rows per microsecond.
    rate: f64,
    counted: usize,
    counted_from: i64,
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
            newest: i64::MIN,
            poll_at: now.ticks,
            last_row_at: now.ticks,
            rate: 0.0,
            counted: 0,
            counted_from: now.ticks,
        }
    }

    /// What to read now.
    pub fn next(&mut self, now: Moment, part: Part) -> Round {
        let from = self.poll_from(part);
        if part.everything {
            return Round::Rescan(part.confirmed);
        }
        if now.ticks >= self.everything_at && part.confirmed < from {
            return Round::Rescan(part.confirmed);
        }
        for stretch in self.nearer.iter_mut().rev() {
            if now.ticks >= stretch.at {
                let after = now.wall.saturating_sub(stretch.length).max(part.confirmed);
                if after < from {
                    return Round::Rescan(after);
                }
                // Polls reach back as far.
                stretch.at = now.ticks + stretch.every;
            }
        }
        if now.ticks >= self.poll_at {
            return Round::Poll(from);
        }
        Round::At(self.next_at(part.confirmed < from))
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
            Some(rescan) if behind => rescan.min(self.poll_at),
            _ => self.poll_at,
        }
    }

    /// A read of the bundle has come to its end, however: it had started at `started`.
    pub fn rested(&mut self, started: Moment, now: Moment) {
        let took = now.ticks.saturating_sub(started.ticks);
        self.poll_at = self.poll_at.max(now.ticks + took);
    }

    /// A poll has shown so many rows that were not known, and this newest row.
    pub fn polled(&mut self, fresh: usize, newest: Option<i64>, started: Moment, now: Moment) {
        if let Some(newest) = newest {
            self.newest = self.newest.max(newest.min(started.wall));
        }
        self.count(fresh, now);
        let quiet = now.ticks.saturating_sub(self.last_row_at);
        let pause = (quiet / QUIET_PART).clamp(self.poll, self.idle_poll);
        self.poll_at = now.ticks + pause;
        self.rested(started, now);
    }

    fn count(&mut self, fresh: usize, now: Moment) {
        self.counted += fresh;
        if fresh > 0 {
            self.last_row_at = now.ticks;
        }
        let passed = now.ticks.saturating_sub(self.counted_from);
        if passed >= 1_000_000 {
            let rate = self.counted as f64 / passed as f64;
            self.rate = f64::midpoint(self.rate, rate);
            self.counted = 0;
            self.counted_from = now.ticks;
        }
    }

    /// A rescan from `after` on has come to its end, and has shown so many rows that were not known.
    /// It had started when the least `confirmed` was `part_confirmed`.
    pub fn rescanned(
        &mut self,
        after: i64,
        part_confirmed: i64,
        fresh: usize,
        [started, now]: [Moment; 2],
    ) {
        if after <= part_confirmed {
            self.everything_at = now.ticks + self.rescan;
        }
        for stretch in &mut self.nearer {
            if after
                <= started
                    .wall
                    .saturating_sub(stretch.length)
                    .max(part_confirmed)
            {
                stretch.at = now.ticks + stretch.every;
            }
        }
        if fresh > 0 {
            self.last_row_at = now.ticks;
        }
        self.rested(started, now);
    }

    /// A round did not come to its end: it is made again after a pause.
    pub fn again(&mut self, now: Moment) {
        self.poll_at = self.poll_at.max(now.ticks + self.poll);
    }

    /// A row was written just now, as a writer says: the bundle is hot.
    pub fn woken(&mut self, now: Moment) {
        self.last_row_at = now.ticks;
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
                    rounds.polled(fresh, Some(newest), at(now - 300), at(now));
                }
                Round::Rescan(after) => {
                    rescans += 1;
                    let started = now;
                    now += 1_000;
                    rounds.rescanned(after, confirmed, 0, [at(started), at(now)]);
                    if after <= confirmed {
                        confirmed = at(started - 180 * SECOND).wall;
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
        rounds.polled(1, Some(at(0).wall), at(0), at(0));
        let part = Part {
            confirmed: at(-SECOND).wall,
            tailed_at: at(0).wall,
            everything: false,
        };
        rounds.rescanned(part.confirmed, part.confirmed, 0, [at(0), at(0)]);
        assert_eq!(rounds.next(at(1), part), Round::At(10_000));
        rounds.polled(0, None, at(800_000), at(800_000));
        assert_eq!(rounds.next(at(800_001), part), Round::At(900_000));
        // A slow database is left alone for as long as it took.
        rounds.polled(0, None, at(SECOND), at(SECOND + 500_000));
        assert_eq!(
            rounds.next(at(SECOND + 500_001), part),
            Round::At(2 * SECOND)
        );
    }

    #[test]
    fn the_end_of_a_generation_needs_a_read_of_everything() {
        let mut rounds = Rounds::new(&settings(), at(0));
        let part = Part {
            confirmed: at(-SECOND).wall,
            tailed_at: at(0).wall,
            everything: true,
        };
        assert_eq!(rounds.next(at(1), part), Round::Rescan(part.confirmed));
    }
}
