//! What has a reason to be believed further, although the store does not have it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Instant;

use super::fact::{About, is_presence};
use super::held::{Belief, Stored};
use crate::model::{HostName, Member, NetworkId};
use crate::store::{Event, Expected, Key, keys};

impl Belief {
    /// Ends the belief in what has no reason to be believed any more. One end may be another's reason.
    pub(super) fn settle(
        &mut self,
        touched: &BTreeSet<(NetworkId, Ipv4Addr)>,
        now: Instant,
        believed: &mut Vec<Event>,
    ) {
        let holders = touched.iter().filter_map(|place| self.at.get(place)).flatten();
        let mut doubted: BTreeSet<Key> = holders.filter_map(|id| self.members.get(id)).cloned().collect();
        doubted.extend(self.newly_beaten(now));
        loop {
            doubted.extend(self.lost.iter().filter(|key| !is_presence(key)).cloned());
            if doubted.is_empty() {
                return;
            }
            let own_networks = self.own_networks();
            let over: Vec<Key> = doubted.iter().filter(|key| !self.stands(key, &own_networks)).cloned().collect();
            if over.is_empty() {
                return;
            }
            for key in over {
                doubted.remove(&key);
                if self.is_end_unknown(&key) {
                    self.stepped_back = Some(now);
                }
                if self.held.contains_key(&key) {
                    let end = self.drop_record(&key, now);
                    believed.push(end);
                }
            }
        }
    }

    /// Whether a record is of a membership whose end should have been recorded, and was not: its network was lost with it.
    fn is_end_unknown(&self, key: &Key) -> bool {
        let Some(About::Member { member, says_id }) = self.held.get(key).map(|held| &held.fact.about) else {
            return false;
        };
        if self.marks.has_network(member.network) || self.marks.of(member).is_some() {
            return false;
        }
        let goes_on = self.row(member).is_none_or(|row| row.goes_on(member.id));
        self.members.get(&member.id) == Some(key) && goes_on && self.records_ends(member, *says_id)
    }

    /// Whether a record that the store may have lost is to be believed further.
    fn stands(&self, key: &Key, own_networks: &BTreeSet<NetworkId>) -> bool {
        let Some(held) = self.held.get(key).filter(|held| !self.is_beaten(&held.fact.about)) else { return false };
        let is_lost = matches!(held.stored, Stored::Lost { .. });
        let is_kept = |network: &NetworkId| own_networks.contains(network) || self.has_record(&keys::network(*network));
        match &held.fact.about {
            About::NetworkMark(_) | About::InstanceMark(_) | About::Presence { .. } => true,
            About::Network(network) => own_networks.contains(network) || self.has_record(key),
            About::NetworkPointer(network) => self.held.contains_key(&keys::network(*network)),
            About::Member { member, says_id } => {
                let goes_on = self.row(member).is_none_or(|row| row.goes_on(member.id));
                let may_be_lost = || self.records_ends(member, *says_id) && is_kept(&member.network);
                let is_its = self.members.get(&member.id) == Some(key) && self.marks.of(member).is_none();
                is_its && goes_on && (!is_lost || may_be_lost())
            }
            About::MemberPointer { network, member, holder } => {
                let of_holder = || keys::member(*network, holder);
                let record = member.map_or_else(|| Some(of_holder()), |id| self.members.get(&id).cloned());
                record.is_some_and(|record| self.points_to(key, &record))
            }
            About::Address { network, .. } => is_kept(network),
            About::Host { host, .. } | About::Drain(host) => {
                *host == self.own || self.members_of_host(host).next().is_some()
            }
        }
    }

    /// Whether a pointer is of the membership whose record that is and that goes on: of its key, or of one of its further names.
    pub(super) fn points_to(&self, pointer: &Key, record: &Key) -> bool {
        let Some(About::Member { member, .. }) = self.held.get(record).map(|held| &held.fact.about) else {
            return false;
        };
        if self.row(member).is_some_and(|row| !row.goes_on(member.id)) {
            return false;
        }
        *pointer == keys::public_key(member.network, member.public_key)
            || member.names.iter().any(|name| *pointer == keys::member_name(member.network, &name.container))
    }

    /// Whether the store has a record there, also one that is damaged or earlier.
    fn has_record(&self, key: &Key) -> bool {
        self.held.get(key).is_some_and(|held| {
            matches!(held.stored, Stored::Same(_) | Stored::Lost { found: Expected::Revision(_), .. })
        })
    }

    pub(super) fn is_stored(&self, key: &Key) -> bool {
        self.held.get(key).is_some_and(|held| matches!(held.stored, Stored::Same(_)))
    }

    /// Whether the host of a membership records the end of it.
    pub(super) fn records_ends(&self, member: &Member, says_id: bool) -> bool {
        match self.held.get(&keys::presence(&member.host)).map(|held| &held.fact.about) {
            Some(About::Presence { records_ends, .. }) => *records_ends,
            _ => says_id,
        }
    }

    /// The networks that this host has members in.
    fn own_networks(&self) -> BTreeSet<NetworkId> {
        self.members_of_host(&self.own).map(|member| member.network).collect()
    }

    pub(super) fn members_of_host(&self, host: &HostName) -> impl Iterator<Item = &Member> {
        let records = self.members.values().filter_map(|key| self.held.get(key));
        let members = records.filter_map(|held| {
            if let About::Member { member, .. } = &held.fact.about { Some(&**member) } else { None }
        });
        members.filter(move |member| member.host == *host)
    }
}
