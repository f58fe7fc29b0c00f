//! The snapshot that names are answered from, as a plain value, and the difference of two.
//!
//! It is what the agent hands to the DNS process, so its JSON is a contract between versions: fields are only added.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::model::{ContainerRef, NameOptions, NetworkId, NetworkName, Port};

/// Every network that has members on this host, with its members that are ready, wherever they are.
pub type Catalogue = BTreeMap<NetworkId, NetworkNames>;

/// A network's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkNames {
    /// What concerns the network as a whole.
    pub head: NetworkHead,
    /// The names of its ready members.
    pub members: BTreeMap<ContainerRef, MemberNames>,
}

/// What concerns a network as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkHead {
    /// Its name, by which it can be called as well.
    pub name: NetworkName,
    /// Its subnet, whose addresses have names.
    pub subnet: Ipv4Net,
    /// What it says about its names.
    #[serde(flatten)]
    pub options: NameOptions,
    /// The serial of its zone, which grows with each change.
    pub serial: u32,
}

impl NetworkHead {
    /// A network with the defaults of everything that it may say itself.
    #[must_use]
    pub fn new(name: NetworkName, subnet: Ipv4Net) -> Self {
        Self { name, subnet, options: NameOptions::default(), serial: 1 }
    }
}

/// A name of a ready member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberNames {
    /// Its container.
    #[serde(flatten)]
    pub container: ContainerRef,
    /// Its address.
    pub address: Ipv4Addr,
    /// The ports that it declared.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub ports: BTreeSet<Port>,
    /// Whether the address stands for an older name of the same member.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub further: bool,
}

/// What turns one catalogue into another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Networks that are there no more.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub gone: BTreeSet<NetworkId>,
    /// Networks that are new or not what they were.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub changed: BTreeMap<NetworkId, NetworkDifference>,
}

/// What changes in a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkDifference {
    /// What concerns it as a whole, as it is to be.
    pub head: NetworkHead,
    /// Members that are new or not what they were.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<MemberNames>,
    /// Members that are there no more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<ContainerRef>,
}

impl Difference {
    /// What turns `from` into `to`; empty when they are equal.
    #[must_use]
    pub fn between(from: &Catalogue, to: &Catalogue) -> Self {
        let gone = from.keys().filter(|id| !to.contains_key(id)).copied().collect();
        let changed = to.iter().filter_map(|(id, to)| Some((*id, network_difference(from.get(id), to)?))).collect();
        Self { gone, changed }
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.changed.is_empty()
    }
}

fn network_difference(from: Option<&NetworkNames>, to: &NetworkNames) -> Option<NetworkDifference> {
    if from == Some(to) {
        return None;
    }
    let empty = BTreeMap::new();
    let old = from.map_or(&empty, |from| &from.members);
    let set = to.members.iter().filter(|(container, member)| old.get(container) != Some(member));
    let removed = old.keys().filter(|container| !to.members.contains_key(container));
    Some(NetworkDifference {
        head: to.head.clone(),
        set: set.map(|(_, member)| member.clone()).collect(),
        removed: removed.cloned().collect(),
    })
}
