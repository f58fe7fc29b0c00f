//! The objects of the kernel that make up one network on one host: what they are called, and how they should be.
//!
//! A member is named by its address, which is unique within the network.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use ipnet::Ipv4Net;
use privnet_ebpf::net::{MacAddr, Vni};

use crate::model::{ContainerRef, IfName, PublicKey};

/// All objects of one network on one host.
pub type State = BTreeMap<Key, Spec>;

/// Names an object. The order of the variants is the order of creation: who depends on another comes after it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Key {
    /// The network netns.
    NetworkNetns,
    /// The loaded programs and their maps.
    Programs,
    /// `br0` of the bridge datapath.
    Bridge,
    /// `vxlan0`.
    Vtep,
    /// `from_vtep` on `vxlan0`.
    VtepProgram,
    /// The container's binding netns.
    BindingNetns(Ipv4Addr),
    /// The `unreachable` route in the app netns.
    Backstop(Ipv4Addr),
    /// The `unreachable` routes in the app netns to addresses whose members have left: who connects to one hears it at once.
    Departed(Ipv4Addr),
    /// `guard` on every foreign interface of the app netns.
    Guard(Ipv4Addr),
    /// The member's veth pair.
    Veth(Ipv4Addr),
    /// The row that binds the veth to its member's own address and MAC.
    Port(Ipv4Addr),
    /// `from_member` on the veth's end in the network netns.
    MemberProgram(Ipv4Addr),
    /// The carrier address on the veth's end in the binding netns; both ends up.
    Carrier(Ipv4Addr),
    /// All members' MACs, for good, on the member's carrier: it asks nobody by ARP and believes nobody (bridge datapath).
    Neighbours(Ipv4Addr),
    /// How `br0` treats the member's veth, and that its MAC is behind it (bridge datapath).
    BridgePort(Ipv4Addr),
    /// Where a remote member's MAC lives: a row of `vxlan0`'s FDB.
    Fdb(Ipv4Addr),
    /// That a remote member's MAC is behind `vxlan0`: a row of `br0`'s FDB (bridge datapath).
    BridgeFdb(Ipv4Addr),
    /// Where a member lives: a row of the programs' map.
    MemberRow(Ipv4Addr),
    /// The WireGuard device.
    Device(Ipv4Addr),
    /// The WireGuard device's peers.
    Peers(Ipv4Addr),
    /// The WireGuard device's address, up.
    Tunnel(Ipv4Addr),
}

impl Key {
    /// The objects without which this one cannot be; when one of them is made anew, so is this one.
    #[must_use]
    pub fn parents(self) -> Vec<Self> {
        match self {
            Self::NetworkNetns | Self::Programs | Self::BindingNetns(_) | Self::Backstop(_) | Self::Departed(_) => {
                vec![]
            }
            Self::Bridge | Self::Vtep => vec![Self::NetworkNetns],
            Self::VtepProgram => vec![Self::Programs, Self::Vtep],
            Self::Veth(member) => vec![Self::NetworkNetns, Self::BindingNetns(member)],
            Self::Port(member) | Self::MemberProgram(member) => vec![Self::Programs, Self::Veth(member)],
            Self::Carrier(member) => vec![Self::Veth(member)],
            Self::BridgePort(member) => vec![Self::Bridge, Self::Veth(member)],
            Self::Neighbours(member) => vec![Self::Carrier(member)],
            Self::Fdb(_) => vec![Self::Vtep],
            Self::BridgeFdb(_) => vec![Self::Bridge, Self::Vtep],
            Self::MemberRow(member) => vec![Self::Programs, Self::Veth(member)],
            Self::Device(member) => vec![Self::BindingNetns(member)],
            Self::Peers(member) | Self::Tunnel(member) => vec![Self::Device(member)],
            Self::Guard(_) => vec![Self::Programs],
        }
    }

    /// The objects without which this one must not be made, though it could: what keeps private traffic off the
    /// container's other interfaces is there before the tunnel. One that is there goes on without them.
    #[must_use]
    pub fn safeguards(self) -> Vec<Self> {
        match self {
            Self::Device(member) | Self::Tunnel(member) => vec![Self::Guard(member), Self::Backstop(member)],
            Self::NetworkNetns
            | Self::Programs
            | Self::Bridge
            | Self::Vtep
            | Self::VtepProgram
            | Self::BindingNetns(_)
            | Self::Backstop(_)
            | Self::Departed(_)
            | Self::Guard(_)
            | Self::Veth(_)
            | Self::Port(_)
            | Self::MemberProgram(_)
            | Self::Carrier(_)
            | Self::Fdb(_)
            | Self::Neighbours(_)
            | Self::BridgePort(_)
            | Self::BridgeFdb(_)
            | Self::MemberRow(_)
            | Self::Peers(_) => vec![],
        }
    }

    /// Whether the object is in the container, where its root can change it or stand in the way of it.
    #[must_use]
    pub const fn is_in_container(self) -> bool {
        match self {
            Self::Backstop(_)
            | Self::Departed(_)
            | Self::Guard(_)
            | Self::Device(_)
            | Self::Peers(_)
            | Self::Tunnel(_) => true,
            Self::NetworkNetns
            | Self::Programs
            | Self::Bridge
            | Self::Vtep
            | Self::VtepProgram
            | Self::BindingNetns(_)
            | Self::Veth(_)
            | Self::Port(_)
            | Self::MemberProgram(_)
            | Self::Carrier(_)
            | Self::Fdb(_)
            | Self::Neighbours(_)
            | Self::BridgePort(_)
            | Self::BridgeFdb(_)
            | Self::MemberRow(_) => false,
        }
    }

    /// The objects whose removal removes this one as well, without an operation of its own.
    #[must_use]
    pub fn contained_in(self) -> Vec<Self> {
        match self {
            Self::NetworkNetns
            | Self::Programs
            | Self::BindingNetns(_)
            | Self::Backstop(_)
            | Self::Departed(_)
            | Self::Guard(_)
            | Self::Device(_) => {
                vec![]
            }
            Self::Bridge | Self::Vtep => vec![Self::NetworkNetns],
            Self::VtepProgram | Self::Fdb(_) => vec![Self::NetworkNetns, Self::Vtep],
            Self::BridgeFdb(_) => vec![Self::NetworkNetns, Self::Bridge, Self::Vtep],
            Self::Veth(member) => vec![Self::NetworkNetns, Self::BindingNetns(member)],
            Self::BridgePort(member) => {
                vec![Self::NetworkNetns, Self::Bridge, Self::BindingNetns(member), Self::Veth(member)]
            }
            Self::Carrier(member) | Self::Neighbours(member) | Self::MemberProgram(member) => {
                vec![Self::NetworkNetns, Self::BindingNetns(member), Self::Veth(member)]
            }
            Self::Port(_) | Self::MemberRow(_) => vec![Self::Programs],
            Self::Peers(member) | Self::Tunnel(member) => vec![Self::Device(member)],
        }
    }

    /// Whether changing the object means deleting it first, which takes its dependents along.
    #[must_use]
    pub const fn is_made_anew(self) -> bool {
        match self {
            Self::NetworkNetns
            | Self::Programs
            | Self::Vtep
            | Self::BindingNetns(_)
            | Self::Veth(_)
            | Self::Device(_) => true,
            Self::Bridge
            | Self::VtepProgram
            | Self::Backstop(_)
            | Self::Departed(_)
            | Self::Guard(_)
            | Self::Port(_)
            | Self::MemberProgram(_)
            | Self::Carrier(_)
            | Self::Neighbours(_)
            | Self::BridgePort(_)
            | Self::Fdb(_)
            | Self::BridgeFdb(_)
            | Self::MemberRow(_)
            | Self::Peers(_)
            | Self::Tunnel(_) => false,
        }
    }

    /// The member that the object belongs to; `None` when it is the network's own.
    #[must_use]
    pub const fn member(self) -> Option<Ipv4Addr> {
        match self {
            Self::NetworkNetns | Self::Programs | Self::Bridge | Self::Vtep | Self::VtepProgram => None,
            Self::BindingNetns(member)
            | Self::Backstop(member)
            | Self::Departed(member)
            | Self::Guard(member)
            | Self::Veth(member)
            | Self::Port(member)
            | Self::MemberProgram(member)
            | Self::Carrier(member)
            | Self::Neighbours(member)
            | Self::BridgePort(member)
            | Self::Fdb(member)
            | Self::BridgeFdb(member)
            | Self::MemberRow(member)
            | Self::Device(member)
            | Self::Peers(member)
            | Self::Tunnel(member) => Some(member),
        }
    }
}

/// How an object should be, or was seen to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Spec {
    /// It exists; there is nothing more to say of it.
    Present,
    /// It exists, but not as it should be, in the given way. Never planned, only observed; never equal to a plan.
    Broken(String),
    /// [`Key::Programs`].
    Programs {
        /// The network's VNI.
        vni: Vni,
        /// The prefix that `guard` refuses.
        prefix: Ipv4Net,
    },
    /// [`Key::Vtep`].
    Vtep {
        /// Its VNI.
        vni: Vni,
        /// Its address on the underlay.
        local: Ipv4Addr,
        /// Its MAC.
        mac: MacAddr,
        /// Its MTU in bytes.
        mtu: u32,
        /// Whether it is a port of `br0`.
        bridged: bool,
    },
    /// [`Key::Bridge`].
    Bridge {
        /// Its MTU in bytes.
        mtu: u32,
    },
    /// [`Key::BindingNetns`].
    BindingNetns {
        /// Whose.
        container: ContainerRef,
    },
    /// [`Key::Backstop`].
    Backstop {
        /// The network's prefix.
        prefix: Ipv4Net,
    },
    /// [`Key::Departed`]: the addresses; never empty.
    Departed(Arc<BTreeSet<Ipv4Addr>>),
    /// [`Key::Veth`].
    Veth {
        /// Its name in the binding netns.
        binding_name: IfName,
        /// The MAC of its end in the binding netns: the member's.
        mac: MacAddr,
        /// The MTU of both ends in bytes.
        mtu: u32,
        /// Whether the end in the network netns is a port of `br0`.
        bridged: bool,
    },
    /// [`Key::Port`].
    Port {
        /// The member's MAC.
        mac: MacAddr,
        /// The UDP port of the member's WireGuard socket.
        wireguard_port: u16,
    },
    /// [`Key::Carrier`] and [`Key::Tunnel`].
    Address {
        /// The interface's address with the subnet's prefix length.
        address: Ipv4Net,
    },
    /// [`Key::Fdb`].
    Fdb {
        /// The remote member's MAC.
        mac: MacAddr,
        /// Its host's VTEP address.
        vtep: Ipv4Addr,
    },
    /// [`Key::BridgePort`] and [`Key::BridgeFdb`].
    BridgeFdb {
        /// The member's MAC.
        mac: MacAddr,
    },
    /// [`Key::Neighbours`]: by address; never empty.
    Neighbours(Arc<BTreeMap<Ipv4Addr, MacAddr>>),
    /// [`Key::MemberRow`].
    MemberRow {
        /// The member's MAC.
        mac: MacAddr,
        /// The UDP port of the member's WireGuard socket.
        wireguard_port: u16,
        /// Whether it lives here, behind its own veth, or behind `vxlan0`.
        local: bool,
    },
    /// [`Key::Device`].
    Device {
        /// Its name in the app netns.
        interface: IfName,
        /// Its public key.
        public_key: PublicKey,
        /// The UDP port of its socket.
        listen_port: u16,
        /// Its MTU in bytes.
        mtu: u32,
    },
    /// [`Key::Peers`].
    Peers(PeerTable),
}

/// One peer of a WireGuard device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Where its socket is on the carrier.
    pub endpoint: SocketAddrV4,
    /// The one address it may send from and is sent to.
    pub allowed_ip: Ipv4Addr,
    /// How often its host's clock had stepped back when it was made: it refuses handshakes that are dated before the last
    /// one it saw, and only a peer that is made anew forgets.
    pub clock_steps: u64,
}

/// The peers of one device: a table that all devices of the network share, less the device itself.
///
/// Shared, so that the plan of n members costs n and not n² entries, and that comparing what did not change costs a pointer.
#[derive(Clone)]
pub struct PeerTable {
    all: Arc<BTreeMap<PublicKey, Peer>>,
    except: Option<PublicKey>,
}

impl PeerTable {
    /// The whole table but for the device's own key.
    #[must_use]
    pub const fn without(all: Arc<BTreeMap<PublicKey, Peer>>, own: PublicKey) -> Self {
        Self { all, except: Some(own) }
    }

    /// Just these peers.
    #[must_use]
    pub fn of(peers: BTreeMap<PublicKey, Peer>) -> Self {
        Self { all: Arc::new(peers), except: None }
    }

    /// The peers, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&PublicKey, &Peer)> {
        self.all.iter().filter(|(key, _)| Some(**key) != self.except)
    }

    /// The peer with this key.
    #[must_use]
    pub fn get(&self, key: &PublicKey) -> Option<&Peer> {
        if self.except.as_ref() == Some(key) { None } else { self.all.get(key) }
    }

    /// What leads from `self` to `to`: the keys to remove, and then the peers to set. One that is to be made anew is in both.
    #[must_use]
    pub fn change_to(&self, to: &Self) -> (Vec<PublicKey>, Vec<(PublicKey, Peer)>) {
        let stays = |key: &PublicKey, peer: &Peer| to.get(key).is_some_and(|to| to.clock_steps == peer.clock_steps);
        let removed = self.iter().filter(|(key, peer)| !stays(key, peer)).map(|(key, _)| *key).collect();
        let set =
            to.iter().filter(|(key, peer)| self.get(key) != Some(peer)).map(|(key, peer)| (*key, *peer)).collect();
        (removed, set)
    }
}

impl PartialEq for PeerTable {
    fn eq(&self, other: &Self) -> bool {
        (Arc::ptr_eq(&self.all, &other.all) && self.except == other.except) || self.iter().eq(other.iter())
    }
}

impl Eq for PeerTable {}

impl fmt::Debug for PeerTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}
