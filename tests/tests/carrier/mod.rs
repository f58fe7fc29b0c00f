//! A carrier without an agent: two hosts on an underlay, one network, three members. UDP sockets on the members'
//! WireGuard ports stand for WireGuard.
//!
//! ```text
//!  binding netns      network netns A        host A        host B     network netns B      binding netns
//!  ALICE 10.240.0.2 ══ veth-alice ┐                                                  ┌ veth-carol ══ 10.240.0.9 CAROL
//!  BOB   10.240.0.3 ══ veth-bob   ┤ vxlan0 ~ 192.0.2.1 ──── 192.0.2.2 ~ vxlan0       ┘
//! ```

#![allow(dead_code, missing_docs, reason = "each test binary uses some of it; the names say it")]

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use privnet::datapath::{Hook, MemberRow, Method, Network, NetworkSpec, PortRow};
use privnet::link::{Links, VxlanSpec};
use privnet::netns::Netns;
use privnet_ebpf::net::MacAddr;
use privnet_tests::lab::{Ground, SOON, run_in};

use crate::datapath::{ALICE, BOB, CAROL, Member, open, spec, take_down};
use crate::links;

/// How long a datagram that must come may take.
pub const PATIENCE: Duration = SOON;
/// How long to wait for one that must not come.
pub const SILENCE: Duration = Duration::from_millis(200);

/// Interfaces announce themselves by IPv6 the moment they are up.
const NO_IPV6: &str = "for one in all default; do echo 1 > /proc/sys/net/ipv6/conf/$one/disable_ipv6; done";

pub struct Carrier {
    pub a: Host,
    pub b: Host,
    pub bindings: BTreeMap<&'static str, Netns>,
    pub hosts: [Netns; 2],
    /// Behind everything that must be gone when it is checked. The check blocks its thread, and a netlink socket is closed by
    /// a task: a test needs a runtime of several threads.
    pub ground: Ground,
}

pub struct Host {
    pub netns: Netns,
    pub links: Links,
    pub network: Network,
}

impl Carrier {
    pub async fn new() -> Self {
        Self::with(&spec(), None).await
    }

    /// `method`: how `from_member` is attached, when not as usual.
    pub async fn with(spec: &NetworkSpec, method: Option<Method>) -> Self {
        let ground = Ground::join();
        let hosts = ground.namespaces::<2>();
        let [on_a, on_b] = links::sockets([&hosts[0], &hosts[1]]).await;
        links::underlay(&on_a, (&hosts[0], &on_a), (&hosts[1], &on_b)).await;
        let mut a = Host::new(&ground, spec, &on_a, "192.0.2.1", MacAddr::new([2, 255, 192, 0, 2, 1])).await;
        let mut b = Host::new(&ground, spec, &on_b, "192.0.2.2", MacAddr::new([2, 255, 192, 0, 2, 2])).await;
        let mut bindings = BTreeMap::new();
        bindings.insert("alice", a.attach(&ground, "alice", ALICE, method).await);
        bindings.insert("bob", a.attach(&ground, "bob", BOB, method).await);
        bindings.insert("carol", b.attach(&ground, "carol", CAROL, method).await);
        a.knows(CAROL, "192.0.2.2").await;
        b.knows(ALICE, "192.0.2.1").await;
        b.knows(BOB, "192.0.2.1").await;
        Self { a, b, bindings, hosts, ground }
    }

    /// The socket that stands for a member's WireGuard.
    pub fn socket(&self, name: &str, member: Member) -> UdpSocket {
        let address = SocketAddr::from((member.address, member.port));
        let socket = self.bindings[name].run_blocking(move || UdpSocket::bind(address)).expect("thread").expect("bind");
        socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
        socket
    }
}

impl Host {
    async fn new(ground: &Ground, spec: &NetworkSpec, on_host: &Links, local: &str, mac: MacAddr) -> Self {
        let [netns] = ground.namespaces();
        run_in(&netns, NO_IPV6);
        let name = &links::ifname("vxlan0");
        let (into, vni, local, port) = (&netns, spec.vni, links::ip(local), links::PORT);
        let vxlan = VxlanSpec { name, into, vni, local, port, mac, mtu: 1450, proxy: false, udp_checksum: false };
        on_host.create_vxlan(&vxlan).await.expect("vxlan0");
        let links = Links::open(&netns).await.expect("netlink socket");
        let vtep = links.link("vxlan0").await.expect("vxlan0").index;
        links.set_up(vtep).await.expect("up");
        let mut network = open(ground, spec);
        network.set_vtep(Some(vtep)).expect("vtep");
        network.attach(&netns, name, Hook::FromVtep).await.expect("from_vtep");
        Self { netns, links, network }
    }

    async fn attach(&mut self, ground: &Ground, name: &str, member: Member, method: Option<Method>) -> Netns {
        let [binding] = ground.namespaces();
        run_in(&binding, NO_IPV6);
        let inner = Links::open(&binding).await.expect("netlink socket");
        let port_name = format!("veth-{name}");
        let outer_end = (&self.netns, port_name.as_str(), MacAddr::new([2, 254, 0, 0, 0, member.address.octets()[3]]));
        links::veth(&self.links, outer_end, (&binding, "vxlan-1-veth0", member.mac)).await.expect("veth");
        let index = inner.link("vxlan-1-veth0").await.expect("veth").index;
        let address = format!("{}/22", member.address).parse().expect("address");
        inner.add_address(index, address).await.expect("address");
        inner.set_up(index).await.expect("up");
        let port = self.links.link(&port_name).await.expect("veth").index;
        self.links.set_up(port).await.expect("up");
        let row = PortRow::new(member.address.octets(), member.mac, member.port);
        self.network.set_port(port, row).expect("port");
        self.network.set_member(member.address, MemberRow::local(member.mac, member.port, port)).expect("member");
        let method = method.unwrap_or_else(|| Hook::FromMember.method());
        let port_name = links::ifname(&port_name);
        self.network.attach_by(method, &self.netns, &port_name, Hook::FromMember).await.expect("from_member");
        binding
    }

    async fn knows(&mut self, member: Member, vtep: &str) {
        self.network.set_member(member.address, MemberRow::remote(member.mac, member.port)).expect("member");
        let index = self.links.link("vxlan0").await.expect("vxlan0").index;
        self.links.fdb_replace(index, member.mac, links::ip(vtep)).await.expect("fdb");
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        for host in [&self.a, &self.b] {
            take_down(&self.ground, &host.network);
        }
    }
}
