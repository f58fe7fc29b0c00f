//! Containers that a runtime attaches by CNI: the test is the runtime, and follows the specification.
//!
//! ```text
//!  host: agent                          container                             container `web` 1
//! ┌────────────────────────────┐       ┌────────────────────────────┐        ┌──────────────┐
//! │ privnet-cni ──▶ agent      │       │ eth0  10.90.0.3 (ours)     │~~~~~~~~│ wg0          │
//! │ in turn with other plugins │       │ or eth0 of another, and wg0│        └──────────────┘
//! └────────────────────────────┘       └────────────────────────────┘
//! ```
#![forbid(unsafe_code)]

mod cni;

use std::fs;
use std::net::Ipv4Addr;

use privnet::agent::views::{MemberView, NetworkView};
use privnet_tests::lab::cni::{Attachment, PLUGIN, Refusal, Runtime};
use privnet_tests::lab::failpoint::{Action, Passage};
use privnet_tests::lab::{Host, Joined, Lab, Options, Space, wait_until};
use serde_json::{Value, json};

/// The versions that are spoken.
const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// Another plugin: it gives the container an `eth0` that leads nowhere.
const FRONT: &str = r#"#!/bin/sh
cat > /dev/null
[ "$CNI_COMMAND" = ADD ] || exit 0
ip -n "${CNI_NETNS##*/}" link add "$CNI_IFNAME" type veth peer name "peer-$CNI_IFNAME"
ip -n "${CNI_NETNS##*/}" address add 172.31.0.2/24 dev "$CNI_IFNAME"
ip -n "${CNI_NETNS##*/}" link set "$CNI_IFNAME" up
echo '{"cniVersion":"1.1.0","interfaces":[{"name":"'$CNI_IFNAME'","mac":"02:00:00:00:00:01","sandbox":"'$CNI_NETNS'"}],
"ips":[{"address":"172.31.0.2/24","interface":0}],"dns":{"nameservers":["172.31.0.1"]}}'
"#;

struct Scene {
    lab: Lab,
    host: Host,
    shop: NetworkView,
    /// A member that was attached by hand.
    web: Joined,
}

#[test]
fn a_container_runtime_attaches_by_the_specification_and_leaves_nothing() {
    let lab = Lab::new("a_container_runtime_attaches_by_the_specification_and_leaves_nothing");
    let host = lab.host(&Options::ebpf().with_failpoints());
    let shop = host.network("shop", "10.90.0.0/24");
    let web = lab.member(&host, &shop, "web-1");
    let scene = Scene { lab, host, shop, web };
    scene.every_version_attaches_checks_and_ends();
    scene.a_container_is_in_several_networks_and_in_each_once();
    scene.behind_another_plugin_its_interface_and_result_stay();
    scene.an_end_without_a_beginning_or_a_namespace_succeeds();
    scene.what_is_not_listed_as_valid_is_collected();
    scene.what_cannot_be_is_refused_with_what_to_do();
    scene.what_a_capability_tells_counts_in_its_place();
    scene.a_host_that_takes_no_members_says_so_before_it_is_asked();
    scene.an_agent_that_dies_within_an_add_leaves_a_second_one_to_succeed();
    scene.many_come_and_go_at_once();
    scene.while_the_agent_is_away_the_runtime_is_to_try_again();
    scene.an_agent_that_lost_its_journal_finds_an_interface_of_any_name();
    let Scene { lab, host, web, .. } = scene;
    drop((host, web));
    lab.finish();
}

impl Scene {
    fn every_version_attaches_checks_and_ends(&self) {
        for (number, version) in VERSIONS.into_iter().enumerate() {
            let runtime = self.runtime("shop", version, json!({}));
            assert_eq!(runtime.versions(PLUGIN)["supportedVersions"], json!(VERSIONS));
            let space = self.lab.space(&format!("v{number}"));
            // The names of interfaces that runtimes give: nothing depends on `wg<n>`.
            let interface = ["eth0", "net1", "wg7", "abcdefghijklmno"][number];
            let c = Attachment::new(&format!("container{number}"), &space.path(), interface)
                .with("IgnoreUnknown=1;K8S_POD_NAME=eager_web;K8S_POD_NAMESPACE=default");
            let result = runtime.add(&c).expect("added");
            assert_eq!(result["interfaces"].as_array().map(Vec::len), Some(1), "{result}");
            assert_eq!(result["interfaces"][0]["name"], interface);
            assert_eq!(result["interfaces"][0]["sandbox"], json!(space.path()));
            assert_eq!(result["dns"]["nameservers"], json!(["127.0.0.82"]), "{result}");
            assert_eq!(space.links(), [interface], "it has that and no other");
            let address = address_of(&result);
            assert!(space.run(&format!("ip address show dev {interface}")).contains(&format!("inet {address}/")));
            let member = self.member(address);
            assert_eq!(member.interface.as_ref().map(|name| name.as_str()), Some(interface));
            assert_eq!(
                member.member.app_name.as_ref().map(|name| name.as_str()),
                Some("eager-web"),
                "by the pod's name"
            );
            wait_until("it reaches web", || reaches(&space, self.web.address()));
            wait_until("web reaches it", || reaches(&self.web.app, address));
            self.host.wait_until_settled();
            if version == "0.3.1" {
                assert_eq!(runtime.check(&c).map_err(|refusal| refusal.code), Err(1), "it came with 0.4.0");
            } else {
                runtime.check(&c).expect("it is as it was made");
                let other = serde_json::from_str(&result.to_string().replace(&address.to_string(), "10.90.0.250"));
                let refused = runtime.check_against(&c, &other.expect("JSON")).expect_err("another address");
                assert!(refused.message.contains("10.90.0.250") || refused.message.contains(&address.to_string()));
            }
            runtime.del(&c).expect("ended");
            assert_eq!(space.links(), [] as [&str; 0]);
            assert_eq!(space.run("ip route"), "", "nothing stays in the container");
            runtime.del(&c).expect("ended twice");
            self.assert_members(1);
            space.remove();
        }
    }

    fn a_container_is_in_several_networks_and_in_each_once(&self) {
        let (shop, bank) = (self.runtime("shop", "1.1.0", json!({})), self.runtime("bank", "1.1.0", json!({})));
        let space = self.lab.space("several");
        let [one, two] = ["eth0", "eth1"].map(|interface| Attachment::new("several", &space.path(), interface));
        // Nobody made the network bank: the first container does.
        let (first, second) = (shop.add(&one).expect("added"), bank.add(&two).expect("added"));
        assert_ne!(address_of(&first), address_of(&second));
        assert_eq!(space.links(), ["eth0", "eth1"]);
        // Two networks of the runtime that are one of privnet's.
        let again = self.runtime("other", "1.1.0", json!({ "network": "shop" }));
        let third = Attachment { interface: "eth2".to_owned(), ..one.clone() };
        for runtime in [&shop, &again] {
            let refused = runtime.add(&third).expect_err("it is in shop");
            assert_eq!(refused.code, 100);
            assert!(refused.details.contains("in a network once"), "{refused:?}");
            runtime.del(&third).expect("a runtime ends what it could not add");
        }
        let taken = Attachment { interface: "eth1".to_owned(), container: "taken".to_owned(), ..one.clone() };
        let refused = self.runtime("till", "1.1.0", json!({})).add(&taken).expect_err("eth1 is taken");
        assert!(refused.message.contains("eth1 already"), "{refused:?}");
        shop.check(&one).expect("the first goes on");
        shop.del(&one).expect("ended");
        assert_eq!(space.links(), ["eth1"], "the other one stays");
        bank.check(&two).expect("it goes on");
        bank.del(&two).expect("ended");
        self.assert_members(1);
        space.remove();
    }

    fn behind_another_plugin_its_interface_and_result_stay(&self) {
        let plugins = [json!({ "type": "front" }), self.plugin(json!({ "network": "shop" }))];
        let runtime = Runtime::new(self.lab.directory(), "chain", "1.1.0", &plugins);
        runtime.put("front", FRONT);
        let space = self.lab.space("chain");
        let c = Attachment::new("chain", &space.path(), "eth0");
        let result = runtime.add(&c).expect("added");
        let names: Vec<&str> = ["0", "1"]
            .iter()
            .map(|n| result.pointer(&format!("/interfaces/{n}/name")).and_then(Value::as_str).expect("a name"))
            .collect();
        assert_eq!(names, ["eth0", "wg0"], "ours comes behind, and has a name of its own: {result}");
        assert_eq!(result["ips"][0]["address"], "172.31.0.2/24");
        assert_eq!(result["ips"][1]["interface"], 1);
        assert_eq!(result["dns"]["nameservers"], json!(["127.0.0.82", "172.31.0.1"]));
        assert!(space.run("ip address show dev eth0").contains("172.31.0.2/24"), "the other one's stays as it was");
        wait_until("it reaches web", || reaches(&space, self.web.address()));
        assert!(space.run("tc filter show dev eth0 ingress").contains("guard"), "private traffic stays off it");
        runtime.check(&c).expect("it is as it was made");
        // A name of one's own, and what a DEL without the result leaves.
        runtime.del(&c).expect("ended");
        assert_eq!(space.links(), ["eth0", "peer-eth0"]);
        let named = [json!({ "type": "front" }), self.plugin(json!({ "network": "shop", "interface": "private" }))];
        let named = Runtime::new(self.lab.directory(), "chain", "1.1.0", &named);
        let c = Attachment { interface: "eth1".to_owned(), ..c };
        assert_eq!(named.add(&c).expect("added")["interfaces"][1]["name"], "private");
        named.del(&c).expect("ended");
        self.assert_members(1);
        space.remove();
    }

    fn an_end_without_a_beginning_or_a_namespace_succeeds(&self) {
        let runtime = self.runtime("shop", "1.1.0", json!({}));
        let space = self.lab.space("ends");
        let c = Attachment::new("ends", &space.path(), "eth0");
        runtime.del(&c).expect("before it began");
        runtime.del(&c.without_netns()).expect("and without a namespace");
        runtime.add(&c).expect("added");
        runtime.del(&c.without_netns()).expect("the runtime has forgotten where it was");
        assert_eq!(space.links(), [] as [&str; 0], "and it is gone all the same");
        // The namespace goes first, as after a reboot.
        runtime.add(&c).expect("added");
        space.remove();
        runtime.del(&c).expect("ended");
        runtime.del(&c).expect("twice");
        self.assert_members(1);
        let refused = runtime.add(&c).expect_err("there is no namespace");
        assert_eq!(refused.code, 3, "there is no such container: {refused:?}");
    }

    fn what_is_not_listed_as_valid_is_collected(&self) {
        let (shop, other) = (self.runtime("shop", "1.1.0", json!({})), self.runtime("other", "1.1.0", json!({})));
        let spaces: Vec<Space> = (0..3).map(|number| self.lab.space(&format!("gc{number}"))).collect();
        let all: Vec<Attachment> =
            (0..3).map(|n| Attachment::new(&format!("gc{n}"), &spaces[n].path(), "eth0")).collect();
        for c in &all {
            shop.add(c).expect("added");
        }
        // Of another network of the runtime, in a container that is none of shop's list.
        let foreign = Attachment { interface: "net1".to_owned(), ..all[0].clone() };
        other.add(&foreign).expect("added");
        shop.gc(&all.iter().collect::<Vec<_>>()).expect("all are valid");
        for c in &all {
            shop.check(c).expect("it stays");
        }
        shop.gc(&[&all[1]]).expect("some are");
        shop.check(&all[1]).expect("it stays");
        assert_eq!(shop.check(&all[0]).map_err(|refusal| refusal.code), Err(101));
        assert_eq!((spaces[0].links(), spaces[2].links()), (vec!["net1".to_owned()], vec![]));
        let config = json!({ "cniVersion": "1.1.0", "name": "shop", "type": PLUGIN, "privnet": { "socket": self.host.paths().socket } });
        assert_eq!(shop.execute("GC", None, &config).map_err(|refusal| refusal.code), Err(7), "a key that is missing");
        shop.check(&all[1]).expect("ends nothing");
        shop.gc(&[]).expect("none is");
        assert!(shop.check(&all[1]).is_err());
        other.check(&foreign).expect("another network's stays");
        assert!(reaches(&self.web.app, self.web.address()), "what was attached by hand stays");
        other.gc(&[]).expect("none is");
        self.assert_members(1);
        spaces.iter().for_each(Space::remove);
    }

    fn what_cannot_be_is_refused_with_what_to_do(&self) {
        let space = self.lab.space("refused");
        let c = Attachment::new("refused", &space.path(), "eth0");
        let refused = |own: Value, c: &Attachment| -> Refusal {
            let runtime = self.runtime("shop", "1.1.0", own);
            let refused = runtime.add(c).expect_err("refused");
            runtime.del(c).expect("a runtime ends what it could not add");
            refused
        };
        for (own, code, said) in [
            (json!({ "netwrok": "shop" }), 2, "netwrok"),
            (json!({ "network": "pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c" }), 7, "does not exist"),
            (json!({ "network": "No" }), 7, "network name"),
            (json!({ "network": 7 }), 7, "privnet.network"),
            (json!({ "ports": [80] }), 7, "ports"),
            (json!({ "number": "many" }), 7, "privnet.number"),
            (json!({ "app": "No" }), 7, "app name"),
            (json!({ "address": "192.0.2.1" }), 7, "192.0.2.1"),
            (json!({ "address": self.web.address().to_string() }), 100, &*self.web.address().to_string()),
        ] {
            let refusal = refused(own.clone(), &c);
            assert!(refusal.code == code && refusal.message.contains(said), "{own}: {refusal:?}");
        }
        let of_host = Attachment { netns: Some(self.host.space.path()), ..c.clone() };
        assert_eq!(refused(json!({}), &of_host).code, 4, "the host's own namespace");
        assert_eq!(space.links(), [] as [&str; 0]);
        self.assert_members(1);
        // Who it is, an argument says as well.
        let runtime = self.runtime("shop", "1.1.0", json!({}));
        let told = c.with("PRIVNET_APP=till;PRIVNET_TYPE=job;PRIVNET_NUMBER=7;IP=10.90.0.77/24");
        let member = self.member(address_of(&runtime.add(&told).expect("added")));
        assert_eq!(member.member.address, Ipv4Addr::new(10, 90, 0, 77));
        assert_eq!((member.member.kind.as_str(), member.member.number.get()), ("job", 7));
        runtime.del(&told).expect("ended");
        self.assert_members(1);
        space.remove();
    }

    fn an_agent_that_dies_within_an_add_leaves_a_second_one_to_succeed(&self) {
        let runtime = self.runtime("shop", "1.1.0", json!({}));
        for (number, step) in ["commit", "rename file", "make Device"].into_iter().enumerate() {
            let space = self.lab.space(&format!("dies{number}"));
            let c = Attachment::new(&format!("dies{number}"), &space.path(), "eth0");
            self.host.failpoints().arm(Action::Kill, &Passage { step: step.to_owned(), time: 1 });
            let refused = runtime.add(&c).expect_err("the agent died");
            assert!(self.host.failpoints().is_reached(), "{step}");
            assert_eq!(refused.code, 11, "{refused:?}");
            wait_until("the agent has ended", || self.host.has_ended());
            self.host.start();
            // With the DEL that a runtime makes in between, and without.
            if number == 0 {
                runtime.del(&c).expect("ended");
                self.assert_members(1);
                assert_eq!(space.links(), [] as [&str; 0]);
            }
            let address = address_of(&runtime.add(&c).expect("the second time"));
            wait_until("web reaches it", || reaches(&self.web.app, address));
            assert_eq!(space.links(), ["eth0"]);
            runtime.del(&c).expect("ended");
            self.assert_members(1);
            space.remove();
        }
    }

    fn while_the_agent_is_away_the_runtime_is_to_try_again(&self) {
        let runtime = self.runtime("shop", "1.1.0", json!({}));
        runtime.status().expect("it can");
        let space = self.lab.space("away");
        let c = Attachment::new("away", &space.path(), "eth0");
        let result = runtime.add(&c).expect("added");
        self.host.kill();
        let refused = runtime.status().expect_err("there is no agent");
        assert!(refused.code == 50 && refused.details.contains("start it"), "{refused:?}");
        let other = Attachment { container: "other".to_owned(), ..c.clone() };
        assert_eq!(runtime.add(&other).map_err(|refusal| refusal.code), Err(11));
        assert_eq!(runtime.del(&c).map_err(|refusal| refusal.code), Err(11));
        assert_eq!(runtime.check(&c).map_err(|refusal| refusal.code), Err(11));
        assert_eq!(runtime.gc(&[]).map_err(|refusal| refusal.code), Err(11));
        assert!(reaches(&space, self.web.address()), "what runs goes on");
        self.host.start();
        self.host.wait_until_settled();
        runtime.status().expect("it can again");
        runtime.check_against(&c, &result).expect("the next agent knows it");
        runtime.del(&c).expect("ended");
        self.assert_members(1);
        space.remove();
    }

    fn an_agent_that_lost_its_journal_finds_an_interface_of_any_name(&self) {
        let runtime = self.runtime("shop", "1.1.0", json!({}));
        let space = self.lab.space("lost");
        let c = Attachment::new("lost", &space.path(), "eth0");
        let address = address_of(&runtime.add(&c).expect("added"));
        self.host.kill();
        let journal = fs::read_dir(self.host.paths().state.join("members")).expect("the journal");
        journal.for_each(|entry| fs::remove_file(entry.expect("an entry").path()).expect("removed"));
        self.host.start();
        let is_known = || self.member(address).interface.is_some_and(|name| name.as_str() == "eth0");
        wait_until("it is known by its alias", is_known);
        self.host.wait_until_settled();
        assert_eq!(space.links(), ["eth0"], "none was made beside it");
        assert!(reaches(&self.web.app, address) && reaches(&space, self.web.address()), "what runs goes on");
        // What the runtime calls it is lost with the journal: it ends with its namespace.
        runtime.del(&c).expect("nothing is known of it");
        space.remove();
        wait_until("it has ended", || self.host.members().is_ok_and(|members| members.len() == 1));
    }

    /// A runtime whose network of this name is ours alone, with what stands in `privnet`.
    fn runtime(&self, name: &str, version: &str, own: Value) -> Runtime {
        Runtime::new(self.lab.directory(), name, version, &[self.plugin(own)])
    }

    fn plugin(&self, mut own: Value) -> Value {
        own["socket"] = json!(self.host.paths().socket);
        json!({ "type": PLUGIN, "privnet": own })
    }

    fn member(&self, address: Ipv4Addr) -> MemberView {
        let members = self.host.members().expect("the members");
        let found = members.into_iter().find(|member| member.member.address == address);
        found.unwrap_or_else(|| panic!("no member has {address}"))
    }

    /// In all networks.
    #[track_caller]
    fn assert_members(&self, expected: usize) {
        // What was done is in the store at once, and in the host's image of it a moment later.
        let members = || self.host.members().expect("the members");
        wait_until(format!("there are {expected} members"), || members().len() == expected);
        let members = members();
        assert!(members.iter().any(|member| member.network == self.shop.id), "web stays");
    }
}

fn address_of(result: &Value) -> Ipv4Addr {
    let text = result["ips"].as_array().and_then(|ips| ips.last()?["address"].as_str()).expect("an address");
    text.split('/').next().and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("{text}"))
}

fn reaches(from: &Space, to: Ipv4Addr) -> bool {
    from.succeeds(&format!("ping -q -c 1 -W 1 {to}"))
}
