//! Where a remote member's MAC lives: a row of `vxlan0`'s FDB.

use std::net::Ipv4Addr;

use anyhow::Result;
use privnet_ebpf::net::MacAddr;

use super::Managed;
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::scan::NetworkScan;
use crate::link::{AbsentIsDone, FdbEntry};
use crate::topology::{Before, Kind, State, kind, ownership, spec};

impl Managed for kind::Fdb {
    async fn observe(scan: &NetworkScan<'_>, state: &mut State) -> Result<()> {
        if let (Some(netns), Some(vtep)) = (scan.netns(), scan.vtep()) {
            observe_rows(&netns.links.fdb(vtep.index).await?, state);
        }
        Ok(())
    }

    async fn make(net: &LocalNetwork, member: Ipv4Addr, before: Before<'_, Self::Spec>, to: &Self::Spec) -> Result<()> {
        if before.exists() {
            remove_rows(net, member, Some(to.mac)).await?;
        }
        let netns = net.existing_netns().await?;
        Ok(netns.links.fdb_replace(netns.index_of(ownership::VTEP).await?, to.mac, to.vtep).await?)
    }

    async fn remove(net: &LocalNetwork, member: Ipv4Addr, _: Before<'_, Self::Spec>) -> Result<()> {
        remove_rows(net, member, None).await
    }
}

fn observe_rows(rows: &[FdbEntry], state: &mut State) {
    for row in rows {
        let Some(member) = row.mac.member_address().map(Ipv4Addr::from) else { continue };
        let found = match row.destination {
            Some(vtep) if !state.contains(kind::Fdb::key(member)) => Ok(spec::Fdb { mac: row.mac, vtep }),
            Some(_) | None => Err("more than one row, or one without a VTEP"),
        };
        state.see::<kind::Fdb>(member, found);
    }
}

/// Removes the rows of a member's MACs, of every generation but that of `keep`.
async fn remove_rows(net: &LocalNetwork, member: Ipv4Addr, keep: Option<MacAddr>) -> Result<()> {
    let netns = net.existing_netns().await?;
    let vtep = netns.index_of(ownership::VTEP).await?;
    for row in netns.links.fdb(vtep).await? {
        if row.mac.is_of_member(member.octets()) && Some(row.mac) != keep {
            netns.links.fdb_delete(vtep, row.mac).await.absent_is_done()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Key, Object, Seen};

    #[test]
    fn one_row_of_a_members_mac_is_its_row_and_two_are_broken() {
        let (member, vtep) = (Ipv4Addr::new(10, 240, 0, 2), Ipv4Addr::new(192, 0, 2, 1));
        let row = |generation, destination| {
            let mac = MacAddr::of_member(member.octets(), generation);
            FdbEntry { mac, destination, permanent: true }
        };
        let seen = |rows: &[FdbEntry]| {
            let mut state = State::default();
            observe_rows(rows, &mut state);
            state.get(Key::Fdb(member)).cloned()
        };
        let mac = MacAddr::of_member(member.octets(), 1);
        assert_eq!(seen(&[row(1, Some(vtep))]), Some(Seen::Sound(Object::Fdb(member, spec::Fdb { mac, vtep }))));
        for rows in [[row(1, Some(vtep)), row(2, Some(vtep))].as_slice(), &[row(1, None)]] {
            assert!(matches!(seen(rows), Some(Seen::Broken(..))));
        }
        let stranger = FdbEntry { mac: mac.near_end(), destination: Some(vtep), permanent: true };
        assert_eq!(seen(&[stranger]), None);
    }
}
