//! A socket pair stands for the TUN link: one message is one read or write.

use std::os::fd::OwnedFd;

use proptest::prelude::*;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::runtime::Runtime;

use super::*;

const ALL: Offloads = Offloads { tcp: true, udp: true };
const A: [u8; 4] = [10, 240, 0, 1];
const B: [u8; 4] = [10, 240, 0, 2];
const UDP: u8 = 17;
/// `VIRTIO_NET_HDR_GSO_TCPV4` and `VIRTIO_NET_HDR_GSO_UDP_L4`, include/uapi/linux/virtio_net.h.
const SUPER_TCP: u8 = 1;
const SUPER_UDP: u8 = 5;
const FIN_PSH_ACK: u8 = 0x19;
const ACK: u8 = 0x10;

fn app(offloads: Offloads) -> (App, OwnedFd) {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (link, kernel) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("a pair");
    (App::new(link, offloads).expect("an end"), kernel)
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// A packet of TCP or UDP with right checksums; `sequence` is TCP's, or UDP's source port.
fn packet(protocol: u8, sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut transport = if protocol == TCP {
        let mut header = [0; 20];
        header[0..4].copy_from_slice(&[0x9c, 0x40, 0, 80]);
        header[4..8].copy_from_slice(&sequence.to_be_bytes());
        (header[12], header[13], header[14]) = (5 << 4, flags, 0xff);
        header.to_vec()
    } else {
        let length = u16::try_from(8 + payload.len()).expect("short").to_be_bytes();
        let port = u16::try_from(sequence).expect("a port").to_be_bytes();
        vec![port[0], port[1], 0, 53, length[0], length[1], 0, 0]
    };
    let at = checksum_at(protocol);
    transport.extend_from_slice(payload);
    let sum = transport_sum(protocol, &transport).to_be_bytes();
    transport[at..at + 2].copy_from_slice(&sum);
    let mut packet = vec![0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, protocol, 0, 0];
    packet.extend_from_slice(&A);
    packet.extend_from_slice(&B);
    packet[2..4].copy_from_slice(&u16::try_from(20 + transport.len()).expect("short").to_be_bytes());
    let sum = (!folded(&packet)).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet.extend_from_slice(&transport);
    packet
}

const fn checksum_at(protocol: u8) -> usize {
    if protocol == TCP { 16 } else { 6 }
}

/// The checksum of RFC 1071, octet by octet.
fn folded(octets: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in octets.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded")
}

fn pseudo(protocol: u8, length: usize) -> Vec<u8> {
    let length = u16::try_from(length).expect("short").to_be_bytes();
    [&A[..], &B, &[0, protocol], &length].concat()
}

fn transport_sum(protocol: u8, transport: &[u8]) -> u16 {
    match !folded(&[pseudo(protocol, transport.len()), transport.to_vec()].concat()) {
        0 => u16::MAX,
        sum => sum,
    }
}

fn is_right(packet: &[u8]) -> bool {
    let length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    let whole = [pseudo(packet[9], length - 20), packet[20..].to_vec()].concat();
    length == packet.len() && folded(&packet[..20]) == u16::MAX && folded(&whole) == u16::MAX
}

/// A super-packet as the kernel gives it out: one header before it, and the sum of the pseudo header in place of the checksum.
fn super_packet(protocol: u8, flags: u8, payload: &[u8], size: u16) -> Vec<u8> {
    let mut packet = packet(protocol, 7000, flags, payload);
    let at = 20 + checksum_at(protocol);
    let sum = folded(&pseudo(protocol, packet.len() - 20)).to_be_bytes();
    packet[at..at + 2].copy_from_slice(&sum);
    let kind = if protocol == TCP { SUPER_TCP } else { SUPER_UDP };
    let start = u16::try_from(checksum_at(protocol)).expect("small");
    let header = VirtioNetHdr {
        flags: NEEDS_CHECKSUM,
        gso_type: if size == 0 { ONE_PACKET } else { kind },
        hdr_len: 0,
        gso_size: size,
        csum_start: 20,
        csum_offset: start,
    };
    let mut read = vec![0; VIRTIO_NET_HDR_LEN];
    header.encode(&mut read).expect("room");
    read.extend_from_slice(&packet);
    read
}

/// What the app's end makes of what the kernel gives out.
fn split(runtime: &Runtime, app: &mut App, kernel: &OwnedFd, read: &[u8]) -> Vec<Vec<u8>> {
    rustix::io::write(kernel, read).expect("given out");
    runtime.block_on(app.is_readable()).expect("there is something");
    let mut packets = Vec::new();
    loop {
        match app.read(&mut packets).expect("read") {
            Read::Nothing => break,
            Read::Dropped => {}
            Read::To(destination) => assert_eq!(destination, Ipv4Addr::from(B)),
        }
    }
    packets.iter().map(|packet| packet.to_vec()).collect()
}

/// What the kernel is given of these packets, each behind its header.
fn written(app: &mut App, kernel: &OwnedFd, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    packets.iter().for_each(|packet| app.push(packet));
    app.flush().expect("written");
    let mut all = Vec::new();
    let mut buffer = vec![0; VIRTIO_NET_HDR_LEN + MOST_OCTETS];
    while let Ok(octets) = rustix::io::read(kernel, &mut buffer[..]) {
        all.push(buffer[..octets].to_vec());
    }
    all
}

fn numbered(octets: usize) -> Vec<u8> {
    (0..octets).map(|number| u8::try_from(number % 251).expect("small")).collect()
}

#[test]
fn a_packet_whose_checksum_is_left_is_completed_and_one_without_offloads_is_taken_as_it_is() {
    let runtime = runtime();
    let _inside = runtime.enter();
    for protocol in [TCP, UDP] {
        let (mut app, kernel) = app(ALL);
        let read = super_packet(protocol, ACK, &numbered(999), 0);
        let packets = split(&runtime, &mut app, &kernel, &read);
        assert_eq!(packets, [packet(protocol, 7000, ACK, &numbered(999))]);
        assert!(is_right(&packets[0]));
    }
    let (mut app, kernel) = app(Offloads::default());
    let plain = packet(UDP, 7000, 0, &numbered(10));
    assert_eq!(split(&runtime, &mut app, &kernel, &plain), std::slice::from_ref(&plain));
    assert_eq!(written(&mut app, &kernel, &[plain.clone(), plain.clone()]), [plain.clone(), plain]);
}

#[test]
fn flows_are_not_merged_with_each_other_and_a_wrong_checksum_with_nothing() {
    let runtime = runtime();
    let _inside = runtime.enter();
    let (mut app, kernel) = app(ALL);
    let one = || packet(UDP, 1000, 0, &numbered(100));
    let mut wrong = packet(TCP, 100, ACK, &numbered(100));
    *wrong.last_mut().expect("payload") ^= 1;
    let packets =
        [one(), packet(UDP, 2000, 0, &numbered(100)), one(), packet(TCP, 0, ACK, &numbered(100)), wrong.clone()];
    let written = written(&mut app, &kernel, &packets);
    let lengths: Vec<usize> = written.iter().map(|packet| packet.len() - VIRTIO_NET_HDR_LEN).collect();
    assert_eq!(lengths, [228, 128, 140, 140], "two of the first flow are one");
    assert!(written.iter().any(|packet| packet.ends_with(&wrong)), "it is for the app to refuse");
}

#[test]
fn what_no_kernel_gives_out_is_lost_without_a_trace() {
    let runtime = runtime();
    let _inside = runtime.enter();
    let (mut app, kernel) = app(ALL);
    let good = super_packet(TCP, ACK, &numbered(5000), 1000);
    let mut ipv6 = good.clone();
    ipv6[VIRTIO_NET_HDR_LEN] = 0x60;
    let mut far = super_packet(UDP, 0, &numbered(10), 0);
    far[6..8].copy_from_slice(&60_000_u16.to_ne_bytes());
    let tiny = super_packet(TCP, ACK, &numbered(MOST_SEGMENTS + 1), 1);
    for bad in [&tiny, &good[..5], &good[..VIRTIO_NET_HDR_LEN + 19], &ipv6, &far] {
        assert_eq!(split(&runtime, &mut app, &kernel, bad), Vec::<Vec<u8>>::new(), "{} octets", bad.len());
    }
    assert_eq!(split(&runtime, &mut app, &kernel, &good).len(), 5);
    let most = super_packet(TCP, ACK, &numbered(MOST_SEGMENTS), 1);
    assert_eq!(split(&runtime, &mut app, &kernel, &most).len(), MOST_SEGMENTS);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_super_packet_is_split_into_right_packets_which_merge_into_it_again(
        is_tcp in any::<bool>(),
        octets in 2_usize..60_000,
        size in 500_u16..9000,
    ) {
        let runtime = runtime();
        let _inside = runtime.enter();
        let (mut app, kernel) = app(ALL);
        let protocol = if is_tcp { TCP } else { UDP };
        let payload = numbered(octets);
        let headers = if is_tcp { 40 } else { 28 };
        let packets = split(&runtime, &mut app, &kernel, &super_packet(protocol, FIN_PSH_ACK, &payload, size));
        prop_assert_eq!(packets.len(), octets.div_ceil(size.into()));
        for (number, packet) in packets.iter().enumerate() {
            prop_assert!(is_right(packet), "packet {}", number);
            if is_tcp {
                let sequence = u32::from_be_bytes(packet[24..28].try_into().expect("4 octets"));
                prop_assert_eq!(sequence as usize, 7000 + number * usize::from(size));
                let is_last = number + 1 == packets.len();
                prop_assert_eq!(packet[33], if is_last { FIN_PSH_ACK } else { ACK });
            }
        }
        let whole: Vec<u8> = packets.iter().flat_map(|packet| packet[headers..].to_vec()).collect();
        prop_assert_eq!(&whole, &payload);
        let written = written(&mut app, &kernel, &packets);
        let again: Vec<u8> =
            written.iter().flat_map(|packet| packet[VIRTIO_NET_HDR_LEN + headers..].to_vec()).collect();
        prop_assert_eq!(&again, &payload);
        // A packet that ends a flow stays alone (as the kernel's own does it); all others are one.
        prop_assert!(written.len() <= 2, "{} of {}", written.len(), packets.len());
    }

    #[test]
    fn no_octets_make_it_fail(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
        let runtime = runtime();
        let _inside = runtime.enter();
        let (mut app, kernel) = app(ALL);
        if !octets.is_empty() {
            rustix::io::write(&kernel, &octets).expect("given out");
            runtime.block_on(app.is_readable()).expect("there is something");
        }
        let mut packets = Vec::new();
        while app.read(&mut packets).expect("read") != Read::Nothing {}
        packets.iter().filter(|packet| !packet.is_empty()).for_each(|packet| app.push(packet));
        app.flush().expect("written");
    }
}
