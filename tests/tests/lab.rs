//! The lab itself: its probes find what is there, and its leak check what stayed. Without this, every refusal would pass.
//!
//! ```text
//!  h1 eth0 192.168.77.1 ══ br0 (underlay) ══ eth0 192.168.77.2 h2
//! ```

use std::net::Ipv4Addr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use privnet::netns::{DEFAULT_DIR, Netns};
use privnet_tests::lab::frame::{Datagram, tagged};
use privnet_tests::lab::probe::{PATIENCE, Server, Stream, ask_tcp, ask_udp, reaches};
use privnet_tests::lab::{FOR_NOTHING, Lab, SOON, Sniffer, Space, send_frame, underlay_address, wait_until};

const CANARY: &[u8] = b"canary-of-the-lab";
const PORT: u16 = 7000;

#[test]
fn probes_and_sniffers_find_what_is_there_and_nothing_else() {
    let lab = Lab::new("probes_and_sniffers_find_what_is_there_and_nothing_else");
    let hosts = lab.underlay(2, 1500);
    let to = (underlay_address(2), PORT);
    let ping = format!("ping -q -n -c 1 -W 1 {}", to.0);
    wait_until("the underlay works", SOON, || hosts[0].succeeds(&ping));
    assert!(ask_udp(&hosts[0], to, CANARY, FOR_NOTHING).is_err(), "nobody serves");
    let server = Server::echo(&hosts[1], PORT);
    let (here, there) = (Sniffer::start(&hosts[0]), Sniffer::start(&hosts[1]));
    assert!(reaches(&hosts[0], to));
    assert_eq!((here.count(CANARY), there.count(CANARY)), (0, 0));
    assert_eq!(ask_udp(&hosts[0], to, CANARY, PATIENCE).expect("an answer"), CANARY);
    assert_eq!(ask_tcp(&hosts[0], to, CANARY, PATIENCE).expect("an answer"), CANARY);
    wait_until("both ends saw both ways of both", SOON, || here.count(CANARY) == 4 && there.count(CANARY) == 4);
    let eth0 = hosts[0].ifindex("eth0").expect("eth0");
    assert_eq!((here.count_on(eth0, CANARY), here.count_on(eth0 + 1, CANARY)), (4, 0));
    assert!(server.heard(CANARY) && !server.heard(b"something else"));

    let stream = Stream::start(&hosts[0], to, Duration::from_millis(1));
    wait_until("the stream flows", SOON, || stream.answered() > 50);
    assert_eq!(stream.finish().1, Vec::<u64>::new());
    let stream = Stream::start(&hosts[0], to, Duration::from_millis(1));
    hosts[0].run("ip link set eth0 down");
    std::thread::sleep(FOR_NOTHING);
    assert!(!stream.finish().1.is_empty(), "what is lost is missed");
    drop((here, there, server));
    lab.finish();
}

#[test]
fn a_forged_frame_is_sent_as_it_is() {
    let lab = Lab::new("a_forged_frame_is_sent_as_it_is");
    let hosts = lab.underlay(2, 1500);
    let server = Server::echo(&hosts[1], PORT);
    let mut datagram = Datagram {
        source_mac: [2, 0, 0, 0, 0, 9],
        destination_mac: hosts[1].mac("eth0"),
        source: Ipv4Addr::new(192, 168, 77, 99),
        destination: underlay_address(2),
        source_port: 5,
        destination_port: PORT,
        fragment: 0,
        payload: CANARY.to_vec(),
    };
    let wire = Sniffer::start(&hosts[1]);
    send_frame(&hosts[0], "eth0", &datagram.frame());
    wait_until("the server takes it for what it says", SOON, || server.heard(CANARY));
    datagram.payload = b"tagged".to_vec();
    send_frame(&hosts[0], "eth0", &tagged(&datagram.frame(), 7));
    wait_until("the tagged one arrives", SOON, || wire.count(b"tagged") == 1);
    assert!(!server.heard(b"tagged"), "and is not for the server");
    drop((wire, server));
    lab.finish();
}

#[test]
fn what_stays_behind_is_named_and_removed() {
    let mut name = String::new();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let lab = Lab::new("what_stays_behind_is_named_and_removed");
        let space = lab.space("known");
        name = space.pin().replace("known", "forgotten");
        let _forgotten = Space::create("", &name);
        lab.finish();
    }));
    let message = *outcome.expect_err("the lab complains").downcast::<String>().expect("a message");
    assert!(message.contains(&format!("namespace {name}")) && !message.contains("known"), "{message}");
    assert!(Netns::identify(&Path::new(DEFAULT_DIR).join(&name)).is_err(), "it is gone all the same");
    Lab::new("the next one is clean").finish();
}

#[test]
fn a_test_that_fails_leaves_nothing() {
    let mut pin = String::new();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let lab = Lab::new("a_test_that_fails_leaves_nothing");
        pin = lab.space("a").pin().to_owned();
        panic!("on purpose");
    }));
    assert!(outcome.is_err());
    assert!(Netns::identify(&Path::new(DEFAULT_DIR).join(&pin)).is_err());
}
