//! The WireGuard device of a member: its socket in the binding netns, its interface in the app netns.

use anyhow::Result;
use tokio::time::Instant;

use super::Managed;
use crate::agent::door::error::{ControlError, ErrorCode};
use crate::agent::host::journal::Handover;
use crate::agent::netns_links::NetnsLinks;
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::scan::{MemberScan, SeenDevice};
use crate::link::AbsentIsDone;
use crate::model::MemberId;
use crate::netns::Netns;
use crate::topology::{Before, DeviceAt, State, kind, ownership, spec};
use crate::wireguard::{self, Backend};

impl Managed for kind::Device {
    async fn observe_member(scan: &MemberScan<'_>, state: &mut State) -> Result<()> {
        let found = match device_of(scan).await? {
            None => return Ok(()),
            Some(SeenDevice::Broken(why)) => Err(why.as_str()),
            Some(SeenDevice::Sound(device, link, public_key)) => Ok(spec::Device {
                interface: scan.record.interface(),
                public_key: *public_key,
                listen_port: device.listen_port,
                mtu: link.mtu,
            }),
        };
        state.see::<Self>(scan.record.id, found);
        Ok(())
    }

    async fn make(net: &LocalNetwork, member: MemberId, before: Before<'_, Self::Spec>, to: &Self::Spec) -> Result<()> {
        if before.exists() {
            delete(net, member).await?;
        }
        let record = net.record(member)?;
        let key = net.private_key(record)?;
        if key.public_key() != to.public_key {
            return Err(ControlError::new(
                ErrorCode::Internal,
                format!(
                    "the private key of {} in the state directory is that of another public key",
                    record.names_text()
                ),
                "detach the container and attach it again: it gets a new key",
            )
            .into());
        }
        let namespaces = net.namespaces_of(member).await?;
        let (app, binding) = (namespaces.existing_app()?, namespaces.existing_binding()?);
        let alias = ownership::tunnel_alias(member);
        match net.host.facts.wireguard {
            Backend::Kernel => {
                binding.links.create_wireguard(&to.interface, to.mtu, &app.netns).await?;
                let device = wireguard::Device::kernel(app.netns.clone(), to.interface.clone());
                device.configure(&key, to.listen_port).await?;
                app.links.set_alias(app.index_of(to.interface.as_str()).await?, &alias).await?;
            }
            Backend::Userspace => {
                let spec = wireguard::UserspaceSpec {
                    binary: net.host.config.wireguard_binary.clone(),
                    run_dir: net.wireguard_dir(record),
                    app: app.netns.clone(),
                    app_path: record.best_path(&net.host.facts.boot_id).to_owned(),
                    binding: binding.netns.clone(),
                    interface: to.interface.clone(),
                    mtu: to.mtu,
                    listen_port: to.listen_port,
                    offload: net.host.config.offload,
                };
                wireguard::start_userspace(&spec, &key).await?;
                let index = app.index_of(to.interface.as_str()).await?;
                let sizes = (to.mtu, wireguard::super_packet_bytes(to.mtu));
                app.links.set_tun(index, sizes, wireguard::TUN_QUEUE_PACKETS, &alias).await?;
            }
        }
        Ok(())
    }

    async fn remove(net: &LocalNetwork, member: MemberId, _: Before<'_, Self::Spec>) -> Result<()> {
        delete(net, member).await
    }
}

/// The device of a scan's member, when it is there. One that is in the hands of another program is not looked at.
pub(super) async fn device_of<'a>(scan: &'a MemberScan<'_>) -> Result<Option<&'a SeenDevice>> {
    if !scan.record.leaving && matches!(scan.record.device(), DeviceAt::Coming | DeviceAt::Going) {
        return Ok(None);
    }
    Ok(scan.device.get_or_try_init(|| observe(scan)).await?.as_ref())
}

async fn observe(scan: &MemberScan<'_>) -> Result<Option<SeenDevice>> {
    let broken = |why: String| Ok(Some(SeenDevice::Broken(why)));
    if scan.record.leaving && scan.record.handover.is_some() {
        // It may be in any of several namespaces.
        return broken("it was handed over".to_owned());
    }
    let Some(device) = scan.net().device(scan.record.id).await? else { return Ok(None) };
    let seen = match device.observe().await {
        Ok(Some(seen)) => seen,
        // What stays of it is the process's directory, which goes with the device.
        Ok(None) if scan.net().has_wireguard_dir(scan.record) => return broken("its process has ended".to_owned()),
        Ok(None) => return Ok(None),
        // A process that cannot be worked with, or another link under the device's name, is a device to be made anew.
        Err(error) if error.needs_new_device() => return broken(error.to_string()),
        Err(error) => return Err(error.into()),
    };
    let interface = scan.record.interface();
    let link = scan.app_links().await?.iter().find(|link| link.name == interface.as_str());
    scan.net().sessions().see(scan.record.id, &seen, Instant::now());
    match (link, seen.public_key) {
        (Some(link), Some(public_key)) => Ok(Some(SeenDevice::Sound(seen, Box::new(link.clone()), public_key))),
        (_, _) => broken("it has no interface, or no key".to_owned()),
    }
}

async fn delete(net: &LocalNetwork, member: MemberId) -> Result<()> {
    let record = net.record(member)?;
    match net.host.facts.wireguard {
        Backend::Kernel => {
            let namespaces = net.namespaces_of(member).await?;
            if let Some(app) = &namespaces.app
                && let Some(link) = app.find(record.interface().as_str()).await?
            {
                app.links.delete(link.index).await.absent_is_done()?;
            }
        }
        Backend::Userspace => wireguard::stop_userspace(&net.wireguard_dir(record)).await?,
    }
    match &record.handover {
        Some(handover) if record.leaving => delete_handed_over(net, member, handover).await,
        Some(_) | None => Ok(()),
    }
}

/// Deletes a device where the other program left it, or never took it from. That of a process goes with the process, and a
/// moment later.
async fn delete_handed_over(net: &LocalNetwork, member: MemberId, handover: &Handover) -> Result<()> {
    let alias = ownership::tunnel_alias(member);
    let made_in = Netns::find(&net.handover_path(handover))?;
    let given_to = match &handover.given_to {
        Some(given_to) if net.host.netns.netns.id() == given_to.netns => Some(net.host.netns.netns.clone()),
        // Another process may have the path by now.
        Some(given_to) => Netns::find(&given_to.path)?.filter(|netns| netns.id() == given_to.netns),
        None => None,
    };
    for netns in [made_in, given_to].into_iter().flatten() {
        let there = NetnsLinks::enter(netns).await?;
        for link in there.links.links().await?.iter().filter(|link| link.alias.as_deref() == Some(&alias)) {
            there.links.delete(link.index).await.absent_is_done()?;
        }
    }
    Ok(())
}
