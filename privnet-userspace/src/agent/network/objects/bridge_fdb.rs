//! That a remote member's MAC is behind `vxlan0`: a row of `br0`'s FDB (bridge datapath).

use std::net::Ipv4Addr;

use anyhow::Result;
use privnet_ebpf::net::MacAddr;

use super::Managed;
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::scan::NetworkScan;
use crate::link::{AbsentIsDone, BridgeFdbEntry};
use crate::topology::{Before, Kind, State, kind, ownership, spec};

impl Managed for kind::BridgeFdb {
    /// What the bridge learnt by itself is no row of ours.
    async fn observe(scan: &NetworkScan<'_>, state: &mut State) -> Result<()> {
        if let Some(vtep) = scan.vtep() {
            observe_rows(scan.bridge_rows().await?, vtep.index, state);
        }
        Ok(())
    }

    async fn make(net: &LocalNetwork, member: Ipv4Addr, _: Before<'_, Self::Spec>, to: &Self::Spec) -> Result<()> {
        remove_rows(net, member, Some(to.mac)).await?;
        let netns = net.existing_netns().await?;
        Ok(netns.links.bridge_fdb_replace(netns.index_of(ownership::VTEP).await?, to.mac).await?)
    }

    async fn remove(net: &LocalNetwork, member: Ipv4Addr, _: Before<'_, Self::Spec>) -> Result<()> {
        remove_rows(net, member, None).await
    }
}

fn observe_rows(rows: &[BridgeFdbEntry], vtep: u32, state: &mut State) {
    for row in rows.iter().filter(|row| row.fixed && row.port == vtep) {
        let Some(member) = row.mac.member_address().map(Ipv4Addr::from) else { continue };
        let is_known = state.contains(kind::BridgeFdb::key(member));
        let found = if is_known { Err("more than one row") } else { Ok(spec::BridgeFdb { mac: row.mac }) };
        state.see::<kind::BridgeFdb>(member, found);
    }
}

/// Removes the rows of a member's MACs behind `vxlan0`, of every generation but that of `keep`.
async fn remove_rows(net: &LocalNetwork, member: Ipv4Addr, keep: Option<MacAddr>) -> Result<()> {
    let netns = net.existing_netns().await?;
    let (bridge, vtep) = (netns.index_of(ownership::BRIDGE).await?, netns.index_of(ownership::VTEP).await?);
    for row in netns.links.bridge_fdb(bridge).await? {
        if row.port == vtep && row.mac.is_of_member(member.octets()) && Some(row.mac) != keep {
            netns.links.bridge_fdb_delete(vtep, row.mac).await.absent_is_done()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Key, Object, Seen};

    const VTEP: u32 = 3;

    #[test]
    fn one_row_behind_the_vtep_is_the_members_two_are_broken_and_a_learnt_one_is_none() {
        let member = Ipv4Addr::new(10, 240, 0, 2);
        let row = |generation| {
            let mac = MacAddr::of_member(member.octets(), generation);
            BridgeFdbEntry { mac, port: VTEP, fixed: true }
        };
        let seen = |rows: &[BridgeFdbEntry]| {
            let mut state = State::default();
            observe_rows(rows, VTEP, &mut state);
            state.get(Key::BridgeFdb(member)).cloned()
        };
        let sound = Seen::Sound(Object::BridgeFdb(member, spec::BridgeFdb { mac: row(1).mac }));
        assert_eq!(seen(&[row(1)]), Some(sound));
        assert!(matches!(seen(&[row(1), row(2)]), Some(Seen::Broken(..))));
        let strangers = [
            BridgeFdbEntry { fixed: false, ..row(1) },
            BridgeFdbEntry { port: VTEP + 1, ..row(1) },
            BridgeFdbEntry { mac: row(1).mac.near_end(), ..row(1) },
        ];
        assert_eq!(seen(&strangers), None);
    }
}
