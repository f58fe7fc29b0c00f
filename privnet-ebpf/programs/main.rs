//! The TC programs: entry points only. A program reads the headers, looks up, asks [`privnet_ebpf::forward`], and
//! leaves through [`exit`], the one door out. A stub on the host.
//!
//! Helpers are those of kernel 5.10 and before; what a kernel may lack is switched by the config map.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod exit;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod skb;

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::macros::classifier;
    use aya_ebpf::programs::TcContext;
    use privnet_ebpf::abi::CounterKey;
    use privnet_ebpf::forward;
    use privnet_ebpf::packet::{Claim, Kind, Packet};
    use privnet_ebpf::verdict::{Direction, Verdict};

    use crate::exit::{Account, exit};
    use crate::maps;
    use crate::skb::Skb;

    /// Ingress of a member's veth end in the network netns.
    #[classifier]
    pub fn from_member(context: TcContext) -> i32 {
        let skb = Skb::new(&context);
        let port = maps::port(skb.ifindex());
        let address = port.map_or(CounterKey::NETWORK, |port| port.address());
        let account = Account { address, direction: Direction::Out };
        let packet = match Packet::read(&skb, skb.tag_was_taken_off()) {
            Ok(packet) => packet,
            Err(reason) => return exit(&skb, account, None, Verdict::Drop(reason)),
        };
        let verdict = forward::from_member(maps::config(), port, &packet, maps::member);
        exit(&skb, account, Some(&packet), verdict)
    }

    /// Ingress of `vxlan0`.
    #[classifier]
    pub fn from_vtep(context: TcContext) -> i32 {
        let skb = Skb::new(&context);
        let mut account = Account { address: CounterKey::NETWORK, direction: Direction::In };
        let packet = match Packet::read(&skb, skb.tag_was_taken_off()) {
            Ok(packet) => packet,
            Err(reason) => return exit(&skb, account, None, Verdict::Drop(reason)),
        };
        let destination = match packet.kind() {
            Kind::Udp => maps::member(packet.udp().destination()),
            Kind::Arp | Kind::Refused(_) => None,
        };
        if destination.is_some_and(|row| row.ifindex().is_some()) {
            account.address = packet.udp().destination();
        }
        let verdict = forward::from_vtep(maps::config(), &packet, destination, maps::member);
        exit(&skb, account, Some(&packet), verdict)
    }

    /// Ingress of an interface of the app netns that is not ours.
    #[classifier]
    pub fn guard_ingress(context: TcContext) -> i32 {
        guard(&Skb::new(&context), Direction::In)
    }

    /// Egress of an interface of the app netns that is not ours.
    #[classifier]
    pub fn guard_egress(context: TcContext) -> i32 {
        guard(&Skb::new(&context), Direction::Out)
    }

    #[inline(always)]
    fn guard(skb: &Skb<'_>, direction: Direction) -> i32 {
        let claim = Claim::read(skb.ethertype(), &skb.from_network_header());
        let verdict = forward::guard(maps::config(), &claim);
        let own = match (&claim, direction) {
            (Claim::Ipv4 { source, .. }, Direction::Out) => *source,
            (Claim::Ipv4 { destination, .. }, Direction::In) => *destination,
            (Claim::Arp { sender, .. }, Direction::Out) => *sender,
            (Claim::Arp { target, .. }, Direction::In) => *target,
            (Claim::Truncated | Claim::Other, Direction::Out | Direction::In) => CounterKey::NETWORK,
        };
        let address = match verdict {
            // Only members of this host have rows of their own: whoever forges addresses cannot fill the map.
            Verdict::Drop(_) if maps::member(own).is_some_and(|row| row.ifindex().is_some()) => own,
            Verdict::Drop(_)
            | Verdict::Pass(_)
            | Verdict::DeliverLocal { .. }
            | Verdict::SendRemote { .. }
            | Verdict::AnswerArp { .. } => CounterKey::NETWORK,
        };
        exit(skb, Account { address, direction }, None, verdict)
    }
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Helpers that the kernel gives to GPL-compatible programs only need this section.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(target_arch = "bpf"))]
fn main() {}
