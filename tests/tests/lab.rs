//! The lab itself: its probes find what is there, and its leak check what stayed. Without this, every refusal would
//! pass.
//!
//! ```text
//!  h1 eth0 192.168.77.1 ══ br0 (underlay) ══ eth0 192.168.77.2 h2
//! ```

use std::net::Ipv4Addr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use privnet::datapath::{Network, NetworkSpec};
use privnet::netns::{DEFAULT_DIR, Netns};
use privnet_ebpf::maps::MAP_CONFIG;
use privnet_ebpf::net::Vni;
use privnet_tests::lab::frame::{Datagram, tagged};
use privnet_tests::lab::leak::pinned;
use privnet_tests::lab::probe::{PATIENCE, Server, Stream, ask_tcp, ask_udp, reaches};
use privnet_tests::lab::process::companions_below;
use privnet_tests::lab::{FOR_NOTHING, Ground, Lab, Sniffer, Space, run, send_frame, underlay_address, wait_until};

const CANARY: &[u8] = b"canary-of-the-lab";
const PORT: u16 = 7000;

#[test]
fn probes_and_sniffers_find_what_is_there_and_nothing_else() {
    let lab = Lab::new("probes_and_sniffers_find_what_is_there_and_nothing_else");
    let hosts = lab.underlay(2, 1500);
    let to = (underlay_address(2), PORT);
    let ping = format!("ping -q -n -c 1 -W 1 {}", to.0);
    wait_until("the underlay works", || hosts[0].succeeds(&ping));
    assert!(ask_udp(&hosts[0], to, CANARY, FOR_NOTHING).is_err(), "nobody serves");
    let server = Server::echo(&hosts[1], PORT);
    let (here, there) = (Sniffer::start(&hosts[0]), Sniffer::start(&hosts[1]));
    assert!(reaches(&hosts[0], to));
    assert_eq!((here.count(CANARY), there.count(CANARY)), (0, 0));
    assert_eq!(ask_udp(&hosts[0], to, CANARY, PATIENCE).expect("an answer"), CANARY);
    assert_eq!(ask_tcp(&hosts[0], to, CANARY, PATIENCE).expect("an answer"), CANARY);
    wait_until("both ends saw both ways of both", || here.count(CANARY) == 4 && there.count(CANARY) == 4);
    let eth0 = hosts[0].ifindex("eth0").expect("eth0");
    assert_eq!((here.count_on(eth0, CANARY), here.count_on(eth0 + 1, CANARY)), (4, 0));
    assert!(server.heard(CANARY) && !server.heard(b"something else"));

    let stream = Stream::start(&hosts[0], to, Duration::from_millis(1));
    wait_until("the stream flows", || stream.answered() > 50);
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
    // A frame is sent once, and the kernel takes an interface for up some time after it was set up.
    let reaches = || hosts[0].succeeds(&format!("ping -q -n -c 1 -W 1 {}", underlay_address(2)));
    wait_until("the underlay carries", reaches);
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
    wait_until("the server takes it for what it says", || server.heard(CANARY));
    datagram.payload = b"tagged".to_vec();
    send_frame(&hosts[0], "eth0", &tagged(&datagram.frame(), 7));
    wait_until("the tagged one arrives", || wire.count(b"tagged") == 1);
    assert!(!server.heard(b"tagged"), "and is not for the server");
    drop((wire, server));
    lab.finish();
}

/// What the leak check says of a test that leaves something; the twin is every other test of this folder, which passes
/// it.
fn found(leak: impl FnOnce(&Ground)) -> String {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let ground = Ground::join();
        ground.hurry();
        leak(&ground);
    }));
    *outcome.expect_err("the check complains").downcast::<String>().expect("a message")
}

#[test]
fn a_namespace_that_stays_behind_is_named_and_removed() {
    let mut name = String::new();
    let message = found(|ground| {
        name = ground.space("known").pin().replace("known", "forgotten");
        let _forgotten = Space::create("", &name);
    });
    assert!(message.contains(&format!("namespace {name}")) && !message.contains("known"), "{message}");
    assert!(Netns::identify(&Path::new(DEFAULT_DIR).join(&name)).is_err(), "it is gone all the same");
    drop(Ground::join());
}

#[test]
fn a_process_that_stays_behind_is_named_and_killed() {
    // One is known by its parent, one by its namespace, one by its command line; the last two have another parent.
    let alive = |message: &str| -> Vec<String> {
        let pids = message.lines().filter_map(|line| line.trim().strip_prefix("process ")?.split(':').next());
        pids.filter(|pid| Path::new(&format!("/proc/{pid}/exe")).exists()).map(str::to_owned).collect()
    };
    let mut child = None;
    let message = found(|_| child = Some(Command::new("sleep").arg("21").spawn().expect("sleep starts")));
    child.expect("it was started").wait().expect("its end");
    assert!(message.contains(": sleep 21") && alive(&message).is_empty(), "{message}");
    let start = |mut command: Command| {
        // With a pipe that it inherits, the reader would wait for the process.
        let started = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(started.expect("setsid starts").success());
    };
    let message = found(|ground| start(ground.space("a").command("setsid -f sleep 22")));
    assert!(message.contains(": sleep 22") && alive(&message).is_empty(), "{message}");
    let message = found(|ground| {
        let file = ground.directory().join("fifo");
        run(&format!("mkfifo {}", file.display()));
        let mut command = Command::new("setsid");
        command.args(["-f", "timeout", "23", "tail", "-f"]).arg(file);
        start(command);
    });
    assert!(message.contains(": timeout 23 tail -f") && alive(&message).is_empty(), "{message}");
    drop(Ground::join());
}

#[test]
fn a_link_in_the_root_namespace_that_stays_behind_is_named() {
    run("ip link add privnet-before type bridge");
    let message = found(|_| drop(run("ip link add privnet-leak type bridge")));
    run("ip link delete privnet-leak");
    assert!(message.contains("link in the root namespace privnet-leak"), "{message}");
    assert!(!message.contains("privnet-before"), "what was there before is no leak: {message}");
    drop(Ground::join());
    run("ip link delete privnet-before");
}

#[test]
fn a_pin_a_program_and_a_file_that_stay_behind_are_named() {
    let data = |pin: &Path| aya::maps::MapData::from_pin(pin).expect("the pinned map");
    let mut held = None;
    let message = found(|ground| {
        let dir = ground.pin_dir();
        let spec = NetworkSpec::new(Vni::new(7).expect("VNI"), "10.240.0.0/22".parse().expect("a prefix"));
        let network = Network::open(&dir, &spec).expect("a network's instance");
        ground.must_be_unloaded(pinned(&dir));
        held = Some(data(&network.pin_dir().join(MAP_CONFIG.name)));
    });
    assert!(message.contains("pin /sys/fs/bpf/privnet-test-") && message.contains(MAP_CONFIG.name), "{message}");
    assert!(message.contains("Map("), "one map is loaded still: {message}");
    assert!(!message.contains("Program("), "the programs went with their pins: {message}");
    drop(held);
    let file = Path::new("/run/privnet-leak");
    let message = found(|_| std::fs::write(file, "").expect("written"));
    std::fs::remove_file(file).expect("removed");
    assert!(message.contains("/run privnet-leak"), "{message}");
    drop(Ground::join());
}

#[test]
fn a_namespace_that_this_process_holds_is_named() {
    let mut held = None;
    let message = found(|ground| {
        let [netns] = ground.namespaces();
        held = Some(netns);
    });
    let held = held.expect("it is held");
    assert!(message.contains(&format!("a handle of {}", held.id())), "{message}");
    drop(held);
    drop(Ground::join());
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

#[test]
fn what_agents_leave_standing_is_taken_down_and_what_is_held_is_named_all_the_same() {
    let spec = NetworkSpec::new(Vni::new(7).expect("VNI"), "10.240.0.0/22".parse().expect("a prefix"));
    let stand = |ground: &Ground| {
        let dir = ground.pin_dir();
        drop(Network::open(&dir, &spec).expect("a network's instance"));
        let (_, pin) = ground.pinned("left").expect("a namespace");
        let fifo = ground.directory().join("fifo");
        run(&format!("mkfifo {}", fifo.display()));
        let mut command = Command::new("sh");
        command.args(["-c", "read -r line < \"$0\""]).arg(fifo).arg("--run-dir").arg(ground.directory().join("a"));
        let process = command.spawn().expect("sh starts");
        // The kernel shows the command line of a process a moment after it has become the command.
        wait_until("the process is found by its run directory", || companions_below(ground.directory()).len() == 1);
        (dir, pin, process)
    };
    let ground = Ground::join();
    let (dir, pin, mut process) = stand(&ground);
    ground.take_down();
    assert!(!dir.exists() && Netns::identify(&pin).is_err() && companions_below(ground.directory()).is_empty());
    process.wait().expect("its end");
    drop(ground);

    let mut held = None;
    let message = found(|ground| {
        let (dir, _, mut process) = stand(ground);
        held = Some(aya::maps::MapData::from_pin(dir.join("pn_config")).expect("the pinned map"));
        ground.take_down();
        process.wait().expect("its end");
    });
    assert!(
        message.contains("Map(") && !message.contains("pin "),
        "one map is loaded still, and nothing else: {message}"
    );
    drop(held);
    drop(Ground::join());
}
