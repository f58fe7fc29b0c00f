//! `br0` of the bridge datapath.

use anyhow::Result;
use privnet_ebpf::net::MacAddr;

use super::Managed;
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::scan::{NetworkScan, if_up};
use crate::link::{BridgePort, BridgeSpec, Link};
use crate::topology::{Before, State, kind, ownership, spec};

/// How `br0` treats each of its ports. A sender that reaches the VXLAN port of the host puts frames of any source on it, so it
/// learns nothing: the agent's rows alone say where a MAC is. Broadcast and unknown unicast are dropped; members need no ARP.
pub const PORT: BridgePort = BridgePort {
    learning: false,
    unicast_flood: false,
    multicast_flood: false,
    broadcast_flood: false,
    forwarding: true,
    isolated: false,
    locked: false,
};

/// Whether a link is a port of `br0` as it should be. One that is down, or whose bridge is, forwards nothing: that is a fault
/// of the one that is down.
pub fn is_sound_port(port: &Link, bridge: Option<&Link>) -> bool {
    let is_off = !port.up || !port.carrier || bridge.is_none_or(|bridge| !bridge.up);
    port.bridge_port
        .is_some_and(|settings| BridgePort { forwarding: settings.forwarding || is_off, ..settings } == PORT)
}

impl Managed for kind::Bridge {
    async fn observe(scan: &NetworkScan<'_>, state: &mut State) -> Result<()> {
        if let Some(bridge) = scan.bridge() {
            let has_mac = bridge.mac == Some(MacAddr::of_bridge(scan.net.host.facts.vtep.octets()));
            let spec = spec::Bridge { mtu: bridge.mtu };
            state.see::<Self>((), if has_mac { if_up(bridge, spec) } else { Err("with another MAC") });
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
            netns.links.set_plain_bridge(index).await?;
        } else {
            let bridge =
                BridgeSpec { name: &ownership::fixed(ownership::BRIDGE), into: &netns.netns, mac, mtu: to.mtu };
            netns.links.create_bridge(&bridge).await?;
        }
        Ok(netns.links.set_up_plain(netns.index_of(ownership::BRIDGE).await?, true).await?)
    }

    async fn remove(net: &LocalNetwork, (): (), _: Before<'_, Self::Spec>) -> Result<()> {
        net.delete_link(ownership::BRIDGE).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::link;
    use super::*;
    use crate::link::LinkKind;

    #[test]
    fn a_blocked_port_is_at_fault_where_it_and_its_bridge_are_up() {
        let bridge = link(2, ownership::BRIDGE, LinkKind::Bridge);
        let port = Link { bridge_port: Some(PORT), ..link(5, "veth-1", LinkKind::Veth) };
        assert!(is_sound_port(&port, Some(&bridge)));
        let blocked = Link { bridge_port: Some(BridgePort { forwarding: false, ..PORT }), ..port.clone() };
        assert!(!is_sound_port(&blocked, Some(&bridge)));
        assert!(is_sound_port(&Link { up: false, ..blocked.clone() }, Some(&bridge)));
        assert!(is_sound_port(&Link { carrier: false, ..blocked.clone() }, Some(&bridge)));
        assert!(is_sound_port(&blocked, Some(&Link { up: false, ..bridge.clone() })));
        let isolated = Link { bridge_port: Some(BridgePort { isolated: true, ..PORT }), up: false, ..port };
        assert!(!is_sound_port(&isolated, Some(&bridge)), "whether up or not");
    }
}
