//! Containers that Docker itself attaches, by the plugin: nobody but Docker is asked for anything.
//!
//! ```text
//!  host: agent with its plugin, dockerd          container `web`               container `backend`
//! ┌─────────────────────────────────────┐       ┌──────────────────┐          ┌──────────────────┐
//! │ plugin.sock ◀── dockerd             │       │ wg0  10.90.0.2   │~~~~~~~~~~│ wg0  10.90.0.3   │
//! │ handover netns ─▶ pn… ─▶ container  │       │ 127.0.0.11, .82  │          │ 127.0.0.11, .82  │
//! └─────────────────────────────────────┘       └──────────────────┘          └──────────────────┘
//! ```
#![forbid(unsafe_code)]

mod docker_lab;

use docker_lab::Scene;
use privnet_tests::lab::docker::IMAGE;
use privnet_tests::lab::{Lab, has_program, skip, wait_until};

#[test]
fn docker_alone_makes_and_ends_memberships() {
    const TEST: &str = "docker_alone_makes_and_ends_memberships";
    if ["dockerd", "docker", "containerd", "runc"].iter().any(|program| !has_program(program)) {
        return skip("Docker");
    }
    let lab = Lab::new(TEST);
    let mut scene = Scene::set(&lab);
    scene.two_containers_reach_each_other_by_address_and_by_name();
    scene.names_are_found_by_the_first_instruction();
    scene.nothing_else_of_host_and_container_is_touched();
    scene.networks_are_connected_and_disconnected();
    scene.a_network_of_dockers_beside_goes_on_as_before();
    scene.containers_that_start_at_once_all_arrive();
    scene.twenty_that_run_at_once_are_all_answered();
    scene.a_container_that_restarts_is_who_it_was();
    scene.an_agent_that_was_killed_goes_on();
    scene.an_agent_that_is_stopped_keeps_dockers_calls_waiting_and_nothing_else();
    scene.a_container_that_docker_gave_up_is_named_with_what_starts_it();
    scene.a_dockerd_that_is_ended_starts_again_what_it_restarts();
    scene.containers_talk_on_while_dockerd_is_killed_or_ended();
    scene.a_dockerd_that_was_killed_starts_again_what_it_restarts();
    scene.what_is_removed_leaves_nothing();
    drop(scene);
    lab.finish();
}

impl Scene {
    fn two_containers_reach_each_other_by_address_and_by_name(&self) {
        self.docker.start_container("eager_web", "--network shop");
        let labels = "--label privnet.app=demo --label privnet.type=backend --label privnet.port.http=8000";
        self.docker.start_container("backend", &format!("--network shop {labels}"));
        self.wait_until_members(&["shop 1.backend.demo", "shop 1.web.eager-web"]);
        let backend = self.member("demo");
        let shown = self.docker.inspect("backend", ".NetworkSettings.Networks.shop.IPAddress");
        assert_eq!(shown, backend.member.address.to_string(), "Docker shows its address");
        self.assert_reaches("eager_web", &shown);
        let web = self.member("eager-web").member.address.to_string();
        self.assert_reaches("backend", &web);
        // Docker's own names, ours, and the full one.
        for name in ["backend", "backend.demo", &backend.member.hostname] {
            self.wait_until_found("eager_web", name, &shown);
        }
        self.wait_until_found("backend", "eager_web", &web);
        self.wait_until_found("backend", "web.eager-web", &web);
        let sent = self.host.cli().text(&["metrics"]);
        assert!(sent.contains("forwarded"), "the packets are counted: {sent}");
    }

    /// From Docker 28 on; before, the container's namespace comes with its process.
    fn names_are_found_by_the_first_instruction(&self) {
        if !self.makes_the_namespace_first() {
            return;
        }
        let backend = self.member("demo").member.address.to_string();
        let ask = |networks: &str, name: &str| {
            self.docker.run(&format!("run --rm {networks} {IMAGE} getent ahostsv4 {name}"))
        };
        for _ in 0..20 {
            assert!(ask("--network shop", "backend.demo").starts_with(&format!("{backend} ")));
        }
        // Docker's own names, of a network beside.
        self.docker.run("network create --subnet 172.30.7.0/24 beside");
        self.docker.start_container("own", "--network beside");
        let own = self.docker.inspect("own", ".NetworkSettings.Networks.beside.IPAddress");
        for (name, address) in [("own", &own), ("backend", &backend), ("backend.demo", &backend)] {
            let found = ask("--network shop --network beside", name);
            assert!(found.starts_with(&format!("{address} ")), "{name}: {found}");
        }
        self.docker.run("rm --force own");
        self.docker.run("network rm beside");
        self.wait_until_members(&["shop 1.backend.demo", "shop 1.web.eager-web"]);
    }

    fn nothing_else_of_host_and_container_is_touched(&self) {
        let routes = self.inside("eager_web", "busybox ip route");
        assert!(!routes.contains("default"), "{routes}");
        let links = self.host.space.links();
        assert!(!links.iter().any(|link| link.starts_with("docker_gw") || link.starts_with("pn")), "{links:?}");
        let links = self.inside("eager_web", "busybox ip -o link");
        assert_eq!(links.lines().count(), 2, "lo and wg0: {links}");
        assert!(links.contains(" wg0: ") && !links.contains(" eth0"), "{links}");
        // Where its datagrams leave, the container has nothing to say.
        let sockets = self.inside("eager_web", "busybox netstat -lun");
        assert!(!sockets.contains(":51820 "), "{sockets}");
    }

    fn networks_are_connected_and_disconnected(&self) {
        self.docker.run("network connect bank eager_web");
        self.docker.run("network connect bank backend");
        let both = ["bank 1.backend.demo", "bank 1.web.eager-web", "shop 1.backend.demo", "shop 1.web.eager-web"];
        self.wait_until_members(&both);
        let in_bank = self.docker.inspect("backend", ".NetworkSettings.Networks.bank.IPAddress");
        self.assert_reaches("eager_web", &in_bank);
        let links = self.inside("eager_web", "busybox ip -o link");
        assert!(links.contains(" wg0: ") && links.contains(" wg1: "), "{links}");
        self.docker.run("network disconnect bank eager_web");
        self.docker.run("network disconnect bank backend");
        self.wait_until_members(&both[2..]);
        let links = self.inside("eager_web", "busybox ip -o link");
        assert!(links.contains(" wg0: ") && !links.contains(" wg1: "), "{links}");
        let routes = self.host.space.output(&format!("nsenter -t {} -n ip route", self.pid("eager_web")));
        let routes = String::from_utf8_lossy(&routes.stdout).into_owned();
        let of_bank = in_bank.rsplit_once('.').expect("an address").0;
        assert!(routes.contains("unreachable") && !routes.contains(of_bank), "nothing of bank's is left: {routes}");
        let of_shop = self.member("demo").member.address.to_string();
        self.assert_reaches("eager_web", &of_shop);
        self.wait_until_found("eager_web", "backend.demo", &of_shop);
    }

    fn a_network_of_dockers_beside_goes_on_as_before(&self) {
        self.docker.run("network create --subnet 172.30.5.0/24 back");
        self.docker.start_container("api", "--network back");
        let before = self.inside("api", "busybox ip route");
        assert!(before.contains("default via 172.30.5.1"), "{before}");
        self.docker.run("network connect shop api");
        let of_shop = self.member("demo").member.address.to_string();
        self.assert_reaches("api", &of_shop);
        self.assert_reaches("api", "172.30.5.1");
        let after = self.inside("api", "busybox ip route");
        assert!(before.lines().all(|route| after.contains(route)), "{before}\n{after}");
        self.docker.run("network disconnect shop api");
        // What it had is removed behind Docker's answer.
        wait_until("its routes are as before", || self.inside("api", "busybox ip route") == before);
        self.docker.run("rm --force api");
    }

    /// As Compose starts them: while one device is on its way, others are made in the same networks.
    fn containers_that_start_at_once_all_arrive(&self) {
        let names: Vec<String> = (1..=4).map(|number| format!("at-once-{number}")).collect();
        for name in &names {
            self.docker.run(&format!("create {}", self.docker.container(name, "--network shop")));
            self.docker.run(&format!("network connect bank {name}"));
        }
        let starting: Vec<_> = names.iter().map(|name| self.docker.begin(&format!("start {name}"))).collect();
        for command in starting {
            let output = command.wait_with_output().expect("it ends");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let of = |network: &str| names.iter().map(|name| format!("{network} 1.web.{name}")).collect::<Vec<_>>();
        let others = ["shop 1.backend.demo".to_owned(), "shop 1.web.eager-web".to_owned()];
        let mut all = [of("bank"), of("shop"), others.to_vec()].concat();
        all.sort();
        self.wait_until_members(&all.iter().map(String::as_str).collect::<Vec<_>>());
        let first = self.docker.inspect(&names[0], ".NetworkSettings.Networks.bank.IPAddress");
        self.assert_reaches(&names[3], &first);
        self.docker.run(&format!("rm --force {}", names.join(" ")));
        self.wait_until_members(&["shop 1.backend.demo", "shop 1.web.eager-web"]);
    }

    /// Each call has its answer in time, or is refused.
    fn twenty_that_run_at_once_are_all_answered(&self) {
        let log = || std::fs::read_to_string(&self.host.paths().log).expect("the agent's log");
        let before = log().len();
        let running: Vec<_> =
            (0..20).map(|_| self.docker.begin(&format!("run --rm --network shop {IMAGE} busybox true"))).collect();
        for command in running {
            let output = command.wait_with_output().expect("it ends");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        self.wait_until_members(&["shop 1.backend.demo", "shop 1.web.eager-web"]);
        let said = log().split_off(before);
        let calls: Vec<&str> =
            said.lines().filter_map(|line| Some(line.split_once("Docker's NetworkDriver.")?.1)).collect();
        let refused: Vec<_> = calls.iter().filter(|call| call.contains("is refused")).collect();
        assert!(refused.is_empty(), "{refused:?}");
        assert_eq!(calls.iter().filter(|call| call.starts_with("Join is answered after")).count(), 20, "{calls:?}");
    }

    fn what_is_removed_leaves_nothing(&self) {
        self.docker.run("rm --force eager_web db backend");
        self.wait_until_members(&[]);
        self.host.wait_until_settled();
        let prefix = &self.host.paths().prefix;
        let ours = || {
            let pins = std::fs::read_dir("/run/netns").expect("listed").filter_map(Result::ok);
            let names = pins.map(|pin| pin.file_name().to_string_lossy().into_owned());
            names.filter(|name| name.starts_with(&format!("{prefix}hand-"))).collect::<Vec<_>>()
        };
        wait_until("no namespace of a handover is left", || ours().is_empty());
        let links = self.host.space.links();
        assert!(!links.iter().any(|link| link.starts_with("pn")), "{links:?}");
        self.docker.run("network rm shop bank back");
    }
}
