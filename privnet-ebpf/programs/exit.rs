//! The one door out: turns a verdict into what happens to the frame, and counts it. No other file knows an action code.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use privnet_ebpf::abi::{CounterKey, DropEvent};
use privnet_ebpf::net::MacAddr;
use privnet_ebpf::packet::{Frame, HEADERS_BYTES, Packet};
use privnet_ebpf::verdict::{Direction, DropReason, Outcome, Verdict};

use crate::maps;
use crate::skb::Skb;

/// Whom a frame is counted for.
pub struct Account {
    /// The member's address, or [`CounterKey::NETWORK`].
    pub address: [u8; 4],
    /// Which way the frame goes, seen from the member.
    pub direction: Direction,
}

/// Does what `verdict` says to the frame, counts it under `account`, and gives back the action for the kernel.
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
        // Not TC_ACT_OK: other filters of the interface go on.
        Verdict::Pass(_) => return TC_ACT_UNSPEC,
        Verdict::Drop(reason) => (Outcome::Dropped(reason), TC_ACT_SHOT as i32),
    };
    count(skb, CounterKey::new(account.address, account.direction, outcome));
    action
}

#[inline(always)]
fn deliver(skb: &Skb<'_>, ifindex: u32, rewrite: Option<MacAddr>) -> Result<i32, DropReason> {
    prepare(skb, rewrite)?;
    // The kernel took the frame for somebody else's (PACKET_OTHERHOST), for its MAC is not that of the interface it came
    // in by. Both ways set that right: scrubbing on the one, being received anew on the other.
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
    let Some(packet) = packet else {
        return Err(DropReason::ArpMalformed);
    };
    skb.write(0, &packet.arp().reply(mac)).map_err(|_| DropReason::NotWritable)?;
    skb.clear_mark();
    Ok(skb.redirect(skb.ifindex()))
}

/// A mark would disable the destination cache of the VTEP, and would mean something in the next namespace.
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
    let before = maps::add(key, skb.packets(), skb.frame_bytes());
    if let Some((_, Outcome::Dropped(_))) = key.what() {
        sample(skb, key, before);
    }
}

/// Reports the first drop of a kind that a CPU sees, and from then on one in so many.
#[inline(never)]
fn sample(skb: &Skb<'_>, key: CounterKey, before: u64) {
    let one_in = maps::config().map_or(0, |config| u64::from(config.event_sample()));
    if before.checked_rem(one_in) == Some(0) {
        let headers = skb.read::<HEADERS_BYTES>(0).unwrap_or([0; HEADERS_BYTES]);
        maps::report(&DropEvent::new(skb.boot_ns(), key, skb.ifindex(), skb.frame_bytes(), headers));
    }
}
