//! What the hosts of a fleet have in common: shown, and set.

use super::error::{ControlError, ErrorCode};
use super::views::{FleetView, SetFleet};
use crate::agent::shared::Shared;
use crate::link;
use crate::store::claims;
use crate::store::records::FleetRecord;

pub(super) fn show(shared: &Shared) -> FleetView {
    let (FleetRecord { id, epoch, vxlan_port, .. }, _) = shared.fleet.record();
    FleetView { id, epoch, vxlan_port }
}

/// Sets the VXLAN port, which must be free on this host; the agents of the others say of theirs when they need it.
pub(super) async fn set(shared: &Shared, request: SetFleet) -> Result<FleetView, ControlError> {
    let (port, host) = (request.vxlan_port, &shared.host.netns);
    let holder = link::udp_port_holder(&host.netns, &host.links, port.get()).await?;
    if let Some(holder) = holder.filter(link::PortHolder::excludes_vxlan) {
        return Err(ControlError::new(
            ErrorCode::VtepConflict,
            format!("UDP port {port} of this host is taken by {holder}"),
            "choose a port that is free on all hosts: `ss -lun` shows those that are taken",
        ));
    }
    claims::set_vxlan_port(&*shared.store, port).await?;
    shared.fleet.recognize().await?;
    Ok(show(shared))
}
