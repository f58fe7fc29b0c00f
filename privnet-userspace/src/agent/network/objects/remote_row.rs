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
            let found = match row.ifindex() {
                None => Ok(spec::RemoteRow { mac: row.mac(), wireguard_port: row.wireguard_port() }),
                Some(_) if scan.net.has_record_of(*member) => continue,
                Some(_) => Err("behind an interface of this host"),
            };
            state.see::<Self>(*member, found);
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
