//! `privnet audit`: it finds each way past the tunnel that somebody opens, and nothing on a host as the agent leaves it.
//!
//! The agent is killed first, since it would repair most of this before it is found: what an audit reads is in the kernel.

use std::collections::BTreeSet;
use std::path::PathBuf;

use privnet::datapath::{self, Hook, MemberRow, Method, PortRow, features};
use privnet::model::{IfName, PrivateKey};
use privnet::netns::Netns;
use privnet::wireguard::{Device, Peer, PeerChange};
use privnet_ebpf::net::MacAddr;
use privnet_tests::lab::process::kill;
use privnet_tests::lab::{Host, Joined, Lab, Options, Space, say, wait_until};
use rustix::process::Signal;
use serde_json::Value;

const SUBNET: &str = "10.90.0.0/24";
/// Where nobody is.
const NOWHERE: &str = "10.90.0.99";

/// What an audit of a host says.
struct Audited {
    members: u64,
    /// Check, member and detail of each finding.
    findings: Vec<(String, String, String)>,
    left_out: Vec<String>,
    unread: Vec<String>,
}

fn audit(host: &Host) -> Audited {
    let output = host.space.attempt(&(host.agent_line().replacen(" agent ", " audit ", 1) + " -o json"));
    let text = String::from_utf8_lossy(&output.stdout);
    let said: Value = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr)));
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let findings: Vec<_> = said["findings"].as_array().expect("findings").iter().collect();
    let unread: Vec<String> = said["unread"].as_array().expect("a list").iter().map(word).collect();
    let is_clean = findings.is_empty() && unread.is_empty();
    assert_eq!(output.status.code(), Some(i32::from(!is_clean)), "{text}");
    assert!(findings.iter().all(|found| !word(&found["remedy"]).is_empty()), "{text}");
    Audited {
        members: said["members"].as_u64().expect("a number"),
        findings: findings.into_iter().map(|f| (word(&f["check"]), word(&f["member"]), word(&f["detail"]))).collect(),
        left_out: said["left_out"].as_array().expect("a list").iter().map(word).collect(),
        unread,
    }
}

/// Whether an audit finds nothing, having looked at so many members.
fn finds_nothing(host: &Host, members: u64) {
    let Audited { members: looked_at, findings, left_out, unread } = audit(host);
    assert_eq!((looked_at, findings, left_out, unread), (members, vec![], vec![], vec![]));
}

/// Opens a way, and looks that it is found and what it is called; closes it, and looks that it is found no more.
fn found(host: &Host, members: u64, checks: &[&str], open: impl FnOnce(), close: impl FnOnce()) {
    open();
    let findings = audit(host).findings;
    for (check, member, detail) in &findings {
        say(&format!("[audit] {check}: {member}: {detail}"));
    }
    let said: BTreeSet<&str> = findings.iter().map(|(check, ..)| &**check).collect();
    assert_eq!(said, checks.iter().copied().collect::<BTreeSet<_>>());
    close();
    finds_nothing(host, members);
}

/// A member's device, whichever WireGuard the host has.
fn device(host: &Host, member: &Joined) -> Device {
    if host.wireguard_of(member).is_none() {
        let netns = Netns::open(&member.app.path()).expect("it is there");
        return Device::kernel(netns, member.attached.interface.clone());
    }
    let dir = privnet::agent::config::wireguard_dir(&host.paths().state, member.attached.network, member.address());
    Device::userspace(&dir)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_past_the_tunnel_is_found_and_a_host_as_it_should_be_has_none() {
    let lab = Lab::new("each_way_past_the_tunnel_is_found_and_a_host_as_it_should_be_has_none");
    let ([host, other], _etcd) = lab.hosts_with_etcd();
    let (shop, back) = (host.network("shop", SUBNET), host.network("back", "10.91.0.0/24"));
    let container = lab.container("web-1").with_eth0(&host.space, 9);
    let (web, far) = (host.join(&shop, &container), lab.member(&other, &shop, "backend-1"));
    let second = host.join(&back, &container);
    let worker = lab.member(&host, &shop, "worker-1");
    wait_until_known(&host, 4);
    finds_nothing(&host, 3);
    finds_nothing(&other, 1);

    // Without the right to look, nothing is proved.
    let bounded = format!("setpriv --bounding-set=-net_admin {}", host.agent_line().replacen(" agent ", " audit ", 1));
    let refused = host.space.attempt(&bounded);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(1) && said.contains("CAP_NET_ADMIN"), "{said}");

    host.kill();
    finds_nothing(&host, 3);
    let find = |checks: &[&str], at: &Space, open: &[&str], close: &[&str]| {
        let run = |lines: &[&str]| lines.iter().for_each(|line| drop(at.run(line)));
        found(&host, 3, checks, || run(open), || run(close));
    };
    let (app, far_address) = (&web.app, far.address());

    // The container's root leads packets past the tunnel.
    let [add, delete] = ["add", "delete"].map(|verb| format!("ip route {verb} {far_address}/32 dev eth0"));
    let [out, back] =
        ["delete", "add"].map(|verb| format!("ip route {verb} unreachable {SUBNET} metric 4294967295 proto static"));
    find(&["route", "backstop"], app, &[&add, &out], &[&delete, &back]);
    let table = format!("ip route add {SUBNET} dev eth0 table 99");
    let [add, delete] = ["add", "delete"].map(|verb| format!("ip rule {verb} to {SUBNET} lookup 99 priority 1"));
    let bare = "ip link add eth1 type veth peer name evil2";
    find(&["route", "program"], app, &[&table, &add, bare], &[&delete, "ip link delete eth1"]);

    // An interface that cannot have a guard, and one that has another program before it.
    found(
        &host,
        3,
        &["program"],
        || {
            drop(app.run("ip link add eth1 type veth peer name evil2"));
            // A name that the kernel takes, and by which no program can be attached.
            let renamed = app.command("ip link set eth1 name").arg("e\u{2003}1").status().expect("ip starts");
            assert!(renamed.success());
        },
        || drop(app.run("ip link delete evil2")),
    );
    // Of one priority the one that came last runs first, whatever the handles.
    let programs = programs_of(&host, &web);
    let other_pin = programs.program_pin(Hook::FromMember);
    let add = format!(
        "tc filter add dev eth0 egress protocol all pref 1 handle 0x7fffffff bpf da object-pinned {}",
        other_pin.display()
    );
    find(
        &["first_program"],
        app,
        &[&add],
        &["tc filter delete dev eth0 egress protocol all pref 1 handle 0x7fffffff bpf"],
    );
    if features().tcx {
        let eth0: IfName = "eth0".parse().expect("a name");
        let netns = Netns::open(&app.path()).expect("it is there");
        programs.attach_by(Method::Tcx, &netns, &eth0, Hook::FromMember).await.expect("attached");
        let said = audit(&host).findings;
        assert!(said.iter().any(|(check, ..)| check == "first_program"), "{said:?}");
        programs.unpin_links_of(netns.id()).expect("gone with its pin");
        wait_until("the link is gone", || audit(&host).findings.is_empty());
    }

    // The namespaces that are privnet's alone.
    let filter = |link: &str| {
        let pin = other_pin.display();
        format!("tc filter add dev {link} egress protocol all pref 1 handle 9 bpf da object-pinned {pin}")
    };
    let (evil, gone) = (["ip link add evil type veth peer name evil2", "ip link set evil up"], "ip link delete evil");
    let [forwards, forwards_not] = ["1", "0"].map(|value| format!("sysctl -w net.ipv4.ip_forward={value}"));
    let (veth, way) = (web.carrier(), format!("ip route add {far_address}/32 dev evil"));
    let [add, delete] = ["add", "delete"].map(|verb| format!("tc qdisc {verb} dev {veth} clsact"));
    find(
        &["foreign_interface", "carrier_route", "settings", "foreign_program"],
        &web.binding,
        &[evil[0], evil[1], &way, &forwards, &add, &filter(&veth)],
        &[gone, &forwards_not, &delete],
    );
    let fdb = |verb: &str| format!("bridge fdb {verb} 02:00:00:00:00:99 dev vxlan0 dst 192.168.77.9 self");
    let port = web.port_veth();
    let unfiltered = format!("tc filter delete dev {port} egress protocol all pref 1 handle 9 bpf");
    find(
        &["foreign_interface", "settings", "foreign_program", "fdb"],
        &web.network,
        &[evil[0], evil[1], &forwards, &filter(&port), &fdb("append")],
        &[gone, &forwards_not, &unfiltered, &fdb("delete")],
    );
    let mut spy = web.binding.command("sleep 600").spawn().expect("a process");
    let says = audit(&host).findings;
    assert!(matches!(&says[..], [(check, ..)] if check == "process"), "{says:?}");
    spy.kill().and_then(|()| spy.wait()).expect("ended");
    finds_nothing(&host, 3);

    // Where frames are led, and who may send.
    let [on, off] = ["learning", "nolearning"].map(|word| format!("ip link set vxlan0 type vxlan {word}"));
    find(&["fdb"], &web.network, &[&on], &[&off]);
    let nowhere = NOWHERE.parse().expect("an address");
    let mac = MacAddr::of_member([10, 90, 0, 99], 0);
    let mut maps = programs_of(&host, &web);
    found(
        &host,
        3,
        &["maps"],
        || maps.set_member(nowhere, MemberRow::remote(mac, 51_820)).expect("written"),
        || programs_of(&host, &web).remove_member(nowhere).expect("removed"),
    );
    let index =
        web.network.link("vxlan0").and_then(|link| u32::try_from(link["ifindex"].as_u64()?).ok()).expect("it is there");
    found(
        &host,
        3,
        &["maps"],
        || maps.set_port(index, PortRow::new([10, 90, 0, 99], mac, 51_820)).expect("written"),
        || programs_of(&host, &web).remove_port(index).expect("removed"),
    );

    // The peers of a device.
    let key = PrivateKey::from_random([7; 32]).public_key();
    let stranger =
        Peer { public_key: key, endpoint: format!("{NOWHERE}:51820").parse().expect("one"), allowed_ip: nowhere };
    let tunnel = device(&host, &worker);
    tunnel.change_peers(&PeerChange { set: vec![stranger], remove: vec![] }).await.expect("changed");
    let said = audit(&host).findings;
    assert!(matches!(&said[..], [(check, member, _)] if check == "peers" && member.contains("worker")), "{said:?}");
    tunnel.change_peers(&PeerChange { set: vec![], remove: vec![key] }).await.expect("changed");
    finds_nothing(&host, 3);

    // One of whom nothing can be learnt is not proved, and hides no other.
    if let Some(process) = host.wireguard_of(&worker) {
        kill(process.pid, Signal::STOP);
        let Audited { members, unread, findings, .. } = audit(&host);
        assert!(members == 2 && findings.is_empty(), "{findings:?}");
        assert!(matches!(&unread[..], [one] if one.contains("worker")), "{unread:?}");
        kill(process.pid, Signal::CONT);
        wait_until("it goes on", || audit(&host).unread.is_empty());
    }

    // What is not there: a device, with its process where it has one.
    match host.wireguard_of(&second) {
        Some(process) => kill(process.pid, Signal::KILL),
        None => drop(second.app.run("ip link delete wg1")),
    }
    let said: BTreeSet<String> = audit(&host).findings.into_iter().map(|(check, ..)| check).collect();
    assert!(said.contains("device"), "{said:?}");
    host.start();
    wait_until("the agent has made it right", || audit(&host).findings.is_empty());
    assert!(web.pings(far_address));
    lab.finish();
}

#[test]
fn behind_a_bridge_a_host_as_it_should_be_has_no_finding_and_one_that_forwards_elsewhere_has() {
    let lab = Lab::new("behind_a_bridge_a_host_as_it_should_be_has_no_finding_and_one_that_forwards_elsewhere_has");
    let options = Options::bridge();
    let ([host, other], _etcd) = lab.hosts_of_etcd(&options);
    let shop = host.network("shop", SUBNET);
    let (web, worker) = (lab.member(&host, &shop, "web-1"), lab.member(&host, &shop, "worker-1"));
    let far = lab.member(&other, &shop, "backend-1");
    wait_until_known(&host, 3);
    assert!(web.pings(far.address()) && web.pings(worker.address()));
    finds_nothing(&host, 2);
    host.kill();
    let port = worker.port_veth();
    let [add, delete] =
        ["append", "delete"].map(|verb| format!("bridge fdb {verb} 02:00:00:00:00:99 dev {port} master static"));
    found(&host, 2, &["fdb"], || drop(web.network.run(&add)), || drop(web.network.run(&delete)));
    let learns = |word: &str| drop(web.network.run(&format!("bridge link set dev {port} learning {word}")));
    found(&host, 2, &["settings"], || learns("on"), || learns("off"));
    host.start();
    lab.finish();
}

#[test]
fn a_host_of_its_own_store_and_one_without_members_have_no_finding() {
    let lab = Lab::new("a_host_of_its_own_store_and_one_without_members_have_no_finding");
    let host = lab.host(&Options::ebpf());
    finds_nothing(&host, 0);
    let line = host.agent_line().replacen(" agent ", " audit ", 1);
    let elsewhere = line.replace(&host.paths().state.display().to_string(), "/nowhere");
    let output = host.space.attempt(&elsewhere);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("nothing is proved"), "{said}");
    let shop = host.network("shop", SUBNET);
    let members = ["web-1", "worker-1"].map(|name| lab.member(&host, &shop, name));
    finds_nothing(&host, 2);
    let text = host.space.run(&line);
    assert_eq!(text, "2 members of 1 network looked at: every way out is the tunnel's\n");
    // One whose container is gone, with nobody to end its membership, is none to look at.
    host.kill();
    members[1].container.space.remove();
    wait_until("the container is gone", || audit(&host).members == 1);
    let Audited { left_out, .. } = audit(&host);
    assert!(matches!(&left_out[..], [one] if one.contains("worker") && one.contains("gone")), "{left_out:?}");
    host.start();
    wait_until("the agent has ended it", || audit(&host).left_out.is_empty());
    finds_nothing(&host, 1);

    // A record that is lost: what it led to is there, and nothing is proved of it.
    host.kill();
    let journal = host.paths().state.join("members");
    let records = std::fs::read_dir(&journal).expect("the journal").flatten().map(|entry| entry.path());
    let record = records.into_iter().find(|path| path.extension().is_some_and(|end| end == "json")).expect("a record");
    let aside = record.with_extension("aside");
    std::fs::rename(&record, &aside).expect("set aside");
    let Audited { members, unread, .. } = audit(&host);
    assert!(members == 0 && unread.len() == 2 && unread.iter().all(|line| line.contains("no record")), "{unread:?}");
    std::fs::write(&record, b"{}").expect("damaged");
    let unread = audit(&host).unread;
    assert!(unread.iter().any(|line| line.contains("damaged")) && record.exists(), "{unread:?}");
    std::fs::rename(&aside, &record).expect("put back");
    finds_nothing(&host, 1);
    host.start();
    lab.finish();
}

/// Until a host has heard of so many members, and written down what it heard.
fn wait_until_known(host: &Host, members: usize) {
    wait_until("all members are known", || host.members().expect("members").len() == members);
    wait_until("and written down", || audit(host).findings.is_empty());
}

fn programs_of(host: &Host, member: &Joined) -> datapath::Network {
    let version = format!("v{}", privnet_ebpf::abi::ABI_VERSION);
    let name = format!("{}{}", host.paths().prefix, member.attached.network);
    let pins: PathBuf = host.paths().bpffs.join("privnet").join(version).join(name);
    datapath::Network::look(&pins).expect("readable").expect("pinned")
}
