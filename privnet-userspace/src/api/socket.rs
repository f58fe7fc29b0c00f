//! The control socket as a file: bound with its permissions, replaced when stale, removed at the end; or systemd's.

use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, Uid};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixListener;

use crate::agent::{ControlError, ErrorCode};

/// How many connections may wait to be accepted: as many as at a socket of systemd's. A client whose socket does not block,
/// dockerd for one, is refused when the queue is full.
const BACKLOG: i32 = 4096;

/// A listening control socket. Dropping it removes the file, unless it is systemd's, or another agent has put its own there
/// meanwhile.
#[derive(Debug)]
pub struct ControlSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    /// Of the file that this agent made.
    identity: Option<(u64, u64)>,
}

impl ControlSocket {
    /// Binds `path`: for root and the group `group_id` (0660), or for root alone (0600) when there is none.
    ///
    /// Makes the parent directory (0755) when it is missing. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When another agent listens there, the path holds something else, or the kernel refuses. Nothing was changed,
    /// apart from a stale socket that may be gone.
    pub fn bind(path: &Path, group_id: Option<u32>) -> Result<Self, ControlError> {
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            make_directory(parent).map_err(|error| cannot("make the directory of", path, &error))?;
        }
        remove_stale(path)?;
        let listener = listen(path, group_id).map_err(|error| cannot("bind", path, &error))?;
        let identity = identity(path).map_err(|error| cannot("look at", path, &error))?;
        let listener = UnixListener::from_std(listener).map_err(|error| cannot("listen on", path, &error))?;
        Ok(Self { listener, path: path.to_owned(), identity: Some(identity) })
    }

    /// Takes the socket that systemd opened at `path`: its file, with owner and mode, is systemd's. Must be called within a
    /// tokio runtime.
    ///
    /// # Errors
    /// When it is at another path, or the kernel refuses.
    pub fn handed_over(listener: StdListener, path: &Path) -> Result<Self, ControlError> {
        let address = listener.local_addr().map_err(|error| cannot("look at", path, &error))?;
        if address.as_pathname() != Some(path) {
            let found = address.as_pathname().map_or_else(|| "no path".to_owned(), |found| found.display().to_string());
            return Err(ControlError::new(
                ErrorCode::InvalidArgument,
                format!("systemd opened the control socket at {found}, and the agent is told {}", path.display()),
                "give --socket and ListenStream= of privnet.socket the same path",
            ));
        }
        listener.set_nonblocking(true).map_err(|error| cannot("prepare", path, &error))?;
        let listener = UnixListener::from_std(listener).map_err(|error| cannot("listen on", path, &error))?;
        Ok(Self { listener, path: path.to_owned(), identity: None })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if let Some(own) = self.identity
            && identity(&self.path).is_ok_and(|found| found == own)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the control socket");
        }
    }
}

fn make_directory(directory: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)
}

/// Removes a socket without a listener; refuses everything else that is in the way.
fn remove_stale(path: &Path) -> Result<(), ControlError> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(cannot("look at", path, &error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ControlError::new(
                ErrorCode::InvalidArgument,
                format!("cannot bind {}: the path exists and is not a socket", path.display()),
                "remove it, or give another --socket",
            ));
        }
        Ok(_) => {}
    }
    match StdStream::connect(path) {
        Ok(_) => Err(ControlError::new(
            ErrorCode::InvalidArgument,
            format!("another agent is listening on {}", path.display()),
            "stop it, or give this one its own --socket and --state-dir",
        )),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|error| cannot("remove the stale socket", path, &error))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(cannot("probe", path, &error)),
    }
}

/// Binds, then sets owner and mode, then listens: a connection that comes before the permissions are right is refused.
fn listen(path: &Path, group_id: Option<u32>) -> io::Result<StdListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    let finished = restrict(path, group_id).and_then(|()| Ok(rustix::net::listen(&socket, BACKLOG)?));
    if let Err(error) = finished {
        // The bind has made the file; a half-made socket must not stay.
        let _ = std::fs::remove_file(path);
        return Err(error);
    }
    Ok(StdListener::from(socket))
}

fn restrict(path: &Path, group_id: Option<u32>) -> io::Result<()> {
    let mode = if group_id.is_some() { 0o660 } else { 0o600 };
    rustix::fs::chmod(path, Mode::from_raw_mode(0o600))?;
    if let Some(gid) = group_id {
        rustix::fs::chown(path, None::<Uid>, Some(Gid::from_raw(gid)))?;
    }
    Ok(rustix::fs::chmod(path, Mode::from_raw_mode(mode))?)
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = std::fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> ControlError {
    let (code, remedy) = if error.kind() == io::ErrorKind::PermissionDenied {
        (ErrorCode::PermissionDenied, "run the agent as root, or give a --socket in a directory of yours")
    } else {
        (
            ErrorCode::InvalidArgument,
            "give another --socket: a path of at most 107 bytes in a directory that can be written",
        )
    };
    ControlError::new(code, format!("cannot {what} the control socket {}: {error}", path.display()), remedy)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_socket_without_a_group_is_for_its_owner_alone_and_goes_with_the_agent() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("run/privnet.sock");
        let socket = ControlSocket::bind(&path, None).expect("bound");
        assert_eq!(std::fs::metadata(&path).expect("exists").permissions().mode() & 0o777, 0o600);
        let parent = std::fs::metadata(path.parent().expect("has one")).expect("exists");
        assert_eq!(parent.permissions().mode() & 0o777, 0o755);
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_with_a_group_is_for_the_group_too() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("privnet.sock");
        let own_group = rustix::process::getegid().as_raw();
        let _socket = ControlSocket::bind(&path, Some(own_group)).expect("bound");
        let found = std::fs::metadata(&path).expect("exists");
        assert_eq!((found.permissions().mode() & 0o777, found.gid()), (0o660, own_group));
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("privnet.sock");
        drop(StdListener::bind(&path).expect("bound"));
        assert!(path.exists(), "the standard library leaves the file");
        let live = ControlSocket::bind(&path, None).expect("the stale one is replaced");
        let refused = ControlSocket::bind(&path, None).expect_err("a live one is there");
        assert!(refused.message.contains("another agent is listening"), "{}", refused.message);
        assert!(StdStream::connect(live.path()).is_ok(), "the live one was disturbed");
    }

    #[tokio::test]
    async fn a_file_in_the_way_is_kept() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("privnet.sock");
        std::fs::write(&path, "precious").expect("written");
        assert!(ControlSocket::bind(&path, None).expect_err("refused").message.contains("not a socket"));
        assert_eq!(std::fs::read_to_string(&path).expect("kept"), "precious");
    }

    #[tokio::test]
    async fn a_successors_socket_is_not_removed() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("privnet.sock");
        let first = ControlSocket::bind(&path, None).expect("bound");
        std::fs::remove_file(&path).expect("removed by hand");
        let _second = StdListener::bind(&path).expect("bound");
        drop(first);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_socket_of_systemd_is_served_at_its_path_alone_and_stays() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("privnet.sock");
        let listener = StdListener::bind(&path).expect("bound");
        let elsewhere = listener.try_clone().expect("a second descriptor");
        let error = ControlSocket::handed_over(elsewhere, Path::new("/elsewhere.sock")).expect_err("refused");
        assert!(error.message.contains("/elsewhere.sock") && error.remedy.contains("privnet.socket"), "{error}");
        let socket = ControlSocket::handed_over(listener, &path).expect("taken");
        assert_eq!(socket.path(), path);
        drop(socket);
        assert!(path.exists(), "it is systemd's");
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_for_the_kernel_is_refused() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("s".repeat(120));
        let error = ControlSocket::bind(&path, None).expect_err("refused");
        assert_eq!(error.code, ErrorCode::InvalidArgument);
        assert!(error.remedy.contains("107"));
    }
}
