//! One record as far as it bears on what is believed: whose it is, and how it compares with the same record at another time.

use std::net::Ipv4Addr;
use std::sync::Arc;

use serde_json::{Map, Value as Json};
use uuid::Uuid;

use crate::model::{ContainerRef, HostName, Member, MemberId, NetworkId};
use crate::store::records::{
    self, AddressRecord, HostRecord, InstanceMark, MAX_RISE, MemberPointer, NetworkPointer, PresenceRecord, RecordError,
};
use crate::store::{Entry, Key, keys};

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Whose it is.
    pub about: About,
    /// How often it was written; 0 where a build wrote it that does not count.
    pub serial: u64,
}

/// What a record is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// A network.
    Network(NetworkId),
    /// That a network was ended with its members.
    NetworkMark(NetworkId),
    /// That the agent of a host is forgotten, with the members that it made.
    InstanceMark(Arc<InstanceMark>),
    /// The name or the VNI of a network.
    NetworkPointer(NetworkId),
    /// A membership.
    Member {
        /// It.
        member: Arc<Member>,
        /// Whether its record says its id: the build before did not write one.
        says_id: bool,
    },
    /// The public key or a further name of a membership.
    MemberPointer {
        /// The network.
        network: NetworkId,
        /// The membership; unknown where the build before wrote it.
        member: Option<MemberId>,
        /// The oldest name of the membership when it was written.
        holder: ContainerRef,
    },
    /// An address.
    Address {
        /// The network.
        network: NetworkId,
        /// The address.
        address: Ipv4Addr,
        /// Which membership holds it, or held it last.
        row: AddressRecord,
        /// Whether its writer counts; the build before knows the generation alone.
        counts: bool,
    },
    /// A host.
    Host {
        /// It.
        host: HostName,
        /// The identity of its agent's state directory; unknown where the build before wrote the record.
        instance: Option<Uuid>,
    },
    /// Whether an operator empties a host.
    Drain(HostName),
    /// That a host is there.
    Presence {
        /// The host.
        host: HostName,
        /// Whether its agent records the end of each membership; the build before does not always.
        records_ends: bool,
    },
}

impl Fact {
    /// Reads a record; nothing for a record of a kind that ends when it is absent.
    ///
    /// # Errors
    /// When it is of a newer version, or damaged.
    pub fn read(entry: &Entry) -> Result<Option<Self>, RecordError> {
        let Some(mut about) = About::read(entry)? else { return Ok(None) };
        let fields: Map<String, Json> = serde_json::from_slice(&entry.value).unwrap_or_default();
        let serial = fields.get("serial").and_then(Json::as_u64).unwrap_or_default();
        if let About::Member { says_id, .. } = &mut about {
            *says_id = fields.contains_key("id");
        }
        if let About::Address { counts, .. } = &mut about {
            *counts = fields.contains_key("count");
        }
        Ok(Some(Self { about, serial }))
    }

    /// Whether this is the same record as `seen` or a later one. Otherwise the store has stepped back, or the record is damaged.
    pub fn follows(&self, seen: &Self) -> bool {
        match (&self.about, &seen.about) {
            (About::Address { row, counts, .. }, About::Address { row: before, .. }) => {
                !counts || self.follows_row(row, seen, before)
            }
            // A host tells anew of itself each time that it comes.
            (About::Presence { .. }, _) => true,
            _ => self.serial == 0 || rises(self.serial, seen.serial),
        }
    }

    /// The count rises with each membership, the serial within one.
    fn follows_row(&self, row: &AddressRecord, seen: &Self, before: &AddressRecord) -> bool {
        if row.count != before.count {
            return rises(row.count, before.count);
        }
        let same = row.member.is_none() || before.member.is_none() || row.member == before.member;
        same && (self.serial == 0 || rises(self.serial, seen.serial))
    }
}

/// Whether a number is that of a later record. One that is absurdly lower says that the one that was seen was damaged.
/// Whether a number is the one that was seen or a later one; one that is higher by very much is damaged.
pub(super) const fn rises(number: u64, seen: u64) -> bool {
    number.abs_diff(seen) <= MAX_RISE && number >= seen || seen.saturating_sub(number) > MAX_RISE
}

impl About {
    /// The network that it belongs to, and ends with.
    pub fn network(&self) -> Option<NetworkId> {
        match self {
            Self::Network(network)
            | Self::NetworkPointer(network)
            | Self::MemberPointer { network, .. }
            | Self::Address { network, .. } => Some(*network),
            Self::Member { member, .. } => Some(member.network),
            Self::NetworkMark(_)
            | Self::InstanceMark(_)
            | Self::Host { .. }
            | Self::Drain(_)
            | Self::Presence { .. } => None,
        }
    }

    fn read(entry: &Entry) -> Result<Option<Self>, RecordError> {
        let key = &entry.key;
        let is_below = |prefix| key.below(&prefix).is_some();
        Ok(Some(if is_below(keys::network_marks()) {
            Self::NetworkMark(records::network_mark_from(entry)?.network)
        } else if is_below(keys::instance_marks()) {
            Self::InstanceMark(Arc::new(records::instance_mark_from(entry)?))
        } else if is_below(keys::networks()) {
            Self::Network(records::network_from(entry)?.id)
        } else if is_below(keys::names()) || is_below(keys::vnis()) {
            Self::NetworkPointer(records::decode::<NetworkPointer>(key, &entry.value)?.network)
        } else if is_below(keys::all_members()) {
            Self::Member { member: Arc::new(records::member_from(entry)?), says_id: false }
        } else if let Some(network) = keys::network_of_pointer(key) {
            let MemberPointer { holder, member } = records::decode(key, &entry.value)?;
            Self::MemberPointer { network, member, holder }
        } else if is_below(keys::all_addresses()) {
            let (network, address, row) = records::address_from(entry)?;
            Self::Address { network, address, row: row.record, counts: false }
        } else if is_below(keys::hosts()) {
            let HostRecord { name: host, instance, .. } = records::host_from(entry)?;
            Self::Host { host, instance }
        } else if is_below(keys::drains()) {
            Self::Drain(records::drain_from(entry)?.host)
        } else if let Some(host) = keys::host_of_presence(key) {
            let record: Option<PresenceRecord> = records::decode(key, &entry.value).ok();
            Self::Presence { host, records_ends: record.is_some_and(|record| record.boot.is_some()) }
        } else {
            return Ok(None);
        }))
    }
}

/// Whether a key is that of a presence, which its host writes again by itself.
pub(super) fn is_presence(key: &Key) -> bool {
    key.below(&keys::presences()).is_some()
}
