//! Whether a program is on an interface.

use anyhow::Result;

use crate::agent::netns_links::NetnsLinks;
use crate::datapath::{self, Attachment, Hook, Method};
use crate::link;

/// Whether the very program of `hook` is on an interface, by whichever method.
///
/// # Errors
/// When the kernel cannot be asked.
pub async fn is_attached(
    programs: &datapath::Network,
    netns: &NetnsLinks,
    index: u32,
    name: &str,
    hook: Hook,
) -> Result<bool> {
    let Ok(interface) = name.parse() else { return Ok(false) };
    match programs.attached_by_tcx(&netns.netns, &interface, hook).await {
        Ok(Attachment::Current) => return Ok(true),
        Ok(Attachment::Preceded) => return Ok(false),
        Ok(Attachment::Absent | Attachment::Older) => {}
        // It went meanwhile, or its name is no text.
        Err(datapath::Error::NoInterface { .. }) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    if hook.method() == Method::Tcx {
        return Ok(false);
    }
    let direction = match hook {
        Hook::FromMember | Hook::FromVtep | Hook::GuardIngress => link::FilterHook::Ingress,
        Hook::GuardEgress => link::FilterHook::Egress,
    };
    let filters = netns.links.filters(index, direction).await?;
    Ok(filters.iter().any(|filter| filter.program_id == Some(programs.program_id(hook))))
}
