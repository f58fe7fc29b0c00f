//! Root in a member's container with what Docker leaves it: `CAP_NET_RAW`, and no `CAP_NET_ADMIN`.
//!
//! ```text
//!  web: eth0 172.30.0.2 [guard] ─┬─ docker0 ─┬─ [guard] eth0 172.30.0.3 :worker, a member
//!       wg0 ─────────────────────│───────────│────────── wg0
//!   any frame, by a packet socket┘           └───────── eth0 172.30.0.4 :bare, no member
//! ```

mod attacker;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;

use attacker::{MARK, wait_for_drop};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, sendto, setsockopt, socket, sockopt,
};
use nix::{libc, setsockopt_impl, sockopt_impl};
use privnet::datapath::DropReason;
use privnet_tests::lab::frame::{self, Datagram};
use privnet_tests::lab::probe::Server;
use privnet_tests::lab::{Joined, Lab, Options, Sniffer, Space, say, wait_until};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

const SUBNET: &str = "10.90.0.0/24";
const PORT: u16 = 7000;
/// What Docker gives a container's root: <https://github.com/moby/moby/blob/v28.0.0/oci/caps/defaults.go#L5>.
const DOCKERS: &str = "chown,dac_override,fsetid,fowner,mknod,net_raw,setgid,setuid,setfcap,setpcap,net_bind_service,sys_chroot,kill,audit_write";

sockopt_impl!(
    /// `packet(7)`: frames go to the driver and past everything that would be between, programs at egress included.
    QdiscBypass,
    SetOnly,
    libc::SOL_PACKET,
    libc::PACKET_QDISC_BYPASS,
    bool
);

#[test]
fn without_net_admin_root_takes_no_lock_off() {
    for options in [Options::ebpf(), Options::bridge()] {
        let lab = Lab::new("without_net_admin_root_takes_no_lock_off");
        let host = lab.host(&options);
        let network = host.network("shop", SUBNET);
        let web = host.join(&network, &lab.container("web-1").with_eth0(&host.space, 2));
        let worker = lab.member(&host, &network, "worker-1");
        wait_until("web reaches worker", || web.pings(worker.address()));
        host.wait_until_settled();
        // No agent repairs what the twins break.
        host.stop();
        let of_docker = |line: &str| {
            let keep = DOCKERS.replace(',', ",+");
            web.app.attempt(&format!("setpriv --inh-caps=-all --bounding-set=-all,+{keep} {line}"))
        };
        let alive = of_docker(&format!("ping -q -n -c 1 -W 1 {}", worker.address()));
        assert!(alive.status.success(), "the twin: it is a member, and what needs no more than that works: {alive:?}");
        let changes = [
            "ip address add 10.90.0.77/32 dev wg0".to_owned(),
            format!("ip route add {}/32 via 172.30.0.1 dev eth0", worker.address()),
            "ip rule add to 10.90.0.0/24 table 7".to_owned(),
            format!("ip route delete unreachable {SUBNET} metric 4294967295"),
            "ip neighbour replace 172.30.0.9 lladdr 02:00:00:00:00:09 dev eth0".to_owned(),
            "ip link add extra0 type bridge".to_owned(),
            "tc filter delete dev eth0 egress".to_owned(),
            "tc qdisc delete dev eth0 clsact".to_owned(),
            "ip link set wg0 mtu 1300".to_owned(),
            "ip link set wg0 down".to_owned(),
            "ip link delete wg0".to_owned(),
        ];
        for line in &changes {
            let refused = of_docker(line);
            let told = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert!(!refused.status.success() && told.contains("not permitted"), "{line}: {told}");
        }
        assert!(web.pings(worker.address()), "and nothing has changed");
        say("the twin: with CAP_NET_ADMIN each of them is its own business");
        for line in &changes {
            web.app.run(line);
        }
        lab.finish();
    }
}

#[test]
fn a_packet_socket_passes_ones_own_guard_and_no_other() {
    for options in [Options::ebpf(), Options::bridge()] {
        let lab = Lab::new("a_packet_socket_passes_ones_own_guard_and_no_other");
        let host = lab.host(&options);
        let network = host.network("shop", SUBNET);
        let web = host.join(&network, &lab.container("web-1").with_eth0(&host.space, 2));
        let worker = host.join(&network, &lab.container("worker-1").with_eth0(&host.space, 3));
        let bare = lab.container("bare-1").with_eth0(&host.space, 4);
        wait_until("web reaches worker", || web.pings(worker.address()));
        let servers = [&worker.app, &bare.space].map(|space| Server::echo(space, PORT));
        // The kernel's own check of sources would do the guard's work.
        for space in [&worker.app, &bare.space] {
            ["all", "eth0"].iter().for_each(|which| space.sysctl(&format!("net.ipv4.conf.{which}.rp_filter"), "0"));
        }
        let bridge = Sniffer::start(&host.space);
        let [held, past] = [false, true].map(|bypass| Packets::open(&web.app, "eth0", bypass));
        // In clear, in its own private name, to the address that another container has on the bridge.
        let to = |space: &Space, last: u8, payload: &[u8]| Datagram {
            source_mac: web.app.mac("eth0"),
            destination_mac: space.mac("eth0"),
            source: web.address(),
            destination: Ipv4Addr::new(172, 30, 0, last),
            source_port: PORT,
            destination_port: PORT,
            fragment: 0,
            payload: [MARK, payload].concat(),
        };

        say("an ordinary packet socket sends through its own guard");
        let before = host.counters();
        let told = held.send(&to(&bare.space, 4, b" held").frame());
        assert_eq!(told, Err(Errno::ENOBUFS), "what a program at egress drops, the sender hears of");
        assert_eq!(wait_for_drop(&host, &before), BTreeMap::from([(DropReason::GuardSource, 1)]));
        assert_eq!(bridge.count(MARK), 0);

        say(
            "one with PACKET_QDISC_BYPASS past it: what a container says in clear by its own will, guard does not hold",
        );
        past.send(&to(&bare.space, 4, b" past").frame()).expect("eth0 takes it");
        wait_until("the twin, which is no member, hears it", || servers[1].heard(&[MARK, b" past"].concat()));
        wait_until("it is seen in clear on the container's bridge", || bridge.count(MARK) > 0);

        say("who is a member has a guard of its own, which no other container passes");
        let before = host.counters();
        past.send(&to(&worker.app, 3, b" past").frame()).expect("eth0 takes it");
        assert_eq!(wait_for_drop(&host, &before), BTreeMap::from([(DropReason::GuardSource, 1)]));
        let mut private = to(&worker.app, 3, b" past");
        private.destination = worker.address();
        private.source = Ipv4Addr::new(172, 30, 0, 2);
        let before = host.counters();
        past.send(&private.frame()).expect("eth0 takes it");
        assert_eq!(wait_for_drop(&host, &before), BTreeMap::from([(DropReason::GuardDestination, 1)]));
        assert!(!servers[0].heard(&[MARK, b" past"].concat()), "worker heard what was never encrypted");

        say("on its own wg0 it is itself or nobody");
        says_by_raw_socket(&web, &worker, &servers[0]);
        assert!(web.pings(worker.address()));
        drop(bridge);
        lab.finish();
    }
}

/// What a member writes to its `wg0` packet by packet, in its own name and in another's.
fn says_by_raw_socket(web: &Joined, worker: &Joined, server: &Server) {
    let socket =
        by_docker(&web.app, || socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw));
    let socket = socket.expect("CAP_NET_RAW");
    let say_as = |source: Ipv4Addr, what: &[u8]| {
        let packet = frame::ipv4(source, worker.address(), 17, 0, &frame::udp(PORT, PORT, what));
        let to = nix::sys::socket::SockaddrIn::from(SocketAddrV4::new(worker.address(), 0));
        sendto(socket.as_raw_fd(), &packet, &to, MsgFlags::empty()).expect("wg0 takes it");
    };
    say_as(web.address(), b"as myself");
    wait_until("the twin is heard", || server.heard(b"as myself"));
    (0..20).for_each(|_| say_as(Ipv4Addr::new(10, 90, 0, 200), b"as another"));
    say_as(web.address(), b"and again as myself");
    wait_until("the twin is heard after it", || server.heard(b"and again as myself"));
    assert!(!server.heard(b"as another"), "the key has one address, and this is not it");
}

/// Runs a closure on a thread in a namespace, with no capability but those that Docker leaves a container's root.
fn by_docker<T: Send + 'static>(space: &Space, closure: impl FnOnce() -> T + Send + 'static) -> T {
    space.inside(move || {
        // Capabilities are a thread's own, and so is the namespace that it has from the thread that started it.
        let thread = thread::spawn(move || {
            let is_kept = |name: &str| DOCKERS.split(',').any(|kept| kept.eq_ignore_ascii_case(name));
            let kept =
                CapabilitySet::all().iter_names().filter(|(name, _)| is_kept(name)).map(|(_, one)| one).collect();
            let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
            set_capabilities(None, sets).expect("one may always have less");
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
            let refused = setsockopt(&socket, sockopt::RcvBufForce, &(1 << 20));
            assert_eq!(refused, Err(Errno::EPERM), "this needs CAP_NET_ADMIN, which it has not");
            closure()
        });
        thread.join().expect("the thread of few capabilities")
    })
}

/// A packet socket of a container's root.
struct Packets {
    socket: OwnedFd,
    address: LinkAddr,
}

impl Packets {
    fn open(space: &Space, interface: &'static str, bypass: bool) -> Self {
        by_docker(space, move || {
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
            setsockopt(&socket, QdiscBypass, &bypass)?;
            let mut links = getifaddrs()?.filter(|entry| entry.interface_name == interface);
            let address = links.find_map(|entry| entry.address?.as_link_addr().copied()).ok_or(Errno::ENODEV)?;
            nix::Result::Ok(Self { socket, address })
        })
        .expect("CAP_NET_RAW is enough")
    }

    fn send(&self, frame: &[u8]) -> nix::Result<usize> {
        sendto(self.socket.as_raw_fd(), frame, &self.address, MsgFlags::empty())
    }
}
