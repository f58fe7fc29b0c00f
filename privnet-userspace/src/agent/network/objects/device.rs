//! The WireGuard device of a member: its socket in the binding netns, its interface in the app netns.

use anyhow::Result;
use tokio::time::Instant;

use super::Managed;
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::scan::{MemberScan, SeenDevice};
use crate::link::AbsentIsDone;
use crate::model::MemberId;
use crate::topology::{Before, State, kind, ownership, spec};
use crate::wireguard::{self, Backend};

impl Managed for kind::Device {
    async fn observe_member(scan: &MemberScan<'_>, state: &mut State) -> Result<()> {
        let found = match device_of(scan).await? {
            None => return Ok(()),
            Some(SeenDevice::Broken(why)) => Err(why.as_str()),
            Some(SeenDevice::Sound(device, link, public_key)) => Ok(spec::Device {
                interface: ownership::wireguard_interface(scan.record.index),
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
        let namespaces = net.namespaces_of(member).await?;
        let (app, binding) = (namespaces.existing_app()?, namespaces.existing_binding()?);
        match net.host.facts.wireguard {
            Backend::Kernel => {
                binding.links.create_wireguard(&to.interface, to.mtu, &app.netns).await?;
                let device = wireguard::Device::kernel(app.netns.clone(), to.interface.clone());
                Ok(device.configure(&key, to.listen_port).await?)
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
                };
                wireguard::start_userspace(&spec, &key).await?;
                Ok(app.links.set_mtu(app.index_of(to.interface.as_str()).await?, to.mtu).await?)
            }
        }
    }

    async fn remove(net: &LocalNetwork, member: MemberId, _: Before<'_, Self::Spec>) -> Result<()> {
        delete(net, member).await
    }
}

/// The device of a scan's member, when it is there.
pub(super) async fn device_of<'a>(scan: &'a MemberScan<'_>) -> Result<Option<&'a SeenDevice>> {
    Ok(scan.device.get_or_try_init(|| observe(scan)).await?.as_ref())
}

async fn observe(scan: &MemberScan<'_>) -> Result<Option<SeenDevice>> {
    let broken = |why: String| Ok(Some(SeenDevice::Broken(why)));
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
    let interface = ownership::wireguard_interface(scan.record.index);
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
            let Some(app) = &namespaces.app else { return Ok(()) };
            if let Some(link) = app.find(ownership::wireguard_interface(record.index).as_str()).await? {
                app.links.delete(link.index).await.absent_is_done()?;
            }
            Ok(())
        }
        Backend::Userspace => Ok(wireguard::stop_userspace(&net.wireguard_dir(record)).await?),
    }
}
