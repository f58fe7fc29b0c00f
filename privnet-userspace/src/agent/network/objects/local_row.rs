//! That a member lives here, behind its own veth: a row of the programs' map.

use anyhow::Result;
use privnet_ebpf::abi::MemberRow;

use super::Managed;
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::scan::MemberScan;
use crate::model::MemberId;
use crate::topology::{Before, State, kind, spec};

impl Managed for kind::LocalRow {
    async fn observe_member(scan: &MemberScan<'_>, state: &mut State) -> Result<()> {
        let rows = scan.network.member_rows().await?;
        if let Some(found) = rows.get(&scan.record.address).and_then(|row| observe(row, scan.near_index())) {
            state.see::<Self>(scan.record.id, found);
        }
        Ok(())
    }

    async fn make(net: &LocalNetwork, member: MemberId, _: Before<'_, Self::Spec>, to: &Self::Spec) -> Result<()> {
        let row = MemberRow::local(to.mac, to.wireguard_port, net.veth_index(member).await?);
        Ok(net.existing_programs()?.lock().await.set_member(net.record(member)?.address, row)?)
    }

    async fn remove(net: &LocalNetwork, member: MemberId, _: Before<'_, Self::Spec>) -> Result<()> {
        Ok(net.existing_programs()?.lock().await.remove_member(net.record(member)?.address)?)
    }
}

/// The row of a member whose veth has this index; a row of a member of another host is none.
fn observe(row: &MemberRow, veth: Option<u32>) -> Option<Result<spec::LocalRow, &'static str>> {
    let index = row.ifindex()?;
    let found = spec::LocalRow { mac: row.mac(), wireguard_port: row.wireguard_port() };
    Some(if veth == Some(index) { Ok(found) } else { Err("to another interface") })
}

#[cfg(test)]
mod tests {
    use privnet_ebpf::net::MacAddr;

    use super::*;

    #[test]
    fn a_row_leads_to_the_members_own_veth_or_is_broken_and_that_of_another_host_is_none() {
        let mac = MacAddr::of_member([10, 240, 0, 2], 1);
        let row = MemberRow::local(mac, 51_820, 5);
        assert_eq!(observe(&row, Some(5)), Some(Ok(spec::LocalRow { mac, wireguard_port: 51_820 })));
        for elsewhere in [Some(6), None] {
            assert!(observe(&row, elsewhere).is_some_and(|found| found.is_err()), "{elsewhere:?}");
        }
        assert_eq!(observe(&MemberRow::remote(mac, 51_820), Some(5)), None);
    }
}
