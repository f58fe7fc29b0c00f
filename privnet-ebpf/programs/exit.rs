//! Carries a verdict out and counts it. No other file names an action of TC.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use privnet_ebpf::abi::{CounterKey, DropEvent};
use privnet_ebpf::account::{Account, is_reported};
use privnet_ebpf::net::MacAddr;
use privnet_ebpf::packet::{Frame, HEADERS_BYTES, Kind, Packet};
use privnet_ebpf::verdict::{DropReason, Outcome, Verdict};

use crate::maps;
use crate::skb::Skb;

/// Carries out `verdict` on the frame, counts the outcome under `account`, and returns the action for the kernel.
///
/// A passed packet is not counted. A frame that the kernel does not let the program write is dropped.
#[inline(always)]
pub fn exit(skb: &Skb<'_>, account: Account, packet: Option<&Packet>, verdict: Verdict) -> i32 {
    let (outcome, action) = match verdict {
        Verdict::DeliverLocal { ifindex, rewrite } => match deliver(skb, ifindex, rewrite) {
            Ok(action) => (Outcome::ForwardedLocal, action),
            Err(reason) => (Outcome::Dropped(reason), TC_ACT_SHOT as i32),
        },
        Verdict::SendRemote { ifindex, rewrite } => match send(skb, ifindex, rewrite) {
            Ok(action) => (Outcome::ForwardedRemote, action),
            Err(reason) => (Outcome::Dropped(reason), TC_ACT_SHOT as i32),
        },
        Verdict::AnswerArp { mac } => match answer(skb, packet, mac) {
            Ok(action) => (Outcome::ArpAnswered, action),
            Err(reason) => (Outcome::Dropped(reason), TC_ACT_SHOT as i32),
        },
        // TC_ACT_OK would end the interface's other filters; after TC_ACT_UNSPEC they run.
        Verdict::Pass(_) => return TC_ACT_UNSPEC,
        Verdict::Drop(reason) => (Outcome::Dropped(reason), TC_ACT_SHOT as i32),
    };
    count(skb, account.key(outcome));
    action
}

#[inline(always)]
fn deliver(skb: &Skb<'_>, ifindex: u32, rewrite: Option<MacAddr>) -> Result<i32, DropReason> {
    prepare(skb, rewrite)?;
    // The kernel marked the frame PACKET_OTHERHOST, because its MAC is not that of the interface that it came in by.
    // Both ways reset the mark: `bpf_redirect_peer` scrubs the packet, and after `bpf_redirect` it is received anew.
    if maps::config().is_some_and(|config| config.redirect_peer()) {
        Ok(skb.redirect_peer(ifindex))
    } else {
        Ok(skb.redirect(ifindex))
    }
}

#[inline(always)]
fn send(skb: &Skb<'_>, ifindex: u32, rewrite: Option<MacAddr>) -> Result<i32, DropReason> {
    prepare(skb, rewrite)?;
    Ok(skb.redirect(ifindex))
}

#[inline(always)]
fn answer(skb: &Skb<'_>, packet: Option<&Packet>, mac: MacAddr) -> Result<i32, DropReason> {
    let Some(Kind::Arp(request)) = packet.map(Packet::kind) else {
        return Err(DropReason::ArpMalformed);
    };
    skb.write(0, &request.reply(mac)).map_err(|_| DropReason::NotWritable)?;
    skb.clear_mark();
    Ok(skb.redirect(skb.ifindex()))
}

/// Writes the destination MAC where it differs, and clears the firewall mark: a mark disables the destination cache of
/// the VTEP, and rules of the next namespace could match it.
#[inline(always)]
fn prepare(skb: &Skb<'_>, rewrite: Option<MacAddr>) -> Result<(), DropReason> {
    if let Some(mac) = rewrite {
        skb.write(0, &mac.bytes()).map_err(|_| DropReason::NotWritable)?;
    }
    skb.clear_mark();
    Ok(())
}

#[inline(always)]
fn count(skb: &Skb<'_>, key: CounterKey) {
    let frame = skb.tally();
    let before = maps::add(key, &frame);
    if let Some((_, Outcome::Dropped(_))) = key.what() {
        sample(skb, key, before, frame.packets);
    }
}

/// Reports the first drop that a CPU counts under `key`, and after it one in `event_sample`.
///
/// Not inlined, because few frames are sampled, and the event takes 120 bytes of stack. The verifier accepts both.
#[inline(never)]
fn sample(skb: &Skb<'_>, key: CounterKey, before: u64, packets: u64) {
    let one_in = maps::config().map_or(0, |config| u64::from(config.event_sample()));
    if is_reported(before, packets, one_in) {
        let headers = skb.read::<HEADERS_BYTES>(0).unwrap_or([0; HEADERS_BYTES]);
        maps::report(&DropEvent::new(skb.boot_ns(), key, skb.ifindex(), skb.frame_bytes(), headers));
    }
}
