//! The records of the build before membership ids, frozen: its structs, its keys, and its rules of reading.
//!
//! That build passes over a field that it does not know, and writes the record without it. It does not act on a record of
//! a higher version, on a damaged one, and on one that does not belong under its key.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use ipnet::Ipv4Net;
use privnet::model::PublicKey;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version of the records, and the highest that is read.
const VERSION: u32 = 1;

macro_rules! text {
    ($name:ident, $is_valid:expr) => {
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(pub String);

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                let is_valid: fn(&str) -> bool = $is_valid;
                if is_valid(&text) { Ok(Self(text)) } else { Err(format!("{text:?} is no {}", stringify!($name))) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text!(NetworkId, |text| text.strip_prefix("pn-").is_some_and(is_uuid));
text!(AppId, |text| text.strip_prefix("ap-").is_some_and(is_uuid));
text!(Instance, is_uuid);
text!(Label, is_label);
text!(NetworkName, |text| is_label(text) && !text.strip_prefix("pn-").is_some_and(is_uuid));
text!(Port, is_port);
text!(Holder, is_holder);

/// `networks/<pn>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub id: NetworkId,
    pub name: NetworkName,
    pub vni: u32,
    pub subnet: Ipv4Net,
    pub mtu: u32,
    pub created_unix_seconds: u64,
    #[serde(default, skip_serializing_if = "NameOptions::is_default")]
    pub names: NameOptions,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NameOptions {
    pub ttl_seconds: u32,
    pub negative_ttl_seconds: u32,
    pub forwarding: Forwarding,
}

impl Default for NameOptions {
    fn default() -> Self {
        Self { ttl_seconds: 5, negative_ttl_seconds: 5, forwarding: Forwarding::Host }
    }
}

impl NameOptions {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Forwarding {
    #[default]
    Host,
    Off,
    Servers(Vec<SocketAddr>),
}

/// `members/<pn>/<container>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub network: NetworkId,
    #[serde(flatten)]
    pub container: Container,
    pub address: Ipv4Addr,
    pub generation: u8,
    pub public_key: PublicKey,
    pub wireguard_port: u16,
    pub host: Label,
    pub state: State,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub ports: BTreeSet<Port>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    pub app: AppId,
    #[serde(rename = "type")]
    pub kind: Label,
    pub number: u32,
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.number, self.kind, self.app)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Attaching,
    Ready,
    Draining,
}

/// `addresses/<pn>/<ipv4>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// `null` when it is free, and never absent.
    #[serde(deserialize_with = "Option::deserialize")]
    pub holder: Option<Holder>,
    pub generation: u8,
    pub released_unix_seconds: Option<u64>,
}

/// `hosts/<host>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    pub name: Label,
    pub vtep: Ipv4Addr,
    pub agent_version: String,
    pub applied_revision: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub clock_steps: u64,
}

/// `presences/<host>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    pub instance: Instance,
}

/// `names/<network name>` and `vnis/<vni>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPointer {
    pub network: NetworkId,
}

/// `public-keys/<pn>/<hex>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberPointer {
    pub holder: Holder,
}

/// Writes a record as that build does.
pub fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    #[derive(Serialize)]
    struct Versioned<'a, T> {
        version: u32,
        #[serde(flatten)]
        record: &'a T,
    }
    serde_json::to_vec(&Versioned { version: VERSION, record }).expect("JSON")
}

/// Reads a record as that build does.
pub fn decode<T: DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    #[derive(Deserialize)]
    struct Head {
        version: u32,
    }
    let corrupt = |error: serde_json::Error| format!("is corrupt: {error}");
    let Head { version } = serde_json::from_slice(value).map_err(corrupt)?;
    if version > VERSION {
        return Err(format!("has version {version}, and this build knows versions up to {VERSION}"));
    }
    serde_json::from_slice(value).map_err(corrupt)
}

/// Reads whatever a key that this build looks at holds, and writes it again.
pub fn rewrite(key: &str, value: &[u8]) -> Result<Vec<u8>, String> {
    let (room, rest) = key.split_once('/').ok_or("is no key")?;
    match room {
        "networks" => again::<Network>(
            value,
            |network| {
                if !(1..=0x00ff_ffff).contains(&network.vni) {
                    return "a VNI".to_owned();
                }
                network.id.to_string()
            },
            rest,
        ),
        "members" => again::<Member>(
            value,
            |member| {
                if !(1..=99_999).contains(&member.container.number) {
                    return "a number".to_owned();
                }
                format!("{}/{}", member.network, member.container)
            },
            rest,
        ),
        "hosts" => again::<Host>(value, |host| host.name.to_string(), rest),
        // These say nothing that their keys say.
        "addresses" => again::<Address>(value, |_| rest.to_owned(), rest),
        "presences" => again::<Presence>(value, |_| rest.to_owned(), rest),
        "names" | "vnis" => again::<NetworkPointer>(value, |_| rest.to_owned(), rest),
        "public-keys" => again::<MemberPointer>(value, |_| rest.to_owned(), rest),
        _ => Err("is in no room of this build".to_owned()),
    }
}

fn again<T: Serialize + DeserializeOwned>(
    value: &[u8],
    own_key: impl FnOnce(&T) -> String,
    key: &str,
) -> Result<Vec<u8>, String> {
    let record: T = decode(value)?;
    let own = own_key(&record);
    if own == key { Ok(encode(&record)) } else { Err(format!("belongs under {own}")) }
}

fn is_uuid(text: &str) -> bool {
    let is_hyphen = |at: usize| [8, 13, 18, 23].contains(&at);
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match byte {
            b'-' => is_hyphen(at),
            b'0'..=b'9' | b'a'..=b'f' => !is_hyphen(at),
            _ => false,
        })
}

fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && !text.ends_with('-')
}

fn is_port(text: &str) -> bool {
    let Some((name, rest)) = text.split_once('=') else { return false };
    let number = rest.strip_suffix("/udp").or_else(|| rest.strip_suffix("/tcp")).unwrap_or(rest);
    (1..=15).contains(&name.len()) && number.parse::<u16>().is_ok_and(|value| value > 0 && value.to_string() == number)
}

fn is_holder(text: &str) -> bool {
    let parts: Vec<&str> = text.splitn(3, '.').collect();
    let [number, kind, app] = parts[..] else { return false };
    number.parse::<u32>().is_ok_and(|value| (1..=99_999).contains(&value) && value.to_string() == number)
        && is_label(kind)
        && app.strip_prefix("ap-").is_some_and(is_uuid)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}
