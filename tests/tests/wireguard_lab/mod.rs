//! Members without a network netns: each has an app netns and a binding netns, and the binding netns are joined by veths
//! to a switch, so that WireGuard is alone with its carrier.

#![allow(dead_code, reason = "each test file uses its part of the lab")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use privnet::model::{PrivateKey, PublicKey};
use privnet::netns::Netns;
use privnet::wireguard::{
    Backend, Device, OffloadChoice, Peer, PeerChange, Support, UserspaceSpec, kernel_support, start_userspace,
    stop_userspace,
};
use privnet_tests::lab::process::companions_below;
use privnet_tests::lab::{Ground, SOON, Space, runtime, say, skip_part};

/// The one wait for nothing: an answer on this lab takes less than a millisecond.
pub const SILENCE: Duration = Duration::from_millis(500);
/// The port of every member but where a test says otherwise.
pub const PORT: u16 = 51820;
const MTU_BYTES: u32 = 1390;

/// The userspace backend always; the kernel's where the kernel has it, else that half of the test is skipped.
pub fn backends() -> Vec<Backend> {
    match kernel_support() {
        Support::Present => vec![Backend::Userspace, Backend::Kernel],
        Support::Missing { reason, .. } => {
            say(&reason.to_string());
            skip_part("kernel", "kernel WireGuard");
            vec![Backend::Userspace]
        }
    }
}

/// The switch of one test, and its ground. Dropped, it ends the processes of its members.
pub struct Lab {
    pub ground: Ground,
    switch: Space,
}

impl Lab {
    pub fn new() -> Self {
        let ground = Ground::join();
        let switch = ground.space("switch");
        no_ipv6(&switch);
        // One that snoops joins a multicast group of its own, and says so to everybody.
        switch.run("ip link add br0 type bridge mcast_snooping 0");
        switch.run("ip link set br0 up");
        Self { ground, switch }
    }

    /// A member with `10.240.0.<host>`, without a device yet.
    pub fn member(&self, host: u8) -> Member {
        let address = Ipv4Addr::new(10, 240, 0, host);
        let [app, binding] = ["app", "bind"].map(|name| self.ground.space(&format!("{name}{host}")));
        no_ipv6(&binding);
        binding.run(&format!("ip link add veth0 type veth peer name m{host} netns {}", self.switch.pin()));
        self.switch.run(&format!("ip link set m{host} up master br0"));
        binding.run(&format!("ip addr add {address}/22 dev veth0"));
        binding.run("ip link set veth0 up");
        Member {
            address,
            app: Netns::open(&app.path()).expect("the app netns"),
            binding: Netns::open(&binding.path()).expect("the binding netns"),
            app_space: app,
            bind_space: binding,
            key: PrivateKey::from_random([host; 32]),
            run_dir: self.ground.directory().join(format!("member-{host}")),
            backend: Backend::Userspace,
        }
    }

    /// Members 10.240.0.2, 10.240.0.3, … with their devices up and all of them each other's peers.
    pub async fn mesh(&self, backend: Backend, size: u8) -> Vec<Member> {
        let mut members: Vec<Member> = (2..2 + size).map(|host| self.member(host)).collect();
        for member in &mut members {
            member.start(backend).await;
        }
        for member in &members {
            let others = members.iter().filter(|other| other.address != member.address);
            let set = others.map(Member::as_peer).collect();
            member.change(PeerChange { set, remove: vec![] }).await;
        }
        members
    }
}

/// So that nothing of the lab's own links is on the carrier.
fn no_ipv6(space: &Space) {
    for which in ["all", "default"] {
        space.sysctl(&format!("net.ipv6.conf.{which}.disable_ipv6"), "1");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Should a test have failed before it ended them.
        let entries = fs::read_dir(self.ground.directory()).into_iter().flatten().flatten();
        let run_dirs: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        // On a thread of its own: the test itself may be inside a runtime.
        let stop = || run_dirs.iter().for_each(|run_dir| drop(runtime().block_on(stop_userspace(run_dir))));
        std::thread::scope(|scope| scope.spawn(stop).join().is_ok());
    }
}

/// One container's namespaces, by name and by handle.
pub struct Member {
    pub address: Ipv4Addr,
    pub app_space: Space,
    pub bind_space: Space,
    pub app: Netns,
    pub binding: Netns,
    pub key: PrivateKey,
    pub run_dir: PathBuf,
    pub backend: Backend,
}

impl Member {
    pub fn spec(&self) -> UserspaceSpec {
        UserspaceSpec {
            binary: PathBuf::from(env!("CARGO_BIN_EXE_wireguard_process")),
            run_dir: self.run_dir.clone(),
            app: self.app.clone(),
            app_path: self.app_space.path(),
            binding: self.binding.clone(),
            interface: "wg0".parse().expect("valid"),
            mtu: MTU_BYTES,
            listen_port: PORT,
            offload: OffloadChoice::Auto,
        }
    }

    /// A handle that knows nothing of those before it.
    pub fn device(&self) -> Device {
        match self.backend {
            Backend::Kernel => Device::kernel(self.app.clone(), "wg0".parse().expect("valid")),
            Backend::Userspace => Device::userspace(&self.run_dir),
        }
    }

    /// Creates the device, gives it its key, and brings the link up with the member's address.
    pub async fn start(&mut self, backend: Backend) {
        self.backend = backend;
        match backend {
            Backend::Kernel => {
                self.bind_space.run(&format!("ip link add wg0 netns {} type wireguard", self.app_space.pin()));
            }
            Backend::Userspace => start_userspace(&self.spec(), &self.key).await.expect("started"),
        }
        self.device().configure(&self.key, PORT).await.expect("configured");
        self.link_up();
    }

    /// Starts the process from an agent of its own, which is returned.
    pub fn started_by_an_agent(&self) -> Child {
        let mut agent = Command::new(env!("CARGO_BIN_EXE_wireguard_process"))
            .arg("agent")
            .args([&self.run_dir, &self.app_space.path(), &self.bind_space.path()])
            .arg(PORT.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the agent starts");
        let key = self.key.reveal_base64();
        writeln!(agent.stdin.as_mut().expect("piped"), "{}", key.as_str()).expect("written");
        let mut ready = [0; 6];
        agent.stdout.as_mut().expect("piped").read_exact(&mut ready).expect("the agent is ready");
        agent
    }

    pub fn link_up(&self) {
        self.app_space.run(&format!("ip addr add {}/22 dev wg0", self.address));
        self.app_space.run(&format!("ip link set wg0 mtu {MTU_BYTES} up"));
    }

    pub async fn stop(&self) {
        match self.backend {
            Backend::Kernel => drop(self.app_space.run("ip link del wg0")),
            Backend::Userspace => stop_userspace(&self.run_dir).await.expect("stopped"),
        }
    }

    pub async fn change(&self, change: PeerChange) {
        self.device().change_peers(&change).await.expect("changed");
    }

    pub fn public_key(&self) -> PublicKey {
        self.key.public_key()
    }

    pub fn as_peer(&self) -> Peer {
        let endpoint = SocketAddrV4::new(self.address, PORT);
        Peer { public_key: self.public_key(), endpoint, allowed_ip: self.address }
    }

    /// A socket in the app netns, bound to `address`, that waits [`SOON`] for a datagram.
    pub fn socket(&self, address: Ipv4Addr, port: u16) -> UdpSocket {
        let bind = move || UdpSocket::bind((address, port));
        let socket = self.app.run_blocking(bind).expect("entered").expect("bound");
        socket.set_read_timeout(Some(SOON)).expect("set");
        // So that a reader that waits for a core loses nothing.
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 8 << 20).expect("set");
        socket
    }

    pub fn ping(&self, other: &Self) -> bool {
        self.app_space.succeeds(&format!("ping -n -q -c 1 -W 2 {}", other.address))
    }

    pub fn has_link(&self) -> bool {
        self.app_space.link("wg0").is_some()
    }

    pub fn process(&self) -> u32 {
        let processes = companions_below(&self.run_dir);
        assert_eq!(processes.len(), 1, "one process serves a member: {processes:?}");
        processes.first().map_or(0, |process| process.pid.cast_unsigned())
    }
}

/// A datagram from `from` arrives at `to`; sent again now and then, since a handshake may still be under way.
pub fn arrives(from: &UdpSocket, to: &UdpSocket, payload: &[u8]) -> bool {
    let destination = to.local_addr().expect("bound");
    to.set_read_timeout(Some(Duration::from_millis(200))).expect("set");
    let mut buffer = [0; 2048];
    let (start, mut sent) = (Instant::now(), 0);
    while start.elapsed() < SOON {
        from.send_to(payload, destination).expect("sent");
        sent += 1;
        if let Ok((length, source)) = to.recv_from(&mut buffer)
            && &buffer[..length] == payload
        {
            // What waited for the handshake comes with it, and is not for the next listener.
            while sent > 1 && to.recv_from(&mut buffer).is_ok() {
                sent -= 1;
            }
            return source == from.local_addr().expect("bound");
        }
    }
    false
}
