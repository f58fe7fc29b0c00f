//! Members without a network netns: each has an app netns and a binding netns, and the binding netns are joined by veths
//! to a switch, so that WireGuard is alone with its carrier.

#![expect(clippy::print_stdout, reason = "the transcript")]
#![allow(dead_code, reason = "each test file uses its part of the lab")]

use std::fs;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use privnet::model::{PrivateKey, PublicKey};
use privnet::netns::{DEFAULT_DIR, Netns};
use privnet::wireguard::{
    Backend, Device, Peer, PeerChange, Support, UserspaceSpec, kernel_support, start_userspace, stop_userspace,
};

/// How long a named condition may take to come true.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The one wait for nothing: an answer on this lab takes less than a millisecond.
pub const SILENCE: Duration = Duration::from_millis(500);
/// The port of every member but where a test says otherwise.
pub const PORT: u16 = 51820;
const MTU_BYTES: u32 = 1390;

/// The userspace backend always; the kernel's where the kernel has it, else the name of what is missing is printed.
pub fn backends() -> Vec<Backend> {
    match kernel_support() {
        Support::Present => vec![Backend::Userspace, Backend::Kernel],
        Support::Missing { reason, .. } => {
            // Set where the kernel is chosen: cargo xtask vm.
            assert!(std::env::var_os("PRIVNET_REQUIRE_KERNEL_WIREGUARD").is_none(), "{reason}");
            println!("kernel WireGuard is not exercised: {reason}");
            vec![Backend::Userspace]
        }
    }
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

pub fn wait_until(condition: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {condition}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a command of the transcript and insists on its success.
pub fn sh(line: &str) {
    println!("$ {line}");
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().expect("a command")).args(words).output().expect("it starts");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The namespaces of one test. Dropped, it removes them and sees that no process of the test is left.
pub struct Lab {
    pub prefix: String,
    pub directory: tempfile::TempDir,
    names: Vec<String>,
}

impl Lab {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("wg-{}-{}-", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let directory = tempfile::Builder::new().prefix("privnet-wg-").tempdir().expect("a directory");
        let mut lab = Self { prefix, directory, names: Vec::new() };
        no_ipv6(&lab.netns("switch"));
        // One that snoops joins a multicast group of its own, and says so to everybody.
        sh(&format!("ip -n {0}switch link add br0 type bridge mcast_snooping 0", lab.prefix));
        sh(&format!("ip -n {0}switch link set br0 up", lab.prefix));
        lab
    }

    /// A pinned namespace with its loopback up.
    pub fn netns(&mut self, name: &str) -> Netns {
        let name = format!("{}{name}", self.prefix);
        let netns = Netns::create(Path::new(DEFAULT_DIR), &name).expect("a namespace");
        sh(&format!("ip -n {name} link set lo up"));
        self.names.push(name);
        netns
    }

    /// A member with `10.240.0.<host>`, without a device yet.
    pub fn member(&mut self, host: u8) -> Member {
        let (prefix, address) = (self.prefix.clone(), Ipv4Addr::new(10, 240, 0, host));
        let (app, binding) = (self.netns(&format!("app{host}")), self.netns(&format!("bind{host}")));
        no_ipv6(&binding);
        sh(&format!("ip -n {prefix}bind{host} link add veth0 type veth peer name m{host} netns {prefix}switch"));
        sh(&format!("ip -n {prefix}switch link set m{host} up master br0"));
        sh(&format!("ip -n {prefix}bind{host} addr add {address}/22 dev veth0"));
        sh(&format!("ip -n {prefix}bind{host} link set veth0 up"));
        Member {
            address,
            app_name: format!("{prefix}app{host}"),
            bind_name: format!("{prefix}bind{host}"),
            app,
            binding,
            key: PrivateKey::from_random([host; 32]),
            run_dir: self.directory.path().join(format!("member-{host}")),
            backend: Backend::Userspace,
        }
    }

    /// Members 10.240.0.2, 10.240.0.3, … with their devices up and all of them each other's peers.
    pub async fn mesh(&mut self, backend: Backend, size: u8) -> Vec<Member> {
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
fn no_ipv6(netns: &Netns) {
    netns
        .run_blocking(|| {
            for which in ["all", "default"] {
                fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1").expect("writable");
            }
        })
        .expect("entered");
}

impl Drop for Lab {
    fn drop(&mut self) {
        // First the processes, should a test have failed before it ended them.
        let run_dirs: Vec<PathBuf> =
            fs::read_dir(self.directory.path()).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        // On a thread of its own: the test itself may be inside a runtime.
        let stop = || run_dirs.iter().for_each(|run_dir| drop(runtime().block_on(stop_userspace(run_dir))));
        std::thread::scope(|scope| scope.spawn(stop).join().is_ok());
        for name in &self.names {
            let _ = Netns::remove(Path::new(DEFAULT_DIR), name);
        }
        if !std::thread::panicking() {
            assert_eq!(processes_of(self.directory.path()), Vec::<u32>::new(), "a process outlived its lab");
        }
    }
}

/// One container's place, with the names by which `ip` knows its namespaces.
pub struct Member {
    pub address: Ipv4Addr,
    pub app_name: String,
    pub bind_name: String,
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
            app_path: Path::new(DEFAULT_DIR).join(&self.app_name),
            binding: self.binding.clone(),
            interface: "wg0".parse().expect("valid"),
            mtu: MTU_BYTES,
            listen_port: PORT,
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
                sh(&format!("ip -n {} link add wg0 netns {} type wireguard", self.bind_name, self.app_name));
            }
            Backend::Userspace => start_userspace(&self.spec(), &self.key).await.expect("started"),
        }
        self.device().configure(&self.key, PORT).await.expect("configured");
        self.link_up();
    }

    pub fn link_up(&self) {
        sh(&format!("ip -n {} addr add {}/22 dev wg0", self.app_name, self.address));
        sh(&format!("ip -n {} link set wg0 mtu {MTU_BYTES} up", self.app_name));
    }

    pub async fn stop(&self) {
        match self.backend {
            Backend::Kernel => sh(&format!("ip -n {} link del wg0", self.app_name)),
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

    /// A socket in the app netns, bound to `address`, that waits [`PATIENCE`] for a datagram.
    pub fn socket(&self, address: Ipv4Addr, port: u16) -> UdpSocket {
        let bind = move || UdpSocket::bind((address, port));
        let socket = self.app.run_blocking(bind).expect("entered").expect("bound");
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
        // So that a reader who waits for a core loses nothing.
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 8 << 20).expect("set");
        socket
    }

    pub fn ping(&self, other: &Self) -> bool {
        println!("$ ip netns exec {} ping -c 1 {}", self.app_name, other.address);
        let netns = format!("--net={DEFAULT_DIR}/{}", self.app_name);
        let ping = ["ping", "-n", "-q", "-c", "1", "-W", "2", &other.address.to_string()].map(str::to_owned);
        let output = Command::new("nsenter").arg(netns).args(ping).output().expect("nsenter starts");
        output.status.success()
    }

    pub fn has_link(&self) -> bool {
        let output = Command::new("ip").args(["-n", &self.app_name, "link", "show", "wg0"]).output();
        output.expect("ip starts").status.success()
    }

    pub fn process(&self) -> u32 {
        let processes = processes_of(&self.run_dir);
        assert_eq!(processes.len(), 1, "one process serves a member");
        processes[0]
    }
}

/// A datagram from `from` arrives at `to`; sent again now and then, since a handshake may still be under way.
pub fn arrives(from: &UdpSocket, to: &UdpSocket, payload: &[u8]) -> bool {
    let destination = to.local_addr().expect("bound");
    to.set_read_timeout(Some(Duration::from_millis(200))).expect("set");
    let mut buffer = [0; 2048];
    let (start, mut sent) = (Instant::now(), 0);
    while start.elapsed() < PATIENCE {
        from.send_to(payload, destination).expect("sent");
        sent += 1;
        if let Ok((length, source)) = to.recv_from(&mut buffer)
            && &buffer[..length] == payload
        {
            // What waited for the handshake comes with it, and is not for whoever listens next.
            while sent > 1 && to.recv_from(&mut buffer).is_ok() {
                sent -= 1;
            }
            return source == from.local_addr().expect("bound");
        }
    }
    false
}

/// The processes that have `run_dir`, or something below it, on their command line.
pub fn processes_of(run_dir: &Path) -> Vec<u32> {
    let wanted = run_dir.to_str().expect("text");
    let processes = fs::read_dir("/proc").expect("mounted").flatten();
    let serves = |pid: &u32| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.contains("wireguard-process") && line.contains(wanted)
    };
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(serves).collect()
}

/// Everything that passes an interface, as a capture file.
pub struct Sniffer {
    tcpdump: Child,
    file: PathBuf,
}

impl Sniffer {
    /// Starts to listen; what passes afterwards is in the capture.
    pub fn start(lab: &Lab, netns: &str, interface: &str) -> Self {
        let file = lab.directory.path().join(format!("{netns}.pcap"));
        let mut tcpdump = Command::new("nsenter")
            .arg(format!("--net={DEFAULT_DIR}/{netns}"))
            .args(["tcpdump", "-Z", "root", "-U", "--immediate-mode", "-n", "-i", interface, "-w"])
            .arg(&file)
            .stderr(Stdio::piped())
            .spawn()
            .expect("tcpdump starts");
        let mut told = String::new();
        let stderr = tcpdump.stderr.as_mut().expect("piped");
        let mut byte = [0];
        while !told.contains("listening on") && stderr.read_exact(&mut byte).is_ok() {
            told.push(char::from(byte[0]));
        }
        assert!(told.contains("listening on"), "tcpdump: {told}");
        Self { tcpdump, file }
    }

    /// Waits until the capture holds what it must, ends it and returns all its frames.
    pub fn frames(mut self, condition: &str, holds: impl Fn(&[Vec<u8>]) -> bool) -> Vec<Vec<u8>> {
        wait_until(condition, || holds(&frames(&self.file)));
        let pid = rustix::process::Pid::from_child(&self.tcpdump);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        self.tcpdump.wait().expect("it ends");
        frames(&self.file)
    }
}

/// The whole frames in a capture: pcap-savefile(5) has a header of 24 bytes, then 16 bytes before each frame, of which the
/// third word is its length.
fn frames(capture: &Path) -> Vec<Vec<u8>> {
    let capture = fs::read(capture).expect("a capture");
    let mut frames = Vec::new();
    let mut rest = capture.get(24..).unwrap_or_default();
    while let Some((header, behind)) = rest.split_first_chunk::<16>() {
        let length = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]) as usize;
        let Some((frame, next)) = behind.split_at_checked(length) else { break };
        frames.push(frame.to_vec());
        rest = next;
    }
    frames
}
