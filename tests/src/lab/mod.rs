//! The lab: hosts, containers, probes, waits and the leak check, in throw-away namespaces of the real kernel.
//!
//! ```text
//!  host namespace h1                 underlay namespace           host namespace h2
//! ┌──────────────────────┐          ┌──────────────────┐         ┌──────────────────────┐
//! │ agent (own state,    │   veth   │ br0 (no address) │  veth   │ agent                │
//! │ socket, pins)  eth0 ═╪══════════╪══════════════════╪═════════╪═ eth0                │
//! │ docker0 (on demand)  │          └──────────────────┘         │                      │
//! └───║──────────────────┘                                       └──────────────────────┘
//!  container: lo, eth0 to docker0 (on demand)
//! ```
//!
//! A lab stands on the [`Ground`]: everything it makes begins with one name, and at its end nothing of that name is left.

pub mod cli;
pub mod cni;
pub mod container;
mod cut;
pub mod docker;
mod driver;
mod drops;
pub mod etcd;
pub mod failpoint;
pub mod frame;
pub mod ground;
pub mod host;
pub mod image;
pub mod leak;
mod log;
pub mod metrics;
mod monitor;
mod options;
pub mod packet;
pub mod podman;
pub mod probe;
pub mod process;
pub mod skip;
pub mod space;
pub mod systemd;
pub mod wait;
mod way;

use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::rc::Rc;

pub use cli::binary;
pub use container::{Container, Joined, detach_request};
pub use cut::Cut;
pub use docker::Docker;
pub use drops::DropWatch;
pub use etcd::Etcd;
pub use ground::Ground;
pub use host::Host;
pub use image::which;
pub use monitor::Monitor;
pub use options::Options;
pub use packet::{Sender, Sniffer, send_frame};
pub use podman::Podman;
pub use skip::{has_program, skip, skip_part};
pub use space::{ProcessSpace, Space, run, run_in};
pub use systemd::Machine;
pub use wait::{FOR_NOTHING, SOON, holds_within, runtime, until, wait_until, wait_within};
pub use way::Way;

/// The underlay's prefix; host `n` (from 1) has the address `192.168.77.<n>`.
pub const UNDERLAY_PREFIX: &str = "192.168.77";

/// A clean room: what is made in it goes with it, and it says what stayed.
pub struct Lab {
    inner: Rc<Inner>,
}

/// What a lab's hosts hold of it.
pub(crate) struct Inner {
    agents: RefCell<Vec<Rc<host::Shared>>>,
    ground: Ground,
    _place: process::Place,
}

impl Lab {
    /// Opens a lab for the test of this name. One lab exists at a time per built binary, or as many as `PRIVNET_LABS` says:
    /// others wait here.
    ///
    /// # Panics
    /// Without root.
    #[must_use]
    pub fn new(test: &str) -> Self {
        let place = process::Place::wait();
        say(&format!("a lab for {test}"));
        let inner = Inner { agents: RefCell::default(), ground: Ground::join(), _place: place };
        Self { inner: Rc::new(inner) }
    }

    /// What it stands on.
    #[must_use]
    pub fn ground(&self) -> &Ground {
        &self.inner.ground
    }

    /// A directory that goes with the lab.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.inner.ground.directory()
    }

    /// Makes a namespace with `lo` up.
    #[must_use]
    pub fn space(&self, name: &str) -> Space {
        self.inner.ground.space(name)
    }

    /// As [`Ground::underlay`].
    #[must_use]
    pub fn underlay(&self, hosts: u8, mtu: u32) -> Vec<Space> {
        self.inner.ground.underlay(hosts, mtu)
    }

    /// One host with the real agent in a process of its own, and the embedded store.
    #[must_use]
    pub fn host(&self, options: &Options) -> Host {
        let space = self.underlay(1, options.underlay_mtu).remove(0);
        self.host_in(space, 1, options)
    }

    /// A host in a namespace of [`Lab::underlay`], as [`Lab::host`].
    #[must_use]
    pub fn host_in(&self, space: Space, number: u8, options: &Options) -> Host {
        let host = Host::process(Rc::clone(&self.inner), space, number, options);
        self.inner.agents.borrow_mut().push(host.shared());
        host.start();
        host
    }

    /// The namespaces of two hosts, and a running etcd on a third one.
    #[must_use]
    pub fn underlay_with_etcd(&self) -> ([Space; 2], Etcd) {
        let [one, two, three] =
            <[Space; 3]>::try_from(self.underlay(3, 1500)).unwrap_or_else(|_| unreachable!("three"));
        let mut etcd = Etcd::new(three, 3);
        etcd.start();
        ([one, two], etcd)
    }

    /// Two hosts, as [`Lab::host`], and the etcd that their agents share.
    #[must_use]
    pub fn hosts_with_etcd(&self) -> ([Host; 2], Etcd) {
        self.hosts_of_etcd(&Options::ebpf())
    }

    /// The same, with these options.
    #[must_use]
    pub fn hosts_of_etcd(&self, options: &Options) -> ([Host; 2], Etcd) {
        let ([one, two], etcd) = self.underlay_with_etcd();
        let options = options.clone().with_etcd(etcd.url());
        ([self.host_in(one, 1, &options), self.host_in(two, 2, &options)], etcd)
    }

    /// Hosts whose agents share a store in memory, and so live in this process.
    #[must_use]
    pub fn hosts(&self, options: &[Options]) -> Vec<Host> {
        let mtu = options.first().map_or(1500, |first| first.underlay_mtu);
        let spaces = self.underlay(u8::try_from(options.len()).expect("few hosts"), mtu);
        let store = host::shared_store();
        let together = spaces.into_iter().zip(options).zip(1..).map(|((space, options), number)| {
            let host = Host::library(Rc::clone(&self.inner), space, number, options, &store);
            self.inner.agents.borrow_mut().push(host.shared());
            host.start();
            host
        });
        together.collect()
    }

    /// Makes a container: a namespace with `lo` up. `name` is `<type>-<number>`.
    #[must_use]
    pub fn container(&self, name: &str) -> Container {
        Container::new(self.space(name), name)
    }

    /// Ends every membership and network through the agents, asserts that they left nothing, and takes the lab down.
    ///
    /// # Panics
    /// When anything was left behind.
    pub fn finish(self) {
        for agent in self.inner.agents.borrow().iter() {
            self.inner.ground.blame(agent.clear());
        }
    }

    /// As [`Lab::finish`], when the test ended every membership itself and nothing of the datapath may be there already.
    ///
    /// # Panics
    /// When anything was left behind.
    pub fn finish_detached(self) {
        for agent in self.inner.agents.borrow().iter() {
            let left = agent.leftovers();
            assert!(left.is_empty(), "after the last detach there is still:\n  {}", left.join("\n  "));
        }
        self.finish();
    }
}

impl Inner {
    pub(crate) fn name(&self) -> &str {
        self.ground.prefix()
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.ground.directory().to_owned()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The ground, which is dropped after this, finds what the agents leave.
        for agent in self.agents.take() {
            self.ground.must_be_unloaded(agent.loaded());
            agent.stop();
        }
    }
}

/// The underlay address of host `number`.
#[must_use]
pub fn underlay_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 77, number)
}

/// Prints a number that a test measured.
#[expect(clippy::print_stdout, reason = "standard output is for figures")]
pub fn figure(line: &str) {
    println!("figure: {}: {line}", std::thread::current().name().unwrap_or("a run"));
}

/// Writes a line of the transcript; the test harness shows it when the test fails. Standard output is left to figures.
#[expect(clippy::print_stderr, reason = "the transcript is for the person who reads a failed test")]
pub fn say(line: &str) {
    eprintln!("{line}");
}
