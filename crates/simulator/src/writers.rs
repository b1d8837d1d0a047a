//! The applications: they write events of a key, one after the other.
//!
//! A writer that waits writes the next event of its key when the one before is acknowledged; it
//! is promised order. What it does not get an answer for it writes again, and the first write may
//! still appear, late.

use std::sync::Arc;

use outbox_relay::event::{Position, UUID_EPOCH_OFFSET};
use outbox_relay::source::bounds::timeuuid;

use crate::database::Row;
use crate::oracle::Oracle;
use crate::random::Random;
use crate::scenario::{SECOND, Scenario};
use crate::world::{Event, Stage, World};

/// An event that was written.
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, each asked for by itself"
)]
#[derive(Debug, Clone)]
pub(crate) struct Said {
    /// Its key.
    pub(crate) key: usize,
    /// Its number among the events of the key.
    pub(crate) n: usize,
    /// Kafka refuses it.
    pub(crate) poison: bool,
    /// Its row cannot be made a record.
    pub(crate) broken: bool,
    /// From when on one of its rows can be seen by every read.
    pub(crate) visible: i64,
    /// Its rows.
    pub(crate) rows: Vec<usize>,
    /// Places in the topic.
    pub(crate) appended: Vec<u64>,
    /// Repetitions that are explained.
    pub(crate) allowance: u32,
    /// Its dead letters in the table.
    pub(crate) letters: u32,
    /// A person has discarded it.
    pub(crate) discarded: bool,
    /// It was handed to a producer.
    pub(crate) sent: bool,
    /// A process that ended had handed it on.
    pub(crate) forgotten: bool,
    /// Attempts of this life that failed and counted, since the last outcome.
    pub(crate) attempts: u32,
}

impl Said {
    /// A name for people.
    pub(crate) fn name(&self) -> String {
        format!("k{}/{}", self.key, self.n)
    }

    /// Whether it must be durable at the end.
    pub(crate) fn is_required(&self, now: i64) -> bool {
        self.visible <= now
    }
}

/// Who writes the events of one key.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    /// Whether it waits for an answer before it goes on.
    pub(crate) waits: bool,
    /// Its events, in their order.
    pub(crate) events: Vec<usize>,
    /// How far its clock is off.
    skew: i64,
    /// Time of its last write.
    last: i64,
    /// Writes to make.
    left: usize,
    /// Writes that are not acknowledged.
    unanswered: usize,
    /// Numbers that tell where its key lies in each generation.
    lies: Vec<[u8; 2]>,
}

impl Writer {
    pub(crate) fn new(_key: usize, scenario: &Scenario, random: &mut Random) -> Self {
        let faults = &scenario.faults;
        let token = random.next() as i64;
        Self {
            waits: !random.chance(faults.hasty_keys),
            events: Vec::new(),
            skew: if faults.skew > 0 {
                random.range(-faults.skew, faults.skew)
            } else {
                0
            },
            last: 0,
            left: (scenario.writes / scenario.keys).max(1),
            unanswered: 0,
            lies: (0..scenario.generations.len())
                .map(|g| {
                    [
                        scenario.group_of(g, token),
                        random.below(scenario.streams) as u8,
                    ]
                })
                .collect(),
        }
    }

    /// Whether it has written everything.
    pub(crate) fn is_done(&self) -> bool {
        self.left == 0 && self.unanswered == 0
    }
}

impl World {
    pub(crate) fn write(&mut self, key: usize) {
        if self.writers[key].left == 0 || self.stage > Stage::Trouble {
            self.writers[key].left = 0;
            return;
        }
        self.writers[key].left -= 1;
        let scenario = Arc::clone(&self.scenario);
        let faults = &scenario.faults;
        let count = if self.random.chance(faults.batches) {
            self.random.range(2, 4)
        } else {
            1
        };
        let mut written = Vec::new();
        for _ in 0..count {
            let event = self.events.len();
            let said = Said {
                key,
                n: self.writers[key].events.len(),
                poison: self.random.chance(faults.poison),
                broken: self.random.chance(faults.broken),
                visible: i64::MAX,
                rows: Vec::new(),
                appended: Vec::new(),
                allowance: 0,
                letters: 0,
                discarded: false,
                sent: false,
                forgotten: false,
                attempts: 0,
            };
            self.by_payload
                .insert(said.name().into_bytes().into(), event);
            self.events.push(said);
            self.writers[key].events.push(event);
            written.push(event);
        }
        if self.random.chance(faults.ghosts) {
            return self.write_unanswered(key, written);
        }
        let delay = self.acknowledgement();
        self.insert(key, &written, self.now, self.now + delay);
        self.next_write(key, delay);
    }

    /// How long a write takes.
    fn acknowledgement(&mut self) -> i64 {
        if self.random.chance(40) {
            self.random.range(10_000, 900_000)
        } else {
            self.random.range(1_000, 20_000)
        }
    }

    fn next_write(&mut self, key: usize, acknowledged: i64) {
        let mean = self.scenario.length / (self.writers[key].left as i64 + 2);
        let pause = if self.random.chance(600) {
            // At once: this is where order is lost if it is.
            self.random.range(0, 2_000)
        } else {
            self.random.range(0, mean.max(1))
        };
        let wait = if self.writers[key].waits {
            acknowledged
        } else {
            0
        };
        self.after(wait + pause, Event::Write(key));
    }

    /// The writer gets no answer; it writes again, and this write appears late or never.
    fn write_unanswered(&mut self, key: usize, written: Vec<usize>) {
        let timeout = self.random.range(200_000, SECOND);
        if self.random.chance(700) {
            let latest = self.scenario.settings.late_window * 6 / 10;
            let late = self.random.range(1_000, latest);
            // Sometimes one replica has it at once.
            let begun = if self.random.chance(300) {
                self.now
            } else {
                (self.now + late - self.random.range(0, 20_000)).max(self.now)
            };
            self.insert(key, &written, begun, self.now + late);
        }
        self.writers[key].unanswered += 1;
        self.after(timeout, Event::WriteAgain(key, written));
    }

    pub(crate) fn write_again(&mut self, key: usize, written: &[usize]) {
        self.writers[key].unanswered -= 1;
        let delay = self.acknowledgement();
        self.insert(key, written, self.now, self.now + delay);
        self.next_write(key, delay);
    }

    /// The time that a writer's clock gives a write.
    fn timestamp(&mut self, key: usize) -> i64 {
        let coarse = self.scenario.faults.coarse_times;
        let writer = &mut self.writers[key];
        let mut micros = self.now + writer.skew;
        if coarse {
            micros -= micros.rem_euclid(5_000);
        }
        if writer.waits {
            micros = micros.max(writer.last + 1);
        }
        writer.last = writer.last.max(micros);
        micros
    }

    fn insert(&mut self, key: usize, written: &[usize], begun: i64, visible: i64) {
        let micros = self.timestamp(key);
        let ticks = UUID_EPOCH_OFFSET + micros as u64 * 10 + self.random.below(10) as u64;
        let time = timeuuid(ticks, self.random.next().to_be_bytes());
        let generations = &self.scenario.generations;
        let newest = generations
            .iter()
            .rposition(|begins| begins * 1_000 <= micros);
        let newest = newest.unwrap_or(0);
        let [group, stream] = self.writers[key].lies[newest];
        let stream = [newest as u8, group, stream];
        let write = self.database.rows.len();
        for (seq, event) in (0..).zip(written) {
            let said = &self.events[*event];
            let text = said.name();
            let row = Row {
                event: *event,
                stream,
                position: Position { time, seq },
                begun,
                visible,
                gone: i64::MAX,
                write,
                last: seq as usize + 1 == written.len(),
                values: [
                    (!said.broken).then(|| text.clone()),
                    Some(format!("k{key}")),
                    Some(text),
                ],
            };
            let number = self.database.insert(row);
            let said = &mut self.events[*event];
            said.rows.push(number);
            said.visible = said.visible.min(visible);
            // The same event twice: recognised by what the process remembers.
            let again = said.rows.len() > 1;
            if again && (said.forgotten || !self.is_recognised(*event)) {
                self.events[*event].allowance += 1;
            }
        }
        let first = self.events[written[0]].name();
        let count = written.len();
        self.say(|| {
            let (at, seen) = (crate::trace::time(micros), crate::trace::time(visible));
            format!(
                "written: {first} and {} more at {at} in {stream:?}, seen from {seen}",
                count - 1
            )
        });
        self.came_in_time(stream, micros);
    }

    /// Whether the relay promises to publish the event once, although it is in the log twice.
    fn is_recognised(&self, event: usize) -> bool {
        let rows = &self.events[event].rows;
        let rows = rows.iter().map(|row| &self.database.rows[*row]);
        let groups = rows.clone().map(|row| (row.stream[0], row.stream[1]));
        let times: Vec<i64> = rows.map(|row| row.position.micros()).collect();
        let first = groups.clone().next();
        let same = groups.into_iter().all(|group| Some(group) == first);
        let span = times.iter().max().unwrap_or(&0) - times.iter().min().unwrap_or(&0);
        same && span <= self.scenario.settings.late_window && !self.events[event].broken
    }

    /// No row comes at or before a stored W.
    fn came_in_time(&mut self, stream: [u8; 3], micros: i64) {
        let generation = self.scenario.generations[usize::from(stream[0])];
        let stored = self
            .database
            .checkpoints
            .iter()
            .find(|(key, _)| key.generation == generation && key.group == [stream[1]]);
        let Some(stored) = stored.map(|(_, save)| save.form.watermark) else {
            return;
        };
        if micros <= stored {
            self.violated(Oracle::O5, || {
                let (micros, stored) = (crate::trace::time(micros), crate::trace::time(stored));
                format!("a row of {stream:?} was written at {micros}, and W is {stored}")
            });
        }
    }
}
