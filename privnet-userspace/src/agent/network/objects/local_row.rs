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
        let Some(row) = rows.get(&scan.record.address).filter(|row| row.ifindex().is_some()) else { return Ok(()) };
        let found = spec::LocalRow { mac: row.mac(), wireguard_port: row.wireguard_port() };
        let fits = scan.near_index() == row.ifindex();
        state.see::<Self>(scan.record.id, if fits { Ok(found) } else { Err("to another interface") });
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
