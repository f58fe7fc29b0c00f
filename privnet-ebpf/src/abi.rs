//! The types of the maps' keys and values, shared by the programs and the agent.
//!
//! Bytes of a packet are byte arrays in the order of the wire; numbers of the kernel are native integers. A change here
//! needs a new [`ABI_VERSION`]: maps are pinned and outlive the agent.

use bytemuck::{Pod, Zeroable};

use crate::net::{InvalidVni, MacAddr, Vni};
use crate::packet::HEADERS_BYTES;
use crate::verdict::{Direction, Outcome};

/// The version of everything in this module and of the table in [`crate::maps`]; part of the path of every pin.
pub const ABI_VERSION: u32 = 1;

/// The one entry of the config map: the network as its programs know it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Config {
    abi_version: u32,
    vni: u32,
    flags: u32,
    vtep_ifindex: u32,
    prefix: [u8; 4],
    netmask: [u8; 4],
    event_sample: u32,
    /// 4 bytes, zero.
    _reserved: u32,
    build: u64,
}
const _: () = assert!(size_of::<Config>() == 40);

impl Config {
    const REDIRECT_PEER: u32 = 1;

    /// A network without a VTEP, whose local deliveries use `bpf_redirect` and whose drops are not sampled.
    #[must_use]
    pub const fn new(vni: Vni, prefix: [u8; 4], prefix_bits: u8) -> Self {
        let netmask = match prefix_bits {
            0 => 0,
            1..=31 => u32::MAX << (32 - prefix_bits),
            32.. => u32::MAX,
        };
        Self {
            abi_version: ABI_VERSION,
            vni: vni.get(),
            flags: 0,
            vtep_ifindex: 0,
            prefix,
            netmask: netmask.to_be_bytes(),
            event_sample: 0,
            _reserved: 0,
            build: 0,
        }
    }

    /// Sets whether local deliveries skip the queue of the veth (`bpf_redirect_peer`).
    #[must_use]
    pub const fn with_redirect_peer(mut self, yes: bool) -> Self {
        self.flags = if yes { self.flags | Self::REDIRECT_PEER } else { self.flags & !Self::REDIRECT_PEER };
        self
    }

    /// Sets the index of the VTEP in the network netns; `None` while the network has no VTEP.
    #[must_use]
    pub const fn with_vtep(mut self, ifindex: Option<u32>) -> Self {
        self.vtep_ifindex = match ifindex {
            Some(ifindex) => ifindex,
            None => 0,
        };
        self
    }

    /// Sets the sample rate: one event in every `one_in` drops of a kind; 0 for no events.
    #[must_use]
    pub const fn with_event_sample(mut self, one_in: u32) -> Self {
        self.event_sample = one_in;
        self
    }

    /// Sets the mark of the object whose programs are pinned beside the map.
    #[must_use]
    pub const fn with_build(mut self, build: u64) -> Self {
        self.build = build;
        self
    }

    /// Whether the map was written by an agent of this ABI.
    #[must_use]
    #[inline(always)]
    pub const fn is_current(&self) -> bool {
        self.abi_version == ABI_VERSION
    }

    /// The network's VNI.
    ///
    /// # Errors
    /// When the map is still empty.
    pub const fn vni(&self) -> Result<Vni, InvalidVni> {
        Vni::new(self.vni)
    }

    /// The network's prefix: its first address as on the wire, and its length in bits.
    #[must_use]
    pub const fn prefix(&self) -> ([u8; 4], u8) {
        (self.prefix, u32::from_be_bytes(self.netmask).leading_ones() as u8)
    }

    /// Whether local deliveries skip the queue of the veth.
    #[must_use]
    #[inline(always)]
    pub const fn redirect_peer(&self) -> bool {
        self.flags & Self::REDIRECT_PEER != 0
    }

    /// The index of the VTEP in the network netns.
    #[must_use]
    #[inline(always)]
    pub const fn vtep(&self) -> Option<u32> {
        if self.vtep_ifindex == 0 { None } else { Some(self.vtep_ifindex) }
    }

    /// The number of drops of a kind from which one event is sampled; 0 for no events.
    #[must_use]
    #[inline(always)]
    pub const fn event_sample(&self) -> u32 {
        self.event_sample
    }

    /// The mark of the object whose programs are pinned beside the map.
    #[must_use]
    pub const fn build(&self) -> u64 {
        self.build
    }

    /// Whether `address`, as on the wire, is in the network's prefix.
    #[must_use]
    #[inline(always)]
    pub const fn contains(&self, address: [u8; 4]) -> bool {
        let mask = u32::from_ne_bytes(self.netmask);
        u32::from_ne_bytes(address) & mask == u32::from_ne_bytes(self.prefix) & mask
    }
}

/// Key of the ports map: the index of a veth end in the network netns.
pub type PortKey = u32;

/// Value of the ports map: the member of this host behind a veth, which is the only valid sender there.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct PortRow {
    address: [u8; 4],
    mac: MacAddr,
    wireguard_port: [u8; 2],
}
const _: () = assert!(size_of::<PortRow>() == 12);

impl PortRow {
    /// The member that owns `address` and `mac` and whose WireGuard socket is bound to `wireguard_port`.
    #[must_use]
    pub const fn new(address: [u8; 4], mac: MacAddr, wireguard_port: u16) -> Self {
        Self { address, mac, wireguard_port: wireguard_port.to_be_bytes() }
    }

    /// Its address, as on the wire.
    #[must_use]
    #[inline(always)]
    pub const fn address(&self) -> [u8; 4] {
        self.address
    }

    /// Its MAC.
    #[must_use]
    #[inline(always)]
    pub const fn mac(&self) -> MacAddr {
        self.mac
    }

    /// The port of its WireGuard socket.
    #[must_use]
    #[inline(always)]
    pub const fn wireguard_port(&self) -> u16 {
        u16::from_be_bytes(self.wireguard_port)
    }
}

/// Key of the members map: a member's address, as on the wire.
pub type MemberKey = [u8; 4];

/// Value of the members map: where a member of the network is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct MemberRow {
    mac: MacAddr,
    wireguard_port: [u8; 2],
    ifindex: u32,
}
const _: () = assert!(size_of::<MemberRow>() == 12);

impl MemberRow {
    /// A member of this host, behind the veth `ifindex` of the network netns.
    #[must_use]
    pub const fn local(mac: MacAddr, wireguard_port: u16, ifindex: u32) -> Self {
        Self { mac, wireguard_port: wireguard_port.to_be_bytes(), ifindex }
    }

    /// A member of another host.
    #[must_use]
    pub const fn remote(mac: MacAddr, wireguard_port: u16) -> Self {
        Self::local(mac, wireguard_port, 0)
    }

    /// Its MAC.
    #[must_use]
    #[inline(always)]
    pub const fn mac(&self) -> MacAddr {
        self.mac
    }

    /// The port of its WireGuard socket.
    #[must_use]
    #[inline(always)]
    pub const fn wireguard_port(&self) -> u16 {
        u16::from_be_bytes(self.wireguard_port)
    }

    /// The index of its veth end in the network netns; `None` for a member of another host.
    #[must_use]
    #[inline(always)]
    pub const fn ifindex(&self) -> Option<u32> {
        if self.ifindex == 0 { None } else { Some(self.ifindex) }
    }
}

/// Key of the counters map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct CounterKey {
    address: [u8; 4],
    direction: u8,
    outcome: u8,
    /// 2 bytes, zero.
    _reserved: [u8; 2],
}
const _: () = assert!(size_of::<CounterKey>() == 8);

impl CounterKey {
    /// The address under which frames are counted that no member of this host is charged with.
    pub const NETWORK: [u8; 4] = [0; 4];

    /// The counter of `outcome` for frames of the member at `address` (as on the wire) in `direction`.
    #[must_use]
    #[inline(always)]
    pub const fn new(address: [u8; 4], direction: Direction, outcome: Outcome) -> Self {
        Self { address, direction: direction.number(), outcome: outcome.number(), _reserved: [0; 2] }
    }

    /// The same direction and outcome, charged to the network.
    #[must_use]
    #[inline(always)]
    pub const fn of_network(mut self) -> Self {
        self.address = Self::NETWORK;
        self
    }

    /// The member's address, as on the wire.
    #[must_use]
    pub const fn address(&self) -> [u8; 4] {
        self.address
    }

    /// The direction and the outcome; `None` for numbers of another build.
    #[must_use]
    pub const fn what(&self) -> Option<(Direction, Outcome)> {
        match (Direction::from_number(self.direction), Outcome::from_number(self.outcome)) {
            (Some(direction), Some(outcome)) => Some((direction, outcome)),
            (Some(_) | None, Some(_) | None) => None,
        }
    }
}

/// Value of the counters map, one per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Tally {
    /// Packets; a packet of GSO counts as its segments.
    pub packets: u64,
    /// Bytes of the frames, the headers of Ethernet, IPv4 and UDP of each packet included.
    pub bytes: u64,
}
const _: () = assert!(size_of::<Tally>() == 16);

/// A record of the events ring: a sampled drop.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct DropEvent {
    boot_ns: u64,
    key: CounterKey,
    ifindex: u32,
    frame_bytes: u32,
    headers: [u8; HEADERS_BYTES],
    /// 6 bytes, zero.
    _reserved: [u8; 6],
}
const _: () = assert!(size_of::<DropEvent>() == 72);

impl DropEvent {
    /// A drop at `boot_ns` on interface `ifindex`, counted under `key`; `headers` begin the frame and end with zeros.
    #[must_use]
    #[inline(always)]
    pub const fn new(
        boot_ns: u64,
        key: CounterKey,
        ifindex: u32,
        frame_bytes: u32,
        headers: [u8; HEADERS_BYTES],
    ) -> Self {
        Self { boot_ns, key, ifindex, frame_bytes, headers, _reserved: [0; 6] }
    }

    /// The time of the drop, in nanoseconds of `CLOCK_BOOTTIME`.
    #[must_use]
    pub const fn boot_ns(&self) -> u64 {
        self.boot_ns
    }

    /// The counter that the drop raised.
    #[must_use]
    pub const fn key(&self) -> CounterKey {
        self.key
    }

    /// The index of the interface that the program is attached to, in the namespace of that interface.
    #[must_use]
    pub const fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// The frame's length in bytes.
    #[must_use]
    pub const fn frame_bytes(&self) -> u32 {
        self.frame_bytes
    }

    /// The frame's first bytes; all zero when the frame is shorter.
    #[must_use]
    pub const fn headers(&self) -> &[u8; HEADERS_BYTES] {
        &self.headers
    }
}
