//! The doors to one network on this host, opened when needed and kept for a pass.
//!
//! [`observe`](super::observe) and [`apply`](super::apply) are what goes on behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;

use super::housekeeping::is_alive;
use super::journal::Record;
use super::shared::{Bell, Shared};
use super::strays::Strays;
use crate::datapath;
use crate::link::{self, Link, LinkEvent, LinkWatch, Links};
use crate::model::{ContainerRef, HostName, NetworkId, PublicKey};
use crate::netns::{self, Netns, NetnsId};
use crate::topology::{Intent, Key, State, ownership};
use crate::wireguard::{Backend, Device};

/// The loaded programs and maps of a network; writing to a map needs them alone.
pub(super) type Programs = Arc<tokio::sync::Mutex<datapath::Network>>;

/// A namespace, and a netlink socket in it.
pub struct Room {
    pub netns: Netns,
    pub links: Links,
}

/// A member's two namespaces.
pub(super) struct Home {
    /// The app netns; absent when the container is gone.
    pub app: Option<Room>,
    /// The binding netns; absent until it is made.
    pub binding: OnceCell<Room>,
}

/// The doors to one network on this host.
pub(super) struct Site {
    pub network: NetworkId,
    pub shared: Arc<Shared>,
    bell: Arc<Bell>,
    /// All records of this host in this network, those that are leaving included.
    pub records: BTreeMap<Ipv4Addr, Record>,
    /// The hosts of those members of the network that were made anew as peers here because of a clock.
    pub stepped: BTreeMap<PublicKey, HostName>,
    room: Mutex<Option<Arc<Room>>>,
    programs: Mutex<Option<Programs>>,
    homes: tokio::sync::Mutex<BTreeMap<Ipv4Addr, Arc<Home>>>,
    watchers: BTreeMap<Ipv4Addr, JoinHandle<()>>,
    room_watcher: Option<(NetnsId, JoinHandle<()>)>,
    /// A network netns of ours whose name a stranger took away; its VTEP has the VNI still.
    nameless: Mutex<Option<Arc<Room>>>,
    /// The veth pairs without a record.
    strays: Mutex<Strays>,
}

impl Room {
    pub async fn enter(netns: Netns) -> Result<Self> {
        let links = Links::open(&netns).await?;
        Ok(Self { netns, links })
    }

    /// The link of that name, when it is there.
    pub async fn find(&self, name: &str) -> Result<Option<Link>> {
        match self.links.link(name).await {
            Ok(link) => Ok(Some(link)),
            Err(link::Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Site {
    pub fn new(network: NetworkId, shared: Arc<Shared>, bell: Arc<Bell>) -> Self {
        Self {
            network,
            shared,
            bell,
            records: BTreeMap::new(),
            stepped: BTreeMap::new(),
            room: Mutex::default(),
            programs: Mutex::default(),
            homes: tokio::sync::Mutex::default(),
            watchers: BTreeMap::new(),
            room_watcher: None,
            nameless: Mutex::default(),
            strays: Mutex::default(),
        }
    }

    /// Takes note of the records before a pass, and of what is wanted.
    pub fn know(&mut self, records: &[Record], intent: Option<&Intent>) {
        self.records = records.iter().map(|record| (record.address, record.clone())).collect();
        let stepped: BTreeSet<&HostName> = records.iter().flat_map(|record| record.clock_steps.keys()).collect();
        let members = intent.into_iter().flat_map(|intent| intent.members.values());
        self.stepped = members
            .filter(|member| stepped.contains(&member.host))
            .map(|member| (member.public_key, member.host.clone()))
            .collect();
    }

    /// Lets go of what only the pass needed, and watches the namespaces of those who are here to stay.
    pub async fn settle(&mut self, desired: &State) {
        self.homes.lock().await.clear();
        let here = |member: &Ipv4Addr| desired.contains_key(&Key::Guard(*member));
        self.watchers.retain(|member, watcher| {
            let stays = here(member) && !watcher.is_finished();
            if !stays {
                watcher.abort();
            }
            stays
        });
        let unwatched: Vec<Record> = self
            .records
            .values()
            .filter(|r| here(&r.address) && !self.watchers.contains_key(&r.address))
            .cloned()
            .collect();
        for record in unwatched {
            if let Ok(netns) = Netns::open(&record.netns_path) {
                let watcher = tokio::spawn(watch_app_netns(netns, record.clone(), Arc::clone(&self.bell)));
                self.watchers.insert(record.address, watcher);
            }
        }
        self.watch_room(desired).await;
    }

    async fn watch_room(&mut self, desired: &State) {
        let room = if desired.is_empty() { None } else { self.room().await.ok().flatten() };
        let id = room.as_ref().map(|room| room.netns.id());
        if let Some((watched, watcher)) = self.room_watcher.take() {
            if Some(watched) == id && !watcher.is_finished() {
                self.room_watcher = Some((watched, watcher));
                return;
            }
            watcher.abort();
        }
        match room {
            Some(room) => {
                let (network, shared, bell) = (self.network, Arc::clone(&self.shared), Arc::clone(&self.bell));
                let watcher = tokio::spawn(watch_network_netns(room.netns.clone(), network, shared, bell));
                self.room_watcher = Some((room.netns.id(), watcher));
            }
            None => *lock(&self.room) = None,
        }
    }

    /// The network netns, when it is there.
    pub async fn room(&self) -> Result<Option<Arc<Room>>> {
        if let Some(room) = &*lock(&self.room) {
            return Ok(Some(Arc::clone(room)));
        }
        let name = ownership::network_netns(&self.shared.config.netns_prefix, self.network);
        let Some(netns) = self.open_pinned(&name)? else { return Ok(None) };
        let room = Arc::new(Room::enter(netns).await?);
        *lock(&self.room) = Some(Arc::clone(&room));
        Ok(Some(room))
    }

    /// The network netns as its name says now, not as it was known.
    pub async fn reopened_room(&self) -> Result<Option<Arc<Room>>> {
        let known = lock(&self.room).take();
        let room = self.room().await?;
        if let Some(known) = known
            && room.as_ref().is_none_or(|room| room.netns.id() != known.netns.id())
        {
            *lock(&self.nameless) = Some(known);
        }
        Ok(room)
    }

    /// Of the veth pairs that have no record now, those that should have gone.
    pub fn overdue(&self, there: BTreeSet<Ipv4Addr>) -> Vec<Ipv4Addr> {
        lock(&self.strays).overdue(there, Instant::now())
    }

    /// Takes what must make room for a new VTEP.
    pub fn take_nameless_room(&self) -> Option<Arc<Room>> {
        lock(&self.nameless).take()
    }

    /// The network netns, which must be there.
    pub async fn existing_room(&self) -> Result<Arc<Room>> {
        self.room().await?.with_context(|| format!("the network netns of {} is not there", self.network))
    }

    /// Forgets the network netns, which has gone.
    pub fn forget_room(&self) {
        *lock(&self.room) = None;
    }

    /// The loaded programs, when they are.
    pub fn programs(&self) -> Option<Programs> {
        lock(&self.programs).clone()
    }

    /// The loaded programs, which must be there.
    pub fn existing_programs(&self) -> Result<Programs> {
        self.programs().with_context(|| format!("the programs of {} are not loaded", self.network))
    }

    /// Keeps, or forgets, the loaded programs.
    pub fn set_programs(&self, programs: Option<datapath::Network>) {
        *lock(&self.programs) = programs.map(|programs| Arc::new(tokio::sync::Mutex::new(programs)));
    }

    /// A member's record, which must be there.
    pub fn record(&self, member: Ipv4Addr) -> Result<&Record> {
        self.records
            .get(&member)
            .with_context(|| format!("this host has no record of member {member} of {}", self.network))
    }

    /// A member's namespaces.
    pub async fn home(&self, member: Ipv4Addr) -> Result<Arc<Home>> {
        let record = self.record(member)?;
        if let Some(home) = self.homes.lock().await.get(&member) {
            return Ok(Arc::clone(home));
        }
        let app = if is_alive(record, &self.shared.facts.boot_id) {
            let netns = Netns::open(&record.netns_path)?;
            // Between the check and the opening the path may have become another's.
            if netns.id() == record.netns { Some(Room::enter(netns).await?) } else { None }
        } else {
            None
        };
        let binding = match self.open_pinned(&self.binding_name(&record.container))? {
            Some(netns) => OnceCell::new_with(Some(Room::enter(netns).await?)),
            None => OnceCell::new(),
        };
        let home = Arc::new(Home { app, binding });
        self.homes.lock().await.insert(member, Arc::clone(&home));
        Ok(home)
    }

    /// A member's WireGuard device, whether or not it exists; nothing when its container is gone and so is a kernel device.
    pub async fn device(&self, member: Ipv4Addr) -> Result<Option<Device>> {
        let record = self.record(member)?;
        match self.shared.facts.wireguard {
            Backend::Kernel => {
                let home = self.home(member).await?;
                let interface = ownership::wireguard_interface(record.index);
                Ok(home.app.as_ref().map(|app| Device::kernel(app.netns.clone(), interface)))
            }
            Backend::Userspace => Ok(Some(Device::userspace(&self.shared.config.wireguard_dir(self.network, member)))),
        }
    }

    /// The name under which a container's binding netns is pinned.
    pub fn binding_name(&self, container: &ContainerRef) -> String {
        ownership::binding_netns(&self.shared.config.netns_prefix, container)
    }

    fn open_pinned(&self, name: &str) -> Result<Option<Netns>> {
        let path = self.shared.config.netns_path(name);
        match Netns::open(&path) {
            Ok(netns) => Ok(Some(netns)),
            // A name without a namespace is what a crash between making the one and the other leaves.
            Err(netns::Error::NotFound { .. } | netns::Error::NotANamespace { .. }) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("opening {}", path.display())),
        }
    }
}

impl Home {
    /// The app netns, which must be there.
    pub fn existing_app(&self) -> Result<&Room> {
        self.app.as_ref().context("the container's namespace is gone")
    }

    /// The binding netns, which must be there.
    pub fn existing_binding(&self) -> Result<&Room> {
        self.binding.get().context("the container's binding netns is not there")
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for watcher in self.watchers.values().chain(self.room_watcher.iter().map(|(_, watcher)| watcher)) {
            watcher.abort();
        }
    }
}

/// Calls the worker when an interface appears in a member's app netns, or its WireGuard interface goes.
async fn watch_app_netns(netns: Netns, record: Record, bell: Arc<Bell>) {
    let Ok(mut watch) = LinkWatch::open(&netns).await else { return };
    let Ok(links) = Links::open(&netns).await else { return };
    // What came before the watch was opened was seen by the pass, or is seen here.
    let Ok(known) = links.links().await else { return };
    let mut known: BTreeSet<u32> = known.into_iter().map(|link| link.index).collect();
    drop((netns, links));
    let own = ownership::wireguard_interface(record.index);
    bell.interface_appeared(record.address);
    while let Some(event) = watch.next().await {
        match event {
            LinkEvent::Changed(link) if known.insert(link.index) => bell.interface_appeared(record.address),
            LinkEvent::Changed(_) => {}
            LinkEvent::Gone { index, name } => {
                known.remove(&index);
                if name == own.as_str() {
                    bell.ring_and_look();
                }
            }
            LinkEvent::Lost => bell.ring_and_look(),
        }
    }
}

/// Calls the worker when a link goes from a network netns that should be there.
async fn watch_network_netns(netns: Netns, network: NetworkId, shared: Arc<Shared>, bell: Arc<Bell>) {
    let Ok(mut watch) = LinkWatch::open(&netns).await else { return };
    drop(netns);
    while let Some(event) = watch.next().await {
        let missed = match event {
            LinkEvent::Changed(_) => false,
            LinkEvent::Gone { name, .. } => {
                // The veth of a member that left goes by our own hand.
                let member = ownership::parse_member_veth(&name);
                let stays =
                    |member| shared.journal().records().get(&(network, member)).is_some_and(|record| !record.leaving);
                member.is_none_or(stays)
            }
            LinkEvent::Lost => true,
        };
        if missed {
            bell.ring_and_look();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
