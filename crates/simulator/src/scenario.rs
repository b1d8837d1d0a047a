//! What one seed simulates: sizes, settings of the relay, and how often what goes wrong.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use outbox_relay::config::{self, OnExhausted, OnPermanent, Start};
use outbox_relay::source::follower::Settings;

use crate::random::Random;

/// Microseconds of a second.
pub(crate) const SECOND: i64 = 1_000_000;
/// The simulated time at which a run begins, microseconds since the Unix epoch.
pub(crate) const START: i64 = 1_700_000_000 * SECOND;

/// How often what goes wrong, in thousandths unless it says otherwise. Zero is never.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    /// Reads of the log that fail.
    pub(crate) read_error: u32,
    /// Pages that are not of one moment: each row that is being written is there or not.
    pub(crate) torn_pages: bool,
    /// Writes whose answer the writer never gets, and that appear late or never. It writes again.
    pub(crate) ghosts: u32,
    /// Writes that several events share, as one batch.
    pub(crate) batches: u32,
    /// Writers that do not wait for an answer.
    pub(crate) hasty_keys: u32,
    /// Times are whole milliseconds, so that many are equal.
    pub(crate) coarse_times: bool,
    /// How far the clocks of writers differ, microseconds.
    pub(crate) skew: i64,
    /// Attempts that fail and pass by themselves.
    pub(crate) transient: u32,
    /// Attempts whose record is appended and whose answer is lost.
    pub(crate) lost_answer: u32,
    /// Attempts that end the producer.
    pub(crate) fatal: u32,
    /// Sends for which the producer's queue has no room.
    pub(crate) queue_full: u32,
    /// Events that Kafka refuses.
    pub(crate) poison: u32,
    /// Rows that cannot be made a record.
    pub(crate) broken: u32,
    /// Writes of dead letters that fail, or seem to.
    pub(crate) letter_error: u32,
    /// Writes of checkpoints that fail, or seem to.
    pub(crate) save_error: u32,
    /// Times at which all brokers are away for a while.
    pub(crate) broker_outages: usize,
    /// Times at which the database is away for a while.
    pub(crate) database_outages: usize,
    /// Crashes.
    pub(crate) crashes: usize,
    /// Clean stops.
    pub(crate) stops: usize,
    /// Jumps of the relay's clock.
    pub(crate) clock_jumps: usize,
    /// The claim on the relay's name is not renewed for a while, so many times.
    pub(crate) lost_claims: usize,
    /// How long the log keeps a row, microseconds; zero is for ever.
    pub(crate) ttl: i64,
}

/// What one seed simulates.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    /// Keys, each with a writer of its own.
    pub(crate) keys: usize,
    /// Writes of all keys together.
    pub(crate) writes: usize,
    /// For how long is written, microseconds.
    pub(crate) length: i64,
    /// Times at which generations of streams begin, milliseconds since the Unix epoch.
    pub(crate) generations: Vec<i64>,
    /// The last tokens of each generation's stream groups, in order.
    pub(crate) rings: Vec<Vec<i64>>,
    /// Streams of a group.
    pub(crate) streams: usize,
    /// Rows of a page.
    pub(crate) page_rows: usize,
    /// How the log is followed.
    pub(crate) follow: config::Follow,
    /// The same, as groups take it.
    pub(crate) settings: Settings,
    /// Pause between two looks for generations, microseconds.
    pub(crate) look: i64,
    /// Pause between two saves, microseconds.
    pub(crate) save: i64,
    /// `checkpoint.idle_interval`, microseconds.
    pub(crate) idle_save: i64,
    /// `shutdown.drain_timeout`, microseconds.
    pub(crate) drain: i64,
    /// Attempts and their pauses.
    pub(crate) retry: config::Retry,
    /// The breaker.
    pub(crate) breaker: config::Breaker,
    /// Dead letters.
    pub(crate) dead_letters: config::DeadLetters,
    /// Bounds on what is in flight.
    pub(crate) limits: config::Limits,
    /// Whether a person mends what Kafka refuses and replays it, at the end.
    pub(crate) mended: bool,
    /// What goes wrong.
    pub(crate) faults: Faults,
}

fn count(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN)
}

fn number(n: usize) -> NonZeroU32 {
    NonZeroU32::new(n as u32).unwrap_or(NonZeroU32::MIN)
}

impl Scenario {
    /// The scenario of a seed.
    pub(crate) fn new(random: &mut Random) -> Self {
        let length = random.range(4, 14) * SECOND;
        let late_window = random.range(8, 12) * SECOND;
        let follow = follow(random, late_window);
        let mut generations = vec![START / 1_000 - 20_000];
        for _ in 0..random.pick(&[0, 0, 1, 2]) {
            let begins = START + random.range(SECOND, length);
            generations.push(begins / 1_000);
        }
        generations.sort_unstable();
        generations.dedup();
        Self {
            keys: random.range(1, 6) as usize,
            writes: random.range(5, 60) as usize,
            length,
            rings: generations.iter().map(|_| ring(random)).collect(),
            generations,
            streams: random.range(1, 3) as usize,
            page_rows: follow.page_rows.get() as usize,
            settings: Settings::new(&follow),
            follow,
            look: random.range(300, 1_500) * 1_000,
            save: random.range(100, 1_000) * 1_000,
            idle_save: random.range(1, 4) * SECOND,
            drain: random.range(1, 4) * SECOND,
            retry: config::Retry {
                initial_backoff: Duration::from_millis(50),
                multiplier: 2.0,
                max_backoff: Duration::from_millis(300),
                attempt_timeout: Duration::from_millis(500),
                max_attempts: number(random.range(2, 5) as usize),
                on_exhausted: if random.chance(850) {
                    OnExhausted::DeadLetter
                } else {
                    OnExhausted::Hold
                },
            },
            breaker: config::Breaker {
                failure_threshold: number(random.range(2, 6) as usize),
                open_for: Duration::from_millis(random.range(500, 2_000) as u64),
                success_threshold: number(random.range(1, 3) as usize),
            },
            dead_letters: config::DeadLetters {
                on_permanent: if random.chance(850) {
                    OnPermanent::ParkKey
                } else {
                    OnPermanent::Skip
                },
                auto_replay: true,
                auto_replay_interval: Duration::from_secs(1),
                // With fewer, keys that nobody mends hold up everything, as they are meant to.
                max_parked_keys: count(random.pick(&[6, 100])),
                replay_concurrency: count(1),
            },
            limits: config::Limits {
                in_flight_events: count(random.pick(&[2, 5, 20, 100])),
                in_flight_bytes: count(random.pick(&[200, 100_000])),
            },
            mended: random.chance(500),
            faults: faults(random, late_window),
        }
    }
}

fn micros(micros: i64) -> Duration {
    Duration::from_micros(micros as u64)
}

fn follow(random: &mut Random, late_window: i64) -> config::Follow {
    let poll = random.range(10, 40) * 1_000;
    config::Follow {
        poll: micros(poll),
        idle_poll: micros(poll + random.range(200, 800) * 1_000),
        late_window: micros(late_window),
        confirm: micros(random.range(3 * SECOND, 5 * SECOND)),
        sweep: false,
        start: Start::Earliest,
        page_rows: number(random.range(1, 8) as usize),
        concurrent_reads: count(random.pick(&[1, 4])),
        reads_per_second: number(random.pick(&[300, 5_000])),
        tracked_positions: count(random.pick(&[40, 100, 1_000])),
        generation_poll: Duration::from_secs(1),
        wake_up: None,
        deduplicate: true,
        accept_expired: false,
    }
}

fn ring(random: &mut Random) -> Vec<i64> {
    let ends = random.range(1, 3);
    let mut ring: Vec<i64> = (0..ends).map(|_| random.next() as i64).collect();
    ring.sort_unstable();
    ring.dedup();
    ring
}

/// Each kind of fault is there in some of the scenarios, so that each is also met alone.
fn faults(random: &mut Random, late_window: i64) -> Faults {
    let mut often = |per_mille: u32, value: u32| {
        if random.chance(per_mille) { value } else { 0 }
    };
    Faults {
        read_error: often(300, 80),
        torn_pages: often(700, 1) > 0,
        ghosts: often(400, 120),
        batches: often(400, 250),
        hasty_keys: often(300, 300),
        coarse_times: often(300, 1) > 0,
        skew: i64::from(often(400, 1)) * late_window / 10,
        transient: often(400, 120),
        lost_answer: often(350, 100),
        fatal: often(250, 30),
        queue_full: often(250, 100),
        poison: often(300, 60),
        broken: often(250, 40),
        letter_error: often(300, 250),
        save_error: often(350, 250),
        broker_outages: often(350, 2) as usize,
        database_outages: often(250, 2) as usize,
        crashes: often(450, 3) as usize,
        stops: often(450, 2) as usize,
        clock_jumps: often(250, 2) as usize,
        lost_claims: often(100, 1) as usize,
        ttl: 0,
    }
}

impl Scenario {
    /// The streams of all generations.
    pub(crate) fn stream_keys(&self) -> impl Iterator<Item = [u8; 3]> + '_ {
        let streams = self.streams as u8;
        let groups = (0_u8..).zip(&self.rings);
        groups
            .flat_map(|(g, ring)| (0..ring.len() as u8).map(move |group| [g, group]))
            .flat_map(move |[g, group]| (0..streams).map(move |stream| [g, group, stream]))
    }

    /// The group of a generation that holds a token.
    pub(crate) fn group_of(&self, generation: usize, token: i64) -> u8 {
        let ring = &self.rings[generation];
        let at = ring.partition_point(|end| *end < token);
        (at % ring.len()) as u8
    }

    /// Groups of all generations.
    pub(crate) fn groups(&self) -> usize {
        self.rings.iter().map(Vec::len).sum()
    }
}
