//! Hints of writers on this host: which partitions they have just written.
//!
//! A source polls its stream groups, and those that have long been silent rarely. A hint lets it
//! read the right group at once. Invariants:
//!
//! 1. Nothing rests on a hint. One that is lost, wrong or forged changes when a group is read, never
//!    what is read or published.
//! 2. A flood costs little: 64 datagrams at most are taken in a millisecond, equal tokens of them
//!    are passed on once, and a source that is behind is passed nothing. What the system's buffer
//!    does not hold is lost.
//! 3. Nothing is allocated by what a datagram says: it is no longer than 1,200 bytes, and only the
//!    tables of this relay are known.
//!
//! It does not know which group a token belongs to; that is [`ring`](super::ring).

mod datagram;
mod socket;

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::config::{TableName, WakeUpAddress};
use crate::telemetry::metrics::Metrics;
use datagram::{Datagram, MAX_BYTES};
use socket::Socket;

/// Datagrams taken at once.
const DRAIN: usize = 64;
/// Pause after that: also the most that a hint waits, if it is not the first.
const PAUSE: Duration = Duration::from_millis(1);
/// Tokens that wait for a source; more are dropped. A source takes them all at once.
const WAITING: usize = 1_024;

/// Why hints are not received. The supervisor tries again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket cannot be bound.
    #[error(
        "bind {address} (follow.wake_up); until that succeeds, events are found by polling alone"
    )]
    Bind {
        /// Where.
        address: WakeUpAddress,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// Another process listens there.
    #[error(
        "another process receives hints at {}: give each relay of this host a follow.wake_up of its \
         own; until then, events are found by polling alone",
        path.display()
    )]
    InUse {
        /// The socket's file.
        path: PathBuf,
    },
    /// The file is not a socket.
    #[error(
        "{} is not a socket and is left alone: name another path under follow.wake_up; until then, \
         events are found by polling alone",
        path.display()
    )]
    NoSocket {
        /// The file.
        path: PathBuf,
    },
    /// The socket fails.
    #[error("receive hints")]
    Receive(#[source] io::Error),
}

/// Passes hints on to the sources of the tables. Clones share the subscriptions.
#[derive(Debug, Clone)]
pub struct WakeUps {
    tables: Arc<Mutex<HashMap<String, Subscription>>>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Subscription {
    waiting: mpsc::Sender<i64>,
    /// Tokens of the datagrams that are being taken.
    heard: Vec<i64>,
}

impl WakeUps {
    /// Without subscriptions.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            tables: Arc::default(),
            metrics,
        }
    }

    /// The hints about `table` from now on. They go to the latest subscription of a table.
    pub fn subscribe(&self, table: &TableName) -> Hints {
        let (waiting, hints) = mpsc::channel(WAITING);
        let heard = Vec::new();
        let subscription = Subscription { waiting, heard };
        self.lock().insert(table.to_string(), subscription);
        Hints(Some(hints))
    }

    /// Takes a datagram, whatever it is.
    fn hear(&self, bytes: &[u8]) {
        let mut tables = self.lock();
        let known = Datagram::decode(bytes)
            .and_then(|datagram| Some((datagram, tables.get_mut(datagram.table)?)));
        let Some((datagram, subscription)) = known else {
            self.metrics.hints_garbage.add(1);
            return;
        };
        self.metrics.hints.add(datagram.tokens().len() as u64);
        subscription.heard.extend(datagram.tokens());
    }

    /// Passes on what was heard.
    fn pass_on(&self) {
        for Subscription { waiting, heard } in self.lock().values_mut() {
            heard.sort_unstable();
            heard.dedup();
            let dropped = heard
                .drain(..)
                .filter(|token| waiting.try_send(*token).is_err());
            self.metrics.hints_dropped.add(dropped.count() as u64);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Subscription>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The hints about one table.
#[derive(Debug)]
pub struct Hints(Option<mpsc::Receiver<i64>>);

impl Hints {
    /// None will ever come.
    pub fn none() -> Self {
        Self(None)
    }

    /// Waits for hints, and adds the tokens of all that are there to `tokens`.
    ///
    /// Cancel-safe: if it is dropped midway, no hint is lost.
    pub async fn next(&mut self, tokens: &mut Vec<i64>) {
        if let Some(hints) = &mut self.0
            && hints.recv_many(tokens, WAITING).await > 0
        {
            return;
        }
        // The relay ends, or another source has subscribed.
        self.0 = None;
        std::future::pending::<()>().await;
    }
}

/// Receives hints at `address` and passes them on, until the socket fails.
///
/// Cancel-safe at each await: dropping it closes the socket and removes its file.
///
/// # Errors
///
/// When the socket cannot be bound, or fails. It may be called again.
pub async fn listen(address: &WakeUpAddress, wake_ups: &WakeUps) -> Result<Infallible, Error> {
    let socket = Socket::bind(address).await?;
    tracing::info!(%address, "hints of writers are taken");
    receive(&socket, wake_ups).await.map_err(Error::Receive)
}

async fn receive(socket: &Socket, wake_ups: &WakeUps) -> io::Result<Infallible> {
    // One byte more shows that a datagram is too long.
    let mut buffer = vec![0; MAX_BYTES + 1];
    loop {
        socket.readable().await?;
        for _ in 0..DRAIN {
            let Some(length) = socket.try_recv(&mut buffer)? else {
                break;
            };
            wake_ups.hear(&buffer[..length]);
        }
        wake_ups.pass_on();
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use tokio::net::UdpSocket;

    use super::*;

    fn table() -> TableName {
        TableName {
            keyspace: "shop".to_owned(),
            table: "outbox".to_owned(),
        }
    }

    fn datagram(table: &str, tokens: &[i64]) -> Vec<u8> {
        let mut bytes = b"OBWU\x01\x00".to_vec();
        bytes.push(table.len() as u8);
        bytes.extend(table.as_bytes());
        bytes.extend(tokens.iter().flat_map(|token| token.to_be_bytes()));
        bytes
    }

    fn wake_ups() -> (WakeUps, Hints, Arc<Metrics>) {
        let metrics = Arc::<Metrics>::default();
        let wake_ups = WakeUps::new(Arc::clone(&metrics));
        let hints = wake_ups.subscribe(&table());
        (wake_ups, hints, metrics)
    }

    /// Hints, garbage, dropped.
    fn counted(metrics: &Metrics) -> (u64, u64, u64) {
        let [hints, garbage, dropped] = [
            &metrics.hints,
            &metrics.hints_garbage,
            &metrics.hints_dropped,
        ];
        (hints.get(), garbage.get(), dropped.get())
    }

    async fn next(hints: &mut Hints) -> Vec<i64> {
        let mut tokens = Vec::new();
        hints.next(&mut tokens).await;
        tokens
    }

    #[tokio::test]
    async fn equal_tokens_are_passed_on_once_and_garbage_is_counted() {
        let (wake_ups, mut hints, metrics) = wake_ups();
        wake_ups.hear(&datagram("shop.outbox", &[3, 1, 3]));
        wake_ups.hear(&datagram("shop.outbox", &[1, -2]));
        wake_ups.hear(&datagram("shop.other", &[5]));
        wake_ups.hear(b"hello");
        wake_ups.hear(b"");
        wake_ups.pass_on();
        assert_eq!(next(&mut hints).await, [-2, 1, 3]);
        assert_eq!(counted(&metrics), (5, 3, 0));
        assert_eq!(
            wake_ups.lock().len(),
            1,
            "no table is made up by a datagram"
        );
    }

    #[tokio::test]
    async fn a_source_that_is_behind_loses_hints_and_nothing_waits() {
        let (wake_ups, mut hints, metrics) = wake_ups();
        let tokens: Vec<i64> = (0..WAITING as i64 + 10).collect();
        for tokens in tokens.chunks(100) {
            wake_ups.hear(&datagram("shop.outbox", tokens));
        }
        wake_ups.pass_on();
        assert_eq!(next(&mut hints).await, tokens[..WAITING]);
        assert_eq!(counted(&metrics), (tokens.len() as u64, 0, 10));
    }

    #[tokio::test]
    async fn hints_go_to_the_latest_subscription() {
        let (wake_ups, mut first, metrics) = wake_ups();
        let mut second = wake_ups.subscribe(&table());
        wake_ups.hear(&datagram("shop.outbox", &[1]));
        wake_ups.pass_on();
        assert_eq!(next(&mut second).await, [1]);
        let mut tokens = Vec::new();
        let more = futures::poll!(std::pin::pin!(first.next(&mut tokens)));
        assert!(more.is_pending(), "the end of hints is no hint");
        drop(second);
        wake_ups.hear(&datagram("shop.outbox", &[1]));
        wake_ups.pass_on();
        assert_eq!(counted(&metrics), (2, 0, 1));
        let more = futures::poll!(std::pin::pin!(Hints(None).next(&mut tokens)));
        assert!(more.is_pending());
    }

    #[tokio::test]
    async fn hints_come_by_udp() {
        let (wake_ups, mut hints, metrics) = wake_ups();
        let bound = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        let to = bound.local_addr().expect("its address");
        let socket = Socket::Udp(bound);
        let writer = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        let sends = async {
            for bytes in [
                vec![0; 2_000],
                datagram("shop.outbox", &[7; 200]),
                datagram("shop.outbox", &[7, 8]),
            ] {
                writer.send_to(&bytes, to).await.expect("it is sent");
            }
            next(&mut hints).await
        };
        tokio::select! {
            ended = receive(&socket, &wake_ups) => panic!("{ended:?}"),
            tokens = sends => assert_eq!(tokens, [7, 8]),
        }
        assert_eq!(counted(&metrics), (2, 2, 0), "both were too long");
    }

    #[tokio::test]
    async fn hints_come_by_a_file_that_goes_with_the_listener() {
        let (wake_ups, mut hints, _) = wake_ups();
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("wake.sock");
        let address = WakeUpAddress::Unix(path.clone());
        let writer = UnixDatagram::unbound().expect("a socket");
        let sends = async {
            let bytes = datagram("shop.outbox", &[7]);
            while writer.send_to(&bytes, &path).is_err() {
                tokio::task::yield_now().await;
            }
            next(&mut hints).await
        };
        tokio::select! {
            ended = listen(&address, &wake_ups) => panic!("{ended:?}"),
            tokens = sends => assert_eq!(tokens, [7]),
        }
        assert!(!path.exists());
    }
}
