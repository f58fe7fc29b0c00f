//! What the kernel holds of one network on this host, as a [`State`]. Whole, or an error: nothing is planned from a part.
//!
//! What is in a container is its root's to disturb, so what cannot be read there is that member's error alone.

use std::collections::BTreeMap;

use anyhow::Result;
use futures::{StreamExt, TryStreamExt};

use super::container;
use super::handle::{Doubts, Fault};
use super::local::LocalNetwork;
use super::objects;
use super::scan::{MemberScan, NetworkScan};
use crate::agent::host::journal::Record;
use crate::model::MemberId;
use crate::topology::{Key, State};

/// How many members are looked at at once.
const CONCURRENCY: usize = 8;

/// What was seen, and the members in whose container nothing could be: why, for each. Of these, what
/// [`Key::is_in_container`](crate::topology::Key::is_in_container) is absent, whether it is there or not.
#[derive(Default)]
pub struct Observation {
    /// What was seen.
    pub state: State,
    /// Why nothing could be seen in a member's container.
    pub unobserved: BTreeMap<MemberId, anyhow::Error>,
    /// What of a member's container, which only its owner changes, is in the way of what is promised; of those looked at.
    pub in_the_way: BTreeMap<MemberId, Fault>,
}

/// Looks at everything.
///
/// # Errors
/// When anything outside of the containers could not be read. Nothing was changed.
pub async fn observe(net: &LocalNetwork) -> Result<Observation> {
    observe_all(&NetworkScan::begin(net).await?).await
}

/// Looks at what is doubted, and takes the rest as it was last seen.
///
/// # Errors
/// As [`observe`].
pub async fn observe_doubted(net: &LocalNetwork, mut seen: State, doubts: &Doubts) -> Result<Observation> {
    let known = net.netns().await?.map(|netns| netns.netns.id());
    let scan = NetworkScan::begin(net).await?;
    let has_netns = seen.contains(Key::NetworkNetns) == scan.netns().is_some();
    let has_programs = seen.contains(Key::Programs) == scan.programs().is_some();
    // What members have is in the namespace, and by the programs, that were seen.
    if doubts.everything || !has_netns || !has_programs || scan.netns().map(|netns| netns.netns.id()) != known {
        return observe_all(&scan).await;
    }
    if doubts.network {
        seen.retain(|key| key.member().is_some());
        objects::observe_network(&scan, &mut seen).await?;
    }
    let records: Vec<&Record> = net.records.values().filter(|record| doubts.members.contains(&record.id)).collect();
    seen.retain(|key| !records.iter().any(|record| key.member() == Some(record.id)));
    observe_members(&scan, &records, Observation { state: seen, ..Observation::default() }).await
}

async fn observe_all(scan: &NetworkScan<'_>) -> Result<Observation> {
    let mut observation = Observation::default();
    objects::observe_network(scan, &mut observation.state).await?;
    let records: Vec<&Record> = scan.net.records.values().collect();
    observe_members(scan, &records, observation).await
}

async fn observe_members(
    scan: &NetworkScan<'_>,
    records: &[&Record],
    mut observation: Observation,
) -> Result<Observation> {
    let looks: Vec<_> = records.iter().map(|record| observe_member(scan, record)).collect();
    let members: Vec<Observation> = futures::stream::iter(looks).buffer_unordered(CONCURRENCY).try_collect().await?;
    for member in members {
        observation.state.extend(member.state);
        observation.unobserved.extend(member.unobserved);
        observation.in_the_way.extend(member.in_the_way);
    }
    Ok(observation)
}

async fn observe_member(scan: &NetworkScan<'_>, record: &Record) -> Result<Observation> {
    let scan = MemberScan::begin(scan, record).await?;
    let mut observation = Observation::default();
    objects::observe_member(&scan, &mut observation.state).await?;
    let mut container = State::default();
    match objects::observe_container(&scan, &mut container).await {
        Ok(()) => {
            observation.state.extend(container);
            observation.in_the_way.extend(container::fault(&scan).await?.map(|fault| (record.id, fault)));
        }
        Err(error) => drop(observation.unobserved.insert(record.id, error.context("looking into its container"))),
    }
    Ok(observation)
}
