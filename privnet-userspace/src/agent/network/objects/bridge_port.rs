//! How `br0` treats a member's veth, and that its MAC is behind it (bridge datapath).

use anyhow::Result;

use super::Managed;
use super::bridge::PORT;
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::scan::MemberScan;
use crate::model::MemberId;
use crate::topology::{Before, State, kind, spec};

impl Managed for kind::BridgePort {
    /// What the bridge learnt by itself is no row of ours.
    async fn observe_member(scan: &MemberScan<'_>, state: &mut State) -> Result<()> {
        let Some(near) = scan.network.links().get(scan.record.link().name().as_str()) else { return Ok(()) };
        let address = scan.record.address.octets();
        let rows = scan.network.bridge_rows().await?.iter();
        for row in rows.filter(|row| row.fixed && row.port == near.index && row.mac.is_of_member(address)) {
            let fits = near.bridge_port == Some(PORT);
            let found = if fits { Ok(spec::BridgePort { mac: row.mac }) } else { Err("a port that learns or floods") };
            state.see::<Self>(scan.record.id, found);
        }
        Ok(())
    }

    async fn make(net: &LocalNetwork, member: MemberId, _: Before<'_, Self::Spec>, to: &Self::Spec) -> Result<()> {
        let netns = net.existing_netns().await?;
        let veth = net.veth_index(member).await?;
        netns.links.set_bridge_port(veth, PORT).await?;
        Ok(netns.links.bridge_fdb_replace(veth, to.mac).await?)
    }

    /// The veth pair goes, or is made anew, in the same pass.
    async fn remove(_: &LocalNetwork, _: MemberId, _: Before<'_, Self::Spec>) -> Result<()> {
        Ok(())
    }
}
