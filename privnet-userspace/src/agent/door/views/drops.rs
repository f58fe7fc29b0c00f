//! The frames that the programs drop, as they are dropped.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

#[cfg(test)]
use super::schemas;
use crate::datapath::{Direction, DropReason};
use crate::model::{NetworkId, NetworkName};

/// Which drops are watched.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DropsQuery {
    /// Only those of this network: its id or name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<schemas::NetworkIdOrName>"))]
    pub network: Option<String>,
    /// Only those of this member of this host: its address, `<number>.<type>` or `<number>.<type>.<app>`, of an app by name or
    /// id; `unknown` for those that no member can be charged with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// Only those in this direction.
    #[serde(default, with = "optional_name", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "schemas::DirectionName"))]
    pub direction: Option<Direction>,
    /// Only those for this reason.
    #[serde(default, with = "optional_name", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "schemas::DropReasonName"))]
    pub reason: Option<DropReason>,
}

/// A line of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum DropLine {
    /// The first line: each drop of these networks is reported from now on, and of others as soon as they have members here.
    Watching {
        /// Their names.
        networks: Vec<NetworkName>,
    },
    /// A frame was dropped.
    Drop(DroppedFrame),
    /// More packets were dropped than lines tell: the ring between the programs and the agent was full, or a frame that was
    /// dropped stood for several packets. They are counted in the metrics.
    NotShown {
        /// The network.
        network: NetworkId,
        /// The network's name.
        network_name: NetworkName,
        /// How many, of all members and reasons.
        packets: u64,
    },
    /// The watcher did not read in time.
    Missed {
        /// How many lines it did not get.
        lines: u64,
    },
}

/// A frame that a program dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DroppedFrame {
    /// When, in microseconds since 1970-01-01 UTC.
    pub unix_microseconds: u64,
    /// The network whose program dropped it.
    pub network: NetworkId,
    /// The network's name.
    pub network_name: NetworkName,
    /// The member that it is charged to, by its oldest name, `<number>.<type>.<app>`; `unknown` where no member of this host can be charged.
    pub member: String,
    /// That member's address; 0.0.0.0 where no member can be charged.
    pub address: Ipv4Addr,
    /// Sent by the member, or meant for it.
    #[serde(with = "name")]
    #[cfg_attr(test, schemars(with = "schemas::DirectionName"))]
    pub direction: Direction,
    /// Why it was dropped.
    #[serde(with = "name")]
    #[cfg_attr(test, schemars(with = "schemas::DropReasonName"))]
    pub reason: DropReason,
    /// What it carries: `udp`, `tcp`, `icmp`, `arp`, `ipv6`, `vlan`, or the number of another protocol; `short` where it is
    /// shorter than the headers of Ethernet, IPv4 and UDP.
    pub protocol: String,
    /// Its sender, as far down as its headers go: address and port, address, or MAC; empty where it is short.
    pub from: String,
    /// Its receiver, likewise.
    pub to: String,
    /// Its length in bytes, Ethernet header included, and a VLAN tag that the kernel took off excluded.
    pub bytes: u32,
    /// Whether it has an Ethernet header. On a tunnel's interface in a container it begins with the IPv4 header.
    pub is_ethernet: bool,
    /// Its first 42 bytes in hexadecimal; all zero where it is shorter.
    pub headers: String,
}

/// What a value of the programs is called.
trait Named: Copy + 'static {
    const WHAT: &'static str;
    fn all() -> &'static [Self];
    fn name(self) -> &'static str;
}

impl Named for Direction {
    const WHAT: &'static str = "direction";

    fn all() -> &'static [Self] {
        &Self::ALL
    }

    fn name(self) -> &'static str {
        self.name()
    }
}

impl Named for DropReason {
    const WHAT: &'static str = "reason";

    fn all() -> &'static [Self] {
        Self::ALL
    }

    fn name(self) -> &'static str {
        self.name()
    }
}

fn from_name<T: Named, E: serde::de::Error>(text: &str) -> Result<T, E> {
    T::all().iter().copied().find(|value| value.name() == text).ok_or_else(|| {
        let known: Vec<&str> = T::all().iter().map(|value| value.name()).collect();
        E::custom(format!("`{text}` is no {}; there are: {}", T::WHAT, known.join(", ")))
    })
}

/// A value by its name.
mod name {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::{Named, from_name};

    pub fn serialize<T: Named, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(value.name())
    }

    pub fn deserialize<'de, T: Named, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        from_name(&String::deserialize(deserializer)?)
    }
}

/// The same of one that may be absent.
mod optional_name {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::{Named, from_name};

    #[expect(clippy::ref_option, reason = "serde gives it so")]
    pub fn serialize<T: Named, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.serialize_str(value.name()),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, T: Named, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
        Option::<String>::deserialize(deserializer)?.map(|text| from_name(&text)).transpose()
    }
}
