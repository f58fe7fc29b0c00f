//! The table of objects: one row per kind says all that planning and comparing need to know of it.
//!
//! A row of the table is `Kind(id) { what there is to say of one } how, where, "text" { parents, contained_in, safeguards }`:
//!
//! - The order of the rows is the order of creation: an object comes after those that it depends on.
//! - `id` names one object among those of its kind: the member that it belongs to, or the address that a row is about. A
//!   kind without one is there once for the network.
//! - `Anew`: a change removes the object first, which takes its dependents along. `InPlace`: it is changed as it stands.
//! - `InContainer`: its container's root can change it, or stand in the way of it. `Ours`: it is in a namespace of ours.
//! - `parents`: the objects without which it cannot be; when one of them is made anew, so is this one.
//! - `contained_in`: the objects whose removal removes this one as well, without an operation of its own.
//! - `safeguards`: the objects without which it must not be made, though it could: the guards, which keep private traffic
//!   off the container's other interfaces, exist before the tunnel. An object that exists goes on without them.
//!
//! `agent/network/objects` has one file per kind: how it is observed, made, changed and removed. To add a kind, add its row,
//! its file, and plan it in `plan`.

/// Hands the table to a macro: `define_objects` makes the types below of it, and the agent its dispatch to the files.
macro_rules! object_table {
    ($make:ident) => {
        $make! {
            /// The network netns.
            NetworkNetns {} Anew, Ours, "the network netns" {}

            /// How the network netns is set: it does not forward, speaks no IPv6, and has the rules of a new namespace.
            NetworkSettings {} InPlace, Ours, "the settings of the network netns" {
                parents: [NetworkNetns],
                contained_in: [NetworkNetns],
            }

            /// The loaded programs and their maps.
            Programs {
                /// The network's VNI.
                vni: Vni,
                /// The prefix that `guard` refuses.
                prefix: Ipv4Net,
            } Anew, Ours, "the programs" {}

            /// `br0` of the bridge datapath.
            Bridge {
                /// Its MTU in bytes.
                mtu: u32,
            } InPlace, Ours, "br0" {
                parents: [NetworkNetns],
                contained_in: [NetworkNetns],
            }

            /// `vxlan0`.
            Vtep {
                /// Its VNI.
                vni: Vni,
                /// Its address on the underlay.
                local: Ipv4Addr,
                /// Its UDP port, and that of the others.
                port: u16,
                /// Its MAC.
                mac: MacAddr,
                /// Its MTU in bytes.
                mtu: u32,
                /// Whether it is a port of `br0`.
                bridged: bool,
            } Anew, Ours, "vxlan0" {
                parents: [NetworkNetns],
                contained_in: [NetworkNetns],
            }

            /// `from_vtep` on `vxlan0`.
            VtepProgram {} InPlace, Ours, "from_vtep on vxlan0" {
                parents: [Programs, Vtep],
                contained_in: [NetworkNetns, Vtep],
            }

            /// The container's binding netns.
            BindingNetns(member: MemberId) {
                /// The digits in its name.
                digits: u64,
            } Anew, Ours, "the binding netns" {}

            /// How the binding netns is set: it does not forward, speaks no IPv6, and has the rules of a new namespace.
            BindingSettings(member: MemberId) {} InPlace, Ours, "the settings of the binding netns" {
                parents: [BindingNetns(member)],
                contained_in: [BindingNetns(member)],
            }

            /// The `unreachable` route in the app netns.
            Backstop(member: MemberId) {
                /// The network's prefix.
                prefix: Ipv4Net,
            } InPlace, InContainer, "the backstop" {}

            /// The `unreachable` routes in the app netns to addresses whose members have left: a connection to one fails at once.
            Departed(member: MemberId) {
                /// The addresses; never empty.
                addresses: Arc<BTreeSet<Ipv4Addr>>,
            } InPlace, InContainer, "the routes to departed members" {}

            /// `guard` on every foreign interface of the app netns.
            Guard(member: MemberId) {} InPlace, InContainer, "the guard" {
                parents: [Programs],
            }

            /// The member's veth pair.
            Veth(member: MemberId) {
                /// Its name in the network netns.
                name: IfName,
                /// Its name in the binding netns.
                binding_name: IfName,
                /// The MAC of its end in the binding netns: the member's.
                mac: MacAddr,
                /// The MTU of both ends in bytes.
                mtu: u32,
                /// Whether the end in the network netns is a port of `br0`.
                bridged: bool,
            } Anew, Ours, "the veth pair" {
                parents: [NetworkNetns, BindingNetns(member)],
                contained_in: [NetworkNetns, BindingNetns(member)],
            }

            /// The row that binds the veth to its member's own address and MAC.
            Port(member: MemberId) {
                /// The member's MAC.
                mac: MacAddr,
                /// The UDP port of the member's WireGuard socket.
                wireguard_port: u16,
            } InPlace, Ours, "the port row" {
                parents: [Programs, Veth(member)],
                contained_in: [Programs],
            }

            /// `from_member` on the veth's end in the network netns.
            MemberProgram(member: MemberId) {} InPlace, Ours, "from_member" {
                parents: [Programs, Veth(member)],
                contained_in: [NetworkNetns, BindingNetns(member), Veth(member)],
            }

            /// The carrier address on the veth's end in the binding netns, with its routes; both ends up.
            Carrier(member: MemberId) {
                /// The interface's address with the subnet's prefix length.
                address: Ipv4Net,
            } InPlace, Ours, "the carrier address" {
                parents: [Veth(member)],
                contained_in: [NetworkNetns, BindingNetns(member), Veth(member)],
            }

            /// All members' MACs, for good, on the member's carrier: it sends no ARP and believes none (bridge datapath).
            Neighbours(member: MemberId) {
                /// The MACs by address; never empty.
                macs: Arc<BTreeMap<Ipv4Addr, MacAddr>>,
            } InPlace, Ours, "the neighbour entries" {
                parents: [Carrier(member)],
                contained_in: [NetworkNetns, BindingNetns(member), Veth(member)],
            }

            /// How `br0` treats the member's veth, and that its MAC is behind it (bridge datapath).
            BridgePort(member: MemberId) {
                /// The member's MAC.
                mac: MacAddr,
            } InPlace, Ours, "the bridge port" {
                parents: [Bridge, Veth(member)],
                contained_in: [NetworkNetns, Bridge, BindingNetns(member), Veth(member)],
            }

            /// Where a remote member's MAC lives: a row of `vxlan0`'s FDB.
            Fdb(address: Ipv4Addr) {
                /// The remote member's MAC.
                mac: MacAddr,
                /// Its host's VTEP address.
                vtep: Ipv4Addr,
            } InPlace, Ours, "the FDB row" {
                parents: [Vtep],
                contained_in: [NetworkNetns, Vtep],
            }

            /// That a remote member's MAC is behind `vxlan0`: a row of `br0`'s FDB (bridge datapath).
            BridgeFdb(address: Ipv4Addr) {
                /// The remote member's MAC.
                mac: MacAddr,
            } InPlace, Ours, "the bridge's FDB row" {
                parents: [Bridge, Vtep],
                contained_in: [NetworkNetns, Bridge, Vtep],
            }

            /// That a member lives here, behind its own veth: a row of the programs' map.
            LocalRow(member: MemberId) {
                /// The member's MAC.
                mac: MacAddr,
                /// The UDP port of the member's WireGuard socket.
                wireguard_port: u16,
            } InPlace, Ours, "the member row" {
                parents: [Programs, Veth(member)],
                contained_in: [Programs],
            }

            /// That a member lives on another host, behind `vxlan0`: a row of the programs' map.
            RemoteRow(address: Ipv4Addr) {
                /// The member's MAC.
                mac: MacAddr,
                /// The UDP port of the member's WireGuard socket.
                wireguard_port: u16,
            } InPlace, Ours, "the remote member row" {
                parents: [Programs],
                contained_in: [Programs],
            }

            /// The WireGuard device.
            Device(member: MemberId) {
                /// Its name in the app netns.
                interface: IfName,
                /// Its public key.
                public_key: PublicKey,
                /// The UDP port of its socket.
                listen_port: u16,
                /// Its MTU in bytes.
                mtu: u32,
            } Anew, InContainer, "the WireGuard device" {
                parents: [BindingNetns(member)],
                safeguards: [Guard(member), Backstop(member)],
            }

            /// The WireGuard device's peers.
            Peers(member: MemberId) {
                /// The peers by key.
                table: PeerTable,
            } InPlace, InContainer, "the WireGuard peers" {
                parents: [Device(member)],
                contained_in: [Device(member)],
            }

            /// The WireGuard device's address, up, with its routes.
            Tunnel(member: MemberId) {
                /// The interface's address with the subnet's prefix length.
                address: Ipv4Net,
            } InPlace, InContainer, "the WireGuard address" {
                parents: [Device(member)],
                contained_in: [Device(member)],
                safeguards: [Guard(member), Backstop(member)],
            }

            /// A port row of an address without a record. Never planned, only observed.
            OrphanPort(address: Ipv4Addr) {} InPlace, Ours, "the orphaned port row" {
                contained_in: [Programs],
            }

            /// A veth pair of ours without a record, on its way out for too long. Never planned, only observed.
            OrphanVeth(link: MemberLink) {} InPlace, Ours, "the orphaned veth pair" {
                contained_in: [NetworkNetns],
            }
        }
    };
}
pub(crate) use object_table;
