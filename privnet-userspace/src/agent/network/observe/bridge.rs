//! What `br0` of the bridge datapath says of members: how it treats their ports, behind which port each MAC is; and what a
//! member's carrier knows of the others without asking.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use privnet_ebpf::net::MacAddr;

use super::{Links, PORT, or_broken};
use crate::link::{BridgeFdbEntry, Neighbour};
use crate::topology::{Key, Spec, State, ownership};

/// Reads the bridge's table. What it learnt by itself is no row of ours and counts for nothing; the port of a member that
/// is not here any more goes with its veth.
pub(super) fn observe(rows: &[BridgeFdbEntry], links: &Links, is_here: impl Fn(Ipv4Addr) -> bool, state: &mut State) {
    let name_of = |index: u32| links.values().find(|link| link.index == index).map(|link| link.name.as_str());
    for row in rows.iter().filter(|row| row.fixed) {
        let Some(address) = row.mac.member_address() else { continue };
        let (member, spec) = (Ipv4Addr::from(address), Spec::BridgeFdb { mac: row.mac });
        let Some(port) = name_of(row.port) else { continue };
        if port == ownership::VTEP {
            let known = state.contains_key(&Key::BridgeFdb(member));
            state.insert(Key::BridgeFdb(member), or_broken(!known, "more than one row", spec));
        } else if is_here(member) && port == ownership::member_veth(member).as_str() {
            let fits = links.get(port).is_some_and(|link| link.bridge_port == Some(PORT));
            state.insert(Key::BridgePort(member), or_broken(fits, "a port that learns or floods", spec));
        }
    }
}

/// What a carrier knows for good; what it heard by ARP is no row of ours. `None` when that is nothing.
pub(super) fn observe_neighbours(rows: &[Neighbour]) -> Option<Spec> {
    let fixed = rows.iter().filter(|row| row.permanent).filter_map(|row| Some((row.address, row.mac?)));
    let known: BTreeMap<Ipv4Addr, MacAddr> = fixed.collect();
    (!known.is_empty()).then(|| Spec::Neighbours(Arc::new(known)))
}
