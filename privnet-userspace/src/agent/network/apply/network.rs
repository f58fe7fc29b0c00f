//! The objects that a network has once per host: its namespace, programs, bridge, VTEP and forwarding table.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use privnet_ebpf::net::MacAddr;

use super::{VXLAN_PORT, harden, index_of, vtep_name};
use crate::agent::netns_links::NetnsLinks;
use crate::agent::network::local::LocalNetwork;
use crate::datapath::{self, Hook, NetworkSpec};
use crate::link::{self, AbsentIsDone, BridgePort, BridgeSpec, VxlanSpec};
use crate::netns::{self, Netns};
use crate::topology::ownership;

/// How `br0` treats each of its ports. Whoever reaches UDP 4789 of the host puts frames of any source on it, so it learns
/// nothing: our rows alone say who is where, and what is for nobody, or for all, goes nowhere. Members need no ARP.
pub(in crate::agent) const PORT: BridgePort =
    BridgePort { learning: false, unicast_flood: false, multicast_flood: false, broadcast_flood: false };

impl LocalNetwork {
    pub(super) async fn make_network_netns(&self) -> Result<()> {
        let name = ownership::network_netns(&self.host.config.netns_prefix, self.network);
        self.forget_netns();
        let netns = self.create_or_open(&name)?;
        harden(&netns).await?;
        Ok(())
    }

    pub(super) fn make_programs(&self, spec: &NetworkSpec) -> Result<()> {
        let pins = self.host.config.pins_of(self.network);
        let programs = datapath::Network::open(&pins, spec).with_context(|| format!("loading {}", pins.display()))?;
        self.set_programs(Some(programs));
        Ok(())
    }

    /// Makes the bridge, or puts right the one that is there: its ports would not follow it into another one.
    pub(super) async fn make_bridge(&self, mtu: u32, exists: bool) -> Result<()> {
        let room = self.existing_netns().await?;
        if exists {
            let index = index_of(&room, ownership::BRIDGE).await?;
            room.links.set_mtu(index, mtu).await?;
            return Ok(room.links.set_up(index).await?);
        }
        let bridge = BridgeSpec {
            name: &super::fixed(ownership::BRIDGE),
            into: &room.netns,
            mac: MacAddr::of_bridge(self.host.facts.vtep.octets()),
            mtu,
        };
        room.links.create_bridge(&bridge).await?;
        Ok(room.links.set_up(index_of(&room, ownership::BRIDGE).await?).await?)
    }

    pub(super) async fn make_vtep(
        &self,
        room: &NetnsLinks,
        vtep: &VxlanSpec<'_>,
        bridged: bool,
        anew: bool,
    ) -> Result<()> {
        if anew {
            self.delete_link(ownership::VTEP).await?;
        }
        if let Some(unpinned) = self.take_unpinned()
            && let Some(stale) = unpinned.find(ownership::VTEP).await?
        {
            unpinned.links.delete(stale.index).await.absent_is_done()?;
        }
        self.host.netns.links.create_vxlan(vtep).await?;
        let index = self.vtep_index(room).await?;
        if bridged {
            room.links.set_controller(index, Some(index_of(room, ownership::BRIDGE).await?)).await?;
            room.links.set_bridge_port(index, PORT).await?;
        }
        if let Err(error) = room.links.set_up(index).await {
            // Only now does the kernel ask for the UDP port; a device without it is no device.
            self.delete_link(ownership::VTEP).await?;
            return Err(self.name_port_holder(error).await);
        }
        Ok(())
    }

    /// Says who has the VXLAN port, where that is the trouble.
    pub(super) async fn name_port_holder(&self, error: link::Error) -> anyhow::Error {
        let host = &self.host.netns;
        let link::Error::PortInUse(_) = &error else { return error.into() };
        match link::udp_port_holder(&host.netns, &host.links, VXLAN_PORT).await {
            Ok(Some(holder)) => {
                anyhow::Error::from(error).context(format!("UDP port {VXLAN_PORT} is taken by {holder}"))
            }
            Ok(None) | Err(_) => error.into(),
        }
    }

    pub(super) async fn attach_vtep(&self) -> Result<()> {
        let room = self.existing_netns().await?;
        let programs = self.existing_programs()?;
        let mut programs = programs.lock().await;
        programs.set_vtep(Some(self.vtep_index(&room).await?))?;
        Ok(programs.attach(&room.netns, &vtep_name(), Hook::FromVtep).await?)
    }

    pub(super) async fn make_fdb(&self, member: Ipv4Addr, mac: MacAddr, vtep: Ipv4Addr, anew: bool) -> Result<()> {
        if anew {
            self.remove_fdb(member, Some(mac)).await?;
        }
        let room = self.existing_netns().await?;
        Ok(room.links.fdb_replace(self.vtep_index(&room).await?, mac, vtep).await?)
    }

    /// Removes the rows of a member's MACs, of every generation but that of `keep`.
    pub(super) async fn remove_fdb(&self, member: Ipv4Addr, keep: Option<MacAddr>) -> Result<()> {
        let room = self.existing_netns().await?;
        let vtep = self.vtep_index(&room).await?;
        for row in room.links.fdb(vtep).await? {
            if row.mac.is_of_member(member.octets()) && Some(row.mac) != keep {
                room.links.fdb_delete(vtep, row.mac).await.absent_is_done()?;
            }
        }
        Ok(())
    }

    pub(super) async fn make_bridge_port(&self, member: Ipv4Addr, mac: MacAddr) -> Result<()> {
        let room = self.existing_netns().await?;
        let veth = self.veth_index(member).await?;
        room.links.set_bridge_port(veth, PORT).await?;
        Ok(room.links.bridge_fdb_replace(veth, mac).await?)
    }

    pub(super) async fn make_bridge_fdb(&self, member: Ipv4Addr, mac: MacAddr) -> Result<()> {
        self.remove_bridge_fdb(member, Some(mac)).await?;
        let room = self.existing_netns().await?;
        Ok(room.links.bridge_fdb_replace(self.vtep_index(&room).await?, mac).await?)
    }

    /// Removes what the bridge says of a member's MACs behind `vxlan0`, of every generation but that of `keep`.
    pub(super) async fn remove_bridge_fdb(&self, member: Ipv4Addr, keep: Option<MacAddr>) -> Result<()> {
        let room = self.existing_netns().await?;
        let (bridge, vtep) = (index_of(&room, ownership::BRIDGE).await?, self.vtep_index(&room).await?);
        for row in room.links.bridge_fdb(bridge).await? {
            if row.port == vtep && row.mac.is_of_member(member.octets()) && Some(row.mac) != keep {
                room.links.bridge_fdb_delete(vtep, row.mac).await.absent_is_done()?;
            }
        }
        Ok(())
    }

    pub(super) async fn delete_link(&self, name: &str) -> Result<()> {
        let Some(room) = self.netns().await? else { return Ok(()) };
        if let Some(link) = room.find(name).await? {
            room.links.delete(link.index).await.absent_is_done()?;
        }
        Ok(())
    }

    pub(super) async fn vtep_index(&self, room: &NetnsLinks) -> Result<u32> {
        index_of(room, ownership::VTEP).await
    }

    pub(super) fn create_or_open(&self, name: &str) -> Result<Netns> {
        let dir = &self.host.config.netns_dir;
        match Netns::create(dir, name) {
            Err(netns::Error::AlreadyExists { .. }) => Ok(Netns::open(&dir.join(name))?),
            created => Ok(created?),
        }
    }
}
