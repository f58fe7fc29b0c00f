//! From a wanted change and the peers that are there to the fewest steps between them. Pure; both backends use it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};

use super::{DeviceState, Error, Peer, PeerChange, PeerState};
use crate::model::PublicKey;

/// How long a session lasts at most (the WireGuard paper, section 6.1: Reject-After-Time).
pub const SESSION: Duration = Duration::from_secs(180);

/// One message to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The peer goes, with its address and its session.
    Remove(PublicKey),
    /// A peer that is not there comes.
    Add(Peer),
    /// A peer that was there, with a session, comes anew, and the device begins the next session by itself: the other end holds
    /// on to the one that is forgotten here, and would send into it for 15 s.
    Resume(Peer),
    /// A peer that is there moves to another endpoint; its session stays.
    Endpoint(PublicKey, SocketAddrV4),
    /// A peer that is there loses the preshared key and the keepalive that a stranger gave it; its session stays.
    Restore(PublicKey),
}

impl Step {
    /// The peer that the device is to begin a session with, after the step.
    pub(super) const fn begins_with(&self) -> Option<PublicKey> {
        match self {
            Self::Resume(peer) => Some(peer.public_key),
            Self::Remove(_) | Self::Add(_) | Self::Endpoint(..) | Self::Restore(_) => None,
        }
    }
}

/// The steps that make `change` of `observed`; none when it is so already.
///
/// A peer whose addresses are not exactly the wanted one is removed and added: taking a single address away from a peer
/// is not something that every kernel can do, and replacing its list loses packets of the others. Removals come first,
/// so that an address may pass from one peer to another within one change.
///
/// # Errors
/// [`Error::AddressTaken`] when two peers would hold one address in the end.
pub(super) fn steps(device: &str, observed: &DeviceState, change: &PeerChange) -> Result<Vec<Step>, Error> {
    let wanted: BTreeMap<PublicKey, Peer> = change.set.iter().map(|peer| (peer.public_key, *peer)).collect();
    let mut remaining: BTreeMap<PublicKey, &PeerState> =
        observed.peers.iter().map(|(key, peer)| (*key, peer)).collect();

    let wrong = observed.peers.iter().filter(|(key, state)| {
        wanted.get(key).is_some_and(|peer| state.allowed_ips != BTreeSet::from([host_prefix(peer.allowed_ip)]))
    });
    let going: BTreeSet<PublicKey> = change.remove.iter().copied().chain(wrong.map(|(key, _)| *key)).collect();
    let mut steps = Vec::new();
    let mut interrupted = BTreeSet::new();
    for key in going {
        if let Some(state) = remaining.remove(&key) {
            steps.push(Step::Remove(key));
            if state.last_handshake_age.is_some_and(|age| age < SESSION) {
                interrupted.insert(key);
            }
        }
    }

    let mut holders: BTreeMap<IpNet, PublicKey> =
        remaining.iter().flat_map(|(key, state)| state.allowed_ips.iter().map(|net| (*net, *key))).collect();
    for peer in wanted.values() {
        let holder = *holders.entry(host_prefix(peer.allowed_ip)).or_insert(peer.public_key);
        if holder != peer.public_key {
            let (device, address, wanted) = (device.to_owned(), peer.allowed_ip, peer.public_key);
            return Err(Error::AddressTaken { device, address, holder, wanted });
        }
        match remaining.get(&peer.public_key) {
            None if interrupted.contains(&peer.public_key) => steps.push(Step::Resume(*peer)),
            None => steps.push(Step::Add(*peer)),
            Some(state) => {
                if state.endpoint != Some(SocketAddr::V4(peer.endpoint)) {
                    steps.push(Step::Endpoint(peer.public_key, peer.endpoint));
                }
                if state.is_altered {
                    steps.push(Step::Restore(peer.public_key));
                }
            }
        }
    }
    Ok(steps)
}

/// `address` as a /32.
fn host_prefix(address: Ipv4Addr) -> IpNet {
    IpNet::V4(Ipv4Net::from(address))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(number: u8) -> PublicKey {
        PublicKey::new([number; 32])
    }

    fn peer(number: u8, host: u8) -> Peer {
        let allowed_ip = Ipv4Addr::new(10, 240, 0, host);
        Peer { public_key: key(number), endpoint: SocketAddrV4::new(allowed_ip, 51820), allowed_ip }
    }

    fn device(peers: &[Peer]) -> DeviceState {
        let mut device = DeviceState { public_key: None, listen_port: 51820, mark: 0, peers: BTreeMap::new() };
        peers.iter().for_each(|peer| apply(&mut device, &Step::Add(*peer)));
        device
    }

    /// What a device does with a step; adding moves an address silently, as the kernel does.
    fn apply(device: &mut DeviceState, step: &Step) {
        match step {
            Step::Remove(key) => drop(device.peers.remove(key).expect("only what is there is removed")),
            Step::Add(peer) | Step::Resume(peer) => {
                let net = host_prefix(peer.allowed_ip);
                device.peers.values_mut().for_each(|other| other.allowed_ips.retain(|held| *held != net));
                let state = PeerState {
                    endpoint: Some(peer.endpoint.into()),
                    allowed_ips: BTreeSet::from([net]),
                    ..PeerState::default()
                };
                assert!(device.peers.insert(peer.public_key, state).is_none(), "only what is absent is added");
            }
            Step::Endpoint(key, endpoint) => {
                device.peers.get_mut(key).expect("only what is there is moved").endpoint = Some((*endpoint).into());
            }
            Step::Restore(key) => device.peers.get_mut(key).expect("only what is there is restored").is_altered = false,
        }
    }

    fn set(peers: &[Peer]) -> PeerChange {
        PeerChange { set: peers.to_vec(), remove: Vec::new() }
    }

    #[test]
    fn what_is_right_already_is_not_touched() {
        let peers = [peer(1, 1), peer(2, 2)];
        assert_eq!(steps("wg0", &device(&peers), &set(&peers)).expect("valid"), []);
        assert_eq!(steps("wg0", &device(&peers[..1]), &set(&peers)).expect("valid"), [Step::Add(peers[1])]);
    }

    #[test]
    fn an_endpoint_that_differs_is_moved_without_losing_the_session() {
        let moved = Peer { endpoint: "10.240.0.1:51821".parse().expect("valid"), ..peer(1, 1) };
        let steps = steps("wg0", &device(&[peer(1, 1)]), &set(&[moved])).expect("valid");
        assert_eq!(steps, [Step::Endpoint(key(1), moved.endpoint)]);
    }

    #[test]
    fn a_peer_that_a_stranger_altered_is_restored_without_losing_the_session() {
        let mut there = device(&[peer(1, 1), peer(2, 2)]);
        there.peers.get_mut(&key(1)).expect("there").is_altered = true;
        let all = set(&[peer(1, 1), peer(2, 2)]);
        assert_eq!(steps("wg0", &there, &all).expect("valid"), [Step::Restore(key(1))]);
        apply(&mut there, &Step::Restore(key(1)));
        assert_eq!(steps("wg0", &there, &all).expect("valid"), []);
    }

    #[test]
    fn an_address_that_another_peer_holds_is_refused_unless_that_peer_goes() {
        let there = device(&[peer(1, 1)]);
        let thief = peer(2, 1);
        let refused = steps("wg0", &there, &set(&[thief])).expect_err("it is held");
        assert!(matches!(refused, Error::AddressTaken { holder, .. } if holder == key(1)), "{refused}");

        let heir = PeerChange { set: vec![thief], remove: vec![key(1)] };
        assert_eq!(steps("wg0", &there, &heir).expect("valid"), [Step::Remove(key(1)), Step::Add(thief)]);
    }

    #[test]
    fn two_new_peers_cannot_have_one_address() {
        assert!(steps("wg0", &device(&[]), &set(&[peer(1, 1), peer(2, 1)])).is_err());
        assert!(steps("wg0", &device(&[]), &set(&[peer(1, 1), peer(2, 2)])).is_ok());
    }

    #[test]
    fn a_peer_that_was_given_more_than_its_address_starts_again() {
        let mut there = device(&[peer(1, 1)]);
        let wide: IpNet = "0.0.0.0/0".parse().expect("valid");
        there.peers.get_mut(&key(1)).expect("there").allowed_ips.insert(wide);
        let steps = steps("wg0", &there, &set(&[peer(1, 1)])).expect("valid");
        assert_eq!(steps, [Step::Remove(key(1)), Step::Add(peer(1, 1))]);
    }

    #[test]
    fn a_peer_that_is_made_anew_resumes_a_session_that_it_had_and_begins_none_that_it_had_not() {
        let anew = PeerChange { set: vec![peer(1, 1)], remove: vec![key(1)] };
        for (age, expected) in [
            (None, Step::Add(peer(1, 1))),
            (Some(SESSION), Step::Add(peer(1, 1))),
            (Some(Duration::ZERO), Step::Resume(peer(1, 1))),
        ] {
            let mut there = device(&[peer(1, 1), peer(2, 2)]);
            there.peers.get_mut(&key(1)).expect("there").last_handshake_age = age;
            assert_eq!(steps("wg0", &there, &anew).expect("valid"), [Step::Remove(key(1)), expected]);
        }
    }

    #[test]
    fn two_peers_may_swap_addresses_in_one_change() {
        let steps = steps("wg0", &device(&[peer(1, 1), peer(2, 2)]), &set(&[peer(1, 2), peer(2, 1)])).expect("valid");
        assert_eq!(steps.len(), 4);
    }

    #[test]
    fn removing_what_is_not_there_is_nothing() {
        let gone = PeerChange { set: vec![], remove: vec![key(9)] };
        assert_eq!(steps("wg0", &device(&[peer(1, 1)]), &gone).expect("valid"), []);
    }

    fn peers() -> impl Strategy<Value = Vec<Peer>> {
        proptest::collection::vec((0..8_u8, 0..8_u8).prop_map(|(number, host)| peer(number, host)), 0..8)
    }

    /// Peers of which no two have one key or one address.
    fn distinct(peers: Vec<Peer>) -> Vec<Peer> {
        let (mut keys, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        peers.into_iter().filter(|peer| keys.insert(peer.public_key) & addresses.insert(peer.allowed_ip)).collect()
    }

    proptest! {
        #[test]
        fn a_change_reaches_its_goal_and_the_second_time_does_nothing(
            there in peers().prop_map(distinct),
            wanted in peers(),
            remove in proptest::collection::vec((0..8_u8).prop_map(key), 0..4),
        ) {
            let mut device = device(&there);
            let change = PeerChange { set: wanted, remove };
            if let Ok(steps) = steps("wg0", &device, &change) {
                steps.iter().for_each(|step| apply(&mut device, step));
                let last: BTreeMap<_, _> = change.set.iter().map(|peer| (peer.public_key, peer)).collect();
                for (key, peer) in &last {
                    let state = &device.peers[key];
                    prop_assert_eq!(state.endpoint, Some(peer.endpoint.into()));
                    prop_assert_eq!(&state.allowed_ips, &BTreeSet::from([host_prefix(peer.allowed_ip)]));
                }
                for key in &change.remove {
                    prop_assert_eq!(device.peers.contains_key(key), last.contains_key(key));
                }
                let held: Vec<_> = device.peers.values().flat_map(|peer| &peer.allowed_ips).collect();
                prop_assert_eq!(held.len(), held.iter().collect::<BTreeSet<_>>().len());
                let again = PeerChange { set: change.set.clone(), remove: vec![] };
                prop_assert_eq!(super::steps("wg0", &device, &again).expect("reached"), vec![]);
            }
        }
    }
}
