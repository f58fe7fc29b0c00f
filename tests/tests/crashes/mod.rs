//! A scene for crashes: one host, one network and one container, the requests that lead from nothing to two names and back,
//! and what must be there in between.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use privnet::agent::views::{Attached, Detached};
use privnet::agent::{ControlError, ErrorCode};
use privnet_tests::lab::container::APP;
use privnet_tests::lab::failpoint::{Action, Failpoints, Passage};
use privnet_tests::lab::{Container, Host, Lab, SOON, holds_within, say, wait_until};

pub const SUBNET: &str = "10.90.0.0/24";
/// What stands in the container's `resolv.conf` before.
const BEFORE: &str = "nameserver 192.0.2.53\n";
/// What the agent writes there begins with it.
const WRITTEN: &str = "# Written by privnet.";
/// How long a step may come behind the answer, where it comes.
const BEHIND: Duration = Duration::from_secs(20);
/// The app of the container's second name.
const SECOND_APP: &str = "ap-a71da13f-7c70-4c00-a644-eee8558d8054";

/// What the host has of the scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Nothing,
    Network,
    Member,
    SecondName,
}

/// A request that leads from one level to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    Create,
    Attach,
    AttachSecond,
    DetachSecond,
    Detach,
    Delete,
}

impl Verb {
    /// The level that it begins at, and the one that it leads to.
    pub const fn levels(self) -> (Level, Level) {
        match self {
            Self::Create => (Level::Nothing, Level::Network),
            Self::Attach => (Level::Network, Level::Member),
            Self::AttachSecond => (Level::Member, Level::SecondName),
            Self::DetachSecond => (Level::SecondName, Level::Member),
            Self::Detach => (Level::Member, Level::Network),
            Self::Delete => (Level::Network, Level::Nothing),
        }
    }
}

/// One host, one network, one container.
pub struct Scene {
    pub host: Host,
    pub points: Failpoints,
    /// How many members other hosts have in the network.
    others: usize,
    container: RefCell<Container>,
    resolv_conf: PathBuf,
}

/// Everything that a level can be told by.
struct Sight {
    addresses: Option<usize>,
    names: Vec<usize>,
    ready: usize,
    problems: Vec<String>,
    /// The namespaces, pins and processes of the host's agents.
    left: Vec<String>,
    links: Vec<String>,
    is_routed: bool,
    is_guarded: bool,
    resolv_conf: String,
    /// The files that the host has of its members, and those that are not finished.
    files: Vec<PathBuf>,
    unfinished: Vec<PathBuf>,
    has_wireguard_process: bool,
}

impl Scene {
    pub fn new(lab: &Lab, host: Host, others: usize) -> Self {
        let container = RefCell::new(lab.container("web-1").with_eth0(&host.space, 2));
        let resolv_conf = lab.directory().join(format!("resolv.conf.{}", host.name));
        fs::write(&resolv_conf, BEFORE).expect("a file");
        Self { points: host.failpoints(), host, others, container, resolv_conf }
    }

    /// Makes a request.
    pub fn ask(&self, verb: Verb) -> Result<(), ControlError> {
        let netns = self.container.borrow().space.path().display().to_string();
        let file = self.resolv_conf.display().to_string();
        let attach = |more: &[&str]| {
            let all = [&["attach", "--network", "shop", "--netns", &netns, "--number", "1"], more].concat();
            let attached = self.host.cli().json::<Attached>(&all)?;
            assert!(attached.ready && attached.problems.is_empty(), "{attached:?}");
            Ok(())
        };
        let detach = |app: &str| {
            let arguments = ["detach", "--network", "shop", "--app", app, "--number", "1"];
            let detached = self.host.cli().json::<Detached>(&arguments)?;
            assert!(detached.problems.is_empty(), "{detached:?}");
            Ok(())
        };
        match verb {
            Verb::Create => self.host.create_network("shop", Some(SUBNET)).map(drop),
            Verb::Attach => attach(&["--app", APP, "--resolv-conf", &file]),
            Verb::AttachSecond => attach(&["--app", SECOND_APP]),
            Verb::DetachSecond => detach(SECOND_APP),
            Verb::Detach => detach(APP),
            Verb::Delete => self.host.delete_network("shop"),
        }
    }

    /// Makes a request that succeeds, and waits until all of it is there.
    #[track_caller]
    pub fn does(&self, verb: Verb) {
        self.ask(verb).unwrap_or_else(|error| panic!("{verb:?}: {error:?}\n{}", self.host.log_tail()));
        self.settles(&[verb.levels().1]);
        // Behind the answer the store is told that the member is ready, and that is noted.
        let records = self.host.paths().state.join("members");
        let is_told = |path: &PathBuf| fs::read_to_string(path).is_ok_and(|text| !text.contains("attaching"));
        wait_until("what the store was told is noted", || files(&records).iter().all(is_told));
    }

    /// What a request passes, which succeeds.
    #[track_caller]
    pub fn passes(&self, verb: Verb) -> Vec<Passage> {
        self.points.record();
        let begun = Instant::now();
        self.does(verb);
        let passed = self.points.passed();
        say(&format!("{verb:?} passes {} steps in {:?}", passed.len(), begun.elapsed()));
        passed
    }

    /// Kills the agent behind a step of a request, starts the next one, and makes the request again. Says whether it came to
    /// that step: one that an earlier request left behind its answer may be over by then.
    #[track_caller]
    pub fn is_killed(&self, verb: Verb, passage: &Passage) -> bool {
        let (before, after) = verb.levels();
        self.points.arm(Action::Kill, passage);
        let answer = self.ask(verb);
        // Some steps come behind the answer.
        let has_come = holds_within(BEHIND, || self.host.has_ended()) || self.points.is_reached();
        if !has_come && !self.points.disarm() {
            answer.unwrap_or_else(|error| panic!("{verb:?} without {passage:?}: {error:?}"));
            self.settles(&[after]);
            say(&format!("{verb:?} did not come to {passage:?}"));
            return false;
        }
        wait_until(format!("{verb:?} has passed {passage:?}"), || self.host.has_ended());
        assert!(self.points.disarm(), "the agent ended by itself: {}", self.host.log_tail());
        self.host.start();
        let level = self.settles(&[after, before]);
        say(&format!("{verb:?} was killed behind {passage:?}, and the next agent leads to {level:?}"));
        assert!(answer.is_err() || level == after, "what was answered stands: {verb:?} {passage:?}");
        match self.ask(verb) {
            Ok(()) => {}
            Err(error) if level == after && verb == Verb::Create => assert_eq!(error.code, ErrorCode::NetworkExists),
            Err(error) if level == after && verb == Verb::Delete => assert_eq!(error.code, ErrorCode::NetworkNotFound),
            Err(error) => panic!("the second {verb:?} after {passage:?}: {error:?}"),
        }
        self.settles(&[after]);
        true
    }

    /// Has a step of a request fail, and makes the request again.
    #[track_caller]
    pub fn is_refused(&self, verb: Verb, passage: &Passage) {
        let (before, after) = verb.levels();
        self.points.arm(Action::Refuse, passage);
        let answer = self.ask(verb);
        wait_until(format!("{verb:?} has come to {passage:?}"), || self.points.is_reached());
        let level = self.settles(&[after, before]);
        say(&format!("{verb:?} was refused at {passage:?}, answered {answer:?}, and led to {level:?}"));
        match answer {
            Ok(()) => assert_eq!(level, after, "what was answered stands: {verb:?} {passage:?}"),
            Err(error) => assert!(error.message.contains(&passage.step), "{error:?} does not say {passage:?}"),
        }
        self.does(verb);
    }

    /// Takes the container away while no agent runs.
    pub fn loses_container(&self) {
        self.host.kill();
        self.container.borrow().space.remove();
    }

    /// Puts another container in the place of the one that was lost.
    pub fn gets_container(&self, lab: &Lab) {
        *self.container.borrow_mut() = lab.container("web-1").with_eth0(&self.host.space, 2);
    }

    /// Waits until the host is at one of these levels, the first of them that fits, and says at which.
    #[track_caller]
    pub fn settles(&self, levels: &[Level]) -> Level {
        let end = Instant::now() + SOON;
        loop {
            let sight = self.look();
            let lacks =
                |level: &Level| sight.as_ref().map_or(vec!["an answer"], |sight| sight.lacks(*level, self.others));
            if let Some(level) = levels.iter().find(|level| lacks(level).is_empty()) {
                return *level;
            }
            let say_why =
                || levels.iter().map(|level| format!("{level:?} lacks {:?}\n", lacks(level))).collect::<String>();
            assert!(
                Instant::now() < end,
                "{}{}\n{}",
                say_why(),
                sight.map(|s| s.to_string()).unwrap_or_default(),
                self.host.log_tail()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn look(&self) -> Option<Sight> {
        let networks = self.host.networks().ok()?;
        let members = self.host.members().ok()?;
        let status = self.host.status().ok()?;
        let own = members.iter().filter(|member| *member.host.as_str() == *self.host.name);
        let space = &self.container.borrow().space;
        let exists = space.exists();
        let state = &self.host.paths().state;
        let files_in = |directory: &str| files(&state.join(directory));
        Some(Sight {
            addresses: networks.first().and_then(|network| usize::try_from(network.addresses_used).ok()),
            names: own.map(|member| member.names.len()).collect(),
            ready: status.members_ready,
            problems: status.problems,
            left: self.host.leftovers(),
            links: if exists { space.links() } else { Vec::new() },
            is_routed: exists && space.run("ip route show table main").contains("10.90.0."),
            is_guarded: exists && !space.run("tc filter show dev eth0 ingress").is_empty(),
            resolv_conf: fs::read_to_string(&self.resolv_conf).unwrap_or_default(),
            files: ["members", "resolv-conf", "wireguard"].into_iter().flat_map(files_in).collect(),
            unfinished: files_in("")
                .into_iter()
                .filter(|path| path.extension().is_some_and(|of| of == "new"))
                .collect(),
            has_wireguard_process: status.wireguard.to_string() == "userspace",
        })
    }
}

impl Sight {
    /// What is not as it should be at a level.
    fn lacks(&self, level: Level, others: usize) -> Vec<&'static str> {
        let is_member = level >= Level::Member;
        let names: &[usize] = match level {
            Level::Nothing | Level::Network => &[],
            Level::Member => &[1],
            Level::SecondName => &[2],
        };
        let count = |what: &str| self.left.iter().filter(|left| left.starts_with(what)).count();
        let process = usize::from(self.has_wireguard_process);
        let (left_is_right, files) = if is_member {
            // A private key and a record, what stood in `resolv.conf`, and the directory of a process.
            ((count("namespace"), count("process")) == (2, 1 + process), 3 + process)
        } else {
            (self.left.is_empty(), 0)
        };
        let facts = [
            ("its network and address", self.addresses == (level > Level::Nothing).then_some(others + names.len())),
            ("its names", self.names == names),
            ("a ready member", self.ready == names.len()),
            ("rest", self.problems.is_empty()),
            ("its namespaces, pins and processes", left_is_right),
            ("its links", self.links.contains(&"wg0".to_owned()) == is_member && self.links.len() <= 2),
            ("its routes", self.is_routed == is_member),
            ("its guard", self.is_guarded == is_member),
            (
                "its resolv.conf",
                if is_member { self.resolv_conf.starts_with(WRITTEN) } else { self.resolv_conf == BEFORE },
            ),
            ("its files", self.files.len() == files && self.unfinished.is_empty()),
        ];
        facts.into_iter().filter(|(_, holds)| !holds).map(|(what, _)| what).collect()
    }
}

impl std::fmt::Display for Sight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { addresses, names, ready, problems, left, links, resolv_conf, files, unfinished, .. } = self;
        write!(f, "{addresses:?} addresses, names {names:?}, {ready} ready, {problems:?}\n{left:#?}\n{links:?}, ")?;
        write!(f, "routed {}, guarded {}, {resolv_conf:?}\n{files:#?}{unfinished:?}", self.is_routed, self.is_guarded)
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path()).collect()
}
