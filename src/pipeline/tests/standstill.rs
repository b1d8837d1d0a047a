//! When nothing may be sent: replays while the breaker is not closed, and a limit in time.

use super::*;
use crate::retry::breaker::State;

/// How long the breaker is open.
const OPEN_FOR: Duration = Duration::from_secs(30);
/// Kafka is away.
const AWAY: Code = Code::MessageTimedOut;

/// What a replay says, and how long it took to say so.
type Told = (Result<Replayed, Closed>, Duration);

/// A replay that has been handed over.
struct Asked(JoinSet<Told>);

impl Asked {
    async fn told(&mut self) -> Told {
        let told = self.0.join_next().await;
        told.expect("one replay").expect("it does not panic")
    }
}

fn again(delivery: Delivery) -> Replay {
    Replay {
        table: delivery.table,
        record: delivery.record,
        label: delivery.label,
        attempts: 1,
    }
}

impl Relay {
    /// Hands a replay over; the next one is behind it.
    async fn ask(&mut self, key: &str) -> Asked {
        let delivery = self.delivery(key, b"0");
        let (handle, start) = (self.handle.clone(), Instant::now());
        let mut asked = JoinSet::new();
        asked.spawn(async move {
            let told = handle.replay(again(delivery)).await;
            (told, start.elapsed())
        });
        // It is handed over when the task has had its turn.
        tokio::task::yield_now().await;
        Asked(asked)
    }

    /// Waits until the breaker has this state.
    async fn breaker_is(&self, state: State) {
        let mut breaker = self.handle.breaker();
        let reached = breaker.wait_for(|now| *now == state).await;
        reached.expect("the pipeline runs");
    }

    /// Submits an event each of five keys: their failures open the breaker.
    async fn five(&mut self) {
        for key in ["a", "b", "c", "d", "e"] {
            self.submit(key).await;
        }
    }
}

/// A relay whose first sends do as these steps say, and whose others are delivered.
fn relay(steps: impl IntoIterator<Item = Step>) -> Relay {
    let mut steps = steps.into_iter().collect::<Vec<_>>().into_iter();
    with_shelf(testing::config(), move |_, _| {
        steps.next().unwrap_or(Step::Deliver)
    })
    .0
}

fn at_once(told: Result<Replayed, Closed>) -> Told {
    (told, Duration::ZERO)
}

const POSTPONED: Result<Replayed, Closed> = Ok(Replayed::Postponed);

#[tokio::test(start_paused = true)]
async fn a_replay_finds_the_breaker_open_and_is_told_so_at_once() {
    let mut relay = relay(vec![Step::Reject(AWAY); 5]);
    relay.five().await;
    relay.breaker_is(State::Open).await;
    for _ in 0..3 {
        assert_eq!(relay.ask("replayed").await.told().await, at_once(POSTPONED));
    }
    assert_eq!(relay.metrics.failed_attempts.get(), 5, "nothing was tried");
    relay.settled(5).await;
    let published = relay.ask("replayed").await.told().await;
    assert_eq!(published, at_once(Ok(Replayed::Published)));
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_waits_for_its_next_attempt_is_given_back_when_the_breaker_opens() {
    let mut relay = relay(vec![Step::Reject(AWAY); 5]);
    let mut asked = relay.ask("replayed").await;
    relay.control.sent(1).await;
    for key in ["a", "b", "c", "d"] {
        relay.submit(key).await;
    }
    assert_eq!(asked.told().await, at_once(POSTPONED));
    assert_eq!(relay.settled(4).await.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_replay_whose_own_attempt_opens_the_breaker_is_given_back_at_once() {
    let mut relay = relay(vec![Step::Reject(AWAY); 5]);
    for key in ["a", "b", "c", "d"] {
        relay.submit(key).await;
    }
    relay.control.sent(4).await;
    assert_eq!(relay.ask("replayed").await.told().await, at_once(POSTPONED));
    assert_eq!(relay.settled(4).await.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_replay_in_flight_when_the_breaker_opens_is_given_back_when_it_fails() {
    let mut steps = vec![Step::Hold];
    steps.extend(vec![Step::Reject(AWAY); 5]);
    let mut relay = relay(steps);
    let mut asked = relay.ask("replayed").await;
    relay.control.sent(1).await;
    relay.five().await;
    relay.breaker_is(State::Open).await;
    assert_eq!(relay.control.reject(AWAY), 1);
    assert_eq!(asked.told().await, at_once(POSTPONED));
}

#[tokio::test(start_paused = true)]
async fn a_replay_behind_waiting_lanes_is_given_back_when_the_breaker_opens() {
    let mut steps = vec![Step::Hold; 5];
    // The queue of the producer is full: those behind wait.
    steps.extend(vec![Step::Full; 1000]);
    let mut relay = relay(steps);
    relay.five().await;
    for key in ["f", "g", "h"] {
        relay.submit(key).await;
    }
    let mut asked = relay.ask("replayed").await;
    relay.control.sent(6).await;
    assert_eq!(relay.control.reject(AWAY), 5);
    assert_eq!(asked.told().await, at_once(POSTPONED));
}

#[tokio::test(start_paused = true)]
async fn a_replay_behind_probes_that_fail_is_given_back() {
    let mut steps = vec![Step::Reject(AWAY); 5];
    steps.extend(vec![Step::Hold; 3]);
    let mut relay = relay(steps);
    relay.five().await;
    relay.breaker_is(State::HalfOpen).await;
    relay.control.sent(8).await;
    let mut asked = relay.ask("replayed").await;
    let unanswered = (&mut Box::pin(asked.told())).now_or_never();
    assert_eq!(unanswered, None, "the probes have no answer yet");
    assert_eq!(relay.control.reject(AWAY), 3);
    assert_eq!(asked.told().await, at_once(POSTPONED));
    relay.settled(5).await;
}

/// Brings a breaker to half-open with nothing left that could probe but replays.
async fn half_open(relay: &mut Relay) -> Instant {
    let asked = futures::future::join_all(["a", "b", "c", "d", "e"].map(|key| {
        let handle = relay.handle.clone();
        let delivery = relay.delivery(key, b"0");
        async move { handle.replay(again(delivery)).await }
    }));
    assert_eq!(asked.await, vec![POSTPONED; 5]);
    relay.breaker_is(State::HalfOpen).await;
    Instant::now()
}

#[tokio::test(start_paused = true)]
async fn without_new_events_replays_probe_a_half_open_breaker_and_close_it() {
    let start = Instant::now();
    let mut relay = relay(vec![Step::Reject(AWAY); 5]);
    assert_eq!(half_open(&mut relay).await - start, OPEN_FOR);
    for probe in 1..=3 {
        assert_eq!(*relay.handle.breaker().borrow(), State::HalfOpen);
        let told = relay.ask("replayed").await.told().await;
        assert_eq!(told, at_once(Ok(Replayed::Published)), "probe {probe}");
    }
    relay.breaker_is(State::Closed).await;
}

#[tokio::test(start_paused = true)]
async fn a_probe_of_a_replay_that_fails_opens_the_breaker_and_uses_up_no_attempt() {
    let start = Instant::now();
    let mut relay = relay(vec![Step::Reject(AWAY); 7]);
    half_open(&mut relay).await;
    for time in 2..=3 {
        assert_eq!(relay.ask("replayed").await.told().await, at_once(POSTPONED));
        assert_eq!(*relay.handle.breaker().borrow(), State::Open);
        relay.breaker_is(State::HalfOpen).await;
        assert_eq!(start.elapsed(), time * OPEN_FOR);
    }
    let published = relay.ask("replayed").await.told().await;
    assert_eq!(published, at_once(Ok(Replayed::Published)));
}

/// A pipeline with a limit, and when its sends were made, in milliseconds.
struct Limited {
    relay: Relay,
    sends: Arc<Mutex<Vec<u128>>>,
    until: watch::Sender<Instant>,
}

impl Limited {
    fn until(until: Instant, mut step: impl FnMut(u64, &Record) -> Step + Send + 'static) -> Self {
        let sends: Arc<Mutex<Vec<u128>>> = Arc::default();
        let (seen, start) = (Arc::clone(&sends), Instant::now());
        let script = move |send, record: &Record| {
            let at = start.elapsed().as_millis();
            seen.lock().expect("no panic").push(at);
            step(send, record)
        };
        let (until, limit) = watch::channel(until);
        let relay = Relay::within(testing::config(), ROOMY, None, Some(limit), script);
        Self {
            relay,
            sends,
            until,
        }
    }

    fn sends(&self) -> Vec<u128> {
        self.sends.lock().expect("no panic").clone()
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_after_the_limit_and_it_goes_on_when_that_is_extended() {
    let start = Instant::now();
    let second = Duration::from_secs(1);
    let mut limited = Limited::until(start + 8 * second, |_, _| Step::Deliver);
    for n in 0..20 {
        if n == 15 {
            limited.until.send_replace(start + 18 * second);
        }
        limited.relay.submit(&n.to_string()).await;
        tokio::time::sleep_until(start + (n + 1) * second).await;
    }
    // The event of the eighth second comes when the limit has been reached.
    let mut expected: Vec<u128> = (0..8).map(|n| n * 1000).collect();
    expected.extend([15_000; 8]);
    expected.extend([16_000, 17_000]);
    assert_eq!(limited.sends(), expected);
    let mut settled = limited.relay.settled(18).await;
    settled.sort_unstable();
    assert_eq!(settled, (0..18).collect::<Vec<u16>>());
    limited.until.send_replace(start + 30 * second);
    limited.relay.settled(2).await;
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_is_due_after_the_limit_waits_and_so_does_a_replay() {
    let start = Instant::now();
    let millis = |n| start + Duration::from_millis(n);
    let mut limited = Limited::until(millis(500), |send, _| match send {
        0..3 => Step::Reject(ODD),
        _ => Step::Deliver,
    });
    limited.relay.submit("k").await;
    // Attempts at 0, 100 and 300 ms; the next one would be due at 700 ms.
    tokio::time::sleep_until(millis(600)).await;
    let mut asked = limited.relay.ask("replayed").await;
    tokio::time::sleep_until(millis(5000)).await;
    assert_eq!(limited.sends(), [0, 100, 300]);
    limited.until.send_replace(millis(9000));
    assert_eq!(limited.relay.settled(1).await, [0]);
    assert_eq!(asked.told().await.0, Ok(Replayed::Published));
    assert_eq!(limited.sends(), [0, 100, 300, 5000, 5000]);
}
