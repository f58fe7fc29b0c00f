//! Marks: an operator's word that a network ended with its members, or that a host's agent is forgotten with the members that
//! it made. A mark beats each record of these, whichever came first, and is never taken back.
//!
//! The end of a member that a mark ends is recorded in the row of its address, as any end is: each host writes the same row,
//! so any of them can finish what the one began at which the operator said so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use uuid::Uuid;

use super::fact::{About, Fact};
use crate::model::{Member, NetworkId};
use crate::store::records::InstanceMark;
use crate::store::{Entry, Key, Revision};

/// The marks that are believed, and what the store has against them.
#[derive(Clone, Debug)]
pub(super) struct Marks {
    networks: BTreeSet<NetworkId>,
    instances: BTreeMap<Uuid, Arc<InstanceMark>>,
    /// Records that the store has and that marks beat: of these networks, and of the hosts whose agents these were.
    pub(super) beaten: BTreeMap<Key, Beaten>,
    /// Whether what is believed has not been compared with the newest mark.
    pub(super) is_new: bool,
    /// Whether the members have not been.
    pub(super) is_new_to_members: bool,
}

/// A record that a mark beats.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beaten {
    pub(super) revision: Revision,
    pub(super) since: Instant,
}

impl Marks {
    pub(super) const fn none() -> Self {
        Self {
            networks: BTreeSet::new(),
            instances: BTreeMap::new(),
            beaten: BTreeMap::new(),
            is_new: false,
            is_new_to_members: false,
        }
    }

    /// Notes what a mark says, if the record is one.
    pub(super) fn note(&mut self, about: &About) {
        match about {
            About::NetworkMark(network) => self.is_new |= self.networks.insert(*network),
            About::InstanceMark(mark) => {
                let is_new = self.instances.insert(mark.instance, Arc::clone(mark)).is_none();
                self.is_new |= is_new;
                self.is_new_to_members |= is_new;
            }
            About::Network(_)
            | About::NetworkPointer(_)
            | About::Member { .. }
            | About::MemberPointer { .. }
            | About::Address { .. }
            | About::Host { .. }
            | About::Drain(_)
            | About::Presence { .. } => {}
        }
    }

    pub(super) fn has_network(&self, network: NetworkId) -> bool {
        self.networks.contains(&network)
    }

    /// The mark of the agent that made a membership.
    pub(super) fn of(&self, member: &Member) -> Option<&Arc<InstanceMark>> {
        match member.instance {
            Some(instance) => self.instances.get(&instance),
            None => self.instances.values().find(|mark| mark.ends(member)),
        }
    }

    /// Whether a mark beats the record of a network's or of a host. The end of a member of a forgotten host stands in a row.
    pub(super) fn beat(&self, about: &About) -> bool {
        if let About::Host { instance, .. } = about {
            return instance.is_some_and(|instance| self.instances.contains_key(&instance));
        }
        about.network().is_some_and(|network| self.has_network(network))
    }

    pub(super) fn beat_entry(&self, entry: &Entry) -> bool {
        Fact::read(entry).ok().flatten().is_some_and(|fact| self.beat(&fact.about))
    }
}
