//! One network as it is on this host: its records, and the namespaces, sockets and programs that a pass opens.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;

use super::handle::WorkerHandle;
use super::orphans::OrphanVeths;
use crate::agent::host::facts::Host;
use crate::agent::host::journal::{Record, SharedJournal};
use crate::agent::netns_links::NetnsLinks;
use crate::agent::shared::Shared;
use crate::agent::world::SharedWorld;
use crate::datapath;
use crate::link::{LinkEvent, LinkWatch, Links};
use crate::model::{ContainerRef, HostName, NetworkId, PublicKey};
use crate::netns::{self, Netns, NetnsId};
use crate::topology::{Intent, Key, State, ownership};
use crate::wireguard::{Backend, Device};

/// The loaded programs and maps of a network; writing to a map needs them alone.
pub type Programs = Arc<tokio::sync::Mutex<datapath::Network>>;

/// A member's two namespaces.
pub struct MemberNamespaces {
    /// The app netns; absent when the container is gone.
    pub app: Option<NetnsLinks>,
    /// The binding netns; absent until it is made.
    pub binding: OnceCell<NetnsLinks>,
}

/// One network on this host: records and open handles.
pub struct LocalNetwork {
    pub network: NetworkId,
    pub host: Arc<Host>,
    pub world: Arc<SharedWorld>,
    pub journal: Arc<SharedJournal>,
    handle: Arc<WorkerHandle>,
    /// All records of this host in this network, those that are leaving included.
    pub records: BTreeMap<Ipv4Addr, Record>,
    /// The hosts of those members of the network that were made anew as peers here because of a clock.
    pub stepped: BTreeMap<PublicKey, HostName>,
    room: Mutex<Option<Arc<NetnsLinks>>>,
    programs: Mutex<Option<Programs>>,
    namespaces: tokio::sync::Mutex<BTreeMap<Ipv4Addr, Arc<MemberNamespaces>>>,
    watchers: BTreeMap<Ipv4Addr, JoinHandle<()>>,
    netns_watcher: Option<(NetnsId, JoinHandle<()>)>,
    /// A network netns of ours whose name a stranger took away; its VTEP has the VNI still.
    unpinned: Mutex<Option<Arc<NetnsLinks>>>,
    /// The veth pairs without a record.
    orphans: Mutex<OrphanVeths>,
}

impl LocalNetwork {
    pub fn new(network: NetworkId, shared: &Shared, handle: Arc<WorkerHandle>) -> Self {
        Self {
            network,
            host: Arc::clone(&shared.host),
            world: Arc::clone(&shared.world),
            journal: Arc::clone(&shared.journal),
            handle,
            records: BTreeMap::new(),
            stepped: BTreeMap::new(),
            room: Mutex::default(),
            programs: Mutex::default(),
            namespaces: tokio::sync::Mutex::default(),
            watchers: BTreeMap::new(),
            netns_watcher: None,
            unpinned: Mutex::default(),
            orphans: Mutex::default(),
        }
    }

    /// Takes note of the records before a pass, and of what is wanted.
    pub fn begin_pass(&mut self, records: &[Record], intent: Option<&Intent>) {
        self.records = records.iter().map(|record| (record.address, record.clone())).collect();
        let stepped: BTreeSet<&HostName> = records.iter().flat_map(|record| record.clock_steps.keys()).collect();
        let members = intent.into_iter().flat_map(|intent| intent.members.values());
        self.stepped = members
            .filter(|member| stepped.contains(&member.host))
            .map(|member| (member.public_key, member.host.clone()))
            .collect();
    }

    /// Lets go of what only the pass needed, and watches the namespaces of those who are here to stay.
    pub async fn end_pass(&mut self, desired: &State) {
        self.namespaces.lock().await.clear();
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
                let watcher = tokio::spawn(watch_app_netns(netns, record.clone(), Arc::clone(&self.handle)));
                self.watchers.insert(record.address, watcher);
            }
        }
        self.watch_netns(desired).await;
    }

    async fn watch_netns(&mut self, desired: &State) {
        let room = if desired.is_empty() { None } else { self.netns().await.ok().flatten() };
        let id = room.as_ref().map(|room| room.netns.id());
        if let Some((watched, watcher)) = self.netns_watcher.take() {
            if Some(watched) == id && !watcher.is_finished() {
                self.netns_watcher = Some((watched, watcher));
                return;
            }
            watcher.abort();
        }
        match room {
            Some(room) => {
                let (network, journal, handle) = (self.network, Arc::clone(&self.journal), Arc::clone(&self.handle));
                let watcher = tokio::spawn(watch_network_netns(room.netns.clone(), network, journal, handle));
                self.netns_watcher = Some((room.netns.id(), watcher));
            }
            None => *lock(&self.room) = None,
        }
    }

    /// The network netns, when it is there.
    pub async fn netns(&self) -> Result<Option<Arc<NetnsLinks>>> {
        if let Some(room) = &*lock(&self.room) {
            return Ok(Some(Arc::clone(room)));
        }
        let name = ownership::network_netns(&self.host.config.netns_prefix, self.network);
        let Some(netns) = self.open_pinned(&name)? else { return Ok(None) };
        let room = Arc::new(NetnsLinks::enter(netns).await?);
        *lock(&self.room) = Some(Arc::clone(&room));
        Ok(Some(room))
    }

    /// The network netns as its name says now, not as it was known.
    pub async fn reopen_netns(&self) -> Result<Option<Arc<NetnsLinks>>> {
        let known = lock(&self.room).take();
        let room = self.netns().await?;
        if let Some(known) = known
            && room.as_ref().is_none_or(|room| room.netns.id() != known.netns.id())
        {
            *lock(&self.unpinned) = Some(known);
        }
        Ok(room)
    }

    /// Of the veth pairs that have no record now, those that should have gone.
    pub fn overdue(&self, there: BTreeSet<Ipv4Addr>) -> Vec<Ipv4Addr> {
        lock(&self.orphans).overdue(there, Instant::now())
    }

    /// Takes what must make room for a new VTEP.
    pub fn take_unpinned(&self) -> Option<Arc<NetnsLinks>> {
        lock(&self.unpinned).take()
    }

    /// The network netns, which must be there.
    pub async fn existing_netns(&self) -> Result<Arc<NetnsLinks>> {
        self.netns().await?.with_context(|| format!("the network netns of {} is not there", self.network))
    }

    /// Forgets the network netns, which has gone.
    pub fn forget_netns(&self) {
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
    pub async fn namespaces_of(&self, member: Ipv4Addr) -> Result<Arc<MemberNamespaces>> {
        let record = self.record(member)?;
        if let Some(namespaces) = self.namespaces.lock().await.get(&member) {
            return Ok(Arc::clone(namespaces));
        }
        let app = if record.is_alive(&self.host.facts.boot_id) {
            let netns = Netns::open(&record.netns_path)?;
            // Between the check and the opening the path may have become another's.
            if netns.id() == record.netns { Some(NetnsLinks::enter(netns).await?) } else { None }
        } else {
            None
        };
        let binding = match self.open_pinned(&self.binding_name(&record.container))? {
            Some(netns) => OnceCell::new_with(Some(NetnsLinks::enter(netns).await?)),
            None => OnceCell::new(),
        };
        let namespaces = Arc::new(MemberNamespaces { app, binding });
        self.namespaces.lock().await.insert(member, Arc::clone(&namespaces));
        Ok(namespaces)
    }

    /// A member's WireGuard device, whether or not it exists; nothing when its container is gone and so is a kernel device.
    pub async fn device(&self, member: Ipv4Addr) -> Result<Option<Device>> {
        let record = self.record(member)?;
        match self.host.facts.wireguard {
            Backend::Kernel => {
                let namespaces = self.namespaces_of(member).await?;
                let interface = ownership::wireguard_interface(record.index);
                Ok(namespaces.app.as_ref().map(|app| Device::kernel(app.netns.clone(), interface)))
            }
            Backend::Userspace => Ok(Some(Device::userspace(&self.host.config.wireguard_dir(self.network, member)))),
        }
    }

    /// The name under which a container's binding netns is pinned.
    pub fn binding_name(&self, container: &ContainerRef) -> String {
        ownership::binding_netns(&self.host.config.netns_prefix, container)
    }

    fn open_pinned(&self, name: &str) -> Result<Option<Netns>> {
        let path = self.host.config.netns_path(name);
        match Netns::open(&path) {
            Ok(netns) => Ok(Some(netns)),
            // A name without a namespace is what a crash between making the one and the other leaves.
            Err(netns::Error::NotFound { .. } | netns::Error::NotANamespace { .. }) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("opening {}", path.display())),
        }
    }
}

impl MemberNamespaces {
    /// The app netns, which must be there.
    pub fn existing_app(&self) -> Result<&NetnsLinks> {
        self.app.as_ref().context("the container's namespace is gone")
    }

    /// The binding netns, which must be there.
    pub fn existing_binding(&self) -> Result<&NetnsLinks> {
        self.binding.get().context("the container's binding netns is not there")
    }
}

impl Drop for LocalNetwork {
    fn drop(&mut self) {
        for watcher in self.watchers.values().chain(self.netns_watcher.iter().map(|(_, watcher)| watcher)) {
            watcher.abort();
        }
    }
}

/// Calls the worker when an interface appears in a member's app netns, or its WireGuard interface goes.
async fn watch_app_netns(netns: Netns, record: Record, handle: Arc<WorkerHandle>) {
    let Ok(mut watch) = LinkWatch::open(&netns).await else { return };
    let Ok(links) = Links::open(&netns).await else { return };
    // What came before the watch was opened was seen by the pass, or is seen here.
    let Ok(known) = links.links().await else { return };
    let mut known: BTreeSet<u32> = known.into_iter().map(|link| link.index).collect();
    drop((netns, links));
    let own = ownership::wireguard_interface(record.index);
    handle.interface_appeared(record.address);
    while let Some(event) = watch.next().await {
        match event {
            LinkEvent::Changed(link) if known.insert(link.index) => handle.interface_appeared(record.address),
            LinkEvent::Changed(_) => {}
            LinkEvent::Gone { index, name } => {
                known.remove(&index);
                if name == own.as_str() {
                    handle.wake_and_observe();
                }
            }
            LinkEvent::Lost => handle.wake_and_observe(),
        }
    }
}

/// Calls the worker when a link goes from a network netns that should be there.
async fn watch_network_netns(netns: Netns, network: NetworkId, journal: Arc<SharedJournal>, handle: Arc<WorkerHandle>) {
    let Ok(mut watch) = LinkWatch::open(&netns).await else { return };
    drop(netns);
    while let Some(event) = watch.next().await {
        let missed = match event {
            LinkEvent::Changed(_) => false,
            LinkEvent::Gone { name, .. } => {
                // The veth of a member that left goes by our own hand.
                let member = ownership::parse_member_veth(&name);
                let stays = |member| journal.lock().at(network, member).is_some_and(|record| !record.leaving);
                member.is_none_or(stays)
            }
            LinkEvent::Lost => true,
        };
        if missed {
            handle.wake_and_observe();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
