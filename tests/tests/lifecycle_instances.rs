//! An agent ends only what its own instance wrote: a state directory that is lost, copied or taken to another machine ends no
//! member, and an operator says what becomes of the members.
//!
//! ```text
//!  h1: agent, web-1 ──────────┐            ┌── h2: agent, backend-1
//!                             ├─ underlay ─┤   a stream of datagrams from web-1 to backend-1, and back, throughout
//!               h3: etcd ─────┘            └── (h1: a journal entry lost, its state directory lost, copied, of another machine)
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use privnet::agent::config::wireguard_dir;
use privnet::agent::views::{Adopted, CheckStatus, HostView, NetworkView};
use privnet::agent::{ControlError, ErrorCode};
use privnet_tests::lab::probe::{Server, Stream};
use privnet_tests::lab::{Etcd, Host, Joined, Lab, Options, say, underlay_address, wait_until, wait_within};

const SUBNET: &str = "10.92.0.0/24";
const PORT: u16 = 7000;
const PACE: Duration = Duration::from_millis(1);
const LATER: Duration = Duration::from_secs(90);
/// How long the agent that has a name may take to answer.
const ANSWER: Duration = Duration::from_secs(3);
const ASKED: &str = "an agent has the name of this host: it is asked";
const MACHINES: [&str; 2] = ["0a1b2c3d4e5f60718293a4b5c6d7e8f9", "1a1b2c3d4e5f60718293a4b5c6d7e8f9"];

/// Two hosts with a member each, and the etcd that they share.
struct Cluster {
    // In the order in which they go: the stream needs its members.
    stream: Option<Stream>,
    _server: Server,
    web: Joined,
    backend: Joined,
    network: NetworkView,
    one: Host,
    two: Host,
    etcd: Etcd,
    machine: tempfile::NamedTempFile,
}

impl Cluster {
    fn start(lab: &Lab) -> Self {
        let ([one, two], etcd) = lab.underlay_with_etcd();
        let machine = tempfile::NamedTempFile::new().expect("a file");
        fs::write(&machine, MACHINES[0]).expect("the id of the machine");
        let options = Options::ebpf().with_etcd(etcd.url());
        let two = lab.host_in(two, 2, &options);
        let options = Options { machine_id: Some(machine.path().to_owned()), ..options };
        let one = lab.host_in(one, 1, &options);
        let network = one.network("shop", SUBNET);
        let web = lab.member(&one, &network, "web-1");
        let backend = lab.member(&two, &network, "backend-1");
        let server = Server::echo(&backend.app, PORT);
        wait_until("web reaches backend", || web.pings(backend.address()));
        let stream = Stream::start(&web.app, (backend.address(), PORT), PACE);
        let cluster = Self { stream: Some(stream), _server: server, web, backend, network, one, two, etcd, machine };
        cluster.wait_until_settled(1);
        cluster
    }

    fn wait_until_settled(&self, members: usize) {
        let is_settled = || {
            let status = self.one.status();
            status.is_ok_and(|status| status.problems.is_empty() && status.members_ready == members)
        };
        wait_within(format!("h1 has settled with {members}: {:?}", self.one.status()), LATER, is_settled);
    }

    fn state(&self) -> &Path {
        &self.one.paths().state
    }

    fn journal(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.state().join("members")).expect("the journal");
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
        paths.sort();
        paths
    }

    /// The instance that the store's record of a member names.
    fn instance_of(&self, member: &Joined) -> String {
        let records = self.etcd.records(&[]);
        let prefix = format!("members/{}/1.{}.", self.network.id, member.container.kind);
        let (_, text) = records.iter().find(|(key, _)| key.starts_with(&prefix)).expect("the member's record");
        let record: serde_json::Value = serde_json::from_str(text).expect("a record");
        record["instance"].as_str().expect("it names its instance").to_owned()
    }

    fn instance(&self) -> String {
        fs::read_to_string(self.state().join("instance")).expect("the instance").trim().to_owned()
    }

    fn stream(&self) -> &Stream {
        self.stream.as_ref().expect("it runs")
    }

    /// Has the presence of h1 say that its agent runs under an earlier boot of the machine; its lease lives on.
    fn is_of_the_boot_before(&self) {
        self.etcd.rewrite("presences/h1", |presence| presence["boot"] = "an earlier boot".into());
    }

    /// What a second agent of h1 says with a copy of its state directory, which must not become the host's agent.
    #[track_caller]
    fn is_refused_with(&self, copy: &Path) -> String {
        let (state, socket) = (self.state().display().to_string(), self.one.paths().socket.display().to_string());
        let line = (self.one.agent_line())
            .replace(&format!("--state-dir {state} "), &format!("--state-dir {} ", copy.display()))
            .replace(&format!("--socket {socket} "), &format!("--socket {socket}.copy "));
        let refused = self.one.space.command(&format!("timeout 60 {line}")).output().expect("it starts");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(said.contains("another agent of this store has the host name h1"), "{said}");
        said
    }

    /// Asserts that the members of h1 belong to another instance: all that says so, and what is refused.
    #[track_caller]
    fn is_not_adopted(&self, lab: &Lab, members: usize, has_the_name: bool) {
        let status = self.one.status().expect("reads work");
        let says = |text: &str| text.contains("another instance") && text.contains("privnet host adopt");
        assert!(status.problems.iter().any(|problem| says(problem)), "{status:?}");
        let output = self.one.cli().output(&["doctor", "-o", "json"]);
        let checks: Vec<privnet::agent::views::Check> = serde_json::from_slice(&output.stdout).expect("checks");
        let check = checks.iter().find(|check| check.check == "members_adopted").expect("the check");
        assert!(check.status == CheckStatus::Fail && check.remedy.contains("privnet host adopt"), "{check:?}");
        let of_one = |host: &Host| {
            let hosts: Vec<HostView> = host.cli().json(&["hosts"]).expect("the hosts");
            hosts.into_iter().find(|host| host.name.as_str() == "h1").map(|host| host.members_unadopted)
        };
        assert_eq!(of_one(&self.one), Some(members));
        let seen = if has_the_name { members } else { 0 };
        wait_until("the other host sees it too", || of_one(&self.two) == Some(seen));
        let presence = &self.etcd.records(&[])["presences/h1"];
        assert_eq!(presence.contains(&self.instance()), has_the_name, "{presence}");
        let refused = self.one.attach(&self.network, &lab.container("late-1"), None).expect_err("nothing is attached");
        assert_eq!(refused.code, ErrorCode::HostNotAdopted, "{refused:?}");
        let refused = self.one.detach(&self.network, &self.web.container).expect_err("nothing is detached");
        assert_eq!(refused.code, ErrorCode::HostNotAdopted, "{refused:?}");
    }
}

fn adopt(host: &Host, further: &[&str]) -> Result<Adopted, ControlError> {
    host.cli().json(&[&["host", "adopt"], further].concat())
}

#[test]
fn a_lost_entry_and_a_lost_state_directory_end_no_member() {
    let lab = Lab::new("a_lost_entry_and_a_lost_state_directory_end_no_member");
    let mut cluster = Cluster::start(&lab);
    assert_eq!(cluster.instance_of(&cluster.web), cluster.instance());

    // One entry of the journal: it is made again, with the key.
    let journal = cluster.journal();
    let key = journal.iter().find(|path| path.extension().is_some_and(|extension| extension == "key"));
    let key = fs::read_to_string(key.expect("the key's file")).expect("the key");
    cluster.one.kill();
    journal.iter().for_each(|path| fs::remove_file(path).expect("removed"));
    cluster.one.start();
    cluster.wait_until_settled(1);
    assert_eq!(cluster.journal(), journal);
    assert!(journal.iter().any(|path| fs::read_to_string(path).is_ok_and(|text| text == key)), "the key is the same");
    cluster.stream().flows();

    // The whole state directory, and a container that goes while no agent runs.
    let gone = lab.member(&cluster.one, &cluster.network, "gone-1");
    cluster.wait_until_settled(2);
    let before = cluster.instance();
    cluster.one.kill();
    lose(cluster.state());
    gone.app.remove();
    cluster.one.start();
    assert_ne!(cluster.instance(), before);
    cluster.is_not_adopted(&lab, 2, true);
    cluster.stream().flows();
    let adopted = adopt(&cluster.one, &[]).expect("adopted");
    assert_eq!(adopted, Adopted { kept: 1, ended: 1 });
    cluster.wait_until_settled(1);
    assert_eq!(cluster.instance_of(&cluster.web), cluster.instance());
    assert!(!cluster.etcd.records(&[]).keys().any(|key| key.contains("/1.gone.")));
    assert!(cluster.journal().iter().any(|path| fs::read_to_string(path).is_ok_and(|text| text == key)));
    if cluster.one.wireguard_of(&cluster.web).is_some() {
        let log = wireguard_dir(cluster.state(), cluster.network.id, cluster.web.address()).join("log");
        wait_until("its log is in the new directory", || {
            fs::read_to_string(&log).is_ok_and(|text| text.contains("is there again"))
        });
    }
    wait_until("nothing of the member that ended is left", || {
        !cluster.web.network.succeeds(&format!("ip link show {}", gone.port_veth()))
    });
    assert_eq!(adopt(&cluster.one, &[]).expect("nothing to adopt"), Adopted { kept: 0, ended: 0 });

    // The agent is as any other again: it takes members, and starts again.
    let next = lab.member(&cluster.one, &cluster.network, "next-1");
    wait_until("the next one reaches web", || next.pings(cluster.web.address()));
    cluster.one.kill();
    cluster.one.start();
    cluster.wait_until_settled(2);
    // On a busy machine the start on a lost directory has cost some of it, up to 1.6 s, for a reason that is not known yet: that
    // it goes on is demanded at each step, and the loss is told.
    cluster.stream().flows();
    let (sent, lost) = cluster.stream.take().expect("it runs").finish();
    say(&format!("{sent} datagrams were sent, and {} lost", lost.len()));
    lab.finish();
}

#[test]
fn a_copied_state_directory_ends_no_member() {
    let lab = Lab::new("a_copied_state_directory_ends_no_member");
    let mut cluster = Cluster::start(&lab);
    let (state, copy) = (cluster.state().to_owned(), cluster.state().with_file_name("copy"));

    // To another place on the same machine, while the agent runs: the second one of that name is refused.
    cluster.one.space.run(&format!("cp -a {} {}", state.display(), copy.display()));
    cluster.is_refused_with(&copy);
    // After another boot, too: an agent that is where it was asks the one that has the name, which answers.
    let (note, aside) = (copy.join("machine"), copy.join("machine.aside"));
    fs::rename(&note, &aside).expect("the note of where it was");
    cluster.is_of_the_boot_before();
    assert!(cluster.is_refused_with(&copy).contains(ASKED));
    fs::rename(&aside, &note).expect("the note of where it was");
    cluster.wait_until_settled(1);

    // The twin: the agent does not live, so the copy takes its place, and ends nothing.
    cluster.one.kill();
    fs::remove_dir_all(&state).expect("removed");
    fs::rename(&copy, &state).expect("the copy in its place");
    cluster.one.start();
    cluster.wait_until_settled(1);
    cluster.stream().flows();

    // After another boot, and no agent answers: nothing is ended before one had the time to.
    let gone = lab.member(&cluster.one, &cluster.network, "gone-1");
    cluster.wait_until_settled(2);
    cluster.one.kill();
    gone.app.remove();
    cluster.is_of_the_boot_before();
    let (begun, asked) = (Instant::now(), cluster.one.said(ASKED).len());
    cluster.one.begin();
    let (mut unasked, mut is_asked) = (begun, false);
    wait_until("the member that is gone has ended", || {
        let looked = Instant::now();
        let records = cluster.etcd.records(&[]);
        is_asked |= records["presences/h1"].contains("\"asked\"");
        if !is_asked {
            unasked = looked;
        }
        !records.keys().any(|key| key.contains("/1.gone."))
    });
    // A look may come late: the question is no older than the last look that did not find it.
    let took = if is_asked { unasked.elapsed() } else { begun.elapsed() };
    say(&format!("a member of the boot before ended {took:?} after the question"));
    assert!(took >= ANSWER, "{took:?}");
    cluster.wait_until_settled(1);
    assert_eq!(cluster.one.said(ASKED).len(), asked + 1);
    cluster.stream().flows();
    // The twin: under the same boot it does not ask.
    cluster.one.kill();
    cluster.one.start();
    cluster.wait_until_settled(1);
    assert_eq!(cluster.one.said(ASKED).len(), asked + 1);

    // To another machine: a new instance, of which no member is.
    let (before, journal) = (cluster.instance(), cluster.journal());
    cluster.one.kill();
    fs::write(&cluster.machine, MACHINES[1]).expect("the id of another machine");
    cluster.one.start();
    assert_ne!(cluster.instance(), before);
    assert!(cluster.journal().is_empty());
    let aside = state.join(format!("members.of-{before}"));
    assert_eq!(fs::read_dir(aside).expect("it was set aside").count(), journal.len());
    cluster.is_not_adopted(&lab, 1, false);
    cluster.stream().flows();
    // The lease of the machine before lives.
    let refused = adopt(&cluster.one, &[]).expect_err("it may run there");
    assert!(refused.message.contains("another agent of this store has the host name h1"), "{refused:?}");
    assert_eq!(adopt(&cluster.one, &["--force"]).expect("adopted"), Adopted { kept: 1, ended: 0 });
    cluster.wait_until_settled(1);
    cluster.stream.take().expect("it runs").finish_whole();
    lab.finish();
}

/// The old machine never comes back: its containers have ended with it, and the new one has another address.
#[test]
fn a_machine_that_replaces_another_takes_its_name_over_at_a_word() {
    /// The number of the new machine's address.
    const NEW: u8 = 11;
    let lab = Lab::new("a_machine_that_replaces_another_takes_its_name_over_at_a_word");
    let mut cluster = Cluster::start(&lab);
    let jobs: Vec<Joined> =
        (1..=5).map(|number| lab.member(&cluster.one, &cluster.network, &format!("job-{number}"))).collect();
    cluster.wait_until_settled(6);
    cluster.stream.take().expect("it runs").finish_whole();
    cluster.one.kill();
    lose(cluster.state());
    fs::write(&cluster.machine, MACHINES[1]).expect("the id of the new machine");
    jobs.iter().chain([&cluster.web]).for_each(|member| member.app.remove());
    cluster.one.space.run(&format!("ip address add {}/24 dev eth0", underlay_address(NEW)));
    let mut agent = agent_of(&cluster.one, underlay_address(NEW).to_string().as_str());

    let of_one = |host: &Host| members_of(host, "h1");
    let late = lab.container("late-1");
    let refused = cluster.one.attach(&cluster.network, &late, None).expect_err("nothing is attached");
    assert_eq!(refused.code, ErrorCode::HostNotAdopted, "{refused:?}");
    // More than five end: that is said first, and nothing is done.
    let refused = adopt(&cluster.one, &["--force"]).expect_err("six would end");
    let said = format!("{} ({})", refused.message, refused.remedy);
    assert!(said.contains("6 would end") && said.contains("--yes"), "{said}");
    assert_eq!((of_one(&cluster.one), of_one(&cluster.two)), (6, 6));
    let vtep = || {
        let hosts: Vec<HostView> = cluster.two.cli().json(&["hosts"]).expect("the hosts");
        hosts.into_iter().find(|host| host.name.as_str() == "h1").expect("h1").vtep
    };
    assert_eq!(vtep(), underlay_address(1), "the others send to the old machine until then");

    assert_eq!(adopt(&cluster.one, &["--force", "--yes"]).expect("adopted"), Adopted { kept: 0, ended: 6 });
    wait_until("the other host knows that they have ended", || of_one(&cluster.two) == 0);
    wait_until("it sends to the new machine", || vtep() == underlay_address(NEW));
    let joined = cluster.one.join(&cluster.network, &late);
    wait_until("a member of the new machine and one of the other host reach each other", || {
        joined.pings(cluster.backend.address()) && cluster.backend.pings(joined.address())
    });
    assert!(cluster.one.detach(&cluster.network, &late).expect("detach").detached);

    // The lab knows the old address alone.
    agent.kill().expect("kill -9");
    agent.wait().expect("its end");
    cluster.etcd.delete(&["vteps/"]);
    cluster.one.start();
    cluster.wait_until_settled(0);
    lab.finish();
}

/// Removes a state directory, into which processes of ours write that outlive the agent.
fn lose(state: &Path) {
    wait_until("the state directory is lost", || fs::remove_dir_all(state).is_ok());
}

/// The agent of a host, started by hand under another VTEP address.
fn agent_of(host: &Host, vtep: &str) -> Child {
    let line = host.agent_line().replace(&format!("--vtep {} ", underlay_address(1)), &format!("--vtep {vtep} "));
    say(&line);
    let log = fs::File::options().append(true).open(&host.paths().log).expect("the agent's log");
    let child = host.space.command(&line).stderr(log).spawn().expect("the agent starts");
    wait_until("it serves", || host.status().is_ok());
    child
}

fn members_of(host: &Host, of: &str) -> usize {
    host.members().expect("members").iter().filter(|member| member.host.as_str() == of).count()
}
