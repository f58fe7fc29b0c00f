//! Ports that a container declares by name, so that others can look them up.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ids::InvalidName;

/// The name of a port, as SRV names carry it: a service name of RFC 6335 section 5.1, lower case.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortName(String);

impl PortName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PortName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let ok = (1..=15).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && text.bytes().any(|b| b.is_ascii_lowercase())
            && !text.starts_with('-')
            && !text.ends_with('-')
            && !text.contains("--");
        let expected = "expected 1 to 15 of a-z, 0-9 and single '-', with a letter, not starting or ending with '-'";
        if ok { Ok(Self(text.to_owned())) } else { Err(InvalidName::new("port name", text, expected)) }
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for PortName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<PortName> for String {
    fn from(name: PortName) -> Self {
        name.0
    }
}

/// What a port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A declared port. Displays and parses as `http=8080` (TCP) and `dns=53/udp`, the way the command line takes it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Port {
    /// Its name.
    pub name: PortName,
    /// What it speaks.
    pub protocol: Protocol,
    /// Its number, 1..=65535, host byte order.
    pub number: u16,
}

impl FromStr for Port {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let wrong = || InvalidName::new("port", text, "expected <name>=<number>[/tcp|/udp], for example http=8080");
        let (name, rest) = text.split_once('=').ok_or_else(wrong)?;
        let (number, protocol) = match rest.split_once('/') {
            None | Some((_, "tcp")) => (rest.split('/').next().unwrap_or(rest), Protocol::Tcp),
            Some((number, "udp")) => (number, Protocol::Udp),
            Some((_, _)) => return Err(wrong()),
        };
        let value: u16 = number.parse().map_err(|_| wrong())?;
        if value == 0 || value.to_string() != number {
            return Err(wrong());
        }
        Ok(Self { name: name.parse()?, protocol, number: value })
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            Protocol::Tcp => write!(f, "{}={}", self.name, self.number),
            Protocol::Udp => write!(f, "{}={}/udp", self.name, self.number),
        }
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Port {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<Port> for String {
    fn from(port: Port) -> Self {
        port.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_reads_back_as_it_is_shown() {
        for (text, shown) in [("http=8080", "http=8080"), ("http=8080/tcp", "http=8080"), ("dns=53/udp", "dns=53/udp")]
        {
            let port: Port = text.parse().expect("valid");
            assert_eq!(port.to_string(), shown);
            assert_eq!(shown.parse::<Port>().expect("valid"), port);
        }
    }

    #[test]
    fn what_is_no_port_is_refused() {
        for bad in
            ["", "http", "http=", "http=0", "http=65536", "http=080", "http=80/sctp", "=80", "80=80", "a_b=1", "-a=1"]
        {
            assert!(bad.parse::<Port>().is_err(), "{bad:?} was accepted");
        }
        assert!("a23456789012345=1".parse::<Port>().is_ok());
        assert!("a234567890123456=1".parse::<Port>().is_err());
    }
}
