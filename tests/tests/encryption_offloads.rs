//! Bytes that go in are the bytes that come out, whatever the kernel makes of the packets on the way: super-packets from the app
//! to the app, or packets one by one where a device on the way takes no super-packet.
//!
//! ```text
//!  web, worker (h1)  app ── wg0 ═ process ═ binding ══ network ══ h1 ══ underlay ══ h2 ══ … ── app  backend (h2), plain (h3, without)
//!                    64 kB of TCP or UDP   64 kB of datagrams of WireGuard
//! ```

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};
use privnet::datapath::Outcome;
use privnet::wireguard::OffloadChoice;
use privnet_tests::lab::probe::{PATIENCE, Server, ask_tcp, ask_udp};
use privnet_tests::lab::{Host, Joined, Lab, Options, Space, wait_until};

const PORT: u16 = 7000;
/// Where what is sent in one call is received.
const SINK: u16 = 7001;
const PATIENT: Duration = Duration::from_secs(60);
/// A stream in each direction: some dozen super-packets.
const STREAM_BYTES: usize = 1 << 20;
/// Around what fits one packet, and what a datagram can hold.
const DATAGRAMS: [usize; 12] = [0, 1, 2, 500, 1279, 1352, 1353, 1354, 1472, 4001, 30_000, 65_507];
/// The size of each datagram that is sent in one call, and how many there are: the last one is shorter.
const SEGMENT: u16 = 1200;
const IN_ONE_CALL: usize = 40 * SEGMENT as usize + 77;

#[test]
fn bytes_in_are_bytes_out_with_super_packets_and_without() {
    let lab = Lab::new("bytes_in_are_bytes_out_with_super_packets_and_without");
    let many = Options { wireguard: "userspace", ..Options::ebpf() };
    let one_by_one = Options { offload: OffloadChoice::Off, ..many.clone() };
    let hosts = lab.hosts(&[many.clone(), many, one_by_one]);
    let network = hosts[0].network("shop", "10.90.0.0/24");
    let web = lab.member(&hosts[0], &network, "web-1");
    let worker = lab.member(&hosts[0], &network, "worker-1");
    let backend = lab.member(&hosts[1], &network, "backend-1");
    let plain = lab.member(&hosts[2], &network, "plain-1");
    let _servers = [&worker, &backend, &plain].map(|to| Server::echo(&to.app, PORT));
    // An emulated processor takes twenty times as long.
    let all = [&backend, &worker, &plain];
    let tried = if privnet_tests::is_emulated() { &all[..1] } else { &all[..] };
    for to in tried {
        wait_until("web reaches it", || web.pings(to.address()));
        let before = forwarded(&hosts[0]);
        crosses(&web, to);
        let packets = forwarded(&hosts[0]) - before;
        // Each way has its packets: those of the stream alone are so many at least, though few super-packets.
        let least = (STREAM_BYTES / 1400) as u64;
        assert!(packets > least, "{packets} packets were counted, of {least} at least");
    }
    // Devices that take no super-packets: the kernel makes packets of them before each.
    let underlay = Space::of_pin("underlay", &hosts[0].space.pin().replace("-h1", "-underlay"));
    for space in [&web.app, &web.binding, &web.network, &hosts[0].space, &underlay, &backend.network, &backend.binding]
    {
        for link in space.links().iter().filter(|link| *link != "lo") {
            space.run(&format!("ip link set {link} gso_max_segs 1"));
        }
    }
    for to in &tried[..tried.len().min(2)] {
        crosses(&web, to);
    }
    lab.finish();
}

/// A stream, datagrams of many sizes, and many datagrams in one call come out as they went in.
#[track_caller]
fn crosses(from: &Joined, to: &Joined) {
    let target = (to.address(), PORT);
    let stream = numbered(STREAM_BYTES, 1);
    let echoed = ask_tcp(&from.app, target, &stream, PATIENT).expect("the stream comes back");
    assert!(echoed == stream, "the stream came back otherwise");
    for octets in DATAGRAMS {
        let datagram = numbered(octets, octets);
        let echoed =
            ask_udp(&from.app, target, &datagram, PATIENCE).unwrap_or_else(|error| panic!("{octets}: {error}"));
        assert!(echoed == datagram, "a datagram of {octets} came back otherwise");
    }
    let sent = numbered(IN_ONE_CALL, 7);
    let received = in_one_call(&from.app, &to.app, to.address(), &sent);
    let expected: Vec<&[u8]> = sent.chunks(SEGMENT.into()).collect();
    assert!(received == expected, "{} of {} datagrams, or others", received.len(), expected.len());
}

/// Sends datagrams in one call of `UDP_SEGMENT`, and returns those that arrive.
#[track_caller]
fn in_one_call(from: &Space, to: &Space, address: Ipv4Addr, octets: &[u8]) -> Vec<Vec<u8>> {
    let sink = to.inside(move || UdpSocket::bind((address, SINK))).expect("a socket");
    sink.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let socket = from.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).expect("a socket");
    let control = [ControlMessage::UdpGsoSegments(&SEGMENT)];
    let destination = SockaddrIn::from(SocketAddrV4::new(address, SINK));
    let parts = [IoSlice::new(octets)];
    let sent = sendmsg(socket.as_raw_fd(), &parts, &control, MsgFlags::empty(), Some(&destination)).expect("sent");
    assert_eq!(sent, octets.len());
    let mut buffer = vec![0; 1 << 16];
    let receive = |_| sink.recv(&mut buffer).ok().map(|octets| buffer[..octets].to_vec());
    (0..octets.len().div_ceil(SEGMENT.into())).map_while(receive).collect()
}

fn forwarded(host: &Host) -> u64 {
    let counters = host.counters();
    [Outcome::ForwardedLocal, Outcome::ForwardedRemote].map(|outcome| counters.of_outcome(outcome)).iter().sum()
}

/// Bytes that repeat after a prime number of them, so that no packet is like its neighbour.
fn numbered(octets: usize, seed: usize) -> Vec<u8> {
    (0..octets).map(|number| u8::try_from((number + seed) % 251).expect("small")).collect()
}
