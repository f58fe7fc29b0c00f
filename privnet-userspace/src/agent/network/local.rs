//! One network as it is on this host: its records, and the namespaces, sockets and programs that a pass opens.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use ipnet::Ipv4Net;
use tokio::sync::OnceCell;

use super::orphans::OrphanVeths;
use super::resumption::Resumption;
use super::sessions::Sessions;
use crate::agent::host::facts::Host;
use crate::agent::host::journal::{Handover, Record, SharedJournal};
use crate::agent::netns_links::NetnsLinks;
use crate::agent::shared::Memberships;
use crate::agent::world::SharedWorld;
use crate::datapath;
use crate::link::{AbsentIsDone, Links};
use crate::model::{HostName, MemberId, NetworkId, PrivateKey, PublicKey};
use crate::netns::{Netns, NetnsId};
use crate::topology::{Intent, Key, ownership};
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
    /// All records of this host in this network, those that are leaving included.
    pub records: BTreeMap<MemberId, Record>,
    /// The hosts of those members of the network whose clocks stepped back, by the members' keys.
    pub stepped: BTreeMap<PublicKey, HostName>,
    netns: Mutex<Option<Arc<NetnsLinks>>>,
    programs: Mutex<Option<Programs>>,
    namespaces: tokio::sync::Mutex<BTreeMap<MemberId, Arc<MemberNamespaces>>>,
    /// A socket in the app netns of each member that stays, also between passes.
    app_links: Mutex<BTreeMap<MemberId, (NetnsId, Links)>>,
    /// A network netns of ours whose name a stranger took away; its VTEP has the VNI still.
    unpinned: Mutex<Option<Arc<NetnsLinks>>>,
    /// The veth pairs without a record.
    orphans: Mutex<OrphanVeths>,
    /// The sessions of the members' devices.
    sessions: Mutex<Sessions>,
    resumption: Arc<Resumption>,
}

impl LocalNetwork {
    pub fn new(network: NetworkId, memberships: &Memberships) -> Self {
        Self {
            network,
            host: Arc::clone(&memberships.host),
            world: Arc::clone(&memberships.world),
            journal: Arc::clone(&memberships.journal),
            records: BTreeMap::new(),
            stepped: BTreeMap::new(),
            netns: Mutex::default(),
            programs: Mutex::default(),
            namespaces: tokio::sync::Mutex::default(),
            app_links: Mutex::default(),
            unpinned: Mutex::default(),
            orphans: Mutex::default(),
            sessions: Mutex::default(),
            resumption: Arc::clone(&memberships.resumption),
        }
    }

    /// Takes note of the records before a pass, and of what is wanted.
    pub fn begin_pass(&mut self, records: &[Record], intent: Option<&Intent>) {
        self.records = records.iter().map(|record| (record.id, record.clone())).collect();
        lock(&self.sessions).retain(|member| self.records.contains_key(&member));
        let is_there = |member: &MemberId, netns: NetnsId| {
            self.records.get(member).is_some_and(|record| !record.leaving && record.netns == netns)
        };
        lock(&self.app_links).retain(|member, (netns, _)| is_there(member, *netns));
        let steps = intent.into_iter().flat_map(|intent| intent.clock_steps.keys());
        let stepped: BTreeSet<&HostName> = records.iter().flat_map(|r| r.clock_steps.keys()).chain(steps).collect();
        let members = intent.into_iter().flat_map(|intent| intent.members.values());
        self.stepped = members
            .filter(|member| stepped.contains(&member.host))
            .map(|member| (member.public_key, member.host.clone()))
            .collect();
    }

    /// Closes what only the pass needed.
    pub async fn end_pass(&self) {
        self.namespaces.lock().await.clear();
    }

    /// The network netns, when it is there.
    pub async fn netns(&self) -> Result<Option<Arc<NetnsLinks>>> {
        if let Some(netns) = &*lock(&self.netns) {
            return Ok(Some(Arc::clone(netns)));
        }
        let name = ownership::network_netns(&self.host.config.netns_prefix, self.network);
        let Some(netns) = self.open_pinned(&name)? else { return Ok(None) };
        let netns = Arc::new(NetnsLinks::enter(netns).await?);
        *lock(&self.netns) = Some(Arc::clone(&netns));
        Ok(Some(netns))
    }

    /// The network netns as its name says now, not as it was known.
    pub async fn reopen_netns(&self) -> Result<Option<Arc<NetnsLinks>>> {
        let known = lock(&self.netns).take();
        let netns = self.netns().await?;
        if let Some(known) = known
            && netns.as_ref().is_none_or(|netns| netns.netns.id() != known.netns.id())
        {
            *lock(&self.unpinned) = Some(known);
        }
        Ok(netns)
    }

    /// The veth pairs without a record.
    pub fn orphans(&self) -> MutexGuard<'_, OrphanVeths> {
        lock(&self.orphans)
    }

    /// The sessions of the members' devices as they were last seen.
    pub fn sessions(&self) -> MutexGuard<'_, Sessions> {
        lock(&self.sessions)
    }

    /// Has a member's device, which is up again, begin the sessions that were last seen, since the peers go on in them.
    ///
    /// # Errors
    /// When the container's namespace cannot be opened.
    pub async fn resume_sessions(&self, member: MemberId) -> Result<()> {
        let lost = self.sessions().take(member);
        if !lost.is_empty()
            && let Some(device) = self.device(member).await?
        {
            self.resumption.add(device, lost);
        }
        Ok(())
    }

    /// Takes what must make netns for a new VTEP.
    pub fn take_unpinned(&self) -> Option<Arc<NetnsLinks>> {
        lock(&self.unpinned).take()
    }

    /// The network netns, which must be there.
    pub async fn existing_netns(&self) -> Result<Arc<NetnsLinks>> {
        self.netns().await?.with_context(|| format!("the network netns of {} is not there", self.network))
    }

    /// Forgets the network netns, which has gone.
    pub fn forget_netns(&self) {
        *lock(&self.netns) = None;
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

    /// Has the loaded programs report one in so many drops; none for 0.
    pub async fn report_drops(&self, one_in: u32) {
        let Some(programs) = self.programs() else { return };
        if let Err(error) = programs.lock().await.set_event_sample(one_in) {
            tracing::debug!(network = %self.network, %error, "cannot say whether drops are reported");
        }
    }

    /// A member's record, which must be there.
    pub fn record(&self, member: MemberId) -> Result<&Record> {
        self.records
            .get(&member)
            .with_context(|| format!("this host has no record of member {member} of {}", self.network))
    }

    /// A member's namespaces.
    pub async fn namespaces_of(&self, member: MemberId) -> Result<Arc<MemberNamespaces>> {
        let record = self.record(member)?;
        if let Some(namespaces) = self.namespaces.lock().await.get(&member) {
            return Ok(Arc::clone(namespaces));
        }
        let app = if let Some(path) = record.living_path(&self.host.facts.boot_id) {
            let netns = Netns::open(path)?;
            // Between the check and the opening the path may have become another's.
            if netns.id() == record.netns { Some(NetnsLinks::enter(netns).await?) } else { None }
        } else {
            None
        };
        let binding = match self.open_pinned(&self.binding_name(record))? {
            Some(netns) => OnceCell::new_with(Some(NetnsLinks::enter(netns).await?)),
            None => OnceCell::new(),
        };
        if let Some(app) = app.as_ref().filter(|_| !record.leaving) {
            lock(&self.app_links).insert(member, (app.netns.id(), app.links.clone()));
        }
        let namespaces = Arc::new(MemberNamespaces { app, binding });
        self.namespaces.lock().await.insert(member, Arc::clone(&namespaces));
        Ok(namespaces)
    }

    /// A socket in a member's app netns; none when the container is gone. What all members are told does not enter a namespace
    /// for each.
    pub async fn app_links(&self, member: MemberId) -> Result<Option<Links>> {
        if let Some((_, links)) = lock(&self.app_links).get(&member) {
            return Ok(Some(links.clone()));
        }
        Ok(self.namespaces_of(member).await?.app.as_ref().map(|app| app.links.clone()))
    }

    /// A member's WireGuard device, whether or not it exists; nothing when its container is gone and so is a kernel device.
    pub async fn device(&self, member: MemberId) -> Result<Option<Device>> {
        let record = self.record(member)?;
        match self.host.facts.wireguard {
            Backend::Kernel => {
                let namespaces = self.namespaces_of(member).await?;
                let interface = record.interface();
                Ok(namespaces.app.as_ref().map(|app| Device::kernel(app.netns.clone(), interface)))
            }
            Backend::Userspace => Ok(Some(Device::userspace(&self.wireguard_dir(record)))),
        }
    }

    /// Whether this host has a record of a member with this address.
    pub fn has_record_of(&self, address: Ipv4Addr) -> bool {
        self.records.values().any(|record| record.address == address)
    }

    /// The network's subnet; nothing when the network does not exist any more.
    pub fn subnet(&self) -> Option<Ipv4Net> {
        self.world.read(|world| world.networks().get(&self.network).map(|network| network.subnet))
    }

    /// An object, for a person: with the name and address of the member that it belongs to.
    pub fn describe(&self, key: Key) -> String {
        let name = |id| self.records.get(&id).map(|record| format!("{} ({})", record.names_text(), record.address));
        key.describe(name)
    }

    /// A member's private key.
    pub fn private_key(&self, record: &Record) -> Result<PrivateKey> {
        self.journal.lock().private_key(record.id)
    }

    /// Where a member's userspace WireGuard process keeps its control socket.
    pub fn wireguard_dir(&self, record: &Record) -> PathBuf {
        self.host.config.wireguard_dir(self.network, record.address)
    }

    /// Whether there is anything of a member's userspace WireGuard process, be it only what is left of one.
    pub fn has_wireguard_dir(&self, record: &Record) -> bool {
        self.host.facts.wireguard == Backend::Userspace && self.wireguard_dir(record).exists()
    }

    /// The index of a member's link in the network netns, which must be there.
    pub async fn veth_index(&self, member: MemberId) -> Result<u32> {
        self.existing_netns().await?.index_of(self.record(member)?.link().name().as_str()).await
    }

    /// Deletes a link of the network netns, when both are there.
    pub async fn delete_link(&self, name: &str) -> Result<()> {
        let Some(netns) = self.netns().await? else { return Ok(()) };
        if let Some(link) = netns.find(name).await? {
            netns.links.delete(link.index).await.absent_is_done()?;
        }
        Ok(())
    }

    /// Whether the loaded programs are no longer those that are pinned: a stranger removed the pins, or mounted or unmounted
    /// a file system there.
    pub async fn programs_are_lost(&self) -> bool {
        match self.programs() {
            Some(programs) => !programs.lock().await.is_pinned(),
            None => false,
        }
    }

    /// Opens the programs that are pinned, and pins again what a stranger unpinned of them; forgets those of which nothing is
    /// pinned any more.
    pub async fn adopt_programs(&self) -> Result<()> {
        let pins = self.host.config.pins_of(self.network);
        if self.programs_are_lost().await || !pins.exists() {
            self.set_programs(None);
        }
        if !pins.exists() {
            return Ok(());
        }
        let is_whole = datapath::pin_again(&pins).with_context(|| format!("pinning again in {}", pins.display()))?;
        if self.programs().is_none() || !is_whole {
            let adopted = datapath::Network::adopt(&pins).with_context(|| format!("adopting {}", pins.display()))?;
            self.set_programs(adopted);
        }
        Ok(())
    }

    /// The name under which the binding netns of a member's container is pinned.
    pub fn binding_name(&self, record: &Record) -> String {
        ownership::binding_netns(&self.host.config.netns_prefix, record.binding())
    }

    /// Where the namespace is pinned in which a device was made that is handed over.
    pub fn handover_path(&self, handover: &Handover) -> PathBuf {
        let config = &self.host.config;
        config.netns_path(&ownership::handover_netns(&config.netns_prefix, handover.digits))
    }

    /// Removes the namespace in which a member's device was made, where it was handed over.
    pub fn remove_handover_netns(&self, record: &Record) -> Result<()> {
        let Some(handover) = &record.handover else { return Ok(()) };
        let config = &self.host.config;
        let name = ownership::handover_netns(&config.netns_prefix, handover.digits);
        Ok(Netns::remove(&config.netns_dir, &name)?)
    }

    fn open_pinned(&self, name: &str) -> Result<Option<Netns>> {
        let path = self.host.config.netns_path(name);
        // A name without a namespace is what a crash between making the one and the other leaves.
        Netns::find(&path).with_context(|| format!("opening {}", path.display()))
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
