//! A host: a namespace, an agent in it, and the requests that a user makes of it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use privnet::agent::ControlError;
use privnet::agent::config::wireguard_dir;
use privnet::agent::views::{
    Attach, Attached, CreateNetwork, Detach, Detached, MemberView, NetworkView, StatusView, Target,
};
use privnet::netns::{DEFAULT_DIR, Netns};
use privnet::store::{Memory, Store};
use privnet::topology::ownership;

use super::container::{Container, Joined, detach_request};
use super::driver::Driver;
use super::leak::{BPFFS, BpfObject, pinned, pins_below};
use super::metrics::Counters;
use super::options::Options;
use super::process::{Process, companions_below};
use super::space::Space;
use super::wait::{SOON, holds_within, wait_until};
use super::{Inner, Lab, say, underlay_address};

/// The store of hosts that share one.
pub(crate) fn shared_store() -> Arc<dyn Store> {
    Arc::new(Memory::new())
}

/// A host of the lab.
pub struct Host {
    shared: Rc<Shared>,
}

impl Deref for Host {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

/// What the lab and the test hold of a host.
pub struct Shared {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub space: Space,
    /// Its VTEP's address.
    pub vtep: Ipv4Addr,
    /// How it was set up.
    pub options: Options,
    pub(crate) paths: Paths,
    pub(super) driver: RefCell<Driver>,
    loaded: RefCell<BTreeSet<BpfObject>>,
}

/// What an agent is told to keep to.
#[derive(Clone, Debug)]
pub struct Paths {
    /// What the names of its namespaces begin with.
    pub prefix: String,
    /// Its directory below bpffs.
    pub bpffs: PathBuf,
    /// Its state directory.
    pub state: PathBuf,
    /// Its control socket.
    pub socket: PathBuf,
    /// The socket of Docker's plugin.
    pub plugin: PathBuf,
    /// The socket of the Docker beside it.
    pub docker: PathBuf,
    /// Where its log goes.
    pub log: PathBuf,
}

impl Host {
    pub(crate) fn process(lab: Rc<Inner>, space: Space, number: u8, options: &Options) -> Self {
        Self::new(&lab, space, number, options, Driver::process())
    }

    pub(crate) fn library(lab: Rc<Inner>, space: Space, number: u8, options: &Options, store: &Arc<dyn Store>) -> Self {
        Self::new(&lab, space, number, options, Driver::library(store))
    }

    fn new(lab: &Inner, space: Space, number: u8, options: &Options, driver: Driver) -> Self {
        let name = format!("h{number}");
        let prefix = format!("{}{name}-", lab.name());
        let directory = lab.directory().join(&name);
        std::fs::create_dir(&directory).expect("the host's directory");
        let paths = Paths {
            bpffs: Path::new(BPFFS).join(prefix.trim_end_matches('-')),
            state: directory.join("state"),
            socket: directory.join("privnet.sock"),
            plugin: directory.join("plugins/privnet.sock"),
            docker: directory.join("docker.sock"),
            log: directory.join("agent.log"),
            prefix,
        };
        std::fs::create_dir(&paths.bpffs).expect("a directory below bpffs: is it mounted?");
        let vtep = underlay_address(number);
        let shared = Shared {
            name,
            space,
            vtep,
            options: options.clone(),
            paths,
            driver: RefCell::new(driver),
            loaded: RefCell::default(),
        };
        Self { shared: Rc::new(shared) }
    }

    pub(crate) fn shared(&self) -> Rc<Shared> {
        Rc::clone(&self.shared)
    }
}

impl Shared {
    /// Starts the agent and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn start(&self) {
        say(&format!("[{}] the agent starts", self.name));
        self.driver.borrow_mut().start(self);
        let started = holds_within(SOON, || self.has_ended() || self.status().is_ok());
        assert!(started && !self.has_ended(), "the agent did not start:\n{}", self.log_tail());
    }

    /// Whether no agent runs.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.driver.borrow_mut().has_ended()
    }

    /// Kills the agent's process, as a crash would.
    ///
    /// # Panics
    /// When the agent is not a process of its own.
    pub fn kill(&self) {
        say(&format!("[{}] kill -9 of the agent", self.name));
        self.driver.borrow_mut().kill();
    }

    /// Ends the agent as a service manager would, and waits until it has.
    pub fn stop(&self) {
        self.driver.borrow_mut().stop();
    }

    /// What the agent was told to keep to.
    #[must_use]
    pub const fn paths(&self) -> &Paths {
        &self.paths
    }

    /// The command line of this host's agent.
    #[must_use]
    pub fn agent_line(&self) -> String {
        super::driver::agent_line(self)
    }

    /// The agent's process id.
    ///
    /// # Panics
    /// When it does not run as a process of its own.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.driver.borrow().pid()
    }

    /// The command line for this host's agent.
    #[must_use]
    pub fn cli(&self) -> super::cli::Cli {
        super::cli::Cli::new(&self.name, self.paths.socket.clone())
    }

    /// `privnet network create`.
    ///
    /// # Errors
    /// The agent's.
    pub fn create_network(&self, name: &str, subnet: Option<&str>) -> Result<NetworkView, ControlError> {
        let request =
            CreateNetwork { name: name.to_owned(), subnet: subnet.map(str::to_owned), mtu: None, names: None };
        self.driver.borrow().create_network(self, request)
    }

    /// A network that must come to be.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    #[track_caller]
    pub fn network(&self, name: &str, subnet: &str) -> NetworkView {
        self.create_network(name, Some(subnet)).expect("the network")
    }

    /// `privnet network list`.
    ///
    /// # Errors
    /// The agent's.
    pub fn networks(&self) -> Result<Vec<NetworkView>, ControlError> {
        self.driver.borrow().networks(self)
    }

    /// `privnet network delete`.
    ///
    /// # Errors
    /// The agent's.
    pub fn delete_network(&self, network: &str) -> Result<(), ControlError> {
        self.driver.borrow().delete_network(self, network)
    }

    /// `privnet attach`.
    ///
    /// # Errors
    /// The agent's.
    pub fn attach(
        &self,
        network: &NetworkView,
        container: &Container,
        address: Option<Ipv4Addr>,
    ) -> Result<Attached, ControlError> {
        let request = Attach {
            network: network.id.to_string(),
            app: container.app.clone(),
            kind: Some(container.kind.clone()),
            number: Some(container.number),
            address,
            target: Target::Netns(container.space.path()),
            ports: Vec::new(),
            resolv_conf: None,
            attachment: None,
        };
        let attached = self.driver.borrow().attach(self, request);
        let _ = self.programs();
        attached
    }

    /// A container that must become a member.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    #[track_caller]
    pub fn join(&self, network: &NetworkView, container: &Container) -> Joined {
        match self.attach(network, container, None) {
            Ok(attached) => self.joined(network, container, attached),
            Err(error) => panic!("attach: {error:?}\n{}", self.log_tail()),
        }
    }

    /// A member with its namespaces.
    #[must_use]
    pub fn joined(&self, network: &NetworkView, container: &Container, attached: Attached) -> Joined {
        let binding = ownership::binding_netns(&self.paths.prefix, ownership::binding_digest(&container.reference()));
        let of_network = ownership::network_netns(&self.paths.prefix, network.id);
        let label = format!("{}-{}", container.kind, container.number);
        let network = Space::of_pin(&format!("{} {}", self.name, network.name), &of_network);
        // Whatever it is called: its MAC holds the member's address.
        let address = attached.member.address.octets().map(|octet| format!("{octet:02x}")).join(":");
        let port_veth = network.link_with_mac(|mac| mac.starts_with("0a:") && mac.ends_with(&address));
        Joined {
            container: container.clone(),
            attached,
            app: container.space.clone(),
            binding: Space::of_pin(&format!("{label} binding"), &binding),
            network,
            port_veth: port_veth.unwrap_or_default(),
        }
    }

    /// `privnet detach`.
    ///
    /// # Errors
    /// The agent's.
    pub fn detach(&self, network: &NetworkView, container: &Container) -> Result<Detached, ControlError> {
        let request = Detach {
            network: network.id.to_string(),
            app: container.app.clone(),
            kind: Some(container.kind.clone()),
            number: Some(container.number),
            drain: false,
            force: false,
        };
        self.driver.borrow().detach(self, request)
    }

    /// `privnet members`.
    ///
    /// # Errors
    /// The agent's.
    pub fn members(&self) -> Result<Vec<MemberView>, ControlError> {
        self.driver.borrow().members(self)
    }

    /// `privnet status`.
    ///
    /// # Errors
    /// The agent's.
    pub fn status(&self) -> Result<StatusView, ControlError> {
        self.driver.borrow().status(self)
    }

    /// `privnet metrics`, the packet counters of it.
    ///
    /// # Panics
    /// When they cannot be read.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.driver.borrow().counters(self)
    }

    /// Waits until the agent has no problem and every member of this host is ready.
    #[track_caller]
    pub fn wait_until_settled(&self) {
        wait_until(format!("{} has settled:\n{:?}", self.name, self.status()), || {
            self.status().is_ok_and(|status| status.problems.is_empty() && status.members == status.members_ready)
        });
    }

    /// The process that does the WireGuard of a member of this host, while there is one.
    #[must_use]
    pub fn wireguard_of(&self, member: &Joined) -> Option<Process> {
        let run_dir = wireguard_dir(&self.paths.state, member.attached.network, member.address());
        companions_below(&run_dir).pop_first()
    }

    /// The programs and maps that the agent has pinned.
    #[must_use]
    pub fn programs(&self) -> BTreeSet<BpfObject> {
        let programs = pinned(&self.paths.bpffs);
        self.loaded.borrow_mut().extend(&programs);
        programs
    }

    /// The programs and maps that the agent was ever seen to have pinned.
    pub(crate) fn loaded(&self) -> BTreeSet<BpfObject> {
        self.loaded.borrow().clone()
    }

    /// What the agent has in the kernel: namespaces, pins and processes of its own.
    #[must_use]
    pub fn leftovers(&self) -> Vec<String> {
        let pins = Netns::list(Path::new(DEFAULT_DIR)).expect("the pinned namespaces");
        let ours = pins.into_iter().filter(|pin| pin.name.starts_with(&self.paths.prefix));
        let mut left: Vec<String> = ours.map(|pin| format!("namespace {}", pin.name)).collect();
        left.extend(pins_below(&self.paths.bpffs).into_iter().map(|pin| format!("pin {}", pin.display())));
        let companions = companions_below(&self.paths.state).into_iter();
        left.extend(companions.map(|process| format!("process {}", process.command)));
        left
    }

    /// Ends every membership and deletes every network, and says what remains of them.
    pub(crate) fn clear(&self) -> Vec<String> {
        if self.has_ended() {
            self.start();
        }
        let mut left = Vec::new();
        let members = self.members().expect("the members");
        for member in members.iter().filter(|member| *member.host.as_str() == *self.name) {
            if let Err(error) = self.driver.borrow().detach(self, detach_request(member)) {
                left.push(format!("cannot detach: {error:?}"));
            }
        }
        holds_within(SOON, || self.leftovers().is_empty());
        left.extend(self.leftovers());
        left
    }

    /// The end of the agent's log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(&self.paths.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let start = lines.len().saturating_sub(40);
        lines[start..].iter().fold(String::new(), |mut text, line| {
            let _ = writeln!(text, "    | {line}");
            text
        })
    }
}

impl Lab {
    /// A container that is a member of a network of a host.
    #[must_use]
    #[track_caller]
    pub fn member(&self, host: &Host, network: &NetworkView, name: &str) -> Joined {
        host.join(network, &self.container(name))
    }
}
