//! `guard` on every foreign interface of the app netns.

use anyhow::{Result, bail};

use super::Managed;
use super::attachment::is_attached;
use crate::agent::host::journal::Record;
use crate::agent::netns_links::NetnsLinks;
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::scan::MemberScan;
use crate::datapath::{self, Hook};
use crate::link::{Link, LinkKind};
use crate::model::{IfName, MemberId};
use crate::topology::{Before, State, kind, ownership, spec};

impl Managed for kind::Guard {
    async fn observe_member(scan: &MemberScan<'_>, state: &mut State) -> Result<()> {
        let (Some(app), Some(programs)) = (&scan.namespaces.app, scan.programs()) else { return Ok(()) };
        let (mut guarded, mut bare) = (0, Vec::new());
        for link in foreign(scan.record, scan.app_links().await?) {
            if is_guarded(app, link, &*programs.lock().await).await? {
                guarded += 1;
            } else {
                bare.push(link.name.clone());
            }
        }
        if let Some(found) = seen(guarded, &bare, scan.record.leaving) {
            state.see::<Self>(scan.record.id, found.as_ref().cloned().map_err(String::as_str));
        }
        Ok(())
    }

    async fn make(net: &LocalNetwork, member: MemberId, _: Before<'_, Self::Spec>, _: &Self::Spec) -> Result<()> {
        let record = net.record(member)?;
        let namespaces = net.namespaces_of(member).await?;
        let app = namespaces.existing_app()?;
        let programs = net.existing_programs()?;
        let programs = programs.lock().await;
        // One interface that cannot be guarded leaves no other one bare.
        let mut result = Ok(());
        for link in foreign(record, &app.links.links().await?) {
            result = result.and(guard(app, link, &programs).await);
        }
        result
    }

    async fn remove(net: &LocalNetwork, member: MemberId, _: Before<'_, Self::Spec>) -> Result<()> {
        let record = net.record(member)?;
        let namespaces = net.namespaces_of(member).await?;
        let (Some(app), Some(programs)) = (&namespaces.app, net.programs()) else { return Ok(()) };
        let programs = programs.lock().await;
        for link in foreign(record, &app.links.links().await?) {
            let Ok(name) = link.name.parse::<IfName>() else { continue };
            for hook in [Hook::GuardIngress, Hook::GuardEgress] {
                programs.detach(&app.netns, &name, hook).await?;
            }
        }
        Ok(())
    }
}

/// The guard as it is on so many interfaces, and missing on those with these names.
fn seen(guarded: usize, bare: &[String], leaving: bool) -> Option<Result<spec::Guard, String>> {
    match (guarded, bare) {
        // A member that leaves has no guard when no interface has it; one that stays needs none when there is no interface.
        (0, []) if leaving => None,
        (_, []) => Some(Ok(spec::Guard {})),
        (0, _) => None,
        (_, bare) => Some(Err(format!("not on {}", bare.join(", ")))),
    }
}

/// The interfaces of an app netns that are foreign to the member's network: neither the loopback nor its own `wg<n>`.
///
/// Those of the container's other networks are foreign too: Linux takes a packet for any of its addresses from any
/// interface, and a member of one network has no business with an address of another.
///
/// A device that is handed over is known by its alias also while another program gives it its name.
pub(in crate::agent) fn foreign<'a>(record: &Record, app_links: &'a [Link]) -> impl Iterator<Item = &'a Link> {
    let own = record.interface().to_string();
    let alias = record.handover.as_ref().map(|_| ownership::tunnel_alias(record.id));
    let is_handed_over = move |link: &Link| {
        alias.is_some() && link.alias == alias && matches!(link.kind, LinkKind::Wireguard | LinkKind::Tun)
    };
    app_links.iter().filter(move |link| link.kind != LinkKind::Loopback && link.name != own && !is_handed_over(link))
}

/// Whether an interface has both filters of `guard`.
async fn is_guarded(app: &NetnsLinks, link: &Link, programs: &datapath::Network) -> Result<bool> {
    Ok(is_attached(programs, app, link.index, &link.name, Hook::GuardIngress).await?
        && is_attached(programs, app, link.index, &link.name, Hook::GuardEgress).await?)
}

async fn guard(app: &NetnsLinks, link: &Link, programs: &datapath::Network) -> Result<()> {
    if is_guarded(app, link, programs).await? {
        return Ok(());
    }
    let Ok(name) = link.name.parse::<IfName>() else { bail!("interface {:?} cannot be guarded", link.name) };
    for hook in [Hook::GuardIngress, Hook::GuardEgress] {
        match programs.attach(&app.netns, &name, hook).await {
            Ok(()) => {}
            Err(datapath::Error::NoInterface { .. }) => {
                // It went meanwhile, as one of another network does when the container leaves that. Or it is there under
                // another name than we can read, and stays bare.
                if app.links.links().await?.iter().any(|there| there.index == link.index && there.name == link.name) {
                    bail!("interface {:?} cannot be guarded: its name is no text", link.name);
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::link;
    use super::*;
    use crate::agent::host::journal::tests::record;
    use crate::agent::host::journal::{Handover, Stage};

    #[test]
    fn every_interface_but_the_loopback_and_the_networks_own_is_foreign() {
        let links = [
            link(1, "lo", LinkKind::Loopback),
            link(2, "eth0", LinkKind::Veth),
            link(3, "wg0", LinkKind::Wireguard),
            link(4, "wg1", LinkKind::Wireguard),
        ];
        let names = |index| {
            let record = Record { index, ..record() };
            foreign(&record, &links).map(|link| link.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(0), ["eth0", "wg1"]);
        assert_eq!(names(1), ["eth0", "wg0"]);
    }

    #[test]
    fn a_device_that_is_handed_over_is_not_foreign_under_any_name_and_another_one_with_its_alias_is() {
        let alias = Some(ownership::tunnel_alias(record().id));
        let links = [
            Link { alias: alias.clone(), ..link(5, "pn0123456789ab", LinkKind::Tun) },
            Link { alias: alias.clone(), ..link(6, "eth0", LinkKind::Veth) },
            link(7, "wg1", LinkKind::Tun),
        ];
        let handover = Handover {
            digits: 7,
            stage: Stage::Given,
            given_to: None,
            interface: None,
            wishes: [].into(),
            is_unnamed: false,
            is_on_trust: false,
        };
        let names = |record: Record| foreign(&record, &links).map(|link| link.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(Record { handover: Some(handover.clone()), ..record() }), ["eth0", "wg1"]);
        assert_eq!(
            names(record()),
            ["pn0123456789ab", "eth0", "wg1"],
            "one that is not handed over is known by its name"
        );
        let arrived = Handover { stage: Stage::Arrived, interface: Some("wg1".parse().expect("valid")), ..handover };
        assert_eq!(names(Record { handover: Some(arrived), ..record() }), ["eth0"]);
    }

    #[test]
    fn a_guard_is_there_when_no_interface_is_bare_and_broken_when_some_are() {
        let bare = ["eth0".to_owned(), "eth1".to_owned()];
        assert_eq!(seen(2, &[], false), Some(Ok(spec::Guard {})));
        assert_eq!(seen(1, &bare, false), Some(Err("not on eth0, eth1".to_owned())));
        assert_eq!(seen(0, &bare, false), None, "it was never made");
        assert_eq!(seen(0, &[], false), Some(Ok(spec::Guard {})), "a member without interfaces needs none");
        assert_eq!(seen(0, &[], true), None, "and one that leaves has none left");
    }
}
