//! The world around a relay: time, writers, database, broker, and what happens to them.
//!
//! One queue of events, ordered by time; one generator of random numbers. Between two events the
//! relay does everything that it can do. A crash is an event like any other, so it comes between
//! any two of them; what was asked of the world by then may have happened or not.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use outbox_relay::config::{
    Columns, OnPermanent, Outbox, StandardHeaders, TableName, TopicPart, TopicTemplate, ValueFormat,
};
use outbox_relay::dead_letters::Reason;
use outbox_relay::decode::Decoder;
use outbox_relay::event::ChangeColumns;
use rdkafka::error::RDKafkaErrorCode as Code;
use scylla::frame::response::result::{ColumnType, NativeType};

use crate::broker::Broker;
use crate::database::Database;
use crate::oracle::{Oracle, Violation};
use crate::process::Relay;
use crate::random::Random;
use crate::scenario::{SECOND, START, Scenario};
use crate::trace::Trace;
use crate::wire::{Answer, Request};
use crate::writers::{Said, Writer};

/// How long a relay may take to catch up once nothing goes wrong any more.
const PATIENCE: i64 = 120 * SECOND;

/// Events of a run at most: more is a relay that does the same for ever.
const MOST_STEPS: u64 = 400_000;

/// What happens.
#[derive(Debug)]
pub(crate) enum Event {
    /// The writer of a key writes.
    Write(usize),
    /// The writer of a key writes these events once more.
    WriteAgain(usize, Vec<usize>),
    /// A request of a life of the relay takes effect.
    Land(u32, u64),
    /// It is answered: done, or not.
    Answer(u32, u64, bool),
    /// The broker appends what a life of the relay sent.
    Append(u32, usize),
    /// A producer reports: life, producer, token, error.
    Report(u32, u32, u64, Option<Code>),
    /// The relay of this life wants to look.
    Wake(u32),
    /// It saves.
    SaveTick(u32),
    /// It looks for generations.
    LookTick(u32),
    /// It dies.
    Crash,
    /// It is asked to stop.
    Stop,
    /// It is started.
    Start,
    /// The brokers are away for so long.
    BrokersAway(i64),
    /// The database is away for so long.
    DatabaseAway(i64),
    /// The relay's clock jumps by so much, for so long.
    Jump(i64, i64),
    /// It is right again, unless it has jumped since.
    JumpEnds(u32),
    /// The claim is not renewed for so long.
    ClaimLost(i64),
    /// It is renewed.
    ClaimBack,
    /// From now on nothing goes wrong.
    Heal,
    /// Is everything done?
    Check,
}

#[derive(Debug)]
struct Queued {
    at: i64,
    number: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    /// The earliest is the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// The first predicate that did not hold.
    pub violation: Option<Violation>,
    /// What happened, if it was asked for.
    pub trace: Vec<String>,
    /// Events of the world.
    pub steps: u64,
    /// Simulated microseconds.
    pub simulated: i64,
}

/// How far a run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Things go wrong.
    Trouble,
    /// Nothing goes wrong any more; the relay catches up.
    Healed,
    /// It has caught up, and is stopped and started once more.
    Again,
    /// The end.
    Over,
}

/// The world of one seed.
pub(crate) struct World {
    pub(crate) scenario: Arc<Scenario>,
    pub(crate) random: Random,
    pub(crate) now: i64,
    queue: BinaryHeap<Queued>,
    queued: u64,
    pub(crate) trace: Trace,
    pub(crate) database: Database,
    pub(crate) broker: Broker,
    pub(crate) writers: Vec<Writer>,
    pub(crate) events: Vec<Said>,
    pub(crate) by_payload: BTreeMap<Bytes, usize>,
    pub(crate) relay: Option<Box<Relay>>,
    /// Number of the relay's present or last life.
    pub(crate) life: u32,
    /// How the last life ended: with everything settled and saved.
    pub(crate) clean: bool,
    pub(crate) requests: BTreeMap<(u32, u64), Pending>,
    pub(crate) database_away: i64,
    /// How far the relay's clock is off.
    pub(crate) jump: i64,
    jumps: u32,
    pub(crate) publish_until: Option<i64>,
    pub(crate) stage: Stage,
    healed_at: i64,
    /// What is over, if the run is.
    again_since: i64,
    pub(crate) replayed: BTreeSet<usize>,
    pub(crate) person_asked: bool,
    pub(crate) violation: Option<Violation>,
}

/// A request that was asked and not answered.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) request: Request,
    pub(crate) began: i64,
    pub(crate) answer: Option<Answer>,
}

/// The outbox, and what it takes to read it.
pub(crate) struct Table {
    pub(crate) outbox: Outbox,
    pub(crate) types: Arc<[(String, ColumnType<'static>)]>,
    pub(crate) columns: Arc<ChangeColumns>,
    pub(crate) decoder: Arc<Decoder>,
}

pub(crate) fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        let outbox = Outbox {
            table: TableName {
                keyspace: "shop".into(),
                table: "outbox".into(),
            },
            columns: Columns {
                id: "id".into(),
                key: "key".into(),
                payload: "payload".into(),
                aggregate_type: None,
                event_type: None,
                content_type: None,
                created_at: None,
                headers: None,
                traceparent: None,
                optional: BTreeSet::new(),
            },
            topic: TopicTemplate {
                parts: vec![TopicPart::Literal("events".into())],
            },
            headers: Vec::new(),
            key_format: ValueFormat::Natural,
            payload_format: ValueFormat::Natural,
            tombstone_on_empty: false,
            standard_headers: StandardHeaders {
                id: "id".into(),
                event_type: None,
                content_type: None,
                created_at: None,
                traceparent: None,
            },
        };
        let text = || ColumnType::Native(NativeType::Text);
        let types = vec![
            ("row".to_owned(), ColumnType::Native(NativeType::Int)),
            ("id".to_owned(), text()),
            ("key".to_owned(), text()),
            ("payload".to_owned(), text()),
        ];
        let decoder = Decoder::new(&outbox, &types).expect("a mapping that suits the table");
        let columns = ChangeColumns {
            names: types.iter().map(|(name, _)| name.clone()).collect(),
            primary_key: vec![true, false, false, false],
        };
        Table {
            outbox,
            types: types.into(),
            columns: Arc::new(columns),
            decoder: Arc::new(decoder),
        }
    })
}

/// Runs the scenario of a seed.
pub fn run(seed: u64, traced: bool) -> Outcome {
    let mut world = World::new(seed, traced);
    let ended = catch_unwind(AssertUnwindSafe(|| world.run()));
    if let Err(panic) = ended {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        world.violated(Oracle::Panic, || text.unwrap_or_default());
    }
    let steps = world.queued;
    Outcome {
        violation: world.violation,
        trace: world.trace.into_lines(),
        steps,
        simulated: world.now - START,
    }
}

impl World {
    fn new(seed: u64, traced: bool) -> Self {
        let mut random = Random::new(seed);
        let scenario = Arc::new(Scenario::new(&mut random));
        let writers = (0..scenario.keys).map(|key| Writer::new(key, &scenario, &mut random));
        let writers = writers.collect();
        let mut trace = Trace::new(traced);
        trace.say(START, || format!("{scenario:?}"));
        let mut world = Self {
            random,
            now: START,
            queue: BinaryHeap::new(),
            queued: 0,
            trace,
            database: Database::new(scenario.stream_keys()),
            broker: Broker::default(),
            writers,
            events: Vec::new(),
            by_payload: BTreeMap::new(),
            relay: None,
            life: 0,
            clean: true,
            requests: BTreeMap::new(),
            database_away: i64::MIN,
            jump: 0,
            jumps: 0,
            publish_until: None,
            stage: Stage::Trouble,
            healed_at: i64::MAX,
            again_since: i64::MAX,
            replayed: BTreeSet::new(),
            person_asked: false,
            violation: None,
            scenario,
        };
        world.prepare();
        world
    }

    /// Puts into the queue what will go wrong, and the first writes.
    fn prepare(&mut self) {
        let scenario = Arc::clone(&self.scenario);
        let (faults, length) = (&scenario.faults, scenario.length);
        let end = length + 2 * SECOND;
        for key in 0..scenario.keys {
            let delay = self.random.range(0, length / 4);
            self.after(delay, Event::Write(key));
        }
        let mut plan = Vec::new();
        let random = &mut self.random;
        for _ in 0..faults.crashes {
            plan.push((random.range(1, end), Event::Crash));
        }
        for _ in 0..faults.stops {
            plan.push((random.range(1, end), Event::Stop));
        }
        for _ in 0..faults.broker_outages {
            let away = random.range(100_000, 6 * SECOND);
            plan.push((random.range(1, length), Event::BrokersAway(away)));
        }
        for _ in 0..faults.database_outages {
            let away = random.range(100_000, 3 * SECOND);
            plan.push((random.range(1, length), Event::DatabaseAway(away)));
        }
        for _ in 0..faults.clock_jumps {
            // A jump ahead is distrusted until it has lasted a minute; one back is believed.
            let by = random.pick(&[60 * SECOND, -60 * SECOND, 700_000, -700_000, -5 * SECOND]);
            let lasts = random.range(SECOND, 8 * SECOND);
            plan.push((random.range(1, length), Event::Jump(by, lasts)));
        }
        for _ in 0..faults.lost_claims {
            let lasts = random.range(100_000, 3 * SECOND);
            plan.push((random.range(1, length), Event::ClaimLost(lasts)));
        }
        plan.push((random.range(0, SECOND), Event::Start));
        plan.push((end, Event::Heal));
        for (delay, event) in plan {
            self.after(delay, event);
        }
    }

    pub(crate) fn after(&mut self, delay: i64, event: Event) {
        self.queue.push(Queued {
            at: self.now + delay.max(0),
            number: self.queued,
            event,
        });
        self.queued += 1;
    }

    /// Notes that a predicate does not hold; only the first one counts.
    pub(crate) fn violated(&mut self, oracle: Oracle, found: impl FnOnce() -> String) {
        if self.violation.is_none() {
            let violation = Violation {
                oracle,
                at: self.now,
                found: found(),
            };
            self.trace
                .say(self.now, || format!("VIOLATED: {violation}"));
            self.violation = Some(violation);
        }
    }

    fn run(&mut self) {
        while self.violation.is_none() && self.stage < Stage::Over {
            let Some(Queued { at, event, .. }) = self.queue.pop() else {
                self.violated(Oracle::O7, || "nothing happens any more".to_owned());
                return;
            };
            self.now = at;
            if self.queued > MOST_STEPS {
                self.violated(Oracle::O7, || {
                    "so much happens that it comes to no end".to_owned()
                });
            }
            self.happen(event);
            if self.violation.is_none() {
                self.relay_works();
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Write(key) => self.write(key),
            Event::WriteAgain(key, events) => self.write_again(key, &events),
            Event::Land(life, number) => self.land(life, number),
            Event::Answer(life, number, ok) => self.answered(life, number, ok),
            Event::Append(life, event) => self.append(life, event),
            Event::Report(life, producer, token, error) => {
                self.report(life, producer, token, error);
            }
            Event::Wake(life) => {
                if let Some(relay) = self.relay.as_mut().filter(|relay| relay.life == life) {
                    relay.wakes_at = None;
                }
            }
            Event::SaveTick(life) => self.save_tick(life),
            Event::LookTick(life) => self.look_tick(life),
            Event::Crash => self.crash(),
            Event::Stop => self.stop(),
            Event::Start => self.start(),
            Event::BrokersAway(away) => {
                self.broker.away_until = self.broker.away_until.max(self.now + away);
                self.say(|| format!("the brokers are away for {away} us"));
            }
            Event::DatabaseAway(away) => {
                self.database_away = self.database_away.max(self.now + away);
                self.say(|| format!("the database is away for {away} us"));
            }
            Event::Jump(by, lasts) => {
                self.jump = by;
                self.jumps += 1;
                let jump = self.jumps;
                self.after(lasts, Event::JumpEnds(jump));
                self.say(|| format!("the relay's clock jumps by {by} us"));
            }
            Event::JumpEnds(jump) => {
                if jump == self.jumps {
                    self.jump = 0;
                    self.say(|| "the relay's clock is right again".to_owned());
                }
            }
            Event::ClaimLost(lasts) => {
                self.publish_until = Some(self.now + 50_000);
                self.after(lasts, Event::ClaimBack);
                self.say(|| "the claim is not renewed".to_owned());
            }
            Event::ClaimBack => self.publish_until = None,
            Event::Heal => self.heal(),
            Event::Check => self.check(),
        }
    }

    pub(crate) fn say(&mut self, line: impl FnOnce() -> String) {
        self.trace.say(self.now, line);
    }

    /// Whether something may go wrong now, with this chance.
    pub(crate) fn goes_wrong(&mut self, per_mille: u32) -> bool {
        self.stage == Stage::Trouble && per_mille > 0 && self.random.chance(per_mille)
    }

    fn heal(&mut self) {
        self.stage = Stage::Healed;
        self.healed_at = self.now;
        self.broker.away_until = i64::MIN;
        self.database_away = i64::MIN;
        self.jump = 0;
        self.jumps += 1;
        self.publish_until = None;
        self.say(|| "from now on nothing goes wrong".to_owned());
        if self.scenario.mended {
            self.broker.mended = true;
            self.say(|| "Kafka takes what it has refused".to_owned());
        }
        self.after(SECOND, Event::Check);
    }

    fn check(&mut self) {
        match self.stage {
            Stage::Trouble | Stage::Over => {}
            Stage::Healed => {
                let idle = self.relay.as_ref().is_some_and(|relay| relay.is_idle());
                let letters = !self.database.letters.is_empty();
                if self.scenario.mended && letters && idle && self.is_published_or_kept() {
                    self.person_asked = true;
                    self.ask_person();
                } else if self.caught_up() {
                    self.say(|| "the relay has caught up".to_owned());
                    self.stage = Stage::Again;
                    self.again_since = self.now;
                    self.stop();
                } else if self.now > self.healed_at + PATIENCE {
                    let behind = self.behind();
                    self.violated(Oracle::O7, || behind);
                }
                self.after(SECOND / 2, Event::Check);
            }
            Stage::Again => {
                let late = self.scenario.settings.late_window;
                if self.now > self.again_since + late / 2 + 5 * SECOND {
                    self.last_look();
                    self.stage = Stage::Over;
                }
                self.after(SECOND, Event::Check);
            }
        }
    }

    fn is_durable(event: &Said) -> bool {
        !event.appended.is_empty() || event.letters > 0 || event.discarded
    }

    /// Whether every event whose row can be seen is durable.
    fn is_published_or_kept(&self) -> bool {
        self.events
            .iter()
            .all(|event| !event.is_required(self.now) || Self::is_durable(event))
    }

    fn caught_up(&self) -> bool {
        let newest = self
            .database
            .rows
            .iter()
            .map(|row| row.position.micros())
            .max();
        let newest = newest.unwrap_or(START);
        let written = self.writers.iter().all(Writer::is_done);
        let passed = self.relay.as_ref().is_some_and(|relay| {
            relay.is_idle()
                && relay
                    .source
                    .has_passed(newest, self.scenario.generations.len())
        });
        let seen = self.database.rows.iter().all(|row| row.visible <= self.now);
        written && seen && passed && self.is_published_or_kept() && self.is_replayed()
    }

    /// Whether no dead letter is left that a replay without a person can publish, or, if somebody
    /// has mended what was wrong, none at all.
    fn is_replayed(&self) -> bool {
        let mut stuck: BTreeSet<&Bytes> = BTreeSet::new();
        for ((key, _), kept) in &self.database.letters {
            let letter = &kept.letter;
            if self.scenario.mended {
                return false;
            }
            if letter.parks && !letter.reason.is_replayed_by_itself() {
                stuck.insert(key);
            }
            if letter.reason == Reason::Exhausted && !stuck.contains(key) {
                return false;
            }
        }
        true
    }

    fn behind(&self) -> String {
        let missing = self
            .events
            .iter()
            .filter(|event| !Self::is_durable(event))
            .count();
        let relay = self.relay.as_ref();
        let oldest = relay.and_then(|relay| relay.source.oldest());
        let oldest = oldest.map(crate::trace::time);
        let idle = relay.map(|relay| relay.is_idle());
        format!(
            "two minutes after healing {missing} events are missing, the oldest W is {oldest:?}, \
             {} dead letters are left, idle: {idle:?}",
            self.database.letters.len()
        )
    }

    fn last_look(&mut self) {
        if self.relay.is_none() {
            self.violated(Oracle::O7, || "the relay does not run".to_owned());
        }
        for event in 0..self.events.len() {
            let said = &self.events[event];
            if said.is_required(self.now) && !Self::is_durable(said) {
                let name = said.name();
                self.violated(Oracle::O1, || {
                    format!("{name} is neither published nor a dead letter")
                });
            }
        }
    }

    /// A record is in the topic.
    fn append(&mut self, life: u32, event: usize) {
        if life != self.life || self.relay.is_none() {
            // What a process that died had sent may have left it or not.
            if !self.random.chance(500) {
                return;
            }
        }
        let number = self.broker.appended;
        self.broker.appended += 1;
        // Rows that a checkpoint does not tell apart are published again, and counted.
        let relay = self.relay.as_ref();
        let untold = relay.is_some_and(|relay| relay.source.untold() > 0);
        let said = &mut self.events[event];
        said.appended.push(number);
        let (times, allowed) = (
            said.appended.len(),
            1 + said.allowance as usize + usize::from(untold),
        );
        let name = said.name();
        self.say(|| format!("appended: {name}, {times} of at most {allowed} times"));
        if times > allowed {
            self.violated(Oracle::O4, || {
                format!("{name} is in the topic {times} times, at most {allowed} are explained")
            });
        }
        if times == 1 {
            self.check_order(event);
        }
    }

    /// First occurrences come in the order of the writes, without gaps: what is not published yet
    /// parks its key.
    fn check_order(&mut self, event: usize) {
        let (key, n) = (self.events[event].key, self.events[event].n);
        if !self.writers[key].waits {
            return;
        }
        let skips = self.scenario.dead_letters.on_permanent == OnPermanent::Skip;
        let before = self.writers[key].events.iter().take(n);
        let missing = before.copied().find(|before| {
            let before = &self.events[*before];
            let excused = before.discarded || (skips && (before.poison || before.broken));
            before.appended.is_empty() && !excused
        });
        if let Some(missing) = missing {
            let (missing, name) = (self.events[missing].name(), self.events[event].name());
            self.violated(Oracle::O3, || {
                format!("{name} is published before {missing}")
            });
        }
    }
}
