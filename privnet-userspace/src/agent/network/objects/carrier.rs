//! The carrier address on the veth's end in the binding netns; both ends up.

use anyhow::Result;

use super::Managed;
use super::veth::pair_of;
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::scan::{MemberScan, address_of, if_up};
use crate::model::MemberId;
use crate::topology::{Before, State, kind, ownership, spec};

impl Managed for kind::Carrier {
    async fn observe_member(scan: &MemberScan<'_>, state: &mut State) -> Result<()> {
        let (Some(pair), Some(binding)) = (pair_of(scan).await?, scan.namespaces.binding.get()) else { return Ok(()) };
        if let Some(address) = address_of(&binding.links.addresses().await?, pair.far.index) {
            state.see::<Self>(scan.record.id, if_up(pair.near.up && pair.far.up, spec::Carrier { address }));
        }
        Ok(())
    }

    async fn make(net: &LocalNetwork, member: MemberId, _: Before<'_, Self::Spec>, to: &Self::Spec) -> Result<()> {
        let netns = net.existing_netns().await?;
        let namespaces = net.namespaces_of(member).await?;
        let binding = namespaces.existing_binding()?;
        let far = binding.index_of(ownership::binding_veth(net.record(member)?.index).as_str()).await?;
        netns.links.set_up(net.veth_index(member).await?).await?;
        binding.set_address(far, to.address).await?;
        Ok(binding.links.set_up(far).await?)
    }

    /// The veth pair goes, or is made anew, in the same pass.
    async fn remove(_: &LocalNetwork, _: MemberId, _: Before<'_, Self::Spec>) -> Result<()> {
        Ok(())
    }
}
