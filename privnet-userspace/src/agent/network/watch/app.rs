//! In a member's container: its `wg<n>`, the routes, the guard's filters, and interfaces that appear.

use std::collections::BTreeSet;

use super::{Judge, Listening, member};
use crate::agent::host::journal::Record;
use crate::agent::network::handle::Doubts;
use crate::agent::network::objects::{backstop, departed};
use crate::datapath::clsact_handle;
use crate::link::{Event, LOOPBACK_INDEX, Link, LinkEvent, Links, RouteEvent, Topic, Watch};
use crate::netns::Netns;
use crate::topology::{Key, Object, Plan};

/// Wakes the worker when an interface appears in a member's app netns, or something of the member's goes or changes there.
/// `has_fault`: the pass found something in the member's way, which may have gone before the watch is opened.
pub async fn watch(netns: Netns, record: Record, has_fault: bool, listening: Listening) {
    let Ok(watch) = Watch::open(&netns, &[Topic::Addresses, Topic::Routes, Topic::Filters, Topic::Rules]).await else {
        return;
    };
    let Ok(links) = Links::open(&netns).await else { return };
    // What came before the watch was opened was seen by the pass, or is seen here.
    let Ok(there) = links.links().await else { return };
    drop((netns, links));
    let own = record.interface().to_string();
    let known = there.iter().map(|link| link.index).collect();
    let lo_is_up = there.iter().any(|link| link.index == LOOPBACK_INDEX && link.up);
    let own_link = there.into_iter().find(|link| link.name == own);
    let mut first = Doubts { unguarded: [record.id].into(), ..Doubts::default() };
    if !lo_is_up || has_fault {
        first.add(member(record.id));
    }
    listening.follow(watch, AppJudge { record, known, own, own_link, lo_is_up }, first).await;
}

struct AppJudge {
    record: Record,
    known: BTreeSet<u32>,
    own: String,
    own_link: Option<Link>,
    lo_is_up: bool,
}

impl Judge for AppJudge {
    fn judge(&mut self, event: Event, plan: &Plan) -> Doubts {
        let id = self.record.id;
        let own = self.own_link.as_ref().map(|link| link.index);
        let doubted = match event {
            Event::Link(LinkEvent::Changed(link)) if self.known.insert(link.index) => {
                let is_own = link.name == self.own;
                if is_own {
                    self.own_link = Some(link);
                    return Doubts::default();
                }
                return Doubts { unguarded: [id].into(), ..Doubts::default() };
            }
            Event::Link(LinkEvent::Changed(link)) => return self.changed(link, plan),
            Event::Link(LinkEvent::Gone { index, name }) => {
                self.known.remove(&index);
                name == self.own
            }
            Event::Link(LinkEvent::Lost) => true,
            Event::AddressGone(address) => Some(address.index) == own && address.address.addr() == self.record.address,
            Event::AddressChanged(address) => {
                Some(address.index) == own && address.address.addr() == self.record.address && !address.is_plain
            }
            Event::RouteGone(route) => self.is_ours(route, own, plan) || self.is_in_the_way(route, own, plan),
            Event::RouteAdded(route) => !self.is_ours(route, own, plan) && self.is_in_the_way(route, own, plan),
            Event::FilterGone { index, handle } => Some(index) != own && is_guards(handle, plan),
            // The container's own: what they lead astray is a problem, until they do not.
            Event::RulesChanged | Event::RulesRestored => true,
            Event::NeighbourChanged(_)
            | Event::NeighbourGone(_)
            | Event::PortChanged { .. }
            | Event::FdbChanged(_)
            | Event::FdbGone(_) => false,
        };
        if doubted { member(id) } else { Doubts::default() }
    }
}

impl AppJudge {
    /// What to doubt when a link that was as it should be is not any more, or the loopback went up or down.
    fn changed(&mut self, link: Link, plan: &Plan) -> Doubts {
        let id = self.record.id;
        if link.index == LOOPBACK_INDEX {
            let was_up = std::mem::replace(&mut self.lo_is_up, link.up);
            return if was_up == link.up { Doubts::default() } else { member(id) };
        }
        let Some(own) = self.own_link.as_mut().filter(|own| own.index == link.index) else { return Doubts::default() };
        let was = std::mem::replace(own, link);
        let Some(Object::Device(_, device)) = plan.get(Key::Device(id)) else { return Doubts::default() };
        let is_sound = |link: &Link| link.up && link.plain && link.mtu == device.mtu && link.name == self.own;
        let mut doubts = if is_sound(&was) && !is_sound(own) { member(id) } else { Doubts::default() };
        if was.up && !own.up {
            doubts.add(Doubts { interrupted: [id].into(), ..member(id) });
        }
        doubts
    }

    fn is_ours(&self, route: RouteEvent, own: Option<u32>, plan: &Plan) -> bool {
        let id = self.record.id;
        let of_address = matches!((plan.get(Key::Tunnel(id)), own),
            (Some(Object::Tunnel(_, tunnel)), Some(own)) if route.may_be_of(own, tunnel.address));
        let of_backstop = matches!(plan.get(Key::Backstop(id)),
            Some(Object::Backstop(_, spec)) if backstop::was(&route, spec.prefix));
        let of_departed = matches!(plan.get(Key::Departed(id)),
            Some(Object::Departed(_, spec)) if departed::was(&route, &spec.addresses));
        of_address || of_backstop || of_departed
    }

    /// Whether a route of the container's leads a part of the network past it, or did.
    fn is_in_the_way(&self, route: RouteEvent, own: Option<u32>, plan: &Plan) -> bool {
        let Some(Object::Tunnel(_, tunnel)) = plan.get(Key::Tunnel(self.record.id)) else { return false };
        // One of no link was added by the agent, or takes hold of what was the agent's and is doubted for that.
        !route.is_local && route.index.is_some_and(|by| Some(by) != own) && tunnel.address.contains(&route.destination)
    }
}

/// Whether a filter with this handle, or all filters, can be the guard's.
fn is_guards(handle: u32, plan: &Plan) -> bool {
    let Some(Object::Programs(programs)) = plan.get(Key::Programs) else { return false };
    handle == 0 || handle == clsact_handle(programs.vni)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use ipnet::Ipv4Net;
    use privnet_ebpf::net::Vni;

    use super::*;
    use crate::agent::host::journal::tests::record;
    use crate::agent::network::objects::tests::link;
    use crate::link::{Address, LinkKind};
    use crate::model::PublicKey;
    use crate::topology::spec;

    const WG: u32 = 4;

    fn net(text: &str) -> Ipv4Net {
        text.parse().expect("a network")
    }

    fn plan() -> Plan {
        let (id, mut plan) = (record().id, Plan::default());
        let prefix = net("10.240.0.0/22");
        plan.insert(Object::Programs(spec::Programs { vni: Vni::MIN, prefix }));
        plan.insert(Object::Backstop(id, spec::Backstop { prefix }));
        let addresses = std::sync::Arc::new([Ipv4Addr::new(10, 240, 0, 9)].into());
        plan.insert(Object::Departed(id, spec::Departed { addresses }));
        let device = spec::Device {
            interface: record().interface(),
            public_key: PublicKey::new([1; 32]),
            listen_port: 51_820,
            mtu: 1390,
        };
        plan.insert(Object::Device(id, device));
        plan.insert(Object::Tunnel(id, spec::Tunnel { address: net("10.240.0.2/22") }));
        plan
    }

    fn own_link() -> Link {
        Link { mtu: 1390, ..link(WG, "wg0", LinkKind::Tun) }
    }

    fn judge() -> AppJudge {
        let known = [LOOPBACK_INDEX, 2, WG].into();
        AppJudge { record: record(), known, own: "wg0".to_owned(), own_link: Some(own_link()), lo_is_up: true }
    }

    fn doubts(event: Event) -> bool {
        judge().judge(event, &plan()).exist()
    }

    fn gone(is_local: bool, destination: &str, metric: u32, index: Option<u32>) -> Event {
        Event::RouteGone(RouteEvent { is_local, destination: net(destination), metric, index })
    }

    #[test]
    fn a_route_of_ours_that_goes_is_doubted_and_a_strangers_is_not() {
        for ours in [
            gone(false, "10.240.0.0/22", 0, Some(WG)),
            gone(true, "10.240.0.2/32", 0, Some(WG)),
            gone(true, "10.240.3.255/32", 0, Some(WG)),
            // One that another took the place of.
            gone(false, "10.240.0.0/22", 0, None),
            gone(false, "10.240.0.0/22", u32::MAX, None),
            gone(false, "10.240.0.9/32", u32::MAX - 1, None),
        ] {
            assert!(doubts(ours.clone()), "{ours:?}");
        }
        for other in [
            gone(false, "198.51.100.0/24", 0, Some(2)),
            gone(false, "10.240.0.0/24", 0, Some(WG)),
            gone(true, "172.17.0.2/32", 0, Some(2)),
            // What the agent takes away itself.
            gone(false, "10.240.0.8/32", u32::MAX - 1, None),
        ] {
            assert!(!doubts(other.clone()), "{other:?}");
        }
    }

    #[test]
    fn a_route_past_the_network_is_doubted_and_one_of_ours_or_elsewhere_is_not() {
        let added = |is_local, destination: &str, metric, index| {
            Event::RouteAdded(RouteEvent { is_local, destination: net(destination), metric, index })
        };
        assert!(doubts(added(false, "10.240.0.0/22", 0, Some(2))));
        assert!(doubts(added(false, "10.240.1.0/24", 100, Some(2))));
        assert!(doubts(gone(false, "10.240.1.0/24", 100, Some(2))), "the problem is over");
        for other in [
            added(false, "10.240.0.0/22", 0, Some(WG)),
            added(false, "10.240.0.0/22", u32::MAX, None),
            added(false, "10.240.0.9/32", u32::MAX - 1, None),
            added(false, "0.0.0.0/0", 0, Some(2)),
            added(false, "198.51.100.0/24", 0, Some(2)),
            added(true, "10.240.0.2/32", 0, Some(2)),
        ] {
            assert!(!doubts(other.clone()), "{other:?}");
        }
        assert!(doubts(Event::RulesChanged) && doubts(Event::RulesRestored));
    }

    #[test]
    fn an_address_of_ours_is_doubted_when_it_goes_or_loses_what_the_kernel_gave_it() {
        let address = |index, text: &str, is_plain| Address { index, address: net(text), is_plain };
        let own = address(WG, "10.240.0.2/22", true);
        assert!(doubts(Event::AddressGone(own)));
        assert!(doubts(Event::AddressChanged(Address { is_plain: false, ..own })));
        assert!(!doubts(Event::AddressChanged(own)), "as the agent adds it");
        assert!(!doubts(Event::AddressGone(address(2, "10.240.0.2/22", true))));
        assert!(!doubts(Event::AddressGone(address(WG, "10.240.0.3/22", true))));
    }

    #[test]
    fn a_link_is_doubted_when_it_was_as_it_should_be_and_is_not_any_more() {
        let changed = |link| Event::Link(LinkEvent::Changed(link));
        let down = Link { up: false, ..own_link() };
        assert!(doubts(changed(down.clone())));
        assert_eq!(judge().judge(changed(down.clone()), &plan()).interrupted, [record().id].into());
        let narrow = judge().judge(changed(Link { mtu: 1300, ..own_link() }), &plan());
        assert_eq!((narrow.exist(), narrow.interrupted), (true, [].into()));
        assert!(doubts(changed(Link { plain: false, ..own_link() })));
        assert!(!doubts(changed(own_link())));
        assert!(doubts(Event::Link(LinkEvent::Lost)));
        // As the agent makes it: down first, then up.
        let mut fresh = AppJudge { own_link: None, known: [LOOPBACK_INDEX].into(), ..judge() };
        assert_eq!(fresh.judge(changed(down.clone()), &plan()), Doubts::default());
        assert_eq!(fresh.judge(changed(own_link()), &plan()), Doubts::default());
        assert!(fresh.judge(changed(down), &plan()).exist());
        let eth = link(7, "eth0", LinkKind::Veth);
        assert_eq!(fresh.judge(changed(eth), &plan()).unguarded, [record().id].into());
    }

    #[test]
    fn a_filter_of_the_guard_is_doubted_and_another_is_not() {
        let ours = clsact_handle(Vni::MIN);
        assert!(doubts(Event::FilterGone { index: 2, handle: ours }));
        assert!(doubts(Event::FilterGone { index: 2, handle: 0 }), "all of them");
        assert!(!doubts(Event::FilterGone { index: 2, handle: 1 }));
        assert!(!doubts(Event::FilterGone { index: WG, handle: ours }), "which is not foreign");
    }
}
