//! The addresses whose members this host saw leave a moment ago.
//!
//! An address rests before it is given out again, until no client can have it by the name of its last holder. A host that does
//! not hear the store sees nothing of that rest: it answers the name until it hears of the end, of the rest and of the next
//! holder, all at once. So the next holder waits, on that host, for as long as a client may keep the last answer.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::model::{ContainerRef, Member, NetworkId};

/// Who left which address, and when that was seen.
#[derive(Clone, Debug, Default)]
pub struct Left(BTreeMap<(NetworkId, Ipv4Addr), (ContainerRef, Instant)>);

impl Left {
    /// Notes that a member is seen to have left its address.
    pub fn note(&mut self, member: &Member, now: Instant) {
        self.0.insert((member.network, member.address), (member.container.clone(), now));
    }

    /// Whether clients of this host may still know a member's address by the name of another one; they keep a name for `ttl`.
    pub fn holds_off(&self, member: &Member, ttl: Duration, now: Instant) -> bool {
        let left = self.0.get(&(member.network, member.address));
        // A container that comes again with its address has its name, too.
        left.is_some_and(|(container, seen)| *container != member.container && now.duration_since(*seen) < ttl)
    }

    /// Forgets those that left long enough ago, and returns their addresses.
    pub fn expire(&mut self, ttl: impl Fn(NetworkId) -> Duration, now: Instant) -> Vec<(NetworkId, Ipv4Addr)> {
        let is_over = |(network, _): &(NetworkId, Ipv4Addr), seen: Instant| now.duration_since(seen) >= ttl(*network);
        let over = self.0.extract_if(.., |key, (_, seen)| is_over(key, *seen));
        over.map(|(address, _)| address).collect()
    }
}
