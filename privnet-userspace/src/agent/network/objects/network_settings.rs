//! How the network netns is set: it does not forward, speaks no IPv6, and has the rules of a new namespace.

use anyhow::Result;

use super::Managed;
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::own_netns::{harden, not_hardened};
use crate::agent::network::scan::NetworkScan;
use crate::topology::ownership::{self, MemberLink};
use crate::topology::{Before, State, kind, spec};

impl Managed for kind::NetworkSettings {
    async fn observe(scan: &NetworkScan<'_>, state: &mut State) -> Result<()> {
        let Some(netns) = scan.netns() else { return Ok(()) };
        let links: Vec<&str> = scan.links().keys().map(String::as_str).filter(|name| is_ours(name)).collect();
        let fault = not_hardened(netns, &links).await?;
        state.see::<Self>((), fault.as_deref().map_or(Ok(spec::NetworkSettings {}), Err));
        Ok(())
    }

    async fn make(net: &LocalNetwork, (): (), _: Before<'_, Self::Spec>, _: &Self::Spec) -> Result<()> {
        let netns = net.existing_netns().await?;
        let there = netns.links.links().await?;
        let links: Vec<&str> = there.iter().map(|link| link.name.as_str()).filter(|name| is_ours(name)).collect();
        harden(&netns, &links).await
    }

    /// The namespace goes in the same pass.
    async fn remove(_: &LocalNetwork, (): (), _: Before<'_, Self::Spec>) -> Result<()> {
        Ok(())
    }
}

/// Whether a link of a network netns is privnet's: the VTEP, the bridge, or a member's.
fn is_ours(name: &str) -> bool {
    [ownership::VTEP, ownership::BRIDGE].contains(&name) || MemberLink::parse(name).is_some()
}
