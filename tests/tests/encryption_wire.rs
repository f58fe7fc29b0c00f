//! What is on the wire: WireGuard, and never what the application said.
//!
//! ```text
//!  web (h1)  app ── wg0 ──▶ binding ──▶ network ──▶ h1 ══ underlay ══ h2 ──▶ network ──▶ binding ──▶ app  backend (h2)
//!            clear          ◀──────────────── sniffed: no canary ────────────────────▶              clear
//! ```

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use privnet_tests::lab::probe::{PATIENCE, Server, ask_tcp, ask_udp};
use privnet_tests::lab::{Host, Joined, Lab, Options, Sniffer, Space, wait_until};

const CANARY: &[u8] = b"canary-f3b1c2-in-the-clear";
const SUBNET: &str = "10.90.0.0/24";

#[test]
fn what_two_hosts_members_say_is_never_on_carrier_or_underlay() {
    for options in [Options::ebpf(), Options::bridge()] {
        let lab = Lab::new("what_two_hosts_members_say_is_never_on_carrier_or_underlay");
        let hosts = lab.hosts(&[options.clone(), options]);
        let network = hosts[0].network("shop", SUBNET);
        let web = lab.member(&hosts[0], &network, "web-1");
        let backend = lab.member(&hosts[1], &network, "backend-1");
        let underlay = Space::of_pin("underlay", &hosts[0].space.pin().replace("-h1", "-underlay"));
        let spaces = [
            &web.binding,
            &web.network,
            &hosts[0].space,
            &underlay,
            &hosts[1].space,
            &backend.network,
            &backend.binding,
        ];
        say_the_canary(&web, &backend, &spaces);

        let wire = Sniffer::start(&underlay);
        let _server = Server::echo(&hosts[1].space, 7000);
        ask_udp(&hosts[0].space, (hosts[1].vtep, 7000), CANARY, PATIENCE).expect("an answer in the clear");
        wait_until("the same sniffer sees what is sent in the clear", || wire.count(CANARY) > 0);
        drop(wire);
        lab.finish();
    }
}

#[test]
fn what_one_hosts_members_say_is_never_on_the_carrier() {
    for options in [Options::ebpf(), Options::bridge()] {
        let lab = Lab::new("what_one_hosts_members_say_is_never_on_the_carrier");
        let host = lab.host(&options);
        let network = host.network("shop", SUBNET);
        let (web, worker) = (lab.member(&host, &network, "web-1"), lab.member(&host, &network, "worker-1"));
        let outside = Sniffer::start(&host.space);
        say_the_canary(&web, &worker, &[&web.binding, &web.network, &worker.binding]);
        assert_eq!(outside.count(&CANARY[..16]), 0, "in the clear outside");
        drop(outside);
        lab.finish();
    }
}

#[test]
fn every_datagram_on_the_underlay_is_vxlan_of_the_networks_vni() {
    let lab = Lab::new("every_datagram_on_the_underlay_is_vxlan_of_the_networks_vni");
    let hosts = lab.hosts(&[Options::ebpf(), Options::ebpf()]);
    let network = hosts[0].network("shop", SUBNET);
    let web = lab.member(&hosts[0], &network, "web-1");
    let backend = lab.member(&hosts[1], &network, "backend-1");
    let wire = Sniffer::start(&Space::of_pin("underlay", &hosts[0].space.pin().replace("-h1", "-underlay")));
    wait_until("web reaches backend", || web.pings(backend.address()));
    let vni = network.vni.to_be_bytes();
    let datagrams = || wire.seen().into_iter().map(|seen| seen.bytes).filter(|frame| frame[12..14] == [8, 0]);
    // The sniffer may read what passed a moment later.
    wait_until("the sniffer has seen it", || datagrams().next().is_some());
    for frame in datagrams() {
        // Ethernet 14, IPv4 20, UDP 8: then the VXLAN header (RFC 7348 section 5), and the inner IPv4 at 64.
        assert_eq!((frame[23], &frame[36..38], &frame[46..49]), (17, &4789_u16.to_be_bytes()[..], &vni[1..]));
        assert!(
            [web.address(), backend.address()].contains(&Ipv4Addr::new(frame[76], frame[77], frame[78], frame[79]))
        );
    }
    lab.finish();
}

#[test]
fn a_private_key_is_in_no_log_and_no_output() {
    let lab = Lab::new("a_private_key_is_in_no_log_and_no_output");
    let host = lab.host(&Options::ebpf());
    let network = host.network("shop", SUBNET);
    let (web, worker) = (lab.member(&host, &network, "web-1"), lab.member(&host, &network, "worker-1"));
    wait_until("web reaches worker", || web.pings(worker.address()));
    host.stop();
    host.start();
    host.wait_until_settled();

    let keys = private_keys(&lab, &host);
    assert_eq!(keys.len(), 2, "each member has its own");
    let mut said = vec![fs::read_to_string(lab.directory().join("h1/agent.log")).expect("the agent's log")];
    for verb in
        [&["status"][..], &["members"], &["metrics"], &["doctor"], &["network", "list"], &["network", "show", "shop"]]
    {
        for form in ["table", "json"] {
            let output = host.cli().output(&[verb, &["-o", form]].concat());
            said.extend([output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
    let url = "http://privnet/openapi.json";
    let socket = &host.paths().socket;
    let described = Command::new("curl").args(["-s", url, "--unix-socket"]).arg(socket).output().expect("curl");
    said.push(String::from_utf8_lossy(&described.stdout).into_owned());
    assert!(said.last().is_some_and(|text| text.contains("openapi")), "the description was read");
    let again = host.cli().output(&["attach", "--network", "shop", "--app", "no-app", "--pid", "1"]);
    said.push(String::from_utf8_lossy(&again.stderr).into_owned());
    said.extend(files_beside_the_keys(&host.paths().state));
    said.push(fs::read_dir("/proc").expect("/proc").filter_map(|entry| visible(&entry.ok()?.path())).collect());
    let public: Vec<String> =
        host.members().expect("members").iter().map(|member| member.public_key.to_string()).collect();
    for key in &keys {
        for form in forms(key) {
            assert!(!said.iter().any(|text| text.contains(&form)), "a private key was said");
        }
    }
    assert!(said.iter().any(|text| text.contains(&public[0])), "the twin: public keys are said, and found");
    lab.finish();
}

/// A key as base64, as hexadecimal of either case, and as a list of numbers.
fn forms(key: &str) -> Vec<String> {
    let bytes = privnet::model::PrivateKey::from_base64(key).expect("a key");
    let bytes = bytes.reveal_bytes();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let list: Vec<String> = bytes.iter().map(u8::to_string).collect();
    vec![key.to_owned(), hex.to_uppercase(), hex, list.join(", "), list.join(",")]
}

/// What is in the files of the state directory that are no keys; each of them, and the keys, are their owner's alone.
fn files_beside_the_keys(directory: &Path) -> Vec<String> {
    let mut said = Vec::new();
    for path in fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path()) {
        let metadata = fs::symlink_metadata(&path).expect("metadata");
        if metadata.is_dir() {
            said.extend(files_beside_the_keys(&path));
        } else if metadata.is_file() {
            assert_eq!(metadata.permissions().mode() & 0o077, 0, "{} is open to others", path.display());
            if path.extension().is_none_or(|extension| extension != "key") {
                said.push(String::from_utf8_lossy(&fs::read(&path).expect("a file")).into_owned());
            }
        }
    }
    said
}

/// The command line and the environment of a process.
fn visible(process: &Path) -> Option<String> {
    let read = |file: &str| fs::read(process.join(file)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Some(read("cmdline").ok()? + &read("environ").unwrap_or_default())
}

/// Every word of a file in the state directory that could be a key in base64, and is in a file that is the owner's alone.
fn private_keys(lab: &Lab, host: &Host) -> Vec<String> {
    let directory = lab.directory().join(&host.name).join("state/members");
    let files = fs::read_dir(directory).expect("the members' records").filter_map(Result::ok).map(|entry| entry.path());
    let keys = files.filter(|path| path.extension().is_some_and(|extension| extension == "key"));
    keys.map(|path| fs::read_to_string(path).expect("a key").trim().to_owned()).collect()
}

/// Sends the canary both ways over TCP, UDP and ICMP; it is seen where it is in the clear and in none of `spaces`.
fn say_the_canary(one: &Joined, other: &Joined, spaces: &[&Space]) {
    let wires: Vec<Sniffer> = spaces.iter().map(|space| Sniffer::start(space)).collect();
    let clear = [Sniffer::start(&one.app), Sniffer::start(&other.app)];
    wait_until("they reach each other", || one.pings(other.address()));
    let servers = [Server::echo(&one.app, 7000), Server::echo(&other.app, 7000)];
    for (from, to) in [(one, other), (other, one)] {
        let address = (to.address(), 7000);
        assert_eq!(ask_udp(&from.app, address, CANARY, PATIENCE).expect("an answer by UDP"), CANARY);
        assert_eq!(ask_tcp(&from.app, address, CANARY, PATIENCE).expect("an answer by TCP"), CANARY);
        let pattern: String = CANARY[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        from.app.run(&format!("ping -q -n -c 1 -W 2 -p {pattern} {}", to.address()));
    }
    assert!(servers.iter().all(|server| server.heard(CANARY)));
    for sniffer in &clear {
        wait_until("the application's own interface shows the canary", || sniffer.count(CANARY) > 0);
        wait_until("the ping's pattern as well", || sniffer.count(&CANARY[..16]) > sniffer.count(CANARY));
    }
    for wire in &wires {
        wait_until(format!("{} has seen something", wire.label()), || wire.total() > 0);
        assert_eq!(wire.count(&CANARY[..16]), 0, "in the clear in {}", wire.label());
    }
}
