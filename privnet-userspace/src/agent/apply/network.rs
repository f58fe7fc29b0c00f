//! The objects that a network has once per host: its namespace, programs, bridge, VTEP and forwarding table.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use privnet_ebpf::net::MacAddr;

use super::{VXLAN_PORT, harden, index_of, vtep_name};
use crate::agent::site::{Room, Site};
use crate::datapath::{self, Hook, NetworkSpec};
use crate::link::{self, AbsentIsDone, BridgePort, BridgeSpec, VxlanSpec};
use crate::netns::{self, Netns};
use crate::topology::ownership;

/// How `br0` treats each of its ports. Whoever reaches UDP 4789 of the host puts frames of any source on it, so it learns
/// nothing: our rows alone say who is where, and what is for nobody, or for all, goes nowhere. Members need no ARP.
pub(in crate::agent) const PORT: BridgePort =
    BridgePort { learning: false, unicast_flood: false, multicast_flood: false, broadcast_flood: false };

impl Site {
    pub(super) async fn make_network_netns(&self) -> Result<()> {
        let name = ownership::network_netns(&self.shared.config.netns_prefix, self.network);
        self.forget_room();
        let netns = self.create_or_open(&name)?;
        harden(&netns).await?;
        Ok(())
    }

    pub(super) fn make_programs(&self, spec: &NetworkSpec) -> Result<()> {
        let pins = self.shared.config.pins_of(self.network);
        let programs = datapath::Network::open(&pins, spec).with_context(|| format!("loading {}", pins.display()))?;
        self.set_programs(Some(programs));
        Ok(())
    }

    /// Makes the bridge, or puts right the one that is there: its ports would not follow it into another one.
    pub(super) async fn make_bridge(&self, mtu: u32, exists: bool) -> Result<()> {
        let room = self.existing_room().await?;
        if exists {
            let index = index_of(&room, ownership::BRIDGE).await?;
            room.links.set_mtu(index, mtu).await?;
            return Ok(room.links.set_up(index).await?);
        }
        let [_, _, a, b, c, d] = crate::topology::plan::vtep_mac(self.shared.facts.vtep).bytes();
        let bridge = BridgeSpec {
            name: &super::fixed(ownership::BRIDGE),
            into: &room.netns,
            mac: MacAddr::new([0x06, 1, a, b, c, d]),
            mtu,
        };
        room.links.create_bridge(&bridge).await?;
        Ok(room.links.set_up(index_of(&room, ownership::BRIDGE).await?).await?)
    }

    pub(super) async fn make_vtep(&self, room: &Room, vtep: &VxlanSpec<'_>, bridged: bool, anew: bool) -> Result<()> {
        if anew {
            self.delete_in_room(ownership::VTEP).await?;
        }
        if let Some(nameless) = self.take_nameless_room()
            && let Some(stale) = nameless.find(ownership::VTEP).await?
        {
            nameless.links.delete(stale.index).await.absent_is_done()?;
        }
        self.shared.host.links.create_vxlan(vtep).await?;
        let index = self.vtep_index(room).await?;
        if bridged {
            room.links.set_controller(index, Some(index_of(room, ownership::BRIDGE).await?)).await?;
            room.links.set_bridge_port(index, PORT).await?;
        }
        if let Err(error) = room.links.set_up(index).await {
            // Only now does the kernel ask for the UDP port; a device without it is no device.
            self.delete_in_room(ownership::VTEP).await?;
            return Err(self.name_port_holder(error).await);
        }
        Ok(())
    }

    /// Says who has the VXLAN port, where that is the trouble.
    pub(super) async fn name_port_holder(&self, error: link::Error) -> anyhow::Error {
        let host = &self.shared.host;
        let link::Error::PortInUse(_) = &error else { return error.into() };
        match link::udp_port_holder(&host.netns, &host.links, VXLAN_PORT).await {
            Ok(Some(holder)) => {
                anyhow::Error::from(error).context(format!("UDP port {VXLAN_PORT} is taken by {holder}"))
            }
            Ok(None) | Err(_) => error.into(),
        }
    }

    pub(super) async fn attach_vtep(&self) -> Result<()> {
        let room = self.existing_room().await?;
        let programs = self.existing_programs()?;
        let mut programs = programs.lock().await;
        programs.set_vtep(Some(self.vtep_index(&room).await?))?;
        Ok(programs.attach(&room.netns, &vtep_name(), Hook::FromVtep).await?)
    }

    pub(super) async fn make_fdb(&self, member: Ipv4Addr, mac: MacAddr, vtep: Ipv4Addr, anew: bool) -> Result<()> {
        if anew {
            self.remove_fdb(member, Some(mac)).await?;
        }
        let room = self.existing_room().await?;
        Ok(room.links.fdb_replace(self.vtep_index(&room).await?, mac, vtep).await?)
    }

    /// Removes the rows of a member's MACs, of every generation but that of `keep`.
    pub(super) async fn remove_fdb(&self, member: Ipv4Addr, keep: Option<MacAddr>) -> Result<()> {
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

    pub(super) async fn make_bridge_port(&self, member: Ipv4Addr, mac: MacAddr) -> Result<()> {
        let room = self.existing_room().await?;
        let veth = self.veth_index(member).await?;
        room.links.set_bridge_port(veth, PORT).await?;
        Ok(room.links.bridge_fdb_replace(veth, mac).await?)
    }

    pub(super) async fn make_bridge_fdb(&self, member: Ipv4Addr, mac: MacAddr) -> Result<()> {
        self.remove_bridge_fdb(member, Some(mac)).await?;
        let room = self.existing_room().await?;
        Ok(room.links.bridge_fdb_replace(self.vtep_index(&room).await?, mac).await?)
    }

    /// Removes what the bridge says of a member's MACs behind `vxlan0`, of every generation but that of `keep`.
    pub(super) async fn remove_bridge_fdb(&self, member: Ipv4Addr, keep: Option<MacAddr>) -> Result<()> {
        let room = self.existing_room().await?;
        let (bridge, vtep) = (index_of(&room, ownership::BRIDGE).await?, self.vtep_index(&room).await?);
        let is_of = |mac: MacAddr| mac == MacAddr::of_member(member.octets(), mac.bytes()[1]);
        for row in room.links.bridge_fdb(bridge).await? {
            if row.port == vtep && is_of(row.mac) && Some(row.mac) != keep {
                room.links.bridge_fdb_delete(vtep, row.mac).await.absent_is_done()?;
            }
        }
        Ok(())
    }

    pub(super) async fn delete_in_room(&self, name: &str) -> Result<()> {
        let Some(room) = self.room().await? else { return Ok(()) };
        if let Some(link) = room.find(name).await? {
            room.links.delete(link.index).await.absent_is_done()?;
        }
        Ok(())
    }

    pub(super) async fn vtep_index(&self, room: &Room) -> Result<u32> {
        index_of(room, ownership::VTEP).await
    }

    pub(super) fn create_or_open(&self, name: &str) -> Result<Netns> {
        let dir = &self.shared.config.netns_dir;
        match Netns::create(dir, name) {
            Err(netns::Error::AlreadyExists { .. }) => Ok(Netns::open(&dir.join(name))?),
            created => Ok(created?),
        }
    }
}
