//! Two hosts, the store that they share, and what it should hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::Belief;
use super::key;
use crate::agent::world::SharedWorld;
use crate::model::{HostName, Member, MemberId, Network};
use crate::store::claims::{self, NewNetwork, Written};
use crate::store::{Key, Listing, Memory, Store as _, Transaction, Value, Watch, keys};

pub const HOSTS: [&str; 2] = ["a", "b"];
/// The record of a host that is there.
pub const PRESENCE: &str = r#"{"version":1,"instance":"ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c","boot":"one"}"#;
/// Longer than another host is waited for.
pub const LATER: Duration = Duration::from_secs(4);

/// Two hosts, the store that they share, and what it should hold.
pub struct Lab {
    pub store: Memory,
    pub network: Network,
    pub worlds: [Arc<SharedWorld>; 2],
    /// Of the hosts that are here.
    pub watches: [Option<Watch>; 2],
    /// Whether a host came back while the store had not all that is true: it may lack what was attached meanwhile.
    pub is_behind: [bool; 2],
    /// The records of what was made and has not ended, as they were written last.
    pub truth: BTreeMap<Key, Value>,
    /// Earlier contents of the store, when it was whole.
    pub earlier: Vec<Listing>,
    /// The memberships that live.
    pub living: Vec<Member>,
    pub is_whole: bool,
    pub now: Instant,
    pub keys: u8,
}

/// What comes back by itself, or never has to.
pub fn is_passing(key: &Key) -> bool {
    ["fences/", "presences/"].iter().any(|prefix| key.as_str().starts_with(prefix))
}

impl Lab {
    pub async fn new() -> Self {
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
            announced = announced.put(key(&format!("hosts/{host}")), record.into_bytes());
            announced = announced.put(key(&format!("presences/{host}")), PRESENCE.as_bytes());
        }
        store.commit(announced).await.expect("announced");
        let worlds = HOSTS.map(|host| Arc::new(SharedWorld::new(Belief::new(host.parse().expect("a host")))));
        let mut lab = Self {
            store,
            network,
            worlds,
            watches: [None, None],
            is_behind: [false; 2],
            truth: BTreeMap::new(),
            earlier: Vec::new(),
            living: Vec::new(),
            is_whole: true,
            now: Instant::now(),
            keys: 0,
        };
        for host in 0..HOSTS.len() {
            lab.read_again(host).await;
        }
        let first = lab.listing().await.entries.into_iter().filter(|entry| !is_passing(&entry.key));
        lab.truth = first.map(|entry| (entry.key, entry.value)).collect();
        lab
    }

    pub async fn listing(&self) -> Listing {
        self.store.list(&keys::everything()).await.expect("listed")
    }

    /// As after the end of a watch, or at the start.
    pub async fn read_again(&mut self, host: usize) {
        let listing = self.listing().await;
        self.worlds[host].compare(&listing, self.now);
        let watch = self.store.watch(&keys::everything(), listing.revision).await.expect("watched");
        self.watches[host] = Some(watch);
    }

    pub fn is_here(&self, host: usize) -> bool {
        self.watches[host].is_some()
    }

    pub fn members_of(&self, host: usize) -> impl Iterator<Item = &Member> {
        self.living.iter().filter(move |member| member.host.as_str() == HOSTS[host])
    }

    pub fn follow(&mut self) {
        for (world, watch) in self.worlds.iter().zip(&mut self.watches) {
            while let Some(watch) = watch
                && let Some(Some(changes)) = futures::FutureExt::now_or_never(watch.next_transaction())
            {
                world.follow(&changes, self.now);
            }
        }
    }

    /// What is true after a change of a membership.
    pub fn note(&mut self, written: &Written) {
        self.truth.extend(written.records.iter().map(|(key, value)| (key.clone(), Value::clone(value))));
        for key in &written.deleted {
            self.truth.remove(key);
        }
        self.living.retain(|member| member.id != written.member.id);
        self.living.push(written.member.clone());
    }

    pub fn world_of(&self, host: &HostName) -> Arc<SharedWorld> {
        Arc::clone(&self.worlds[usize::from(host.as_str() == HOSTS[1])])
    }

    /// A membership of a host that is here.
    pub fn pick(&self, which: usize) -> Option<Member> {
        let here = (0..HOSTS.len()).filter(|host| self.is_here(*host)).flat_map(|host| self.members_of(host));
        let here: Vec<&Member> = here.collect();
        (!here.is_empty()).then(|| here[which % here.len()].clone())
    }

    /// The records of hosts that no other host puts back: they have no members.
    fn idle_hosts(&self) -> BTreeSet<Key> {
        let idle = (0..HOSTS.len()).filter(|host| self.members_of(*host).next().is_none());
        idle.filter(|host| !self.is_whole || !self.is_here(*host))
            .map(|host| key(&format!("hosts/{}", HOSTS[host])))
            .collect()
    }

    /// What each host believes is what is true, byte for byte.
    pub fn check_belief(&self, step: &dyn std::fmt::Debug) {
        for (index, (world, host)) in self.worlds.iter().zip(HOSTS).enumerate() {
            let has_members = self.members_of(index).next().is_some();
            if !self.is_here(index) || self.is_behind[index] {
                continue;
            }
            let believed: BTreeMap<Key, Value> = world
                .belief(|belief| belief.records().map(|(key, value)| (key.clone(), Value::clone(value))).collect());
            // A host without members knows no more than the store, where the network was lost; one with members puts it back.
            if !has_members && !self.is_whole {
                continue;
            }
            let idle = self.idle_hosts();
            for (key, value) in self.truth.iter().filter(|(key, _)| !idle.contains(*key)) {
                assert_eq!(believed.get(key), Some(value), "{key} on {host} after {step:?}");
            }
            let ids: BTreeSet<MemberId> =
                world.read(|world| world.members(self.network.id).map(|member| member.id).collect());
            let living: BTreeSet<MemberId> = self.living.iter().map(|member| member.id).collect();
            assert_eq!(ids, living, "on {host} after {step:?}");
        }
    }

    pub async fn check_store(&self) {
        let stored: BTreeMap<Key, Value> =
            self.listing().await.entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
        let idle = self.idle_hosts();
        for (key, value) in self.truth.iter().filter(|(key, _)| !idle.contains(*key)) {
            assert_eq!(stored.get(key), Some(value), "{key}");
        }
        // A pointer to a name that is no member's is taken for none by each claim, and a key is never another one's.
        let further = stored.keys().filter(|key| !self.truth.contains_key(*key) && !is_passing(key));
        let wrong: Vec<&Key> = further.filter(|key| keys::network_of_pointer(key).is_none()).collect();
        assert_eq!(wrong, Vec::<&Key>::new());
    }
}
