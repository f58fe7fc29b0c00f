//! The carrier address on the veth's end in the binding netns, with the routes that the kernel makes for it; both ends up.

use anyhow::Result;

use super::Managed;
use super::veth::pair_of;
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::scan::{MemberScan, if_up};
use crate::model::MemberId;
use crate::topology::{Before, State, kind, ownership, spec};

impl Managed for kind::Carrier {
    async fn observe_member(scan: &MemberScan<'_>, state: &mut State) -> Result<()> {
        let (Some(pair), Some(binding)) = (pair_of(scan).await?, scan.namespaces.binding.get()) else { return Ok(()) };
        if let Some(found) = binding.address(&pair.far, scan.record.address).await? {
            let found = found.and_then(|address| if_up(&pair.near, address));
            state.see::<Self>(scan.record.id, found.map(|address| spec::Carrier { address }));
        }
        Ok(())
    }

    async fn make(net: &LocalNetwork, member: MemberId, before: Before<'_, Self::Spec>, to: &Self::Spec) -> Result<()> {
        let netns = net.existing_netns().await?;
        let namespaces = net.namespaces_of(member).await?;
        let binding = namespaces.existing_binding()?;
        let far = binding.index_of(ownership::binding_veth(net.record(member)?.index).as_str()).await?;
        netns.links.set_up_plain(net.veth_index(member).await?, true).await?;
        binding.set_address(far, to.address).await?;
        binding.links.set_up_plain(far, true).await?;
        // For an address that is new the kernel makes them.
        if before.exists() { binding.repair_routes(far, to.address).await } else { Ok(()) }
    }

    /// The veth pair goes, or is made anew, in the same pass.
    async fn remove(_: &LocalNetwork, _: MemberId, _: Before<'_, Self::Spec>) -> Result<()> {
        Ok(())
    }
}
