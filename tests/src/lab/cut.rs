//! A direction of the underlay in which everything is lost, without a word to anybody.

use std::net::Ipv4Addr;

use super::space::Space;

/// A card that no host has: the bridge hands such a frame to everybody, and nobody takes it.
const NOBODY: &str = "02:00:00:00:00:99";

/// What a host sends to an address is lost, while this value lives; what comes from there arrives.
#[must_use]
pub struct Cut {
    from: Space,
    to: Ipv4Addr,
}

impl Cut {
    /// Cuts the way from a host to an address of the underlay. No ARP answer changes an entry that is permanent.
    ///
    /// # Panics
    /// When the address is the host's own: nothing would be lost.
    #[track_caller]
    pub fn new(from: &Space, to: Ipv4Addr) -> Self {
        let own = from.run("ip -4 -o address show dev eth0");
        assert!(!own.contains(&format!(" {to}/")), "a host is not cut off from its own address {to}");
        from.run(&format!("ip neigh replace {to} lladdr {NOBODY} dev eth0 nud permanent"));
        Self { from: from.clone(), to }
    }

    /// Cuts both ways between two hosts, each given with its own address.
    #[track_caller]
    pub fn between(one: (&Space, Ipv4Addr), other: (&Space, Ipv4Addr)) -> [Self; 2] {
        [Self::new(one.0, other.1), Self::new(other.0, one.1)]
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        self.from.attempt(&format!("ip neigh delete {} dev eth0", self.to));
    }
}
