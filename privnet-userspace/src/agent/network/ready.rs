//! Telling the store that members are ready, which no container waits for: the agent takes them for ready itself, and what else
//! goes on in the network does not wait for the store.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::anyhow;
use futures::StreamExt as _;
use tokio::task::JoinHandle;

use crate::agent::door::explain::{explain, problem};
use crate::agent::membership;
use crate::agent::shared::Memberships;
use crate::model::{MemberId, MemberState, NetworkId};
use crate::store::claims::{self, MemberError};

/// How many members are told of at once.
const CONCURRENCY: usize = 16;

/// The members of a network that are ready, and of which the store is not known to have been told.
pub struct Ready {
    memberships: Arc<Memberships>,
    untold: BTreeSet<MemberId>,
    telling: Option<JoinHandle<Told>>,
    /// What went wrong the last time.
    problems: Vec<String>,
}

/// The members of which the store was told, or is not to be, and what went wrong.
#[derive(Default)]
struct Told {
    members: Vec<MemberId>,
    problems: Vec<String>,
}

impl Ready {
    /// Those that an earlier worker of the network took for ready, where it ended before the store was told.
    pub fn new(memberships: Arc<Memberships>, network: NetworkId) -> Self {
        let untold = memberships.world(|world| world.taken_for_ready(network).collect());
        Self { memberships, untold, telling: None, problems: Vec::new() }
    }

    /// Takes members for ready, which the store is to be told.
    pub fn add(&mut self, members: &[MemberId]) {
        self.memberships.world.are_ready(members);
        self.untold.extend(members);
    }

    /// Begins to tell the store, unless that is under way.
    pub fn tell(&mut self) {
        if self.telling.is_none() && !self.untold.is_empty() {
            let members = self.untold.iter().copied().collect();
            self.telling = Some(tokio::spawn(tell_store(Arc::clone(&self.memberships), members)));
        }
    }

    /// Waits until the store was told, or could not be, and says whether there are other problems with that than before; for
    /// ever where nothing is told.
    pub async fn told(&mut self) -> bool {
        let Some(telling) = &mut self.telling else { return std::future::pending().await };
        // A task that panicked has told nothing.
        let Told { members, problems } = telling.await.unwrap_or_default();
        self.telling = None;
        self.untold.retain(|id| !members.contains(id));
        let is_other = self.problems != problems;
        self.problems = problems;
        is_other
    }

    /// What went wrong the last time.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        if let Some(telling) = &self.telling {
            telling.abort();
        }
    }
}

async fn tell_store(memberships: Arc<Memberships>, members: Vec<MemberId>) -> Told {
    let tell = members.into_iter().map(|id| {
        let memberships = Arc::clone(&memberships);
        async move { (id, tell_of(&memberships, id).await) }
    });
    let mut told = Told::default();
    let mut answers = futures::stream::iter(tell.collect::<Vec<_>>()).buffer_unordered(CONCURRENCY);
    while let Some((member, answer)) = answers.next().await {
        match answer {
            Ok(()) => told.members.push(member),
            Err(problem) => told.problems.push(problem),
        }
    }
    told
}

async fn tell_of(memberships: &Memberships, id: MemberId) -> Result<(), String> {
    let record = || memberships.journal().records().get(&id).filter(|record| !record.leaving).cloned();
    let Some(known) = record() else { return Ok(()) };
    let cannot = |error: &anyhow::Error| {
        format!("cannot record that {} is ready: {}", known.container, problem(&explain(error)))
    };
    // By the name that is its oldest now: its record moves where that one ends.
    let stored = membership::stored(memberships, &known).await.map_err(|error| cannot(&error))?;
    let Some(member) = stored else {
        return if record().is_none() { Ok(()) } else { Err(cannot(&anyhow!("the store does not have it"))) };
    };
    match claims::set_member_state(&*memberships.store, &member, MemberState::Ready).await {
        Ok(written) => {
            let noted = memberships.journal().note_stored(&written);
            noted.map_err(|error| problem(&explain(&error)))
        }
        // It left meanwhile.
        Err(MemberError::MemberNotFound { .. } | MemberError::MemberChanged(_)) if record().is_none() => Ok(()),
        Err(error) => Err(cannot(&error.into())),
    }
}
