//! Finds out, at the start, what the host is like.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result};
use uuid::{Uuid, uuid};

use super::instance::Instance;
use super::state_dir::StateDir;
use crate::agent::config::{Config, DatapathChoice};
use crate::agent::door::error::{ControlError, ErrorCode};
use crate::agent::netns_links::NetnsLinks;
use crate::link::{Address, LinkKind, Links, RouteTarget};
use crate::model::{Member, Mtu};
use crate::netns::Netns;
use crate::topology::Datapath;
use crate::wireguard::{Backend, Support};
use crate::{datapath, netns, wireguard};

/// The MTU that is used where the underlay is the loopback: one that other hosts will have too.
const ETHERNET_MTU_BYTES: u32 = 1500;
/// The namespace of the UUIDs that are made of machine ids: machine-id(5) asks that the id itself stays on the machine.
const MACHINES: Uuid = uuid!("9ad18f44-55ea-4e01-9c5f-3b7a3a8f4d6e");

/// This host, as it is while the agent runs.
pub struct Host {
    /// What the agent was started with.
    pub config: Config,
    /// What the host is like.
    pub facts: HostFacts,
    /// The host's own namespace, where the VTEPs' sockets are created.
    pub netns: NetnsLinks,
    /// The state directory, taken by this agent.
    pub state_dir: StateDir,
}

/// What was found out about the host at the start, and does not change while the agent runs.
#[derive(Clone, Debug)]
pub struct HostFacts {
    /// The VTEP's address on the underlay.
    pub vtep: Ipv4Addr,
    /// The MTUs that follow from the underlay's.
    pub mtu: Mtu,
    /// The datapath in use.
    pub datapath: Datapath,
    /// The WireGuard in use.
    pub wireguard: Backend,
    /// The running boot of the kernel.
    pub boot_id: String,
    /// The machine, told from others by a UUID that follows from its machine-id; nothing where it has none.
    pub machine: Option<Uuid>,
    /// The identity of the agent's state directory.
    pub instance: Instance,
}

impl HostFacts {
    /// Looks at the host, whose journal has `noted` the agent's instance.
    ///
    /// # Errors
    /// When something that the configuration asks for is not there.
    pub async fn find(config: &Config, host: &NetnsLinks, noted: Option<Uuid>) -> Result<Self> {
        let underlay = find_underlay(config.vtep, &host.links).await?;
        if underlay.interface.is_none() {
            tracing::warn!("there is no default route: the VTEP is on the loopback, and no other host can be reached");
        }
        Ok(Self {
            vtep: underlay.address,
            mtu: Mtu::from_underlay(underlay.mtu)?,
            datapath: choose_datapath(config.datapath)?,
            wireguard: choose_wireguard(config)?,
            boot_id: netns::boot_id().context("reading the kernel's boot id")?,
            machine: machine_at(&config.machine_id_file),
            instance: Instance::of(&config.state_dir, noted)?,
        })
    }
}

/// The machine whose id is in that file; nothing where it has none.
#[must_use]
pub fn machine_at(path: &Path) -> Option<Uuid> {
    fs::read_to_string(path).ok().and_then(|id| machine(&id))
}

/// What tells a machine from others without saying its id: 32 hexadecimal digits, as machine-id(5) has them.
fn machine(id: &str) -> Option<Uuid> {
    let id = id.trim();
    (id.len() == 32).then(|| Uuid::try_parse(id).ok()).flatten().map(|id| Uuid::new_v5(&MACHINES, id.as_bytes()))
}

/// The interface on the hosts' own network that VXLAN runs over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// The VTEP's address on it.
    pub address: Ipv4Addr,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its name; none when the host has no default route, and [`Self::mtu`] is assumed.
    pub interface: Option<String>,
}

impl Underlay {
    /// The underlay of this process's network namespace, as an agent without `--vtep` finds it.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub async fn of_default_route() -> Result<Self> {
        find_underlay(None, &Links::open(&Netns::current()?).await?).await
    }

    /// The underlay of this process's network namespace by the address that the VTEP had.
    ///
    /// # Errors
    /// When no interface has it, or the kernel cannot be asked.
    pub async fn with_address(vtep: Ipv4Addr) -> Result<Self> {
        find_underlay(Some(vtep), &Links::open(&Netns::current()?).await?).await
    }
}

impl Host {
    /// Whether a member of this host's name is this agent's to end: of its instance, or of a build that wrote none.
    #[must_use]
    pub fn is_of_instance(&self, member: &Member) -> bool {
        member.instance.is_none_or(|instance| instance == self.facts.instance.id())
    }

    /// The underlay as it is now: the interface that has the VTEP's address.
    ///
    /// # Errors
    /// When none has it any more, or the kernel cannot be asked.
    pub async fn underlay(&self) -> Result<Underlay> {
        find_underlay(Some(self.facts.vtep), &self.netns.links).await
    }
}

/// The underlay: the interface that has the address `vtep`, or without one that of the default route.
async fn find_underlay(vtep: Option<Ipv4Addr>, host: &Links) -> Result<Underlay> {
    let links = host.links().await?;
    let addresses = host.addresses().await?;
    let on = |address: &Address| {
        let link = links.iter().find(|link| link.index == address.index)?;
        let mtu = if link.kind == LinkKind::Loopback { ETHERNET_MTU_BYTES } else { link.mtu };
        Some(Underlay { address: address.address.addr(), mtu, interface: Some(link.name.clone()) })
    };
    if let Some(vtep) = vtep {
        return addresses.iter().find(|address| address.address.addr() == vtep).and_then(on).ok_or_else(|| {
            ControlError::new(
                ErrorCode::InvalidArgument,
                format!("no interface of this host has the VTEP address {vtep}"),
                "give --vtep an address that `ip -4 address` shows, or none to use the default route's",
            )
            .into()
        });
    }
    let routes = host.routes().await?;
    let default = routes.into_iter().filter(|route| route.destination.prefix_len() == 0).min_by_key(|r| r.metric);
    let found = default.and_then(|route| match route.target {
        RouteTarget::Link { index, .. } => addresses.iter().find(|address| address.index == index).and_then(on),
        RouteTarget::Unreachable | RouteTarget::Other(_) => None,
    });
    // A laptop without a network: there is one host, and its loopback is underlay enough.
    Ok(found.unwrap_or(Underlay { address: Ipv4Addr::LOCALHOST, mtu: ETHERNET_MTU_BYTES, interface: None }))
}

fn choose_datapath(choice: DatapathChoice) -> Result<Datapath> {
    let lacking = lacking(&datapath::features());
    match (choice, lacking) {
        (DatapathChoice::Only(Datapath::Bridge), _) => Ok(Datapath::Bridge),
        (DatapathChoice::Auto | DatapathChoice::Only(Datapath::Ebpf), None) => Ok(Datapath::Ebpf),
        (DatapathChoice::Auto, Some(lacking)) => {
            tracing::warn!("the eBPF datapath cannot be used ({lacking}): a bridge forwards the packets");
            Ok(Datapath::Bridge)
        }
        (DatapathChoice::Only(Datapath::Ebpf), Some(lacking)) => Err(ControlError::new(
            ErrorCode::Unsupported,
            format!("the eBPF datapath cannot be used: {lacking}"),
            "use a newer kernel, or --datapath bridge",
        )
        .into()),
    }
}

/// What the eBPF datapath needs and this kernel does not have.
fn lacking(features: &datapath::Features) -> Option<String> {
    /// `bpf_redirect_peer` came with Linux 5.10.
    const OLDEST: (u32, u32) = (5, 10);
    let mut numbers = features.kernel.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) if (major, minor) < OLDEST => {
            Some(format!("it needs Linux {}.{}, and this is {}", OLDEST.0, OLDEST.1, features.kernel))
        }
        (_, _) => None,
    }
}

fn choose_wireguard(config: &Config) -> Result<Backend> {
    let (kernel, userspace) = (wireguard::kernel_support(), wireguard::userspace_support());
    let backend = config.wireguard.resolve(&kernel, &userspace)?;
    if let (wireguard::Choice::Auto, Backend::Userspace, Support::Missing { reason, .. }) =
        (config.wireguard, backend, &kernel)
    {
        tracing::warn!(
            "no kernel WireGuard ({reason}): a userspace process per member encrypts its packets, more slowly"
        );
    }
    Ok(backend)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_told_from_others_and_its_id_stays_on_it() {
        let id = "0a1b2c3d4e5f60718293a4b5c6d7e8f9";
        let one = machine(&format!("{id}\n")).expect("an id");
        assert_eq!(machine(id), Some(one));
        assert_ne!(machine(&id.replace('0', "1")), Some(one));
        assert!(!one.simple().to_string().contains(&id[..8]));
        for none in ["", "uninitialized\n", "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9", &id[1..]] {
            assert_eq!(machine(none), None, "{none:?}");
        }
    }
}
