//! The objects that a host must have for a network.
//!
//! | module | what it plans |
//! |---|---|
//! | here | what every datapath needs: the namespaces, the carrier, the programs of `guard` |
//! | `container` | what is in the containers, whichever datapath carries |
//! | `ebpf`, `bridge` | how frames come from one member to another: one file per [`Datapath`] |

mod bridge;
mod container;
mod ebpf;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use privnet_ebpf::net::MacAddr;

use super::intent::{Datapath, Intent, LocalMember};
use super::object::{Object, spec};
use super::ownership;
use super::state::Plan;
use crate::model::Member;

/// How a datapath carries frames: the objects that it needs in addition to those that every datapath needs.
trait Forwarding {
    /// Whether the VTEP and the members' veths are ports of `br0`.
    const IS_BRIDGED: bool;

    /// What it needs once per network.
    fn network(intent: &Intent, plan: &mut Plan);
    /// What it needs for a member of this host.
    fn local(tables: &Tables, member: &Member, plan: &mut Plan);
    /// What it needs for a member of another host.
    fn remote(member: &Member, plan: &mut Plan);
}

/// The tables that the objects of all members of a network share.
struct Tables {
    macs: Arc<BTreeMap<Ipv4Addr, MacAddr>>,
}

/// Plans a network on a host. A host without members of its own has nothing of the network.
#[must_use]
pub fn plan(intent: &Intent) -> Plan {
    match intent.datapath {
        Datapath::Ebpf => plan_with::<ebpf::Ebpf>(intent),
        Datapath::Bridge => plan_with::<bridge::Bridge>(intent),
    }
}

fn plan_with<F: Forwarding>(intent: &Intent) -> Plan {
    let mut plan = Plan::default();
    if intent.local.is_empty() {
        return plan;
    }
    plan_network::<F>(intent, &mut plan);
    let containers = container::Containers::new(intent);
    let macs = intent.members.iter().map(|(address, member)| (*address, member.mac()));
    let tables = Tables { macs: Arc::new(macs.collect()) };
    for member in intent.members.values() {
        match intent.local.get(&member.id) {
            Some(local) => {
                containers.plan(member, local, &mut plan);
                plan_carrier::<F>(intent, member, local, &mut plan);
                F::local(&tables, member, &mut plan);
            }
            None => plan_remote::<F>(intent, member, &mut plan),
        }
    }
    plan
}

fn plan_network<F: Forwarding>(intent: &Intent, plan: &mut Plan) {
    plan.insert(Object::NetworkNetns(spec::NetworkNetns {}));
    plan.insert(Object::NetworkSettings(spec::NetworkSettings {}));
    // Also where they do not forward: their `guard` is on the members' foreign interfaces in every datapath.
    let (vni, prefix) = (intent.network.vni, intent.network.subnet);
    plan.insert(Object::Programs(spec::Programs { vni, prefix }));
    let mac = MacAddr::of_vtep(intent.vtep.octets());
    let (port, mtu) = (intent.vxlan_port.get(), intent.mtu.carrier);
    plan.insert(Object::Vtep(spec::Vtep { vni, local: intent.vtep, port, mac, mtu, bridged: F::IS_BRIDGED }));
    F::network(intent, plan);
}

/// The road of a member's datagrams between its binding netns and the network netns.
fn plan_carrier<F: Forwarding>(intent: &Intent, member: &Member, local: &LocalMember, plan: &mut Plan) {
    plan.insert(Object::BindingNetns(member.id, spec::BindingNetns { digits: local.binding }));
    plan.insert(Object::BindingSettings(member.id, spec::BindingSettings {}));
    let veth = spec::Veth {
        name: local.link.name(),
        binding_name: ownership::binding_veth(local.index),
        mac: member.mac(),
        mtu: intent.mtu.carrier,
        bridged: F::IS_BRIDGED,
    };
    plan.insert(Object::Veth(member.id, veth));
    plan.insert(Object::Carrier(member.id, spec::Carrier { address: own_address(intent, member) }));
}

fn plan_remote<F: Forwarding>(intent: &Intent, member: &Member, plan: &mut Plan) {
    // A host that has not told its VTEP yet will: that change leads here again.
    let Some(vtep) = intent.vteps.get(&member.host) else { return };
    plan.insert(Object::Fdb(member.address, spec::Fdb { mac: member.mac(), vtep: *vtep }));
    F::remote(member, plan);
}

/// A member's address with the subnet's prefix length.
fn own_address(intent: &Intent, member: &Member) -> Ipv4Net {
    Ipv4Net::new(member.address, intent.network.subnet.prefix_len()).unwrap_or(intent.network.subnet)
}
