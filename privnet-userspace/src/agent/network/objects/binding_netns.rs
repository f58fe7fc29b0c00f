//! A container's binding netns.

use anyhow::Result;

use super::Managed;
use crate::agent::host::journal::{Journal, Record};
use crate::agent::netns_links::NetnsLinks;
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::own_netns::create_or_open;
use crate::agent::network::scan::MemberScan;
use crate::model::MemberId;
use crate::netns::Netns;
use crate::topology::{Before, State, kind, spec};

impl Managed for kind::BindingNetns {
    async fn observe_member(scan: &MemberScan<'_>, state: &mut State) -> Result<()> {
        let record = scan.record;
        if scan.namespaces.binding.get().is_some() && !(record.leaving && is_needed_elsewhere(scan.net(), record)) {
            state.see::<Self>(record.id, Ok(spec::BindingNetns { digits: record.binding() }));
        }
        Ok(())
    }

    async fn make(net: &LocalNetwork, member: MemberId, _: Before<'_, Self::Spec>, _: &Self::Spec) -> Result<()> {
        let name = net.binding_name(net.record(member)?);
        let netns = {
            let _journal = net.journal.lock();
            create_or_open(&net.host.config.netns_dir, &name)?
        };
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
        // Another membership of the container writes its record before it looks for this namespace.
        let journal = net.journal.lock();
        remove_with_the_last(net, &journal, record)
    }
}

/// Removes the binding netns of a record's container, unless another record needs it. To be asked once more when the record
/// goes: two memberships that leave at the same time may each have left it to the other.
pub fn remove_with_the_last(net: &LocalNetwork, journal: &Journal, record: &Record) -> Result<()> {
    if journal.records().values().any(|other| needs_it_too(other, record)) {
        return Ok(());
    }
    Ok(Netns::remove(&net.host.config.netns_dir, &net.binding_name(record))?)
}

/// Whether another membership needs the container's binding netns.
fn is_needed_elsewhere(net: &LocalNetwork, record: &Record) -> bool {
    net.journal.lock().records().values().any(|other| needs_it_too(other, record))
}

fn needs_it_too(other: &Record, record: &Record) -> bool {
    other.id != record.id && other.binding() == record.binding()
}
