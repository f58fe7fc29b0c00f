//! The datapath alone, without WireGuard: namespaces, links and programs exactly as the agent lays them, and beside them
//! what they are compared with. The load is UDP from and to the WireGuard port, for nothing else may pass.
//!
//! ```text
//! same host      A ── veth ── network netns ── veth ── B
//! two hosts      A ── veth ── network netns ── vxlan0 ══ underlay ══ vxlan0 ── network netns ── veth ── B
//! ```

use std::net::Ipv4Addr;

use anyhow::Result;
use ipnet::Ipv4Net;
use privnet::datapath::{Hook, MemberRow, Method, Network, NetworkSpec, PortRow};
use privnet::topology::ownership::{self, WIREGUARD_PORT_BASE};
use privnet_ebpf::net::{MacAddr, Vni};

use super::contest::{Contest, Line, Load};
use super::load::End;
use super::place::{Hosts, Place, Workspace, interface, mtu, veth};

const A: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 2);
const B: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 3);
const PREFIX_BITS: u8 = 22;
const PORT: u16 = WIREGUARD_PORT_BASE;

/// What a line is made of.
type Parts = (Vec<Place>, Vec<Network>);

/// The lines of one host.
pub async fn same_host(workspace: Workspace) -> Result<Contest> {
    let mut parts: Vec<Parts> = Vec::new();
    let mut lines = Vec::new();
    let mut add = |line, part| {
        lines.push(line);
        parts.push(part);
    };
    let (line, part) = bare_veth().await?;
    add(line, part);
    let (line, part) = bridge().await?;
    add(line, part);
    for (name, method) in [("ebpf", Method::Clsact), ("ebpf-tcx", Method::Tcx)] {
        let (line, part) = programs(&workspace, name, method).await?;
        add(line, part);
    }
    Ok(Contest {
        group: "carrier/same-host",
        loads: vec![Load::Flood, Load::RoundTrip],
        lines,
        _held: Box::new((workspace, parts)),
    })
}

/// The lines of two hosts.
pub async fn two_hosts(workspace: Workspace) -> Result<Contest> {
    let hosts = Hosts::new().await?;
    let [near, far] = &hosts.hosts;
    let end = |place: &Place, address| End { netns: place.netns.clone(), address };
    let underlay = line("underlay", end(near, Hosts::VTEPS[0]), end(far, Hosts::VTEPS[1]));
    let mut lines = vec![underlay];
    let mut parts: Vec<Parts> = Vec::new();
    for (line, part) in [bare_vxlan(&hosts).await?, bridge_and_vxlan(&hosts).await?] {
        lines.push(line);
        parts.push(part);
    }
    for (name, method, vni) in [("ebpf", Method::Clsact, 3), ("ebpf-tcx", Method::Tcx, 4)] {
        let (line, part) = programs_and_vxlan(&workspace, &hosts, name, method, Vni::new(vni)?).await?;
        lines.push(line);
        parts.push(part);
    }
    Ok(Contest {
        group: "carrier/two-hosts",
        loads: vec![Load::Flood, Load::RoundTrip],
        lines,
        _held: Box::new((workspace, parts, hosts)),
    })
}

/// The floor of one host: a veth from end to end.
async fn bare_veth() -> Result<(Line, Parts)> {
    let (a, b) = (Place::new().await?, Place::new().await?);
    veth((&a, "eth0"), (&b, "eth0"), mac(B), mtu()?.carrier).await?;
    a.address("eth0", net(A)?).await?;
    b.address("eth0", net(B)?).await?;
    Ok((between("bare-veth", &a, &b), (vec![a, b], vec![])))
}

/// What the seed draws: a bridge between the members' veths.
async fn bridge() -> Result<(Line, Parts)> {
    let room = Place::new().await?;
    room.bridge(mtu()?.carrier).await?;
    let (a, b) = (binding(&room, A).await?, binding(&room, B).await?);
    for member in [A, B] {
        room.port(near_name(member).as_str()).await?;
    }
    Ok((between("bridge", &a, &b), (vec![a, b, room], vec![])))
}

/// Ours.
async fn programs(workspace: &Workspace, name: &'static str, method: Method) -> Result<(Line, Parts)> {
    let room = Place::new().await?;
    let vni = Vni::new(1)?;
    let pins = workspace.bpffs().join(format!("same-{name}"));
    let mut network = Network::open(&pins, &NetworkSpec::new(vni, subnet()?))?;
    let (a, b) = (binding(&room, A).await?, binding(&room, B).await?);
    for member in [A, B] {
        admit(&room, &mut network, member, method).await?;
    }
    Ok((between(name, &a, &b), (vec![a, b, room], vec![network])))
}

/// The floor of two hosts: the VTEPs themselves are the ends.
async fn bare_vxlan(hosts: &Hosts) -> Result<(Line, Parts)> {
    let vni = Vni::new(1)?;
    let rooms = [Place::new().await?, Place::new().await?];
    for (host, (room, own)) in rooms.iter().zip([A, B]).enumerate() {
        hosts.vtep(host, room, vni, false).await?;
        room.address("vxlan0", net(own)?).await?;
    }
    for (host, (room, other)) in rooms.iter().zip([B, A]).enumerate() {
        let index = room.index("vxlan0").await?;
        let other_mac = MacAddr::of_vtep(Hosts::VTEPS[1 - host].octets());
        room.links.fdb_replace(index, other_mac, Hosts::VTEPS[1 - host]).await?;
        room.links.neighbour_replace(index, other, other_mac).await?;
    }
    let [a, b] = rooms;
    Ok((between("bare-vxlan", &a, &b), (vec![a, b], vec![])))
}

/// What the seed draws: a bridge between the members' veths and `vxlan0`.
async fn bridge_and_vxlan(hosts: &Hosts) -> Result<(Line, Parts)> {
    let vni = Vni::new(2)?;
    let mut places = Vec::new();
    for (host, (own, other)) in [(A, B), (B, A)].into_iter().enumerate() {
        let room = Place::new().await?;
        room.bridge(mtu()?.carrier).await?;
        hosts.vtep(host, &room, vni, true).await?;
        room.port("vxlan0").await?;
        let vtep = room.index("vxlan0").await?;
        room.links.fdb_replace(vtep, mac(other), Hosts::VTEPS[1 - host]).await?;
        room.links.neighbour_replace(vtep, other, mac(other)).await?;
        places.push(binding(&room, own).await?);
        room.port(near_name(own).as_str()).await?;
        places.push(room);
    }
    Ok((between("bridge-vxlan", &places[0], &places[2]), (places, vec![])))
}

/// Ours.
async fn programs_and_vxlan(
    workspace: &Workspace,
    hosts: &Hosts,
    name: &'static str,
    method: Method,
    vni: Vni,
) -> Result<(Line, Parts)> {
    let (mut places, mut networks) = (Vec::new(), Vec::new());
    for (host, (own, other)) in [(A, B), (B, A)].into_iter().enumerate() {
        let room = Place::new().await?;
        let pins = workspace.bpffs().join(format!("two-{name}-{host}"));
        let mut network = Network::open(&pins, &NetworkSpec::new(vni, subnet()?))?;
        hosts.vtep(host, &room, vni, false).await?;
        let vtep = room.index("vxlan0").await?;
        network.set_vtep(Some(vtep))?;
        network.attach(&room.netns, &interface("vxlan0")?, Hook::FromVtep).await?;
        places.push(binding(&room, own).await?);
        admit(&room, &mut network, own, method).await?;
        room.links.fdb_replace(vtep, mac(other), Hosts::VTEPS[1 - host]).await?;
        network.set_member(other, MemberRow::remote(mac(other), PORT))?;
        places.push(room);
        networks.push(network);
    }
    Ok((between(name, &places[0], &places[2]), (places, networks)))
}

/// A member's binding netns, with its veth to the network netns.
async fn binding(room: &Place, member: Ipv4Addr) -> Result<Place> {
    let binding = Place::new().await?;
    let (near, far) = (near_name(member), ownership::binding_veth(0));
    veth((room, near.as_str()), (&binding, far.as_str()), mac(member), mtu()?.carrier).await?;
    room.up(near.as_str()).await?;
    binding.address(far.as_str(), net(member)?).await?;
    Ok(binding)
}

/// Tells the programs of a member of this host and puts them on its veth.
async fn admit(room: &Place, network: &mut Network, member: Ipv4Addr, method: Method) -> Result<()> {
    let near = near_name(member);
    let index = room.index(near.as_str()).await?;
    network.set_port(index, PortRow::new(member.octets(), mac(member), PORT))?;
    network.attach_by(method, &room.netns, &near, Hook::FromMember).await?;
    network.set_member(member, MemberRow::local(mac(member), PORT, index))?;
    Ok(())
}

fn between(name: &'static str, a: &Place, b: &Place) -> Line {
    line(name, End { netns: a.netns.clone(), address: A }, End { netns: b.netns.clone(), address: B })
}

fn line(name: &'static str, near: End, far: End) -> Line {
    Line { name, near, far, port: PORT, helpers: [vec![], vec![]] }
}

fn near_name(member: Ipv4Addr) -> privnet::model::IfName {
    ownership::MemberLink::Address(member).name()
}

const fn mac(member: Ipv4Addr) -> MacAddr {
    MacAddr::of_member(member.octets(), 1)
}

fn net(address: Ipv4Addr) -> Result<Ipv4Net> {
    Ok(Ipv4Net::new(address, PREFIX_BITS)?)
}

fn subnet() -> Result<Ipv4Net> {
    Ok(net(A)?.trunc())
}
