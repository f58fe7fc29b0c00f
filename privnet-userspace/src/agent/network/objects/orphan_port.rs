//! Port rows of addresses without a record.

use std::net::Ipv4Addr;

use anyhow::{Result, bail};

use super::Managed;
use super::port::remove_rows;
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::scan::NetworkScan;
use crate::topology::{Before, State, kind, spec};

impl Managed for kind::OrphanPort {
    async fn observe(scan: &NetworkScan<'_>, state: &mut State) -> Result<()> {
        for row in scan.ports().await?.values() {
            let address = Ipv4Addr::from(row.address());
            if !scan.net.has_record_of(address) {
                state.see::<Self>(address, Ok(spec::OrphanPort {}));
            }
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
