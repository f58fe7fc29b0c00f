//! `vxlan0`, its forwarding table, and the rows of the programs' maps.

use std::net::Ipv4Addr;

use anyhow::Result;
use privnet_ebpf::net::Vni;

use super::{Links, PORT, or_broken};
use crate::datapath;
use crate::link::{FdbEntry, Link, LinkKind};
use crate::topology::{Key, Spec, State, ownership};

pub fn observe_vtep(vtep: &Link, bridge: Option<&Link>) -> Spec {
    let LinkKind::Vxlan(vxlan) = &vtep.kind else {
        return Spec::Broken("it is no VXLAN device".to_owned());
    };
    let (Some(mac), Some(local), Ok(vni)) = (vtep.mac, vxlan.local, Vni::new(vxlan.vni)) else {
        return Spec::Broken("it has no MAC, no underlay address or no VNI".to_owned());
    };
    let bridged = bridge.is_some_and(|bridge| vtep.controller == Some(bridge.index));
    let spec = Spec::Vtep { vni, local, mac, mtu: vtep.mtu, bridged };
    or_broken(
        vtep.up && !vxlan.learning && !vxlan.proxy && (!bridged || vtep.bridge_port == Some(PORT)),
        "down, or learning, or a port that floods, or answering ARP",
        spec,
    )
}

pub fn observe_fdb(rows: &[FdbEntry], state: &mut State) {
    for row in rows {
        let Some(address) = row.mac.member_address() else { continue };
        let key = Key::Fdb(address.into());
        let spec = match row.destination {
            Some(vtep) if !state.contains_key(&key) => Spec::Fdb { mac: row.mac, vtep },
            Some(_) | None => Spec::Broken("more than one row, or one without a VTEP".to_owned()),
        };
        state.insert(key, spec);
    }
}

pub fn observe_rows(programs: &datapath::Network, links: &Links, state: &mut State) -> Result<()> {
    let veth_of = |member: Ipv4Addr| links.get(ownership::member_veth(member).as_str()).map(|link| link.index);
    for (index, row) in programs.ports()? {
        let spec = Spec::Port { mac: row.mac(), wireguard_port: row.wireguard_port() };
        let member = Ipv4Addr::from(row.address());
        let fits = veth_of(member) == Some(index);
        state.insert(Key::Port(member), or_broken(fits, "for another interface", spec));
    }
    for (member, row) in programs.members()? {
        let local = row.ifindex().is_some();
        let spec = Spec::MemberRow { mac: row.mac(), wireguard_port: row.wireguard_port(), local };
        let fits = !local || veth_of(member) == row.ifindex();
        state.insert(Key::MemberRow(member), or_broken(fits, "to another interface", spec));
    }
    Ok(())
}
