//! `from_member` on a veth's end in the network netns.

use anyhow::Result;

use super::Managed;
use super::attachment::is_attached;
use super::veth::pair_of;
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::scan::MemberScan;
use crate::datapath::Hook;
use crate::model::MemberId;
use crate::topology::{Before, State, kind, spec};

impl Managed for kind::MemberProgram {
    async fn observe_member(scan: &MemberScan<'_>, state: &mut State) -> Result<()> {
        let (Some(netns), Some(programs)) = (scan.network.netns(), scan.programs()) else { return Ok(()) };
        let Some(pair) = pair_of(scan).await? else { return Ok(()) };
        if is_attached(&*programs.lock().await, netns, pair.near.index, &pair.near.name, Hook::FromMember).await? {
            state.see::<Self>(scan.record.id, Ok(spec::MemberProgram {}));
        }
        Ok(())
    }

    async fn make(net: &LocalNetwork, member: MemberId, _: Before<'_, Self::Spec>, _: &Self::Spec) -> Result<()> {
        let netns = net.existing_netns().await?;
        let veth = net.record(member)?.link().name();
        Ok(net.existing_programs()?.lock().await.attach(&netns.netns, &veth, Hook::FromMember).await?)
    }

    async fn remove(net: &LocalNetwork, member: MemberId, _: Before<'_, Self::Spec>) -> Result<()> {
        let netns = net.existing_netns().await?;
        let veth = net.record(member)?.link().name();
        Ok(net.existing_programs()?.lock().await.detach(&netns.netns, &veth, Hook::FromMember).await?)
    }
}
