//! How `br0` treats a member's veth, and that its MAC is behind it (bridge datapath).

use std::net::Ipv4Addr;

use anyhow::Result;

use super::Managed;
use super::bridge::{PORT, is_sound_port};
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::scan::MemberScan;
use crate::link::{BridgeFdbEntry, Link};
use crate::model::MemberId;
use crate::topology::{Before, State, kind, spec};

impl Managed for kind::BridgePort {
    /// What the bridge learnt by itself is no row of ours.
    async fn observe_member(scan: &MemberScan<'_>, state: &mut State) -> Result<()> {
        let Some(near) = scan.network.links().get(scan.record.link().name().as_str()) else { return Ok(()) };
        if let Some(found) =
            observe(near, scan.network.bridge(), scan.record.address, scan.network.bridge_rows().await?)
        {
            state.see::<Self>(scan.record.id, found);
        }
        Ok(())
    }

    async fn make(net: &LocalNetwork, member: MemberId, before: Before<'_, Self::Spec>, to: &Self::Spec) -> Result<()> {
        let netns = net.existing_netns().await?;
        let veth = net.veth_index(member).await?;
        netns.links.set_bridge_port(veth, PORT).await?;
        if before.exists() {
            netns.links.open_bridge_port(veth).await?;
        }
        Ok(netns.links.bridge_fdb_replace(veth, to.mac).await?)
    }

    /// The veth pair goes, or is made anew, in the same pass.
    async fn remove(_: &LocalNetwork, _: MemberId, _: Before<'_, Self::Spec>) -> Result<()> {
        Ok(())
    }
}

/// The port of a member, and its MAC behind it; nothing without a row of ours.
fn observe(
    near: &Link,
    bridge: Option<&Link>,
    member: Ipv4Addr,
    rows: &[BridgeFdbEntry],
) -> Option<Result<spec::BridgePort, &'static str>> {
    let is_its_row =
        |row: &&BridgeFdbEntry| row.fixed && row.port == near.index && row.mac.is_of_member(member.octets());
    let row = rows.iter().rfind(is_its_row)?;
    let fits = is_sound_port(near, bridge);
    Some(if fits { Ok(spec::BridgePort { mac: row.mac }) } else { Err("a port that learns, floods, or is closed") })
}

#[cfg(test)]
mod tests {
    use privnet_ebpf::net::MacAddr;

    use super::super::tests::link;
    use super::*;
    use crate::link::{BridgePort, LinkKind};

    #[test]
    fn a_port_is_sound_until_it_learns_or_floods_and_is_none_without_its_row() {
        let member = Ipv4Addr::new(10, 240, 0, 2);
        let mac = MacAddr::of_member(member.octets(), 1);
        let row = BridgeFdbEntry { mac, port: 5, fixed: true };
        let near = Link { bridge_port: Some(PORT), ..link(5, "veth-1", LinkKind::Veth) };
        let bridge = link(2, "br0", LinkKind::Bridge);
        let observe = |near: &Link, row| observe(near, Some(&bridge), member, &[row]);
        assert_eq!(observe(&near, row), Some(Ok(spec::BridgePort { mac })));
        for setting in [
            Some(BridgePort { learning: true, ..PORT }),
            Some(BridgePort { unicast_flood: true, ..PORT }),
            Some(BridgePort { multicast_flood: true, ..PORT }),
            Some(BridgePort { broadcast_flood: true, ..PORT }),
            Some(BridgePort { forwarding: false, ..PORT }),
            Some(BridgePort { locked: true, ..PORT }),
            None,
        ] {
            let near = Link { bridge_port: setting, ..near.clone() };
            assert!(observe(&near, row).is_some_and(|found| found.is_err()), "{setting:?}");
        }
        for stranger in [
            BridgeFdbEntry { fixed: false, ..row },
            BridgeFdbEntry { port: 6, ..row },
            BridgeFdbEntry { mac: MacAddr::of_member([10, 240, 0, 3], 1), ..row },
        ] {
            assert_eq!(observe(&near, stranger), None, "{stranger:?}");
        }
    }
}
