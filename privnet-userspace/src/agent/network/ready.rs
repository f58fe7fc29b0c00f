//! Telling the store that members are ready, which no container waits for: the agent takes them for ready itself, and what else
//! goes on in the network does not wait for the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt as _;
use tokio::task::JoinHandle;

use crate::agent::door::explain::{explain, problem};
use crate::agent::shared::Memberships;
use crate::model::{Member, MemberId, MemberState};
use crate::store::claims::{self, MemberError};

/// How many members are told of at once.
const CONCURRENCY: usize = 16;

/// The members of a network that are ready, and of which the store is not known to have been told.
pub struct Ready {
    memberships: Arc<Memberships>,
    untold: BTreeMap<MemberId, Arc<Member>>,
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
    /// None.
    pub const fn new(memberships: Arc<Memberships>) -> Self {
        Self { memberships, untold: BTreeMap::new(), telling: None, problems: Vec::new() }
    }

    /// Takes members for ready, which the store is to be told.
    pub fn add(&mut self, members: Vec<Arc<Member>>) {
        let ids: Vec<MemberId> = members.iter().map(|member| member.id).collect();
        self.memberships.world.are_ready(&ids);
        self.untold.extend(members.into_iter().map(|member| (member.id, member)));
    }

    /// Begins to tell the store, unless that is under way.
    pub fn tell(&mut self) {
        if self.telling.is_none() && !self.untold.is_empty() {
            let members = self.untold.values().cloned().collect();
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
        self.untold.retain(|id, _| !members.contains(id));
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

async fn tell_store(memberships: Arc<Memberships>, members: Vec<Arc<Member>>) -> Told {
    let tell = members.into_iter().map(|member| {
        let memberships = Arc::clone(&memberships);
        async move { (member.id, tell_of(&memberships, &member).await) }
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

async fn tell_of(memberships: &Memberships, member: &Member) -> Result<(), String> {
    let is_leaving = || memberships.journal().records().get(&member.id).is_none_or(|record| record.leaving);
    if is_leaving() {
        return Ok(());
    }
    match claims::set_member_state(&*memberships.store, member, MemberState::Ready).await {
        Ok(written) => {
            let noted = memberships.journal().note_stored(&written);
            noted.map_err(|error| problem(&explain(&error)))
        }
        // It left meanwhile.
        Err(MemberError::MemberNotFound { .. } | MemberError::MemberChanged(_)) if is_leaving() => Ok(()),
        Err(error) => Err(format!("cannot record that {} is ready: {}", member.container, problem(&error.into()))),
    }
}
