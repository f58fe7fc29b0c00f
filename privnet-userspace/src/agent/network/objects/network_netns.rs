//! The network netns.

use anyhow::Result;

use super::Managed;
use super::vtep::delete_vtep;
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::own_netns::create_or_open;
use crate::agent::network::scan::NetworkScan;
use crate::netns::Netns;
use crate::topology::{Before, State, kind, ownership, spec};

impl Managed for kind::NetworkNetns {
    async fn observe(scan: &NetworkScan<'_>, state: &mut State) -> Result<()> {
        if scan.netns().is_some() {
            state.see::<Self>((), Ok(spec::NetworkNetns {}));
        }
        Ok(())
    }

    async fn make(net: &LocalNetwork, (): (), _: Before<'_, Self::Spec>, _: &Self::Spec) -> Result<()> {
        net.forget_netns();
        create_or_open(&net.host.config.netns_dir, &name(net)).map(drop)
    }

    async fn remove(net: &LocalNetwork, (): (), _: Before<'_, Self::Spec>) -> Result<()> {
        // A process that is in the namespace keeps it alive, and its VTEP would keep the VNI from the next one.
        delete_vtep(net).await?;
        net.forget_netns();
        Ok(Netns::remove(&net.host.config.netns_dir, &name(net))?)
    }
}

fn name(net: &LocalNetwork) -> String {
    ownership::network_netns(&net.host.config.netns_prefix, net.network)
}
