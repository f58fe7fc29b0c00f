//! How a container's binding netns is set: it does not forward, speaks no IPv6, and has the rules of a new namespace.

use anyhow::Result;

use super::Managed;
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::own_netns::{harden, not_hardened};
use crate::agent::network::scan::MemberScan;
use crate::model::MemberId;
use crate::topology::{Before, Kind, State, kind, ownership, spec};

impl Managed for kind::BindingSettings {
    async fn observe_member(scan: &MemberScan<'_>, state: &mut State) -> Result<()> {
        let Some(binding) = scan.namespaces.binding.get() else { return Ok(()) };
        // Of a member that leaves, only when its namespace goes as well.
        if !state.contains(kind::BindingNetns::key(scan.record.id)) {
            return Ok(());
        }
        let link = ownership::binding_veth(scan.record.index);
        let fault = not_hardened(binding, &[link.as_str()]).await?;
        state.see::<Self>(scan.record.id, fault.as_deref().map_or(Ok(spec::BindingSettings {}), Err));
        Ok(())
    }

    async fn make(net: &LocalNetwork, member: MemberId, _: Before<'_, Self::Spec>, _: &Self::Spec) -> Result<()> {
        let namespaces = net.namespaces_of(member).await?;
        let link = ownership::binding_veth(net.record(member)?.index);
        harden(namespaces.existing_binding()?, &[link.as_str()]).await
    }

    /// The namespace goes in the same pass.
    async fn remove(_: &LocalNetwork, _: MemberId, _: Before<'_, Self::Spec>) -> Result<()> {
        Ok(())
    }
}
