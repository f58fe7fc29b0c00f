//! Telling the store that members are ready, which no container waits for.

use std::sync::Arc;

use crate::agent::door::explain::{explain, problem};
use crate::agent::shared::Memberships;
use crate::model::{Member, MemberState};
use crate::store::claims;

/// Tells the store of members that they are ready; returns what went wrong.
pub async fn tell_store(memberships: &Memberships, members: &[Arc<Member>]) -> Vec<String> {
    let mut problems = Vec::new();
    for member in members {
        match claims::set_member_state(&*memberships.store, member, MemberState::Ready).await {
            Ok(told) => {
                let noted = memberships.journal().note_stored(&told);
                problems.extend(noted.err().map(|error| problem(&explain(&error))));
            }
            Err(error) => {
                let error = problem(&error.into());
                problems.push(format!("cannot record that {} is ready: {error}", member.container));
            }
        }
    }
    problems
}
