//! In a container's binding netns: a member's carrier, its address, routes and neighbours.

use super::{Judge, Listening, member};
use crate::agent::host::journal::Record;
use crate::agent::network::handle::Doubts;
use crate::link::{Event, Link, LinkEvent, Links, Neighbour, Topic, Watch};
use crate::netns::Netns;
use crate::topology::{Key, Object, Plan, ownership};

/// Wakes the worker when something of a member's goes or changes in its binding netns.
pub async fn watch(netns: Netns, record: Record, listening: Listening) {
    let topics = [Topic::Addresses, Topic::Routes, Topic::Neighbours];
    // The eBPF datapath has no neighbours of its own, and the carrier's come and go by ARP.
    let is_bridged = listening.expected.plan().contains(Key::Neighbours(record.id));
    let topics = if is_bridged { topics.as_slice() } else { &topics[..2] };
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
            Event::PortChanged { .. } | Event::FdbChanged(_) | Event::FdbGone(_) | Event::FilterGone { .. } => false,
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
        let is_sound =
            |link: &Link| link.up && link.mtu == veth.mtu && link.mac == Some(veth.mac) && link.name == self.own;
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
