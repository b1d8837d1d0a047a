//! The circuit breaker before one Kafka cluster.
//!
//! Owns the decision whether an attempt may be made. A pure state machine: the time comes in as a
//! [`Duration`] since any fixed origin. Invariants:
//!
//! 1. Closed, it opens after `failure_threshold` failures in a row; a success in between starts
//!    the count anew.
//! 2. Open, it admits nothing for `open_for`; then it is half-open.
//! 3. Half-open, it admits probes, never more at a time than successes are missing.
//!    `success_threshold` successes close it; one failure opens it again.
//! 4. The outcome of an attempt that was admitted in an earlier state counts for nothing: what was
//!    under way when the breaker opened says nothing of how Kafka is later.
//!
//! Deliberately absent: which errors are failures ([`crate::sink::Kind::is_outage`] says so), and
//! waiting (the pipeline does).

use std::time::Duration;

use crate::config;

/// What a breaker does with attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// All may be made.
    Closed,
    /// None may be made.
    Open,
    /// A few may be made, to see whether Kafka is back.
    HalfOpen,
}

impl State {
    /// The name in logs and in status output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// The right to make one attempt; its outcome is reported with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    period: u64,
    probe: bool,
}

impl Ticket {
    /// Whether the attempt is a probe of a half-open breaker: its failure says something of Kafka
    /// and nothing of the event.
    pub fn is_probe(self) -> bool {
        self.probe
    }
}

/// Whether an attempt may be made now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It may.
    Go(Ticket),
    /// Not before this time.
    Until(Duration),
    /// Not before the outcome of a probe is known.
    AfterProbe,
}

/// A change of state, for logs and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// The state before.
    pub from: State,
    /// The state after.
    pub to: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inner {
    Closed { failures: u32 },
    Open { until: Duration },
    HalfOpen { successes: u32, probes: u32 },
}

/// The breaker.
#[derive(Debug, Clone)]
pub struct Breaker {
    failure_threshold: u32,
    open_for: Duration,
    success_threshold: u32,
    inner: Inner,
    /// Counts the changes of state.
    period: u64,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(config: &config::Breaker) -> Self {
        Self {
            failure_threshold: config.failure_threshold.get(),
            open_for: config.open_for,
            success_threshold: config.success_threshold.get(),
            inner: Inner::Closed { failures: 0 },
            period: 0,
        }
    }

    /// The present state. An open breaker whose time has passed is open until it is asked.
    pub fn state(&self) -> State {
        match self.inner {
            Inner::Closed { .. } => State::Closed,
            Inner::Open { .. } => State::Open,
            Inner::HalfOpen { .. } => State::HalfOpen,
        }
    }

    /// When an open breaker becomes half-open.
    pub fn next_change(&self) -> Option<Duration> {
        match self.inner {
            Inner::Open { until } => Some(until),
            Inner::Closed { .. } | Inner::HalfOpen { .. } => None,
        }
    }

    /// Lets an open breaker whose time has passed become half-open.
    pub fn tick(&mut self, now: Duration) -> Option<Transition> {
        let Inner::Open { until } = self.inner else {
            return None;
        };
        (now >= until).then(|| {
            self.enter(Inner::HalfOpen {
                successes: 0,
                probes: 0,
            })
        })
    }

    /// Asks for the right to make an attempt. Whoever gets it must report its outcome.
    pub fn admit(&mut self) -> Admission {
        let probe = match &mut self.inner {
            Inner::Closed { .. } => false,
            Inner::Open { until } => return Admission::Until(*until),
            Inner::HalfOpen { successes, probes } => {
                if *successes + *probes >= self.success_threshold {
                    return Admission::AfterProbe;
                }
                *probes += 1;
                true
            }
        };
        Admission::Go(Ticket {
            period: self.period,
            probe,
        })
    }

    /// The attempt succeeded.
    pub fn succeeded(&mut self, ticket: Ticket) -> Option<Transition> {
        if ticket.period != self.period {
            return None;
        }
        match &mut self.inner {
            Inner::Closed { failures } => *failures = 0,
            Inner::Open { .. } => {}
            Inner::HalfOpen { successes, probes } => {
                *probes = probes.saturating_sub(1);
                *successes += 1;
                if *successes >= self.success_threshold {
                    return Some(self.enter(Inner::Closed { failures: 0 }));
                }
            }
        }
        None
    }

    /// The attempt failed, and Kafka is to blame.
    pub fn failed(&mut self, ticket: Ticket, now: Duration) -> Option<Transition> {
        if ticket.period != self.period {
            return None;
        }
        let opens = match &mut self.inner {
            Inner::Closed { failures } => {
                *failures += 1;
                *failures >= self.failure_threshold
            }
            Inner::Open { .. } => false,
            Inner::HalfOpen { .. } => true,
        };
        let until = now.saturating_add(self.open_for);
        opens.then(|| self.enter(Inner::Open { until }))
    }

    /// The attempt says nothing of Kafka: it was not made, or the event itself is at fault.
    pub fn passed(&mut self, ticket: Ticket) {
        if ticket.period == self.period
            && let Inner::HalfOpen { probes, .. } = &mut self.inner
        {
            *probes = probes.saturating_sub(1);
        }
    }

    fn enter(&mut self, inner: Inner) -> Transition {
        let from = self.state();
        self.inner = inner;
        self.period += 1;
        Transition {
            from,
            to: self.state(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::*;

    use super::*;

    fn breaker() -> Breaker {
        let number = |n| NonZeroU32::new(n).expect("not zero");
        Breaker::new(&config::Breaker {
            failure_threshold: number(5),
            open_for: Duration::from_secs(30),
            success_threshold: number(3),
        })
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn go(breaker: &mut Breaker) -> Ticket {
        match breaker.admit() {
            Admission::Go(ticket) => ticket,
            other => panic!("no attempt is admitted: {other:?}"),
        }
    }

    #[derive(Clone, Copy)]
    enum Event {
        Succeeds,
        Fails,
        Tick(u64),
    }

    /// The transition table: from a state, after events, to a state.
    #[test]
    fn every_transition_of_the_table() {
        use Event::{Fails as F, Succeeds as S, Tick as T};
        use State::{Closed, HalfOpen, Open};
        let cases: &[(&str, &[Event], State)] = &[
            ("nothing happens", &[], Closed),
            ("a success keeps it closed", &[S], Closed),
            ("four failures do not open it", &[F, F, F, F], Closed),
            ("five failures open it", &[F, F, F, F, F], Open),
            (
                "a success forgets failures",
                &[F, F, F, F, S, F, F, F, F],
                Closed,
            ),
            ("open, it waits", &[F, F, F, F, F, T(29)], Open),
            (
                "after 30 s it is half-open",
                &[F, F, F, F, F, T(30)],
                HalfOpen,
            ),
            (
                "two successes are not enough",
                &[F, F, F, F, F, T(30), S, S],
                HalfOpen,
            ),
            (
                "three successes close it",
                &[F, F, F, F, F, T(30), S, S, S],
                Closed,
            ),
            ("a failed probe opens it", &[F, F, F, F, F, T(30), F], Open),
            (
                "also after successes",
                &[F, F, F, F, F, T(30), S, S, F],
                Open,
            ),
            ("again for 30 s", &[F, F, F, F, F, T(30), F, T(59)], Open),
            (
                "and then half-open",
                &[F, F, F, F, F, T(30), F, T(60)],
                HalfOpen,
            ),
            (
                "closed again, it counts anew",
                &[F, F, F, F, F, T(30), S, S, S, F, F, F, F],
                Closed,
            ),
        ];
        for (name, events, expected) in cases {
            let (mut breaker, mut now) = (breaker(), at(0));
            for event in *events {
                match event {
                    S => {
                        let ticket = go(&mut breaker);
                        breaker.succeeded(ticket);
                    }
                    F => {
                        let ticket = go(&mut breaker);
                        breaker.failed(ticket, now);
                    }
                    T(seconds) => {
                        now = at(*seconds);
                        breaker.tick(now);
                    }
                }
            }
            assert_eq!(breaker.state(), *expected, "{name}");
        }
    }

    #[test]
    fn open_it_says_until_when_and_half_open_it_lets_few_through() {
        let mut breaker = breaker();
        let tickets: Vec<Ticket> = (0..7).map(|_| go(&mut breaker)).collect();
        let opened: Vec<_> = tickets[..6]
            .iter()
            .map(|ticket| breaker.failed(*ticket, at(1)).is_some())
            .collect();
        assert_eq!(opened, [false, false, false, false, true, false]);
        assert_eq!(breaker.admit(), Admission::Until(at(31)));
        // A late success of an attempt from before changes nothing.
        assert_eq!(breaker.succeeded(tickets[6]), None);
        assert_eq!(breaker.state(), State::Open);
        let half = breaker.tick(at(31)).expect("a transition");
        assert_eq!((half.from, half.to), (State::Open, State::HalfOpen));
        let probes: Vec<Ticket> = (0..3).map(|_| go(&mut breaker)).collect();
        assert!(probes.iter().all(|probe| probe.is_probe()));
        assert_eq!(breaker.admit(), Admission::AfterProbe);
        breaker.passed(probes[0]);
        assert!(
            go(&mut breaker).is_probe(),
            "a probe that said nothing is replaced"
        );
        breaker.succeeded(probes[1]);
        assert_eq!(breaker.admit(), Admission::AfterProbe);
    }

    proptest! {
        /// Whatever happens, no attempt is admitted while it is open, and never more probes are
        /// under way than the threshold allows.
        #[test]
        fn admits_nothing_while_open(steps in prop::collection::vec((0..4_u8, 0..8_usize), 0..300)) {
            let mut breaker = breaker();
            let mut flying: Vec<Ticket> = Vec::new();
            let mut now = 0;
            let mut open_until = None;
            for (step, pick) in steps {
                now += pick as u64;
                breaker.tick(at(now));
                if breaker.state() != State::Open {
                    open_until = None;
                }
                if let Some(until) = open_until {
                    prop_assert!(now < until);
                }
                let transition = match step {
                    0 => {
                        match breaker.admit() {
                            Admission::Go(ticket) => {
                                prop_assert!(breaker.state() != State::Open);
                                flying.push(ticket);
                            }
                            Admission::Until(until) => {
                                prop_assert_eq!(breaker.state(), State::Open);
                                prop_assert!(until > at(now));
                            }
                            Admission::AfterProbe => prop_assert_eq!(breaker.state(), State::HalfOpen),
                        }
                        None
                    }
                    _ if flying.is_empty() => None,
                    _ => {
                        let ticket = flying.swap_remove(pick % flying.len());
                        match step {
                            1 => breaker.succeeded(ticket),
                            2 => breaker.failed(ticket, at(now)),
                            _ => { breaker.passed(ticket); None }
                        }
                    }
                };
                if let Some(Transition { to: State::Open, .. }) = transition {
                    open_until = Some(now + 30);
                }
                let probes = flying.iter().filter(|t| t.probe && t.period == breaker.period).count();
                prop_assert!(probes <= 3);
            }
        }
    }
}
