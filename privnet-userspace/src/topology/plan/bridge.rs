//! The bridge datapath: `br0` between the members' veths and the VTEP, which learns nothing and floods nothing.

use std::sync::Arc;

use super::{Forwarding, Tables};
use crate::model::Member;
use crate::topology::intent::Intent;
use crate::topology::object::{Object, spec};
use crate::topology::state::Plan;

/// Plans [`Datapath::Bridge`](crate::topology::Datapath::Bridge).
pub enum Bridge {}

impl Forwarding for Bridge {
    const IS_BRIDGED: bool = true;

    fn network(intent: &Intent, plan: &mut Plan) {
        plan.insert(Object::Bridge(spec::Bridge { mtu: intent.mtu.carrier }));
    }

    fn local(tables: &Tables, member: &Member, plan: &mut Plan) {
        plan.insert(Object::BridgePort(member.id, spec::BridgePort { mac: member.mac() }));
        // Without programs that answer ARP, the bridge would carry the answer of any sender.
        let macs = Arc::clone(&tables.macs);
        plan.insert(Object::Neighbours(member.id, spec::Neighbours { macs }));
    }

    fn remote(member: &Member, plan: &mut Plan) {
        plan.insert(Object::BridgeFdb(member.address, spec::BridgeFdb { mac: member.mac() }));
    }
}
