//! The relay's process: its own pipeline and source, and what their tasks do with them.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::task::noop_waker_ref;
use outbox_relay::dead_letters::extent::Asked;
use outbox_relay::dead_letters::{DeadLetter, Parking, Reason};
use outbox_relay::pipeline::core::{Act, Burial, Core, Item, fatal_last};
use outbox_relay::pipeline::keeping::Keeping;
use outbox_relay::pipeline::{self, Admitted, Handle, Input, PublishIntake};
use outbox_relay::retry::breaker::State;
use outbox_relay::route::Router;
use outbox_relay::runtime::Phase;
use outbox_relay::sink::{Appended, DeliveryError, Report, SendError};
use outbox_relay::source::clock::Clock;
use outbox_relay::source::follower::Moment;
use outbox_relay::telemetry::metrics::Metrics;
use rdkafka::error::RDKafkaErrorCode as Code;
use tokio::sync::watch;

use crate::database::Save;
use crate::oracle::Oracle;
use crate::replayer::{Replayer, Stamps, Stopped, Summary, TABLE};
use crate::scenario::SECOND;
use crate::source_side::SourceSide;
use crate::wire::{Request, Wire};
use crate::world::{Event, Stage, World, table};

mod requests;

/// What a close waits for answers that are under way, as in the relay.
const CLOSE_GRACE: i64 = 500_000;
/// Attempts of the last save, and the pause between them, as in the relay.
const LAST_SAVES: u32 = 5;
const LAST_SAVE_PAUSE: i64 = 500_000;
/// How long a stop waits for a removal that has begun.
const REPLAY_GRACE: i64 = 2 * SECOND;

/// A dead letter on its way to the table.
#[derive(Debug)]
pub(crate) struct Kept {
    item: Admitted,
    letter: Arc<DeadLetter>,
}

/// How far a stop has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// Nobody has asked.
    No,
    /// Nothing new is read; lanes drain until then.
    Draining(i64),
    /// The producer is flushed until then.
    Closing(i64),
    /// The last checkpoint is written: attempts left, and when the next one is due.
    Finishing { left: u32, next: i64, since: i64 },
}

type Replaying = Pin<Box<dyn Future<Output = Result<Summary, Stopped>> + Send>>;

/// A running relay.
pub(crate) struct Relay {
    pub(crate) life: u32,
    started: i64,
    pub(crate) wire: Arc<Wire>,
    phase: watch::Sender<Phase>,
    clock: Arc<Clock>,
    handle: Handle,
    input: Option<Input>,
    pub(crate) core: Core<Admitted>,
    keeping: Keeping<Kept>,
    puts: BTreeMap<u64, u64>,
    saving: Option<u64>,
    pub(crate) source: SourceSide,
    stamps: Arc<Stamps>,
    /// Number of the producer.
    pub(crate) producer: u32,
    pub(crate) reports: Vec<(u64, Option<Code>)>,
    /// By key: the attempt that is under way.
    pub(crate) attempts_under_way: BTreeMap<usize, u64>,
    /// Event of each attempt, and whether it is a probe.
    sent: BTreeMap<u64, (usize, bool)>,
    replaying: Option<Replaying>,
    exhausted: bool,
    not_before: i64,
    person: bool,
    stop: Stop,
    pub(crate) wakes_at: Option<i64>,
}

impl Relay {
    fn ticks(&self, now: i64) -> i64 {
        now - self.started
    }

    fn moment(&self, now: i64, system: i64) -> Moment {
        self.clock.set(system, self.ticks(now));
        self.clock.now()
    }

    fn elapsed(&self, now: i64) -> Duration {
        Duration::from_micros(self.ticks(now) as u64)
    }

    /// Whether nothing is on its way.
    pub(crate) fn is_idle(&self) -> bool {
        self.core.is_empty()
            && self.keeping.is_empty()
            && self.replaying.is_none()
            && !self.person
            && self.stop == Stop::No
    }

    fn is_drained(&self) -> bool {
        let nothing_came = self.input.as_ref().is_none_or(Input::is_empty);
        self.core.is_empty() && nothing_came && self.keeping.is_empty()
    }
}

impl World {
    /// What the system's clock shows where the relay runs.
    fn system_clock(&self) -> i64 {
        self.now + self.jump
    }

    pub(crate) fn start(&mut self) {
        if self.relay.is_some() {
            return;
        }
        // A clock that is wrong when the relay starts is believed, so it is right by then.
        self.jump = self.jump.min(0);
        if !self.clean {
            self.forgive();
        }
        self.life += 1;
        self.clean = false;
        self.say(|| "started".to_owned());
        let scenario = Arc::clone(&self.scenario);
        let wire = Arc::new(Wire::default());
        let (phase, phases) = watch::channel(Phase::Running);
        let (handle, input) = pipeline::channel(&scenario.limits);
        let mut parking = Parking::new(scenario.dead_letters.max_parked_keys.get());
        let mut exhausted = false;
        for ((key, _), kept) in &self.database.letters {
            if kept.letter.parks {
                parking.park(TABLE, key);
                exhausted |= kept.letter.reason.is_replayed_by_itself();
            }
        }
        let mut core = Core::new(&scenario.retry, &scenario.breaker, &scenario.dead_letters);
        core.keep_dead_letters(parking);
        let shape = table();
        let intake = PublishIntake::new(
            TABLE,
            "shop.outbox",
            Arc::clone(&shape.types),
            Arc::clone(&shape.decoder),
            Router::new(&shape.outbox),
            handle.clone(),
            Arc::new(Metrics::default()),
        );
        let intake = intake.without_repetitions(scenario.settings.late_window, 1_000);
        let clock = Arc::new(Clock::by_hand());
        let source = SourceSide::new(
            &scenario,
            &wire,
            &clock,
            Arc::clone(&shape.columns),
            intake,
            phases,
            &self.database.checkpoints,
            self.trace.is_wanted(),
        );
        self.relay = Some(Box::new(Relay {
            life: self.life,
            started: self.now,
            wire,
            phase,
            clock,
            handle,
            input: Some(input),
            core,
            keeping: Keeping::new(),
            puts: BTreeMap::new(),
            saving: None,
            source,
            stamps: Arc::default(),
            producer: 0,
            reports: Vec::new(),
            attempts_under_way: BTreeMap::new(),
            sent: BTreeMap::new(),
            replaying: None,
            exhausted,
            not_before: 0,
            person: false,
            stop: Stop::No,
            wakes_at: None,
        }));
        let life = self.life;
        self.after(0, Event::LookTick(life));
        self.after(self.scenario.save, Event::SaveTick(life));
    }

    /// Repetitions that the end of the last life explains: what was handed to a producer and is
    /// not covered by a stored checkpoint, and replays that were not removed.
    fn forgive(&mut self) {
        for event in 0..self.events.len() {
            let said = &self.events[event];
            let handed_on = said.sent || said.letters > 0;
            let again = handed_on && !said.rows.iter().all(|row| self.is_covered(*row));
            let replayed = self.replayed.contains(&event) && said.letters > 0;
            self.events[event].allowance += u32::from(again) + u32::from(replayed);
        }
        self.replayed.clear();
    }

    /// Whether the stored checkpoints say that the row is done.
    fn is_covered(&self, row: usize) -> bool {
        let row = &self.database.rows[row];
        let generation = self.scenario.generations[usize::from(row.stream[0])];
        let of =
            |save: &&Save| save.key.generation == generation && save.key.group == [row.stream[1]];
        self.database
            .checkpoints
            .values()
            .find(of)
            .is_some_and(|save| {
                let done = save.settled.binary_search(&(row.stream, row.position));
                row.position.micros() <= save.form.watermark || done.is_ok()
            })
    }

    pub(crate) fn crash(&mut self) {
        if self.stage > Stage::Trouble || self.relay.take().is_none() {
            return;
        }
        self.say(|| "crashed".to_owned());
        self.goes_down();
    }

    fn goes_down(&mut self) {
        self.relay = None;
        for said in &mut self.events {
            said.attempts = 0;
            // What the process remembered of it is gone.
            said.forgotten |= said.sent || said.letters > 0;
            said.allowance += u32::from(said.rows.len() > 1);
        }
        let most = if self.random.chance(200) {
            5 * SECOND
        } else {
            SECOND
        };
        let pause = self.random.range(1_000, most);
        self.after(pause, Event::Start);
    }

    pub(crate) fn stop(&mut self) {
        let deadline = self.now + self.scenario.drain;
        let Some(relay) = &mut self.relay else { return };
        if relay.stop != Stop::No {
            return;
        }
        relay.stop = Stop::Draining(deadline);
        relay.phase.send_replace(Phase::Draining);
        self.say(|| "asked to stop".to_owned());
    }

    pub(crate) fn ask_person(&mut self) {
        if let Some(relay) = &mut self.relay {
            relay.person = true;
        }
        self.say(|| "a person replays all dead letters".to_owned());
    }

    pub(crate) fn look_tick(&mut self, life: u32) {
        let (now, system) = (self.now, self.system_clock());
        let away = now < self.database_away;
        let Some(relay) = self.relay.as_mut().filter(|relay| relay.life == life) else {
            return;
        };
        if relay.stop == Stop::No && !away {
            // A generation is published before it begins, mostly.
            let known = |begins: &i64| begins * 1_000 - SECOND <= now;
            let listed: Vec<i64> = self
                .scenario
                .generations
                .iter()
                .copied()
                .filter(known)
                .collect();
            let moment = relay.moment(now, system);
            relay.source.looked(&listed, 0, moment);
        }
        let look = self.scenario.look;
        self.after(look, Event::LookTick(life));
    }

    pub(crate) fn save_tick(&mut self, life: u32) {
        let (now, system) = (self.now, self.system_clock());
        let Some(relay) = self.relay.as_mut().filter(|relay| relay.life == life) else {
            return;
        };
        let in_time = matches!(relay.stop, Stop::No | Stop::Draining(_));
        if in_time && relay.saving.is_none() {
            let moment = relay.moment(now, system);
            if let Some(request) = relay.source.save(moment, system, false) {
                relay.saving = Some(relay.wire.ask(request));
            }
        }
        let tracked = relay.source.tracked();
        let unsettled = relay.core.len() + relay.keeping.len();
        self.check_memory(tracked, unsettled);
        let save = self.scenario.save;
        self.after(save, Event::SaveTick(life));
    }

    fn check_memory(&mut self, tracked: usize, unsettled: usize) {
        let scenario = Arc::clone(&self.scenario);
        let permits = scenario.limits.in_flight_events.get();
        if unsettled > permits {
            self.violated(Oracle::O7, || {
                format!("{unsettled} events in flight, {permits} are allowed")
            });
        }
        // Over its limit a group holds at most what a window brings before it is given up, a page,
        // and what was restored.
        let groups = scenario.groups();
        let window = 4 * scenario.settings.target_rows + 2 * scenario.page_rows + 8;
        let most = scenario.follow.tracked_positions.get()
            + groups * window
            + self.database.rows.len() / 2;
        if tracked > most {
            self.violated(Oracle::O7, || {
                format!("{tracked} rows tracked, {most} are allowed")
            });
        }
    }

    /// The relay does everything that it can do now.
    pub(crate) fn relay_works(&mut self) {
        let Some(mut relay) = self.relay.take() else {
            return;
        };
        let system = self.system_clock();
        relay.stamps.set(system);
        let moment = relay.moment(self.now, system);
        while self.violation.is_none() {
            let mut any = relay.source.progress(moment);
            any |= self.replay_works(&mut relay);
            any |= self.pipeline_works(&mut relay);
            if !any {
                break;
            }
        }
        for line in relay.source.said() {
            self.say(|| line);
        }
        let stopped = self.stop_goes_on(&mut relay, moment, system);
        self.take_requests(&relay);
        if let Some(clean) = stopped {
            self.say(|| format!("stopped, {}", if clean { "clean" } else { "not clean" }));
            self.clean = clean;
            drop(relay);
            self.goes_down();
            return;
        }
        self.wake_up(&mut relay);
        self.relay = Some(relay);
    }

    fn wake_up(&mut self, relay: &mut Relay) {
        let ticks = |due: Duration| due.as_micros() as i64;
        let stop = match relay.stop {
            Stop::No => None,
            Stop::Draining(at) | Stop::Closing(at) => Some(at - relay.started),
            // The answer to a save wakes by itself.
            Stop::Finishing { next, .. } => relay.saving.is_none().then_some(next - relay.started),
        };
        let works = matches!(relay.stop, Stop::No | Stop::Draining(_));
        let wanted = (relay.exhausted || relay.person) && relay.replaying.is_none();
        let again = wanted && relay.core.breaker() != State::Open;
        let due = [
            relay.source.next_due().map(|due| {
                let now = relay.ticks(self.now);
                due.max(now + relay.source.pause(now))
            }),
            relay.core.next_due().filter(|_| works).map(ticks),
            relay.keeping.next_due().filter(|_| works).map(ticks),
            stop,
            (again && relay.stop == Stop::No).then_some(relay.not_before),
        ];
        let Some(due) = due.into_iter().flatten().min() else {
            return;
        };
        let at = (relay.started + due).max(self.now + 1);
        if relay.wakes_at.is_none_or(|wakes| at < wakes) {
            relay.wakes_at = Some(at);
            self.after(at - self.now, Event::Wake(relay.life));
        }
    }

    fn replay_works(&mut self, relay: &mut Relay) -> bool {
        let ready = relay.core.breaker() != State::Open && relay.stop == Stop::No;
        let due = relay.ticks(self.now) >= relay.not_before;
        if relay.replaying.is_none() && ready && due && (relay.exhausted || relay.person) {
            let asked = if relay.person {
                Asked::ByPerson
            } else {
                Asked::ByItself
            };
            let replayer = Replayer {
                wire: Arc::clone(&relay.wire),
                handle: relay.handle.clone(),
                asked,
                phase: relay.phase.subscribe(),
                stamps: Arc::clone(&relay.stamps),
            };
            relay.person = false;
            relay.exhausted = asked == Asked::ByPerson;
            relay.replaying = Some(Box::pin(replayer.carry_out()));
            self.say(|| format!("a replay begins: {asked:?}"));
        }
        let Some(replaying) = &mut relay.replaying else {
            return false;
        };
        let mut context = Context::from_waker(noop_waker_ref());
        let Poll::Ready(done) = replaying.as_mut().poll(&mut context) else {
            return false;
        };
        relay.replaying = None;
        let interval = self.scenario.dead_letters.auto_replay_interval.as_micros() as i64;
        relay.not_before = relay.ticks(self.now) + interval;
        if let Ok(summary) = done {
            relay.exhausted |= summary.left;
        }
        self.say(|| format!("a replay ends: {done:?}"));
        true
    }

    /// What the pipeline's task does.
    fn pipeline_works(&mut self, relay: &mut Relay) -> bool {
        let now = relay.elapsed(self.now);
        let Some(input) = &mut relay.input else {
            return false;
        };
        if matches!(relay.stop, Stop::Closing(_)) {
            return false;
        }
        let mut any = !input.is_empty();
        input.take(&mut relay.core);
        // The task takes reports when its turn comes; sometimes more have come by then.
        let turn =
            !relay.reports.is_empty() && (relay.reports.len() > 3 || self.random.chance(800));
        if turn {
            any = true;
            self.take_reports(relay, now);
        }
        let until = self
            .publish_until
            .map(|until| (until - relay.started).max(0) as u64);
        relay.core.limit(until.map(Duration::from_micros));
        relay.core.tick(now);
        relay.keeping.due(now);
        if relay.core.reopen_at().is_some_and(|at| at <= now) {
            if self.goes_wrong(self.scenario.faults.fatal * 5) {
                relay.core.reopen_failed(now);
            } else {
                relay.producer += 1;
                relay.reports.clear();
                relay.core.reopened();
            }
            any = true;
        }
        any |= self.send_all(relay, now);
        any |= self.carry_out(relay);
        while let Some((number, kept)) = relay.keeping.begin() {
            let request = relay.wire.ask(Request::Put(Arc::clone(&kept.letter)));
            relay.puts.insert(request, number);
        }
        any
    }

    fn send_all(&mut self, relay: &mut Relay, now: Duration) -> bool {
        let mut any = false;
        while let Some(send) = relay.core.next_send(now) {
            any = true;
            let token = send.token;
            let is_replay = send.item.is_replay();
            let record = send
                .item
                .record()
                .expect("only records are given out")
                .clone();
            let payload = record.payload.clone().unwrap_or_default();
            let event = self.by_payload.get(&payload).copied().unwrap_or(0);
            let probe = relay.core.breaker() == State::HalfOpen;
            match self.send(relay, token, &record) {
                Ok(()) => {
                    relay.sent.insert(token, (event, probe));
                    if is_replay {
                        self.replayed.insert(event);
                    }
                }
                Err(SendError::QueueFull) => relay.core.queue_full(token, now),
                Err(SendError::Failed(error)) => relay.core.report(token, Err(error), now),
            }
            if self.violation.is_some() {
                break;
            }
        }
        any
    }

    fn take_reports(&mut self, relay: &mut Relay, now: Duration) {
        relay.core.unstall();
        let report = |(token, error): (u64, Option<Code>)| Report {
            token,
            result: match error {
                None => Ok(Appended {
                    partition: 0,
                    offset: 0,
                }),
                Some(code) => Err(DeliveryError::from_code(code)),
            },
        };
        let mut reports: Vec<Report> = relay.reports.drain(..).map(report).collect();
        fatal_last(&mut reports);
        for Report { token, result } in reports {
            let Some((event, probe)) = relay.sent.remove(&token) else {
                continue;
            };
            let key = self.events[event].key;
            if relay.attempts_under_way.get(&key) == Some(&token) {
                relay.attempts_under_way.remove(&key);
            }
            if let Err(error) = &result {
                let kind = error.kind;
                self.say(|| format!("reported: token {token} failed: {kind}"));
                let spared = probe && kind.is_outage();
                if kind.uses_up_attempts() && !spared {
                    self.events[event].attempts += 1;
                }
            }
            relay.core.report(token, result.map(drop), now);
        }
    }

    fn carry_out(&mut self, relay: &mut Relay) -> bool {
        let mut any = false;
        while let Some(act) = relay.core.next_act() {
            any = true;
            match act {
                Act::Published(item) => self.published(item),
                Act::Kept(item) => self.kept(item),
                Act::Bury(burial) => self.bury(relay, burial),
                Act::Postpone(item) => item.answer(pipeline::Replayed::Postponed),
                Act::Refuse(item, reason, failure) => {
                    item.answer(pipeline::Replayed::Failed(reason, failure));
                }
                Act::Failed(..) => {}
                Act::Moved(transition) => {
                    self.say(|| format!("the breaker is {}", transition.to.name()));
                    if let Some(input) = &relay.input {
                        input.breaker_moved(transition.to);
                    }
                    if transition.to != State::Open {
                        relay.not_before = 0;
                    }
                }
                Act::Lost { error, .. } => {
                    self.say(|| format!("the producer is lost: {error}"));
                    for (event, _) in std::mem::take(&mut relay.sent).into_values() {
                        self.events[event].allowance += 1;
                    }
                    relay.attempts_under_way.clear();
                }
            }
        }
        any
    }

    /// The event that an item is: by its row, or by what it says.
    fn event_of(&self, item: &Admitted, letter: Option<&DeadLetter>) -> Option<usize> {
        if let Some(record) = item.record() {
            let payload = record.payload.clone().unwrap_or_default();
            return self.by_payload.get(&payload).copied();
        }
        let row = self.database.row_at(&letter?.place)?;
        Some(self.database.rows[row].event)
    }

    fn published(&mut self, item: Admitted) {
        if let Some(event) = self.event_of(&item, None) {
            let said = &mut self.events[event];
            said.attempts = 0;
            if said.appended.is_empty() {
                let name = said.name();
                self.violated(Oracle::Settled, || format!("{name} is not in the topic"));
            }
        }
        item.settle();
    }

    fn kept(&mut self, item: Admitted) {
        if let Some(event) = self.event_of(&item, None) {
            let said = &self.events[event];
            if said.letters == 0 && said.appended.is_empty() && !said.discarded {
                let name = said.name();
                self.violated(Oracle::Settled, || format!("{name} has no dead letter"));
            }
        }
        item.settle();
    }

    fn bury(&mut self, relay: &mut Relay, burial: Burial<Admitted>) {
        let now_millis = self.system_clock() / 1_000;
        let stamp = relay.stamps.next(0);
        let letter = pipeline::letter(&burial, "shop.outbox", now_millis, stamp);
        let Some(letter) = letter else {
            self.violated(Oracle::O2, || "a replay is buried".to_owned());
            return;
        };
        if let Some(event) = self.event_of(&burial.item, Some(&letter)) {
            let name = self.events[event].name();
            let made = self.events[event].attempts;
            let reason = letter.reason;
            self.say(|| format!("to be a dead letter: {name}, {reason}"));
            let needed = self.scenario.retry.max_attempts.get();
            if reason == Reason::Exhausted && made < needed {
                self.violated(Oracle::Attempts, || {
                    format!("{name} is given up after {made} of {needed} attempts")
                });
            }
            self.events[event].attempts = 0;
        }
        let key = letter.parks.then(|| burial.item.lane());
        let kept = Kept {
            item: burial.item,
            letter: Arc::new(letter),
        };
        relay.keeping.take(key, kept);
    }

    /// A stop goes on; says how it ended, if it did.
    fn stop_goes_on(&mut self, relay: &mut Relay, now: Moment, system: i64) -> Option<bool> {
        if let Stop::Draining(deadline) = relay.stop
            && (relay.is_drained() || self.now >= deadline)
        {
            relay.stop = Stop::Closing(self.now + CLOSE_GRACE);
        }
        if let Stop::Closing(deadline) = relay.stop {
            let ended = relay.reports.len() >= relay.core.in_flight();
            if !ended && self.now < deadline {
                return None;
            }
            self.close(relay);
            relay.stop = Stop::Finishing {
                left: LAST_SAVES,
                next: self.now,
                since: self.now,
            };
        }
        let Stop::Finishing { left, next, since } = relay.stop else {
            return None;
        };
        relay.source.progress(now);
        self.replay_works(relay);
        let removing = relay.replaying.is_some() && self.now < since + REPLAY_GRACE;
        if relay.saving.is_some() || self.now < next || removing {
            let later = if removing { self.now + 10_000 } else { next };
            let next = next.max(later);
            relay.stop = Stop::Finishing { left, next, since };
            return None;
        }
        let Some(request) = relay.source.save(now, system, true) else {
            // Nothing is left to save.
            let drained = relay.is_drained() && relay.replaying.is_none();
            return Some(drained && self.replays_are_removed());
        };
        if left == 0 {
            return Some(false);
        }
        relay.saving = Some(relay.wire.ask(request));
        relay.stop = Stop::Finishing {
            left: left - 1,
            next: self.now + LAST_SAVE_PAUSE,
            since,
        };
        None
    }

    fn replays_are_removed(&self) -> bool {
        let left = |event: &usize| self.events[*event].letters > 0;
        !self.replayed.iter().any(left)
    }

    /// The producer is closed: good news that has come by now still counts.
    fn close(&mut self, relay: &mut Relay) {
        let now = relay.elapsed(self.now);
        relay.reports.retain(|(_, error)| error.is_none());
        self.take_reports(relay, now);
        self.carry_out(relay);
        relay.input = None;
        relay.phase.send_replace(Phase::Finishing);
        relay.source.progress(Moment {
            wall: self.now,
            ticks: relay.ticks(self.now),
        });
        relay.source.end_reads();
    }
}
