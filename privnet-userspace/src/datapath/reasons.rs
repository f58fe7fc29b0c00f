//! What a drop for each reason means to people: its cause, and what to do about it.

use privnet_ebpf::verdict::DropReason;

/// The cause of a drop, and its remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explained {
    /// What sends such frames.
    pub cause: &'static str,
    /// What to do; that nothing is to be done where that is so.
    pub remedy: &'static str,
}

/// Nothing is wrong where these are few.
const HARMLESS: &str = "nothing is to be done: the private network carries WireGuard alone, and works without them";
/// A member that sends by itself what only its WireGuard device should.
const LOOK_AT_MEMBER: &str = "look at the member's container: its WireGuard device does not send such frames, so a process in \
    its binding netns does, or a stranger's program changed them";
/// Hosts do not agree; they do again within a second, unless the store is away.
const LOOK_AT_STORE: &str = "nothing is to be done for moments after a member came or went; if they go on, see `privnet status` on both hosts: one may not \
     follow the store";
/// What came by the underlay.
const LOOK_AT_UNDERLAY: &str = "find the host that sends them by the underlay's address in `tcpdump -n udp port 4789`, and close \
    the VXLAN port to all but the fleet's hosts";

/// Explains a reason.
#[must_use]
pub const fn explained(reason: DropReason) -> Explained {
    let (cause, remedy) = match reason {
        DropReason::AbiMismatch => (
            "the config map of the programs is empty or of another build: an upgrade was interrupted, or a stranger wrote it",
            "restart the agent: it loads the programs anew; if the drops go on, report it as a fault",
        ),
        DropReason::Truncated => ("a frame that ends before its headers do", LOOK_AT_MEMBER),
        DropReason::Malformed => ("a frame whose IPv4 or UDP lengths contradict each other", LOOK_AT_MEMBER),
        DropReason::VlanTag => ("a frame with a VLAN tag", LOOK_AT_MEMBER),
        DropReason::Ipv6 => ("IPv6 in a network of IPv4, mostly a kernel that looks for neighbours", HARMLESS),
        DropReason::RouterAdvertisement => (
            "an IPv6 router advertisement, by which a container would be a router of others",
            "find the process in the member's container that sends them, a routing daemon for instance",
        ),
        DropReason::UnknownEtherType => ("a frame that is neither IPv4 nor ARP, of LLDP or STP for instance", HARMLESS),
        DropReason::MulticastOrBroadcast => {
            ("IPv4 to many receivers, of mDNS or SSDP for instance: a private network has none", HARMLESS)
        }
        DropReason::IpOptions => ("an IPv4 packet with options, which WireGuard never sends", LOOK_AT_MEMBER),
        DropReason::Fragment => (
            "a fragment of an IPv4 packet: a WireGuard packet was larger than the carrier's MTU",
            "compare the MTU of wg0 with `privnet mtu`, and set it back if somebody raised it",
        ),
        DropReason::NotUdp => ("IPv4 that is not UDP: the carrier carries WireGuard alone", LOOK_AT_MEMBER),
        DropReason::Dhcp => ("a DHCP request or answer: addresses are privnet's to give", HARMLESS),
        DropReason::UnknownPort => (
            "a frame from an interface of the network netns that is no member's",
            "nothing is to be done for moments after a member ended; if they go on, look for a stranger's interface with \
             `ip -n` in the network's namespace",
        ),
        DropReason::SpoofedMac => ("a member sends with a MAC that is not its own", LOOK_AT_MEMBER),
        DropReason::SpoofedAddress => ("a member sends with an address that is not its own", LOOK_AT_MEMBER),
        DropReason::WrongSourcePort => ("a member sends UDP from another port than its WireGuard's", LOOK_AT_MEMBER),
        DropReason::WrongDestinationPort => {
            ("a member sends UDP to another port than the receiver's WireGuard's", LOOK_AT_MEMBER)
        }
        DropReason::UnknownDestination => {
            ("to an address that no member of the network has, that of one that has ended mostly", LOOK_AT_STORE)
        }
        DropReason::WrongDestinationMac => {
            ("to the MAC of another member than that of the address, or of a later holder of it", LOOK_AT_STORE)
        }
        DropReason::ToItself => ("a member sends to its own address by the carrier", LOOK_AT_MEMBER),
        DropReason::NoVtep => (
            "to a member of another host, while the network has no vxlan0 on this host",
            "see `privnet status`, which says why vxlan0 could not be made",
        ),
        DropReason::ArpMalformed => ("an ARP message that is not of IPv4 over Ethernet", LOOK_AT_MEMBER),
        DropReason::ArpNotRequest => ("an ARP answer or announcement: the programs answer all requests", HARMLESS),
        DropReason::ArpSpoofed => ("an ARP request in the name of another member", LOOK_AT_MEMBER),
        DropReason::ArpUnknownTarget => ("an ARP request for an address that no member has", LOOK_AT_STORE),
        DropReason::ArpFromVtep => ("an ARP message from another host, which privnet does not send", LOOK_AT_UNDERLAY),
        DropReason::UnknownSource => {
            ("from another host, with the address of no member that this host knows", LOOK_AT_STORE)
        }
        DropReason::SourceIsLocal => ("from another host, with the address of a member of this one", LOOK_AT_UNDERLAY),
        DropReason::DestinationNotLocal => {
            ("from another host, to a member that is on another host by now, or never was here", LOOK_AT_STORE)
        }
        DropReason::GuardSource => (
            "an address of the private network came into the container by another interface, or left it by one",
            "find what routes the network's range beside wg0: `ip route` in the container, and the bridge that it is on",
        ),
        DropReason::GuardDestination => (
            "a packet to the private network tried another interface of the container than wg0, in clear",
            "see `ip route get ADDRESS` in the container: a process bound to another interface, or wg0 is down",
        ),
        DropReason::GuardArp => (
            "ARP for an address of the private network on another interface of the container",
            "look for another machine with addresses of the network's range on that interface's network",
        ),
        DropReason::NotWritable => (
            "the kernel did not let the program write the frame's headers",
            "report it as a fault, with `uname -r` and the driver of the underlay",
        ),
    };
    Explained { cause, remedy }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The file in the tree, and what writes it.
    const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/drops.md");
    const WRITE: &str = "PRIVNET_WRITE_DROPS";
    const HEAD: &str = "\
# Why a frame was dropped

Every frame that privnet's programs drop has one of these reasons. `privnet monitor -v` prints them
as they happen, and the counter `privnet_dropped_packets_total` of [metrics](metrics.md) has them as
its label `reason`. Names never change.

This page is written by a test from the table in `privnet-userspace/src/datapath/reasons.rs`:
`PRIVNET_WRITE_DROPS=1 cargo test -p privnet-userspace --lib drops_page`.
";

    /// A paragraph in lines of at most 100 columns.
    fn folded(text: &str) -> String {
        let mut lines = vec![String::new()];
        for word in text.split_whitespace() {
            let last = lines.last_mut().expect("one");
            if last.is_empty() {
                last.push_str(word);
            } else if last.len() + 1 + word.len() <= 100 {
                last.push(' ');
                last.push_str(word);
            } else {
                lines.push(word.to_owned());
            }
        }
        lines.join("\n")
    }

    fn page() -> String {
        let reasons = DropReason::ALL.iter().map(|reason| {
            let Explained { cause, remedy } = explained(*reason);
            format!("\n## `{}`\n\n{}\n\n{}\n", reason.name(), folded(&sentence(cause)), folded(&sentence(remedy)))
        });
        HEAD.to_owned() + &reasons.collect::<String>()
    }

    /// With a capital, and a full stop.
    fn sentence(text: &str) -> String {
        let (first, rest) = text.split_at(1);
        format!("{}{rest}.", first.to_uppercase())
    }

    #[test]
    fn the_drops_page_is_what_the_table_says() {
        if std::env::var_os(WRITE).is_some() {
            std::fs::write(FILE, page()).expect("written");
        }
        let text = std::fs::read_to_string(FILE).unwrap_or_default();
        assert!(text == page(), "docs/drops.md is stale: {WRITE}=1 cargo test -p privnet-userspace --lib drops_page");
    }
}
