//! One network on this host: pass after pass until what is there is what should be.
//!
//! A pass takes the intent, plans, compares with what was last seen (or looks anew), applies the difference and reports. It
//! keeps no truth: killed between two operations, the next agent looks, and finds the difference smaller.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::time::Instant;

use super::apply::{Applied, Failures, Telling, apply, parted};
use super::container;
use super::handle::{Doubts, Fault, Report, WorkerHandle};
use super::intent::intent;
use super::local::LocalNetwork;
use super::objects;
use super::observe::{Observation, observe, observe_doubted};
use super::ready::Ready;
use super::watch::Watchers;
use crate::agent::adoption;
use crate::agent::door::error::{ControlError, ErrorCode};
use crate::agent::door::explain::{explain, problem};
use crate::agent::host::journal::Record;
use crate::agent::membership;
use crate::agent::said::Said;
use crate::agent::shared::Memberships;
use crate::agent::world::Concerns;
use crate::model::{Member, MemberId, MemberState, NetworkId};
use crate::netns::NetnsId;
use crate::topology::{DeviceAt, Intent, Key, Op, Plan, Seen, State, diff, plan};
use crate::wireguard::Backend;

/// How long a pass that failed waits for the next one, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// How long a repair that repeats is not said again.
const REPEATED: Duration = Duration::from_secs(60);

/// The task of one network.
pub struct Worker {
    network: NetworkId,
    memberships: Arc<Memberships>,
    handle: Arc<WorkerHandle>,
    net: LocalNetwork,
    watchers: Watchers,
    /// What was last seen, kept up to date by our own operations; absent when it may be wrong.
    seen: Option<State>,
    /// The members of whom it may be wrong: an operation of theirs failed.
    unseen: BTreeSet<MemberId>,
    /// Where the devices were at the last pass that are handed over, and in which namespaces.
    places: BTreeMap<MemberId, (NetnsId, DeviceAt)>,
    /// What of the members' containers was in the way when it was last seen.
    in_the_way: BTreeMap<MemberId, Fault>,
    passes: u64,
    /// What stood after the last pass: what is missing of it now is repaired.
    built: Plan,
    /// What was repaired last, and when.
    repaired: Option<(String, Instant)>,
    /// What went wrong since a pass did not.
    said: Said,
    ready: Ready,
}

impl Worker {
    /// A worker that has not looked yet.
    #[must_use]
    pub fn new(network: NetworkId, memberships: Arc<Memberships>, handle: Arc<WorkerHandle>) -> Self {
        let net = LocalNetwork::new(network, &memberships);
        let watchers = Watchers::new(Arc::clone(&handle));
        let ready = Ready::new(Arc::clone(&memberships), network);
        Self {
            network,
            memberships,
            handle,
            net,
            watchers,
            seen: None,
            unseen: [].into(),
            places: [].into(),
            in_the_way: [].into(),
            passes: 0,
            built: Plan::default(),
            repaired: None,
            said: Said::default(),
            ready,
        }
    }

    /// Works until the network is gone and nothing of it is left on this host.
    pub async fn run(mut self) {
        let mut delay = RETRY.0;
        let handle = Arc::clone(&self.handle);
        loop {
            let turn = handle.begin_pass().await;
            let mut report = self.pass().await;
            self.net.report_drops(self.memberships.drops.sample()).await;
            drop(turn);
            self.ready.tell();
            report.problems.extend_from_slice(self.ready.problems());
            let left = !report.records.is_empty() || !self.seen.as_ref().is_some_and(State::is_empty);
            if !left && self.memberships.world(|world| !world.networks().contains_key(&self.network)) {
                self.handle.publish(report);
                return;
            }
            let failed = !report.failed.is_empty() || !report.problems.is_empty();
            if !failed {
                let _ = self.said.is_over();
            }
            self.handle.publish(report);
            if failed {
                self.woken_within(Some(delay)).await;
                delay = (delay * 2).min(RETRY.1);
            } else {
                delay = RETRY.0;
                self.woken_within(None).await;
            }
        }
    }

    /// Waits to be woken, for so long at most, or until there are other problems with telling the store.
    async fn woken_within(&mut self, patience: Option<Duration>) {
        let patience = tokio::time::sleep(patience.unwrap_or(Duration::MAX));
        tokio::pin!(patience);
        loop {
            tokio::select! {
                () = self.handle.woken() => return,
                () = &mut patience => return,
                has_other_problems = self.ready.told() => {
                    if has_other_problems {
                        return;
                    }
                    if self.ready.problems().is_empty() {
                        // Of those that became ready meanwhile.
                        self.ready.tell();
                    }
                }
            }
        }
    }

    /// Makes a pass, and returns what it led to.
    async fn pass(&mut self) -> Report {
        self.passes += 1;
        let (mut doubts, answered) = self.handle.take_doubts();
        doubts.everything |= self.net.programs_are_lost().await;
        // What is missing may be missing because its container is gone: then nothing is to be built again.
        if doubts.exist() {
            membership::end_dead_before_pass(&self.memberships).await;
        }
        doubts.members.append(&mut self.unseen);
        let vxlan_port = self.memberships.fleet.vxlan_port();
        let (intent, records) = intent(&self.net.host, vxlan_port, &self.net.world, &self.net.journal, self.network);
        if adoption::is_unadopted(&self.memberships, self.network)
            && let Some(error) = adoption::refusal(&self.memberships)
        {
            // What becomes of them is not seen by this task.
            self.seen = None;
            return Report { answered, ..self.unchanged(&records, &error) };
        }
        if intent.is_none() && records.iter().any(|record| !record.leaving) {
            return Report { answered, ..self.without_network(&records) };
        }
        // A device that was handed over was not looked at while it was under way.
        let handed_over = records.iter().filter(|record| record.leaving && record.handover.is_some());
        doubts.members.extend(handed_over.map(|record| record.id));
        // One that came under way since the last pass was seen where it is not any more.
        let places = records.iter().filter(|record| record.handover.is_some());
        let places: BTreeMap<_, _> = places.map(|record| (record.id, (record.netns, record.device()))).collect();
        let moved = places.iter().filter(|(member, place)| self.places.get(member) != Some(place));
        doubts.members.extend(moved.map(|(member, _)| *member));
        self.places = places;
        let desired = Arc::new(intent.as_ref().map(plan).unwrap_or_default());
        self.net.begin_pass(&records, intent.as_ref());
        // Before anything goes by our own hand, which is not to be taken for a stranger's.
        self.watchers.expect(&desired);
        let mut failures = Failures::default();
        match self.observed(&doubts).await {
            Ok(Observation { state: mut observed, unobserved, in_the_way }) => {
                self.in_the_way.retain(|member, _| !doubts.everything && !doubts.members.contains(member));
                self.in_the_way.extend(in_the_way);
                let to_extend: BTreeSet<Key> = doubts.unguarded.into_iter().map(Key::Guard).collect();
                let unguarded = to_extend.iter().map(|key| (*key, "an interface appeared"));
                let interrupted = doubts.interrupted.into_iter().map(|id| (Key::Tunnel(id), "it was down"));
                for (key, why) in unguarded.chain(interrupted) {
                    if observed.contains(key) {
                        observed.insert(Seen::Broken(key, why.to_owned()));
                    }
                }
                let mut goal = Plan::clone(&desired);
                let local = intent.iter().flat_map(|intent| intent.local.keys().copied());
                let fresh: Vec<MemberId> = local.filter(|id| !observed.contains(Key::Tunnel(*id))).collect();
                for (member, error) in unobserved {
                    leave_unobserved(member, &mut goal, &mut observed);
                    failures.add(Key::Device(member), explain(&error));
                }
                let ops = diff(&goal, &observed);
                // A userspace device keeps what comes of a member, and for it, before it is told of that member.
                let told_later = !fresh.is_empty() && self.net.host.facts.wireguard == Backend::Userspace;
                let telling = if told_later { Telling::Peers } else { Telling::PeersAndDeparted };
                let (own, neighbours) = parted(&ops, telling);
                if told_later {
                    let applied = apply(&self.net, &own, &failures.keys).await;
                    self.note(applied, &mut observed, &mut failures);
                } else {
                    let (net, failed) = (&self.net, &failures.keys);
                    let (own, neighbours) = tokio::join!(apply(net, &own, failed), apply(net, &neighbours, failed));
                    self.note(own, &mut observed, &mut failures);
                    self.note(neighbours, &mut observed, &mut failures);
                }
                for member in &fresh {
                    // One that cannot be asked has failed, or is asked by the next observation.
                    if let Ok(Some(fault)) = container::fault_of_new(&self.net, *member).await {
                        self.in_the_way.insert(*member, fault);
                    }
                }
                if told_later {
                    self.announce(intent.as_ref(), &fresh, &failures);
                    let applied = apply(&self.net, &neighbours, &failures.keys).await;
                    self.note(applied, &mut observed, &mut failures);
                }
                // A guard that is extended to an interface that appeared was whole.
                let repairs = ops.iter().filter(|op| !to_extend.contains(&op.key()));
                self.say_what_was_repaired(repairs, &goal, &failures);
                goal.retain(|key| !failures.keys.contains(&key));
                self.built = goal;
                self.unseen = failures.keys.iter().filter_map(|key| key.member()).collect();
                self.seen = failures.keys.iter().all(|key| key.member().is_some()).then_some(observed);
            }
            Err(error) => failures.network = Some(explain(&error)),
        }
        self.watchers.update(&self.net, &self.in_the_way).await;
        self.net.end_pass().await;
        let report = Report { answered, ..self.report(intent.as_ref(), &records, failures) };
        self.are_ready(intent.as_ref(), &report);
        report
    }

    /// Says of members that were just made what an attach waits for, before the others are told of them.
    fn announce(&mut self, intent: Option<&Intent>, made: &[MemberId], failures: &Failures) {
        let mut report = self.handle.reports().borrow().clone();
        report.pass = self.passes;
        for member in made {
            report.ready.remove(member);
            report.failed.remove(member);
            match failures.of(*member) {
                Some(error) => drop(report.failed.insert(*member, error.clone())),
                None => drop(report.ready.insert(*member)),
            }
            report.in_the_way.extend(self.in_the_way.get(member).map(|fault| (*member, fault.clone())));
        }
        self.are_ready(intent, &report);
        self.handle.publish(report);
    }

    /// Takes for ready the members of a report that the store does not say it of.
    fn are_ready(&mut self, intent: Option<&Intent>, report: &Report) {
        let members = intent.into_iter().flat_map(|intent| intent.members.values());
        let is_new =
            |member: &&Arc<Member>| member.state == MemberState::Attaching && report.ready.contains(&member.id);
        let new: Vec<MemberId> = members.filter(is_new).map(|member| member.id).collect();
        if !new.is_empty() {
            self.ready.add(&new);
            self.memberships.names.wake(&Concerns::Networks(BTreeSet::from([self.network])));
        }
    }

    /// The report of a pass that changes nothing: a network that has members here is not deleted, so the store has lost it.
    fn without_network(&self, records: &[Record]) -> Report {
        let error = ControlError::new(
            ErrorCode::NetworkNotFound,
            format!("the store does not have {}, which has members on this host: they stay as they are", self.network),
            "restore the store's data; `privnet detach` ends a member",
        );
        self.unchanged(records, &error)
    }

    /// The report of a pass that changes nothing, and why.
    fn unchanged(&self, records: &[Record], error: &ControlError) -> Report {
        let failed = records.iter().filter(|record| !record.leaving).map(|record| (record.id, error.clone())).collect();
        Report {
            pass: self.passes,
            failed,
            records: records.iter().map(|record| record.id).collect(),
            ended_unix_seconds: crate::agent::now_unix_seconds(),
            ..Report::default()
        }
    }

    async fn observed(&mut self, doubts: &Doubts) -> anyhow::Result<Observation> {
        let seen = self.seen.take();
        self.net.host.state_dir.check()?;
        match seen {
            Some(state) if !doubts.exist() => Ok(Observation { state, ..Observation::default() }),
            Some(state) => observe_doubted(&self.net, state, doubts).await,
            None => observe(&self.net).await,
        }
        .context("observing the network")
    }

    /// Records in `observed` what succeeded, and in `failures` what did not.
    fn note(&mut self, applied: Applied, observed: &mut State, failures: &mut Failures) {
        applied.done.iter().for_each(|op| op.record(observed));
        failures.keys.extend(applied.hopeless);
        for (key, error) in applied.failed {
            if self.said.is_new(&format!("{error:#}")) {
                tracing::warn!(network = %self.network, "{error:#}");
            }
            failures.add(key, explain(&error));
        }
    }

    /// Logs the objects that stood, should go on as they were, and were made or changed again: another program removed or
    /// changed them. What is repaired again and again is said once a minute.
    fn say_what_was_repaired<'a>(&mut self, ops: impl Iterator<Item = &'a Op>, goal: &Plan, failures: &Failures) {
        let stood = |op: &&Op| {
            let key = op.key();
            let is_as_before = self.built.get(key).is_some_and(|built| goal.get(key) == Some(built));
            is_as_before && !matches!(op, Op::Remove(_)) && !failures.keys.contains(&key)
        };
        let objects: Vec<String> = ops.filter(stood).map(|op| self.net.describe(op.key())).collect();
        if objects.is_empty() {
            return;
        }
        let text = objects.join(", ");
        let was_said = |(said, at): &(String, Instant)| *said == text && at.elapsed() < REPEATED;
        if !self.repaired.as_ref().is_some_and(was_said) {
            tracing::info!(network = %self.network, "repaired: {text}");
            self.repaired = Some((text, Instant::now()));
        }
    }

    fn report(&self, intent: Option<&Intent>, records: &[Record], failures: Failures) -> Report {
        let mut report =
            Report { pass: self.passes, ended_unix_seconds: crate::agent::now_unix_seconds(), ..Report::default() };
        let local: BTreeSet<MemberId> = intent.map(|intent| intent.local.keys().copied().collect()).unwrap_or_default();
        for member in &local {
            match failures.of(*member) {
                Some(error) => {
                    report.failed.insert(*member, error.clone());
                }
                None => {
                    report.ready.insert(*member);
                }
            }
        }
        let stays = |(member, _): &(&MemberId, &Fault)| local.contains(member);
        report.in_the_way = self.in_the_way.iter().filter(stays).map(|(id, fault)| (*id, fault.clone())).collect();
        self.remove_finished_records(records, &local, &failures, &mut report);
        report.problems.extend(failures.network.iter().map(problem));
        report.problems.extend(failures.rows.iter().map(problem));
        let leaving = failures.members.iter().filter(|(member, _)| !local.contains(member));
        report.problems.extend(leaving.map(|(_, error)| problem(error)));
        report
    }

    /// Removes the records of members of which nothing is left.
    fn remove_finished_records(
        &self,
        records: &[Record],
        local: &BTreeSet<MemberId>,
        failures: &Failures,
        report: &mut Report,
    ) {
        for record in records {
            let remains = local.contains(&record.id)
                || !record.leaving
                || failures.network.is_some()
                || failures.members.contains_key(&record.id);
            if remains {
                report.records.insert(record.id);
                continue;
            }
            let mut journal = self.memberships.journal();
            let removed = objects::binding_netns::remove_with_the_last(&self.net, &journal, record);
            let removed = removed.and_then(|()| self.net.remove_handover_netns(record));
            if let Err(error) = removed.and_then(|()| journal.remove(record.id)) {
                report.records.insert(record.id);
                report.problems.push(problem(&explain(&error)));
            }
        }
    }
}

/// Makes a plan of what concerns a member whose container could not be looked into: nothing in there is touched while it
/// is to stay; when it is to go, what may be there is removed, and outside of the container everything.
fn leave_unobserved(member: MemberId, goal: &mut Plan, observed: &mut State) {
    let stays = goal.contains(Key::BindingNetns(member));
    goal.retain(|key| key.member() != Some(member) || !key.is_in_container());
    if !stays {
        for key in [Key::Device(member), Key::Guard(member)] {
            observed.insert(Seen::Broken(key, "not seen".to_owned()));
        }
    }
}
