//! One request from `web` 1 to `backend`, step by step along the seed's path.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use privnet::agent::ControlError;
use privnet::datapath::{Direction, Outcome};
use privnet::link::{Links, RouteTarget};
use privnet::wireguard::PeerState;

use crate::capture::{Seen, Tap, settle};
use crate::frame::{Datagram, wireguard_kind};
use crate::http::{Fetched, PATIENCE, PORT, Server, Told, fetch_from, on};
use crate::lab::{Container, Lab, UNDERLAY};
use crate::measure::{Counted, counted_until, fdb_destination, named, rise, udp_ports};
use crate::naming;
use crate::report::{Evidence, Report};

/// How long traffic may take to settle after it was answered.
const SETTLE: Duration = Duration::from_millis(500);

/// Where frames are seen.
pub struct Taps {
    /// In clear: `wg0` in the app netns of `web` 1.
    pub tunnel: Tap,
    /// Encrypted: the carrier in the binding netns of `web` 1.
    pub carrier: Tap,
    /// Encrypted: the carrier in the binding netns of `backend`.
    pub far_carrier: Tap,
    /// In VXLAN: the underlay, at host one.
    pub underlay: Tap,
}

impl Taps {
    /// Opens all of them.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub async fn open(lab: &Lab) -> Result<Self> {
        Ok(Self {
            tunnel: Tap::open(&lab.web1.app, lab.web1.wireguard.as_str()).await?,
            carrier: Tap::open(&lab.web1.binding, lab.web1.veth.as_str()).await?,
            far_carrier: Tap::open(&lab.backend.binding, lab.backend.veth.as_str()).await?,
            underlay: Tap::open(&lab.hosts[0].netns, UNDERLAY).await?,
        })
    }

    /// Returns when nothing moves any more.
    ///
    /// # Errors
    /// When a tap cannot be read.
    pub async fn settle(&mut self) -> Result<()> {
        let Self { tunnel, carrier, far_carrier, underlay } = self;
        settle(&mut [tunnel, carrier, far_carrier, underlay], SETTLE).await
    }
}

/// A request and everything that was counted of it.
struct Walk<'a> {
    lab: &'a Lab,
    names: naming::Before,
    peer: [PeerState; 2],
    sender: [Counted; 2],
    receiver: [Counted; 2],
    fetched: Fetched,
    told: Told,
    carrier: Vec<Seen>,
    underlay: Vec<Seen>,
}

/// Walks one request along the path, and shows the evidence of each step. `canary` is in the request and its answer.
///
/// # Errors
/// When the request cannot be made, or nothing can be said.
pub async fn walk(lab: &Lab, taps: &mut Taps, server: &mut Server, canary: &str, report: &mut Report) -> Result<()> {
    let walk = Walk::new(lab, taps, server, canary).await?;
    report.add("web 1 asked for backend by its name", naming::evidence(lab, &walk.names, &walk.fetched).await)?;
    report.add("wg0 of web 1 chose the address and the key", walk.tunnel().await)?;
    report.add("the datagram left the socket that stayed in the binding netns", walk.socket().await)?;
    let forwarder =
        if lab.is_ebpf() { "from_member sent it to the VTEP, past any bridge" } else { "br0 sent it to the VTEP" };
    report.add(forwarder, walk.forwarded().await)?;
    report.add("vxlan0 put it on the underlay with the network's VNI", walk.vxlan())?;
    let receiver = if lab.is_ebpf() { "from_vtep delivered it on host two" } else { "br0 delivered it on host two" };
    report.add(receiver, walk.delivered())?;
    report.add("backend got the request, and web 1 the answer", walk.arrived(canary)).map_err(ControlError::into)
}

impl<'a> Walk<'a> {
    async fn new(lab: &'a Lab, taps: &mut Taps, server: &mut Server, canary: &str) -> Result<Self> {
        let names = naming::Before::read(lab).await?;
        let before = (peer(lab).await?, Counted::read(lab, &lab.web1).await?, Counted::read(lab, &lab.backend).await?);
        let marks = (taps.carrier.mark()?, taps.underlay.mark()?);
        let path = format!("/{canary}");
        let fetched = fetch_from(&lab.web1.app, &on(&lab.backend_name), &path, PATIENCE).await?;
        let Fetched::Answer { .. } = fetched else { bail!("web 1 cannot reach backend 1: {fetched:?}") };
        let told = server.next().await?;
        taps.settle().await?;
        let carrier = taps.carrier.since(marks.0)?.to_vec();
        let underlay = taps.underlay.since(marks.1)?.to_vec();
        let after = (peer(lab).await?, Counted::read(lab, &lab.web1).await?, Counted::read(lab, &lab.backend).await?);
        Ok(Self {
            lab,
            names,
            peer: [before.0, after.0],
            sender: [before.1, after.1],
            receiver: [before.2, after.2],
            fetched,
            told,
            carrier,
            underlay,
        })
    }

    /// Which route, source address and key.
    async fn tunnel(&self) -> Result<Evidence> {
        let Lab { web1, backend, .. } = self.lab;
        let links = Links::open(&web1.app).await?;
        let tunnel = links.link(web1.wireguard.as_str()).await?.index;
        let routes = links.routes().await?.into_iter().filter(|route| route.destination.contains(&backend.address()));
        let route = routes.min_by_key(|route| (u8::MAX - route.destination.prefix_len(), route.metric));
        let route = route.context("web 1 has no route to backend")?;
        let through = matches!(route.target, RouteTarget::Link { index, .. } if index == tunnel);
        let source = source_towards(web1, backend.address()).await?;
        let [before, after] = &self.peer;
        let key = backend.member.public_key.to_string();
        let chosen = self.lab.device(web1).await?.peers.into_iter().find(|(_, peer)| is_for(peer, backend.address()));
        Ok(Evidence::new()
            .text("route", format!("{} dev {}", route.destination, web1.wireguard))
            .text("source", source)
            .text("peer", format!("{:.12}... allowed-ips {}/32", key, backend.address()))
            .text("endpoint", after.endpoint.map_or_else(|| "none".to_owned(), |endpoint| endpoint.to_string()))
            .text("encrypted_bytes", rise(before.tx_bytes, after.tx_bytes))
            .demand("the route leads through wg0", through)
            .demand("the kernel chose the private address", source == web1.address())
            .demand("the key is the one of backend", chosen.is_some_and(|(k, _)| k == backend.member.public_key))
            .demand("the endpoint is backend's socket", after.endpoint == Some(backend.socket().into()))
            .demand("a handshake was completed", after.last_handshake_age.is_some())
            .demand("bytes were encrypted for it", after.tx_bytes > before.tx_bytes))
    }

    /// Where the socket is, and what it sent.
    async fn socket(&self) -> Result<Evidence> {
        let Lab { web1, backend, .. } = self.lab;
        let port = web1.socket().port();
        let (inside, outside) = (udp_ports(&web1.binding).await?, udp_ports(&web1.app).await?);
        let sent = self.sent();
        // The largest is the one with the request in it: the others are handshake and acknowledgements.
        let data = sent.iter().filter(|datagram| wireguard_kind(datagram.payload) == Some("data"));
        let data = data.max_by_key(|datagram| datagram.payload.len());
        let data = data.context("no WireGuard data was seen on the carrier")?;
        let kinds = sent.iter().map(|datagram| wireguard_kind(datagram.payload));
        let all_wireguard = kinds.clone().all(|kind| kind.is_some());
        Ok(Evidence::new()
            .text("socket", format!("UDP {port} in {}", web1.binding_name))
            .with("in_app_netns", outside.contains(&port))
            .text("datagram", format!("{} -> {}, {} bytes, data", data.source, data.destination, data.payload.len()))
            .with("datagrams", sent.len())
            .demand("the socket is in the binding netns", inside.contains(&port))
            .demand("the app netns has no such socket", !outside.contains(&port))
            .demand(
                "it went from socket to socket",
                (data.source, data.destination) == (web1.socket(), backend.socket()),
            )
            .demand("all of it is WireGuard", all_wireguard))
    }

    /// What took it from the member's veth.
    async fn forwarded(&self) -> Result<Evidence> {
        let Lab { web1, backend, hosts, .. } = self.lab;
        let [before, after] = &self.sender;
        let sent = self.sent().len() as u64;
        let evidence = Evidence::new().with("datagrams", sent);
        if self.lab.is_ebpf() {
            let of = |counted: &Counted| counted.packets(web1, Direction::Out, Outcome::ForwardedRemote);
            let rose = of(after) - of(before);
            return Ok(evidence
                .text("counter", "web 1, out, forwarded_remote")
                .text("packets", rise(of(before), of(after)))
                .demand("it counted each datagram that the socket sent", rose == sent));
        }
        let destination = fdb_destination(self.lab, web1, backend.mac()).await?;
        let received = [before, after].map(|counted| counted.veth().received);
        let vxlan = [before, after].map(|counted| counted.traffic("vxlan0").sent);
        Ok(evidence
            .text("counters", "of the interfaces: a bridge has none by member and reason")
            .text("veth_received", rise(received[0], received[1]))
            .text("vxlan0_sent", rise(vxlan[0], vxlan[1]))
            .text("fdb", format!("{} behind {}", backend.mac(), named(destination)))
            .demand("the bridge received each datagram", received[1] - received[0] >= sent)
            .demand("vxlan0 was given each datagram", vxlan[1] - vxlan[0] >= sent)
            .demand("the FDB names host two", destination == Some(hosts[1].vtep)))
    }

    /// What the underlay carried.
    fn vxlan(&self) -> Result<Evidence> {
        let Lab { web1, backend, hosts, shop, .. } = self.lab;
        let carried = carried(&self.underlay, web1.address(), backend.address());
        let out: Vec<_> = carried.iter().filter(|(_, _, inner)| inner.source == web1.socket()).collect();
        let largest = out.iter().max_by_key(|(_, _, inner)| inner.payload.len());
        let (outer, vni, inner) = largest.context("no VXLAN of web 1 was seen on the underlay")?;
        let vnis_agree = carried.iter().all(|(_, vni, _)| *vni == shop.vni);
        Ok(Evidence::new()
            .text(
                "outer",
                format!("{} -> {} UDP {}", outer.source.ip(), outer.destination.ip(), outer.destination.port()),
            )
            .with("vni", *vni)
            .text("inner", format!("{} -> {}, {} bytes", inner.source, inner.destination, inner.payload.len()))
            .with("frames", out.len())
            .demand(
                "it went from VTEP to VTEP",
                (*outer.source.ip(), *outer.destination.ip()) == (hosts[0].vtep, hosts[1].vtep),
            )
            .demand("every VNI is the network's", vnis_agree)
            .demand("each datagram of the socket is there", out.len() == self.sent().len()))
    }

    /// What gave it to the member.
    fn delivered(&self) -> Result<Evidence> {
        let Lab { web1, backend, .. } = self.lab;
        let [before, after] = &self.receiver;
        let frames = carried(&self.underlay, web1.address(), backend.address());
        let frames = frames.iter().filter(|(_, _, inner)| inner.destination == backend.socket()).count() as u64;
        let evidence = Evidence::new().with("frames", frames);
        if self.lab.is_ebpf() {
            let of = |counted: &Counted| counted.packets(backend, Direction::In, Outcome::ForwardedLocal);
            return Ok(evidence
                .text("counter", "backend 1, in, forwarded_local")
                .text("packets", rise(of(before), of(after)))
                .demand("it counted each frame of the underlay", of(after) - of(before) == frames));
        }
        let sent = [before, after].map(|counted| counted.veth().sent);
        Ok(evidence
            .text("counters", "of the interface: a bridge has none by member and reason")
            .text("veth_sent", rise(sent[0], sent[1]))
            .demand("the bridge delivered each frame of the underlay", sent[1] - sent[0] >= frames))
    }

    /// The two ends.
    fn arrived(&self, canary: &str) -> Result<Evidence> {
        let (Told::Served { client, request }, Fetched::Answer { client: asked_from, status, body, .. }) =
            (&self.told, &self.fetched)
        else {
            bail!("the server said {:?}", self.told)
        };
        Ok(Evidence::new()
            .text("server", format!("{}:{PORT} saw {client} ask", self.lab.backend.address()))
            .text("request", request)
            .with("status", *status)
            .text("body", body.trim_end())
            .demand("the server saw the private address of web 1", *client.ip() == self.lab.web1.address())
            .demand("the server saw the client's own socket", client == asked_from)
            .demand("the request is the one that was made", request.contains(canary))
            .demand("the answer is the server's", *status == 200 && body.contains(canary)))
    }

    /// What the socket of `web` 1 sent to backend's.
    fn sent(&self) -> Vec<Datagram<'_>> {
        let outgoing = self.carrier.iter().filter(|seen| seen.outgoing);
        let datagrams = outgoing.filter_map(|seen| Datagram::read(&seen.bytes));
        datagrams.filter(|datagram| *datagram.destination.ip() == self.lab.backend.address()).collect()
    }
}

/// The outer datagram, VNI and inner datagram of everything in VXLAN between two members.
#[must_use]
pub fn carried<'a>(underlay: &'a [Seen], a: Ipv4Addr, b: Ipv4Addr) -> Vec<(Datagram<'a>, u32, Datagram<'a>)> {
    let unpack = |seen: &'a Seen| {
        let outer = Datagram::read(&seen.bytes)?;
        let (vni, inner) = outer.vxlan()?;
        let inner = Datagram::read(inner)?;
        inner.is_between(a, b).then_some((outer, vni, inner))
    };
    underlay.iter().filter_map(unpack).collect()
}

/// What the device of `web` 1 says of backend.
async fn peer(lab: &Lab) -> Result<PeerState> {
    let device = lab.device(&lab.web1).await?;
    device.peers.get(&lab.backend.member.public_key).cloned().context("web 1 does not know backend")
}

fn is_for(peer: &PeerState, address: Ipv4Addr) -> bool {
    peer.allowed_ips.iter().any(|net| net.contains(&std::net::IpAddr::V4(address)))
}

/// The address that the kernel sends from.
async fn source_towards(container: &Container, to: Ipv4Addr) -> Result<Ipv4Addr> {
    let asked = container.app.run(move || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((to, PORT))?;
        socket.local_addr()
    });
    match asked.await?.context("asking the kernel for a route")? {
        std::net::SocketAddr::V4(address) => Ok(*address.ip()),
        std::net::SocketAddr::V6(address) => bail!("the kernel chose {address}"),
    }
}

/// As [`counted_until`], for a counter of one member that should reach a value.
pub async fn packets_until(
    lab: &Lab,
    container: &Container,
    (direction, outcome): (Direction, Outcome),
    value: u64,
) -> Result<u64> {
    let of = |counted: &Counted| counted.packets(container, direction, outcome);
    Ok(of(&counted_until(lab, container, |counted| of(counted) >= value).await?))
}
