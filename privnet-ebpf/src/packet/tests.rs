//! Headers at every length, and of any bytes.

use proptest::prelude::*;

use super::*;

const ALICE: MacAddr = MacAddr::of_member([10, 240, 0, 2], 1);
const BOB: MacAddr = MacAddr::of_member([10, 240, 0, 3], 4);

fn datagram(payload_bytes: u16) -> Vec<u8> {
    let mut frame = [&BOB.bytes()[..], &ALICE.bytes(), &[0x08, 0x00, 0x45, 0]].concat();
    frame.extend_from_slice(&(28 + payload_bytes).to_be_bytes());
    frame.extend_from_slice(&[0, 0, 0x40, 0, 64, 17, 0, 0, 10, 240, 0, 2, 10, 240, 0, 3]);
    frame.extend_from_slice(&[0xca, 0x6c, 0xca, 0x6d]);
    frame.extend_from_slice(&(8 + payload_bytes).to_be_bytes());
    frame.resize(42 + usize::from(payload_bytes), 0);
    frame
}

fn request() -> Vec<u8> {
    let mut frame = [&[0xff; 6][..], &ALICE.bytes(), &[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
    frame.extend_from_slice(&ALICE.bytes());
    frame.extend_from_slice(&[10, 240, 0, 2, 0, 0, 0, 0, 0, 0, 10, 240, 0, 3]);
    frame
}

fn kind(frame: &[u8]) -> Result<Kind, DropReason> {
    Packet::read(&frame, false).map(|packet| packet.kind())
}

fn with(mut frame: Vec<u8>, offset: usize, bytes: &[u8]) -> Vec<u8> {
    frame[offset..offset + bytes.len()].copy_from_slice(bytes);
    frame
}

#[test]
fn a_datagram_is_read_field_by_field() {
    let packet = Packet::read(&datagram(32).as_slice(), false).expect("long enough");
    assert_eq!(packet.kind(), Kind::Udp);
    assert_eq!((packet.destination_mac(), packet.source_mac()), (BOB, ALICE));
    let udp = packet.udp();
    assert_eq!((udp.source(), udp.destination()), ([10, 240, 0, 2], [10, 240, 0, 3]));
    assert_eq!((udp.source_port(), udp.destination_port()), (51_820, 51_821));
}

#[test]
fn an_arp_request_is_read_field_by_field_and_its_reply_answers_it() {
    let packet = Packet::read(&request().as_slice(), false).expect("long enough");
    assert_eq!(packet.kind(), Kind::Arp);
    let arp = packet.arp();
    assert!(arp.is_request());
    assert_eq!((arp.sender_mac(), arp.sender(), arp.target()), (ALICE, [10, 240, 0, 2], [10, 240, 0, 3]));
    let bytes = arp.reply(BOB);
    let reply = Packet::read(&bytes.as_slice(), false).expect("long enough");
    assert_eq!((reply.kind(), reply.destination_mac(), reply.source_mac()), (Kind::Arp, ALICE, BOB));
    assert!(!reply.arp().is_request());
    assert_eq!((reply.arp().sender_mac(), reply.arp().sender()), (BOB, [10, 240, 0, 3]));
    assert_eq!((bytes[32..38].to_vec(), reply.arp().target()), (ALICE.bytes().to_vec(), [10, 240, 0, 2]));
}

#[test]
fn every_length_short_of_the_headers_is_refused_for_what_the_frame_says_it_is() {
    let short = |ethertype: [u8; 2], bytes: usize| kind(&with(datagram(0), 12, &ethertype)[..bytes]);
    for bytes in 0..42 {
        let said = |reason| if bytes < 14 { Err(DropReason::Truncated) } else { Err(reason) };
        assert_eq!(short([0x08, 0x00], bytes), Err(DropReason::Truncated));
        assert_eq!(short([0x08, 0x06], bytes), Err(DropReason::Truncated));
        assert_eq!(short([0x86, 0xdd], bytes), said(DropReason::Ipv6));
        assert_eq!(short([0x81, 0x00], bytes), said(DropReason::VlanTag));
        assert_eq!(short([0x88, 0xcc], bytes), said(DropReason::UnknownEtherType));
        let tagged = Packet::read(&&datagram(0)[..bytes], true).map(|packet| packet.kind());
        assert_eq!(tagged, Err(DropReason::VlanTag));
    }
    assert_eq!(kind(&datagram(0)), Ok(Kind::Udp));
    assert_eq!(kind(&request()), Ok(Kind::Arp));
}

#[test]
fn a_tag_that_the_kernel_took_off_is_a_tag() {
    for frame in [datagram(0), request()] {
        let packet = Packet::read(&frame.as_slice(), true).expect("long enough");
        assert_eq!(packet.kind(), Kind::Refused(DropReason::VlanTag));
    }
}

#[test]
fn only_a_router_advertisement_is_called_one() {
    let ipv6 = |next_header: u8, kind: u8| {
        let frame = with(with(datagram(40), 12, &[0x86, 0xdd]), 20, &[next_header]);
        with(frame, 54, &[kind])
    };
    assert_eq!(kind(&ipv6(58, 134)), Ok(Kind::Refused(DropReason::RouterAdvertisement)));
    for (next_header, kind_of_icmp) in [(58, 133), (58, 135), (17, 134), (0, 134)] {
        assert_eq!(kind(&ipv6(next_header, kind_of_icmp)), Ok(Kind::Refused(DropReason::Ipv6)));
    }
    assert_eq!(kind(&ipv6(58, 134)[..54]), Ok(Kind::Refused(DropReason::Ipv6)));
}

#[test]
fn a_claim_is_found_behind_no_tag_and_behind_two_but_not_behind_three() {
    let (ipv4, tag) = (&datagram(0)[14..], [0, 5, 0x81, 0x00]);
    let expected = Claim::Ipv4 { source: [10, 240, 0, 2], destination: [10, 240, 0, 3] };
    assert_eq!(Claim::read(0x0800, &ipv4), expected);
    let once = [&[0, 5, 0x08, 0x00], ipv4].concat();
    assert_eq!(Claim::read(0x8100, &once.as_slice()), expected);
    let twice = [&tag[..], &once].concat();
    assert_eq!(Claim::read(0x88a8, &twice.as_slice()), expected);
    // No stack takes off more: a receiver sees no IPv4 in it either.
    let thrice = [&tag[..], &twice].concat();
    assert_eq!(Claim::read(0x88a8, &thrice.as_slice()), Claim::Other);
    let arp = &request()[14..];
    assert_eq!(Claim::read(0x0806, &arp), Claim::Arp { sender: [10, 240, 0, 2], target: [10, 240, 0, 3] });
}

#[test]
fn a_claim_that_is_cut_short_is_truncated() {
    let (ipv4, arp) = (&datagram(0)[14..], &request()[14..]);
    for bytes in 0..20 {
        assert_eq!(Claim::read(0x0800, &&ipv4[..bytes]), Claim::Truncated);
    }
    for bytes in 0..28 {
        assert_eq!(Claim::read(0x0806, &&arp[..bytes]), Claim::Truncated);
    }
    for bytes in 0..4 {
        assert_eq!(Claim::read(0x8100, &&ipv4[..bytes]), Claim::Truncated);
    }
    assert_eq!(Claim::read(0x86dd, &&ipv4[..0]), Claim::Other);
}

proptest! {
    /// Whatever the bytes, reading ends with an answer; what it calls a datagram has the lengths of one.
    #[test]
    fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..120), tagged: bool, ethertype: u16) {
        let _claim = Claim::read(ethertype, &bytes.as_slice());
        match Packet::read(&bytes.as_slice(), tagged) {
            Err(_) => prop_assert!(bytes.len() < HEADERS_BYTES),
            Ok(packet) => prop_assert!(bytes.len() >= HEADERS_BYTES && (!tagged || packet.kind() != Kind::Udp)),
        }
    }

    #[test]
    fn a_datagram_has_the_length_that_it_claims(payload in 0..1400_u16, claimed: u16, udp_claimed: u16) {
        let frame = with(with(datagram(payload), 16, &claimed.to_be_bytes()), 38, &udp_claimed.to_be_bytes());
        let right = claimed == payload + 28 && udp_claimed == payload + 8;
        prop_assert_eq!(kind(&frame) == Ok(Kind::Udp), right);
        prop_assert_eq!(kind(&datagram(payload)), Ok(Kind::Udp));
    }
}
