//! What is in the containers of this host: WireGuard, and what keeps private traffic off the other interfaces.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use super::own_address;
use crate::model::Member;
use crate::topology::intent::{DeviceAt, Intent, LocalMember};
use crate::topology::object::{Object, spec};
use crate::topology::peers::{Peer, PeerTable, SharedPeers};
use crate::topology::state::Plan;

/// Plans the containers of one network.
pub struct Containers<'a> {
    intent: &'a Intent,
    peers: Arc<SharedPeers>,
    departed: Arc<BTreeSet<Ipv4Addr>>,
}

impl<'a> Containers<'a> {
    /// Makes the tables that all devices and containers share.
    pub fn new(intent: &'a Intent) -> Self {
        let peer = |member: &Member| Peer {
            endpoint: SocketAddrV4::new(member.address, member.wireguard_port),
            allowed_ip: member.address,
            clock_steps: intent.clock_steps.get(&member.host).copied().unwrap_or(0),
        };
        let peers = intent.members.values().map(|member| (member.public_key, peer(member))).collect();
        // An address may have another holder already, which is reached.
        let departed = intent.departed.iter().filter(|address| !intent.members.contains_key(address));
        Self { intent, peers: SharedPeers::new(peers), departed: Arc::new(departed.copied().collect()) }
    }

    /// Plans what a member has in its container.
    pub fn plan(&self, member: &Member, local: &LocalMember, plan: &mut Plan) {
        let Self { intent, peers, departed } = self;
        let prefix = intent.network.subnet;
        plan.insert(Object::Guard(member.id, spec::Guard {}));
        if matches!(local.device, DeviceAt::Home(_) | DeviceAt::Going) {
            plan.insert(Object::Backstop(member.id, spec::Backstop { prefix }));
            if !departed.is_empty() {
                plan.insert(Object::Departed(member.id, spec::Departed { addresses: Arc::clone(departed) }));
            }
        }
        let (DeviceAt::Home(interface) | DeviceAt::Made(interface)) = &local.device else { return };
        let device = spec::Device {
            interface: interface.clone(),
            public_key: member.public_key,
            listen_port: member.wireguard_port,
            mtu: intent.network.mtu,
        };
        plan.insert(Object::Device(member.id, device));
        let table = PeerTable::without(Arc::clone(peers), member.public_key);
        plan.insert(Object::Peers(member.id, spec::Peers { table }));
        if matches!(local.device, DeviceAt::Home(_)) {
            plan.insert(Object::Tunnel(member.id, spec::Tunnel { address: own_address(intent, member) }));
        }
    }
}
