//! What the relay asks of the database: when that takes effect, when it is answered, and what must be
//! true of it.

use std::time::Duration;

use outbox_relay::dead_letters::{DeadLetter, Reason};

use super::Relay;
use crate::database::Save;
use crate::oracle::Oracle;
use crate::wire::{Answer, Request};
use crate::world::{Event, Pending, Stage, World};

impl World {
    /// What the relay has asked for goes on its way.
    pub(super) fn take_requests(&mut self, relay: &Relay) {
        let life = relay.life;
        for (number, request) in relay.wire.take_asked() {
            let pending = Pending {
                request,
                began: self.now,
                answer: None,
            };
            let (lands, answers) = self.fate(&pending.request);
            self.requests.insert((life, number), pending);
            if let Some(lands) = lands {
                self.after(lands, Event::Land(life, number));
            }
            let (answers, ok) = answers;
            self.after(answers, Event::Answer(life, number, ok));
        }
    }

    /// When a request takes effect, if it does; when it is answered, and how.
    fn fate(&mut self, request: &Request) -> (Option<i64>, (i64, bool)) {
        let faults = self.scenario.faults.clone();
        let takes = self.random.delay(2_000);
        let error = match request {
            Request::Sleep(pause) => return (None, (*pause, true)),
            Request::Page { .. } => faults.read_error,
            Request::Save(_) => faults.save_error,
            _ => faults.letter_error,
        };
        let away = self.now < self.database_away;
        let is_read = matches!(
            request,
            Request::Page { .. } | Request::LetterKeys | Request::LettersOf(_)
        );
        let expired = !is_read && self.publish_until.is_some_and(|until| self.now >= until);
        if away || expired {
            return (None, (takes, false));
        }
        if self.goes_wrong(error) {
            let fails = takes + self.random.range(0, 300_000);
            // A write may have happened although it is said to have failed, or still happen.
            let lands =
                (!is_read && self.random.chance(500)).then(|| self.random.range(1, 2 * fails));
            return (lands, (fails, false));
        }
        let slow = self.random.chance(30) && self.stage == Stage::Trouble;
        let takes = if slow {
            takes + self.random.range(0, 400_000)
        } else {
            takes
        };
        (Some(takes), (takes + self.random.range(0, 1_000), true))
    }

    pub(crate) fn land(&mut self, life: u32, number: u64) {
        let alive = self.relay.as_ref().is_some_and(|relay| relay.life == life);
        let Some(pending) = self.requests.get(&(life, number)) else {
            return;
        };
        let (request, began) = (pending.request.clone(), pending.began);
        if !alive {
            // What a process that died had asked for may happen or not.
            let too_late = self.life != life && !matches!(request, Request::Put(_));
            if too_late || !self.random.chance(500) {
                return;
            }
        }
        let answer = self.takes_effect(request, began);
        if let Some(pending) = self.requests.get_mut(&(life, number)) {
            pending.answer = Some(answer);
        }
    }

    fn takes_effect(&mut self, request: Request, began: i64) -> Answer {
        match request {
            Request::Page {
                streams,
                range,
                after,
                keys,
            } => self.database.page(
                &streams,
                range,
                after,
                keys,
                (began, self.now),
                self.scenario.page_rows,
                self.scenario.faults.torn_pages,
                &mut self.random,
            ),
            Request::Save(saves) => {
                for save in saves {
                    self.save(save);
                }
                Answer::Done
            }
            Request::Put(letter) => {
                self.database.put(&letter);
                self.letters_changed(&letter, "put");
                Answer::Done
            }
            Request::Remove(letter, stamp) => {
                self.database.remove(&letter, stamp);
                self.letters_changed(&letter, "removed");
                Answer::Done
            }
            Request::FailedAgain(mut letter, reason, failure, stamp) => {
                letter.reason = reason;
                letter.failure = Some(failure);
                self.database.failed_again(&letter, stamp);
                Answer::Done
            }
            Request::LetterKeys => {
                let mut keys: Vec<_> = self
                    .database
                    .letters
                    .keys()
                    .map(|(key, _)| key.clone())
                    .collect();
                keys.dedup();
                Answer::LetterKeys(keys)
            }
            Request::LettersOf(key) => Answer::Letters(self.database.letters_of(&key)),
            Request::Sleep(_) => Answer::Done,
        }
    }

    /// Counts anew the dead letters of the event of `letter`.
    fn letters_changed(&mut self, letter: &DeadLetter, what: &str) {
        let Some(row) = self.database.row_at(&letter.place) else {
            self.violated(Oracle::O2, || format!("no row has the place of {letter:?}"));
            return;
        };
        let event = self.database.rows[row].event;
        let at = |row: &usize| {
            let row = &self.database.rows[*row];
            let mut letters = self.database.letters.keys();
            let stream = crate::database::stream_id(row.stream);
            letters.any(|(_, place)| place.position == row.position && place.stream == stream)
        };
        let letters = self.events[event].rows.iter().filter(|row| at(row)).count() as u32;
        let said = &mut self.events[event];
        let before = said.letters;
        said.letters = letters;
        if letters > before && !said.appended.is_empty() {
            // It was published and is a dead letter as well: the answer was lost, or a write of a
            // life before comes late.
            said.allowance += 1;
        }
        if letters < before && said.appended.is_empty() {
            said.discarded = true;
        }
        let name = said.name();
        self.say(|| format!("{what}: the dead letter of {name}"));
        let (wrong, mended) = (!self.events[event].broken, self.person_asked);
        if self.events[event].discarded && (wrong || !mended) {
            self.violated(Oracle::O1, || {
                format!("the dead letter of {name} is removed before it is published")
            });
        }
    }

    fn save(&mut self, save: Save) {
        let stored = self.database.checkpoints.get(&save.key);
        let before = stored.map_or(i64::MIN, |stored| stored.form.watermark);
        let (watermark, key) = (save.form.watermark, save.key.clone());
        if !self.database.save(save) {
            return;
        }
        let at = crate::trace::time(watermark);
        self.say(|| format!("saved: W of {key:?} is {at}"));
        if watermark < before {
            self.violated(Oracle::O6, || format!("W of {key:?} goes back to {at}"));
        }
        let generation = self
            .scenario
            .generations
            .iter()
            .position(|t| *t == key.generation);
        let found = self.database.rows.iter().find(|row| {
            Some(usize::from(row.stream[0])) == generation
                && key.group == [row.stream[1]]
                && row.position.micros() <= watermark
                && !self.is_done(row.event)
        });
        if let Some(row) = found {
            let name = self.events[row.event].name();
            self.violated(Oracle::O5, || {
                format!("W of {key:?} is {at}, and {name} is not durable")
            });
        }
    }

    fn is_done(&self, event: usize) -> bool {
        let said = &self.events[event];
        !said.appended.is_empty() || said.letters > 0 || said.discarded
    }

    pub(crate) fn answered(&mut self, life: u32, number: u64, ok: bool) {
        let Some(pending) = self.requests.remove(&(life, number)) else {
            return;
        };
        let Pending {
            request, answer, ..
        } = pending;
        let landed = answer.is_some();
        if !ok && !landed {
            // It may still happen.
            self.requests.insert(
                (life, number),
                Pending {
                    request: request.clone(),
                    began: self.now,
                    answer: None,
                },
            );
        }
        let now = self.now;
        let Some(relay) = self.relay.as_mut().filter(|relay| relay.life == life) else {
            return;
        };
        let elapsed = Duration::from_micros((now - relay.started) as u64);
        match request {
            Request::Save(saves) => {
                relay.saving = None;
                relay.source.saved(&saves, ok);
            }
            Request::Put(letter) => {
                let Some(write) = relay.puts.remove(&number) else {
                    return;
                };
                if !ok {
                    relay.keeping.failed(write, elapsed);
                } else if let Some(kept) = relay.keeping.written(write) {
                    relay.exhausted |= letter.reason == Reason::Exhausted;
                    relay.core.kept(kept.item, letter.parks);
                }
            }
            _ => {
                let answer = if ok { answer } else { None };
                let done = matches!(request, Request::Sleep(_));
                let answer = answer.unwrap_or(if done { Answer::Done } else { Answer::Failed });
                relay.wire.answer(number, answer);
            }
        }
    }
}
