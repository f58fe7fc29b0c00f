//! The address of a member's WireGuard device, up.

use anyhow::Result;

use super::Managed;
use super::device::device_of;
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::scan::{MemberScan, SeenDevice, address_of, if_up};
use crate::model::MemberId;
use crate::netns;
use crate::topology::{Before, State, kind, ownership, spec};

impl Managed for kind::Tunnel {
    async fn observe_member(scan: &MemberScan<'_>, state: &mut State) -> Result<()> {
        let (Some(SeenDevice::Sound(_, link, _)), Some(app)) = (device_of(scan).await?, &scan.namespaces.app) else {
            return Ok(());
        };
        if let Some(address) = address_of(&app.links.addresses().await?, link.index) {
            state.see::<Self>(scan.record.id, if_up(link.up, spec::Tunnel { address }));
        }
        Ok(())
    }

    async fn make(net: &LocalNetwork, member: MemberId, _: Before<'_, Self::Spec>, to: &Self::Spec) -> Result<()> {
        let namespaces = net.namespaces_of(member).await?;
        let app = namespaces.existing_app()?;
        let interface = ownership::wireguard_interface(net.record(member)?.index);
        let index = app.index_of(interface.as_str()).await?;
        // Before it is up, so that it never has a link-local address.
        match app.netns.set_sysctl(&format!("net/ipv6/conf/{interface}/disable_ipv6"), "1").await {
            // A kernel without IPv6 has no such setting.
            Ok(_) | Err(netns::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        app.set_address(index, to.address).await?;
        Ok(app.links.set_up(index).await?)
    }

    /// The device goes, or is made anew, in the same pass.
    async fn remove(_: &LocalNetwork, _: MemberId, _: Before<'_, Self::Spec>) -> Result<()> {
        Ok(())
    }
}
