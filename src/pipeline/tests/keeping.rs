//! The writes of dead letters: one of a key at a time, in order, whatever fails.

use std::collections::HashMap;

use super::*;
use crate::pipeline::testing::Seed;

/// How long a write takes.
const WRITE: Duration = Duration::from_millis(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Write {
    Begins(u16),
    Fails(u16),
    Lands(u16),
}

#[derive(Default)]
struct Pages {
    /// How often the write of each dead letter still fails.
    refusals: HashMap<u16, u32>,
    writes: HashMap<Bytes, Vec<Write>>,
}

/// Keeps dead letters, and remembers when the writes of each key began and ended.
#[derive(Clone, Default)]
struct Diary(Arc<Mutex<Pages>>);

impl Diary {
    fn refusing(refusals: impl IntoIterator<Item = (u16, u32)>) -> Self {
        let diary = Self::default();
        diary.pages().refusals.extend(refusals);
        diary
    }

    fn pages(&self) -> std::sync::MutexGuard<'_, Pages> {
        self.0.lock().expect("no test panics in here")
    }

    fn of(&self, key: &str) -> Vec<Write> {
        self.pages().writes[key.as_bytes()].clone()
    }
}

impl Keep for Diary {
    fn keep(&self, letter: Arc<DeadLetter>) -> BoxFuture<'static, Result<(), Error>> {
        let diary = self.clone();
        async move {
            let number = number(&letter);
            let note = |write| {
                let writes = &mut diary.pages().writes;
                writes.entry(letter.key.clone()).or_default().push(write);
            };
            note(Write::Begins(number));
            tokio::time::sleep(WRITE).await;
            let refused = diary.pages().refusals.get_mut(&number).is_some_and(|left| {
                let refused = *left > 0;
                *left = left.saturating_sub(1);
                refused
            });
            if refused {
                note(Write::Fails(number));
                return Err(Error::Form { column: "none" });
            }
            note(Write::Lands(number));
            Ok(())
        }
        .boxed()
    }

    fn stamp(&self) -> i64 {
        1
    }
}

/// A relay whose every event is refused for good.
fn burying(diary: &Diary) -> Relay {
    let keep = Arc::new(diary.clone());
    Relay::with(testing::config(), ROOMY, Some(keep), |_, _| {
        Step::Reject(Code::InvalidRecord)
    })
}

/// What is written of a key whose dead letters fail so often each, when one is written at a time.
fn one_at_a_time(letters: impl IntoIterator<Item = (u16, u32)>) -> Vec<Write> {
    let mut writes = Vec::new();
    for (number, refusals) in letters {
        for _ in 0..refusals {
            writes.extend([Write::Begins(number), Write::Fails(number)]);
        }
        writes.extend([Write::Begins(number), Write::Lands(number)]);
    }
    writes
}

#[tokio::test(start_paused = true)]
async fn dead_letters_of_a_key_are_written_one_at_a_time_in_order() {
    let start = Instant::now();
    let diary = Diary::refusing([(0, 2), (4, 1)]);
    let mut relay = burying(&diary);
    for key in ["stuck", "other", "stuck", "other", "stuck", "stuck"] {
        relay.submit(key).await;
    }
    assert_eq!(
        relay.settled(2).await,
        [1, 3],
        "another key is not held up by the first one"
    );
    assert_eq!(start.elapsed(), 2 * WRITE);
    assert_eq!(relay.settled(4).await, [0, 2, 4, 5]);
    let stuck = [(0, 2), (2, 0), (4, 1), (5, 0)];
    assert_eq!(diary.of("stuck"), one_at_a_time(stuck));
    assert_eq!(diary.of("other"), one_at_a_time([(1, 0), (3, 0)]));
    // Seven writes of 10 ms, pauses of 100 and 200 ms for one letter, of 100 ms for the other.
    assert_eq!(start.elapsed().as_millis(), 470);
    assert_eq!(relay.metrics.dead_letter_errors.get(), 3);
}

#[tokio::test(start_paused = true)]
async fn forty_keys_whose_writes_fail_at_random_each_keep_their_order() {
    let mut seed = Seed::of("writes of dead letters that fail at random");
    let refusals: Vec<(u16, u32)> = (0..400).map(|n| (n, seed.below(3) as u32)).collect();
    let diary = Diary::refusing(refusals.iter().copied());
    let mut relay = burying(&diary);
    let mut keys: HashMap<String, Vec<(u16, u32)>> = HashMap::new();
    for letter in refusals {
        let key = seed.below(40).to_string();
        relay.submit(&key).await;
        keys.entry(key).or_default().push(letter);
    }
    let mut settled = relay.settled(400).await;
    settled.sort_unstable();
    assert_eq!(settled, (0..400).collect::<Vec<u16>>());
    for (key, letters) in keys {
        assert_eq!(diary.of(&key), one_at_a_time(letters), "key {key}");
    }
}
