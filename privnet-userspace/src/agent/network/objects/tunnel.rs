//! The address of a member's WireGuard device, up, with the routes that the kernel makes for it, and without a mark on what it
//! sends.

use anyhow::Result;

use super::Managed;
use super::device::device_of;
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::scan::{MemberScan, SeenDevice};
use crate::model::MemberId;
use crate::netns;
use crate::topology::{Before, State, kind, spec};

impl Managed for kind::Tunnel {
    async fn observe_member(scan: &MemberScan<'_>, state: &mut State) -> Result<()> {
        let (Some(SeenDevice::Sound(device, link, _)), Some(app)) = (device_of(scan).await?, &scan.namespaces.app)
        else {
            return Ok(());
        };
        let Some(found) = app.address(link, scan.record.address).await? else { return Ok(()) };
        let speaks_ipv6 = !app.netns.differing_sysctls(vec![no_ipv6(&link.name)]).await?.is_empty();
        let found = found.and_then(|address| match (speaks_ipv6, device.mark) {
            (false, 0) => Ok(address),
            (true, _) => Err("it speaks IPv6"),
            (false, _) => Err("its datagrams have a mark"),
        });
        state.see::<Self>(scan.record.id, found.map(|address| spec::Tunnel { address }));
        Ok(())
    }

    async fn make(net: &LocalNetwork, member: MemberId, before: Before<'_, Self::Spec>, to: &Self::Spec) -> Result<()> {
        let namespaces = net.namespaces_of(member).await?;
        let app = namespaces.existing_app()?;
        let interface = net.record(member)?.interface();
        let index = app.index_of(interface.as_str()).await?;
        // Before it is up, so that it never has a link-local address.
        let (key, value) = no_ipv6(interface.as_str());
        match app.netns.set_sysctl(&key, value).await {
            // A kernel without IPv6 has no such setting.
            Ok(_) | Err(netns::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        app.set_address(index, to.address).await?;
        app.links.set_up_plain(index, false).await?;
        // A device that is new has none, and the kernel's lost those that it had when it went down. Where they are there
        // still, nothing is begun.
        net.resume_sessions(member).await?;
        if !before.exists() {
            // For an address that is new the kernel makes the routes, and a device that is new has no mark.
            return Ok(());
        }
        if let Some(device) = net.device(member).await? {
            device.clear_mark().await?;
        }
        app.repair_routes(index, to.address).await
    }

    /// The device goes, or is made anew, in the same pass.
    async fn remove(_: &LocalNetwork, _: MemberId, _: Before<'_, Self::Spec>) -> Result<()> {
        Ok(())
    }
}

/// The setting without which an interface has a link-local address.
fn no_ipv6(interface: &str) -> (String, &'static str) {
    (format!("net/ipv6/conf/{interface}/disable_ipv6"), "1")
}
