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
use crate::datapath;
use crate::model::NetworkId;
use crate::netns::{self, Netns};
use crate::topology::{DeviceAt, ownership};

/// How long after a look with findings the next one begins: what an attach or a detach is about to finish is none.
const PAUSE: Duration = Duration::from_secs(1);

/// What an audit found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// How many memberships were looked at.
    pub members: usize,
    /// In how many networks.
    pub networks: usize,
    /// Memberships that were not looked at, each with the reason.
    pub left_out: Vec<String>,
    /// What is not as it must be.
    pub findings: Vec<Finding>,
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
    /// The member, for a person.
    name: String,
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
    /// The programs and maps; absent in the bridge datapath.
    programs: Option<datapath::Network>,
    /// The records of this host's members, those that are not looked at included.
    records: Vec<Record>,
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

/// Looks at every membership of this host. What is found is looked at again a second later, and counts where it is there
/// still.
///
/// # Errors
/// When the journal, the snapshot or a namespace cannot be read: then nothing is proved.
pub async fn audit(config: &Config) -> Result<Audit, ControlError> {
    let first = look(config).await.map_err(|error| explain(&error))?;
    if first.findings.is_empty() {
        return Ok(first);
    }
    tokio::time::sleep(PAUSE).await;
    let mut second = look(config).await.map_err(|error| explain(&error))?;
    second.findings.retain(|finding| first.findings.contains(finding));
    Ok(second)
}

async fn look(config: &Config) -> Result<Audit> {
    let known = Known::read(config)?;
    let boot_id = netns::boot_id().context("reading the kernel's boot id")?;
    let (mut found, mut left_out, mut members) = (Found::default(), known.damaged_text(), 0);
    let mut by_network: BTreeMap<NetworkId, Vec<Record>> = BTreeMap::new();
    for record in &known.records {
        by_network.entry(record.network).or_default().push(record.clone());
    }
    let networks = by_network.len();
    let mut own = processes::Own::default();
    for (id, records) in by_network {
        let room = enter(config, id, records).await?;
        own.add(room.netns.as_ref(), id, None);
        found.say(id, None, network::faults(&room, &known).await?);
        for record in &room.records {
            match place(config, &known, &room, record, &boot_id).await? {
                Ok(place) => {
                    own.add(place.binding.as_ref(), id, Some(&place.name));
                    let faults = [
                        app::faults(config, &place, &room, &known).await?,
                        carrier::faults(&place, &room, &known).await?,
                    ];
                    found.say(id, Some(&place.name), faults.into_iter().flatten());
                    members += 1;
                }
                Err(why) => left_out.push(format!("{}: {why}", known.name_of(record))),
            }
        }
    }
    let of_processes = tokio::task::spawn_blocking(move || own.faults(Path::new("/proc"))).await??;
    for (network, member, fault) in of_processes {
        found.say(network, member.as_deref(), [fault]);
    }
    Ok(Audit { members, networks, left_out, findings: found.findings.into_iter().collect() })
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
    let netns = Netns::open(path)?;
    if netns.id() != record.netns {
        return Ok(Err("its container is gone"));
    }
    let app = NetnsLinks::enter(netns).await?;
    let Some(subnet) = subnet(known, room, record, &app).await? else {
        return Ok(Err("the subnet of its network is not known"));
    };
    let binding = open(config, &ownership::binding_netns(&config.netns_prefix, record.binding())).await?;
    Ok(Ok(Place { name: known.name_of(record), record: record.clone(), subnet, app, binding }))
}

/// The subnet of a network: as the programs have it, else as the store says, else as the member's own address does.
async fn subnet(known: &Known, room: &Room, record: &Record, app: &NetnsLinks) -> Result<Option<Ipv4Net>> {
    if let Some(programs) = &room.programs {
        return Ok(Some(programs.spec()?.prefix));
    }
    if let Some(subnet) = known.subnets.get(&room.id) {
        return Ok(Some(*subnet));
    }
    let addresses = app.links.addresses().await?;
    let own = addresses.iter().find(|address| address.address.addr() == record.address);
    Ok(own.map(|address| address.address.trunc()))
}
