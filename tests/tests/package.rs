//! The package under a real systemd: installed, replaced by a newer and an older version while members talk, refused, removed
//! and purged.
//!
//! ```text
//!  a machine of its own (lab::systemd)
//! ┌────────────────────────────────────────────────────────────────┐
//! │ systemd ── privnet.socket ── privnet.service ── agent          │
//! │ dpkg ──▶ install, upgrade, downgrade, remove, purge            │
//! │ web ⇄ worker: namespaces that stand for containers, and a ping │
//! └────────────────────────────────────────────────────────────────┘
//! ```
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use privnet_tests::lab::systemd::PROGRAM;
use privnet_tests::lab::{Ground, Machine, binary, run, say, skip, wait_until};

/// How dpkg is called: no triggers of other packages, and no waiting for the disk.
const DPKG: &str = "dpkg --no-triggers --force-unsafe-io";

/// The package's life on one machine.
struct Scene {
    machine: Machine,
    version: String,
}

#[test]
fn members_talk_through_the_packages_life_and_a_purge_leaves_nothing() {
    if !Path::new(PROGRAM).exists() || !Path::new("/usr/bin/dpkg-deb").exists() {
        return skip("systemd and dpkg");
    }
    let ground = Ground::join();
    build(ground.directory());
    the_symbols_are_in_a_package_beside_it(ground.directory());
    let scene = Scene::set(ground.directory());
    scene.installed_it_runs_as_the_unit_says();
    scene.doctor_says_whether_docker_waits_for_the_plugins_socket();
    let ping = scene.members_that_talk();
    scene.an_agent_that_does_not_go_on_is_replaced();
    scene.a_newer_version_takes_over_and_no_request_is_refused();
    scene.an_older_version_takes_over_unless_it_cannot_read_what_is_there();
    scene.a_store_that_is_away_holds_up_no_start();
    scene.removed_it_leaves_the_members_alone_and_installed_again_it_adopts_them();
    ping.lost_nothing();
    scene.purged_it_says_how_many_members_end_and_leaves_nothing();
    scene.by_hand_it_ends_members_without_their_store_when_told_to();
    drop(scene);
    drop(ground);
}

/// Builds the package of the binaries under test.
fn build(into: &Path) {
    let folder = binary().parent().expect("a folder").to_owned();
    let xtask = std::env::var_os("PRIVNET_XTASK").map_or_else(|| folder.join("xtask"), PathBuf::from);
    let mut command = Command::new(xtask);
    command.args(["deb", "--of"]).arg(&folder).arg("--into").arg(into);
    let output = command.output().expect("xtask is built");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The package of this name.
fn package(folder: &Path, name: &str) -> PathBuf {
    let mut files = std::fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").path());
    let is_it = |path: &PathBuf| {
        let file = path.file_name().expect("a name").to_string_lossy();
        file.starts_with(&format!("{name}_")) && file.ends_with(".deb")
    };
    files.find(is_it).unwrap_or_else(|| panic!("no package {name}"))
}

/// They are of this binary, and a program finds them where the package puts them: below `.debug`, which stands for
/// `/usr/lib/debug` here.
fn the_symbols_are_in_a_package_beside_it(folder: &Path) {
    let [of_privnet, of_symbols] = ["privnet", "privnet-dbgsym"].map(|name| package(folder, name));
    let field = |package: &Path, field: &str| run(&format!("dpkg-deb --field {} {field}", package.display()));
    let needed = format!("privnet (= {})", field(&of_privnet, "Version").trim());
    assert_eq!(field(&of_symbols, "Depends").trim(), needed);
    let beside = folder.join("symbols");
    let take = |package: &Path, path: &str, into: &Path| {
        std::fs::create_dir_all(into).expect("a folder");
        let depth = path.matches('/').count();
        let (package, into) = (package.display(), into.display());
        let line = format!("dpkg-deb --fsys-tarfile {package} | tar -x -C {into} --strip-components={depth} {path}");
        assert!(Command::new("sh").args(["-ec", &line]).status().expect("sh starts").success(), "{line}");
    };
    take(&of_privnet, "./usr/bin/privnet", &beside);
    let binary = beside.join("privnet");
    let table = run(&format!("nm --defined-only {}", self::binary().display()));
    let main = table.lines().find_map(|line| line.strip_suffix(" T main")).expect("the symbol");
    let function = || run(&format!("addr2line --functions --exe={} {main}", binary.display()));
    assert!(function().starts_with("??"), "the twin: the binary itself has none");
    take(&of_symbols, "./usr/lib/debug/usr/bin/privnet.debug", &beside.join(".debug"));
    assert!(function().starts_with("main"), "{}", function());
    std::fs::remove_dir_all(beside).expect("removed");
}

impl Scene {
    fn set(folder: &Path) -> Self {
        let machine = Machine::boot();
        std::fs::copy(package(folder, "privnet"), machine.path("/tmp/first.deb")).expect("copied");
        let version = machine.run("dpkg-deb --field /tmp/first.deb Version");
        Self { machine, version }
    }

    fn installed_it_runs_as_the_unit_says(&self) {
        let m = &self.machine;
        m.run(&format!("{DPKG} --install /tmp/first.deb"));
        for unit in ["privnet.service", "privnet.socket", "privnet-docker.socket"] {
            assert_eq!(m.run(&format!("systemctl is-active {unit} && systemctl is-enabled {unit}")), "active\nenabled");
        }
        m.run("systemd-analyze verify privnet.service privnet.socket privnet-docker.socket");
        assert_eq!(m.run("stat --format '%A %U %G' /run/privnet/privnet.sock"), "srw-rw---- root privnet");
        m.run("privnet status && privnet doctor");
        let plugin = "curl --silent --show-error --unix-socket /run/docker/plugins/privnet.sock --data ''";
        assert!(m.run(&format!("{plugin} http://d/Plugin.Activate")).contains("NetworkDriver"));
        assert_eq!(m.run(&format!("readlink /proc/{}/ns/mnt", self.agent())), m.run("readlink /proc/1/ns/mnt"));
        m.run("runuser -u nobody -g privnet -- privnet network create shop --subnet 10.90.0.0/24");
        assert!(!m.attempt("runuser -u nobody -- privnet status").status.success(), "the twin, without the group");
        m.run(
            "zcat /usr/share/man/man1/privnet-agent.1.gz | grep --quiet etcd && bash -n /usr/share/bash-completion/completions/privnet",
        );
        assert!(m.run("echo '{}' | CNI_COMMAND=VERSION /usr/lib/cni/privnet-cni").contains("supportedVersions"));
        assert_eq!(m.run("dpkg --verify privnet"), "");
        assert!(self.refuses("privnet purge --yes").contains("another agent"), "while one runs");
        self.with_directive("PrivateTmp=yes", || {
            m.run("systemctl restart privnet");
            let checks = m.attempt("privnet doctor");
            let said = String::from_utf8_lossy(&checks.stdout).into_owned();
            assert!(!checks.status.success() && said.contains("a mount namespace of its own"), "{said}");
        });
        m.run("systemctl stop privnet.service && privnet doctor");
        // dockerd's first call starts it, as a person's does: the sockets are there without it.
        m.run("systemctl stop privnet.service && systemctl is-active privnet.socket privnet-docker.socket");
        assert!(!m.attempt("systemctl is-active privnet.service").status.success(), "it stays away until it is called");
        assert!(m.run(&format!("{plugin} --max-time 10 http://d/Plugin.Activate")).contains("NetworkDriver"));
        // It answers first, and says that it is ready then.
        wait_until("it runs", || m.attempt("systemctl is-active privnet.service").status.success());
    }

    /// A unit stands for Docker's, which this machine does not start.
    fn doctor_says_whether_docker_waits_for_the_plugins_socket(&self) {
        let m = &self.machine;
        let order = || {
            let said = m.run("privnet doctor --output json | jq --raw-output '.[] | select(.check == \"unit_order\") | .status, .remedy'");
            let mut lines = said.lines().map(str::to_owned);
            (lines.next().unwrap_or_default(), lines.next().unwrap_or_default())
        };
        let nothing = || (String::new(), String::new());
        assert_eq!(order(), nothing(), "there is no docker.service");
        let unit = "/etc/systemd/system/docker.service";
        let write = |more: &str| {
            m.run(&format!("printf '[Unit]\n{more}\n[Service]\nExecStart=/bin/sleep infinity\n' > {unit} && systemctl daemon-reload"));
        };
        write("");
        assert_eq!(order(), ("ok".to_owned(), String::new()));
        m.run("systemctl disable privnet-docker.socket");
        let (status, remedy) = order();
        assert_eq!((&*status, &*remedy), ("warn", "systemctl enable --now privnet-docker.socket"));
        m.run(&remedy);
        write("Requires=privnet.service");
        let (status, remedy) = order();
        assert!(status == "warn" && remedy.contains("Wants=privnet.service"), "{remedy}");
        m.run(&format!("rm {unit} && systemctl daemon-reload"));
        assert_eq!(order(), nothing());
    }

    fn members_that_talk(&self) -> Ping<'_> {
        let m = &self.machine;
        for (name, number) in [("web", 1), ("worker", 2)] {
            m.run(&format!("ip netns add {name} && ip -n {name} link set lo up"));
            m.run(&format!("privnet attach --network shop --app demo --type {name} --netns {name}"));
            assert_eq!(number, m.run("privnet members | grep --count ready").parse::<u32>().expect("a number"));
        }
        Ping::start(m)
    }

    fn an_agent_that_does_not_go_on_is_replaced(&self) {
        let m = &self.machine;
        self.with_directive("WatchdogSec=3", || {
            m.run("systemctl restart privnet");
            let stopped = self.agent();
            m.run(&format!("kill -STOP {stopped}"));
            wait_until("systemd has started another agent", || self.agent() != stopped && self.answers());
            assert!(m.run("journalctl --unit privnet --no-pager").contains("Watchdog timeout"));
        });
        m.run("systemctl restart privnet");
        self.members_are(2);
    }

    fn a_newer_version_takes_over_and_no_request_is_refused(&self) {
        let m = &self.machine;
        let newer = self.repacked("newer", "1", None);
        let before = self.agent();
        let asking =
            "n=0; while [ ! -e /tmp/enough ]; do privnet status >/dev/null || exit 1; n=$((n + 1)); done; echo $n";
        let asking = m.command(asking).stdout(Stdio::piped()).spawn().expect("nsenter starts");
        m.run(&format!("{DPKG} --install {newer}"));
        assert_ne!(self.agent(), before);
        m.run("privnet status && touch /tmp/enough");
        let asked = asking.wait_with_output().expect("it ends");
        assert!(asked.status.success(), "a request was refused while the agent was replaced");
        let count: u32 = String::from_utf8_lossy(&asked.stdout).trim().parse().expect("a number");
        say(&format!("{count} requests were answered meanwhile"));
        assert_eq!(m.run("privnet version --output json | jq --raw-output .version"), self.version, "the same build");
        self.members_are(2);
    }

    fn an_older_version_takes_over_unless_it_cannot_read_what_is_there(&self) {
        let m = &self.machine;
        m.run(&format!("{DPKG} --install /tmp/first.deb"));
        assert_eq!(self.installed(), self.version);
        self.members_are(2);
        let strange = self.repacked("strange", "2", Some("2"));
        m.run(&format!("{DPKG} --install {strange}"));
        let before = self.agent();
        let said = self.refuses(&format!("{DPKG} --install /tmp/first.deb"));
        assert!(said.contains("The downgrade is refused"), "{said}");
        assert_eq!((self.installed(), self.agent()), (format!("{}+2", self.version), before));
        self.members_are(2);
        m.run(&format!("{DPKG} --install {strange}"));
    }

    fn a_store_that_is_away_holds_up_no_start(&self) {
        let m = &self.machine;
        m.run("printf 'store = \"etcd\"\\netcd_endpoints = [\"http://127.0.0.1:1\"]\\n' > /etc/privnet/privnet.toml");
        m.run("timeout 10 systemctl restart privnet");
        let said = self.refuses("timeout 10 privnet status");
        assert!(said.contains("127.0.0.1:1"), "it says what it waits for: {said}");
        m.run("printf '# nothing\\n' > /etc/privnet/privnet.toml && systemctl restart privnet");
        self.members_are(2);
    }

    fn removed_it_leaves_the_members_alone_and_installed_again_it_adopts_them(&self) {
        let m = &self.machine;
        let said = m.run(&format!("{DPKG} --remove privnet"));
        assert!(said.contains("keep their networks until their containers end"), "{said}");
        let left = m.attempt(
            "systemctl is-active privnet.service privnet.socket privnet-docker.socket || command -v privnet || pgrep -x privnet-agent",
        );
        assert_eq!(String::from_utf8_lossy(&left.stdout), "inactive\ninactive\ninactive\n");
        m.run("test ! -e /run/privnet/privnet.sock && test ! -e /run/docker/plugins/privnet.sock && ip netns exec web ping -c 3 -i 0.2 10.90.0.3");
        m.run(&format!("{DPKG} --install /tmp/first.deb"));
        self.members_are(2);
    }

    fn purged_it_says_how_many_members_end_and_leaves_nothing(&self) {
        let m = &self.machine;
        m.run(&format!("{DPKG} --remove privnet"));
        let said = m.run(&format!("{DPKG} --purge privnet"));
        assert!(said.contains("2 memberships of host") && said.contains("nothing of privnet is left"), "{said}");
        self.nothing_is_left();
        m.run("test ! -e /var/lib/privnet && test ! -e /run/privnet && test ! -e /etc/privnet");
        assert!(!m.attempt("find /etc/systemd /var/lib/systemd | grep privnet").status.success());
        assert!(!m.attempt("getent group privnet || dpkg-query --show privnet").status.success());
    }

    fn by_hand_it_ends_members_without_their_store_when_told_to(&self) {
        let m = &self.machine;
        m.run(&format!("{DPKG} --install /tmp/first.deb"));
        m.run("privnet network create shop && privnet attach --network shop --app demo --netns web");
        m.run("systemctl stop privnet.socket privnet-docker.socket privnet.service");
        let purge = "privnet purge --store etcd --etcd-endpoints http://127.0.0.1:1";
        assert!(self.refuses(purge).contains("1 memberships of host"), "without --yes");
        assert_ne!(m.run("ip netns exec web ls /sys/class/net"), "lo");
        let said = m.run(&format!("{purge} --yes"));
        assert!(said.contains("the store is left as it is"), "{said}");
        self.nothing_is_left();
    }

    /// Nothing of the members: neither in the containers nor in the kernel, and no process.
    #[track_caller]
    fn nothing_is_left(&self) {
        let m = &self.machine;
        assert_eq!(m.run("ls /run/netns"), "web\nworker");
        for name in ["web", "worker"] {
            let inside = format!("ip netns exec {name}");
            assert_eq!(m.run(&format!("{inside} ls /sys/class/net")), "lo");
            assert_eq!(m.run(&format!("{inside} ip route; {inside} ss -Hlntu")), "");
        }
        m.run("test ! -e /sys/fs/bpf/privnet");
        assert!(!m.attempt("ps -e -o comm | grep privnet").status.success(), "{}", m.run("ps -e -o comm,args"));
    }

    /// Runs a line that fails, and returns what it said.
    #[track_caller]
    fn refuses(&self, line: &str) -> String {
        let output = self.machine.attempt(line);
        assert!(!output.status.success(), "{line} succeeds");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Does something while the unit has one more line.
    fn with_directive(&self, line: &str, act: impl FnOnce()) {
        let drop_in = "/run/systemd/system/privnet.service.d";
        self.machine.run(&format!("mkdir {drop_in} && printf '[Service]\\n{line}\\n' > {drop_in}/more.conf"));
        self.machine.run("systemctl daemon-reload");
        act();
        self.machine.run(&format!("rm -r {drop_in} && systemctl daemon-reload"));
    }

    /// The package with another version, of which the oldest reader may be that version too.
    fn repacked(&self, name: &str, suffix: &str, oldest: Option<&str>) -> String {
        let (version, tree) = (format!("{}+{suffix}", self.version), format!("/tmp/{name}"));
        let oldest = oldest.map(|suffix| format!("s/^oldest=.*/oldest={}+{suffix}/", self.version)).unwrap_or_default();
        self.machine.run(&format!(
            "dpkg-deb --raw-extract /tmp/first.deb {tree} && rm {tree}/usr/bin/privnet-demo && \
             sed -i 's/^Version: .*/Version: {version}/' {tree}/DEBIAN/control && sed -i '{oldest}' {tree}/DEBIAN/prerm && \
             dpkg-deb -Znone --build {tree} {tree}.deb && rm -r {tree}"
        ));
        format!("{tree}.deb")
    }

    fn agent(&self) -> String {
        self.machine.run("systemctl show --property MainPID --value privnet")
    }

    fn installed(&self) -> String {
        self.machine.run("dpkg-query --show --showformat '${Version}' privnet")
    }

    fn answers(&self) -> bool {
        self.machine.attempt("timeout 5 privnet status").status.success()
    }

    #[track_caller]
    fn members_are(&self, count: u32) {
        wait_until("the members are ready", || {
            let ready = self.machine.attempt("timeout 5 privnet members | grep --count ready");
            String::from_utf8_lossy(&ready.stdout).trim() == count.to_string()
        });
    }
}

/// One member asks another a hundred times a second.
struct Ping<'a> {
    machine: &'a Machine,
    process: Child,
}

impl<'a> Ping<'a> {
    fn start(machine: &'a Machine) -> Self {
        say("[machine] web asks worker a hundred times a second");
        let line = "echo $$ > /tmp/ping; exec ip netns exec web ping -i 0.01 10.90.0.3 > /tmp/answers";
        let process = machine.command(line).spawn().expect("nsenter starts");
        let ping = Self { machine, process };
        wait_until("it is answered", || !ping.answered().is_empty());
        ping
    }

    /// The numbers of the answers that have come, of which the first is 1.
    fn answered(&self) -> BTreeSet<usize> {
        let said = std::fs::read_to_string(self.machine.path("/tmp/answers")).unwrap_or_default();
        let number = |line: &str| line.split("icmp_seq=").nth(1)?.split(' ').next()?.parse().ok();
        said.lines().filter(|line| line.contains("ttl=")).filter_map(number).collect()
    }

    #[track_caller]
    fn lost_nothing(mut self) {
        self.machine.run("kill -INT $(cat /tmp/ping)");
        self.process.wait().expect("it ends");
        let answered = self.answered();
        let last = answered.last().copied().unwrap_or(0);
        // What is asked last may be on its way when ping is told to end.
        let lost: Vec<usize> = (1..=last).filter(|number| !answered.contains(number)).collect();
        say(&format!("{} answers", answered.len()));
        assert_eq!((lost, last > 500), (Vec::new(), true), "{last} answers at most");
    }
}
