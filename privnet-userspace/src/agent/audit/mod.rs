//! Proof that what the members of this host send goes into their tunnels and nowhere else: read from the kernel, and not from
//! what the agent planned or remembers of its own work. Changes nothing, and needs no agent.
//!
//! What should be there is what the store says, as this host's journal and snapshot have it: which members there are, with
//! which key, address, MAC and host. All else is asked of the kernel, each time.
//!
//! | module | what it looks at |
//! |---|---|
//! | `known` | journal and snapshot |
//! | `app` | the app netns: device, peers, routes, guard |
//! | `carrier` | the binding netns: socket, interfaces, routes |
//! | `network` | the network netns: interfaces, programs' maps, forwarding entries, VTEP |
//! | `hooks` | which program runs first at a hook |
//! | `processes` | which processes are in a namespace that is privnet's alone |

mod app;
mod carrier;
mod hooks;
mod known;
mod network;
mod processes;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ipnet::Ipv4Net;
use serde::Serialize;

use self::known::Known;
use super::config::Config;
use super::door::error::ControlError;
use super::door::explain::explain;
use super::host::journal::Record;
use super::netns_links::NetnsLinks;
use super::network::own_netns::not_hardened;
use crate::datapath;
use crate::link::{Link, LinkKind, Route, RouteTarget};
use crate::model::NetworkId;
use crate::netns::{self, Netns};
use crate::topology::ownership::NetnsName;
use crate::topology::{DeviceAt, ownership};

/// How long after a look with findings the next one begins: what an attach or a detach is about to finish is none, and the
/// snapshot may be a second older than what the kernel was told.
const PAUSE: Duration = Duration::from_millis(2500);

/// What an audit found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// How many memberships were looked at.
    pub members: usize,
    /// In how many networks.
    pub networks: usize,
    /// Memberships that were not looked at, each with the reason: nothing of theirs can be open.
    pub left_out: Vec<String>,
    /// What could not be looked at, each with the reason: of that nothing is proved.
    pub unread: Vec<String>,
    /// What is not as it must be.
    pub findings: Vec<Finding>,
}

impl Audit {
    /// Whether everything was looked at, and nothing found.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.findings.is_empty() && self.unread.is_empty()
    }
}

/// A way in or out that must not be there, or a part of the protection that is missing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The network.
    pub network: NetworkId,
    /// The member; nothing where it is of the network as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// What was looked at, by a word of `docs/operations.md`.
    pub check: &'static str,
    /// What was found.
    pub detail: String,
    /// What to do about it.
    pub remedy: String,
}

/// A member of this host, and the namespaces that are its own.
struct Place {
    record: Record,
    subnet: Ipv4Net,
    app: NetnsLinks,
    /// Absent where it is not there, which is a finding.
    binding: Option<NetnsLinks>,
}

/// A network on this host.
struct Room {
    id: NetworkId,
    /// Absent where it is not there, which is a finding.
    netns: Option<NetnsLinks>,
    /// The programs and maps; absent where they are not pinned, which is a finding.
    programs: Option<datapath::Network>,
    /// The records of this host's members, those that are not looked at included.
    records: Vec<Record>,
}

impl Finding {
    /// What tells one finding from another.
    fn place(&self) -> (NetworkId, Option<String>, &'static str) {
        (self.network, self.member.clone(), self.check)
    }
}

/// What one look has found so far.
#[derive(Default)]
struct Found {
    findings: BTreeSet<Finding>,
}

/// What was found at one place, and is still to be said of whom.
struct Fault {
    check: &'static str,
    detail: String,
    remedy: &'static str,
}

/// Whether the kernel made a link by itself, since a module of tunnels is loaded (`net.core.fb_tunnels_only_for_init_net`): it
/// is down, and cannot be removed.
fn is_of_kernel(link: &Link) -> bool {
    const FALLBACKS: [&str; 9] =
        ["tunl0", "sit0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6tnl0", "ip6gre0"];
    link.kind == LinkKind::Loopback || (!link.up && FALLBACKS.contains(&&*link.name))
}

/// The first route that leads a part of a subnet by another link than the one that is meant.
fn route_past(routes: &[Route], subnet: Ipv4Net, meant: Option<u32>) -> Option<Ipv4Net> {
    let leads_past = |route: &&Route| match route.target {
        RouteTarget::Link { index, .. } => Some(index) != meant && subnet.contains(&route.destination),
        RouteTarget::Unreachable | RouteTarget::Other(_) => false,
    };
    routes.iter().find(leads_past).map(|route| route.destination)
}

/// What a namespace of privnet's does and must not.
async fn settings_fault(there: &NetnsLinks, links: &[&str], what: &str) -> Result<Option<Fault>> {
    let differing = not_hardened(there, links).await?;
    Ok(differing.map(|found| Fault {
        check: "settings",
        detail: format!("in the {what} netns {found}"),
        remedy: AGENT_REPAIRS,
    }))
}

/// The agent makes it right by itself.
const AGENT_REPAIRS: &str = "the agent repairs it within 30 s: see that it runs, and `privnet status`";

impl Found {
    fn say(&mut self, network: NetworkId, member: Option<&str>, faults: impl IntoIterator<Item = Fault>) {
        self.findings.extend(faults.into_iter().map(|Fault { check, detail, remedy }| Finding {
            network,
            member: member.map(str::to_owned),
            check,
            detail,
            remedy: remedy.to_owned(),
        }));
    }
}

/// Looks at every membership of this host. What is found is looked at again a moment later, and counts where it is there
/// still. On a host `of_fleet` the members of other hosts are those of the snapshot, which must be there.
///
/// # Errors
/// When the journal or the snapshot cannot be read, or there is none: then nothing is proved.
pub async fn audit(config: &Config, of_fleet: bool) -> Result<Audit, ControlError> {
    let first = look(config, of_fleet).await.map_err(|error| explain(&error))?;
    if first.is_clean() {
        return Ok(first);
    }
    tokio::time::sleep(PAUSE).await;
    let mut second = look(config, of_fleet).await.map_err(|error| explain(&error))?;
    // What is said of it may differ: a process has another id each time, a list is longer.
    let found: BTreeSet<_> = first.findings.iter().map(Finding::place).collect();
    second.findings.retain(|finding| found.contains(&finding.place()));
    Ok(second)
}

async fn look(config: &Config, of_fleet: bool) -> Result<Audit> {
    let known = Known::read(config, of_fleet)?;
    let boot_id = netns::boot_id().context("reading the kernel's boot id")?;
    let (mut found, mut left_out, mut members) = (Found::default(), Vec::new(), 0);
    let mut unread = known.lost();
    unread.extend(without_record(config, &known)?);
    let mut by_network: BTreeMap<NetworkId, Vec<Record>> = BTreeMap::new();
    for record in &known.records {
        by_network.entry(record.network).or_default().push(record.clone());
    }
    let networks = by_network.len();
    let mut own = processes::Own::default();
    for (id, records) in by_network {
        let is_alive = records.iter().any(|record| !record.leaving && record.is_alive(&boot_id));
        let room = match enter(config, id, records).await {
            Ok(room) => room,
            Err(error) => {
                unread.push(format!("{id}: {error:#}"));
                continue;
            }
        };
        own.add(room.netns.as_ref(), id, None);
        if is_alive {
            match network::faults(&room, &known).await {
                Ok(faults) => found.say(id, None, faults),
                Err(error) => unread.push(format!("{id}: {error:#}")),
            }
        }
        for record in &room.records {
            let name = known.name_of(record);
            match look_at(config, &known, &room, record, &boot_id).await {
                Ok(Looked::At(faults, binding)) => {
                    own.add(binding.as_ref(), id, Some(&name));
                    found.say(id, Some(&name), faults);
                    members += 1;
                }
                Ok(Looked::Not(why)) => left_out.push(format!("{name}: {why}")),
                Err(error) => unread.push(format!("{name}: {error:#}")),
            }
        }
    }
    let of_processes = tokio::task::spawn_blocking(move || own.faults(Path::new("/proc"))).await??;
    for (network, member, fault) in of_processes {
        found.say(network, member.as_deref(), [fault]);
    }
    Ok(Audit { members, networks, left_out, unread, findings: found.findings.into_iter().collect() })
}

/// What became of a look at a member.
enum Looked {
    /// What is not as it must be, and its binding netns.
    At(Vec<Fault>, Option<NetnsLinks>),
    /// It is none to look at, and why.
    Not(&'static str),
}

/// Looks at a member. What of it goes meanwhile is no fault, and what cannot be read is no proof.
async fn look_at(config: &Config, known: &Known, room: &Room, record: &Record, boot_id: &str) -> Result<Looked> {
    let place = match place(config, known, room, record, boot_id).await? {
        Ok(place) => place,
        Err(why) => return Ok(Looked::Not(why)),
    };
    let mut faults = app::faults(config, &place, room, known).await?;
    faults.extend(carrier::faults(&place, room, known).await?);
    Ok(Looked::At(faults, place.binding))
}

/// The namespaces of privnet's that belong to no record: whose they are is not known.
fn without_record(config: &Config, known: &Known) -> Result<Vec<String>> {
    let is_known = |name: &NetnsName| match name {
        NetnsName::Network(id) => known.records.iter().any(|record| record.network == *id),
        NetnsName::Binding(digits) => known.records.iter().any(|record| record.binding() == *digits),
        NetnsName::Handover(digits) => {
            known.records.iter().filter_map(|record| record.handover.as_ref()).any(|of| of.digits == *digits)
        }
    };
    let pins = Netns::list(&config.netns_dir)?.into_iter();
    let ours = pins.filter_map(|pin| Some((ownership::parse_netns(&config.netns_prefix, &pin.name)?, pin.name)));
    let lost = ours.filter(|(name, _)| !is_known(name));
    Ok(lost.map(|(_, name)| format!("{name}: a namespace of privnet's that no record of this host leads to")).collect())
}

async fn enter(config: &Config, id: NetworkId, records: Vec<Record>) -> Result<Room> {
    let netns = open(config, &ownership::network_netns(&config.netns_prefix, id)).await?;
    Ok(Room { id, netns, programs: datapath::Network::look(&config.pins_of(id))?, records })
}

/// A pinned namespace of privnet's, where it is there.
async fn open(config: &Config, name: &str) -> Result<Option<NetnsLinks>> {
    match Netns::find(&config.netns_path(name))? {
        Some(netns) => NetnsLinks::enter(netns).await.map(Some),
        None => Ok(None),
    }
}

/// The namespaces of a member; why it is not looked at, where it is not.
async fn place(
    config: &Config,
    known: &Known,
    room: &Room,
    record: &Record,
    boot_id: &str,
) -> Result<Result<Place, &'static str>> {
    if record.leaving {
        return Ok(Err("it is leaving"));
    }
    if !matches!(record.device(), DeviceAt::Home(_)) {
        return Ok(Err("its device is under way between Docker and privnet"));
    }
    let Some(path) = record.living_path(boot_id) else { return Ok(Err("its container is gone")) };
    let Some(netns) = Netns::find(path)?.filter(|netns| netns.id() == record.netns) else {
        return Ok(Err("its container is gone"));
    };
    let app = NetnsLinks::enter(netns).await?;
    let subnet = subnet(known, room, record, &app).await?.context("the subnet of its network is not known")?;
    let binding = open(config, &ownership::binding_netns(&config.netns_prefix, record.binding())).await?;
    Ok(Ok(Place { record: record.clone(), subnet, app, binding }))
}

/// The subnet of a network: as the store says, else as the member's own address does, else as the programs have it.
async fn subnet(known: &Known, room: &Room, record: &Record, app: &NetnsLinks) -> Result<Option<Ipv4Net>> {
    if let Some(subnet) = known.subnets.get(&room.id) {
        return Ok(Some(*subnet));
    }
    let addresses = app.links.addresses().await?;
    let own = addresses.iter().find(|address| address.address.addr() == record.address);
    if let Some(own) = own {
        return Ok(Some(own.address.trunc()));
    }
    Ok(room.programs.as_ref().map(datapath::Network::spec).transpose()?.map(|spec| spec.prefix))
}
