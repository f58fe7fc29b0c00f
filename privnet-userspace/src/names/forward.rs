//! What the labels left of the suffix stand for.

use super::catalogue::MemberNames;
use super::zone::{App, DnsClient, Kind, Zone, Zones, has_port};
use crate::model::ids::ContainerNumber;
use crate::model::{AppId, AppName, NetworkId, Protocol};

/// The type that is meant when none is given.
const DEFAULT_TYPE: &str = "web";

/// What exists under a name, or why nothing does.
pub(super) enum Found<'a> {
    /// The suffix itself.
    Apex,
    /// Below the suffix, in no network of the client's.
    NoNetwork,
    /// Something of this network, whose own name is the asked one without its first `skip` labels.
    InNetwork { network: NetworkId, zone: &'a Zone, skip: usize, place: Place<'a> },
}

/// What a name within a network stands for.
pub(super) enum Place<'a> {
    /// Nothing, nor does anything below it.
    Nothing,
    /// Nothing, but something below it.
    Bare,
    /// The network.
    Network,
    /// Containers.
    Containers(Set<'a>),
    /// A port that containers declared.
    Service { of: Set<'a>, name: &'a str, protocol: Protocol },
    /// The list of a network's members, or of one app's.
    Inventory(Option<AppId>),
}

/// Containers of one type, or one of them.
#[derive(Clone, Copy)]
pub(super) struct Set<'a> {
    kind: Option<&'a Kind>,
    one: Option<&'a MemberNames>,
}

impl<'a> Set<'a> {
    pub(super) fn iter(self) -> impl Iterator<Item = &'a MemberNames> {
        self.kind.into_iter().flat_map(Kind::values).chain(self.one)
    }
}

/// Looks up what `labels`, those left of the suffix, stand for.
pub(super) fn find<'a>(zones: &'a Zones, client: &'a DnsClient, labels: &[&'a [u8]]) -> Found<'a> {
    let Some((network, rest)) = labels.split_last() else { return Found::Apex };
    let Some((network, zone)) = text(network).and_then(|label| network_of(zones, client, label)) else {
        return Found::NoNetwork;
    };
    Found::InNetwork { network, zone, skip: rest.len(), place: in_network(zone, rest) }
}

/// A network by its id, or by its name where that says which.
fn network_of<'a>(zones: &'a Zones, client: &'a DnsClient, label: &str) -> Option<(NetworkId, &'a Zone)> {
    match id(label, "pn-").map(NetworkId::from_uuid) {
        Some(id) => zones.by_id(client, id).map(|zone| (id, zone)),
        None => zones.by_name(client, label),
    }
}

/// What `labels`, those left of a network's own, stand for in it.
pub(super) fn in_network<'a>(zone: &'a Zone, labels: &[&'a [u8]]) -> Place<'a> {
    let Some((last, rest)) = labels.split_last() else { return Place::Network };
    if is_inventory(last, rest) {
        return Place::Inventory(None);
    }
    let Some(app_id) = text(last).and_then(app_of) else { return Place::Nothing };
    let Some(app) = zone.apps.get(&app_id) else { return Place::Nothing };
    match rest.split_last() {
        Some((label, rest)) if is_inventory(label, rest) => Place::Inventory(Some(app_id)),
        _ => in_app(app, rest),
    }
}

/// What `labels` stand for in an app of the asker's own, which they leave out: its last one has to be a type, since a number
/// alone names nothing.
pub(super) fn in_own_app<'a>(zone: &'a Zone, app: AppId, labels: &[&'a [u8]]) -> Place<'a> {
    let is_type = plain_last(labels).is_some_and(|(label, _)| !starts_with_digit(label));
    zone.apps.get(&app).filter(|_| is_type).map_or(Place::Nothing, |app| in_app(app, labels))
}

/// An app by its id, or by its name, from which the id follows.
fn app_of(label: &str) -> Option<AppId> {
    match id(label, "ap-") {
        Some(uuid) => Some(AppId::from_uuid(uuid)),
        None => label.parse::<AppName>().ok().map(|name| name.id()),
    }
}

/// `[_<port>.][_<protocol>.][<number>.][<type>.]`
fn in_app<'a>(app: &'a App, labels: &[&'a [u8]]) -> Place<'a> {
    let (kind, rest) = match plain_last(labels) {
        Some((label, rest)) if !starts_with_digit(label) => match app.get(label) {
            Some(kind) => (Some(kind), rest),
            None => return Place::Nothing,
        },
        Some(_) | None => (app.get(DEFAULT_TYPE), labels),
    };
    let (set, rest) = match plain_last(rest) {
        None => (Set { kind, one: None }, rest),
        Some((label, rest)) => match number(label).and_then(|number| kind?.get(&number)) {
            Some(one) => (Set { kind: None, one: Some(one) }, rest),
            None => return Place::Nothing,
        },
    };
    in_set(set, rest)
}

fn in_set<'a>(set: Set<'a>, labels: &[&'a [u8]]) -> Place<'a> {
    let Some((last, rest)) = labels.split_last() else { return Place::Containers(set) };
    let protocol = match *last {
        b"_tcp" => Protocol::Tcp,
        b"_udp" => Protocol::Udp,
        _ => return Place::Nothing,
    };
    match rest {
        [] if set.iter().any(|member| has_port(member, protocol)) => Place::Bare,
        [service] => {
            let name = text(service).and_then(|label| label.strip_prefix('_'));
            let declared = |name: &&str| {
                set.iter().any(|m| m.ports.iter().any(|p| p.protocol == protocol && p.name.as_str() == *name))
            };
            name.filter(declared).map_or(Place::Nothing, |name| Place::Service { of: set, name, protocol })
        }
        _ => Place::Nothing,
    }
}

fn is_inventory(label: &[u8], rest: &[&[u8]]) -> bool {
    label == b"_members" && rest.is_empty()
}

/// The last label, if it is not a service's.
fn plain_last<'a, 'b>(labels: &'b [&'a [u8]]) -> Option<(&'a str, &'b [&'a [u8]])> {
    let (last, rest) = labels.split_last()?;
    // What is no text is looked up as the empty label, which nothing bears.
    (!last.starts_with(b"_")).then(|| (text(last).unwrap_or(""), rest))
}

fn starts_with_digit(label: &str) -> bool {
    label.starts_with(|c: char| c.is_ascii_digit())
}

/// A number as it is displayed: no sign, no leading zero.
fn number(label: &str) -> Option<ContainerNumber> {
    let canonical = !label.starts_with(['0', '+']);
    canonical.then(|| label.parse().ok()).flatten()
}

pub(super) fn text(label: &[u8]) -> Option<&str> {
    std::str::from_utf8(label).ok()
}

/// The UUID of an id in its canonical form, the case aside.
pub(super) fn id(label: &str, prefix: &str) -> Option<uuid::Uuid> {
    const HYPHENATED: usize = 36;
    let rest = label.strip_prefix(prefix).filter(|rest| rest.len() == HYPHENATED)?;
    uuid::Uuid::try_parse(rest).ok()
}
