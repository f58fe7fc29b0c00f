//! Operations to doors. Each can be done again after it failed half way; the next observation tells how far it came.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail};
use ipnet::Ipv4Net;
use privnet_ebpf::abi::{MemberRow, PortRow};
use privnet_ebpf::net::MacAddr;

use super::journal::Record;
use super::observe::is_guarded;
use super::site::{Room, Site};
use crate::datapath::{self, Hook, NetworkSpec};
use crate::link::{self, AbsentIsDone, BridgeSpec, Route, RouteTarget, VethEnd, VethSpec, VxlanSpec};
use crate::model::{IfName, PrivateKey};
use crate::netns::{self, Netns};
use crate::topology::object::PeerTable;
use crate::topology::{Key, Op, Spec, ownership};
use crate::wireguard::{self, Backend, PeerChange};

/// The VXLAN port that IANA gave (RFC 7348 section 5).
pub const VXLAN_PORT: u16 = 4789;
/// One dropped packet in this many leaves an event for those who watch.
const EVENT_SAMPLE: u32 = 16;

impl Site {
    /// Carries out one operation.
    ///
    /// # Errors
    /// The object may be half made; the next observation shows it as it is.
    pub async fn apply(&self, op: &Op) -> Result<()> {
        match op {
            Op::Create(key, spec) => self.make(*key, None, spec).await,
            Op::Replace(key, from, to) => self.make(*key, Some(from), to).await,
            Op::Remove(key, spec) => self.remove(*key, spec).await,
        }
        .with_context(|| format!("cannot {}", op.in_short()))
    }

    async fn make(&self, key: Key, from: Option<&Spec>, to: &Spec) -> Result<()> {
        match (key, to) {
            (Key::NetworkNetns, Spec::Present) => self.make_network_netns().await,
            (Key::Programs, Spec::Programs { vni, prefix }) => {
                self.make_programs(&NetworkSpec { event_sample: EVENT_SAMPLE, ..NetworkSpec::new(*vni, *prefix) })
            }
            (Key::Bridge, Spec::Bridge { mtu }) => self.make_bridge(*mtu, from.is_some()).await,
            (Key::Vtep, Spec::Vtep { vni, local, mac, mtu, bridged }) => {
                let room = self.existing_room().await?;
                let vtep = VxlanSpec {
                    name: &vtep_name(),
                    into: &room.netns,
                    vni: *vni,
                    local: *local,
                    port: VXLAN_PORT,
                    mac: *mac,
                    mtu: *mtu,
                    proxy: *bridged,
                    // WireGuard authenticates every byte that is carried.
                    udp_checksum: false,
                };
                self.make_vtep(&room, &vtep, from.is_some()).await
            }
            (Key::VtepProgram, Spec::Present) => self.attach_vtep().await,
            (Key::BindingNetns(member), Spec::BindingNetns { .. }) => self.make_binding_netns(member).await,
            (Key::Backstop(member), Spec::Backstop { prefix }) => {
                let home = self.home(member).await?;
                let app = home.existing_app()?;
                if let Some(Spec::Backstop { prefix: other }) = from {
                    app.links.del_route(&backstop(*other)).await.absent_is_done()?;
                }
                Ok(app.links.add_route(&backstop(*prefix)).await?)
            }
            (Key::Guard(member), Spec::Present) => self.make_guard(member).await,
            (Key::Veth(member), Spec::Veth { binding_name, mac, mtu, bridged }) => {
                self.make_veth(member, binding_name, *mac, *mtu, *bridged).await
            }
            (Key::Port(member), Spec::Port { mac, wireguard_port }) => {
                let veth = self.veth_index(member).await?;
                let row = PortRow::new(member.octets(), *mac, *wireguard_port);
                Ok(self.existing_programs()?.lock().await.set_port(veth, row)?)
            }
            (Key::MemberProgram(member), Spec::Present) => {
                let room = self.existing_room().await?;
                let veth = ownership::member_veth(member);
                Ok(self.existing_programs()?.lock().await.attach(&room.netns, &veth, Hook::FromMember).await?)
            }
            (Key::Carrier(member), Spec::Address { address }) => self.make_carrier(member, *address).await,
            (Key::Fdb(member), Spec::Fdb { mac, vtep }) => self.make_fdb(member, *mac, *vtep, from.is_some()).await,
            (Key::Neighbour(member), Spec::Neighbour { mac }) => {
                let room = self.existing_room().await?;
                Ok(room.links.neighbour_replace(self.vtep_index(&room).await?, member, *mac).await?)
            }
            (Key::MemberRow(member), Spec::MemberRow { mac, wireguard_port, local }) => {
                let ifindex = if *local { Some(self.veth_index(member).await?) } else { None };
                let row = match ifindex {
                    Some(ifindex) => MemberRow::local(*mac, *wireguard_port, ifindex),
                    None => MemberRow::remote(*mac, *wireguard_port),
                };
                Ok(self.existing_programs()?.lock().await.set_member(member, row)?)
            }
            (Key::Device(member), Spec::Device { interface, listen_port, mtu, .. }) => {
                if from.is_some() {
                    self.remove_device(member).await?;
                }
                self.make_device(member, interface, *listen_port, *mtu).await
            }
            (Key::Peers(member), Spec::Peers(to)) => self.change_peers(member, from, to).await,
            (Key::Tunnel(member), Spec::Address { address }) => self.make_tunnel(member, *address).await,
            (key, spec) => bail!("{key:?} cannot be {spec:?}"),
        }
    }

    async fn remove(&self, key: Key, spec: &Spec) -> Result<()> {
        match key {
            Key::NetworkNetns => {
                self.forget_room();
                let name = ownership::network_netns(&self.shared.config.netns_prefix, self.network);
                Ok(Netns::remove(&self.shared.config.netns_dir, &name)?)
            }
            Key::Programs => {
                self.set_programs(None);
                Ok(datapath::Network::remove_pins(&self.shared.config.pins_of(self.network))?)
            }
            Key::Bridge => self.delete_in_room(ownership::BRIDGE).await,
            Key::Vtep => self.delete_in_room(ownership::VTEP).await,
            Key::VtepProgram => {
                let room = self.existing_room().await?;
                Ok(self.existing_programs()?.lock().await.detach(&room.netns, &vtep_name(), Hook::FromVtep).await?)
            }
            Key::BindingNetns(member) => self.remove_binding_netns(self.record(member)?),
            Key::Backstop(member) => match (&self.home(member).await?.app, spec) {
                (Some(app), Spec::Backstop { prefix }) => {
                    app.links.del_route(&backstop(*prefix)).await.absent_is_done()?;
                    Ok(())
                }
                (_, _) => Ok(()),
            },
            Key::Guard(member) => self.remove_guard(member).await,
            Key::Veth(member) => self.delete_in_room(ownership::member_veth(member).as_str()).await,
            Key::Port(member) => {
                let programs = self.existing_programs()?;
                let mut programs = programs.lock().await;
                for (index, row) in programs.ports()? {
                    if row.address() == member.octets() {
                        programs.remove_port(index)?;
                    }
                }
                Ok(())
            }
            Key::MemberProgram(member) => {
                let room = self.existing_room().await?;
                let veth = ownership::member_veth(member);
                Ok(self.existing_programs()?.lock().await.detach(&room.netns, &veth, Hook::FromMember).await?)
            }
            // The veth pair goes, or is made anew, in the same pass.
            Key::Carrier(_) | Key::Tunnel(_) | Key::Peers(_) => Ok(()),
            Key::Fdb(member) => self.remove_fdb(member, None).await,
            Key::Neighbour(member) => {
                let room = self.existing_room().await?;
                room.links.neighbour_delete(self.vtep_index(&room).await?, member).await.absent_is_done()?;
                Ok(())
            }
            Key::MemberRow(member) => Ok(self.existing_programs()?.lock().await.remove_member(member)?),
            Key::Device(member) => self.remove_device(member).await,
        }
    }

    async fn make_network_netns(&self) -> Result<()> {
        let name = ownership::network_netns(&self.shared.config.netns_prefix, self.network);
        self.forget_room();
        let netns = self.create_or_open(&name)?;
        harden(&netns).await?;
        Ok(())
    }

    fn make_programs(&self, spec: &NetworkSpec) -> Result<()> {
        let pins = self.shared.config.pins_of(self.network);
        let programs = datapath::Network::open(&pins, spec).with_context(|| format!("loading {}", pins.display()))?;
        self.set_programs(Some(programs));
        Ok(())
    }

    async fn make_bridge(&self, mtu: u32, anew: bool) -> Result<()> {
        if anew {
            self.delete_in_room(ownership::BRIDGE).await?;
        }
        let room = self.existing_room().await?;
        let [_, _, a, b, c, d] = crate::topology::plan::vtep_mac(self.shared.facts.vtep).bytes();
        let bridge =
            BridgeSpec { name: &bridge_name(), into: &room.netns, mac: MacAddr::new([0x06, 1, a, b, c, d]), mtu };
        room.links.create_bridge(&bridge).await?;
        Ok(room.links.set_up(index_of(&room, ownership::BRIDGE).await?).await?)
    }

    async fn make_vtep(&self, room: &Room, vtep: &VxlanSpec<'_>, anew: bool) -> Result<()> {
        if anew {
            self.delete_in_room(ownership::VTEP).await?;
        }
        self.shared.host.links.create_vxlan(vtep).await?;
        let index = self.vtep_index(room).await?;
        // Only behind a bridge does it answer ARP.
        if vtep.proxy {
            room.links.set_controller(index, Some(index_of(room, ownership::BRIDGE).await?)).await?;
        }
        if let Err(error) = room.links.set_up(index).await {
            // Only now does the kernel ask for the UDP port; a device without it is no device.
            self.delete_in_room(ownership::VTEP).await?;
            return Err(self.name_port_holder(error).await);
        }
        Ok(())
    }

    /// Says who has the VXLAN port, where that is the trouble.
    async fn name_port_holder(&self, error: link::Error) -> anyhow::Error {
        let host = &self.shared.host;
        let link::Error::PortInUse(_) = &error else { return error.into() };
        match link::udp_port_holder(&host.netns, &host.links, VXLAN_PORT).await {
            Ok(Some(holder)) => {
                anyhow::Error::from(error).context(format!("UDP port {VXLAN_PORT} is taken by {holder}"))
            }
            Ok(None) | Err(_) => error.into(),
        }
    }

    async fn attach_vtep(&self) -> Result<()> {
        let room = self.existing_room().await?;
        let programs = self.existing_programs()?;
        let mut programs = programs.lock().await;
        programs.set_vtep(Some(self.vtep_index(&room).await?))?;
        Ok(programs.attach(&room.netns, &vtep_name(), Hook::FromVtep).await?)
    }

    async fn make_binding_netns(&self, member: Ipv4Addr) -> Result<()> {
        let name = self.binding_name(&self.record(member)?.container);
        let netns = {
            let _journal = self.shared.journal();
            self.create_or_open(&name)?
        };
        harden(&netns).await?;
        let room = Room::enter(netns).await?;
        // Whoever was here first entered the same namespace.
        let _ = self.home(member).await?.binding.set(room);
        Ok(())
    }

    fn remove_binding_netns(&self, record: &Record) -> Result<()> {
        let name = self.binding_name(&record.container);
        // Another network of the container writes its record before it looks for this namespace.
        let journal = self.shared.journal();
        let needed = |other: &Record| other.container == record.container && other.network != record.network;
        if journal.records().values().any(needed) {
            return Ok(());
        }
        Ok(Netns::remove(&self.shared.config.netns_dir, &name)?)
    }

    async fn make_guard(&self, member: Ipv4Addr) -> Result<()> {
        let record = self.record(member)?;
        let home = self.home(member).await?;
        let app = home.existing_app()?;
        let programs = self.existing_programs()?;
        let programs = programs.lock().await;
        for link in self.foreign(record, &app.links.links().await?) {
            if is_guarded(app, link, &programs).await? {
                continue;
            }
            let Ok(name) = link.name.parse::<IfName>() else { bail!("interface {:?} cannot be guarded", link.name) };
            for hook in [Hook::GuardIngress, Hook::GuardEgress] {
                programs.attach(&app.netns, &name, hook).await?;
            }
        }
        Ok(())
    }

    async fn remove_guard(&self, member: Ipv4Addr) -> Result<()> {
        let record = self.record(member)?;
        let home = self.home(member).await?;
        let (Some(app), Some(programs)) = (&home.app, self.programs()) else { return Ok(()) };
        let programs = programs.lock().await;
        for link in self.foreign(record, &app.links.links().await?) {
            let Ok(name) = link.name.parse::<IfName>() else { continue };
            for hook in [Hook::GuardIngress, Hook::GuardEgress] {
                programs.detach(&app.netns, &name, hook).await?;
            }
        }
        Ok(())
    }

    async fn make_veth(
        &self,
        member: Ipv4Addr,
        binding_name: &IfName,
        mac: MacAddr,
        mtu: u32,
        bridged: bool,
    ) -> Result<()> {
        let room = self.existing_room().await?;
        let home = self.home(member).await?;
        let binding = home.existing_binding()?;
        let name = ownership::member_veth(member);
        let spec = VethSpec {
            a: VethEnd { name: &name, netns: &room.netns, mac: near_mac(mac), mtu },
            b: VethEnd { name: binding_name, netns: &binding.netns, mac, mtu },
        };
        // What has our name here is an earlier pair of ours that is still going, or that does not fit.
        self.delete_in_room(name.as_str()).await?;
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

    async fn make_carrier(&self, member: Ipv4Addr, address: Ipv4Net) -> Result<()> {
        let room = self.existing_room().await?;
        let home = self.home(member).await?;
        let binding = home.existing_binding()?;
        let far = index_of(binding, ownership::binding_veth(self.record(member)?.index).as_str()).await?;
        room.links.set_up(self.veth_index(member).await?).await?;
        set_address(binding, far, address).await?;
        Ok(binding.links.set_up(far).await?)
    }

    async fn make_fdb(&self, member: Ipv4Addr, mac: MacAddr, vtep: Ipv4Addr, anew: bool) -> Result<()> {
        if anew {
            self.remove_fdb(member, Some(mac)).await?;
        }
        let room = self.existing_room().await?;
        Ok(room.links.fdb_replace(self.vtep_index(&room).await?, mac, vtep).await?)
    }

    /// Removes the rows of a member's MACs, of every generation but that of `keep`.
    async fn remove_fdb(&self, member: Ipv4Addr, keep: Option<MacAddr>) -> Result<()> {
        let room = self.existing_room().await?;
        let vtep = self.vtep_index(&room).await?;
        let is_of = |mac: MacAddr| mac == MacAddr::of_member(member.octets(), mac.bytes()[1]);
        for row in room.links.fdb(vtep).await? {
            if is_of(row.mac) && Some(row.mac) != keep {
                room.links.fdb_delete(vtep, row.mac).await.absent_is_done()?;
            }
        }
        Ok(())
    }

    async fn make_device(&self, member: Ipv4Addr, interface: &IfName, listen_port: u16, mtu: u32) -> Result<()> {
        let record = self.record(member)?;
        let key = self.private_key(record)?;
        let home = self.home(member).await?;
        let (app, binding) = (home.existing_app()?, home.existing_binding()?);
        match self.shared.facts.wireguard {
            Backend::Kernel => {
                binding.links.create_wireguard(interface, mtu, &app.netns).await?;
                let device = wireguard::Device::kernel(app.netns.clone(), interface.clone());
                Ok(device.configure(&key, listen_port).await?)
            }
            Backend::Userspace => {
                let spec = wireguard::UserspaceSpec {
                    binary: self.shared.config.wireguard_binary.clone(),
                    run_dir: self.shared.config.wireguard_dir(self.network, member),
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

    async fn remove_device(&self, member: Ipv4Addr) -> Result<()> {
        match self.shared.facts.wireguard {
            Backend::Kernel => {
                let home = self.home(member).await?;
                let Some(app) = &home.app else { return Ok(()) };
                let interface = ownership::wireguard_interface(self.record(member)?.index);
                if let Some(link) = app.find(interface.as_str()).await? {
                    app.links.delete(link.index).await.absent_is_done()?;
                }
                Ok(())
            }
            Backend::Userspace => {
                Ok(wireguard::stop_userspace(&self.shared.config.wireguard_dir(self.network, member)).await?)
            }
        }
    }

    async fn change_peers(&self, member: Ipv4Addr, from: Option<&Spec>, to: &PeerTable) -> Result<()> {
        let nobody = PeerTable::of(std::collections::BTreeMap::new());
        let from = if let Some(Spec::Peers(from)) = from { from } else { &nobody };
        let (remove, set) = from.change_to(to);
        let peer = |(public_key, peer): (_, crate::topology::Peer)| wireguard::Peer {
            public_key,
            endpoint: peer.endpoint,
            allowed_ip: peer.allowed_ip,
        };
        let change = PeerChange { set: set.into_iter().map(peer).collect(), remove };
        let device = self.device(member).await?.context("the container's namespace is gone")?;
        Ok(device.change_peers(&change).await?)
    }

    async fn make_tunnel(&self, member: Ipv4Addr, address: Ipv4Net) -> Result<()> {
        let home = self.home(member).await?;
        let app = home.existing_app()?;
        let interface = ownership::wireguard_interface(self.record(member)?.index);
        let index = index_of(app, interface.as_str()).await?;
        // Before it is up, so that it never has a link-local address.
        let _ = app.netns.set_sysctl(&format!("net/ipv6/conf/{interface}/disable_ipv6"), "1").await;
        set_address(app, index, address).await?;
        Ok(app.links.set_up(index).await?)
    }

    fn private_key(&self, record: &Record) -> Result<PrivateKey> {
        self.shared.journal().private_key((record.network, record.address))
    }

    fn create_or_open(&self, name: &str) -> Result<Netns> {
        let dir = &self.shared.config.netns_dir;
        match Netns::create(dir, name) {
            Err(netns::Error::AlreadyExists { .. }) => Ok(Netns::open(&dir.join(name))?),
            created => Ok(created?),
        }
    }

    async fn delete_in_room(&self, name: &str) -> Result<()> {
        let Some(room) = self.room().await? else { return Ok(()) };
        if let Some(link) = room.find(name).await? {
            room.links.delete(link.index).await.absent_is_done()?;
        }
        Ok(())
    }

    async fn veth_index(&self, member: Ipv4Addr) -> Result<u32> {
        let room = self.existing_room().await?;
        index_of(&room, ownership::member_veth(member).as_str()).await
    }

    async fn vtep_index(&self, room: &Room) -> Result<u32> {
        index_of(room, ownership::VTEP).await
    }
}

async fn index_of(room: &Room, name: &str) -> Result<u32> {
    Ok(room.links.link(name).await?.index)
}

/// Leaves an interface with just this address.
async fn set_address(room: &Room, index: u32, address: Ipv4Net) -> Result<()> {
    let mut there = false;
    for other in room.links.addresses().await?.into_iter().filter(|other| other.index == index) {
        there |= other.address == address;
        if other.address != address {
            room.links.del_address(index, other.address).await.absent_is_done()?;
        }
    }
    if !there {
        room.links.add_address(index, address).await?;
    }
    Ok(())
}

/// The route that stops what would leave by another way while the tunnel is down.
const fn backstop(prefix: Ipv4Net) -> Route {
    /// `RTPROT_STATIC` of include/uapi/linux/rtnetlink.h.
    const STATIC: u8 = 4;
    Route { destination: prefix, target: RouteTarget::Unreachable, metric: u32::MAX, protocol: STATIC }
}

/// What a namespace of ours must not do: forward, speak IPv6.
async fn harden(netns: &Netns) -> Result<()> {
    // A new namespace takes these from the host's first one, where Docker, for one, turns forwarding on.
    let settings = [
        ("net/ipv4/ip_forward", "0"),
        ("net/ipv6/conf/all/disable_ipv6", "1"),
        ("net/ipv6/conf/default/disable_ipv6", "1"),
    ];
    for (key, value) in settings {
        match netns.set_sysctl(key, value).await {
            // A kernel without IPv6 has nothing to turn off.
            Err(netns::Error::NotFound { .. }) if key.contains("ipv6") => {}
            result => drop(result?),
        }
    }
    Ok(())
}

/// The MAC of a veth's end in the network netns: ours, and never a member's.
const fn near_mac(member: MacAddr) -> MacAddr {
    let [_, generation, a, b, c, d] = member.bytes();
    MacAddr::new([0x0a, generation, a, b, c, d])
}

fn vtep_name() -> IfName {
    fixed(ownership::VTEP)
}

fn bridge_name() -> IfName {
    fixed(ownership::BRIDGE)
}

fn fixed(name: &'static str) -> IfName {
    name.parse().expect("the fixed names are at most 15 bytes of letters and digits")
}
