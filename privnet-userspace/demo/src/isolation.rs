//! Packets that must stay on their host, that must be refused, and that must not be seen; each with its passing twin.

use std::time::Duration;

use anyhow::{Result, bail};
use privnet::datapath::{Direction, Outcome};
use privnet_ebpf::verdict::DropReason;

use crate::capture::{Tap, inject};
use crate::frame::Datagram;
use crate::http::{Fetched, PATIENCE, Server, Told, fetch_from, on};
use crate::lab::{Container, Lab};
use crate::measure::{Counted, fdb_destination, named, rise};
use crate::report::Evidence;
use crate::walk::{Taps, carried, packets_until};

/// How long a refused request may wait for an answer that must not come.
const REFUSAL_PATIENCE: Duration = Duration::from_millis(500);
/// How long a forged frame may take to arrive where it must.
const ARRIVAL: Duration = Duration::from_secs(2);
/// How long one is waited for where it must not arrive, after its twin took less than a millisecond.
const SILENCE: Duration = Duration::from_millis(100);

/// A request to the neighbour on the same host.
///
/// # Errors
/// When the evidence cannot be gathered.
pub async fn same_host(lab: &Lab, taps: &mut Taps, server: &mut Server) -> Result<Evidence> {
    let Lab { web1, web2, backend, .. } = lab;
    let of = |counted: &Counted| counted.packets(web1, Direction::Out, Outcome::ForwardedLocal);
    let before = of(&Counted::read(lab, web1).await?);
    let (carrier, underlay) = (taps.carrier.mark()?, taps.underlay.mark()?);
    let fetched = fetch_from(&web1.app, &on(web2.address()), "/neighbour", PATIENCE).await?;
    let Fetched::Answer { status, .. } = fetched else { bail!("web 1 cannot reach web 2: {fetched:?}") };
    let Told::Served { client, .. } = server.next().await? else { bail!("web 2 was not asked") };
    taps.settle().await?;
    let outgoing = taps.carrier.since(carrier)?.iter().filter(|seen| seen.outgoing);
    let sent = outgoing.filter_map(|seen| Datagram::read(&seen.bytes));
    let sent = sent.filter(|datagram| datagram.destination == web2.socket()).count() as u64;
    let after = of(&Counted::read(lab, web1).await?);
    let strays = carried(taps.underlay.since(underlay)?, web1.address(), web2.address()).len();
    let twins = carried(taps.underlay.since(0)?, web1.address(), backend.address()).len();
    let evidence = Evidence::new()
        .text("request", format!("{client} -> {}, status {status}", web2.address()))
        .with("datagrams", sent)
        .with("underlay_frames", strays)
        .with("twin_underlay_frames", twins)
        .demand("web 2 answered web 1", status == 200 && *client.ip() == web1.address())
        .demand("it went over the carrier", sent > 0)
        .demand("nothing of it was on the underlay", strays == 0)
        .demand("the request to backend was on the underlay", twins > 0);
    if !lab.is_ebpf() {
        return Ok(evidence);
    }
    Ok(evidence
        .text("counter", "web 1, out, forwarded_local")
        .text("packets", rise(before, after))
        .demand("it counted each datagram that the socket sent", after - before == sent))
}

/// The container of the other network tries to reach backend; then frames are forged in its place.
///
/// # Errors
/// When the evidence cannot be gathered.
pub async fn other_network(lab: &Lab, taps: &mut Taps) -> Result<Evidence> {
    let Lab { web1, backend, stranger, .. } = lab;
    let fetched = fetch_from(&stranger.app, &on(backend.address()), "/", REFUSAL_PATIENCE).await?;
    let (reached, said) = match fetched {
        Fetched::Answer { status, .. } => (true, format!("answered with status {status}")),
        Fetched::Failed { reason, .. } => (false, reason),
    };
    // Both frames are as good as their senders can make them; only the sender's network differs.
    let own = Forged { sender: web1, to: backend, mark: b"forged by a member of the same network" };
    let foreign = Forged { sender: stranger, to: backend, mark: b"forged by a member of another network" };
    let passed = Outcome::ForwardedRemote;
    let refused = Outcome::Dropped(DropReason::UnknownDestination);
    let (twin_seen, twin_count) = own.send(lab, taps, passed, true).await?;
    let bridge = BridgeCount::read(lab, stranger).await?;
    let (seen, count) = foreign.send(lab, taps, refused, false).await?;
    let evidence = Evidence::new()
        .text("request", format!("{} -> {}: {said}", stranger.address(), backend.address()))
        .text("forged_frame", format!("{} -> {} {seen}", stranger.socket(), backend.socket()))
        .demand("the request got no answer", !reached)
        .demand("the forged frame was seen nowhere", seen == Sightings::default())
        .demand("the twin's frame was seen everywhere", twin_seen == Sightings { underlay: 1, backend: 1 });
    let evidence = if lab.is_ebpf() {
        evidence
            .text("counter", format!("stranger, out, {}", refused.name()))
            .text("packets", rise(count[0], count[1]))
            .demand("that reason was counted once", count[1] - count[0] == 1)
            .demand("the twin was counted once", twin_count[1] - twin_count[0] == 1)
    } else {
        let after = BridgeCount::read(lab, stranger).await?;
        let known = fdb_destination(lab, stranger, backend.mac()).await?;
        let twin_known = fdb_destination(lab, web1, backend.mac()).await?;
        evidence
            .text("counters", "of the interfaces: a bridge has none by member and reason")
            .text("veth_received", rise(bridge.received, after.received))
            .text("vxlan0_sent", rise(bridge.sent, after.sent))
            .text("fdb", format!("{} behind {}", backend.mac(), named(known)))
            .text("twin_fdb", format!("{} behind {}", backend.mac(), named(twin_known)))
            .demand("its network does not know backend", known.is_none() && twin_known.is_some())
            .demand("its own bridge received it", after.received - bridge.received == 1)
            .demand("vxlan0 sent nothing", after.sent == bridge.sent)
    };
    Ok(evidence.text("twin", format!("{} -> {} {twin_seen}", web1.socket(), backend.socket())))
}

/// What the interfaces of a bridge counted of one container's frames, and of those that left the host.
struct BridgeCount {
    received: u64,
    sent: u64,
}

impl BridgeCount {
    async fn read(lab: &Lab, container: &Container) -> Result<Self> {
        let counted = Counted::read(lab, container).await?;
        let received = counted.veth().received;
        Ok(Self { received, sent: counted.traffic("vxlan0").sent })
    }
}

/// Where a forged frame was seen, how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sightings {
    underlay: usize,
    backend: usize,
}

impl std::fmt::Display for Sightings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "seen on the underlay {} times, at backend {} times", self.underlay, self.backend)
    }
}

/// A frame that claims to be WireGuard's, sent from a container's binding netns.
struct Forged<'a> {
    sender: &'a Container,
    to: &'a Container,
    mark: &'a [u8],
}

impl Forged<'_> {
    /// Sends it; returns where it was seen, and the counter of `outcome` before and after.
    async fn send(&self, lab: &Lab, taps: &mut Taps, outcome: Outcome, arrives: bool) -> Result<(Sightings, [u64; 2])> {
        let frame = Datagram {
            source_mac: self.sender.mac(),
            destination_mac: self.to.mac(),
            source: self.sender.socket(),
            destination: self.to.socket(),
            payload: self.mark,
        };
        let counter = (Direction::Out, outcome);
        let before = packets_until(lab, self.sender, counter, 0).await?;
        inject(&self.sender.binding, self.sender.veth.as_str(), frame.to_frame()).await?;
        let bound = tokio::time::Instant::now() + if arrives { ARRIVAL } else { SILENCE };
        let seen = loop {
            let seen = Sightings {
                underlay: taps.underlay.count(0, self.mark)?,
                backend: taps.far_carrier.count(0, self.mark)?,
            };
            if seen.backend > 0 || tokio::time::Instant::now() > bound {
                break seen;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        let after = if lab.is_ebpf() { packets_until(lab, self.sender, counter, before + 1).await? } else { before };
        Ok((seen, [before, after]))
    }
}

/// Looks for the canary in everything that was captured since the beginning.
///
/// # Errors
/// When a tap cannot be read.
pub fn canary(taps: &mut Taps, canary: &str) -> Result<Evidence> {
    let needle = canary.as_bytes();
    let clear = taps.tunnel.count(0, needle)?;
    let count = |tap: &mut Tap| -> Result<(usize, usize)> { Ok((tap.since(0)?.len(), tap.count(0, needle)?)) };
    let (carrier, far, underlay) =
        (count(&mut taps.carrier)?, count(&mut taps.far_carrier)?, count(&mut taps.underlay)?);
    let shown = |(frames, found): (usize, usize)| format!("in {found} of {frames} frames");
    let nowhere = [carrier, far, underlay].iter().all(|(_, found)| *found == 0);
    let looked = [carrier, far, underlay].iter().all(|(frames, _)| *frames > 0);
    Ok(Evidence::new()
        .text("canary", canary)
        .text("carrier", shown(carrier))
        .text("carrier_of_backend", shown(far))
        .text("underlay", shown(underlay))
        .text("twin_wg0", format!("in {clear} of {} frames", taps.tunnel.since(0)?.len()))
        .demand("the canary is in no encrypted frame", nowhere)
        .demand("frames were captured in every place", looked)
        .demand("the request and the answer are in clear on wg0", clear >= 2))
}
