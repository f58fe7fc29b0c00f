//! Why a container is told what it is told, in a sentence. Pure.

use std::sync::Arc;
use std::time::Instant;

use crate::agent::world::World;
use crate::dns::{Resolved, ResponseCode, Source};
use crate::model::{App, Forwarding, HostName, Member, MemberState, NameOf, Network, NetworkId, counted};
use crate::names::{Name, SUFFIX};

/// Why a container of host `own` in `networks` is told `told` about `asked`.
#[must_use]
pub fn reason(
    world: &World,
    own: &HostName,
    networks: &[NetworkId],
    asked: &Name,
    kind: &str,
    told: &Resolved,
) -> String {
    match &told.source {
        Source::Forwarded(Forwarding::Host) if !told.upstreams.is_empty() => {
            let servers: Vec<String> = told.upstreams.iter().map(ToString::to_string).collect();
            let servers = servers.join(", ");
            return format!(
                "it is no name of the container's networks: {servers} are asked from its namespace, as its resolv.conf said before"
            );
        }
        Source::Forwarded(Forwarding::Host) => {
            return "it is no name of the container's networks: the host's resolvers are asked".to_owned();
        }
        Source::Forwarded(Forwarding::Servers(servers)) => {
            let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
            return format!("it is no name of the container's networks: {} are asked", servers.join(", "));
        }
        Source::Forwarded(Forwarding::Off) => {
            return "it is no name of the container's networks, and a network of the container forwards no others"
                .to_owned();
        }
        Source::Snapshot => {}
    }
    if told.is_stale {
        return "the names on this host are too old, or were never told: the agent must confirm them".to_owned();
    }
    if !told.records.is_empty() {
        return format!("the container's networks have it, with {}", counted(told.records.len(), "record"));
    }
    if told.rcode.as_deref() == Some(ResponseCode::NoError.name()) {
        return format!("the name exists, and has no {kind} record");
    }
    missing(world, own, networks, asked)
}

/// Why a name of ours does not exist for a container of host `own` in `networks`.
fn missing(world: &World, own: &HostName, networks: &[NetworkId], asked: &Name) -> String {
    let text = asked.to_lowercase().to_string();
    if text.ends_with(".in-addr.arpa.") {
        return "no member has this address".to_owned();
    }
    let below = text.strip_suffix(SUFFIX).unwrap_or(&text).trim_end_matches('.');
    // A name that ends with an app was looked for in all networks of the container; one of them says enough.
    let is_app = below.len() + 1 == text.len() && below.rsplit('.').next().is_some_and(|last| last.starts_with("ap-"));
    let below = match networks.first() {
        Some(network) if is_app => &format!("{below}.{network}"),
        Some(_) | None => below,
    };
    let mut labels = below.rsplit('.');
    let label = labels.next().unwrap_or_default();
    let is_meant = |network: &&Network| network.id.to_string() == label || network.name.as_str() == label;
    let meant: Vec<&Network> = world.networks().values().filter(is_meant).collect();
    let Some(network) = meant.iter().find(|network| networks.contains(&network.id)) else {
        return match meant.first() {
            Some(network) => {
                format!("the container is not in network {}, so its names do not exist for it", network.name)
            }
            None => format!("no network has the id or name {label}"),
        };
    };
    let Some(app) = labels.next() else { return "there is no such name".to_owned() };
    let Ok(App { id, .. }) = app.parse::<App>() else {
        return format!("{app} is no app's name or id, ap-<uuid>");
    };
    let members = world.members(network.id).map(Arc::as_ref);
    let names = members.flat_map(|member| member.each_name().map(move |name| (name, member)));
    let names: Vec<(NameOf<'_>, &Member)> = names.filter(|(name, _)| name.container.app == id).collect();
    if names.is_empty() {
        return format!("{app} has no container in network {}", network.name);
    }
    let rest: Vec<&str> = labels.collect();
    let is_of = |(name, _): &&(NameOf<'_>, &Member)| {
        let (kind, number) = (name.container.kind.to_string(), name.container.number.to_string());
        rest.iter().filter(|label| !label.starts_with('_')).all(|label| **label == kind || **label == number)
    };
    match names.iter().find(is_of).map(|(name, member)| (name.state, *member)) {
        Some((_, Member { host, .. })) if world.is_draining(host) => {
            format!("host {host} is drained: its containers are about to leave")
        }
        Some((MemberState::Ready, member)) if world.is_held_off(member, own, Instant::now()) => format!(
            "its address, {}, was another container's a moment ago, and clients of this host may have it by that one's name: it \
             has its name once they cannot",
            member.address
        ),
        Some((MemberState::Attaching, _)) => "the container is being attached, and not ready yet".to_owned(),
        Some((MemberState::Draining, _)) => "the container is about to leave".to_owned(),
        Some((MemberState::Ready, _)) => {
            "there is no such name of this container: see `privnet domain-names`".to_owned()
        }
        None => format!("{app} has other containers in network {}: see `privnet domain-names`", network.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::names::desired::tests::{APP, SHOP, own, world};

    fn told(source: Source, rcode: Option<&str>, records: &[&str], is_stale: bool) -> Resolved {
        let records = records.iter().map(|record| (*record).to_owned()).collect();
        Resolved {
            source,
            rcode: rcode.map(str::to_owned),
            records,
            age_seconds: Some(1.0),
            is_stale,
            upstreams: Vec::new(),
        }
    }

    #[test]
    fn the_reason_is_the_first_thing_that_stands_in_the_way() {
        let world = world(&["ready", "attaching", "draining"]);
        let inside: Vec<NetworkId> = vec![SHOP.parse().expect("an id")];
        let outside = Vec::new();
        let nxdomain = || told(Source::Snapshot, Some("nxdomain"), &[], false);
        let other_app = APP.replace("ap-a7", "ap-b7");
        for (networks, name, told, expected) in [
            (
                &inside,
                "example.org".to_owned(),
                told(Source::Forwarded(Forwarding::Host), None, &[], false),
                "the host's resolvers are asked",
            ),
            (
                &inside,
                "example.org".to_owned(),
                Resolved {
                    upstreams: vec!["127.0.0.11:53".parse().expect("an address")],
                    ..told(Source::Forwarded(Forwarding::Host), None, &[], false)
                },
                "127.0.0.11:53 are asked from its namespace",
            ),
            (
                &inside,
                "example.org".to_owned(),
                told(Source::Forwarded(Forwarding::Off), None, &[], false),
                "forwards no others",
            ),
            (&inside, format!("{APP}.shop.{SUFFIX}"), told(Source::Snapshot, Some("noerror"), &["x"], true), "too old"),
            (
                &inside,
                format!("{APP}.shop.{SUFFIX}"),
                told(Source::Snapshot, Some("noerror"), &["x"], false),
                "with 1 record",
            ),
            (
                &inside,
                format!("{APP}.shop.{SUFFIX}"),
                told(Source::Snapshot, Some("noerror"), &[], false),
                "no A record",
            ),
            (&inside, format!("x.{SUFFIX}"), nxdomain(), "no network has the id or name x"),
            (&outside, format!("{APP}.SHOP.{SUFFIX}"), nxdomain(), "not in network shop"),
            (&outside, format!("{APP}.{SHOP}.{SUFFIX}"), nxdomain(), "not in network shop"),
            (&inside, format!("ap-web.shop.{SUFFIX}"), nxdomain(), "ap-web is no app's name or id"),
            (&inside, format!("web.shop.{SUFFIX}"), nxdomain(), "web has no container in network shop"),
            (&inside, format!("{other_app}.shop.{SUFFIX}"), nxdomain(), "has no container in network shop"),
            (&inside, format!("2.web.{APP}.shop.{SUFFIX}"), nxdomain(), "not ready yet"),
            (&inside, format!("3.web.{APP}.shop.{SUFFIX}"), nxdomain(), "about to leave"),
            (&inside, format!("9.web.{APP}.shop.{SUFFIX}"), nxdomain(), "has other containers"),
            (&inside, format!("_http._udp.1.web.{APP}.shop.{SUFFIX}"), nxdomain(), "no such name of this container"),
            (&inside, "9.0.240.10.in-addr.arpa".to_owned(), nxdomain(), "no member has this address"),
            (&inside, format!("9.web.{APP}"), nxdomain(), "has other containers in network shop"),
            (&inside, format!("9.web.{APP}.{SHOP}"), nxdomain(), "has other containers in network shop"),
            (&outside, format!("{APP}.{SHOP}"), nxdomain(), "not in network shop"),
            (&inside, other_app.clone(), nxdomain(), "has no container in network shop"),
        ] {
            let found = reason(&world, &own(), networks, &name.parse().expect("a name"), "A", &told);
            assert!(found.contains(expected), "{name}: {found}");
        }
    }
}
