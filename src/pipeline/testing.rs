//! What tests of the pipeline and of sinks share.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use scylla::statement::Consistency;

use crate::config::{
    Checkpoint, Config, Follow, Kafka, Limits, Log, LogFormat, Relay, Retry, Scylla, Shutdown,
    Start, Supervision, UnreadyWhen,
};

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
            request_timeout: Duration::from_secs(5),
        },
        kafka: Kafka {
            brokers: Vec::new(),
            properties: BTreeMap::new(),
        },
        outboxes: Vec::new(),
        follow: Follow {
            poll: Duration::from_millis(10),
            idle_poll: Duration::from_secs(1),
            late_window: Duration::from_secs(10),
            rescan: Duration::from_secs(1),
            start: Start::Earliest,
            page_rows: NonZeroU32::new(1000).expect("not zero"),
            concurrent_reads: count(16),
            tracked_positions: count(10_000),
            generation_poll: Duration::from_secs(10),
        },
        retry: Retry {
            initial_backoff: Duration::from_millis(100),
            multiplier: 2.0,
            max_backoff: Duration::from_millis(500),
            attempt_timeout: Duration::from_secs(5),
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
