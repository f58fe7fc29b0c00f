//! A plain model of the zone: every name that exists for a client, written out, with its records. No cleverness.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::model::{Port, Protocol};
use crate::names::of_member;

/// What exists: name in lower case, then the records' text. A name without records is there and empty.
pub type Model = BTreeMap<String, BTreeSet<String>>;

/// Writes out everything below the suffix and the subnets for `client`, without the apexes' SOA and NS.
pub fn write_out(catalogue: &Catalogue, client: &DnsClient) -> Model {
    let mut model = Model::new();
    let suffix = "private-network.internal.";
    model.insert(suffix.to_owned(), BTreeSet::from([format!("A {SERVER}")]));
    for id in &client.networks {
        let Some(network) = catalogue.get(id) else { continue };
        let labels = [Some(id.to_string()), alias(catalogue, client, *id)];
        for apex in labels.into_iter().flatten().map(|label| format!("{label}.{suffix}")) {
            add(&mut model, &apex, None);
            add(&mut model, &format!("_members.{apex}"), None);
            for member in network.members.values() {
                members_names(&mut model, *id, &apex, member);
            }
        }
        for third in 0..=255 {
            let zone = format!("{third}.240.10.in-addr.arpa.");
            if network.head.subnet.contains(&Ipv4Addr::new(10, 240, third, 0)) {
                model.entry(zone).or_default();
            }
        }
        for member in network.members.values().filter(|member| !member.further) {
            let [a, b, c, d] = member.address.octets();
            add(&mut model, &format!("{d}.{c}.{b}.{a}.in-addr.arpa."), Some(pointer(*id, member)));
        }
    }
    model
}

/// The network's own name, unless another network of the client's bears it too.
fn alias(catalogue: &Catalogue, client: &DnsClient, id: NetworkId) -> Option<String> {
    let name = |id: &NetworkId| catalogue.get(id).map(|network| network.head.name.to_string());
    let own = name(&id)?;
    let bearers = client.networks.iter().filter(|id| name(id).as_ref() == Some(&own)).count();
    (bearers == 1).then_some(own)
}

fn members_names(model: &mut Model, id: NetworkId, apex: &str, member: &MemberNames) {
    let (app, kind, number) = (member.container.app, &member.container.kind, member.container.number);
    let mut stems = vec![format!("{kind}.{app}.{apex}"), format!("{number}.{kind}.{app}.{apex}")];
    if kind.as_str() == "web" {
        stems.extend([format!("{app}.{apex}"), format!("{number}.{app}.{apex}")]);
    }
    // An app exists with any of its containers, and so does the list of them.
    add(model, &format!("{app}.{apex}"), None);
    add(model, &format!("_members.{app}.{apex}"), None);
    for stem in stems {
        add(model, &stem, Some(format!("A {}", member.address)));
        for Port { name, protocol, number } in &member.ports {
            let protocol = match protocol {
                Protocol::Tcp => "_tcp",
                Protocol::Udp => "_udp",
            };
            add(model, &format!("{protocol}.{stem}"), None);
            let target = of_member(id, &member.container);
            add(model, &format!("_{name}.{protocol}.{stem}"), Some(format!("SRV {number} {target}")));
        }
    }
}

fn pointer(id: NetworkId, member: &MemberNames) -> String {
    format!("PTR {}", of_member(id, &member.container))
}

fn add(model: &mut Model, name: &str, record: Option<String>) {
    model.entry(name.to_owned()).or_default().extend(record);
}
