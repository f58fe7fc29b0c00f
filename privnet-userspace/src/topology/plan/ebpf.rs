//! The eBPF datapath: programs redirect past any bridge, by their maps.

use super::{Forwarding, Tables};
use crate::model::Member;
use crate::topology::intent::Intent;
use crate::topology::object::{Object, spec};
use crate::topology::state::Plan;

/// Plans [`Datapath::Ebpf`](crate::topology::Datapath::Ebpf).
pub enum Ebpf {}

impl Forwarding for Ebpf {
    const IS_BRIDGED: bool = false;

    fn network(_: &Intent, plan: &mut Plan) {
        plan.insert(Object::VtepProgram(spec::VtepProgram {}));
    }

    fn local(_: &Tables, member: &Member, plan: &mut Plan) {
        let (mac, wireguard_port) = (member.mac(), member.wireguard_port);
        plan.insert(Object::Port(member.id, spec::Port { mac, wireguard_port }));
        plan.insert(Object::MemberProgram(member.id, spec::MemberProgram {}));
        plan.insert(Object::LocalRow(member.id, spec::LocalRow { mac, wireguard_port }));
    }

    fn remote(member: &Member, plan: &mut Plan) {
        let (mac, wireguard_port) = (member.mac(), member.wireguard_port);
        plan.insert(Object::RemoteRow(member.address, spec::RemoteRow { mac, wireguard_port }));
    }
}
