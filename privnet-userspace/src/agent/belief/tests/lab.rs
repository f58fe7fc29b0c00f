//! Two hosts, the store that they share, and what it should hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::super::Belief;
use super::super::fact::{About, Fact};
use super::key;
use crate::agent::world::SharedWorld;
use crate::model::{HostName, Member, MemberId, Network, NetworkId};
use crate::store::claims::{self, End, NewNetwork, Written};
use crate::store::records::{self, AddressRecord, Stored};
use crate::store::{Entry, Event, Key, Listing, Memory, Revision, Store as _, Transaction, Value, Watch, keys};

pub const HOSTS: [&str; 2] = ["a", "b"];
/// Longer than another host is waited for.
pub const LATER: Duration = Duration::from_secs(4);

/// Two hosts, the store that they share, and what it should hold.
pub struct Lab {
    pub store: Memory,
    pub network: Network,
    /// Another one, with members on the hosts that were there: an operator ends it with them.
    pub doomed: Option<Network>,
    /// The identities of the hosts' state directories.
    pub instances: [Uuid; 2],
    /// The hosts that are forgotten, with the members that ended then.
    pub forgotten: [Option<BTreeSet<MemberId>>; 2],
    /// The memberships that the hosts have an entry of, as they wrote their records last.
    pub journals: [BTreeMap<MemberId, Stored<Member>>; 2],
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
    /// How many transactions a host has followed that put back what it believed.
    pub came_back: usize,
}

/// What comes back by itself, or never has to.
pub fn is_passing(key: &Key) -> bool {
    ["fences/", "presences/"].iter().any(|prefix| key.as_str().starts_with(prefix))
}

/// What a record is about.
pub fn about(key: &Key, value: &Value) -> Option<About> {
    let entry = Entry { key: key.clone(), value: value.clone(), revision: Revision::default(), lease: None };
    Fact::read(&entry).ok().flatten().map(|fact| fact.about)
}

pub fn presence(host: usize) -> Key {
    key(&format!("presences/{}", HOSTS[host]))
}

pub fn host_record(host: usize) -> Key {
    key(&format!("hosts/{}", HOSTS[host]))
}

/// What a host that is there says.
pub fn presence_of(instance: Uuid) -> Value {
    format!(r#"{{"version":1,"instance":"{instance}","boot":"one"}}"#).into_bytes().into()
}

/// What a host tells of itself.
pub fn told_by(host: usize, serial: u64, instance: Uuid) -> Value {
    let (name, rest) = (HOSTS[host], r#""vtep":"192.0.2.1","agent_version":"0.1.0","applied_revision":0"#);
    format!(r#"{{"version":1,"serial":{serial},"name":"{name}",{rest},"instance":"{instance}"}}"#).into_bytes().into()
}

pub async fn new_network(store: &Memory, name: &str, third: u8, held: Vec<Network>) -> Network {
    let wanted = NewNetwork {
        name: name.parse().expect("a name"),
        subnet: Some(format!("10.0.{third}.0/27").parse().expect("a prefix")),
        avoided: Vec::new(),
        mtu: 1390,
        names: crate::model::NameOptions::default(),
        held,
        now_unix_seconds: 1,
    };
    let mut rng: rand::rngs::StdRng = rand::SeedableRng::seed_from_u64(u64::from(third));
    claims::create_network(store, &wanted, &mut rng).await.expect("created")
}

/// Whether a transaction puts back what is believed; to weigh it would come to the same belief.
fn comes_back_unweighed(world: &SharedWorld, changes: &[Event], now: Instant) -> bool {
    let mut taken: Belief = world.belief(Belief::clone);
    if !taken.comes_back(changes) {
        return false;
    }
    let mut weighed = taken.clone();
    let told = [taken.take_back(changes), weighed.weigh(changes, now)].map(|told| {
        let mut told: Vec<String> = told.iter().map(|change| format!("{change:?}")).collect();
        told.sort_unstable();
        told
    });
    assert_eq!(told[0], told[1]);
    assert_eq!(format!("{taken:?}"), format!("{weighed:?}"));
    true
}

impl Lab {
    pub async fn new() -> Self {
        let store = Memory::new();
        let network = new_network(&store, "shop", 0, Vec::new()).await;
        let instances = [1, 2].map(Uuid::from_u128);
        let announced = (0..HOSTS.len()).fold(Transaction::new(), |all, host| {
            let [there, told] = [presence(host), host_record(host)];
            all.put(there, presence_of(instances[host])).put(told, told_by(host, 3, instances[host]))
        });
        store.commit(announced).await.expect("announced");
        let worlds = HOSTS.map(|host| Arc::new(SharedWorld::new(Belief::new(host.parse().expect("a host")))));
        let mut lab = Self {
            store,
            network,
            doomed: None,
            instances,
            forgotten: [None, None],
            journals: [BTreeMap::new(), BTreeMap::new()],
            worlds,
            watches: [None, None],
            is_behind: [false; 2],
            truth: BTreeMap::new(),
            earlier: Vec::new(),
            living: Vec::new(),
            is_whole: true,
            now: Instant::now(),
            keys: 0,
            came_back: 0,
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
                self.came_back += usize::from(comes_back_unweighed(world, &changes, self.now));
                world.follow(&changes, self.now);
            }
        }
    }

    /// What the agents here find in their journals: a membership that ended, or that they have no entry of. Nothing of the
    /// latter is in the kernel, so it ends.
    pub async fn settle(&mut self) {
        for host in self.hosts_here() {
            let (world, name) = (Arc::clone(&self.worlds[host]), HOSTS[host].parse().expect("a host"));
            world.read(|world| self.journals[host].retain(|id, _| world.membership(*id).is_some()));
            let is_recorded = |member: &Member| {
                let mut known = self.journals[host].values();
                known.any(|known| (known.record.network, known.record.address) == (member.network, member.address))
            };
            let is_meant =
                |member: &&Arc<Member>| !is_recorded(member) && member.instance == Some(self.instances[host]);
            let unrecorded: Vec<Arc<Member>> =
                world.read(|world| world.members_on(&name).filter(is_meant).cloned().collect());
            for seen in unrecorded {
                let stored = records::get_member(&self.store, seen.network, &seen.container).await.expect("read");
                let is_ours = |member: &Member| member.host == name && !is_recorded(member);
                let Some(stored) = stored.map(|stored| stored.record).filter(is_ours) else { continue };
                let end = End::by_its_host(u64::from(self.keys) * 1000);
                claims::release_member(&self.store, &stored, end, &*world).await.expect("released");
                let row = keys::address(stored.network, stored.address);
                let entry = self.store.get(&row).await.expect("read").expect("the end is recorded");
                if records::decode::<AddressRecord>(&row, &entry.value).expect("a row").member == Some(stored.id) {
                    self.truth.insert(row, entry.value);
                }
            }
        }
        self.follow();
    }

    pub fn hosts_here(&self) -> Vec<usize> {
        (0..HOSTS.len()).filter(|host| self.is_here(*host)).collect()
    }

    /// The networks that there are.
    pub fn networks(&self) -> impl Iterator<Item = NetworkId> + '_ {
        [&self.network].into_iter().chain(&self.doomed).map(|network| network.id)
    }

    pub fn has_members_in(&self, host: usize, network: NetworkId) -> bool {
        self.members_of(host).any(|member| member.network == network)
    }

    /// Whether each network has members on a host that is here, and so is put back.
    pub fn are_networks_held(&self) -> bool {
        let is_held = |network| (0..HOSTS.len()).any(|host| self.is_here(host) && self.has_members_in(host, network));
        self.networks().all(is_held)
    }

    /// Whether a host knows of a record what the store may have lost of it.
    fn knows(&self, host: usize, key: &Key, value: &Value) -> bool {
        // A host is known by the members that are believed of it.
        let is_known = |name: &HostName| {
            let other = self.host_of(name);
            let is_shared = |network| self.has_members_in(other, network) && self.has_members_in(host, network);
            other == host || self.networks().any(is_shared)
        };
        self.is_whole
            || match about(key, value) {
                Some(About::NetworkMark(_) | About::InstanceMark(_)) => true,
                Some(About::Host { host: name, .. } | About::Drain(name)) => is_known(&name),
                Some(about) => about.network().is_some_and(|network| self.has_members_in(host, network)),
                None => false,
            }
    }

    /// What is true after a change of a membership.
    pub fn note(&mut self, written: &Written) {
        self.enter(written);
        self.truth.extend(written.records.iter().map(|(key, value)| (key.clone(), Value::clone(value))));
        for key in &written.deleted {
            self.truth.remove(key);
        }
        self.living.retain(|member| member.id != written.member.id);
        self.living.push(written.member.clone());
    }

    /// Writes the entry of a membership into its host's journal.
    pub fn enter(&mut self, written: &Written) {
        let key = keys::member(written.member.network, &written.member.container);
        let record = written.records.iter().find(|(written, _)| *written == key);
        // Nothing was written where nothing has changed.
        let Some(value) = record.map(|(_, value)| Value::clone(value)) else { return };
        let entry = Entry { key, value, revision: Revision::default(), lease: None };
        let host = self.host_of(&written.member.host);
        self.journals[host].insert(written.member.id, records::read(&entry).expect("a member"));
    }

    pub fn host_of(&self, host: &HostName) -> usize {
        usize::from(host.as_str() == HOSTS[1])
    }

    pub fn world_of(&self, host: &HostName) -> Arc<SharedWorld> {
        Arc::clone(&self.worlds[self.host_of(host)])
    }

    /// A membership of a host that is here, in the network that stays; or of one that is away.
    pub fn pick(&self, which: usize) -> Option<Member> {
        self.pick_of(which, true)
    }

    pub fn pick_of(&self, which: usize, is_here: bool) -> Option<Member> {
        let hosts = (0..HOSTS.len()).filter(|host| self.is_here(*host) == is_here);
        let all = hosts.flat_map(|host| self.members_of(host)).filter(|member| member.network == self.network.id);
        let all: Vec<&Member> = all.collect();
        (!all.is_empty()).then(|| all[which % all.len()].clone())
    }

    /// The records of hosts that no other host puts back: they have no members.
    fn idle_hosts(&self) -> BTreeSet<Key> {
        let idle = (0..HOSTS.len()).filter(|host| self.members_of(*host).next().is_none());
        idle.filter(|host| !self.is_whole || !self.is_here(*host))
            .flat_map(|host| [host_record(host), keys::drain(&HOSTS[host].parse().expect("a host"))])
            .collect()
    }

    /// What each host believes is what is true, byte for byte.
    pub fn check_belief(&self, step: &dyn std::fmt::Debug) {
        for (index, (world, host)) in self.worlds.iter().zip(HOSTS).enumerate() {
            if !self.is_here(index) || self.is_behind[index] {
                continue;
            }
            let believed: BTreeMap<Key, Value> = world
                .belief(|belief| belief.records().map(|(key, value)| (key.clone(), Value::clone(value))).collect());
            let idle = self.idle_hosts();
            // A host without members knows no more than the store, where the network was lost; one with members puts it back.
            let known = self.truth.iter().filter(|(key, value)| !idle.contains(*key) && self.knows(index, key, value));
            for (key, value) in known {
                assert_eq!(believed.get(key), Some(value), "{key} on {host} after {step:?}");
            }
            for network in self.networks().filter(|id| self.is_whole || self.has_members_in(index, *id)) {
                let ids: BTreeSet<MemberId> =
                    world.read(|world| world.members(network).map(|member| member.id).collect());
                let of_network = self.living.iter().filter(|member| member.network == network);
                let living: BTreeSet<MemberId> = of_network.map(|member| member.id).collect();
                assert_eq!(ids, living, "on {host} after {step:?}");
            }
            if self.is_whole {
                let networks: BTreeSet<NetworkId> = world.read(|world| world.networks().keys().copied().collect());
                assert_eq!(networks, self.networks().collect(), "on {host} after {step:?}");
            }
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
