//! The WireGuard process: what `privnet wireguard-process` does.
//!
//! It has no privilege: it holds two descriptors (the TUN link in the app netns, the UDP socket in the binding netns) and the
//! private key in memory. It ends by SIGTERM, when the container that it serves has ended, when its TUN link is deleted, or
//! when a task panics. The TUN link goes with it, so nothing is sent in clear.
//!
//! The TUN descriptor keeps the app netns alive. So that it does not outlive the container, the process watches the
//! container's process, or the pin by which the container was handed over.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use rustix::event::{PollFd, PollFlags};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use super::app::App;
use super::carrier::Carrier;
use super::change::{Step, steps};
use super::forward::{Shared, forward};
use super::predecessor::Predecessor;
use super::protocol::{Request, Response, Start, WireGuard};
use super::tunnels::Tunnels;
use super::{DeviceState, Error};
use crate::companion::{self, Given, Identity, LivenessWatch, Service};
use crate::model::keys::KEY_LENGTH_BYTES;
use crate::model::{PrivateKey, PublicKey};

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
    shared: Arc<Shared>,
    /// Ends when the device cannot go on.
    forwards: JoinHandle<std::io::Error>,
    listen_port: u16,
    key: PrivateKey,
    tun: OwnedFd,
    container: LivenessWatch,
    interface: String,
}

impl Service<WireGuard> for Process {
    async fn start(_: Identity, given: Given<WireGuard>) -> anyhow::Result<Self> {
        let Given { start: Start { interface, mtu, liveness, public_key, offloads }, secret, files } = given;
        let mut key = Zeroizing::new([0; KEY_LENGTH_BYTES]);
        key.copy_from_slice(&secret);
        let key = PrivateKey::from_random(*key);
        ensure!(key.public_key() == public_key, "the private key that arrived is not that of {public_key}");
        let mut files = files.into_iter();
        let (Some(tun_file), Some(socket)) = (files.next(), files.next()) else { bail!("the descriptors are missing") };
        let container = LivenessWatch::new(liveness, files.next()).context("cannot watch the container's process")?;
        let watched = tun_file.try_clone()?;
        let app = App::new(tun_file, offloads).context("cannot use the TUN link")?;
        let carrier = Carrier::new(socket.into(), offloads).context("cannot use the UDP socket")?;
        let listen_port = carrier.port()?;
        let predecessor = Predecessor::new(tokio::time::Instant::now());
        let shared = Arc::new(Shared::new(Tunnels::new(&key, mtu), predecessor));
        let forwards = tokio::spawn(forward(app, carrier, Arc::clone(&shared)));
        tracing::info!(interface, "the WireGuard process is ready");
        Ok(Self { shared, forwards, listen_port, key, tun: watched, container, interface })
    }

    async fn respond(&mut self, request: Request, _: Vec<OwnedFd>) -> anyhow::Result<(Response, Vec<OwnedFd>)> {
        let response = match request {
            Request::Observe => Response::Device(self.state()),
            Request::BeginSessions(peers) => {
                self.shared.change(|tunnels, out| tunnels.begin_sessions(&peers, Instant::now(), out));
                Response::Changed
            }
            Request::PassKey => return Ok((Response::Changed, vec![pipe_of(&self.key)?])),
            Request::ChangePeers(change) => match steps(&self.interface, &self.state(), &change) {
                Ok(steps) => {
                    self.apply(&steps);
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

    fn look(&mut self) -> Option<&'static str> {
        self.gone()
    }

    async fn reason_to_end(&mut self) -> &'static str {
        loop {
            tokio::select! {
                ended = &mut self.forwards => {
                    let why = ended.map_or_else(|panic| panic.to_string(), |error| error.to_string());
                    tracing::warn!(why, "nothing is forwarded any more");
                    return self.gone().unwrap_or("the device failed");
                }
                () = self.container.ended() => return "the container's process ended",
                () = self.shared.predecessor.is_to_end() => self.shared.predecessor.end(),
            }
        }
    }

    async fn end(self) {
        self.forwards.abort();
    }
}

impl Process {
    /// Whether the TUN link or the container's pin is gone. Of the link the forwarding hears; a pin goes without an event.
    fn gone(&self) -> Option<&'static str> {
        let mut tun = [PollFd::new(&self.tun, PollFlags::empty())];
        let polled = rustix::event::poll(&mut tun, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 }));
        if polled.is_ok() && tun[0].revents().contains(PollFlags::ERR) {
            return Some("the TUN link was deleted");
        }
        self.container.is_unpinned().then_some("the container's namespace is gone")
    }

    fn state(&self) -> DeviceState {
        let peers = self.shared.peers();
        DeviceState { public_key: Some(self.key.public_key()), listen_port: self.listen_port, mark: 0, peers }
    }

    /// All steps at once; none of them touches another peer or the socket.
    fn apply(&self, steps: &[Step]) {
        tracing::debug!(steps = steps.len(), "changing peers");
        let now = Instant::now();
        let begin: Vec<PublicKey> = steps.iter().filter_map(Step::begins_with).collect();
        for step in steps {
            if let Step::Add(peer) | Step::Resume(peer) = step {
                self.shared.predecessor.add(peer.public_key, peer.endpoint);
            } else if let Step::Endpoint(key, endpoint) = step {
                self.shared.predecessor.add(*key, *endpoint);
            }
        }
        self.shared.change(|tunnels, out| {
            steps.iter().for_each(|step| tunnels.apply(step, now));
            tunnels.begin_sessions(&begin, now, out);
            tunnels.take_up_early(now, out);
        });
    }
}

/// A pipe that the key, which is far shorter than a pipe's buffer, has been written into.
fn pipe_of(key: &PrivateKey) -> std::io::Result<OwnedFd> {
    let (reader, mut writer) = std::io::pipe()?;
    std::io::Write::write_all(&mut writer, key.reveal_bytes())?;
    Ok(reader.into())
}
