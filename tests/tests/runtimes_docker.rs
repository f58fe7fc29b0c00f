//! Containers that a real Docker runs: what it gave them they keep, what is ours comes and goes with the membership.
//!
//! ```text
//!  host: agent, dockerd, a resolver of others         a container on Docker's network `back`
//! ┌───────────────────────────────────────┐          ┌─────────────────────────────────────────────────┐
//! │ 192.168.77.1:53 ◀── dockerd ◀─────────┼──────────┼─ 127.0.0.11:53 ◀─ privnet dns ◀─ 127.0.0.82:53  │
//! │ br-… (back)                           ╪══ veth ══╪═ eth0         wg0 (shop), wg1 (bank)            │
//! └───────────────────────────────────────┘          └─────────────────────────────────────────────────┘
//! ```
#![forbid(unsafe_code)]

mod names_lab;

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;

use names_lab::upstream::{ANSWER, Upstream};
use privnet::agent::views::{Attached, MemberView};
use privnet::topology::ownership;
use privnet_tests::lab::cli::Cli;
use privnet_tests::lab::container::APP;
use privnet_tests::lab::{Docker, Host, Joined, Lab, Options, has_program, skip, skip_part, wait_until};

/// What the host's resolver is at.
const RESOLVER: &str = "192.168.77.1";
/// How programs of the image ask for a name, which is the last word.
const CLIENTS: [&str; 3] = ["getent ahostsv4", "busybox nslookup -type=a", MUSL];
const MUSL: &str = "resolve";

/// One Docker with two networks of its own, and a host with two of ours.
struct Scene {
    host: Host,
    docker: Docker,
    cli: Cli,
    /// Members of the networks of these names, which Docker knows nothing of.
    shop: Joined,
    bank: Joined,
    resolver: Upstream,
    clients: Vec<&'static str>,
}

#[test]
fn what_docker_gave_a_container_stays_with_it_and_names_of_ours_come_and_go() {
    const TEST: &str = "what_docker_gave_a_container_stays_with_it_and_names_of_ours_come_and_go";
    if ["dockerd", "docker", "containerd", "runc"].iter().any(|program| !has_program(program)) {
        return skip("Docker");
    }
    let lab = Lab::new(TEST);
    let scene = Scene::set(&lab);
    scene.names_of_both_kinds_are_found();
    scene.a_second_network_comes_and_goes_and_docker_has_its_file_back();
    scene.a_container_that_restarts_is_a_member_no_more();
    scene.a_container_that_dies_leaves_its_file_and_nothing_of_ours();
    scene.a_container_that_is_removed_takes_its_file_along();
    scene.a_container_that_was_told_of_our_server_needs_no_file();
    scene.a_container_without_a_way_out_finds_names_of_ours_alone();
    drop(scene);
    lab.finish();
}

impl Scene {
    fn set(lab: &Lab) -> Self {
        let host = lab.host(&Options::ebpf());
        let resolver = Upstream::serving(host.space.inside(|| UdpSocket::bind((RESOLVER, 53)).expect("bound")), true);
        let docker = Docker::start(&host.space, RESOLVER);
        let mut programs = Docker::tools();
        let mut clients = CLIENTS.to_vec();
        match musl_client(lab.directory()) {
            Some(program) => programs.push((program, "/bin/resolve")),
            None => clients.retain(|client| *client != MUSL),
        }
        docker.import(&programs);
        docker.run("network create --subnet 172.30.5.0/24 back");
        docker.run("network create --subnet 172.30.6.0/24 front");
        docker.start_container("api", "--network back");
        docker.start_container("db", "--network back");
        let (shop, bank) = (host.network("shop", "10.90.0.0/24"), host.network("bank", "10.91.0.0/24"));
        let (shop, bank) = (lab.member(&host, &shop, "web-1"), lab.member(&host, &bank, "till-1"));
        let cli = host.cli().with("DOCKER_HOST", docker.host());
        Self { host, docker, cli, shop, bank, resolver, clients }
    }

    fn names_of_both_kinds_are_found(&self) {
        let before = self.file("api");
        assert!(before.contains("nameserver 127.0.0.11"), "{before}");
        let api = self.attach("shop", "api", &["--container", "api", "--resolv-conf", &self.path("api")]);
        self.assert_is_ours("api", &[&api]);
        let pid = self.docker.inspect("db", ".State.Pid");
        let db = self.attach("shop", "store", &["--netns", &format!("/proc/{pid}/ns/net")]);
        assert_eq!(self.inside("db", "busybox cat /etc/resolv.conf"), before.trim_end(), "its attach named no file");
        self.resolver.forget();
        let full = format!("1.web.{APP}.{}.private-network.internal", self.shop.attached.network);
        let of_docker = self.docker.inspect("db", ".NetworkSettings.Networks.back.IPAddress");
        for (name, address) in [
            (format!("web.{APP}"), Some(self.shop.address())),
            (full, Some(self.shop.address())),
            (format!("store.{APP}"), Some(db.member.address)),
            // A type of the asker's own app; Docker knows the same container by its own name.
            ("store".to_owned(), Some(db.member.address)),
            (format!("nosuch.{APP}"), None),
            (format!("till.{APP}"), None),
            ("db".to_owned(), Some(of_docker.parse().expect("an address"))),
            ("example.com".to_owned(), Some(ANSWER.parse().expect("an address"))),
        ] {
            self.assert_finds("api", &name, address);
        }
        let asked: BTreeSet<String> = self.resolver.asked().into_iter().collect();
        assert_eq!(asked, ["example.com".to_owned()].into(), "the host's resolver hears of no other name");
        for address in [self.shop.address().to_string(), db.member.address.to_string(), of_docker] {
            self.assert_reaches("api", &address);
        }
        self.detach("shop", "store");
    }

    fn a_second_network_comes_and_goes_and_docker_has_its_file_back(&self) {
        let shop = self.attach("shop", "api", &["--container", "api"]);
        let bank = self.attach("bank", "api", &["--container", "api"]);
        self.assert_is_ours("api", &[&shop, &bank]);
        self.assert_finds("api", &format!("till.{APP}"), Some(self.bank.address()));
        self.assert_reaches("api", &self.bank.address().to_string());
        // What Docker does meanwhile leaves the file alone.
        self.docker.run("network connect front api");
        self.assert_is_ours("api", &[&shop, &bank]);
        self.docker.run("network disconnect front api");
        self.detach("bank", "api");
        self.assert_is_ours("api", &[&shop]);
        self.assert_finds("api", &format!("till.{APP}"), None);
        self.assert_finds("api", &format!("web.{APP}"), Some(self.shop.address()));
        self.detach("shop", "api");
        self.assert_is_dockers("api");
    }

    fn a_container_that_restarts_is_a_member_no_more(&self) {
        let attach = || self.attach("shop", "api", &["--container", "api", "--resolv-conf", &self.path("api")]);
        let before = attach();
        self.docker.run("restart -t 0 api");
        self.wait_until_no_member("api");
        self.assert_is_dockers("api");
        let of_others = Some(ANSWER.parse().expect("an address"));
        self.assert_finds("api", &format!("web.{APP}"), of_others);
        // Attached again, it is what it was.
        let after = attach();
        assert_eq!(after.member.hostname, before.member.hostname);
        self.assert_is_ours("api", &[&after]);
        self.assert_finds("api", &format!("web.{APP}"), Some(self.shop.address()));
    }

    fn a_container_that_dies_leaves_its_file_and_nothing_of_ours(&self) {
        let pid = self.docker.inspect("api", ".State.Pid");
        // Goes with the container's namespace, when nothing holds that any more.
        self.host.space.run(&format!("ip link add witness type veth peer name witness0 netns {pid}"));
        let path = self.path("api");
        self.docker.run("kill api");
        self.wait_until_no_member("api");
        let prefix = &self.host.paths().prefix;
        let binding = format!("1.api.{APP}").parse().expect("a container");
        let binding =
            Path::new("/run/netns").join(ownership::binding_netns(prefix, ownership::binding_digest(&binding)));
        wait_until("its namespaces are gone", || self.host.space.link("witness").is_none() && !binding.exists());
        wait_until("the file is Docker's", || is_dockers(&fs::read_to_string(&path).expect("read")));
        self.host.wait_until_settled();
    }

    fn a_container_that_is_removed_takes_its_file_along(&self) {
        self.docker.run("start api");
        self.attach("shop", "api", &["--container", "api", "--resolv-conf", &self.path("api")]);
        let path = PathBuf::from(self.path("api"));
        self.docker.run("rm --force api");
        self.wait_until_no_member("api");
        let kept = self.host.paths().state.join("resolv-conf");
        wait_until("nothing is kept of the file", || fs::read_dir(&kept).expect("listed").count() == 0);
        assert!(!path.parent().expect("a directory").exists(), "privnet made nothing where Docker removed it");
        self.host.wait_until_settled();
    }

    fn a_container_that_was_told_of_our_server_needs_no_file(&self) {
        self.docker.start_container("told", "--network back --dns 127.0.0.82");
        self.attach("shop", "told", &["--container", "told"]);
        self.assert_is_dockers("told");
        self.assert_finds("told", &format!("web.{APP}"), Some(self.shop.address()));
        self.assert_finds("told", &format!("nosuch.{APP}"), None);
        self.detach("shop", "told");
    }

    fn a_container_without_a_way_out_finds_names_of_ours_alone(&self) {
        self.docker.start_container("alone", "--network none");
        let before = self.file("alone");
        assert!(before.contains(RESOLVER), "Docker names the host's resolver: {before}");
        self.attach("shop", "alone", &["--container", "alone", "--resolv-conf", &self.path("alone")]);
        self.resolver.forget();
        self.assert_finds("alone", &format!("web.{APP}"), Some(self.shop.address()));
        self.assert_finds("alone", "example.com", None);
        assert_eq!(self.resolver.asked(), [] as [String; 0], "it has no way to it, and gets none");
        self.detach("shop", "alone");
        assert_eq!(self.file("alone"), before);
    }

    fn attach(&self, network: &str, kind: &str, container: &[&str]) -> Attached {
        let member = ["attach", "--network", network, "--app", APP, "--type", kind];
        let attached: Attached = self.cli.json(&[&member, container].concat()).expect("attached");
        assert!(attached.ready && attached.problems.is_empty(), "{attached:?}");
        attached
    }

    fn detach(&self, network: &str, kind: &str) {
        let said = self.cli.text(&["detach", "--network", network, "--app", APP, "--type", kind]);
        assert_eq!(said.trim_end(), "detached");
    }

    fn wait_until_no_member(&self, kind: &str) {
        let is_it = |member: &MemberView| member.names.iter().any(|name| *name.name.kind.as_str() == *kind);
        wait_until(format!("no member is a {kind}"), || !self.host.members().expect("the members").iter().any(is_it));
    }

    /// Where Docker has the `resolv.conf` of a container.
    fn path(&self, container: &str) -> String {
        self.docker.inspect(container, ".ResolvConfPath")
    }

    fn file(&self, container: &str) -> String {
        fs::read_to_string(self.path(container)).expect("read")
    }

    /// Runs a command in a container.
    fn inside(&self, container: &str, line: &str) -> String {
        self.docker.run(&format!("exec {container} {line}"))
    }

    fn assert_is_ours(&self, container: &str, memberships: &[&Attached]) {
        let domains = memberships.iter().map(|member| format!(" {}.private-network.internal", member.network));
        let search = domains.collect::<String>();
        let ours = format!("# Written by privnet.\nnameserver 127.0.0.82\nsearch{search}\noptions ndots:5\n");
        assert_eq!(self.file(container), ours);
        assert_eq!(self.inside(container, "busybox cat /etc/resolv.conf"), ours.trim_end(), "what the container sees");
    }

    /// Docker's server answers in a container, as it says in its file, and ours does not.
    fn assert_is_dockers(&self, container: &str) {
        let file = self.file(container);
        assert!(is_dockers(&file), "{file}");
        assert_eq!(self.inside(container, "busybox cat /etc/resolv.conf"), file.trim_end(), "what the container sees");
        let db = self.docker.inspect("db", ".NetworkSettings.Networks.back.IPAddress");
        self.assert_finds(container, "db", Some(db.parse().expect("an address")));
    }

    /// What each client of a container finds for a name.
    fn assert_finds(&self, container: &str, name: &str, address: Option<Ipv4Addr>) {
        let expected: BTreeSet<Ipv4Addr> = address.into_iter().collect();
        let ask = |client: &&str| {
            // busybox nslookup looks for a name without a dot in the search list only.
            let dot = if client.starts_with("busybox") && !name.contains('.') { "." } else { "" };
            format!("echo '# {client}'; {client} {name}{dot}; ")
        };
        let text = self.docker.script(container, &self.clients.iter().map(ask).collect::<String>());
        let answers: Vec<&str> = text.split("# ").skip(1).collect();
        assert_eq!(answers.len(), self.clients.len(), "{text}");
        for answer in answers {
            let addresses = answer.split_whitespace().filter_map(|word| word.parse::<Ipv4Addr>().ok());
            let found: BTreeSet<Ipv4Addr> = addresses.filter(|address| !address.is_loopback()).collect();
            assert_eq!(found, expected, "{name}: {answer}");
        }
    }

    fn assert_reaches(&self, container: &str, address: &str) {
        let ping = format!("exec {container} busybox ping -q -c 1 -W 1 {address}");
        wait_until(format!("{container} reaches {address}"), || self.docker.attempt(&ping).status.success());
    }
}

fn is_dockers(file: &str) -> bool {
    file.contains("nameserver 127.0.0.11") && !file.contains("privnet")
}

/// A program that asks by musl; nothing when its compiler is not here.
fn musl_client(directory: &Path) -> Option<PathBuf> {
    if !has_program("musl-gcc") {
        skip_part("musl", "musl-gcc");
        return None;
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/names_lab/resolve.c");
    let program = directory.join(MUSL);
    let status = Command::new("musl-gcc").arg("-static").arg("-o").arg(&program).arg(source).status();
    assert!(status.expect("musl-gcc starts").success());
    Some(program)
}
