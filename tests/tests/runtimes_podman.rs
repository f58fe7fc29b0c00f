//! Containers that Podman attaches, by the plugin of CNI or of netavark: nobody but Podman is asked for anything.
//!
//! ```text
//!  host: agent, podman                    container `eager_web`         container `backend`
//! ┌────────────────────────────────┐     ┌──────────────────┐          ┌──────────────────┐
//! │ podman ──▶ plugin ──▶ agent    │     │ eth0 10.90.0.2   │~~~~~~~~~~│ eth0 10.90.0.3   │
//! └────────────────────────────────┘     └──────────────────┘          └──────────────────┘
//! ```
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::{Command, Stdio};

use privnet::agent::views::MemberView;
use privnet::model::MemberState;
use privnet_tests::lab::image::{IMAGE, database};
use privnet_tests::lab::podman::Backend;
use privnet_tests::lab::{Host, Lab, Options, Podman, say, skip, wait_until, which};

struct Scene {
    host: Host,
    podman: Podman,
}

#[test]
fn podman_alone_makes_and_ends_memberships() {
    let backend = match Backend::cni() {
        Ok(backend) => backend,
        Err(missing) => return skip(missing),
    };
    let lab = Lab::new("podman_alone_makes_and_ends_memberships");
    let scene = Scene::set(&lab, &backend);
    for name in ["shop", "bank"] {
        scene.podman.create_network(&scene.host, &backend, name);
    }
    scene.two_containers_reach_each_other_by_address_and_by_name();
    scene.a_container_is_in_two_networks_by_the_names_that_were_asked_for();
    scene.a_container_that_restarts_is_who_it_was();
    scene.without_an_agent_podman_says_what_is_wrong();
    scene.what_is_removed_leaves_nothing();
    drop(scene);
    lab.finish();
}

#[test]
fn podman_with_netavark_makes_and_ends_memberships() {
    let backend = match Backend::netavark() {
        Ok(backend) => backend,
        Err(missing) => return skip(missing),
    };
    let lab = Lab::new("podman_with_netavark_makes_and_ends_memberships");
    let scene = Scene::set(&lab, &backend);
    scene.what_cannot_be_is_refused_with_what_to_do();
    scene.two_containers_reach_each_other_by_address_and_by_name();
    scene.a_container_is_in_two_networks_by_the_names_that_were_asked_for();
    scene.a_container_that_restarts_is_who_it_was();
    scene.networks_are_connected_and_disconnected();
    scene.without_an_agent_podman_says_what_is_wrong();
    scene.what_was_removed_without_an_agent_ends_with_the_next_one();
    scene.what_is_removed_leaves_nothing();
    scene.the_example_shows_who_reaches_whom();
    drop(scene);
    lab.finish();
}

impl Scene {
    fn set(lab: &Lab, backend: &Backend) -> Self {
        let host = lab.host(&Options::ebpf());
        let podman = Podman::beside(&host, backend);
        podman.import(&[vec![(which("busybox"), "/bin/busybox")], database(lab.directory())].concat());
        Self { host, podman }
    }

    fn what_cannot_be_is_refused_with_what_to_do(&self) {
        let create = "network create -d privnet";
        for (options, said) in [
            ("--subnet 10.9.0.0/24", "leave --subnet"),
            ("--ipv6", "leave --ipv6 out"),
            ("--route 10.1.0.0/16,10.2.0.1", "leave --route"),
            ("--opt speed=high", "\"speed\" is no option"),
            ("--opt network=No", "network name"),
        ] {
            self.assert_refused(&format!("{create} {options} shop"), said);
        }
        self.podman.run(&format!("{create} --opt network=shop shop"));
        self.podman.run(&format!("{create} bank"));
        for (options, said) in [
            ("--network shop --mac-address 02:00:00:00:00:01", "leave --mac-address out"),
            ("--network shop --ip 192.0.2.1", "192.0.2.1 is outside"),
            ("--network shop --ip6 fd00::1", "leave --ip6 out"),
            ("--network shop:speed=high", "\"speed\" is no option"),
            ("--network shop:number=many", "privnet.number is \"many\""),
        ] {
            self.assert_refused(&format!("run --rm {options} {IMAGE} busybox true"), said);
        }
        let noted = self.podman.attempt(&format!("run --rm --network shop -p 8081:80 {IMAGE} busybox true"));
        let said = String::from_utf8_lossy(&noted.stderr).into_owned();
        assert!(noted.status.success() && said.contains("by its own networks only"), "the twin, with a note: {said}");
        self.wait_until_members(&[]);
    }

    fn two_containers_reach_each_other_by_address_and_by_name(&self) {
        self.podman.start_container("eager_web", "--network shop --dns 127.0.0.82");
        self.podman.start_container("backend", "--network shop");
        self.wait_until_members(&["shop 1.web.backend", "shop 1.web.eager-web"]);
        let backend = self.member("backend").member;
        let shown = "inspect --format {{.NetworkSettings.Networks.shop.IPAddress}} backend";
        assert_eq!(self.podman.run(shown), backend.address.to_string(), "Podman shows its address");
        self.assert_reaches("eager_web", &backend.address.to_string());
        self.assert_reaches("backend", &self.member("eager-web").member.address.to_string());
        for name in [&*backend.hostname, "web.backend"] {
            let found = self.inside("eager_web", &format!("busybox nslookup -type=a {name}"));
            assert!(found.contains(&backend.address.to_string()), "{name}: {found}");
        }
        let links = self.inside("eager_web", "busybox ip -o link");
        assert!(links.lines().count() == 2 && links.contains(" eth0: "), "lo and ours: {links}");
        assert!(!self.inside("eager_web", "busybox ip route").contains("default"));
        // What Podman tells of the plugin's names without --dns.
        assert!(self.inside("backend", "busybox cat /etc/resolv.conf").contains("nameserver 127.0.0.82"));
    }

    fn a_container_is_in_two_networks_by_the_names_that_were_asked_for(&self) {
        let options = "--network shop:interface_name=shop0 --network bank:interface_name=bank0,ip=ADDRESS";
        // Nobody made the network bank: Podman's first container does, in the next free subnet.
        self.podman.start_container("first", "--network bank");
        let first = self.member("first").member.address;
        let address = std::net::Ipv4Addr::from(u32::from(first) + 40);
        self.podman.start_container("both", &options.replace("ADDRESS", &address.to_string()));
        let links = self.inside("both", "busybox ip -o address");
        assert!(
            links.contains(" shop0 ") && links.contains(" bank0 ") && links.contains(&address.to_string()),
            "{links}"
        );
        self.assert_reaches("both", &first.to_string());
        self.podman.run("rm --force --time 0 both first");
        self.wait_until_members(&["shop 1.web.backend", "shop 1.web.eager-web"]);
    }

    fn a_container_that_restarts_is_who_it_was(&self) {
        let before = self.member("backend").member;
        self.podman.run("restart --time 0 backend");
        let after = self.member("backend").member;
        assert_eq!((after.hostname, after.number), (before.hostname, before.number));
        self.assert_reaches("eager_web", &after.address.to_string());
    }

    fn networks_are_connected_and_disconnected(&self) {
        self.podman.run("network connect bank eager_web");
        self.wait_until_members(&["bank 1.web.eager-web", "shop 1.web.backend", "shop 1.web.eager-web"]);
        self.podman.run("network disconnect bank eager_web");
        self.wait_until_members(&["shop 1.web.backend", "shop 1.web.eager-web"]);
        let backend = self.member("backend").member.address.to_string();
        self.assert_reaches("eager_web", &backend);
        // Podman takes the servers of a network out of the file when the container leaves that.
        let found = self.inside("eager_web", "busybox nslookup -type=a web.backend");
        assert!(found.contains(&backend), "{found}");
        self.podman.run("kill backend");
        self.wait_until_members(&["shop 1.web.eager-web"]);
        self.podman.run("start backend");
        self.wait_until_members(&["shop 1.web.backend", "shop 1.web.eager-web"]);
    }

    fn what_was_removed_without_an_agent_ends_with_the_next_one(&self) {
        self.podman.start_container("gone", "--network shop");
        self.wait_until_members(&["shop 1.web.backend", "shop 1.web.eager-web", "shop 1.web.early", "shop 1.web.gone"]);
        self.host.kill();
        self.assert_refused("rm --force --time 0 gone", "the agent is not running");
        assert_eq!(self.podman.run("ps --all --quiet --filter name=gone"), "", "the twin: it is gone all the same");
        self.host.start();
        self.wait_until_members(&["shop 1.web.backend", "shop 1.web.eager-web", "shop 1.web.early"]);
    }

    /// `examples/podman`, with programs of this machine in place of the images.
    fn the_example_shows_who_reaches_whom(&self) {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/podman/stall.sh");
        let path = format!("{}:{}", self.podman.commands().display(), std::env::var("PATH").expect("a path"));
        let script = |word: &str| {
            let mut command = Command::new("sh");
            command.arg(&example).arg(word).env("PATH", &path).env("IMAGE", IMAGE).env("DB_IMAGE", IMAGE);
            let output = command.stdin(Stdio::null()).output().expect("sh starts");
            assert!(output.status.success(), "{word}: {}", String::from_utf8_lossy(&output.stderr));
        };
        script("up");
        self.wait_until_members(&[
            "bank 1.api.stall",
            "bank 1.ledger.bank",
            "shop 1.api.stall",
            "shop 1.db.stall",
            "shop 1.web.stall",
        ]);
        let web = self.podman.run("inspect --format {{.NetworkSettings.Networks.podman.IPAddress}} stall-web");
        let mut shown = String::new();
        wait_until("the page shows who reaches whom", || {
            let page = self.host.space.output(&format!("curl --silent --max-time 20 http://{web}/"));
            shown = String::from_utf8_lossy(&page.stdout).into_owned();
            say(&shown);
            shown.contains("balance 100 apples") && shown.contains("the api says: visit ")
        });
        assert!(!shown.contains("unknown") && shown.contains("to web: nothing, as it should"), "{shown}");
        script("down");
        self.wait_until_members(&[]);
    }

    fn without_an_agent_podman_says_what_is_wrong(&self) {
        self.host.kill();
        let line = self.podman.line_of_container("early", "--network shop");
        let refused = self.podman.attempt(&line);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("the agent is not running"), "{said}");
        self.podman.run("rm --force --time 0 early");
        self.host.start();
        self.podman.run(&line);
        self.assert_reaches("early", &self.member("backend").member.address.to_string());
    }

    fn what_is_removed_leaves_nothing(&self) {
        self.podman.run("rm --force --time 0 early backend eager_web");
        self.wait_until_members(&[]);
        self.host.wait_until_settled();
    }

    fn wait_until_members(&self, expected: &[&str]) {
        let names = || -> Vec<String> {
            let text = |member: &MemberView| {
                let app = member.member.app_name.as_ref().map_or_else(String::new, ToString::to_string);
                format!("{} {}.{}.{app}", member.network_name, member.member.number, member.member.kind)
            };
            let members = self.host.members().expect("the members");
            let mut names: Vec<String> =
                members.iter().filter(|member| member.state == MemberState::Ready).map(text).collect();
            names.sort();
            names
        };
        wait_until(format!("the members are {expected:?}: {:?}", names()), || names() == expected);
    }

    fn member(&self, app: &str) -> MemberView {
        let is_it = |member: &MemberView| member.member.app_name.as_ref().is_some_and(|name| name.as_str() == app);
        let found = self.host.members().expect("the members").into_iter().find(is_it);
        found.unwrap_or_else(|| panic!("no member is of {app}"))
    }

    fn inside(&self, container: &str, line: &str) -> String {
        self.podman.run(&format!("exec {container} {line}"))
    }

    fn assert_refused(&self, line: &str, sentence: &str) {
        let output = self.podman.attempt(line);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(sentence), "{line}: {said}");
    }

    #[track_caller]
    fn assert_reaches(&self, container: &str, address: &str) {
        let ping = format!("exec {container} busybox ping -q -c 1 -W 1 {address}");
        wait_until(format!("{container} reaches {address}"), || self.podman.attempt(&ping).status.success());
    }
}
