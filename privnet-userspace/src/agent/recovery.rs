//! The journal entry of a membership, made again from the store's record and from what is in the kernel.
//!
//! A container's network goes on without the entry: its devices are there, and its WireGuard has the private key. So an agent
//! that has lost an entry, or all of them with the state directory, looks for the namespaces of the membership: the app netns
//! has `wg<n>` with the member's alias, address and public key, the binding netns and the network netns have the ends of its veth
//! pair. Only where nothing of it is there is the membership one that was never built, or whose container is gone.

pub mod private_keys;
pub(in crate::agent) mod seen;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::Instant;

use self::seen::{Kernel, SeenApp};
use super::host::journal::{FurtherName, Record};
use super::shared::Memberships;
use crate::model::{IfName, Member, PrivateKey};
use crate::netns::Netns;
use crate::store::keys;
use crate::topology::ownership::{self, MemberLink};
use crate::wireguard::{self, Backend, Device};

/// How long a WireGuard process whose control socket was removed may take to be found again: since its agent ended, it
/// looks once a second.
const PROCESS_PATIENCE: Duration = Duration::from_secs(5);
/// How often is looked meanwhile.
const LOOK: Duration = Duration::from_millis(200);

/// What is in the kernel of a membership without an entry.
pub enum Found {
    /// Its container, and so the membership: its entry, and its key where its WireGuard passes it.
    Whole(Box<Record>, Option<PrivateKey>),
    /// Nothing, or what its container left: these binding netns.
    Nothing(Vec<u64>),
    /// Its WireGuard socket, and not its container: why.
    Unclear(String),
}

/// Looks for memberships in the kernel, all of them in one look.
///
/// # Errors
/// When the kernel cannot be asked. Nothing was changed.
pub async fn look_for(memberships: &Memberships, members: &[Member]) -> Result<Vec<Found>> {
    let kernel = Kernel::look(memberships).await.context("looking for members in the kernel")?;
    let mut found = Vec::new();
    for member in members {
        found.push(look_for_one(memberships, &kernel, member).await?);
    }
    Ok(found)
}

/// As [`look_for`], and waits for WireGuard processes that are not found yet.
///
/// # Errors
/// As there.
pub async fn wait_for(memberships: &Memberships, members: &[Member]) -> Result<Vec<Found>> {
    let deadline = Instant::now() + PROCESS_PATIENCE;
    loop {
        let found = look_for(memberships, members).await?;
        let is_clear = !found.iter().any(|found| matches!(found, Found::Unclear(_)));
        if is_clear || Instant::now() >= deadline {
            return Ok(found);
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn look_for_one(memberships: &Memberships, kernel: &Kernel, member: &Member) -> Result<Found> {
    let Some(index) = ownership::wireguard_index(member.wireguard_port) else {
        return Ok(Found::Unclear(format!("port {} is not one of a WireGuard socket", member.wireguard_port)));
    };
    let usual = ownership::wireguard_interface(index);
    let mut app = None;
    for seen in &kernel.apps {
        let Some(interface) = seen.interface_of(member, usual.as_str()) else { continue };
        let interface: IfName = interface.parse()?;
        let device = device_of(memberships, member, seen, &interface);
        // A process that does not answer yet is asked again with the next look.
        let state = device.observe().await.ok().flatten();
        if state.is_some_and(|state| state.public_key == Some(member.public_key)) {
            app = Some((seen, device, interface));
            break;
        }
    }
    let binding_veth = ownership::binding_veth(index);
    let bindings = kernel.bindings.iter().filter(|binding| {
        binding.links.iter().any(|link| link.name == binding_veth.as_str() && link.mac == Some(member.mac()))
    });
    let near = kernel.networks.get(&member.network).into_iter().flatten();
    let near = near.filter(|link| link.mac == Some(member.mac().near_end()));
    // Members of several networks may have one address: the ends of a pair know each other's index.
    let mut pair = None;
    let mut digits = Vec::new();
    for binding in bindings {
        let far = binding.links.iter().find(|link| link.name == binding_veth.as_str());
        let matching = near.clone().find(|near| far.is_some_and(|far| near.lower == Some(far.index)));
        if let Some(near) = matching {
            pair = Some((binding, MemberLink::parse(&near.name)));
        }
        if !memberships.journal().records().values().any(|record| record.binding() == binding.digits) {
            digits.push(binding.digits);
        }
    }
    let Some((app, device, interface)) = app else {
        let socket_lives = pair.is_some_and(|(binding, _)| binding.udp_ports.contains(&member.wireguard_port));
        return Ok(if socket_lives {
            let why = "its WireGuard socket is there, and no namespace with its interface and key is found";
            Found::Unclear(why.to_owned())
        } else {
            Found::Nothing(digits.into_iter().filter(|digits| is_only_of(*digits, kernel, member)).collect())
        });
    };
    let key = device.private_key().await.with_context(|| format!("asking for the key of {}", member.container))?;
    let key = key.filter(|key| key.public_key() == member.public_key);
    let further =
        member.names.iter().map(|name| FurtherName { container: name.container.clone(), netns_path: app.path.clone() });
    let record = Record {
        id: member.id,
        network: member.network,
        container: member.container.clone(),
        address: member.address,
        index,
        slot: pair.as_ref().and_then(|(_, link)| match link {
            Some(MemberLink::Slot(slot)) => Some(*slot),
            Some(MemberLink::Address(_)) | None => None,
        }),
        binding: pair.map(|(binding, _)| binding.digits),
        netns_path: app.path.clone(),
        names: further.collect(),
        netns: app.netns.id(),
        netns_cookie: Some(app.netns.cookie().await?),
        boot_id: memberships.host.facts.boot_id.clone(),
        leaving: false,
        resolv_conf: None,
        // Its peers stand as they should, as far as anyone can tell; making them anew would cost each a handshake.
        clock_steps: memberships.world(|world| world.clock_steps()),
        handover: None,
        interface: Some(interface).filter(|interface| *interface != usual),
        attachment: None,
        stored: stored_records(memberships, member),
        unknown: [].into(),
    };
    Ok(Found::Whole(Box::new(record), key))
}

/// The device of a membership, by the backend in use.
fn device_of(memberships: &Memberships, member: &Member, app: &SeenApp, interface: &IfName) -> Device {
    match memberships.host.facts.wireguard {
        Backend::Kernel => Device::kernel(app.netns.clone(), interface.clone()),
        Backend::Userspace => Device::userspace(&memberships.host.config.wireguard_dir(member.network, member.address)),
    }
}

/// Whether a binding netns has no carrier of another membership.
fn is_only_of(digits: u64, kernel: &Kernel, member: &Member) -> bool {
    let binding = kernel.bindings.iter().find(|binding| binding.digits == digits);
    let is_carrier = |name: &str| name.starts_with("vxlan-") && name.ends_with("-veth0");
    binding.is_some_and(|binding| {
        binding.links.iter().all(|link| !is_carrier(&link.name) || link.mac == Some(member.mac()))
    })
}

/// The store's records of a membership, by key, as they are believed.
fn stored_records(memberships: &Memberships, member: &Member) -> BTreeMap<String, String> {
    let names = member.names.iter().map(|name| keys::member_name(member.network, &name.container));
    let own: BTreeSet<_> = names
        .chain([
            keys::member(member.network, &member.container),
            keys::address(member.network, member.address),
            keys::public_key(member.network, member.public_key),
        ])
        .collect();
    memberships.world.belief(|belief| {
        let records = belief.records().filter(|(key, _)| own.contains(*key));
        records.map(|(key, value)| (key.to_string(), String::from_utf8_lossy(value).into_owned())).collect()
    })
}

/// Makes the entry of a membership again, and has its network's worker look at it.
///
/// # Errors
/// When it cannot be written.
pub fn make_entry_again(memberships: &Memberships, record: Record, key: Option<&PrivateKey>) -> Result<()> {
    let (network, text) = (record.network, record.names_text());
    memberships.journal().make_again(record, key)?;
    match key {
        Some(_) => {
            tracing::info!(%network, "the journal had no entry of {text}, whose container runs: it is made again")
        }
        None => tracing::warn!(
            %network,
            "the journal had no entry of {text}, whose container runs: it is made again without the private key, which its \
             WireGuard does not pass; when its device goes, attach the container again"
        ),
    }
    let _ = memberships.workers.of(network).wake_and_observe();
    Ok(())
}

/// Removes what a container that is gone left in the kernel, whose membership has no entry; its network's worker removes the
/// rest.
///
/// # Errors
/// When the kernel refuses.
pub async fn remove_leftovers(memberships: &Memberships, member: &Member, bindings: &[u64]) -> Result<()> {
    let config = &memberships.host.config;
    // It ends by itself, and may have made its directory again before.
    if memberships.host.facts.wireguard == Backend::Userspace {
        wireguard::stop_userspace(&config.wireguard_dir(member.network, member.address)).await?;
    }
    for digits in bindings {
        // Another membership of the container writes its record before it looks for this namespace.
        let journal = memberships.journal();
        if !journal.records().values().any(|record| record.binding() == *digits) {
            Netns::remove(&config.netns_dir, &ownership::binding_netns(&config.netns_prefix, *digits))?;
        }
    }
    if config.netns_path(&ownership::network_netns(&config.netns_prefix, member.network)).exists() {
        let _ = memberships.workers.of(member.network).wake_and_observe();
    }
    Ok(())
}
