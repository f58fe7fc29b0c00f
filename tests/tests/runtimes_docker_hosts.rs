//! Containers of two Dockers on two hosts, as Compose labels them: they find each other by the service's name.
//!
//! ```text
//!  h1: agent, dockerd                              h2: agent, dockerd
//! ┌──────────────────────┐   192.168.77.0/24      ┌──────────────────────┐
//! │ backend  1.backend   │════════════════════════│ web      1.web       │
//! └──────────────────────┘   etcd between them    │ backend  2.backend   │
//!                                                 └──────────────────────┘
//! ```
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use privnet::model::MemberState;
use privnet_tests::lab::cni::{Attachment, PLUGIN, Runtime};
use privnet_tests::lab::docker::IMAGE;
use privnet_tests::lab::{Docker, Etcd, Host, Lab, Options, Space, has_program, skip, wait_until};
use serde_json::{Value, json};

/// Of the hosts' resolver, which does not answer.
const RESOLVER: &str = "192.168.77.250";

#[test]
fn a_service_of_compose_is_found_on_all_hosts_by_its_name_alone() {
    if ["dockerd", "docker", "containerd", "runc"].iter().any(|program| !has_program(program)) {
        return skip("Docker");
    }
    let lab = Lab::new("a_service_of_compose_is_found_on_all_hosts_by_its_name_alone");
    let (hosts, mut etcd) = lab.hosts_of_etcd(&Options::ebpf().with_docker());
    // The other one is in a network namespace of its own.
    let dockers = [Docker::beside(&hosts[0], RESOLVER), Docker::apart(&hosts[1], RESOLVER)];
    let dockers = dockers.map(|docker| {
        docker.import(&Docker::tools());
        docker.run("network create -d privnet --ipam-driver null -o network=shop shop");
        docker
    });
    let start = |docker: &Docker, service: &str| {
        let label = |key: &str, value: &str| format!("--label com.docker.compose.{key}={value}");
        let [project, of, number] =
            [label("project", "stall"), label("service", service), label("container-number", "1")];
        docker.start_container(&format!("stall-{service}-1"), &format!("--network shop {project} {of} {number}"));
    };
    start(&dockers[0], "backend");
    wait_for(&hosts[0], &["1.backend h1"]);
    start(&dockers[1], "web");
    // Compose on another host counts from one as well.
    start(&dockers[1], "backend");
    wait_for(&hosts[1], &["1.backend h1", "1.web h2", "2.backend h2"]);
    let address = |docker: &Docker, name: &str| docker.inspect(name, ".NetworkSettings.Networks.shop.IPAddress");
    let [first, second] = dockers.each_ref().map(|docker| address(docker, "stall-backend-1"));
    let found = |name: &str| {
        let said = dockers[1].attempt(&format!("exec stall-web-1 getent ahostsv4 {name}")).stdout;
        let said = String::from_utf8_lossy(&said).into_owned();
        said.lines().filter_map(|line| Some(line.split_once(' ')?.0.to_owned())).collect::<BTreeSet<_>>()
    };
    for (name, expected) in [
        ("backend", vec![&first, &second]),
        ("backend.stall", vec![&first, &second]),
        ("1.backend", vec![&first]),
        // The name that Docker itself gave its container on this host.
        ("stall-backend-1", vec![&second]),
    ] {
        let expected = expected.into_iter().cloned().collect();
        wait_until(format!("web finds {name}"), || found(name) == expected);
    }
    for to in [&first, &second] {
        let ping = format!("exec stall-web-1 busybox ping -q -c 1 -W 1 {to}");
        wait_until(format!("web reaches {to}"), || dockers[1].attempt(&ping).status.success());
    }
    containers_come_back_without_the_store(&lab, &mut etcd, &hosts, &dockers);
    let second = address(&dockers[1], "stall-backend-1");
    dockers[0].run("rm --force stall-backend-1");
    wait_until("web finds the one that is left", || found("backend") == BTreeSet::from([second.clone()]));
    dockers[1].run("rm --force stall-web-1 stall-backend-1");
    wait_for(&hosts[0], &[]);
    drop(dockers);
    drop((hosts, etcd));
    lab.finish();
}

/// What their host knows of them is enough; a new container needs the store, and what does not come back has ended.
fn containers_come_back_without_the_store(lab: &Lab, etcd: &mut Etcd, hosts: &[Host; 2], dockers: &[Docker; 2]) {
    let [docker, other] = [&dockers[1], &dockers[0]];
    let address = || docker.inspect("stall-web-1", ".NetworkSettings.Networks.shop.IPAddress");
    let before = address();
    let pod = Pod::add(lab, &hosts[1]);
    etcd.kill();
    docker.run("restart -t 0 stall-web-1");
    assert_eq!(address(), before);
    let ping = format!("exec stall-backend-1 busybox ping -q -c 1 -W 1 {before}");
    wait_until(format!("the other host's container reaches {before}"), || other.attempt(&ping).status.success());
    let found = String::from_utf8_lossy(&other.attempt("exec stall-backend-1 getent ahostsv4 web").stdout).into_owned();
    assert!(found.starts_with(&format!("{before} ")), "{found}");
    // Its place is no other container's, and stays its own.
    docker.run("stop -t 0 stall-web-1");
    let other_one = docker.attempt(&format!("run --rm --network shop {IMAGE} busybox true"));
    let said = String::from_utf8_lossy(&other_one.stderr).into_owned();
    assert!(!other_one.status.success() && said.contains("etcd"), "{said}");
    docker.run("start stall-web-1");
    assert_eq!(address(), before);
    let pod = pod.comes_back(lab);
    docker.run("stop -t 0 stall-backend-1");
    etcd.start();
    pod.end();
    wait_for(&hosts[0], &["1.backend h1", "1.web h2"]);
    wait_until(format!("the other host's container reaches {before}"), || other.attempt(&ping).status.success());
    docker.run("start stall-backend-1");
    wait_for(&hosts[0], &["1.backend h1", "1.web h2", "2.backend h2"]);
}

/// What a runtime of CNI's has added.
struct Pod {
    runtime: Runtime,
    space: Space,
    ips: Value,
}

impl Pod {
    fn add(lab: &Lab, host: &Host) -> Self {
        let plugin = json!({ "type": PLUGIN, "privnet": { "socket": host.paths().socket } });
        let (runtime, space) = (Runtime::new(lab.directory(), "shop", "1.1.0", &[plugin]), lab.space("before"));
        let ips = runtime.add(&Self::named(&space, "pod")).expect("added")["ips"].clone();
        Self { runtime, space, ips }
    }

    /// Its runtime ends it and adds it again, in another namespace, while the store is away.
    fn comes_back(self, lab: &Lab) -> Self {
        let Self { runtime, space, ips } = self;
        runtime.del(&Self::named(&space, "pod")).expect("ended");
        space.remove();
        let space = lab.space("after");
        let other = runtime.add(&Self::named(&space, "other")).expect_err("a new one needs the store");
        assert_eq!(other.code, 11, "{other:?}");
        for _ in 0..2 {
            assert_eq!(runtime.add(&Self::named(&space, "pod")).expect("its place, also twice")["ips"], ips);
        }
        Self { runtime, space, ips }
    }

    fn end(self) {
        let attachment = Self::named(&self.space, "pod");
        self.runtime.check(&attachment).expect("it is as it was made");
        self.runtime.del(&attachment).expect("ended");
        self.space.remove();
    }

    fn named(space: &Space, name: &str) -> Attachment {
        Attachment::new(name, &space.path(), "eth0").with(&format!("IgnoreUnknown=1;K8S_POD_NAME={name}"))
    }
}

/// Waits until these are the members that a host sees, all ready: their names and hosts.
#[track_caller]
fn wait_for(host: &Host, expected: &[&str]) {
    wait_until(format!("the members are {expected:?}"), || {
        let members = host.members().expect("the members");
        let is_ready = members.iter().all(|member| member.state == MemberState::Ready && member.names.len() == 1);
        let text = members.iter().map(|it| format!("{}.{} {}", it.member.number, it.member.kind, it.host));
        let mut seen: Vec<String> = text.collect();
        seen.sort();
        is_ready && seen == expected
    });
}
