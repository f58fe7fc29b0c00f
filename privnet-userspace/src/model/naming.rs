//! What a network says about its names.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ids::InvalidName;

/// How long an answer may be kept, in seconds, unless a network says otherwise.
pub const DEFAULT_TTL_SECONDS: u32 = 5;
/// How long a "there is none" may be kept, in seconds, unless a network says otherwise.
pub const DEFAULT_NEGATIVE_TTL_SECONDS: u32 = 5;

/// The longest time that an answer may be kept, in seconds.
pub const MAX_TTL_SECONDS: u32 = 60;

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
    /// Checks what somebody asked for.
    ///
    /// # Errors
    /// When a time is too long: a name that is withdrawn would live on for that time.
    pub fn check(&self) -> Result<(), InvalidName> {
        for (what, seconds) in [("TTL", self.ttl_seconds), ("negative TTL", self.negative_ttl_seconds)] {
            if seconds > MAX_TTL_SECONDS {
                return Err(InvalidName::new(what, &seconds.to_string(), "expected at most 60 seconds"));
            }
        }
        Ok(())
    }

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

impl FromStr for Forwarding {
    type Err = InvalidName;

    /// Reads `on`, `off`, or addresses with or without a port, separated by commas.
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        const DNS_PORT: u16 = 53;
        match text {
            "on" => Ok(Self::Host),
            "off" => Ok(Self::Off),
            servers => {
                let wrong = || {
                    InvalidName::new(
                        "forwarding",
                        text,
                        "expected on, off, or addresses, as 192.0.2.1,[2001:db8::1]:5353",
                    )
                };
                let server = |text: &str| {
                    let alone = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, DNS_PORT));
                    alone.or_else(|_| text.parse::<SocketAddr>()).map_err(|_| wrong())
                };
                servers.split(',').map(server).collect::<Result<_, _>>().map(Self::Servers)
            }
        }
    }
}

impl fmt::Display for Forwarding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("on"),
            Self::Off => f.write_str("off"),
            Self::Servers(servers) => {
                f.write_str(&servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarding_reads_back_as_it_is_shown() {
        for (text, shown) in [
            ("on", "on"),
            ("off", "off"),
            ("192.0.2.1", "192.0.2.1:53"),
            ("192.0.2.1:5353,2001:db8::1", "192.0.2.1:5353,[2001:db8::1]:53"),
        ] {
            let forwarding: Forwarding = text.parse().expect("valid");
            assert_eq!(forwarding.to_string(), shown);
            assert_eq!(shown.parse::<Forwarding>().expect("valid"), forwarding);
        }
        for bad in ["", "On", "192.0.2.1,", "example.org", "192.0.2.1:0x35"] {
            assert!(bad.parse::<Forwarding>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_time_has_a_limit() {
        let options = |ttl_seconds| NameOptions { ttl_seconds, ..NameOptions::default() };
        assert!(options(0).check().is_ok() && options(60).check().is_ok());
        assert!(options(61).check().is_err());
    }
}
