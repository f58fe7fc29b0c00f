//! The peers of a member's WireGuard device.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use anyhow::{Context, Result};
use ipnet::IpNet;

use super::Managed;
use super::device::device_of;
use crate::agent::network::local::LocalNetwork;
use crate::agent::network::scan::{MemberScan, SeenDevice};
use crate::model::{HostName, MemberId, PublicKey};
use crate::topology::{Before, Peer, PeerTable, State, kind, spec};
use crate::wireguard::{self, PeerChange, PeerState};

impl Managed for kind::Peers {
    /// Under which clocks the peers were made, only the record says.
    async fn observe_member(scan: &MemberScan<'_>, state: &mut State) -> Result<()> {
        let Some(SeenDevice::Sound(device, ..)) = device_of(scan).await? else { return Ok(()) };
        let made_under = &scan.record.clock_steps;
        let steps = |key| scan.net().stepped.get(key).and_then(|host| made_under.get(host)).copied().unwrap_or(0);
        let peers = device.peers.iter().map(|(key, peer)| (*key, observe(peer, steps(key))));
        state.see::<Self>(scan.record.id, Ok(spec::Peers { table: PeerTable::of(peers.collect()) }));
        Ok(())
    }

    async fn make(net: &LocalNetwork, member: MemberId, before: Before<'_, Self::Spec>, to: &Self::Spec) -> Result<()> {
        let none = PeerTable::of(BTreeMap::new());
        let (remove, set) = before.spec().map_or(&none, |spec| &spec.table).change_to(&to.table);
        let anew = remove.iter().filter(|key| to.table.get(key).is_some()).count();
        let peer = |(public_key, peer): (PublicKey, Peer)| wireguard::Peer {
            public_key,
            endpoint: peer.endpoint,
            allowed_ip: peer.allowed_ip,
        };
        let change = PeerChange { set: set.into_iter().map(peer).collect(), remove };
        let device = net.device(member).await?.context("the container's namespace is gone")?;
        device.change_peers(&change).await?;
        if anew > 0 {
            tracing::info!(network = %net.network, peers = anew, "the clock of a host stepped back: peers are created anew");
        }
        note_clock_steps(net, member, &to.table)
    }

    /// The device goes, or is made anew, in the same pass.
    async fn remove(_: &LocalNetwork, _: MemberId, _: Before<'_, Self::Spec>) -> Result<()> {
        Ok(())
    }
}

fn observe(peer: &PeerState, clock_steps: u64) -> Peer {
    // No plan contains this address: what is elsewhere, or altered, is set right.
    const NOWHERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
    let endpoint = match peer.endpoint {
        Some(SocketAddr::V4(endpoint)) if !peer.is_altered => endpoint,
        Some(SocketAddr::V4(_) | SocketAddr::V6(_)) | None => NOWHERE,
    };
    let allowed_ip = match (peer.allowed_ips.len(), peer.allowed_ips.first()) {
        (1, Some(IpNet::V4(only))) if only.prefix_len() == 32 => only.addr(),
        (_, _) => Ipv4Addr::UNSPECIFIED,
    };
    Peer { endpoint, allowed_ip, clock_steps }
}

/// Notes under which clocks the peers were made, after they were: an agent that dies in between makes them once more.
fn note_clock_steps(net: &LocalNetwork, member: MemberId, peers: &PeerTable) -> Result<()> {
    let record = net.record(member)?;
    if net.stepped.is_empty() && record.clock_steps.is_empty() {
        return Ok(());
    }
    let stepped = peers.iter().filter(|(_, peer)| peer.clock_steps > 0);
    let steps: BTreeMap<HostName, u64> =
        stepped.filter_map(|(key, peer)| Some((net.stepped.get(key)?.clone(), peer.clock_steps))).collect();
    if steps.is_empty() && record.clock_steps.is_empty() {
        return Ok(());
    }
    net.journal.lock().note_clock_steps(record.id, steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_is_altered_or_has_another_endpoint_or_address_is_what_no_plan_contains() {
        let (address, endpoint) = (Ipv4Addr::new(10, 240, 0, 2), "10.240.0.2:51820".parse().expect("valid"));
        let peer = |endpoint, allowed_ips: &[&str]| PeerState {
            endpoint,
            allowed_ips: allowed_ips.iter().map(|net| net.parse().expect("valid")).collect(),
            ..PeerState::default()
        };
        let v4 = Some(SocketAddr::V4(endpoint));
        let sound = Peer { endpoint, allowed_ip: address, clock_steps: 3 };
        assert_eq!(observe(&peer(v4, &["10.240.0.2/32"]), 3), sound);
        let other = Some("[2001:db8::1]:51820".parse().expect("valid"));
        for seen in [
            peer(None, &["10.240.0.2/32"]),
            peer(other, &["10.240.0.2/32"]),
            peer(v4, &[]),
            peer(v4, &["10.240.0.0/24"]),
            peer(v4, &["10.240.0.2/32", "10.240.0.3/32"]),
            PeerState { is_altered: true, ..peer(v4, &["10.240.0.2/32"]) },
        ] {
            assert_ne!(observe(&seen, 3), sound, "{seen:?}");
        }
    }
}
