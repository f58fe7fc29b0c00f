//! The records of version 1 that are not nouns of the model.
//!
//! A field that a later build of this version added is optional: earlier builds neither write nor read it, and
//! [`Record::complete`] adds it to their records where it follows from the other fields.

use std::net::Ipv4Addr;
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use uuid::Uuid;

use super::form::{Record, is_zero};
use crate::model::{
    ContainerRef, DEFAULT_VXLAN_PORT, FleetId, HostName, Member, MemberId, Network, NetworkId, NetworkName, PublicKey,
};

impl Record for Network {}
impl Record for AddressRecord {}
impl Record for HostRecord {}
impl Record for PresenceRecord {}
impl Record for FleetRecord {}
impl Record for VtepRecord {}
impl Record for DrainRecord {}
impl Record for NetworkMark {}
impl Record for InstanceMark {}
impl Record for NetworkPointer {}
impl Record for MemberPointer {}

impl Record for Member {
    fn complete(fields: &mut Map<String, Json>) {
        if fields.contains_key("id") {
            return;
        }
        let key = fields.get("public_key").and_then(Json::as_str).and_then(|text| text.parse::<PublicKey>().ok());
        if let Some(key) = key {
            fields.insert("id".to_owned(), MemberId::of_key(key).to_string().into());
        }
    }
}

/// How much a number may rise at once: a record whose number rose by more is damaged.
pub const MAX_RISE: u64 = 1 << 20;

/// How many generations a MAC address can tell apart.
const GENERATIONS: u64 = 1 << u8::BITS;

/// The record of `addresses/<pn>/<ipv4>`. It stays when the member leaves: the next holder needs the count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "AddressForm", into = "AddressForm")]
pub struct AddressRecord {
    /// The container that holds the address; `None` when it is free.
    pub holder: Option<ContainerRef>,
    /// How often the address has been given out before, to its holder or its last one; see [`Self::generation`].
    pub count: u64,
    /// When the last holder left, in seconds since 1970-01-01 UTC; `None` while it is held.
    pub released_unix_seconds: Option<u64>,
    /// The membership that holds the address, or held it last; unknown where an earlier build gave it out.
    pub member: Option<MemberId>,
    /// The membership that held it before that one.
    pub before: Option<MemberId>,
    /// The party that ended the last membership; `None` while it is held.
    pub ended_by: Option<EndedBy>,
    /// When the last membership was attached, in seconds since 1970-01-01 UTC; unknown where an earlier build gave it out.
    pub attached_unix_seconds: Option<u64>,
}

impl AddressRecord {
    /// The generation in the MAC address of the holder, or of the last one: the low byte of the count.
    #[must_use]
    pub const fn generation(&self) -> u8 {
        let [.., low] = self.count.to_be_bytes();
        low
    }

    /// Whether the membership of this row was attached before that of the other one. Where the time does not tell, the ids do.
    #[must_use]
    pub fn is_earlier_than(&self, other: &Self) -> bool {
        (self.attached_unix_seconds, self.member) < (other.attached_unix_seconds, other.member)
    }

    /// The same row once it is above `other`, whose membership it names as the one before. The generation stays.
    #[must_use]
    pub fn above(&self, other: &Self) -> Self {
        let behind = other.count.saturating_sub(self.count);
        let rounds = behind / GENERATIONS + 1;
        Self { count: self.count.saturating_add(rounds * GENERATIONS), before: other.member, ..self.clone() }
    }

    /// The row of a membership that has ended, and goes on after all. The generation stays.
    #[must_use]
    pub fn again(self, member: &Member, attached_unix_seconds: u64) -> Self {
        Self {
            holder: Some(member.container.clone()),
            count: self.count.saturating_add(GENERATIONS),
            released_unix_seconds: None,
            member: Some(member.id),
            before: self.before,
            ended_by: None,
            attached_unix_seconds: Some(attached_unix_seconds),
        }
    }

    /// The row of a membership where the store and all that saw it have lost it: the member knows the low byte of its count.
    #[must_use]
    pub fn lost(member: &Member) -> Self {
        Self {
            holder: Some(member.container.clone()),
            count: member.generation.into(),
            released_unix_seconds: None,
            member: Some(member.id),
            before: None,
            ended_by: None,
            attached_unix_seconds: None,
        }
    }

    /// The same row once a membership has ended that has the address.
    #[must_use]
    pub fn ended(self, member: MemberId, by: EndedBy, at_unix_seconds: u64) -> Self {
        Self {
            holder: None,
            released_unix_seconds: Some(at_unix_seconds),
            member: Some(member),
            ended_by: Some(by),
            ..self
        }
    }

    /// Whether a membership that has the address, or had it, goes on. A row that the build before wrote says nothing of
    /// memberships.
    #[must_use]
    pub fn goes_on(&self, member: MemberId) -> bool {
        match self.member {
            Some(holder) if holder == member => self.holder.is_some(),
            Some(_) => false,
            None => true,
        }
    }
}

/// The party that ended a membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndedBy {
    /// Its host's agent, by a request or because the container was gone.
    Host,
    /// An operator, without its host.
    Operator,
}

/// An [`AddressRecord`] as it is written.
#[derive(Serialize, Deserialize)]
struct AddressForm {
    #[serde(with = "optional_container_text")]
    holder: Option<ContainerRef>,
    generation: u8,
    released_unix_seconds: Option<u64>,
    /// Earlier builds know the generation alone.
    count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<MemberId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<MemberId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_by: Option<EndedBy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attached_unix_seconds: Option<u64>,
}

impl TryFrom<AddressForm> for AddressRecord {
    type Error = String;

    fn try_from(form: AddressForm) -> Result<Self, String> {
        let AddressForm {
            holder,
            generation,
            released_unix_seconds,
            count,
            member,
            before,
            ended_by,
            attached_unix_seconds,
        } = form;
        let record = Self {
            holder,
            count: count.unwrap_or_else(|| generation.into()),
            released_unix_seconds,
            member,
            before,
            ended_by,
            attached_unix_seconds,
        };
        if record.generation() == generation {
            Ok(record)
        } else {
            Err(format!("generation {generation} is not the low byte of count {}", record.count))
        }
    }
}

impl From<AddressRecord> for AddressForm {
    fn from(record: AddressRecord) -> Self {
        let generation = record.generation();
        let AddressRecord { holder, count, released_unix_seconds, member, before, ended_by, attached_unix_seconds } =
            record;
        let count = Some(count);
        Self { holder, generation, released_unix_seconds, count, member, before, ended_by, attached_unix_seconds }
    }
}

/// The record of `hosts/<host>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    /// The host's name.
    pub name: HostName,
    /// Its VTEP's address on the underlay.
    pub vtep: Ipv4Addr,
    /// The version of its agent.
    pub agent_version: String,
    /// The newest revision of the store that it has applied.
    pub applied_revision: u64,
    /// How often its clock was seen to step back. WireGuard refuses a handshake that is dated before the last one, so the
    /// other hosts make their peers of this host's members anew, once, when the number changes. Absent is 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub clock_steps: u64,
    /// The identity of the state directory of its agent; `None` where the build before wrote the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<Uuid>,
}

/// The record of `presences/<host>`, under a lease: the agent that has the host's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceRecord {
    /// The identity of the state directory of the host's agent.
    pub instance: Uuid,
    /// The machine that the agent runs on, as a UUID that follows from its machine-id; `None` where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<Uuid>,
    /// The boot of that machine's kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
    /// The fleet whose record the agent follows; `None` where its build knows of no fleet, and uses VXLAN port 4789.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<FleetId>,
    /// Whether the agent writes its presence anew when it is asked in it whether it lives.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub answers: bool,
    /// The question of another agent that would have the name; a holder that lives writes its presence without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Uuid>,
    /// When the agent took the lease, by its host's clock, in seconds since 1970-01-01 UTC; `None` where its build does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_unix_seconds: Option<u64>,
}

/// The record of `fleet/record`: what the hosts that share the store have in common, and which store it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetRecord {
    /// The fleet.
    pub id: FleetId,
    /// How often an operator said that a store is the fleet's from then on, and the first time. An agent takes a store with
    /// a lower epoch than it has seen for an older copy.
    pub epoch: u64,
    /// The UDP port of VXLAN between the hosts. Absent is 4789.
    #[serde(default = "default_vxlan_port")]
    pub vxlan_port: NonZeroU16,
    /// Whether an operator moved the fleet to another store: no agent writes into this one any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub closed: bool,
}

const fn default_vxlan_port() -> NonZeroU16 {
    DEFAULT_VXLAN_PORT
}

/// The record of `vteps/<ipv4>`, under the lease of its host's presence: the host that has the address as its VTEP's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VtepRecord {
    /// The host.
    pub host: HostName,
    /// The identity of the state directory of the host's agent.
    pub instance: Uuid,
}

/// The record of `drains/<host>`: whether an operator empties the host. It stays when that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainRecord {
    /// The host.
    pub host: HostName,
    /// Whether it takes no new members, and those that it has have no names.
    pub draining: bool,
    /// The host at which the operator said so.
    pub by: HostName,
    /// When, in seconds since 1970-01-01 UTC.
    pub at_unix_seconds: u64,
}

/// The record of `marks/networks/<pn>`: an operator ended the network with its members. It is never taken back, and beats
/// each record of the network and of its members, whichever came first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkMark {
    /// The network.
    pub network: NetworkId,
    /// Its name.
    pub name: NetworkName,
    /// The host at which the operator said so.
    pub by: HostName,
    /// When, in seconds since 1970-01-01 UTC.
    pub at_unix_seconds: u64,
}

/// The record of `marks/instances/<instance>`: an operator forgot the host whose agent had that instance. It is never taken
/// back, and beats each record of a member that the instance made, whichever came first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceMark {
    /// The identity of the state directory of the host's agent.
    pub instance: Uuid,
    /// The host.
    pub host: HostName,
    /// The host at which the operator said so.
    pub by: HostName,
    /// When, in seconds since 1970-01-01 UTC.
    pub at_unix_seconds: u64,
}

impl InstanceMark {
    /// Whether the mark ends a membership. A record that names no instance is of the time before agents wrote theirs: it is
    /// the marked host's, by its name.
    #[must_use]
    pub fn ends(&self, member: &Member) -> bool {
        member.instance.map_or(member.host == self.host, |instance| instance == self.instance)
    }
}

/// The record of `names/<network name>` and `vnis/<vni>`: the network that they belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPointer {
    /// The network.
    pub network: NetworkId,
}

/// What `public-keys/<pn>/<hex>` and `member-names/<pn>/<member>` hold: the member that the key or the name belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberPointer {
    /// The member's container, by its oldest name.
    #[serde(with = "container_text")]
    pub holder: ContainerRef,
    /// The membership; unknown where an earlier build claimed the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<MemberId>,
}

/// A container as its text, `1.web.ap-<uuid>`.
mod container_text {
    use super::ContainerRef;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(holder: &ContainerRef, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(holder)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ContainerRef, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A container as its text, or `null`.
mod optional_container_text {
    use super::ContainerRef;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub fn serialize<S: Serializer>(holder: &Option<ContainerRef>, serializer: S) -> Result<S::Ok, S::Error> {
        holder.as_ref().map(ToString::to_string).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ContainerRef>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}
