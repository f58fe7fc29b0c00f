//! Members that another instance of this host's agent made: the state directory was lost, or another machine had the name.
//!
//! This agent has no journal of them, so it ends nothing, sweeps nothing and takes no new member, until an operator says that
//! they are this host's. What is in the kernel goes on meanwhile.

use anyhow::{Context as _, Result};

use super::door::error::{ControlError, ErrorCode};
use super::recovery::{self, Found};
use super::shared::Memberships;
use crate::model::{Member, NetworkId, counted};
use crate::store::claims::{self, End};
use crate::store::records::InstanceMark;

/// What an adoption leads to, or would.
pub struct Adoption {
    /// The members whose containers run here: they go on under this instance.
    pub kept: Vec<Member>,
    /// The members of which nothing runs here: they end.
    pub ended: Vec<Member>,
    found: Vec<(Member, Found)>,
}

/// The members under this host's name that another instance made.
#[must_use]
pub fn unadopted(memberships: &Memberships) -> Vec<Member> {
    let host = &memberships.host;
    memberships.world(|world| {
        let members = world.members_on(&host.config.host);
        members.filter(|member| !host.is_of_instance(member)).map(|member| Member::clone(member)).collect()
    })
}

/// Whether one of them is in a network, or this agent was forgotten: what is in the kernel there may be its.
#[must_use]
pub fn is_unadopted(memberships: &Memberships, network: NetworkId) -> bool {
    let host = &memberships.host;
    let was_forgotten = memberships.mark().is_some();
    was_forgotten
        || memberships.world(|world| {
            world.members(network).any(|member| member.host == host.config.host && !host.is_of_instance(member))
        })
}

/// Why nothing is attached, detached or swept while there are such members, or this agent was forgotten; nothing otherwise.
#[must_use]
pub fn refusal(memberships: &Memberships) -> Option<ControlError> {
    if let Some(mark) = memberships.mark() {
        return Some(is_forgotten(memberships, &mark));
    }
    let count = unadopted(memberships).len();
    (count > 0).then(|| {
        let host = &memberships.host.config.host;
        let (made, they) = if count == 1 { ("was", "it") } else { ("were", "they") };
        ControlError::new(
            ErrorCode::HostNotAdopted,
            format!(
                "{} of host {host} {made} attached by another instance of its agent, whose state directory is not this one: \
                 {they} stay as they are, and nothing is attached or detached",
                counted(count, "member")
            ),
            "`privnet host adopt` on this host keeps those whose containers run here, and ends the others",
        )
    })
}

fn is_forgotten(memberships: &Memberships, mark: &InstanceMark) -> ControlError {
    let count = memberships.journal().records().values().filter(|record| !record.leaving).count();
    ControlError::new(
        ErrorCode::HostNotAdopted,
        format!(
            "this host was forgotten at host {}: its {} ended for all other hosts, and stay as they are here; nothing is \
             attached or detached",
            mark.by,
            counted(count, "member")
        ),
        "`privnet host adopt` on this host takes it back, with those whose containers run here; `privnet purge` removes them",
    )
}

/// Looks which of them run here. The claims are held.
///
/// # Errors
/// When the kernel cannot be asked, or it is unclear of one. Nothing was changed.
pub async fn look(memberships: &Memberships) -> Result<Adoption> {
    let members = unadopted(memberships);
    let found = recovery::wait_for(memberships, &members).await?;
    let unclear = members.iter().zip(&found).filter_map(|(member, found)| match found {
        Found::Unclear(why) => Some(format!("{} ({}): {why}", member.container, member.address)),
        Found::Whole(..) | Found::Nothing(_) => None,
    });
    let unclear: Vec<String> = unclear.collect();
    if !unclear.is_empty() {
        return Err(ControlError::new(
            ErrorCode::Internal,
            format!("it is unclear whether these run here: {}", unclear.join("; ")),
            "stop their containers, or try again once they can be found: `ip netns` and /proc must show their namespaces",
        )
        .into());
    }
    let is_kept = |found: &Found| matches!(found, Found::Whole(..));
    let of = |kept: bool| members.iter().zip(&found).filter(move |(_, found)| is_kept(found) == kept);
    let kept = of(true).map(|(member, _)| member.clone()).collect();
    let ended = of(false).map(|(member, _)| member.clone()).collect();
    Ok(Adoption { kept, ended, found: members.into_iter().zip(found).collect() })
}

/// Carries an adoption out: entries first, then the instance in the records, then the ends. Stopped anywhere, the next one goes
/// on. The claims are held.
///
/// # Errors
/// When a record of the journal or of the store cannot be written.
pub async fn carry_out(memberships: &Memberships, adoption: Adoption) -> Result<()> {
    let Memberships { host, store, world, .. } = memberships;
    for (member, found) in adoption.found {
        let text = || format!("adopting {} in {}", member.container, member.network);
        match found {
            Found::Whole(record, key) => {
                if !memberships.journal().records().contains_key(&member.id) {
                    recovery::make_entry_again(memberships, *record, key.as_ref()).with_context(text)?;
                }
                let written =
                    claims::adopt_member(&**store, &member, host.facts.instance.id()).await.with_context(text)?;
                memberships.journal().note_stored(&written).with_context(text)?;
            }
            Found::Nothing(bindings) => {
                let end = End::by_its_host(super::now_unix_seconds());
                claims::release_member(&**store, &member, end, &**world).await.with_context(text)?;
                recovery::remove_leftovers(memberships, &member, &bindings).await.with_context(text)?;
                tracing::info!(network = %member.network, "{} does not run here: it ends", member.container);
            }
            // None is carried out with one of these.
            Found::Unclear(_) => {}
        }
    }
    Ok(())
}
