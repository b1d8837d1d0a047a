//! A TCP proxy on the loopback interface whose network can be broken while it runs.
//!
//! Invariants:
//!
//! 1. The address is the proxy's own from its start to its end, in every mode: while it refuses,
//!    nobody else can take the port.
//! 2. A connection that has lost bytes is never healed: it is closed with the next change of mode.
//! 3. All tasks belong to the proxy and end with it.
//!
//! It knows no protocol: bytes go through as they come.

use super::STALL;
use anyhow::{Context, Result};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Connections waiting to be accepted.
const BACKLOG: u32 = 128;
/// Bytes that are taken from a connection at a time.
const CHUNK: usize = 16 * 1024;

/// What the proxy does with connections and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Passes everything on.
    Pass,
    /// Refuses new connections and resets those that are open: the server's process is dead.
    Refuse,
    /// Accepts connections and swallows everything: the server is frozen, or a firewall drops.
    BlackHole,
    /// Passes requests on and swallows the answers: what was asked for takes place, nobody knows.
    DropAnswers,
    /// Passes everything on, each chunk after a pause: a slow server or network.
    Slow(Duration),
}

/// A port of the loopback interface that nobody else gets while this lives, although nothing
/// listens on it.
#[derive(Debug)]
pub(crate) struct Port {
    _socket: TcpSocket,
    number: u16,
}

impl Port {
    /// A free port.
    pub(crate) fn reserve() -> Result<Self> {
        let socket = bound(0)?;
        let number = socket.local_addr()?.port();
        Ok(Self {
            _socket: socket,
            number,
        })
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    fn listen(&self) -> Result<TcpListener> {
        Ok(bound(self.number)?.listen(BACKLOG)?)
    }
}

/// A socket on a port. Sockets that all allow it may share a port as long as one of them listens.
fn bound(port: u16) -> Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket
        .bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .with_context(|| format!("bind port {port}"))?;
    Ok(socket)
}

/// A proxy before one server. Dropping it closes everything.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    in_force: watch::Receiver<Mode>,
    counts: Arc<Counts>,
    _tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicU64,
    swallowed: AtomicU64,
}

impl Proxy {
    /// A proxy on a port of its own.
    pub(crate) fn start(upstream: SocketAddr) -> Result<Self> {
        Self::on(Arc::new(Port::reserve()?), upstream)
    }

    /// A proxy on this port.
    pub(crate) fn on(port: Arc<Port>, upstream: SocketAddr) -> Result<Self> {
        let listener = port.listen()?;
        let address = listener.local_addr()?;
        let (mode, modes) = watch::channel(Mode::Pass);
        let (report, in_force) = watch::channel(Mode::Pass);
        let counts = Arc::<Counts>::default();
        let mut tasks = JoinSet::new();
        let gate = Gate {
            port,
            upstream,
            modes,
            report,
            counts: Arc::clone(&counts),
        };
        tasks.spawn(gate.run(listener));
        Ok(Self {
            address,
            mode,
            in_force,
            counts,
            _tasks: tasks,
        })
    }

    /// Where clients connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the mode, and returns when it is in force; a chunk that is under way may still pass.
    pub(crate) async fn set(&self, mode: Mode) -> Result<()> {
        self.mode.send_replace(mode);
        let mut in_force = self.in_force.clone();
        let reached = in_force.wait_for(|now| *now == mode);
        tokio::time::timeout(STALL, reached)
            .await
            .context("the proxy does not change its mode")??;
        Ok(())
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::Relaxed)
    }

    /// Bytes swallowed so far.
    pub(crate) fn swallowed(&self) -> u64 {
        self.counts.swallowed.load(Ordering::Relaxed)
    }
}

/// The task that accepts.
struct Gate {
    port: Arc<Port>,
    upstream: SocketAddr,
    modes: watch::Receiver<Mode>,
    report: watch::Sender<Mode>,
    counts: Arc<Counts>,
}

impl Gate {
    async fn run(mut self, listener: TcpListener) {
        let mut listener = Some(listener);
        let mut connections = JoinSet::new();
        loop {
            let mode = *self.modes.borrow_and_update();
            if mode == Mode::Refuse {
                listener = None;
                connections.shutdown().await;
            } else if listener.is_none() {
                listener = self.port.listen().ok();
            }
            self.report.send_replace(mode);
            let changed = loop {
                tokio::select! {
                    changed = self.modes.changed() => break changed,
                    Some(_) = connections.join_next() => {}
                    accepted = accept(listener.as_ref()) => if let Some(client) = accepted {
                        self.counts.connections.fetch_add(1, Ordering::Relaxed);
                        let modes = self.modes.clone();
                        let counts = Arc::clone(&self.counts);
                        connections.spawn(connection(client, self.upstream, modes, counts));
                    }
                }
            };
            if changed.is_err() {
                return;
            }
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> Option<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.ok().map(|(client, _)| client),
        None => std::future::pending().await,
    }
}

/// Serves one connection until either side closes it or it has to be closed.
async fn connection(
    client: TcpStream,
    upstream: SocketAddr,
    modes: watch::Receiver<Mode>,
    counts: Arc<Counts>,
) {
    let mut waiting = modes.clone();
    // A frozen server takes no connection; the client does not know it yet.
    while *waiting.borrow_and_update() == Mode::BlackHole {
        let swallowed = swallow_until_change(&client, &mut waiting, &counts).await;
        if swallowed != Some(0) {
            return;
        }
    }
    let Ok(server) = TcpStream::connect(upstream).await else {
        return;
    };
    // Latency is what the modes say.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = server.into_split();
    let requests = Pipe {
        from: client_reads,
        to: server_writes,
        answers: false,
        modes: modes.clone(),
        counts: Arc::clone(&counts),
    };
    let answers = Pipe {
        from: server_reads,
        to: client_writes,
        answers: true,
        modes,
        counts,
    };
    // The end of one direction is the end of the connection.
    tokio::select! {
        () = requests.run() => {}
        () = answers.run() => {}
    }
}

/// Swallows until the mode changes; gives the number of bytes, or `None` at the end.
async fn swallow_until_change(
    client: &TcpStream,
    modes: &mut watch::Receiver<Mode>,
    counts: &Counts,
) -> Option<u64> {
    let mut buffer = vec![0; CHUNK];
    let mut swallowed = 0;
    loop {
        tokio::select! {
            changed = modes.changed() => return changed.ok().map(|()| swallowed),
            readable = client.readable() => {
                readable.ok()?;
                match client.try_read(&mut buffer) {
                    Ok(0) => return None,
                    Ok(count) => {
                        swallowed += count as u64;
                        counts.swallowed.fetch_add(count as u64, Ordering::Relaxed);
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(_) => return None,
                }
            }
        }
    }
}

/// One direction of a connection.
struct Pipe {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    answers: bool,
    modes: watch::Receiver<Mode>,
    counts: Arc<Counts>,
}

impl Pipe {
    async fn run(mut self) {
        let mut buffer = vec![0; CHUNK];
        let mut tainted = false;
        loop {
            let mode = *self.modes.borrow_and_update();
            tokio::select! {
                biased;
                changed = self.modes.changed() => {
                    if changed.is_err() || tainted {
                        return;
                    }
                }
                read = self.from.read(&mut buffer) => {
                    let Ok(count @ 1..) = read else { return };
                    match mode {
                        Mode::BlackHole => tainted = true,
                        Mode::DropAnswers if self.answers => tainted = true,
                        Mode::Slow(pause) => tokio::time::sleep(pause).await,
                        Mode::Pass | Mode::Refuse | Mode::DropAnswers => {}
                    }
                    if tainted {
                        self.counts.swallowed.fetch_add(count as u64, Ordering::Relaxed);
                    } else if self.to.write_all(&buffer[..count]).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

mod tests {
    use super::*;
    use std::io::ErrorKind;

    /// A server that answers what it is told, and a proxy before it.
    async fn echo() -> Result<(Proxy, JoinSet<()>)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let proxy = Proxy::start(listener.local_addr()?)?;
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut connection, _)) = listener.accept().await {
                connections.spawn(async move {
                    let (mut reads, mut writes) = connection.split();
                    let _ = tokio::io::copy(&mut reads, &mut writes).await;
                });
            }
        });
        Ok((proxy, server))
    }

    async fn ask(client: &mut TcpStream) -> std::io::Result<[u8; 4]> {
        client.write_all(b"ping").await?;
        let mut answer = [0; 4];
        client.read_exact(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn it_passes_slows_refuses_and_passes_again() -> Result<()> {
        let (proxy, _server) = echo().await?;
        let mut client = TcpStream::connect(proxy.address()).await?;
        assert_eq!(ask(&mut client).await?, *b"ping");
        proxy.set(Mode::Slow(Duration::from_millis(1))).await?;
        assert_eq!(ask(&mut client).await?, *b"ping");
        for _ in 0..3 {
            proxy.set(Mode::Refuse).await?;
            assert!(
                ask(&mut client).await.is_err(),
                "open connections are reset"
            );
            let refused = TcpStream::connect(proxy.address()).await;
            let refused = refused.map_err(|error| error.kind()).err();
            assert_eq!(refused, Some(ErrorKind::ConnectionRefused));
            proxy.set(Mode::Pass).await?;
            client = TcpStream::connect(proxy.address()).await?;
            assert_eq!(ask(&mut client).await?, *b"ping");
        }
        assert_eq!(proxy.connections(), 4);
        Ok(())
    }

    #[tokio::test]
    async fn a_connection_that_lost_bytes_is_closed_when_the_mode_changes() -> Result<()> {
        let (proxy, _server) = echo().await?;
        for mode in [Mode::BlackHole, Mode::DropAnswers] {
            let mut idle = TcpStream::connect(proxy.address()).await?;
            let mut client = TcpStream::connect(proxy.address()).await?;
            assert_eq!(ask(&mut client).await?, *b"ping");
            assert_eq!(ask(&mut idle).await?, *b"ping");
            proxy.set(mode).await?;
            let before = proxy.swallowed();
            client.write_all(b"ping").await?;
            let swallowed = async {
                while proxy.swallowed() < before + 4 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(STALL, swallowed).await?;
            proxy.set(Mode::Pass).await?;
            assert_eq!(client.read(&mut [0; 4]).await.unwrap_or(0), 0, "{mode:?}");
            assert_eq!(ask(&mut idle).await?, *b"ping", "it has lost nothing");
        }
        Ok(())
    }
}
