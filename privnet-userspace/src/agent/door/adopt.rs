//! `host adopt`: an operator's word that what another instance of this host's agent made is this host's.

use super::ends::ENDS_UNASKED;
use super::error::{ControlError, ErrorCode};
use super::explain::explain;
use super::views::{AdoptHost, Adopted};
use crate::agent::adoption;
use crate::agent::revival::{self, Revived};
use crate::agent::shared::{Shared, UNTIL_SEEN};
use crate::agent::world::World;
use crate::model::counted;

/// Takes the host's name, keeps the members whose containers run here, and ends the others.
pub(super) async fn adopt(shared: &Shared, request: AdoptHost) -> Result<Adopted, ControlError> {
    shared.host.state_dir.check_writable()?;
    let _claims = shared.claims_of_request().await?;
    let revived = take_back(shared, &request).await?;
    let adoption = adoption::look(shared).await.map_err(|error| explain(&error))?;
    let (kept, ended) = (adoption.kept.len(), adoption.ended.len());
    if ended > ENDS_UNASKED && !request.yes {
        return Err(ControlError::new(
            ErrorCode::InvalidArgument,
            format!(
                "{} would go on, and {} would end, since nothing of them runs here",
                counted(kept, "member"),
                ended
            ),
            "repeat it with --yes; if their containers run on another machine, do not: see `privnet members`",
        ));
    }
    shared.presence.adopt(request.force).await.map_err(|error| explain(&error))?;
    adoption::carry_out(shared, adoption).await.map_err(|error| explain(&error))?;
    let is_adopted =
        |world: &World| world.members_on(&shared.host.config.host).all(|member| shared.host.is_of_instance(member));
    shared.world.wait_until(UNTIL_SEEN, is_adopted).await;
    Ok(Adopted { kept: (kept + revived.kept) as u64, ended: (ended + revived.ended) as u64 })
}

/// Gives an agent that was forgotten its next instance, with the members that can go on; does nothing to any other.
async fn take_back(shared: &Shared, request: &AdoptHost) -> Result<Revived, ControlError> {
    let Some(revival) = revival::look(shared) else { return Ok(Revived::default()) };
    let ended = revival.replaced.len();
    if ended > ENDS_UNASKED && !request.yes {
        return Err(ControlError::new(
            ErrorCode::InvalidArgument,
            format!("{ended} members whose containers run here would end: their places were given out meanwhile"),
            "repeat it with --yes; then attach their containers again",
        ));
    }
    if !request.force {
        shared.presence.refuse_another().await.map_err(|error| explain(&error))?;
    }
    revival::carry_out(shared, revival).await.map_err(|error| explain(&error))
}
