//! The TC programs: entry points only. A program reads the headers, asks [`privnet_ebpf::forward`], and ends in
//! [`exit`], the one place that turns a verdict into an action. On the host the crate's binary is a stub.
//!
//! The programs call helpers of kernel 5.10 and before. `bpf_redirect_peer` is switched by the config map.

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
    use privnet_ebpf::forward;
    use privnet_ebpf::packet::{Addresses, Packet};
    use privnet_ebpf::verdict::Direction;

    use crate::exit::exit;
    use crate::maps;
    use crate::skb::Skb;

    /// Ingress of a member's veth end in the network netns.
    #[classifier]
    pub fn from_member(context: TcContext) -> i32 {
        let skb = Skb::new(&context);
        let port = maps::port(skb.ifindex());
        let packet = Packet::read(&skb, skb.tag_was_taken_off());
        let (account, verdict) = forward::from_member(maps::config(), port, &packet, maps::member);
        exit(&skb, account, packet.as_ref().ok(), verdict)
    }

    /// Ingress of `vxlan0`.
    #[classifier]
    pub fn from_vtep(context: TcContext) -> i32 {
        let skb = Skb::new(&context);
        let packet = Packet::read(&skb, skb.tag_was_taken_off());
        let (account, verdict) = forward::from_vtep(maps::config(), &packet, maps::member);
        exit(&skb, account, packet.as_ref().ok(), verdict)
    }

    /// Ingress of a foreign interface of the app netns.
    #[classifier]
    pub fn guard_ingress(context: TcContext) -> i32 {
        guard(&Skb::new(&context), Direction::In)
    }

    /// Egress of a foreign interface of the app netns.
    #[classifier]
    pub fn guard_egress(context: TcContext) -> i32 {
        guard(&Skb::new(&context), Direction::Out)
    }

    #[inline(always)]
    fn guard(skb: &Skb<'_>, direction: Direction) -> i32 {
        let addresses = Addresses::read(skb.ethertype(), &skb.from_network_header());
        let (account, verdict) = forward::guard(maps::config(), direction, &addresses, maps::member);
        exit(skb, account, None, verdict)
    }
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel reads the license here: it allows some helpers to GPL-compatible programs only.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(target_arch = "bpf"))]
fn main() {}
