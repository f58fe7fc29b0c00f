//! The host around the networks: its other users, its agent going and coming, a container that leaves.

mod attacker;

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use attacker::{MARK, datagram, forge};
use privnet::datapath::DropReason;
use privnet::wireguard::{Support, kernel_support};
use privnet_tests::lab::probe::{Server, Stream, reaches};
use privnet_tests::lab::{Host, Lab, Options, Sender, Sniffer, Space, say, skip, wait_until};
use privnet_tests::soak::Soak;

const SUBNET: &str = "10.90.0.0/24";
const PORT: u16 = 7000;
const CANARY: &[u8] = b"canary-41de-of-a-leaving-member";
const NOBODY: u32 = 65_534;

#[test]
fn another_user_of_the_host_may_not_even_connect_and_who_can_connect_may_only_read() {
    let lab = Lab::new("another_user_of_the_host_may_not_even_connect_and_who_can_connect_may_only_read");
    let host = lab.host(&Options::ebpf());
    let socket = &host.paths().socket;
    let found = fs::metadata(socket).expect("the socket");
    // 0660 for the group privnet where there is one.
    assert!([0o600, 0o660].contains(&(found.permissions().mode() & 0o777)), "{:o}", found.permissions().mode());
    assert_eq!(found.uid(), 0);
    // The lab's directory is root's own; the way to the socket must not be what refuses.
    for directory in socket.ancestors().skip(1).take(2) {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).expect("permissions");
    }
    let create = |user: u32, name: &str| {
        let body = format!("{{\"name\":\"{name}\"}}");
        curl(&host, user, &["-d", &body, "http://privnet/v1/networks"])
    };
    let list = |user: u32| curl(&host, user, &["http://privnet/v1/networks"]);
    let (refused, whole) = (list(NOBODY), list(0));
    assert_eq!(refused.status.code(), Some(7), "connecting is refused by the file's mode: {refused:?}");
    assert!(whole.status.success(), "the twin: root reads: {whole:?}");

    say("whoever gets past the file's mode is asked of the kernel who it is");
    fs::set_permissions(socket, fs::Permissions::from_mode(0o666)).expect("permissions");
    assert!(list(NOBODY).status.success(), "reading is for everybody who can connect");
    for (what, arguments) in changes() {
        let refused = curl(&host, NOBODY, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let told = String::from_utf8_lossy(&refused.stdout).into_owned();
        assert!(told.contains("permission_denied") && told.ends_with("403"), "{what}: {told}");
    }
    assert_eq!(host.networks().expect("networks"), [], "nothing was changed");
    let made = create(0, "shop");
    let told = String::from_utf8_lossy(&made.stdout).into_owned();
    assert!(told.ends_with("201"), "the twin: root changes: {told}");
    lab.finish();
}

/// Every request that changes something, as arguments of curl.
fn changes() -> Vec<(&'static str, Vec<String>)> {
    let member = r#"{"network":"shop","app":"ap-a71da13f-7c70-4c00-a644-eee8558d8053","type":"web","number":1"#;
    let (attach, detach) = (format!("{member},\"target\":{{\"pid\":1}}}}"), format!("{member}}}"));
    let line = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    vec![
        ("create", line(&["-d", "{\"name\":\"shop\"}", "http://privnet/v1/networks"])),
        ("delete", line(&["-X", "DELETE", "http://privnet/v1/networks/shop"])),
        ("attach", line(&["-d", &attach, "http://privnet/v1/members"])),
        ("detach", line(&["-d", &detach, "http://privnet/v1/members/detach"])),
    ]
}

fn curl(host: &Host, user: u32, arguments: &[&str]) -> Output {
    let mut command = std::process::Command::new("setpriv");
    command.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups", "curl", "-s"]);
    command.args(["-o", "-", "-w", "%{http_code}", "--max-time", "20", "--unix-socket"]);
    command.arg(&host.paths().socket).args(arguments).output().expect("curl of the distribution")
}

#[test]
fn where_wireguard_is_missing_the_agent_says_so_and_nobody_is_attached() {
    let Support::Missing { .. } = kernel_support() else {
        return skip("a kernel without WireGuard");
    };
    let lab = Lab::new("where_wireguard_is_missing_the_agent_says_so_and_nobody_is_attached");
    let host = lab.host(&Options::ebpf());
    let network = host.network("shop", SUBNET);
    let container = lab.container("web-1").with_eth0(&host.space, 2);
    host.stop();
    let paths = host.paths();
    let line = format!(
        "timeout 20 {} agent --host {} --vtep {} --state-dir {} --socket {} --wireguard kernel --netns-prefix {} --bpffs {}",
        privnet_tests::lab::binary().display(),
        host.name,
        host.vtep,
        paths.state.display(),
        paths.socket.display(),
        paths.prefix,
        paths.bpffs.display()
    );
    let output = host.space.attempt(&line);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && told.contains("WireGuard"), "{told}");
    assert!(host.attach(&network, &container, None).is_err());
    assert_eq!(container.space.links(), ["eth0"], "and there is no interface that could send in clear");

    say("the twin: the same host, with the userspace one");
    host.start();
    let web = host.join(&network, &container);
    let worker = lab.member(&host, &network, "worker-1");
    wait_until("web reaches worker", || web.pings(worker.address()));
    lab.finish();
}

#[test]
fn nothing_opens_while_the_agent_goes_and_comes_fifty_times() {
    let lab = Lab::new("nothing_opens_while_the_agent_goes_and_comes_fifty_times");
    let host = lab.host(&Options::ebpf());
    let network = host.network("shop", SUBNET);
    let web = host.join(&network, &lab.container("web-1").with_eth0(&host.space, 2));
    let worker = lab.member(&host, &network, "worker-1");
    wait_until("web reaches worker", || web.pings(worker.address()));
    let _server = Server::echo(&worker.app, PORT);
    let stream = Stream::start(&web.app, (worker.address(), PORT), Duration::from_millis(2));
    let spoofed = forge(&datagram(&web, &worker), |f| f.source = Ipv4Addr::new(10, 90, 0, 200));
    let neighbour = lab.container("attacker-1").with_eth0(&host.space, 9);
    // The kernel's own check of sources would do the guard's work.
    ["all", "eth0"].iter().for_each(|which| web.app.sysctl(&format!("net.ipv4.conf.{which}.rp_filter"), "0"));
    let to_eth0 = forge(&datagram(&web, &worker), |f| {
        (f.source, f.destination) = (worker.address(), Ipv4Addr::new(172, 30, 0, 2));
        (f.source_mac, f.destination_mac) = (neighbour.space.mac("eth0"), web.app.mac("eth0"));
        f.destination_port = PORT;
    });
    // What a sniffer in the app netns sees, guard has not seen yet: a socket tells what came through.
    let inside = web.app.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))).expect("a port");
    inside.set_nonblocking(true).expect("a socket that does not block");
    let carrier = Sniffer::start(&worker.binding);
    let before = host.counters();
    let blasts = [Blast::start(&web.binding, &web.carrier(), spoofed), Blast::start(&neighbour.space, "eth0", to_eth0)];
    let mut buffer = [0; 64];
    let (soak, mut agents) = (shown_enough_after(50), 0);
    for round in soak.rounds() {
        agents = round + 1;
        let sent = blasts.each_ref().map(Blast::sent);
        if round % 2 == 0 {
            host.kill();
        } else {
            host.stop();
        }
        host.start();
        wait_until("both forgers went on meanwhile", || {
            blasts.iter().zip(sent).all(|(blast, sent)| blast.sent() > sent + 10)
        });
        assert_eq!(carrier.count(MARK), 0, "round {round}: a spoofed frame came through from_member");
        assert!(inside.recv(&mut buffer).is_err(), "round {round}: a private source came through eth0");
    }
    let sent = blasts.map(Blast::finish);
    host.wait_until_settled();
    let expected = BTreeMap::from([(DropReason::SpoofedAddress, sent[0]), (DropReason::GuardSource, sent[1])]);
    soak.tell(agents, "agents");
    say(&format!("forged frames over {agents} agents: {expected:?}"));
    wait_until("every one of them is counted", || host.counters().drops_since(&before) == expected);
    let (asked, lost) = stream.finish();
    assert!(lost.is_empty(), "the twin: {} of {asked} honest datagrams were lost", lost.len());
    drop(carrier);
    lab.finish();
}

#[test]
fn a_member_that_leaves_while_it_speaks_is_heard_nowhere_in_clear() {
    for options in [Options::ebpf(), Options::bridge()] {
        let lab = Lab::new("a_member_that_leaves_while_it_speaks_is_heard_nowhere_in_clear");
        let host = lab.host(&options);
        let network = host.network("shop", SUBNET);
        let worker = lab.member(&host, &network, "worker-1");
        let _server = Server::echo(&worker.app, PORT);
        let container = lab.container("web-1").with_eth0(&host.space, 2);
        let bridge = Sniffer::start(&host.space);
        let address = Ipv4Addr::new(10, 90, 0, 77);
        for round in shown_enough_after(25).rounds() {
            let attached = host.attach(&network, &container, Some(address)).expect("attach");
            let web = host.joined(&network, &container, attached);
            wait_until("web reaches worker", || reaches(&web.app, (worker.address(), PORT)));
            let carrier = Sniffer::start(&web.binding);
            // The socket has its private address for good, as every connection has.
            let talk = Talk::start(&web.app, address, worker.address());
            wait_until("it speaks", || talk.said() > 20);
            assert!(host.detach(&network, &container).expect("detach").detached);
            let said = talk.tried();
            wait_until("it tries to go on speaking", || talk.tried() > said + 20);
            drop(talk);
            assert_eq!(carrier.count(CANARY), 0, "round {round}: in clear on the carrier");
            assert_eq!(bridge.count(CANARY), 0, "round {round}: in clear on the container's bridge");
        }

        say("the twin: what the container says from its own address is on its bridge");
        let open = container.space.inside(|| UdpSocket::bind((Ipv4Addr::new(172, 30, 0, 2), 0))).expect("its own");
        open.send_to(CANARY, (Ipv4Addr::new(172, 30, 0, 1), PORT)).expect("sent");
        wait_until("the same sniffer sees it", || bridge.count(CANARY) > 0);
        drop(bridge);
        lab.finish();
    }
}

/// A run of so many rounds, or fewer on an emulated machine, which takes seconds for each.
fn shown_enough_after(rounds: u64) -> Soak {
    Soak::of_rounds(rounds).or_after(Duration::from_secs(10), privnet_tests::repeats(15).into())
}

/// A socket that is bound to a member's address and says the canary to another member for as long as it can.
struct Talk {
    stop: Arc<AtomicBool>,
    counts: Arc<[AtomicU64; 2]>,
    thread: Option<JoinHandle<()>>,
}

impl Talk {
    fn start(space: &Space, from: Ipv4Addr, to: Ipv4Addr) -> Self {
        let socket = space.inside(move || UdpSocket::bind((from, 0))).expect("the member's address");
        let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::new([AtomicU64::new(0), AtomicU64::new(0)]));
        let (until, count) = (Arc::clone(&stop), Arc::clone(&counts));
        let thread = thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                count[0].fetch_add(1, Ordering::Relaxed);
                if socket.send_to(CANARY, (to, PORT)).is_ok() {
                    count[1].fetch_add(1, Ordering::Relaxed);
                }
                thread::sleep(Duration::from_micros(200));
            }
        });
        Self { stop, counts, thread: Some(thread) }
    }

    fn tried(&self) -> u64 {
        self.counts[0].load(Ordering::Relaxed)
    }

    fn said(&self) -> u64 {
        self.counts[1].load(Ordering::Relaxed)
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One frame, again and again, out of one interface.
struct Blast {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Blast {
    fn start(space: &Space, interface: &str, frame: Vec<u8>) -> Self {
        let sender = Sender::open(space, interface);
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (until, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                if sender.send(&frame).is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                thread::sleep(Duration::from_micros(500));
            }
        });
        Self { stop, sent, thread: Some(thread) }
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it; how many were sent.
    fn finish(mut self) -> u64 {
        self.end();
        self.sent()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Blast {
    fn drop(&mut self) {
        self.end();
    }
}
