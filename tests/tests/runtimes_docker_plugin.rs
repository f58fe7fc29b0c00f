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

use std::path::Path;
use std::time::Duration;

use privnet::agent::views::{Check, CheckStatus, MemberView};
use privnet::model::MemberState;
use privnet_tests::lab::docker::IMAGE;
use privnet_tests::lab::probe::{Server, Stream};
use privnet_tests::lab::{Docker, Host, Lab, Options, Space, has_program, say, skip, wait_until};
use rustix::process::Signal;

/// Of the host's resolver, which does not answer.
const RESOLVER: &str = "192.168.77.1";

struct Scene {
    host: Host,
    docker: Docker,
}

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
    scene.a_container_that_restarts_is_who_it_was();
    scene.an_agent_that_was_killed_goes_on();
    scene.a_container_that_docker_gave_up_is_named_with_what_starts_it();
    scene.containers_talk_on_while_dockerd_is_killed();
    scene.dockerd_starts_again_what_it_restarts();
    scene.what_is_removed_leaves_nothing();
    drop(scene);
    lab.finish();
}

impl Scene {
    fn set(lab: &Lab) -> Self {
        let host = lab.host(&Options::ebpf().with_docker());
        let docker = Docker::beside(&host, RESOLVER);
        docker.import(&Docker::tools());
        docker.run("network create -d privnet --ipam-driver null -o network=shop shop");
        // Without an option it bears Docker's name.
        docker.run("network create -d privnet --ipam-driver null bank");
        Self { host, docker }
    }

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
        let version = self.docker.run("version --format {{.Server.Version}}");
        let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        if major.is_none_or(|major| major < 28) {
            return say(&format!("Docker {version} makes the namespace with the process"));
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
        assert_eq!(self.inside("api", "busybox ip route"), before);
        self.docker.run("rm --force api");
    }

    /// As Compose starts them: while one device is on its way, others are made in the same networks.
    fn containers_that_start_at_once_all_arrive(&self) {
        let names: Vec<String> = (1..=8).map(|number| format!("at-once-{number}")).collect();
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
        self.assert_reaches(&names[7], &first);
        self.docker.run(&format!("rm --force {}", names.join(" ")));
        self.wait_until_members(&["shop 1.backend.demo", "shop 1.web.eager-web"]);
    }

    fn a_container_that_restarts_is_who_it_was(&self) {
        let options = "driver-opt=privnet.app=fixed,driver-opt=privnet.type=db,driver-opt=privnet.address=";
        let subnet = self.member("demo").member.address.octets();
        let address = format!("{}.{}.{}.77", subnet[0], subnet[1], subnet[2]);
        self.docker.start_container("db", &format!("--network name=shop,{options}{address}"));
        let all = ["shop 1.backend.demo", "shop 1.db.fixed", "shop 1.web.eager-web"];
        self.wait_until_members(&all);
        self.docker.run("restart -t 0 db eager_web");
        self.wait_until_members(&all);
        assert_eq!(self.member("fixed").member.address.to_string(), address);
        self.assert_reaches("eager_web", &address);
        self.wait_until_found("eager_web", "db.fixed", &address);
        self.docker.run("kill db");
        self.wait_until_members(&["shop 1.backend.demo", "shop 1.web.eager-web"]);
        self.docker.run("start db");
        self.wait_until_members(&all);
        self.assert_reaches("eager_web", &address);
    }

    fn an_agent_that_was_killed_goes_on(&self) {
        let address = self.member("fixed").member.address.to_string();
        self.host.kill();
        self.assert_reaches("eager_web", &address);
        self.host.start();
        self.host.wait_until_settled();
        self.assert_reaches("eager_web", &address);
        self.docker.run("network connect bank db");
        self.docker.run("network disconnect bank db");
        self.docker.run("stop -t 0 db");
        self.wait_until_members(&["shop 1.backend.demo", "shop 1.web.eager-web"]);
        // What leaves while no agent runs is noticed by the next one.
        self.host.kill();
        let pid = self.pid("backend");
        self.host.space.run(&format!("kill -9 {pid}"));
        self.host.start();
        self.wait_until_members(&["shop 1.web.eager-web"]);
    }

    fn a_container_that_docker_gave_up_is_named_with_what_starts_it(&self) {
        let checks = || {
            let plugin = self.host.paths().plugin.display().to_string();
            let cli = self.host.cli().with("DOCKER_HOST", self.docker.host());
            let output = cli.output(&["doctor", "--docker-socket", &plugin, "-o", "json"]);
            let checks: Vec<Check> = serde_json::from_slice(&output.stdout).expect("checks");
            let of_docker: Vec<Check> = checks.into_iter().filter(|check| check.check.starts_with("docker")).collect();
            say(&format!("{of_docker:?}"));
            let [plugin, containers] = <[Check; 2]>::try_from(of_docker).expect("two checks");
            (plugin, containers)
        };
        self.docker.start_container("always", "--restart always --network shop");
        let (plugin, containers) = checks();
        assert_eq!((plugin.status, containers.status), (CheckStatus::Ok, CheckStatus::Ok));
        self.docker.run("stop -t 0 always");
        assert_eq!(checks().1.status, CheckStatus::Ok, "the twin: a user has stopped it");
        self.host.kill();
        let refused = self.docker.attempt("start always");
        assert!(!refused.status.success(), "without an agent it does not start");
        let (plugin, containers) = checks();
        assert!(plugin.status == CheckStatus::Fail && plugin.remedy.contains("privnet-docker.socket"), "{plugin:?}");
        assert_eq!((containers.status, &*containers.remedy), (CheckStatus::Fail, "docker start always"));
        self.host.start();
        self.docker.run(containers.remedy.trim_start_matches("docker "));
        let (plugin, containers) = checks();
        assert_eq!((plugin.status, containers.status), (CheckStatus::Ok, CheckStatus::Ok));
        self.docker.run("rm --force always");
    }

    /// With `live-restore`; before 29.7 dockerd crashes of plugins that move the devices themselves.
    fn containers_talk_on_while_dockerd_is_killed(&mut self) {
        let labels = "--label privnet.app=demo --label privnet.type=backend";
        self.docker.run("rm --force backend");
        self.docker.start_container("backend", &format!("--network shop {labels}"));
        self.docker.run("network connect bank backend");
        let all = ["bank 1.backend.demo", "shop 1.backend.demo", "shop 1.web.eager-web"];
        self.wait_until_members(&all);
        self.docker.end_daemon(Signal::TERM);
        self.docker.start_daemon("--live-restore");
        // Without it the containers ended with dockerd.
        self.docker.run("start eager_web backend");
        self.wait_until_members(&all);
        let address = self.member("demo").member.address;
        let (web, backend) = (self.space("eager_web"), self.space("backend"));
        self.wait_until_found_without_dockerd();
        let echo = Server::echo(&backend, 7);
        let stream = Stream::start(&web, (address, 7), Duration::from_millis(10));
        stream.flows();
        self.docker.end_daemon(Signal::KILL);
        stream.flows();
        self.docker.start_daemon("--live-restore");
        stream.flows();
        let daemon = self.docker.daemon();
        self.docker.run("network disconnect bank backend");
        self.docker.run("network connect bank backend");
        self.wait_until_members(&all);
        stream.flows();
        stream.finish_whole();
        drop(echo);
        web.remove();
        backend.remove();
        self.docker.run("stop -t 0 backend");
        self.wait_until_members(&all[2..]);
        self.docker.run("start backend");
        self.wait_until_members(&all);
        assert_eq!(self.docker.daemon(), daemon);
        self.docker.run("version");
        let address = self.member("demo").member.address.to_string();
        self.assert_reaches("eager_web", &address);
    }

    fn dockerd_starts_again_what_it_restarts(&mut self) {
        self.docker.start_container("always", "--restart always --network shop --label privnet.app=always");
        let members = ["bank 1.backend.demo", "shop 1.backend.demo", "shop 1.web.always", "shop 1.web.eager-web"];
        self.wait_until_members(&members);
        self.docker.end_daemon(Signal::KILL);
        // Without live-restore: it ends what runs, and starts what it restarts.
        self.docker.start_daemon("");
        self.wait_until_members(&["shop 1.web.always"]);
        let address = self.docker.inspect("always", ".NetworkSettings.Networks.shop.IPAddress");
        self.docker.run("start eager_web backend");
        self.wait_until_members(&members);
        self.assert_reaches("eager_web", &address);
        self.wait_until_found("eager_web", "always", &address);
        self.docker.run("rm --force always");
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

    fn member(&self, app: &str) -> MemberView {
        let is_it = |member: &MemberView| {
            member.member.app_name.as_ref().is_some_and(|name| name.as_str() == app)
                && member.network_name.as_str() == "shop"
        };
        let members = self.host.members().expect("the members");
        members.into_iter().find(is_it).unwrap_or_else(|| panic!("no member of {app}"))
    }

    /// Waits until these are all members, and ready: their networks and names.
    fn wait_until_members(&self, expected: &[&str]) {
        let mut seen = Vec::new();
        wait_until(format!("the members are {expected:?}"), || {
            let members = self.host.members().expect("the members");
            let text = |member: &MemberView| {
                let name = &member.member;
                let app = name.app_name.as_ref().map_or_else(|| name.app.to_string(), ToString::to_string);
                format!("{} {}.{}.{app}", member.network_name, name.number, name.kind)
            };
            let is_ready = members.iter().all(|member| member.state == MemberState::Ready && member.names.len() == 1);
            seen = members.iter().map(text).collect::<Vec<_>>();
            seen.sort();
            is_ready && seen == expected
        });
    }

    fn assert_reaches(&self, container: &str, address: &str) {
        let ping = format!("exec {container} busybox ping -q -c 1 -W 1 {address}");
        wait_until(format!("{container} reaches {address}"), || self.docker.attempt(&ping).status.success());
    }

    fn wait_until_found(&self, container: &str, name: &str, address: &str) {
        let ask = format!("exec {container} getent ahostsv4 {name}");
        wait_until(format!("{container} finds {name}"), || {
            String::from_utf8_lossy(&self.docker.attempt(&ask).stdout).starts_with(&format!("{address} "))
        });
    }

    fn inside(&self, container: &str, line: &str) -> String {
        self.docker.run(&format!("exec {container} {line}"))
    }

    /// Waits until the agent looks for no container through the mounts of a dockerd that may end.
    fn wait_until_found_without_dockerd(&self) {
        let members = self.host.paths().state.join("members");
        let through_dockerd = |path: &Path| {
            let text = std::fs::read(path).unwrap_or_default();
            let record: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
            record["netns_path"].as_str().is_some_and(|path| !path.ends_with("/ns/net"))
        };
        wait_until("each container is found at its own process", || {
            let files = std::fs::read_dir(&members).expect("listed").filter_map(Result::ok);
            !files.map(|file| file.path()).any(|path| through_dockerd(&path))
        });
    }

    /// The namespace of a container, by a name of the lab's that is to be removed before the container ends.
    fn space(&self, container: &str) -> Space {
        let pin = self.docker.pin(container);
        self.host.space.run(&format!("ip netns attach {pin} {}", self.pid(container)));
        Space::of_pin(container, &pin)
    }

    fn pid(&self, container: &str) -> String {
        self.docker.inspect(container, ".State.Pid")
    }
}
