//! The responder over real sockets on the loopback: bytes in, bytes out.

mod conformance;
mod forwarding;
mod garbage;
mod transport;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use domain::base::iana::{Class, Rtype};
use domain::base::{Message, MessageBuilder, Name as WireName};

use super::responder::{Responder, ResponderConfig};
use crate::names::{Catalogue, Difference, DnsClient, MemberNames, NetworkHead, NetworkNames};
use crate::netns::NetnsId;

pub const SHOP: &str = "pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c";
pub const BANK: &str = "pn-bd0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c";
pub const APP: &str = "ap-a71da13f-7c70-4c00-a644-eee8558d8053";
pub const CONTAINER: NetnsId = NetnsId { dev: 4, ino: 1 };
/// How long a reply that comes at all may take.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long nothing must come, where nothing must.
pub const NOTHING: Duration = Duration::from_millis(200);

/// A responder with one container, in the network `shop`.
pub struct Lab {
    pub responder: Responder,
    pub udp: SocketAddrV4,
    pub tcp: SocketAddrV4,
}

impl Lab {
    /// `members` web containers in `shop`, one in `bank`.
    pub fn start(members: u8, resolv_conf: &str) -> Self {
        let config =
            ResponderConfig { threads: 1, max_age: Duration::from_secs(60), resolv_conf: PathBuf::from(resolv_conf) };
        let mut responder = Responder::start(&config).expect("started");
        responder.engine().replace(Difference::between(&Catalogue::new(), &catalogue(members)));
        let (udp, tcp) = sockets();
        let (udp_address, tcp_address) = (udp.local_addr().expect("bound"), tcp.local_addr().expect("bound"));
        responder.serve(CONTAINER, client(&[SHOP]), (udp, tcp), Vec::new()).expect("served");
        Self { responder, udp: v4(udp_address), tcp: v4(tcp_address) }
    }

    /// Sends a datagram and waits for the reply.
    pub async fn ask(&self, query: &[u8]) -> Vec<u8> {
        self.ask_for(query, PATIENCE).await.expect("a reply")
    }

    /// Sends a datagram; nothing when nothing comes back in time.
    pub async fn ask_for(&self, query: &[u8], patience: Duration) -> Option<Vec<u8>> {
        let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
        socket.connect(self.udp).await.expect("connected");
        socket.send(query).await.expect("sent");
        let mut reply = vec![0; 65_535];
        let length = tokio::time::timeout(patience, socket.recv(&mut reply)).await.ok()?.expect("received");
        reply.truncate(length);
        Some(reply)
    }
}

pub fn sockets() -> (UdpSocket, TcpListener) {
    let loopback: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    (UdpSocket::bind(loopback).expect("bound"), TcpListener::bind(loopback).expect("bound"))
}

pub fn v4(address: SocketAddr) -> SocketAddrV4 {
    match address {
        SocketAddr::V4(address) => address,
        SocketAddr::V6(address) => panic!("{address}"),
    }
}

pub fn client(networks: &[&str]) -> DnsClient {
    DnsClient {
        networks: networks.iter().map(|id| id.parse().expect("an id")).collect(),
        server: Some(super::DEFAULT_ADDRESS),
        ..DnsClient::default()
    }
}

pub fn catalogue(members: u8) -> Catalogue {
    let network = |name: &str, third: u8, members: u8| {
        let head =
            NetworkHead::new(name.parse().expect("a name"), format!("10.240.{third}.0/24").parse().expect("a subnet"));
        let member = |number: u8| {
            let container = format!("{number}.web.{APP}").parse().expect("a container");
            let address = Ipv4Addr::new(10, 240, third, number + 1);
            MemberNames { container, address, ports: ["http=80".parse().expect("a port")].into(), further: false }
        };
        let members: BTreeMap<_, _> =
            (1..=members).map(member).map(|member| (member.container.clone(), member)).collect();
        NetworkNames { head, members }
    };
    Catalogue::from([
        (SHOP.parse().expect("an id"), network("shop", 0, members)),
        (BANK.parse().expect("an id"), network("bank", 4, 1)),
    ])
}

/// A query with `id` 4711, without EDNS.
pub fn query(name: &str, kind: Rtype) -> Vec<u8> {
    query_with(name, kind, Class::IN, None)
}

/// A query with EDNS of this size.
pub fn query_with(name: &str, kind: Rtype, class: Class, edns_octets: Option<u16>) -> Vec<u8> {
    let name: WireName<Vec<u8>> = name.parse().expect("a name");
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(4711);
    builder.header_mut().set_rd(true);
    let mut builder = builder.question();
    builder.push((name, kind, class)).expect("fits");
    let mut builder = builder.additional();
    if let Some(octets) = edns_octets {
        let set = |opt: &mut domain::base::message_builder::OptBuilder<'_, Vec<u8>>| {
            opt.set_udp_payload_size(octets);
            Ok(())
        };
        builder.opt(set).expect("fits");
    }
    builder.finish()
}

/// Name, flags and counts of a reply in one line, as `dig` would put it.
pub fn summary(reply: &[u8]) -> String {
    let message = Message::from_slice(reply).expect("a header");
    let (header, counts) = (message.header(), message.header_counts());
    let flags =
        [("qr", header.qr()), ("aa", header.aa()), ("tc", header.tc()), ("rd", header.rd()), ("ra", header.ra())];
    let flags: Vec<&str> = flags.iter().filter(|(_, set)| *set).map(|(flag, _)| *flag).collect();
    let rcode = message.opt_rcode();
    let edns = message.opt().map_or_else(String::new, |opt| format!(" edns {}", opt.udp_payload_size()));
    format!(
        "{rcode} {} q{} a{} n{} +{}{edns}",
        flags.join(" "),
        counts.qdcount(),
        counts.ancount(),
        counts.nscount(),
        counts.arcount()
    )
}

/// Waits until something holds, for as long as is reasonable.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}
