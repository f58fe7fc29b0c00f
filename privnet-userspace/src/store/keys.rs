//! Which key holds which record. Made here, recognized here, spelled nowhere else.
//!
//! | key | record |
//! |---|---|
//! | `networks/<pn>` | [`Network`](crate::model::Network) |
//! | `names/<network name>` | the network that bears the name |
//! | `vnis/<vni>` | the network that holds the VNI |
//! | `members/<pn>/<member>` | [`Member`](crate::model::Member); `<member>` is the container's text, `1.web.ap-<uuid>` |
//! | `member-names/<pn>/<member>` | [`MemberPointer`](super::records::MemberPointer): the member that has this further name |
//! | `addresses/<pn>/<ipv4>` | [`AddressRecord`](super::records::AddressRecord): the holder now, and what the next one must know |
//! | `public-keys/<pn>/<hex>` | [`MemberPointer`](super::records::MemberPointer): the member whose WireGuard key it is |
//! | `hosts/<host>` | [`HostRecord`](super::records::HostRecord) |
//! | `presences/<host>` | [`PresenceRecord`](super::records::PresenceRecord), as long as the host is there |
//! | `vteps/<ipv4>` | [`VtepRecord`](super::records::VtepRecord): the host that has this VTEP address, as long as it is there |
//! | `drains/<host>` | [`DrainRecord`](super::records::DrainRecord): whether the host takes new members |
//! | `marks/networks/<pn>` | [`NetworkMark`](super::records::NetworkMark): the network was ended with its members; never deleted |
//! | `marks/instances/<instance>` | [`InstanceMark`](super::records::InstanceMark): the members that an agent's instance made were ended; never deleted |
//! | `write-checks/<host>` | nothing; written by `doctor` on that host, to see whether the store takes changes |
//! | `fleet/record` | [`FleetRecord`](super::records::FleetRecord) |
//! | `fleet/epochs/<fl>/<epoch>` | nothing; is there in the store of that fleet and epoch alone |
//! | `fences/networks` | nothing; moves with every network that is created, so that two never pick one subnet |
//! | `fences/members/<pn>` | nothing; moves with every member that is claimed, so that a network with members is never deleted |
//! | `fences/members` | nothing; moves with every member that is claimed in any network, so that a VXLAN port in use never changes |

use std::net::Ipv4Addr;

use privnet_ebpf::net::Vni;
use uuid::Uuid;

use super::path::{Key, Prefix};
use crate::model::{ContainerRef, FleetId, HostName, NetworkId, NetworkName, PublicKey};

/// `networks/<pn>`.
#[must_use]
pub fn network(id: NetworkId) -> Key {
    key(&format!("networks/{id}"))
}

/// `names/<network name>`.
#[must_use]
pub fn name(name: &NetworkName) -> Key {
    key(&format!("names/{name}"))
}

/// `vnis/<vni>`.
#[must_use]
pub fn vni(vni: Vni) -> Key {
    key(&format!("vnis/{vni}"))
}

/// `members/<pn>/<member>`.
#[must_use]
pub fn member(network: NetworkId, container: &ContainerRef) -> Key {
    key(&format!("members/{network}/{container}"))
}

/// `member-names/<pn>/<member>`.
#[must_use]
pub fn member_name(network: NetworkId, container: &ContainerRef) -> Key {
    key(&format!("member-names/{network}/{container}"))
}

/// `addresses/<pn>/<ipv4>`.
#[must_use]
pub fn address(network: NetworkId, address: Ipv4Addr) -> Key {
    key(&format!("addresses/{network}/{address}"))
}

/// `public-keys/<pn>/<hex>`: base64 would bring `/` into the key.
#[must_use]
pub fn public_key(network: NetworkId, public_key: PublicKey) -> Key {
    let hex: String = public_key.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    key(&format!("public-keys/{network}/{hex}"))
}

/// `hosts/<host>`.
#[must_use]
pub fn host(host: &HostName) -> Key {
    key(&format!("hosts/{host}"))
}

/// `presences/<host>`.
#[must_use]
pub fn presence(host: &HostName) -> Key {
    key(&format!("presences/{host}"))
}

/// `vteps/<ipv4>`.
#[must_use]
pub fn vtep(address: Ipv4Addr) -> Key {
    key(&format!("vteps/{address}"))
}

/// `drains/<host>`.
#[must_use]
pub fn drain(host: &HostName) -> Key {
    key(&format!("drains/{host}"))
}

/// `marks/networks/<pn>`.
#[must_use]
pub fn network_mark(id: NetworkId) -> Key {
    key(&format!("marks/networks/{id}"))
}

/// `marks/instances/<instance>`.
#[must_use]
pub fn instance_mark(instance: Uuid) -> Key {
    key(&format!("marks/instances/{instance}"))
}

/// `write-checks/<host>`.
#[must_use]
pub fn write_check(host: &HostName) -> Key {
    key(&format!("write-checks/{host}"))
}

/// `fleet/record`.
#[must_use]
pub fn fleet() -> Key {
    key("fleet/record")
}

/// `fleet/epochs/<fl>/<epoch>`.
#[must_use]
pub fn fleet_epoch(fleet: FleetId, epoch: u64) -> Key {
    key(&format!("fleet/epochs/{fleet}/{epoch}"))
}

/// `fences/members`.
#[must_use]
pub fn all_members_fence() -> Key {
    key("fences/members")
}

/// `fences/networks`.
#[must_use]
pub fn networks_fence() -> Key {
    key("fences/networks")
}

/// `fences/members/<pn>`.
#[must_use]
pub fn members_fence(network: NetworkId) -> Key {
    key(&format!("fences/members/{network}"))
}

/// Everything.
#[must_use]
pub fn everything() -> Prefix {
    Prefix::all()
}

/// `networks/`.
#[must_use]
pub fn networks() -> Prefix {
    prefix("networks/")
}

/// `vnis/`.
#[must_use]
pub fn vnis() -> Prefix {
    prefix("vnis/")
}

/// `members/`: the members of every network.
#[must_use]
pub fn all_members() -> Prefix {
    prefix("members/")
}

/// `members/<pn>/`.
#[must_use]
pub fn members(network: NetworkId) -> Prefix {
    prefix(&format!("members/{network}/"))
}

/// `member-names/<pn>/`.
#[must_use]
pub fn member_names(network: NetworkId) -> Prefix {
    prefix(&format!("member-names/{network}/"))
}

/// `public-keys/<pn>/`.
#[must_use]
pub fn public_keys(network: NetworkId) -> Prefix {
    prefix(&format!("public-keys/{network}/"))
}

/// `names/`.
#[must_use]
pub fn names() -> Prefix {
    prefix("names/")
}

/// The network of `public-keys/<pn>/<hex>` or `member-names/<pn>/<member>`; nothing when it is another key.
#[must_use]
pub fn network_of_pointer(key: &Key) -> Option<NetworkId> {
    let below = |text| key.below(&prefix(text));
    let (network, _) = below("public-keys/").or_else(|| below("member-names/"))?.split_once('/')?;
    network.parse().ok()
}

/// `addresses/`: the addresses of every network.
#[must_use]
pub fn all_addresses() -> Prefix {
    prefix("addresses/")
}

/// `addresses/<pn>/`.
#[must_use]
pub fn addresses(network: NetworkId) -> Prefix {
    prefix(&format!("addresses/{network}/"))
}

/// The network and the address of `addresses/<pn>/<ipv4>`; nothing when it is another key.
#[must_use]
pub fn parse_address(key: &Key) -> Option<(NetworkId, Ipv4Addr)> {
    let (network, address) = key.below(&all_addresses())?.split_once('/')?;
    Some((network.parse().ok()?, address.parse().ok()?))
}

/// `hosts/`.
#[must_use]
pub fn hosts() -> Prefix {
    prefix("hosts/")
}

/// The host of a presence; nothing for another key.
#[must_use]
pub fn host_of_presence(key: &Key) -> Option<HostName> {
    key.below(&presences())?.parse().ok()
}

/// `presences/`.
#[must_use]
pub fn presences() -> Prefix {
    prefix("presences/")
}

/// `drains/`.
#[must_use]
pub fn drains() -> Prefix {
    prefix("drains/")
}

/// `marks/`: what operators ended.
#[must_use]
pub fn marks() -> Prefix {
    prefix("marks/")
}

/// `marks/networks/`.
#[must_use]
pub fn network_marks() -> Prefix {
    prefix("marks/networks/")
}

/// `marks/instances/`.
#[must_use]
pub fn instance_marks() -> Prefix {
    prefix("marks/instances/")
}

fn key(text: &str) -> Key {
    // Identifiers are checked at birth: printable ASCII without '/', never empty, far shorter than a key may be.
    text.parse().unwrap_or_else(|error| unreachable!("{error}"))
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap_or_else(|error| unreachable!("{error}"))
}
