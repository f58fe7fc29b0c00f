//! The row of the programs' map that binds a veth to its member's own address and MAC.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::Result;
use privnet_ebpf::abi::PortRow;

use super::Managed;
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::scan::MemberScan;
use crate::datapath;
use crate::model::MemberId;
use crate::topology::{Before, State, kind, spec};

impl Managed for kind::Port {
    async fn observe_member(scan: &MemberScan<'_>, state: &mut State) -> Result<()> {
        if let Some(found) = observe(scan.network.ports().await?, scan.record.address, scan.near_index()) {
            state.see::<Self>(scan.record.id, found);
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

/// The one row of a member's address, which must be of its veth.
fn observe(
    ports: &BTreeMap<u32, PortRow>,
    member: Ipv4Addr,
    veth: Option<u32>,
) -> Option<Result<spec::Port, &'static str>> {
    let mut rows = ports.iter().filter(|(_, row)| row.address() == member.octets());
    let (index, row) = rows.next()?;
    let fits = veth == Some(*index) && rows.next().is_none();
    let found = spec::Port { mac: row.mac(), wireguard_port: row.wireguard_port() };
    Some(if fits { Ok(found) } else { Err("for another interface") })
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

#[cfg(test)]
mod tests {
    use privnet_ebpf::net::MacAddr;

    use super::*;

    #[test]
    fn the_row_of_an_address_is_that_of_its_veth_alone() {
        let member = Ipv4Addr::new(10, 240, 0, 2);
        let mac = MacAddr::of_member(member.octets(), 1);
        let row = PortRow::new(member.octets(), mac, 51_820);
        let neighbour = PortRow::new([10, 240, 0, 3], MacAddr::of_member([10, 240, 0, 3], 1), 51_820);
        let seen = |rows: &[(u32, PortRow)], veth| observe(&rows.iter().copied().collect(), member, veth);
        let sound = Some(Ok(spec::Port { mac, wireguard_port: 51_820 }));
        assert_eq!(seen(&[(5, row), (6, neighbour)], Some(5)), sound);
        assert_eq!(seen(&[(6, neighbour)], Some(5)), None);
        for (rows, veth) in [
            ([(5, row), (6, neighbour)], Some(6)),
            ([(5, row), (6, neighbour)], None),
            ([(5, row), (7, row)], Some(5)),
            ([(4, row), (5, row)], Some(5)),
        ] {
            assert!(seen(&rows, veth).is_some_and(|found| found.is_err()), "{veth:?}");
        }
    }
}
