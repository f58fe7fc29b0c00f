//! A member's veth pair: the near end in the network netns, the far end in the binding netns.

use anyhow::Result;
use privnet_ebpf::net::MacAddr;

use super::Managed;
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::scan::{MemberScan, VethPair};
use crate::link::{self, AbsentIsDone, Link, VethEnd, VethSpec};
use crate::model::MemberId;
use crate::topology::{Before, State, kind, ownership, spec};

impl Managed for kind::Veth {
    async fn observe_member(scan: &MemberScan<'_>, state: &mut State) -> Result<()> {
        let name = scan.record.link().name();
        if !scan.network.links().contains_key(name.as_str()) || scan.namespaces.binding.get().is_none() {
            return Ok(());
        }
        let found = match pair_of(scan).await? {
            Some(VethPair { near, far, .. }) if near.mac != far.mac.map(MacAddr::near_end) => {
                Err("its ends' MACs do not fit")
            }
            Some(VethPair { near, far, bridged }) => Ok(spec::Veth {
                name,
                binding_name: ownership::binding_veth(scan.record.index),
                mac: far.mac.unwrap_or(MacAddr::BROADCAST),
                mtu: near.mtu,
                bridged: *bridged,
            }),
            None => Err("its two ends do not fit"),
        };
        state.see::<Self>(scan.record.id, found);
        Ok(())
    }

    async fn make(net: &LocalNetwork, member: MemberId, _: Before<'_, Self::Spec>, to: &Self::Spec) -> Result<()> {
        let netns = net.existing_netns().await?;
        let namespaces = net.namespaces_of(member).await?;
        let binding = namespaces.existing_binding()?;
        let pair = VethSpec {
            a: VethEnd { name: &to.name, netns: &netns.netns, mac: to.mac.near_end(), mtu: to.mtu },
            b: VethEnd { name: &to.binding_name, netns: &binding.netns, mac: to.mac, mtu: to.mtu },
        };
        // What has our name here is an earlier pair of ours that is still going, or that does not fit.
        net.delete_link(to.name.as_str()).await?;
        if let Err(error) = netns.links.create_veth(&pair).await {
            let link::Error::AlreadyExists(_) = error else { return Err(error.into()) };
            if let Some(stale) = binding.find(to.binding_name.as_str()).await? {
                binding.links.delete(stale.index).await.absent_is_done()?;
            }
            netns.links.create_veth(&pair).await?;
        }
        if to.bridged {
            let bridge = netns.index_of(ownership::BRIDGE).await?;
            netns.links.set_controller(netns.index_of(to.name.as_str()).await?, Some(bridge)).await?;
        }
        Ok(())
    }

    async fn remove(net: &LocalNetwork, member: MemberId, _: Before<'_, Self::Spec>) -> Result<()> {
        net.delete_link(net.record(member)?.link().name().as_str()).await
    }
}

/// The pair of a scan's member, when both ends are there and fit.
pub(super) async fn pair_of<'a>(scan: &'a MemberScan<'_>) -> Result<Option<&'a VethPair>> {
    Ok(scan.veth.get_or_try_init(|| observe(scan)).await?.as_ref())
}

async fn observe(scan: &MemberScan<'_>) -> Result<Option<VethPair>> {
    let Some(near) = scan.network.links().get(scan.record.link().name().as_str()) else { return Ok(None) };
    let Some(binding) = scan.namespaces.binding.get() else { return Ok(None) };
    let far = binding.find(ownership::binding_veth(scan.record.index).as_str()).await?;
    let bridge = scan.network.links().get(ownership::BRIDGE).map(|bridge| bridge.index);
    Ok(far.and_then(|far| pair(near, far, bridge)))
}

/// The two ends as a pair, when they fit.
fn pair(near: &Link, far: Link, bridge: Option<u32>) -> Option<VethPair> {
    let bridged = near.controller.is_some() && near.controller == bridge;
    let is_a_strangers_port = far.controller.is_some() || (near.controller.is_some() && !bridged);
    (far.mtu == near.mtu && !is_a_strangers_port).then(|| VethPair { near: near.clone(), far, bridged })
}

#[cfg(test)]
mod tests {
    use super::super::tests::link;
    use super::*;
    use crate::link::LinkKind;

    #[test]
    fn two_ends_fit_by_their_mtu_and_as_ports_of_no_bridge_but_br0() {
        let (near, far) = (link(5, "veth-1", LinkKind::Veth), link(9, "vxlan-1-veth0", LinkKind::Veth));
        let bridged = |near: &Link, bridge| pair(near, far.clone(), bridge).map(|pair| pair.bridged);
        assert_eq!(bridged(&near, Some(2)), Some(false));
        assert_eq!(bridged(&near, None), Some(false), "without a bridge a link without one is no port of it");
        let port = Link { controller: Some(2), ..near.clone() };
        assert_eq!(bridged(&port, Some(2)), Some(true));
        assert_eq!(bridged(&port, Some(3)), None, "of another bridge");
        assert!(
            pair(&near, Link { controller: Some(2), ..far.clone() }, None).is_none(),
            "of a bridge in the binding netns"
        );
        assert!(pair(&near, Link { mtu: 1400, ..far.clone() }, None).is_none());
    }
}
