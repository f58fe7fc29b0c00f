//! What happens to the hosts and to the store, one step after another.

use std::net::Ipv4Addr;
use std::sync::Arc;

use super::super::Belief;
use super::super::repair::OWNERS_PATIENCE;
use super::APP;
use super::lab::{HOSTS, LATER, Lab, host_record, is_passing, presence, presence_of};
use crate::agent::world::SharedWorld;
use crate::model::{ContainerRef, Member, MemberId, MemberState, NetworkId, PublicKey};
use crate::store::claims::{self, End, MemberClaim, NameClaim, NameWish, Written};
use crate::store::{Entry, Key, Listing, Memory, Prefix, Store as _, Transaction, keys};

#[derive(Clone, Debug)]
pub enum Step {
    Attach {
        host: usize,
    },
    Detach {
        which: usize,
    },
    Ready {
        which: usize,
    },
    Name {
        which: usize,
    },
    Unname {
        which: usize,
    },
    Lose(&'static str),
    LoseOne(usize),
    /// A number in a record rises absurdly.
    Damage(usize),
    Restore(usize),
    /// The agent of a host is stopped, and its members go on.
    Away {
        host: usize,
    },
    /// It starts again, with its snapshot.
    Back,
    Repair,
    /// All agents are interrupted after so many transactions.
    RepairPartly(usize),
    /// A network is created, and hosts that are here have a member in it.
    Doom,
    /// An operator ends it with its members.
    EndNetwork,
    /// An operator ends a member of the host that is away.
    DetachElsewhere(usize),
    /// An operator forgets the host that is away.
    Forget,
    /// It comes back, and an operator takes it back.
    Adopt,
    /// An operator empties a host, or takes that back.
    Drain {
        host: usize,
        draining: bool,
    },
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

impl Lab {
    /// Claims a membership as a host's agent does; a network that is lost refuses it.
    pub async fn claim(&mut self, host: usize, address: Option<Ipv4Addr>) -> Option<Written> {
        self.claim_in(self.network.id, host, address).await
    }

    pub async fn claim_in(&mut self, network: NetworkId, host: usize, address: Option<Ipv4Addr>) -> Option<Written> {
        self.keys += 1;
        let claim = MemberClaim {
            id: MemberId::new(self.keys.into()),
            network,
            name: wish("web"),
            address,
            host: HOSTS[host].parse().expect("a host"),
            instance: Some(self.instances[host]),
            public_key: PublicKey::new([self.keys; 32]),
            wireguard_port: 51820,
            now_unix_seconds: u64::from(self.keys) * 1000,
        };
        let written = claims::claim_member(&self.store, &claim, &*self.worlds[host]).await.ok()?;
        self.enter(&written);
        Some(written)
    }

    async fn attach(&mut self, host: usize) {
        let Some(written) = self.claim(host, None).await else {
            assert!(!self.is_whole, "a store that is whole refuses an attach");
            return;
        };
        for other in self.living.iter().filter(|other| other.network == written.member.network) {
            assert_ne!(other.address, written.member.address, "{other:?} {written:?}");
            assert_ne!(other.container, written.member.container, "{other:?} {written:?}");
        }
        self.note(&written);
    }

    async fn detach(&mut self, member: Member) {
        let (host, end) = (self.host_of(&member.host), End::by_its_host(u64::from(self.keys) * 1000));
        self.journals[host].remove(&member.id);
        self.end(&member, end, host).await;
    }

    /// A membership ends at a host.
    pub async fn end(&mut self, member: &Member, end: End, at: usize) {
        let ended = claims::release_member(&self.store, member, end, &*self.worlds[at]).await;
        assert!(ended.expect("released").is_some(), "{member:?} was not there");
        self.forget_records(member);
        let row = keys::address(member.network, member.address);
        let entry = self.store.get(&row).await.expect("read").expect("the end is recorded");
        self.truth.insert(row, entry.value);
    }

    /// A membership has ended, and its records are true no more but its row.
    pub fn forget_records(&mut self, member: &Member) {
        let pointers = member.names.iter().map(|name| keys::member_name(member.network, &name.container));
        let of_member =
            [keys::member(member.network, &member.container), keys::public_key(member.network, member.public_key)];
        for key in pointers.chain(of_member) {
            self.truth.remove(&key);
        }
        self.living.retain(|other| other.id != member.id);
    }

    pub async fn name(&mut self, member: &Member) {
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

    async fn ready(&mut self, member: &Member) {
        let written = claims::set_member_state(&self.store, member, MemberState::Ready).await.expect("changed");
        self.note(&written);
    }

    async fn damage(&mut self, which: usize) {
        let is_of_members = |key: &&Key| !["hosts/", "drains/", "marks/"].iter().any(|it| key.as_str().starts_with(it));
        let keys: Vec<Key> = self.truth.keys().filter(is_of_members).cloned().collect();
        let Some(entry) = self.store.get(&keys[which % keys.len()]).await.expect("read") else { return };
        let mut record: serde_json::Value = serde_json::from_slice(&entry.value).expect("JSON");
        for number in ["serial", "count"] {
            if let Some(before) = record.get(number).and_then(serde_json::Value::as_u64) {
                record[number] = (before + (1 << 40)).into();
            }
        }
        let damaged = Transaction::new().put(entry.key, record.to_string().into_bytes());
        self.store.commit(damaged).await.expect("written");
        self.is_whole = false;
        self.follow();
    }

    /// Nothing is lost when it happens, so that what this host alone knows is in the store.
    async fn away(&mut self, host: usize) {
        if !self.is_whole || self.is_behind[host] {
            self.repair().await;
        }
        self.watches[host] = None;
        self.store.commit(Transaction::new().delete(presence(host))).await.expect("gone");
        self.follow();
    }

    async fn back(&mut self) {
        let is_away = |host: &usize| !self.is_here(*host) && self.forgotten[*host].is_none();
        let Some(host) = (0..HOSTS.len()).find(is_away) else { return };
        self.remember(host);
        let told = self.truth[&host_record(host)].clone();
        let announced = Transaction::new().put(presence(host), presence_of(self.instances[host]));
        self.store.commit(announced.put(host_record(host), told)).await.expect("there");
        self.read_again(host).await;
        self.is_behind[host] = !self.is_whole;
        // That it was drained it alone may know.
        self.is_whole &= self.worlds[host].belief(|belief| belief.repairs(self.now).is_empty());
        self.follow();
    }

    /// An agent starts with its snapshot and its journal.
    pub fn remember(&mut self, host: usize) {
        let mut belief = Belief::new(HOSTS[host].parse().expect("a host"));
        let snapshot = self.worlds[host]
            .belief(|belief| belief.memory().map(|(key, value)| (key.clone(), value.clone())).collect::<Vec<_>>());
        for (key, value) in snapshot {
            belief.remember(key, value, self.now).expect("a record");
        }
        belief.keep_own(|id| self.journals[host].contains_key(&id), self.now);
        self.worlds[host] = Arc::new(SharedWorld::new(belief));
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
    pub async fn restore(&mut self, content: Listing) {
        self.store = Memory::new();
        let of_hosts_here = |entry: &Entry| {
            let host = entry.key.as_str().strip_prefix("presences/");
            host.is_none_or(|host| HOSTS.iter().position(|known| *known == host).is_some_and(|host| self.is_here(host)))
        };
        let mut entries: Vec<Entry> = content.entries.into_iter().filter(of_hosts_here).collect();
        for host in (0..HOSTS.len()).filter(|host| self.is_here(*host)) {
            let (key, value) = (presence(host), presence_of(self.instances[host]));
            entries.push(Entry { key, value, revision: content.revision, lease: None });
        }
        for batch in entries.chunks(100) {
            let put = |transaction: Transaction, entry: &Entry| transaction.put(entry.key.clone(), entry.value.clone());
            self.store.commit(batch.iter().fold(Transaction::new(), put)).await.expect("restored");
        }
        self.is_whole = false;
        for host in 0..HOSTS.len() {
            if self.is_here(host) {
                self.read_again(host).await;
            }
        }
    }

    /// Writes all that is due until nothing is, with pauses that let another host's turn come.
    pub async fn repair(&mut self) {
        // A network without members on a host that is here waits for the others.
        if !self.are_networks_held() {
            self.back().await;
        }
        self.settle().await;
        for round in 0.. {
            assert!(
                round < 20,
                "it never ends: {:?}",
                self.worlds.each_ref().map(|world| world.belief(|b| b.repairs(self.now)))
            );
            self.now += LATER;
            let written = self.put_back(usize::MAX).await;
            self.settle().await;
            if written == 0 && !self.is_waiting() {
                break;
            }
        }
        self.is_whole = true;
        self.is_behind = [false; 2];
    }

    /// Whether a host waits for another one that is there and may not know what is its own.
    fn is_waiting(&self) -> bool {
        let later = self.now + OWNERS_PATIENCE;
        (0..HOSTS.len())
            .any(|host| self.is_here(host) && self.worlds[host].belief(|belief| !belief.repairs(later).is_empty()))
    }

    /// Writes what is due, but not more than so many transactions, and returns how many there were.
    async fn put_back(&mut self, most: usize) -> usize {
        let here = (0..HOSTS.len()).filter(|host| self.is_here(*host));
        let due = here.flat_map(|host| self.worlds[host].belief(|belief| belief.repairs(self.now)));
        let (due, mut tried): (Vec<_>, usize) = (due.collect(), 0);
        for repair in due {
            // The other host may have been first.
            for transaction in repair.transactions {
                if tried == most {
                    break;
                }
                tried += 1;
                if self.store.commit(transaction).await.is_err() {
                    break;
                }
            }
        }
        self.follow();
        tried
    }

    /// A host that knows no more than the store waits for the others.
    pub async fn trust(&mut self, host: usize) {
        let knows_all = self.networks().all(|network| self.has_members_in(host, network));
        let knows_less = !knows_all && self.worlds[host].belief(Belief::stepped_back).is_some();
        if knows_less || self.is_behind[host] {
            self.repair().await;
        }
    }

    pub async fn step(&mut self, step: &Step) {
        match step {
            Step::Attach { host } => {
                if self.is_here(*host) {
                    self.trust(*host).await;
                    self.attach(*host).await;
                }
            }
            Step::Detach { which } => {
                // A network that is lost with its last member is gone.
                let here = (0..HOSTS.len()).filter(|host| self.is_here(*host)).flat_map(|host| self.members_of(host));
                let of_network = here.filter(|member| member.network == self.network.id);
                if of_network.count() == 1 && !self.is_whole {
                    self.repair().await;
                }
                if let Some(member) = self.pick(*which) {
                    self.detach(member).await;
                }
            }
            Step::Ready { which } if self.is_whole => {
                if let Some(member) = self.pick(*which) {
                    self.ready(&member).await;
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
            // A network that is lost where no host has members in it is gone.
            Step::Lose("" | "networks/") | Step::LoseOne(_) | Step::Damage(_) if !self.are_networks_held() => {}
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
            Step::Damage(which) => self.damage(*which).await,
            Step::Away { host } if (0..HOSTS.len()).all(|host| self.is_here(host)) => self.away(*host).await,
            Step::Back => self.back().await,
            Step::Repair => self.repair().await,
            Step::RepairPartly(most) => {
                self.now += LATER;
                self.put_back(*most).await;
            }
            Step::Doom => self.doom().await,
            Step::EndNetwork => self.end_network().await,
            Step::DetachElsewhere(which) => self.detach_elsewhere(*which).await,
            Step::Forget => self.forget().await,
            Step::Adopt => self.adopt().await,
            Step::Drain { host, draining } => self.drain(*host, *draining).await,
            Step::Away { .. } | Step::Ready { .. } | Step::Name { .. } | Step::Unname { .. } | Step::Restore(_) => {}
        }
        self.follow();
        self.settle().await;
        self.check_belief(step);
        if self.is_whole {
            self.check_store().await;
            self.earlier.push(self.listing().await);
        }
    }
}
