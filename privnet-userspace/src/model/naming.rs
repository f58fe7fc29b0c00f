//! What a network says about its names.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// How long an answer may be kept, in seconds, unless a network says otherwise.
pub const DEFAULT_TTL_SECONDS: u32 = 5;
/// How long a "there is none" may be kept, in seconds, unless a network says otherwise.
pub const DEFAULT_NEGATIVE_TTL_SECONDS: u32 = 5;

/// What a network says about its names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameOptions {
    /// How long an answer may be kept, in seconds.
    #[serde(default = "default_ttl")]
    pub ttl_seconds: u32,
    /// How long a "there is none" may be kept, in seconds.
    #[serde(default = "default_negative_ttl")]
    pub negative_ttl_seconds: u32,
    /// What its members may ask beyond their networks.
    #[serde(default)]
    pub forwarding: Forwarding,
}

impl Default for NameOptions {
    fn default() -> Self {
        Self {
            ttl_seconds: DEFAULT_TTL_SECONDS,
            negative_ttl_seconds: DEFAULT_NEGATIVE_TTL_SECONDS,
            forwarding: Forwarding::Host,
        }
    }
}

impl NameOptions {
    /// Whether the network says nothing of its own.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

const fn default_ttl() -> u32 {
    DEFAULT_TTL_SECONDS
}

const fn default_negative_ttl() -> u32 {
    DEFAULT_NEGATIVE_TTL_SECONDS
}

/// Where the names that are of none of a container's networks are asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Forwarding {
    /// The host's own resolvers.
    #[default]
    Host,
    /// Nowhere.
    Off,
    /// These.
    Servers(Vec<SocketAddr>),
}
