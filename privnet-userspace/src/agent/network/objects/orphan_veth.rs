//! Veth pairs of ours without a record: on their way out with the namespace that held them, until they are overdue.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Result, bail};

use super::Managed;
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::scan::NetworkScan;
use crate::topology::ownership::MemberLink;
use crate::topology::{Before, State, kind, spec};

impl Managed for kind::OrphanVeth {
    /// A record is removed last, so a pair without one goes with its binding netns, or is a stranger's.
    async fn observe(scan: &NetworkScan<'_>, state: &mut State) -> Result<()> {
        let known: BTreeSet<MemberLink> = scan.net.records.values().map(|record| record.link()).collect();
        let there = without_record(scan.links().keys(), &known);
        for link in scan.net.orphans().overdue(there, Instant::now()) {
            state.see::<Self>(link, Ok(spec::OrphanVeth {}));
        }
        Ok(())
    }

    async fn make(_: &LocalNetwork, link: MemberLink, _: Before<'_, Self::Spec>, _: &Self::Spec) -> Result<()> {
        bail!("no plan has an orphaned veth pair, and this one is {link}")
    }

    async fn remove(net: &LocalNetwork, link: MemberLink, _: Before<'_, Self::Spec>) -> Result<()> {
        net.delete_link(link.name().as_str()).await
    }
}

/// The links by these names that are ours and none of the known ones.
fn without_record<'a>(names: impl Iterator<Item = &'a String>, known: &BTreeSet<MemberLink>) -> BTreeSet<MemberLink> {
    names.filter_map(|name| MemberLink::parse(name)).filter(|link| !known.contains(link)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_orphan_bears_a_name_of_ours_that_no_record_has() {
        let by_address = MemberLink::Address([10, 240, 0, 2].into());
        let names = ["lo", "vxlan0", "br0", "veth-x", "veth-1", "veth-2", "veth-0af00002"].map(str::to_owned);
        let known = BTreeSet::from([MemberLink::Slot(1)]);
        let orphans = without_record(names.iter(), &known);
        assert_eq!(orphans, BTreeSet::from([MemberLink::Slot(2), by_address]));
        assert_eq!(without_record(names.iter(), &orphans), known, "the twin");
    }
}
