//! Two devices whose datagrams are carried by hand.

use std::net::SocketAddrV4;

use super::*;

const MTU: u16 = 1420;

struct End {
    tunnels: Tunnels,
    key: PublicKey,
    peer: Peer,
}

impl End {
    fn new(number: u8) -> Self {
        let key = PrivateKey::from_random([number; 32]);
        let allowed_ip = Ipv4Addr::new(10, 240, 0, number);
        let endpoint = SocketAddrV4::new(Ipv4Addr::new(169, 254, 0, number), 51820);
        let peer = Peer { public_key: key.public_key(), endpoint, allowed_ip };
        Self { tunnels: Tunnels::new(&key, MTU), key: key.public_key(), peer }
    }

    fn knows(&mut self, peer: &Peer) {
        self.tunnels.apply(&Step::Add(*peer), Instant::now());
    }

    /// Sends a packet from one address to another, and returns the datagrams.
    fn send(&mut self, from: Ipv4Addr, to: Ipv4Addr) -> Datagrams {
        let mut out = Datagrams::new(MTU);
        self.tunnels.outgoing([packet(from, to)].into_iter(), to, Instant::now(), &mut out);
        out
    }

    /// Takes datagrams in, and returns the packets for the app and the datagrams that answer.
    fn take(&mut self, datagrams: &Datagrams, source: &Peer) -> (Vec<Packet>, Datagrams) {
        let mut out = Datagrams::new(MTU);
        let now = Instant::now();
        let datagrams = datagrams.runs().flat_map(|(run, octets)| octets.chunks(run.segment));
        let packets = datagrams.filter_map(|datagram| {
            self.tunnels.incoming(Packet::copy_from(datagram), source.endpoint.into(), now, &mut out)
        });
        (packets.collect(), out)
    }
}

fn packet(from: Ipv4Addr, to: Ipv4Addr) -> Packet {
    let mut octets = vec![0x45, 0, 0, 33, 0, 0, 0, 0, 64, 17, 0, 0];
    octets.extend_from_slice(&from.octets());
    octets.extend_from_slice(&to.octets());
    octets.resize(33, 7);
    Packet::copy_from(&octets[..])
}

/// Two ends that know each other.
fn pair() -> (End, End) {
    let (mut a, mut b) = (End::new(1), End::new(2));
    let (peer_a, peer_b) = (a.peer, b.peer);
    a.knows(&peer_b);
    b.knows(&peer_a);
    (a, b)
}

/// Carries datagrams to and fro until there are none; the packets that came out at `b`.
fn carry(a: &mut End, b: &mut End, mut out: Datagrams) -> Vec<Packet> {
    let (peer_a, peer_b) = (a.peer, b.peer);
    let mut packets = Vec::new();
    while out.octets() > 0 {
        let (more, answer) = b.take(&out, &peer_a);
        packets.extend(more);
        out = a.take(&answer, &peer_b).1;
    }
    packets
}

fn is_due_within(end: &End, time: Duration) -> bool {
    end.tunnels.due().is_some_and(|due| due <= Instant::now() + time)
}

#[test]
fn the_first_packet_begins_a_session_and_arrives_without_what_pads_it() {
    let (mut a, mut b) = pair();
    let (from, to) = (a.peer.allowed_ip, b.peer.allowed_ip);
    let out = a.send(from, to);
    let arrived = carry(&mut a, &mut b, out);
    assert_eq!(arrived.iter().map(|packet| packet.len()).collect::<Vec<_>>(), [33]);
    let states: Vec<_> = [&a, &b].iter().flat_map(|end| end.tunnels.peers().collect::<Vec<_>>()).collect();
    assert_eq!(states.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [b.key, a.key]);
    for (_, state) in states {
        assert!(state.last_handshake_age.is_some() && state.rx_bytes > 0 && state.tx_bytes > 0, "{state:?}");
    }
}

#[test]
fn a_peer_sends_from_its_own_address_and_to_those_that_are_known() {
    let (mut a, mut b) = pair();
    let (own, stranger, to) = (a.peer.allowed_ip, Ipv4Addr::new(10, 240, 0, 9), b.peer.allowed_ip);
    let out = a.send(own, to);
    assert_eq!(carry(&mut a, &mut b, out).len(), 1);
    let out = a.send(stranger, to);
    assert!(carry(&mut a, &mut b, out).is_empty(), "not from another's");
    assert_eq!(a.send(own, stranger).octets(), 0, "nobody has it");
    b.tunnels.apply(&Step::Remove(a.key), Instant::now());
    let out = a.send(own, to);
    assert!(carry(&mut a, &mut b, out).is_empty(), "it is no peer any more");
    let again = a.peer;
    b.knows(&again);
    let out = b.send(to, own);
    assert_eq!(carry(&mut b, &mut a, out).len(), 1);
}

#[test]
fn what_comes_before_its_peer_is_taken_up_when_that_is_added_and_not_later() {
    for late in [Duration::ZERO, Duration::from_secs(6)] {
        let (mut a, mut b) = (End::new(1), End::new(2));
        let (peer_a, peer_b) = (a.peer, b.peer);
        a.knows(&peer_b);
        // Of two that begin handshakes with it, it is told of one. The other way round, its app sends to both.
        let first = a.send(peer_a.allowed_ip, peer_b.allowed_ip);
        assert_eq!(b.take(&first, &peer_a).1.octets(), 0, "it is no peer yet");
        let mut stranger = End::new(3);
        stranger.knows(&peer_b);
        let (peer, other) = (stranger.peer, stranger.send(stranger.peer.allowed_ip, peer_b.allowed_ip));
        assert_eq!(b.take(&other, &peer).1.octets(), 0);
        for to in [peer_a.allowed_ip, peer.allowed_ip] {
            assert_eq!(b.send(peer_b.allowed_ip, to).octets(), 0, "none has it yet");
        }
        b.knows(&peer_a);
        let (mut out, is_late) = (Datagrams::new(MTU), late > Duration::ZERO);
        b.tunnels.take_up_early(Instant::now() + late, &mut out);
        assert_eq!(out.octets() == 0, is_late);
        let to_b = carry(&mut b, &mut a, out);
        // The handshake is answered, and what waited behind it is carried, both ways.
        assert_eq!(to_b.len(), usize::from(!is_late));
        let known: Vec<_> = b.tunnels.peers().map(|(key, state)| (key, state.last_handshake_age.is_some())).collect();
        assert_eq!(known, [(a.key, !is_late)]);
    }
}

#[test]
fn a_session_is_begun_once_and_one_that_is_there_is_kept() {
    let (mut a, mut b) = pair();
    let mut out = Datagrams::new(MTU);
    let keys = [b.key, PublicKey::new([9; 32])];
    a.tunnels.begin_sessions(&keys, Instant::now(), &mut out);
    let first = out.octets();
    a.tunnels.begin_sessions(&keys, Instant::now(), &mut out);
    assert_eq!((first > 0, out.octets()), (true, first), "one is under way");
    carry(&mut a, &mut b, out);
    let mut out = Datagrams::new(MTU);
    a.tunnels.begin_sessions(&keys, Instant::now(), &mut out);
    assert_eq!(out.octets(), 0);
}

#[test]
fn a_device_without_traffic_has_no_timer_and_one_with_keys_waits_until_they_are_to_be_erased() {
    let (mut a, mut b) = pair();
    let before = Instant::now();
    assert_eq!((a.tunnels.due(), b.tunnels.due()), (None, None));
    let out = a.send(a.peer.allowed_ip, b.peer.allowed_ip);
    carry(&mut a, &mut b, out);
    assert!(is_due_within(&a, TICK) && is_due_within(&b, TICK));
    let mut out = Datagrams::new(MTU);
    let after = Instant::now();
    a.tunnels.tick(after + IN_USE, &mut out);
    assert!(a.tunnels.is_at_rest(after + IN_USE));
    for age in ERASED {
        let due = a.tunnels.due().expect("keys are to be erased");
        assert!((before + age..=after + age).contains(&due));
        a.tunnels.tick(due, &mut out);
    }
    assert_eq!(a.tunnels.due(), None);
    // However late that is.
    let (mut a, mut b) = pair();
    let out_of_a = a.send(a.peer.allowed_ip, b.peer.allowed_ip);
    carry(&mut a, &mut b, out_of_a);
    let end = Instant::now() + 2 * ERASED[1];
    a.tunnels.tick(end, &mut out);
    assert_eq!(a.tunnels.due(), None);
    let (from, to) = (a.peer.allowed_ip, b.peer.allowed_ip);
    a.tunnels.outgoing([packet(from, to)].into_iter(), to, end, &mut out);
    assert!(out.octets() > 0 && a.tunnels.due() == Some(end + TICK), "and it is used again");
}

#[test]
fn a_peer_takes_no_room_in_the_library_until_it_is_used() {
    let (mut a, mut b) = pair();
    let made = |end: &End| end.tunnels.tunnels.values().filter(|tunnel| tunnel.library.is_some()).count();
    a.knows(&End::new(3).peer);
    a.tunnels.tick(Instant::now() + IN_USE, &mut Datagrams::new(MTU));
    assert_eq!((made(&a), made(&b)), (0, 0));
    assert!(a.tunnels.peers().all(|(_, state)| state.last_handshake_age.is_none() && state.rx_bytes == 0));
    let out = a.send(a.peer.allowed_ip, b.peer.allowed_ip);
    assert_eq!(carry(&mut a, &mut b, out).len(), 1);
    assert_eq!((made(&a), made(&b)), (1, 1));
}
