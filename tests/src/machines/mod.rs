//! Hosts that are virtual machines, on an underlay that the test owns.
//!
//! `cargo xtask vm` boots them and starts the tests that use this, outside of them and without root: it names a folder in
//! [`FOLDER`], where each machine has a socket for its first serial line and one for its network card.

mod build;
mod host;
mod line;
mod underlay;
mod watch;

use std::path::PathBuf;
use std::time::Duration;

pub use self::build::Build;
pub use self::host::{APP, Container, Flow, Host, Member, PORT, json};
pub use self::line::{Machine, Ran};
pub use self::underlay::{Seen, Underlay};
pub use self::watch::watch;
use crate::lab::wait::holds_every;
use crate::lab::wait_within;

/// The variable that names the folder of the machines' sockets.
pub const FOLDER: &str = "PRIVNET_MACHINES";
/// How many machines there are.
pub const COUNT: usize = 3;
/// What every private payload of these tests carries: it must be heard nowhere but in the containers. Sixteen characters that
/// a label of a name may have, so that a ping and a question of DNS can carry them too.
pub const CANARY: &str = "privnet-canary-x";
/// What is said in clear on purpose, and must be heard where it passes: so the ears are proved to be open.
pub const IN_CLEAR: &str = "outside-canary-x";
/// How long an emulated machine may take for what a person would wait for.
pub const SOON: Duration = Duration::from_secs(120);

/// How often to try on a machine what should hold soon.
const GLANCE: Duration = Duration::from_millis(100);

/// The machines, up, with their underlay: machine `n` is 192.0.2.n there.
pub struct Machines {
    /// What is between them.
    pub underlay: Underlay,
    /// In the order of their numbers.
    pub all: Vec<Machine>,
}

impl Machines {
    /// Waits until every machine is up, and gives each its address on the underlay.
    ///
    /// # Panics
    /// When this was not started by `cargo xtask vm`, or a machine does not come up.
    #[must_use]
    pub fn up() -> Self {
        let folder = std::env::var_os(FOLDER).map(PathBuf::from);
        let folder = folder.unwrap_or_else(|| panic!("{FOLDER} is not set: run this with `cargo xtask vm`"));
        let underlay = Underlay::between(&folder, COUNT);
        let all: Vec<Machine> = (1..=COUNT).map(|number| Machine::connect(&folder, number)).collect();
        for machine in &all {
            machine.wait_until_ready();
            machine.configure();
        }
        Self { underlay, all }
    }

    /// The machine of a number, from 1.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn machine(&self, number: usize) -> &Machine {
        &self.all[number - 1]
    }

    /// Where a word was heard outside of the containers, on the underlay or in a namespace of a machine, and how often; and
    /// listeners that should have listened and did not.
    #[must_use]
    pub fn heard(&self, word: &str) -> Vec<String> {
        let words = self.underlay.seen().words;
        let on_the_underlay = words.into_iter().filter(|((heard, _), _)| *heard == word);
        let on_the_underlay =
            on_the_underlay.map(|((_, from), count)| format!("underlay: from machine {from}: {count} frames"));
        on_the_underlay.chain(self.all.iter().flat_map(|machine| machine.heard(word))).collect()
    }

    /// Asserts that no private payload was heard, and that the carrier carried WireGuard.
    ///
    /// # Panics
    /// When one was, and says where; when somebody did not listen.
    pub fn nothing_in_clear(&self) {
        assert_eq!(self.heard(CANARY), Vec::<String>::new(), "a payload was heard outside of the containers");
        let strange = self.underlay.seen().strange;
        assert_eq!(strange, Vec::<String>::new(), "the carrier carried something else than WireGuard");
    }

    /// Waits until what was said in clear was heard in these places: a listener there would hear a payload.
    ///
    /// # Panics
    /// When it is not.
    pub fn is_heard_in_clear(&self, places: &[&str]) {
        let is_missing = |heard: &[String], place: &str| !heard.iter().any(|heard| heard.starts_with(place));
        let mut missing = places.to_vec();
        wait_within(format!("{places:?} are heard"), SOON, || {
            let heard = self.heard(IN_CLEAR);
            missing.retain(|place| is_missing(&heard, place));
            missing.is_empty()
        });
    }

    /// The same for the bridge of each machine's containers, and the underlay.
    ///
    /// # Panics
    /// When it is not.
    pub fn is_heard_on_every_road(&self) {
        let roads = |number| [format!("machine {number}: host: docker0"), format!("underlay: from machine {number}")];
        let roads: Vec<String> = (1..=COUNT).flat_map(roads).collect();
        self.is_heard_in_clear(&roads.iter().map(String::as_str).collect::<Vec<_>>());
    }

    /// Begins a test: what was heard until now, and what there is, is not of it.
    pub fn begin(&self) {
        self.forget();
        self.all.iter().for_each(Machine::look);
    }

    /// Waits until nothing is on a machine that was not there when the test began, and the kernel has taken apart every
    /// namespace that is gone.
    ///
    /// # Panics
    /// When something stays.
    pub fn nothing_is_left(&self) {
        let left = || self.all.iter().flat_map(Machine::left).collect::<Vec<_>>();
        // An agent removes in a pass what a member has left.
        holds_every(GLANCE, SOON, || left().is_empty());
        assert_eq!(left(), Vec::<String>::new(), "a test left this behind");
        self.all.iter().for_each(Machine::settle);
    }

    /// Forgets what was heard, and ends the listeners outside of the hosts' own namespaces.
    pub fn forget(&self) {
        self.underlay.forget();
        self.all.iter().for_each(Machine::forget);
    }
}
