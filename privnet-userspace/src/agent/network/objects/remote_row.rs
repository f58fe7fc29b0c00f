//! That a member lives on another host, behind `vxlan0`: a row of the programs' map.

use std::net::Ipv4Addr;

use anyhow::Result;
use privnet_ebpf::abi::MemberRow;

use super::Managed;
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::scan::NetworkScan;
use crate::topology::{Before, State, kind, spec};

impl Managed for kind::RemoteRow {
    /// A row behind an interface of this host is a local member's; one without a record is no member's.
    async fn observe(scan: &NetworkScan<'_>, state: &mut State) -> Result<()> {
        for (member, row) in scan.member_rows().await? {
            if let Some(found) = observe(row, scan.net.has_record_of(*member)) {
                state.see::<Self>(*member, found);
            }
        }
        Ok(())
    }

    async fn make(net: &LocalNetwork, member: Ipv4Addr, _: Before<'_, Self::Spec>, to: &Self::Spec) -> Result<()> {
        let row = MemberRow::remote(to.mac, to.wireguard_port);
        Ok(net.existing_programs()?.lock().await.set_member(member, row)?)
    }

    async fn remove(net: &LocalNetwork, member: Ipv4Addr, _: Before<'_, Self::Spec>) -> Result<()> {
        Ok(net.existing_programs()?.lock().await.remove_member(member)?)
    }
}

/// The row of a member of another host; that of a member that this host has a record of is none.
fn observe(row: &MemberRow, has_record: bool) -> Option<Result<spec::RemoteRow, &'static str>> {
    match row.ifindex() {
        None => Some(Ok(spec::RemoteRow { mac: row.mac(), wireguard_port: row.wireguard_port() })),
        Some(_) if has_record => None,
        Some(_) => Some(Err("behind an interface of this host")),
    }
}

#[cfg(test)]
mod tests {
    use privnet_ebpf::net::MacAddr;

    use super::*;

    #[test]
    fn a_row_behind_an_interface_is_a_local_members_or_broken() {
        let mac = MacAddr::of_member([10, 240, 0, 9], 1);
        let sound = Some(Ok(spec::RemoteRow { mac, wireguard_port: 51_822 }));
        assert_eq!(observe(&MemberRow::remote(mac, 51_822), false), sound);
        let local = MemberRow::local(mac, 51_822, 5);
        assert_eq!(observe(&local, true), None);
        assert!(observe(&local, false).is_some_and(|found| found.is_err()));
    }
}
