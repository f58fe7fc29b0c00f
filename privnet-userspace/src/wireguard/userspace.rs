//! The agent's side of a userspace device: start its process, ask it, stop it.
//!
//! The TUN link is made by a thread in the app netns and the UDP socket by a thread in the binding netns, here; the
//! process receives both as open files. So it needs no namespace, no privilege and no secret on its command line, and
//! its socket was born where the kernel's would have been. The process does not die with the agent.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use zeroize::Zeroizing;

use super::offload::{OffloadChoice, Offloads};
use super::protocol::{Request, Response, Start, WireGuard};
use super::{Backend, DeviceState, Error, PeerChange, Support, tun};
use crate::companion::{Cause, Given, Handle, Liveness};
use crate::model::keys::KEY_LENGTH_BYTES;
use crate::model::{IfName, PrivateKey, PublicKey};
use crate::netns::{self, Netns};

/// How long the link and the socket of a killed process may outlast its pid file; milliseconds were seen.
const PREDECESSOR_TIMEOUT: Duration = Duration::from_millis(250);
const PREDECESSOR_PAUSE: Duration = Duration::from_millis(2);
/// Room in the socket for bursts that come while the process is not scheduled, in bytes; the default holds 90 packets.
const SOCKET_BUFFER_BYTES: usize = 2 << 20;

/// Room in the TUN link for what the app sends while the process is not scheduled, in packets; the socket's holds about as many.
/// The kernel's default, 500, lost datagrams of a stream of one a millisecond, beside machines that booted: for up to 1.7 s a
/// process waited for a processor, or for its own memory, which the kernel moved.
pub const TUN_QUEUE_PACKETS: u32 = 2048;

/// What a userspace device is started with.
#[derive(Clone, Debug)]
pub struct UserspaceSpec {
    /// The `privnet` binary; the process is `privnet wireguard-process --run-dir DIR`. `/proc/self/exe` is this very
    /// binary, also when its file was replaced or removed since it was started.
    pub binary: PathBuf,
    /// `<state>/wireguard/<member>`: made when missing, for root alone.
    pub run_dir: PathBuf,
    /// Where the TUN link appears.
    pub app: Netns,
    /// By what the container was handed to us: `/proc/<pid>/ns/net` or a pin. When it no longer names the app netns
    /// (the process ended, the pin went), the WireGuard process ends too.
    pub app_path: PathBuf,
    /// Where the UDP socket is born.
    pub binding: Netns,
    /// The name of the TUN link.
    pub interface: IfName,
    /// Its MTU in bytes, to which WireGuard's padding is limited. The link door sets it on the link.
    pub mtu: u32,
    /// The UDP port, host byte order.
    pub listen_port: u16,
    /// Whether super-packets are used.
    pub offload: OffloadChoice,
}

/// Whether TUN links can be made on this host.
#[must_use]
pub fn userspace_support() -> Support {
    match std::fs::OpenOptions::new().read(true).write(true).open(tun::CONTROL_FILE) {
        Ok(_) => Support::Present,
        Err(error) => {
            let file = tun::CONTROL_FILE;
            Support::Missing { reason: format!("cannot open {file}: {error}"), remedy: tun_remedy(error.kind()) }
        }
    }
}

const fn tun_remedy(error: io::ErrorKind) -> &'static str {
    if matches!(error, io::ErrorKind::PermissionDenied) {
        "run it as root; a systemd unit with DevicePolicy= needs `DeviceAllow=/dev/net/tun rw`"
    } else {
        "load the module with `modprobe tun`; where it is loaded, make the file with `mknod -m 666 /dev/net/tun c 10 200`"
    }
}

/// Starts the process of a userspace device, with its key and without peers.
///
/// Returns when the TUN link exists in the app netns, down and without address, with IPv6 off, and the process forwards
/// between it and the socket in the binding netns.
///
/// # Errors
/// [`Cause::AlreadyRunning`], [`Error::Liveness`] when `app_path` is not the app netns, [`Error::Kernel`] when the
/// interface name or the port is taken. Nothing of the attempt is left after any error.
pub async fn start_userspace(spec: &UserspaceSpec, key: &PrivateKey) -> Result<(), Error> {
    let given = async {
        let (liveness, process) = Liveness::of(&spec.app_path, spec.app.id())?;
        let offloads = Offloads::choose(spec.offload);
        let (tun, socket) = tokio::try_join!(open_tun(spec, offloads), open_socket(spec))?;
        let start = Start {
            interface: spec.interface.to_string(),
            mtu: u16::try_from(spec.mtu).unwrap_or(u16::MAX),
            liveness,
            public_key: key.public_key(),
            offloads,
        };
        let files = [tun, socket.into()].into_iter().chain(process).collect();
        Ok(Given { start, secret: Zeroizing::new(key.reveal_bytes().to_vec()), files })
    };
    handle(&spec.run_dir).start(&spec.binary, given).await
}

fn handle(run_dir: &Path) -> Handle<WireGuard> {
    Handle::new(run_dir)
}

/// Makes the TUN link in the app netns and turns IPv6 off on it.
async fn open_tun(spec: &UserspaceSpec, offloads: Offloads) -> Result<OwnedFd, Error> {
    let interface = spec.interface.clone();
    let object = format!("TUN link {interface} in the app netns {}", spec.app.id());
    let create = || {
        let interface = interface.clone();
        spec.app.run(move || tun::create(&interface, offloads))
    };
    let file = after_predecessor(create).await?.map_err(|error| match userspace_support() {
        Support::Missing { reason, remedy } => Error::Unsupported { backend: Backend::Userspace, reason, remedy },
        Support::Present => Error::io("create", object)(error),
    })?;
    let disable_ipv6 = format!("net/ipv6/conf/{}/disable_ipv6", spec.interface);
    match spec.app.set_sysctl(&disable_ipv6, "1").await {
        // A kernel without IPv6 has no such setting.
        Ok(_) | Err(netns::Error::NotFound { .. }) => Ok(file),
        Err(error) => Err(error.into()),
    }
}

/// Binds the UDP socket in the binding netns.
async fn open_socket(spec: &UserspaceSpec) -> Result<UdpSocket, Error> {
    let port = spec.listen_port;
    let object = format!("UDP port {port} in the binding netns {}", spec.binding.id());
    let bind = move || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER_BYTES)?;
        rustix::net::sockopt::set_socket_send_buffer_size_force(&socket, SOCKET_BUFFER_BYTES)?;
        io::Result::Ok(socket)
    };
    after_predecessor(|| spec.binding.run(bind)).await?.map_err(Error::io("bind", object))
}

/// Tries again for a moment when what is wanted is taken: a process that was killed lets its link and its socket go a
/// little after its pid file.
async fn after_predecessor<T, F>(mut attempt: impl FnMut() -> F) -> Result<io::Result<T>, netns::Error>
where
    F: Future<Output = Result<io::Result<T>, netns::Error>>,
{
    let deadline = tokio::time::Instant::now() + PREDECESSOR_TIMEOUT;
    loop {
        match attempt().await? {
            Err(error)
                if matches!(Errno::from_io_error(&error), Some(Errno::BUSY | Errno::ADDRINUSE))
                    && tokio::time::Instant::now() < deadline =>
            {
                tokio::time::sleep(PREDECESSOR_PAUSE).await;
            }
            result => return Ok(result),
        }
    }
}

/// Ends the process of a userspace device, and with it the TUN link, and removes its files. Absent is done.
///
/// # Errors
/// When it cannot be ended. It is running then, and its files are there.
pub async fn stop_userspace(run_dir: &Path) -> Result<(), Error> {
    Ok(handle(run_dir).end().await?)
}

pub(super) async fn observe(run_dir: &Path) -> Result<Option<DeviceState>, Error> {
    let handle = handle(run_dir);
    match handle.ask(Request::Observe, &[]).await {
        Ok((Response::Device(device), _)) => Ok(Some(device)),
        Ok((Response::Changed | Response::AddressTaken { .. }, _)) => Err(handle.error(Cause::OtherAnswer).into()),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(super) async fn configure(run_dir: &Path, public_key: PublicKey, listen_port: u16) -> Result<(), Error> {
    let device = observe(run_dir).await?.ok_or_else(|| absent(run_dir))?;
    let restart = |what| Err(Error::RestartNeeded { run_dir: run_dir.to_owned(), what });
    if device.public_key != Some(public_key) {
        restart("private key")
    } else if device.listen_port != listen_port {
        restart("port")
    } else {
        Ok(())
    }
}

pub(super) async fn change_peers(run_dir: &Path, change: &PeerChange) -> Result<(), Error> {
    let handle = handle(run_dir);
    match handle.ask(Request::ChangePeers(change.clone()), &[]).await {
        Ok((Response::Changed, _)) => Ok(()),
        Ok((Response::AddressTaken { address, holder, wanted }, _)) => {
            Err(Error::AddressTaken { device: run_dir.display().to_string(), address, holder, wanted })
        }
        Ok((Response::Device(_), _)) => Err(handle.error(Cause::OtherAnswer).into()),
        Err(error) if error.is_absent() => Err(absent(run_dir)),
        Err(error) => Err(error.into()),
    }
}

pub(super) async fn begin_sessions(run_dir: &Path, peers: &[PublicKey]) -> Result<(), Error> {
    let handle = handle(run_dir);
    match handle.ask(Request::BeginSessions(peers.to_vec()), &[]).await {
        Ok((Response::Changed, _)) => Ok(()),
        Ok((Response::Device(_) | Response::AddressTaken { .. }, _)) => Err(handle.error(Cause::OtherAnswer).into()),
        Err(error) if error.is_absent() => Err(absent(run_dir)),
        Err(error) => Err(error.into()),
    }
}

/// The private key that the process has; nothing where it is of a build before that does not pass it, or there is none.
pub(super) async fn private_key(run_dir: &Path) -> Result<Option<PrivateKey>, Error> {
    let handle = handle(run_dir);
    let files = match handle.ask(Request::PassKey, &[]).await {
        Ok((Response::Changed, files)) => files,
        Ok((Response::Device(_) | Response::AddressTaken { .. }, _)) => {
            return Err(handle.error(Cause::OtherAnswer).into());
        }
        Err(error) if error.is_absent() || matches!(error.cause, Cause::Refused { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let Some(pipe) = files.into_iter().next() else { return Err(handle.error(Cause::OtherAnswer).into()) };
    let mut key = Zeroizing::new([0; KEY_LENGTH_BYTES]);
    // The process has written it before it answered.
    io::Read::read_exact(&mut std::fs::File::from(pipe), &mut *key).map_err(Error::io("read", "the pipe of a key"))?;
    Ok(Some(PrivateKey::from_random(*key)))
}

fn absent(run_dir: &Path) -> Error {
    Error::Absent { device: run_dir.display().to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn where_no_process_is_nothing_is_observed_and_stopping_is_done() {
        let parent = tempfile::tempdir().expect("temporary directory");
        for run_dir in [parent.path().join("absent"), parent.path().to_owned()] {
            assert_eq!(observe(&run_dir).await.expect("no process"), None);
            let refused = change_peers(&run_dir, &PeerChange::default()).await.expect_err("no process");
            assert!(matches!(refused, Error::Absent { .. }), "{refused}");
        }
        stop_userspace(&parent.path().join("absent")).await.expect("done already");
    }
}
