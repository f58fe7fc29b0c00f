//! `host adopt`: an operator's word that what another instance of this host's agent made is this host's.

use super::error::{ControlError, ErrorCode};
use super::explain::explain;
use super::views::{AdoptHost, Adopted};
use crate::agent::adoption;
use crate::agent::shared::{Shared, UNTIL_SEEN};
use crate::agent::world::World;
use crate::model::counted;

/// How many members may end without a confirmation.
const ENDS_UNASKED: usize = 5;

/// Takes the host's name, keeps the members whose containers run here, and ends the others.
pub(super) async fn adopt(shared: &Shared, request: AdoptHost) -> Result<Adopted, ControlError> {
    shared.host.state_dir.check()?;
    let _claims = shared.claims_of_request().await?;
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
    Ok(Adopted { kept: kept as u64, ended: ended as u64 })
}
