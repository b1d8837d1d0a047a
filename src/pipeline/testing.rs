//! What tests of the pipeline and of sinks share.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use scylla::statement::Consistency;

use crate::config::{
    Breaker, Checkpoint, Config, DeadLetters, Follow, Http, Kafka, Limits, Log, LogFormat,
    OnExhausted, OnPermanent, Relay, Retry, Scylla, Shutdown, Start, Supervision, UnreadyWhen,
};

/// Takes a seed for the random numbers of all tests.
const VARIABLE: &str = "OUTBOX_RELAY_TEST_SEED";

/// Random numbers that a seed determines (`SplitMix64`).
#[derive(Debug)]
pub(crate) struct Seed(u64);

impl Seed {
    /// A seed from the environment, or a new one; prints it.
    pub(crate) fn of(test: &str) -> Self {
        let given = std::env::var(VARIABLE).ok();
        let seed = given.and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| uuid::Uuid::new_v4().as_u128() as u64);
        println!("{test}: {VARIABLE}={seed}");
        Self(seed)
    }

    /// Another sequence that this one determines.
    pub(crate) fn split(&mut self) -> Self {
        Self(self.next())
    }

    /// A number below `bound`, which is not zero.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

fn count(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).expect("not zero")
}

/// A configuration without outboxes; retries wait 100, 200, 400, 500 ms.
pub(crate) fn config() -> Config {
    Config {
        relay: Relay {
            name: "test".into(),
        },
        scylla: Scylla {
            nodes: Vec::new(),
            keyspace: "outbox_relay".into(),
            consistency: Consistency::LocalQuorum,
            datacenter: None,
            username: None,
            password: None,
            tls: None,
            request_timeout: Duration::from_secs(5),
        },
        kafka: Kafka {
            brokers: Vec::new(),
            properties: BTreeMap::new(),
            files: BTreeMap::new(),
            oauth_token_file: None,
        },
        outboxes: Vec::new(),
        follow: Follow {
            poll: Duration::from_millis(10),
            idle_poll: Duration::from_secs(1),
            late_window: Duration::from_secs(10),
            confirm: Duration::from_secs(1),
            sweep: true,
            start: Start::Earliest,
            page_rows: NonZeroU32::new(1000).expect("not zero"),
            concurrent_reads: count(16),
            reads_per_second: NonZeroU32::new(2000).expect("not zero"),
            tracked_positions: count(10_000),
            generation_poll: Duration::from_secs(10),
            wake_up: None,
            deduplicate: true,
            accept_expired: false,
        },
        retry: Retry {
            initial_backoff: Duration::from_millis(100),
            multiplier: 2.0,
            max_backoff: Duration::from_millis(500),
            attempt_timeout: Duration::from_secs(5),
            max_attempts: NonZeroU32::new(5).expect("not zero"),
            on_exhausted: OnExhausted::DeadLetter,
        },
        breaker: Breaker {
            failure_threshold: NonZeroU32::new(5).expect("not zero"),
            open_for: Duration::from_secs(30),
            success_threshold: NonZeroU32::new(3).expect("not zero"),
        },
        dead_letters: DeadLetters {
            on_permanent: OnPermanent::ParkKey,
            auto_replay: true,
            auto_replay_interval: Duration::from_mins(1),
            max_parked_keys: count(1_000),
            replay_concurrency: count(4),
        },
        checkpoint: Checkpoint {
            interval: Duration::from_secs(1),
            idle_interval: Duration::from_secs(10),
        },
        limits: Limits {
            in_flight_events: count(10_000),
            in_flight_bytes: count(64 << 20),
        },
        shutdown: Shutdown {
            drain_timeout: Duration::from_secs(20),
        },
        log: Log {
            level: "info".into(),
            format: LogFormat::Text,
            file: None,
        },
        http: Http {
            listen: None,
            admin_token: None,
            max_connections: count(8),
            request_timeout: Duration::from_secs(30),
        },
        otlp: None,
        supervision: Supervision {
            initial_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(30),
            stable_after: Duration::from_mins(1),
            max_restarts: count(10),
            window: Duration::from_mins(10),
            failed_retry: Duration::from_mins(2),
            health_interval: Duration::from_secs(5),
            stalled_after: Duration::from_mins(1),
            unready_when: UnreadyWhen::AllFailed,
        },
    }
}
