//! What concerns more than one call: capabilities beside the other places, a host that takes no members, and many calls at once.

use std::net::Ipv4Addr;
use std::time::Instant;

use privnet_tests::lab::cni::{Attachment, Refusal, Runtime};
use privnet_tests::lab::wait::{SOON, holds_within};
use privnet_tests::lab::{Space, say};
use privnet_tests::repeats;
use serde_json::{Value, json};

use super::{Scene, address_of};

impl Scene {
    pub fn what_a_capability_tells_counts_in_its_place(&self) {
        let space = self.lab.space("capable");
        let own = self.plugin(json!({ "network": "shop", "app": "shop", "type": "db", "number": 3 }));
        let declared = ["ips", "mac", "portMappings", "aliases", "privnet", "io.kubernetes.cri.pod-annotations"];
        let mut capable = own.clone();
        capable["capabilities"] = declared.iter().map(|capability| ((*capability).to_owned(), json!(true))).collect();
        let runtime =
            |plugin: &Value| Runtime::new(self.lab.directory(), "shop", "1.1.0", std::slice::from_ref(plugin));
        let (told, untold) = (runtime(&capable), runtime(&own));
        let of_pod = json!({ "privnet.type": "cache", "privnet.number": "4", "team": "blue" });
        let with = |more: Value| {
            let mut capabilities = json!({
                "ips": ["10.90.0.70/24"], "aliases": { "shop": ["al1"] }, "mac": "", "portMappings": [],
                "io.kubernetes.cri.pod-annotations": of_pod,
            });
            capabilities.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            Attachment { capabilities, ..Attachment::new("capable", &space.path(), "eth0") }
        };
        let closer = json!({ "privnet": { "app": "store", "number": 5 } });
        let last = "PRIVNET_NUMBER=7;IP=10.90.0.77";
        for (runtime, c, expected) in [
            (&told, with(json!({})), ("shop", "cache", 4, Some(70))),
            (&told, with(closer.clone()), ("store", "cache", 5, Some(70))),
            (&told, with(closer.clone()).with(last), ("store", "cache", 7, Some(77))),
            (&told, with(json!({ "ips": [] })), ("shop", "cache", 4, None)),
            // A runtime passes on what the configuration declares, and nothing else.
            (&untold, with(closer), ("shop", "db", 3, None)),
        ] {
            let address = address_of(&runtime.add(&c).expect("added"));
            let member = self.member(address).member;
            let app = member.app_name.as_ref().map(ToString::to_string).expect("a name");
            let (app_expected, kind, number, last) = expected;
            assert_eq!((&*app, member.kind.as_str(), member.number.get()), (app_expected, kind, number), "{c:?}");
            let asked_for = [70, 77].map(|last| Ipv4Addr::new(10, 90, 0, last));
            match last {
                Some(last) => assert_eq!(address, Ipv4Addr::new(10, 90, 0, last), "{c:?}"),
                None => assert!(!asked_for.contains(&address), "{address} was not asked for: {c:?}"),
            }
            runtime.check(&c).expect("it is as it was made");
            runtime.del(&c).expect("ended");
        }
        for (more, said) in [
            (json!({ "mac": "02:00:00:00:00:01" }), "no MAC address"),
            (json!({ "portMappings": [{ "hostPort": 8080, "containerPort": 80 }] }), "no ports"),
            (json!({ "ips": ["10.90.0.70/24", "10.90.0.71/24"] }), "runtimeConfig.ips"),
            (json!({ "privnet": { "speed": "high" } }), "runtimeConfig.privnet.speed"),
        ] {
            let c = with(more);
            let refused = told.add(&c).expect_err(said);
            assert!([2, 7].contains(&refused.code) && refused.message.contains(said), "{refused:?}");
            told.del(&c).expect("a runtime ends what it could not add");
        }
        assert_eq!(space.links(), [] as [&str; 0]);
        self.assert_members(1);
        space.remove();
    }

    /// A runtime that asks before it places a container places it elsewhere.
    pub fn a_host_that_takes_no_members_says_so_before_it_is_asked(&self) {
        let runtime = Runtime::new(self.lab.directory(), "shop", "1.1.0", &[self.plugin(json!({}))]);
        let space = self.lab.space("drained");
        let c = Attachment::new("drained", &space.path(), "eth0");
        let drain = |options: &[&str]| {
            let line = [&["host", "drain", self.host.name.as_str()], options].concat();
            let output = self.host.cli().output(&line);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        runtime.status().expect("the twin");
        drain(&["--wait", "0"]);
        let refused = runtime.status().expect_err("the host is drained");
        assert!(refused.code == 50 && refused.details.contains("--cancel"), "{refused:?}");
        assert_eq!(runtime.add(&c).map_err(|refusal| refusal.code), Err(100), "and so it is");
        runtime.del(&c).expect("a runtime ends what it could not add");
        drain(&["--cancel"]);
        runtime.status().expect("it takes members again");
        runtime.add(&c).expect("added");
        runtime.del(&c).expect("ended");
        self.assert_members(1);
        space.remove();
    }

    /// Two hundred at once, in networks of few members: each member tells all others of its network.
    pub fn many_come_and_go_at_once(&self) {
        let (networks, each) = (10, repeats(20) as usize);
        let plugin = |network: String| Runtime::new(self.lab.directory(), &network, "1.1.0", &[self.plugin(json!({}))]);
        let runtimes: Vec<Runtime> = (0..networks).map(|number| plugin(format!("many{number}"))).collect();
        let spaces: Vec<Space> = (0..networks * each).map(|number| self.lab.space(&format!("many{number}"))).collect();
        let attachment =
            |number: usize, space: &Space| Attachment::new(&format!("many{number}"), &space.path(), "eth0");
        let all: Vec<(usize, &Runtime, Attachment)> = spaces
            .iter()
            .enumerate()
            .map(|(number, space)| (number, &runtimes[number % networks], attachment(number, space)))
            .collect();
        let at_once = |what: &str, act: &(dyn Fn(usize, &Runtime, &Attachment) + Sync)| {
            let begun = Instant::now();
            std::thread::scope(|scope| {
                for (number, runtime, c) in &all {
                    scope.spawn(move || act(*number, runtime, c));
                }
            });
            say(&format!("{} times {what} at once: {:?}", all.len(), begun.elapsed()));
        };
        at_once("ADD", &|_, runtime, c| in_the_end(|| runtime.add(c)));
        self.assert_members(1 + all.len());
        // A runtime ends some while it adds others, and some twice.
        at_once("DEL", &|number, runtime, c| {
            in_the_end(|| runtime.del(c));
            match number % 8 {
                0 => {
                    in_the_end(|| runtime.add(c));
                    in_the_end(|| runtime.del(c));
                }
                1 => in_the_end(|| runtime.del(c)),
                _ => {}
            }
        });
        self.assert_members(1);
        for space in &spaces {
            assert_eq!(space.links(), [] as [&str; 0]);
            space.remove();
        }
        self.host.wait_until_settled();
    }
}

/// An agent that is busy may say for a while that the runtime is to try again.
#[track_caller]
fn in_the_end<T>(call: impl Fn() -> Result<T, Refusal>) {
    let is_done = holds_within(SOON, || match call() {
        Ok(_) => true,
        Err(refused) => {
            assert_eq!(refused.code, 11, "{refused:?}");
            false
        }
    });
    assert!(is_done, "it never can");
}
