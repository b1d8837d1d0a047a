//! Hints for a relay on the same host: which partitions have just been written.
//!
//! A relay polls the streams of the CDC log, and those that have long been silent rarely. A hint
//! makes it read the right ones at once. Nothing rests on it: a relay that gets none publishes the
//! same events, only a little later.
//!
//! Invariants:
//! 1. A hint never delays or fails a write: sending does not block, and its errors are counted.
//! 2. What a batch sends is bounded: 16 datagrams of at most 1,200 bytes.
//! 3. Hints stay on the host, and carry the names of tables and the hashes of keys, no more.
//!
//! # A datagram
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 4 | `OBWU` |
//! | 4 | 1 | version: 1 |
//! | 5 | 2 | length *n* of the table's name, big-endian, 1 to 400 |
//! | 7 | *n* | the outbox table, `keyspace.table` in UTF-8, as the schema has it, without quotes |
//! | 7 + *n* | 8 each | tokens of partition keys (Murmur3), big-endian signed; at least one |
//!
//! The relay has a decoder of its own (`src/source/wake_up/datagram.rs`), tested with the same
//! bytes.

use crate::error::Error;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
#[cfg(unix)]
use std::os::unix::net::UnixDatagram;
#[cfg(unix)]
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const MAGIC: [u8; 4] = *b"OBWU";
const VERSION: u8 = 1;
/// Fits into one packet of any network, and into one page.
const MAX_BYTES: usize = 1_200;
/// Two names of 192 characters, which is more than ScyllaDB allows, fit.
const MAX_TABLE_BYTES: usize = 400;
/// More tokens are not told: a batch of some thousand partitions finds the relay awake.
const MAX_DATAGRAMS: usize = 16;

/// Tells a relay on this host which partitions have just been written, so that it reads them at
/// once instead of at its next poll (`follow.wake_up` in the relay's configuration, with the same
/// address).
///
/// Fire and forget: after a batch has been written, its datagrams are handed to the operating
/// system without waiting, and errors are only [counted](Self::failed). It does not matter whether
/// a relay runs, and a lost hint costs latency, never an event.
///
/// Cheap to clone; clones share the socket and the counters.
///
/// ```
/// # use outbox_writer::{Outbox, WakeUp};
/// let outbox = Outbox::builder().wake_up(WakeUp::udp("127.0.0.1:9465")?);
/// # let _ = outbox; Ok::<(), outbox_writer::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct WakeUp {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    socket: Socket,
    sent: AtomicU64,
    failed: AtomicU64,
}

/// Not connected: a connected socket would report the absence of one relay to the datagram that is
/// meant for the next.
#[derive(Debug)]
enum Socket {
    Udp(UdpSocket, SocketAddr),
    #[cfg(unix)]
    Unix(UnixDatagram, PathBuf),
}

impl Socket {
    fn send(&self, datagram: &[u8]) -> io::Result<usize> {
        match self {
            Self::Udp(socket, to) => socket.send_to(datagram, to),
            #[cfg(unix)]
            Self::Unix(socket, to) => socket.send_to(datagram, to),
        }
    }
}

impl WakeUp {
    /// Hints go to this address by UDP: `127.0.0.1:9465` or `[::1]:9465`.
    ///
    /// # Errors
    ///
    /// [`Error::WakeUpAddress`] for anything but an address of the loopback interface with a port
    /// (hints are not authenticated), [`Error::WakeUpSocket`] if no socket can be had.
    pub fn udp(address: &str) -> Result<Self, Error> {
        let to: SocketAddr = address
            .parse()
            .ok()
            .filter(|to: &SocketAddr| to.ip().is_loopback() && to.port() != 0)
            .ok_or_else(|| Error::WakeUpAddress {
                address: address.to_owned(),
            })?;
        let from = match to {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::LOCALHOST, 0)),
        };
        let socket = UdpSocket::bind(from).and_then(|socket| {
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        let socket = socket.map_err(|source| Error::WakeUpSocket { source })?;
        Ok(Self::new(Socket::Udp(socket, to)))
    }

    /// Hints go to the Unix datagram socket at this path. It need not be there yet.
    ///
    /// # Errors
    ///
    /// [`Error::WakeUpSocket`] if no socket can be had.
    #[cfg(unix)]
    pub fn unix(path: impl AsRef<Path>) -> Result<Self, Error> {
        let socket = UnixDatagram::unbound().and_then(|socket| {
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        let socket = socket.map_err(|source| Error::WakeUpSocket { source })?;
        Ok(Self::new(Socket::Unix(socket, path.as_ref().to_owned())))
    }

    fn new(socket: Socket) -> Self {
        Self {
            inner: Arc::new(Inner {
                socket,
                sent: AtomicU64::new(0),
                failed: AtomicU64::new(0),
            }),
        }
    }

    /// Datagrams that the operating system has taken. By UDP it takes them also if no relay
    /// listens.
    pub fn sent(&self) -> u64 {
        self.inner.sent.load(Ordering::Relaxed)
    }

    /// Datagrams that could not be sent: no relay listens at the path, or it is far behind.
    pub fn failed(&self) -> u64 {
        self.inner.failed.load(Ordering::Relaxed)
    }

    /// Tells that partitions of `table` (`keyspace.table`) with these tokens were written.
    pub(crate) fn tell(&self, table: &str, tokens: &[i64]) {
        let mut datagram = [0; MAX_BYTES];
        let Some(head) = head(&mut datagram, table) else {
            return;
        };
        let tokens = tokens.chunks((MAX_BYTES - head) / 8);
        for tokens in tokens.take(MAX_DATAGRAMS) {
            let length = head + 8 * tokens.len();
            let places = datagram[head..length].as_chunks_mut().0;
            for (place, token) in places.iter_mut().zip(tokens) {
                *place = token.to_be_bytes();
            }
            let sent = self.inner.socket.send(&datagram[..length]);
            if sent.is_err() {
                // The next one would fare no better.
                self.inner.failed.fetch_add(1, Ordering::Relaxed);
                return;
            }
            self.inner.sent.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Writes what comes before the tokens; gives its length, or `None` for a name that is too long.
fn head(datagram: &mut [u8; MAX_BYTES], table: &str) -> Option<usize> {
    let table = table.as_bytes();
    if table.is_empty() || table.len() > MAX_TABLE_BYTES {
        return None;
    }
    let length = u16::try_from(table.len()).ok()?;
    datagram[..4].copy_from_slice(&MAGIC);
    datagram[4] = VERSION;
    datagram[5..7].copy_from_slice(&length.to_be_bytes());
    let head = 7 + table.len();
    datagram[7..head].copy_from_slice(table);
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// The relay's decoder is tested with the same bytes.
    const GOLDEN: &[u8] = b"OBWU\x01\x00\x0bshop.outbox\
        \x80\x00\x00\x00\x00\x00\x00\x00\
        \xff\xff\xff\xff\xff\xff\xff\xfe\
        \x01\x23\x45\x67\x89\xab\xcd\xef";
    const GOLDEN_TOKENS: [i64; 3] = [i64::MIN, -2, 0x0123_4567_89ab_cdef];

    fn listener() -> (UdpSocket, WakeUp) {
        let listener = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let limit = listener.set_read_timeout(Some(Duration::from_secs(10)));
        limit.expect("a timeout");
        let address = listener.local_addr().expect("its address");
        let wake_up = WakeUp::udp(&address.to_string()).expect("a loopback address");
        (listener, wake_up)
    }

    fn received(listener: &UdpSocket) -> Vec<u8> {
        let mut datagram = [0; 2 * MAX_BYTES];
        let length = listener.recv(&mut datagram).expect("a datagram");
        datagram[..length].to_vec()
    }

    #[test]
    fn a_datagram_is_these_bytes() {
        let (listener, wake_up) = listener();
        wake_up.tell("shop.outbox", &GOLDEN_TOKENS);
        assert_eq!(received(&listener), GOLDEN);
        assert_eq!((wake_up.sent(), wake_up.failed()), (1, 0));
    }

    #[test]
    fn many_tokens_are_several_datagrams_and_very_many_are_not_told() {
        let (listener, wake_up) = listener();
        let tokens: Vec<i64> = (0..400).collect();
        wake_up.tell("shop.outbox", &tokens);
        let mut told = Vec::new();
        while told.len() < tokens.len() {
            let datagram = received(&listener);
            assert!(datagram.len() <= MAX_BYTES, "{}", datagram.len());
            assert_eq!(datagram[..18], GOLDEN[..18]);
            let more = datagram[18..].as_chunks().0;
            told.extend(more.iter().copied().map(i64::from_be_bytes));
        }
        assert_eq!((told, wake_up.sent()), (tokens, 3));
        wake_up.tell("shop.outbox", &vec![1; 100_000]);
        assert_eq!(wake_up.sent(), 3 + MAX_DATAGRAMS as u64);
    }

    #[test]
    fn no_token_and_a_name_that_is_too_long_send_nothing() {
        let (_listener, wake_up) = listener();
        wake_up.tell("shop.outbox", &[]);
        wake_up.tell(&"t".repeat(MAX_TABLE_BYTES + 1), &[1]);
        assert_eq!((wake_up.sent(), wake_up.failed()), (0, 0));
        wake_up.tell(&"t".repeat(MAX_TABLE_BYTES), &[1]);
        assert_eq!(wake_up.sent(), 1);
    }

    #[test]
    fn hints_do_not_leave_the_host() {
        for address in [
            "10.0.0.1:9465",
            "0.0.0.0:9465",
            "[2001:db8::1]:9465",
            "[::]:9465",
            "127.0.0.1:0",
            "127.0.0.1",
            "localhost:9465",
            "udp://127.0.0.1:9465",
            "",
        ] {
            let refused = WakeUp::udp(address);
            assert!(
                matches!(refused, Err(Error::WakeUpAddress { .. })),
                "{address}"
            );
        }
        WakeUp::udp("127.1.2.3:9465").expect("the whole network is the loopback interface");
    }

    #[test]
    fn that_nobody_listens_does_not_matter() {
        let (listener, wake_up) = listener();
        drop(listener);
        for _ in 0..3 {
            wake_up.tell("shop.outbox", &[1]);
        }
        assert_eq!(wake_up.sent() + wake_up.failed(), 3);
    }

    #[cfg(unix)]
    #[test]
    fn a_socket_file_may_come_go_and_fill_up() {
        let name = format!("outbox-writer-{}.sock", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&path);
        let wake_up = WakeUp::unix(&path).expect("a socket");
        wake_up.tell("shop.outbox", &[1]);
        assert_eq!((wake_up.sent(), wake_up.failed()), (0, 1));
        let listener = UnixDatagram::bind(&path).expect("a free path");
        wake_up.tell("shop.outbox", &GOLDEN_TOKENS);
        let mut datagram = [0; MAX_BYTES];
        let length = listener.recv(&mut datagram).expect("a datagram");
        assert_eq!(&datagram[..length], GOLDEN);
        // Nobody takes these: at some point the queue is full, and sending still returns.
        while wake_up.failed() == 1 {
            wake_up.tell("shop.outbox", &[1]);
        }
        drop(listener);
        wake_up.tell("shop.outbox", &[1]);
        assert_eq!(wake_up.failed(), 3);
        std::fs::remove_file(&path).expect("the file is there");
    }
}
