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
