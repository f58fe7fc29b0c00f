//! The underlay as it is now: whether this host still has its VTEP address, and whether what its networks send fits.
//!
//! The kernel keeps `vxlan0` when the address of its socket goes or the interface below gets a smaller MTU: packets are lost,
//! and no object of privnet's differs from its plan. So it is looked at when somebody asks, and when the kernel tells of a
//! change, for the log.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;

use super::facts::Host;
use crate::agent::door::error::{ControlError, ErrorCode};
use crate::agent::door::explain::{explain, problem};
use crate::agent::shared::Memberships;
use crate::link::{Address, Link, LinkKind, Topic, Watch};
use crate::model::Network;
use crate::model::mtu::{MIN_WIREGUARD_MTU_BYTES, VXLAN_OVERHEAD_BYTES, WIREGUARD_OVERHEAD_BYTES};

/// How often it is looked at when the kernel tells of nothing.
const LOOK: Duration = Duration::from_secs(30);
/// How long is waited after a change for those that belong to it: an address that is replaced is gone for a moment, and each
/// container that starts beside makes links here.
const GATHER: Duration = Duration::from_secs(1);

/// What is in the way of packets between this host and others, each with what to do; nothing where the VTEP is on the loopback.
pub async fn troubles(memberships: &Memberships) -> Vec<ControlError> {
    let host = &memberships.host;
    let vtep = host.facts.vtep;
    if vtep.is_loopback() {
        return Vec::new();
    }
    match seen(memberships).await {
        Ok(troubles) => troubles,
        Err(error) => vec![explain(&error)],
    }
}

async fn seen(memberships: &Memberships) -> anyhow::Result<Vec<ControlError>> {
    let (host, networks) = (&memberships.host, shared_networks(memberships));
    let (links, addresses) = look(host).await?;
    let troubles = of(host.facts.vtep, &links, &addresses, &networks);
    if troubles.is_empty() {
        return Ok(troubles);
    }
    // Links and addresses are two lists, and an interface may have been made anew between them. A read waits for this.
    let (links, addresses) = look(host).await?;
    Ok(of(host.facts.vtep, &links, &addresses, &networks))
}

async fn look(host: &Host) -> anyhow::Result<(Vec<Link>, Vec<Address>)> {
    Ok((host.netns.links.links().await?, host.netns.links.addresses().await?))
}

/// The networks that have members both on this host and on others: theirs are the packets that the underlay carries.
fn shared_networks(memberships: &Memberships) -> Vec<Network> {
    let here: BTreeSet<_> = memberships.journal().records().values().map(|record| record.network).collect();
    let own = &memberships.host.config.host;
    memberships.world(|world| {
        let is_elsewhere = |network| world.members(network).any(|member| member.host != *own);
        let shared = here.iter().filter(|network| is_elsewhere(**network));
        shared.filter_map(|network| world.networks().get(network).cloned()).collect()
    })
}

fn of(vtep: Ipv4Addr, links: &[Link], addresses: &[Address], networks: &[Network]) -> Vec<ControlError> {
    let error = |message: String, remedy: String| ControlError::new(ErrorCode::Internal, message, remedy);
    let holders = addresses.iter().filter(|address| address.address.addr() == vtep);
    let holders = holders.filter_map(|holder| links.iter().find(|link| link.index == holder.index));
    // Where several have it, packets go by one that can carry them; the loopback and its like only hold it.
    let Some(link) = holders.max_by_key(|link| (link.kind != LinkKind::Loopback, link.up && link.carrier, link.mtu))
    else {
        return vec![error(
            format!(
                "no interface of this host has the VTEP address {vtep} any more, so no packet comes from other hosts"
            ),
            format!("add {vtep} to its interface again, or restart the agent with the --vtep that the host has now"),
        )];
    };
    let (name, mut troubles) = (&link.name, Vec::new());
    if !link.up || !link.carrier {
        let state = if link.up { "has no carrier" } else { "is down" };
        troubles.push(error(
            format!("interface {name}, which has the VTEP address {vtep}, {state}"),
            format!("`ip link show {name}` says how it is; `ip link set {name} up`, or look at the cable"),
        ));
    }
    // One sentence for all networks of one MTU.
    let mut too_large: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    for network in networks {
        let needed = network.mtu + VXLAN_OVERHEAD_BYTES + WIREGUARD_OVERHEAD_BYTES;
        if link.kind != LinkKind::Loopback && link.mtu < needed {
            too_large.entry(needed).or_default().push(network.name.as_str());
        }
    }
    for (needed, names) in too_large {
        let (mtu, fits) = (link.mtu, link.mtu.saturating_sub(VXLAN_OVERHEAD_BYTES + WIREGUARD_OVERHEAD_BYTES));
        troubles.push(error(
            format!(
                "the MTU of {name} is {mtu}, and {} needs {needed}: larger packets to and from other hosts may be lost",
                names.join(", ")
            ),
            if fits < MIN_WIREGUARD_MTU_BYTES {
                format!("`ip link set {name} mtu {needed}`")
            } else {
                format!("`ip link set {name} mtu {needed}`, or attach to a network that was created with --mtu {fits}")
            },
        ));
    }
    troubles
}

/// Logs what is in the way of packets between hosts when it begins and when it is over. Never ends.
pub async fn watch_underlay(memberships: Arc<Memberships>) {
    let mut known = BTreeSet::new();
    if memberships.host.facts.vtep.is_loopback() {
        return std::future::pending().await;
    }
    loop {
        // First to listen, then to look.
        let watch = Watch::open(&memberships.host.netns.netns, &[Topic::Addresses]).await;
        let mut watch = watch.map_err(|error| tracing::debug!(%error, "the underlay is not watched")).ok();
        loop {
            match seen(&memberships).await {
                Ok(troubles) => {
                    let now: BTreeSet<String> = troubles.iter().map(problem).collect();
                    for line in now.difference(&known) {
                        tracing::warn!("underlay: {line}");
                    }
                    if now.is_empty() && !known.is_empty() {
                        tracing::info!("underlay: packets can come and go again");
                    }
                    known = now;
                }
                // What could not be looked at is as it was.
                Err(error) => tracing::debug!("the underlay cannot be looked at: {error:#}"),
            }
            let Some(listening) = &mut watch else { break };
            if let Ok(None) = tokio::time::timeout(LOOK, listening.next()).await {
                break;
            }
            tokio::time::sleep(GATHER).await;
            while let Some(Some(_)) = listening.next().now_or_never() {}
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::network::objects::tests::link;

    const VTEP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    fn said(links: &[Link], networks: &[Network]) -> Vec<String> {
        let address = format!("{VTEP}/24").parse().expect("an address");
        let addresses = [Address { index: 2, address, is_plain: true }];
        of(VTEP, links, &addresses, networks).iter().map(problem).collect()
    }

    fn network(mtu: u32) -> Network {
        serde_json::from_value(serde_json::json!({
            "id": "pn-ffffd6a1-d05e-40ea-bf63-c4f8a75a9d8c", "name": format!("shop-{mtu}"), "vni": 8,
            "subnet": "10.241.0.0/22", "mtu": mtu, "created_unix_seconds": 2,
        }))
        .expect("a network")
    }

    #[test]
    fn an_underlay_without_the_address_or_down_or_too_small_is_named_and_one_that_will_do_is_not() {
        let sound = Link { mtu: 1500, ..link(2, "u0", LinkKind::Other(String::new())) };
        let networks = [network(1390), network(1190)];
        assert_eq!(said(std::slice::from_ref(&sound), &networks), [""; 0]);
        assert!(matches!(&said(&[], &networks)[..], [one] if one.contains("VTEP address 192.0.2.1")));
        for (there, word) in [
            (Link { up: false, carrier: false, ..sound.clone() }, "u0, which has the VTEP address 192.0.2.1, is down"),
            (Link { carrier: false, ..sound.clone() }, "has no carrier"),
        ] {
            assert!(matches!(&said(&[there], &networks)[..], [one] if one.contains(word)), "{word}");
        }
        let smaller = Link { mtu: 1499, ..sound.clone() };
        let told = said(&[smaller], &networks);
        assert!(matches!(&told[..], [one] if one.contains("u0 is 1499, and shop-1390 needs 1500")), "{told:?}");
        let told = said(&[Link { mtu: 1299, ..sound.clone() }], &networks);
        assert_eq!(told.len(), 2, "{told:?}");
        assert_eq!(said(&[Link { mtu: 1300, ..sound }], &[network(1190)]), [""; 0], "it just fits");
    }
}
