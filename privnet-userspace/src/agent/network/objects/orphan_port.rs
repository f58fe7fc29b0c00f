//! Port rows of addresses without a record.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use anyhow::{Result, bail};
use privnet_ebpf::abi::PortRow;

use super::Managed;
use super::port::remove_rows;
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::scan::NetworkScan;
use crate::topology::{Before, State, kind, spec};

impl Managed for kind::OrphanPort {
    async fn observe(scan: &NetworkScan<'_>, state: &mut State) -> Result<()> {
        for address in without_record(scan.ports().await?, |address| scan.net.has_record_of(address)) {
            state.see::<Self>(address, Ok(spec::OrphanPort {}));
        }
        Ok(())
    }

    async fn make(_: &LocalNetwork, address: Ipv4Addr, _: Before<'_, Self::Spec>, _: &Self::Spec) -> Result<()> {
        bail!("no plan has an orphaned port row, and this one is of {address}")
    }

    async fn remove(net: &LocalNetwork, address: Ipv4Addr, _: Before<'_, Self::Spec>) -> Result<()> {
        remove_rows(&mut *net.existing_programs()?.lock().await, address.octets())
    }
}

/// The addresses of rows that no record is of.
fn without_record(ports: &BTreeMap<u32, PortRow>, has_record: impl Fn(Ipv4Addr) -> bool) -> BTreeSet<Ipv4Addr> {
    ports.values().map(|row| Ipv4Addr::from(row.address())).filter(|address| !has_record(*address)).collect()
}

#[cfg(test)]
mod tests {
    use privnet_ebpf::net::MacAddr;

    use super::*;

    #[test]
    fn a_row_is_an_orphan_when_no_record_has_its_address() {
        let [member, left] = [[10, 240, 0, 2], [10, 240, 0, 3]];
        let row = |address| PortRow::new(address, MacAddr::of_member(address, 1), 51_820);
        let ports = BTreeMap::from([(5, row(member)), (6, row(left)), (7, row(left))]);
        let is_member = |address: Ipv4Addr| address.octets() == member;
        assert_eq!(without_record(&ports, is_member), BTreeSet::from([left.into()]));
        assert_eq!(without_record(&ports, |_| true), BTreeSet::new());
    }
}
