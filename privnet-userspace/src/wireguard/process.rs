//! The WireGuard process: what `privnet wireguard-process` does.
//!
//! It has no privilege: it holds two descriptors (the TUN link in the app netns, the UDP socket in the binding netns) and the
//! private key in memory. It ends by SIGTERM, when the container that it serves has ended, when its TUN link is deleted, or
//! when a task panics. The TUN link goes with it, so nothing is sent in clear.
//!
//! The TUN descriptor keeps the app netns alive. So that it does not outlive the container, the process watches the
//! container's process, or the pin by which the container was handed over.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures::future::join_all;
use gotatun::device::DeviceBuilder;
use ipnet::IpNet;
use rustix::event::{PollFd, PollFlags};
use tokio::time::{Instant, Interval};
use zeroize::Zeroizing;

use super::change::{Step, steps};
use super::predecessor::Predecessor;
use super::protocol::{Request, Response, Start, WireGuard};
use super::transport::{Carrier, FromApp, ToApp, tun};
use super::{DeviceState, Error, Peer, PeerState};
use crate::companion::{self, Given, Identity, LivenessWatch, Service};
use crate::model::keys::KEY_LENGTH_BYTES;
use crate::model::{PrivateKey, PublicKey};

/// How often the process checks that its container and its TUN link are still there.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// How long the peers may take to answer before others are begun with; to send takes less.
const ANSWER_PATIENCE: Duration = Duration::from_millis(100);

type Device = gotatun::device::Device<(Carrier, ToApp, FromApp)>;

/// Runs the WireGuard process whose files are in `run_dir`, until it is told to end or its container has ended.
///
/// To be called first thing in `main`, see [`companion::serve`].
///
/// # Errors
/// When the device could not be started; the agent is told the same.
pub fn serve_userspace(run_dir: &Path) -> anyhow::Result<()> {
    companion::serve::<WireGuard, Process>(run_dir)
}

/// A device and what it needs to know when to end.
struct Process {
    device: Device,
    predecessor: Arc<Predecessor>,
    key: PrivateKey,
    tun: OwnedFd,
    container: LivenessWatch,
    interface: String,
    check: Interval,
}

impl Service<WireGuard> for Process {
    async fn start(_: Identity, given: Given<WireGuard>) -> anyhow::Result<Self> {
        let Given { start: Start { interface, mtu, liveness, public_key }, secret, files } = given;
        let mut key = Zeroizing::new([0; KEY_LENGTH_BYTES]);
        key.copy_from_slice(&secret);
        let key = PrivateKey::from_random(*key);
        ensure!(key.public_key() == public_key, "the private key that arrived is not that of {public_key}");
        let mut files = files.into_iter();
        let (Some(tun_file), Some(socket)) = (files.next(), files.next()) else { bail!("the descriptors are missing") };
        let container = LivenessWatch::new(liveness, files.next()).context("cannot watch the container's process")?;
        let watched = tun_file.try_clone()?;
        let (to_app, from_app) = tun(tun_file, mtu).context("cannot use the TUN link")?;
        let predecessor = Arc::new(Predecessor::new(Instant::now()));
        let carrier =
            Carrier::new(socket.into(), mtu, Arc::clone(&predecessor)).context("cannot use the UDP socket")?;
        let device = DeviceBuilder::new().with_udp(carrier).with_ip_pair(to_app, from_app).build().await?;
        // Not in the builder: the device starts to forward when it gets its key, and only then notices a lost link.
        device.set_private_key(secret_of(&key)).await?;
        let mut check = tokio::time::interval(CHECK_INTERVAL);
        check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        tracing::info!(interface, "the WireGuard process is ready");
        Ok(Self { device, predecessor, key, tun: watched, container, interface, check })
    }

    async fn respond(&mut self, request: Request, _: Vec<OwnedFd>) -> anyhow::Result<(Response, Vec<OwnedFd>)> {
        let response = match request {
            Request::Observe => Response::Device(self.state().await),
            Request::BeginSessions(peers) => {
                self.begin_sessions(&peers).await;
                Response::Changed
            }
            Request::PassKey => return Ok((Response::Changed, vec![pipe_of(&self.key)?])),
            Request::ChangePeers(change) => match steps(&self.interface, &self.state().await, &change) {
                Ok(steps) => {
                    self.apply(steps).await?;
                    Response::Changed
                }
                Err(Error::AddressTaken { address, holder, wanted, .. }) => {
                    Response::AddressTaken { address, holder, wanted }
                }
                Err(error) => return Err(error.into()),
            },
        };
        Ok((response, Vec::new()))
    }

    async fn reason_to_end(&mut self) -> &'static str {
        loop {
            // They stay on the list until they are begun with: this future may be dropped before.
            let heard = self.predecessor.heard();
            self.begin_sessions(&heard).await;
            self.predecessor.is_done_with(heard.len());
            tokio::select! {
                () = self.device.wait() => return "the device failed",
                () = self.container.ended() => return "the container's process ended",
                () = self.predecessor.is_heard() => {}
                now = self.check.tick() => {
                    self.predecessor.check(now);
                    if let Some(reason) = self.gone() {
                        return reason;
                    }
                }
            }
        }
    }

    async fn end(self) {
        self.device.stop().await;
    }
}

impl Process {
    /// Whether the TUN link or the container's pin is gone, which the kernel does not report.
    fn gone(&self) -> Option<&'static str> {
        let mut tun = [PollFd::new(&self.tun, PollFlags::empty())];
        let polled = rustix::event::poll(&mut tun, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 }));
        if polled.is_ok() && tun[0].revents().contains(PollFlags::ERR) {
            return Some("the TUN link was deleted");
        }
        self.container.is_unpinned().then_some("the container's namespace is gone")
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
                is_altered: false,
            };
            (PublicKey::new(entry.peer.public_key.to_bytes()), state)
        });
        DeviceState { public_key: Some(self.key.public_key()), listen_port, mark: 0, peers: peers.collect() }
    }

    /// Begins a session with each of these peers that is there and has none.
    async fn begin_sessions(&self, peers: &[PublicKey]) {
        let begin = async |peer: &PublicKey| self.device.force_handshake(&library_key(*peer)).await;
        // A peer that does not answer is sent another message by the device, and what a peer that is not there is answered
        // concerns it alone.
        let _ = tokio::time::timeout(ANSWER_PATIENCE, join_all(peers.iter().map(begin))).await;
    }

    /// All steps under one lock of the device; none of them touches another peer or the socket.
    async fn apply(&self, steps: Vec<Step>) -> anyhow::Result<()> {
        tracing::debug!(steps = steps.len(), "changing peers");
        let begin: Vec<PublicKey> = steps.iter().filter_map(Step::begins_with).collect();
        let apply = async |device: &mut gotatun::device::configure::DeviceWrite<'_, _>| {
            for step in steps {
                match step {
                    Step::Remove(key) => drop(device.remove_peer(&library_key(key)).await),
                    Step::Add(peer) | Step::Resume(peer) => {
                        self.predecessor.add(peer.public_key, peer.endpoint);
                        device.add_peer(addition(&peer));
                    }
                    Step::Endpoint(key, endpoint) => {
                        self.predecessor.add(key, endpoint);
                        let set = |peer: &mut gotatun::device::configure::PeerMut| {
                            peer.set_endpoint(Some(endpoint.into()));
                        };
                        device.modify_peer(&library_key(key), set).await;
                    }
                    // Nothing but this process sets anything here.
                    Step::Restore(_) => {}
                }
            }
        };
        self.device.write(apply).await?;
        self.begin_sessions(&begin).await;
        Ok(())
    }
}

/// A pipe that the key, which is far shorter than a pipe's buffer, has been written into.
fn pipe_of(key: &PrivateKey) -> std::io::Result<OwnedFd> {
    let (reader, mut writer) = std::io::pipe()?;
    std::io::Write::write_all(&mut writer, key.reveal_bytes())?;
    Ok(reader.into())
}

/// The one place where a private key becomes the library's; its value goes straight into the device.
fn secret_of(key: &PrivateKey) -> x25519_dalek::StaticSecret {
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
