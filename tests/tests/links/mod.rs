//! What the tests of links share: throw-away namespaces, their sockets, and links in them.

#![allow(dead_code, missing_docs, reason = "each test binary uses some of it; the names say it")]

use std::net::Ipv4Addr;
use std::process::Command;

use privnet::link::{Error, Event, Links, VethEnd, VethSpec, VxlanSpec, Watch};
use privnet::model::IfName;
use privnet::netns::Netns;
use privnet_ebpf::net::{MacAddr, Vni};
use privnet_tests::lab::SOON;

pub const MAC_A: MacAddr = MacAddr::new([2, 1, 10, 240, 0, 2]);
pub const MAC_B: MacAddr = MacAddr::new([2, 1, 10, 240, 0, 3]);
pub const MAC_C: MacAddr = MacAddr::new([2, 1, 10, 240, 0, 4]);
/// Where VTEPs listen, RFC 7348.
pub const PORT: u16 = 4789;

pub async fn sockets<const N: usize>(namespaces: [&Netns; N]) -> [Links; N] {
    let mut links = Vec::new();
    for netns in namespaces {
        links.push(Links::open(netns).await.expect("netlink socket"));
    }
    links.try_into().expect("as many as namespaces")
}

pub async fn veth(links: &Links, a: (&Netns, &str, MacAddr), b: (&Netns, &str, MacAddr)) -> Result<(), Error> {
    let (a_name, b_name) = (ifname(a.1), ifname(b.1));
    let a = VethEnd { name: &a_name, netns: a.0, mac: a.2, mtu: 1450 };
    let b = VethEnd { name: &b_name, netns: b.0, mac: b.2, mtu: 1450 };
    links.create_veth(&VethSpec { a, b }).await
}

pub async fn vxlan(host: &Links, into: &Netns, name: &str, vni: u32) -> Result<(), Error> {
    create(host, into, Vtep { name, vni, local: "192.0.2.1", mac: MAC_A }).await
}

/// A VXLAN link with an address, up, in `into`; returns that namespace's socket.
pub async fn vtep(host: &Links, into: &Netns, local: &str, mac: MacAddr, address: &str) -> Links {
    create(host, into, Vtep { name: "vxlan0", vni: 7, local, mac }).await.expect("vxlan");
    let [links] = sockets([into]).await;
    let link = links.link("vxlan0").await.expect("vxlan0");
    links.add_address(link.index, address.parse().expect("address")).await.expect("address");
    links.set_up(link.index).await.expect("up");
    links
}

struct Vtep<'a> {
    name: &'a str,
    vni: u32,
    local: &'a str,
    mac: MacAddr,
}

async fn create(host: &Links, into: &Netns, Vtep { name, vni, local, mac }: Vtep<'_>) -> Result<(), Error> {
    let (name, local, vni) = (&ifname(name), ip(local), Vni::new(vni).expect("VNI"));
    let spec = VxlanSpec { name, into, vni, local, port: PORT, mac, mtu: 1450, proxy: false, udp_checksum: false };
    host.create_vxlan(&spec).await
}

pub async fn underlay(maker: &Links, one: (&Netns, &Links), two: (&Netns, &Links)) {
    veth(maker, (one.0, "under0", MAC_A), (two.0, "under0", MAC_B)).await.expect("underlay");
    for (links, address) in [(one.1, "192.0.2.1/24"), (two.1, "192.0.2.2/24")] {
        let index = links.link("under0").await.expect("under0").index;
        links.set_mtu(index, 1500).await.expect("mtu");
        links.add_address(index, address.parse().expect("address")).await.expect("address");
        links.set_up(index).await.expect("up");
    }
}

pub async fn names(links: &Links) -> Vec<String> {
    links.links().await.expect("links").into_iter().map(|link| link.name).collect()
}

pub async fn until(watch: &mut Watch, wanted: impl Fn(&Event) -> bool) -> Event {
    let search = async {
        loop {
            let event = watch.next().await.expect("the watch ended");
            if wanted(&event) {
                return event;
            }
        }
    };
    tokio::time::timeout(SOON, search).await.expect("a link event")
}

/// Whether a UDP socket is on port 4789 there.
pub async fn listens(netns: &Netns, table: &'static str) -> bool {
    let path = format!("/proc/thread-self/net/{table}");
    let table = netns.run(move || std::fs::read_to_string(path).expect("table")).await.expect("run");
    table.contains(&format!(":{PORT:04X} "))
}

pub async fn ping(netns: &Netns, address: &'static str) -> bool {
    let ping = move || Command::new("ping").args(["-n", "-c1", "-W1", "-q", address]).output().expect("ping");
    netns.run(ping).await.expect("run").status.success()
}

pub fn ifname(name: &str) -> IfName {
    name.parse().expect("interface name")
}

pub fn ip(address: &str) -> Ipv4Addr {
    address.parse().expect("address")
}
