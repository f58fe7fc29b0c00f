//! The agent's side of a userspace device: start its process, ask it, stop it.
//!
//! The TUN link is made by a thread in the app netns and the UDP socket by a thread in the binding netns, here; the
//! process receives both as open files. So it needs no namespace, no privilege and no secret on its command line, and
//! its socket was born where the kernel's would have been. The process does not die with the agent.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::Pid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use zeroize::Zeroizing;

use super::protocol::{Ask, Birth, Born, MAX_MESSAGE_BYTES, Request, Response, VERSION};
use super::{DeviceState, Error, PeerChange, Support, tun};
use crate::companion::{self, Anchor, RunDir};
use crate::model::{IfName, PrivateKey, PublicKey};
use crate::netns::{self, Netns};

/// How long a process may take to be born: two orders above what was measured on an idle machine.
const BIRTH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a process may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the link and the socket of a killed process may outlast its pid file; milliseconds were seen.
const PREDECESSOR_TIMEOUT: Duration = Duration::from_millis(250);
const PREDECESSOR_PAUSE: Duration = Duration::from_millis(2);
/// Room in the socket for bursts that come while the process is not scheduled, in bytes; the default holds 90 packets.
const SOCKET_BUFFER_BYTES: usize = 2 << 20;

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
}

/// Whether TUN links can be made on this host.
#[must_use]
pub fn userspace_support() -> Support {
    match std::fs::OpenOptions::new().read(true).write(true).open(tun::CONTROL_FILE) {
        Ok(_) => Support::Present,
        Err(error) => {
            let file = tun::CONTROL_FILE;
            Support::Missing {
                reason: format!("cannot open {file}: {error}"),
                remedy: "load the module with `modprobe tun`",
            }
        }
    }
}

/// Starts the process of a userspace device, with its key and without peers.
///
/// Returns when the TUN link exists in the app netns, down and without address, with IPv6 off, and the process forwards
/// between it and the socket in the binding netns.
///
/// # Errors
/// [`Error::AlreadyRunning`], [`Error::Anchor`] when `app_path` is not the app netns, [`Error::Kernel`] when the
/// interface name or the port is taken. Nothing of the attempt is left after any error.
pub async fn start_userspace(spec: &UserspaceSpec, key: &PrivateKey) -> Result<(), Error> {
    let run_dir = RunDir::new(&spec.run_dir);
    if let Some(pid) = owner(&run_dir)? {
        return Err(Error::AlreadyRunning { run_dir: spec.run_dir.clone(), pid: pid.as_raw_pid() });
    }
    run_dir.create().map_err(Error::io("create", spec.run_dir.display().to_string()))?;
    let result = start(spec, &run_dir, key).await;
    if result.is_err() {
        // What is left are empty files; the failure that is told is the first one.
        let _ = run_dir.remove();
    }
    result
}

async fn start(spec: &UserspaceSpec, run_dir: &RunDir, key: &PrivateKey) -> Result<(), Error> {
    let (anchor, process) = Anchor::of(&spec.app_path, spec.app.id())?;
    let (ours, theirs) = UnixStream::pair().map_err(Error::io("create", "a socket pair"))?;
    // Started first: it loads while the devices are made.
    let mut child = Command::new(&spec.binary)
        .arg0("privnet")
        .arg("wireguard-process")
        .arg("--run-dir")
        .arg(&spec.run_dir)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(Error::io("start", spec.binary.display().to_string()))?;
    let born = async {
        let (tun, socket) = tokio::try_join!(open_tun(spec), open_socket(spec))?;
        let mtu = u16::try_from(spec.mtu).unwrap_or(u16::MAX);
        let birth = Birth { version: VERSION, interface: spec.interface.to_string(), mtu, anchor };
        let files: Vec<BorrowedFd<'_>> =
            [tun.as_fd(), socket.as_fd()].into_iter().chain(process.as_ref().map(AsFd::as_fd)).collect();
        hand_over(&ours, &birth, key, &files).map_err(Error::io("hand over the device to", "its process"))?;
        await_birth(ours, run_dir, key.public_key()).await
    };
    let result = match tokio::time::timeout(BIRTH_TIMEOUT, born).await {
        Ok(result) => result,
        Err(_) => Err(problem(run_dir, format!("was not ready after {} s", BIRTH_TIMEOUT.as_secs()))),
    };
    match result {
        Ok(()) => {
            tracing::debug!(pid = child.id(), run_dir = %spec.run_dir.display(), "started a WireGuard process");
            // While the agent lives it is the parent, and collects what is left of the process one day.
            tokio::spawn(async move { child.wait().await });
            Ok(())
        }
        Err(error) => {
            // Fails only if it has ended already, which is what is wanted.
            let _ = child.kill().await;
            Err(error)
        }
    }
}

/// Makes the TUN link in the app netns and turns IPv6 off on it.
async fn open_tun(spec: &UserspaceSpec) -> Result<OwnedFd, Error> {
    let interface = spec.interface.clone();
    let object = format!("TUN link {interface} in the app netns {}", spec.app.id());
    let create = || {
        let interface = interface.clone();
        spec.app.run(move || tun::create(&interface))
    };
    let file = after_predecessor(create).await?.map_err(Error::io("create", object))?;
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

/// Sends the private key, the message and the files; then the end of the stream.
fn hand_over(stream: &UnixStream, birth: &Birth, key: &PrivateKey, files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let message = serde_json::to_vec(birth)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(key.reveal_bytes().len() + message.len()));
    bytes.extend_from_slice(key.reveal_bytes());
    bytes.extend_from_slice(&message);
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::Error::other("more files than there is room for"));
    }
    let sent = rustix::net::sendmsg(stream, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
    io::Write::write_all(&mut &*stream, &bytes[sent..])?;
    stream.shutdown(std::net::Shutdown::Write)
}

async fn await_birth(stream: UnixStream, run_dir: &RunDir, expected: PublicKey) -> Result<(), Error> {
    let failed = || Error::io("hear from", "a new WireGuard process");
    stream.set_nonblocking(true).map_err(failed())?;
    let mut answer = Vec::new();
    tokio::net::UnixStream::from_std(stream).map_err(failed())?.read_to_end(&mut answer).await.map_err(failed())?;
    match serde_json::from_slice(&answer) {
        Ok(Born::Ready { public_key }) if public_key == expected => Ok(()),
        Ok(Born::Ready { public_key }) => Err(problem(run_dir, format!("came up as {public_key}, not {expected}"))),
        Ok(Born::Failed { problem: told }) => Err(problem(run_dir, format!("did not start: {told}"))),
        Err(_) => Err(problem(run_dir, "ended before it was ready".to_owned())),
    }
}

/// Ends the process of a userspace device, and with it the TUN link, and removes its files. Absent is done.
///
/// # Errors
/// When it cannot be ended. It is running then, and its files are there.
pub async fn stop_userspace(run_dir: &Path) -> Result<(), Error> {
    let failed = Error::io("end", format!("the WireGuard process in {}", run_dir.display()));
    companion::end(&RunDir::new(run_dir)).await.map_err(failed)
}

pub(super) async fn observe(run_dir: &Path) -> Result<Option<DeviceState>, Error> {
    let files = RunDir::new(run_dir);
    match ask(&files, Ask::Observe).await? {
        None => Ok(None),
        Some(Response::Device(device)) => Ok(Some(device)),
        Some(other) => Err(unexpected(&files, other)),
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
    let files = RunDir::new(run_dir);
    match ask(&files, Ask::ChangePeers(change.clone())).await? {
        None => Err(absent(run_dir)),
        Some(Response::Changed) => Ok(()),
        Some(Response::AddressTaken { address, holder, wanted }) => {
            Err(Error::AddressTaken { device: run_dir.display().to_string(), address, holder, wanted })
        }
        Some(other) => Err(unexpected(&files, other)),
    }
}

/// One request; `None` when there is no process.
async fn ask(run_dir: &RunDir, request: Ask) -> Result<Option<Response>, Error> {
    let failed = || Error::io("ask", format!("the WireGuard process in {}", run_dir.path().display()));
    let exchange = async {
        let (_directory, socket) = run_dir.control_socket()?;
        let mut stream = tokio::net::UnixStream::connect(&socket).await?;
        let mut line = serde_json::to_vec(&Request { version: VERSION, request })?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut answer = Vec::new();
        stream.take(MAX_MESSAGE_BYTES).read_to_end(&mut answer).await?;
        Ok::<_, io::Error>(answer)
    };
    let answer = match tokio::time::timeout(ANSWER_TIMEOUT, exchange).await {
        Err(_) => return Err(problem(run_dir, format!("did not answer within {} s", ANSWER_TIMEOUT.as_secs()))),
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            let nobody = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused);
            return if nobody && owner(run_dir)?.is_none() { Ok(None) } else { Err(failed()(error)) };
        }
    };
    match serde_json::from_slice(&answer) {
        Ok(response) => Ok(Some(response)),
        Err(_) => Err(problem(run_dir, "gave an answer that is none".to_owned())),
    }
}

fn owner(run_dir: &RunDir) -> Result<Option<Pid>, Error> {
    run_dir.owner().map_err(Error::io("read", format!("the pid file in {}", run_dir.path().display())))
}

fn absent(run_dir: &Path) -> Error {
    Error::Absent { device: run_dir.display().to_string() }
}

fn problem(run_dir: &RunDir, problem: String) -> Error {
    Error::Process { run_dir: run_dir.path().to_owned(), problem }
}

fn unexpected(run_dir: &RunDir, response: Response) -> Error {
    match response {
        Response::OtherVersion { .. } => {
            Error::RestartNeeded { run_dir: run_dir.path().to_owned(), what: "protocol version" }
        }
        Response::Refused { problem: told } => problem(run_dir, format!("refused: {told}")),
        Response::Device(_) | Response::Changed | Response::AddressTaken { .. } => {
            problem(run_dir, "answered another question".to_owned())
        }
    }
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
