//! Four hosts on which members come and go, addresses have one holder after the other, hosts lose the store, each other and
//! their agents, and the store loses keys.
//!
//! ```text
//!  h1: agent, asker-1, web-1, web-5 ──┐            ┌── h2: agent, asker-2, web-2, web-6
//!                                     ├─ underlay ─┤
//!  h3: agent, asker-3, web-3 ─────────┤            ├── h4: agent, asker-4, web-4
//!                                     └─ h5: etcd ─┘
//! ```
//!
//! Askers stay. Each sends to all the others by their names, throughout: a datagram says whom it is for, and whoever receives
//! it says whether it was.

mod four_hosts;

use four_hosts::{Fleet, Step};
use privnet_tests::lab::Lab;
use privnet_tests::soak::Soak;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

#[test]
fn four_hosts_outlast_faults_and_no_datagram_comes_to_another_member() {
    let lab = Lab::new("four_hosts_outlast_faults_and_no_datagram_comes_to_another_member");
    let mut fleet = Fleet::start(&lab);
    // First what is written down, then, in a long run, what comes by lot.
    let soak = Soak::of_rounds(Step::ALL_IN_TURN.len() as u64);
    let mut random = StdRng::seed_from_u64(soak.seed());
    let mut done = 0;
    for round in soak.rounds() {
        let written = usize::try_from(round).ok().and_then(|round| Step::ALL_IN_TURN.get(round));
        fleet.take(written.copied().unwrap_or_else(|| Step::by_lot(&mut random)));
        done = round + 1;
    }
    let changes = fleet.finish();
    soak.tell(done, "steps");
    soak.tell(changes, "attaches and detaches");
    lab.finish();
}
