//! The `unreachable` routes in the app netns to addresses whose members have left: a connection to one fails at once.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::Result;
use ipnet::Ipv4Net;

use super::{Managed, backstop};
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::scan::MemberScan;
use crate::link::{self, AbsentIsDone, Route, RouteEvent, RouteTarget};
use crate::model::MemberId;
use crate::topology::ownership::DEPARTED_METRIC;
use crate::topology::{Before, State, kind, spec};

impl Managed for kind::Departed {
    async fn observe_member(scan: &MemberScan<'_>, state: &mut State) -> Result<()> {
        let routes = scan.app_routes().await?;
        let subnet = scan.net().subnet().or_else(|| backstop::prefix(routes, scan.record.address));
        let addresses = subnet.map(|subnet| departed(routes, subnet)).unwrap_or_default();
        if !addresses.is_empty() {
            state.see::<Self>(scan.record.id, Ok(spec::Departed { addresses: Arc::new(addresses) }));
        }
        Ok(())
    }

    async fn make(net: &LocalNetwork, member: MemberId, before: Before<'_, Self::Spec>, to: &Self::Spec) -> Result<()> {
        change(net, member, before.spec(), &to.addresses).await
    }

    async fn remove(net: &LocalNetwork, member: MemberId, before: Before<'_, Self::Spec>) -> Result<()> {
        change(net, member, before.spec(), &BTreeSet::new()).await
    }
}

async fn change(
    net: &LocalNetwork,
    member: MemberId,
    from: Option<&spec::Departed>,
    to: &BTreeSet<Ipv4Addr>,
) -> Result<()> {
    // With the namespace its routes are gone.
    let Some(links) = net.app_links(member).await? else { return Ok(()) };
    let none = BTreeSet::new();
    let from = from.map_or(&none, |spec| spec.addresses.as_ref());
    for address in from.difference(to) {
        links.del_route(&route(*address)).await.absent_is_done()?;
    }
    for address in to.difference(from) {
        match links.add_route(&route(*address)).await {
            Ok(()) | Err(link::Error::AlreadyExists(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The addresses of `subnet` that our routes say are of departed members.
pub fn departed(routes: &[Route], subnet: Ipv4Net) -> BTreeSet<Ipv4Addr> {
    let ours = routes.iter().filter(|route| {
        route.target == RouteTarget::Unreachable
            && route.metric == DEPARTED_METRIC
            && route.destination.prefix_len() == 32
    });
    ours.map(|route| route.destination.addr()).filter(|address| subnet.contains(address)).collect()
}

/// Whether a route that is gone was one of ours to one of these addresses.
pub fn was(gone: &RouteEvent, addresses: &BTreeSet<Ipv4Addr>) -> bool {
    let is_ours = !gone.is_local && gone.metric == DEPARTED_METRIC && gone.destination.prefix_len() == 32;
    is_ours && addresses.contains(&gone.destination.addr())
}

fn route(address: Ipv4Addr) -> Route {
    let destination = address.into();
    Route { destination, target: RouteTarget::Unreachable, metric: DEPARTED_METRIC, protocol: backstop::STATIC }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_to_departed_members_are_recognized_and_a_strangers_route_is_none() {
        let subnet: Ipv4Net = "10.240.0.0/22".parse().expect("valid");
        let address = Ipv4Addr::new(10, 240, 0, 9);
        assert_eq!(departed(&[route(address)], subnet), BTreeSet::from([address]));
        let strangers = [
            Route { metric: u32::MAX, ..route(address) },
            Route { destination: subnet, ..route(address) },
            route(Ipv4Addr::new(10, 241, 0, 9)),
        ];
        assert_eq!(departed(&strangers, subnet), BTreeSet::new());
    }
}
