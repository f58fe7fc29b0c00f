//! The loaded programs and their maps.

use anyhow::{Context, Result};

use super::Managed;
use crate::agent::host::places::have_bpffs;
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::scan::NetworkScan;
use crate::datapath::{self, NetworkSpec};
use crate::topology::{Before, State, kind, spec};

impl Managed for kind::Programs {
    async fn observe(scan: &NetworkScan<'_>, state: &mut State) -> Result<()> {
        if let Some(programs) = scan.programs() {
            let NetworkSpec { vni, prefix, .. } = programs.lock().await.spec()?;
            state.see::<Self>((), Ok(spec::Programs { vni, prefix }));
        }
        Ok(())
    }

    async fn make(net: &LocalNetwork, (): (), _: Before<'_, Self::Spec>, to: &Self::Spec) -> Result<()> {
        let pins = net.host.config.pins_of(net.network);
        have_bpffs(&net.host.config.bpffs_dir)?;
        // What the programs report follows from who watches, which the worker tells them.
        let spec = NetworkSpec::new(to.vni, to.prefix);
        let programs = datapath::Network::open(&pins, &spec).with_context(|| format!("loading {}", pins.display()))?;
        net.set_programs(Some(programs));
        Ok(())
    }

    async fn remove(net: &LocalNetwork, (): (), _: Before<'_, Self::Spec>) -> Result<()> {
        net.set_programs(None);
        Ok(datapath::Network::remove_pins(&net.host.config.pins_of(net.network))?)
    }
}
