//! What the kernel holds of one network on this host, as a [`State`]. Whole, or an error: nothing is planned from a part.
//!
//! What is in a container is its root's to disturb, so what cannot be read there is that member's error alone.

use std::collections::BTreeMap;

use anyhow::Result;
use futures::{StreamExt, TryStreamExt};

use super::local::LocalNetwork;
use super::objects;
use super::scan::{MemberScan, NetworkScan};
use crate::agent::host::journal::Record;
use crate::model::MemberId;
use crate::topology::State;

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
}

/// Looks at everything.
///
/// # Errors
/// When anything outside of the containers could not be read. Nothing was changed.
pub async fn observe(net: &LocalNetwork) -> Result<Observation> {
    let scan = NetworkScan::begin(net).await?;
    let mut observation = Observation::default();
    objects::observe_network(&scan, &mut observation.state).await?;
    let looks: Vec<_> = net.records.values().map(|record| observe_member(&scan, record)).collect();
    let members: Vec<Observation> = futures::stream::iter(looks).buffer_unordered(CONCURRENCY).try_collect().await?;
    for member in members {
        observation.state.extend(member.state);
        observation.unobserved.extend(member.unobserved);
    }
    Ok(observation)
}

async fn observe_member(scan: &NetworkScan<'_>, record: &Record) -> Result<Observation> {
    let scan = MemberScan::begin(scan, record).await?;
    let mut observation = Observation::default();
    objects::observe_member(&scan, &mut observation.state).await?;
    let mut container = State::default();
    match objects::observe_container(&scan, &mut container).await {
        Ok(()) => observation.state.extend(container),
        Err(error) => drop(observation.unobserved.insert(record.id, error.context("looking into its container"))),
    }
    Ok(observation)
}
