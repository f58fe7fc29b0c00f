//! Creating links, each in its final namespace, by one request with its address and MTU.
//!
//! Never sets a link up: the kernel answers `ENOTCONN` for a veth that is created up between two other namespaces, and
//! a link needs its settings before its first packet. Never sets an alias: the kernel ignores it in this request.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use privnet_ebpf::net::{MacAddr, Vni};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{BridgeStpState, InfoBridge, InfoData, InfoKind, InfoVeth, InfoVxlan, LinkMessage};
use rtnetlink::{LinkMessageBuilder, LinkUnspec};

use super::socket::Operation;
use super::{Error, Links};
use crate::model::IfName;
use crate::netns::Netns;

/// One end of a veth.
#[derive(Clone, Copy, Debug)]
pub struct VethEnd<'a> {
    /// Its name.
    pub name: &'a IfName,
    /// Its namespace.
    pub netns: &'a Netns,
    /// Its address. udev does not rewrite an address that the link was created with.
    pub mac: MacAddr,
    /// Its MTU in bytes.
    pub mtu: u32,
}

/// A veth whose ends are in two namespaces, which can both be other ones than that of the [`Links`].
#[derive(Clone, Copy, Debug)]
pub struct VethSpec<'a> {
    /// One end.
    pub a: VethEnd<'a>,
    /// The other.
    pub b: VethEnd<'a>,
}

/// A unicast VTEP without learning: it sends to the destinations in its FDB only.
#[derive(Clone, Copy, Debug)]
pub struct VxlanSpec<'a> {
    /// Its name.
    pub name: &'a IfName,
    /// Its namespace. Its UDP socket is in the namespace of the [`Links`].
    pub into: &'a Netns,
    /// The VNI.
    pub vni: Vni,
    /// The underlay address that is the source of its packets.
    pub local: Ipv4Addr,
    /// The UDP port, of its socket and of the destinations.
    pub port: u16,
    /// Its address.
    pub mac: MacAddr,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it answers ARP from its neighbour table.
    pub proxy: bool,
    /// Whether it computes the outer UDP checksum. WireGuard authenticates the payload without it.
    pub udp_checksum: bool,
}

/// A bridge without spanning tree and multicast snooping.
#[derive(Clone, Copy, Debug)]
pub struct BridgeSpec<'a> {
    /// Its name.
    pub name: &'a IfName,
    /// Its namespace.
    pub into: &'a Netns,
    /// Its address.
    pub mac: MacAddr,
    /// Its MTU in bytes.
    pub mtu: u32,
}

impl Links {
    /// Creates both ends of a veth, down, in their namespaces.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] when one of the names is taken in its namespace.
    pub async fn create_veth(&self, spec: &VethSpec<'_>) -> Result<(), Error> {
        let peer = end(LinkMessageBuilder::<LinkUnspec>::new(), &spec.b).build();
        let message = end(LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Veth), &spec.a)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        let (a, b) = (&spec.a, &spec.b);
        let object = format!("veth {} in {} with {} in {}", a.name, a.netns.id(), b.name, b.netns.id());
        self.create(message, object, [a.netns, b.netns]).await
    }

    /// Creates a VXLAN link, down, in `spec.into`. Its UDP socket is opened in the namespace of these [`Links`], which
    /// must outlive the link.
    ///
    /// The kernel opens the socket when the link is set up, so [`Links::set_up`] reports a port that is taken.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] when the name is taken, or another VXLAN link has the VNI on this port and namespace.
    pub async fn create_vxlan(&self, spec: &VxlanSpec<'_>) -> Result<(), Error> {
        let settings = vec![
            InfoVxlan::Id(spec.vni.get()),
            InfoVxlan::Local(spec.local),
            InfoVxlan::Port(spec.port),
            InfoVxlan::Learning(false),
            InfoVxlan::Proxy(spec.proxy),
            InfoVxlan::UDPCsum(spec.udp_checksum),
        ];
        let message = placed(InfoKind::Vxlan, spec.name, spec.into)
            .mtu(spec.mtu)
            .address(spec.mac.bytes().to_vec())
            .set_info_data(InfoData::Vxlan(settings))
            .build();
        let object = format!("vxlan {} with VNI {} on port {} in {}", spec.name, spec.vni, spec.port, spec.into.id());
        self.create(message, object, [spec.into]).await
    }

    /// Creates a bridge, down, in `spec.into`.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] when the name is taken.
    pub async fn create_bridge(&self, spec: &BridgeSpec<'_>) -> Result<(), Error> {
        let settings = vec![
            InfoBridge::StpState(BridgeStpState::Disabled),
            InfoBridge::MulticastSnooping(false),
            // Without spanning tree a port forwards at once; the timer would announce that a second time after 15 s.
            InfoBridge::ForwardDelay(0),
        ];
        let message = placed(InfoKind::Bridge, spec.name, spec.into)
            .mtu(spec.mtu)
            .address(spec.mac.bytes().to_vec())
            .set_info_data(InfoData::Bridge(settings))
            .build();
        self.create(message, format!("bridge {} in {}", spec.name, spec.into.id()), [spec.into]).await
    }

    /// Creates a WireGuard link of the kernel, down, in `into`. Its UDP sockets are in the namespace of these
    /// [`Links`], which must outlive the link.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the kernel has no WireGuard, [`Error::AlreadyExists`] when the name is taken.
    pub async fn create_wireguard(&self, name: &IfName, mtu: u32, into: &Netns) -> Result<(), Error> {
        let message = placed(InfoKind::Wireguard, name, into).mtu(mtu).build();
        self.create(message, format!("wireguard {name} in {}", into.id()), [into]).await
    }

    /// `named` are the namespaces whose file descriptors stand in the message.
    async fn create<const N: usize>(
        &self,
        message: LinkMessage,
        object: String,
        named: [&Netns; N],
    ) -> Result<(), Error> {
        let operation = Operation::new("create", object);
        tracing::debug!(netns = %self.netns(), object = operation.object, "creating a link");
        let (socket, lost, named) = (Arc::clone(&self.socket), operation.clone(), named.map(Netns::clone));
        // A task goes on when the caller is cancelled. The message is queued by then, and its file descriptors have to
        // stay open until the kernel has read them.
        let request = tokio::spawn(async move {
            let flags = NLM_F_CREATE | NLM_F_EXCL;
            let answer = socket.request(RouteNetlinkMessage::NewLink(message), flags, operation).await;
            drop(named);
            answer
        });
        request.await.unwrap_or_else(|_| Err(self.socket.no_answer(&lost)))
    }
}

fn placed(kind: InfoKind, name: &IfName, into: &Netns) -> LinkMessageBuilder<LinkUnspec> {
    LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(kind).name(name.as_str()).setns_by_fd(into.fd().as_raw_fd())
}

fn end(message: LinkMessageBuilder<LinkUnspec>, end: &VethEnd<'_>) -> LinkMessageBuilder<LinkUnspec> {
    message
        .name(end.name.as_str())
        .setns_by_fd(end.netns.fd().as_raw_fd())
        .mtu(end.mtu)
        .address(end.mac.bytes().to_vec())
}
