//! The agent is killed behind each step of each request, and of its start up to its first pass, and each step that can fail
//! fails: what is left is all of the request or nothing of it, and the same request succeeds.
//!
//! ```text
//!  nothing ─create─▶ network ─attach─▶ member ─attach─▶ second name
//!  nothing ◀─delete─ network ◀─detach─ member ◀─detach─ second name
//!     each arrow: killed behind a step ─▶ the next agent ─▶ the same request again
//! ```
//!
//! The steps are those that a request passes undisturbed, so a step that is added is killed by itself.
#![expect(clippy::print_stdout, reason = "the figures")]

mod crashes;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crashes::{Level, Scene, Verb};
use privnet::failpoint::Step;
use privnet::store::{Embedded, Store, keys};
use privnet::topology::Key;
use privnet_tests::lab::failpoint::{Action, Passage};
use privnet_tests::lab::{Lab, Options, runtime, say, wait_until};

/// The requests, each with the one that takes it back.
const PAIRS: [(Verb, Verb); 3] =
    [(Verb::Create, Verb::Delete), (Verb::Attach, Verb::Detach), (Verb::AttachSecond, Verb::DetachSecond)];

/// The steps at which no agent is killed here: of one host with the eBPF datapath and one member.
const ELSEWHERE: [(&str, &[&str]); 6] = [
    ("the bridge datapath has it", &["make Bridge", "make BridgePort", "make Neighbours"]),
    ("a member of another host has it", &["make BridgeFdb", "make Fdb", "make RemoteRow"]),
    ("it goes when that member does", &["remove BridgeFdb", "remove Fdb", "remove RemoteRow"]),
    ("it is there when a member has left the network", &["make Departed", "remove Departed"]),
    (
        "it goes with the last member's namespaces, device or programs",
        &[
            "remove BindingSettings",
            "remove Bridge",
            "remove BridgePort",
            "remove Carrier",
            "remove LocalRow",
            "remove MemberProgram",
            "remove Neighbours",
            "remove NetworkSettings",
            "remove Peers",
            "remove Port",
            "remove Tunnel",
            "remove Veth",
            "remove Vtep",
            "remove VtepProgram",
        ],
    ),
    (
        "it is never planned, and removed where it is found",
        &["make OrphanPort", "make OrphanVeth", "remove OrphanPort", "remove OrphanVeth"],
    ),
];

/// What was done so far.
#[derive(Default)]
struct Done {
    kills: usize,
    refusals: usize,
    steps: BTreeSet<String>,
}

impl Done {
    /// The passages at which an agent is to be killed: the first time of each step, and each time of those that keep the truth.
    fn each(&self, passed: &[Passage]) -> Vec<Passage> {
        let truth = [Step::Commit, Step::Rename, Step::Unlink].map(|step| step.to_string());
        passed.iter().filter(|passage| passage.time == 1 || truth.contains(&passage.step)).cloned().collect()
    }

    /// Kills the agent at these passages of the requests, as many as there are in a round of going up and down.
    fn kill(&mut self, scene: &Scene, passages: &BTreeMap<Verb, Vec<Passage>>) {
        let at = |verb: Verb, round: usize| passages.get(&verb).and_then(|passages| passages.get(round));
        let mut go = |verb: Verb, round: usize| match at(verb, round) {
            Some(passage) => {
                if scene.is_killed(verb, passage) {
                    self.kills += 1;
                    self.steps.insert(passage.step.clone());
                }
            }
            None => scene.does(verb),
        };
        let has = |(up, down): (Verb, Verb), round: usize| at(up, round).or_else(|| at(down, round)).is_some();
        let rounds = passages.values().map(Vec::len).max().unwrap_or_default();
        for round in 0..rounds {
            // What no passage of this round concerns stays as it is.
            let pairs: Vec<_> = PAIRS.into_iter().filter(|pair| passages.contains_key(&pair.0)).collect();
            let deepest = pairs.iter().rposition(|pair| has(*pair, round)).expect("one has it");
            let first = usize::from(
                round > 0 && pairs[0].0 == Verb::Create && !has(pairs[0], round - 1) && !has(pairs[0], round),
            );
            for (up, _) in &pairs[first..=deepest] {
                go(*up, round);
            }
            let stays = usize::from(pairs[0].0 == Verb::Create && !has(pairs[0], round) && round + 1 < rounds);
            for (_, down) in pairs[stays..=deepest].iter().rev() {
                go(*down, round);
            }
        }
    }

    /// Has each step of a request, and of the one that takes it back, fail that can.
    fn refuse(&mut self, scene: &Scene, (up, down): (Verb, Verb)) {
        let can: BTreeSet<String> = steps().filter(|step| step.can_be_refused()).map(|step| step.to_string()).collect();
        let passed = [scene.passes(up), scene.passes(down)];
        let [ups, downs] =
            passed.map(|passed| self.each(&passed).into_iter().filter(|at| can.contains(&at.step)).collect::<Vec<_>>());
        for round in 0..ups.len().max(downs.len()) {
            for (verb, passages) in [(up, &ups), (down, &downs)] {
                match passages.get(round) {
                    Some(passage) => scene.is_refused(verb, passage),
                    None => scene.does(verb),
                }
            }
        }
        self.refusals += ups.len() + downs.len();
    }

    /// Kills the starting agent that finds what `prepare` has left.
    fn kill_starts(&mut self, scene: &Scene, level: Level, prepare: &dyn Fn(), clear: &dyn Fn()) {
        let end_prepared = || {
            prepare();
            wait_until("the agent is gone", || scene.host.has_ended());
        };
        end_prepared();
        scene.points.record();
        scene.host.start();
        scene.settles(&[level]);
        let passed = scene.points.passed();
        clear();
        // What a pass makes was killed in requests.
        let is_made = |passage: &Passage| passage.step.starts_with("make ");
        let until = passed.iter().position(is_made).unwrap_or(passed.len());
        for passage in self.each(&passed[..until]) {
            end_prepared();
            scene.points.arm(Action::Kill, &passage);
            scene.host.start_and_end();
            assert!(scene.points.disarm(), "the agent ended by itself: {}", scene.host.log_tail());
            scene.host.start();
            scene.settles(&[level]);
            say(&format!("the start was killed behind {passage:?}, and the next one leads to {level:?}"));
            self.kills += 1;
            self.steps.insert(passage.step.clone());
            clear();
        }
    }

    fn tell(&self, what: &str, begun: Instant) {
        println!("figure: {what}: {} kills and {} refusals, {:?}", self.kills, self.refusals, begun.elapsed());
    }
}

/// All steps that there are.
fn steps() -> impl Iterator<Item = Step> {
    let of_kinds = Key::KINDS.iter().flat_map(|kind| [Step::Make(kind), Step::Remove(kind)]);
    Step::PLAIN.iter().copied().chain(of_kinds)
}

#[test]
fn an_agent_that_is_killed_behind_any_step_leaves_all_of_a_request_or_nothing() {
    let (lab, begun) =
        (Lab::new("an_agent_that_is_killed_behind_any_step_leaves_all_of_a_request_or_nothing"), Instant::now());
    let mut done = Done::default();
    let scene = Scene::new(&lab, lab.host(&Options::ebpf().with_failpoints()), 0);
    let all = [Verb::Create, Verb::Attach, Verb::AttachSecond, Verb::DetachSecond, Verb::Detach, Verb::Delete];
    let passed: BTreeMap<Verb, Vec<Passage>> = all.into_iter().map(|verb| (verb, scene.passes(verb))).collect();
    let passages = passed.iter().map(|(verb, passed)| (*verb, done.each(passed))).collect();
    done.kill(&scene, &passages);
    done.tell("requests", begun);

    say("a step that fails");
    for pair in PAIRS {
        done.refuse(&scene, pair);
        if pair.0 != Verb::AttachSecond {
            scene.does(pair.0);
        }
    }
    scene.does(Verb::Detach);
    done.tell("and steps that fail", begun);

    say("a start that finds half an attach");
    let recorded = passed[&Verb::Attach].iter().filter(|passage| passage.step == Step::Rename.to_string()).nth(1);
    let recorded = recorded.expect("the key, then the record");
    let half_attached = || {
        scene.points.arm(Action::Kill, recorded);
        scene.ask(Verb::Attach).expect_err("the agent was killed");
    };
    done.kill_starts(&scene, Level::Member, &half_attached, &|| {
        scene.does(Verb::Attach);
        scene.does(Verb::Detach);
    });
    say("a start that finds that a container is gone");
    let died = || {
        scene.does(Verb::Attach);
        scene.loses_container();
    };
    done.kill_starts(&scene, Level::Network, &died, &|| scene.gets_container(&lab));
    scene.does(Verb::Delete);
    done.tell("and starts", begun);

    say("nothing of all that is in the store");
    scene.host.stop();
    let left = runtime().block_on(async {
        let store = Embedded::open(&scene.host.paths().state).await.expect("the store");
        store.list(&keys::everything()).await.expect("a listing").entries
    });
    let of_host = ["hosts/", "presences/", "vteps/", "fleet/", "fences/"];
    let left: Vec<String> = left.iter().map(|entry| entry.key.to_string()).collect();
    let left: Vec<&String> = left.iter().filter(|key| !of_host.iter().any(|prefix| key.contains(prefix))).collect();
    assert_eq!(left, Vec::<&String>::new());
    scene.host.start();

    let missed: BTreeSet<String> =
        steps().map(|step| step.to_string()).filter(|step| !done.steps.contains(step)).collect();
    let elsewhere = ELSEWHERE.iter().flat_map(|(_, steps)| *steps).map(|step| (*step).to_owned()).collect();
    assert_eq!(missed, elsewhere, "the steps at which no agent was killed");
    lab.finish_detached();
}
