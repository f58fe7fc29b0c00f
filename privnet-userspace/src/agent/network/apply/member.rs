//! The objects of one member: binding netns, guard, veth pair, WireGuard device.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail};
use ipnet::Ipv4Net;
use privnet_ebpf::net::MacAddr;

use super::{departed, harden, index_of, set_address};
use crate::agent::host::journal::Record;
use crate::agent::netns_links::NetnsLinks;
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::observe::is_guarded;
use crate::datapath::{self, Hook};
use crate::link::{self, AbsentIsDone, Link, VethEnd, VethSpec};
use crate::model::{IfName, PrivateKey, PublicKey};
use crate::netns::{self, Netns};
use crate::topology::object::PeerTable;
use crate::topology::{Datapath, Spec, ownership};
use crate::wireguard::{self, Backend, PeerChange};

impl LocalNetwork {
    pub(super) async fn make_binding_netns(&self, member: Ipv4Addr) -> Result<()> {
        let name = self.binding_name(&self.record(member)?.container);
        let netns = {
            let _journal = self.journal.lock();
            self.create_or_open(&name)?
        };
        harden(&netns).await?;
        let room = NetnsLinks::enter(netns).await?;
        // Whoever was here first entered the same namespace.
        let _ = self.namespaces_of(member).await?.binding.set(room);
        Ok(())
    }

    pub(super) async fn remove_binding_netns(&self, record: &Record) -> Result<()> {
        // With a container that is gone went its guards, but not the pins of those that had to go before strangers.
        if let (None, Some(programs)) = (&self.namespaces_of(record.address).await?.app, self.programs()) {
            programs.lock().await.forget_links(record.netns)?;
        }
        let name = self.binding_name(&record.container);
        // Another network of the container writes its record before it looks for this namespace.
        let journal = self.journal.lock();
        let needed = |other: &Record| other.container == record.container && other.network != record.network;
        if journal.records().values().any(needed) {
            return Ok(());
        }
        Ok(Netns::remove(&self.host.config.netns_dir, &name)?)
    }

    pub(super) async fn change_departed(
        &self,
        member: Ipv4Addr,
        from: Option<&Spec>,
        to: &BTreeSet<Ipv4Addr>,
    ) -> Result<()> {
        let namespaces = self.namespaces_of(member).await?;
        let nobody = BTreeSet::new();
        let from = if let Some(Spec::Departed(from)) = from { from.as_ref() } else { &nobody };
        // With the namespace its routes are gone.
        let Some(app) = &namespaces.app else { return Ok(()) };
        for address in from.difference(to) {
            app.links.del_route(&departed(*address)).await.absent_is_done()?;
        }
        for address in to.difference(from) {
            match app.links.add_route(&departed(*address)).await {
                Ok(()) | Err(link::Error::AlreadyExists(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    pub(super) async fn make_guard(&self, member: Ipv4Addr) -> Result<()> {
        let record = self.record(member)?;
        let namespaces = self.namespaces_of(member).await?;
        let app = namespaces.existing_app()?;
        let programs = self.existing_programs()?;
        let programs = programs.lock().await;
        // One interface that cannot be guarded leaves no other one bare.
        let mut result = Ok(());
        for link in self.foreign(record, &app.links.links().await?) {
            result = result.and(guard(app, link, &programs).await);
        }
        result
    }

    pub(super) async fn remove_guard(&self, member: Ipv4Addr) -> Result<()> {
        let record = self.record(member)?;
        let namespaces = self.namespaces_of(member).await?;
        let (Some(app), Some(programs)) = (&namespaces.app, self.programs()) else { return Ok(()) };
        let programs = programs.lock().await;
        for link in self.foreign(record, &app.links.links().await?) {
            let Ok(name) = link.name.parse::<IfName>() else { continue };
            for hook in [Hook::GuardIngress, Hook::GuardEgress] {
                programs.detach(&app.netns, &name, hook).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn make_veth(
        &self,
        member: Ipv4Addr,
        binding_name: &IfName,
        mac: MacAddr,
        mtu: u32,
        bridged: bool,
    ) -> Result<()> {
        let room = self.existing_netns().await?;
        let namespaces = self.namespaces_of(member).await?;
        let binding = namespaces.existing_binding()?;
        let name = ownership::member_veth(member);
        let spec = VethSpec {
            a: VethEnd { name: &name, netns: &room.netns, mac: mac.near_end(), mtu },
            b: VethEnd { name: binding_name, netns: &binding.netns, mac, mtu },
        };
        // What has our name here is an earlier pair of ours that is still going, or that does not fit.
        self.delete_link(name.as_str()).await?;
        if let Err(error) = room.links.create_veth(&spec).await {
            let link::Error::AlreadyExists(_) = error else { return Err(error.into()) };
            if let Some(stale) = binding.find(binding_name.as_str()).await? {
                binding.links.delete(stale.index).await.absent_is_done()?;
            }
            room.links.create_veth(&spec).await?;
        }
        if bridged {
            let bridge = index_of(&room, ownership::BRIDGE).await?;
            room.links.set_controller(self.veth_index(member).await?, Some(bridge)).await?;
        }
        Ok(())
    }

    pub(super) async fn make_carrier(&self, member: Ipv4Addr, address: Ipv4Net) -> Result<()> {
        let room = self.existing_netns().await?;
        let namespaces = self.namespaces_of(member).await?;
        let binding = namespaces.existing_binding()?;
        let far = index_of(binding, ownership::binding_veth(self.record(member)?.index).as_str()).await?;
        room.links.set_up(self.veth_index(member).await?).await?;
        set_address(binding, far, address).await?;
        Ok(binding.links.set_up(far).await?)
    }

    pub(super) async fn change_neighbours(
        &self,
        member: Ipv4Addr,
        from: Option<&Spec>,
        to: &BTreeMap<Ipv4Addr, MacAddr>,
    ) -> Result<()> {
        let namespaces = self.namespaces_of(member).await?;
        let binding = namespaces.existing_binding()?;
        let far = index_of(binding, ownership::binding_veth(self.record(member)?.index).as_str()).await?;
        let nobody = BTreeMap::new();
        let from = if let Some(Spec::Neighbours(from)) = from { from.as_ref() } else { &nobody };
        for address in from.keys().filter(|address| !to.contains_key(address)) {
            binding.links.neighbour_delete(far, *address).await.absent_is_done()?;
        }
        for (address, mac) in to.iter().filter(|(address, mac)| from.get(address) != Some(mac)) {
            binding.links.neighbour_replace(far, *address, *mac).await?;
        }
        Ok(())
    }

    pub(super) async fn make_device(
        &self,
        member: Ipv4Addr,
        interface: &IfName,
        listen_port: u16,
        mtu: u32,
    ) -> Result<()> {
        let record = self.record(member)?;
        let key = self.private_key(record)?;
        let namespaces = self.namespaces_of(member).await?;
        let (app, binding) = (namespaces.existing_app()?, namespaces.existing_binding()?);
        match self.host.facts.wireguard {
            Backend::Kernel => {
                binding.links.create_wireguard(interface, mtu, &app.netns).await?;
                let device = wireguard::Device::kernel(app.netns.clone(), interface.clone());
                Ok(device.configure(&key, listen_port).await?)
            }
            Backend::Userspace => {
                let spec = wireguard::UserspaceSpec {
                    binary: self.host.config.wireguard_binary.clone(),
                    run_dir: self.host.config.wireguard_dir(self.network, member),
                    app: app.netns.clone(),
                    app_path: record.netns_path.clone(),
                    binding: binding.netns.clone(),
                    interface: interface.clone(),
                    mtu,
                    listen_port,
                };
                wireguard::start_userspace(&spec, &key).await?;
                Ok(app.links.set_mtu(index_of(app, interface.as_str()).await?, mtu).await?)
            }
        }
    }

    pub(super) async fn remove_device(&self, member: Ipv4Addr) -> Result<()> {
        match self.host.facts.wireguard {
            Backend::Kernel => {
                let namespaces = self.namespaces_of(member).await?;
                let Some(app) = &namespaces.app else { return Ok(()) };
                let interface = ownership::wireguard_interface(self.record(member)?.index);
                if let Some(link) = app.find(interface.as_str()).await? {
                    app.links.delete(link.index).await.absent_is_done()?;
                }
                Ok(())
            }
            Backend::Userspace => {
                Ok(wireguard::stop_userspace(&self.host.config.wireguard_dir(self.network, member)).await?)
            }
        }
    }

    pub(super) async fn change_peers(&self, member: Ipv4Addr, from: Option<&Spec>, to: &PeerTable) -> Result<()> {
        let nobody = PeerTable::of(BTreeMap::new());
        let from = if let Some(Spec::Peers(from)) = from { from } else { &nobody };
        let (remove, set) = from.change_to(to);
        let (anew, gone): (Vec<_>, Vec<_>) = remove.iter().copied().partition(|key| to.get(key).is_some());
        let gone: Vec<Ipv4Addr> = gone.iter().filter_map(|key| Some(from.get(key)?.allowed_ip)).collect();
        let peer = |(public_key, peer): (_, crate::topology::Peer)| wireguard::Peer {
            public_key,
            endpoint: peer.endpoint,
            allowed_ip: peer.allowed_ip,
        };
        let change = PeerChange { set: set.into_iter().map(peer).collect(), remove };
        let device = self.device(member).await?.context("the container's namespace is gone")?;
        device.change_peers(&change).await?;
        if !anew.is_empty() {
            tracing::info!(network = %self.network, peers = anew.len(), "the clock of a host stepped back: peers are created anew");
        }
        self.note_clock_steps(member, to)?;
        self.forget_neighbours(member, &gone).await
    }

    /// Notes under which clocks the peers were made, after they were: who dies in between makes them once more.
    fn note_clock_steps(&self, member: Ipv4Addr, peers: &PeerTable) -> Result<()> {
        let stepped: BTreeMap<PublicKey, u64> =
            peers.iter().filter(|(_, peer)| peer.clock_steps > 0).map(|(key, peer)| (*key, peer.clock_steps)).collect();
        if stepped.is_empty() && self.record(member)?.clock_steps.is_empty() {
            return Ok(());
        }
        let steps = self.world.read(|world| {
            let members = world.members(self.network).into_values();
            members.filter_map(|m| stepped.get(&m.public_key).map(|steps| (m.host, *steps))).collect()
        });
        let mut journal = self.journal.lock();
        let Some(id) = journal.at(self.network, member).map(|record| record.id) else { return Ok(()) };
        journal.note_clock_steps(id, steps)
    }

    /// Forgets the MACs of peers that have gone: over a bridge, whoever gets an address next is not reached by the last one's.
    /// The eBPF programs know the generations of an address, and need no help.
    async fn forget_neighbours(&self, member: Ipv4Addr, gone: &[Ipv4Addr]) -> Result<()> {
        if self.host.facts.datapath == Datapath::Ebpf || gone.is_empty() {
            return Ok(());
        }
        let namespaces = self.namespaces_of(member).await?;
        let Some(binding) = namespaces.binding.get() else { return Ok(()) };
        let Some(veth) = binding.find(ownership::binding_veth(self.record(member)?.index).as_str()).await? else {
            return Ok(());
        };
        for address in gone {
            binding.links.neighbour_delete(veth.index, *address).await.absent_is_done()?;
        }
        Ok(())
    }

    pub(super) async fn make_tunnel(&self, member: Ipv4Addr, address: Ipv4Net) -> Result<()> {
        let namespaces = self.namespaces_of(member).await?;
        let app = namespaces.existing_app()?;
        let interface = ownership::wireguard_interface(self.record(member)?.index);
        let index = index_of(app, interface.as_str()).await?;
        // Before it is up, so that it never has a link-local address.
        match app.netns.set_sysctl(&format!("net/ipv6/conf/{interface}/disable_ipv6"), "1").await {
            // A kernel without IPv6 has no such setting.
            Ok(_) | Err(netns::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        set_address(app, index, address).await?;
        Ok(app.links.set_up(index).await?)
    }

    pub(super) fn private_key(&self, record: &Record) -> Result<PrivateKey> {
        self.journal.lock().private_key(record.id)
    }

    pub(super) async fn veth_index(&self, member: Ipv4Addr) -> Result<u32> {
        let room = self.existing_netns().await?;
        index_of(&room, ownership::member_veth(member).as_str()).await
    }
}

async fn guard(app: &NetnsLinks, link: &Link, programs: &datapath::Network) -> Result<()> {
    if is_guarded(app, link, programs).await? {
        return Ok(());
    }
    let Ok(name) = link.name.parse::<IfName>() else { bail!("interface {:?} cannot be guarded", link.name) };
    for hook in [Hook::GuardIngress, Hook::GuardEgress] {
        match programs.attach(&app.netns, &name, hook).await {
            Ok(()) => {}
            Err(datapath::Error::NoInterface { .. }) => {
                // It went meanwhile, as one of another network does when the container leaves that. Or it is there under
                // another name than we can read, and stays bare.
                if app.links.links().await?.iter().any(|there| there.index == link.index && there.name == link.name) {
                    bail!("interface {:?} cannot be guarded: its name is no text", link.name);
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
