//! What is done to the hosts: in turn, or by lot.

use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::{COMERS, HOSTS};

/// In which direction frames between two hosts are lost.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    Both,
    Out,
    In,
}

/// One thing that happens. Hosts and containers are counted from 0.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Attach(usize),
    Detach(usize),
    CutFromStore(usize, Way),
    CutApart(usize, usize, Way),
    /// The records that begin so are deleted from the store, all in one transaction.
    Lose(&'static [&'static str]),
    /// The record of the member that stays on a host is.
    LoseMember(usize),
    KillAgent(usize),
    RestartStore,
    /// The store's data is copied, and put back later: what came and went since is lost.
    CopyStore,
    PutCopyBack,
    /// All faults end.
    Mend,
}

/// The kinds of records that may be lost.
const KINDS: [&[&str]; 6] = [
    &["members/"],
    &["addresses/", "public-keys/"],
    &["networks/", "names/", "vnis/"],
    &["hosts/"],
    &["presences/"],
    &["networks/", "names/", "vnis/", "members/", "addresses/", "public-keys/", "hosts/", "presences/"],
];

use Step::{
    Attach, CopyStore, CutApart, CutFromStore, Detach, KillAgent, Lose, LoseMember, Mend, PutCopyBack, RestartStore,
};

impl Step {
    /// What happens in each run. Between two faults all is well.
    pub const ALL_IN_TURN: &'static [Self] = &[
        Attach(0),
        Attach(1),
        Attach(2),
        Attach(3),
        Attach(4),
        Attach(5),
        Attach(6),
        Attach(7),
        CopyStore,
        Detach(0),
        Detach(5),
        Attach(0),
        // A host without the store is where nothing changes; elsewhere addresses go from one to another.
        CutFromStore(0, Way::Both),
        Detach(1),
        Detach(2),
        Attach(2),
        Attach(1),
        Attach(5),
        Mend,
        // An older copy, with a host that hears of it later. What is lost again waits longer each time, so this comes first.
        CutFromStore(2, Way::Both),
        PutCopyBack,
        Detach(0),
        Attach(0),
        Mend,
        // One that hears the store and is not heard, and the other way round, while records are lost.
        CutFromStore(3, Way::Out),
        Detach(3),
        Lose(KINDS[0]),
        Detach(6),
        Attach(6),
        Mend,
        // Two hosts that do not reach each other, in one direction, while the members of one change.
        CutApart(1, 2, Way::Out),
        Detach(1),
        Attach(4),
        Attach(1),
        Mend,
        CutFromStore(2, Way::In),
        Lose(KINDS[1]),
        Detach(4),
        Attach(3),
        Mend,
        CutApart(0, 3, Way::Both),
        CutFromStore(0, Way::Both),
        Detach(6),
        Detach(7),
        Attach(7),
        Attach(6),
        Mend,
        LoseMember(1),
        Detach(0),
        Attach(0),
        Mend,
        // An agent that was away while all was lost.
        KillAgent(1),
        Lose(KINDS[5]),
        Detach(2),
        Attach(2),
        Mend,
        Detach(1),
        Detach(3),
        Attach(3),
        Attach(1),
        RestartStore,
        Lose(KINDS[4]),
        Mend,
    ];

    /// Anything: changes, with a fault among some fifteen of them. Each fault ends before long, since a change on a host that
    /// does not reach the store takes two seconds and changes nothing.
    pub fn by_lot(random: &mut StdRng) -> Self {
        let (comer, host, other) =
            (random.random_range(0..COMERS), random.random_range(0..HOSTS), random.random_range(0..HOSTS));
        let way = *[Way::Both, Way::Out, Way::In].choose(random).expect("three");
        match random.random_range(0..1000) {
            0..475 => Attach(comer),
            475..950 => Detach(comer),
            950..958 => CutFromStore(host, way),
            958..965 => CutApart(host, other, way),
            965..970 => Lose(KINDS.choose(random).expect("some")),
            970..973 => LoseMember(host),
            973..976 => KillAgent(host),
            976 => RestartStore,
            977 => CopyStore,
            978 => PutCopyBack,
            _ => Mend,
        }
    }
}
