//! In a network netns: the members' veths, `vxlan0`, `br0`, forwarding entries, and the programs' filters.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::{Judge, Listening, member};
use crate::agent::host::journal::{Record, SharedJournal};
use crate::agent::network::handle::Doubts;
use crate::agent::network::objects::bridge::is_sound_port;
use crate::link::{Event, FdbEvent, Link, LinkEvent, Links, Topic, Watch};
use crate::model::{MemberId, NetworkId};
use crate::netns::Netns;
use crate::topology::ownership::{self, MemberLink};
use crate::topology::{Key, Object, Plan};

/// Wakes the worker when something goes or changes in a network netns that should be there.
pub async fn watch(netns: Netns, network: NetworkId, journal: Arc<SharedJournal>, listening: Listening) {
    let Ok(watch) = Watch::open(&netns, &[Topic::Neighbours, Topic::Filters, Topic::Rules]).await else { return };
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
            Event::RulesChanged => network(),
            Event::RulesRestored
            | Event::AddressChanged(_)
            | Event::AddressGone(_)
            | Event::RouteAdded(_)
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
            let bridge = self.links.values().find(|link| link.name == ownership::BRIDGE);
            let is_port = link.controller.is_some() && link.controller == bridge.map(|bridge| bridge.index);
            let has_place =
                if veth.bridged { is_port && is_sound_port(link, bridge) } else { link.controller.is_none() };
            let mac = Some(veth.mac.near_end());
            link.up && link.plain && link.mtu == veth.mtu && link.mac == mac && link.name == name && has_place
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

/// What somebody set, without what follows: only of `vxlan0` the carrier is set.
fn settings(link: &Link) -> Link {
    let carrier = link.carrier || link.name != ownership::VTEP;
    Link { carrier, alias: None, lower: None, lower_nsid: None, ..link.clone() }
}

fn network() -> Doubts {
    Doubts { network: true, ..Doubts::default() }
}

fn everything() -> Doubts {
    Doubts { everything: true, ..Doubts::default() }
}

#[cfg(test)]
mod tests {
    use privnet_ebpf::net::MacAddr;

    use super::*;
    use crate::agent::host::journal::Journal;
    use crate::agent::host::journal::tests::record;
    use crate::agent::network::objects::bridge::PORT;
    use crate::agent::network::objects::tests::link;
    use crate::link::{BridgePort, FdbEntry, LinkKind};
    use crate::model::PrivateKey;
    use crate::topology::spec;

    const BRIDGE: u32 = 2;
    const VTEP: u32 = 3;
    const VETH: u32 = 5;
    const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 3);
    const REMOTE_HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

    /// The record of the first member, whose slot is the first.
    fn own() -> Record {
        Record { slot: Some(0), ..record() }
    }

    fn mac() -> MacAddr {
        MacAddr::of_member(own().address.octets(), 1)
    }

    fn remote_mac() -> MacAddr {
        MacAddr::of_member(REMOTE.octets(), 1)
    }

    fn plan() -> Plan {
        let (id, mut plan) = (own().id, Plan::default());
        let veth = spec::Veth {
            name: own().link().name(),
            binding_name: ownership::binding_veth(own().index),
            mac: mac(),
            mtu: 1450,
            bridged: true,
        };
        plan.insert(Object::Veth(id, veth));
        plan.insert(Object::BridgePort(id, spec::BridgePort { mac: mac() }));
        plan.insert(Object::Fdb(REMOTE, spec::Fdb { mac: remote_mac(), vtep: REMOTE_HOST }));
        plan.insert(Object::BridgeFdb(REMOTE, spec::BridgeFdb { mac: remote_mac() }));
        plan
    }

    fn veth() -> Link {
        let name = own().link().name();
        Link {
            mac: Some(mac().near_end()),
            controller: Some(BRIDGE),
            bridge_port: Some(PORT),
            ..link(VETH, name.as_str(), LinkKind::Veth)
        }
    }

    /// Of a namespace with `br0`, `vxlan0` and the member's veth, as they should be.
    fn judge() -> (NetworkJudge, tempfile::TempDir) {
        let directory = tempfile::tempdir().expect("a directory");
        let mut journal = Journal::open(directory.path()).expect("a journal");
        assert_eq!(journal.add(record(), &PrivateKey::from_random([7; 32])).expect("a record").slot, own().slot);
        let links = [
            link(BRIDGE, ownership::BRIDGE, LinkKind::Bridge),
            Link { controller: Some(BRIDGE), bridge_port: Some(PORT), ..link(VTEP, ownership::VTEP, LinkKind::Tun) },
            veth(),
        ];
        let links = links.into_iter().map(|link| (link.index, link)).collect();
        let journal = Arc::new(SharedJournal::new(journal));
        (NetworkJudge { network: own().network, journal, links }, directory)
    }

    fn doubts(event: Event) -> Doubts {
        let (mut judge, _directory) = judge();
        judge.judge(event, &plan())
    }

    fn changed(link: Link) -> Event {
        Event::Link(LinkEvent::Changed(link))
    }

    #[test]
    fn a_members_veth_is_doubted_when_it_was_as_it_should_be_and_is_not_any_more() {
        for broken in [
            Link { up: false, ..veth() },
            Link { plain: false, ..veth() },
            Link { mtu: 1400, ..veth() },
            Link { mac: Some(mac()), ..veth() },
            Link { controller: None, bridge_port: None, ..veth() },
            Link { controller: Some(9), ..veth() },
            Link { name: "other".to_owned(), ..veth() },
            Link { bridge_port: Some(BridgePort { learning: true, ..PORT }), ..veth() },
            Link { bridge_port: Some(BridgePort { isolated: true, ..PORT }), ..veth() },
        ] {
            assert_eq!(doubts(changed(broken.clone())), member(own().id), "{broken:?}");
        }
        assert_eq!(doubts(changed(veth())), Doubts::default());
        let closed = BridgePort { forwarding: false, ..PORT };
        assert_eq!(doubts(Event::PortChanged { index: VETH, port: closed }), member(own().id));
        assert_eq!(doubts(Event::PortChanged { index: VETH, port: PORT }), Doubts::default());
        assert_eq!(doubts(Event::PortChanged { index: 99, port: closed }), Doubts::default(), "a stranger's");
    }

    #[test]
    fn a_veth_is_none_of_a_bridge_in_the_datapath_without_one() {
        let (mut judge, _directory) = judge();
        let mut plan = plan();
        let Some(Object::Veth(id, planned)) = plan.get(Key::Veth(own().id)).cloned() else { panic!("planned") };
        plan.insert(Object::Veth(id, spec::Veth { bridged: false, ..planned }));
        let free = Link { controller: None, bridge_port: None, ..veth() };
        judge.links.insert(VETH, free.clone());
        assert_eq!(judge.judge(changed(Link { controller: Some(9), ..free }), &plan), member(id));
    }

    #[test]
    fn what_is_set_at_vxlan0_or_br0_is_doubted_and_what_follows_is_not() {
        let (judge, _directory) = judge();
        let (bridge, vtep) = (judge.links[&BRIDGE].clone(), judge.links[&VTEP].clone());
        assert_eq!(doubts(changed(Link { carrier: false, ..vtep.clone() })), everything(), "protodown");
        assert_eq!(doubts(changed(Link { plain: false, ..vtep.clone() })), everything());
        assert_eq!(doubts(changed(Link { up: false, ..bridge.clone() })), everything());
        assert_eq!(doubts(changed(Link { carrier: false, ..bridge })), Doubts::default(), "of its ports");
        assert_eq!(doubts(changed(Link { alias: Some("x".to_owned()), ..vtep })), Doubts::default());
        let gone = |name: &str| Event::Link(LinkEvent::Gone { index: 1, name: name.to_owned() });
        assert_eq!(doubts(gone(ownership::VTEP)), everything());
        assert_eq!(doubts(gone(veth().name.as_str())), member(own().id));
        assert_eq!(doubts(gone("s0")), Doubts::default());
        assert_eq!(doubts(Event::Link(LinkEvent::Lost)), everything());
    }

    #[test]
    fn filters_rules_and_rows_are_doubted_where_the_plan_has_them() {
        assert_eq!(doubts(Event::FilterGone { index: VTEP, handle: 0 }), network());
        assert_eq!(doubts(Event::FilterGone { index: VETH, handle: 1 }), member(own().id));
        assert_eq!(doubts(Event::FilterGone { index: 99, handle: 1 }), Doubts::default());
        assert_eq!(doubts(Event::RulesChanged), network());
        assert_eq!(doubts(Event::RulesRestored), Doubts::default(), "as the agent does");
        let entry = FdbEntry { mac: remote_mac(), destination: Some(REMOTE_HOST), permanent: true };
        let row = FdbEvent { index: VTEP, is_of_bridge: false, entry };
        assert_eq!(doubts(Event::FdbGone(row)), network());
        assert_eq!(doubts(Event::FdbChanged(row)), Doubts::default(), "as the agent adds it");
        let elsewhere = FdbEntry { destination: Some(Ipv4Addr::new(192, 0, 2, 99)), ..entry };
        assert_eq!(doubts(Event::FdbChanged(FdbEvent { entry: elsewhere, ..row })), network());
        let of_bridge = FdbEvent { is_of_bridge: true, ..row };
        assert_eq!(doubts(Event::FdbGone(of_bridge)), network());
        assert_eq!(doubts(Event::FdbChanged(FdbEvent { index: VETH, ..of_bridge })), network(), "behind another port");
        let local = FdbEntry { mac: mac(), destination: None, permanent: false };
        let local = FdbEvent { index: VETH, is_of_bridge: true, entry: local };
        assert_eq!(doubts(Event::FdbGone(local)), member(own().id));
        assert_eq!(doubts(Event::FdbChanged(local)), Doubts::default());
        assert_eq!(doubts(Event::FdbChanged(FdbEvent { index: VTEP, ..local })), member(own().id));
    }
}
