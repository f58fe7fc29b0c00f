//! A container's binding netns.

use anyhow::Result;

use super::Managed;
use crate::agent::host::journal::Record;
use crate::agent::netns_links::NetnsLinks;
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::own_netns::{create_or_open, harden};
use crate::agent::network::scan::MemberScan;
use crate::model::MemberId;
use crate::netns::Netns;
use crate::topology::{Before, State, kind, spec};

impl Managed for kind::BindingNetns {
    async fn observe_member(scan: &MemberScan<'_>, state: &mut State) -> Result<()> {
        let record = scan.record;
        if scan.namespaces.binding.get().is_some() && !(record.leaving && is_needed_elsewhere(scan.net(), record)) {
            state.see::<Self>(record.id, Ok(spec::BindingNetns { container: record.container.clone() }));
        }
        Ok(())
    }

    async fn make(net: &LocalNetwork, member: MemberId, _: Before<'_, Self::Spec>, _: &Self::Spec) -> Result<()> {
        let name = net.binding_name(&net.record(member)?.container);
        let netns = {
            let _journal = net.journal.lock();
            create_or_open(&net.host.config.netns_dir, &name)?
        };
        harden(&netns).await?;
        let binding = NetnsLinks::enter(netns).await?;
        // Another network of the container may have entered it first: it is the same namespace.
        let _ = net.namespaces_of(member).await?.binding.set(binding);
        Ok(())
    }

    async fn remove(net: &LocalNetwork, member: MemberId, _: Before<'_, Self::Spec>) -> Result<()> {
        let record = net.record(member)?;
        // With a container that is gone went its guards, but not the pins of those that had to go before strangers.
        if let (None, Some(programs)) = (&net.namespaces_of(member).await?.app, net.programs()) {
            programs.lock().await.unpin_links_of(record.netns)?;
        }
        let name = net.binding_name(&record.container);
        // Another network of the container writes its record before it looks for this namespace.
        let journal = net.journal.lock();
        let needed = |other: &Record| other.container == record.container && other.network != record.network;
        if journal.records().values().any(needed) {
            return Ok(());
        }
        Ok(Netns::remove(&net.host.config.netns_dir, &name)?)
    }
}

/// Whether another network needs the container's binding netns.
fn is_needed_elsewhere(net: &LocalNetwork, record: &Record) -> bool {
    let journal = net.journal.lock();
    journal.records().values().any(|other| other.container == record.container && other.network != record.network)
}
