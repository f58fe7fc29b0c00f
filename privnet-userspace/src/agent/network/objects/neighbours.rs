//! All members' MACs, for good, on a member's carrier: it sends no ARP and believes none (bridge datapath). With programs the
//! carrier has none for good, since what it asks is answered: one that is there is a stranger's.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::Result;
use privnet_ebpf::net::MacAddr;

use super::Managed;
use super::veth::pair_of;
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::scan::MemberScan;
use crate::link::{AbsentIsDone, Neighbour};
use crate::model::MemberId;
use crate::topology::{Before, State, kind, ownership, spec};

impl Managed for kind::Neighbours {
    async fn observe_member(scan: &MemberScan<'_>, state: &mut State) -> Result<()> {
        let (Some(pair), Some(binding)) = (pair_of(scan).await?, scan.namespaces.binding.get()) else { return Ok(()) };
        let macs = fixed(&binding.links.neighbours(pair.far.index).await?);
        if !macs.is_empty() {
            state.see::<Self>(scan.record.id, Ok(spec::Neighbours { macs: Arc::new(macs) }));
        }
        Ok(())
    }

    async fn make(net: &LocalNetwork, member: MemberId, before: Before<'_, Self::Spec>, to: &Self::Spec) -> Result<()> {
        let namespaces = net.namespaces_of(member).await?;
        let binding = namespaces.existing_binding()?;
        let far = binding.index_of(ownership::binding_veth(net.record(member)?.index).as_str()).await?;
        let none = BTreeMap::new();
        let from = before.spec().map_or(&none, |spec| spec.macs.as_ref());
        for address in from.keys().filter(|address| !to.macs.contains_key(address)) {
            binding.links.neighbour_delete(far, *address).await.absent_is_done()?;
        }
        for (address, mac) in to.macs.iter().filter(|(address, mac)| from.get(address) != Some(mac)) {
            binding.links.neighbour_replace(far, *address, *mac).await?;
        }
        Ok(())
    }

    /// Only of a veth pair that stays.
    async fn remove(net: &LocalNetwork, member: MemberId, before: Before<'_, Self::Spec>) -> Result<()> {
        let namespaces = net.namespaces_of(member).await?;
        let Some(binding) = namespaces.binding.get() else { return Ok(()) };
        let name = ownership::binding_veth(net.record(member)?.index);
        let Some(far) = binding.find(name.as_str()).await? else { return Ok(()) };
        for address in before.spec().into_iter().flat_map(|spec| spec.macs.keys()) {
            binding.links.neighbour_delete(far.index, *address).await.absent_is_done()?;
        }
        Ok(())
    }
}

/// What a carrier knows for good; what it heard by ARP is no row of ours.
fn fixed(rows: &[Neighbour]) -> BTreeMap<Ipv4Addr, MacAddr> {
    rows.iter().filter(|row| row.permanent).filter_map(|row| Some((row.address, row.mac?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_heard_by_arp_is_no_row_of_ours() {
        let address = Ipv4Addr::new(10, 240, 0, 2);
        let mac = MacAddr::of_member(address.octets(), 0);
        let row = |permanent, mac| Neighbour { index: 2, address, mac, permanent };
        assert_eq!(fixed(&[row(true, Some(mac))]), [(address, mac)].into());
        assert_eq!(fixed(&[row(false, Some(mac)), row(true, None)]), BTreeMap::new());
    }
}
