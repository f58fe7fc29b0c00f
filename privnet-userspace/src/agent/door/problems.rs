//! What does not work of the containers of this host, with the members that it concerns.

use super::error::ControlError;
use super::explain::problem;
use super::views::{MemberProblems, ProblemView};
use crate::agent::host::journal::Record;
use crate::agent::shared::Shared;
use crate::model::Network;
use crate::netns::NetnsId;

/// What does not work of names, a line each.
pub(in crate::agent) fn of_names(shared: &Shared) -> Vec<String> {
    let problems = shared.names.reports().borrow().problems.clone();
    let journal = shared.journal();
    let line = |(netns, error): (Option<NetnsId>, ControlError)| {
        let problem = problem(&error);
        let Some(netns) = netns else { return format!("names: {problem}") };
        let here = journal.records().values().filter(|record| record.netns == netns);
        let members: Vec<String> = here.map(Record::names_text).collect();
        format!("names of {}: {problem}", members.join(", "))
    };
    problems.into_iter().map(line).collect()
}

/// That a network goes on without its name.
pub(super) fn nameless_text((network, holder): (&Network, &Network)) -> String {
    format!(
        "{}: its name {} was given to {} while the store had lost it; it goes on under its id (its members keep their \
         connections; a network cannot be renamed)",
        network.id, network.name, holder.id
    )
}

/// What does not work for a member, although it can send.
pub(in crate::agent) fn of_member(shared: &Shared, record: &Record) -> Vec<ProblemView> {
    let in_the_way = shared.workers.of(record.network).reports().borrow().in_the_way.get(&record.id).cloned();
    let of_names = shared.names.reports().borrow().problems.get(&Some(record.netns)).cloned();
    let container = in_the_way.map(|fault| (record.names_text(), fault.error));
    let names = of_names.map(|error| (format!("names of {}", record.names_text()), error));
    let view = |(what, error): (String, ControlError)| ProblemView { what, why: error.message, remedy: error.remedy };
    container.into_iter().chain(names).map(view).collect()
}

/// How much does not work for each member of this host.
pub(in crate::agent) fn counts(shared: &Shared) -> Vec<MemberProblems> {
    let records: Vec<Record> = shared.journal().records().values().filter(|record| !record.leaving).cloned().collect();
    let count = |record: &Record| {
        let network =
            shared.world(|world| world.networks().get(&record.network).map(|network| network.name.clone()))?;
        let has_failed = shared.workers.of(record.network).reports().borrow().failed.contains_key(&record.id);
        let count = of_member(shared, record).len() + usize::from(has_failed);
        Some(MemberProblems {
            network_name: network,
            network: record.network,
            member: record.container.to_string(),
            count: count as u64,
        })
    };
    records.iter().filter_map(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::names::desired::tests::{SHOP, world};
    use crate::store::{Event, Revision};

    #[test]
    fn a_name_that_was_given_out_meanwhile_stays_with_the_stores_network_and_the_other_goes_on() {
        const NEXT: &str = "pn-ffffd6a1-d05e-40ea-bf63-c4f8a75a9d8c";
        let mut world = world(&["ready"]);
        let put = |world: &mut crate::agent::world::World, key: &str, text: String| {
            let (key, value) = (key.parse().expect("a key"), text.into_bytes().into());
            world.follow(&Event::Put { key, value, revision: Revision::default() });
        };
        let next = format!(
            r#"{{"version":1,"id":"{NEXT}","name":"shop","vni":8,"subnet":"10.241.0.0/22","mtu":1390,"created_unix_seconds":2}}"#
        );
        put(&mut world, &format!("networks/{NEXT}"), next);
        let name = "shop".parse().expect("a name");
        for (holder, other) in [(NEXT, SHOP), (SHOP, NEXT)] {
            put(&mut world, "names/shop", format!(r#"{{"version":1,"network":"{holder}"}}"#));
            assert_eq!(world.network_named(&name).map(|network| network.id.to_string()).as_deref(), Some(holder));
            let texts: Vec<String> = world.nameless().map(nameless_text).collect();
            let says = format!("{other}: its name shop was given to {holder} ");
            assert!(matches!(&texts[..], [text] if text.starts_with(&says) && text.contains("goes on under its id")));
            let network = SHOP.parse().expect("an id");
            assert_eq!(world.members(network).count(), 1, "under its id, with its member");
        }
        // The twin: the other has ended.
        world.follow(&Event::Delete { key: format!("networks/{NEXT}").parse().expect("a key"), revision: Revision(1) });
        assert_eq!(world.nameless().count(), 0);
    }
}
