//! Random histories of two hosts on a store that loses keys and steps back: what lives stays, and what has ended stays away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::super::Belief;
use super::{APP, key};
use crate::agent::world::SharedWorld;
use crate::model::{ContainerRef, HostName, Member, MemberId, Network, PublicKey};
use crate::store::claims::{self, End, MemberClaim, NameClaim, NameWish, NewNetwork, Written};
use crate::store::{Entry, Key, Listing, Memory, Prefix, Store as _, Transaction, Value, Watch, keys};

const HOSTS: [&str; 2] = ["a", "b"];
/// Longer than another host is waited for.
const LATER: Duration = Duration::from_secs(4);

#[derive(Clone, Debug)]
enum Step {
    Attach { host: usize },
    Detach { which: usize },
    Name { which: usize },
    Unname { which: usize },
    Lose(&'static str),
    LoseOne(usize),
    Restore(usize),
    Repair,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let lost = prop::sample::select(vec![
        "members/",
        "addresses/",
        "public-keys/",
        "member-names/",
        "hosts/",
        "networks/",
        "",
    ]);
    let step = prop_oneof![
        4 => (0..2usize).prop_map(|host| Step::Attach { host }),
        3 => any::<usize>().prop_map(|which| Step::Detach { which }),
        1 => any::<usize>().prop_map(|which| Step::Name { which }),
        1 => any::<usize>().prop_map(|which| Step::Unname { which }),
        2 => lost.prop_map(Step::Lose),
        1 => any::<usize>().prop_map(Step::LoseOne),
        2 => any::<usize>().prop_map(Step::Restore),
        3 => Just(Step::Repair),
    ];
    prop::collection::vec(step, 1..24)
}

/// Two hosts, the store that they share, and what it should hold.
struct Lab {
    store: Memory,
    network: Network,
    worlds: [Arc<SharedWorld>; 2],
    watches: Vec<Watch>,
    /// The records of what was made and has not ended, as they were written last.
    truth: BTreeMap<Key, Value>,
    /// Earlier contents of the store, when it was whole.
    earlier: Vec<Listing>,
    /// The memberships that live.
    living: Vec<Member>,
    is_whole: bool,
    now: Instant,
    keys: u8,
}

fn wish(kind: &str) -> NameWish {
    NameWish {
        app: APP.parse().expect("an app"),
        app_name: None,
        kind: kind.parse().expect("a type"),
        number: None,
        own: [].into(),
        elsewhere: [].into(),
        ports: [].into(),
    }
}

/// What comes back by itself, or never has to.
fn is_passing(key: &Key) -> bool {
    ["fences/", "presences/"].iter().any(|prefix| key.as_str().starts_with(prefix))
}

impl Lab {
    async fn new() -> Self {
        let store = Memory::new();
        let wanted = NewNetwork {
            name: "shop".parse().expect("a name"),
            subnet: Some("10.0.0.0/27".parse().expect("a prefix")),
            avoided: Vec::new(),
            mtu: 1390,
            names: crate::model::NameOptions::default(),
            held: Vec::new(),
            now_unix_seconds: 1,
        };
        let mut rng: rand::rngs::StdRng = rand::SeedableRng::seed_from_u64(1);
        let network = claims::create_network(&store, &wanted, &mut rng).await.expect("created");
        let mut announced = Transaction::new();
        for host in HOSTS {
            let record = format!(
                r#"{{"version":1,"serial":3,"name":"{host}","vtep":"192.0.2.1","agent_version":"0.1.0","applied_revision":0}}"#
            );
            let presence = r#"{"version":1,"instance":"ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c","boot":"one"}"#;
            announced = announced.put(key(&format!("hosts/{host}")), record.into_bytes());
            announced = announced.put(key(&format!("presences/{host}")), presence.as_bytes());
        }
        store.commit(announced).await.expect("announced");
        let worlds = HOSTS.map(|host| Arc::new(SharedWorld::new(Belief::new(host.parse().expect("a host")))));
        let mut lab = Self {
            store,
            network,
            worlds,
            watches: Vec::new(),
            truth: BTreeMap::new(),
            earlier: Vec::new(),
            living: Vec::new(),
            is_whole: true,
            now: Instant::now(),
            keys: 0,
        };
        lab.read_again().await;
        lab
    }

    async fn listing(&self) -> Listing {
        self.store.list(&keys::everything()).await.expect("listed")
    }

    /// As after the end of a watch.
    async fn read_again(&mut self) {
        let listing = self.listing().await;
        self.watches.clear();
        for world in &self.worlds {
            world.compare(&listing, self.now).expect("records");
            self.watches.push(self.store.watch(&keys::everything(), listing.revision).await.expect("watched"));
        }
    }

    fn follow(&mut self) {
        for (world, watch) in self.worlds.iter().zip(&mut self.watches) {
            while let Some(Some(changes)) = futures::FutureExt::now_or_never(watch.next_transaction()) {
                world.follow(&changes, self.now);
            }
        }
    }

    /// What is true after a change of a membership.
    fn note(&mut self, written: &Written) {
        self.truth.extend(written.records.iter().map(|(key, value)| (key.clone(), Value::clone(value))));
        for key in &written.deleted {
            self.truth.remove(key);
        }
        self.living.retain(|member| member.id != written.member.id);
        self.living.push(written.member.clone());
    }

    fn world_of(&self, host: &HostName) -> Arc<SharedWorld> {
        Arc::clone(&self.worlds[usize::from(host.as_str() == HOSTS[1])])
    }

    fn pick(&self, which: usize) -> Option<Member> {
        (!self.living.is_empty()).then(|| self.living[which % self.living.len()].clone())
    }

    async fn attach(&mut self, host: usize) {
        self.keys += 1;
        let claim = MemberClaim {
            id: MemberId::new(self.keys.into()),
            network: self.network.id,
            name: wish("web"),
            address: None,
            host: HOSTS[host].parse().expect("a host"),
            public_key: PublicKey::new([self.keys; 32]),
            wireguard_port: 51820,
            now_unix_seconds: u64::from(self.keys) * 1000,
        };
        // A network that is lost refuses it.
        let Ok(written) = claims::claim_member(&self.store, &claim, &*self.worlds[host]).await else { return };
        for other in &self.living {
            assert_ne!(other.address, written.member.address, "{other:?} {written:?}");
            assert_ne!(other.container, written.member.container, "{other:?} {written:?}");
        }
        self.note(&written);
    }

    async fn detach(&mut self, member: Member) {
        let (world, end) = (self.world_of(&member.host), End::by_its_host(u64::from(self.keys) * 1000));
        let ended = claims::release_member(&self.store, member.network, &member.container, end, &*world).await;
        assert!(ended.expect("released").is_some(), "{member:?} was not there");
        let pointers = member.names.iter().map(|name| keys::member_name(member.network, &name.container));
        let of_member =
            [keys::member(member.network, &member.container), keys::public_key(member.network, member.public_key)];
        for key in pointers.chain(of_member) {
            self.truth.remove(&key);
        }
        let row = keys::address(member.network, member.address);
        let entry = self.store.get(&row).await.expect("read").expect("the end is recorded");
        self.truth.insert(row, entry.value);
        self.living.retain(|other| other.id != member.id);
    }

    async fn name(&mut self, member: &Member) {
        let claim = NameClaim {
            network: member.network,
            member: member.id,
            known_as: member.container.clone(),
            name: wish("side"),
        };
        let world = self.world_of(&member.host);
        let written = claims::add_name(&self.store, &claim, &*world).await.expect("named");
        self.note(&written);
    }

    /// Takes its oldest name from a membership that has another one.
    async fn unname(&mut self, member: &Member) {
        let (world, end) = (self.world_of(&member.host), End::by_its_host(1));
        let name: &ContainerRef = &member.container;
        let released = claims::release_name(&self.store, member.network, member.id, name, end, &*world).await;
        match released.expect("released").expect("it had the name") {
            claims::Released::Name(written) => self.note(&written),
            claims::Released::Membership(_) => unreachable!("it has another name"),
        }
    }

    async fn lose(&mut self, lost: Vec<Key>) {
        if lost.is_empty() {
            return;
        }
        let transaction = lost.into_iter().fold(Transaction::new(), Transaction::delete);
        self.store.commit(transaction).await.expect("deleted");
        self.is_whole = false;
        self.follow();
    }

    /// Another store with an earlier content, as after a restore.
    async fn restore(&mut self, content: Listing) {
        self.store = Memory::new();
        for batch in content.entries.chunks(100) {
            let put = |transaction: Transaction, entry: &Entry| transaction.put(entry.key.clone(), entry.value.clone());
            self.store.commit(batch.iter().fold(Transaction::new(), put)).await.expect("restored");
        }
        self.is_whole = false;
        self.read_again().await;
    }

    /// Writes all that is due until nothing is, with pauses that let another host's turn come.
    async fn repair(&mut self) {
        for round in 0.. {
            assert!(
                round < 10,
                "it never ends: {:?}",
                self.worlds.each_ref().map(|world| world.belief(|b| b.repairs(self.now)))
            );
            self.now += LATER;
            let due: Vec<_> = self.worlds.iter().map(|world| world.belief(|belief| belief.repairs(self.now))).collect();
            if due.iter().all(Vec::is_empty) {
                break;
            }
            for repair in due.into_iter().flatten() {
                // The other host may have been first.
                let _ = self.store.commit(repair.transaction).await;
            }
            self.follow();
        }
        self.is_whole = true;
    }

    /// What each host believes is what is true, byte for byte.
    fn check_belief(&self, step: &Step) {
        for (world, host) in self.worlds.iter().zip(HOSTS) {
            let has_members = self.living.iter().any(|member| member.host.as_str() == host);
            let believed: BTreeMap<Key, Value> = world
                .belief(|belief| belief.records().map(|(key, value)| (key.clone(), Value::clone(value))).collect());
            // A host without members knows no more than the store, where the network was lost; one with members puts it back.
            if !has_members && !self.is_whole {
                continue;
            }
            // A host without members puts its own record back.
            let idle = HOSTS.iter().filter(|host| !self.living.iter().any(|member| member.host.as_str() == **host));
            let idle: BTreeSet<Key> = idle.map(|host| key(&format!("hosts/{host}"))).collect();
            for (key, value) in self.truth.iter().filter(|(key, _)| self.is_whole || !idle.contains(*key)) {
                assert_eq!(believed.get(key), Some(value), "{key} on {host} after {step:?}");
            }
            let ids: BTreeSet<MemberId> =
                world.read(|world| world.members(self.network.id).map(|member| member.id).collect());
            let living: BTreeSet<MemberId> = self.living.iter().map(|member| member.id).collect();
            assert_eq!(ids, living, "on {host} after {step:?}");
        }
    }

    async fn check_store(&self) {
        let stored: BTreeMap<Key, Value> =
            self.listing().await.entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
        for (key, value) in &self.truth {
            assert_eq!(stored.get(key), Some(value), "{key}");
        }
        // A pointer to a name that is no member's is taken for none by each claim, and a key is never another one's.
        let further = stored.keys().filter(|key| !self.truth.contains_key(*key) && !is_passing(key));
        let wrong: Vec<&Key> = further.filter(|key| keys::network_of_pointer(key).is_none()).collect();
        assert_eq!(wrong, Vec::<&Key>::new());
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Attach { host } => {
                // A host that knows no more than the store waits for the others.
                let has_members = self.living.iter().any(|member| member.host.as_str() == HOSTS[*host]);
                if !has_members && self.worlds[*host].belief(Belief::stepped_back).is_some() {
                    self.repair().await;
                }
                self.attach(*host).await;
            }
            Step::Detach { which } => {
                // A network that is lost with its last member is gone.
                if self.living.len() == 1 && !self.is_whole {
                    self.repair().await;
                }
                if let Some(member) = self.pick(*which) {
                    self.detach(member).await;
                }
            }
            // Names are given and taken while the store has the record.
            Step::Name { which } if self.is_whole => {
                if let Some(member) = self.pick(*which).filter(|member| member.names.len() < 3) {
                    self.name(&member).await;
                }
            }
            Step::Unname { which } if self.is_whole => {
                if let Some(member) = self.pick(*which).filter(|member| !member.names.is_empty()) {
                    self.unname(&member).await;
                }
            }
            // A network without members that is lost is gone.
            Step::Lose("" | "networks/") | Step::LoseOne(_) if self.living.is_empty() => {}
            Step::Lose("") => {
                let everything = self.listing().await.entries.into_iter().map(|entry| entry.key);
                self.lose(everything.filter(|key| !is_passing(key)).collect()).await;
            }
            Step::Lose(prefix) => {
                let prefix: Prefix = prefix.parse().expect("a prefix");
                let lost = self.store.list(&prefix).await.expect("listed").entries.into_iter().map(|entry| entry.key);
                self.lose(lost.collect()).await;
            }
            Step::LoseOne(which) => {
                let entries = self.listing().await.entries;
                let lost: Vec<Key> =
                    entries.into_iter().map(|entry| entry.key).filter(|key| !is_passing(key)).collect();
                self.lose(lost.get(which % lost.len().max(1)).cloned().into_iter().collect()).await;
            }
            Step::Restore(which) if !self.earlier.is_empty() => {
                let content = self.earlier[which % self.earlier.len()].clone();
                self.restore(content).await;
            }
            Step::Repair => self.repair().await,
            Step::Name { .. } | Step::Unname { .. } | Step::Restore(_) => {}
        }
        self.follow();
        self.check_belief(step);
        if self.is_whole {
            self.check_store().await;
            self.earlier.push(self.listing().await);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_lives_stays_and_what_has_ended_stays_away(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let mut lab = Lab::new().await;
            let first = lab.listing().await.entries.into_iter().filter(|entry| !is_passing(&entry.key));
            lab.truth = first.map(|entry| (entry.key, entry.value)).collect();
            for step in &steps {
                lab.step(step).await;
            }
            lab.step(&Step::Repair).await;
        });
    }
}
