//! The JSON of dockerd's calls: what is read of them. Fields that are not named here are Docker's own matter.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::identity::{PORT, WISHES};

/// The address space of Docker's IPAM driver `null`, which leaves the addresses to the network driver.
const NULL_SPACE: &str = "null";
/// What a person types who did not name it.
const NEEDS_NULL_IPAM: &str = "privnet gives the addresses itself: add --ipam-driver null to docker network create (in a Compose file: ipam: {driver: \"null\"} \
                               of the network)";
/// Under which key the options of `-o` are.
const GENERIC: &str = "com.docker.network.generic";
const IPV6: &str = "com.docker.network.enable_ipv6";
/// What the keys of driver-opts and labels begin with that are privnet's.
pub const PREFIX: &str = "privnet.";

/// Reads the body of a call.
///
/// # Errors
/// The sentence for the user. dockerd sends a call again without its body when the connection broke: what was asked for is
/// not known then.
pub fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    if body.is_empty() {
        return Err(
            "Docker repeated a call without saying what it is about, after the agent was away: try again".to_owned()
        );
    }
    serde_json::from_slice(body).map_err(|error| format!("this call of Docker's is not understood: {error}"))
}

/// `CreateNetwork`.
#[derive(Debug, Deserialize)]
pub struct CreateNetwork {
    #[serde(rename = "NetworkID")]
    pub network: String,
    #[serde(rename = "Options", default)]
    options: Option<BTreeMap<String, Value>>,
    #[serde(rename = "IPv4Data", default)]
    ipv4: Option<Vec<IpamData>>,
}

#[derive(Debug, Deserialize)]
struct IpamData {
    #[serde(rename = "AddressSpace", default)]
    space: String,
}

impl CreateNetwork {
    /// The network of privnet's that `-o network=` names, when it does.
    ///
    /// # Errors
    /// The sentence for the user.
    pub fn wanted(&self) -> Result<Option<String>, String> {
        if self.ipv4.iter().flatten().any(|data| data.space != NULL_SPACE) {
            return Err(NEEDS_NULL_IPAM.to_owned());
        }
        let options = self.options.as_ref();
        if options.and_then(|options| options.get(IPV6)).is_some_and(|value| *value == Value::Bool(true)) {
            return Err("a private network speaks IPv4 only: leave --ipv6 out".to_owned());
        }
        let mut network = None;
        for (key, value) in options.and_then(|options| options.get(GENERIC)?.as_object()).into_iter().flatten() {
            match (key.as_str(), value.as_str()) {
                ("network", Some(name)) if !name.is_empty() => network = Some(name.to_owned()),
                ("network", _) => return Err("-o network= names no network: give its name or its id".to_owned()),
                (other, _) => {
                    return Err(format!(
                        "{other:?} is no option of privnet's networks: -o network=NAME is the only one"
                    ));
                }
            }
        }
        Ok(network)
    }
}

/// A call about a network.
#[derive(Debug, Deserialize)]
pub struct OfNetwork {
    #[serde(rename = "NetworkID")]
    pub network: String,
}

/// A call about an endpoint: a container's place in a network.
#[derive(Debug, Deserialize)]
pub struct OfEndpoint {
    #[serde(rename = "NetworkID")]
    pub network: String,
    #[serde(rename = "EndpointID")]
    pub endpoint: String,
}

impl OfEndpoint {
    /// The digits of the endpoint: the first 64 of its 256 random bits.
    ///
    /// # Errors
    /// The sentence for the user.
    pub fn digits(&self) -> Result<u64, String> {
        digits(&self.endpoint)
    }
}

fn digits(endpoint: &str) -> Result<u64, String> {
    let head = endpoint.get(..16).filter(|head| head.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let digits = head.and_then(|head| u64::from_str_radix(head, 16).ok());
    digits.ok_or_else(|| format!("{endpoint:?} is no id of an endpoint of Docker's"))
}

/// `CreateEndpoint`.
#[derive(Debug, Deserialize)]
pub struct CreateEndpoint {
    #[serde(flatten)]
    pub of: OfEndpoint,
    #[serde(rename = "Interface", default)]
    interface: Option<Interface>,
    #[serde(rename = "Options", default)]
    options: Option<BTreeMap<String, Value>>,
}

#[derive(Debug, Deserialize)]
struct Interface {
    #[serde(rename = "Address", default)]
    address: String,
    #[serde(rename = "AddressIPv6", default)]
    address_ipv6: String,
    #[serde(rename = "MacAddress", default)]
    mac: String,
}

impl CreateEndpoint {
    /// The driver-opts that are privnet's, by key.
    ///
    /// # Errors
    /// The sentence for the user.
    pub fn wishes(&self) -> Result<BTreeMap<String, String>, String> {
        let interface = self.interface.as_ref();
        if interface.is_some_and(|interface| !interface.mac.is_empty()) {
            return Err("an interface of a private network has no MAC address: leave --mac-address out".to_owned());
        }
        if interface.is_some_and(|interface| !interface.address.is_empty() || !interface.address_ipv6.is_empty()) {
            return Err(NEEDS_NULL_IPAM.to_owned());
        }
        let options = self.options.iter().flatten().filter(|(key, _)| key.starts_with(PREFIX));
        let wish = |(key, value): (&String, &Value)| {
            let text = value.as_str().ok_or_else(|| format!("driver-opt {key} is no text"))?;
            if WISHES.contains(&key.as_str()) || key.starts_with(PORT) {
                return Ok((key.clone(), text.to_owned()));
            }
            Err(format!("{key} is no driver-opt of privnet's: {}, {PORT}NAME are", WISHES.join(", ")))
        };
        options.map(wish).collect()
    }

    /// Whether ports are to be published, by `-p`.
    pub fn publishes(&self) -> bool {
        let published = self.options.as_ref().and_then(|options| options.get("com.docker.network.portmap")?.as_array());
        published.is_some_and(|ports| !ports.is_empty())
    }
}

/// `Join`.
#[derive(Debug, Deserialize)]
pub struct Join {
    #[serde(flatten)]
    pub of: OfEndpoint,
    #[serde(rename = "SandboxKey")]
    pub sandbox: std::path::PathBuf,
}
