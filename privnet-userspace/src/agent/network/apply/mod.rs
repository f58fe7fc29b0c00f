//! Operations to doors. Each can be done again after it failed half way; the next observation tells how far it came.
//!
//! Here is which operation means what; [`network`] and [`member`] do it.

mod member;
mod network;

pub(super) use network::PORT;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail};
use ipnet::Ipv4Net;
use privnet_ebpf::abi::{MemberRow, PortRow};

use super::local::LocalNetwork;
use super::observe::is_backstop;
use crate::agent::netns_links::NetnsLinks;
use crate::datapath::{self, Hook, NetworkSpec};
use crate::link::{self, AbsentIsDone, Route, RouteTarget, VxlanSpec};
use crate::model::IfName;
use crate::netns::{self, Netns};
use crate::topology::{Key, Op, Spec, ownership};

/// The VXLAN port that IANA gave (RFC 7348 section 5).
pub const VXLAN_PORT: u16 = 4789;
/// One dropped packet in this many leaves an event for those who watch.
const EVENT_SAMPLE: u32 = 16;

impl LocalNetwork {
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
                let room = self.existing_netns().await?;
                let vtep = VxlanSpec {
                    name: &vtep_name(),
                    into: &room.netns,
                    vni: *vni,
                    local: *local,
                    port: VXLAN_PORT,
                    mac: *mac,
                    mtu: *mtu,
                    proxy: false,
                    // WireGuard authenticates every byte that is carried.
                    udp_checksum: false,
                };
                self.make_vtep(&room, &vtep, *bridged, from.is_some()).await
            }
            (Key::VtepProgram, Spec::Present) => self.attach_vtep().await,
            (Key::BindingNetns(member), Spec::BindingNetns { .. }) => self.make_binding_netns(member).await,
            (Key::Backstop(member), Spec::Backstop { prefix }) => {
                let namespaces = self.namespaces_of(member).await?;
                let app = namespaces.existing_app()?;
                if let Some(Spec::Backstop { prefix: other }) = from {
                    app.links.del_route(&backstop(*other)).await.absent_is_done()?;
                }
                match app.links.add_route(&backstop(*prefix)).await {
                    // The very same is there: of a record that was lost, say.
                    Err(link::Error::AlreadyExists(_))
                        if app.links.routes().await?.iter().any(|route| is_backstop(route, member)) =>
                    {
                        Ok(())
                    }
                    other => Ok(other?),
                }
            }
            (Key::Departed(member), Spec::Departed(to)) => self.change_departed(member, from, to).await,
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
                let room = self.existing_netns().await?;
                let veth = ownership::member_veth(member);
                Ok(self.existing_programs()?.lock().await.attach(&room.netns, &veth, Hook::FromMember).await?)
            }
            (Key::Carrier(member), Spec::Address { address }) => self.make_carrier(member, *address).await,
            (Key::Neighbours(member), Spec::Neighbours(to)) => self.change_neighbours(member, from, to).await,
            (Key::Fdb(member), Spec::Fdb { mac, vtep }) => self.make_fdb(member, *mac, *vtep, from.is_some()).await,
            (Key::BridgePort(member), Spec::BridgeFdb { mac }) => self.make_bridge_port(member, *mac).await,
            (Key::BridgeFdb(member), Spec::BridgeFdb { mac }) => self.make_bridge_fdb(member, *mac).await,
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
                // Whoever looks into the namespace keeps it alive, and its VTEP would keep the VNI from the next one.
                self.delete_link(ownership::VTEP).await?;
                self.forget_netns();
                let name = ownership::network_netns(&self.host.config.netns_prefix, self.network);
                Ok(Netns::remove(&self.host.config.netns_dir, &name)?)
            }
            Key::Programs => {
                self.set_programs(None);
                Ok(datapath::Network::remove_pins(&self.host.config.pins_of(self.network))?)
            }
            Key::Bridge => self.delete_link(ownership::BRIDGE).await,
            Key::Vtep => self.delete_link(ownership::VTEP).await,
            Key::VtepProgram => {
                let room = self.existing_netns().await?;
                Ok(self.existing_programs()?.lock().await.detach(&room.netns, &vtep_name(), Hook::FromVtep).await?)
            }
            Key::BindingNetns(member) => self.remove_binding_netns(self.record(member)?).await,
            Key::Backstop(member) => match (&self.namespaces_of(member).await?.app, spec) {
                (Some(app), Spec::Backstop { prefix }) => {
                    app.links.del_route(&backstop(*prefix)).await.absent_is_done()?;
                    Ok(())
                }
                (_, _) => Ok(()),
            },
            Key::Departed(member) => self.change_departed(member, Some(spec), &BTreeSet::new()).await,
            Key::Guard(member) => self.remove_guard(member).await,
            Key::Veth(member) => self.delete_link(ownership::member_veth(member).as_str()).await,
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
                let room = self.existing_netns().await?;
                let veth = ownership::member_veth(member);
                Ok(self.existing_programs()?.lock().await.detach(&room.netns, &veth, Hook::FromMember).await?)
            }
            // The veth pair goes, or is made anew, in the same pass.
            Key::BridgePort(_) | Key::Carrier(_) | Key::Neighbours(_) | Key::Tunnel(_) | Key::Peers(_) => Ok(()),
            Key::Fdb(member) => self.remove_fdb(member, None).await,
            Key::BridgeFdb(member) => self.remove_bridge_fdb(member, None).await,
            Key::MemberRow(member) => Ok(self.existing_programs()?.lock().await.remove_member(member)?),
            Key::Device(member) => self.remove_device(member).await,
        }
    }
}

async fn index_of(room: &NetnsLinks, name: &str) -> Result<u32> {
    Ok(room.links.link(name).await?.index)
}

/// Leaves an interface with just this address.
async fn set_address(room: &NetnsLinks, index: u32, address: Ipv4Net) -> Result<()> {
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

/// The metric that tells a route of [`departed`] from others: the longer prefix wins, whatever the metric.
pub(super) const DEPARTED_METRIC: u32 = u32::MAX - 1;

/// The route by which a container hears that nobody has an address any more.
fn departed(address: Ipv4Addr) -> Route {
    Route { destination: address.into(), metric: DEPARTED_METRIC, ..backstop(address.into()) }
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

fn vtep_name() -> IfName {
    fixed(ownership::VTEP)
}

fn fixed(name: &'static str) -> IfName {
    name.parse().expect("the fixed names are at most 15 bytes of letters and digits")
}
