//! Hosts that are virtual machines, on an underlay that the test owns.
//!
//! `cargo xtask vm` boots them and starts the tests that use this, outside of them and without root: it names a folder in
//! [`FOLDER`], where each machine has a socket for its first serial line and one for its network card.

mod host;
mod line;
mod underlay;

use std::path::PathBuf;
use std::time::Duration;

pub use self::host::{Flow, Host, Member, PORT, json};
pub use self::line::{Machine, Ran};
pub use self::underlay::{Seen, Underlay};

/// The variable that names the folder of the machines' sockets.
pub const FOLDER: &str = "PRIVNET_MACHINES";
/// How many machines there are.
pub const COUNT: usize = 3;
/// What every payload of these tests carries. It is looked for on the underlay, and on every host outside of the containers.
pub const CANARY: &str = "privnet-canary:this-must-never-be-seen-on-the-underlay";
/// How long an emulated machine may take for what a person would wait for.
pub const SOON: Duration = Duration::from_secs(120);

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

    /// Where the canary was found outside of the containers: on the underlay, or in a namespace of a machine.
    #[must_use]
    pub fn canaries(&self) -> Vec<String> {
        let on_the_underlay =
            self.underlay.seen().canaries.into_iter().map(|from| format!("underlay: from machine {from}"));
        on_the_underlay.chain(self.all.iter().flat_map(Machine::canaries)).collect()
    }

    /// Forgets what was found, for it was sent on purpose.
    pub fn forget_canaries(&self) {
        self.underlay.forget_canaries();
        self.all.iter().for_each(Machine::forget_canaries);
    }
}
