//! A private network's record in the store.

use std::fmt;
use std::str::FromStr;

use ipnet::Ipv4Net;
use privnet_ebpf::net::Vni;
use serde::{Deserialize, Serialize};

use super::ids::{InvalidName, NetworkId};
use super::naming::NameOptions;

/// The name that a person gives to a network: a DNS label, unique among networks.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetworkName(String);

impl FromStr for NetworkName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let expected =
            "expected 1 to 63 of a-z, 0-9 and '-', starting with a letter, not ending with '-', not an id (pn-<uuid>)";
        let wrong = || InvalidName::new("network name", text, expected);
        if text.parse::<NetworkId>().is_ok() {
            return Err(wrong());
        }
        let label: super::ids::ContainerType = text.parse().map_err(|_| wrong())?;
        Ok(Self(label.as_str().to_owned()))
    }
}

impl NetworkName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NetworkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NetworkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for NetworkName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<NetworkName> for String {
    fn from(name: NetworkName) -> Self {
        name.0
    }
}

/// A private network, as `networks/<pn>` holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its identifier.
    pub id: NetworkId,
    /// Its name, unique among networks.
    pub name: NetworkName,
    /// Its VNI, unique among networks.
    #[serde(with = "vni_as_number")]
    pub vni: Vni,
    /// The subnet that its members' addresses come from.
    pub subnet: Ipv4Net,
    /// The MTU of its members' WireGuard interfaces, in bytes.
    pub mtu: u32,
    /// When it was created, in seconds since 1970-01-01 UTC.
    pub created_unix_seconds: u64,
    /// What it says about its names.
    #[serde(default, skip_serializing_if = "NameOptions::is_default")]
    pub names: NameOptions,
}

/// A [`Vni`] as a plain JSON number, checked on the way in.
mod vni_as_number {
    use super::Vni;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(vni: &Vni, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(vni.get())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vni, D::Error> {
        Vni::new(u32::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_name_is_a_label_and_never_an_id() {
        assert!("shop".parse::<NetworkName>().is_ok());
        assert!("pn-shop".parse::<NetworkName>().is_ok());
        for bad in ["", "Shop", "a/b", "pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c"] {
            assert!(bad.parse::<NetworkName>().is_err(), "{bad:?} was accepted");
        }
    }
}
