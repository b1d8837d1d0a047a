//! The socket that hints arrive at.
//!
//! Invariants:
//!
//! 1. A file is replaced only if it is a socket that nobody listens at, and removed at the end only
//!    if it is still this socket's.
//! 2. Owner and group may write to the file, nobody else may (0660).

use std::fs::{self, Metadata, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixDatagram as Probe;
use std::path::{Path, PathBuf};

use tokio::net::{UdpSocket, UnixDatagram};

use super::Error;
use crate::config::WakeUpAddress;

const MODE: u32 = 0o660;

/// A bound socket.
#[derive(Debug)]
pub(super) enum Socket {
    Udp(UdpSocket),
    Unix(
        UnixDatagram,
        #[expect(dead_code, reason = "its drop removes the file")] File,
    ),
}

impl Socket {
    /// Binds the socket. Must be called inside a runtime.
    pub(super) async fn bind(address: &WakeUpAddress) -> Result<Self, Error> {
        let failed = |source| Error::Bind {
            address: address.clone(),
            source,
        };
        match address {
            WakeUpAddress::Udp(at) => Ok(Self::Udp(UdpSocket::bind(at).await.map_err(failed)?)),
            WakeUpAddress::Unix(path) => {
                clear(path, failed)?;
                let socket = UnixDatagram::bind(path).map_err(failed)?;
                let file = File::new(path).map_err(failed)?;
                fs::set_permissions(path, Permissions::from_mode(MODE)).map_err(failed)?;
                Ok(Self::Unix(socket, file))
            }
        }
    }

    /// Waits until there may be a datagram. Cancel-safe.
    pub(super) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Udp(socket) => socket.readable().await,
            Self::Unix(socket, _) => socket.readable().await,
        }
    }

    /// Takes a datagram that is there; what does not fit is cut off. Its length, or `None`.
    pub(super) fn try_recv(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let received = match self {
            Self::Udp(socket) => socket.try_recv(buffer),
            Self::Unix(socket, _) => socket.try_recv(buffer),
        };
        match received {
            Ok(length) => Ok(Some(length)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Makes sure that there is no file at `path`, unless it is somebody's.
fn clear(path: &Path, failed: impl Fn(io::Error) -> Error) -> Result<(), Error> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    let path_buf = || path.to_owned();
    if !found.file_type().is_socket() {
        return Err(Error::NoSocket { path: path_buf() });
    }
    let connected = Probe::unbound().and_then(|probe| probe.connect(path));
    match connected {
        Ok(()) => Err(Error::InUse { path: path_buf() }),
        // What a process left that was killed.
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

/// The socket's file, which goes with it.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    identity: (u64, u64),
}

impl File {
    fn new(path: &Path) -> io::Result<Self> {
        let identity = identity(&fs::symlink_metadata(path)?);
        let path = path.to_owned();
        Ok(Self { path, identity })
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let found = fs::symlink_metadata(&self.path);
        if found.is_ok_and(|found| identity(&found) == self.identity) {
            // If it stays, the next start finds it stale.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        let file = fs::metadata(path).expect("the file is there");
        file.permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn a_stale_file_is_replaced_and_the_own_one_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("wake.sock");
        let address = WakeUpAddress::Unix(path.clone());
        drop(Probe::bind(&path).expect("a free path"));
        assert!(path.exists(), "it is stale");
        let socket = Socket::bind(&address).await.expect("it is bound");
        assert_eq!(mode(&path), MODE);

        let second = Socket::bind(&address).await;
        assert!(matches!(second, Err(Error::InUse { .. })), "{second:?}");
        assert!(path.exists(), "it is the first one's");
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_is_somebody_elses_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("wake.sock");
        let address = WakeUpAddress::Unix(path.clone());
        fs::write(&path, "notes").expect("a file");
        let refused = Socket::bind(&address).await;
        assert!(matches!(refused, Err(Error::NoSocket { .. })));
        assert_eq!(fs::read_to_string(&path).expect("it stays"), "notes");
        fs::remove_file(&path).expect("it is there");

        let socket = Socket::bind(&address).await.expect("it is bound");
        fs::remove_file(&path).expect("it is there");
        let other = Probe::bind(&path).expect("a free path");
        drop(socket);
        assert!(path.exists(), "it is the other one's");
        drop(other);
    }

    #[tokio::test]
    async fn a_place_that_cannot_be_bound_says_which() {
        let nowhere = WakeUpAddress::Unix(PathBuf::from("/nowhere/wake.sock"));
        let error = Socket::bind(&nowhere).await.expect_err("no directory");
        assert!(error.to_string().contains("unix:///nowhere/wake.sock"));
        let taken = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        let address = taken.local_addr().expect("its address");
        let error = Socket::bind(&WakeUpAddress::Udp(address)).await;
        assert!(matches!(error, Err(Error::Bind { .. })), "{error:?}");
    }
}
