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
        let there = scan.links().keys().filter_map(|name| MemberLink::parse(name));
        let there = there.filter(|link| !known.contains(link)).collect();
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
