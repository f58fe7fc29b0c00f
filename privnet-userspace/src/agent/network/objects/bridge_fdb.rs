//! That a remote member's MAC is behind `vxlan0`: a row of `br0`'s FDB (bridge datapath).

use std::net::Ipv4Addr;

use anyhow::Result;
use privnet_ebpf::net::MacAddr;

use super::Managed;
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::scan::NetworkScan;
use crate::link::AbsentIsDone;
use crate::topology::{Before, Kind, State, kind, ownership, spec};

impl Managed for kind::BridgeFdb {
    /// What the bridge learnt by itself is no row of ours.
    async fn observe(scan: &NetworkScan<'_>, state: &mut State) -> Result<()> {
        let Some(vtep) = scan.vtep() else { return Ok(()) };
        for row in scan.bridge_rows().await?.iter().filter(|row| row.fixed && row.port == vtep.index) {
            let Some(member) = row.mac.member_address().map(Ipv4Addr::from) else { continue };
            let is_known = state.contains(Self::key(member));
            let found = if is_known { Err("more than one row") } else { Ok(spec::BridgeFdb { mac: row.mac }) };
            state.see::<Self>(member, found);
        }
        Ok(())
    }

    async fn make(net: &LocalNetwork, member: Ipv4Addr, _: Before<'_, Self::Spec>, to: &Self::Spec) -> Result<()> {
        remove_rows(net, member, Some(to.mac)).await?;
        let netns = net.existing_netns().await?;
        Ok(netns.links.bridge_fdb_replace(netns.index_of(ownership::VTEP).await?, to.mac).await?)
    }

    async fn remove(net: &LocalNetwork, member: Ipv4Addr, _: Before<'_, Self::Spec>) -> Result<()> {
        remove_rows(net, member, None).await
    }
}

/// Removes the rows of a member's MACs behind `vxlan0`, of every generation but that of `keep`.
async fn remove_rows(net: &LocalNetwork, member: Ipv4Addr, keep: Option<MacAddr>) -> Result<()> {
    let netns = net.existing_netns().await?;
    let (bridge, vtep) = (netns.index_of(ownership::BRIDGE).await?, netns.index_of(ownership::VTEP).await?);
    for row in netns.links.bridge_fdb(bridge).await? {
        if row.port == vtep && row.mac.is_of_member(member.octets()) && Some(row.mac) != keep {
            netns.links.bridge_fdb_delete(vtep, row.mac).await.absent_is_done()?;
        }
    }
    Ok(())
}
