//! In a container's binding netns: a member's carrier, its address, routes and neighbours.

use super::{Judge, Listening, member};
use crate::agent::host::journal::Record;
use crate::agent::network::handle::Doubts;
use crate::link::{Event, Link, LinkEvent, Links, Neighbour, Topic, Watch};
use crate::netns::Netns;
use crate::topology::{Key, Object, Plan, ownership};

/// Wakes the worker when something of a member's goes or changes in its binding netns.
pub async fn watch(netns: Netns, record: Record, listening: Listening) {
    let topics = [Topic::Addresses, Topic::Routes, Topic::Rules, Topic::Neighbours];
    // The eBPF datapath has no neighbours of its own, and the carrier's come and go by ARP.
    let is_bridged = listening.expected.plan().contains(Key::Neighbours(record.id));
    let topics = if is_bridged { topics.as_slice() } else { &topics[..3] };
    let Ok(watch) = Watch::open(&netns, topics).await else { return };
    let Ok(links) = Links::open(&netns).await else { return };
    let Ok(there) = links.links().await else { return };
    drop((netns, links));
    let own = ownership::binding_veth(record.index).to_string();
    let own_link = there.into_iter().find(|link| link.name == own);
    listening.follow(watch, BindingJudge { record, own, own_link, is_over: false }, Doubts::default()).await;
}

struct BindingJudge {
    record: Record,
    own: String,
    own_link: Option<Link>,
    is_over: bool,
}

impl Judge for BindingJudge {
    fn judge(&mut self, event: Event, plan: &Plan) -> Doubts {
        let id = self.record.id;
        let own = self.own_link.as_ref().map(|link| link.index);
        let doubted = match event {
            Event::Link(LinkEvent::Changed(link)) => self.changed(link, plan),
            Event::Link(LinkEvent::Gone { name, .. }) => {
                // The next carrier may be in another namespace: this one lives while it is listened to, whoever took its name.
                self.is_over |= name == self.own;
                name == self.own
            }
            Event::Link(LinkEvent::Lost) => true,
            Event::AddressGone(address) => Some(address.index) == own && address.address.addr() == self.record.address,
            Event::AddressChanged(address) => {
                Some(address.index) == own && address.address.addr() == self.record.address && !address.is_plain
            }
            Event::RouteGone(route) => matches!((plan.get(Key::Carrier(id)), own),
                (Some(Object::Carrier(_, carrier)), Some(own)) if route.may_be_of(own, carrier.address)),
            Event::NeighbourGone(row) => self.differs(&row, true, plan),
            Event::NeighbourChanged(row) => self.differs(&row, false, plan),
            Event::RulesChanged => true,
            Event::RulesRestored
            | Event::RouteAdded(_)
            | Event::PortChanged { .. }
            | Event::FdbChanged(_)
            | Event::FdbGone(_)
            | Event::FilterGone { .. } => false,
        };
        if doubted { member(id) } else { Doubts::default() }
    }

    fn is_over(&self) -> bool {
        self.is_over
    }
}

impl BindingJudge {
    /// Whether the carrier, which was as it should be, is not any more.
    fn changed(&mut self, link: Link, plan: &Plan) -> bool {
        let is_own = link.name == self.own || self.own_link.as_ref().is_some_and(|own| own.index == link.index);
        if !is_own {
            return false;
        }
        let Some(Object::Veth(_, veth)) = plan.get(Key::Veth(self.record.id)) else { return false };
        let is_sound = |link: &Link| {
            let is_free = link.up && link.plain && link.controller.is_none();
            is_free && link.mtu == veth.mtu && link.mac == Some(veth.mac) && link.name == self.own
        };
        let was_sound = self.own_link.as_ref().is_some_and(is_sound);
        let doubted = was_sound && !is_sound(&link);
        self.own_link = Some(link);
        doubted
    }

    /// Whether a neighbour that the carrier should know for good is gone or another.
    fn differs(&self, row: &Neighbour, is_gone: bool, plan: &Plan) -> bool {
        let Some(Object::Neighbours(_, spec)) = plan.get(Key::Neighbours(self.record.id)) else { return false };
        let Some(mac) = spec.macs.get(&row.address) else { return false };
        let is_own = self.own_link.as_ref().is_some_and(|link| link.index == row.index);
        is_own && (is_gone || !row.permanent || row.mac != Some(*mac))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use ipnet::Ipv4Net;
    use privnet_ebpf::net::MacAddr;

    use super::*;
    use crate::agent::host::journal::tests::record;
    use crate::agent::network::objects::tests::link;
    use crate::link::{Address, LinkKind, RouteEvent};
    use crate::topology::spec;

    const CARRIER: u32 = 3;
    const PEER: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 3);

    fn net(text: &str) -> Ipv4Net {
        text.parse().expect("a network")
    }

    fn own_mac() -> MacAddr {
        MacAddr::of_member(record().address.octets(), 1)
    }

    fn peers_mac() -> MacAddr {
        MacAddr::of_member(PEER.octets(), 1)
    }

    fn plan() -> Plan {
        let (id, mut plan) = (record().id, Plan::default());
        let veth = spec::Veth {
            name: record().link().name(),
            binding_name: ownership::binding_veth(record().index),
            mac: own_mac(),
            mtu: 1450,
            bridged: true,
        };
        plan.insert(Object::Veth(id, veth));
        plan.insert(Object::Carrier(id, spec::Carrier { address: net("10.240.0.2/22") }));
        plan.insert(Object::Neighbours(id, spec::Neighbours { macs: Arc::new([(PEER, peers_mac())].into()) }));
        plan
    }

    fn own_link() -> Link {
        let own = ownership::binding_veth(record().index);
        Link { mac: Some(own_mac()), ..link(CARRIER, own.as_str(), LinkKind::Veth) }
    }

    fn judge() -> BindingJudge {
        BindingJudge { record: record(), own: own_link().name, own_link: Some(own_link()), is_over: false }
    }

    fn doubts(event: Event) -> bool {
        let doubts = judge().judge(event, &plan());
        assert!(!doubts.everything && !doubts.network, "one member's trouble");
        doubts.exist()
    }

    fn changed(link: Link) -> Event {
        Event::Link(LinkEvent::Changed(link))
    }

    #[test]
    fn a_carrier_is_doubted_when_it_was_as_it_should_be_and_is_not_any_more() {
        for broken in [
            Link { up: false, ..own_link() },
            Link { plain: false, ..own_link() },
            Link { mtu: 1400, ..own_link() },
            Link { mac: Some(peers_mac()), ..own_link() },
            Link { controller: Some(9), ..own_link() },
            Link { name: "other".to_owned(), ..own_link() },
        ] {
            assert!(doubts(changed(broken.clone())), "{broken:?}");
            // As the agent makes it: what was never sound is not doubted.
            let mut fresh = BindingJudge { own_link: None, ..judge() };
            assert!(!fresh.judge(changed(broken.clone()), &plan()).exist(), "{broken:?}");
        }
        assert!(!doubts(changed(own_link())));
        assert!(!doubts(changed(Link { carrier: false, ..own_link() })), "what follows from the other end");
        assert!(!doubts(changed(Link { up: false, ..link(7, "s0", LinkKind::Veth) })), "a stranger's");
        assert!(doubts(Event::Link(LinkEvent::Lost)));
    }

    #[test]
    fn a_watcher_whose_carrier_is_gone_is_over_and_another_links_end_is_nothing() {
        let mut own = judge();
        assert!(own.judge(Event::Link(LinkEvent::Gone { index: CARRIER, name: own_link().name }), &plan()).exist());
        assert!(own.is_over());
        let mut other = judge();
        assert!(!other.judge(Event::Link(LinkEvent::Gone { index: 7, name: "s0".to_owned() }), &plan()).exist());
        assert!(!other.is_over());
    }

    #[test]
    fn addresses_routes_and_rules_are_doubted_where_they_are_the_carriers() {
        let address = |index, text: &str, is_plain| Address { index, address: net(text), is_plain };
        assert!(doubts(Event::AddressGone(address(CARRIER, "10.240.0.2/22", true))));
        assert!(doubts(Event::AddressChanged(address(CARRIER, "10.240.0.2/22", false))));
        assert!(!doubts(Event::AddressChanged(address(CARRIER, "10.240.0.2/22", true))), "as the agent adds it");
        assert!(!doubts(Event::AddressGone(address(7, "10.240.0.2/22", true))));
        assert!(!doubts(Event::AddressGone(address(CARRIER, "10.240.0.9/22", true))));
        let route = |destination: &str, index| {
            Event::RouteGone(RouteEvent { is_local: false, destination: net(destination), metric: 0, index })
        };
        assert!(doubts(route("10.240.0.0/22", Some(CARRIER))));
        assert!(doubts(route("10.240.0.0/22", None)), "another took its place");
        assert!(!doubts(route("10.240.0.0/22", Some(7))));
        assert!(!doubts(route("198.51.100.0/24", Some(CARRIER))));
        assert!(doubts(Event::RulesChanged));
        assert!(!doubts(Event::RulesRestored), "as the agent does");
    }

    #[test]
    fn a_neighbour_is_doubted_where_the_plan_has_it_otherwise() {
        let row = Neighbour { index: CARRIER, address: PEER, mac: Some(peers_mac()), permanent: true };
        assert!(doubts(Event::NeighbourGone(row)));
        assert!(doubts(Event::NeighbourChanged(Neighbour { permanent: false, ..row })));
        assert!(doubts(Event::NeighbourChanged(Neighbour { mac: Some(own_mac()), ..row })));
        assert!(!doubts(Event::NeighbourChanged(row)), "as the agent adds it");
        assert!(!doubts(Event::NeighbourGone(Neighbour { index: 7, ..row })));
        assert!(!doubts(Event::NeighbourGone(Neighbour { address: Ipv4Addr::new(10, 240, 0, 9), ..row })));
    }
}
