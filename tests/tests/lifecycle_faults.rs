//! Bad input and faults: each gives one clear error with its code, and leaves nothing half made.
//!
//! ```text
//!  privnet <verb> … ──▶ agent ──▶ refused: {"error":{"code","message","remedy"}}; members, addresses and kernel as before
//! ```

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use privnet::agent::views::{Attached, Detached, MemberView, NetworkView};
use privnet::agent::{ControlError, ErrorCode};
use privnet_tests::lab::cli::{Cli, binary, failure};
use privnet_tests::lab::container::APP;
use privnet_tests::lab::{Container, Host, Lab, Options, Space, say, wait_until};

const SUBNET: &str = "10.90.0.0/24";

#[test]
fn a_network_that_cannot_be_is_refused_and_named() {
    let lab = Lab::new("a_network_that_cannot_be_is_refused_and_named");
    let host = lab.host(&Options::ebpf());
    let shop = host.network("shop", SUBNET);
    let before = host.networks().expect("networks");
    let refused = |name: &str, subnet: Option<&str>| {
        let error = host.create_network(name, subnet).expect_err(name);
        assert_eq!(host.networks().expect("networks"), before, "{name} {subnet:?}");
        error.code
    };
    for subnet in
        ["10.90.0.0", "10.90.0.0/33", "300.1.1.0/24", "10.90.0.7/24", "8.8.8.0/24", "fd00::/64", "10.90.1.0/31"]
    {
        assert_eq!(refused("bad", Some(subnet)), ErrorCode::InvalidSubnet, "{subnet}");
    }
    let long = "n".repeat(64);
    for name in ["Shop", "a/b", "a b", "1", "a-", "../etc", long.as_str(), "pn-a71da13f-7c70-4c00-a644-eee8558d8053"] {
        assert_eq!(refused(name, None), ErrorCode::InvalidArgument, "{name:?}");
    }
    assert_eq!(refused("shop", None), ErrorCode::NetworkExists);
    assert_eq!(host.delete_network("nowhere").expect_err("no such").code, ErrorCode::NetworkNotFound);
    let cli = host.cli();
    assert_eq!(
        cli.json::<NetworkView>(&["network", "show", "nowhere"]).expect_err("no such").code,
        ErrorCode::NetworkNotFound
    );

    say("the twins");
    let small = host.network("small", "192.168.7.0/29");
    assert_eq!(cli.json::<NetworkView>(&["network", "show", "small"]).expect("show"), small);
    assert_eq!(cli.json::<NetworkView>(&["network", "show", &small.id.to_string()]).expect("show"), small);
    host.delete_network("small").expect("delete");
    let pooled = host.create_network("pooled", None).expect("from the pool");
    assert_eq!(pooled.subnet.prefix_len(), 22);
    assert!(pooled.vni != shop.vni && pooled.subnet.addr().octets()[0] == 10);

    let web = lab.member(&host, &shop, "web-1");
    assert_eq!(host.delete_network("shop").expect_err("it has members").code, ErrorCode::NetworkNotEmpty);
    assert!(host.detach(&shop, &web.container).expect("detach").detached);
    host.delete_network("shop").expect("the twin");
    lab.finish_detached();
}

#[test]
fn an_attach_that_cannot_be_is_refused_and_leaves_nothing() {
    let lab = Lab::new("an_attach_that_cannot_be_is_refused_and_leaves_nothing");
    let host = lab.host(&Options::ebpf());
    let shop = host.network("shop", SUBNET);
    let same = host.network("same", SUBNET);
    let within = host.network("within", "10.90.0.128/25");
    let web = lab.member(&host, &shop, "web-1");
    let other = lab.container("web-2");
    let room = Room::new(&host, &other.space);
    let path = other.space.path().display().to_string();
    let id = shop.id.to_string();
    let attach = |arguments: &[&str]| {
        let all = [&["attach", "--network", &id, "--app", APP][..], arguments].concat();
        let error = host.cli().json::<Attached>(&all).expect_err("a refusal");
        room.is_as_it_was();
        error.code
    };
    let netns = ["--netns", path.as_str()];
    let with = |more: &[&str]| attach(&[&netns[..], more].concat());

    say("addresses");
    for address in ["10.91.0.5", "10.90.0.0", "10.90.0.255", "0.0.0.0", "127.0.0.1"] {
        assert_eq!(with(&["--address", address]), ErrorCode::AddressInvalid, "{address}");
    }
    assert_eq!(with(&["--address", &web.address().to_string()]), ErrorCode::AddressTaken);

    say("namespaces");
    let file = lab.directory().join("plain");
    fs::write(&file, "no namespace").expect("a file");
    assert_eq!(attach(&["--netns", "/run/netns/privnet-test-no-such"]), ErrorCode::NetnsNotFound);
    for path in [file.to_str().expect("text"), "/proc/self/ns/mnt", "/", "/dev/null"] {
        assert_eq!(attach(&["--netns", path]), ErrorCode::NetnsInvalid, "{path}");
    }
    let of_host = host.space.path().display().to_string();
    let of_agent = format!("/proc/{}/ns/net", host.pid());
    for path in [
        of_host.as_str(),
        of_agent.as_str(),
        web.binding.path().to_str().expect("text"),
        web.network.path().to_str().expect("text"),
    ] {
        assert_eq!(attach(&["--netns", path]), ErrorCode::NetnsInvalid, "{path}: the host's own, or one of ours");
    }
    let mut gone = Command::new("true").spawn().expect("true");
    gone.wait().expect("the end of true");
    assert_eq!(attach(&["--pid", &gone.id().to_string()]), ErrorCode::NetnsNotFound);

    say("names");
    let long = "t".repeat(64);
    for kind in ["", "Web", "1", "a.b", "../x", long.as_str()] {
        assert_eq!(with(&["--type", kind]), ErrorCode::InvalidArgument, "{kind:?}");
    }
    for number in ["0", "100000", "4294967296"] {
        let wrong = ["attach", "--network", &id, "--app", APP, "--netns", &path, "--number", number, "-o", "json"];
        let output = host.cli().output(&wrong);
        assert_eq!(output.status.code(), Some(2), "{number} is wrong usage");
        let error = failure(&String::from_utf8_lossy(&output.stderr));
        assert_eq!(error.code, ErrorCode::InvalidArgument, "{number}");
        assert!(error.message.contains("expected 1 to 99999"), "{number}: {}", error.message);
        room.is_as_it_was();
    }
    for (network, app, code) in [
        ("nowhere", APP, ErrorCode::NetworkNotFound),
        ("pn-a71da13f-7c70-4c00-a644-eee8558d8053", APP, ErrorCode::NetworkNotFound),
        (id.as_str(), "ap-shop", ErrorCode::InvalidArgument),
        (id.as_str(), "12", ErrorCode::InvalidArgument),
    ] {
        let arguments = ["attach", "--network", network, "--app", app, "--netns", &path];
        assert_eq!(host.cli().json::<Attached>(&arguments).expect_err("a refusal").code, code, "{network} {app}");
        room.is_as_it_was();
    }

    say("members");
    assert_eq!(with(&["--number", "1"]), ErrorCode::MemberExists, "web 1 lives in another namespace");
    let again = host.attach(&shop, &web.container, None).expect("the same namespace again");
    assert_eq!(again, web.attached, "attach is idempotent");
    room.is_as_it_was();
    for overlapping in [&same, &within] {
        assert_eq!(host.attach(overlapping, &web.container, None).expect_err("overlap").code, ErrorCode::SubnetOverlap);
        room.is_as_it_was();
    }
    let nobody = Container { number: 77, ..other.clone() };
    assert_eq!(host.detach(&shop, &nobody).expect("detach"), Detached::default());
    room.is_as_it_was();

    say("the twins: the same namespace, with everything in order");
    let two = host.join(&shop, &other);
    wait_until("web 2 reaches web 1", || two.pings(web.address()));
    let third = lab.container("web-3");
    host.attach(&within, &third, Some(Ipv4Addr::new(10, 90, 0, 130))).expect("a container in one of the two");
    lab.finish();
}

#[test]
fn a_network_without_a_free_address_refuses_and_takes_again_what_is_freed() {
    let lab = Lab::new("a_network_without_a_free_address_refuses_and_takes_again_what_is_freed");
    let host = lab.host(&Options::ebpf());
    let network = host.network("small", "10.90.0.0/29");
    let places = u32::try_from(network.addresses_max).expect("few");
    assert!((5..=6).contains(&places), "{places}");
    let members: Vec<_> = (1..=places).map(|number| lab.member(&host, &network, &format!("web-{number}"))).collect();
    let late = lab.container("web-9");
    let room = Room::new(&host, &late.space);
    assert_eq!(host.attach(&network, &late, None).expect_err("full").code, ErrorCode::PoolExhausted);
    room.is_as_it_was();
    let left = Instant::now();
    assert!(host.detach(&network, &members[2].container).expect("detach").detached);
    // Its name may be known for as long as an answer may be kept: until then no new member gets it.
    match host.attach(&network, &late, None) {
        Err(error) => assert_eq!(error.code, ErrorCode::PoolExhausted),
        Ok(_) => assert!(left.elapsed() >= Duration::from_secs(5), "it did not rest"),
    }
    wait_until("the address has rested", || host.attach(&network, &late, None).is_ok());
    let joined = host.join(&network, &late);
    wait_until("the late one reaches the first", || joined.pings(members[0].address()));
    lab.finish();
}

#[test]
fn an_underlay_that_leaves_no_room_is_refused() {
    for (mtu, fits) in [(685, false), (686, true)] {
        let lab = Lab::new("an_underlay_that_leaves_no_room_is_refused");
        let space = lab.underlay(1, mtu).remove(0);
        let state = lab.directory().join("state");
        let line = agent_line(&lab, &state);
        if fits {
            let host = lab.host_in(space, 1, &Options { underlay_mtu: mtu, ..Options::ebpf() });
            let network = host.network("shop", SUBNET);
            assert_eq!(network.mtu, 576);
            let (web, worker) = (lab.member(&host, &network, "web-1"), lab.member(&host, &network, "worker-1"));
            wait_until("the twin", || web.pings(worker.address()));
        } else {
            let output = space.attempt(&format!("timeout 20 {line}"));
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.code() == Some(1) && said.contains("MTU 685"), "{said}");
        }
        lab.finish();
    }
}

#[test]
fn another_user_of_the_vxlan_port_is_named_and_attach_works_when_it_is_gone() {
    let lab = Lab::new("another_user_of_the_vxlan_port_is_named_and_attach_works_when_it_is_gone");
    let host = lab.host(&Options::ebpf());
    let network = host.network("shop", SUBNET);
    let container = lab.container("web-1");
    let room = Room::new(&host, &container.space);
    let taken = host.space.inside(|| std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 4789))).expect("the port");
    let error = host.attach(&network, &container, None).expect_err("a refusal");
    assert_eq!(error.code, ErrorCode::VtepConflict, "{error:?}");
    assert!(error.message.contains("4789"), "{error:?}");
    room.is_as_it_was();
    drop(taken);

    say("a VXLAN device of somebody else with our VNI");
    host.space
        .run(&format!("ip link add theirs type vxlan id {} dstport 4789 local {} dev eth0", network.vni, host.vtep));
    host.space.run("ip link set theirs up");
    let error = host.attach(&network, &container, None).expect_err("a refusal");
    assert_eq!(error.code, ErrorCode::VtepConflict, "{error:?}");
    room.is_as_it_was();
    host.space.run("ip link delete theirs");

    let (web, worker) = (host.join(&network, &container), lab.member(&host, &network, "worker-1"));
    wait_until("the twin", || web.pings(worker.address()));
    lab.finish();
}

#[test]
fn a_full_disk_is_named_and_the_same_request_succeeds_when_there_is_room() {
    let lab = Lab::new("a_full_disk_is_named_and_the_same_request_succeeds_when_there_is_room");
    let host = lab.host(&Options::ebpf());
    host.stop();
    let state = lab.directory().join("h1/state");
    let disk = Disk::over(&state, "16m");
    host.start();
    let network = host.network("shop", SUBNET);
    let container = lab.container("web-1");
    let room = Room::new(&host, &container.space);
    let says_full = |error: &ControlError, file: &str| {
        let path = state.join(file).display().to_string();
        assert!(error.message.contains("No space left on device") && error.message.contains(&path), "{error:?}");
        assert!(error.remedy.starts_with("the disk is full: ") && error.remedy.contains(&path), "{error:?}");
    };

    say("the state file's disk");
    disk.fill();
    let error = host.create_network("other", None).expect_err("a refusal");
    assert_eq!(error.code, ErrorCode::StoreUnavailable, "{error:?}");
    says_full(&error, "store.redb");
    disk.make_room();
    host.create_network("other", None).expect("the twin");
    host.delete_network("other").expect("delete");

    say("the disk of the records and keys");
    let disk_of_records = Disk::over(&state.join("members"), "64k");
    disk_of_records.fill();
    let error = host.attach(&network, &container, None).expect_err("a refusal");
    assert_eq!(error.code, ErrorCode::Internal, "{error:?}");
    says_full(&error, "members/");
    room.is_as_it_was();
    disk_of_records.make_room();
    let web = host.join(&network, &container);
    assert!(host.detach(&network, &web.container).expect("detach").detached);
    drop((disk_of_records, disk));
    lab.finish();
}

#[test]
fn an_agent_that_is_not_root_says_so() {
    let lab = Lab::new("an_agent_that_is_not_root_says_so");
    let space = lab.underlay(1, 1500).remove(0);
    // Its own directories are open to all, so that being root is the one thing that lacks.
    let open = tempfile::Builder::new().permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777)).tempdir();
    let open = open.expect("a directory");
    let copy = open.path().join("privnet");
    fs::copy(binary(), &copy).expect("a copy that everybody can read");
    let line =
        agent_line(&lab, &open.path().join("state")).replace(&*binary().to_string_lossy(), &copy.to_string_lossy());
    let socket = open.path().join("privnet.sock");
    let line = line.replace(&*lab.directory().join("agent.sock").to_string_lossy(), &socket.to_string_lossy());
    let output = space.attempt(&format!("timeout 20 setpriv --reuid=65534 --regid=65534 --clear-groups {line}"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("root") || said.contains("CAP_NET_ADMIN"), "{said}");
    lab.finish();
}

#[test]
fn wrong_usage_is_told_apart_from_failure() {
    let lab = Lab::new("wrong_usage_is_told_apart_from_failure");
    let cli = Cli::new("root", lab.directory().join("no-such.sock"));
    for arguments in
        [&["attach"][..], &["no-such-verb"], &["attach", "--network", "x", "--app", APP], &["status", "--no-such"]]
    {
        let output = cli.output(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    }
    let output = cli.output(&["status", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(failure(&String::from_utf8_lossy(&output.stderr)).code, ErrorCode::AgentUnavailable);
    lab.finish();
}

/// What a refused request must not change.
struct Room<'a> {
    host: &'a Host,
    container: Space,
    before: (Vec<MemberView>, Vec<NetworkView>, Vec<String>),
}

impl<'a> Room<'a> {
    fn new(host: &'a Host, container: &Space) -> Self {
        Self { host, container: container.clone(), before: Self::look(host) }
    }

    fn look(host: &Host) -> (Vec<MemberView>, Vec<NetworkView>, Vec<String>) {
        (host.members().expect("members"), host.networks().expect("networks"), host.leftovers())
    }

    #[track_caller]
    fn is_as_it_was(&self) {
        assert_eq!(self.container.links(), Vec::<String>::new(), "in the container");
        assert_eq!(self.container.run("ip route show table main"), "", "in the container");
        if Self::look(self.host) != self.before {
            // The unwinding may end a moment after the refusal; it must end.
            wait_until("the refused request left nothing", || Self::look(self.host) == self.before);
        }
    }
}

/// A small file system of its own over a directory.
struct Disk(PathBuf);

impl Disk {
    fn over(directory: &Path, size: &str) -> Self {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o"]).arg(format!("size={size}"));
        assert!(mount.arg("tmpfs").arg(directory).status().expect("mount").success(), "{}", directory.display());
        Self(directory.to_owned())
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Leaves no byte.
    fn fill(&self) {
        let mut filler = fs::File::create(self.filler()).expect("a filler");
        let full = loop {
            if let Err(error) = std::io::Write::write_all(&mut filler, &[7; 1024]) {
                break error;
            }
        };
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    }

    fn make_room(&self) {
        fs::remove_file(self.filler()).expect("removed");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: the agent has its state file open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// An agent's command line, for one that is not expected to live.
fn agent_line(lab: &Lab, state: &Path) -> String {
    format!(
        "{} agent --host h1 --vtep 192.168.77.1 --state-dir {} --socket {} --netns-prefix privnet-test-none-",
        binary().display(),
        state.display(),
        lab.directory().join("agent.sock").display()
    )
}
