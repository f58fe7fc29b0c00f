//! The hosts of a fleet, their members, and one that comes and goes while others look.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use privnet::agent::ControlError;
use privnet::agent::views::{Attach, CreateNetwork, Detach, NetworkView, RebuildState, Target};
use privnet::cli::client::Client;
use privnet::dns::{DEFAULT_ADDRESS, PORT as DNS, stub};
use privnet::names::of_member;
use tokio::runtime::Runtime;

use super::super::tunnel;
use super::PATIENCE;
use super::requests::{Counted, Requests};
use crate::lab::{Container, Etcd, Host, Lab, Options, Space};

/// The number of the host that has etcd.
pub const ETCD: u8 = 4;
const SUBNET: &str = "10.92.0.0/16";
/// Where newcomers are, whose address the others know before.
const NEWCOMERS: [u8; 3] = [10, 92, 200];
const PORT: u16 = 7000;
const OF_A_SMALL_NETWORK: usize = 10;
/// How often the other host's member sends to the newcomer.
const PACE: Duration = Duration::from_millis(1);
/// How often it is looked whether an address is closed.
const LOOK: Duration = Duration::from_micros(200);
/// Until the kernel has taken down what went, and the last host has told what it did.
const REST: Duration = Duration::from_millis(300);

/// Three hosts, and the etcd that they share.
pub struct Fleet {
    /// The hosts.
    pub hosts: Vec<Host>,
    /// The store.
    pub etcd: Etcd,
    /// Where it is.
    pub of_etcd: Space,
    clients: Vec<Client>,
    network: NetworkView,
    members: usize,
    /// The first member of each host.
    first: Vec<Space>,
    newcomer: Container,
    lab: Lab,
}

/// When another host's member sends to a newcomer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// Once its own host answers the newcomer's name, as a program does.
    Named,
    /// All the time, by an address that it was told before.
    Eager,
}

/// One that came and went.
pub struct Round {
    /// From the request to the answer.
    pub attach: Duration,
    /// From the request until it has a packet of another host's member.
    pub first_packet: Duration,
    /// From the request of the detach until the address is closed on each host.
    pub release: Duration,
    /// What etcd was asked for the attach and for the detach.
    pub asked: [Requests; 2],
}

impl Fleet {
    /// Starts etcd and the agents.
    pub fn start(runtime: &Runtime) -> Result<Self> {
        let lab = Lab::new("the bench of a fleet");
        let mut spaces = lab.underlay(ETCD, 1500);
        let of_etcd = spaces.pop().context("four were made")?;
        let mut etcd = Etcd::new(of_etcd.clone(), ETCD);
        etcd.start();
        let options = Options { log: "privnet=info", ..Options::ebpf().with_etcd(etcd.url()) };
        let hosts: Vec<Host> = (1..).zip(spaces).map(|(number, space)| lab.host_in(space, number, &options)).collect();
        let clients: Vec<Client> = hosts.iter().map(|host| Client::new(&host.paths().socket)).collect();
        let wanted =
            CreateNetwork { name: "bench".to_owned(), subnet: Some(SUBNET.to_owned()), mtu: None, names: None };
        let network = runtime.block_on(clients[0].create_network(&wanted)).map_err(told)?;
        let newcomer = lab.container("newcomer-1");
        Ok(Self { hosts, etcd, of_etcd, clients, network, members: 0, first: Vec::new(), newcomer, lab })
    }

    /// Attaches members, one on each host in turn, until there are so many.
    pub fn grow_to(&mut self, runtime: &Runtime, size: usize) -> Result<()> {
        while self.members < size {
            let (number, host) = (self.members, self.members % self.hosts.len());
            let container = self.lab.container(&format!("web-{}", number + 1));
            let request = self.request(&container, tunnel::app(number), None);
            runtime.block_on(self.until_attached(host, &request))?;
            if self.first.len() < self.hosts.len() {
                self.first.push(container.space);
            }
            self.members += 1;
        }
        Ok(())
    }

    /// Attaches further members, one on each host in turn, in networks of ten, until there are so many in all.
    pub fn grow_aside_to(&mut self, runtime: &Runtime, size: usize) -> Result<()> {
        let mut aside = None;
        while self.members < size {
            let network: &NetworkView = match &mut aside {
                Some((network, members)) if *members < OF_A_SMALL_NETWORK => {
                    *members += 1;
                    network
                }
                _ => {
                    let name = format!("aside-{}", self.members);
                    let wanted = CreateNetwork { name, subnet: None, mtu: None, names: None };
                    let network = runtime.block_on(self.clients[0].create_network(&wanted)).map_err(told)?;
                    &aside.insert((network, 1)).0
                }
            };
            let (number, host) = (self.members, self.members % self.hosts.len());
            let container = self.lab.container(&format!("web-{}", number + 1));
            let request =
                Attach { network: network.id.to_string(), ..self.request(&container, tunnel::app(number), None) };
            runtime.block_on(self.until_attached(host, &request))?;
            self.members += 1;
        }
        Ok(())
    }

    /// Says that the store is the fleet's, once its agents have seen that it is not; when that was said.
    pub fn rebuild(&self, runtime: &Runtime) -> Result<Instant> {
        let seen = Instant::now();
        loop {
            let said = Instant::now();
            match runtime.block_on(self.clients[0].rebuild_state(&RebuildState::default())) {
                Ok(_) => return Ok(said),
                Err(error) if seen.elapsed() > PATIENCE => return Err(told(error)),
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// How many members the store has.
    pub fn recorded_members(&self) -> usize {
        self.etcd.records(&[]).keys().filter(|key| key.starts_with("members/")).count()
    }

    /// Attaches; a host that has not heard of the network yet is asked again.
    async fn until_attached(&self, host: usize, request: &Attach) -> Result<()> {
        let begun = Instant::now();
        loop {
            match self.clients[host].attach(request).await {
                Ok(_) => return Ok(()),
                Err(error) if begun.elapsed() > PATIENCE => return Err(told(error)),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// A container comes to the first host, is sent to by a member of the second one, and goes.
    pub fn round(&self, runtime: &Runtime, number: usize, sender: Sender) -> Result<Round> {
        let last = u8::try_from(number % 250)? + 1;
        let address = Ipv4Addr::new(NEWCOMERS[0], NEWCOMERS[1], NEWCOMERS[2], last);
        let request = self.request(&self.newcomer, self.newcomer.app.clone(), Some(address));
        thread::sleep(REST);
        let before = self.requests()?;
        let (attach, first_packet) = self.attach(runtime, &request, address, sender)?;
        thread::sleep(REST);
        let between = self.requests()?;
        let release = self.detach(runtime, &request, address)?;
        thread::sleep(REST);
        let after = self.requests()?;
        Ok(Round { attach, first_packet, release, asked: [between.since(&before), after.since(&between)] })
    }

    fn attach(
        &self,
        runtime: &Runtime,
        request: &Attach,
        address: Ipv4Addr,
        sender: Sender,
    ) -> Result<(Duration, Duration)> {
        let to = SocketAddr::from((address, PORT));
        let name = of_member(self.network.id, &self.newcomer.reference()).to_string();
        let bound = self.newcomer.space.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)))?;
        bound.set_read_timeout(Some(PATIENCE))?;
        let has_arrived = Arc::new(AtomicBool::new(false));
        let (is_over, space) = (Arc::clone(&has_arrived), self.first[1].clone());
        let sending = thread::spawn(move || {
            space.inside(move || send(to, &name, sender, &is_over)).context("cannot send to the newcomer")
        });
        let begun = Instant::now();
        let receiving = thread::spawn(move || bound.recv(&mut [0]).map(|_| begun.elapsed()));
        let answer = runtime.block_on(self.clients[0].attach(request)).map(|_| begun.elapsed());
        let arrived = receiving.join().map_err(|_| anyhow!("the receiver panicked"));
        has_arrived.store(true, Ordering::Relaxed);
        sending.join().map_err(|_| anyhow!("the sender panicked"))??;
        Ok((answer.map_err(told)?, arrived?.context("no packet of the other host arrived")?))
    }

    fn detach(&self, runtime: &Runtime, request: &Attach, address: Ipv4Addr) -> Result<Duration> {
        let Attach { network, app, kind, number, .. } = request.clone();
        let wanted = Detach { network, app, kind, number, drain: false, force: false };
        let begun = Instant::now();
        let looking = self.first.iter().map(|member| {
            let member = member.clone();
            thread::spawn(move || member.inside(move || until_closed(address).map(|()| begun.elapsed())))
        });
        let looking: Vec<_> = looking.collect();
        let answer = runtime.block_on(self.clients[0].detach(&wanted));
        let mut last = Duration::ZERO;
        for host in looking {
            last = last.max(host.join().map_err(|_| anyhow!("a host's look panicked"))??);
        }
        answer.map_err(told)?;
        Ok(last)
    }

    /// What etcd has counted until now.
    pub fn requests(&self) -> Result<Counted> {
        let text = self.of_etcd.output(&format!("curl -sf {}/metrics", self.etcd.url()));
        Counted::read(&String::from_utf8_lossy(&text.stdout), Instant::now())
    }

    /// Whether every agent follows the store.
    pub async fn are_current(&self) -> Result<bool> {
        for client in &self.clients {
            let status = client.status().await.map_err(told)?;
            if status.store_age_seconds.is_some() || !status.problems.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Ends the agents and takes down what they made: detaching one after the other would take minutes.
    pub fn end(self) {
        for host in &self.hosts {
            host.stop();
        }
        self.lab.ground().take_down();
    }

    fn request(&self, container: &Container, app: String, address: Option<Ipv4Addr>) -> Attach {
        Attach {
            network: self.network.id.to_string(),
            app,
            kind: Some(container.kind.clone()),
            number: Some(1),
            address,
            target: Target::Netns(container.space.path()),
            ports: Vec::new(),
            resolv_conf: None,
            attachment: None,
        }
    }
}

/// Sends until something has arrived; on a thread in a member's namespace.
fn send(to: SocketAddr, name: &str, sender: Sender, is_over: &AtomicBool) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let server = SocketAddrV4::new(DEFAULT_ADDRESS, DNS);
    let mut is_known = sender == Sender::Eager;
    while !is_over.load(Ordering::Relaxed) {
        is_known = is_known || !stub::ask(server, name.trim_end_matches('.'), PATIENCE)?.addresses.is_empty();
        if is_known {
            // Until it is there, the kernel may refuse it.
            let _ = socket.send_to(&[1], to);
        }
        thread::sleep(PACE);
    }
    Ok(())
}

/// Waits until the kernel refuses an address; on a thread in a member's namespace.
fn until_closed(address: Ipv4Addr) -> Result<()> {
    let begun = Instant::now();
    loop {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        match socket.connect((address, PORT)) {
            Err(error) if error.kind() == ErrorKind::HostUnreachable => return Ok(()),
            Err(error) => return Err(error).context("a member has no route to its network"),
            Ok(()) => thread::sleep(LOOK),
        }
        ensure!(begun.elapsed() < PATIENCE, "{address} stays open");
    }
}

fn told(error: ControlError) -> anyhow::Error {
    anyhow!("{}", error.message)
}
