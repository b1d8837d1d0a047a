//! `scylla-emulator`: the in-memory CQL server as a program.

use std::net::SocketAddr;
#[cfg(feature = "tls")]
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
#[cfg(feature = "tls")]
use scylla_emulator::Tls;
use scylla_emulator::control::Control;
use scylla_emulator::{Builder, Emulator};
use tokio::signal::unix::{SignalKind, signal};

/// An in-memory, ScyllaDB-compatible CQL server with change data capture. Nothing is stored on disk.
///
/// Example: scylla-emulator --listen 127.0.0.1:9042, then: cqlsh 127.0.0.1 9042
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Where to listen for CQL; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:9042")]
    listen: SocketAddr,
    /// Number of nodes; node n listens on the address plus n.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    nodes: u16,
    /// Vnodes of each node.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1024))]
    vnodes: u16,
    /// Shards of each node, and so CDC streams of each vnode.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    shards: u16,
    /// Fixes tokens, host ids and stream ids.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seconds before the start the first CDC generation began.
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    first_generation_age: u64,
    /// Where to listen for commands that inject faults, set the clock and so on; loopback only. Not at all unless given.
    #[arg(long, value_name = "ADDRESS")]
    control: Option<SocketAddr>,
    /// Name that clients must log in with (`PasswordAuthenticator`). No login unless given.
    #[arg(long, requires = "password", value_name = "NAME")]
    username: Option<String>,
    /// Password of that user.
    #[arg(
        long,
        requires = "username",
        env = "SCYLLA_EMULATOR_PASSWORD",
        hide_env_values = true
    )]
    password: Option<String>,
    /// File with the server's certificate in PEM, and those that lead to its authority. With it connections are
    /// encrypted; plain text is refused.
    #[cfg(feature = "tls")]
    #[arg(long, requires = "tls_key", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// File with the private key of the certificate, in PEM.
    #[cfg(feature = "tls")]
    #[arg(long, requires = "tls_cert", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// File with the authorities of which clients must have a certificate, in PEM. Clients need none unless given.
    #[cfg(feature = "tls")]
    #[arg(long, requires = "tls_cert", value_name = "FILE")]
    tls_client_ca: Option<PathBuf>,
    /// Which events to log, as in `info` or `scylla_emulator=debug`.
    #[arg(long, default_value = "warn", env = "RUST_LOG", value_name = "FILTER")]
    log: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_new(&arguments.log).context("read --log")?,
        )
        .with_writer(std::io::stderr)
        .init();
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
    let builder = Emulator::builder()
        .listen(arguments.listen)
        .nodes(arguments.nodes)
        .vnodes(arguments.vnodes)
        .shards(arguments.shards)
        .seed(arguments.seed)
        .first_generation_age(Duration::from_secs(arguments.first_generation_age));
    let builder = guarded(builder, &arguments)?;
    let emulator = Arc::new(builder.start().await?);
    let control = match arguments.control {
        Some(address) => Some(Control::start(Arc::clone(&emulator), address).await?),
        None => None,
    };
    announce(emulator.address(), control.as_ref().map(Control::address));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    drop(control);
    emulator.stop_listening().await;
    Ok(())
}

/// With what the arguments ask of clients.
fn guarded(mut builder: Builder, arguments: &Arguments) -> anyhow::Result<Builder> {
    if let (Some(user), Some(password)) = (&arguments.username, &arguments.password) {
        builder = builder.credentials(user, password);
    }
    #[cfg(feature = "tls")]
    if let (Some(certificates), Some(key)) = (&arguments.tls_cert, &arguments.tls_key) {
        let read = |file: &PathBuf| {
            std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))
        };
        let authorities = arguments.tls_client_ca.as_ref().map(read).transpose()?;
        let tls = Tls::from_pem(&read(certificates)?, &read(key)?, authorities.as_deref());
        builder = builder.tls(tls.context("read the files of TLS")?);
    }
    Ok(builder)
}

/// The line that tells scripts that the server is ready, after the one about the control port if there is one.
fn announce(address: SocketAddr, control: Option<SocketAddr>) {
    if let Some(control) = control {
        println!("listening for control on {control}");
    }
    println!("listening for CQL on {address}");
}
