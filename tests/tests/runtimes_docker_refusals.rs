//! What Docker's users ask for that cannot be: it is refused with what to do, nothing of it is left, and the next attempt works.
#![forbid(unsafe_code)]

use privnet::model::MemberState;
use privnet_tests::lab::docker::IMAGE;
use privnet_tests::lab::{Docker, Host, Lab, Options, has_program, skip, wait_until};
use serde_json::json;

/// Of the host's resolver, which does not answer.
const RESOLVER: &str = "192.168.77.1";
const CREATE: &str = "network create -d privnet --ipam-driver null";

struct Scene {
    host: Host,
    docker: Docker,
}

#[test]
fn what_cannot_be_is_refused_with_what_to_do_and_leaves_nothing() {
    if ["dockerd", "docker", "containerd", "runc"].iter().any(|program| !has_program(program)) {
        return skip("Docker");
    }
    let lab = Lab::new("what_cannot_be_is_refused_with_what_to_do_and_leaves_nothing");
    let host = lab.host(&Options::ebpf().with_docker());
    let docker = Docker::beside(&host, RESOLVER);
    docker.import(&Docker::tools());
    let scene = Scene { host, docker };
    scene.networks();
    scene.containers();
    scene.an_interface_has_no_mac_address();
    scene.ports_are_dockers_own_networks();
    scene.an_interface_of_that_name();
    scene.a_range_of_another_network();
    scene.a_network_that_was_deleted();
    scene.host.wait_until_settled();
    let links = scene.host.space.links();
    assert!(!links.iter().any(|link| link.starts_with("pn")), "{links:?}");
    drop(scene);
    lab.finish();
}

impl Scene {
    fn networks(&self) {
        for (line, sentence) in [
            ("network create -d privnet shop".to_owned(), "add --ipam-driver null"),
            // Before Docker 28 its own driver `null` refuses that.
            (format!("{CREATE} --ipv6 shop"), "v6"),
            (format!("{CREATE} -o speed=high shop"), "-o network=NAME is the only one"),
            (format!("{CREATE} -o network=No shop"), "network name"),
        ] {
            self.assert_refused(&line, sentence);
        }
        self.docker.run(&format!("{CREATE} -o network=shop shop"));
    }

    fn containers(&self) {
        let run = |options: &str| format!("run --rm {options} {IMAGE} busybox true");
        let told = |option: &str| run(&format!("--network name=shop,driver-opt={option}"));
        for (line, sentence) in [
            (told("privnet.speed=high"), "no driver-opt of privnet's"),
            (told("privnet.number=many"), "privnet.number is \"many\""),
            (told("privnet.address=192.0.2.1"), "192.0.2.1"),
            (run("--network shop --label privnet.app=No"), "app name"),
            // Docker's own sentence.
            (run("--network shop --ip 10.90.0.9"), "user configured subnets"),
            // Its process is never there: it ends between the calls.
            (format!("run --rm --network shop {IMAGE} /nonexistent"), "/nonexistent"),
        ] {
            self.assert_refused(&line, sentence);
            self.wait_until_members(0);
        }
        self.docker.run(&run("--network shop"));
        self.wait_until_members(0);
    }

    /// By Docker's API: a command line that is newer than the daemon refuses it by itself.
    fn an_interface_has_no_mac_address(&self) {
        let socket = self.docker.host();
        let create = |name: &str, mac: &str| {
            let body = json!({
                "Image": IMAGE, "Cmd": ["busybox", "true"], "MacAddress": mac, "HostConfig": { "NetworkMode": "shop" },
                // Where Docker has it from 25 on.
                "NetworkingConfig": { "EndpointsConfig": { "shop": { "MacAddress": mac } } },
            });
            self.host.space.run(&format!(
                "curl --silent --show-error --fail-with-body --unix-socket {} --header Content-Type:application/json \
                 --data {body} http://docker/containers/create?name={name}",
                socket.trim_start_matches("unix://")
            ));
        };
        create("named", "02:00:00:00:00:01");
        self.assert_refused("start named", "leave --mac-address out");
        self.wait_until_members(0);
        create("unnamed", "");
        self.docker.run("start --attach unnamed");
        self.docker.run("rm named unnamed");
        self.wait_until_members(0);
    }

    fn ports_are_dockers_own_networks(&self) {
        self.docker.start_container("published", "--network shop --publish 8080:80");
        self.wait_until_members(1);
        assert_eq!(self.docker.run("port published"), "", "Docker publishes nothing, and says nothing");
        self.docker.run("rm --force published");
        self.wait_until_members(0);
    }

    fn an_interface_of_that_name(&self) {
        self.docker.run("network create --subnet 172.30.5.0/24 back");
        self.docker.start_container("taken", "--network back");
        self.inside("taken", "ip link add wg0 type veth peer name other");
        self.docker.run("network connect shop taken");
        self.wait_until_members(1);
        let links = self.inside("taken", "ip -o link");
        assert!(links.contains(" pn0: ") && links.contains(" wg0@other: "), "{links}");
        self.docker.run("network disconnect shop taken");
        self.wait_until_members(0);
        let links = self.inside("taken", "ip -o link");
        assert!(!links.contains(" pn0: ") && links.contains(" wg0@other: "), "the other one stays: {links}");
        self.docker.run("rm --force taken");
    }

    fn a_range_of_another_network(&self) {
        let subnet = self.host.networks().expect("the networks")[0].subnet;
        self.docker.run(&format!("network create --subnet {subnet} same"));
        self.docker.start_container("between", "--network same");
        self.assert_refused("network connect shop between", "use a network with another subnet");
        self.wait_until_members(0);
        self.docker.run("network connect back between");
        self.docker.run("network disconnect same between");
        self.docker.run("network connect shop between");
        self.wait_until_members(1);
        self.docker.run("rm --force between");
        self.docker.run("network rm same back");
    }

    fn a_network_that_was_deleted(&self) {
        self.wait_until_members(0);
        self.host.delete_network("shop").expect("deleted");
        let run = format!("run --rm --network shop {IMAGE} busybox true");
        self.assert_refused(&run, "docker network rm");
        self.docker.run("network rm shop");
        self.docker.run(&format!("{CREATE} -o network=shop shop"));
        self.docker.run(&run);
        self.wait_until_members(0);
        self.docker.run("network rm shop");
    }

    /// In the namespace of a container, with the programs of this machine.
    fn inside(&self, container: &str, line: &str) -> String {
        let pid = self.docker.inspect(container, ".State.Pid");
        self.host.space.run(&format!("nsenter -t {pid} -n {line}"))
    }

    #[track_caller]
    fn assert_refused(&self, line: &str, sentence: &str) {
        let output = self.docker.attempt(line);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(sentence), "{line}: {said}");
    }

    #[track_caller]
    fn wait_until_members(&self, expected: usize) {
        wait_until(format!("there are {expected} members"), || {
            let members = self.host.members().expect("the members");
            members.len() == expected && members.iter().all(|member| member.state == MemberState::Ready)
        });
    }
}
