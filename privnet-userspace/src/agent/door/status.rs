//! What `status` says: what there is on this host, and every problem, each as it was seen last.

use super::error::ControlError;
use super::explain::problem;
use super::problems::{nameless_text, of_names};
use super::reads;
use super::views::{HostState, HostView, NamesView, StatusView};
use crate::agent::adoption;
use crate::agent::shared::Shared;
use crate::model::MemberId;

/// The view, with what was just seen of names and underlay.
pub(super) fn view(
    shared: &Shared,
    names: Result<Option<NamesView>, ControlError>,
    underlay: &[ControlError],
) -> StatusView {
    let mut networks = 0;
    let (mut members, mut ready, mut last) = (0, 0, None);
    let mut problems: Vec<String> = shared.world(|world| world.problems().cloned().collect());
    problems.extend(shared.store_problems.lines());
    problems.extend(shared.host.state_dir.check_writable().err().iter().map(problem));
    problems.extend(adoption::refusal(shared).iter().map(problem));
    problems.extend(shared.unrecorded.lines());
    problems.extend(underlay.iter().map(|trouble| format!("underlay: {}", problem(trouble))));
    for (network, handle) in shared.workers.all() {
        let report = handle.reports().borrow().clone();
        let local = report.ready.len() + report.failed.len();
        networks += usize::from(local > 0);
        members += local;
        ready += report.ready.len();
        if report.pass > 0 {
            last = last.max(Some(report.ended_unix_seconds));
        }
        let name = |id: &MemberId| {
            let journal = shared.journal();
            let record = journal.records().get(id);
            record.map_or_else(|| id.to_string(), |record| format!("{} ({})", record.names_text(), record.address))
        };
        let failed = |(id, error)| format!("{network} {}: {}", name(id), problem(error));
        let in_the_way = report.in_the_way.iter().map(|(id, fault)| (id, &fault.error));
        problems.extend(report.failed.iter().chain(in_the_way).map(failed));
        problems.extend(report.problems.iter().map(|problem| format!("{network}: {problem}")));
    }
    problems.extend(of_names(shared));
    let names = names.unwrap_or_else(|error| {
        problems.push(format!("names: {error}"));
        None
    });
    if names.as_ref().is_some_and(|names| names.is_stale) {
        problems.push("names: the snapshot of the DNS process is too old, and it answers SERVFAIL".to_owned());
    }
    problems.extend(shared.world(|world| world.nameless().map(nameless_text).collect::<Vec<_>>()));
    let hosts = reads::hosts(shared);
    let unreachable: Vec<&HostView> = hosts.iter().filter(|host| host.state == HostState::Unreachable).collect();
    StatusView {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: shared.host.config.host.clone(),
        vtep: shared.host.facts.vtep,
        underlay_mtu: shared.host.facts.mtu.underlay,
        datapath: shared.host.facts.datapath,
        wireguard: shared.host.facts.wireguard,
        store: shared.store.kind(),
        networks,
        members,
        members_ready: ready,
        last_pass_unix_seconds: last,
        problems,
        names,
        clock_steps: shared.world(|world| world.clock_steps().get(&shared.host.config.host).copied().unwrap_or(0)),
        hosts: hosts.len(),
        hosts_unreachable: unreachable.iter().map(|host| host.name.clone()).collect(),
        members_unreachable: unreachable.iter().map(|host| host.members).sum(),
        store_age_seconds: reads::store_age_seconds(shared),
    }
}
