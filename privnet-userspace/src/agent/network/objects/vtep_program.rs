//! `from_vtep` on `vxlan0`.

use anyhow::Result;

use super::Managed;
use super::attachment::is_attached;
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::scan::NetworkScan;
use crate::datapath::Hook;
use crate::topology::{Before, State, kind, ownership, spec};

impl Managed for kind::VtepProgram {
    async fn observe(scan: &NetworkScan<'_>, state: &mut State) -> Result<()> {
        let (Some(netns), Some(vtep), Some(programs)) = (scan.netns(), scan.vtep(), scan.programs()) else {
            return Ok(());
        };
        let programs = programs.lock().await;
        if is_attached(&programs, netns, vtep.index, ownership::VTEP, Hook::FromVtep).await? {
            let is_known = programs.vtep()? == Some(vtep.index);
            let found = if is_known { Ok(spec::VtepProgram {}) } else { Err("the programs send to another interface") };
            state.see::<Self>((), found);
        }
        Ok(())
    }

    async fn make(net: &LocalNetwork, (): (), _: Before<'_, Self::Spec>, _: &Self::Spec) -> Result<()> {
        let netns = net.existing_netns().await?;
        let programs = net.existing_programs()?;
        let mut programs = programs.lock().await;
        programs.set_vtep(Some(netns.index_of(ownership::VTEP).await?))?;
        // A stranger may have removed the network netns, and this is the next one.
        programs.unpin_links_before(netns.netns.id())?;
        Ok(programs.attach(&netns.netns, &ownership::fixed(ownership::VTEP), Hook::FromVtep).await?)
    }

    async fn remove(net: &LocalNetwork, (): (), _: Before<'_, Self::Spec>) -> Result<()> {
        let netns = net.existing_netns().await?;
        let programs = net.existing_programs()?;
        let programs = programs.lock().await;
        Ok(programs.detach(&netns.netns, &ownership::fixed(ownership::VTEP), Hook::FromVtep).await?)
    }
}
