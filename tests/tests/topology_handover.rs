//! A device that another program moves: the test plays dockerd, call by call, and `ip` moves the device as dockerd does.
//!
//! ```text
//!  handover netns      host netns (the mover's)        container                 container `web` 1
//! ┌──────────────┐    ┌───────────────────────┐    ┌───────────────────┐        ┌──────────────┐
//! │ wg0 ─────────┼───▶│ pn<10 digits>, down ──┼───▶│ wg7  10.90.0.3    │~~~~~~~~│ wg0          │
//! └──────────────┘    └───────────────────────┘    │ eth0: guard       │        └──────────────┘
//!                                                  └───────────────────┘
//! ```
#![forbid(unsafe_code)]

mod handover_lab;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use handover_lab::Place;
use privnet::agent::views::MemberView;
use privnet::failpoint::Step;
use privnet::topology::ownership;
use privnet_tests::lab::container::APP;
use privnet_tests::lab::failpoint::{Action, Passage};
use privnet_tests::lab::{Host, Joined, Lab, Options, Space, say, wait_until};
use serde_json::{Value, json};

const NETWORK: &str = "5d1ab4a0a4a2b3f0c5d1ab4a0a4a2b3f0c5d1ab4a0a4a2b3f0c5d1ab4a0a4a2b3";

/// How long a call may take on a host that has nothing else to do.
const BOUND: Duration = Duration::from_secs(2);

struct Scene {
    host: Host,
    web: Joined,
}

#[test]
fn a_device_that_is_handed_over_works_where_it_arrives_and_leaves_nothing_where_it_was() {
    let lab = Lab::new("a_device_that_is_handed_over_works_where_it_arrives_and_leaves_nothing_where_it_was");
    let host = lab.host(&Options::ebpf().with_docker().with_failpoints());
    let shop = host.network("shop", "10.90.0.0/24");
    let web = lab.member(&host, &shop, "web-1");
    let scene = Scene { host, web };
    let network = json!({
        "NetworkID": NETWORK,
        "Options": {"com.docker.network.generic": {"network": "shop"}},
        "IPv4Data": [{"AddressSpace": "null", "Pool": "0.0.0.0/0"}],
    });
    assert_eq!(scene.call("CreateNetwork", &network), json!({}));
    // The container's namespace comes after the answer, as before Docker 28, or before it; the agent dies in between or not.
    for (number, (is_late, dies)) in [(false, false), (true, false), (true, true)].into_iter().enumerate() {
        scene.comes_and_goes(&lab, number, is_late, dies);
    }
    scene.one_that_never_arrives_is_removed();
    scene.one_that_was_made_when_the_agent_died_is_removed();
    scene.one_that_is_ended_while_it_is_named_stays_ended(&lab);
    scene.a_call_is_answered_while_the_store_is_waited_for();
    scene.one_that_is_named_before_the_store_has_it_as_ready_is_ready(&lab);
    // One kernel tells as much as two; and the mover's calls come from processes that end, by which its namespace is not found
    // again: the kernel's device would stay there until that ends.
    if !privnet_tests::is_emulated() {
        scene.a_mover_with_a_namespace_of_its_own_is_given_the_device_there(&lab);
        scene.an_agent_that_dies_within_a_call_leaves_what_its_end_removes(&lab);
    }
    assert_eq!(scene.call("DeleteNetwork", &json!({"NetworkID": NETWORK})), json!({}));
    drop(scene);
    lab.finish();
}

impl Scene {
    fn comes_and_goes(&self, lab: &Lab, number: usize, is_late: bool, dies: bool) {
        let host = &self.host;
        let endpoint = format!("{number:x}").repeat(64);
        let digits = u64::from_str_radix(&endpoint[..16], 16).expect("digits");
        let (moved, made_in) = (ownership::handover_link(digits).to_string(), self.handover_netns(digits));
        let of_endpoint = json!({"NetworkID": NETWORK, "EndpointID": endpoint});
        let address = self.create_endpoint(&endpoint);
        assert!(made_in.exists(), "it is made in a namespace of ours");
        let container = Place::new(lab, &format!("c{number}"), !is_late);
        let mut join = of_endpoint.clone();
        join["SandboxKey"] = json!(container.path());
        let joined = self.call("Join", &join);
        assert_eq!(joined["InterfaceName"], json!({"SrcName": moved, "DstPrefix": "wg"}));
        assert_eq!(self.call("Join", &join), joined, "the same call again has the same answer");
        let link = host.space.link(&moved).expect("it is in the mover's namespace");
        assert!(!link["flags"].to_string().contains("UP"), "{link}");
        if dies {
            host.kill();
            host.start();
            host.wait_until_settled();
        }
        let space = container.appear();
        space.run("ip link add eth0 type veth peer name other");
        let is_guarded = || space.run("tc filter show dev eth0 ingress").contains("guard");
        wait_until("the guard comes before the device", is_guarded);
        // dockerd gives no address whose prefix has a route.
        assert!(!space.run("ip route").contains("10.90.0.0/24"));
        host.space.run(&format!("ip link set {moved} netns {}", space.pin()));
        space.run(&format!("ip link set {moved} name wg7"));
        space.run(&format!("ip address add {address}/24 broadcast + dev wg7"));
        space.run("ip link set wg7 up");
        let is_known = |member: &MemberView| {
            let is_it = member.member.address == address;
            is_it && member.interface.as_ref().is_some_and(|name| name.as_str() == "wg7")
        };
        wait_until("it is adopted by its name", || host.members().expect("the members").iter().any(is_known));
        host.wait_until_settled();
        let ping = |from: &Space, to: Ipv4Addr| from.succeeds(&format!("ping -q -c 1 -W 1 {to}"));
        wait_until("web reaches it", || ping(&self.web.app, address));
        wait_until("it reaches web", || ping(&space, self.web.address()));
        assert_eq!(space.links().iter().filter(|link| link.starts_with("wg")).count(), 1, "none was made beside it");
        let sockets = |space: &Space| space.run("ss -lun");
        assert!(!sockets(&space).contains(":51820"), "its socket is not in the container");
        assert!(space.run("ip route").contains("unreachable 10.90.0.0/24"), "the backstop is there");
        assert!(is_guarded() && !space.run("tc filter show dev wg7 ingress").contains("guard"));
        // Back again, as at `docker network disconnect`.
        assert_eq!(self.call("Leave", &of_endpoint), json!({}));
        space.run("ip link set wg7 down");
        space.run(&format!("ip link set wg7 name {moved}"));
        space.run(&format!("ip link set {moved} netns {}", host.space.pin()));
        host.wait_until_settled();
        assert!(
            space.link("wg7").is_none() && space.link("wg0").is_none(),
            "no pass makes it again: {:?}",
            space.links()
        );
        assert_eq!(self.call("DeleteEndpoint", &of_endpoint), json!({}));
        assert_eq!(self.call("DeleteEndpoint", &of_endpoint), json!({}), "also when it is gone");
        assert_eq!(host.members().expect("the members").len(), 1, "web alone is a member");
        // What it had is removed behind the answer, the namespace last.
        wait_until("no namespace of ours stays", || !made_in.exists());
        assert!(host.space.link(&moved).is_none(), "nothing stays in the mover's namespace");
        assert!(!space.run("ip route").contains("unreachable"), "and nothing in the container");
        assert!(!space.run("tc filter show dev eth0 ingress").contains("guard"));
    }

    fn one_that_never_arrives_is_removed(&self) {
        let endpoint = "d".repeat(64);
        self.create_endpoint(&endpoint);
        let mut join = json!({"NetworkID": NETWORK, "EndpointID": endpoint});
        join["SandboxKey"] = json!("/nonexistent/container");
        let moved = self.call("Join", &join)["InterfaceName"]["SrcName"].as_str().expect("a name").to_owned();
        assert!(self.host.space.link(&moved).is_some());
        // A Join that failed is followed by no Leave.
        assert_eq!(self.call("DeleteEndpoint", &join), json!({}));
        wait_until("its device is gone", || self.host.space.link(&moved).is_none());
        assert_eq!(self.host.members().expect("the members").len(), 1);
    }

    fn a_mover_with_a_namespace_of_its_own_is_given_the_device_there(&self, lab: &Lab) {
        let mover = lab.space("mover");
        let endpoint = "c".repeat(64);
        self.create_endpoint(&endpoint);
        let mut join = json!({"NetworkID": NETWORK, "EndpointID": endpoint});
        join["SandboxKey"] = json!("/nonexistent/container");
        let answer = mover.run(&self.line("Join", &join));
        let joined: Value = serde_json::from_str(&answer).expect("JSON");
        let moved = joined["InterfaceName"]["SrcName"].as_str().unwrap_or_else(|| panic!("{joined}"));
        assert!(mover.link(moved).is_some() && self.host.space.link(moved).is_none(), "it is where Join came from");
        mover.run(&self.line("DeleteEndpoint", &join));
        wait_until("it is gone", || mover.link(moved).is_none());
        assert_eq!(self.host.members().expect("the members").len(), 1);
        mover.remove();
    }

    fn one_that_was_made_when_the_agent_died_is_removed(&self) {
        let endpoint = "e".repeat(64);
        self.create_endpoint(&endpoint);
        self.host.kill();
        self.host.start();
        wait_until("it is gone", || self.host.members().expect("the members").len() == 1);
        let made_in = self.handover_netns(0xeeee_eeee_eeee_eeee);
        wait_until("so is its namespace", || !made_in.exists());
        let join = json!({"NetworkID": NETWORK, "EndpointID": endpoint, "SandboxKey": "/nonexistent/container"});
        assert!(self.call("Join", &join)["Err"].as_str().is_some_and(|text| text.contains("not known")));
        assert_eq!(self.call("DeleteEndpoint", &join), json!({}));
    }

    /// The name's turn comes behind the end's: another call holds the claims until both wait for them.
    fn one_that_is_ended_while_it_is_named_stays_ended(&self, lab: &Lab) {
        let points = self.host.failpoints();
        let container = lab.space("named");
        container.run("ip link add eth0 type veth peer name other");
        let (endpoint, other) = ("b".repeat(64), "a".repeat(64));
        let of_endpoint = json!({"NetworkID": NETWORK, "EndpointID": endpoint});
        let of_other = json!({"NetworkID": NETWORK, "EndpointID": other});
        let join = json!({"NetworkID": NETWORK, "EndpointID": endpoint, "SandboxKey": container.path()});
        let mut create = of_other.clone();
        create["Options"] = json!({"privnet.app": APP, "privnet.type": "other"});
        let begin = |method: &str, body: &Value| {
            let mut call = self.host.space.command(&self.line(method, body));
            call.stdout(Stdio::null()).spawn().expect("curl starts")
        };
        for _ in 0..2 {
            points.record();
            self.create_endpoint(&endpoint);
            let commits = || points.passed().iter().filter(|passage| passage.step == Step::Commit.to_string()).count();
            wait_until("the store has it, and that it is ready", || commits() >= 2);
            points.arm(Action::Hold, &Passage { step: Step::Commit.to_string(), time: 1 });
            let making = begin("CreateEndpoint", &create);
            wait_until("a call holds the claims", || points.is_reached());
            let ending = begin("DeleteEndpoint", &of_endpoint);
            // Where it waits later than that, the name comes first, and is taken away.
            std::thread::sleep(Duration::from_millis(200));
            let joining = begin("Join", &join);
            let is_guarded = || container.run("tc filter show dev eth0 ingress").contains("guard");
            wait_until("the container's namespace is the member's", is_guarded);
            std::thread::sleep(Duration::from_millis(100));
            points.let_go();
            for mut call in [making, ending, joining] {
                assert!(call.wait().expect("curl ends").success());
            }
            assert_eq!(self.call("DeleteEndpoint", &of_other), json!({}));
            wait_until("web alone is a member", || self.host.members().expect("the members").len() == 1);
            wait_until("the container is left alone", || !is_guarded());
            assert!(container.link("wg0").is_none(), "{:?}", container.links());
        }
        container.remove();
    }

    /// The store takes the place in, and does not say so: Docker is told in time, and the place ends once it does.
    fn a_call_is_answered_while_the_store_is_waited_for(&self) {
        let points = self.host.failpoints();
        let endpoint = "8".repeat(64);
        let made_in = self.handover_netns(0x8888_8888_8888_8888);
        points.arm(Action::Hold, &Passage { step: Step::Commit.to_string(), time: 1 });
        let begun = Instant::now();
        let refused = self.call("CreateEndpoint", &json!({"NetworkID": NETWORK, "EndpointID": endpoint}));
        let waited = begun.elapsed();
        say(&format!("figure: a call that waits for the store was refused after {waited:?}"));
        let text = refused["Err"].as_str().unwrap_or_else(|| panic!("{refused}"));
        assert!(text.contains("try again") && text.contains("privnet status"), "{text}");
        assert!(waited < 5 * BOUND, "{waited:?}: {text}");
        points.let_go();
        wait_until("web alone is a member", || self.host.members().expect("the members").len() == 1);
        wait_until("its namespace is gone", || !made_in.exists());
        self.host.wait_until_settled();
        self.create_endpoint(&endpoint);
        assert_eq!(self.call("DeleteEndpoint", &json!({"NetworkID": NETWORK, "EndpointID": endpoint})), json!({}));
        wait_until("its namespace is gone again", || !made_in.exists());
    }

    /// Its record is under another name then.
    fn one_that_is_named_before_the_store_has_it_as_ready_is_ready(&self, lab: &Lab) {
        let points = self.host.failpoints();
        let container = lab.space("renamed");
        let endpoint = "9".repeat(64);
        let of_endpoint = json!({"NetworkID": NETWORK, "EndpointID": endpoint});
        let join = json!({"NetworkID": NETWORK, "EndpointID": endpoint, "SandboxKey": container.path()});
        points.arm(Action::Halt, &Passage { step: Step::Commit.to_string(), time: 2 });
        self.create_endpoint(&endpoint);
        wait_until("the store is to be told", || points.is_reached());
        assert!(self.call("Join", &join)["Err"].is_null());
        points.let_go();
        self.host.wait_until_settled();
        assert_eq!(self.call("DeleteEndpoint", &of_endpoint), json!({}));
        wait_until("web alone is a member", || self.host.members().expect("the members").len() == 1);
        container.remove();
    }

    /// dockerd calls again without the body, and ends the endpoint, whatever it was told of the first call; one that was not
    /// created for it, it does not end.
    fn an_agent_that_dies_within_a_call_leaves_what_its_end_removes(&self, lab: &Lab) {
        let points = self.host.failpoints();
        let container = lab.space("killed");
        container.run("ip link add eth0 type veth peer name other");
        let endpoint = "f".repeat(64);
        let made_in = self.handover_netns(0xffff_ffff_ffff_ffff);
        let of_endpoint = json!({"NetworkID": NETWORK, "EndpointID": endpoint});
        let mut create = of_endpoint.clone();
        create["Interface"] = json!({"Address": "", "AddressIPv6": "", "MacAddress": ""});
        create["Options"] = json!({"privnet.app": APP, "privnet.type": "job"});
        let mut join = of_endpoint.clone();
        join["SandboxKey"] = json!(container.path());
        let calls =
            [("CreateEndpoint", &create), ("Join", &join), ("Leave", &of_endpoint), ("DeleteEndpoint", &of_endpoint)];
        let wait_until_clean = || {
            // What the next agent ended by itself, it releases in the store a moment later.
            wait_until("web alone is a member", || self.host.members().expect("the members").len() == 1);
            // The device is removed behind the answer.
            let is_ours = |link: &String| link.starts_with("pn");
            let is_clean = || !made_in.exists() && !self.host.space.links().iter().any(is_ours);
            wait_until("nothing of it is left", is_clean);
            let guards = || container.run("tc filter show dev eth0 ingress");
            wait_until("the container is left alone", || !guards().contains("guard"));
        };
        let end = || {
            assert_eq!(self.call("DeleteEndpoint", &of_endpoint), json!({}));
            wait_until_clean();
        };
        let passed = calls.map(|(method, body)| {
            points.record();
            self.call(method, body);
            if method == "DeleteEndpoint" {
                wait_until_clean();
            }
            (method, points.passed())
        });
        // What keeps the truth, each time; and what is done to the device, its namespace and the container's, first and again. Of
        // the rest the agent is killed behind in attaches.
        let truth = [Step::Commit, Step::Rename, Step::Unlink].map(|step| step.to_string());
        let of_device = [Step::MountPoint, Step::Pin, Step::Netlink, Step::Make("Device"), Step::Make("Guard")];
        let of_device = of_device.map(|step| step.to_string());
        let is_of_device = |passage: &Passage| of_device.contains(&passage.step) && passage.time <= 2;
        let mut kills = BTreeMap::<&str, BTreeMap<String, u32>>::new();
        for (victim, passages) in passed {
            for passage in passages.iter().filter(|it| truth.contains(&it.step) || is_of_device(it)) {
                for (method, body) in calls {
                    if method == victim {
                        points.arm(Action::Kill, passage);
                    }
                    self.try_call(method, body);
                    if method == victim {
                        break;
                    }
                }
                if victim == "DeleteEndpoint" {
                    wait_until("it is removed behind the answer", || points.is_reached() || !made_in.exists());
                }
                // Passes of the worker's come in between, now more and now fewer.
                if !points.disarm() {
                    end();
                    continue;
                }
                wait_until("the agent is gone", || self.host.has_ended());
                self.host.start();
                let again = self.call(victim, &Value::Null);
                assert!(again["Err"].is_string(), "{victim} without its body: {again}");
                if victim == "CreateEndpoint" {
                    wait_until_clean()
                } else {
                    end()
                }
                *kills.entry(victim).or_default().entry(passage.step.clone()).or_default() += 1;
            }
        }
        say(&format!("figure: kills within dockerd's calls: {kills:?}"));
        for (victim, step) in [
            ("CreateEndpoint", Step::Pin),
            ("Join", Step::Netlink),
            ("Join", Step::Make("Guard")),
            ("Leave", Step::Rename),
            ("DeleteEndpoint", Step::Netlink),
        ] {
            let has = kills.get(victim).is_some_and(|kills| kills.contains_key(&step.to_string()));
            assert!(has, "no agent was killed in {victim} behind `{step}`: {kills:?}");
        }
        // The second try, to its end.
        for (method, body) in calls {
            assert!(self.call(method, body)["Err"].is_null(), "{method}");
        }
        wait_until_clean();
        container.remove();
    }

    fn create_endpoint(&self, endpoint: &str) -> Ipv4Addr {
        let options = json!({"privnet.app": APP, "privnet.type": "job"});
        let interface = json!({"Address": "", "AddressIPv6": "", "MacAddress": ""});
        let request = json!({"NetworkID": NETWORK, "EndpointID": endpoint, "Interface": interface, "Options": options});
        let made = self.call("CreateEndpoint", &request);
        assert_eq!(self.call("CreateEndpoint", &request), made, "the same call again has the same answer");
        let address = made["Interface"]["Address"].as_str().unwrap_or_else(|| panic!("{made}"));
        address.strip_suffix("/24").expect("the network's prefix").parse().expect("an address")
    }

    fn handover_netns(&self, digits: u64) -> std::path::PathBuf {
        Path::new("/run/netns").join(ownership::handover_netns(&self.host.paths().prefix, digits))
    }

    /// Calls the plugin as dockerd does, from the host's namespace.
    fn call(&self, method: &str, body: &Value) -> Value {
        let answer = self.try_call(method, body);
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{method}: {answer}: {error}"))
    }

    /// As [`Self::call`]; its answer is empty where the agent dies meanwhile.
    fn try_call(&self, method: &str, body: &Value) -> String {
        String::from_utf8_lossy(&self.host.space.output(&self.line(method, body)).stdout).into_owned()
    }

    fn line(&self, method: &str, body: &Value) -> String {
        let socket = self.host.paths().plugin.display().to_string();
        let body = if body.is_null() { String::new() } else { format!("-d {body}") };
        format!("curl -s --unix-socket {socket} -X POST {body} http://plugin/NetworkDriver.{method}")
    }
}
