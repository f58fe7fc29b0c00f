//! One look at the namespaces of this host: those of containers, and privnet's own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::agent::host::facts::Host;
use crate::agent::netns_links::NetnsLinks;
use crate::agent::shared::Memberships;
use crate::link::Link;
use crate::model::explain::lacks_descriptors;
use crate::model::{Member, NetworkId};
use crate::netns::{Netns, NetnsId};
use crate::topology::ownership::{self, NetnsName};

/// What was seen.
pub struct Kernel {
    /// The namespaces with an interface that may be privnet's, of which none is privnet's own.
    pub apps: Vec<SeenApp>,
    /// The binding namespaces.
    pub bindings: Vec<SeenBinding>,
    /// The links of each network netns.
    pub networks: BTreeMap<NetworkId, Vec<Link>>,
}

/// A namespace that may be a container's.
pub struct SeenApp {
    /// A path that leads to it: a pin where there is one, else that of the process that has it for longest.
    pub path: PathBuf,
    /// It.
    pub netns: Netns,
    /// The addresses of its interfaces that may be privnet's.
    addresses: Vec<(Link, Ipv4Addr)>,
}

/// A binding netns.
pub struct SeenBinding {
    /// The digits in its name.
    pub digits: u64,
    /// Its links.
    pub links: Vec<Link>,
    /// The UDP ports that sockets in it are bound to.
    pub udp_ports: BTreeSet<u16>,
}

impl SeenApp {
    /// The interface of a member, where it has one here. Two containers may have interfaces of one name and address, in networks of
    /// one subnet, so the alias decides; where the build before set none, it is the name and the address.
    pub fn interface_of(&self, member: &Member, interface: &str) -> Option<&str> {
        let alias = ownership::tunnel_alias(member.id);
        let is_it = |link: &Link| link.alias.as_ref().map_or_else(|| link.name == interface, |found| *found == alias);
        let found = self.addresses.iter().find(|(link, address)| *address == member.address && is_it(link));
        found.map(|(link, _)| &*link.name)
    }
}

impl Kernel {
    /// Looks at all namespaces.
    ///
    /// # Errors
    /// When one of privnet's own cannot be read. One of a container that goes meanwhile is gone.
    pub async fn look(memberships: &Memberships) -> Result<Self> {
        let host = &memberships.host;
        let (config, mut own) = (&host.config, BTreeSet::from([host.config.host_netns.id()]));
        let (mut bindings, mut networks) = (Vec::new(), BTreeMap::new());
        for pin in Netns::list(&config.netns_dir)? {
            let (Some(name), Some(id)) = (ownership::parse_netns(&config.netns_prefix, &pin.name), pin.id) else {
                continue;
            };
            own.insert(id);
            let netns = NetnsLinks::enter(Netns::open(&config.netns_path(&pin.name))?).await?;
            let links = netns.links.links().await.with_context(|| format!("looking into {}", pin.name))?;
            match name {
                NetnsName::Network(network) => drop(networks.insert(network, links)),
                // It stands for a container until that is there.
                NetnsName::Handover(_) => {}
                NetnsName::Binding(digits) => {
                    let udp_ports =
                        netns.netns.run(udp_ports).await?.with_context(|| format!("looking into {}", pin.name))?;
                    bindings.push(SeenBinding { digits, links, udp_ports });
                }
            }
        }
        let apps = looked_into(host, own).await?;
        Ok(Self { apps, bindings, networks })
    }
}

async fn looked_into(host: &Host, own: BTreeSet<NetnsId>) -> Result<Vec<SeenApp>> {
    let paths = tokio::task::spawn_blocking(move || namespaces(Path::new("/proc"), &own)).await??;
    let mut apps = Vec::new();
    for (id, path) in paths {
        // One that is gone by now, or is another one's, is none of a running container.
        let netns = match Netns::open(&path) {
            Ok(netns) => netns,
            Err(error) if lacks_descriptors(&error) => return Err(error.into()),
            Err(_) => continue,
        };
        if netns.id() != id || id == host.config.host_netns.id() {
            continue;
        }
        let there = match NetnsLinks::enter(netns).await {
            Ok(there) => there,
            Err(error) if lacks_descriptors(&*error) => return Err(error),
            Err(_) => continue,
        };
        let (Ok(links), Ok(found)) = (there.links.links().await, there.links.addresses().await) else { continue };
        let may_be_ours =
            |link: &Link| link.name.starts_with("wg") || ownership::is_tunnel_alias(link.alias.as_deref());
        let ours = |index| links.iter().find(|link| link.index == index && may_be_ours(link));
        let addresses = found.iter().filter_map(|found| Some((ours(found.index)?.clone(), found.address.addr())));
        let addresses: Vec<_> = addresses.collect();
        if !addresses.is_empty() {
            apps.push(SeenApp { path, netns: there.netns, addresses });
        }
    }
    Ok(apps)
}

/// The network namespaces that a pin or a process leads to, without `own`. A pin comes before a process: it ends with the
/// container's namespace.
fn namespaces(proc: &Path, own: &BTreeSet<NetnsId>) -> Result<BTreeMap<NetnsId, PathBuf>> {
    let mounts = fs::read_to_string(proc.join("self/mountinfo")).context("reading the mounts")?;
    let mut found = BTreeMap::new();
    let mut add = |path: PathBuf| {
        match Netns::identify(&path) {
            Ok(id) if !own.contains(&id) => drop(found.entry(id).or_insert(path)),
            // What is not seen looks like what is not there.
            Err(error) if lacks_descriptors(&error) => return Err(error),
            Ok(_) | Err(_) => {}
        }
        Ok(())
    };
    pins(&mounts).into_iter().try_for_each(&mut add)?;
    let entries = fs::read_dir(proc).context("listing the processes")?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut processes: Vec<(u64, u32)> = names
        .filter_map(|name| name.parse().ok())
        .filter_map(|pid: u32| Some((started(&fs::read_to_string(proc.join(format!("{pid}/stat"))).ok()?)?, pid)))
        .collect();
    // A container's first process ends last.
    processes.sort_unstable();
    processes.into_iter().try_for_each(|(_, pid)| add(proc.join(format!("{pid}/ns/net"))))?;
    Ok(found)
}

/// Where namespaces are pinned, by the text of proc_pid_mountinfo(5).
fn pins(mounts: &str) -> Vec<PathBuf> {
    let pin = |line: &str| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        let is_network = file_system.starts_with("nsfs ") && root.starts_with("net:[");
        // A space is written as its octal number.
        is_network.then(|| PathBuf::from(at.replace("\\040", " ")))
    };
    mounts.lines().filter_map(pin).collect()
}

/// When a process was started, by the text of proc_pid_stat(5): its 22nd field, behind a name that may hold anything.
fn started(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

/// The ports that UDP sockets of the calling thread's namespace are bound to.
pub(in crate::agent) fn udp_ports() -> std::io::Result<BTreeSet<u16>> {
    let text = fs::read_to_string("/proc/thread-self/net/udp")?;
    Ok(text.lines().filter_map(bound_port).collect())
}

/// The port of a line of `/proc/net/udp`, `  12: 00000000:CA6C …`.
fn bound_port(line: &str) -> Option<u16> {
    let (_, port) = line.split_whitespace().nth(1)?.split_once(':')?;
    u16::from_str_radix(port, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_and_processes_and_ports_are_read_from_the_kernels_texts() {
        let mounts = "29 22 0:25 / /run rw shared:5 - tmpfs tmpfs rw\n\
            401 29 0:4 net:[4026532288] /run/netns/web\\0401 rw shared:220 - nsfs nsfs rw\n\
            402 29 0:4 mnt:[4026532289] /run/x rw - nsfs nsfs rw\n";
        assert_eq!(pins(mounts), [PathBuf::from("/run/netns/web 1")]);
        let stat = "17 (a) b) S 1 17 17 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 1000 200";
        assert_eq!(started(stat), Some(12_345));
        assert_eq!(started("17 (a"), None);
        assert_eq!(bound_port("  12: 00000000:CA6C 00000000:0000 07"), Some(51_820));
        assert_eq!(bound_port("  sl  local_address rem_address"), None);
    }

    #[test]
    fn the_namespace_of_this_process_is_found_unless_it_is_left_out() {
        let id = Netns::identify(Path::new("/proc/self/ns/net")).expect("it has one");
        assert!(namespaces(Path::new("/proc"), &BTreeSet::new()).expect("read").contains_key(&id));
        assert!(!namespaces(Path::new("/proc"), &BTreeSet::from([id])).expect("read").contains_key(&id));
    }
}
