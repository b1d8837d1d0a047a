//! Apache Kafka from Maven Central: one node, broker and controller at once (`KRaft`).
//!
//! The jars are fetched once into the target directory (or lie in `KAFKA_LIBS`), by the same list
//! that `tests/kafka/kafka.sh` uses. Each node has ports and a data directory of its own, and these
//! listeners:
//!
//! - one for everybody;
//! - [`PROXIED`] that advertise the port of a proxy, so that a client that begins at the proxy
//!   stays behind it;
//! - one that wants a login (SASL PLAIN): `relay` with the password `secret` may do everything,
//!   `guest` with the password `secret` may do nothing;
//! - one with TLS that wants a login (SCRAM, or OAUTHBEARER with tokens that nobody has signed), for
//!   the same users;
//! - one with TLS that wants a certificate of the node's own authority; `CN=relay` may do everything.

use super::answers;
use crate::support::certificates::Authority;
use crate::support::proxy::{Port, Proxy};
use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tempfile::TempDir;

/// Listeners for proxies: cases that need one at the same time.
pub(super) const PROXIED: usize = 6;
/// How long the controller takes a broker for alive that says nothing. Long enough for a machine
/// that is busy with tests.
const LASTING: Duration = Duration::from_secs(3);
/// The same for a broker that is killed: until then its successor is refused.
const MORTAL: Duration = Duration::from_secs(2);
/// Marks a folder that has all jars.
const COMPLETE: &str = ".complete";

/// A broker process. Dropping it kills the process and removes its data.
pub(crate) struct Node {
    process: Child,
    ports: Ports,
    authority: Authority,
    libs: PathBuf,
    directory: TempDir,
}

/// The ports of a node, which nobody else gets while it is down.
struct Ports {
    open: Port,
    login: Port,
    secure: Port,
    mutual: Port,
    controller: Port,
    /// Where the broker listens, and the port that it advertises there.
    proxied: Vec<(Port, Arc<Port>)>,
}

impl Ports {
    fn reserve() -> Result<Self> {
        let proxied = (0..PROXIED).map(|_| Ok((Port::reserve()?, Arc::new(Port::reserve()?))));
        Ok(Self {
            open: Port::reserve()?,
            login: Port::reserve()?,
            secure: Port::reserve()?,
            mutual: Port::reserve()?,
            controller: Port::reserve()?,
            proxied: proxied.collect::<Result<_>>()?,
        })
    }
}

impl Node {
    /// A node that lives long.
    pub(super) fn lasting() -> Result<Self> {
        Self::start(LASTING)
    }

    /// A node that is to be killed and comes back soon.
    pub(super) fn mortal() -> Result<Self> {
        Self::start(MORTAL)
    }

    /// Formats a new log directory, starts the broker and waits until it answers. Blocks.
    fn start(session: Duration) -> Result<Self> {
        let libs = libraries()?;
        let directory = tempfile::tempdir()?;
        let ports = Ports::reserve()?;
        let authority = Authority::new("authority of the test's brokers")?;
        let own = authority.issue("broker", &["127.0.0.1"])?;
        fs::write(directory.path().join("authority.pem"), authority.pem())?;
        fs::write(
            directory.path().join("broker.pem"),
            own.key + &own.certificate,
        )?;
        let properties = directory.path().join("server.properties");
        fs::write(&properties, settings(&ports, session, directory.path()))?;
        let mut format = java(&libs, directory.path())?;
        format
            .args(["kafka.tools.StorageTool", "format", "--standalone"])
            .args(["--add-scram", "SCRAM-SHA-512=[name=relay,password=secret]"])
            .args(["--add-scram", "SCRAM-SHA-256=[name=relay,password=secret]"])
            .args(["-t", "b3V0Ym94LXJlbGF5LTAxIQ", "-c"])
            .arg(&properties);
        succeed(&mut format, "format Kafka's log directory")?;
        let process = spawn(&libs, directory.path())?;
        let mut node = Self {
            process,
            ports,
            authority,
            libs,
            directory,
        };
        node.wait_until_ready()?;
        Ok(node)
    }

    /// Where clients connect; the same after a restart.
    pub(crate) fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.ports.open.number())
    }

    /// Where clients with a login connect.
    pub(crate) fn login(&self) -> String {
        format!("127.0.0.1:{}", self.ports.login.number())
    }

    /// Where clients with TLS and a login connect.
    pub(crate) fn secure(&self) -> String {
        format!("127.0.0.1:{}", self.ports.secure.number())
    }

    /// Where clients with a certificate connect.
    pub(crate) fn mutual(&self) -> String {
        format!("127.0.0.1:{}", self.ports.mutual.number())
    }

    /// Who signs the certificates of the broker and its clients.
    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// A proxy before the listener of this number, on the port that the listener advertises.
    pub(crate) fn proxy(&self, listener: usize) -> Result<Proxy> {
        let (behind, advertised) = &self.ports.proxied[listener];
        let upstream = SocketAddr::from((Ipv4Addr::LOCALHOST, behind.number()));
        Proxy::on(Arc::clone(advertised), upstream)
    }

    /// Allows a user one kind of operation with one topic. Blocks.
    pub(crate) fn allow(&self, user: &str, operation: &str, topic: &str) -> Result<()> {
        let mut add = java(&self.libs, self.directory.path())?;
        add.args(["org.apache.kafka.tools.AclCommand", "--bootstrap-server"])
            .arg(self.bootstrap())
            .args(["--add", "--allow-principal", &format!("User:{user}")])
            .args(["--operation", operation, "--topic", topic]);
        succeed(&mut add, &format!("allow {user} to {operation} {topic}"))
    }

    /// Kills the broker, as a machine that loses power would.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    /// Starts the broker again on the same ports and data, and waits until it answers. Blocks.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.process = spawn(&self.libs, self.directory.path())?;
        self.wait_until_ready()
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let bootstrap = self.bootstrap();
        let directory = self.directory.path().to_owned();
        let process = std::cell::RefCell::new(&mut self.process);
        let alive = || match process.borrow_mut().try_wait()? {
            None => Ok(()),
            Some(status) => bail!(
                "Kafka ended with {status}: {}",
                fs::read_to_string(directory.join("kafka.log")).unwrap_or_default()
            ),
        };
        answers(&bootstrap, Duration::from_mins(2), alive)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The process may have been killed by the case; there is nobody to tell.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn settings(ports: &Ports, session: Duration, directory: &Path) -> String {
    let mut listeners = Vec::new();
    let mut advertised = Vec::new();
    let mut protocols = Vec::new();
    let mut listener = |name: &str, port: &Port, shown: Option<&Port>, protocol: &str| {
        listeners.push(format!("{name}://127.0.0.1:{}", port.number()));
        if let Some(shown) = shown {
            advertised.push(format!("{name}://127.0.0.1:{}", shown.number()));
        }
        protocols.push(format!("{name}:{protocol}"));
    };
    listener("OPEN", &ports.open, Some(&ports.open), "PLAINTEXT");
    listener("LOGIN", &ports.login, Some(&ports.login), "SASL_PLAINTEXT");
    listener("SECURE", &ports.secure, Some(&ports.secure), "SASL_SSL");
    listener("MUTUAL", &ports.mutual, Some(&ports.mutual), "SSL");
    listener("CONTROLLER", &ports.controller, None, "PLAINTEXT");
    for (number, (behind, shown)) in ports.proxied.iter().enumerate() {
        listener(&format!("P{number}"), behind, Some(shown), "PLAINTEXT");
    }
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners={listeners}
advertised.listeners={advertised}
controller.listener.names=CONTROLLER
inter.broker.listener.name=OPEN
listener.security.protocol.map={protocols}
listener.name.login.sasl.enabled.mechanisms=PLAIN
listener.name.login.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule \
  required user_relay=\"secret\" user_guest=\"secret\";
listener.name.secure.sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER
listener.name.secure.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.secure.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.secure.oauthbearer.sasl.jaas.config=\
  org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule \
  required unsecuredLoginStringClaim_sub=\"broker\";
listener.name.mutual.ssl.client.auth=required
ssl.keystore.type=PEM
ssl.keystore.location={directory}/broker.pem
ssl.truststore.type=PEM
ssl.truststore.location={directory}/authority.pem
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:relay;User:CN=relay
num.network.threads=1
log.dirs={log}
num.partitions=6
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms={session}
broker.heartbeat.interval.ms={heartbeat}
",
        controller = ports.controller.number(),
        directory = directory.display(),
        listeners = listeners.join(","),
        advertised = advertised.join(","),
        protocols = protocols.join(","),
        log = directory.join("log").display(),
        session = session.as_millis(),
        heartbeat = session.as_millis() / 5,
    )
}

fn spawn(libs: &Path, directory: &Path) -> Result<Child> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(directory.join("kafka.log"))?;
    java(libs, directory)?
        .arg("kafka.Kafka")
        .arg(directory.join("server.properties"))
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("start Kafka")
}

fn java(libs: &Path, directory: &Path) -> Result<Command> {
    let classes = libs.join("*");
    let classes = classes
        .to_str()
        .context("the path of the jars is no UTF-8")?;
    let mut command = Command::new("java");
    command
        // A broker that is up soon is worth more here than one that is fast later.
        .args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"])
        .args(["-Xms128m", "-Xmx512m", "-cp", classes])
        .current_dir(directory)
        .stdin(Stdio::null());
    Ok(command)
}

/// Runs a command to its end. Blocks.
fn succeed(command: &mut Command, what: &str) -> Result<()> {
    let ended = command.output().context("run Java")?;
    ensure!(
        ended.status.success(),
        "{what}: {}",
        String::from_utf8_lossy(&ended.stderr)
    );
    Ok(())
}

/// The folder with the broker's jars, filled if it is not.
fn libraries() -> Result<PathBuf> {
    static FETCH: Mutex<()> = Mutex::new(());
    ensure!(
        Command::new("java")
            .arg("-version")
            .output()
            .is_ok_and(|output| output.status.success()),
        "no Docker, and no Java"
    );
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let libs = std::env::var_os("KAFKA_LIBS").map_or_else(
        || target.parent().unwrap_or(target).join("kafka-libs"),
        PathBuf::from,
    );
    // One at a time; and complete or absent, should another process fetch at the same time.
    let _alone = FETCH.lock().unwrap_or_else(PoisonError::into_inner);
    if !libs.join(COMPLETE).exists() {
        fetch(&libs)?;
    }
    Ok(libs)
}

fn fetch(libs: &Path) -> Result<()> {
    let parent = libs.parent().context("KAFKA_LIBS has no parent folder")?;
    fs::create_dir_all(parent)?;
    let fetching = tempfile::tempdir_in(parent)?;
    let fetched = Command::new("mvn")
        .args(["-q", "-B", "-f", "tests/kafka/pom.xml"])
        .arg("dependency:copy-dependencies")
        .arg(format!("-DoutputDirectory={}", fetching.path().display()))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .context("no Docker, and no Maven to fetch Apache Kafka with")?;
    let said = String::from_utf8_lossy(&fetched.stdout);
    ensure!(
        fetched.status.success(),
        "Maven cannot fetch Apache Kafka: {}",
        said.lines().next().unwrap_or_default()
    );
    File::create(fetching.path().join(COMPLETE))?;
    // What is there is another's complete copy, or the remains of an interrupted one.
    if !libs.join(COMPLETE).exists() {
        match fs::remove_dir_all(libs) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => fs::rename(fetching.keep(), libs)?,
        }
    }
    Ok(())
}
