//! `br0` of the bridge datapath.

use anyhow::Result;
use privnet_ebpf::net::MacAddr;

use super::Managed;
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::scan::{NetworkScan, if_up};
use crate::link::{BridgePort, BridgeSpec};
use crate::topology::{Before, State, kind, ownership, spec};

/// How `br0` treats each of its ports. A sender that reaches the VXLAN port of the host puts frames of any source on it, so it
/// learns nothing: the agent's rows alone say where a MAC is. Broadcast and unknown unicast are dropped; members need no ARP.
pub const PORT: BridgePort =
    BridgePort { learning: false, unicast_flood: false, multicast_flood: false, broadcast_flood: false };

impl Managed for kind::Bridge {
    async fn observe(scan: &NetworkScan<'_>, state: &mut State) -> Result<()> {
        if let Some(bridge) = scan.bridge() {
            let has_mac = bridge.mac == Some(MacAddr::of_bridge(scan.net.host.facts.vtep.octets()));
            let spec = spec::Bridge { mtu: bridge.mtu };
            state.see::<Self>((), if has_mac { if_up(bridge.up, spec) } else { Err("with another MAC") });
        }
        Ok(())
    }

    /// The one that is there is put right: its ports would not follow it into another one.
    async fn make(net: &LocalNetwork, (): (), before: Before<'_, Self::Spec>, to: &Self::Spec) -> Result<()> {
        let netns = net.existing_netns().await?;
        let mac = MacAddr::of_bridge(net.host.facts.vtep.octets());
        if before.exists() {
            let index = netns.index_of(ownership::BRIDGE).await?;
            netns.links.set_mtu(index, to.mtu).await?;
            netns.links.set_mac(index, mac).await?;
        } else {
            let bridge =
                BridgeSpec { name: &ownership::fixed(ownership::BRIDGE), into: &netns.netns, mac, mtu: to.mtu };
            netns.links.create_bridge(&bridge).await?;
        }
        Ok(netns.links.set_up(netns.index_of(ownership::BRIDGE).await?).await?)
    }

    async fn remove(net: &LocalNetwork, (): (), _: Before<'_, Self::Spec>) -> Result<()> {
        net.delete_link(ownership::BRIDGE).await
    }
}
