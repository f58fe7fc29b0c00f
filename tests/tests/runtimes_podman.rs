//! Containers that Podman attaches, by the CNI plugin: nobody but Podman is asked for anything.
//!
//! ```text
//!  host: agent, podman                    container `eager_web`         container `backend`
//! ┌────────────────────────────────┐     ┌──────────────────┐          ┌──────────────────┐
//! │ podman ─▶ privnet-cni ─▶ agent │     │ eth0 10.90.0.2   │~~~~~~~~~~│ eth0 10.90.0.3   │
//! └────────────────────────────────┘     └──────────────────┘          └──────────────────┘
//! ```
#![forbid(unsafe_code)]

use privnet::agent::views::MemberView;
use privnet::model::MemberState;
use privnet_tests::lab::cni::PLUGIN;
use privnet_tests::lab::{Host, Lab, Options, Podman, podman, skip, wait_until, which};
use serde_json::json;

struct Scene {
    host: Host,
    podman: Podman,
}

#[test]
fn podman_alone_makes_and_ends_memberships() {
    if let Some(missing) = podman::missing() {
        return skip(missing);
    }
    let lab = Lab::new("podman_alone_makes_and_ends_memberships");
    let scene = Scene::set(&lab);
    scene.two_containers_reach_each_other_by_address_and_by_name();
    scene.a_container_is_in_two_networks_by_the_names_that_were_asked_for();
    scene.a_container_that_restarts_is_who_it_was();
    scene.without_an_agent_podman_says_what_is_wrong();
    scene.what_is_removed_leaves_nothing();
    drop(scene);
    lab.finish();
}

impl Scene {
    fn set(lab: &Lab) -> Self {
        let host = lab.host(&Options::ebpf());
        let podman = Podman::beside(&host);
        podman.import(&[(which("busybox"), "/bin/busybox")]);
        for name in ["shop", "bank"] {
            let plugin = json!({ "type": PLUGIN, "privnet": { "socket": host.paths().socket } });
            podman.put_network(&json!({ "cniVersion": "1.0.0", "name": name, "plugins": [plugin] }));
        }
        Self { host, podman }
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

    #[track_caller]
    fn assert_reaches(&self, container: &str, address: &str) {
        let ping = format!("exec {container} busybox ping -q -c 1 -W 1 {address}");
        wait_until(format!("{container} reaches {address}"), || self.podman.attempt(&ping).status.success());
    }
}
