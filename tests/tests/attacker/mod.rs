//! What the attackers of the security tests share: forged frames, a machine on the underlay, and how drops are waited
//! for.

#![allow(dead_code, missing_docs, reason = "each test binary uses some of it; the names say it")]

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::Ipv4Addr;
use std::thread::sleep;

use privnet::agent::config::wireguard_dir;
use privnet::agent::views::NetworkView;
use privnet::datapath::DropReason;
use privnet::wireguard::Device;
use privnet_tests::lab::frame::{self, Datagram};
use privnet_tests::lab::metrics::Counters;
use privnet_tests::lab::{FOR_NOTHING, Host, Joined, Lab, Options, Sender, Space, underlay_address, wait_until};

/// What every forged frame carries and no application may see.
pub const MARK: &[u8] = b"forged-9c41";
pub const VXLAN_PORT: u16 = 4789;
/// Of the network of [`Shop`].
const SUBNET: &str = "10.90.0.0/24";
/// An address and a MAC of the networks that no member has.
pub const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 90, 0, 200);
pub const NOBODYS_MAC: [u8; 6] = [0x02, 0, 0xde, 0xad, 0xbe, 0xef];

/// A datagram as one member's WireGuard sends it to another's; only its payload is no WireGuard message.
pub fn datagram(from: &Joined, to: &Joined) -> Datagram {
    Datagram {
        source_mac: from.mac(),
        destination_mac: to.mac(),
        source: from.address(),
        destination: to.address(),
        source_port: from.port(),
        destination_port: to.port(),
        fragment: 0,
        payload: MARK.to_vec(),
    }
}

/// The same datagram with something changed.
pub fn forge(honest: &Datagram, change: impl FnOnce(&mut Datagram)) -> Vec<u8> {
    let mut forged = honest.clone();
    change(&mut forged);
    forged.frame()
}

/// What somebody off the carrier puts into VXLAN, and what becomes of it.
pub struct Forgery {
    pub what: &'static str,
    /// Why `from_vtep` drops it; `None` when no network of the host has the VNI, so that no program sees it.
    pub reason: Option<DropReason>,
    pub vni: u32,
    pub frame: Vec<u8>,
}

/// What differs in one fact from `honest`, a datagram of a `remote` member to one of the host; `local` is another one
/// there.
pub fn forgeries_from_afar(honest: &Datagram, local: &Joined, remote: &Joined, vni: u32, port: u16) -> Vec<Forgery> {
    let arp = frame::arp(1, (honest.source_mac, honest.source), honest.destination);
    let arp = frame::ethernet(frame::BROADCAST, honest.source_mac, frame::ARP, &[&arp, MARK].concat());
    let tcp = [&frame::tcp_syn(51_820, 51_820), MARK].concat();
    let tcp = frame::ipv4(honest.source, honest.destination, 6, 0, &tcp);
    let tcp = frame::ethernet(honest.destination_mac, honest.source_mac, frame::IPV4, &tcp);
    let of_local = forge(honest, |f| {
        (f.source, f.source_mac, f.source_port) = (local.address(), local.mac(), local.port());
    });
    let cases = [
        ("an unknown source", DropReason::UnknownSource, forge(honest, |f| f.source = NOBODY)),
        ("a member's address with another MAC", DropReason::SpoofedMac, forge(honest, |f| f.source_mac = NOBODYS_MAC)),
        ("a member of the host itself", DropReason::SourceIsLocal, of_local),
        ("to nobody", DropReason::UnknownDestination, forge(honest, |f| f.destination = NOBODY)),
        (
            "to a member of another host",
            DropReason::DestinationNotLocal,
            forge(honest, |f| f.destination = remote.address()),
        ),
        ("to another MAC", DropReason::WrongDestinationMac, forge(honest, |f| f.destination_mac = NOBODYS_MAC)),
        ("to all", DropReason::MulticastOrBroadcast, forge(honest, |f| f.destination_mac = frame::BROADCAST)),
        ("from another port", DropReason::WrongSourcePort, forge(honest, |f| f.source_port = 53)),
        ("to the application's port", DropReason::WrongDestinationPort, forge(honest, |f| f.destination_port = port)),
        ("ARP", DropReason::ArpFromVtep, arp),
        ("TCP", DropReason::NotUdp, tcp),
        ("a tag", DropReason::VlanTag, frame::tagged(&honest.frame(), 7)),
    ];
    let known = cases.into_iter().map(|(what, reason, frame)| Forgery { what, reason: Some(reason), vni, frame });
    let unknown = Forgery { what: "an unknown VNI", reason: None, vni: vni + 1, frame: honest.frame() };
    std::iter::once(unknown).chain(known).collect()
}

/// Two hosts and one network: `web` and `worker` are on the first, `backend` is on the second and reaches both.
pub struct Shop {
    pub lab: Lab,
    pub hosts: Vec<Host>,
    pub network: NetworkView,
    pub web: Joined,
    pub worker: Joined,
    pub backend: Joined,
}

impl Shop {
    #[track_caller]
    pub fn open(test: &str, options: &Options) -> Self {
        let lab = Lab::new(test);
        let hosts = lab.hosts(&[options.clone(), options.clone()]);
        let network = hosts[0].network("shop", SUBNET);
        let [web, worker] = ["web-1", "worker-1"].map(|name| lab.member(&hosts[0], &network, name));
        let backend = lab.member(&hosts[1], &network, "backend-1");
        wait_until("all reach web", || backend.pings(web.address()) && worker.pings(web.address()));
        Self { lab, hosts, network, web, worker, backend }
    }
}

/// The namespace that joins the lab's hosts.
pub fn underlay_of(host: &Host) -> Space {
    Space::of_pin("underlay", &host.space.pin().replace("-h1", "-underlay"))
}

/// A machine on the underlay that is no host of ours; it can write any frame.
pub struct Forger {
    sender: Sender,
    own_mac: [u8; 6],
    target_mac: [u8; 6],
    target: Ipv4Addr,
}

impl Forger {
    /// Plugs it in; it shoots at `host`, which is number 1.
    pub fn plug_in(lab: &Lab, host: &Host) -> Self {
        let (forger, middle) = (lab.space("forger"), underlay_of(host));
        middle.run(&format!("ip link add port9 type veth peer name eth0 netns {}", forger.pin()));
        middle.run("ip link set port9 master br0 up");
        forger.run("ip link set eth0 up");
        let (own_mac, target_mac) = (forger.mac("eth0"), host.space.mac("eth0"));
        Self { sender: Sender::open(&forger, "eth0"), own_mac, target_mac, target: host.vtep }
    }

    /// A frame as it is.
    pub fn send(&self, frame: &[u8]) {
        self.sender.send(frame).expect("the underlay takes it");
    }

    /// A VXLAN datagram that claims to come from host `number`; 9 is its own.
    pub fn vxlan(&self, number: u8, vni: u32, inner: &[u8]) {
        self.datagram(number, &frame::vxlan(vni, inner));
    }

    /// What a VXLAN port receives, not necessarily VXLAN.
    pub fn datagram(&self, number: u8, payload: &[u8]) {
        self.packet(&frame::ipv4(
            underlay_address(number),
            self.target,
            17,
            0,
            &frame::udp(40_000, VXLAN_PORT, payload),
        ));
    }

    /// A datagram in pieces of `size` bytes, a multiple of 8.
    pub fn in_pieces(&self, number: u8, payload: &[u8], size: usize) {
        let datagram = frame::udp(40_000, VXLAN_PORT, payload);
        let pieces = datagram.chunks(size).count();
        for (index, piece) in datagram.chunks(size).enumerate() {
            let more = if index + 1 < pieces { 0x2000 } else { 0 };
            let field = more | u16::try_from(index * size / 8).expect("an offset");
            self.packet(&frame::ipv4(underlay_address(number), self.target, 17, field, piece));
        }
    }

    /// An IPv4 packet behind an 802.1Q tag.
    pub fn tagged(&self, number: u8, payload: &[u8]) {
        let packet =
            frame::ipv4(underlay_address(number), self.target, 17, 0, &frame::udp(40_000, VXLAN_PORT, payload));
        self.send(&frame::tagged(&frame::ethernet(self.target_mac, self.own_mac, frame::IPV4, &packet), 7));
    }

    fn packet(&self, packet: &[u8]) {
        self.send(&frame::ethernet(self.target_mac, self.own_mac, frame::IPV4, packet));
    }
}

/// Sees that a shot was counted once, by its reason; nothing, when no program sees it.
#[track_caller]
pub fn assert_counted(host: &Host, before: &Counters, reason: Option<DropReason>, what: impl Display) {
    let counted = match reason {
        Some(_) => wait_for_drop(host, before),
        None => nothing_counted(host, before),
    };
    assert_eq!(counted, reason.into_iter().map(|reason| (reason, 1)).collect(), "{what}");
}

/// Waits for a drop, and says which reasons rose by how much.
pub fn wait_for_drop(host: &Host, before: &Counters) -> BTreeMap<DropReason, u64> {
    let mut risen = BTreeMap::new();
    wait_until("the drop is counted", || {
        risen = host.counters().drops_since(before);
        !risen.is_empty()
    });
    risen
}

/// What was counted after a while in which nothing should be.
pub fn nothing_counted(host: &Host, before: &Counters) -> BTreeMap<DropReason, u64> {
    sleep(FOR_NOTHING);
    host.counters().drops_since(before)
}

/// A member's WireGuard device, and a runtime to talk to it.
pub fn device_of(host: &Host, member: &Joined) -> (Device, tokio::runtime::Runtime) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let run_dir = wireguard_dir(&host.paths().state, member.attached.network, member.address());
    let device = if run_dir.exists() {
        Device::userspace(&run_dir)
    } else {
        let netns = privnet::netns::Netns::open(&member.app.path()).expect("the app netns");
        Device::kernel(netns, member.attached.interface.clone())
    };
    (device, runtime)
}
