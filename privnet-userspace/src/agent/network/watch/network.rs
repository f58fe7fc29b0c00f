//! In a network netns: the members' veths, `vxlan0`, `br0`, forwarding entries, and the programs' filters.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::{Judge, Listening, member};
use crate::agent::host::journal::{Record, SharedJournal};
use crate::agent::network::handle::Doubts;
use crate::agent::network::objects::bridge::PORT;
use crate::link::{Event, FdbEvent, Link, LinkEvent, Links, Topic, Watch};
use crate::model::{MemberId, NetworkId};
use crate::netns::Netns;
use crate::topology::ownership::{self, MemberLink};
use crate::topology::{Key, Object, Plan};

/// Wakes the worker when something goes or changes in a network netns that should be there.
pub async fn watch(netns: Netns, network: NetworkId, journal: Arc<SharedJournal>, listening: Listening) {
    let Ok(watch) = Watch::open(&netns, &[Topic::Neighbours, Topic::Filters]).await else { return };
    let Ok(links) = Links::open(&netns).await else { return };
    let Ok(there) = links.links().await else { return };
    drop((netns, links));
    let links = there.into_iter().map(|link| (link.index, link)).collect();
    listening.follow(watch, NetworkJudge { network, journal, links }, Doubts::default()).await;
}

struct NetworkJudge {
    network: NetworkId,
    journal: Arc<SharedJournal>,
    links: BTreeMap<u32, Link>,
}

impl Judge for NetworkJudge {
    fn judge(&mut self, event: Event, plan: &Plan) -> Doubts {
        match event {
            Event::Link(LinkEvent::Changed(link)) => {
                let doubts = match self.links.get(&link.index) {
                    Some(before) => self.changed(before, &link, plan),
                    None => Doubts::default(),
                };
                self.links.insert(link.index, link);
                doubts
            }
            Event::PortChanged { index, port } => {
                let Some(before) = self.links.get(&index) else { return Doubts::default() };
                let now = Link { bridge_port: Some(port), ..before.clone() };
                let doubts = self.changed(before, &now, plan);
                self.links.insert(index, now);
                doubts
            }
            Event::Link(LinkEvent::Gone { index, name }) => {
                self.links.remove(&index);
                self.of_link(&name)
            }
            Event::Link(LinkEvent::Lost) => everything(),
            Event::FdbGone(row) => self.of_row(&row, true, plan),
            Event::FdbChanged(row) => self.of_row(&row, false, plan),
            // `vxlan0` has its program by TCX, or by a filter.
            Event::FilterGone { index, .. } => match self.links.get(&index) {
                Some(link) if link.name == ownership::VTEP => network(),
                Some(link) => self.of_link(&link.name),
                None => Doubts::default(),
            },
            Event::AddressChanged(_)
            | Event::AddressGone(_)
            | Event::RouteGone(_)
            | Event::NeighbourChanged(_)
            | Event::NeighbourGone(_) => Doubts::default(),
        }
    }
}

impl NetworkJudge {
    /// What to doubt when a link went: the veth of a member that left goes by our own hand.
    fn of_link(&self, name: &str) -> Doubts {
        if [ownership::VTEP, ownership::BRIDGE].contains(&name) {
            return everything();
        }
        let Some(link) = MemberLink::parse(name) else { return Doubts::default() };
        self.member_with(|record| record.link() == link).map(member).unwrap_or_default()
    }

    /// What to doubt when a link changed: one that was as it should be and is not any more.
    fn changed(&self, before: &Link, now: &Link, plan: &Plan) -> Doubts {
        // Its name was the only sign that it is ours.
        let name = before.name.as_str();
        if [ownership::VTEP, ownership::BRIDGE].contains(&name) {
            return if before.up && settings(before) != settings(now) { everything() } else { Doubts::default() };
        }
        let Some(link) = MemberLink::parse(name) else { return Doubts::default() };
        let Some(id) = self.member_with(|record| record.link() == link) else { return Doubts::default() };
        let Some(Object::Veth(_, veth)) = plan.get(Key::Veth(id)) else { return Doubts::default() };
        let is_sound = |link: &Link| {
            let is_port = link.controller.is_some() && link.bridge_port == Some(PORT);
            let mac = Some(veth.mac.near_end());
            link.up && link.mtu == veth.mtu && link.mac == mac && link.name == name && veth.bridged == is_port
        };
        if is_sound(before) && !is_sound(now) { member(id) } else { Doubts::default() }
    }

    /// What to doubt when an entry of a forwarding table went or changed: one that the plan has otherwise.
    fn of_row(&self, row: &FdbEvent, is_gone: bool, plan: &Plan) -> Doubts {
        let mac = row.entry.mac;
        let Some(address) = mac.member_address().map(Ipv4Addr::from) else { return Doubts::default() };
        let is_behind_vtep = self.links.get(&row.index).is_some_and(|link| link.name == ownership::VTEP);
        if row.is_of_bridge {
            let is_remotes = matches!(plan.get(Key::BridgeFdb(address)),
                Some(Object::BridgeFdb(_, spec)) if spec.mac == mac && (is_gone || !is_behind_vtep));
            if is_remotes {
                return network();
            }
            let Some(id) = self.member_with(|record| record.address == address) else { return Doubts::default() };
            let is_behind_veth = |link: &Link| matches!(plan.get(Key::Veth(id)), Some(Object::Veth(_, veth)) if link.name == veth.name.as_str());
            let is_locals = matches!(plan.get(Key::BridgePort(id)),
                Some(Object::BridgePort(_, spec)) if spec.mac == mac
                    && (is_gone || !self.links.get(&row.index).is_some_and(is_behind_veth)));
            return if is_locals { member(id) } else { Doubts::default() };
        }
        match plan.get(Key::Fdb(address)) {
            Some(Object::Fdb(_, spec)) if is_behind_vtep => {
                let is_ours = spec.mac == mac && row.entry.destination == Some(spec.vtep);
                if is_ours == is_gone { network() } else { Doubts::default() }
            }
            Some(_) | None => Doubts::default(),
        }
    }

    fn member_with(&self, is_it: impl Fn(&Record) -> bool) -> Option<MemberId> {
        let journal = self.journal.lock();
        let stays = |record: &&Record| record.network == self.network && !record.leaving && is_it(record);
        journal.records().values().find(stays).map(|record| record.id)
    }
}

/// What somebody set, without what follows from the other end.
fn settings(link: &Link) -> Link {
    Link { carrier: true, alias: None, lower: None, lower_nsid: None, ..link.clone() }
}

fn network() -> Doubts {
    Doubts { network: true, ..Doubts::default() }
}

fn everything() -> Doubts {
    Doubts { everything: true, ..Doubts::default() }
}
