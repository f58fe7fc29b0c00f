//! The WireGuard process: what `privnet wireguard-process` is.
//!
//! It is its own session, outlives the agent that started it, and has no privilege: it holds two open files (the TUN link
//! in the app netns, the UDP socket in the binding netns) and the private key in memory. It ends by SIGTERM, when the
//! container that it serves is gone, when its TUN link is deleted, or when anything in it panics; the TUN link goes with
//! it, so that nothing is ever sent in clear.
//!
//! Its own TUN file keeps the app netns alive. So that it is not the last to do so it watches, from outside, the process or
//! the pin by which the container was handed over.

use std::fs;
use std::io::{self, IoSliceMut, Read as _};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use gotatun::device::DeviceBuilder;
use ipnet::IpNet;
use rustix::event::{PollFd, PollFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use zeroize::Zeroizing;

use super::change::{RESUMING_KEEPALIVE_SECONDS, Step, steps};
use super::protocol::{Ask, Birth, Born, MAX_MESSAGE_BYTES, Request, Response, VERSION};
use super::transport::{Carrier, FromApp, ToApp, tun};
use super::{DeviceState, Error, Peer, PeerState};
use crate::companion::{RunDir, Watched, give_up_privileges, listen, log_to};
use crate::model::keys::KEY_LENGTH_BYTES;
use crate::model::{PrivateKey, PublicKey};

/// How often the process looks whether its container and its TUN link are still there.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// How long a connection may take for its one request; others wait meanwhile.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

type Device = gotatun::device::Device<(Carrier, ToApp, FromApp)>;

/// Runs the WireGuard process whose files are in `run_dir`, until it is told to end or its container is gone.
///
/// To be called first thing in `main`, before a runtime or a log exists: standard input is the socket over which
/// `start_userspace` hands over the device.
///
/// # Errors
/// When the device could not be started; whoever started it is told the same.
pub fn serve_userspace(run_dir: &Path) -> anyhow::Result<()> {
    // What `ps` and `top` show, whatever the binary was started as.
    rustix::thread::set_name(c"privnet-wg").context("cannot take a name")?;
    // Fails if it leads a group already, when somebody started it from a shell: then it stays in that session.
    let _ = rustix::process::setsid();
    let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().context("cannot use standard input")?);
    let run_dir = RunDir::new(run_dir);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let started = receive(&stream).and_then(|(birth, key, files)| {
        let lock = run_dir.lock().context("another process has the directory")?;
        log_to(&run_dir, "the WireGuard process")?;
        give_up_privileges()?;
        let process = runtime.block_on(Process::start(&run_dir, birth, key, files))?;
        Ok((process, lock))
    });
    let answer = match &started {
        Ok((process, _)) => Born::Ready { public_key: process.public_key },
        Err(error) => Born::Failed { problem: format!("{error:#}") },
    };
    // Nobody reads it if the agent died meanwhile; the device works for the next one.
    let _ = serde_json::to_writer(&stream, &answer);
    let _ = stream.shutdown(std::net::Shutdown::Both);
    let (process, lock) = started?;
    let reason = runtime.block_on(process.serve())?;
    tracing::info!(reason, "the WireGuard process ends");
    // After the socket and before the lock: the next process must not find it.
    let (_directory, socket) = run_dir.control_socket()?;
    let _ = fs::remove_file(socket);
    drop(lock);
    Ok(())
}

/// Reads what `start_userspace` hands over, up to the end of the stream.
fn receive(stream: &UnixStream) -> anyhow::Result<(Birth, PrivateKey, Vec<OwnedFd>)> {
    let mut bytes = Zeroizing::new(vec![0; 8192]);
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)
        .context("standard input is not the agent's socket")?;
    let files: Vec<OwnedFd> = control
        .drain()
        .flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => files.collect(),
            RecvAncillaryMessage::ScmCredentials(_) | _ => Vec::new(),
        })
        .collect();
    let mut filled = received.bytes;
    while filled < bytes.len() {
        match (&*stream).read(&mut bytes[filled..])? {
            0 => break,
            more => filled += more,
        }
    }
    ensure!(filled > KEY_LENGTH_BYTES, "the agent ended before it handed over the device");
    let mut key = Zeroizing::new([0; KEY_LENGTH_BYTES]);
    key.copy_from_slice(&bytes[..KEY_LENGTH_BYTES]);
    let birth: Birth = serde_json::from_slice(&bytes[KEY_LENGTH_BYTES..filled]).context("the message is unreadable")?;
    ensure!(birth.version == VERSION, "the agent speaks version {}, this binary {VERSION}", birth.version);
    Ok((birth, PrivateKey::from_random(*key), files))
}

/// A device and what it needs to know when to end.
struct Process {
    device: Device,
    public_key: PublicKey,
    control: UnixListener,
    tun: OwnedFd,
    container: Watched,
    interface: String,
}

impl Process {
    async fn start(run_dir: &RunDir, birth: Birth, key: PrivateKey, files: Vec<OwnedFd>) -> anyhow::Result<Self> {
        let mut files = files.into_iter();
        let (Some(tun_file), Some(socket)) = (files.next(), files.next()) else { bail!("the files are missing") };
        let container = Watched::new(birth.anchor, files.next()).context("cannot watch the container's process")?;
        let watched = tun_file.try_clone()?;
        let (to_app, from_app) = tun(tun_file, birth.mtu).context("cannot use the TUN link")?;
        let carrier = Carrier::new(socket.into(), birth.mtu).context("cannot use the UDP socket")?;
        let device = DeviceBuilder::new().with_udp(carrier).with_ip_pair(to_app, from_app).build().await?;
        // Not in the builder: the device starts to forward when it gets its key, and only then notices a lost link.
        device.set_private_key(secret(&key)).await?;
        let control = listen(run_dir).context("cannot open the control socket")?;
        tracing::info!(interface = birth.interface, "the WireGuard process is ready");
        let (public_key, interface) = (key.public_key(), birth.interface);
        Ok(Self { device, public_key, control, tun: watched, container, interface })
    }

    /// Forwards and answers until there is a reason to end, which is returned.
    async fn serve(mut self) -> anyhow::Result<&'static str> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut look = tokio::time::interval(WATCH_INTERVAL);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let reason = loop {
            tokio::select! {
                _ = terminate.recv() => break "SIGTERM",
                _ = interrupt.recv() => break "SIGINT",
                () = self.device.wait() => break "the device failed",
                () = self.container.ended() => break "the container's process ended",
                _ = look.tick() => if let Some(reason) = self.gone() { break reason },
                connection = self.control.accept() => match connection {
                    Ok((stream, _)) => {
                        // What went wrong with a connection is the other side's to notice.
                        let _ = tokio::time::timeout(REQUEST_TIMEOUT, self.answer(stream)).await;
                    }
                    // Out of files, say: do not spin.
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                },
            }
        };
        self.device.stop().await;
        Ok(reason)
    }

    /// Why the process should end, if it should.
    fn gone(&self) -> Option<&'static str> {
        let mut tun = [PollFd::new(&self.tun, PollFlags::empty())];
        let polled = rustix::event::poll(&mut tun, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 }));
        if polled.is_ok() && tun[0].revents().contains(PollFlags::ERR) {
            return Some("the TUN link was deleted");
        }
        self.container.is_unpinned().then_some("the container's namespace is gone")
    }

    /// Answers the one request of a connection.
    async fn answer(&self, stream: tokio::net::UnixStream) -> anyhow::Result<()> {
        ensure!(stream.peer_cred()?.uid() == rustix::process::geteuid().as_raw(), "not the owner");
        let (reader, mut writer) = stream.into_split();
        let mut line = Vec::new();
        BufReader::new(reader.take(MAX_MESSAGE_BYTES)).read_until(b'\n', &mut line).await?;
        let response = self.respond(&line).await;
        writer.write_all(&serde_json::to_vec(&response)?).await?;
        writer.write_all(b"\n").await?;
        Ok(writer.shutdown().await?)
    }

    async fn respond(&self, line: &[u8]) -> Response {
        match serde_json::from_slice::<Request<serde::de::IgnoredAny>>(line) {
            Ok(Request { version, .. }) if version != VERSION => return Response::OtherVersion { version: VERSION },
            Ok(_) | Err(_) => {}
        }
        let change = match serde_json::from_slice::<Request>(line) {
            Ok(Request { request: Ask::Observe, .. }) => return Response::Device(self.state().await),
            Ok(Request { request: Ask::ChangePeers(change), .. }) => change,
            Err(error) => return Response::Refused { problem: format!("the request is invalid: {error}") },
        };
        let applied = match steps(&self.interface, &self.state().await, &change) {
            Ok(steps) => self.apply(steps).await,
            Err(Error::AddressTaken { address, holder, wanted, .. }) => {
                return Response::AddressTaken { address, holder, wanted };
            }
            Err(error) => Err(error.into()),
        };
        applied.map_or_else(|error| Response::Refused { problem: format!("{error:#}") }, |()| Response::Changed)
    }

    async fn state(&self) -> DeviceState {
        let (listen_port, peers) = self.device.read(async |device| (device.listen_port(), device.peers().await)).await;
        let peers = peers.into_iter().map(|entry| {
            let allowed_ips = entry.peer.allowed_ips.iter().filter_map(|net| IpNet::new(net.ip(), net.prefix()).ok());
            let state = PeerState {
                endpoint: entry.peer.endpoint,
                allowed_ips: allowed_ips.collect(),
                last_handshake_age: entry.stats.last_handshake,
                rx_bytes: entry.stats.rx_bytes as u64,
                tx_bytes: entry.stats.tx_bytes as u64,
            };
            (PublicKey::new(entry.peer.public_key.to_bytes()), state)
        });
        DeviceState { public_key: Some(self.public_key), listen_port, peers: peers.collect() }
    }

    /// All steps under one lock of the device; none of them touches another peer or the socket.
    async fn apply(&self, steps: Vec<Step>) -> anyhow::Result<()> {
        tracing::debug!(steps = steps.len(), "changing peers");
        let apply = async |device: &mut gotatun::device::configure::DeviceWrite<'_, _>| {
            for step in steps {
                match step {
                    Step::Remove(key) => drop(device.remove_peer(&library_key(key)).await),
                    Step::Add(peer) => {
                        device.add_peer(addition(&peer));
                    }
                    Step::Resume(peer) => {
                        let mut addition = addition(&peer);
                        addition.keepalive = Some(RESUMING_KEEPALIVE_SECONDS);
                        device.add_peer(addition);
                    }
                    Step::Endpoint(key, endpoint) => {
                        let set = |peer: &mut gotatun::device::configure::PeerMut| {
                            peer.set_endpoint(Some(endpoint.into()));
                        };
                        device.modify_peer(&library_key(key), set).await;
                    }
                }
            }
        };
        Ok(self.device.write(apply).await?)
    }
}

/// The one place where a private key becomes the library's; its value goes straight into the device.
fn secret(key: &PrivateKey) -> x25519_dalek::StaticSecret {
    x25519_dalek::StaticSecret::from(*key.reveal_bytes())
}

fn addition(peer: &Peer) -> gotatun::device::Peer {
    gotatun::device::Peer::new(library_key(peer.public_key))
        .with_endpoint(peer.endpoint.into())
        .with_allowed_ip(IpAddr::V4(peer.allowed_ip).into())
}

fn library_key(key: PublicKey) -> x25519_dalek::PublicKey {
    x25519_dalek::PublicKey::from(key.bytes())
}
