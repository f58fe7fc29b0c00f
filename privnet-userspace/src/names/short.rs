//! Names of ours without the suffix, as programs ask for them that use no search list.
//!
//! A name is ours when its last label is the id of an app or of a network: it is answered here, be it that there is none. The
//! readable name of an app or of a network may be a top-level domain as well (`shop`, `dev`, `app`): it is answered here
//! where it exists, and is another server's to answer where it does not. So is a type of an app that the client belongs to
//! (`backend`), which comes after an app of that name.

use super::answer::QueryType;
use super::forward::{id, text};
use super::zone::{DnsClient, Zone, Zones};
use crate::model::{AppName, ContainerType, NetworkId};

/// What DNSKEY (48) and DS (43) are asked for: whether a zone is signed. They, SOA and NS belong to a zone and not to a name.
const OF_ZONES: [QueryType; 4] = [QueryType::Soa, QueryType::Ns, QueryType::Other(43), QueryType::Other(48)];

/// Where a name without the suffix may be found.
pub(super) struct Short<'a> {
    /// Whether its last label may be an app: in each of the client's networks.
    pub(super) in_app: bool,
    /// Whether its last label may be a type of the client's own apps: in each of the client's networks.
    pub(super) in_own_apps: bool,
    /// The network that its last label is.
    pub(super) in_network: Option<(NetworkId, &'a Zone)>,
    /// Whether it is ours also where it is nowhere.
    pub(super) is_ours: bool,
}

/// Reads the last label; nothing when it can be none of ours.
pub(super) fn read<'a>(
    zones: &'a Zones,
    client: &'a DnsClient,
    labels: &[&'a [u8]],
    kind: QueryType,
) -> Option<Short<'a>> {
    let (last, rest) = labels.split_last()?;
    let last = text(last)?;
    if is_id(last, "ap-") {
        return Some(Short { in_app: true, in_own_apps: false, in_network: None, is_ours: true });
    }
    if is_id(last, "pn-") {
        let network = id(last, "pn-").map(NetworkId::from_uuid);
        let in_network = network.and_then(|network| Some((network, zones.by_id(client, network)?)));
        return Some(Short { in_app: false, in_own_apps: false, in_network, is_ours: true });
    }
    // A validating resolver in the container asks this of every top-level domain.
    if rest.is_empty() && OF_ZONES.contains(&kind) {
        return None;
    }
    // A network alone has no address.
    let in_network = rest.last().and_then(|_| zones.by_name(client, last));
    // Another server would learn the app's id.
    let is_ours =
        in_network.is_some() && rest.last().and_then(|label| text(label)).is_some_and(|app| is_id(app, "ap-"));
    let in_app = last.parse::<AppName>().is_ok();
    let in_own_apps = !client.apps.is_empty() && last.parse::<ContainerType>().is_ok();
    (in_app || in_own_apps || in_network.is_some()).then_some(Short { in_app, in_own_apps, in_network, is_ours })
}

/// Whether a label is an id, in whatever spelling of its UUID: one that is not canonical names nothing, and says as much.
fn is_id(label: &str, prefix: &str) -> bool {
    label.strip_prefix(prefix).is_some_and(|rest| uuid::Uuid::try_parse(rest).is_ok())
}
