//! How the network netns is set: it does not forward, and speaks no IPv6.

use anyhow::Result;

use super::Managed;
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::own_netns::{harden, not_hardened};
use crate::agent::network::scan::NetworkScan;
use crate::topology::{Before, State, kind, spec};

impl Managed for kind::NetworkSettings {
    /// Of the namespace, not of each veth in it: none of them has an address.
    async fn observe(scan: &NetworkScan<'_>, state: &mut State) -> Result<()> {
        let Some(netns) = scan.netns() else { return Ok(()) };
        let fault = not_hardened(&netns.netns, None).await?;
        state.see::<Self>((), fault.as_deref().map_or(Ok(spec::NetworkSettings {}), Err));
        Ok(())
    }

    async fn make(net: &LocalNetwork, (): (), _: Before<'_, Self::Spec>, _: &Self::Spec) -> Result<()> {
        harden(&net.existing_netns().await?.netns, None).await
    }

    /// The namespace goes in the same pass.
    async fn remove(_: &LocalNetwork, (): (), _: Before<'_, Self::Spec>) -> Result<()> {
        Ok(())
    }
}
