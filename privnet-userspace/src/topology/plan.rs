//! What one host must have for one network.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use ipnet::Ipv4Net;
use privnet_ebpf::net::MacAddr;

use super::intent::{Datapath, Intent, LocalMember};
use super::object::{Key, Peer, PeerTable, Spec, State};
use super::ownership;
use crate::model::Member;

/// Plans a network on a host. A host without members of its own has nothing of the network.
#[must_use]
pub fn plan(intent: &Intent) -> State {
    let mut state = State::new();
    if intent.local.is_empty() {
        return state;
    }
    plan_network(intent, &mut state);
    let peers = Arc::new(peer_table(intent));
    // An address may be another's already: who lives there is reached.
    let departed = intent.departed.iter().filter(|address| !intent.members.contains_key(address));
    let departed = Arc::new(departed.copied().collect::<BTreeSet<_>>());
    let macs = Arc::new(intent.members.iter().map(|(address, member)| (*address, member.mac())).collect());
    for (address, member) in &intent.members {
        match intent.local.get(address) {
            Some(local) => {
                plan_local_member(intent, member, *local, &peers, &macs, &mut state);
                if !departed.is_empty() {
                    state.insert(Key::Departed(*address), Spec::Departed(Arc::clone(&departed)));
                }
            }
            None => plan_remote_member(intent, member, &mut state),
        }
    }
    state
}

fn plan_network(intent: &Intent, state: &mut State) {
    let bridged = match intent.datapath {
        Datapath::Ebpf => false,
        Datapath::Bridge => true,
    };
    state.insert(Key::NetworkNetns, Spec::Present);
    // The bridge datapath forwards without programs, but its members need `guard` all the same.
    state.insert(Key::Programs, Spec::Programs { vni: intent.network.vni, prefix: intent.network.subnet });
    if bridged {
        state.insert(Key::Bridge, Spec::Bridge { mtu: intent.mtu.carrier });
    } else {
        state.insert(Key::VtepProgram, Spec::Present);
    }
    state.insert(
        Key::Vtep,
        Spec::Vtep {
            vni: intent.network.vni,
            local: intent.vtep,
            mac: MacAddr::of_vtep(intent.vtep.octets()),
            mtu: intent.mtu.carrier,
            bridged,
        },
    );
}

fn plan_local_member(
    intent: &Intent,
    member: &Member,
    local: LocalMember,
    peers: &Arc<BTreeMap<crate::model::PublicKey, Peer>>,
    macs: &Arc<BTreeMap<Ipv4Addr, MacAddr>>,
    state: &mut State,
) {
    let address = member.address;
    let mac = member.mac();
    let wireguard_port = member.wireguard_port;
    let own = Ipv4Net::new(address, intent.network.subnet.prefix_len()).unwrap_or(intent.network.subnet);
    state.insert(Key::BindingNetns(address), Spec::BindingNetns { container: member.container.clone() });
    state.insert(Key::Backstop(address), Spec::Backstop { prefix: intent.network.subnet });
    state.insert(Key::Guard(address), Spec::Present);
    state.insert(
        Key::Veth(address),
        Spec::Veth {
            binding_name: ownership::binding_veth(local.index),
            mac,
            mtu: intent.mtu.carrier,
            bridged: intent.datapath == Datapath::Bridge,
        },
    );
    state.insert(Key::Carrier(address), Spec::Address { address: own });
    state.insert(
        Key::Device(address),
        Spec::Device {
            interface: ownership::wireguard_interface(local.index),
            public_key: member.public_key,
            listen_port: wireguard_port,
            mtu: intent.network.mtu,
        },
    );
    state.insert(Key::Peers(address), Spec::Peers(PeerTable::without(Arc::clone(peers), member.public_key)));
    state.insert(Key::Tunnel(address), Spec::Address { address: own });
    match intent.datapath {
        Datapath::Ebpf => {
            state.insert(Key::Port(address), Spec::Port { mac, wireguard_port });
            state.insert(Key::MemberProgram(address), Spec::Present);
            state.insert(Key::MemberRow(address), Spec::MemberRow { mac, wireguard_port, local: true });
        }
        Datapath::Bridge => {
            state.insert(Key::BridgePort(address), Spec::BridgeFdb { mac });
            // The programs answer ARP themselves; a bridge would carry whoever's answer comes first.
            state.insert(Key::Neighbours(address), Spec::Neighbours(Arc::clone(macs)));
        }
    }
}

fn plan_remote_member(intent: &Intent, member: &Member, state: &mut State) {
    // Its host has not told its VTEP yet; the change that does will bring us back here.
    let Some(vtep) = intent.vteps.get(&member.host) else { return };
    let address = member.address;
    let mac = member.mac();
    state.insert(Key::Fdb(address), Spec::Fdb { mac, vtep: *vtep });
    match intent.datapath {
        Datapath::Ebpf => {
            let wireguard_port = member.wireguard_port;
            state.insert(Key::MemberRow(address), Spec::MemberRow { mac, wireguard_port, local: false });
        }
        Datapath::Bridge => {
            state.insert(Key::BridgeFdb(address), Spec::BridgeFdb { mac });
        }
    }
}

fn peer_table(intent: &Intent) -> BTreeMap<crate::model::PublicKey, Peer> {
    let peer = |member: &Member| Peer {
        endpoint: SocketAddrV4::new(member.address, member.wireguard_port),
        allowed_ip: member.address,
        clock_steps: intent.clock_steps.get(&member.host).copied().unwrap_or(0),
    };
    intent.members.values().map(|member| (member.public_key, peer(member))).collect()
}
