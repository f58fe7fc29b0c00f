//! The `unreachable` route in the app netns: while the tunnel is down, private traffic leaves by no other interface.

use std::net::Ipv4Addr;

use anyhow::Result;
use ipnet::Ipv4Net;

use super::Managed;
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::scan::MemberScan;
use crate::link::{self, AbsentIsDone, Route, RouteEvent, RouteTarget};
use crate::model::MemberId;
use crate::topology::ownership::BACKSTOP_METRIC;
use crate::topology::{Before, State, kind, spec};

/// `RTPROT_STATIC` of include/uapi/linux/rtnetlink.h: what our routes say of their origin.
pub(super) const STATIC: u8 = 4;

impl Managed for kind::Backstop {
    async fn observe_member(scan: &MemberScan<'_>, state: &mut State) -> Result<()> {
        if let Some(prefix) = prefix(scan.app_routes().await?, scan.record.address) {
            state.see::<Self>(scan.record.id, Ok(spec::Backstop { prefix }));
        }
        Ok(())
    }

    async fn make(net: &LocalNetwork, member: MemberId, before: Before<'_, Self::Spec>, to: &Self::Spec) -> Result<()> {
        let namespaces = net.namespaces_of(member).await?;
        let app = namespaces.existing_app()?;
        if let Some(other) = before.spec() {
            app.links.del_route(&route(other.prefix)).await.absent_is_done()?;
        }
        match app.links.add_route(&route(to.prefix)).await {
            // The very same is there: of a record that was lost, say.
            Err(link::Error::AlreadyExists(_))
                if prefix(&app.links.routes().await?, net.record(member)?.address).is_some() =>
            {
                Ok(())
            }
            other => Ok(other?),
        }
    }

    async fn remove(net: &LocalNetwork, member: MemberId, before: Before<'_, Self::Spec>) -> Result<()> {
        if let (Some(app), Some(spec)) = (&net.namespaces_of(member).await?.app, before.spec()) {
            app.links.del_route(&route(spec.prefix)).await.absent_is_done()?;
        }
        Ok(())
    }
}

/// The prefix of the member's backstop, when it is there.
pub(super) fn prefix(routes: &[Route], member: Ipv4Addr) -> Option<Ipv4Net> {
    let is_backstop = |route: &&Route| {
        route.target == RouteTarget::Unreachable
            && route.metric == BACKSTOP_METRIC
            && route.destination.contains(&member)
    };
    routes.iter().find(is_backstop).map(|route| route.destination)
}

/// Whether a route that is gone was the backstop of `prefix`.
pub fn was(gone: &RouteEvent, prefix: Ipv4Net) -> bool {
    !gone.is_local && gone.metric == BACKSTOP_METRIC && gone.destination == prefix
}

const fn route(prefix: Ipv4Net) -> Route {
    Route { destination: prefix, target: RouteTarget::Unreachable, metric: BACKSTOP_METRIC, protocol: STATIC }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backstop_is_recognized_and_a_strangers_route_is_none() {
        let network: Ipv4Net = "10.240.0.0/22".parse().expect("valid");
        let inside = Ipv4Addr::new(10, 240, 0, 2);
        assert_eq!(prefix(&[route(network)], inside), Some(network));
        let strangers = [
            Route { metric: 100, ..route(network) },
            Route { target: RouteTarget::Link { index: 2, gateway: None }, ..route(network) },
            route("10.241.0.0/22".parse().expect("valid")),
        ];
        assert_eq!(prefix(&strangers, inside), None);
    }
}
