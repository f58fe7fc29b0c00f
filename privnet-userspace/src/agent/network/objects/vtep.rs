//! `vxlan0`.

use anyhow::Result;
use privnet_ebpf::net::Vni;

use super::Managed;
use super::bridge::{PORT, is_sound_port};
use crate::agent::door::error::{ControlError, ErrorCode};
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::scan::NetworkScan;
use crate::link::{self, AbsentIsDone, Link, LinkKind, VxlanSpec};
use crate::topology::{Before, State, kind, ownership, spec};

impl Managed for kind::Vtep {
    async fn observe(scan: &NetworkScan<'_>, state: &mut State) -> Result<()> {
        if let Some(vtep) = scan.vtep() {
            state.see::<Self>((), observe(vtep, scan.bridge()));
        }
        Ok(())
    }

    async fn make(net: &LocalNetwork, (): (), before: Before<'_, Self::Spec>, to: &Self::Spec) -> Result<()> {
        let netns = net.existing_netns().await?;
        if before.exists() {
            delete_vtep(net).await?;
        }
        if let Some(unpinned) = net.take_unpinned()
            && let Some(stale) = unpinned.find(ownership::VTEP).await?
        {
            unpinned.links.delete(stale.index).await.absent_is_done()?;
        }
        let vtep = VxlanSpec {
            name: &ownership::fixed(ownership::VTEP),
            into: &netns.netns,
            vni: to.vni,
            local: to.local,
            port: to.port,
            mac: to.mac,
            mtu: to.mtu,
            proxy: false,
            // WireGuard authenticates every byte that is carried.
            udp_checksum: false,
        };
        net.host.netns.links.create_vxlan(&vtep).await?;
        let index = netns.index_of(ownership::VTEP).await?;
        if to.bridged {
            netns.links.set_controller(index, Some(netns.index_of(ownership::BRIDGE).await?)).await?;
            netns.links.set_bridge_port(index, PORT).await?;
        }
        if let Err(error) = netns.links.set_up_plain(index, true).await {
            // Only now does the kernel bind the UDP port; a device without it is no device.
            delete_vtep(net).await?;
            return Err(name_port_holder(net, error, to.port).await);
        }
        Ok(())
    }

    async fn remove(net: &LocalNetwork, (): (), _: Before<'_, Self::Spec>) -> Result<()> {
        delete_vtep(net).await
    }
}

/// Deletes `vxlan0` from the network netns, which gives its VNI back.
pub(super) async fn delete_vtep(net: &LocalNetwork) -> Result<()> {
    net.delete_link(ownership::VTEP).await
}

fn observe(vtep: &Link, bridge: Option<&Link>) -> Result<spec::Vtep, &'static str> {
    let LinkKind::Vxlan(vxlan) = &vtep.kind else { return Err("it is no VXLAN device") };
    let (Some(mac), Some(local), Ok(vni)) = (vtep.mac, vxlan.local, Vni::new(vxlan.vni)) else {
        return Err("it has no MAC, no underlay address or no VNI");
    };
    let bridged = bridge.is_some_and(|bridge| vtep.controller == Some(bridge.index));
    let has_settings = !vxlan.learning && !vxlan.proxy && !vxlan.external && vxlan.remote.is_none();
    // A stranger can take the carrier of a VXLAN device away (`protodown`).
    let can_send = vtep.up && vtep.carrier && vtep.plain;
    if can_send && has_settings && (!bridged || is_sound_port(vtep, bridge)) {
        Ok(spec::Vtep { vni, local, port: vxlan.port, mac, mtu: vtep.mtu, bridged })
    } else {
        Err("down, or flagged, or learning, or a port that floods or is closed, or with a default destination")
    }
}

/// Says which process or device has the VXLAN port, where that is the cause.
async fn name_port_holder(net: &LocalNetwork, error: link::Error, port: u16) -> anyhow::Error {
    let host = &net.host.netns;
    let link::Error::PortInUse(_) = &error else { return error.into() };
    let holder = match link::udp_port_holder(&host.netns, &host.links, port).await {
        Ok(Some(holder)) => holder.to_string(),
        Ok(None) | Err(_) => "another program".to_owned(),
    };
    port_is_taken(port, &holder).into()
}

/// That the VXLAN port is taken on this host.
fn port_is_taken(port: u16, holder: &str) -> ControlError {
    ControlError::new(
        ErrorCode::VtepConflict,
        format!("UDP port {port} of this host, which vxlan0 needs, is taken by {holder}"),
        format!("stop what `ss -lunp sport = :{port}` shows, or give it another port"),
    )
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::tests::link;
    use super::*;
    use crate::link::{BridgePort, Vxlan};

    #[test]
    fn a_vtep_is_sound_until_one_of_its_settings_is_another() {
        let vxlan = Vxlan {
            vni: 7,
            local: Some(Ipv4Addr::new(192, 0, 2, 1)),
            remote: None,
            port: 4790,
            learning: false,
            proxy: false,
            external: false,
            udp_checksum: false,
        };
        let vtep = link(3, ownership::VTEP, LinkKind::Vxlan(vxlan.clone()));
        let bridge = link(2, ownership::BRIDGE, LinkKind::Bridge);
        let port = Link { controller: Some(2), bridge_port: Some(PORT), ..vtep.clone() };
        assert!(observe(&vtep, None).is_ok_and(|spec| !spec.bridged && spec.port == 4790));
        assert!(observe(&port, Some(&bridge)).is_ok_and(|spec| spec.bridged));
        let learns = BridgePort { learning: true, ..PORT };
        for broken in [
            Link { up: false, ..vtep.clone() },
            Link { carrier: false, ..vtep.clone() },
            Link { plain: false, ..vtep.clone() },
            Link { mac: None, ..vtep.clone() },
            Link { kind: LinkKind::Tun, ..vtep.clone() },
            Link { kind: LinkKind::Vxlan(Vxlan { learning: true, ..vxlan.clone() }), ..vtep.clone() },
            Link { kind: LinkKind::Vxlan(Vxlan { proxy: true, ..vxlan.clone() }), ..vtep.clone() },
            Link { kind: LinkKind::Vxlan(Vxlan { remote: vxlan.local, ..vxlan.clone() }), ..vtep.clone() },
            Link { kind: LinkKind::Vxlan(Vxlan { local: None, ..vxlan }), ..vtep.clone() },
            Link { bridge_port: Some(learns), ..port },
        ] {
            assert!(observe(&broken, Some(&bridge)).is_err(), "{broken:?}");
        }
    }
}
