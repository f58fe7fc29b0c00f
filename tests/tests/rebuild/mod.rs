//! What holds on two hosts while their agents do not act on their store, and what an operator says of it.

use std::collections::BTreeMap;
use std::process::Child;
use std::time::Instant;

use privnet::agent::views::{MemberView, NetworkView, RebuiltState};
use privnet::agent::{ControlError, ErrorCode};
use privnet::failpoint::VARIABLE;
use privnet_tests::lab::{Etcd, Host, Joined, Lab, Options, Space, say, wait_until, wait_within};

use crate::cluster::{Cluster, LATER, records_of};

impl Cluster {
    /// On the first two hosts of an underlay, with its etcd on the third; the others are left in `spaces`.
    #[track_caller]
    pub fn start(lab: &Lab, spaces: &mut Vec<Space>) -> Self {
        let mut etcd = Etcd::new(spaces.remove(2), 3);
        etcd.start();
        let options = Options::ebpf().with_etcd(etcd.url());
        let hosts = [1, 2].map(|number| lab.host_in(spaces.remove(0), number, &options));
        let cluster = Self::of(lab, hosts, etcd);
        for host in &cluster.hosts {
            wait_until_on_disk(host, &["/1.web.", "/1.backend."]);
        }
        cluster
    }

    #[track_caller]
    pub fn wait_until_refused(&self, reason: &str) {
        for host in &self.hosts {
            wait_until_it_says(host, reason);
        }
    }

    /// What holds on every host whose agent does not act on its store.
    #[track_caller]
    pub fn serves(&self, reason: &str) {
        let [one, two] = &self.hosts;
        for (host, own, other) in [(one, &self.web, &self.backend), (two, &self.backend, &self.web)] {
            let members: Vec<MemberView> = host.cli().json(&["members"]).expect("an answer");
            assert_eq!(members.len(), 2, "{members:?}");
            assert!(members.iter().all(|member| member.store_age_seconds.is_some()), "{members:?}");
            let output = host.cli().output(&["members"]);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success() && said.contains("note: the store answered last"), "{said}");
            is_refused(host, &self.network, own, reason);
            let error = host.detach(&self.network, &other.container).expect_err("it is another host's");
            assert!(!error.message.contains("not attached"), "{error:?}");
        }
        self.flows();
    }

    /// An operator's word; says how long it takes until the store has these records again.
    #[track_caller]
    pub fn rebuild(&self, host: &Host, records: &BTreeMap<String, String>, what: &str) -> RebuiltState {
        let before = self.etcd.records(&[]);
        let plan = rebuild(host, &["--dry-run"]).expect("a plan");
        assert_eq!(self.etcd.records(&[]), before, "a plan changes nothing");
        let start = Instant::now();
        let done = rebuild(host, &[]).expect("rebuilt");
        assert_eq!((plan.done, done.done), (false, true));
        assert_eq!(plan, RebuiltState { done: false, ..done.clone() });
        assert_eq!((done.networks, done.members, done.hosts), (1, 2, 2));
        wait_until(format!("{what} is back"), || records_of(&self.etcd) == *records);
        println!("figure: {what}: {} records were back after {:.1?}", records.len(), start.elapsed());
        self.flows();
        let again = rebuild(host, &[]).expect_err("nothing is wrong");
        assert!(again.message.contains("nothing to rebuild"), "{again:?}");
        done
    }
}

/// Waits until an agent says why it does not act on its store, and how old what it knows is.
#[track_caller]
pub fn wait_until_it_says(host: &Host, reason: &str) {
    wait_within(format!("{} says {reason:?}: {:?}", host.name, host.status()), LATER, || {
        let says = |problem: &String| problem.contains(reason);
        host.status().is_ok_and(|status| status.problems.iter().any(says) && status.store_age_seconds.is_some())
    });
}

/// Waits until an agent has written down that it has seen these members: it does so at most once a second.
#[track_caller]
pub fn wait_until_on_disk(host: &Host, members: &[&str]) {
    wait_until(format!("what {} has seen is on its disk", host.name), || {
        let seen = std::fs::read_to_string(host.paths().state.join("snapshot")).unwrap_or_default();
        members.iter().all(|member| seen.contains(member))
    });
}

/// Each change is refused, says why, and what to do.
#[track_caller]
pub fn is_refused(host: &Host, network: &NetworkView, own: &Joined, reason: &str) {
    for refused in [
        host.detach(network, &own.container).map(drop),
        host.create_network("other", None).map(drop),
        host.delete_network(&network.id.to_string()),
    ] {
        let error = refused.expect_err("a refusal");
        assert!(error.code == ErrorCode::StoreUnavailable && error.message.contains(reason), "{error:?}");
        assert!(!error.remedy.is_empty(), "{error:?}");
    }
}

pub fn rebuild(host: &Host, options: &[&str]) -> Result<RebuiltState, ControlError> {
    host.cli().json(&[&["state", "rebuild"], options].concat())
}

/// A host whose agent is given another store than the lab gave it, until [`Self::end`].
pub struct Elsewhere<'a> {
    pub host: &'a Host,
    line: String,
    child: Child,
}

impl<'a> Elsewhere<'a> {
    #[track_caller]
    pub fn start(host: &'a Host, from: &Etcd, to: &Etcd) -> Self {
        host.kill();
        let line = host.agent_line().replace(from.url(), to.url());
        Self { host, child: spawn(host, &line), line }
    }

    /// Starts the agent again that was killed.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.child.wait().expect("its end");
        self.child = spawn(self.host, &self.line);
    }

    #[must_use]
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Gives the host its own store back.
    #[track_caller]
    pub fn end(mut self) {
        self.child.kill().expect("kill -9");
        self.child.wait().expect("its end");
        self.host.start();
    }
}

#[track_caller]
fn spawn(host: &Host, line: &str) -> Child {
    say(&format!("[{}] {line}", host.name));
    let log = std::fs::File::options().append(true).open(&host.paths().log).expect("the agent's log");
    let mut command = host.space.command(line);
    let child = command.env(VARIABLE, host.failpoints().file()).env("RUST_LOG", "privnet=debug").stderr(log).spawn();
    wait_until(format!("the agent of {} serves", host.name), || host.status().is_ok());
    child.expect("the agent starts")
}
