//! Where a namespace sends packets already, and what a network there would take away; pure.

use std::fmt;

use ipnet::Ipv4Net;

use super::overlaps;

/// A range that packets of a namespace reach by an interface that belongs to no private network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForeignRange {
    /// The range.
    pub range: Ipv4Net,
    /// The reason why packets to it take the interface.
    pub reach: Reach,
    /// The interface's name; none for a route that names none, a blackhole for example.
    pub interface: Option<String>,
}

/// The reason why packets to a range take an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// The interface has an address in the range.
    Connected,
    /// The range is a gateway's address.
    Gateway,
    /// A route leads there.
    Route,
}

/// The consequence of a network for the packets to a [`ForeignRange`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// Packets of the container, or those of the network, go the wrong way.
    Breaks,
    /// The network is inside a wider route: the network's own addresses are taken out of it, and the rest goes on.
    Narrows,
}

impl ForeignRange {
    /// The consequence of a network with `subnet`; none when both can be there.
    ///
    /// A default route is wider than everything and is no conflict.
    #[must_use]
    pub fn conflict(&self, subnet: Ipv4Net) -> Option<Conflict> {
        if !overlaps(self.range, subnet) || (self.reach == Reach::Route && self.range.prefix_len() == 0) {
            return None;
        }
        let is_wider = self.range.prefix_len() < subnet.prefix_len();
        Some(if self.reach == Reach::Route && is_wider { Conflict::Narrows } else { Conflict::Breaks })
    }

    /// Whether a subnet that is chosen for a new network keeps away from the range.
    #[must_use]
    pub const fn is_avoided(&self, prefix_length: u8) -> bool {
        !matches!(self.reach, Reach::Route) || self.range.prefix_len() >= prefix_length
    }
}

impl fmt::Display for ForeignRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let interface = self.interface.as_deref();
        match (self.reach, interface) {
            (Reach::Connected, Some(name)) => write!(f, "{}, which is connected to {name}", self.range),
            (Reach::Gateway, Some(name)) => write!(f, "{}, a gateway on {name}", self.range.addr()),
            (Reach::Route, Some(name)) => write!(f, "{}, which has a route through {name}", self.range),
            (_, None) => write!(f, "{}, which has a route of its own", self.range),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str, reach: Reach) -> ForeignRange {
        ForeignRange { range: text.parse().expect("a prefix"), reach, interface: Some("eth0".to_owned()) }
    }

    #[test]
    fn a_subnet_that_takes_an_interfaces_packets_breaks_it_and_its_neighbour_does_not() {
        let subnet: Ipv4Net = "172.17.0.0/16".parse().expect("a prefix");
        for (text, reach, conflict) in [
            // Equal, contained, containing; beside.
            ("172.17.0.0/16", Reach::Connected, Some(Conflict::Breaks)),
            ("172.17.0.0/24", Reach::Connected, Some(Conflict::Breaks)),
            ("172.16.0.0/12", Reach::Connected, Some(Conflict::Breaks)),
            ("172.18.0.0/16", Reach::Connected, None),
            ("172.17.0.1/32", Reach::Gateway, Some(Conflict::Breaks)),
            ("172.18.0.1/32", Reach::Gateway, None),
            ("172.17.0.0/16", Reach::Route, Some(Conflict::Breaks)),
            ("172.17.9.0/24", Reach::Route, Some(Conflict::Breaks)),
            ("172.16.0.0/12", Reach::Route, Some(Conflict::Narrows)),
            ("0.0.0.0/0", Reach::Route, None),
            ("10.0.0.0/8", Reach::Route, None),
        ] {
            assert_eq!(range(text, reach).conflict(subnet), conflict, "{text} {reach:?}");
        }
    }

    #[test]
    fn a_new_subnet_keeps_away_from_all_but_wider_routes() {
        assert!(range("10.0.0.0/8", Reach::Connected).is_avoided(22));
        assert!(range("10.240.0.0/22", Reach::Route).is_avoided(22));
        assert!(!range("10.0.0.0/8", Reach::Route).is_avoided(22));
    }

    #[test]
    fn a_range_says_its_interface() {
        assert_eq!(range("172.17.0.0/16", Reach::Connected).to_string(), "172.17.0.0/16, which is connected to eth0");
        assert_eq!(range("172.17.0.1/32", Reach::Gateway).to_string(), "172.17.0.1, a gateway on eth0");
        let blackhole = ForeignRange { interface: None, ..range("10.9.0.0/16", Reach::Route) };
        assert_eq!(blackhole.to_string(), "10.9.0.0/16, which has a route of its own");
    }
}
