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
const HARMLESS: &str = "nothing is to be done: the private network carries WireGuard alone, and needs no such frames";
/// Made by a member, or by another host in its name.
const LOOK_AT_SENDER: &str = "direction out: the member that is named sent it, so see `wg show` in its container (listening port, \
    endpoints), and which programs root runs in its binding netns; direction in: it came from another host and was meant for the \
    member that is named, so find the sender by the frame's source address";
/// Hosts do not agree; they do again within a second, unless the store is away.
const LOOK_AT_STORE: &str = "nothing is to be done for moments after a member came or went; if they go on, see `privnet status` \
    on both hosts: one may not follow the store";
/// What came by the underlay.
const LOOK_AT_UNDERLAY: &str = "nothing is to be done for moments after an address changed hosts; if they go on, find the sending \
    host by the underlay's address in `tcpdump -n udp port N`, where N is the VXLAN port (`privnet fleet show`), and close that \
    port to all but the fleet's hosts";

/// Explains a reason.
#[must_use]
pub const fn explained(reason: DropReason) -> Explained {
    let (cause, remedy) = match reason {
        DropReason::AbiMismatch => (
            "the config map of the programs is empty or of another build: an upgrade was interrupted, or a stranger wrote it",
            "restart the agent: it loads the programs anew; if the drops go on, report it as a fault",
        ),
        DropReason::Truncated => {
            ("a frame that ends before its headers do; on a container's other interfaces, too", LOOK_AT_SENDER)
        }
        DropReason::Malformed => ("a frame whose IPv4 or UDP lengths contradict each other", LOOK_AT_SENDER),
        DropReason::VlanTag => ("a frame with a VLAN tag", LOOK_AT_SENDER),
        DropReason::Ipv6 => ("IPv6 in a network of IPv4, mostly a kernel that looks for neighbours", HARMLESS),
        DropReason::RouterAdvertisement => {
            ("an IPv6 router advertisement, by which a container would be a router of others", LOOK_AT_SENDER)
        }
        DropReason::UnknownEtherType => ("a frame that is neither IPv4 nor ARP, of LLDP or STP for instance", HARMLESS),
        DropReason::MulticastOrBroadcast => {
            ("IPv4 to many receivers, the kernel's IGMP for instance: the carrier has none", HARMLESS)
        }
        DropReason::IpOptions => ("an IPv4 packet with options, which WireGuard never sends", LOOK_AT_SENDER),
        DropReason::Fragment => (
            "a fragment: a WireGuard packet was larger than the carrier's MTU, since the network's MTU is larger than what this \
             host's underlay leaves",
            "compare `privnet network show` with `privnet mtu` on each host: the network's MTU must not exceed the smallest host's",
        ),
        DropReason::NotUdp => (
            "IPv4 that is not UDP, mostly the kernel's ICMP port unreachable: a datagram came for a member whose WireGuard device \
             is down, or not there yet",
            "nothing is to be done for moments while a container starts or ends; if they go on, see `ip link` and `wg show` in the \
             container of the frame's sender",
        ),
        DropReason::Dhcp => ("a DHCP request or answer: addresses are privnet's to give", HARMLESS),
        DropReason::UnknownPort => (
            "a frame from a veth that has no member any more, or not yet",
            "nothing is to be done for moments after a member came or went; if they go on, see `privnet status`",
        ),
        DropReason::SpoofedMac => (
            "the sender's MAC is not the one of its address; from another host also where that host knows an earlier or a later \
             holder of the address",
            LOOK_AT_SENDER,
        ),
        DropReason::SpoofedAddress => ("a member sends with an address that is not its own", LOOK_AT_SENDER),
        DropReason::WrongSourcePort => ("UDP from another port than the sender's WireGuard port", LOOK_AT_SENDER),
        DropReason::WrongDestinationPort => ("UDP to another port than the receiver's WireGuard port", LOOK_AT_SENDER),
        DropReason::UnknownDestination => {
            ("to an address that no member of the network has, mostly that of one that has ended", LOOK_AT_STORE)
        }
        DropReason::WrongDestinationMac => (
            "to a MAC that is not the one of the address; from another host also to that of an earlier or a later holder of it",
            LOOK_AT_STORE,
        ),
        DropReason::ToItself => (
            "a member sends to its own address, or announces it by ARP",
            "nothing is to be done for ARP; else see `wg show` in its container for a peer that has its own address as endpoint",
        ),
        DropReason::NoVtep => (
            "to a member of another host, while the network has no vxlan0 on this host",
            "see `privnet status`, which says why vxlan0 could not be made",
        ),
        DropReason::ArpMalformed => ("an ARP message that is not of IPv4 over Ethernet", LOOK_AT_SENDER),
        DropReason::ArpNotRequest => ("an ARP answer or announcement: the programs answer all requests", HARMLESS),
        DropReason::ArpSpoofed => (
            "an ARP request whose sender is not the member itself: in the name of another, or a probe from 0.0.0.0",
            LOOK_AT_SENDER,
        ),
        DropReason::ArpUnknownTarget => ("an ARP request for an address that no member has", LOOK_AT_STORE),
        DropReason::ArpFromVtep => ("an ARP message from another host, which privnet does not send", LOOK_AT_UNDERLAY),
        DropReason::UnknownSource => {
            ("from another host, with an address that no member has that this host knows", LOOK_AT_STORE)
        }
        DropReason::SourceIsLocal => ("from another host, with the address of a member of this one", LOOK_AT_UNDERLAY),
        DropReason::DestinationNotLocal => {
            ("from another host, to a member that is on another host by now, or never was here", LOOK_AT_STORE)
        }
        DropReason::GuardSource => (
            "an address of the private network came into the container by another interface, or left it by one",
            "see `ip route` in the container, and whether another network of the container, Docker's for instance, has the same \
             range: give one of them another range",
        ),
        DropReason::GuardDestination => (
            "a packet to the private network, in clear, on another interface of the container than its own",
            "direction out: see `ip route get ADDRESS` in the container, since a process is bound to another interface, or wg0 is \
             down; direction in: a machine on the network of that interface sends to a private address, so find it by the frame's \
             sender",
        ),
        DropReason::GuardArp => (
            "ARP for an address of the private network on another interface of the container",
            "direction out: see `ip route get ADDRESS` in the container; direction in: a machine on the network of that interface \
             asks for, or has, addresses of this range, so give one of the two networks another range",
        ),
        DropReason::NotWritable => (
            "the kernel could not let the program write the frame's headers, mostly for lack of memory",
            "see the memory of the host; if the drops go on, report it as a fault, with `uname -r`",
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
