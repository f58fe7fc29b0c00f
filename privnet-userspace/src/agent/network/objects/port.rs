//! The row of the programs' map that binds a veth to its member's own address and MAC.

use anyhow::Result;
use privnet_ebpf::abi::PortRow;

use super::Managed;
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::scan::MemberScan;
use crate::datapath;
use crate::model::MemberId;
use crate::topology::{Before, Kind, State, kind, spec};

impl Managed for kind::Port {
    async fn observe_member(scan: &MemberScan<'_>, state: &mut State) -> Result<()> {
        let veth = scan.near_index();
        for (index, row) in scan.network.ports().await? {
            if row.address() != scan.record.address.octets() {
                continue;
            }
            let found = spec::Port { mac: row.mac(), wireguard_port: row.wireguard_port() };
            let fits = veth == Some(*index) && !state.contains(Self::key(scan.record.id));
            state.see::<Self>(scan.record.id, if fits { Ok(found) } else { Err("for another interface") });
        }
        Ok(())
    }

    async fn make(net: &LocalNetwork, member: MemberId, before: Before<'_, Self::Spec>, to: &Self::Spec) -> Result<()> {
        let veth = net.veth_index(member).await?;
        let address = net.record(member)?.address.octets();
        let programs = net.existing_programs()?;
        let mut programs = programs.lock().await;
        if before.exists() {
            remove_rows(&mut programs, address)?;
        }
        Ok(programs.set_port(veth, PortRow::new(address, to.mac, to.wireguard_port))?)
    }

    async fn remove(net: &LocalNetwork, member: MemberId, _: Before<'_, Self::Spec>) -> Result<()> {
        remove_rows(&mut *net.existing_programs()?.lock().await, net.record(member)?.address.octets())
    }
}

/// Removes the rows of an address, for whichever interface.
pub(super) fn remove_rows(programs: &mut datapath::Network, address: [u8; 4]) -> Result<()> {
    for (index, row) in programs.ports()? {
        if row.address() == address {
            programs.remove_port(index)?;
        }
    }
    Ok(())
}
