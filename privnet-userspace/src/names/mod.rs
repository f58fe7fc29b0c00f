//! Domain names: what a container may ask for, and the answer. Pure: a snapshot and a question in, an answer out.
//!
//! `[<number>.][<type>.]<app>.<network>.private-network.internal.`; without a type it is `web`, a type is all its
//! members, a number exactly one; an app by its id or by its name. Without the suffix, and without the network, a name is
//! looked for in the networks of the client, in the order of its search list, and in its own apps, whose types alone are
//! names. Owns the zone's shape and every decision
//! about it: what exists for whom, the record types, the negative answers. Never sees a packet (that is `dns`) and never
//! asks where a snapshot comes from.
//!
//! | module | what it owns |
//! |---|---|
//! | [`name`] | a domain name in its uncompressed wire form |
//! | [`catalogue`] | the snapshot as a plain value, and the difference of two |
//! | [`zone`] | one network's part of it, indexed; all of them as [`Zones`] |
//! | [`answer`] | questions and answers as values |
//! | `forward`, `reverse` | what a name, or an address, stands for |
//! | `short` | which names without the suffix are ours |
//! | `resolve` | from a question to its answer |

pub mod answer;
pub mod catalogue;
mod forward;
pub mod name;
mod resolve;
mod reverse;
mod short;
pub mod zone;

#[cfg(test)]
mod tests;

pub use answer::{Answer, Data, Owner, QueryType, Question, Rcode, Record, Resolution, Soa};
pub use catalogue::{Catalogue, Difference, MemberNames, NetworkHead, NetworkNames};
pub use name::{InvalidDomainName, Name};
pub use zone::{DnsClient, Zones};

pub use crate::model::Forwarding;
use crate::model::{ContainerRef, NetworkId};

/// The suffix of every full name of ours. Nothing below it is ever asked of another server.
pub const SUFFIX: &str = "private-network.internal.";
/// The labels of [`SUFFIX`], from the left.
const SUFFIX_LABELS: [&[u8]; 2] = [b"private-network", b"internal"];
/// The full name of a member, with the final dot.
#[must_use]
pub fn of_member(network: NetworkId, container: &ContainerRef) -> Name {
    Name::from_valid(&format!("{container}.{network}.{SUFFIX}"))
}

/// The apex of a network, with the final dot.
#[must_use]
pub fn of_network(network: NetworkId) -> Name {
    Name::from_valid(&format!("{network}.{SUFFIX}"))
}
