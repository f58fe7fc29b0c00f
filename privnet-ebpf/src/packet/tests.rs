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

fn checked(frame: &[u8]) -> Result<Checked, DropReason> {
    Packet::read(&frame, false).map(|packet| packet.checked)
}

fn packet(frame: &[u8]) -> Packet {
    Packet::read(&frame, false).expect("long enough")
}

fn with(mut frame: Vec<u8>, offset: usize, bytes: &[u8]) -> Vec<u8> {
    frame[offset..offset + bytes.len()].copy_from_slice(bytes);
    frame
}

#[test]
fn a_datagram_is_read_field_by_field() {
    let packet = packet(&datagram(32));
    assert_eq!((packet.destination_mac(), packet.source_mac()), (BOB, ALICE));
    let Kind::Udp(udp) = packet.kind() else { panic!("{packet:?}") };
    assert_eq!((udp.source(), udp.destination()), ([10, 240, 0, 2], [10, 240, 0, 3]));
    assert_eq!((udp.source_port(), udp.destination_port()), (51_820, 51_821));
}

#[test]
fn an_arp_request_is_read_field_by_field_and_its_reply_answers_it() {
    let asked = packet(&request());
    let Kind::Arp(arp) = asked.kind() else { panic!("{asked:?}") };
    assert!(arp.is_request());
    assert_eq!((arp.sender_mac(), arp.sender(), arp.target()), (ALICE, [10, 240, 0, 2], [10, 240, 0, 3]));
    let bytes = arp.reply(BOB);
    let told = packet(&bytes);
    assert_eq!((told.destination_mac(), told.source_mac()), (ALICE, BOB));
    let Kind::Arp(reply) = told.kind() else { panic!("{told:?}") };
    assert!(!reply.is_request());
    assert_eq!((reply.sender_mac(), reply.sender()), (BOB, [10, 240, 0, 3]));
    assert_eq!((bytes[32..38].to_vec(), reply.target()), (ALICE.bytes().to_vec(), [10, 240, 0, 2]));
}

#[test]
fn every_length_short_of_the_headers_is_refused_for_what_the_frame_says_it_is() {
    let short = |ethertype: [u8; 2], bytes: usize| checked(&with(datagram(0), 12, &ethertype)[..bytes]);
    for bytes in 0..42 {
        let said = |reason| if bytes < 14 { Err(DropReason::Truncated) } else { Err(reason) };
        assert_eq!(short([0x08, 0x00], bytes), Err(DropReason::Truncated));
        assert_eq!(short([0x08, 0x06], bytes), Err(DropReason::Truncated));
        assert_eq!(short([0x86, 0xdd], bytes), said(DropReason::Ipv6));
        assert_eq!(short([0x81, 0x00], bytes), said(DropReason::VlanTag));
        assert_eq!(short([0x88, 0xcc], bytes), said(DropReason::UnknownEtherType));
        let tagged = Packet::read(&&datagram(0)[..bytes], true).map(|packet| packet.checked);
        assert_eq!(tagged, Err(DropReason::VlanTag));
    }
    assert_eq!(checked(&datagram(0)), Ok(Checked::Udp));
    assert_eq!(checked(&request()), Ok(Checked::Arp));
}

#[test]
fn a_tag_that_the_kernel_took_off_is_a_tag() {
    for frame in [datagram(0), request()] {
        let packet = Packet::read(&frame.as_slice(), true).expect("long enough");
        assert_eq!(packet.checked, Checked::Refused(DropReason::VlanTag));
    }
}

#[test]
fn only_a_router_advertisement_is_called_one() {
    let ipv6 = |next_header: u8, kind: u8| {
        let frame = with(with(datagram(40), 12, &[0x86, 0xdd]), 20, &[next_header]);
        with(frame, 54, &[kind])
    };
    assert_eq!(checked(&ipv6(58, 134)), Ok(Checked::Refused(DropReason::RouterAdvertisement)));
    for (next_header, kind_of_icmp) in [(58, 133), (58, 135), (17, 134), (0, 134)] {
        assert_eq!(checked(&ipv6(next_header, kind_of_icmp)), Ok(Checked::Refused(DropReason::Ipv6)));
    }
    assert_eq!(checked(&ipv6(58, 134)[..54]), Ok(Checked::Refused(DropReason::Ipv6)));
}

#[test]
fn a_addresses_is_found_behind_no_tag_and_behind_two_but_not_behind_three() {
    let (ipv4, tag) = (&datagram(0)[14..], [0, 5, 0x81, 0x00]);
    let expected = Addresses::new(Protocol::Ipv4, [10, 240, 0, 2], [10, 240, 0, 3]);
    assert_eq!(Addresses::read(0x0800, &ipv4), expected);
    let once = [&[0, 5, 0x08, 0x00], ipv4].concat();
    assert_eq!(Addresses::read(0x8100, &once.as_slice()), expected);
    let twice = [&tag[..], &once].concat();
    assert_eq!(Addresses::read(0x88a8, &twice.as_slice()), expected);
    // No stack removes a third tag, so the receiver sees no IPv4 in it either.
    let thrice = [&tag[..], &twice].concat();
    assert_eq!(Addresses::read(0x88a8, &thrice.as_slice()), Addresses::OTHER);
    let arp = &request()[14..];
    assert_eq!(Addresses::read(0x0806, &arp), Addresses::new(Protocol::Arp, [10, 240, 0, 2], [10, 240, 0, 3]));
}

#[test]
fn a_addresses_that_is_cut_short_is_truncated() {
    let (ipv4, arp) = (&datagram(0)[14..], &request()[14..]);
    for bytes in 0..20 {
        assert_eq!(Addresses::read(0x0800, &&ipv4[..bytes]), Addresses::TRUNCATED);
    }
    for bytes in 0..28 {
        assert_eq!(Addresses::read(0x0806, &&arp[..bytes]), Addresses::TRUNCATED);
    }
    for bytes in 0..4 {
        assert_eq!(Addresses::read(0x8100, &&ipv4[..bytes]), Addresses::TRUNCATED);
    }
    assert_eq!(Addresses::read(0x86dd, &&ipv4[..0]), Addresses::OTHER);
}

proptest! {
    /// Any bytes are read to a result, and a frame with a tag is no datagram.
    #[test]
    fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..120), tagged: bool, ethertype: u16) {
        let _addresses = Addresses::read(ethertype, &bytes.as_slice());
        match Packet::read(&bytes.as_slice(), tagged) {
            Err(_) => prop_assert!(bytes.len() < HEADERS_BYTES),
            Ok(packet) => prop_assert!(bytes.len() >= HEADERS_BYTES && (!tagged || packet.checked != Checked::Udp)),
        }
    }

    #[test]
    fn a_datagram_has_the_length_that_it_addressess(payload in 0..1400_u16, claimed: u16, udp_addressesed: u16) {
        let frame = with(with(datagram(payload), 16, &claimed.to_be_bytes()), 38, &udp_addressesed.to_be_bytes());
        let right = claimed == payload + 28 && udp_addressesed == payload + 8;
        prop_assert_eq!(checked(&frame) == Ok(Checked::Udp), right);
        prop_assert_eq!(checked(&datagram(payload)), Ok(Checked::Udp));
    }
}
